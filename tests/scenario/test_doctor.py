"""`vipmanager doctor` as a process: in a pod and on a node, where all is well and where something is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.lab import Lab
from lab.pod import Pod
from tests.scenario.support import BOUND, sidecar, until

pytestmark = pytest.mark.namespaces

VIP = "192.168.0.2"
SETTINGS = {"FLOATING_IP": "10.10.1.90"}
NO_MANAGE = "node.k8s.amazonaws.com/no_manage"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(kube=True) as made:
        admin = made.ec2.admin()
        enis = [eni.eni_id for worker in made.workers.values() for eni in worker.enis if eni.device_index]
        admin.create_tags(Resources=enis, Tags=[{"Key": NO_MANAGE, "Value": "true"}])
        yield made


@pytest.fixture
def pod(lab: Lab) -> Iterator[Pod]:
    yield lab.pod("p", "a", {"net1": [f"{VIP}/32"]})
    lab.delete_pod("p")
    lab.ec2.faults.clear()
    lab.imds.unblock()


class Findings:
    """What doctor printed with --json, by check."""

    def __init__(self, code: int, output: str) -> None:
        self.code = code
        data = json.loads(output)
        self.verdict: str = data["verdict"]
        self.by_check: dict[str, Mapping[str, Any]] = {each["check"]: each for each in data["findings"]}
        assert len(self.by_check) == len(data["findings"]), "a check is there twice"

    def __getitem__(self, check: str) -> tuple[str, str, str]:
        found = self.by_check[check]
        return found["verdict"], found["seen"], found["mend"]

    def but_ok(self) -> dict[str, str]:
        """The checks that are not ok, with their verdicts."""
        return {check: each["verdict"] for check, each in self.by_check.items() if each["verdict"] != "ok"}


def doctor(pod: Any, *arguments: str, config: Mapping[str, object] | None = None, **env: str) -> Findings:
    """Run it."""
    run = pod.vipmanager(["doctor", *arguments, "--json"], config or {}, env)
    return Findings(run.wait(BOUND), run.output())


@pytest.mark.parametrize("mode", ["init", "sidecar"])
def test_where_all_is_well(pod: Pod, mode: str) -> None:
    found = doctor(pod, mode)
    assert (found.code, found.but_ok()) == (0, {})
    assert found["interface net1"][1].endswith(f"(device index 1): {VIP}")
    assert found["credentials"][1].endswith("user/worker-a")
    assert found["route tables"][1] == "4 selected of 4 by ALL"
    assert found["source/dest check of " + pod.worker.eni(1).eni_id][1] == "on; vipmanager turns it off"


@pytest.mark.parametrize("command", ["doctor", "plan"])
def test_without_a_mode_it_is_that_of_the_vipmanager_that_runs_here(pod: Pod, command: str) -> None:
    """As with `args: [sidecar]` and a ConfigMap that says nothing of it."""

    def mode(*given: str) -> str:
        run = pod.vipmanager([command, *given, "--json"], {})
        assert run.wait(BOUND) in (0, 2)
        return str(json.loads(run.output())["mode"])

    assert mode() == "init"
    running = sidecar(pod, VIP)
    status = Path(pod.directory, "state", "status.json")
    until(lambda: status.exists(), "what it says of itself")
    assert mode() == "sidecar"
    assert mode("init") == "init"
    running.container.kill()
    running.container.wait(BOUND)
    assert mode() == "init", "it has ended"


def test_the_text_is_one_line_a_check_with_the_mend_below(lab: Lab, pod: Pod) -> None:
    lab.ec2.faults.deny("ec2:CreateRoute")
    run = pod.vipmanager(["doctor"], {})
    assert run.wait(BOUND) == 1
    lines = run.output().splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("fail"))
    assert lines[at].split()[:3] == ["fail", "IAM", "ec2:CreateRoute"]
    assert lines[at + 1].strip().startswith("→ allow ec2:CreateRoute on arn:aws:ec2:")
    assert lines[-1].startswith("init: ") and lines[-1].endswith("0 warn, 1 fail")


@pytest.mark.parametrize(
    "operation",
    ["AssignPrivateIpAddresses", "AssignIpv6Addresses", "UnassignIpv6Addresses", "UnassignPrivateIpAddresses",
     "CreateRoute", "ReplaceRoute", "DeleteRoute", "ModifyNetworkInterfaceAttribute"],
)  # fmt: skip
def test_each_write_that_is_denied_is_named_and_none_is_made(lab: Lab, pod: Pod, operation: str) -> None:
    """The calls that take no DryRun as well: they are asked for what EC2 cannot do."""
    lab.ec2.faults.deny(f"ec2:{operation}")
    before = lab.ec2.state()
    found = doctor(pod, "sidecar")
    assert found.code == 1
    assert found.but_ok() == {f"IAM ec2:{operation}": "fail"}
    assert f"ec2:{operation}" in found[f"IAM ec2:{operation}"][2]
    assert lab.ec2.state() == before


@pytest.mark.parametrize("operation", ["DescribeRouteTables", "DescribeNetworkInterfaces"])
def test_a_describe_that_is_denied_is_named(lab: Lab, pod: Pod, operation: str) -> None:
    lab.ec2.faults.deny(f"ec2:{operation}")
    found = doctor(pod)
    assert found.code == 1
    said = [each for each in found.by_check.values() if each["verdict"] == "fail"]
    assert all(f"ec2:{operation}" in each["seen"] + each["mend"] for each in said)


def test_the_workers_type_is_a_convenience(lab: Lab, pod: Pod) -> None:
    """Only doctor wants it; a role without it is no failure."""
    lab.ec2.faults.deny("ec2:DescribeInstances", "ec2:DescribeInstanceTypes")
    assert doctor(pod).but_ok() == {}
    pod.add_address("net1", "10.10.11.77/24")
    found = doctor(pod)
    assert (found.code, found.but_ok()) == (0, {"addresses per ENI": "warn"})
    assert "--doctor" in found["addresses per ENI"][2]


def test_more_addresses_than_the_instance_type_allows(lab: Lab, pod: Pod) -> None:
    eni = pod.worker.eni(1)
    prefix = eni.subnet_cidr.rpartition(".")[0]
    for number in range(100, 120):
        pod.add_address("net1", f"{prefix}.{number}/24")
    found = doctor(pod)
    assert found.but_ok()[f"IPv4 addresses of {eni.eni_id}"] == "fail"


def test_imds_that_does_not_answer_is_a_warning_because_ec2_knows_the_same(lab: Lab, pod: Pod) -> None:
    lab.imds.block("PUT")
    found = doctor(pod)
    assert (found.code, found.but_ok()) == (0, {"IMDS": "warn"})
    assert "HttpPutResponseHopLimit" in found["IMDS"][2]
    assert found["interface net1"][1].endswith(VIP)


def test_credentials_that_are_not_accepted(lab: Lab, pod: Pod) -> None:
    found = doctor(pod, AWS_ACCESS_KEY_ID="AKIANOBODY", AWS_SECRET_ACCESS_KEY="x")
    assert found.code == 1
    assert found["credentials"][0] == "fail"
    assert "the role of the service account" in found["credentials"][2]


def test_nothing_reaches_ec2(lab: Lab, pod: Pod) -> None:
    """It ends all the same, and says so."""
    found = doctor(pod, AWS_ENDPOINT_URL="http://10.10.1.4:1")
    assert found.code == 1
    assert found["credentials"][0] == "fail"
    assert found["EC2"][0] == "fail"


def test_settings_that_select_no_table(pod: Pod) -> None:
    found = doctor(pod, config={"VPCRTTag": "nobody=here"})
    assert found.code == 1
    assert found["route tables"][:2] == ("fail", "VPCRTTag=nobody=here selects none of 4")


def test_an_eni_without_the_tag(lab: Lab, pod: Pod) -> None:
    eni = pod.worker.eni(1).eni_id
    lab.ec2.admin().delete_tags(Resources=[eni], Tags=[{"Key": NO_MANAGE}])
    try:
        found = doctor(pod)
        assert (found.code, found.but_ok()) == (0, {f"no_manage of {eni}": "warn"})
    finally:
        lab.ec2.admin().create_tags(Resources=[eni], Tags=[{"Key": NO_MANAGE, "Value": "true"}])


def test_an_address_that_another_pod_has_too(lab: Lab, pod: Pod) -> None:
    other = lab.pod("q", "b", {"net1": [f"{VIP}/32"]})
    try:
        assert other.vipmanager(["init"], {}).wait(BOUND) == 0
        found = doctor(pod)
        assert found.but_ok() == {f"claim of {VIP}": "warn"}
        assert other.worker.eni(1).eni_id in found[f"claim of {VIP}"][1]
    finally:
        lab.delete_pod("q")
        for table in lab.route_table_ids:
            lab.ec2.admin().delete_route(RouteTableId=table, DestinationCidrBlock=f"{VIP}/32")


def test_without_net_admin(pod: Pod) -> None:
    found = Findings(*_without(pod, "net_admin"))
    assert found.code == 1
    assert found["NET_ADMIN"][0] == "fail"
    assert "securityContext" in found["NET_ADMIN"][2]


def _without(pod: Pod, *capabilities: str) -> tuple[int, str]:
    """Run doctor with some capabilities out of its bounding set, as a container runtime does."""
    dropped = ",".join(f"-{name}" for name in capabilities)
    argv = ["setpriv", "--bounding-set", dropped, "--inh-caps", dropped]
    argv = [*argv, sys.executable, "-m", "vipmanager", "doctor", "--json"]
    process = pod.popen(argv, env={**os.environ, **pod.env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=BOUND)
    return process.returncode, output.decode()


def test_a_strict_reverse_path_filter_where_only_peers_have_a_way_back(pod: Pod) -> None:
    for name in ("all", "net1"):
        pod.ns.run(lambda name=name: Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("1"))
    assert doctor(pod).but_ok() == {}
    found = doctor(pod, config={"Intf1Peers": "10.10.31.0/24"})
    assert (found.code, found.but_ok()) == (0, {"rp_filter of net1": "warn"})


class TestNode:
    """`doctor nodeport`."""

    def test_where_all_is_well(self, lab: Lab) -> None:
        found = doctor(lab.workers["a"], "nodeport", config=SETTINGS, **lab.kube.env("a"))
        assert (found.code, found.but_ok()) == (0, {})
        assert "not there yet" in found["Lease"][1]

    @pytest.mark.parametrize("mode", ["route", "eni", "subnet"])
    def test_each_mode_asks_for_what_it_calls(self, lab: Lab, mode: str) -> None:
        cidr = {"FloatingSubnetCidr": "10.10.200.0/28"} if mode == "subnet" else {}
        vip = {"route": "192.168.0.90", "eni": "10.10.1.90", "subnet": "10.10.200.5"}[mode]
        settings = {**SETTINGS, "FLOATING_IP": vip, "FloatingMode": mode, **cidr}
        before = lab.ec2.state()
        found = doctor(lab.workers["a"], "nodeport", config=settings, **lab.kube.env("a"))
        assert (found.code, found.but_ok()) == (0, {})
        wanted = {"route": "CreateRoute", "eni": "AttachNetworkInterface", "subnet": "CreateSubnet"}[mode]
        assert found[f"IAM ec2:{wanted}"][0] == "ok"
        assert lab.ec2.state() == before

    def test_a_health_check_that_fails_and_a_lease_that_may_not_be_read(self, lab: Lab) -> None:
        lab.kube.revoke("a")
        try:
            settings = {**SETTINGS, "HealthCheck": "tcp://:30007"}
            found = doctor(lab.workers["a"], "nodeport", config=settings, **lab.kube.env("a"))
        finally:
            lab.kube.grant("a")
        assert (found.code, found.but_ok()) == (1, {"Lease": "fail", "HealthCheck": "warn"})
