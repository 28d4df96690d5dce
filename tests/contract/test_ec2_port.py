"""The contract of Ec2Port, sentence by sentence, against the double and against the real client over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.contract.ec2_fixtures import MakeClient, account, endpoint, make_client, module_patch, trimmed_model
from tests.contract.ec2_worlds import (
    ADDRESSES_PER_ENI,
    CIDR_A,
    CIDR_B,
    PRIMARY_A,
    PRIMARY_A2,
    ROUTES_PER_TABLE,
    Ec2World,
    FakeWorld,
    LabWorld,
    a,
)
from vipmanager.clients.ec2 import Ec2Client
from vipmanager.errors import CallError, ErrorKind

__all__ = ["account", "endpoint", "make_client", "module_patch", "trimmed_model"]

OUTSIDE = [ip_network("192.168.0.1/32"), ip_network("2001:db8::1/128")]
GONE = "eni-0123456789abcdef0"


@pytest.fixture(scope="module")
def real_clients(make_client: MakeClient) -> Callable[[str], Ec2Client]:
    """One client for each of botocore's models; making one takes half a second."""
    made: dict[str, Ec2Client] = {}

    def get(model: str) -> Ec2Client:
        if model not in made:
            made[model] = make_client(trimmed=model == "trimmed")
        return made[model]

    return get


@pytest.fixture(params=["fake", "trimmed", "full"])
def world(request: pytest.FixtureRequest) -> Iterator[Ec2World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    clients = request.getfixturevalue("real_clients")
    yield LabWorld(request.getfixturevalue("account"), clients(request.param))


def fails(kind: ErrorKind, call: Callable[..., object], *arguments: Any) -> CallError:
    """Expect a call to fail as this kind."""
    with pytest.raises(CallError) as caught:
        call(*arguments)
    assert caught.value.kind is kind, caught.value
    return caught.value


# Reads ---------------------------------------------------------------------------------------------------------------


def test_warm_up_is_idempotent(world: Ec2World) -> None:
    world.port.warm_up()
    world.port.warm_up()
    assert world.port.subnets(world.vpc)


def test_route_tables_are_all_of_the_vpc_and_no_others(world: Ec2World) -> None:
    found = {table.id for table in world.port.route_tables(world.vpc)}
    assert found == {*world.tables, world.edge}


def test_more_than_a_hundred_route_tables_are_all_found(world: Ec2World) -> None:
    more = world.add_tables(110)
    found = [table.id for table in world.port.route_tables(world.vpc)]
    assert sorted(found) == sorted([*world.tables, world.edge, *more])


def test_edge_tables_are_flagged(world: Ec2World) -> None:
    assert {table.id for table in world.port.route_tables(world.vpc) if table.edge} == {world.edge}


def test_route_tables_carry_their_tags(world: Ec2World) -> None:
    world.tag(world.tables[0], "vipmanager", "yes")
    world.tag(world.tables[0], "Name", "α = b")
    tags = {table.id: table.tags for table in world.port.route_tables(world.vpc)}
    assert tags[world.tables[0]] == {"vipmanager": "yes", "Name": "α = b"}
    assert tags[world.tables[1]] == {}


def test_route_tables_tell_static_and_local_routes_apart(world: Ec2World) -> None:
    for destination in OUTSIDE:
        world.port.create_route(world.tables[0], destination, world.enis["a"])
    table = {table.id: table for table in world.port.route_tables(world.vpc)}[world.tables[0]]
    assert {to: (route.destination, route.target, route.live) for to, route in table.routes.items()} == {
        to: (to, world.enis["a"], True) for to in OUTSIDE
    }
    assert {cidr for cidr in table.local if cidr.version == 4} == {ip_network("10.10.0.0/16")}
    assert any(world.v6(5) in cidr for cidr in table.local if cidr.version == 6)


def test_a_route_to_a_detached_eni_is_not_live(world: Ec2World) -> None:
    world.port.create_route(world.tables[0], OUTSIDE[0], world.enis["a"])
    world.detach(world.enis["a"])
    table = {table.id: table for table in world.port.route_tables(world.vpc)}[world.tables[0]]
    assert (table.routes[OUTSIDE[0]].target, table.routes[OUTSIDE[0]].live) == (world.enis["a"], False)


def test_observations_carry_the_time_of_the_question(world: Ec2World) -> None:
    world.port.create_route(world.tables[0], OUTSIDE[0], world.enis["a"])
    for table in world.port.route_tables(world.vpc):
        assert table.seen > 0
        assert all(route.seen == table.seen for route in table.routes.values())


def test_enis_are_described_in_full(world: Ec2World) -> None:
    world.port.assign(world.enis["b"], [ip_address("10.10.2.77")])
    (eni,) = world.port.enis([world.enis["b"]])
    assert (eni.id, eni.mac, eni.device_index) == (world.enis["b"], world.macs["b"], 2)
    assert (eni.subnet_id, eni.vpc_id, eni.owner_id) == (world.subnet_ids["b"], world.vpc, world.account)
    assert set(eni.addresses) == {ip_address("10.10.2.10"), ip_address("10.10.2.77")}
    assert eni.primary == {ip_address("10.10.2.10")}
    assert eni.source_dest_check and eni.live


def test_a_detached_eni_is_not_live(world: Ec2World) -> None:
    world.detach(world.enis["a"])
    (eni,) = world.port.enis([world.enis["a"]])
    assert not eni.live


def test_an_eni_that_does_not_exist_is_left_out(world: Ec2World) -> None:
    found = world.port.enis([world.enis["a"], GONE, world.enis["b"]])
    assert {eni.id for eni in found} == {world.enis["a"], world.enis["b"]}
    assert world.port.enis([GONE]) == ()


def test_enis_by_mac_are_the_attached_ones(world: Ec2World) -> None:
    asked = [world.macs["a"], world.macs["b"], "02:ff:ff:ff:ff:ff"]
    assert {eni.id for eni in world.port.enis_by_mac(asked)} == {world.enis["a"], world.enis["b"]}
    world.detach(world.enis["a"])
    assert {eni.id for eni in world.port.enis_by_mac(asked)} == {world.enis["b"]}


def test_enis_holding_finds_primary_and_secondary_addresses_of_both_families(world: Ec2World) -> None:
    world.port.assign(world.enis["a"], [a(50)])
    world.port.assign(world.enis["a2"], [world.v6(80)])
    found = world.port.enis_holding(world.vpc, [a(50), world.v6(80), ip_address("10.10.2.10"), a(99)])
    assert {eni.id for eni in found} == set(world.enis.values())
    assert {eni.id for eni in world.port.enis_holding(world.vpc, [world.v6(80)])} == {world.enis["a2"]}
    assert world.port.enis_holding(world.vpc, [a(99)]) == ()


def test_enis_holding_names_an_eni_once(world: Ec2World) -> None:
    world.port.assign(world.enis["a"], [a(50)])
    world.port.assign(world.enis["a"], [world.v6(80)])
    assert [eni.id for eni in world.port.enis_holding(world.vpc, [a(50), world.v6(80)])] == [world.enis["a"]]


def test_enis_holding_keeps_to_the_vpc(world: Ec2World) -> None:
    assert world.port.enis_holding(world.vpc, [ip_address("10.20.1.10")]) == ()


def test_subnets_are_the_vpcs_with_their_cidrs_of_both_families(world: Ec2World) -> None:
    found = {subnet.id: set(subnet.cidrs) for subnet in world.port.subnets(world.vpc)}
    assert found == {
        world.subnet_ids["a"]: {ip_network(CIDR_A), world.cidr6},
        world.subnet_ids["b"]: {ip_network(CIDR_B)},
    }


# Routes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", OUTSIDE, ids=["ipv4", "ipv6"])
def test_create_route_makes_it_in_that_table_only(world: Ec2World, destination: Any) -> None:
    world.port.create_route(world.tables[0], destination, world.enis["a"])
    assert world.targets(world.tables[0]) == {destination: world.enis["a"]}
    assert world.targets(world.tables[1]) == {}


@pytest.mark.parametrize("destination", OUTSIDE, ids=["ipv4", "ipv6"])
def test_create_route_of_a_route_that_is_there_is_a_race_and_changes_nothing(world: Ec2World, destination: Any) -> None:
    world.port.create_route(world.tables[0], destination, world.enis["a"])
    fails(ErrorKind.RACE, world.port.create_route, world.tables[0], destination, world.enis["b"])
    assert world.targets(world.tables[0]) == {destination: world.enis["a"]}


@pytest.mark.parametrize("destination", OUTSIDE, ids=["ipv4", "ipv6"])
def test_replace_route_moves_it(world: Ec2World, destination: Any) -> None:
    world.port.create_route(world.tables[0], destination, world.enis["a"])
    world.port.replace_route(world.tables[0], destination, world.enis["b"])
    assert world.targets(world.tables[0]) == {destination: world.enis["b"]}


@pytest.mark.parametrize("destination", OUTSIDE, ids=["ipv4", "ipv6"])
def test_replace_route_of_a_route_that_is_not_there_is_a_race(world: Ec2World, destination: Any) -> None:
    fails(ErrorKind.RACE, world.port.replace_route, world.tables[0], destination, world.enis["a"])
    assert world.targets(world.tables[0]) == {}


@pytest.mark.parametrize("destination", OUTSIDE, ids=["ipv4", "ipv6"])
def test_delete_route_deletes_it_whatever_it_points_to(world: Ec2World, destination: Any) -> None:
    world.port.create_route(world.tables[0], destination, world.enis["b"])
    world.port.create_route(world.tables[1], destination, world.enis["a"])
    world.port.delete_route(world.tables[0], destination)
    assert world.targets(world.tables[0]) == {}
    assert world.targets(world.tables[1]) == {destination: world.enis["a"]}


@pytest.mark.parametrize("destination", OUTSIDE, ids=["ipv4", "ipv6"])
def test_deleting_a_route_that_is_not_there_is_no_error(world: Ec2World, destination: Any) -> None:
    world.port.delete_route(world.tables[0], destination)
    assert world.targets(world.tables[0]) == {}


def test_a_subnets_cidr_may_be_routed_and_nothing_else_inside_the_vpc(world: Ec2World) -> None:
    world.port.create_route(world.tables[0], ip_network(CIDR_B), world.enis["a"])
    assert world.targets(world.tables[0]) == {ip_network(CIDR_B): world.enis["a"]}
    fails(ErrorKind.INVALID, world.port.create_route, world.tables[0], ip_network("10.10.2.5/32"), world.enis["a"])


def test_a_full_table_is_a_limit_for_each_family_apart_and_changes_nothing(world: Ec2World) -> None:
    for number in range(ROUTES_PER_TABLE):
        world.port.create_route(world.tables[0], ip_network(f"192.168.1.{number}/32"), world.enis["a"])
    before = world.targets(world.tables[0])
    error = fails(ErrorKind.LIMIT, world.port.create_route, world.tables[0], OUTSIDE[0], world.enis["a"])
    assert "quota" in error.failure.remedy and world.tables[0] in error.failure.message
    assert world.targets(world.tables[0]) == before
    world.port.create_route(world.tables[0], OUTSIDE[1], world.enis["a"])


def test_a_route_to_an_eni_of_another_vpc_or_to_none_is_invalid(world: Ec2World) -> None:
    for eni in (world.elsewhere, GONE):
        fails(ErrorKind.INVALID, world.port.create_route, world.tables[0], OUTSIDE[0], eni)
    assert world.targets(world.tables[0]) == {}


def test_an_edge_table_takes_no_floating_address(world: Ec2World) -> None:
    fails(ErrorKind.INVALID, world.port.create_route, world.edge, OUTSIDE[0], world.enis["a"])


def test_a_table_that_does_not_exist_is_invalid(world: Ec2World) -> None:
    table = "rtb-0123456789abcdef0"
    fails(ErrorKind.INVALID, world.port.create_route, table, OUTSIDE[0], world.enis["a"])
    fails(ErrorKind.INVALID, world.port.replace_route, table, OUTSIDE[0], world.enis["a"])
    fails(ErrorKind.INVALID, world.port.delete_route, table, OUTSIDE[0])


# Addresses -----------------------------------------------------------------------------------------------------------


def test_assign_puts_all_addresses_on_the_eni(world: Ec2World) -> None:
    world.port.assign(world.enis["a"], [a(50), a(51)])
    world.port.assign(world.enis["a"], [world.v6(80), world.v6(81)])
    assert world.addresses(world.enis["a"]) == {a(10), a(50), a(51), world.v6(80), world.v6(81)}


def test_assigning_what_the_eni_has_is_no_error(world: Ec2World) -> None:
    for addresses in ([a(50)], [world.v6(80)]):
        world.port.assign(world.enis["a"], addresses)
        world.port.assign(world.enis["a"], addresses)
    assert world.addresses(world.enis["a"]) == {a(10), a(50), world.v6(80)}


def test_ipv4_is_taken_over_from_other_enis(world: Ec2World) -> None:
    world.port.assign(world.enis["a2"], [a(50)])
    world.port.assign(world.enis["a"], [a(50), a(51)])
    assert world.addresses(world.enis["a"]) == {a(10), a(50), a(51)}
    assert world.addresses(world.enis["a2"]) == {a(11)}


def test_a_primary_address_is_not_taken_over(world: Ec2World) -> None:
    fails(ErrorKind.INVALID, world.port.assign, world.enis["a"], [a(50), ip_address(PRIMARY_A2)])
    assert world.addresses(world.enis["a"]) == {ip_address(PRIMARY_A)}
    assert world.addresses(world.enis["a2"]) == {ip_address(PRIMARY_A2)}


def test_ipv6_held_elsewhere_is_lost_and_nothing_is_assigned(world: Ec2World) -> None:
    world.port.assign(world.enis["a2"], [world.v6(80)])
    fails(ErrorKind.LOST, world.port.assign, world.enis["a"], [world.v6(81), world.v6(80)])
    assert world.addresses(world.enis["a"]) == {a(10)}
    assert world.addresses(world.enis["a2"]) == {a(11), world.v6(80)}


@pytest.mark.parametrize("last", [0, 1, 2, 3, 255])
def test_reserved_addresses_are_invalid_and_none_is_assigned(world: Ec2World, last: int) -> None:
    fails(ErrorKind.INVALID, world.port.assign, world.enis["a"], [a(50), a(last)])
    assert world.addresses(world.enis["a"]) == {a(10)}


def test_an_address_outside_the_subnet_is_invalid(world: Ec2World) -> None:
    fails(ErrorKind.INVALID, world.port.assign, world.enis["a"], [ip_address("10.10.2.50")])
    fails(ErrorKind.INVALID, world.port.assign, world.enis["a"], [ip_address("2001:db8::1")])


def test_more_addresses_than_an_eni_holds_are_a_limit_and_none_is_assigned(world: Ec2World) -> None:
    too_many = [a(50 + number) for number in range(ADDRESSES_PER_ENI)]
    error = fails(ErrorKind.LIMIT, world.port.assign, world.enis["a"], too_many)
    assert "instance type" in error.failure.remedy and world.enis["a"] in error.failure.message
    assert world.addresses(world.enis["a"]) == {a(10)}


def test_unassign_takes_all_addresses_off_the_eni(world: Ec2World) -> None:
    for addresses in ([a(50), a(51)], [world.v6(80), world.v6(81)]):
        world.port.assign(world.enis["a"], addresses)
        world.port.unassign(world.enis["a"], addresses)
    assert world.addresses(world.enis["a"]) == {a(10)}


def test_unassigning_what_is_not_there_is_lost_and_the_others_stay(world: Ec2World) -> None:
    for mine, other in ((a(50), a(51)), (world.v6(80), world.v6(81))):
        world.port.assign(world.enis["a"], [mine])
        world.port.assign(world.enis["a2"], [other])
        fails(ErrorKind.LOST, world.port.unassign, world.enis["a"], [mine, other])
    assert world.addresses(world.enis["a"]) == {a(10), a(50), world.v6(80)}
    assert world.addresses(world.enis["a2"]) == {a(11), a(51), world.v6(81)}


def test_a_primary_address_stays_on_its_eni(world: Ec2World) -> None:
    fails(ErrorKind.LOST, world.port.unassign, world.enis["a"], [a(10)])
    assert world.addresses(world.enis["a"]) == {a(10)}


def test_an_address_may_be_taken_from_a_detached_eni(world: Ec2World) -> None:
    world.port.assign(world.enis["a2"], [world.v6(80)])
    world.detach(world.enis["a2"])
    world.port.unassign(world.enis["a2"], [world.v6(80)])
    world.port.assign(world.enis["a"], [world.v6(80)])
    assert world.addresses(world.enis["a"]) == {a(10), world.v6(80)}


def test_calls_on_an_eni_that_does_not_exist_are_invalid(world: Ec2World) -> None:
    fails(ErrorKind.INVALID, world.port.assign, GONE, [a(50)])
    fails(ErrorKind.INVALID, world.port.assign, GONE, [world.v6(80)])
    fails(ErrorKind.INVALID, world.port.unassign, GONE, [a(50)])
    fails(ErrorKind.INVALID, world.port.disable_source_dest_check, GONE)


def test_disabling_the_source_dest_check_is_idempotent(world: Ec2World) -> None:
    for _ in range(2):
        world.port.disable_source_dest_check(world.enis["a"])
        checks = {eni.id: eni.source_dest_check for eni in world.port.enis(list(world.enis.values()))}
        assert checks == {world.enis["a"]: False, world.enis["a2"]: True, world.enis["b"]: True}


# All of them ---------------------------------------------------------------------------------------------------------


def test_no_call_retries_or_looks_before_it_acts(world: Ec2World) -> None:
    """One call of the port is one request."""
    calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = [
        (world.port.route_tables, (world.vpc,)),
        (world.port.create_route, (world.tables[0], OUTSIDE[0], world.enis["a"])),
        (world.port.replace_route, (world.tables[0], OUTSIDE[0], world.enis["b"])),
        (world.port.delete_route, (world.tables[0], OUTSIDE[0])),
        (world.port.assign, (world.enis["a"], [a(50), a(51)])),
        (world.port.unassign, (world.enis["a"], [a(50), a(51)])),
        (world.port.disable_source_dest_check, (world.enis["a"],)),
    ]
    for number, (call, arguments) in enumerate(calls, 1):
        call(*arguments)
        assert world.calls_made() == number


def test_calls_may_be_made_from_several_threads_at_a_time(world: Ec2World) -> None:
    tables = world.add_tables(24)
    with ThreadPoolExecutor(12) as pool:
        for destination in OUTSIDE:
            list(pool.map(lambda table, to=destination: world.port.create_route(table, to, world.enis["a"]), tables))
    assert all(world.targets(table) == dict.fromkeys(OUTSIDE, world.enis["a"]) for table in tables)
