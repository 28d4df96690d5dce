"""The pod's own side: peer routes, source based routing, and taking back only what is ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.unit.builders import OUTSIDE, OUTSIDE6, config, eni, interface, mac, observed
from vipmanager.actions import (
    Action,
    AddPodRule,
    DeletePodRoute,
    DeletePodRule,
    SetPodRoute,
)
from vipmanager.config import Config
from vipmanager.model import (
    MAIN_TABLE,
    Observed,
    PodNetwork,
    PodRoute,
    PodRule,
)
from vipmanager.plan.pod import attachments, gateway, plan_pod

GATEWAY, GATEWAY2, GATEWAY6 = "10.10.1.1", "10.10.2.1", "fe80:ec2::1"
SBR = config(UseSBR="True")
NO_SBR = config(UseSBR="False")
PEERS = config(Intf1Peers="10.10.31.0/24,2001:db8:5::/48")
PEER_ROUTES = {
    PodRoute(MAIN_TABLE, "10.10.31.0/24", GATEWAY, 2),
    PodRoute(MAIN_TABLE, "2001:db8:5::/48", GATEWAY6, 2),
}


def wanted(actions: Sequence[Action]) -> tuple[set[PodRoute], set[PodRule]]:
    """The routes and rules that are set; nothing else may be done."""
    routes = {action.route for action in actions if isinstance(action, SetPodRoute)}
    rules = {action.rule for action in actions if isinstance(action, AddPodRule)}
    assert len(routes) + len(rules) == len(actions)
    return routes, rules


def plan(seen: Observed, settings: Config) -> tuple[set[PodRoute], set[PodRule]]:
    """What is set where nothing was there before, without any problem."""
    actions, problems = plan_pod(seen, settings)
    assert problems == []
    return wanted(actions)


def test_peers_are_reached_through_the_vpcs_router() -> None:
    """IPv4: the subnet's first host address. IPv6: fe80:ec2::1."""
    routes, rules = plan(observed(interface(1, OUTSIDE, OUTSIDE6)), PEERS)
    assert (routes, rules) == (PEER_ROUTES, set())


def test_peers_need_no_address_on_the_interface() -> None:
    assert plan(observed(interface(1)), PEERS) == (PEER_ROUTES, set())


def test_source_routing_is_on_where_the_interface_has_no_peers() -> None:
    routes, rules = plan(observed(interface(1, OUTSIDE), interface(2, "192.168.0.2", OUTSIDE6)), PEERS)
    defaults = {PodRoute(102, "0.0.0.0/0", GATEWAY2, 3), PodRoute(102, "::/0", GATEWAY6, 3)}
    assert routes == PEER_ROUTES | defaults
    assert rules == {PodRule("192.168.0.2/32", 102), PodRule(f"{OUTSIDE6}/128", 102)}


def test_source_routing_can_be_had_with_peers_and_be_refused_without() -> None:
    seen = observed(interface(1, OUTSIDE))
    with_peers = config(UseSBR="True", Intf1Peers="10.10.31.0/24")
    assert plan(seen, with_peers) == (
        {PodRoute(MAIN_TABLE, "10.10.31.0/24", GATEWAY, 2), PodRoute(101, "0.0.0.0/0", GATEWAY, 2)},
        {PodRule(f"{OUTSIDE}/32", 101)},
    )
    assert plan(seen, NO_SBR) == (set(), set())


def test_the_default_route_is_of_the_families_the_interface_has() -> None:
    routes, _ = plan(observed(interface(1, OUTSIDE6)), SBR)
    assert routes == {PodRoute(101, "::/0", GATEWAY6, 2)}
    assert plan(observed(interface(1)), SBR) == (set(), set())


def test_two_addresses_share_the_default_route_and_have_a_rule_each() -> None:
    routes, rules = plan(observed(interface(1, OUTSIDE, "192.168.0.10")), SBR)
    assert routes == {PodRoute(101, "0.0.0.0/0", GATEWAY, 2)}
    assert rules == {PodRule(f"{OUTSIDE}/32", 101), PodRule("192.168.0.10/32", 101)}


def test_two_interfaces_on_one_eni_have_a_table_each() -> None:
    """They share a MAC. The peers' routes go through the first, in the kernel's order."""
    seen = observed(interface(1, OUTSIDE), interface(2, "192.168.0.2", on=1), interface(3, "192.168.0.3", on=1))
    routes, rules = plan(seen, config(UseSBR="True", Intf1Peers="10.10.31.0/24"))
    assert [attachment.table for attachment in attachments(seen)] == [101, 301, 501]
    assert routes == {
        PodRoute(MAIN_TABLE, "10.10.31.0/24", GATEWAY, 2),
        PodRoute(101, "0.0.0.0/0", GATEWAY, 2),
        PodRoute(301, "0.0.0.0/0", GATEWAY, 3),
        PodRoute(501, "0.0.0.0/0", GATEWAY, 4),
    }
    assert rules == {PodRule(f"{OUTSIDE}/32", 101), PodRule("192.168.0.2/32", 301), PodRule("192.168.0.3/32", 501)}


def test_the_second_interface_on_an_eni_with_peers_is_routed_by_source() -> None:
    seen = observed(interface(1, OUTSIDE), interface(2, "192.168.0.2", on=1))
    routes, rules = plan(seen, config(Intf1Peers="10.10.31.0/24"))
    assert rules == {PodRule("192.168.0.2/32", 301)}
    assert PodRoute(301, "0.0.0.0/0", GATEWAY, 3) in routes


@pytest.mark.parametrize("index", range(1, 16))
@pytest.mark.parametrize("ordinal", range(4))
def test_no_table_is_one_of_the_kernels(index: int, ordinal: int) -> None:
    interfaces = [interface(number, on=1) for number in range(1, ordinal + 2)]
    seen = observed(*interfaces, enis={mac(1): eni(1, device_index=index)})
    assert attachments(seen)[ordinal].table not in (0, 253, 254, 255)


def test_an_interface_that_is_down_gets_nothing() -> None:
    actions, problems = plan_pod(observed(interface(1, OUTSIDE, up=False)), PEERS)
    assert (actions, problems) == ([], [])


def test_an_interface_that_goes_down_loses_what_was_ours() -> None:
    pod = PodNetwork(frozenset(PEER_ROUTES), frozenset({PodRule(f"{OUTSIDE}/32", 101)}))
    actions, _ = plan_pod(observed(interface(1, OUTSIDE, up=False), pod=pod), PEERS)
    assert {type(action) for action in actions} == {DeletePodRoute, DeletePodRule}


def test_an_interface_whose_mac_is_no_enis_gets_nothing_and_stops_nobody() -> None:
    seen = observed(interface(1, OUTSIDE), interface(7, "192.168.0.7"), enis={mac(1): eni()})
    routes, _ = plan(replace(seen, foreign=frozenset({mac(7)})), SBR)
    assert routes == {PodRoute(101, "0.0.0.0/0", GATEWAY, 2)}


def test_what_is_there_already_costs_nothing() -> None:
    pod = PodNetwork(frozenset(PEER_ROUTES))
    assert plan_pod(observed(interface(1, OUTSIDE), pod=pod), PEERS) == ([], [])


def test_a_peer_that_was_removed_is_removed_and_the_others_stay() -> None:
    gone = PodRoute(MAIN_TABLE, "10.10.99.0/24", GATEWAY, 2)
    seen = observed(interface(1, OUTSIDE), pod=PodNetwork(frozenset(PEER_ROUTES | {gone})))
    assert plan_pod(seen, PEERS)[0] == [DeletePodRoute(gone)]


def test_a_rule_of_an_address_that_left_is_removed() -> None:
    """10.10.1.1 and 10.10.1.10 begin alike as text."""
    kept, gone = PodRule("192.168.0.10/32", 101), PodRule("192.168.0.1/32", 101)
    pod = PodNetwork(frozenset({PodRoute(101, "0.0.0.0/0", GATEWAY, 2)}), frozenset({kept, gone}))
    assert plan_pod(observed(interface(1, "192.168.0.10"), pod=pod), SBR)[0] == [DeletePodRule(gone)]


def test_a_route_with_another_gateway_or_device_is_replaced_not_deleted() -> None:
    stale = frozenset({PodRoute(MAIN_TABLE, "10.10.31.0/24", "10.10.9.1", 9), *PEER_ROUTES} - {min(PEER_ROUTES)})
    actions, _ = plan_pod(observed(interface(1, OUTSIDE), pod=PodNetwork(stale)), PEERS)
    assert actions == [SetPodRoute(PodRoute(MAIN_TABLE, "10.10.31.0/24", GATEWAY, 2))]


def test_nothing_is_deleted_while_an_interfaces_eni_is_not_known() -> None:
    """What looks stale may be that interface's, from before a restart."""
    gone = PodRoute(102, "0.0.0.0/0", GATEWAY2, 3)
    pod = PodNetwork(frozenset({gone}), frozenset({PodRule("192.168.0.2/32", 102)}))
    seen = observed(interface(1, OUTSIDE), interface(2, "192.168.0.2"), pod=pod, enis={mac(1): eni()})
    routes, _ = plan(seen, PEERS)
    assert routes == PEER_ROUTES
    settled = replace(seen, foreign=frozenset({mac(2)}))
    deleted = [type(action) for action in plan_pod(settled, PEERS)[0] if not isinstance(action, SetPodRoute)]
    assert deleted == [DeletePodRule, DeletePodRoute]


def test_a_family_without_a_gateway_is_a_problem_that_names_the_subnet() -> None:
    only4 = eni(subnet_cidrs=(ip_network("10.10.1.0/24"),))
    seen = observed(interface(1, OUTSIDE6), enis={mac(1): only4})
    for settings in (PEERS, SBR):
        _, (problem, *_) = plan_pod(seen, settings)
        assert "subnet-1" in problem.text and "IPv6" in problem.text and problem.fatal


def test_a_family_without_a_gateway_does_not_stop_the_other() -> None:
    only4 = eni(subnet_cidrs=(ip_network("10.10.1.0/24"),))
    actions, problems = plan_pod(observed(interface(1, OUTSIDE, OUTSIDE6), enis={mac(1): only4}), PEERS)
    assert wanted(actions)[0] == {PodRoute(MAIN_TABLE, "10.10.31.0/24", GATEWAY, 2)}
    assert len(problems) == 1


def test_gateways() -> None:
    assert str(gateway(eni(), 4)) == GATEWAY
    assert str(gateway(eni(subnet_cidrs=(ip_network("10.10.1.64/26"),)), 4)) == "10.10.1.65"
    assert str(gateway(eni(), 6)) == GATEWAY6
    assert gateway(eni(subnet_cidrs=(ip_network("10.10.1.64/26"),)), 6) is None


def test_peers_of_an_index_that_no_interface_is_on_are_said_and_do_not_fail() -> None:
    _, (problem,) = plan_pod(observed(interface(1, OUTSIDE)), config(Intf3Peers="10.10.31.0/24"))
    assert problem.subject == "Intf3Peers" and "net1 on 1" in problem.text and not problem.fatal


def test_they_are_not_said_before_every_interface_is_known() -> None:
    settings = config(Intf2Peers="10.10.31.0/24")
    seen = observed(interface(1, OUTSIDE), interface(2), enis={mac(1): eni()})
    assert plan_pod(seen, settings)[1] == []


def test_the_first_interface_has_a_peer_of_two_lists() -> None:
    settings = config(Intf1Peers="10.10.31.0/24", Intf2Peers="10.10.31.0/24,10.10.32.0/24")
    routes, _ = plan(observed(interface(1), interface(2)), settings)
    assert routes == {
        PodRoute(MAIN_TABLE, "10.10.31.0/24", GATEWAY, 2),
        PodRoute(MAIN_TABLE, "10.10.32.0/24", GATEWAY2, 3),
    }


def test_nothing_observed_nothing_done() -> None:
    assert plan_pod(observed(), PEERS)[0] == []
