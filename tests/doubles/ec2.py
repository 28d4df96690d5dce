"""`FakeEc2`: the EC2 port with a VPC behind it, as strict as EC2 is (EC2-SEMANTICS.md), without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from tests.doubles.clock import StillClock
from tests.doubles.faults import Faults
from vipmanager.clients import ec2_errors
from vipmanager.errors import CallError
from vipmanager.model import Address, EniDescription, Network, Route, RouteTable, Subnet

VPC = "vpc-1"


@dataclass(frozen=True)
class FakeTable:
    """A route table: targets by destination. `propagated` ones are shown by EC2, but are not static."""

    id: str
    vpc_id: str
    routes: Mapping[Network, str] = field(default_factory=dict)
    propagated: Mapping[Network, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    edge: bool = False


@dataclass(frozen=True)
class State:
    """All that EC2 knows at one moment; immutable, so that a read that lags can be answered from an older one."""

    vpcs: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    subnets: Mapping[str, tuple[str, tuple[Network, ...]]] = field(default_factory=dict)  # id → VPC, CIDRs
    enis: Mapping[str, EniDescription] = field(default_factory=dict)
    tables: Mapping[str, FakeTable] = field(default_factory=dict)

    def owner(self, vpc_id: str, address: Address) -> EniDescription | None:
        """The ENI that holds an address."""
        held = (eni for eni in self.enis.values() if eni.vpc_id == vpc_id and address in eni.addresses)
        return next(held, None)

    def live(self, target: str) -> bool:
        """Whether a route to the target is active and not a blackhole."""
        return not target.startswith("eni-") or (target in self.enis and self.enis[target].live)


class FakeEc2:
    """The EC2 port. `faults` makes it misbehave and records calls, `lag` (s) is how far reads are behind."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or StillClock()
        self.faults = Faults()
        self.lag = 0.0
        self.routes_per_table = 50
        self.addresses_per_eni = 15
        self._lock = threading.RLock()
        self._history: list[tuple[float, State]] = [(float("-inf"), State())]

    # building and looking, for tests

    @property
    def state(self) -> State:
        """What is true now."""
        return self._history[-1][1]

    def set(self, state: State) -> None:
        """Make something true that no call of ours did."""
        with self._lock:
            self._history.append((self.clock(), state))
        self.faults.bell.ring()

    def add_vpc(self, vpc_id: str, *cidrs: str) -> None:
        """A VPC."""
        self.set(replace(self.state, vpcs={**self.state.vpcs, vpc_id: _networks(cidrs)}))

    def add_subnet(self, subnet_id: str, *cidrs: str, vpc_id: str = VPC) -> None:
        """A subnet."""
        self.set(replace(self.state, subnets={**self.state.subnets, subnet_id: (vpc_id, _networks(cidrs))}))

    def add_eni(self, eni_id: str, mac: str, index: int, subnet_id: str, *addresses: str) -> None:
        """An attached ENI; the first of its addresses is its primary one."""
        vpc_id = self.state.subnets[subnet_id][0]
        own = tuple(ip_address(address) for address in addresses)
        eni = EniDescription(eni_id, mac, index, subnet_id, vpc_id, "123456789012", own, frozenset(own[:1]), True, True)
        self.put_eni(eni)

    def put_eni(self, eni: EniDescription) -> None:
        """An ENI as described."""
        self.set(replace(self.state, enis={**self.state.enis, eni.id: eni}))

    def detach(self, eni_id: str) -> None:
        """Detach an ENI, as the end of its instance does; routes to it turn into blackholes."""
        self.put_eni(replace(self.state.enis[eni_id], live=False, device_index=-1))

    def delete_eni(self, eni_id: str) -> None:
        """Delete an ENI."""
        self.set(replace(self.state, enis={key: eni for key, eni in self.state.enis.items() if key != eni_id}))

    def add_table(self, table_id: str, *, edge: bool = False, vpc_id: str = VPC, **tags: str) -> None:
        """A route table."""
        self._put_table(FakeTable(table_id, vpc_id, tags=tags, edge=edge))

    def put_route(self, table_id: str, destination: str, target: str) -> None:
        """A static route that somebody else wrote."""
        table = self.state.tables[table_id]
        self._put_table(replace(table, routes={**table.routes, ip_network(destination): target}))

    def propagate(self, table_id: str, destination: str, target: str) -> None:
        """A route that a virtual private gateway announces."""
        table = self.state.tables[table_id]
        self._put_table(replace(table, propagated={**table.propagated, ip_network(destination): target}))

    def drop_route(self, table_id: str, destination: str) -> None:
        """Somebody deletes a static route."""
        table = self.state.tables[table_id]
        kept = {key: target for key, target in table.routes.items() if key != ip_network(destination)}
        self._put_table(replace(table, routes=kept))

    def give(self, eni_id: str, address: str) -> None:
        """Somebody else moves an address to an ENI."""
        moved = ip_address(address)
        enis = {
            key: replace(eni, addresses=tuple(each for each in eni.addresses if each != moved))
            for key, eni in self.state.enis.items()
        }
        enis[eni_id] = replace(enis[eni_id], addresses=(*enis[eni_id].addresses, moved))
        self.set(replace(self.state, enis=enis))

    def targets(self, destination: str) -> dict[str, str | None]:
        """Where each table that is no edge table sends a destination."""
        tables = self.state.tables.values()
        return {table.id: table.routes.get(ip_network(destination)) for table in tables if not table.edge}

    def holder(self, address: str, vpc_id: str = VPC) -> str | None:
        """The ENI that has an address."""
        owner = self.state.owner(vpc_id, ip_address(address))
        return owner.id if owner else None

    # the port

    def warm_up(self) -> None:
        """See Ec2Port."""
        with self._call("warm_up"):
            pass

    def route_tables(self, vpc_id: str) -> tuple[RouteTable, ...]:
        """See Ec2Port."""
        seen = self.clock()
        with self._call("route_tables", vpc_id):
            state = self._seen_state()
            return tuple(
                _describe_table(state, table, seen) for table in state.tables.values() if table.vpc_id == vpc_id
            )

    def enis(self, ids: Sequence[str]) -> tuple[EniDescription, ...]:
        """See Ec2Port."""
        with self._call("enis", *ids):
            return tuple(eni for eni in self._seen_state().enis.values() if eni.id in ids)

    def enis_by_mac(self, macs: Sequence[str]) -> tuple[EniDescription, ...]:
        """See Ec2Port."""
        with self._call("enis_by_mac", *macs):
            return tuple(eni for eni in self._seen_state().enis.values() if eni.mac in macs and eni.live)

    def enis_holding(self, vpc_id: str, addresses: Sequence[Address]) -> tuple[EniDescription, ...]:
        """See Ec2Port."""
        with self._call("enis_holding", vpc_id, *addresses):
            enis = self._seen_state().enis.values()
            return tuple(eni for eni in enis if eni.vpc_id == vpc_id and set(addresses) & set(eni.addresses))

    def subnets(self, vpc_id: str) -> tuple[Subnet, ...]:
        """See Ec2Port."""
        with self._call("subnets", vpc_id):
            found = self._seen_state().subnets.items()
            return tuple(Subnet(subnet_id, cidrs) for subnet_id, (home, cidrs) in found if home == vpc_id)

    def create_route(self, table_id: str, destination: Network, eni_id: str) -> None:
        """See Ec2Port. Rows "CreateRoute, destination exists" and "… beyond the quota"."""
        with self._call("create_route", table_id, destination, eni_id):
            table = self._table_for("CreateRoute", table_id, eni_id)
            if destination in table.routes:
                raise _error("CreateRoute", "RouteAlreadyExists", table_id)
            self._check_destination("CreateRoute", table, destination)
            if sum(each.version == destination.version for each in table.routes) >= self.routes_per_table:
                raise _error("CreateRoute", "RouteLimitExceeded", table_id)
            self._put_table(replace(table, routes={**table.routes, destination: eni_id}))

    def replace_route(self, table_id: str, destination: Network, eni_id: str) -> None:
        """See Ec2Port. Row "ReplaceRoute, no such route"."""
        with self._call("replace_route", table_id, destination, eni_id):
            table = self._table_for("ReplaceRoute", table_id, eni_id)
            if destination not in table.routes:
                raise _error("ReplaceRoute", "InvalidParameterValue", table_id)
            self._check_destination("ReplaceRoute", table, destination)
            self._put_table(replace(table, routes={**table.routes, destination: eni_id}))

    def delete_route(self, table_id: str, destination: Network) -> None:
        """See Ec2Port."""
        with self._call("delete_route", table_id, destination):
            if table_id not in self.state.tables:
                raise _error("DeleteRoute", "InvalidRouteTableID.NotFound", table_id)
            self.drop_route(table_id, str(destination))

    def assign(self, eni_id: str, addresses: Sequence[Address]) -> None:
        """See Ec2Port. Rows on AssignPrivateIpAddresses and AssignIpv6Addresses."""
        with self._call("assign", eni_id, *addresses):
            api = "AssignPrivateIpAddresses" if addresses[0].version == 4 else "AssignIpv6Addresses"
            eni = self._eni(api, eni_id)
            for address in addresses:
                self._check_assignable(api, eni, address)
            added = [address for address in dict.fromkeys(addresses) if address not in eni.addresses]
            of_family = [each for each in (*eni.addresses, *added) if each.version == addresses[0].version]
            if len(of_family) > self.addresses_per_eni:
                raise _error(api, "PrivateIpAddressLimitExceeded", eni_id)
            for address in added:
                self.give(eni_id, str(address))

    def unassign(self, eni_id: str, addresses: Sequence[Address]) -> None:
        """See Ec2Port. Row "UnassignPrivateIpAddresses of an address not on that ENI"."""
        with self._call("unassign", eni_id, *addresses):
            api = "UnassignPrivateIpAddresses" if addresses[0].version == 4 else "UnassignIpv6Addresses"
            eni = self._eni(api, eni_id)
            if any(address not in eni.addresses or address in eni.primary for address in addresses):
                raise _error(api, "InvalidParameterValue", eni_id)
            self.put_eni(replace(eni, addresses=tuple(each for each in eni.addresses if each not in addresses)))

    def disable_source_dest_check(self, eni_id: str) -> None:
        """See Ec2Port."""
        with self._call("disable_source_dest_check", eni_id):
            self.put_eni(replace(self._eni("ModifyNetworkInterfaceAttribute", eni_id), source_dest_check=False))

    # rules

    @contextmanager
    def _call(self, operation: str, *arguments: object) -> Iterator[None]:
        call = self.faults.begin(operation, *arguments)
        with self._lock:
            yield
        self.faults.end(call)

    def _seen_state(self) -> State:
        """Row "reads after writes": what was true `lag` seconds ago."""
        if not self.lag:
            return self.state
        until = self.clock() - self.lag
        return next(state for since, state in reversed(self._history) if since <= until)

    def _put_table(self, table: FakeTable) -> None:
        self.set(replace(self.state, tables={**self.state.tables, table.id: table}))

    def _eni(self, api: str, eni_id: str) -> EniDescription:
        if eni_id not in self.state.enis:
            raise _error(api, "InvalidNetworkInterfaceID.NotFound", eni_id)
        return self.state.enis[eni_id]

    def _table_for(self, api: str, table_id: str, eni_id: str) -> FakeTable:
        """Rows "Create/ReplaceRoute to an ENI of another VPC, or one that does not exist"."""
        if table_id not in self.state.tables:
            raise _error(api, "InvalidRouteTableID.NotFound", table_id)
        table = self.state.tables[table_id]
        if self._eni(api, eni_id).vpc_id != table.vpc_id:
            raise _error(api, "InvalidParameterValue", eni_id)
        return table

    def _check_destination(self, api: str, table: FakeTable, destination: Network) -> None:
        """Row "Create/ReplaceRoute inside the VPC's CIDR"; an edge table routes into the VPC only."""
        inside = any(_within(destination, cidr) for cidr in self.state.vpcs[table.vpc_id])
        homes = (cidrs for vpc_id, cidrs in self.state.subnets.values() if vpc_id == table.vpc_id)
        if (inside and not any(destination in cidrs for cidrs in homes)) or (table.edge and not inside):
            raise _error(api, "InvalidParameterValue", str(destination))

    def _check_assignable(self, api: str, eni: EniDescription, address: Address) -> None:
        _, cidrs = self.state.subnets[eni.subnet_id]
        cidr = next((cidr for cidr in cidrs if cidr.version == address.version and address in cidr), None)
        if cidr is None or int(address) - int(cidr.network_address) < 4 or address == cidr.broadcast_address:
            raise _error(api, "InvalidParameterValue", str(address))
        owner = self.state.owner(eni.vpc_id, address)
        if owner is not None and owner.id != eni.id:
            if address.version == 6:
                raise _error(api, "InvalidIPAddress.InUse", str(address))
            if address in owner.primary:
                raise _error(api, "InvalidParameterValue", str(address))


def _describe_table(state: State, table: FakeTable, seen: float) -> RouteTable:
    routes = {to: Route(to, target, state.live(target), seen) for to, target in table.routes.items()}
    return RouteTable(table.id, routes, state.vpcs[table.vpc_id], table.tags, table.edge, seen)


def _networks(cidrs: Sequence[str]) -> tuple[Network, ...]:
    return tuple(ip_network(cidr) for cidr in cidrs)


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _error(api: str, code: str, resource: str) -> CallError:
    """The code that EC2 answers, classified as the real client classifies it."""
    return CallError(ec2_errors.failure(api, code, "the double refuses", 400, service="ec2", resource=resource))
