"""What vipmanager has in the pods: routes and rules with its own protocol number, for what the pod holds only."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from lab import links
from lab.chaos.foreign import OURS
from lab.chaos.sidecar import Sidecar
from lab.chaos.stage import Stage

_FAMILIES = {2: 4, 10: 6}  # AF_INET, AF_INET6
_BASE = 100
"""An interface's own table is 100 + N (docs/configuration.md, UseSBR)."""

Rules = frozenset[tuple[str, int]]  # source, table
Routes = frozenset[tuple[int, int, str]]  # family, table, destination


def pods(stage: Stage) -> Iterator[str]:
    """Each pod has a rule for each address that it holds, and a default route for each interface that has some."""
    for name, sidecar in stage.sidecars.items():
        wanted, found = expected(stage, sidecar), links.netlink(sidecar.pod.ns, ours)
        for what, should, does in zip(("rules", "routes"), wanted, found, strict=True):
            for each in sorted(should - does, key=str):
                yield f"{name} lacks one of vipmanager's {what}: {each}"
            for each in sorted(does - should, key=str):
                yield f"{name} has one of vipmanager's {what} left over: {each}"


def expected(stage: Stage, sidecar: Sidecar) -> tuple[Rules, Routes]:
    """What source based routing needs: no peers are set, so it is on for all interfaces."""
    rules: set[tuple[str, int]] = set()
    routes: set[tuple[int, int, str]] = set()
    for home in sidecar.spec.homes:
        table = _BASE + int(home.interface.removeprefix("net"))
        for floating in stage.wanted[home] if home not in stage.lost else ():
            source = ip_network(stage.address(floating))
            rules.add((str(source), table))
            routes.add((source.version, table, "default"))
    return frozenset(rules), frozenset(routes)


def ours(iproute: Any) -> tuple[Rules, Routes]:
    """What is there with vipmanager's number, in the namespace of a netlink socket."""
    rules = {
        (f"{rule.get('FRA_SRC')}/{rule['src_len']}", int(rule.get("FRA_TABLE") or rule["table"]))
        for family in _FAMILIES
        for rule in iproute.get_rules(family=family)
        if rule.get("FRA_PROTOCOL") == OURS
    }
    routes = {
        (_FAMILIES[family], int(route.get("RTA_TABLE")), _destination(route))
        for family in _FAMILIES
        for route in iproute.get_routes(family=family)
        if route["proto"] == OURS
    }
    return frozenset(rules), frozenset(routes)


def _destination(route: Any) -> str:
    return f"{route.get('RTA_DST')}/{route['dst_len']}" if route["dst_len"] else "default"
