"""Where the VPC sends a packet, decided from a `VpcState` alone.

The rules are the VPC user guide's ("Configure route tables", "Disable source/destination checks") and the data plane
rows of EC2-SEMANTICS.md. No I/O and no memory, so the router may cache a decision for as long as the state's version.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from lab.ec2.state import ACTIVE, BLACKHOLE, LOCAL, Address, Eni, Route, VpcState


@dataclass(frozen=True)
class Delivered:
    """The packet goes to this ENI; `destination` takes the place of the packet's own when it is not None."""

    eni_id: str
    destination: IPv4Address | None = None


@dataclass(frozen=True)
class ToInternet:
    """The packet leaves the VPC by its internet gateway, with this source."""

    source: IPv4Address


@dataclass(frozen=True)
class Dropped:
    """The VPC drops the packet.

    `reason` is one of: "source-check" and "dest-check" (the address is none of the checking ENI's own), "no-route",
    "blackhole" (the route's target is gone), "no-such-address" (no ENI of the VPC holds it), "eni-detached" (one does,
    or sent it, but is not attached to a running instance), "not-an-eni-target:ID" (the route leads out of the lab, or
    to the internet while the source has no Elastic IP). Of packets from the internet: "no-elastic-ip" (the address is
    none that is bound to a private address), "no-internet-route" (nor would an answer find its way).
    """

    reason: str


def deliver(state: VpcState, from_eni: str, source: Address, destination: Address) -> Delivered | ToInternet | Dropped:
    """Decide what happens to a packet that leaves an instance through the ENI `from_eni`."""
    sender = state.enis.get(from_eni)
    if sender is None or not state.live(sender):
        return Dropped("eni-detached")
    if sender.source_dest_check and source not in sender.addresses:
        return Dropped("source-check")
    table = state.table_of_subnet(sender.subnet_id)
    route = table.lookup(destination) if table else None
    if route is None:
        return Dropped("no-route")
    if route.target == LOCAL:
        return _local(state, sender, destination)
    if _leads_to_internet(route) and (public := _public(state, sender, source)):
        return ToInternet(public)
    return _routed(state, route, destination)


def deliver_from_internet(state: VpcState, source: Address, destination: Address) -> Delivered | Dropped:
    """Decide what happens to a packet from outside the VPC.

    "The internet gateway logically provides the one-to-one NAT on behalf of your instance", whose subnet must have a
    route to it (VPC user guide, "Enable internet access for a VPC using an internet gateway").
    """
    elastic = next((each for each in state.elastic_ips.values() if each.public_ip == str(destination)), None)
    owner = state.enis.get(elastic.eni_id or "") if elastic else None
    if elastic is None or owner is None or elastic.private_ip not in owner.addresses:
        return Dropped("no-elastic-ip")
    if not state.live(owner):
        return Dropped("eni-detached")
    table = state.table_of_subnet(owner.subnet_id)
    route = table.lookup(source) if table else None
    if route is None or not _leads_to_internet(route):
        return Dropped("no-internet-route")
    return Delivered(owner.eni_id, elastic.private_ip)


def _leads_to_internet(route: Route) -> bool:
    return route.target.startswith("igw-") and route.state == ACTIVE


def _public(state: VpcState, sender: Eni, source: Address) -> IPv4Address | None:
    """The Elastic IP that is bound to the source, on whichever ENI of the VPC."""
    owner = state.owner_of(sender.vpc_id, source)
    for each in owner.private_addresses if owner else ():
        if each.address == source and each.public:
            return IPv4Address(each.public.public_ip)
    return None


def _local(state: VpcState, sender: Eni, destination: Address) -> Delivered | Dropped:
    """A `local` route: to the ENI of the VPC that holds the address."""
    owner = state.owner_of(sender.vpc_id, destination)
    if owner is None:
        return Dropped("no-such-address")
    if not state.live(owner):
        return Dropped("eni-detached")
    return Delivered(owner.eni_id)


def _routed(state: VpcState, route: Route, destination: Address) -> Delivered | Dropped:
    """Any other route: to the ENI it names, whatever address the packet is for."""
    if route.state == BLACKHOLE:
        return Dropped("blackhole")
    if route.eni_id is None:
        return Dropped(f"not-an-eni-target:{route.target}")
    target = state.enis.get(route.eni_id)
    if target is None or not state.live(target):
        return Dropped("blackhole")
    if target.source_dest_check and destination not in target.addresses:
        return Dropped("dest-check")
    return Delivered(target.eni_id)
