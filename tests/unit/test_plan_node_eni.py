"""An ENI, and a subnet, that follow the holder: each step, and each refusal."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.unit.builders import mac
from tests.unit.node_builders import (
    CIDR,
    EIP,
    NOW,
    SUBNET_VIP,
    VIP,
    described,
    eip,
    floating_eni,
    floating_subnet,
    host,
    node,
    rules_and_marks,
    settings,
    zoned,
)
from vipmanager.actions import AssignAddress, AssociateEip, DisableSourceDestCheck, SetPodRoute
from vipmanager.actions_node import (
    AssociateVpcCidr,
    AttachEni,
    BringUp,
    CreateEni,
    CreateSubnet,
    DeleteEni,
    DeleteSubnet,
    DetachEni,
    NodeAction,
    PutAddress,
    RemoveAddress,
)
from vipmanager.config import Config
from vipmanager.model import EniDescription, PodRoute, Subnet
from vipmanager.model_node import FloatingEnis, NodeObserved, VpcCidr
from vipmanager.plan.node import plan_node
from vipmanager.plan.node_draft import NODE_TABLE_BASE, NodeNeed
from vipmanager.plan.node_eni import PATIENCE

BEGAN = NOW - 1.0
V4 = ip_address(VIP)
ENI = settings(VIP, "eni")
SUBNET = settings(SUBNET_VIP, "subnet", FloatingSubnetCidr=CIDR)


def with_eni(*enis: EniDescription, **facts: object) -> NodeObserved:
    """A node, and the ENIs with our tag."""
    return node(floating=FloatingEnis(enis, NOW), **facts)


def steps(observed: NodeObserved, config: Config, began: float | None = BEGAN) -> tuple[NodeAction, ...]:
    """What is done."""
    return plan_node(observed, config, began).actions


class TestEni:
    """A dedicated ENI in the subnet of the addresses."""

    def test_it_is_made_once(self) -> None:
        """In the subnet that holds the address, with the node's security groups."""
        assert steps(with_eni(), ENI) == (CreateEni("subnet-1", (V4,), ("sg-1",), VIP),)

    def test_without_an_address_in_the_nodes_subnet(self) -> None:
        """EC2 chooses the private address that the Elastic IP is bound to."""
        config = settings(EIP, "eni")
        assert CreateEni("subnet-1", (), ("sg-1",), EIP) in steps(with_eni(eips={EIP: eip()}), config)

    def test_it_is_attached_at_the_first_free_index(self) -> None:
        """Not at the number of ENIs: there may be gaps."""
        own = (described(), described(2, index=1), described(3, index=3))
        available = floating_eni(ENI, instance="")
        assert steps(with_eni(available, own=own), ENI) == (AttachEni("eni-9", "i-1", 2),)

    def test_an_index_that_is_being_attached_is_taken(self) -> None:
        """By the VPC CNI, say."""
        own = (described(), described(2, index=1, status="attaching"))
        assert steps(with_eni(floating_eni(ENI, instance=""), own=own), ENI) == (AttachEni("eni-9", "i-1", 2),)

    def test_it_is_detached_from_the_last_holder(self) -> None:
        """Without force, while it is asked whether that instance runs."""
        plan = plan_node(with_eni(floating_eni(ENI, instance="i-7", index=1)), ENI, BEGAN)
        assert plan.actions == (DetachEni("eni-9", "attach-9", "i-7", force=False),)
        assert plan.needs == {NodeNeed.INSTANCES}
        assert plan.poll

    @pytest.mark.parametrize(("state", "force"), [("running", False), ("stopped", True), ("terminated", True)])
    def test_force_where_the_instance_does_not_run(self, state: str, force: bool) -> None:
        """AWS: a last resort, for an instance that has failed."""
        seen = with_eni(floating_eni(ENI, instance="i-7", index=1), instances={"i-7": (state, NOW)})
        assert steps(seen, ENI) == (DetachEni("eni-9", "attach-9", "i-7", force=force),)

    def test_an_old_state_of_the_instance_is_not_believed(self) -> None:
        """It may have been started again."""
        seen = with_eni(floating_eni(ENI, instance="i-7", index=1), instances={"i-7": ("stopped", BEGAN - 1)})
        assert steps(seen, ENI) == (DetachEni("eni-9", "attach-9", "i-7", force=False),)

    @pytest.mark.parametrize(("since", "force"), [(PATIENCE - 0.1, False), (PATIENCE, True)])
    def test_force_where_it_does_not_let_go(self, since: float, force: bool) -> None:
        """Only after some patience."""
        leaving = floating_eni(ENI, instance="i-7", index=1, status="detaching")
        seen = with_eni(leaving, instances={"i-7": ("running", NOW)}, detaching={"attach-9": NOW - since})
        plan = plan_node(seen, ENI, BEGAN)
        assert plan.actions == ((DetachEni("eni-9", "attach-9", "i-7", force=True),) if force else ())
        assert plan.poll

    def test_while_it_is_attaching_it_is_looked_at_again(self) -> None:
        """EC2 tells nobody when it is done."""
        plan = plan_node(with_eni(floating_eni(ENI, index=1, status="attaching")), ENI, BEGAN)
        assert (plan.actions, plan.poll) == ((), {NodeNeed.FLOATING})
        assert [item.waits for item in plan.items] == ["eni-9 is attaching"]

    def test_the_kernel_may_be_later_than_ec2(self) -> None:
        """The interface comes when it comes: a netlink event tells."""
        plan = plan_node(with_eni(floating_eni(ENI, index=1)), ENI, BEGAN)
        assert plan.actions == ()
        assert mac(9) in plan.items[0].waits

    def test_the_interface_is_found_by_mac_and_brought_up(self) -> None:
        """Whatever its name is."""
        ifc = host(9, name="ens8", up=False)
        up = replace(ifc, up=True)
        attached = floating_eni(ENI, index=1)
        assert steps(with_eni(attached, **_on(host(), ifc)), ENI) == (
            BringUp(9, "ens8"),
            PutAddress(9, "ens8", V4),
            *rules_and_marks(VIP, 9, 1),
        )
        assert steps(with_eni(attached, **_on(host(), up)), ENI) == (
            PutAddress(9, "ens8", V4),
            SetPodRoute(PodRoute(NODE_TABLE_BASE + 1, "0.0.0.0/0", "10.10.1.1", 9)),
            *rules_and_marks(VIP, 9, 1),
        )

    def test_addresses_that_it_lacks_are_assigned(self) -> None:
        """FLOATING_IP has grown, or a last holder stopped half-way."""
        config = settings(f"{VIP},10.10.1.81", "eni")
        attached = floating_eni(config, 9, VIP, index=1)
        assert AssignAddress("eni-9", ip_address("10.10.1.81")) in steps(with_eni(attached, **_on(host())), config)

    def test_the_elastic_ip_is_bound_to_its_address(self) -> None:
        """And not before the address is on it."""
        config = settings(f"{VIP},{EIP}", "eni")
        attached = floating_eni(config, 9, VIP, index=1)
        found = {EIP: eip("eni-9", VIP, seen=BEGAN - 1)}
        assert AssociateEip(EIP, "eni-9", V4) in steps(with_eni(attached, eips=found), config)

    def test_a_standby_does_nothing_of_it(self) -> None:
        """But it takes the address off, and off an ENI that has no name in FLOATING_IP too."""
        attached = floating_eni(ENI, index=1)
        assert steps(with_eni(attached, **_on(host(), host(9, VIP, name="ens8"))), ENI, None) == (
            RemoveAddress(9, "ens8", V4),
        )
        config = settings(EIP, "eni")
        alone = floating_eni(config, 9, "10.10.1.200", index=1)
        seen = with_eni(alone, eips={EIP: eip()}, **_on(host(), host(9, "10.10.1.200", name="ens8")))
        assert steps(seen, config, None) == (RemoveAddress(9, "ens8", ip_address("10.10.1.200")),)

    def test_another_zone(self) -> None:
        """An ENI stays in its zone: this node is unfit, and says so before it is needed."""
        seen = node(own=(described(zone="b"),))
        (problem,) = plan_node(seen, ENI, None).problems
        assert all(word in str(problem) for word in ("subnet-1", "in a", "in b", "FloatingMode"))
        assert steps(seen, ENI) == ()

    def test_addresses_of_two_subnets(self) -> None:
        """One ENI has one subnet."""
        (problem,) = plan_node(with_eni(), settings(f"{VIP},10.10.2.80", "eni"), BEGAN).problems
        assert "subnet-2" in str(problem)

    def test_an_address_in_no_subnet(self) -> None:
        """Nothing is made."""
        plan = plan_node(with_eni(), settings("10.10.77.80", "eni"), BEGAN)
        assert "no subnet of the VPC" in str(plan.problems[0])
        assert plan.actions == ()

    def test_two_enis_with_our_tag(self) -> None:
        """The one that is here is used; the other is named, once."""
        here, spare = floating_eni(ENI, 9, index=1), floating_eni(ENI, 8, instance="")
        plan = plan_node(with_eni(spare, here), ENI, BEGAN)
        assert "eni-8" in str(plan.problems[0])
        assert not plan.problems[0].fatal
        assert not any(isinstance(action, AttachEni) for action in plan.actions)

    def test_only_what_was_seen_since_counts(self) -> None:
        """The ENI, the node's slots."""
        old = replace(with_eni(floating_eni(ENI, index=1)), floating=FloatingEnis((), BEGAN - 1), own_seen=BEGAN - 1)
        plan = plan_node(old, ENI, BEGAN)
        assert plan.needs == {NodeNeed.FLOATING, NodeNeed.OWN}
        assert plan.actions == ()


class TestSubnet:
    """The subnet follows the holder."""

    def test_it_is_made_in_the_holders_zone(self) -> None:
        """With our tag, in a CIDR that the VPC has."""
        seen = node(vpc_cidrs=(_cidr("10.10.0.0/16"),))
        assert steps(seen, SUBNET) == (CreateSubnet("vpc-1", ip_network(CIDR), "a", SUBNET_VIP),)

    def test_the_vpc_gets_the_cidr_first(self) -> None:
        """And EC2 takes its time for it."""
        config = settings("172.30.1.5", "subnet", FloatingSubnetCidr="172.30.1.0/28")
        assert steps(node(vpc_cidrs=(_cidr("10.10.0.0/16"),)), config) == (
            AssociateVpcCidr("vpc-1", ip_network("172.30.1.0/28")),
        )
        plan = plan_node(node(vpc_cidrs=(_cidr("172.30.1.0/28", "associating"),)), config, BEGAN)
        assert (plan.actions, plan.poll) == ((), {NodeNeed.VPC_CIDRS})

    def test_then_the_eni(self) -> None:
        """In that subnet."""
        assert steps(node(subnets=_subnets("a")), SUBNET) == (
            CreateEni("subnet-99", (ip_address(SUBNET_VIP),), ("sg-1",), SUBNET_VIP),
        )

    def test_then_all_the_rest_at_once(self) -> None:
        """The check, the address, the routing."""
        attached = floating_eni(SUBNET, index=1, check=True, home="subnet-99")
        seen = with_eni(attached, subnets=_subnets("a"), **_on(host(), host(9, name="ens8")))
        assert steps(seen, SUBNET) == (
            PutAddress(9, "ens8", ip_address(SUBNET_VIP)),
            SetPodRoute(PodRoute(NODE_TABLE_BASE + 1, "0.0.0.0/0", "10.10.99.1", 9)),
            *rules_and_marks(SUBNET_VIP, 9, 1),
            DisableSourceDestCheck("eni-9"),
        )

    def test_from_another_zone_everything_goes_first(self) -> None:
        """ENI detached, ENI deleted, subnet deleted: one step a round, from wherever the last holder was."""
        there = floating_eni(SUBNET, instance="i-7", index=1, zone="b", home="subnet-99")
        gone = floating_eni(SUBNET, instance="", zone="b", home="subnet-99")
        assert steps(with_eni(there, subnets=_subnets("b")), SUBNET) == (
            DetachEni("eni-9", "attach-9", "i-7", force=False),
        )
        assert steps(with_eni(gone, subnets=_subnets("b")), SUBNET) == (DeleteEni("eni-9"),)
        assert steps(with_eni(subnets=_subnets("b")), SUBNET) == (DeleteSubnet("subnet-99", ip_network(CIDR)),)

    def test_a_subnet_that_is_not_ours(self) -> None:
        """Is not touched."""
        seen = node(subnets=(zoned(1), floating_subnet(SUBNET, ours=False)))
        plan = plan_node(seen, SUBNET, BEGAN)
        assert "subnet-99" in str(plan.problems[0])
        assert plan.actions == ()

    def test_an_overlap(self) -> None:
        """Names the subnet."""
        config = settings("10.10.1.5", "subnet", FloatingSubnetCidr="10.10.1.0/28")
        plan = plan_node(node(), config, BEGAN)
        assert all(word in str(plan.problems[0]) for word in ("10.10.1.0/28", "subnet-1", "10.10.1.0/24"))
        assert plan.actions == ()


def _on(*interfaces: object) -> dict[str, object]:
    return {"interfaces": interfaces}


def _cidr(text: str, state: str = "associated") -> VpcCidr:
    return VpcCidr(ip_network(text), state)


def _subnets(zone: str) -> tuple[Subnet, ...]:
    return (zoned(1), zoned(2), floating_subnet(SUBNET, zone))
