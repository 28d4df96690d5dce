"""The words of the nodeport mode: what floats between nodes, the lease that says who holds it, the node's own side.

Times are seconds of CLOCK_BOOTTIME, which goes on while a machine is suspended; they are passed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vipmanager.errors import Failure
from vipmanager.model import (
    Address,
    ElasticIp,
    Eni,
    EniDescription,
    Holder,
    Network,
    PodNetwork,
    RouteTable,
    Subnet,
)

FLOATING_TAG = "vipmanager/floating"
"""Marks the ENI and the subnet that are ours; the value is FLOATING_IP in its canonical form."""

NO_MANAGE_TAG = "node.k8s.amazonaws.com/no_manage"
"""Tells the VPC CNI to leave an ENI alone where it is `true`; the primary ENI it manages all the same
(amazon-vpc-cni-k8s, README and pkg/ipamd, setUnmanagedENIs)."""

MARK_MASK = 0xFF000000
"""The bits of packet and connection marks that are ours. The VPC CNI has 0x80, portmap 0x2000, kube-proxy 0xc000,
Tailscale 0xff0000; Calico has 0xffff0000 but uses the lowest of these, unless kube-proxy is in mode ipvs
(github.com/fwmark/registry; amazon-vpc-cni-k8s, pkg/networkutils)."""

MARK_TABLE_PREFIX = "vipmanager_"
"""What the names of our nftables tables begin with."""


@dataclass(frozen=True)
class Lease:
    """A coordination.k8s.io Lease as it was read.

    `holder` is empty when it was released, `duration` is in seconds, `renewed` and `acquired` are the times as they are
    stored (other nodes' wall clocks: compared for equality only). `offered` says why the holder would give it up,
    `wanted_by` who would take it then; both are annotations. `version` is the resourceVersion.
    """

    holder: str
    duration: int
    renewed: str
    transitions: int
    acquired: str = ""
    offered: str = ""
    wanted_by: str = ""
    version: str = ""


@dataclass(frozen=True)
class Tenure:
    """What the elector knows, published as one value.

    `known`: the lease has been read, and renewed where it named us. `leading`: it is ours. Then act only before
    `until`; nobody else takes it before `expires`; `began` is when it became ours, `renewed_at` when the last
    successful renewal was sent. `yielding_to`: vacate, then resign.
    `holder` is who has it (empty: nobody, or not known), `since` the wall clock of its last change of hands as this
    node saw it, `why` the reason.
    """

    known: bool = False
    leading: bool = False
    began: float = 0.0
    renewed_at: float = 0.0
    until: float = 0.0
    expires: float = 0.0
    yielding_to: str = ""
    holder: str = ""
    since: float = 0.0
    transitions: int = 0
    why: str = ""
    failure: Failure | None = None


@dataclass(frozen=True)
class HostInterface:
    """An interface of the node. `physical` is false for one that is made on top of another (VLAN, macvlan, ipvlan)."""

    index: int
    name: str
    mac: str
    up: bool
    addresses: tuple[Address, ...]
    physical: bool = True


@dataclass(frozen=True)
class Mark:
    """Connections to `address` that come in on interface number `device` are marked with `value`, and so their replies.

    `value` lies within MARK_MASK.
    """

    address: Address
    device: int
    value: int

    def __str__(self) -> str:
        return f"{self.address} iif={self.device} mark={self.value:#x}"


@dataclass(frozen=True)
class VpcCidr:
    """A CIDR of the VPC and the state of its association: associating, associated, failing, failed."""

    cidr: Network
    state: str


@dataclass(frozen=True)
class FloatingEnis:
    """The ENIs that carry our tag, as they were seen at `seen`; there should be one at most."""

    enis: tuple[EniDescription, ...]
    seen: float


@dataclass(frozen=True)
class NodeObserved:
    """The node and EC2 at one moment. A fact that has not been read yet is None or not in its mapping.

    `marks`: by table, those of all Deployments, None where the kernel has none and `no_marks` says why;
    `enis`: the node's ENIs by MAC; `own`: what EC2 says of them by id, as of `own_seen`; `instances`: the state of
    other instances by id, with the time it was seen.
    """

    at: float = 0.0
    interfaces: tuple[HostInterface, ...] = ()
    network: PodNetwork = field(default_factory=PodNetwork)
    marks: Mapping[str, frozenset[Mark]] | None = field(default_factory=dict)
    no_marks: str = ""
    enis: Mapping[str, Eni] = field(default_factory=dict)
    own: Mapping[str, EniDescription] = field(default_factory=dict)
    own_seen: float = 0.0
    held: Mapping[tuple[str, Address], float] = field(default_factory=dict)  # (ENI, address) → when it was seen there
    checks_on: frozenset[str] = frozenset()  # the node's ENIs whose source/dest check is on
    holders: Mapping[Address, Holder] = field(default_factory=dict)
    tables: tuple[RouteTable, ...] | None = None
    eips: Mapping[str, ElasticIp | None] = field(default_factory=dict)  # by allocation id; None: there is none such
    floating: FloatingEnis | None = None
    subnets: tuple[Subnet, ...] | None = None
    subnets_seen: float = 0.0
    vpc_cidrs: tuple[VpcCidr, ...] | None = None
    vpc_cidrs_seen: float = 0.0
    instances: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    detaching: Mapping[str, float] = field(default_factory=dict)  # by attachment id, since when

    @property
    def primary(self) -> Eni | None:
        """The node's primary ENI."""
        return next((eni for eni in self.enis.values() if eni.device_index == 0), None)
