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
from lab.walltime import WallClock
from tests.scenario.support import BOUND, remove_route, sidecar, targets, until
from tests.scenario.test_iam_policy import enforce, scope
from vipmanager import iam
from vipmanager.config import load

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
    assert found["route tables"][1].startswith("4 selected of 4 by ALL; the fullest, rtb-")
    assert found["IAM ec2:CreateRoute"][1] == "allowed on all 4 route tables"
    assert found["IAM ec2:ModifyNetworkInterfaceAttribute"][1] == f"allowed on {pod.worker.eni(1).eni_id}"
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


@pytest.mark.parametrize(
    ("describe", "write", "unknown"),
    [
        ("DescribeRouteTables", "AssignPrivateIpAddresses", "route tables"),
        ("DescribeNetworkInterfaces", "CreateRoute", "ENIs"),
    ],
)
def test_a_describe_that_is_denied_hides_no_other_check(
    lab: Lab, pod: Pod, describe: str, write: str, unknown: str
) -> None:
    """ENI and VPC are known from IMDS; only what needs the missing fact is left out, and that is said."""
    lab.ec2.faults.deny(f"ec2:{describe}", f"ec2:{write}")
    found = doctor(pod, "sidecar")
    assert found.code == 1
    assert found.but_ok() == {f"IAM ec2:{describe}": "fail", f"IAM ec2:{write}": "fail", unknown: "warn"}
    assert f"allow ec2:{describe} on *" in found[f"IAM ec2:{describe}"][2]
    assert f"allow ec2:{write} on " in found[f"IAM ec2:{write}"][2]


def test_what_needs_the_route_tables_is_not_asked_without_them(lab: Lab, pod: Pod) -> None:
    lab.ec2.faults.deny("ec2:DescribeRouteTables")
    found = doctor(pod, "sidecar")
    for write in ("CreateRoute", "DeleteRoute", "ReplaceRoute"):
        verdict, seen, _ = found[f"IAM ec2:{write}"]
        assert (verdict, "not asked: " in seen, "DescribeRouteTables fails" in seen) == ("ok", True, True)


def test_one_route_table_of_four_that_the_policy_leaves_out(lab: Lab, pod: Pod) -> None:
    """It lacks the tag that the policy asks for."""
    tag = [{"Key": "floating", "Value": "yes"}]
    *tagged, left_out = lab.route_table_ids
    lab.ec2.admin().create_tags(Resources=tagged, Tags=tag)
    enforce(lab, "a", iam.policy(load({"VPCRTTag": "floating=yes"}), "sidecar", scope(lab), doctor=True))
    try:
        found = doctor(pod, "sidecar")
        assert found.code == 1
        writes = [f"IAM ec2:{verb}Route" for verb in ("Create", "Delete", "Replace")]
        assert found.but_ok() == dict.fromkeys(writes, "fail")
        assert found[writes[0]][1].startswith(f"denied on 1 of 4 ({left_out}): ")
        assert f"route-table/{left_out}" in found[writes[0]][2]
        assert doctor(pod, "sidecar", config={"VPCRTTag": "floating=yes"}).but_ok() == {}
    finally:
        lab.ec2.policies.detach_all(lab.env("a")["AWS_ACCESS_KEY_ID"])
        lab.ec2.admin().delete_tags(Resources=tagged, Tags=tag)


@pytest.mark.parametrize(
    ("offset", "verdict", "refused"),
    [(45.0, "warn", False), (-400.0, "fail", False), (3600.0, "fail", True), (-3600.0, "fail", True)],
)
def test_a_clock_that_is_off(pod: Pod, offset: float, verdict: str, refused: bool) -> None:
    """From 15 minutes on AWS refuses every call, and doctor says why from the time in the refusal."""
    clock = WallClock(pod.directory / "clock")
    clock.jump(offset)
    found = doctor(pod, **clock.env(pod.env))
    direction = "ahead of" if offset > 0 else "behind"
    assert found["clock"][0] == verdict
    seconds, rest = found["clock"][1].split(" ", 1)
    assert abs(int(seconds) - abs(offset)) <= 2
    assert rest == f"s {direction} AWS's"
    assert "chrony" in found["clock"][2]
    failing = {"clock": verdict, "credentials": "fail", "EC2": "fail"} if refused else {"clock": verdict}
    assert found.but_ok() == failing
    assert ("SignatureDoesNotMatch" in found["credentials"][1]) is refused


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


def test_without_imds_and_ec2_nobody_is_blamed_for_the_interfaces(lab: Lab, pod: Pod) -> None:
    lab.imds.block()
    found = doctor(pod, AWS_ENDPOINT_URL="http://10.10.1.4:1")
    assert found.code == 1
    expected = {"interface net1": "warn", "IMDS": "warn", "clock": "warn", "credentials": "fail", "EC2": "fail"}
    assert found.but_ok() == expected
    assert "not known" in found["interface net1"][1]
    assert "macvlan" not in found["interface net1"][2]


def test_settings_that_select_no_table(pod: Pod) -> None:
    found = doctor(pod, config={"VPCRTTag": "nobody=here"})
    assert found.code == 1
    assert found["route tables"][:2] == ("fail", "VPCRTTag=nobody=here selects none of 4")
    assert found["IAM ec2:CreateRoute"][1] == "not asked: VPCRTTag=nobody=here selects no route table"


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


@pytest.mark.parametrize(
    ("worker", "interface", "destination", "settings"),
    [
        ("b", "net1", "192.168.0.0/29", {"RouteAggregation": "True", "Intf1Pools": "192.168.0.0/29"}),
        ("a", "net2", VIP, {}),
    ],
    ids=["a pool", "another ENI of the same worker"],
)
def test_what_another_pod_has_too_by_other_routes(
    lab: Lab, pod: Pod, worker: str, interface: str, destination: str, settings: dict[str, str]
) -> None:
    other = lab.pod("q", worker, {interface: [f"{VIP}/32"]})
    try:
        assert other.vipmanager(["init"], settings).wait(BOUND) == 0
        found = doctor(pod, config=settings)
        assert found.but_ok() == {f"claim of {destination}": "warn"}
        assert other.worker.eni(int(interface[-1])).eni_id in found[f"claim of {destination}"][1]
    finally:
        lab.delete_pod("q")
        route = destination if "/" in destination else f"{destination}/32"
        for table in targets(lab, route):
            remove_route(lab, route, table)


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

    def test_what_carries_no_tag_yet_is_not_asked_about(self, lab: Lab) -> None:
        settings = {**SETTINGS, "FloatingMode": "eni"}
        found = doctor(lab.workers["a"], "nodeport", config=settings, **lab.kube.env("a"))
        for operation in ("AssignPrivateIpAddresses", "AttachNetworkInterface", "DetachNetworkInterface"):
            why = "not asked: no network interface carries the tag vipmanager/floating=10.10.1.90 yet"
            assert found[f"IAM ec2:{operation}"][:2] == ("ok", why)

    @pytest.mark.parametrize("verbs", [["create"], ["update", "watch"]], ids=" ".join)
    def test_a_role_that_does_not_let_it_elect(self, lab: Lab, verbs: list[str]) -> None:
        """Though it may read the Lease."""
        lab.kube.grant("a", without=verbs)
        try:
            found = doctor(lab.workers["a"], "nodeport", config=SETTINGS, **lab.kube.env("a"))
        finally:
            lab.kube.grant("a")
        assert (found.code, found.but_ok()) == (1, {"Lease": "fail"})
        assert f"may not {', '.join(verbs)} vipmanager/vipmanager" in found["Lease"][1]
        assert "samples/nodeport/rbac.yaml" in found["Lease"][2]

    def test_a_health_check_that_fails_and_a_lease_that_may_not_be_read(self, lab: Lab) -> None:
        lab.kube.revoke("a")
        try:
            settings = {**SETTINGS, "HealthCheck": "tcp://:30007"}
            found = doctor(lab.workers["a"], "nodeport", config=settings, **lab.kube.env("a"))
        finally:
            lab.kube.grant("a")
        assert (found.code, found.but_ok()) == (1, {"Lease": "fail", "HealthCheck": "warn"})
