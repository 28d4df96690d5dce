"""The state behind `FakeEc2`, and how a test builds it and looks at it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import NamedTuple

from tests.doubles.clock import StillClock
from tests.doubles.faults import Faults
from vipmanager.clients import ec2_errors
from vipmanager.errors import CallError
from vipmanager.model import Address, Attachment, ElasticIp, EniDescription, Network

VPC = "vpc-1"
ZONE = "us-east-2a"
ACCOUNT = "123456789012"


@dataclass(frozen=True)
class FakeTable:
    """A route table: targets by destination. `propagated` ones are shown by EC2, but are not static."""

    id: str
    vpc_id: str
    routes: Mapping[Network, str] = field(default_factory=dict)
    propagated: Mapping[Network, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    edge: bool = False


class FakeSubnet(NamedTuple):
    """A subnet."""

    vpc_id: str
    cidrs: tuple[Network, ...]
    zone: str = ZONE
    tags: Mapping[str, str] = {}  # never written to


class FakeInstance(NamedTuple):
    """An instance; `slots` is how many ENIs its type allows."""

    zone: str
    state: str = "running"
    slots: int = 4


@dataclass(frozen=True)
class State:
    """All that EC2 knows at one moment; immutable, so that a read that lags can be answered from an older one."""

    vpcs: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    associating: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)  # VPC → CIDRs to come
    subnets: Mapping[str, FakeSubnet] = field(default_factory=dict)
    enis: Mapping[str, EniDescription] = field(default_factory=dict)
    tables: Mapping[str, FakeTable] = field(default_factory=dict)
    eips: Mapping[str, ElasticIp] = field(default_factory=dict)
    instances: Mapping[str, FakeInstance] = field(default_factory=dict)

    def owner(self, vpc_id: str, address: Address) -> EniDescription | None:
        """The ENI that holds an address."""
        held = (eni for eni in self.enis.values() if eni.vpc_id == vpc_id and address in eni.addresses)
        return next(held, None)

    def live(self, target: str) -> bool:
        """Whether a route to the target is active and not a blackhole."""
        return not target.startswith("eni-") or (target in self.enis and self.enis[target].live)

    def enis_of(self, instance_id: str) -> list[EniDescription]:
        """The ENIs that are attached to an instance, or nearly so, or still."""
        return [eni for eni in self.enis.values() if eni.attachment and eni.attachment.instance_id == instance_id]


class Region:
    """A `State` that changes. `faults` makes calls misbehave and records them, `lag` (s) is how far reads are behind.

    `guard` is called before each write is applied, as the real client's.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or StillClock()
        self.faults = Faults()
        self.guard: Callable[[], None] = lambda: None
        self.lag = 0.0
        self.routes_per_table = 50
        self.addresses_per_eni = 15
        self._lock = threading.RLock()
        self._history: list[tuple[float, State]] = [(float("-inf"), State())]

    @property
    def state(self) -> State:
        """What is true now."""
        return self._history[-1][1]

    def set(self, state: State) -> None:
        """Make something true that no call of ours did."""
        with self._lock:
            self._history.append((self.clock(), state))
        self.faults.bell.ring()

    # building

    def add_vpc(self, vpc_id: str, *cidrs: str) -> None:
        """A VPC."""
        self.set(replace(self.state, vpcs={**self.state.vpcs, vpc_id: networks(cidrs)}))

    def add_subnet(self, subnet_id: str, *cidrs: str, vpc_id: str = VPC, zone: str = ZONE, **tags: str) -> None:
        """A subnet."""
        self.put_subnet(subnet_id, FakeSubnet(vpc_id, networks(cidrs), zone, tags))

    def put_subnet(self, subnet_id: str, subnet: FakeSubnet) -> None:
        """A subnet as described."""
        self.set(replace(self.state, subnets={**self.state.subnets, subnet_id: subnet}))

    def add_instance(self, instance_id: str, zone: str = ZONE, state: str = "running", slots: int = 4) -> None:
        """An instance, or its new state; what is terminated or stopped keeps no ENI that was detaching."""
        instances = {**self.state.instances, instance_id: FakeInstance(zone, state, slots)}
        self.set(replace(self.state, instances=instances))
        for eni in self.state.enis_of(instance_id):
            if state == "terminated" or (state == "stopped" and not eni.live):
                self.detach(eni.id)

    def add_eni(self, eni_id: str, mac: str, index: int, subnet_id: str, *addresses: str, instance: str = "") -> None:
        """An attached ENI; the first of its addresses is its primary one. Without `instance`, one of its own."""
        vpc_id, _, zone, _ = self.state.subnets[subnet_id]
        own = tuple(ip_address(address) for address in addresses)
        holder = instance or f"i-{eni_id.removeprefix('eni-')}"
        if holder not in self.state.instances:
            self.add_instance(holder, zone)
        attachment = Attachment(f"eni-attach-{eni_id.removeprefix('eni-')}", holder, index, "attached")
        self.put_eni(
            EniDescription(
                eni_id, mac, index, subnet_id, vpc_id, ACCOUNT, own, frozenset(own[:1]), True, True, attachment, zone
            )
        )

    def put_eni(self, eni: EniDescription) -> None:
        """An ENI as described."""
        self.set(replace(self.state, enis={**self.state.enis, eni.id: eni}))

    def detach(self, eni_id: str) -> None:
        """Detach an ENI, as the end of its instance does; routes to it turn into blackholes."""
        self.put_eni(replace(self.state.enis[eni_id], live=False, device_index=-1, attachment=None))

    def remove_eni(self, eni_id: str) -> None:
        """Delete an ENI; its Elastic IPs are bound to nothing then."""
        self._unbind(lambda eip: eip.eni_id == eni_id)
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
        """Somebody else moves an address to an ENI; its Elastic IP "is also moved" (AssignPrivateIpAddresses)."""
        moved = ip_address(address)
        enis = {
            key: replace(eni, addresses=tuple(each for each in eni.addresses if each != moved))
            for key, eni in self.state.enis.items()
        }
        enis[eni_id] = replace(enis[eni_id], addresses=(*enis[eni_id].addresses, moved))
        vpc_id = enis[eni_id].vpc_id
        eips = {
            key: replace(eip, eni_id=eni_id)
            if eip.address == moved and self.state.enis[eip.eni_id].vpc_id == vpc_id
            else eip
            for key, eip in self.state.eips.items()
        }
        self.set(replace(self.state, enis=enis, eips=eips))

    def add_eip(self, allocation_id: str, public_ip: str, eni_id: str = "", address: str = "") -> None:
        """An Elastic IP, bound or not."""
        bound = IPv4Address(address) if address else None
        self._put_eip(ElasticIp(allocation_id, public_ip, eni_id, bound))

    # looking

    def targets(self, destination: str) -> dict[str, str | None]:
        """Where each table that is no edge table sends a destination."""
        tables = self.state.tables.values()
        return {table.id: table.routes.get(ip_network(destination)) for table in tables if not table.edge}

    def holder(self, address: str, vpc_id: str = VPC) -> str | None:
        """The ENI that has an address."""
        owner = self.state.owner(vpc_id, ip_address(address))
        return owner.id if owner else None

    # for the calls

    @contextmanager
    def _call(self, operation: str, *arguments: object, write: bool = False) -> Iterator[None]:
        call = self.faults.begin(operation, *arguments)
        if write:
            self.guard()
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

    def _put_eip(self, eip: ElasticIp) -> None:
        self.set(replace(self.state, eips={**self.state.eips, eip.allocation_id: eip}))

    def _unbind(self, which: Callable[[ElasticIp], bool]) -> None:
        for eip in self.state.eips.values():
            if eip.eni_id and which(eip):
                self._put_eip(replace(eip, eni_id="", address=None))

    def _eni(self, api: str, eni_id: str) -> EniDescription:
        if eni_id not in self.state.enis:
            raise refusal(api, "InvalidNetworkInterfaceID.NotFound", eni_id)
        return self.state.enis[eni_id]

    def _check_in_subnet(self, api: str, subnet_id: str, address: Address) -> None:
        """Row "AssignPrivateIpAddresses, address outside the subnet, or reserved (first four, last)"."""
        cidrs = self.state.subnets[subnet_id].cidrs
        cidr = next((cidr for cidr in cidrs if cidr.version == address.version and address in cidr), None)
        if cidr is None or int(address) - int(cidr.network_address) < 4 or address == cidr.broadcast_address:
            raise refusal(api, "InvalidParameterValue", str(address))


def networks(cidrs: Sequence[str]) -> tuple[Network, ...]:
    """CIDRs from text."""
    return tuple(ip_network(cidr) for cidr in cidrs)


def within(inner: Network, outer: Network) -> bool:
    """Whether one CIDR is the other or a part of it."""
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def refusal(api: str, code: str, resource: str) -> CallError:
    """The code that EC2 answers, classified as the real client classifies it."""
    return CallError(ec2_errors.failure(api, code, "the double refuses", 400, service="ec2", resource=resource))
