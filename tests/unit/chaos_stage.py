"""A stage without a lab: two pods, two route tables, and an EC2 in which a test writes as it likes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from lab.chaos.sidecar import Sidecar
from lab.chaos.stage import Stage
from lab.chaos.witness import Witness
from lab.chaos.world import ENI_ADDRESS, HOST_ROUTE, Floating, Home, PodSpec, Settings, World
from lab.ec2.layer import Call, UnderWay
from lab.ec2.state import Eni, PrivateAddress, Route, RouteTable, VpcState

VPC, TABLES = "vpc-1", ("rtb-0", "rtb-1")
A, B = Home("p0", "net1"), Home("p1", "net1")
ROUTED = Floating("h1", HOST_ROUTE, "192.168.7.1", (A, B), None)
BESIDE = Floating("h2", HOST_ROUTE, "192.168.7.2", (A,), None)
OWN = Floating("e1", ENI_ADDRESS, "10.10.11.80", (A, B), None)


@dataclass
class Clock:
    """Seconds, as a test sets them."""

    now: float = 1000.0

    def monotonic(self) -> float:
        """Stands for time.monotonic."""
        return self.now


@dataclass
class Ec2:
    """Route tables and ENIs. `calls` as the lab's EC2 records them."""

    clock: Clock
    state_now: VpcState
    calls: list[Call] = field(default_factory=list)
    under_way: UnderWay | None = None
    callback: Callable[[VpcState], None] = lambda _: None
    keys: Any = field(default_factory=lambda: SimpleNamespace(principal=lambda key: f"arn:aws:iam::1:user/{key}"))
    account_id: str = "1"

    def state(self) -> VpcState:
        """As the lab's."""
        return self.state_now

    def on_change(self, callback: Callable[[VpcState], None]) -> None:
        """As the lab's."""
        self.callback = callback

    def change(self, state: VpcState, action: str, by: str | None) -> None:
        """A pod's call changes something; `by` None: somebody else's."""
        self.state_now = state
        self.under_way = UnderWay(action, by, self.clock.now) if by else None
        self.callback(state)
        self.under_way = None

    def route(self, floating: Floating, eni: str, by: str | None, tables: tuple[str, ...] = TABLES) -> None:
        """Route an address to an ENI; "": delete its routes."""
        destination = ip_network(floating.address)
        for name in tables:
            table = self.state_now.route_tables[name]
            kept = tuple(route for route in table.routes if route.destination != destination)
            changed = replace(table, routes=kept + ((Route(destination, eni),) if eni else ()))
            state = replace(self.state_now, route_tables={**self.state_now.route_tables, name: changed})
            self.change(state, "ReplaceRoute" if eni else "DeleteRoute", by)

    def assign(self, floating: Floating, eni: str, by: str | None) -> None:
        """Give an address to an ENI; "": to none."""
        address = PrivateAddress(IPv4Address(floating.address), primary=False)
        enis = {
            each.eni_id: replace(
                each,
                private_addresses=tuple(held for held in each.private_addresses if held.address != address.address)
                + ((address,) if each.eni_id == eni else ()),
            )
            for each in self.state_now.enis.values()
        }
        action = "AssignPrivateIpAddresses" if eni else "UnassignPrivateIpAddresses"
        self.change(replace(self.state_now, enis=enis), action, by)

    def called(self, pod: str, action: str, **params: str) -> None:
        """Record a call."""
        self.calls.append(Call(action, "ec2", params, pod, 200, None, self.clock.now, self.clock.now))


class BareStage(Stage):
    """A stage in which nothing runs: what sidecars would do, a test does."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        pods = tuple(PodSpec(home.pod, "a", (1,)) for home in (A, B))
        super().__init__(World(("a",), pods, (ROUTED, BESIDE, OWN), 2, 0.0, settings), seed=1)
        self.clock = clock
        tables = {name: RouteTable(name, VPC, "1", ()) for name in TABLES}
        enis = {self.eni(home): Eni(self.eni(home), "", VPC, "", "", "1", ()) for home in (A, B)}
        self.ec2 = Ec2(clock, VpcState(1, "us-east-2", "1", enis=enis, route_tables=tables))
        made: Any = SimpleNamespace(ec2=self.ec2, vpc_id=VPC)
        self.lab = made
        self.tables_ever = set(TABLES)
        self.known: dict[str, dict[str, Any]] = {"p0": {}, "p1": {}}
        for spec in pods:
            self.sidecars[spec.name] = _Sidecar(spec, made, None, {}, known=self.known[spec.name])
        nothing: Any = SimpleNamespace(complaints=lambda: iter(()))
        self.foreign = nothing
        self.witness = Witness(self)

    def eni(self, home: Home) -> str:
        """One for each pod."""
        return f"eni-{home.pod}"

    def holds(self, floating: Floating, home: Home, *, conceded_to: str = "") -> None:
        """The address comes to an interface, and the sidecar claims it."""
        if floating not in self.wanted[home]:
            self._appears(floating, home)
            self.wanted[home].add(floating)
        claim = {"address": floating.address, "vanished": None, "conceded_to": conceded_to}
        self.known[home.pod][floating.address] = claim

    def loses(self, floating: Floating, home: Home) -> None:
        """The address leaves it."""
        self.wanted[home].remove(floating)
        self.witness.left(floating, home)
        del self.known[home.pod][floating.address]


@dataclass
class _Sidecar(Sidecar):
    known: dict[str, Any] = field(default_factory=dict)

    def claims(self) -> dict[str, Any]:
        return self.known


def make_stage(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> BareStage:
    """A stage on a clock of its own."""
    clock = Clock()
    for module in ("stage", "witness"):
        monkeypatch.setattr(f"lab.chaos.{module}.time", clock)
    return BareStage(Settings(**{"resync": 5.0, **settings}), clock)
