"""The nodeport mode and the two commands on the command line."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.node_builders import VIP
from vipmanager import cli, commands
from vipmanager.arguments import Arguments, UsageError, parse
from vipmanager.config import Config
from vipmanager.status_file import StatusFile

ENVIRONMENT = {"FLOATING_IP": VIP, "POD_NAME": "vipmanager-x", "POD_NAMESPACE": "kube-system", "NODE_NAME": "node-1"}


def main(*arguments: str) -> int:
    """Run the command line."""
    return cli.main(arguments, lambda _: None)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """That of a pod of the Deployment."""
    for key in ("FloatingMode", "FloatingSubnetCidr", "LogFormat", "LogLevel", "StateDir"):
        monkeypatch.delenv(key, raising=False)
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("words", "parsed"),
    [
        ("nodeport", Arguments(mode="nodeport")),
        ("nodeport --configmap x.yaml", Arguments(mode="nodeport", configmap="x.yaml")),
        ("--configmap=x.yaml nodeport", Arguments(mode="nodeport", configmap="x.yaml")),
        ("status", Arguments("status")),
        ("status --json", Arguments("status", json=True)),
        ("--json status", Arguments("status", json=True)),
        ("status --configmap x.yaml --json", Arguments("status", configmap="x.yaml", json=True)),
        ("free-ips subnet-1", Arguments("free-ips", operand="subnet-1")),
        ("free-ips subnet-1 --count 3 --family 6", Arguments("free-ips", operand="subnet-1", limit=3, family=6)),
        ("free-ips --count=3 subnet-1 --family=4", Arguments("free-ips", operand="subnet-1", limit=3)),
    ],
)
def test_what_is_accepted(words: str, parsed: Arguments) -> None:
    assert parse(words.split()) == parsed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nodeport --json", "--json does not belong to nodeport"),
        ("--json", "--json does not belong to a mode"),
        ("nodeport --count 3", "--count does not belong to nodeport"),
        ("status --family 6", "--family does not belong to status"),
        ("status subnet-1", "unexpected argument 'subnet-1'"),
        ("status nodeport", "nodeport does not belong to status"),
        ("nodeport sidecar", "unexpected argument 'sidecar'"),
        ("free-ips", "free-ips needs the id of a subnet"),
        ("free-ips subnet-1 subnet-2", "unexpected argument 'subnet-2'"),
        ("free-ips --all", "unexpected argument '--all'"),
        ("free-ips subnet-1 --configmap x", "--configmap does not belong to free-ips"),
        ("free-ips subnet-1 --json", "--json does not belong to free-ips"),
        ("free-ips subnet-1 --count", "--count needs a value"),
        ("free-ips subnet-1 --count 0", "--count: accepted: a number from 1"),
        ("free-ips subnet-1 --count -1", "--count: accepted: a number from 1"),
        ("free-ips subnet-1 --count ten", "--count: accepted: a number from 1"),
        ("free-ips subnet-1 --family 5", "--family: accepted: 4 or 6"),
        ("free-ips subnet-1 --family=", "--family: accepted: 4 or 6"),
    ],
)
def test_what_is_not(capsys: pytest.CaptureFixture[str], words: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(words.split())
    assert str(raised.value) == said
    assert main(*words.split()) == 64
    shown = capsys.readouterr().err
    assert shown.startswith(f"vipmanager: {said}\n")
    assert "usage: vipmanager" in shown


class TestNodeport:
    """The mode."""

    @pytest.mark.parametrize(("key", "field"), [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace")])
    @pytest.mark.parametrize("value", ["", None])
    def test_it_must_know_who_it_is(
        self,
        environment: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        key: str,
        field: str,
        value: str | None,
    ) -> None:
        environment.delenv(key) if value is None else environment.setenv(key, value)
        assert main("nodeport") == 78
        shown = capsys.readouterr().err
        assert f"{key} is empty; set it from fieldRef {field}" in shown

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("FLOATING_IP", "", "nothing floats"),
            ("FLOATING_IP", "10.10.1", "10.10.1"),
            ("FloatingMode", "move", "address, route, eni"),
            ("FloatingMode", "subnet", "FloatingSubnetCidr"),
            ("FloatingSubnetCidr", "10.10.99.0/28", "only FloatingMode subnet"),
            ("LeaseDuration", "4", "at most LeaseDuration - 1"),
            ("RetryPeriod", "4", "RenewDeadline / 1.2"),
            ("HealthCheck", "ping", "tcp://"),
            ("HealthThreshold", "0", "HealthThreshold"),
            ("LeaseName", "Not A Name", "LeaseName"),
        ],
    )
    def test_wrong_settings(
        self, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, value: str, said: str
    ) -> None:
        environment.setenv(key, value)
        assert main("nodeport") == 78
        lines = [line for line in capsys.readouterr().err.splitlines() if "wrong setting" in line]
        assert len(lines) == 1
        assert key in lines[0]
        assert said in lines[0]

    def test_nothing_floats_in_the_other_modes(self, environment: pytest.MonkeyPatch) -> None:
        """An init or sidecar run is not kept from its work by what only the nodeport mode needs."""
        environment.setenv("FLOATING_IP", "")
        environment.setattr(cli, "run", lambda config, sidecar, on_stop: 42)
        assert main("init") == 42

    def test_it_is_given_its_settings(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        given: list[Config] = []
        environment.setattr(cli, "run_nodeport", lambda config, on_stop: given.append(config) or 42)
        path = tmp_path / "map.yaml"
        path.write_text('kind: ConfigMap\ndata: {LeaseName: "vip-a", FLOATING_IP: "10.10.1.99"}\n')
        assert main("nodeport", "--configmap", str(path)) == 42
        assert (given[0].lease_name, str(given[0].floating)) == ("vip-a", VIP)

    def test_it_runs_with_the_real_clients(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """As far as they can be made without a cluster: who it is, where it is told to stop, and garbage collection."""
        seen: dict[str, Any] = {}

        class Stopped:
            def __init__(self, config: Config, outside: Any, watch: Any, elector: Any, report: Any) -> None:
                seen.update(identity=elector._facts.terms.identity, self_=report._self, fence=outside.fence)
                watch.close()

            def stop(self) -> None:
                seen["stopped"] = True

            def run(self) -> int:
                seen["collects"] = gc.isenabled()
                return 42

        environment.setattr("vipmanager.nodeport.Nodeport", Stopped)
        environment.setattr("vipmanager.clients.kube.LeaseClient", lambda *arguments: seen.update(lease=arguments))
        environment.setenv("StateDir", str(tmp_path))
        gc.disable()  # as the entrypoint does
        try:
            assert cli.main(["nodeport"], lambda stop: stop()) == 42
        finally:
            gc.enable()
            gc.unfreeze()
        assert seen["identity"] == "vipmanager-x"
        assert seen["lease"] == ("kube-system", "vipmanager", 2.0)
        assert seen["self_"] == {"identity": "vipmanager-x", "node": "node-1", "lease": "kube-system/vipmanager"}
        assert seen["stopped"]
        assert seen["collects"], "a process that runs for months leaks without it"


class TestStatus:
    """`vipmanager status`."""

    def test_it_shows_what_is_there(
        self, environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        environment.setenv("StateDir", str(tmp_path))
        StatusFile(str(tmp_path)).write({"role": "BACKUP", "identity": "vipmanager-x", "holder": "vipmanager-y"})
        assert main("status") == 0
        assert capsys.readouterr().out.startswith("BACKUP  vipmanager-x\nholder      vipmanager-y\n")
        assert main("status", "--json") == 0
        assert json.loads(capsys.readouterr().out)["role"] == "BACKUP"

    def test_where_nothing_runs(
        self, environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        environment.setenv("StateDir", str(tmp_path))
        environment.delenv("POD_NAME")  # it needs none
        assert main("status") == 1
        assert "is vipmanager running in this container?" in capsys.readouterr().err


def test_free_ips_needs_no_settings(environment: pytest.MonkeyPatch) -> None:
    asked: list[Arguments] = []
    environment.setenv("VPCRTTag", "=wrong")
    environment.setattr(commands, "run_free_ips", lambda parsed: asked.append(parsed) or 42)
    assert main("free-ips", "subnet-1", "--count", "5") == 42
    assert asked == [Arguments("free-ips", operand="subnet-1", limit=5)]


def test_help_tells_of_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--help") == 0
    shown = capsys.readouterr().out
    for word in ("nodeport", "status [--json | --ready]", "free-ips SUBNET [--count N] [--family 4|6]"):
        assert word in shown
