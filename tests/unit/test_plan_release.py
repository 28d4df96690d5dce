"""What became of the withdrawals of a sidecar that stops."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from tests.unit.builders import NOW, claim, claims
from vipmanager.actions import DeleteRoute, UnassignAddress, Withdrawal
from vipmanager.plan.release import Released, released

ONE, TWO, OWN = "192.168.0.1", "192.168.0.2", "10.10.1.50"
TABLES = ("rtb-1", "rtb-2", "rtb-3")
HELD = dict.fromkeys(TABLES, NOW)


def delete(table: str, destination: str = ONE, eni: str = "eni-1") -> DeleteRoute:
    network = ip_network(destination)
    return DeleteRoute(table, network, eni, network.network_address)


def unassign(address: str = OWN) -> UnassignAddress:
    return UnassignAddress("eni-1", ip_address(address), "vanished")


def outcome(held: object, wanted: list[Withdrawal], failed: list[Withdrawal]) -> Released:
    return released(held, wanted, {action.key for action in failed})  # type: ignore[arg-type]


def test_an_address_is_released_when_every_table_is_done() -> None:
    held = claims(claim(ONE, held=HELD), claim(TWO, held=HELD))
    wanted = [delete(table, address) for table in TABLES for address in (ONE, TWO)]
    found = outcome(held, wanted, [delete("rtb-2", TWO)])
    assert found.gone == (ip_address(ONE),)
    assert found.left == {ip_address(TWO): (delete("rtb-2", TWO),)}
    assert found.claims == claims(claim(TWO, held={"rtb-2": NOW}))


def test_an_own_address_is_released_when_its_eni_has_it_no_more() -> None:
    held = claims(claim(OWN, held={"eni-1": NOW}), claim("10.10.1.51", held={"eni-1": NOW}))
    wanted: list[Withdrawal] = [unassign(), unassign("10.10.1.51")]
    found = outcome(held, wanted, [unassign("10.10.1.51")])
    assert (found.gone, [*found.left], [*found.claims.values()]) == (
        (ip_address(OWN),),
        [ip_address("10.10.1.51")],
        [claim("10.10.1.51", held={"eni-1": NOW})],
    )


def test_what_was_not_to_be_released_is_neither() -> None:
    """Kept by the settings, taken over by another, or not shown by EC2 as ours."""
    held = claims(claim(ONE, held=HELD), claim(TWO, conceded_to="eni-9"), claim(OWN, held={"eni-1": NOW}))
    found = outcome(held, [], [])
    assert (found.gone, found.left, found.claims) == ((), {}, held)


def test_addresses_that_share_a_route_are_released_with_it() -> None:
    """And one that a longer route of its own delivers, or did, only with that as well."""
    shared = ip_network("192.168.0.0/30")
    held = claims(*(replace(claim(each, held=HELD), destination=shared) for each in (ONE, TWO)))
    wanted: list[Withdrawal] = [delete(table, str(shared)) for table in TABLES]
    assert outcome(held, wanted, []).gone == (ip_address(ONE), ip_address(TWO))
    assert outcome(held, wanted, [delete("rtb-1", str(shared))]).gone == ()
    wanted.append(delete("rtb-1", TWO))
    found = outcome(held, wanted, [delete("rtb-1", TWO)])
    assert (found.gone, [*found.left]) == ((ip_address(ONE),), [ip_address(TWO)])


def test_the_route_of_another_eni_is_another_matter() -> None:
    held = claims(claim(ONE, held=HELD), claim("192.168.0.3", 2, held=HELD))
    wanted: list[Withdrawal] = [delete("rtb-1"), delete("rtb-1", "192.168.0.0/30", "eni-2")]
    found = outcome(held, wanted, [wanted[1]])
    assert (found.gone, [*found.left]) == ((ip_address(ONE),), [ip_address("192.168.0.3")])
