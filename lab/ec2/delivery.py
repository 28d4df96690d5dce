"""Where the VPC sends a packet, decided from a `VpcState` alone.

The rules are the VPC user guide's ("Configure route tables", "Disable source/destination checks") and the data plane
rows of EC2-SEMANTICS.md. No I/O and no memory, so the router may cache a decision for as long as the state's version.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.ec2.state import BLACKHOLE, LOCAL, Address, Eni, Route, VpcState


@dataclass(frozen=True)
class Delivered:
    """The packet goes to this ENI."""

    eni_id: str


@dataclass(frozen=True)
class Dropped:
    """The VPC drops the packet.

    `reason` is one of: "source-check" and "dest-check" (the address is none of the checking ENI's own), "no-route",
    "blackhole" (the route's target is gone), "no-such-address" (no ENI of the VPC holds it), "eni-detached" (one does,
    or sent it, but is not attached to a running instance), "not-an-eni-target:ID" (the route leads out of the lab).
    """

    reason: str


def deliver(state: VpcState, from_eni: str, source: Address, destination: Address) -> Delivered | Dropped:
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
    return _routed(state, route, destination)


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
