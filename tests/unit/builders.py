"""Small worlds for the pure half: a VPC 10.10.0.0/16 whose ENI and subnet number N are 10.10.N.0/24."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from vipmanager.config import Config, load
from vipmanager.model import (
    Address,
    Claim,
    Eni,
    EniState,
    Holder,
    Network,
    Observed,
    PlacementKind,
    PodInterface,
    Route,
    RouteTable,
    Subnet,
)

NOW = 1000.0
VPC_CIDRS = (ip_network("10.10.0.0/16"), ip_network("2600:1f14::/56"))
DEFAULTS = Config()
OUTSIDE, OUTSIDE6 = "192.168.0.1", "fd00::1"


def config(**settings: str) -> Config:
    """Settings as a user writes them."""
    return load(settings)


def mac(number: int) -> str:
    """The MAC of an ENI."""
    return f"02:00:00:00:00:{number:02x}"


def subnet(number: int) -> Subnet:
    """A subnet of both families."""
    return Subnet(f"subnet-{number}", _networks(f"10.10.{number}.0/24", f"2600:1f14:0:{number}::/64"))


def eni(number: int = 1, **changes: Any) -> Eni:
    """An ENI of the worker, on the device index of its number."""
    home = subnet(number)
    made = Eni(f"eni-{number}", mac(number), number, home.id, home.cidrs, "vpc-1", VPC_CIDRS)
    return replace(made, **changes)


def interface(number: int, *addresses: str, up: bool = True, on: int | None = None) -> PodInterface:
    """The pod interface netN, on the ENI of its number unless it is told another."""
    parsed = sorted((ip_address(text) for text in addresses), key=lambda address: (address.version, address))
    return PodInterface(number + 1, f"net{number}", mac(number if on is None else on), up, tuple(parsed))


def table(
    table_id: str, routes: Mapping[str, str] | None = None, *, seen: float = NOW, dead: bool = False
) -> RouteTable:
    """A route table; `dead` routes are blackholes."""
    found = {ip_network(to): Route(ip_network(to), target, not dead, seen) for to, target in (routes or {}).items()}
    return RouteTable(table_id, found, VPC_CIDRS, {}, False, seen)


def state(
    number: int, *addresses: str, check: bool = False, seen: float = NOW, held_since: float | None = None
) -> EniState:
    """What EC2 says of an ENI; 10.10.N.10 is its primary address."""
    primary = ip_address(f"10.10.{number}.10")
    held = dict.fromkeys((primary, *map(ip_address, addresses)), seen if held_since is None else held_since)
    return EniState(f"eni-{number}", held, frozenset({primary}), check, True, seen)


def holder(eni_id: str, *, live: bool = True, seen: float = NOW) -> Holder:
    """Another ENI that holds an address; nobody when its id is empty."""
    return Holder(eni_id, live and bool(eni_id), False, seen)


def claim(
    text: str, number: int = 1, *, since: float = NOW, held: Mapping[str, float] | None = None, **changes: Any
) -> Claim:
    """A claim; its placement follows from the address."""
    address = ip_address(text)
    own = any(address in cidr for cidr in subnet(number).cidrs if cidr.version == address.version)
    kind = PlacementKind.ENI_ADDRESS if own else PlacementKind.HOST_ROUTE
    made = Claim(address, f"eni-{number}", kind, ip_network(text), since, held or {})
    return replace(made, **changes)


def claims(*made: Claim) -> dict[Address, Claim]:
    """Claims by address."""
    return {each.address: each for each in made}


def observed(
    *interfaces: PodInterface, tables: Iterable[RouteTable] | None = (), at: float = NOW, **facts: Any
) -> Observed:
    """A snapshot in which the ENIs behind the interfaces are known, and described without check and extra addresses."""
    numbers = sorted({int(each.mac[-2:], 16) for each in interfaces})
    known: dict[str, Any] = {
        "enis": {mac(number): eni(number) for number in numbers},
        "states": {f"eni-{number}": state(number) for number in numbers},
    }
    listed = None if tables is None else tuple(tables)
    return Observed(at=at, interfaces=interfaces, tables=listed, **{**known, **facts})


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)
