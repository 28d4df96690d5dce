"""What doctor says of the route tables: which are selected, how full they are, and who else is routed to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from vipmanager.actions import SetRoute
from vipmanager.config import Config
from vipmanager.doctor.model import Facts, Finding, Verdict
from vipmanager.model import Claim, Network, PlacementKind, RouteTable
from vipmanager.plan.holdings import Standing, holdings
from vipmanager.plan.placement import host_network

ROUTES_PER_TABLE = 500
"""The default of the quota «Routes per route table», per family; it was 50 until June 2025 and can be raised to 1,000
(Amazon VPC User Guide, "Amazon VPC quotas"; Service Quotas L-93826ACB)."""


class Filling(NamedTuple):
    """The routes of one family in a table: those that are there and those to come."""

    present: int
    coming: int
    version: int
    table_id: str

    @property
    def total(self) -> int:
        """Both."""
        return self.present + self.coming


def chosen(facts: Facts, config: Config) -> Iterator[Finding]:
    """Which are selected and how full the fullest is; what the account's own quota is, is not asked."""
    tables = facts.observed.tables
    if tables is None:
        return
    if not tables:
        yield Finding(
            "route tables",
            Verdict.FAIL,
            f"VPCRTTag={config.route_tables} selects none of {facts.tables}",
            "tag the route tables of the subnets that send to the floating addresses, or set VPCRTTag to ALL",
        )
        return
    fillings = [_filling(table, version, facts.actions) for table in tables for version in (4, 6)]
    fullest = max(fillings, key=lambda each: (each.total, each.table_id))
    yield Finding(
        "route tables",
        Verdict.OK,
        f"{len(tables)} selected of {facts.tables} by {config.route_tables}; the fullest, {fullest.table_id}, "
        f"{_told(fullest)}",
    )
    for each in fillings:
        if each.total > ROUTES_PER_TABLE * 9 // 10:
            yield Finding(
                f"quota of {each.table_id}, IPv{each.version}",
                Verdict.WARN,
                _told(each),
                "raise «Routes per route table» (Service Quotas, L-93826ACB) in time, or set RouteAggregation",
            )


def _told(filling: Filling) -> str:
    free = max(ROUTES_PER_TABLE - filling.total, 0)
    coming = f" and {filling.coming} to come" if filling.coming else ""
    routes = f"IPv{filling.version} route{'' if filling.present == 1 else 's'}"
    return f"has {filling.present} {routes}{coming}: {free} free of the default {ROUTES_PER_TABLE}"


def _filling(table: RouteTable, version: int, actions: Collection[object]) -> Filling:
    present = sum(each.version == version for each in [*table.routes, *table.local])
    coming = {
        action.destination
        for action in actions
        if isinstance(action, SetRoute)
        and action.table_id == table.id
        and action.destination.version == version
        and action.destination not in table.routes
    }
    return Filling(present, len(coming), version, table.id)


def duplicates(facts: Facts) -> Iterator[Finding]:
    """Who else EC2 shows as the live holder of what is on this pod; one for each destination of a route."""
    present = {interface.mac for interface in facts.interfaces}
    mine = {eni.id for mac, eni in facts.observed.enis.items() if mac in present}
    found: dict[Network, dict[str, list[str]]] = defaultdict(dict)
    held: dict[Network, list[str]] = defaultdict(list)
    for claim in _claims(facts):
        takers = _takers(claim, facts, mine)
        if takers:
            found[claim.destination] |= takers
            held[claim.destination].append(str(claim.address))
    for destination, takers in found.items():
        name = held[destination][0] if destination.num_addresses == 1 else str(destination)
        what = "it" if destination.num_addresses == 1 else ", ".join(held[destination])
        to = "; ".join(f"{taker}{_where(places)}" for taker, places in sorted(takers.items()))
        yield Finding(
            f"claim of {name}",
            Verdict.WARN,
            f"EC2 delivers {what} to {to}, and it is on this {'node' if facts.mode == 'nodeport' else 'pod'} too",
            "if two pods have it, remove it from one of them; the last one that claims it, has it",
        )


def _where(places: Collection[str]) -> str:
    return f" in {', '.join(sorted(places))}" if places else ""


def _takers(claim: Claim, facts: Facts, mine: Collection[str]) -> Mapping[str, list[str]]:
    """Other live holders, with the route tables."""
    found: dict[str, list[str]] = defaultdict(list)
    for target, holding in holdings(claim, facts.observed).items():
        if holding.standing is Standing.TAKEN and holding.holder not in mine:
            found[holding.holder] += [] if claim.kind is PlacementKind.ENI_ADDRESS else [target]
    return found


def _claims(facts: Facts) -> list[Claim]:
    """Those of a pod's addresses that are there; of a node, what is routed to it if it has the address."""
    appeared = facts.observed.appeared
    if facts.mode != "nodeport":
        ordered = sorted(facts.claims, key=lambda each: (each.version, each))
        return [facts.claims[address] for address in ordered if address in appeared]
    return [
        Claim(address, facts.observed.enis[each.mac].id, PlacementKind.HOST_ROUTE, host_network(address), 0.0)
        for each in facts.interfaces
        if each.mac in facts.observed.enis
        for address in each.addresses
        if address in appeared
    ]
