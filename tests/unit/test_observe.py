"""One view of both sides: describes lag, our own writes are known, doubts are asked about."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.imds import FakeImds
from tests.doubles.netlink import FakeNetlink
from tests.unit.builders import NOW, OUTSIDE, config, eni, mac, table
from vipmanager.actions import (
    Action,
    AssignAddress,
    AssociateEip,
    DeleteRoute,
    DisableSourceDestCheck,
    SetRoute,
    UnassignAddress,
)
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import Claim, Claims, ElasticIp, EniDescription, PlacementKind, RouteTable
from vipmanager.observe import SETTLE, SHARED_EACH, SHARED_FOR, View, discover, known_to_imds
from vipmanager.plan.aggregate import WITHDRAW_ROUTES_AFTER

ROUTED = f"{OUTSIDE}/32"
NET = ip_network(ROUTED)
ADDRESS, OWN = ip_address(OUTSIDE), ip_address("10.10.1.50")
WRITE = SetRoute("rtb-1", NET, "eni-1", "", ADDRESS)


@pytest.fixture
def view() -> View:
    return View(config().route_tables)


def target(view: View, table_id: str = "rtb-1") -> str | None:
    """Where the view sees the route lead."""
    tables = {each.id: each for each in view.observed().tables or ()}
    found = tables[table_id].routes.get(NET)
    return found.target if found else None


def described(*addresses: str, check: bool = False, live: bool = True) -> EniDescription:
    """eni-1 as described, with 10.10.1.10 as its primary address."""
    primary = ip_address("10.10.1.10")
    held = (primary, *map(ip_address, addresses))
    return EniDescription("eni-1", mac(1), 1, "subnet-1", "vpc-1", "1", held, frozenset({primary}), check, live)


# Tables --------------------------------------------------------------------------------------------------------------


def test_before_anything_is_read_nothing_is_known(view: View) -> None:
    seen = view.observed()
    assert (seen.tables, seen.subnets, dict(seen.states), dict(seen.enis)) == (None, None, {}, {})


def test_edge_tables_and_tables_of_other_tags_are_left_out() -> None:
    view = View(config(VPCRTTag="use=yes").route_tables)
    tables = [RouteTable(f"rtb-{number}", {}, (), tags, edge) for number, (tags, edge) in enumerate(
        [({"use": "yes"}, False), ({"use": "no"}, False), ({"use": "yes"}, True), ({}, False)]
    )]  # fmt: skip
    view.learn_tables(tables)
    assert [each.id for each in view.observed().tables or ()] == ["rtb-0"]


def test_a_table_that_is_gone_is_forgotten(view: View) -> None:
    view.learn_tables([table("rtb-1"), table("rtb-2")])
    view.learn_tables([table("rtb-2", seen=NOW + 1)])
    assert [each.id for each in view.observed().tables or ()] == ["rtb-2"]


def test_our_write_is_known_without_asking(view: View) -> None:
    view.learn_tables([table("rtb-1"), table("rtb-2")])
    view.wrote(WRITE, NOW + 1)
    assert (target(view), target(view, "rtb-2")) == ("eni-1", None)
    view.wrote(DeleteRoute("rtb-1", NET, "eni-1", ADDRESS), NOW + 2)
    assert target(view) is None


def test_a_describe_that_lags_does_not_overrule_our_write_and_another_is_asked_for(view: View) -> None:
    view.learn_tables([table("rtb-1", {ROUTED: "eni-9"})])
    view.wrote(WRITE, NOW + 1)
    view.learn_tables([table("rtb-1", {ROUTED: "eni-9"}, seen=NOW + 2)])
    assert target(view) == "eni-1"
    assert view.recheck_at == NOW + 1 + SETTLE


def test_that_other_one_is_believed(view: View) -> None:
    view.learn_tables([table("rtb-1")])
    view.wrote(WRITE, NOW + 1)
    view.learn_tables([table("rtb-1", {ROUTED: "eni-9"}, seen=NOW + 1 + SETTLE)])
    assert target(view) == "eni-9"
    view.learn_tables([table("rtb-1", seen=NOW + 2 + SETTLE)])
    assert target(view) is None


def test_a_describe_that_agrees_asks_for_nothing(view: View) -> None:
    view.learn_tables([table("rtb-1")])
    view.wrote(WRITE, NOW + 1)
    view.learn_tables([table("rtb-1", {ROUTED: "eni-1"}, seen=NOW + 2)])
    assert view.recheck_at is None and target(view) == "eni-1"


def test_a_lagging_describe_does_not_bring_back_what_we_deleted(view: View) -> None:
    view.learn_tables([table("rtb-1", {ROUTED: "eni-1"})])
    view.wrote(DeleteRoute("rtb-1", NET, "eni-1", ADDRESS), NOW + 1)
    view.learn_tables([table("rtb-1", {ROUTED: "eni-1"}, seen=NOW + 2)])
    assert target(view) is None and view.recheck_at == NOW + 1 + SETTLE


def test_a_write_before_the_first_describe_is_not_forgotten(view: View) -> None:
    view.wrote(WRITE, NOW)
    view.learn_tables([table("rtb-1", seen=NOW + 1)])
    assert target(view) == "eni-1"


def test_our_write_shows_no_newer_sight_of_the_table(view: View) -> None:
    """What a describe did not show, nobody has seen: the table keeps the time of the describe."""
    view.learn_tables([table("rtb-1")])
    view.wrote(WRITE, NOW + 1)
    (seen,) = view.observed().tables or ()
    assert (seen.seen, seen.routes[NET].seen) == (NOW, NOW + 1)


def test_other_routes_of_a_table_are_kept(view: View) -> None:
    view.learn_tables([table("rtb-1", {"10.0.0.0/8": "tgw-1"})])
    view.wrote(WRITE, NOW + 1)
    (seen,) = view.observed().tables or ()
    assert {str(to): route.target for to, route in seen.routes.items()} == {"10.0.0.0/8": "tgw-1", ROUTED: "eni-1"}


# ENIs ----------------------------------------------------------------------------------------------------------------


def test_a_state_tells_addresses_and_when_they_were_seen(view: View) -> None:
    view.learn_states([described(str(OWN), check=True)], ["eni-1"], NOW)
    state = view.observed().states["eni-1"]
    assert state.addresses == {ip_address("10.10.1.10"): NOW, OWN: NOW}
    assert (state.primary, state.source_dest_check, state.seen) == ({ip_address("10.10.1.10")}, True, NOW)


@pytest.mark.parametrize("assigned", [True, False])
def test_a_lagging_describe_does_not_overrule_an_address_we_wrote(view: View, assigned: bool) -> None:
    before, after = ([], [str(OWN)]) if assigned else ([str(OWN)], [])
    action: Action = AssignAddress("eni-1", OWN) if assigned else UnassignAddress("eni-1", OWN, "")
    view.learn_states([described(*before)], ["eni-1"], NOW)
    view.wrote(action, NOW + 1)
    assert (OWN in view.observed().states["eni-1"].addresses) is assigned
    view.learn_states([described(*before)], ["eni-1"], NOW + 2)
    assert (OWN in view.observed().states["eni-1"].addresses) is assigned
    assert view.recheck_at == NOW + 1 + SETTLE
    view.learn_states([described(*before)], ["eni-1"], NOW + 1 + SETTLE)
    assert (OWN in view.observed().states["eni-1"].addresses) is not assigned
    view.learn_states([described(*after)], ["eni-1"], NOW + 2 + SETTLE)
    assert (OWN in view.observed().states["eni-1"].addresses) is assigned


def test_the_check_that_we_turned_off_is_known_to_be_off(view: View) -> None:
    view.learn_states([described(check=True)], ["eni-1"], NOW)
    view.wrote(DisableSourceDestCheck("eni-1"), NOW + 1)
    assert not view.observed().states["eni-1"].source_dest_check


def test_a_lagging_describe_does_not_turn_the_check_on_again(view: View) -> None:
    view.learn_states([described(check=True)], ["eni-1"], NOW)
    view.wrote(DisableSourceDestCheck("eni-1"), NOW + 1)
    view.learn_states([described(check=True)], ["eni-1"], NOW + 2)
    assert not view.observed().states["eni-1"].source_dest_check
    view.learn_states([described(check=True)], ["eni-1"], NOW + 1 + SETTLE)
    assert view.observed().states["eni-1"].source_dest_check


def test_who_was_asked_for_and_not_found_is_held_by_nobody(view: View) -> None:
    view.learn_holders([described(str(OWN), live=False)], [OWN, ADDRESS], NOW)
    holders = view.observed().holders
    assert (holders[OWN].eni_id, holders[OWN].live, holders[OWN].primary) == ("eni-1", False, False)
    assert (holders[ADDRESS].eni_id, holders[ADDRESS].live) == ("", False)


def test_an_address_we_freed_is_held_by_nobody(view: View) -> None:
    view.learn_holders([described(str(OWN))], [OWN], NOW)
    view.wrote(UnassignAddress("eni-1", OWN, "taken over"), NOW + 1)
    assert (view.observed().holders[OWN].eni_id, view.observed().holders[OWN].seen) == ("", NOW + 1)


def test_a_write_that_found_the_world_otherwise_is_asked_about(view: View) -> None:
    view.learn_states([described(str(OWN))], ["eni-1"], NOW)
    view.learn_holders([described(str(OWN))], [OWN], NOW)
    view.doubt(UnassignAddress("eni-1", OWN, "vanished"))
    seen = view.observed()
    assert OWN not in seen.states["eni-1"].addresses and OWN not in seen.holders


def test_how_full_a_table_or_an_eni_is(view: View) -> None:
    assert view.fullness(WRITE) is None
    view.learn_tables([table("rtb-1", {"10.0.0.0/8": "tgw-1", "192.168.7.0/24": "tgw-1", "fd00::/8": "tgw-1"})])
    view.learn_states([described(str(OWN), "2600:1f14:0:1::50")], ["eni-1"], NOW)
    assert view.fullness(WRITE) == 2
    assert view.fullness(AssignAddress("eni-1", ip_address("10.10.1.51"))) == 2
    assert view.fullness(AssignAddress("eni-1", ip_address("2600:1f14:0:1::51"))) == 1
    assert view.fullness(DisableSourceDestCheck("eni-1")) is None


# Elastic IPs ---------------------------------------------------------------------------------------------------------

EIP = "eipalloc-00000001"
BIND = AssociateEip(EIP, "eni-1", IPv4Address("10.10.1.50"))


def elastic(eni_id: str = "", seen: float = 0.0) -> ElasticIp:
    """As described: bound to 10.10.1.50 of an ENI, or to nothing."""
    return ElasticIp(EIP, "3.3.3.3", eni_id, BIND.address if eni_id else None, seen, bool(eni_id))


def test_an_elastic_ip_that_is_not_shown_does_not_exist(view: View) -> None:
    view.learn_eips([elastic("eni-9")], [EIP, "eipalloc-2"], NOW)
    assert view.observed().eips == {EIP: elastic("eni-9", NOW), "eipalloc-2": None}
    view.learn_eips([elastic()], [EIP], NOW + 1)
    assert view.observed().eips == {EIP: elastic("", NOW + 1), "eipalloc-2": None}


def test_a_binding_that_we_made_is_known_without_asking(view: View) -> None:
    view.learn_eips([elastic("eni-9")], [EIP], NOW)
    view.wrote(BIND, NOW + 1)
    assert view.observed().eips == {EIP: elastic("eni-1", NOW + 1)}


@pytest.mark.parametrize("shown", [[elastic("eni-9")], [elastic()], []], ids=["former holder", "unbound", "absent"])
def test_a_lagging_describe_does_not_overrule_a_binding_that_we_made(view: View, shown: list[ElasticIp]) -> None:
    view.learn_eips([elastic("eni-9")], [EIP], NOW)
    view.wrote(BIND, NOW + 1)
    view.learn_eips(shown, [EIP], NOW + 2)
    assert view.observed().eips == {EIP: elastic("eni-1", NOW + 1)}
    assert view.recheck_at == NOW + 1 + SETTLE
    view.learn_eips(shown, [EIP], NOW + 1 + SETTLE)
    assert view.observed().eips[EIP] != elastic("eni-1", NOW + 1)
    view.learn_eips([elastic("eni-7")], [EIP], NOW + 1.5 + SETTLE)
    assert view.observed().eips == {EIP: elastic("eni-7", NOW + 1.5 + SETTLE)}


def test_a_describe_that_agrees_with_our_binding_asks_for_nothing(view: View) -> None:
    view.wrote(BIND, NOW)
    view.learn_eips([elastic("eni-1")], [EIP], NOW + 2)
    assert view.recheck_at is None and view.observed().eips == {EIP: elastic("eni-1", NOW + 2)}


# Snapshots -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_does_not_change_afterwards(view: View) -> None:
    view.learn_tables([table("rtb-1")])
    view.learn_states([described()], ["eni-1"], NOW)
    before = view.observed()
    view.wrote(WRITE, NOW + 1)
    view.wrote(AssignAddress("eni-1", OWN), NOW + 1)
    view.learn_enis({mac(1): eni()}, ())
    assert NET not in (before.tables or ())[0].routes
    assert OWN not in before.states["eni-1"].addresses and not before.enis


# Discovery -----------------------------------------------------------------------------------------------------------


def test_the_kernel_is_read_and_foreign_macs_that_left_are_forgotten(view: View) -> None:
    netlink = FakeNetlink()
    netlink.add("net1", mac(1), OUTSIDE)
    netlink.add("net7", mac(7))
    view.look(netlink)
    assert view.observed().pending == {mac(1), mac(7)}
    view.learn_enis({mac(1): eni()}, [mac(1), mac(7)])
    assert (view.observed().pending, view.observed().foreign) == (frozenset(), {mac(7)})
    netlink.remove("net7")
    view.look(netlink)
    netlink.add("net7", mac(7))
    view.look(netlink)
    assert view.observed().pending == {mac(7)}
    netlink.close()


def test_a_mac_that_was_foreign_and_is_found_is_foreign_no_more(view: View) -> None:
    view.learn_enis({}, [mac(1)])
    view.learn_enis({mac(1): eni()}, [])
    assert view.observed().foreign == frozenset()


@pytest.fixture
def ec2() -> FakeEc2:
    made = FakeEc2()
    made.add_vpc(VPC, "10.10.0.0/16", "2600:1f14::/56")
    made.add_subnet("subnet-1", "10.10.1.0/24", "2600:1f14:0:1::/64")
    made.add_eni("eni-1", mac(1), 1, "subnet-1", "10.10.1.10")
    made.add_eni("eni-2", mac(2), 2, "subnet-1", "10.10.1.11")
    made.add_table("rtb-1")
    return made


def test_imds_is_enough(ec2: FakeEc2) -> None:
    found = discover([mac(1), mac(9)], FakeImds(ec2, "eni-1", "eni-2"), ec2)
    assert set(found) == {mac(1), mac(2)} and ec2.faults.calls == []


def test_ec2_tells_the_same_where_imds_cannot_be_reached(ec2: FakeEc2) -> None:
    imds = FakeImds(ec2, "eni-1", "eni-2")
    expected = imds.enis()
    imds.faults.fail("enis")
    found = discover([mac(1), mac(2), mac(9)], imds, ec2)
    assert found == expected
    assert [call.operation for call in ec2.faults.calls] == ["enis_by_mac", "subnets", "route_tables"]


def test_when_neither_answers_both_reasons_are_told(ec2: FakeEc2) -> None:
    imds = FakeImds(ec2, "eni-1")
    imds.faults.fail("enis", code="ImdsDown")
    ec2.faults.fail("enis_by_mac", ErrorKind.DENIED, code="Ec2Denied")
    with pytest.raises(CallError) as caught:
        discover([mac(1)], imds, ec2)
    assert caught.value.kind is ErrorKind.DENIED
    assert "ImdsDown" in str(caught.value) and "Ec2Denied" in str(caught.value)


def test_a_vpc_of_which_ec2_shows_nothing_is_a_failure_that_says_so(ec2: FakeEc2) -> None:
    """As in a shared VPC, whose route tables another account owns."""
    imds = FakeImds(ec2, "eni-1")
    imds.faults.fail("enis")
    bare = FakeEc2()
    bare.set(ec2.state)
    bare.set(type(ec2.state)(vpcs=ec2.state.vpcs, subnets=ec2.state.subnets, enis=ec2.state.enis))
    with pytest.raises(CallError, match="vpc-1"):
        discover([mac(1)], imds, bare)


def test_at_the_start_a_blocked_imds_is_no_failure(ec2: FakeEc2) -> None:
    imds = FakeImds(ec2, "eni-1")
    assert set(known_to_imds(imds)) == {mac(1)}
    imds.faults.fail("enis")
    assert known_to_imds(imds) == {}


def test_an_eni_that_is_no_longer_described_is_forgotten(view: View) -> None:
    view.learn_states([described()], ["eni-1"], NOW)
    assert set(view.observed().states) == {"eni-1"}
    view.learn_states([], ["eni-1"], NOW + 1)
    assert not view.observed().states


# Another pod on the same ENI -----------------------------------------------------------------------------------------

CLAIM = Claim(ADDRESS, "eni-1", PlacementKind.HOST_ROUTE, NET, NOW)
HELD = replace(CLAIM, held={"rtb-1": NOW})


@pytest.mark.parametrize("before", [{}, {ADDRESS: CLAIM}])
def test_what_was_ours_before_we_wrote_it_is_looked_at_again_and_again(view: View, before: Claims) -> None:
    """Another pod on this ENI may take it back, and EC2 does not show whose it is."""
    view.at = NOW
    view.claimed(before, {ADDRESS: HELD})
    looks = []
    while view.recheck_at is not None:
        view.at = view.recheck_at
        looks.append(view.at - NOW)
        view.recheck_at = None
        view.learn_tables([table("rtb-1", {ROUTED: "eni-1"}, seen=view.at)])
    assert looks[0] == SHARED_EACH
    assert SHARED_FOR <= looks[-1] < SHARED_FOR + SHARED_EACH
    assert looks[-1] > WITHDRAW_ROUTES_AFTER + SHARED_EACH


@pytest.mark.parametrize("before", [{ADDRESS: HELD}, {ADDRESS: replace(CLAIM, held={"rtb-2": NOW})}])
def test_what_was_held_before_is_not(view: View, before: Claims) -> None:
    view.at = NOW
    view.claimed(before, {ADDRESS: HELD})
    assert view.recheck_at is None


def test_what_we_wrote_is_not(view: View) -> None:
    view.at = NOW
    view.wrote(WRITE, NOW)
    view.claimed({}, {ADDRESS: HELD})
    assert view.recheck_at is None


def test_a_route_to_our_own_eni_that_was_written_again_is(view: View) -> None:
    """It was seen before the claim began."""
    view.at = NOW
    view.wrote(replace(WRITE, replaces="eni-1"), NOW)
    view.claimed({}, {ADDRESS: HELD})
    assert view.recheck_at == NOW + SHARED_EACH
