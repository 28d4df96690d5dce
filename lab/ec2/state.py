"""What EC2 knows of a region's network, as immutable values.

A `VpcState` is taken from moto's backend after each change and then shared between threads without a lock. It holds
what the API returns and what forwarding needs; nothing in it refers back to moto. Objects that a change did not touch
are the same objects in the next state, so what is computed from one of them (`cached_property`) is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Tags = tuple[tuple[str, str], ...]

LOCAL = "local"  # the target of a route for a CIDR of the VPC itself
ACTIVE = "active"
BLACKHOLE = "blackhole"


@dataclass(frozen=True)
class Vpc:
    """A VPC; `cidr` is its first IPv4 CIDR, `cidrs` and `ipv6_cidrs` are all that are associated with it by now."""

    vpc_id: str
    owner_id: str
    cidr: IPv4Network
    cidrs: tuple[tuple[str, IPv4Network], ...]  # (association ID, CIDR)
    ipv6_cidrs: tuple[tuple[str, IPv6Network], ...]
    pending_cidrs: tuple[tuple[str, IPv4Network, str], ...] = ()  # (association ID, CIDR, "associating")
    is_default: bool = False
    dhcp_options_id: str = "default"
    instance_tenancy: str = "default"
    tags: Tags = ()

    @property
    def cidr_associations(self) -> tuple[tuple[str, IPv4Network, str], ...]:
        """Every association of an IPv4 CIDR with its state."""
        return (*((each, cidr, "associated") for each, cidr in self.cidrs), *self.pending_cidrs)

    @property
    def networks(self) -> tuple[Network, ...]:
        """Every CIDR of the VPC, both families."""
        return (*(cidr for _, cidr in self.cidrs), *(cidr for _, cidr in self.ipv6_cidrs))

    def contains(self, address: Address) -> bool:
        """Whether the address lies in a CIDR of the VPC."""
        return any(address in network for network in self.networks)


@dataclass(frozen=True)
class Subnet:
    """A subnet, in one Availability Zone."""

    subnet_id: str
    vpc_id: str
    owner_id: str
    cidr: IPv4Network
    ipv6_cidrs: tuple[tuple[str, IPv6Network], ...]  # (association ID, CIDR)
    availability_zone: str
    availability_zone_id: str
    available_addresses: int = 0
    default_for_az: bool = False
    map_public_ip: bool = False
    tags: Tags = ()

    @property
    def networks(self) -> tuple[Network, ...]:
        """The subnet's CIDRs, both families."""
        return (self.cidr, *(cidr for _, cidr in self.ipv6_cidrs))

    def contains(self, address: Address) -> bool:
        """Whether the address lies in the subnet."""
        return any(address in network for network in self.networks)


@dataclass(frozen=True)
class PublicAddress:
    """An Elastic IP associated with one private address of an ENI."""

    public_ip: str
    allocation_id: str | None
    association_id: str | None
    owner_id: str


@dataclass(frozen=True)
class PrivateAddress:
    """An IPv4 address of an ENI."""

    address: IPv4Address
    primary: bool
    public: PublicAddress | None = None


@dataclass(frozen=True)
class Attachment:
    """An ENI's attachment to an instance. `status`: attaching, attached, detaching."""

    attachment_id: str
    instance_id: str
    device_index: int
    owner_id: str
    status: str = "attached"
    attach_time: datetime | None = None
    delete_on_termination: bool = False


@dataclass(frozen=True)
class Eni:
    """An elastic network interface. `private_addresses` holds the primary one first."""

    eni_id: str
    mac: str
    vpc_id: str
    subnet_id: str
    availability_zone: str
    owner_id: str
    private_addresses: tuple[PrivateAddress, ...]
    ipv6_addresses: tuple[IPv6Address, ...] = ()
    attachment: Attachment | None = None
    source_dest_check: bool = True
    status: str = "available"  # or "in-use"
    description: str = ""
    groups: tuple[tuple[str, str], ...] = ()  # (ID, name)
    interface_type: str = "interface"
    requester_managed: bool = False
    tags: Tags = ()

    @property
    def primary_ip(self) -> IPv4Address:
        """The primary private IPv4 address."""
        return self.private_addresses[0].address

    @cached_property
    def addresses(self) -> frozenset[Address]:
        """Every address of the ENI, both families."""
        return frozenset((*(each.address for each in self.private_addresses), *self.ipv6_addresses))

    @property
    def attached(self) -> bool:
        """Whether packets reach an instance through this ENI."""
        return self.attachment is not None and self.attachment.status == "attached"

    @property
    def attaching(self) -> bool:
        """Whether the instance has not got the interface yet."""
        return self.attachment is not None and self.attachment.status == "attaching"

    @property
    def instance_id(self) -> str | None:
        """The instance the ENI is attached to."""
        return self.attachment.instance_id if self.attachment else None

    @property
    def device_index(self) -> int | None:
        """The ENI's device index on its instance."""
        return self.attachment.device_index if self.attachment else None


@dataclass(frozen=True)
class Instance:
    """An instance, in any state (`pending`, `running`, `stopped`, `terminated`, …)."""

    instance_id: str
    instance_type: str
    state: str
    availability_zone: str
    image_id: str = ""
    iam_instance_profile: str | None = None  # ARN
    launch_time: datetime | None = None
    tags: Tags = ()


def instance_runs(instance: Instance | None) -> bool:
    """Whether the instance takes packets; a stopped one does not, though its ENIs stay attached."""
    return instance is not None and instance.state in ("pending", "running")


@dataclass(frozen=True)
class Route:
    """A route. `target` is the ID of what it leads to (`eni-…`, `igw-…`, …) or LOCAL."""

    destination: Network
    target: str
    state: str = ACTIVE  # or BLACKHOLE
    origin: str = "CreateRoute"  # or "CreateRouteTable", "EnableVgwRoutePropagation"
    instance_id: str | None = None  # of the instance the target ENI is attached to
    instance_owner_id: str | None = None

    @property
    def eni_id(self) -> str | None:
        """The target, when it is an ENI."""
        return self.target if self.target.startswith("eni-") else None


@dataclass(frozen=True)
class Association:
    """What a route table applies to: a subnet, a gateway (then it is an edge table), or, when main, the rest."""

    association_id: str
    main: bool = False
    subnet_id: str | None = None
    gateway_id: str | None = None


@dataclass(frozen=True)
class RouteTable:
    """A route table. `routes` is in EC2's order of creation, at most one per destination."""

    route_table_id: str
    vpc_id: str
    owner_id: str
    routes: tuple[Route, ...]
    associations: tuple[Association, ...] = ()
    tags: Tags = ()

    @property
    def main(self) -> bool:
        """Whether this is the VPC's main table: of every subnet without an association of its own."""
        return any(each.main for each in self.associations)

    @property
    def edge(self) -> bool:
        """Whether the table is associated with a gateway: it routes what enters the VPC there."""
        return any(each.gateway_id for each in self.associations)

    @cached_property
    def by_destination(self) -> Mapping[Network, Route]:
        """The routes by their exact destination."""
        return {route.destination: route for route in self.routes}

    @cached_property
    def _by_prefix(self) -> Mapping[int, tuple[tuple[int, Mapping[int, Route]], ...]]:
        """IP version → (shift, network bits → route), longest prefix first: see `lookup`."""
        found: dict[int, dict[int, dict[int, Route]]] = {4: {}, 6: {}}
        for route in self.routes:
            shift = route.destination.max_prefixlen - route.destination.prefixlen
            bits = int(route.destination.network_address) >> shift
            found[route.destination.version].setdefault(shift, {})[bits] = route
        return {version: tuple(sorted(shifts.items())) for version, shifts in found.items()}

    def lookup(self, address: Address) -> Route | None:
        """The route with the longest prefix that contains the address, active or not."""
        value = int(address)
        for shift, routes in self._by_prefix[address.version]:
            route = routes.get(value >> shift)
            if route is not None:
                return route
        return None


@dataclass(frozen=True)
class ElasticIp:
    """An Elastic IP address; of the private address it is associated with, if any, also the ENI and its instance."""

    public_ip: str
    allocation_id: str
    association_id: str | None = None
    eni_id: str | None = None
    private_ip: IPv4Address | None = None
    instance_id: str | None = None
    tags: Tags = ()


@dataclass(frozen=True)
class VpcState:
    """The network of one account in one region. Each change makes a new one with the next `version`."""

    version: int
    region: str
    account_id: str
    vpcs: Mapping[str, Vpc] = field(default_factory=dict)
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    enis: Mapping[str, Eni] = field(default_factory=dict)
    route_tables: Mapping[str, RouteTable] = field(default_factory=dict)
    instances: Mapping[str, Instance] = field(default_factory=dict)
    elastic_ips: Mapping[str, ElasticIp] = field(default_factory=dict)  # by allocation ID

    @cached_property
    def _owners(self) -> Mapping[tuple[str, Address], Eni]:
        return {(eni.vpc_id, address): eni for eni in self.enis.values() for address in eni.addresses}

    @cached_property
    def _tables_of_subnets(self) -> Mapping[str, RouteTable]:
        """Subnet or VPC ID → its table: a subnet's own association, a VPC's main table."""
        found: dict[str, RouteTable] = {}
        for table in self.route_tables.values():
            for association in table.associations:
                if association.main:
                    found[table.vpc_id] = table
                elif association.subnet_id:
                    found[association.subnet_id] = table
        return found

    def owner_of(self, vpc_id: str, address: Address) -> Eni | None:
        """The ENI of the VPC that holds the address, attached or not."""
        return self._owners.get((vpc_id, address))

    def table_of_subnet(self, subnet_id: str) -> RouteTable | None:
        """The table that routes what leaves the subnet: the associated one, else the VPC's main one."""
        own = self._tables_of_subnets.get(subnet_id)
        return own or self._tables_of_subnets.get(self.subnets[subnet_id].vpc_id)

    def live(self, eni: Eni) -> bool:
        """Whether packets sent to the ENI reach somebody: it is attached, to an instance that runs."""
        return eni.attached and instance_runs(self.instances.get(eni.instance_id or ""))

    def enis_of_instance(self, instance_id: str) -> list[Eni]:
        """The ENIs attached to the instance, being attached, or being detached, by device index."""
        held = (eni for eni in self.enis.values() if eni.instance_id == instance_id)
        return sorted(held, key=lambda eni: eni.device_index or 0)

    def enis_of_subnet(self, subnet_id: str) -> Iterator[Eni]:
        """The ENIs in the subnet, attached or not."""
        return (eni for eni in self.enis.values() if eni.subnet_id == subnet_id)

    def eni_by_mac(self, mac: str) -> Eni | None:
        """The ENI with the MAC address (lower case, colons)."""
        return next((eni for eni in self.enis.values() if eni.mac == mac), None)
