"""Each action of the nodeport mode becomes the one call that it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.unit.node_builders import CIDR, EIP, VIP
from vipmanager.actions import (
    AddPodRule,
    AssignAddress,
    AssociateEip,
    DeletePodRoute,
    DeletePodRule,
    DisableSourceDestCheck,
    SetPodRoute,
    SetRoute,
    UnassignAddress,
)
from vipmanager.actions_node import (
    AssociateVpcCidr,
    AttachEni,
    BringUp,
    CloudAction,
    CreateEni,
    CreateSubnet,
    DeleteEni,
    DeleteSubnet,
    DetachEni,
    HostAction,
    PutAddress,
    RemoveAddress,
)
from vipmanager.apply import Key, RetryBook
from vipmanager.apply_node import OF_EC2, STUBBORN, apply_cloud, apply_host, telling
from vipmanager.errors import ErrorKind, Failure
from vipmanager.model import PodRoute, PodRule
from vipmanager.model_node import FLOATING_TAG, NO_MANAGE_TAG

ADDRESS, NETWORK = ip_address(VIP), ip_network(CIDR)
ROUTE, RULE = PodRoute(8601, "0.0.0.0/0", "10.10.1.1", 3), PodRule(f"{VIP}/32", 8601)
TAGS = {"Name": "vipmanager x", FLOATING_TAG: "x"}


class Recorder:
    """A port that notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def note(*arguments: Any, **options: Any) -> None:
            self.calls.append((name, *arguments, *options.items()))

        return note


@pytest.mark.parametrize(
    ("action", "call"),
    [
        (PutAddress(3, "eth1", ADDRESS), ("put_address", 3, ADDRESS, 5, 7.5)),
        (RemoveAddress(3, "eth1", ADDRESS), ("remove_address", 3, ADDRESS)),
        (BringUp(3, "eth1"), ("bring_up", 3)),
        (SetPodRoute(ROUTE), ("set_route", ROUTE)),
        (DeletePodRoute(ROUTE), ("delete_route", ROUTE)),
        (AddPodRule(RULE), ("add_rule", RULE)),
        (DeletePodRule(RULE), ("delete_rule", RULE)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_on_the_node(action: HostAction, call: tuple[Any, ...]) -> None:
    host = Recorder()
    apply_host(host, action, 5, 7.5)  # type: ignore[arg-type]
    assert host.calls == [call]


@pytest.mark.parametrize(
    ("action", "call"),
    [
        (AttachEni("eni-1", "i-1", 2), ("attach_eni", "eni-1", "i-1", 2)),
        (DetachEni("eni-1", "attach-1", "i-1", False), ("detach_eni", "attach-1", ("force", False))),
        (DetachEni("eni-1", "attach-1", "i-1", True), ("detach_eni", "attach-1", ("force", True))),
        (DeleteEni("eni-1"), ("delete_eni", "eni-1")),
        (CreateSubnet("vpc-1", NETWORK, "a", "x"), ("create_subnet", "vpc-1", NETWORK, "a", TAGS)),
        (DeleteSubnet("subnet-1", NETWORK), ("delete_subnet", "subnet-1")),
        (AssociateVpcCidr("vpc-1", NETWORK), ("associate_vpc_cidr", "vpc-1", NETWORK)),
        (
            CreateEni("subnet-1", (ADDRESS,), ("sg-1",), "x"),
            (
                "create_eni",
                "subnet-1",
                (ADDRESS,),
                ("sg-1",),
                {**TAGS, NO_MANAGE_TAG: "true"},
                "vipmanager: x",
                "token",
            ),
        ),
        (AssignAddress("eni-1", ADDRESS), ("assign", "eni-1", [ADDRESS])),
        (UnassignAddress("eni-1", ADDRESS, "why"), ("unassign", "eni-1", [ADDRESS])),
        (DisableSourceDestCheck("eni-1"), ("disable_source_dest_check", "eni-1")),
        (AssociateEip(EIP, "eni-1", ADDRESS), ("associate", EIP, "eni-1", ADDRESS)),  # type: ignore[arg-type]
    ],
    ids=lambda value: type(value).__name__,
)
def test_in_ec2(action: CloudAction, call: tuple[Any, ...]) -> None:
    ec2 = Recorder()
    apply_cloud(ec2, [action], "token")  # type: ignore[arg-type]
    assert ec2.calls == [call]


def test_addresses_of_one_eni_go_in_one_call() -> None:
    ec2, first = Recorder(), AssignAddress("eni-1", ADDRESS)
    other = ip_address("10.10.1.81")
    apply_cloud(ec2, [first, replace(first, address=other)], "token")  # type: ignore[arg-type]
    assert ec2.calls == [("assign", "eni-1", [ADDRESS, other])]


class TestTelling:
    """Which failures say something of this node."""

    @staticmethod
    def book(key: Key, kind: ErrorKind, attempts: int = 1) -> RetryBook:
        """One item that has failed so often."""
        made = RetryBook(lambda: 0.5)
        for _ in range(attempts):
            made.failed(key, Failure(kind, "call", "Code", "message"), 0.0)
        return made

    @pytest.mark.parametrize("kind", [ErrorKind.DENIED, ErrorKind.LIMIT, ErrorKind.INVALID])
    def test_what_a_repetition_will_not_change(self, kind: ErrorKind) -> None:
        assert "Code" in telling(self.book(("eip", "x"), kind), {("eip", "x")})

    @pytest.mark.parametrize("kind", [ErrorKind.RETRY, ErrorKind.LOST, ErrorKind.RACE])
    @pytest.mark.parametrize("name", sorted(OF_EC2))
    def test_what_passes_in_ec2_does_not_until_it_has_not_passed_for_long(self, kind: ErrorKind, name: str) -> None:
        key = (name, "x")
        assert telling(self.book(key, kind, STUBBORN - 1), {key}) == ""
        assert telling(self.book(key, kind, STUBBORN), {key}) != ""

    @pytest.mark.parametrize("name", ["host-address", "host-link", "kernel", "pod-route", "pod-rule"])
    def test_whatever_fails_on_the_node(self, name: str) -> None:
        assert telling(self.book((name,), ErrorKind.RETRY), {(name,)}) != ""

    def test_what_is_not_wanted_any_more_does_not(self) -> None:
        assert telling(self.book(("eip", "x"), ErrorKind.DENIED), set()) == ""

    def test_every_call_to_ec2_is_known_as_one(self) -> None:
        made = [CreateEni("subnet-1", (), (), "x"), AttachEni("eni-1", "i-1", 2), DetachEni("eni-1", "a", "i-1", False)]
        made += [DeleteEni("eni-1"), CreateSubnet("vpc-1", NETWORK, "a", "x"), DeleteSubnet("subnet-1", NETWORK)]
        made += [AssociateVpcCidr("vpc-1", NETWORK), AssignAddress("eni-1", ADDRESS), DisableSourceDestCheck("eni-1")]
        made += [AssociateEip(EIP, "eni-1", ADDRESS), SetRoute("rtb-1", NETWORK, "eni-1", "", ADDRESS)]
        assert {action.key[0] for action in made} | {"fact"} == OF_EC2
