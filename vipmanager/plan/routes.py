"""Which routes are to be set, and which are left over: make before break.

A prefix that a claim comes to share is set at once. What delivered it before stays until EC2 itself shows that another
route of ours delivers every address inside.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from vipmanager.actions import DeleteRoute, Need, SetRoute
from vipmanager.model import Address, Claim, Network, Observed, PlacementKind, Route, RouteTable
from vipmanager.plan.aggregate import WITHDRAW_ROUTES_AFTER
from vipmanager.plan.draft import Draft
from vipmanager.plan.holdings import Holding, Standing, delivering, holdings, inner, is_exact, reach

CONFIRM_AFTER = 5.0
"""Seconds after setting a route until a describe that shows it is believed to show what all of EC2 knows."""


def pursue_routes(claims: Iterable[Claim], observed: Observed, draft: Draft) -> None:
    """What brings active routed claims to where every table delivers them by their destination."""
    done: dict[object, object] = {}
    listed = list(claims)
    elder: dict[Network, Claim] = {}
    for claim in listed:
        known = elder.get(claim.destination)
        if claim.held and (known is None or claim.since < known.since):
            elder[claim.destination] = claim
    for claim in listed:
        if observed.tables is None:
            draft.needs.add(Need.TABLES)
            return
        seen = holdings(claim, observed)
        key = (claim.destination, claim.eni_id, claim.since, claim.aimed, id(seen), id(claim.held) if claim.held else 0)
        if key in done:
            continue
        done[key] = (seen, claim.held)  # what the ids are of
        for table in observed.tables:
            _pursue(claim, table, seen[table.id], elder.get(claim.destination, claim), draft)


def _pursue(claim: Claim, table: RouteTable, holding: Holding, elder: Claim, draft: Draft) -> None:
    """One claim in one table; `elder` is the claim that has held this destination longest."""
    held = table.id in claim.held
    target, ours = holding.holder, holding.ours_since(claim.since)
    live = holding.standing is Standing.TAKEN
    if ours and not held and not holding.certain_since(claim.since):
        draft.needs.add(Need.TABLES)  # another's longer route may be there already, and win
    if not held:  # what lies below would deliver the address as soon as the route above it is gone
        for hidden in holding.hidden:
            if hidden.destination.prefixlen > claim.destination.prefixlen:
                draft.route(SetRoute(table.id, hidden.destination, claim.eni_id, hidden.target, claim.address))
    if holding.destination not in (None, claim.destination):
        assert holding.destination is not None
        longer = holding.destination.prefixlen > claim.destination.prefixlen
        if longer and not ours:  # it wins over ours, so it is what has to be taken over
            draft.route(SetRoute(table.id, holding.destination, claim.eni_id, target, claim.address))
        route = table.routes.get(claim.destination)
        target = route.target if route is not None else ""
        live = route is not None and route.live and target != claim.eni_id
        if not longer and ours and held and table.seen < claim.aimed:
            # Ours would be the longer route. If somebody took the broader one over, that would take it back.
            draft.needs.add(Need.TABLES)
            draft.hold_back(SetRoute(table.id, claim.destination, claim.eni_id, target, claim.address))
            return
        if ours and held and live:
            return  # delivered; somebody else's broader route is no reason to fight
        ours = route is not None and target == claim.eni_id and route.seen >= claim.since
    if not ours and target == claim.eni_id and elder.since < claim.since and table.id in elder.held:
        # Ours when it was last seen. If somebody took it over since, with the addresses of elder claims, that stands.
        draft.needs.add(Need.TABLES)
    elif not ours:
        careful = held and claim.aimed > 0 and not target
        draft.route(SetRoute(table.id, claim.destination, claim.eni_id, target, claim.address, careful))


@dataclass
class _Left:
    """A route that is ours and not wanted, in all the tables that have it."""

    destination: Network
    eni_id: str
    inside: list[Claim]
    due: float
    found: list[tuple[RouteTable, Route]] = field(default_factory=list)


class Leftovers:
    """Routes to our ENIs that no active claim wants, as far as they are about floating addresses of this pod.

    That is: the destinations of claims whose addresses left, what claims were delivered by before, and longer routes
    that hold nothing but addresses of this pod. Any other route to the ENI may be of another pod that shares it.
    """

    def __init__(self, claims: Iterable[Claim], wanted: Collection[Network], observed: Observed) -> None:
        self._observed, self._wanted = observed, wanted
        by_eni: dict[tuple[str, int], list[Claim]] = {}
        for claim in claims:
            routed = claim.kind is not PlacementKind.ENI_ADDRESS
            if routed and not claim.conceded_to and claim.eni_id in observed.own:
                by_eni.setdefault((claim.eni_id, claim.address.version), []).append(claim)
        self._found: dict[tuple[str, Network], _Left] = {}
        for (eni_id, _), members in by_eni.items():
            members.sort(key=lambda claim: claim.address)
            numbers = [int(claim.address) for claim in members]
            for claim in {(claim.destination, claim.scope): claim for claim in members}.values():
                if is_exact(claim) and claim.destination in wanted:
                    continue
                for table in observed.tables or ():
                    for route in self._of(claim, table, numbers):
                        self._add(eni_id, table, route, members, numbers)

    def of(self, address: Address) -> bool:
        """True when there is one that contains an address."""
        found = self._found.values()
        return any(left.destination.version == address.version and address in left.destination for left in found)

    def withdrawals(self, confirmed_since: float) -> Iterator[DeleteRoute]:
        """All of them, where EC2 itself showed them as ours since then."""
        for left in self._found.values():
            for table, route in left.found:
                if route.seen >= confirmed_since:
                    yield DeleteRoute(table.id, left.destination, left.eni_id, left.inside[0].address)

    def plan(self, draft: Draft) -> None:
        """Delete those that are due and that deliver no address any more."""
        gone: dict[str, set[Network]] = {}
        for left in self._found.values():
            for table, _ in left.found:
                gone.setdefault(table.id, set()).add(left.destination)
        for left in self._found.values():
            if self._observed.at < left.due:
                draft.wake(left.due)
                continue
            for table, route in left.found:
                if table.seen < left.due:
                    draft.needs.add(Need.TABLES)
                elif left.due <= route.seen <= table.seen and self._spare(left, table, gone[table.id], draft):
                    draft.actions.append(DeleteRoute(table.id, left.destination, left.eni_id, left.inside[0].address))

    def _of(self, claim: Claim, table: RouteTable, numbers: list[int]) -> Iterator[Route]:
        """The leftovers of one table that a claim tells of."""
        if is_exact(claim):
            routes: Iterable[Route] = filter(None, [table.routes.get(claim.destination)])  # nothing lies inside
        else:
            routes = inner(table, reach(claim)).routes
        length = claim.destination.prefixlen
        for route in routes:
            to = route.destination
            if route.target != claim.eni_id or to in self._wanted:
                continue
            if (to.prefixlen <= length and claim.address in to) or (to.prefixlen > length and _all_ours(to, numbers)):
                yield route

    def _add(self, eni_id: str, table: RouteTable, route: Route, members: list[Claim], numbers: list[int]) -> None:
        to = route.destination
        left = self._found.get((eni_id, to))
        if left is None:
            first, last = _bounds(to, numbers)
            inside = members[first:last]
            due = max(claim.aimed or claim.since if claim.vanished is None else claim.vanished for claim in inside)
            left = self._found[eni_id, to] = _Left(to, eni_id, inside, due + WITHDRAW_ROUTES_AFTER)
        if all(known is not table for known, _ in left.found):
            left.found.append((table, route))

    def _spare(self, left: _Left, table: RouteTable, gone: set[Network], draft: Draft) -> bool:
        """True when EC2 shows that every address inside is delivered by another route of ours, which stays."""
        latest = 0.0
        for claim in left.inside:
            if claim.vanished is not None:
                continue
            route = delivering(claim, table, without=gone)
            if route is None or route.target != claim.eni_id:
                return False
            latest = max(latest, route.seen)
        if latest <= table.seen:
            return True
        if self._observed.at < latest + CONFIRM_AFTER:
            draft.wake(latest + CONFIRM_AFTER)
        else:
            draft.needs.add(Need.TABLES)
        return False


def _bounds(network: Network, numbers: list[int]) -> tuple[int, int]:
    low = int(network.network_address)
    return bisect_left(numbers, low), bisect_right(numbers, low + network.num_addresses - 1)


def _all_ours(network: Network, numbers: list[int]) -> bool:
    first, last = _bounds(network, numbers)
    return last - first == network.num_addresses
