"""What a user can get wrong: each is said with what to change, touches nothing it must not, and is over when mended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from lab.lab import Lab
from lab.topology import WorkerSpec
from tests.scenario.nodeport_support import LEASE, WORKERS, Nodes, annotation, running
from tests.scenario.support import until

pytestmark = pytest.mark.namespaces

VIP = "10.10.1.80"
NET_ADMIN, NET_RAW = 12, 13
FULL = WorkerSpec("d", "us-east-2a", "nodes-a", ("multus1-a", "multus2-a", "multus1-a"))
"""All four slots for ENIs that an m5.xlarge has are taken."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """For one Deployment after the other."""
    with Lab(workers=(*WORKERS, FULL), internet=True, kube=True) as made:
        yield made


def key(lab: Lab, worker: str) -> str:
    """A worker's access key."""
    return lab.workers[worker].env["AWS_ACCESS_KEY_ID"]


def said(nodes: Nodes, worker: str, about: str) -> str:
    """What a node says of a problem, in its log and, the same, in its status."""
    text = str(nodes.runs[worker].wait("problem", of=about, level="ERROR")["what"])
    until(lambda: any(text in each for each in nodes.status(worker)["problems"]), "the status has it too")
    return text


# Settings


def test_wrong_settings_are_all_named(lab: Lab) -> None:
    """Exit code 78, before anything is asked of anybody."""
    wrong = {
        "FLOATING_IP": "10.10.1, eipalloc-xyz",
        "FloatingMode": "magic",
        "FloatingSubnetCidr": "10.10.1.1/28",
        "LeaseName": "Not a name",
        "LeaseDuration": "1",
        "RenewDeadline": "soon",
        "RetryPeriod": "0",
        "HealthCheck": "ping://",
        "HealthThreshold": "0",
    }
    mark = lab.ec2.mark()
    with running(lab, "a") as nodes:
        run = nodes.launch("nodeport", worker="a", **wrong)
        assert run.ends() == 78
        for name in wrong:
            assert f"{name}=" in run.text, run.text
    assert lab.ec2.calls_since(mark) == []
    assert lab.kube.lease(LEASE) is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, ["FLOATING_IP"]),
        ({"FLOATING_IP": VIP, "LeaseDuration": 3, "RenewDeadline": 3}, ["RenewDeadline", "LeaseDuration - 1"]),
        ({"FLOATING_IP": VIP, "RenewDeadline": 1, "RetryPeriod": 1}, ["RetryPeriod", "RenewDeadline / 1.2"]),
        ({"FLOATING_IP": VIP, "FloatingMode": "subnet"}, ["FloatingSubnetCidr"]),
        (
            {"FLOATING_IP": VIP, "FloatingMode": "subnet", "FloatingSubnetCidr": "10.10.200.0/28"},
            [VIP, "FloatingSubnetCidr"],
        ),
        ({"FLOATING_IP": VIP, "FloatingMode": "subnet", "FloatingSubnetCidr": "10.0.0.0/8"}, ["/16", "/28"]),
        ({"FLOATING_IP": "eipalloc-0123456789abcdef0,eipalloc-0123456789abcdef1"}, ["Elastic IPs", "have no floating"]),
    ],
    ids=[
        "nothing floats",
        "deadline",
        "retry",
        "no subnet",
        "outside its subnet",
        "too large",
        "two Elastic IPs alone",
    ],
)
def test_settings_that_do_not_go_together(lab: Lab, settings: dict[str, object], named: list[str]) -> None:
    """Refused as well, because they are not safe or make no sense."""
    with running(lab, "a", **settings) as nodes:
        run = nodes.launch("nodeport", worker="a")
        assert run.ends() == 78
        for text in named:
            assert text in run.text


@pytest.mark.parametrize(
    ("name", "source"),
    [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace")],
    ids=["name", "namespace"],
)
def test_without_its_identity_it_says_where_that_comes_from(lab: Lab, name: str, source: str) -> None:
    """The env of the Deployment was lost."""
    with running(lab, "a", FLOATING_IP=VIP) as nodes:
        run = nodes.launch("nodeport", worker="a", env={name: ""})
        assert run.ends() == 78
        assert run.mentions(name, source)


# Addresses


def test_an_address_in_no_subnet_of_the_nodes_enis(lab: Lab) -> None:
    """The message has the subnets there are and what else could be done; nothing is asked of EC2."""
    mark = lab.ec2.mark()
    with running(lab, "ab", FLOATING_IP="10.10.99.5") as nodes:
        nodes.start()
        for worker in "ab":
            text = said(nodes, worker, "10.10.99.5")
            first = lab.workers[worker].eni(0)
            for part in (first.eni_id, first.subnet_id, first.subnet_cidr, "FloatingMode"):
                assert part in text
        assert nodes.writes(mark) == []
        for worker in "ab":
            nodes.stop(worker)
        assert nodes.on_interfaces("10.10.99.5") == []


def test_a_node_without_the_subnet_leaves_it_to_one_that_has_it(lab: Lab) -> None:
    """It may be first and take the lease, but offers it from then on."""
    with running(lab, "ab", FLOATING_IP=VIP) as nodes:
        nodes.start("b")
        said(nodes, "b", VIP)
        until(lambda: VIP in annotation(lab, "offered"), "it has the lease and offers it")
        nodes.start("a")
        nodes.wait_holder("a")
        nodes.assert_only("a")


@pytest.mark.parametrize(
    ("floating", "settings", "parts"),
    [
        ("10.10.1.3", {}, ["reserved by AWS", "10.10.1.0/24"]),
        ("10.10.77.1", {"FloatingMode": "route"}, ["the VPC's 10.10.0.0/16", "outside the VPC"]),
        ("10.10.99.5", {"FloatingMode": "eni"}, ["no subnet of the VPC"]),
        ("192.168.0.80", {"FloatingMode": "route", "VPCRTTag": "nothing=here"}, ["VPCRTTag", "no route table"]),
    ],
    ids=["reserved", "route inside the VPC", "eni without a subnet", "no table is tagged"],
)
def test_an_address_that_cannot_float_so(
    lab: Lab, floating: str, settings: dict[str, object], parts: list[str]
) -> None:
    """Each with the reason, and nothing asked of EC2."""
    mark = lab.ec2.mark()
    with running(lab, "a", FLOATING_IP=floating, **settings) as nodes:
        nodes.start()
        text = said(nodes, "a", floating)
        until(lambda: floating in annotation(lab, "offered"), "it is not fit to hold")
        for part in parts:
            assert part in text
        assert [each for each in nodes.writes(mark) if each != "ModifyNetworkInterfaceAttribute"] == []


def test_the_primary_address_of_a_node_is_left_on_it(make_lab: Callable[..., Lab]) -> None:
    """A slip of the pen must not cost the node its network; the message says that such an address never moves."""
    lab = make_lab(workers=WORKERS, kube=True)
    mine = lab.workers["a"].address
    with running(lab, "ac", FLOATING_IP=mine) as nodes:
        nodes.start()
        assert "primary address" in said(nodes, "a", mine)
        nodes.runs["c"].wait_mention("AssignPrivateIpAddresses", "primary address")
        assert "a" in nodes.on_interfaces(mine)
        assert lab.ping("peer1", mine, count=5)
        for worker in "ac":
            nodes.stop(worker)
        assert nodes.on_interfaces(mine) == ["a"]


def test_an_eni_in_another_zone_stays_there(lab: Lab) -> None:
    """The message has both zones and the mode that would do it."""
    with running(lab, "b", FLOATING_IP=VIP, FloatingMode="eni") as nodes:
        nodes.start()
        text = said(nodes, "b", VIP)
        for part in ("us-east-2a", "us-east-2b", '"subnet"'):
            assert part in text
        assert nodes.enis() == []


def test_an_elastic_ip_that_does_not_exist(lab: Lab) -> None:
    """The address beside it is delivered all the same."""
    unknown = "eipalloc-0123456789abcdef0"
    with running(lab, "a", FLOATING_IP=f"{VIP},{unknown}") as nodes:
        nodes.start()
        assert "does not exist" in said(nodes, "a", unknown)
        until(lambda: nodes.on_interfaces(VIP) == ["a"], "the address is there")
        assert lab.ping("peer1", VIP, count=5)
        assert nodes.answering(VIP) == "a"


# Subnets and slots


@pytest.mark.parametrize(
    ("cidr", "floating", "there", "parts"),
    [
        ("10.10.1.0/28", "10.10.1.5", "10.10.1.0/24", ["overlaps", "10.10.1.0/24"]),
        ("10.10.254.0/28", "10.10.254.5", "10.10.254.0/28", ["is not ours", "vipmanager/floating"]),
    ],
    ids=["overlaps", "is another's"],
)
def test_a_subnet_cidr_that_is_taken(lab: Lab, cidr: str, floating: str, there: str, parts: list[str]) -> None:
    """The subnet in the way is named, and left alone."""
    before = lab.ec2.state().subnets.keys()
    with running(lab, "ab", FLOATING_IP=floating, FloatingMode="subnet", FloatingSubnetCidr=cidr) as nodes:
        nodes.start("a")
        text = said(nodes, "a", floating)
        taken = next(each for each in lab.ec2.state().subnets.values() if str(each.cidr) == there)
        assert taken.subnet_id in text
        for part in parts:
            assert part in text
    assert lab.ec2.state().subnets.keys() == before


def test_a_node_whose_eni_slots_are_full_leaves_it_to_one_with_room(lab: Lab) -> None:
    """The message has the quota and what to change; the other node attaches the ENI that was made meanwhile."""
    with running(lab, "ad", FLOATING_IP=VIP, FloatingMode="eni", HealthThreshold=2) as nodes:
        nodes.start("d")
        failed = nodes.runs["d"].wait_mention("AttachNetworkInterface", "AttachmentLimitExceeded")
        for part in ("m5.xlarge", "MAX_ENI", "FloatingMode"):
            assert part in failed["why"]
        until(lambda: "AttachmentLimitExceeded" in annotation(lab, "offered"), "it offers the lease")
        nodes.start("a")
        nodes.wait_holder("a")
        nodes.assert_only("a")


# Permissions


def test_without_rbac_it_says_what_to_apply_and_goes_on_when_it_is(lab: Lab) -> None:
    """The message has the verb, the lease and the manifest."""
    with running(lab, "a", FLOATING_IP=VIP) as nodes:
        lab.kube.revoke("a")
        nodes.start()
        get = "leases.coordination.k8s.io:get"
        denied = nodes.runs["a"].wait("lease call failed", code="Forbidden", level="ERROR", call=get)
        for part in ("get", f"{lab.kube.namespace}/{LEASE}", "samples/nodeport/rbac.yaml"):
            assert part in denied["remedy"]
        assert nodes.on_interfaces(VIP) == []
        lab.kube.grant("a")
        nodes.runs["a"].wait("lease calls work again")
        nodes.wait_holder("a")
        nodes.assert_only("a")


def test_a_holder_that_loses_its_rights_steps_down(lab: Lab) -> None:
    """It can renew no more; a node that still may takes over when the lease has run out."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        holder, other = nodes.settle()
        lab.kube.grant(holder, without=["update"])
        nodes.wait_holder(other)
        nodes.assert_only(other)
        denied = nodes.runs[holder].events("lease call failed", code="Forbidden")
        assert any("update" in event["remedy"] and "rbac.yaml" in event["remedy"] for event in denied)
        assert nodes.runs[holder].events("role", role="BACKUP")


@pytest.mark.parametrize(
    ("action", "floating", "settings"),
    [
        ("AssignPrivateIpAddresses", VIP, {}),
        ("CreateNetworkInterface", VIP, {"FloatingMode": "eni"}),
        ("AssociateAddress", "{eip}", {}),
    ],
    ids=["address", "eni", "Elastic IP"],
)
def test_a_node_without_the_iam_permission_leaves_it_to_one_that_has_it(
    lab: Lab, action: str, floating: str, settings: dict[str, object]
) -> None:
    """The message has the action; the lease goes to the node whose key may."""
    with running(lab, "ac", FLOATING_IP=floating, HealthThreshold=2, **settings) as nodes:
        lab.ec2.faults.deny(f"ec2:{action}", access_key=key(lab, "a"))
        nodes.start("a")
        nodes.runs["a"].wait_mention(f"allow ec2:{action}", "IAM policy", "denied")
        until(lambda: action in annotation(lab, "offered"), "it offers the lease")
        nodes.start("c")
        nodes.wait_holder("c")
        nodes.assert_only("c")


def test_routes_that_are_denied_are_named_and_the_other_node_takes_over(lab: Lab) -> None:
    """All the tables' writes are denied to the first node."""
    with running(lab, "ab", FLOATING_IP="192.168.0.80", FloatingMode="route", HealthThreshold=2) as nodes:
        lab.ec2.faults.deny("ec2:CreateRoute", "ec2:ReplaceRoute", access_key=key(lab, "a"))
        nodes.start("a")
        nodes.runs["a"].wait_mention("allow ec2:CreateRoute", lab.route_table_ids[0])
        nodes.start("b")
        nodes.wait_holder("b")
        nodes.assert_only("b")


# Capabilities


def without(capability: int) -> tuple[str, ...]:
    """A command line that runs vipmanager without a capability, as a container that was not given it."""
    drop = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"assert libc.prctl(24, {capability}, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())\n"  # PR_CAPBSET_DROP
        "os.execv(sys.executable, [sys.executable, '-m', 'vipmanager', 'nodeport'])\n"
    )
    return (sys.executable, "-c", drop)


def test_without_net_raw_it_is_not_announced_which_is_said_once(lab: Lab) -> None:
    """Everything else works, twice."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        nodes.start_by("a", *without(NET_RAW))
        nodes.wait_holder("a")
        nodes.assert_only("a")
        lab.kube.faults("a").hang()
        nodes.runs["a"].wait("role", role="BACKUP")
        lab.kube.faults("a").clear()
        nodes.runs["a"].wait("role", role="MASTER", count=2)
        nodes.wait_holder("a")
        nodes.assert_only("a")
        (once,) = nodes.runs["a"].events("not announced", level="WARNING", address=VIP)
        assert "NET_RAW" in once["why"]


def test_without_net_admin_the_address_goes_to_a_node_that_has_it(lab: Lab) -> None:
    """The message names the capability."""
    with running(lab, "ac", FLOATING_IP=VIP, HealthThreshold=2) as nodes:
        nodes.start_by("a", *without(NET_ADMIN))
        nodes.runs["a"].wait_mention("NET_ADMIN", f"put address={VIP}")
        until(lambda: "NET_ADMIN" in annotation(lab, "offered"), "it offers the lease")
        nodes.start("c")
        nodes.wait_holder("c")
        nodes.assert_only("c")
