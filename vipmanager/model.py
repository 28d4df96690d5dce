"""The words of the design as frozen values: what is observed, what is claimed, what is to be done.

Times are seconds of CLOCK_MONOTONIC, passed in by whoever reads the clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAIN_TABLE = 254
"""The kernel's main routing table, RT_TABLE_MAIN of rtnetlink(7)."""

EC2_IPV6_GATEWAY = IPv6Address("fe80:ec2::1")
"""The router of every IPv6 subnet besides the one in its router advertisements (Amazon VPC User Guide, subnets)."""


class PlacementKind(Enum):
    """How the VPC is made to deliver a floating address."""

    ENI_ADDRESS = "eni-address"
    HOST_ROUTE = "host-route"
    SUBNET_ROUTE = "subnet-route"


@dataclass(frozen=True)
class PodInterface:
    """An interface of the pod other than `lo` and the primary `eth0`, with its global-scope addresses."""

    index: int
    name: str
    mac: str
    up: bool
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class Eni:
    """What does not change while an ENI is attached. `subnet_cidrs` and `vpc_cidrs` hold both families."""

    id: str
    mac: str
    device_index: int
    subnet_id: str
    subnet_cidrs: tuple[Network, ...]
    vpc_id: str
    vpc_cidrs: tuple[Network, ...]
    owner_id: str = ""


@dataclass(frozen=True)
class EniState:
    """What EC2 says of an ENI: every private address with the time it was seen there, which are primary, its check.

    `live` is true while it is attached to an instance; `seen` is when EC2 was last asked.
    """

    id: str
    addresses: Mapping[Address, float]
    primary: frozenset[Address]
    source_dest_check: bool
    live: bool = True
    seen: float = 0.0


@dataclass(frozen=True)
class EniDescription:
    """One network interface as DescribeNetworkInterfaces tells it, before it is split into `Eni` and `EniState`."""

    id: str
    mac: str
    device_index: int
    subnet_id: str
    vpc_id: str
    owner_id: str
    addresses: tuple[Address, ...]
    primary: frozenset[Address]
    source_dest_check: bool
    live: bool


@dataclass(frozen=True)
class Subnet:
    """A subnet of the VPC and its CIDRs, both families."""

    id: str
    cidrs: tuple[Network, ...]


@dataclass(frozen=True)
class Route:
    """One route of a VPC route table. `target` is an id such as `eni-…` or `tgw-…`; `seen` when it was observed."""

    destination: Network
    target: str
    live: bool
    seen: float = 0.0


@dataclass(frozen=True)
class RouteTable:
    """A route table of the VPC: its static routes by destination, its `local` CIDRs, its tags.

    `edge` tables are associated with a gateway, not with subnets. `seen` is when it was observed.
    """

    id: str
    routes: Mapping[Network, Route]
    local: tuple[Network, ...]
    tags: Mapping[str, str]
    edge: bool = False
    seen: float = 0.0


@dataclass(frozen=True, order=True)
class PodRoute:
    """A route in the pod's own network namespace; always through a gateway on a device, `onlink`."""

    table: int
    destination: str
    gateway: str
    device: int


@dataclass(frozen=True, order=True)
class PodRule:
    """A source rule of the pod's own network namespace: packets from `source` (a host prefix) look up `table`."""

    source: str
    table: int


@dataclass(frozen=True)
class PodNetwork:
    """The routes and rules of the pod that carry our rtnetlink protocol number."""

    routes: frozenset[PodRoute] = frozenset()
    rules: frozenset[PodRule] = frozenset()


@dataclass(frozen=True)
class Holder:
    """The ENI, other than ours, that EC2 shows holding an address; `eni_id` is empty when there is none.

    `live` while attached to an instance; a `primary` address cannot be moved.
    """

    eni_id: str
    live: bool
    primary: bool
    seen: float


@dataclass(frozen=True)
class Observed:
    """Both sides at one moment. A fact that has not been read yet is absent (None or not in its mapping).

    `at` is when the round began, before any fact that it asks for; `appeared` when each address came to the pod.
    """

    at: float = 0.0
    interfaces: tuple[PodInterface, ...] = ()
    appeared: Mapping[Address, float] = field(default_factory=dict)
    enis: Mapping[str, Eni] = field(default_factory=dict)  # by MAC
    foreign: frozenset[str] = frozenset()  # MACs of pod interfaces that are no ENI's, for certain
    states: Mapping[str, EniState] = field(default_factory=dict)  # by ENI id, the worker's own
    holders: Mapping[Address, Holder] = field(default_factory=dict)
    tables: tuple[RouteTable, ...] | None = None  # selected ones only
    subnets: tuple[Subnet, ...] | None = None
    pod: PodNetwork = PodNetwork()

    @property
    def pending(self) -> frozenset[str]:
        """MACs of pod interfaces of which it is not known yet whose they are."""
        return frozenset(interface.mac for interface in self.interfaces) - self.foreign - frozenset(self.enis)


@dataclass(frozen=True)
class Claim:
    """This pod's hold on one floating address.

    `since`: when the address appeared. `held`: per target (a route table id, or the ENI id for `eni-address`) when it
    was last known to be ours. `conceded_to`: who took it over, at `conceded_at`. `vanished`: when it left the
    interface.
    """

    address: Address
    eni_id: str
    kind: PlacementKind
    destination: Network
    since: float
    held: Mapping[str, float] = field(default_factory=dict)
    conceded_to: str = ""
    conceded_at: float = 0.0
    vanished: float | None = None


Claims = Mapping[Address, Claim]


@dataclass(frozen=True)
class Problem:
    """Something that keeps one thing from being done, and the setting or action that would change it.

    `subject` names the address or interface. A `fatal` one makes an init run fail; the others are only said.
    """

    subject: str
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


class Change(ABC):
    """One thing to be done. It prints as an operator would say it."""

    @property
    @abstractmethod
    def key(self) -> tuple[str, ...]:
        """What it changes: two changes with one key are never under way at the same time."""


@dataclass(frozen=True)
class SetRoute(Change):
    """Point `destination` in a route table at an ENI; `replaces` is the present target, empty when there is none."""

    table_id: str
    destination: Network
    eni_id: str
    replaces: str
    address: Address

    @property
    def key(self) -> tuple[str, ...]:
        return ("route", self.table_id, str(self.destination))

    def __str__(self) -> str:
        verb = "replace" if self.replaces else "create"
        return f"{verb} route table={self.table_id} destination={self.destination} eni={self.eni_id}"


@dataclass(frozen=True)
class DeleteRoute(Change):
    """Take back a route that was last seen pointing at our ENI."""

    table_id: str
    destination: Network
    eni_id: str
    address: Address

    @property
    def key(self) -> tuple[str, ...]:
        return ("route", self.table_id, str(self.destination))

    def __str__(self) -> str:
        return f"delete route table={self.table_id} destination={self.destination} eni={self.eni_id}"


@dataclass(frozen=True)
class AssignAddress(Change):
    """Make an address a secondary address of an ENI (IPv4: taken over from any other ENI)."""

    eni_id: str
    address: Address

    @property
    def key(self) -> tuple[str, ...]:
        return ("address", str(self.address))

    def __str__(self) -> str:
        return f"assign address={self.address} eni={self.eni_id}"


@dataclass(frozen=True)
class UnassignAddress(Change):
    """Remove an address from an ENI: to release it, or to free an IPv6 address for a take-over."""

    eni_id: str
    address: Address
    why: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("address", str(self.address))

    def __str__(self) -> str:
        return f"unassign address={self.address} eni={self.eni_id} why={self.why}"


@dataclass(frozen=True)
class DisableSourceDestCheck(Change):
    """Let an ENI pass packets for addresses that are not its own; routed placements need it."""

    eni_id: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("check", self.eni_id)

    def __str__(self) -> str:
        return f"disable source/dest check eni={self.eni_id}"


@dataclass(frozen=True)
class SetPodRoute(Change):
    """Add or replace a route of the pod."""

    route: PodRoute

    @property
    def key(self) -> tuple[str, ...]:
        return ("pod-route", str(self.route.table), self.route.destination)

    def __str__(self) -> str:
        r = self.route
        return f"set pod route destination={r.destination} via={r.gateway} device={r.device} table={r.table}"


@dataclass(frozen=True)
class DeletePodRoute(Change):
    """Delete a route of the pod that is ours and no longer wanted."""

    route: PodRoute

    @property
    def key(self) -> tuple[str, ...]:
        return ("pod-route", str(self.route.table), self.route.destination)

    def __str__(self) -> str:
        r = self.route
        return f"delete pod route destination={r.destination} via={r.gateway} device={r.device} table={r.table}"


@dataclass(frozen=True)
class AddPodRule(Change):
    """Add a source rule of the pod."""

    rule: PodRule

    @property
    def key(self) -> tuple[str, ...]:
        return ("pod-rule", self.rule.source, str(self.rule.table))

    def __str__(self) -> str:
        return f"add pod rule from={self.rule.source} table={self.rule.table}"


@dataclass(frozen=True)
class DeletePodRule(Change):
    """Delete a source rule of the pod that is ours and no longer wanted."""

    rule: PodRule

    @property
    def key(self) -> tuple[str, ...]:
        return ("pod-rule", self.rule.source, str(self.rule.table))

    def __str__(self) -> str:
        return f"delete pod rule from={self.rule.source} table={self.rule.table}"


Withdrawal = DeleteRoute | UnassignAddress
VpcAction = SetRoute | AssignAddress | Withdrawal | DisableSourceDestCheck
PodAction = SetPodRoute | DeletePodRoute | AddPodRule | DeletePodRule
Action = VpcAction | PodAction


class Need(Enum):
    """A fact that the plan lacks."""

    TABLES = "route tables"
    STATES = "the worker's ENIs"
    SUBNETS = "subnets"
    HOLDERS = "holders of addresses"


@dataclass(frozen=True)
class Plan:
    """What one round decided: sorted actions, what cannot be done, and the claims as they stand after deciding.

    `needs` says which facts would let it decide more, `wake_at` when it would decide more by time passing alone.
    """

    actions: tuple[Action, ...] = ()
    problems: tuple[Problem, ...] = ()
    claims: Claims = field(default_factory=dict)
    needs: frozenset[Need] = frozenset()
    wake_at: float | None = None
