"""What the core asks of the outside, and what it may rely on. The contract suite runs against each implementation.

Every method raises `CallError` and nothing else. None of them retries or decides: they do one thing and classify what
went wrong. All of EC2's may be called from several threads at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from vipmanager.model import (
    Address,
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


class NetlinkPort(Protocol):
    """The pod's network namespace, through rtnetlink."""

    def interfaces(self) -> tuple[PodInterface, ...]:
        """Every interface but loopbacks and the primary `eth0`, in the kernel's order, with usable global addresses."""

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


class DiscoveryPort(Protocol):
    """The instance metadata service: facts of the worker's ENIs without an API call."""

    def region(self) -> str:
        """The region this instance runs in."""

    def enis(self) -> Mapping[str, Eni]:
        """The worker's ENIs by MAC."""
