"""What the core asks of the outside, and what it may rely on. The contract suite runs against each implementation.

Every method raises `CallError` and nothing else. None of them retries or decides: they do one thing and classify what
went wrong. All of EC2's may be called from several threads at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vipmanager.model import (
    Address,
    ElasticIp,
    Eni,
    EniDescription,
    Network,
    PodInterface,
    PodNetwork,
    PodRoute,
    PodRule,
    RouteTable,
    Subnet,
)

if TYPE_CHECKING:  # an init run does without
    from vipmanager.actions_node import CloudAction
    from vipmanager.errors import Failure
    from vipmanager.model_node import HostInterface, Lease, Mark, VpcCidr


class Ec2Port(Protocol):
    """The EC2 API. Describes return every page; they may lag behind writes, so the caller keeps its own in mind."""

    def warm_up(self) -> None:
        """Load what the first call needs; start-up time is failover time. Optional, and idempotent."""

    def route_tables(self, vpc_id: str) -> tuple[RouteTable, ...]:
        """All route tables of the VPC, edge tables and tags included; only static routes and `local` CIDRs."""

    def enis(self, ids: Sequence[str]) -> tuple[EniDescription, ...]:
        """These ENIs; one that does not exist is left out."""

    def enis_by_mac(self, macs: Sequence[str]) -> tuple[EniDescription, ...]:
        """The attached ENIs that have one of these MACs."""

    def enis_holding(self, vpc_id: str, addresses: Sequence[Address]) -> tuple[EniDescription, ...]:
        """The ENIs of a VPC that hold one of these addresses, as primary or secondary."""

    def subnets(self, vpc_id: str) -> tuple[Subnet, ...]:
        """The VPC's subnets."""

    def create_route(self, table_id: str, destination: Network, eni_id: str) -> None:
        """Fails as RACE when there is such a route already; nothing is changed then."""

    def replace_route(self, table_id: str, destination: Network, eni_id: str) -> None:
        """Fails as RACE when there is no such route."""

    def delete_route(self, table_id: str, destination: Network) -> None:
        """Whatever it points to; a route that is not there is no error."""

    def assign(self, eni_id: str, addresses: Sequence[Address]) -> None:
        """Addresses of one family, all or none. IPv4 is taken over from other ENIs; IPv6 held elsewhere is LOST."""

    def unassign(self, eni_id: str, addresses: Sequence[Address]) -> None:
        """Addresses of one family, all or none. LOST when one is not on that ENI."""

    def disable_source_dest_check(self, eni_id: str) -> None:
        """Idempotent."""

    def elastic_ips(self, allocation_ids: Sequence[str]) -> tuple[ElasticIp, ...]:
        """These Elastic IPs; one that does not exist in this account and region is left out."""

    def associate(self, allocation_id: str, eni_id: str, address: IPv4Address) -> None:
        """Bind an Elastic IP to a private address of an ENI, from wherever it was bound. One call."""


class Permission(NamedTuple):
    """What IAM is asked about a change: `ec2:ReplaceRoute`, the ARN of a Resource that would allow it, and the ids.

    `asked` is false where EC2 cannot be asked beforehand, because the call takes no DryRun.
    """

    action: str
    resource: str
    ids: str
    asked: bool


class PermissionPort(Protocol):
    """Whether EC2 would allow changes, without making them."""

    def needed(self, action: CloudAction) -> Permission:
        """What a change needs. No call is made."""

    def check(self, action: CloudAction) -> Failure | None:
        """Why EC2 would refuse it, None where it is allowed or cannot be asked. DENIED is IAM's answer."""


class FloatingEc2Port(Ec2Port, Protocol):
    """What the nodeport mode asks of EC2 besides: ENIs and subnets that follow the holder."""

    def enis_of_instance(self, instance_id: str) -> tuple[EniDescription, ...]:
        """Every ENI that is attached, attaching or detaching; of all network cards."""

    def enis_tagged(self, vpc_id: str, key: str, value: str) -> tuple[EniDescription, ...]:
        """The ENIs of the VPC that carry a tag, attached or not."""

    def enis_in_subnet(self, subnet_id: str) -> tuple[EniDescription, ...]:
        """Every ENI of a subnet; delegated prefixes are in `prefixes`."""

    def create_eni(
        self,
        subnet_id: str,
        addresses: Sequence[Address],
        groups: Sequence[str],
        tags: Mapping[str, str],
        description: str,
        token: str,
    ) -> str:
        """Make an ENI and return its id. The first IPv4 address is its primary one; without any EC2 chooses one.

        The same `token` gives the same ENI again. LOST when one of the addresses is in use.
        """

    def attach_eni(self, eni_id: str, instance_id: str, device_index: int) -> None:
        """Begin to attach. RACE when the index or the ENI was taken; LIMIT when the instance has no slot."""

    def detach_eni(self, attachment_id: str, *, force: bool) -> None:
        """Begin to detach; RACE when that attachment is gone or going already."""

    def delete_eni(self, eni_id: str) -> None:
        """One that does not exist is no error; RACE while it is attached."""

    def create_subnet(self, vpc_id: str, cidr: Network, zone: str, tags: Mapping[str, str]) -> str:
        """Make a subnet and return its id. RACE when its CIDR overlaps one that is there."""

    def delete_subnet(self, subnet_id: str) -> None:
        """One that does not exist is no error; RETRY while something is in it."""

    def vpc_cidrs(self, vpc_id: str) -> tuple[VpcCidr, ...]:
        """The VPC's IPv4 CIDRs with the state of each."""

    def associate_vpc_cidr(self, vpc_id: str, cidr: Network) -> None:
        """Begin to add an IPv4 CIDR to the VPC."""

    def subnet(self, subnet_id: str) -> Subnet | None:
        """One subnet, or None where there is none such."""

    def instance_state(self, instance_id: str) -> str:
        """pending, running, shutting-down, stopping, stopped or terminated; terminated where it is unknown."""


class Identity(NamedTuple):
    """The role or user behind the credentials, and how many seconds this clock is ahead of AWS's.

    Where AWS refuses the credentials, `failure` says why and `arn` is empty: the clock may be the reason. `skew` is
    None where AWS does not tell its time.
    """

    arn: str
    skew: float | None
    failure: Failure | None = None


class Worker(NamedTuple):
    """An instance's type and the hop limit of its IMDS; None where EC2 does not tell."""

    type: str
    hop_limit: int | None


class FactsPort(FloatingEc2Port, Protocol):
    """What doctor asks of AWS besides."""

    def identity(self) -> Identity:
        """Who one is. CallError where AWS does not answer, or not now."""

    def worker(self, instance_id: str) -> Worker:
        """What an instance is."""

    def addresses_per_eni(self, instance_type: str) -> tuple[int | None, int | None]:
        """How many IPv4 and IPv6 addresses an ENI of this type may have."""

    def may_assign(self, eni_id: str, cidrs: Collection[Network], version: int, *, release: bool) -> None:
        """Whether addresses may be assigned to an ENI or, with `release`, taken from it; changes nothing.

        `cidrs` are those of its subnet. DENIED where IAM forbids it.
        """


class RoutesPort(Protocol):
    """The routes and rules of a network namespace, through rtnetlink."""

    def pod_network(self) -> PodNetwork:
        """The routes and rules that carry our protocol number."""

    def set_route(self, route: PodRoute) -> None:
        """Add it, or replace the route to that destination in that table."""

    def delete_route(self, route: PodRoute) -> None:
        """A route that is not there is no error."""

    def add_rule(self, rule: PodRule) -> None:
        """A rule that is there already is no error."""

    def delete_rule(self, rule: PodRule) -> None:
        """A rule that is not there is no error."""


class NetlinkPort(RoutesPort, Protocol):
    """The pod's network namespace."""

    def interfaces(self) -> tuple[PodInterface, ...]:
        """Every interface but loopbacks and the primary `eth0`, in the kernel's order, with usable global addresses."""


class HostPort(RoutesPort, Protocol):
    """The node's network namespace: its routes and rules, and the addresses of its interfaces."""

    def host_interfaces(self) -> tuple[HostInterface, ...]:
        """Every interface but loopbacks, `eth0` included, in the kernel's order, with global-scope addresses."""

    def put_address(self, device: int, address: Address, lifetime: int, by: float = math.inf) -> None:
        """Have the /32 or /128 on an interface for `lifetime` seconds from now, after which the kernel removes it.

        Where it is already, the lifetime begins anew. Usable at once (no duplicate address detection). After `by`
        (boot time) nothing is done: LOST. Should the process be stopped until then with the call half made, it ends.
        """

    def remove_address(self, device: int, address: Address) -> None:
        """Whatever its prefix length; one that is not there is no error."""

    def bring_up(self, device: int) -> None:
        """Set an interface up."""

    def marks(self) -> Mapping[str, frozenset[Mark]]:
        """Our nftables tables by name, those of other Deployments too; one that is not as we make it has no marks.

        INVALID where the kernel has no nftables.
        """

    def set_marks(self, table: str, marks: frozenset[Mark]) -> None:
        """Make the table with these marks, or replace it in one step; INVALID where the kernel cannot."""

    def delete_marks(self, table: str) -> None:
        """A table that is not there is no error."""


class NeighbourPort(Protocol):
    """Raw packets on the node's links; needs NET_RAW."""

    def announce(self, device: str, mac: str, address: Address) -> None:
        """A gratuitous ARP or an unsolicited neighbour advertisement. DENIED without NET_RAW."""

    def echo(self, address: Address, timeout: float) -> bool:
        """Whether the address answers an ICMP echo within `timeout` seconds. DENIED without NET_RAW."""


class LeasePort(Protocol):
    """One coordination.k8s.io Lease."""

    def read(self) -> Lease | None:
        """The lease, or None where there is none."""

    def create(self, lease: Lease) -> Lease:
        """Make it, renewed and acquired now; what was stored. RACE when there is one already."""

    def update(self, lease: Lease, *, renew: bool, acquire: bool = False) -> Lease:
        """Replace it where `version` is still the stored one, else RACE; what was stored.

        `renew` stamps its renewal with the present time, `acquire` its acquisition; else both stay as they were read.
        """

    def watch(self, seen: Callable[[Lease | None], None], silence: float) -> None:
        """Call `seen` with every change until the server ends the stream; RETRY after `silence` seconds of none."""


class LeaseAccessPort(Protocol):
    """Whether this process may use its Lease."""

    def read(self) -> Lease | None:
        """See LeasePort."""

    def may(self, verb: str) -> bool:
        """Whether its service account may get, create, update or watch it; nothing is done."""


class DiscoveryPort(Protocol):
    """The instance metadata service: facts of the worker's ENIs without an API call."""

    def region(self) -> str:
        """The region this instance runs in."""

    def enis(self) -> Mapping[str, Eni]:
        """The worker's ENIs by MAC."""


class EventSink(Protocol):
    """Kubernetes Events on the own Pod: what happened, for those who look with kubectl."""

    def emit(self, reason: str, message: str, *, warning: bool, about: str = "") -> None:
        """Tell it soon, or never: it does not block and raises nothing. `reason` is one word in CamelCase.

        Of what is `about` the same (an address, a lease…) only the last matters. Empty: about nothing but itself.
        """
