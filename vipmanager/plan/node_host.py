"""The node's own side: floating addresses on its interfaces, and the routing of what they send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256

from vipmanager.actions import AddPodRule, DeletePodRoute, DeletePodRule, SetPodRoute
from vipmanager.actions_node import DeleteMarks, NodeAction, PutAddress, RemoveAddress, SetMarks
from vipmanager.floating import Floating
from vipmanager.model import Address, PodRoute, PodRule
from vipmanager.model_node import (
    MARK_MASK,
    MARK_TABLE_PREFIX,
    HostInterface,
    Mark,
    NodeObserved,
)
from vipmanager.plan.node_draft import Target, interface_of

Placed = Mapping[Address, tuple[Target, HostInterface | None]]


def host_difference(
    targets: Mapping[Address, Target], observed: NodeObserved, names: frozenset[Address], floating: Floating
) -> list[NodeAction]:
    """Addresses, rules, routes and marks of the node: what is missing, and what must not be there."""
    placed = {address: (target, interface_of(target, observed)) for address, target in targets.items()}
    table = marks_table(floating)
    actions = _addresses(placed, observed, names)
    routes, rules = set(_routes(placed)), set(_rules(placed, observed))
    ours = {rule for rule in observed.network.rules if _is_ours(rule, observed, names, table)}
    actions += [SetPodRoute(route) for route in sorted(routes - observed.network.routes)]
    actions += [AddPodRule(rule) for rule in sorted(rules - ours)]
    actions += _marks(placed, observed, table)
    actions += [DeletePodRule(rule) for rule in sorted(ours - rules)]
    return actions + [DeletePodRoute(route) for route in sorted(_idle(observed, ours - rules, routes))]


def marks_table(floating: Floating) -> str:
    """The name of a Deployment's nftables table: what it floats is its own."""
    return MARK_TABLE_PREFIX + sha256(str(floating).encode()).hexdigest()[:8]


def _addresses(placed: Placed, observed: NodeObserved, names: frozenset[Address]) -> list[NodeAction]:
    on = {address: interface for address, (_, interface) in placed.items()}
    actions: list[NodeAction] = [
        RemoveAddress(interface.index, interface.name, address)
        for interface in observed.interfaces
        for address in interface.addresses
        if address in names and interface != on.get(address)
    ]
    return actions + [
        PutAddress(interface.index, interface.name, address)
        for address, interface in on.items()
        if interface is not None and address not in interface.addresses
    ]


def _routes(placed: Placed) -> Iterator[PodRoute]:
    for address, (target, interface) in placed.items():
        gateway = target.gateway(address.version)
        if target.table and gateway is not None and interface is not None and interface.up:
            yield PodRoute(target.table, _everything(address), str(gateway), interface.index)


def _rules(placed: Placed, observed: NodeObserved) -> Iterator[PodRule]:
    """What the addresses send, and replies that get their address only after they have been routed."""
    for address, (target, interface) in placed.items():
        if target.table and interface is not None:
            yield PodRule(_host(address), target.table)
            if observed.marks is not None:
                yield PodRule(_everything(address), target.table, target.mark, MARK_MASK)


def _is_ours(rule: PodRule, observed: NodeObserved, names: frozenset[Address], table: str) -> bool:
    """Deployments with addresses on the same ENI share the rule for its mark; the last one takes it away."""
    if not rule.mask:
        return rule.source in map(_host, names)
    others = (marks for name, marks in (observed.marks or {}).items() if name != table)
    used = {mark.value for marks in others for mark in marks}
    return observed.marks is not None and rule.mask == MARK_MASK and rule.mark not in used


def _marks(placed: Placed, observed: NodeObserved, table: str) -> list[NodeAction]:
    """The marks of connections to addresses that are not on the primary ENI."""
    if observed.marks is None:
        return []
    wanted = frozenset(
        Mark(address, interface.index, target.mark)
        for address, (target, interface) in placed.items()
        if target.table and interface is not None
    )
    found = observed.marks.get(table)
    if wanted:
        return [SetMarks(table, wanted)] if found != wanted else []
    return [DeleteMarks(table)] if found is not None else []


def _idle(observed: NodeObserved, leaving: set[PodRule], wanted: set[PodRoute]) -> set[PodRoute]:
    """Routes of tables that our rules leave and no other rule uses; other Deployments may share such a table."""
    used = {rule.table for rule in observed.network.rules - leaving}
    left = {rule.table for rule in leaving} - used
    return {route for route in observed.network.routes if route.table in left} - wanted


def _everything(address: Address) -> str:
    return "0.0.0.0/0" if address.version == 4 else "::/0"


def _host(address: Address) -> str:
    return f"{address}/{address.max_prefixlen}"
