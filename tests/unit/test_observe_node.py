"""What the nodeport mode knows: describes, and its own writes that they do not show yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.doubles.clock import StillClock
from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.host import FakeHost
from tests.unit.builders import mac
from tests.unit.node_builders import EIP, NOW, VIP, described, eip, floating_eni, node_eni, settings
from vipmanager.actions import AssignAddress, AssociateEip, SetRoute, UnassignAddress
from vipmanager.actions_node import DetachEni
from vipmanager.config import Config
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model import Attachment, EniDescription
from vipmanager.observe import SETTLE
from vipmanager.observe_node import NodeView, instance_states, own_enis

CONFIG = settings(f"{VIP},{EIP}")
ADDRESS = ip_address(VIP)
ASSIGN = AssignAddress("eni-1", ADDRESS)
BIND = AssociateEip(EIP, "eni-1", ADDRESS)  # type: ignore[arg-type]


@pytest.fixture
def view() -> NodeView:
    made = NodeView(CONFIG)
    made.enis[mac(1)] = node_eni()
    return made


def held(view: NodeView) -> float | None:
    """When VIP was seen on eni-1."""
    return view.observed(NOW).held.get(("eni-1", ADDRESS))


class TestAddresses:
    """Secondary addresses of the node's ENIs."""

    def test_a_write_counts_before_the_eni_was_ever_described(self, view: NodeView) -> None:
        """A node that gets the lease at its start would assign twice otherwise."""
        view.wrote(ASSIGN, NOW)
        assert held(view) == NOW
        view.wrote(UnassignAddress("eni-1", ADDRESS, "x"), NOW + 1)
        assert held(view) is None

    def test_an_older_question_does_not_make_it_older(self, view: NodeView) -> None:
        view.wrote(ASSIGN, NOW)
        view.learn_own([described(1, VIP)], NOW - 0.1)
        assert held(view) == NOW

    def test_a_describe_that_lags_does_not_hide_it(self, view: NodeView) -> None:
        view.wrote(ASSIGN, NOW)
        view.learn_own([described(1)], NOW + 0.1)
        assert held(view) == NOW
        assert view.recheck_at == NOW + SETTLE
        view.rechecked()
        view.learn_own([described(1)], NOW + SETTLE)
        assert held(view) is None
        assert view.recheck_at is None

    def test_an_eni_that_is_gone_holds_nothing(self, view: NodeView) -> None:
        view.learn_own([described(1, VIP), described(2)], NOW)
        assert set(view.observed(NOW).own) == {"eni-1", "eni-2"}
        view.learn_own([described(2)], NOW + 1)
        assert held(view) is None
        assert set(view.observed(NOW).own) == {"eni-2"}

    def test_a_refused_unassignment_forgets_the_holder(self, view: NodeView) -> None:
        view.learn_holders([described(2, VIP)], [ADDRESS], NOW)
        assert view.observed(NOW).holders[ADDRESS].eni_id == "eni-2"
        view.doubt(UnassignAddress("eni-2", ADDRESS, "taken over"))
        assert ADDRESS not in view.observed(NOW).holders


class TestElasticIps:
    """Where they are bound."""

    def test_one_that_is_not_there(self, view: NodeView) -> None:
        assert view.observed(NOW).eips == {}
        view.learn_eips([], [EIP], NOW)
        assert view.observed(NOW).eips == {EIP: None}

    def test_our_write_stands_until_describes_can_show_it(self, view: NodeView) -> None:
        view.learn_eips([eip("eni-9", VIP)], [EIP], NOW - 1)
        view.wrote(BIND, NOW)
        view.learn_eips([eip("eni-9", VIP)], [EIP], NOW + 1)
        assert view.observed(NOW).eips[EIP].eni_id == "eni-1"
        assert view.recheck_at == NOW + SETTLE
        view.learn_eips([eip("eni-9", VIP)], [EIP], NOW + SETTLE)
        assert view.observed(NOW).eips[EIP].eni_id == "eni-9"

    def test_what_was_only_read_is_not_held_against_a_later_reading(self, view: NodeView) -> None:
        view.learn_eips([eip("eni-1", VIP)], [EIP], NOW)
        view.learn_eips([eip("eni-9", VIP)], [EIP], NOW + 0.5)
        assert view.observed(NOW).eips[EIP].eni_id == "eni-9"

    def test_an_older_question_does_not_make_a_write_older(self, view: NodeView) -> None:
        view.wrote(BIND, NOW)
        view.learn_eips([eip("eni-1", VIP)], [EIP], NOW - 0.1)
        assert view.observed(NOW).eips[EIP].seen == NOW


def test_an_older_question_does_not_make_a_route_older(view: NodeView) -> None:
    clock = StillClock(NOW - 0.1)
    ec2 = FakeEc2(clock)
    ec2.add_vpc(VPC, "10.10.0.0/16")
    ec2.add_subnet("subnet-1", "10.10.1.0/24")
    ec2.add_eni("eni-1", mac(1), 0, "subnet-1", "10.10.1.11")
    ec2.add_table("rtb-1")
    ec2.put_route("rtb-1", "192.168.0.1/32", "eni-1")
    found = ec2.route_tables(VPC)
    (to,) = found[0].routes
    view.wrote(SetRoute("rtb-1", to, "eni-1", "", ip_address("192.168.0.1")), NOW)
    view.learn_tables(found)
    assert view.observed(NOW).tables[0].routes[to].seen == NOW


class TestFloatingEni:
    """The ENI with our tag."""

    def test_since_when_it_is_detaching(self, view: NodeView) -> None:
        eni = floating_eni(CONFIG, status="detaching")
        view.learn_floating([eni], NOW)
        view.learn_floating([eni], NOW + 3)
        assert view.observed(NOW).detaching == {"attach-9": NOW}
        view.learn_floating([floating_eni(CONFIG, instance="")], NOW + 4)
        assert view.observed(NOW).detaching == {}

    def test_it_begins_with_our_own_call(self, view: NodeView) -> None:
        view.wrote(DetachEni("eni-9", "attach-9", "i-2", False), NOW)
        view.learn_floating([floating_eni(CONFIG, status="detaching")], NOW + 1)
        assert view.observed(NOW).detaching == {"attach-9": NOW}

    def test_the_instances_of_others(self, view: NodeView) -> None:
        assert view.others == ()
        view.learn_own([described()], NOW)
        view.learn_floating([floating_eni(CONFIG, instance="i-2"), floating_eni(CONFIG, 8, instance="i-1")], NOW)
        assert view.others == ("i-2",)
        view.learn_instances({"i-2": "stopped"}, NOW)
        assert view.observed(NOW).instances == {"i-2": ("stopped", NOW)}


class TestNode:
    """The node's own side."""

    @pytest.fixture
    def kernel(self) -> Iterator[FakeHost]:
        host = FakeHost(StillClock())
        host.plug("eth0", mac(1), "10.10.1.11", VIP, "2600:1f14:0:1::11")
        yield host
        host.close()

    def test_its_address_is_not_a_floating_one(self, view: NodeView, kernel: FakeHost) -> None:
        assert view.node_address([ADDRESS]) == ""
        view.look(kernel)
        assert view.node_address([ADDRESS]) == "10.10.1.11"
        kernel.set_addresses("eth0", VIP)
        view.look(kernel)
        assert view.node_address([ADDRESS]) == ""

    def test_an_interface_on_top_of_it_is_not_it(self, view: NodeView, kernel: FakeHost) -> None:
        kernel.unplug("eth0")
        kernel.plug("vlan1", mac(1), "10.10.1.12", physical=False)
        view.look(kernel)
        assert view.node_address([]) == ""

    def test_a_kernel_that_fails_changes_nothing(self, view: NodeView, kernel: FakeHost) -> None:
        view.look(kernel)
        kernel.unplug("eth0")
        kernel.faults.fail("pod_network")
        with pytest.raises(CallError):
            view.look(kernel)
        assert [each.name for each in view.interfaces] == ["eth0"]

    def test_the_vpc(self, view: NodeView) -> None:
        assert view.vpc_id == "vpc-1"
        assert NodeView(CONFIG).vpc_id == ""


class Ec2:
    """As much of EC2 as the two functions ask for."""

    def __init__(self, *enis: EniDescription, instances: dict[str, str] | None = None) -> None:
        self.known, self.instances, self.calls = enis, instances or {}, 0

    def enis_by_mac(self, macs: list[str]) -> tuple[EniDescription, ...]:
        self.calls += 1
        return tuple(eni for eni in self.known if eni.mac in macs)

    def enis_of_instance(self, instance_id: str) -> tuple[EniDescription, ...]:
        self.calls += 1
        return tuple(eni for eni in self.known if eni.attachment and eni.attachment.instance_id == instance_id)

    def instance_state(self, instance_id: str) -> str:
        if instance_id not in self.instances:
            raise CallError(Failure(ErrorKind.DENIED, "ec2:DescribeInstances", "UnauthorizedOperation", "denied"))
        return self.instances[instance_id]


def test_the_instance_is_learnt_from_a_mac() -> None:
    """All of its ENIs are read, also those that discovery has not told of."""
    second = replace(described(2), attachment=Attachment("attach-2", "i-1", 1, "attached"))
    ec2 = Ec2(described(), second, described(3, instance="i-3"))
    assert [eni.id for eni in own_enis(ec2, [mac(1)], "")] == ["eni-1", "eni-2"]  # type: ignore[arg-type]
    calls = ec2.calls
    assert [eni.id for eni in own_enis(ec2, [mac(1)], "i-1")] == ["eni-1", "eni-2"]  # type: ignore[arg-type]
    assert ec2.calls == calls + 1


@pytest.mark.parametrize("instance", ["", "i-1"])
def test_a_node_without_enis_is_an_error_with_a_remedy(instance: str) -> None:
    with pytest.raises(CallError) as raised:
        own_enis(Ec2(described(3, instance="i-3")), [mac(1)], instance)  # type: ignore[arg-type]
    assert raised.value.kind is ErrorKind.INVALID
    assert mac(1) in raised.value.failure.message
    assert "AWS_REGION" in raised.value.failure.remedy


def test_an_instance_that_cannot_be_read_is_left_out_of_what_is_known() -> None:
    ec2 = Ec2(instances={"i-1": "stopped"})
    found = instance_states(ec2, ["i-1", "i-2"])  # type: ignore[arg-type]
    assert found["i-1"] == "stopped"
    assert isinstance(found["i-2"], Failure)
    view = NodeView(Config())
    view.learn_instances(found, 1.0)
    assert view.observed(2.0).instances == {"i-1": ("stopped", 1.0)}
