"""Convergence is a property: from any world, interrupted anywhere, it arrives; and touches nothing that is not its own.

Worlds are generated: interfaces, ENIs, placements, tables, what others have left there, and what this pod remembers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doubles.clock import StillClock
from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.imds import FakeImds
from tests.doubles.netlink import FakeNetlink
from tests.unit.builders import config, mac
from tests.unit.driver import Driver
from vipmanager.actions import Plan
from vipmanager.config import Config
from vipmanager.model import (
    Address,
    Claim,
    Network,
    Observed,
    PlacementKind,
)
from vipmanager.plan import make_plan

SUBNET = {1: "10.10.1.0/24", 2: "10.10.2.0/24", 3: "10.10.3.0/24"}
SUBNET6 = {1: "2600:1f14:0:1::/64", 2: "2600:1f14:0:2::/64"}
OURS, OTHERS = ("eni-1", "eni-2"), ("eni-8", "eni-9")  # 8 is in subnet 1, 9 in subnet 2
HOSTS = ["192.168.0.1", "192.168.0.10", "fd00::1", "fd00::2"]
OWN = {1: ["10.10.1.50", "10.10.1.51", "2600:1f14:0:1::50"], 2: ["10.10.2.50", "2600:1f14:0:2::50"]}
INSIDE = ["10.10.3.5", "10.10.3.6"]
ODD = ["10.10.77.1", "10.10.1.2", "10.10.1.10"]  # in no subnet, reserved, a primary address
POOL = [*HOSTS, *OWN[1], *OWN[2], *INSIDE, *ODD]
ROUTES = [*(str(ip_network(text)) for text in HOSTS), SUBNET[2], SUBNET[3], SUBNET6[1]]
EIPS = {"eipalloc-00000001": "10.10.1.50", "eipalloc-00000002": "10.10.1.10", "eipalloc-00000003": "10.10.2.50"}
EIP_SETTINGS = {
    "Intf1EIPs": "10.10.1.50=eipalloc-00000001,10.10.1.10=eipalloc-00000002,10.10.1.99=eipalloc-00000004",
    "Intf2EIPs": "10.10.2.50=eipalloc-00000003",
}
BOUND = [("eni-1", "10.10.1.50"), ("eni-1", "10.10.1.10"), ("eni-8", "10.10.1.50"), ("eni-8", "10.10.1.17")]
UNRELATED = {"0.0.0.0/0": "igw-1", "10.99.0.0/16": "tgw-1", "192.168.0.77/32": "eni-1", "fd00::77/128": "eni-9"}


@dataclass(frozen=True)
class World:
    """Everything that a run begins with."""

    interfaces: tuple[tuple[int, bool, tuple[str, ...]], ...]  # ENI, up, addresses
    tables: int
    routes: Mapping[tuple[int, str], str]  # (table, destination) → target
    held: Mapping[str, str]  # address → ENI
    dead: frozenset[str]  # of the others' ENIs
    checks: frozenset[str]  # our ENIs whose check is on
    config: Config
    memory: tuple[tuple[str, str], ...]  # address → held, conceded, vanished
    eips: Mapping[str, tuple[str, str]]  # Elastic IP → ENI and address, as far as that is there
    bound: frozenset[str]  # addresses whose Elastic IP is remembered as ours
    interruptions: tuple[tuple[int, bool], ...]  # actions of the next plan that are applied; whether claims are lost


INTERFACES = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),
        st.sampled_from([True, True, True, False]),
        st.lists(st.sampled_from(POOL), max_size=4, unique=True).map(tuple),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
HOLDERS = {
    text: st.sampled_from(["eni-8", "eni-1"] if number == 1 else ["eni-9", "eni-2"])
    for number in OWN
    for text in OWN[number]
}
CONFIGS = st.builds(
    lambda inside, sbr, assign, peers, eips: config(
        SubnetBasedLoopbacks=inside, UseSBR=sbr, AssignIPs=assign, VPCRTTag="use", **peers, **eips
    ),
    st.sampled_from(["True", "False"]),
    st.sampled_from(["auto", "True", "False"]),
    st.sampled_from(["Auto", "Auto", "False"]),
    st.sampled_from([{}, {"Intf1Peers": "10.10.31.0/24,2001:db8::/64"}, {"Intf2Peers": "10.10.31.7"}]),
    st.sampled_from([{}, EIP_SETTINGS, EIP_SETTINGS]),
)
WORLDS = st.builds(
    World,
    interfaces=INTERFACES,
    tables=st.integers(1, 3),
    routes=st.dictionaries(
        st.tuples(st.integers(0, 2), st.sampled_from(ROUTES)), st.sampled_from([*OURS, *OTHERS, "tgw-1"]), max_size=6
    ),
    held=st.fixed_dictionaries({}, optional=HOLDERS),
    dead=st.frozensets(st.sampled_from(OTHERS)),
    checks=st.frozensets(st.sampled_from(OURS)),
    config=CONFIGS,
    memory=st.lists(
        st.tuples(st.sampled_from([*HOSTS, *OWN[1]]), st.sampled_from(["held", "conceded", "vanished"])),
        max_size=3,
        unique_by=lambda item: item[0],
    ).map(tuple),
    eips=st.dictionaries(st.sampled_from([*EIPS, "eipalloc-00000009"]), st.sampled_from(BOUND), max_size=3),
    bound=st.frozensets(st.sampled_from(sorted(EIPS.values()))),
    interruptions=st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=4).map(tuple),
)
thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def build_ec2(world: World, clock: StillClock) -> FakeEc2:
    """The VPC as it is found."""
    ec2 = FakeEc2(clock)
    ec2.add_vpc(VPC, "10.10.0.0/16", "2600:1f14::/56")
    for number, cidr in SUBNET.items():
        ec2.add_subnet(f"subnet-{number}", cidr, *([SUBNET6[number]] if number in SUBNET6 else []))
    for number, home in ((1, 1), (2, 2), (8, 1), (9, 2)):
        eni_id = f"eni-{number}"
        ec2.add_eni(
            eni_id, mac(number), number, f"subnet-{home}", f"10.10.{home}.{number + 9}", f"10.10.{home}.{number + 100}"
        )
        if number < 3:
            ec2.put_eni(replace(ec2.state.enis[eni_id], source_dest_check=eni_id in world.checks))
    for text, eni_id in world.held.items():
        ec2.give(eni_id, text)
    for eip in [*EIPS, "eipalloc-00000009"]:
        eni_id, text = world.eips.get(eip, ("", ""))
        there = eni_id and ip_address(text) in ec2.state.enis[eni_id].addresses
        there = there and not any(str(each.address) == text for each in ec2.state.eips.values())
        ec2.add_eip(eip, f"3.3.3.{eip[-1]}", *((eni_id, text) if there else ()))
    for eni_id in world.dead:
        ec2.detach(eni_id)
    for number in range(world.tables):
        ec2.add_table(f"rtb-{number}", use="yes")
    ec2.add_table("rtb-edge", edge=True, use="yes")
    ec2.add_table("rtb-untagged")
    for (number, destination), target in world.routes.items():
        for table in (f"rtb-{number}",) if number < world.tables else ("rtb-untagged",):
            ec2.put_route(table, destination, target)
    for table in (*(f"rtb-{number}" for number in range(world.tables)), "rtb-untagged"):
        for destination, target in UNRELATED.items():
            ec2.put_route(table, destination, target)
    return ec2


@contextmanager
def started(world: World) -> Iterator[Driver]:
    """A pod in that world, with what it remembers."""
    clock = StillClock()
    ec2, netlink = build_ec2(world, clock), FakeNetlink()
    for number, (eni, up, addresses) in enumerate(world.interfaces, 1):
        netlink.add(f"net{number}", mac(eni), *addresses, up=up)
    driver = Driver(ec2, netlink, FakeImds(ec2, *OURS), world.config, clock)
    driver.claims = memories(world, clock())
    yield driver
    netlink.close()


def memories(world: World, now: float) -> dict[Address, Claim]:
    """What the pod remembers."""
    return {ip_address(text): remembered(text, how, now, text in world.bound) for text, how in world.memory}


def remembered(text: str, how: str, now: float, bound: bool) -> Claim:
    """A claim of eni-1 from before; `bound`: with its Elastic IP."""
    kind = PlacementKind.HOST_ROUTE if text in HOSTS else PlacementKind.ENI_ADDRESS
    held = {**{f"rtb-{number}": now - 50 for number in range(3)}, "eni-1": now - 50}
    held |= {eip: now - 49 for eip, address in EIPS.items() if bound and address == text}
    made = Claim(ip_address(text), "eni-1", kind, ip_network(text), now - 60, held)
    if how == "conceded":
        return replace(made, conceded_to="eni-9", conceded_at=now - 20)
    return replace(made, vanished=now - 5) if how == "vanished" else made


def run(driver: Driver, world: World) -> Plan:
    """Interrupt the plan as the world says, then let it settle."""
    for count, forget in world.interruptions:
        driver.apply(driver.plan().actions[:count])
        driver.restart()
        if forget:
            driver.claims = {}
    return driver.settle()


def delivered(ec2: FakeEc2, world: World, eni_id: str, destination: Network) -> bool:
    """Whether every selected table sends a destination to an ENI."""
    return all(ec2.state.tables[f"rtb-{number}"].routes.get(destination) == eni_id for number in range(world.tables))


def placeable(world: World) -> dict[Address, tuple[str, Network | None]]:
    """What must be delivered where, told independently of the code: address → ENI, destination (None: its own ENI)."""
    wanted: dict[Address, tuple[str, Network | None]] = {}
    for number, up, addresses in world.interfaces:
        for text in addresses if up else ():
            address = ip_address(text)
            if text in HOSTS:
                wanted.setdefault(address, (f"eni-{number}", ip_network(text)))
            elif text in (*OWN[number], "10.10.1.10" if number == 1 else ""):
                if world.config.assign is not False:
                    wanted.setdefault(address, (f"eni-{number}", None))
            elif world.config.subnet_routes and text not in ("10.10.77.1", *OWN[number]):
                whole = next(
                    (
                        cidr
                        for cidr in map(ip_network, [*SUBNET.values(), *SUBNET6.values()])
                        if address in cidr and address.version == cidr.version
                    ),
                    None,
                )
                own = (SUBNET[number], SUBNET6[number])
                if whole is not None and str(whole) not in own:
                    wanted.setdefault(address, (f"eni-{number}", whole))
    return wanted


@thorough
@given(WORLDS)
def test_every_placeable_address_arrives_however_it_was_interrupted(world: World) -> None:
    with started(world) as driver:
        last = run(driver, world)
        wanted = placeable(world)
        assert set(last.claims) == set(wanted)
        known = {ip_address(text) for text, _ in world.memory}
        named = " ".join(str(problem) for problem in last.problems)
        for address, (eni_id, destination) in wanted.items():
            claim = last.claims[address]
            assert claim.vanished is None
            if claim.conceded_to:
                assert address in known  # nobody is given up to who was not taken over from us
                assert driver.ec2.state.live(claim.conceded_to)
            elif destination is None:
                assert driver.ec2.holder(str(address)) == eni_id
            elif not delivered(driver.ec2, world, eni_id, destination):
                assert claim.kind is PlacementKind.SUBNET_ROUTE and str(address) in named  # it goes to another of ours
                assert any(delivered(driver.ec2, world, other, destination) for other in OURS)
            else:
                assert not driver.ec2.state.enis[eni_id].source_dest_check
        assert (last.actions, last.needs, last.wake_at) == ((), frozenset(), None)


@thorough
@given(WORLDS)
def test_every_wanted_elastic_ip_is_bound_and_no_other_is_touched(world: World) -> None:
    with started(world) as driver:
        before, last = driver.ec2.state, run(driver, world)
        after, ours = driver.ec2.state, placeable(world)
        named = " ".join(str(problem) for problem in last.problems)
        wanted = {eip: address for pairs in world.config.eips.values() for address, eip in pairs.items()}
        for eip, address in wanted.items():
            eni_id, destination = ours.get(address, ("", None))
            if eni_id and destination is None and not last.claims[address].conceded_to:
                bound = after.eips[eip]
                if (bound.eni_id, bound.address) != (eni_id, address):  # taken over from us by somebody who is there
                    assert (str(address), "held") in world.memory and str(address) in world.bound
                    assert after.enis[bound.eni_id].live and eip in named
        mine = {*ours, *(ip_address(text) for text, _ in world.memory)}
        for eip in after.eips:
            if wanted.get(eip) not in mine and before.eips[eip].address not in mine:
                assert after.eips[eip] == before.eips[eip]


@thorough
@given(WORLDS)
def test_nothing_is_touched_that_is_no_floating_addresss(world: World) -> None:
    with started(world) as driver:
        before = driver.ec2.state
        mine = {*placeable(world), *(ip_address(text) for text, _ in world.memory)}
        destinations = {to for _, to in placeable(world).values()} | {ip_network(text) for text, _ in world.memory}
        run(driver, world)
        after = driver.ec2.state
        for table_id, table in before.tables.items():
            selected = table_id not in ("rtb-edge", "rtb-untagged")
            for routes in (table.routes, after.tables[table_id].routes):
                for destination in routes:
                    if not selected or destination not in destinations:
                        assert table.routes.get(destination) == after.tables[table_id].routes.get(destination)
        for eni_id, eni in before.enis.items():
            assert {*eni.addresses} - mine == {*after.enis[eni_id].addresses} - mine
            assert eni.primary <= set(after.enis[eni_id].addresses)
            assert eni_id in OURS or eni.source_dest_check == after.enis[eni_id].source_dest_check


@thorough
@given(WORLDS)
def test_what_is_settled_costs_nothing_more(world: World) -> None:
    with started(world) as driver:
        run(driver, world)
        calls, state = len(driver.ec2.faults.calls), driver.ec2.state
        driver.restart()
        assert driver.plan().actions == ()
        assert driver.ec2.state is state
        reads = {"route_tables", "enis", "subnets", "enis_holding", "elastic_ips"}
        assert {call.operation for call in driver.ec2.faults.calls[calls:]} <= reads


@thorough
@given(WORLDS, st.randoms(use_true_random=False))
def test_planning_is_a_function_of_what_is_seen_in_whatever_order(world: World, random: Any) -> None:
    with started(world) as driver:
        driver.plan()
        driver.claims = memories(world, driver.clock())
        seen, claims = driver.view.observed(), driver.claims
        kept = copy.deepcopy((seen, claims))
        first = make_plan(seen, claims, world.config)
        assert (seen, claims) == kept
        again = make_plan(shuffled(seen, random), dict(mixed(claims.items(), random)), world.config)
        assert again == first
        assert [action.key for action in first.actions] == list(dict.fromkeys(action.key for action in first.actions))


def mixed(items: Any, random: Any) -> list[Any]:
    """The same in another order."""
    listed = list(items)
    random.shuffle(listed)
    return listed


def shuffled(seen: Observed, random: Any) -> Observed:
    """The same snapshot in another order."""
    return replace(
        seen,
        interfaces=tuple(mixed(seen.interfaces, random)),
        enis=dict(mixed(seen.enis.items(), random)),
        states=dict(mixed(seen.states.items(), random)),
        holders=dict(mixed(seen.holders.items(), random)),
        tables=None if seen.tables is None else tuple(mixed(seen.tables, random)),
        subnets=None if seen.subnets is None else tuple(mixed(seen.subnets, random)),
    )
