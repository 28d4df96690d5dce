"""RouteAggregation and IntfNPools: the fewest prefixes, one address of many taken over, and make before break."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.unit.builders import NOW, claim, claims, config, eni, interface, mac, observed, state, table
from vipmanager.actions import DeleteRoute, Need, Plan, SetRoute
from vipmanager.model import Claim, Claims, Observed, PlacementKind
from vipmanager.plan import make_plan, make_release
from vipmanager.plan.aggregate import WITHDRAW_ROUTES_AFTER, covering
from vipmanager.plan.routes import CONFIRM_AFTER

TOGETHER = config(UseSBR="False", RouteAggregation="True")
APART = config(UseSBR="False")
POOL = config(UseSBR="False", Intf1Pools="192.168.0.0/28")
FOUR = [f"192.168.0.{number}" for number in range(4)]
LATER = NOW + 100


def run(first: str, count: int) -> list[str]:
    """Contiguous addresses."""
    return [str(ip_address(first) + number) for number in range(count)]


def plan(seen: Observed, before: Claims | None = None, settings: object = TOGETHER) -> Plan:
    """What a round decides."""
    return make_plan(seen, before or {}, settings)  # type: ignore[arg-type]


def sets(found: Plan) -> list[tuple[str, str, str]]:
    """(table, destination, what is replaced) of the routes that are set."""
    return [(a.table_id, str(a.destination), a.replaces) for a in found.actions if isinstance(a, SetRoute)]


def deletes(found: Plan) -> list[tuple[str, str]]:
    """(table, destination) of the routes that are deleted."""
    return [(a.table_id, str(a.destination)) for a in found.actions if isinstance(a, DeleteRoute)]


def held(addresses: Iterable[str], destination: str, **changes: object) -> dict[object, Claim]:
    """Claims that share a destination, which is in rtb-1."""
    given = {"since": NOW - 50, "held": {"rtb-1": NOW - 40}, **changes}
    return claims(*(claim(text, destination=ip_network(destination), **given) for text in addresses))  # type: ignore


# The fewest prefixes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "prefixes"),
    [
        (run("192.168.0.0", 256), {"192.168.0.0/24"}),
        (run("192.168.0.1", 1), {"192.168.0.1/32"}),
        (run("192.168.0.1", 2), {"192.168.0.1/32", "192.168.0.2/32"}),
        (run("192.168.0.4", 6), {"192.168.0.4/30", "192.168.0.8/31"}),
        ([*run("192.168.0.0", 3), "192.168.0.7"], {"192.168.0.0/31", "192.168.0.2/32", "192.168.0.7/32"}),
        (run("fd00::", 16), {"fd00::/124"}),
        ([*FOUR, *run("fd00::8", 4)], {"192.168.0.0/30", "fd00::8/126"}),
    ],
)
def test_addresses_of_an_eni_share_the_fewest_prefixes_that_hold_nothing_else(
    addresses: list[str], prefixes: set[str]
) -> None:
    found = plan(observed(interface(1, *addresses), tables=[table("rtb-1"), table("rtb-2")]))
    assert sets(found) == sorted((each, prefix, "") for each in ("rtb-1", "rtb-2") for prefix in prefixes)
    assert set(found.claims) == {ip_address(text) for text in addresses}


def test_it_is_off_by_default() -> None:
    found = plan(observed(interface(1, *FOUR), tables=[table("rtb-1")]), settings=APART)
    assert sets(found) == [("rtb-1", f"{text}/32", "") for text in FOUR]


def test_enis_do_not_share_prefixes_and_two_interfaces_of_one_do() -> None:
    two = observed(interface(1, *FOUR[:2]), interface(2, *FOUR[2:]), tables=[table("rtb-1")])
    assert [(str(a.destination), a.eni_id) for a in plan(two).actions if isinstance(a, SetRoute)] == [
        ("192.168.0.0/31", "eni-1"),
        ("192.168.0.2/31", "eni-2"),
    ]
    one = observed(interface(1, *FOUR[:2]), interface(2, *FOUR[2:], on=1), tables=[table("rtb-1")])
    assert sets(plan(one)) == [("rtb-1", "192.168.0.0/30", "")]


def test_only_host_routes_are_shared() -> None:
    settings = config(UseSBR="False", RouteAggregation="True", AssignIPs="Auto")
    own = ["10.10.1.50", "10.10.1.51"]
    found = plan(observed(interface(1, *own, *FOUR), tables=[table("rtb-1")]), settings=settings)
    assert sets(found) == [("rtb-1", "192.168.0.0/30", "")]
    assert all(str(found.claims[ip_address(text)].destination) == f"{text}/32" for text in own)


def test_covering_keeps_to_the_addresses_and_those_named_besides() -> None:
    given = [ip_address(text) for text in ("10.0.0.1", "10.0.0.2")]
    besides = [ip_address("10.0.0.0"), ip_address("10.0.0.3")]
    assert set(map(str, covering(given).values())) == {"10.0.0.1/32", "10.0.0.2/32"}
    assert set(map(str, covering(given, besides).values())) == {"10.0.0.0/30"}


# Pools ---------------------------------------------------------------------------------------------------------------


def test_a_pool_is_routed_whole_for_any_of_its_addresses() -> None:
    seen = observed(interface(1, "192.168.0.1", "192.168.0.9", "192.168.0.14", "192.168.0.16"), tables=[table("rtb-1")])
    assert sets(plan(seen, settings=POOL)) == [("rtb-1", "192.168.0.0/28", ""), ("rtb-1", "192.168.0.16/32", "")]
    assert sets(plan(observed(interface(1), tables=[table("rtb-1")]), settings=POOL)) == []


def test_a_pool_and_prefixes_beside_it() -> None:
    settings = config(UseSBR="False", RouteAggregation="True", Intf1Pools="192.168.0.0/28")
    seen = observed(interface(1, "192.168.0.1", *run("192.168.0.16", 4)), tables=[table("rtb-1")])
    assert sets(plan(seen, settings=settings)) == [("rtb-1", "192.168.0.0/28", ""), ("rtb-1", "192.168.0.16/30", "")]


def test_a_pool_is_the_interfaces_on_its_device_index() -> None:
    settings = config(UseSBR="False", Intf2Pools="192.168.0.0/28")
    found = plan(observed(interface(1, "192.168.0.1"), tables=[table("rtb-1")]), settings=settings)
    assert sets(found) == [("rtb-1", "192.168.0.1/32", "")]
    (problem,) = found.problems
    assert problem.subject == "Intf2Pools" and "device index 2" in problem.text and not problem.fatal


def test_a_pool_that_overlaps_the_vpc_is_refused_and_its_addresses_are_routed_without_it() -> None:
    settings = config(UseSBR="False", Intf1Pools="10.0.0.0/8")
    found = plan(observed(interface(1, "10.99.0.1"), tables=[table("rtb-1")]), settings=settings)
    (problem,) = found.problems
    assert problem.fatal and problem.subject == "Intf1Pools" and "10.0.0.0/8" in problem.text
    assert "10.10.0.0/16" in problem.text
    assert sets(found) == [("rtb-1", "10.99.0.1/32", "")]


def test_a_pools_route_stays_while_one_of_its_addresses_does() -> None:
    before = held(["192.168.0.1", "192.168.0.2"], "192.168.0.0/28")
    before |= held(["192.168.0.2"], "192.168.0.0/28", vanished=NOW - 20)
    there = table("rtb-1", {"192.168.0.0/28": "eni-1"})
    found = plan(observed(interface(1, "192.168.0.1"), tables=[there]), before, POOL)  # type: ignore[arg-type]
    assert (found.actions, list(found.claims)) == ((), [ip_address("192.168.0.1")])
    last = plan(observed(interface(1), tables=[there]), held(["192.168.0.1"], "192.168.0.0/28", vanished=NOW - 20))  # type: ignore[arg-type]
    assert deletes(last) == [("rtb-1", "192.168.0.0/28")]


# Taken over ----------------------------------------------------------------------------------------------------------

ALL = "192.168.0.0/30"


def test_a_pod_that_fails_over_whole_costs_one_call_a_table() -> None:
    tables = [table(f"rtb-{number}", {ALL: "eni-9"}) for number in range(3)]
    assert sets(plan(observed(interface(1, *FOUR), tables=tables))) == [
        (f"rtb-{number}", ALL, "eni-9") for number in range(3)
    ]


def test_a_longer_route_wins_so_it_is_what_is_taken_over() -> None:
    """As of a pod that ran without RouteAggregation, on a node that is dead or is cut off."""
    old = {f"{text}/32": "eni-9" for text in FOUR[:2]}
    for dead in (True, False):
        found = plan(observed(interface(1, *FOUR), tables=[table("rtb-1", old, dead=dead)]))
        assert sets(found) == [("rtb-1", ALL, ""), *(("rtb-1", each, "eni-9") for each in old)]


def test_broader_routes_are_nobodys_claim() -> None:
    broad = {"0.0.0.0/0": "igw-1", "192.168.0.0/16": "tgw-1", "192.168.0.0/29": "eni-9", "192.168.0.0/24": "eni-1"}
    found = plan(observed(interface(1, *FOUR), tables=[table("rtb-1", broad)]))
    assert sets(found) == [("rtb-1", ALL, "")]


def test_one_address_of_many_is_conceded_alone_and_costs_nothing() -> None:
    before = held(FOUR, ALL)
    taken = table("rtb-1", {ALL: "eni-1", f"{FOUR[2]}/32": "eni-9"})
    found = plan(observed(interface(1, *FOUR), tables=[taken]), before)  # type: ignore[arg-type]
    assert [str(address) for address, each in found.claims.items() if each.conceded_to] == [FOUR[2]]
    assert found.claims[ip_address(FOUR[2])].conceded_to == "eni-9"
    again = plan(observed(interface(1, *FOUR), tables=[taken]), found.claims)
    assert (found.actions, again.actions) == ((), ())
    assert {str(each.destination) for each in again.claims.values()} == {ALL}


def test_it_is_taken_up_again_at_no_cost_when_the_takers_route_is_gone() -> None:
    before = held(FOUR, ALL) | held([FOUR[2]], ALL, conceded_to="eni-9", conceded_at=NOW - 20)
    found = plan(observed(interface(1, *FOUR), tables=[table("rtb-1", {ALL: "eni-1"})]), before)  # type: ignore[arg-type]
    assert found.actions == ()
    assert not any(each.conceded_to for each in found.claims.values())


def test_what_was_taken_over_with_a_broader_route_is_left_out() -> None:
    """A prefix of ours might be the longer one of the two."""
    before = held(FOUR[2:], ALL, conceded_to="eni-9", conceded_at=NOW - 20) | held(FOUR[:2], ALL)
    tables = [table("rtb-1", {ALL: "eni-1", "192.168.0.2/31": "eni-9"}, seen=NOW)]
    found = plan(observed(interface(1, *FOUR), tables=tables), before)  # type: ignore[arg-type]
    assert sets(found) == [("rtb-1", "192.168.0.0/31", "")]
    assert {str(each.destination) for each in found.claims.values() if not each.conceded_to} == {"192.168.0.0/31"}


def test_an_address_that_comes_anew_takes_back_itself_alone() -> None:
    """The others were conceded by the same route and stay with their new holder."""
    before = held(FOUR[1:], ALL, conceded_to="eni-9", conceded_at=NOW - 20)
    found = plan(observed(interface(1, *FOUR), tables=[table("rtb-1", {ALL: "eni-9"})]), before)  # type: ignore[arg-type]
    assert sets(found) == [("rtb-1", f"{FOUR[0]}/32", "")]
    assert sum(bool(each.conceded_to) for each in found.claims.values()) == 3


def test_an_address_that_joins_a_prefix_that_was_ours_looks_before_it_writes() -> None:
    """Replacing the route at once would take back all that is in it, if somebody took it over since it was seen."""
    before = held(FOUR[:3], ALL) | held([FOUR[3]], ALL, vanished=NOW - 3)
    seen = observed(interface(1, *FOUR), tables=[table("rtb-1", {ALL: "eni-1"}, seen=NOW - 30)])
    found = plan(seen, before)  # type: ignore[arg-type]
    assert (found.actions, found.needs) == ((), {Need.TABLES})
    for target, conceded in (("eni-1", 0), ("eni-9", 3)):
        looked = replace(seen, tables=(table("rtb-1", {ALL: target}, seen=NOW + 1),), at=NOW + 1)
        then = plan(looked, found.claims)
        assert sum(bool(each.conceded_to) for each in then.claims.values()) == conceded
        assert sets(then) == ([("rtb-1", f"{FOUR[3]}/32", "")] if conceded else [])
    anew = plan(seen, held(FOUR, ALL, vanished=NOW - 3))  # type: ignore[arg-type]
    assert sets(anew) == [("rtb-1", ALL, "eni-1")]  # all of them are claimed anew


def test_somebody_elses_broader_route_is_not_fought_for_while_ours_delivers() -> None:
    before = held(FOUR[:2], "192.168.0.0/31")
    there = table("rtb-1", {f"{text}/32": "eni-1" for text in FOUR[:2]} | {"192.168.0.0/31": "eni-9"})
    found = plan(observed(interface(1, *FOUR[:2]), tables=[there]), before)  # type: ignore[arg-type]
    assert (found.actions, any(each.conceded_to for each in found.claims.values())) == ((), False)


def test_what_a_longer_route_to_the_shared_eni_hides_is_taken_over_too() -> None:
    """Of another pod on this worker: when it deletes its /32s, what is below must be ours."""
    hidden = {f"{text}/32": "eni-1" for text in FOUR[:2]} | {"192.168.0.0/31": "eni-9", ALL: "eni-8"}
    found = plan(observed(interface(1, *FOUR), tables=[table("rtb-1", hidden)]))
    assert sets(found) == [("rtb-1", ALL, "eni-8"), ("rtb-1", "192.168.0.0/31", "eni-9")]
    assert found.claims[ip_address(FOUR[0])].held == {}
    uncovered = plan(observed(interface(1, *FOUR), tables=[table("rtb-1", {ALL: "eni-8"})]), found.claims)
    assert sets(uncovered) == [("rtb-1", ALL, "eni-8")]
    assert not any(each.conceded_to for each in uncovered.claims.values())


def test_a_claim_does_not_grow_over_somebody_elses_route_and_is_set_anew_when_its_own_is_missing() -> None:
    before = held(FOUR[:1], f"{FOUR[0]}/32") | held(FOUR[1:2], f"{FOUR[1]}/32")
    mine = {f"{text}/32": "eni-1" for text in FOUR[:2]}
    seen = observed(interface(1, *FOUR[:2]), tables=[table("rtb-1", mine | {"192.168.0.0/31": "eni-9"})])
    found = plan(seen, before)  # type: ignore[arg-type]
    assert (found.actions, [str(each.destination) for each in found.claims.values()]) == ((), list(mine))
    missing = table("rtb-1", {f"{FOUR[0]}/32": "eni-1", "192.168.0.0/31": "eni-9"})
    then = plan(replace(seen, tables=(missing,)), found.claims)
    assert sets(then) == [("rtb-1", f"{FOUR[1]}/32", "")]
    assert not any(each.conceded_to for each in then.claims.values())
    alone = plan(replace(seen, tables=(table("rtb-1", mine),)), found.claims)
    assert sets(alone) == [("rtb-1", "192.168.0.0/31", "")]


# Make before break ---------------------------------------------------------------------------------------------------


def test_a_prefix_that_grows_is_set_at_once_but_never_over_a_route_that_appeared_meanwhile() -> None:
    before = held(FOUR[:3], "192.168.0.0/31") | held(FOUR[2:3], f"{FOUR[2]}/32")
    there = table("rtb-1", {"192.168.0.0/31": "eni-1", f"{FOUR[2]}/32": "eni-1"}, seen=NOW - 30)
    found = plan(observed(interface(1, *FOUR), tables=[there]), before)  # type: ignore[arg-type]
    (action,) = found.actions
    assert isinstance(action, SetRoute) and action.unless_there and str(action.destination) == ALL
    assert found.needs == frozenset()
    assert {each.since for each in found.claims.values()} == {NOW - 50, NOW}  # only the new one begins


def after_growth(at: float, seen: float, routes: dict[str, str], own: float | None = None) -> Plan:
    """Four addresses share a prefix since NOW; `own`: when we wrote it, if EC2 has not shown it yet."""
    before = held(FOUR, ALL, aimed=NOW)
    there = table("rtb-1", routes, seen=seen)
    if own is not None:
        shown = {**there.routes, ip_network(ALL): replace(there.routes[ip_network(ALL)], seen=own)}
        there = replace(there, routes=shown)
    return plan(observed(interface(1, *FOUR), tables=[there], at=at), before)  # type: ignore[arg-type]


GROWN = {ALL: "eni-1", "192.168.0.0/31": "eni-1", f"{FOUR[2]}/32": "eni-1"}
DUE = NOW + WITHDRAW_ROUTES_AFTER


def test_what_delivered_before_is_deleted_when_a_late_look_shows_the_new_prefix() -> None:
    early = after_growth(NOW + 1, NOW + 1, GROWN)
    assert (early.actions, early.wake_at) == ((), DUE)
    old_look = after_growth(DUE, NOW + 1, GROWN)
    assert (old_look.actions, old_look.needs) == ((), {Need.TABLES})
    assert deletes(after_growth(DUE + 1, DUE, GROWN)) == [("rtb-1", "192.168.0.0/31"), ("rtb-1", f"{FOUR[2]}/32")]


def test_it_is_not_deleted_for_a_route_that_only_we_know_of() -> None:
    late = after_growth(DUE + 1, DUE, GROWN, own=DUE + 0.5)
    assert (late.actions, late.wake_at) == ((), DUE + 0.5 + CONFIRM_AFTER)
    asked = after_growth(DUE + 6, DUE, GROWN, own=DUE + 0.5)
    assert (asked.actions, asked.needs) == ((), {Need.TABLES})


def test_it_is_not_deleted_when_the_new_prefix_was_refused() -> None:
    """A quota, say: then what is there goes on delivering."""
    refused = after_growth(DUE + 1, DUE, {each: to for each, to in GROWN.items() if each != ALL})
    assert deletes(refused) == [] and sets(refused) == [("rtb-1", ALL, "")]


def test_a_route_to_the_eni_that_holds_others_addresses_is_not_ours() -> None:
    """Another pod on this worker shares the ENI."""
    settings = config(UseSBR="False", Intf1Pools="192.168.0.0/28")
    foreign = {"192.168.0.9/32": "eni-1", "192.168.0.0/31": "eni-1", "192.168.0.64/32": "eni-1"}
    there = table("rtb-1", {"192.168.0.0/28": "eni-1", f"{FOUR[0]}/32": "eni-1", **foreign}, seen=LATER)
    before = held([FOUR[0]], "192.168.0.0/28")
    found = plan(observed(interface(1, FOUR[0]), tables=[there], at=LATER), before, settings)  # type: ignore[arg-type]
    assert deletes(found) == [("rtb-1", f"{FOUR[0]}/32")]


def left_one(at: float, seen: float, routes: dict[str, str], before: Claims | None = None) -> Plan:
    """One of four addresses left at NOW."""
    given = before or held(FOUR, ALL) | held([FOUR[3]], ALL, vanished=NOW)  # type: ignore[operator]
    return plan(observed(interface(1, *FOUR[:3]), tables=[table("rtb-1", routes, seen=seen)], at=at), given)  # type: ignore


def test_an_address_that_leaves_does_not_take_its_prefix_apart_at_once() -> None:
    found = left_one(NOW + 1, NOW + 1, {ALL: "eni-1"})
    assert (found.actions, found.wake_at) == ((), DUE)
    back = plan(
        observed(interface(1, *FOUR), tables=[table("rtb-1", {ALL: "eni-1"}, seen=NOW + 2)], at=NOW + 2), found.claims
    )
    assert back.actions == () and {str(each.destination) for each in back.claims.values()} == {ALL}


def test_then_longer_routes_are_set_after_a_look_and_the_prefix_is_deleted_after_another() -> None:
    blind = left_one(DUE, NOW + 1, {ALL: "eni-1"})
    assert (blind.actions, blind.needs) == ((), {Need.TABLES})  # somebody may have taken the prefix over since
    narrower = left_one(DUE + 0.1, DUE + 0.1, {ALL: "eni-1"}, blind.claims)
    assert sets(narrower) == [("rtb-1", "192.168.0.0/31", ""), ("rtb-1", f"{FOUR[2]}/32", "")]
    assert deletes(narrower) == []
    whole = {ALL: "eni-1", "192.168.0.0/31": "eni-1", f"{FOUR[2]}/32": "eni-1"}
    at = DUE + WITHDRAW_ROUTES_AFTER + 1
    last = left_one(at, at, whole, narrower.claims)
    assert (sets(last), deletes(last)) == ([], [("rtb-1", ALL)])
    without = {each: to for each, to in whole.items() if each != ALL}
    done = left_one(at + 1, at + 1, without, last.claims)
    assert done.actions == () and set(done.claims) == {ip_address(text) for text in FOUR[:3]}
    assert all(each.scope is None for each in done.claims.values())


def test_a_prefix_that_was_taken_over_meanwhile_is_conceded_and_nothing_longer_is_set() -> None:
    blind = left_one(DUE, NOW + 1, {ALL: "eni-1"})
    found = left_one(DUE + 0.1, DUE + 0.1, {ALL: "eni-9"}, blind.claims)
    assert found.actions == ()
    assert {each.conceded_to for each in found.claims.values() if each.vanished is None} == {"eni-9"}


def test_switched_off_each_address_gets_its_own_route_before_the_prefix_goes() -> None:
    before = held(FOUR, ALL)
    there = table("rtb-1", {ALL: "eni-1"}, seen=NOW)
    found = plan(observed(interface(1, *FOUR), tables=[there]), before, APART)  # type: ignore[arg-type]
    assert sets(found) == [("rtb-1", f"{text}/32", "") for text in FOUR]
    routes = {ALL: "eni-1", **{f"{text}/32": "eni-1" for text in FOUR}}
    late = table("rtb-1", routes, seen=LATER)
    last = plan(observed(interface(1, *FOUR), tables=[late], at=LATER), found.claims, APART)
    assert (sets(last), deletes(last)) == ([], [("rtb-1", ALL)])


def test_without_a_look_at_the_tables_nothing_is_set_and_nothing_forgotten() -> None:
    before = held(FOUR, ALL, scope=ip_network("192.168.0.0/29"), aimed=NOW - 5)
    found = plan(observed(interface(1, *FOUR), tables=None), before)  # type: ignore[arg-type]
    assert (found.actions, found.needs, found.claims) == ((), {Need.TABLES}, before)


def test_an_address_that_left_is_remembered_while_a_longer_route_holds_it() -> None:
    """Its prefix stays for others that left later; without it, nothing would tell that the longer route is ours."""
    before = held(FOUR[:1], ALL) | held([FOUR[1]], ALL, vanished=NOW - 5) | held(FOUR[2:], ALL, vanished=NOW - 10)
    there = table("rtb-1", {ALL: "eni-1", "192.168.0.2/31": "eni-1"}, seen=NOW)
    found = plan(observed(interface(1, FOUR[0]), tables=[there]), before)  # type: ignore[arg-type]
    assert deletes(found) == [("rtb-1", "192.168.0.2/31")]
    assert set(found.claims) == {ip_address(text) for text in FOUR}
    gone = plan(observed(interface(1, FOUR[0]), tables=[table("rtb-1", {ALL: "eni-1"})]), found.claims)
    assert (gone.actions, set(gone.claims)) == ((), {ip_address(text) for text in FOUR[:2]})


# On exit -------------------------------------------------------------------------------------------------------------


def test_on_exit_a_prefix_is_deleted_once() -> None:
    settings = config(DeleteRoutesOnExit="True", RouteAggregation="True")
    there = table(
        "rtb-1", {ALL: "eni-1", f"{FOUR[0]}/32": "eni-1", "192.168.0.0/24": "eni-1", "192.168.0.9/32": "eni-1"}
    )
    gone = make_release(observed(interface(1, *FOUR), tables=[there]), held(FOUR, ALL), settings, NOW)  # type: ignore
    assert [str(action.destination) for action in gone if isinstance(action, DeleteRoute)] == [ALL, f"{FOUR[0]}/32"]


def test_a_claim_that_moves_to_another_eni_is_claimed_anew_with_its_own_prefix() -> None:
    before = held(FOUR, ALL)
    facts = {"enis": {mac(1): eni(1), mac(2): eni(2)}, "states": {"eni-1": state(1), "eni-2": state(2)}}
    seen = observed(
        interface(1, *FOUR[:3]), interface(2, FOUR[3]), tables=[table("rtb-1", {ALL: "eni-1"}, seen=NOW)], **facts
    )
    found = plan(seen, before)  # type: ignore[arg-type]
    moved = found.claims[ip_address(FOUR[3])]
    assert (moved.eni_id, str(moved.destination), moved.since) == ("eni-2", f"{FOUR[3]}/32", NOW)
    assert ("rtb-1", f"{FOUR[3]}/32", "") in sets(found)
    assert moved.kind is PlacementKind.HOST_ROUTE
