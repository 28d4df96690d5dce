"""Claims do not flap: begun, kept, conceded, taken up again; believing only what was seen after they began."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from tests.unit.builders import DEFAULTS, NOW, OUTSIDE, claim, claims, holder, interface, observed, state, table
from vipmanager.actions import AssignAddress, Need, Plan, SetRoute
from vipmanager.model import (
    Claim,
    Claims,
    Observed,
    PlacementKind,
    RouteTable,
)
from vipmanager.plan import make_plan
from vipmanager.plan.claims import SPLIT_AFTER
from vipmanager.plan.vpc import RETURN_AFTER

ROUTED = f"{OUTSIDE}/32"
OWN = "10.10.1.50"


def look(*tables: RouteTable, on: str = OUTSIDE, at: float = NOW, **facts: Any) -> Observed:
    """The pod has one address, on net1."""
    return observed(interface(1, on), tables=tables, at=at, **facts)


def plan(seen: Observed, before: Claims | None = None) -> Plan:
    """With the default settings."""
    return make_plan(seen, before or {}, DEFAULTS)


def the(found: Plan) -> Claim:
    """The only claim."""
    (only,) = found.claims.values()
    return only


def set_in(found: Plan) -> set[str]:
    """The tables in which a route is set."""
    return {action.table_id for action in found.actions if isinstance(action, SetRoute)}


# Begun and kept ------------------------------------------------------------------------------------------------------


def test_an_address_that_appears_is_claimed_from_now_on() -> None:
    found = the(plan(look(table("rtb-1"), at=1234.0)))
    assert found == Claim(ip_address(OUTSIDE), "eni-1", PlacementKind.HOST_ROUTE, found.destination, since=1234.0)


def test_a_route_that_is_ours_is_known_to_be_held() -> None:
    found = plan(look(table("rtb-1", {ROUTED: "eni-1"}, seen=NOW), table("rtb-2")))
    assert the(found).held == {"rtb-1": NOW}
    assert set_in(found) == {"rtb-2"}


def test_what_was_seen_before_the_claim_began_is_not_believed() -> None:
    """A standby read the tables long ago; they show our route, and somebody took it over since."""
    found = plan(look(table("rtb-1", {ROUTED: "eni-1"}, seen=NOW - 1), at=NOW))
    assert the(found).held == {}
    assert set_in(found) == {"rtb-1"}


def test_somebody_elses_route_at_first_is_taken_over() -> None:
    found = plan(look(table("rtb-1", {ROUTED: "eni-9"}, seen=NOW + 1)))
    assert set_in(found) == {"rtb-1"}
    assert not the(found).conceded_to


def test_a_claim_is_kept_as_it_is() -> None:
    before = claim(OUTSIDE, since=NOW - 50, held={"rtb-1": NOW - 40})
    found = plan(look(table("rtb-1", {ROUTED: "eni-1"}, seen=NOW)), claims(before))
    assert the(found) == replace(before, held={"rtb-1": NOW})
    assert set_in(found) == set()


def test_an_address_that_moves_to_another_interface_is_claimed_anew() -> None:
    before = claim(OUTSIDE, 1, since=NOW - 50, held={"rtb-1": NOW - 40})
    seen = observed(interface(1), interface(2, OUTSIDE), tables=[table("rtb-1", {ROUTED: "eni-1"})])
    found = plan(seen, claims(before))
    assert (the(found).eni_id, the(found).since, the(found).held) == ("eni-2", NOW, {})
    (action,) = [action for action in found.actions if isinstance(action, SetRoute)]
    assert (action.eni_id, action.replaces) == ("eni-2", "eni-1")


def test_a_claim_is_left_alone_while_its_interfaces_eni_is_not_known() -> None:
    before = claim(OUTSIDE, since=NOW - 50, held={"rtb-1": NOW - 40})
    found = plan(look(table("rtb-1", {ROUTED: "eni-1"}), enis={}), claims(before))
    assert found.claims == claims(before)


# Conceded ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["eni-9", "tgw-1"])
def test_a_route_that_was_ours_and_goes_to_another_live_target_is_conceded(target: str) -> None:
    before = claim(OUTSIDE, since=NOW - 50, held={"rtb-1": NOW - 40, "rtb-2": NOW - 40})
    found = plan(look(table("rtb-1", {ROUTED: "eni-1"}), table("rtb-2", {ROUTED: target})), claims(before))
    assert (the(found).conceded_to, the(found).conceded_at) == (target, NOW)
    assert set_in(found) == set()


def test_what_was_seen_before_it_was_ours_is_no_reason_to_concede() -> None:
    before = claim(OUTSIDE, since=NOW - 50, held={"rtb-1": NOW - 5})
    found = plan(look(table("rtb-1", {ROUTED: "eni-9"}, seen=NOW - 6)), claims(before))
    assert not the(found).conceded_to


def test_a_table_that_never_was_ours_is_taken_not_conceded() -> None:
    """As while another pod's take-over and ours cross, or after a table was tagged anew."""
    before = claim(OUTSIDE, since=NOW - 50, held={"rtb-1": NOW - 5})
    found = plan(look(table("rtb-1", {ROUTED: "eni-1"}), table("rtb-2", {ROUTED: "eni-9"})), claims(before))
    assert not the(found).conceded_to
    assert set_in(found) == {"rtb-2"}


def test_whom_it_is_conceded_to_does_not_depend_on_the_order_of_the_tables() -> None:
    before = claims(claim(OUTSIDE, since=NOW - 50, held={"rtb-1": NOW - 40, "rtb-2": NOW - 40}))
    tables = [table("rtb-1", {ROUTED: "eni-8"}), table("rtb-2", {ROUTED: "eni-9"})]
    assert plan(look(*tables), before) == plan(look(*reversed(tables)), before)


@pytest.mark.parametrize("there", [{}, {ROUTED: "eni-9"}], ids=["route gone", "blackhole"])
def test_a_route_that_vanished_or_leads_nowhere_is_written_again(there: dict[str, str]) -> None:
    before = claim(OUTSIDE, since=NOW - 50, held={"rtb-1": NOW - 40})
    found = plan(look(table("rtb-1", there, dead=True)), claims(before))
    assert not the(found).conceded_to
    assert set_in(found) == {"rtb-1"}


def conceded(on: str = OUTSIDE, at: float = NOW - 10) -> Claims:
    """A claim that was given up to eni-9."""
    return claims(claim(on, since=NOW - 50, held={"x": NOW - 40}, conceded_to="eni-9", conceded_at=at))


def test_a_conceded_address_stays_conceded_while_its_holder_lives() -> None:
    found = plan(look(table("rtb-1", {ROUTED: "eni-9"})), conceded())
    assert found.claims == conceded()
    assert found.actions == plan(look(table("rtb-1", {ROUTED: "eni-9"}), on=OUTSIDE), conceded()).actions
    assert set_in(found) == set()


@pytest.mark.parametrize("there", [{}, {ROUTED: "eni-9"}], ids=["route gone", "blackhole"])
def test_it_is_claimed_again_when_nobody_live_holds_it(there: dict[str, str]) -> None:
    found = plan(look(table("rtb-1", there, dead=True), table("rtb-2", there, dead=True)), conceded())
    assert (the(found).conceded_to, the(found).held, the(found).since) == ("", {}, NOW)
    assert set_in(found) == {"rtb-1", "rtb-2"}


def test_a_conceded_address_is_reported_with_whoever_holds_it_now() -> None:
    found = plan(look(table("rtb-1", {ROUTED: "eni-8"})), conceded())
    assert (the(found).conceded_to, the(found).conceded_at) == ("eni-8", NOW - 10)
    assert set_in(found) == set()


def test_it_stays_conceded_while_one_table_has_a_live_holder() -> None:
    found = plan(look(table("rtb-1"), table("rtb-2", {ROUTED: "eni-9"})), conceded())
    assert the(found).conceded_to == "eni-9"
    assert set_in(found) == set()


def test_without_a_look_at_the_tables_it_stays_conceded() -> None:
    found = plan(observed(interface(1, OUTSIDE), tables=None), conceded())
    assert found.claims == conceded()


def test_a_conceded_address_that_leaves_is_forgotten_and_claimed_when_it_comes_back() -> None:
    taken = table("rtb-1", {ROUTED: "eni-9"})
    without = plan(observed(interface(1), tables=[taken]), conceded())
    assert without.claims == {}
    back = plan(look(taken, at=NOW + 5), without.claims)
    assert (the(back).since, the(back).conceded_to) == (NOW + 5, "")
    assert set_in(back) == {"rtb-1"}


# A draw --------------------------------------------------------------------------------------------------------------


def split(mine: str, at: float, seen: float) -> tuple[Plan, Claims]:
    """Two pods claimed at once; each has one of two tables, and this one has conceded."""
    number = int(mine.removeprefix("eni-"))
    before = claims(claim(OUTSIDE, number, since=NOW - 50, conceded_to="eni-5", conceded_at=NOW))
    tables = [table("rtb-1", {ROUTED: mine}, seen=seen), table("rtb-2", {ROUTED: "eni-5"}, seen=seen)]
    return make_plan(observed(interface(number, OUTSIDE), tables=tables, at=at), before, DEFAULTS), before


def test_a_draw_is_settled_by_the_lower_eni_after_a_while() -> None:
    found, _ = split("eni-1", NOW + SPLIT_AFTER + 1, NOW + SPLIT_AFTER + 1)
    assert not the(found).conceded_to
    assert set_in(found) == {"rtb-1", "rtb-2"} or set_in(found) == {"rtb-2"}


def test_the_higher_eni_stays_conceded() -> None:
    found, before = split("eni-7", NOW + SPLIT_AFTER + 1, NOW + SPLIT_AFTER + 1)
    assert found.claims == before
    assert set_in(found) == set()


def test_before_that_while_is_over_it_waits_and_then_looks_again() -> None:
    first, _ = split("eni-1", NOW + 1, NOW + 1)
    assert first.wake_at == NOW + RETURN_AFTER
    early, _ = split("eni-1", NOW + RETURN_AFTER, NOW + RETURN_AFTER)
    assert early.wake_at == NOW + SPLIT_AFTER
    assert the(early).conceded_to and Need.TABLES not in early.needs
    due, _ = split("eni-1", NOW + SPLIT_AFTER, NOW + RETURN_AFTER)
    assert the(due).conceded_to and Need.TABLES in due.needs


# Addresses of ENIs ---------------------------------------------------------------------------------------------------


def own(number_state: Any, *, before: Claims | None = None, **facts: Any) -> Plan:
    """The pod has an address of its ENI's subnet."""
    return plan(look(on=OWN, states={"eni-1": number_state}, **facts), before)


def test_an_address_on_our_eni_is_held() -> None:
    found = own(state(1, OWN))
    assert the(found).held == {"eni-1": NOW}
    assert not any(isinstance(action, AssignAddress) for action in found.actions)


def test_an_address_that_left_our_eni_for_a_live_one_is_conceded() -> None:
    before = claims(claim(OWN, since=NOW - 50, held={"eni-1": NOW - 40}))
    found = own(state(1), before=before, holders={ip_address(OWN): holder("eni-9")})
    assert (the(found).conceded_to, the(found).conceded_at) == ("eni-9", NOW)
    assert found.actions == own(state(1), before=found.claims, holders={ip_address(OWN): holder("eni-9")}).actions


@pytest.mark.parametrize("by", [holder(""), holder("eni-9", live=False)], ids=["nobody", "a dead ENI"])
def test_an_address_that_left_our_eni_and_has_no_live_holder_is_taken_again(by: Any) -> None:
    before = claims(claim(OWN, since=NOW - 50, held={"eni-1": NOW - 40}))
    found = own(state(1), before=before, holders={ip_address(OWN): by})
    assert AssignAddress("eni-1", ip_address(OWN)) in found.actions


def test_an_address_that_left_our_eni_for_nobody_knows_where_is_asked_for_before_anything_is_done() -> None:
    before = claims(claim(OWN, since=NOW - 50, held={"eni-1": NOW - 40}))
    found = own(state(1), before=before)
    assert Need.HOLDERS in found.needs
    assert not any(isinstance(action, AssignAddress) for action in found.actions)


def test_a_holder_seen_before_the_eni_was_is_asked_for_again() -> None:
    before = claims(claim(OWN, since=NOW - 50, held={"eni-1": NOW - 40}))
    found = own(state(1), before=before, holders={ip_address(OWN): holder("eni-9", seen=NOW - 1)})
    assert Need.HOLDERS in found.needs and not the(found).conceded_to


def test_a_conceded_address_is_watched_through_its_holder() -> None:
    before = conceded(OWN)
    assert Need.HOLDERS in own(state(1), before=before).needs
    kept = own(state(1), before=before, holders={ip_address(OWN): holder("eni-9")})
    assert kept.claims == before and Need.HOLDERS not in kept.needs
    free = own(state(1), before=before, holders={ip_address(OWN): holder("")})
    assert not the(free).conceded_to
    assert AssignAddress("eni-1", ip_address(OWN)) in free.actions
