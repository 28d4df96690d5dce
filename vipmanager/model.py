"""The words of the design as frozen values: what is observed and what is claimed.

Times are seconds of CLOCK_MONOTONIC, passed in by whoever reads the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAIN_TABLE = 254
"""The kernel's main routing table, RT_TABLE_MAIN of rtnetlink(7)."""

EC2_IPV6_GATEWAY = IPv6Address("fe80:ec2::1")
"""The router of every IPv6 subnet besides the one in its router advertisements (Amazon VPC User Guide, subnets)."""


def may_float(address: Address) -> bool:
    """Whether an address can be a floating one: of global scope, and a host's."""
    return not (address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local)


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
class Attachment:
    """An ENI's attachment to an instance; `status` is attaching, attached, detaching or detached."""

    id: str
    instance_id: str
    device_index: int
    status: str


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
    attachment: Attachment | None = None
    zone: str = ""
    groups: tuple[str, ...] = ()
    prefixes: tuple[Network, ...] = ()  # delegated to it
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subnet:
    """A subnet of the VPC and its CIDRs, both families; `zone` is its Availability Zone."""

    id: str
    cidrs: tuple[Network, ...]
    zone: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


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

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """Where functions of this table alone keep their results; no part of its value."""
        return {}


@dataclass(frozen=True, order=True)
class PodRoute:
    """A route in the pod's own network namespace; always through a gateway on a device, `onlink`."""

    table: int
    destination: str
    gateway: str
    device: int


@dataclass(frozen=True, order=True)
class PodRule:
    """A rule of the pod's own network namespace: packets from `source` (a host prefix) look up `table`.

    With a `mask` (nodes only): from anywhere, 0.0.0.0/0 or ::/0, where the packet's mark is `mark` in these bits.
    """

    source: str
    table: int
    mark: int = 0
    mask: int = 0


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
class ElasticIp:
    """An Elastic IP and the ENI and private address it is bound to; both are empty while it is bound to nothing.

    `live` while that ENI is attached to an instance.
    """

    allocation_id: str
    public_ip: str
    eni_id: str = ""
    address: IPv4Address | None = None
    seen: float = 0.0
    live: bool = False


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
    eips: Mapping[str, ElasticIp | None] = field(default_factory=dict)  # by allocation id; None: there is none such
    pod: PodNetwork = PodNetwork()

    @property
    def pending(self) -> frozenset[str]:
        """MACs of pod interfaces of which it is not known yet whose they are."""
        return frozenset(interface.mac for interface in self.interfaces) - self.foreign - frozenset(self.enis)

    @cached_property
    def own(self) -> frozenset[str]:
        """Ids of the ENIs that this pod's interfaces are, or were, on: from others there is nothing to take back."""
        return frozenset(eni.id for eni in self.enis.values())

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """Where functions of this snapshot alone keep their results; no part of its value."""
        return {}


@dataclass(frozen=True)
class Claim:
    """This pod's hold on one floating address.

    `since`: when the address appeared. `held`: per target (a route table id, or for `eni-address` the ENI id, and the
    allocation id of its Elastic IP) when it was last known to be ours. `conceded_to`: who took it over, at
    `conceded_at`. `vanished`: when it left the interface. `aimed`: when its destination last changed, and `scope` the
    broadest one that it has had while a route of that may be left (RouteAggregation).
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
    scope: Network | None = None
    aimed: float = 0.0


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
