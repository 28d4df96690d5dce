"""Arguments and environment become a mode, or an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from vipmanager import __version__, cli
from vipmanager.clients.imds import region
from vipmanager.config import Config
from vipmanager.errors import CallError, ErrorKind, Failure


class Ran:
    """Stands in for `cli.run`: remembers what was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Config, bool]] = []

    def __call__(self, config: Config, sidecar: bool, on_stop: object) -> int:
        self.calls.append((config, sidecar))
        return 42


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    stand_in = Ran()
    monkeypatch.setattr(cli, "run", stand_in)
    for key in ("RunAsSidecar", "VPCRTTag", "Intf1Peers", "LogLevel", "LogFormat"):
        monkeypatch.delenv(key, raising=False)
    return stand_in


def main(*arguments: str) -> int:
    """Run the command line."""
    return cli.main(arguments, lambda _: None)


@pytest.mark.parametrize(
    ("arguments", "setting", "sidecar"),
    [
        ((), "", False),
        ((), "False", False),
        ((), "True", True),
        (("init",), "", False),
        (("init",), "True", False),
        (("initContainers",), "", False),
        (("initContainers",), "True", False),
        (("sidecar",), "", True),
        (("sidecar",), "False", True),
    ],
)
def test_the_mode(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], setting: str, sidecar: bool
) -> None:
    """An argument says it outright, the old ones too; without any RunAsSidecar does."""
    monkeypatch.setenv("RunAsSidecar", setting)
    assert main(*arguments) == 42
    assert [mode for _, mode in ran.calls] == [sidecar]


@pytest.mark.parametrize(
    "arguments",
    [("start",), ("init", "sidecar"), ("init", "init"), ("--configmap",), ("--verbose",), ("INIT",), ("",)],
)
def test_wrong_arguments_are_exit_64_and_usage(
    ran: Ran, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert main(*arguments) == 64
    assert ran.calls == []
    assert "usage: vipmanager" in capsys.readouterr().err


def test_every_wrong_setting_is_said_and_exit_78(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in {"RunAsSidecar": "maybe", "VPCRTTag": "=x", "Intf1Peers": "nobody", "Intf1Peer": "1"}.items():
        monkeypatch.setenv(key, value)
    assert main("init") == 78
    assert ran.calls == []
    lines = capsys.readouterr().err.splitlines()
    for word in ("maybe", "=x", "nobody", "Intf1Peer="):
        assert sum(word in line for line in lines) == 1
    assert any("problems=4" in line for line in lines)


@pytest.mark.parametrize("form", [["--configmap", "{}"], ["--configmap={}"]])
@pytest.mark.parametrize("mode", [[], ["init"], ["sidecar"]])
def test_settings_of_a_manifest(ran: Ran, tmp_path: Path, form: list[str], mode: list[str]) -> None:
    path = tmp_path / "map.yaml"
    path.write_text('kind: ConfigMap\ndata: {VPCRTTag: "a", InitTimeout: "7"}\n')
    assert main(*mode, *(word.format(path) for word in form)) == 42
    assert (str(ran.calls[0][0].route_tables), ran.calls[0][0].init_timeout) == ("a", 7.0)


def test_the_environment_wins_over_the_manifest(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.yaml"
    path.write_text('kind: ConfigMap\ndata: {VPCRTTag: "a", InitTimeout: "7"}\n')
    monkeypatch.setenv("VPCRTTag", "b")
    main(f"--configmap={path}")
    assert (str(ran.calls[0][0].route_tables), ran.calls[0][0].init_timeout) == ("b", 7.0)


@pytest.mark.parametrize("text", ["kind: Pod\n", "kind: ConfigMap\ndata: {RunAsSidecar: True}\n", "a: [\n"])
def test_a_wrong_manifest_is_exit_78(ran: Ran, tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    assert main("init", "--configmap", str(path)) == 78
    assert main("init", "--configmap", str(path) + ".missing") == 78
    assert ran.calls == []


@pytest.mark.parametrize(("argument", "said"), [("--help", "usage:"), ("-h", "sidecar"), ("--version", __version__)])
def test_help_and_version(ran: Ran, capsys: pytest.CaptureFixture[str], argument: str, said: str) -> None:
    assert main(argument) == 0
    assert said in capsys.readouterr().out
    assert ran.calls == []


class Imds:
    """A discovery port of which only the region matters."""

    def region(self) -> str:
        raise CallError(Failure(ErrorKind.RETRY, "imds", "timeout", "asked"))


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"AWS_REGION": "a"}, "a"),
        ({"AWS_DEFAULT_REGION": "b"}, "b"),
        ({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"}, "a"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "b"}, "b"),
    ],
)
def test_the_region_is_the_sdks_setting(environment: dict[str, str], found: str) -> None:
    assert region(environment, Imds()) == found


def test_without_a_setting_the_region_is_the_instances() -> None:
    with pytest.raises(CallError, match="asked"):
        region({}, Imds())
