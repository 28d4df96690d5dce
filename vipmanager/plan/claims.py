"""Who holds a floating address, and whether to claim it, keep it or concede it.

The rules are DESIGN's "Claims do not flap". Two details make them safe where other pods write too: a claim believes
only what was observed after it began, and it is conceded only for a target that was known to be ours before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from vipmanager.model import (
    Address,
    Claim,
    Claims,
    Observed,
    PlacementKind,
    RouteTable,
)
from vipmanager.plan.placement import Placement

SPLIT_AFTER = 30.0
"""Seconds after conceding until tables that are still divided mean a draw rather than a take-over in progress."""


class Standing(Enum):
    """Who EC2 shows as the holder of a claim's target."""

    OURS = "ours"
    FREE = "free"  # nobody, or a holder that is gone
    TAKEN = "taken"  # another live holder
    UNKNOWN = "unknown"  # not observed recently enough to say


@dataclass(frozen=True)
class Holding:
    """The standing of one target of a claim (a route table, or the ENI), the holder, and when that was seen."""

    standing: Standing
    holder: str = ""
    seen: float = 0.0

    def ours_since(self, since: float) -> bool:
        """True when it is ours by an observation that is not older than `since`."""
        return self.standing is Standing.OURS and self.seen >= since


def holdings(claim: Claim, observed: Observed) -> Mapping[str, Holding]:
    """What EC2 shows for each target of a claim; nothing while the route tables are not known."""
    if claim.kind is PlacementKind.ENI_ADDRESS:
        return {claim.eni_id: _address_holding(claim, observed)}
    tables = sorted(observed.tables or (), key=lambda table: table.id)
    return {table.id: _route_holding(claim, table) for table in tables}


def _route_holding(claim: Claim, table: RouteTable) -> Holding:
    route = table.routes.get(claim.destination)
    if route is None:
        return Holding(Standing.FREE, "", table.seen)
    if route.target == claim.eni_id:
        return Holding(Standing.OURS, route.target, route.seen)
    return Holding(Standing.TAKEN if route.live else Standing.FREE, route.target, route.seen)


def _address_holding(claim: Claim, observed: Observed) -> Holding:
    state = observed.states.get(claim.eni_id)
    if state is None:
        return Holding(Standing.UNKNOWN)
    if claim.address in state.addresses:
        return Holding(Standing.OURS, claim.eni_id, state.addresses[claim.address])
    holder = observed.holders.get(claim.address)
    if holder is None or holder.seen < state.seen:
        return Holding(Standing.UNKNOWN, "", state.seen)
    if holder.eni_id == claim.eni_id:
        return Holding(Standing.OURS, holder.eni_id, holder.seen)
    return Holding(Standing.TAKEN if holder.live else Standing.FREE, holder.eni_id, holder.seen)


def is_split(claim: Claim, seen: Mapping[str, Holding]) -> bool:
    """True when two pods that claimed at once hold some tables each and this one is to have them all.

    Both see the other in a table of theirs, and both concede. The lower ENI id takes the claim up again.
    """
    others = {holding.holder for holding in seen.values() if holding.standing is Standing.TAKEN}
    ours = any(holding.standing is Standing.OURS for holding in seen.values())
    return ours and len(others) == 1 and claim.eni_id < min(others) and min(others).startswith("eni-")


def update(
    claims: Claims, placements: Collection[Placement], keep: Collection[Address], observed: Observed
) -> dict[Address, Claim]:
    """The claims after looking: begun, kept, conceded, taken up again, or marked as vanished.

    `keep` holds addresses that are on the pod but whose placement is not known yet; their claims are left as they are.
    """
    placed = {placement.address: placement for placement in placements}
    updated: dict[Address, Claim] = {}
    for address, claim in claims.items():
        if address in placed or address in keep:
            continue
        if not claim.conceded_to:
            updated[address] = claim if claim.vanished is not None else replace(claim, vanished=observed.at)
    for address in keep:
        if address in claims:
            updated[address] = claims[address]
    for placement in placements:
        since = observed.appeared.get(placement.address, observed.at)
        updated[placement.address] = _look(_continued(claims.get(placement.address), placement, since), observed)
    return updated


def _continued(claim: Claim | None, placement: Placement, since: float) -> Claim:
    """The claim that stands, or a new one where the address came (back) or is placed in another way."""
    if (
        claim is not None
        and claim.vanished is None
        and (claim.eni_id, claim.kind, claim.destination) == (placement.eni.id, placement.kind, placement.destination)
    ):
        return claim
    return Claim(placement.address, placement.eni.id, placement.kind, placement.destination, since)


def _look(claim: Claim, observed: Observed) -> Claim:
    """Fold what EC2 shows into a claim whose address is on the pod."""
    seen = holdings(claim, observed)
    if claim.conceded_to:
        free = seen and all(h.standing in (Standing.OURS, Standing.FREE) for h in seen.values())
        if free or (is_split(claim, seen) and min(h.seen for h in seen.values()) >= claim.conceded_at + SPLIT_AFTER):
            return replace(claim, since=min(h.seen for h in seen.values()), held={}, conceded_to="", conceded_at=0.0)
        takers = [holding.holder for holding in seen.values() if holding.standing is Standing.TAKEN]
        if takers and claim.conceded_to not in takers:  # who took it over has lost it to another since
            return replace(claim, conceded_to=takers[0])
        return claim
    for target, holding in seen.items():
        if holding.standing is Standing.TAKEN and holding.seen > claim.held.get(target, float("inf")):
            return replace(claim, conceded_to=holding.holder, conceded_at=observed.at)
    held = {target: holding.seen for target, holding in seen.items() if holding.ours_since(claim.since)}
    return replace(claim, held={**claim.held, **held})
