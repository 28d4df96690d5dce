"""What EC2 is told: only the difference, one item at a time, and only what is ours is taken back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.unit.builders import (
    DEFAULTS,
    NOW,
    OUTSIDE,
    OUTSIDE6,
    claim,
    claims,
    config,
    holder,
    interface,
    observed,
    state,
    subnet,
    table,
)
from vipmanager.actions import (
    AssignAddress,
    DeleteRoute,
    DisableSourceDestCheck,
    Need,
    Plan,
    SetRoute,
    UnassignAddress,
    VpcAction,
)
from vipmanager.config import Config
from vipmanager.model import Claims, Observed, PlacementKind, PodNetwork
from vipmanager.plan import make_plan, make_release
from vipmanager.plan.vpc import UNASSIGN_AFTER, WITHDRAW_ROUTES_AFTER

ROUTED, ROUTED6 = f"{OUTSIDE}/32", f"{OUTSIDE6}/128"
OWN, OWN6 = "10.10.1.50", "2600:1f14:0:1::50"
NO_SBR = config(UseSBR="False")
LOOPBACKS = config(UseSBR="False", SubnetBasedLoopbacks="True")


def plan(seen: Observed, before: Claims | None = None, settings: Config = NO_SBR) -> Plan:
    """Without source based routing, all actions are EC2's."""
    return make_plan(seen, before or {}, settings)


def route(table_id: str, destination: str, number: int, replaces: str, address: str) -> SetRoute:
    """A route to one of our ENIs."""
    return SetRoute(table_id, ip_network(destination), f"eni-{number}", replaces, ip_address(address))


# Routes --------------------------------------------------------------------------------------------------------------


def test_a_fresh_claim_is_written_to_every_table_with_the_verb_that_fits() -> None:
    tables = [table("rtb-1"), table("rtb-2", {ROUTED: "eni-9"}), table("rtb-3", {ROUTED: "eni-9"}, dead=True)]
    assert plan(observed(interface(1, OUTSIDE), tables=tables)).actions == (
        route("rtb-1", ROUTED, 1, "", OUTSIDE),
        route("rtb-2", ROUTED, 1, "eni-9", OUTSIDE),
        route("rtb-3", ROUTED, 1, "eni-9", OUTSIDE),
    )


def test_what_is_there_already_costs_no_call() -> None:
    there = table("rtb-1", {ROUTED: "eni-1", ROUTED6: "eni-2"})
    found = plan(observed(interface(1, OUTSIDE), interface(2, OUTSIDE6), tables=[there]))
    assert found.actions == () and found.needs == frozenset() and found.problems == ()


def test_one_changed_address_touches_no_other() -> None:
    """Their fault: twelve changes rewrote every route of every address, 416 calls."""
    others = [f"192.168.0.{number}" for number in range(10, 42)]
    held = {f"{text}/32": "eni-1" for text in others}
    tables = [table(f"rtb-{number}", held) for number in range(4)]
    found = plan(observed(interface(1, *others, OUTSIDE), tables=tables))
    assert found.actions == tuple(route(f"rtb-{number}", ROUTED, 1, "", OUTSIDE) for number in range(4))


def test_the_tables_are_asked_for_when_they_are_not_known() -> None:
    found = plan(observed(interface(1, OUTSIDE), tables=None))
    assert found.needs == {Need.TABLES} and found.actions == ()


def test_only_what_a_plan_needs_is_asked_for() -> None:
    assert plan(observed(interface(1), tables=None, states={})).needs == frozenset()
    assert plan(observed(interface(1, OWN), tables=None, states={})).needs == {Need.STATES}
    assert plan(observed(interface(1, OUTSIDE), tables=None, states={})).needs == {Need.TABLES, Need.STATES}
    inside = observed(interface(1, "10.10.2.5"), tables=None, states={})
    assert plan(inside, settings=LOOPBACKS).needs == {Need.SUBNETS}


def test_a_tag_that_selects_no_table_is_a_problem_that_names_it() -> None:
    found = plan(observed(interface(1, OUTSIDE), tables=[]), settings=config(UseSBR="False", VPCRTTag="Name=x"))
    (problem,) = found.problems
    assert "VPCRTTag=Name=x" in problem.subject and problem.fatal
    assert plan(observed(interface(1, OWN), tables=[])).problems == ()


def test_two_addresses_of_one_subnet_on_one_interface_are_one_route() -> None:
    seen = observed(interface(1, "10.10.2.5", "10.10.2.6"), tables=[table("rtb-1")], subnets=(subnet(1), subnet(2)))
    found = plan(seen, settings=LOOPBACKS)
    assert [(action.key, action.eni_id) for action in found.actions] == [(("route", "rtb-1", "10.10.2.0/24"), "eni-1")]  # type: ignore[union-attr]
    assert len(found.claims) == 2 and found.problems == ()


def test_one_subnet_cannot_be_routed_to_two_enis() -> None:
    tables, subnets = [table("rtb-1")], (subnet(1), subnet(2), subnet(7))
    seen = observed(interface(1, "10.10.7.5"), interface(2, "10.10.7.6"), tables=tables, subnets=subnets)
    found = plan(seen, settings=LOOPBACKS)
    assert found.actions == (route("rtb-1", "10.10.7.0/24", 1, "", "10.10.7.5"),)
    (problem,) = found.problems
    assert problem.subject == "10.10.7.6" and "eni-1" in problem.text and problem.fatal


def test_an_address_on_two_interfaces_is_delivered_to_the_first() -> None:
    seen = observed(interface(1, OUTSIDE), interface(2, OUTSIDE), tables=[table("rtb-1")])
    found = plan(seen)
    assert found.actions == (route("rtb-1", ROUTED, 1, "", OUTSIDE),)
    (problem,) = found.problems
    assert "net2" in problem.subject and "net1" in problem.text


def test_an_interface_that_is_down_delivers_nothing() -> None:
    found = plan(observed(interface(1, OUTSIDE, up=False), tables=[table("rtb-1")]))
    assert (found.actions, dict(found.claims)) == ((), {})


def test_an_address_that_cannot_be_placed_stops_nobody_else() -> None:
    found = plan(observed(interface(1, OUTSIDE, "10.10.9.9", "10.10.1.1"), tables=[table("rtb-1")]))
    assert found.actions == (route("rtb-1", ROUTED, 1, "", OUTSIDE),)
    assert {problem.subject for problem in found.problems} == {"10.10.9.9 on net1", "10.10.1.1 on net1"}


# Source/dest check ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "needed"), [(OUTSIDE, True), (OUTSIDE6, True), (OWN, False)])
def test_the_check_is_turned_off_where_a_route_needs_it(text: str, needed: bool) -> None:
    seen = observed(interface(1, text), tables=[table("rtb-1")], states={"eni-1": state(1, check=True)})
    assert (DisableSourceDestCheck("eni-1") in plan(seen).actions) is needed


def test_the_check_of_an_eni_without_claims_is_left_alone() -> None:
    states = {"eni-1": state(1, check=True), "eni-2": state(2, check=True)}
    seen = observed(interface(1, OUTSIDE), interface(2), tables=[table("rtb-1")], states=states)
    checks = [action for action in plan(seen).actions if isinstance(action, DisableSourceDestCheck)]
    assert checks == [DisableSourceDestCheck("eni-1")]


def test_keep_only_warns() -> None:
    seen = observed(interface(1, OUTSIDE), tables=[table("rtb-1")], states={"eni-1": state(1, check=True)})
    found = plan(seen, settings=config(UseSBR="False", SourceDestCheck="Keep"))
    assert found.actions == (route("rtb-1", ROUTED, 1, "", OUTSIDE),)
    (problem,) = found.problems
    assert problem.subject == "eni-1" and "SourceDestCheck" in problem.text and not problem.fatal


# Addresses of ENIs ---------------------------------------------------------------------------------------------------


def address(text: str, eni_state: Any = None, by: Any = None, before: Claims | None = None, at: float = NOW) -> Plan:
    """A pod with one address of its ENI's subnet."""
    states = {"eni-1": state(1)} if eni_state is None else {"eni-1": eni_state}
    holders = {} if by is None else {ip_address(text): by}
    return plan(observed(interface(1, text), tables=None, states=states, holders=holders, at=at), before)


def test_ipv4_is_taken_over_in_one_call_from_whomever() -> None:
    for by in (None, holder("eni-9"), holder("")):
        assert address(OWN, by=by).actions == (AssignAddress("eni-1", ip_address(OWN)),)
        assert address(OWN, by=by).needs == frozenset()


def test_ipv6_is_taken_over_from_a_holder_that_is_known() -> None:
    """There is no reassignment: it is freed first."""
    unknown = address(OWN6)
    assert (unknown.actions, unknown.needs) == ((), frozenset({Need.HOLDERS}))
    held = address(OWN6, by=holder("eni-9"))
    assert held.actions == (UnassignAddress("eni-9", ip_address(OWN6), "taken over"),)
    free = address(OWN6, by=holder(""))
    assert free.actions == (AssignAddress("eni-1", ip_address(OWN6)),)


def test_ipv6_is_never_unassigned_from_its_own_eni() -> None:
    """Their fault: reassignment unassigned from its own ENI too. Not even when our sight is old."""
    there = address(OWN6, state(1, OWN6))
    assert (there.actions, there.needs) == ((), frozenset())
    old = address(OWN6, state(1, OWN6, seen=NOW - 9))
    assert (old.actions, old.needs) == ((), frozenset({Need.STATES}))
    by_holders = address(OWN6, by=holder("eni-1", seen=NOW - 0.0))
    assert not any(isinstance(action, UnassignAddress) for action in by_holders.actions)


def test_an_old_sight_of_ipv4_is_made_sure_of() -> None:
    assert address(OWN, state(1, OWN, seen=NOW - 9)).actions == (AssignAddress("eni-1", ip_address(OWN)),)


@pytest.mark.parametrize("seen", [NOW, NOW - 9])
def test_a_primary_address_is_never_touched(seen: float) -> None:
    found = address("10.10.1.10", state(1, seen=seen))
    assert (found.actions, found.needs) == ((), frozenset())
    gone = claims(claim("10.10.1.10", since=NOW - 90, held={"eni-1": NOW - 80}, vanished=NOW - 60))
    without = plan(observed(interface(1), states={"eni-1": state(1)}), gone)
    assert (without.actions, dict(without.claims)) == ((), {})


def test_an_address_that_moves_between_interfaces_moves_between_their_enis() -> None:
    """IPv6: from our other ENI, which holds it."""
    before = claims(claim(OWN6, 2, since=NOW - 90, held={"eni-2": NOW - 80}, destination=ip_network(OWN6)))
    states = {"eni-1": state(1), "eni-2": state(2, OWN6)}
    seen = observed(interface(1, OWN6), interface(2), states=states, holders={ip_address(OWN6): holder("eni-2")})
    assert plan(seen, before).actions == (UnassignAddress("eni-2", ip_address(OWN6), "taken over"),)


# Taken back ----------------------------------------------------------------------------------------------------------


def vanish(text: str, ago: float, seen: float | None = None, target: str = "eni-1", before: float = 90.0) -> Plan:
    """The address left `ago` seconds ago; EC2 was looked at `seen` seconds after that."""
    left = NOW - ago
    looked = left + (ago if seen is None else seen)
    gone = claims(claim(text, since=left - before, held={"rtb-1": left - 1, "eni-1": left - 1}, vanished=left))
    tables = [table("rtb-1", {ROUTED: target}, seen=looked), table("rtb-2", {ROUTED: "eni-9"}, seen=looked)]
    held = {"eni-1": state(1, OWN, seen=looked)}
    return plan(observed(interface(1), tables=tables, states=held, at=NOW), gone)


def test_an_address_that_leaves_is_marked_and_nothing_is_done_at_once() -> None:
    before = claims(claim(OUTSIDE, since=NOW - 50, held={"rtb-1": NOW - 40}))
    found = plan(observed(interface(1), tables=[table("rtb-1", {ROUTED: "eni-1"})]), before)
    assert (found.claims[ip_address(OUTSIDE)].vanished, found.actions) == (NOW, ())
    assert found.wake_at == NOW + WITHDRAW_ROUTES_AFTER
    own = plan(observed(interface(1), states={"eni-1": state(1, OWN)}), claims(claim(OWN, held={"eni-1": NOW})))
    assert (own.actions, own.wake_at) == ((), NOW + UNASSIGN_AFTER)


def test_a_route_is_deleted_when_a_late_look_still_shows_it_as_ours() -> None:
    found = vanish(OUTSIDE, WITHDRAW_ROUTES_AFTER + 1)
    assert found.actions == (DeleteRoute("rtb-1", ip_network(ROUTED), "eni-1", ip_address(OUTSIDE)),)


def test_a_look_from_before_that_is_not_enough_to_delete() -> None:
    """DeleteRoute has no condition: it would delete the route of whoever took the address over."""
    found = vanish(OUTSIDE, WITHDRAW_ROUTES_AFTER + 1, seen=1.0)
    assert (found.actions, found.needs) == ((), frozenset({Need.TABLES}))
    assert ip_address(OUTSIDE) in found.claims


def test_a_route_that_somebody_took_over_is_not_deleted_and_the_claim_ends() -> None:
    found = vanish(OUTSIDE, WITHDRAW_ROUTES_AFTER + 1, target="eni-9")
    assert (found.actions, dict(found.claims)) == ((), {})


def test_our_own_memory_of_a_write_does_not_justify_a_delete() -> None:
    left = NOW - WITHDRAW_ROUTES_AFTER - 1
    gone = claims(claim(OUTSIDE, since=left - 9, held={"rtb-1": left - 1}, vanished=left))
    remembered = table("rtb-1", {ROUTED: "eni-1"}, seen=left - 1)  # the route as we wrote it
    laid_over = replace(remembered, seen=NOW)
    found = plan(observed(interface(1), tables=[laid_over]), gone)
    assert found.actions == () and ip_address(OUTSIDE) in found.claims


def test_an_address_is_unassigned_after_a_moment() -> None:
    found = vanish(OWN, UNASSIGN_AFTER + 0.1)
    assert found.actions == (UnassignAddress("eni-1", ip_address(OWN), "vanished"),)
    assert ip_address(OWN) in found.claims


def test_an_address_that_comes_back_in_time_costs_nothing_but_a_confirmation() -> None:
    left = NOW - 1
    gone = claims(claim(OUTSIDE, since=NOW - 90, held={"rtb-1": left - 1}, vanished=left))
    back = plan(observed(interface(1, OUTSIDE), tables=[table("rtb-1", {ROUTED: "eni-1"}, seen=NOW)]), gone)
    assert back.actions == () and back.claims[ip_address(OUTSIDE)].vanished is None


def test_a_route_that_another_address_needs_is_kept() -> None:
    kind, whole = PlacementKind.SUBNET_ROUTE, ip_network("10.10.2.0/24")
    left = NOW - WITHDRAW_ROUTES_AFTER - 1
    gone = claim("10.10.2.6", since=left - 9, held={"rtb-1": left - 1}, vanished=left, kind=kind, destination=whole)
    tables = [table("rtb-1", {str(whole): "eni-1"}, seen=NOW)]
    seen = observed(interface(1, "10.10.2.5"), tables=tables, subnets=(subnet(1), subnet(2)))
    found = plan(seen, claims(gone), LOOPBACKS)
    assert (found.actions, list(found.claims)) == ((), [ip_address("10.10.2.5")])


def test_nobody_elses_routes_are_in_any_plan() -> None:
    others = {"0.0.0.0/0": "igw-1", "10.99.0.0/16": "tgw-1", "192.168.0.77/32": "eni-1", "::/0": "eigw-1"}
    seen = observed(interface(1, OUTSIDE), tables=[table("rtb-1", others), table("rtb-2", others)])
    assert {str(action.destination) for action in plan(seen).actions} == {ROUTED}  # type: ignore[union-attr]


# On exit -------------------------------------------------------------------------------------------------------------


def release(settings: Config, *, seen: float = NOW, conceded_to: str = "") -> set[VpcAction]:
    """What a sidecar that was told to stop at NOW takes back of a routed and an own address."""
    held = [
        claim(OUTSIDE, since=NOW - 50, held={"rtb-1": NOW - 40}, conceded_to=conceded_to),
        claim(OWN, since=NOW - 50, held={"eni-1": NOW - 40}, conceded_to=conceded_to),
        claim("10.10.1.10", since=NOW - 50, held={"eni-1": NOW - 40}),
    ]
    tables = [table("rtb-1", {ROUTED: "eni-1"}, seen=seen), table("rtb-2", {ROUTED: "eni-9"}, seen=seen)]
    looked = observed(interface(1, OUTSIDE, OWN), tables=tables, states={"eni-1": state(1, OWN)})
    return set(make_release(looked, claims(*held), settings, NOW))  # type: ignore[arg-type]


UNASSIGN = UnassignAddress("eni-1", ip_address(OWN), "vanished")
DELETE = DeleteRoute("rtb-1", ip_network(ROUTED), "eni-1", ip_address(OUTSIDE))


def test_by_default_addresses_are_released_and_routes_stay() -> None:
    assert release(DEFAULTS) == {UNASSIGN}


def test_release_can_be_off_and_routes_can_be_deleted() -> None:
    assert release(config(ReleaseOnExit="False")) == set()
    assert release(config(DeleteRoutesOnExit="True")) == {UNASSIGN, DELETE}
    assert release(config(ReleaseOnExit="False", DeleteRoutesOnExit="True")) == {DELETE}


def test_routes_are_deleted_only_after_a_look_at_the_end() -> None:
    assert release(config(DeleteRoutesOnExit="True"), seen=NOW - 1) == {UNASSIGN}


def test_what_was_conceded_is_not_released() -> None:
    assert release(config(DeleteRoutesOnExit="True"), conceded_to="eni-9") == set()


# Plans are values ----------------------------------------------------------------------------------------------------


def test_a_plan_is_sorted_and_prints() -> None:
    states = {"eni-1": state(1, check=True)}
    seen = observed(interface(1, OUTSIDE, OWN), tables=[table("rtb-2"), table("rtb-1")], states=states)
    found = make_plan(replace(seen, pod=PodNetwork()), {}, DEFAULTS)
    assert [action.key[0] for action in found.actions] == [
        "pod-route", "pod-rule", "pod-rule", "address", "check", "route", "route",
    ]  # fmt: skip
    assert str(found.actions[-1]) == f"create route table=rtb-2 destination={ROUTED} eni=eni-1"
    assert len({str(action) for action in found.actions}) == len(found.actions)
