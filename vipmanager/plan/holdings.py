"""Who EC2 shows as the holder of a claim's targets: of each route table, or of the ENI.

What delivers an address is the longest of the routes that contain it (Amazon VPC User Guide, "How route priority
works"). A claim looks at the routes inside its own destination, and inside what its destination was before while a
route of that may be left. Broader routes, such as 0.0.0.0/0, are nobody's claim.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from vipmanager.model import Address, Claim, Network, Observed, PlacementKind, Route, RouteTable


class Standing(Enum):
    """Who EC2 shows as the holder of a claim's target."""

    OURS = "ours"
    FREE = "free"  # nobody, or a holder that is gone
    TAKEN = "taken"  # another live holder
    UNKNOWN = "unknown"  # not observed recently enough to say


@dataclass(frozen=True)
class Holding:
    """The standing of one target of a claim (a route table, or the ENI), the holder, and when that was seen.

    `destination`: of the route that delivers the address, if there is one. `hidden`: other live holders' routes that
    would deliver it without that one. `checked`: when it was last read that nothing longer does. Our own write of a
    prefix says nothing of that.
    """

    standing: Standing
    holder: str = ""
    seen: float = 0.0
    destination: Network | None = None
    hidden: tuple[Route, ...] = ()
    checked: float = float("inf")

    def ours_since(self, since: float) -> bool:
        """True when it is ours by an observation that is not older than `since`."""
        return self.standing is Standing.OURS and self.seen >= since

    def certain_since(self, since: float) -> bool:
        """True when it is, and no longer route of another can have been overlooked."""
        return self.ours_since(since) and self.checked >= since


def holdings(claim: Claim, observed: Observed) -> Mapping[str, Holding]:
    """What EC2 shows for each target of a claim; nothing while the route tables are not known.

    The claims of one aggregate share one mapping where no longer route tells them apart.
    """
    if claim.kind is PlacementKind.ENI_ADDRESS:
        return {claim.eni_id: _address_holding(claim, observed)}
    key = (claim.destination, claim.scope, claim.eni_id, claim.kind)
    found: dict[Address | None, Mapping[str, Holding]] | None = observed.memo.get(key)
    if found is None:
        found = observed.memo[key] = {}
        if all(_alike(claim, table) for table in _tables(observed)):
            found[None] = _route_holdings(claim, observed)
    if None in found:
        return found[None]
    if claim.address not in found:
        found[claim.address] = _route_holdings(claim, observed)
    return found[claim.address]


def _alike(claim: Claim, table: RouteTable) -> bool:
    return is_exact(claim) or inner(table, reach(claim)).alike(claim.destination)


def is_exact(claim: Claim) -> bool:
    """True when no route but the one to its very destination matters to a claim."""
    return claim.kind is PlacementKind.SUBNET_ROUTE or (claim.scope is None and is_host(claim.destination))


def _route_holdings(claim: Claim, observed: Observed) -> Mapping[str, Holding]:
    return {table.id: _holding(claim, table) for table in _tables(observed)}


def is_host(network: Network) -> bool:
    """True for a /32 or /128."""
    return network.prefixlen == network.max_prefixlen


def reach(claim: Claim) -> Network:
    """What a claim's routes lie in: its destination, or the broader one that it had before."""
    return claim.destination if claim.scope is None else claim.scope


def delivering(claim: Claim, table: RouteTable, without: Collection[Network] = ()) -> Route | None:
    """The route of a table by which a claim's address is delivered, apart from some routes."""
    return next((route for route in _for(claim, table) if route.destination not in without), None)


def _for(claim: Claim, table: RouteTable) -> Iterator[Route]:
    """The routes of a table that matter to a claim, the longest first."""
    if not is_exact(claim):
        yield from inner(table, reach(claim)).containing(claim.address)
    elif claim.destination in table.routes:
        yield table.routes[claim.destination]


@dataclass(frozen=True)
class Inner:
    """The routes of one table inside one network, by prefix length, the longest first."""

    routes: tuple[Route, ...]
    lengths: tuple[tuple[int, Mapping[int, Route]], ...]  # host bits → the routes by their network's leading bits

    def containing(self, address: Address) -> Iterator[Route]:
        """Those that contain an address, the longest first."""
        number = int(address)
        for host_bits, by_bits in self.lengths:
            route = by_bits.get(number >> host_bits)
            if route is not None:
                yield route

    def alike(self, destination: Network) -> bool:
        """True when all addresses of a destination are delivered by the same of these routes."""
        bits = destination.max_prefixlen - destination.prefixlen
        return all(host_bits >= bits for host_bits, _ in self.lengths)


def inner(table: RouteTable, network: Network) -> Inner:
    """The routes inside a network, itself included."""
    found: Inner | None = table.memo.get(network)
    if found is None:
        found = table.memo[network] = _inner(table, network)
    return found


def _inner(table: RouteTable, network: Network) -> Inner:
    family, bits = network.version, network.max_prefixlen - network.prefixlen
    leading = int(network.network_address) >> bits
    found = [each for each in _flat(table) if each[0] == family and each[1] <= bits and each[2] >> bits == leading]
    lengths: dict[int, dict[int, Route]] = {}
    for _, host_bits, number, route in found:
        lengths.setdefault(host_bits, {})[number >> host_bits] = route
    return Inner(tuple(each[3] for each in found), tuple(sorted(lengths.items())))


def _flat(table: RouteTable) -> list[tuple[int, int, int, Route]]:
    """Every route as numbers: family, host bits, network address. Networks themselves are slow to compare."""
    found: list[tuple[int, int, int, Route]] | None = table.memo.get("flat")
    if found is None:
        found = [
            (each.version, each.max_prefixlen - each.prefixlen, int(each.network_address), route)
            for each, route in table.routes.items()
        ]
        table.memo["flat"] = found
    return found


def _tables(observed: Observed) -> list[RouteTable]:
    found: list[RouteTable] | None = observed.memo.get("tables")
    if found is None:
        found = observed.memo["tables"] = sorted(observed.tables or (), key=lambda table: table.id)
    return found


def _holding(claim: Claim, table: RouteTable) -> Holding:
    found = list(_for(claim, table))
    if not found:
        return Holding(Standing.FREE, "", table.seen)
    route, *below = found
    standing = Standing.TAKEN if route.live else Standing.FREE
    if route.target == claim.eni_id:
        standing = Standing.OURS
    hidden = tuple(each for each in below if each.live and each.target != claim.eni_id)
    longest = claim.kind is PlacementKind.SUBNET_ROUTE or is_host(route.destination)
    return Holding(standing, route.target, route.seen, route.destination, hidden, route.seen if longest else table.seen)


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
