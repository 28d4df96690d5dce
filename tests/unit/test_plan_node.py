"""What a node does as holder and as standby, mode by mode."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.unit.builders import mac, table
from tests.unit.node_builders import (
    EIP,
    NOW,
    OUTSIDE,
    VIP,
    VIP6,
    described,
    eip,
    host,
    node,
    node_eni,
    rules_and_marks,
    settings,
)
from vipmanager.actions import (
    AssignAddress,
    AssociateEip,
    DeletePodRoute,
    DeletePodRule,
    DisableSourceDestCheck,
    SetPodRoute,
    SetRoute,
    UnassignAddress,
)
from vipmanager.actions_node import PutAddress, RemoveAddress
from vipmanager.model import Holder, PodNetwork, PodRoute, PodRule
from vipmanager.plan.node import plan_node
from vipmanager.plan.node_draft import NODE_TABLE_BASE, NodeNeed

BEGAN = NOW - 1.0
V4, V6, FAR = ip_address(VIP), ip_address(VIP6), ip_address(OUTSIDE)


def test_a_new_holder_assigns_at_once() -> None:
    """The address goes onto the interface and the ENI in one round, without a describe before."""
    plan = plan_node(node(), settings(), BEGAN)
    assert plan.actions == (PutAddress(1, "eth0", V4), AssignAddress("eni-1", V4))
    assert not plan.needs
    assert not any(problem.fatal for problem in plan.problems)
    assert [item.waits for item in plan.items] == ["assign address=10.10.1.80 eni=eni-1"]


def test_an_assignment_that_was_seen_before_the_tenure_is_made_again() -> None:
    """Between two tenures of one node another may have had the address."""
    own = described(1, VIP)
    before = {("eni-1", V4): BEGAN - 5.0}
    assert AssignAddress("eni-1", V4) in plan_node(node(own=(own,), held=before), settings(), BEGAN).actions
    assert plan_node(node(host(1, VIP), own=(own,)), settings(), BEGAN).actions == ()


def test_in_place_means_that_lifetimes_are_kept() -> None:
    """What is delivered costs nothing but the extension of its lifetime."""
    plan = plan_node(node(host(1, VIP), own=(described(1, VIP),)), settings(), BEGAN)
    assert plan.keep == ((1, V4),)
    assert [item.waits for item in plan.items] == [""]


def test_a_standby_removes_the_address_whoever_left_it() -> None:
    """On every interface, those that are no ENI's included."""
    seen = node(host(1, VIP), host(5, VIP, name="dummy0"))
    plan = plan_node(seen, settings(), None)
    assert plan.actions == (RemoveAddress(1, "eth0", V4), RemoveAddress(5, "dummy0", V4))
    assert plan.keep == ()


def test_a_standby_leaves_other_addresses() -> None:
    """Only floating addresses are its business."""
    assert plan_node(node(host(1, "10.10.1.10", "10.10.1.81")), settings(), None).actions == ()


def test_a_holder_removes_it_from_other_interfaces() -> None:
    """It belongs on the ENI's own interface only."""
    own = (described(1, VIP),)
    plan = plan_node(node(host(1, VIP), host(5, VIP, name="eth5"), own=own), settings(), BEGAN)
    assert plan.actions == (RemoveAddress(5, "eth5", V4),)


def test_an_interface_on_top_of_the_eni_is_not_it() -> None:
    """A VLAN or macvlan shares the MAC."""
    seen = node(host(7, name="eth0.7", physical=False), host(1))
    shared = replace(seen, interfaces=(replace(seen.interfaces[0], mac=mac(1)), seen.interfaces[1]))
    assert PutAddress(1, "eth0", V4) in plan_node(shared, settings(), BEGAN).actions


def test_an_eni_that_is_not_the_primary_one_gets_its_own_routing() -> None:
    """What the address sends must leave by its own ENI, whose source check knows it."""
    enis = {mac(1): node_eni(), mac(2): node_eni(2, index=2)}
    own = (described(), described(2, index=2))
    plan = plan_node(node(host(), host(2, name="eth2"), enis=enis, own=own), settings("10.10.2.80"), BEGAN)
    number = NODE_TABLE_BASE + 2
    assert plan.actions == (
        PutAddress(2, "eth2", ip_address("10.10.2.80")),
        SetPodRoute(PodRoute(number, "0.0.0.0/0", "10.10.2.1", 2)),
        *rules_and_marks("10.10.2.80", 2, 2),
        AssignAddress("eni-2", ip_address("10.10.2.80")),
    )


def test_a_standby_takes_its_routing_away_and_nobody_elses() -> None:
    """Another Deployment on the same interface keeps the table."""
    route, other = PodRoute(8602, "0.0.0.0/0", "10.10.2.1", 2), PodRule("10.10.2.99/32", 8602)
    ours = PodRule("10.10.2.80/32", 8602)
    config = settings("10.10.2.80")
    both = node(network=PodNetwork(frozenset({route}), frozenset({ours, other})))
    assert plan_node(both, config, None).actions == (DeletePodRule(ours),)
    alone = node(network=PodNetwork(frozenset({route}), frozenset({ours})))
    assert plan_node(alone, config, None).actions == (DeletePodRule(ours), DeletePodRoute(route))


class TestIpv6:
    """EC2 has no reassignment for IPv6."""

    def test_the_holder_must_have_been_seen_since_the_tenure_began(self) -> None:
        """A standby's old knowledge may be wrong by now."""
        stale = {V6: Holder("eni-7", True, False, BEGAN - 1.0)}
        plan = plan_node(node(holders=stale), settings(VIP6), BEGAN)
        assert plan.needs == {NodeNeed.HOLDERS}
        assert plan.actions == (PutAddress(1, "eth0", V6),)

    def test_it_is_freed_first(self) -> None:
        """Then the holder's fact says nobody, and it is assigned."""
        held = {V6: Holder("eni-7", True, False, NOW)}
        assert (
            UnassignAddress("eni-7", V6, "taken over") in plan_node(node(holders=held), settings(VIP6), BEGAN).actions
        )
        free = {V6: Holder("", False, False, NOW)}
        assert AssignAddress("eni-1", V6) in plan_node(node(holders=free), settings(VIP6), BEGAN).actions


class TestProblems:
    """Each names the address, the reason and what would change it, on standbys too."""

    @pytest.mark.parametrize("began", [None, BEGAN])
    @pytest.mark.parametrize(
        ("floating", "mode", "words"),
        [
            ("10.10.7.80", "address", ("10.10.7.80", "eni-1", "10.10.1.0/24", "FloatingMode")),
            ("10.10.1.2", "address", ("reserved", "10.10.1.0/24")),
            ("10.10.1.10", "address", ("primary address of eni-1",)),
            (VIP, "route", (VIP, "10.10.0.0/16", "FloatingMode")),
        ],
    )
    def test_an_address_that_cannot_be_had(
        self, floating: str, mode: str, words: tuple[str, ...], began: float
    ) -> None:
        """Address in no subnet of the node's ENIs, reserved, primary, or inside the VPC."""
        plan = plan_node(node(), settings(floating, mode), began)
        (problem,) = plan.problems
        assert problem.fatal
        assert all(word in str(problem) for word in words)
        assert not any(isinstance(action, AssignAddress | SetRoute) for action in plan.actions)

    def test_no_route_table(self) -> None:
        """VPCRTTag selects none."""
        (problem,) = plan_node(node(tables=()), settings(OUTSIDE, "route", VPCRTTag="x=y"), BEGAN).problems
        assert "VPCRTTag=x=y" in str(problem)

    def test_the_interface_is_not_there(self) -> None:
        """The ENI's interface was moved into a pod."""
        problem = next(each for each in plan_node(node(host(5, name="eth5")), settings(), BEGAN).problems if each.fatal)
        assert mac(1) in str(problem)
        assert "eni-1" in str(problem)


class TestRoute:
    """An address outside the VPC."""

    def test_two_addresses_turn_the_check_off_once(self) -> None:
        observed = node(tables=(table("rtb-1"),), own=(described(check=True),))
        plan = plan_node(observed, settings(f"{OUTSIDE},192.168.0.81", "route"), BEGAN)
        assert plan.actions.count(DisableSourceDestCheck("eni-1")) == 1

    def test_every_table_and_the_check(self) -> None:
        """Replace where there is a route, create where there is none; only what is seen since counts as ours."""
        tables = (
            table("rtb-1", {f"{OUTSIDE}/32": "eni-7"}, seen=BEGAN - 9),
            table("rtb-2"),
            table("rtb-3", {f"{OUTSIDE}/32": "eni-1"}, seen=BEGAN - 9),
            table("rtb-4", {f"{OUTSIDE}/32": "eni-1"}),
        )
        plan = plan_node(node(tables=tables, own=(described(check=True),)), settings(OUTSIDE, "route"), BEGAN)
        to = ip_network(f"{OUTSIDE}/32")
        assert plan.actions == (
            PutAddress(1, "eth0", FAR),
            DisableSourceDestCheck("eni-1"),
            SetRoute("rtb-1", to, "eni-1", "eni-7", FAR),
            SetRoute("rtb-2", to, "eni-1", "", FAR),
            SetRoute("rtb-3", to, "eni-1", "eni-1", FAR),
        )

    def test_a_standby_reads_the_tables_beforehand(self) -> None:
        """So that it knows at once which verb to use."""
        assert plan_node(node(tables=None), settings(OUTSIDE, "route"), None).needs == {NodeNeed.TABLES}


class TestElasticIp:
    """Bound in one call, from wherever it was."""

    def test_alone_it_goes_to_the_primary_address(self) -> None:
        """Of the primary ENI."""
        bound = {EIP: eip("eni-7", "10.10.7.10")}
        plan = plan_node(node(eips=bound), settings(EIP), BEGAN)
        assert plan.actions == (AssociateEip(EIP, "eni-1", ip_address("10.10.1.10")),)

    def test_with_an_address_it_follows_that(self) -> None:
        """After the address has been placed, not before: EC2 would refuse."""
        config, bound = settings(f"{VIP},{EIP}"), {EIP: eip("eni-7", VIP)}
        waiting = plan_node(node(eips=bound), config, BEGAN)
        assert not any(isinstance(action, AssociateEip) for action in waiting.actions)
        placed = plan_node(node(host(1, VIP), own=(described(1, VIP),), eips=bound), config, BEGAN)
        assert placed.actions == (AssociateEip(EIP, "eni-1", V4),)

    def test_seen_in_place_since_it_costs_nothing(self) -> None:
        """An old observation is not enough."""
        config = settings(EIP)
        assert plan_node(node(eips={EIP: eip("eni-1", "10.10.1.10")}), config, BEGAN).actions == ()
        stale = {EIP: eip("eni-1", "10.10.1.10", seen=BEGAN - 1)}
        assert plan_node(node(eips=stale), config, BEGAN).actions == (
            AssociateEip(EIP, "eni-1", ip_address("10.10.1.10")),
        )

    def test_one_that_does_not_exist(self) -> None:
        """Is a problem on each node, before it is needed."""
        assert plan_node(node(), settings(EIP), None).needs == {NodeNeed.EIPS}
        (problem,) = plan_node(node(eips={EIP: None}), settings(EIP), None).problems
        assert EIP in str(problem)
        assert "does not exist" in str(problem)


@pytest.mark.parametrize("began", [None, BEGAN])
def test_a_primary_address_of_the_node_is_not_touched(began: float | None) -> None:
    """FLOATING_IP with a slip of the pen: neither removed nor given a lifetime, even before it is known to be one."""
    config = settings(f"10.10.1.10,{VIP}")
    plan = plan_node(node(host(1, "10.10.1.10")), config, began)
    assert "primary address of eni-1" in str(plan.problems[0])
    assert ip_address("10.10.1.10") not in {getattr(action, "address", None) for action in plan.actions}
    assert plan.keep == ()
    unknown = plan_node(node(host(1, "10.10.1.10"), own=()), config, began)
    assert (unknown.actions, unknown.keep, unknown.needs) == ((), (), {NodeNeed.OWN})


def test_unknown_enis_are_waited_for() -> None:
    """A holder whose discovery is late leaves what is on its interfaces, which is its to hold."""
    plan = plan_node(node(host(1, VIP), enis={}), settings(), BEGAN)
    assert plan.actions == ()
    assert plan.keep == ((1, V4),)
