"""RouteAggregation and IntfNPools: which destination a routed address shares with the others of its ENI.

With RouteAggregation the addresses of an ENI that lie outside the VPC are covered by the fewest prefixes that hold
nothing else; an address in a pool of its interface by the whole pool. Two things are left as they are for a while:

- An address that has left counts for as long as its routes stay, so that one that flaps does not take a prefix apart.
- A conceded address whose taker has a host route for it stays inside its prefix: the longer route wins over ours. When
  that route vanishes, ours delivers the address at once, and it is claimed again, as any that nobody live holds. One
  that was taken over with a broader route is left out, because a prefix of ours might be the longer of the two then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import collapse_addresses

from vipmanager.config import Config
from vipmanager.model import Address, Claim, Network, Observed, PlacementKind, Problem
from vipmanager.plan.holdings import Standing, holdings, inner, is_host
from vipmanager.plan.placement import containing, host_network
from vipmanager.plan.pod import Attachment, attachments

WITHDRAW_ROUTES_AFTER = 10.0
"""Seconds between an address leaving the pod and the end of its routes.

DeleteRoute has no condition: it would delete the route of whoever took the address over. So a route is deleted only
when a describe that began this long after the address left still shows it as ours, longer than describes lag.
"""

Group = tuple[str, int]
"""An ENI and a family: what one aggregate is made of."""


def aims(claims: Iterable[Claim], observed: Observed, config: Config) -> Mapping[Address, Network]:
    """The destination of each routed claim whose address is on the pod and that is not conceded."""
    groups: defaultdict[Group, list[Claim]] = defaultdict(list)
    for claim in claims:
        if claim.kind is PlacementKind.HOST_ROUTE:
            groups[claim.eni_id, claim.address.version].append(claim)
    pools = usable_pools(observed, config)
    found: dict[Address, Network] = {}
    for (eni_id, _), members in groups.items():
        fixed = list(pools.get(eni_id, ()))
        if config.aggregate_routes:
            fixed += _kept(members, observed.at)
        covered = _cover(members, fixed, observed, together=config.aggregate_routes)
        found |= covered | _longer(members, covered, pools.get(eni_id, ()), observed)
    return found


def _cover(
    members: Sequence[Claim], fixed: Sequence[Network], observed: Observed, *, together: bool
) -> dict[Address, Network]:
    found: dict[Address, Network] = {}
    rest: list[Address] = []
    active = [claim for claim in members if claim.vanished is None and not claim.conceded_to]
    for claim in active:
        network = containing(claim.address, fixed) if fixed else None
        if network is not None:
            found[claim.address] = network
        elif together:
            rest.append(claim.address)
        else:
            found[claim.address] = claim.destination if is_host(claim.destination) else host_network(claim.address)
    if rest:
        inside = [claim.address for claim in members if claim.conceded_to and _host_route_wins(claim, observed)]
        found |= covering(rest, [address for address in inside if not containing(address, fixed)])
    return found


def covering(addresses: Iterable[Address], besides: Iterable[Address] = ()) -> dict[Address, Network]:
    """For each address its prefix among the fewest that hold exactly all of them and some others, of one family."""
    ordered = sorted(addresses)
    prefixes = iter(collapse_addresses(map(host_network, {*ordered, *besides})))  # type: ignore[type-var]
    found: dict[Address, Network] = {}
    prefix = next(prefixes)
    for address in ordered:
        while int(address) > int(prefix.broadcast_address):
            prefix = next(prefixes)
        found[address] = prefix
    return found


def _kept(members: Sequence[Claim], now: float) -> list[Network]:
    """The prefixes of addresses that left a moment ago, as far as others of the pod are delivered by them."""
    left = {
        claim.destination
        for claim in members
        if claim.vanished is not None
        and now < claim.vanished + WITHDRAW_ROUTES_AFTER
        and not is_host(claim.destination)
    }
    used = {claim.destination for claim in members if claim.vanished is None and not claim.conceded_to}
    return sorted(left & used, key=lambda network: (network.prefixlen, int(network.network_address)))


def _host_route_wins(claim: Claim, observed: Observed) -> bool:
    """True when nobody live has a conceded address by anything but a route for it alone."""
    seen = holdings(claim, observed).values()
    takers = [holding.destination for holding in seen if holding.standing is Standing.TAKEN]
    return bool(seen) and all(destination is not None and is_host(destination) for destination in takers)


def aimed(claim: Claim, destination: Network, observed: Observed) -> Claim:
    """The claim with that destination. It stands as it did; what it was delivered by is kept in sight meanwhile."""
    if claim.destination == destination:
        return replace(claim, scope=None) if claim.scope and not _left(claim, observed) else claim
    broadest = min(claim.destination, claim.scope or claim.destination, key=lambda network: network.prefixlen)
    scope = broadest if broadest.prefixlen < destination.prefixlen else None
    return replace(claim, destination=destination, scope=scope, aimed=observed.at)


def _longer(
    members: Sequence[Claim], covered: Mapping[Address, Network], pools: Sequence[Network], observed: Observed
) -> dict[Address, Network]:
    """The claims that stay with their longer destination, as another live holder has a route between.

    That is not fought over while theirs delivers. With the prefix as their destination, it would look like a take-over
    as soon as the longer route is missing, which another pod that shares the ENI may have deleted.
    """
    return {
        claim.address: claim.destination
        for claim in members
        if claim.held
        and (destination := covered.get(claim.address, claim.destination)) != claim.destination
        and destination not in pools
        and _another_between(claim, destination, observed)
    }


def _another_between(claim: Claim, destination: Network, observed: Observed) -> bool:
    """Whether another live holder has a route inside a destination that holds all of the claim's longer one."""
    key = ("between", claim.destination, destination, claim.eni_id)
    between: bool | None = observed.memo.get(key)
    if between is None:
        own = claim.destination.prefixlen
        between = observed.memo[key] = any(
            route.live and route.target != claim.eni_id and route.destination.prefixlen < own
            for table in observed.tables or ()
            for route in inner(table, destination).containing(claim.address)
        )
    return between


def _left(claim: Claim, observed: Observed) -> bool:
    """Whether a broader route to our ENI is left of what a claim was delivered by before; not known without tables."""
    key = ("left", claim.destination, claim.scope, claim.eni_id)
    left: bool | None = observed.memo.get(key)
    if left is None:
        broader = [claim.scope] if claim.scope else []
        while broader and broader[-1].prefixlen + 1 < claim.destination.prefixlen:
            nearer = claim.destination.supernet(new_prefix=broader[-1].prefixlen + 1)
            broader.append(nearer)
        routes = (table.routes.get(network) for table in observed.tables or () for network in broader)
        left = observed.tables is None or any(route is not None and route.target == claim.eni_id for route in routes)
        observed.memo[key] = left
    return left


def usable_pools(observed: Observed, config: Config) -> Mapping[str, Sequence[Network]]:
    """The pools of each ENI, without those that EC2 cannot route whole."""
    return {
        attachment.eni.id: [
            pool for pool in config.pools.get(attachment.eni.device_index, ()) if not _inside(pool, attachment)
        ]
        for attachment in attachments(observed)
        if config.pools
    }


def pool_problems(observed: Observed, config: Config) -> Iterator[Problem]:
    """The pools that overlap the VPC, and those of an ENI that no interface is on."""
    found = attachments(observed) if config.pools else ()
    present = {attachment.eni.device_index: attachment for attachment in found if attachment.ordinal == 0}
    for index, pools in sorted(config.pools.items()):
        if index not in present:
            if found and not observed.pending:
                yield Problem(
                    f"Intf{index}Pools",
                    f"no pod interface is on ENI device index {index}, so these pools are not routed",
                    fatal=False,
                )
            continue
        for pool in pools:
            cidr = _inside(pool, present[index])
            if cidr is not None:
                yield Problem(
                    f"Intf{index}Pools",
                    f"{pool} overlaps the VPC's {cidr}, and EC2 routes only whole subnets inside a VPC, so it is not "
                    "routed; choose a pool outside the VPC",
                )


def _inside(pool: Network, attachment: Attachment) -> Network | None:
    cidrs = attachment.eni.vpc_cidrs
    return next((cidr for cidr in cidrs if cidr.version == pool.version and cidr.overlaps(pool)), None)
