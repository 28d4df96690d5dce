"""Where the lab's VPC sends packets: `deliver` and the longest prefix match below it, without any EC2."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.ec2.delivery import Delivered, Dropped, deliver
from lab.ec2.state import (
    BLACKHOLE,
    LOCAL,
    Association,
    Attachment,
    Eni,
    Instance,
    PrivateAddress,
    Route,
    RouteTable,
    Subnet,
    Vpc,
    VpcState,
)

FLOATING = ip_address("192.168.0.2")
FLOATING6 = ip_address("2001:db8::2")
VPC6 = "2600:1f16:0:aa00::/56"

LOCALS = (Route(ip_network("10.10.0.0/16"), LOCAL), Route(ip_network(VPC6), LOCAL))


def eni(name: str, *addresses: str, subnet: str = "subnet-1", check: bool = True, instance: str | None = "i-1") -> Eni:
    """An ENI; its first IPv4 address is the primary one."""
    found = [ip_address(each) for each in addresses]
    ipv4 = [each for each in found if each.version == 4]
    return Eni(
        eni_id=name,
        mac="02:00:00:00:00:01",
        vpc_id="vpc-1",
        subnet_id=subnet,
        availability_zone="us-east-2a",
        owner_id="1",
        private_addresses=tuple(PrivateAddress(each, each == ipv4[0]) for each in ipv4),
        ipv6_addresses=tuple(each for each in found if each.version == 6),
        attachment=Attachment(f"attach-{name}", instance, 1, "1") if instance else None,
        source_dest_check=check,
    )


PEER = eni("eni-peer", "10.10.31.9", "2600:1f16:0:aa31::9", subnet="subnet-peer")
WORKER = eni("eni-worker", "10.10.1.9", "10.10.1.50", "2600:1f16:0:aa01::9")
OPEN = eni("eni-open", "10.10.1.10", check=False)


def state(
    *routes: Route,
    enis: Sequence[Eni] = (PEER, WORKER, OPEN),
    own: Sequence[Route] | None = None,
    stopped: bool = False,
) -> VpcState:
    """A VPC whose main table has the routes; `own` is of a table that is the peer subnet's own."""
    tables = {"rtb-main": RouteTable("rtb-main", "vpc-1", "1", (*LOCALS, *routes), (Association("a-1", main=True),))}
    if own is not None:
        association = Association("a-2", subnet_id="subnet-peer")
        tables["rtb-own"] = RouteTable("rtb-own", "vpc-1", "1", (*LOCALS, *own), (association,))
    cidrs = {"subnet-1": "10.10.1.0/24", "subnet-peer": "10.10.31.0/24"}
    subnets = {
        name: Subnet(name, "vpc-1", "1", ip_network(cidr), (), "us-east-2a", "use2-az1") for name, cidr in cidrs.items()
    }
    vpc = Vpc("vpc-1", "1", ip_network("10.10.0.0/16"), (), (("a", IPv6Network(VPC6)),))
    return VpcState(
        version=1,
        region="us-east-2",
        account_id="1",
        vpcs={"vpc-1": vpc},
        subnets=subnets,
        enis={each.eni_id: each for each in enis},
        route_tables=tables,
        instances={"i-1": Instance("i-1", "m5.xlarge", "stopped" if stopped else "running", "us-east-2a")},
    )


def to(where: str | IPv4Address, target: str, **more: str) -> Route:
    """A route."""
    return Route(ip_network(where), target, **more)  # type: ignore[arg-type]


def from_peer(world: VpcState, destination: object) -> Delivered | Dropped:
    """What becomes of a packet of the peer."""
    address = ip_address(str(destination))
    source = next(each for each in PEER.addresses if each.version == address.version)
    return deliver(world, "eni-peer", source, address)


@pytest.mark.parametrize("address", ["10.10.1.9", "10.10.1.50", "2600:1f16:0:aa01::9"])
def test_local_goes_to_who_holds_the_address_primary_or_not(address: str) -> None:
    assert from_peer(state(), address) == Delivered("eni-worker")


def test_local_without_a_holder_is_dropped() -> None:
    assert from_peer(state(), "10.10.1.99") == Dropped("no-such-address")


def test_local_to_a_detached_eni_is_dropped() -> None:
    world = state(enis=(PEER, eni("eni-free", "10.10.1.77", instance=None)))
    assert from_peer(world, "10.10.1.77") == Dropped("eni-detached")


def test_a_route_goes_to_its_eni_whatever_the_address() -> None:
    world = state(to(f"{FLOATING}/32", "eni-open"), to(f"{FLOATING6}/128", "eni-open"))
    assert from_peer(world, FLOATING) == Delivered("eni-open")
    assert from_peer(world, FLOATING6) == Delivered("eni-open")


def test_without_a_route_there_is_no_route() -> None:
    assert from_peer(state(), FLOATING) == Dropped("no-route")
    assert from_peer(state(), FLOATING6) == Dropped("no-route")


def test_the_destination_check_of_the_receiver() -> None:
    world = state(to(f"{FLOATING}/32", "eni-worker"), to("10.10.1.50/32", "eni-worker"))
    assert from_peer(world, FLOATING) == Dropped("dest-check")
    assert from_peer(world, "10.10.1.50") == Delivered("eni-worker")  # its own address passes


def test_the_source_check_of_the_sender() -> None:
    own, foreign = ip_address("10.10.1.50"), FLOATING
    peer = PEER.primary_ip
    assert deliver(state(), "eni-worker", own, peer) == Delivered("eni-peer")
    assert deliver(state(), "eni-worker", foreign, peer) == Dropped("source-check")
    assert deliver(state(), "eni-open", foreign, peer) == Delivered("eni-peer")


def test_a_blackhole_swallows_and_a_longer_or_shorter_route_does_not_help() -> None:
    world = state(to(f"{FLOATING}/32", "eni-open", state=BLACKHOLE), to("0.0.0.0/0", "eni-open"))
    assert from_peer(world, FLOATING) == Dropped("blackhole")
    assert from_peer(world, "192.168.0.3") == Delivered("eni-open")


@pytest.mark.parametrize("target", ["eni-gone", "eni-free"])
def test_a_route_to_an_eni_that_is_gone_or_detached_is_a_blackhole(target: str) -> None:
    world = state(to(f"{FLOATING}/32", target), enis=(PEER, eni("eni-free", "10.10.1.77", check=False, instance=None)))
    assert from_peer(world, FLOATING) == Dropped("blackhole")


def test_a_route_out_of_the_vpc_leads_out_of_the_lab() -> None:
    assert from_peer(state(to("0.0.0.0/0", "igw-1")), "198.51.100.1") == Dropped("not-an-eni-target:igw-1")


def test_a_subnet_route_is_longer_than_local() -> None:
    """Placement `subnet-route`: a whole subnet's CIDR to one ENI."""
    world = state(to("10.10.254.0/28", "eni-open"))
    assert from_peer(world, "10.10.254.5") == Delivered("eni-open")
    assert from_peer(world, "10.10.254.17") == Dropped("no-such-address")


def test_a_subnets_own_table_stands_for_the_main_one() -> None:
    world = state(to(f"{FLOATING}/32", "eni-open"), own=())
    assert from_peer(world, FLOATING) == Dropped("no-route")
    assert deliver(world, "eni-worker", WORKER.primary_ip, FLOATING) == Delivered("eni-open")
    world = state(own=[to(f"{FLOATING}/32", "eni-open")])
    assert from_peer(world, FLOATING) == Delivered("eni-open")


def test_a_stopped_instance_neither_sends_nor_receives() -> None:
    assert from_peer(state(stopped=True), "10.10.1.9") == Dropped("eni-detached")


def test_a_sender_that_is_gone_sends_nothing() -> None:
    assert deliver(state(), "eni-gone", PEER.primary_ip, WORKER.primary_ip) == Dropped("eni-detached")


networks4 = st.builds(
    lambda bits, length: ip_network((bits >> (32 - length) << (32 - length), length)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
networks6 = st.builds(
    lambda bits, length: ip_network((bits >> (128 - length) << (128 - length), length)),
    st.integers(2**120, 2**128 - 1),
    st.integers(0, 128),
)


@given(st.lists(networks4 | networks6, unique=True, max_size=12), st.data())
def test_lookup_finds_the_longest_prefix_that_contains_the_address(networks: list, data: st.DataObject) -> None:
    table = RouteTable("rtb", "vpc-1", "1", tuple(Route(each, f"eni-{n}") for n, each in enumerate(networks)))
    inside = [int(each[0]) for each in networks] + [int(each[-1]) for each in networks]
    bits = data.draw(st.sampled_from(inside) if inside else st.just(0))
    for address in {ip_address(bits), ip_address(bits ^ 1)}:
        holding = [each for each in networks if each.version == address.version and address in each]
        found = table.lookup(address)
        longest = max(holding, key=lambda each: each.prefixlen, default=None)
        assert (found.destination if found else None) == longest


@given(st.sampled_from(["10.10.1.9", "10.10.1.99", str(FLOATING), "198.51.100.1"]), st.sampled_from(list("abcdef")))
def test_a_packet_is_delivered_to_a_live_eni_or_dropped_for_a_known_reason(destination: str, variant: str) -> None:
    targets = {"a": "eni-open", "b": "eni-worker", "c": "eni-gone", "d": "igw-1", "e": "eni-peer", "f": LOCAL}
    world = state(to(f"{FLOATING}/32", targets[variant]), to("198.51.100.0/24", targets[variant]))
    result = from_peer(world, destination)
    if isinstance(result, Delivered):
        assert world.live(world.enis[result.eni_id])
    else:
        known = {"no-route", "blackhole", "no-such-address", "source-check", "dest-check", "eni-detached"}
        assert result.reason in known or result.reason == "not-an-eni-target:igw-1"
