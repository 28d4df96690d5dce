"""The issue's "Bad input and bad days", apart from EC2's: settings, interfaces, IMDS, signals, privileges, modes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from lab.lab import Lab
from lab.pod import Pod
from tests.scenario.support import (
    PEER1_NET,
    WITHOUT_NET_ADMIN,
    Run,
    add_bridge,
    assert_answers,
    eni,
    everywhere,
    holder,
    init,
    own_address6,
    pod_routes,
    pod_rules,
    sidecar,
    start,
    start_by,
    targets,
    until,
    wait_routed,
    writes,
)

pytestmark = pytest.mark.namespaces

ONE, TWO = "192.168.0.1", "192.168.0.2"
INSIDE = "10.10.11.77"
ROUTED = {"net1": [f"{ONE}/32"], "net2": [f"{TWO}/32"]}

# Settings


def test_wrong_settings_are_all_named_and_nothing_is_touched(lab: Lab) -> None:
    """Exit code 78, before anything is asked of anybody."""
    pod = lab.pod("pod", "a", ROUTED)
    wrong = {
        "Intf1Peers": f"{PEER1_NET}, somewhere",
        "Intf1Peer": "10.0.0.1",
        "VPCRTTag": "=value",
        "RunAsSidecar": "maybe",
        "ResyncInterval": "-1",
        "InitTimeout": "soon",
        "AssignIPs": "sometimes",
        "SourceDestCheck": "Off",
        "RouteTableRole": "role",
        "StateDir": "relative",
        "LogLevel": "LOUD",
    }
    run = start(pod, "init", **wrong)
    assert run.ends() == 78
    for key in wrong:
        assert f"{key}" in run.text, f"{key} is not named:\n{run.text}"
    assert "somewhere" in run.text
    assert lab.ec2.calls == []
    assert lab.imds.requests == []
    assert pod_routes(pod).keys() == {(254, "0.0.0.0/0")}, "eth0's"


def test_a_wrong_argument_is_refused(lab: Lab) -> None:
    """EX_USAGE, and nothing touched."""
    run = start(lab.pod("pod", "a", ROUTED), "inti")
    assert run.ends() == 64
    assert "inti" in run.text
    assert lab.ec2.calls == []


# No interface, no addresses


def test_init_waits_for_an_interface_and_an_address(lab: Lab) -> None:
    """Neither is there at first; it wakes when they come."""
    pod = lab.pod("pod", "a", {})
    run = start(pod, "init")
    run.wait("start")
    pod.add_interface("net1", device_index=1)
    run.wait("interface", name="net1", addresses="none")
    pod.add_address("net1", f"{ONE}/32")
    assert run.ends() == 0
    assert_answers(lab, ONE)


@pytest.mark.parametrize("seen", ["nothing", "no address"])
def test_init_that_waits_in_vain_says_what_it_saw(lab: Lab, seen: str) -> None:
    """Exit code 1 at InitTimeout."""
    pod = lab.pod("pod", "a", {} if seen == "nothing" else {"net1": []})
    run = start(pod, "init", InitTimeout=1)
    assert run.ends() == 1
    said = run.events("nothing to deliver")[0]["seen"]
    if seen == "nothing":
        assert "net1" not in said
    else:
        assert "net1" in said
        assert eni(lab, "a", 1) in said
        assert lab.workers["a"].eni(1).mac in said
    assert writes(lab.ec2.calls) == []


def test_an_interface_whose_mac_is_no_enis_is_said_once(lab: Lab) -> None:
    """And looked at no more, while the others work on."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    add_bridge(pod, "br0", "172.30.0.1/24")
    run = sidecar(pod, ONE)
    run.wait("ignored", interface="br0")
    pod.add_address("net1", f"{TWO}/32")
    run.wait("claimed", address=TWO)
    assert len(run.events("ignored")) == 1
    assert_answers(lab, ONE, TWO)


def test_only_interfaces_that_are_no_enis_end_an_init_run_with_what_was_seen(lab: Lab) -> None:
    """Nothing to deliver is no success."""
    pod = lab.pod("pod", "a", {})
    add_bridge(pod, "br0", "172.30.0.1/24")
    run = start(pod, "init", InitTimeout=1)
    assert run.ends() == 1
    assert run.mentions("br0", "172.30.0.1")


# IMDS


@pytest.mark.parametrize("imds", ["refused", "silent", "hop limit 1"])
def test_without_imds_ec2_gives_the_same_result(lab: Lab, imds: str) -> None:
    """Three placements, both families, the pod's routes: a run with IMDS changes none of it."""
    if imds == "refused":
        lab.imds.refuse()
    else:
        lab.imds.block(*(["PUT"] if imds == "hop limit 1" else []))
    address6 = own_address6(lab, "a", 1, 0x77)
    interfaces = {"net1": [f"{ONE}/32", f"{INSIDE}/32", f"{address6}/128"], "net2": ["10.10.254.5/32", "fd12::2/128"]}
    pod = lab.pod("pod", "a", interfaces)
    settings = {"SubnetBasedLoopbacks": "True", "Intf1Peers": PEER1_NET, "UseSBR": "True"}
    init(pod, **settings)
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))
    assert holder(lab, INSIDE) == holder(lab, address6) == eni(lab, "a", 1)
    assert targets(lab, "10.10.254.0/28") == targets(lab, "fd12::2/128") == everywhere(lab, eni(lab, "a", 2))
    assert_answers(lab, ONE, INSIDE, address6, "10.10.254.5", "fd12::2")
    by_ec2 = outcome(lab, pod)

    lab.imds.unblock()
    requests = len(lab.imds.requests)
    init(pod, **settings)
    assert lab.imds.requests[requests:]
    assert outcome(lab, pod) == by_ec2


def outcome(lab: Lab, pod: Pod) -> tuple[object, ...]:
    """All that an init run has an influence on."""
    state = lab.ec2.state()
    return state.route_tables, state.enis, pod_routes(pod), pod_rules(pod)


def test_a_hiccup_of_imds_fails_nothing(lab: Lab) -> None:
    """Errors, an expired token and slow answers while an init run asks."""
    lab.imds.fail_next(1, 503)
    lab.imds.slow(0.01)
    lab.imds.expire_tokens()
    init(lab.pod("pod", "a", ROUTED))
    assert_answers(lab, ONE, TWO)


def test_without_imds_and_without_region_the_setting_is_named(lab: Lab) -> None:
    """Nobody can tell the region: AWS_REGION would."""
    lab.imds.refuse()
    nowhere = {"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}
    run = start(lab.pod("pod", "a", ROUTED), "init", env=nowhere, InitTimeout=1)
    assert run.ends() == 1
    assert run.mentions("AWS_REGION")


# Credentials


def test_without_credentials_it_says_so_and_goes_on_when_there_are_some(lab: Lab) -> None:
    """The pod's role comes late, as with EKS Pod Identity's agent on a new node."""
    pod = lab.pod("pod", "a", ROUTED)
    run = start(pod, "sidecar", env={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
    run.wait_mention("NoCredentials", "Pod Identity")
    lab.imds.register(pod.address, lab.workers["a"].instance_id, role="node")
    run.wait("claimed", address=ONE)
    run.wait("claimed", address=TWO)
    assert_answers(lab, ONE, TWO)


def test_init_without_credentials_fails_and_says_so(lab: Lab) -> None:
    """At InitTimeout, because they may still come."""
    pod = lab.pod("pod", "a", ROUTED)
    run = start(pod, "init", env={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, InitTimeout=1)
    assert run.ends() == 1
    assert [event for event in run.events("missing") if "NoCredentials" in event["why"]]


def test_credentials_that_aws_does_not_know_are_named(lab: Lab) -> None:
    """AuthFailure is no missing permission."""
    run = start(lab.pod("pod", "a", ROUTED), "init", env={"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}, InitTimeout=5)
    assert run.ends() == 1
    assert run.mentions("AuthFailure", "credentials")


# Signals


def handles_sigterm(run: Run) -> bool:
    """Whether the process has installed its handler (before that, the kernel's default ends any process)."""
    status = Path(f"/proc/{run.container.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.parametrize(
    ("arguments", "settings", "code"),
    [
        (["sidecar"], {}, 0),
        ([], {"RunAsSidecar": "True"}, 0),
        (["init"], {}, 143),
        ([], {}, 143),
        (["sidecar", "--configmap", "/nowhere/init.yaml"], {}, 0),
    ],
    ids=["sidecar", "RunAsSidecar", "init", "no argument", "sidecar with a file named init"],
)
def test_sigterm_during_start_up(lab: Lab, arguments: list[str], settings: dict[str, object], code: int) -> None:
    """A stopped sidecar has done its job; an init run that is stopped has not, and must not look as if it had."""
    run = start(lab.pod("pod", "a", ROUTED), *arguments, **settings)
    until(lambda: handles_sigterm(run), "the signal handler")
    assert run.stop() == code
    sidecar(lab.pods["pod"], ONE, TWO)
    assert_answers(lab, ONE, TWO)


def test_sigterm_during_discovery(lab: Lab) -> None:
    """IMDS does not answer, and nor does EC2."""
    lab.imds.block()
    lab.ec2.faults.block()
    pod = lab.pod("pod", "a", ROUTED)
    run = sidecar(pod)
    run.wait("start")
    assert run.stop() == 0
    lab.imds.unblock()
    lab.ec2.faults.unblock()
    sidecar(pod, ONE, TWO)
    assert_answers(lab, ONE, TWO)


@pytest.mark.parametrize("action", ["DescribeRouteTables", "CreateRoute", "AssignPrivateIpAddresses"])
def test_sigterm_while_calls_hang(lab: Lab, action: str) -> None:
    """They would hang for ten minutes. What was half done the next start completes."""
    lab.ec2.faults.hang(action, 600, times=None)
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{INSIDE}/24"]})
    run = sidecar(pod, DeleteRoutesOnExit="True")
    net1 = eni(lab, "a", 1)
    if action == "CreateRoute":  # the lab applies a call and then lets its answer hang
        wait_routed(lab, f"{ONE}/32", net1)
    elif action == "AssignPrivateIpAddresses":
        until(lambda: holder(lab, INSIDE) == net1, "the call applied")
    else:
        run.wait("interface", name="net1")
    assert run.stop() == 0
    lab.ec2.faults.clear()
    sidecar(pod, ONE, INSIDE)
    assert_answers(lab, ONE, INSIDE)


def test_sigterm_while_an_init_run_waits(lab: Lab) -> None:
    """It has delivered nothing."""
    run = start(lab.pod("pod", "a", {"net1": []}), "init")
    run.wait("interface", name="net1")
    assert run.stop() == 143


# NET_ADMIN


def test_without_net_admin_the_capability_is_named(lab: Lab) -> None:
    """The pod's own routes cannot be set; the VPC's are."""
    run = start_by(lab, lab.pod("pod", "a", ROUTED), *WITHOUT_NET_ADMIN, "init")
    assert run.ends() == 1
    assert run.mentions("NET_ADMIN")
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))


def test_without_net_admin_the_vpc_part_works_when_the_pod_needs_no_routes(lab: Lab) -> None:
    """UseSBR off and no peers: something else routes in the pod."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{INSIDE}/24"]})
    run = start_by(lab, pod, *WITHOUT_NET_ADMIN, "init", UseSBR="False")
    assert run.ends() == 0, run.text
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))
    assert holder(lab, INSIDE) == eni(lab, "a", 1)
    assert not run.mentions("NET_ADMIN")
