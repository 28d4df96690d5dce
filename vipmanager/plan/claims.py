"""Who holds a floating address, and whether to claim it, keep it or concede it.

The rules are DESIGN's "Claims do not flap". Two details make them safe where other pods write too: a claim believes
only what was observed after it began, and it is conceded only for a target that was known to be ours before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from vipmanager.model import (
    Address,
    Claim,
    Claims,
    Network,
    Observed,
    PlacementKind,
)
from vipmanager.plan.aggregate import aimed
from vipmanager.plan.holdings import Holding, Standing, holdings, reach
from vipmanager.plan.placement import Placement

__all__ = ["SPLIT_AFTER", "Holding", "Standing", "holdings", "is_split", "update"]

SPLIT_AFTER = 30.0
"""Seconds after conceding until tables that are still divided mean a draw rather than a take-over in progress."""


def is_split(claim: Claim, seen: Mapping[str, Holding]) -> bool:
    """True when two pods that claimed at once hold some tables each and this one is to have them all.

    Both see the other in a table of theirs, and both concede. The lower ENI id takes the claim up again.
    """
    others = {holding.holder for holding in seen.values() if holding.standing is Standing.TAKEN}
    ours = any(holding.standing is Standing.OURS for holding in seen.values())
    return ours and len(others) == 1 and claim.eni_id < min(others) and min(others).startswith("eni-")


Aims = Callable[[Iterable[Claim]], Mapping[Address, Network]]
"""Which destination each routed claim is to have; see `plan.aggregate`."""


def update(
    claims: Claims,
    placements: Collection[Placement],
    keep: Collection[Address],
    observed: Observed,
    aims: Aims = lambda _: {},
) -> dict[Address, Claim]:
    """The claims after looking: begun, kept, conceded, taken up again, or marked as vanished.

    `keep` holds addresses that are on the pod but whose placement is not known yet; their claims are left as they are.
    """
    placed = {placement.address: placement for placement in placements}
    updated: dict[Address, Claim] = {}
    for address, claim in claims.items():
        if address in placed or address in keep:
            continue
        if claim.vanished is not None:
            updated[address] = claim
        elif not claim.conceded_to or _holds_some(claim, observed):
            updated[address] = replace(claim, vanished=observed.at, conceded_to="", conceded_at=0.0)
    for address in keep:
        if address in claims:
            updated[address] = claims[address]
    look = _Look(observed)
    for placement in placements:
        before, since = claims.get(placement.address), observed.appeared.get(placement.address, observed.at)
        claim = _continued(before, placement, since)
        updated[placement.address] = look.at(claim) if claim is before else claim
    destinations = aims(updated.values())
    for address in placed:
        claim = updated[address]
        if claim.kind is PlacementKind.HOST_ROUTE and not claim.conceded_to and address in destinations:
            claim = aimed(claim, destinations[address], observed)
        updated[address] = look.held(claim)
    return updated


def _holds_some(claim: Claim, observed: Observed) -> bool:
    """Whether some targets are still ours, as after a draw: nobody else would take those back."""
    return any(holding.standing is Standing.OURS for holding in holdings(claim, observed).values())


def _continued(claim: Claim | None, placement: Placement, since: float) -> Claim:
    """The claim that stands, or a new one where the address came (back) or is placed in another way.

    A host route's destination is no part of that: it changes with the addresses beside it.
    """
    if (
        claim is not None
        and claim.vanished is None
        and (claim.eni_id, claim.kind) == (placement.eni.id, placement.kind)
        and (claim.kind is PlacementKind.HOST_ROUTE or claim.destination == placement.destination)
    ):
        return claim
    begun = Claim(placement.address, placement.eni.id, placement.kind, placement.destination, since)
    if claim is None or (claim.eni_id, claim.kind) != (begun.eni_id, begun.kind):
        return begun
    before = reach(claim)  # a route of that may be left, as the address was away for a moment only
    return replace(begun, scope=before if before.prefixlen < begun.destination.prefixlen else None)


class _Look:
    """Folds what EC2 shows into claims whose addresses are on the pod."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._held: dict[tuple[int, int, float], Mapping[str, float]] = {}
        self._alive: list[object] = []  # what the ids are of

    def at(self, claim: Claim) -> Claim:
        """Conceded, taken up again or as it was."""
        observed, seen = self._observed, holdings(claim, self._observed)
        if claim.conceded_to:
            free = seen and all(h.standing in (Standing.OURS, Standing.FREE) for h in seen.values())
            due = claim.conceded_at + SPLIT_AFTER
            if free or (is_split(claim, seen) and min(h.seen for h in seen.values()) >= due):
                since = min(h.seen for h in seen.values())
                return replace(claim, since=since, held={}, conceded_to="", conceded_at=0.0)
            takers = [holding.holder for holding in seen.values() if holding.standing is Standing.TAKEN]
            if takers and claim.conceded_to not in takers:  # who took it over has lost it to another since
                return replace(claim, conceded_to=takers[0])
            return claim
        for target, holding in seen.items():
            if holding.standing is Standing.TAKEN and holding.seen > claim.held.get(target, float("inf")):
                return replace(claim, conceded_to=holding.holder, conceded_at=observed.at)
        return claim

    def held(self, claim: Claim) -> Claim:
        """With the time at which each target was last known to be ours. The claims of an aggregate share them.

        Not where another's route is hidden by one to our ENI: when that goes (it may be of another pod that shares the
        ENI), what appears below is older than the claim and no take-over.
        """
        if claim.conceded_to:
            return claim
        seen = holdings(claim, self._observed)
        key = (id(seen), id(claim.held) if claim.held else 0, claim.since)
        if key not in self._held:
            self._alive += [seen, claim.held]
            ours = {
                target: holding.seen
                for target, holding in seen.items()
                if holding.certain_since(claim.since) and not holding.hidden
            }
            self._held[key] = {**claim.held, **ours}
        held = self._held[key]
        return claim if held == claim.held else replace(claim, held=held)
