"""`vipmanager plan nodeport`: what a node would do with the lease; the scenarios compare it with what one then does."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.host import FakeHost
from tests.doubles.imds import FakeImds
from tests.unit.builders import mac
from tests.unit.test_preview import Permissions
from vipmanager.actions_node import AttachEni, CreateEni
from vipmanager.asking import Asker
from vipmanager.config import load
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model_node import Lease
from vipmanager.preview.node import NodeSources, preview_node
from vipmanager.preview.steps import CHANGES, ERROR, Preview
from vipmanager.preview.text import as_json, as_text

FLOATING, ROUTED = "10.10.1.80", "192.168.0.80"
EIP = "eipalloc-0123456789abcdef0"


class Node:
    """A node with its primary ENI eni-1 on eth0, and another node's, eni-9, in the same subnet."""

    def __init__(self) -> None:
        self.ec2 = FakeEc2(lambda: 100.0)
        self.ec2.add_vpc(VPC, "10.10.0.0/16", "2600:1f14::/56")
        self.ec2.add_subnet("subnet-1", "10.10.1.0/24", "2600:1f14:0:1::/64")
        self.ec2.add_eni("eni-1", mac(1), 0, "subnet-1", "10.10.1.11", instance="i-1")
        self.ec2.add_eni("eni-9", mac(9), 0, "subnet-1", "10.10.1.19", instance="i-9")
        self.ec2.add_table("rtb-1")
        self.ec2.add_eip(EIP, "203.0.113.1")
        self.host = FakeHost(lambda: 100.0)
        self.host.plug("eth0", mac(1), "10.10.1.11")
        self.lease: Lease | Failure | None = Lease("np-9", 6, "then", 3)

    def read(self) -> Lease | None:
        """The Lease."""
        if isinstance(self.lease, Failure):
            raise CallError(self.lease)
        return self.lease

    def plan(self, floating: str, mode: str = "address", *, kube: bool = True, **settings: str) -> Preview:
        """What `vipmanager plan nodeport` shows; it has changed nothing."""
        before, interfaces = self.ec2.state, self.host.host_interfaces()
        asker = Asker(lambda: 100.0, lambda _: None, lambda: 0.5)
        imds = FakeImds(self.ec2, "eni-1")
        why = "" if kube else "no namespace"
        given = NodeSources(self.host, imds, self.ec2, Permissions(), asker, self.read if kube else None, why)
        preview = preview_node(load({"FLOATING_IP": floating, "FloatingMode": mode, **settings}), given)
        assert self.ec2.state == before
        assert (self.host.host_interfaces(), self.host.marks()) == (interfaces, {})
        return preview


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_standby_shows_what_it_would_take_over(node: Node) -> None:
    node.ec2.give("eni-9", FLOATING)
    text = as_text(node.plan(f"{FLOATING},{EIP}"))
    assert [line for line in text.splitlines() if not line.startswith("warning")] == [
        "if this node had the lease now; np-9 has it",
        f"{FLOATING} on eth0 (eni-1 index 0): address, pending",
        f"    + assign {FLOATING} to eni-1 (moves it from eni-9)",
        f"{EIP}: elastic-ip, pending",
        f"    + bind {EIP} (203.0.113.1) to {FLOATING}",
        "node",
        f"    + address {FLOATING} dev eth0",
        "not asked: ec2:AssignPrivateIpAddresses takes no DryRun (1 change)",
        "3 changes, 0 denied, 0 problems, 1 warning",
    ]


def test_what_a_holder_has_is_in_place(node: Node) -> None:
    node.ec2.give("eni-1", FLOATING)
    node.host.put_address(node.host.index("eth0"), ip_address(FLOATING), 60)
    preview = node.plan(FLOATING)
    assert preview.changes == ()
    assert [(shown.state, [step.text for step in shown.steps]) for shown in preview.shown] == [
        ("claimed", [f"{FLOATING} on eni-1 (in place)"])
    ]


def test_an_ipv6_address_is_freed_first(node: Node) -> None:
    address = "2600:1f14:0:1::80"
    node.ec2.give("eni-9", address)
    (shown,) = node.plan(address).shown
    assert [step.sign for step in shown.steps] == ["-", "+"]


def test_routes_name_their_present_target(node: Node) -> None:
    node.ec2.put_route("rtb-1", f"{ROUTED}/32", "eni-9")
    preview = node.plan(ROUTED, "route")
    (shown,) = preview.shown
    assert [step.text for step in shown.steps] == [f"rtb-1  {ROUTED}/32  eni-9 -> eni-1"]
    assert [step.text for step in preview.shared] == ["eni-1 source/dest check on -> off"]


@pytest.mark.parametrize(
    ("lease", "told"),
    [
        (None, "there is no such lease yet"),
        (Lease("", 6, "then", 3), "nobody has it"),
        (Failure(ErrorKind.DENIED, "kube:get leases", "Forbidden", "not allowed"), "is not known: kube:get leases"),
    ],
)
def test_the_lease_is_looked_at_where_it_can_be(node: Node, lease: Lease | Failure | None, told: str) -> None:
    """It is no condition: the plan is the same."""
    node.lease = lease
    preview = node.plan(ROUTED, "route")
    assert told in preview.holder
    assert preview.exit_code == CHANGES
    assert json.loads(as_json(preview))["holder"] == preview.holder


def test_without_kubernetes_the_holder_is_not_known(node: Node) -> None:
    assert "no namespace" in node.plan(ROUTED, "route", kube=False).holder


def test_an_address_that_this_node_cannot_deliver_is_an_error(node: Node) -> None:
    preview = node.plan("10.10.7.80")
    assert preview.exit_code == ERROR
    assert [(shown.state, bool(shown.why)) for shown in preview.shown] == [("refused", True)]


def test_an_eni_of_its_own_is_foreseen_one_step_ahead(node: Node) -> None:
    """What follows is EC2's to show."""
    preview = node.plan(FLOATING, "eni")
    assert [type(change) for change in preview.changes] == [CreateEni]
    assert any("run plan again" in note for note in preview.notes)


def test_an_eni_of_its_own_that_is_loose_is_attached(node: Node) -> None:
    node.ec2.add_eni("eni-5", mac(5), 1, "subnet-1", FLOATING)
    node.ec2.detach("eni-5")
    node.ec2.put_eni(replace(node.ec2.state.enis["eni-5"], tags={"vipmanager/floating": FLOATING}))
    preview = node.plan(FLOATING, "eni")
    assert [type(change) for change in preview.changes] == [AttachEni]
    assert [step.text for step in preview.shared] == [str(change) for change in preview.changes]
