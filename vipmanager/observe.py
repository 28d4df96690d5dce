"""What is known of both sides: the kernel's and EC2's answers, and our own writes, as one Observed snapshot.

EC2's describes may lag behind writes by seconds. So a describe that began within SETTLE seconds of one of our writes
does not overrule it; when it contradicts, another look is asked for (`recheck_at`), and that one is believed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from vipmanager.actions import (
    Action,
    AssignAddress,
    AssociateEip,
    DeleteRoute,
    DisableSourceDestCheck,
    SetRoute,
    UnassignAddress,
)
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.logs import event
from vipmanager.model import (
    Address,
    Claims,
    ElasticIp,
    Eni,
    EniDescription,
    EniState,
    Holder,
    Network,
    Observed,
    PodInterface,
    PodNetwork,
    Route,
    RouteTable,
    Subnet,
)
from vipmanager.parsers import TagSelector
from vipmanager.plan.aggregate import WITHDRAW_ROUTES_AFTER
from vipmanager.ports import DiscoveryPort, Ec2Port

log = logging.getLogger("vipmanager.observe")

SETTLE = 5.0
"""Seconds for which our own write is believed rather than a describe; EC2's reads are eventually consistent."""


class PodReads(Protocol):
    """What is read of the pod, of the netlink port."""

    def interfaces(self) -> tuple[PodInterface, ...]:
        """See NetlinkPort."""

    def pod_network(self) -> PodNetwork:
        """See RoutesPort."""


SHARED_FOR, SHARED_EACH = 15.0, 1.5
"""Seconds for which, and between, the looks at what another pod on this ENI had before: longer than it waits before it
takes back what its address has left (plan.aggregate.WITHDRAW_ROUTES_AFTER)."""


class View:
    """The one mutable thing: everything seen so far. Used from the agent's thread only."""

    def __init__(self, selector: TagSelector) -> None:
        self._selector = selector
        self.at = 0.0
        self.interfaces: tuple[PodInterface, ...] = ()
        self.pod = PodNetwork()
        self._appeared: dict[Address, float] = {}
        self.enis: dict[str, Eni] = {}
        self.foreign: frozenset[str] = frozenset()
        self.subnets: tuple[Subnet, ...] | None = None
        self.eips: dict[str, ElasticIp | None] = {}
        self.recheck_at: float | None = None
        self._shared_from = self._shared_until = float("-inf")
        self._tables: dict[str, RouteTable] | None = None
        self._states: dict[str, EniState] = {}
        self._holders: dict[Address, Holder] = {}
        self._route_writes: dict[tuple[str, Network], tuple[Route | None, float]] = {}
        self._address_writes: dict[tuple[str, Address], tuple[bool, float]] = {}
        self._checks_off: dict[str, float] = {}
        self._eip_writes: dict[str, ElasticIp] = {}

    def observed(self) -> Observed:
        """An immutable snapshot; edge tables and tables that the tag does not select are left out."""
        tables = None
        if self._tables is not None:
            tables = tuple(
                table for table in self._tables.values() if not table.edge and self._selector.matches(table.tags)
            )
        return Observed(
            at=self.at,
            interfaces=self.interfaces,
            appeared=dict(self._appeared),
            enis=dict(self.enis),
            foreign=self.foreign,
            states=dict(self._states),
            holders=dict(self._holders),
            tables=tables,
            subnets=self.subnets,
            eips=dict(self.eips),
            pod=self.pod,
        )

    def look(self, netlink: PodReads) -> None:
        """Read the kernel anew. Raises CallError."""
        self.interfaces = netlink.interfaces()
        self.pod = netlink.pod_network()
        held = {address for interface in self.interfaces if interface.up for address in interface.addresses}
        self._appeared = {address: self._appeared.get(address, self.at) for address in held}
        present = {interface.mac for interface in self.interfaces}
        self.foreign &= present

    def learn_enis(self, found: Mapping[str, Eni], asked: Collection[str]) -> None:
        """Discovery's answer for some MACs: those it did not find are no ENI's."""
        self.enis.update(found)
        self.foreign = (self.foreign | frozenset(asked)) - frozenset(self.enis)

    def learn_tables(self, tables: Iterable[RouteTable]) -> None:
        """A describe's answer, with our own recent writes laid over it."""
        self._tables = {table.id: table for table in sorted(tables, key=lambda table: table.id)}
        for (table_id, destination), (route, written) in list(self._route_writes.items()):
            table = self._tables.get(table_id)
            if (table.seen if table is not None else self.at) >= written + SETTLE:
                del self._route_writes[table_id, destination]
            if table is None or table.seen >= written + SETTLE:
                continue
            shown = table.routes.get(destination)
            if (shown and shown.target) != (route and route.target):
                self._ask_again(written + SETTLE)
                self._lay_route(table, destination, route)
            elif table.seen < written:  # asked for before, answered after
                self._lay_route(table, destination, route)
        self._look_at_shared()

    def learn_states(self, descriptions: Iterable[EniDescription], asked: Collection[str], seen: float) -> None:
        """A describe's answer for the worker's ENIs, with our own recent writes laid over it; absent ones are gone."""
        for eni_id in asked:
            self._states.pop(eni_id, None)
        for description in descriptions:
            addresses = dict.fromkeys(description.addresses, seen)
            for (eni_id, address), (present, written) in list(self._address_writes.items()):
                if eni_id != description.id:
                    continue
                if seen >= written + SETTLE:
                    del self._address_writes[eni_id, address]
                elif present != (address in addresses):
                    self._ask_again(written + SETTLE)
                    _set_present(addresses, address, present, written)
                elif present:
                    addresses[address] = max(seen, written)
            check_off = seen < self._checks_off.get(description.id, float("-inf")) + SETTLE
            self._states[description.id] = EniState(
                description.id,
                addresses,
                description.primary,
                description.source_dest_check and not check_off,
                description.live,
                seen,
            )
        self._look_at_shared()

    def learn_holders(self, descriptions: Iterable[EniDescription], asked: Sequence[Address], seen: float) -> None:
        """Which other ENIs hold these addresses."""
        self._holders.update((address, Holder("", False, False, seen)) for address in asked)
        for description in descriptions:
            for address in set(asked) & set(description.addresses):
                self._holders[address] = Holder(description.id, description.live, address in description.primary, seen)

    def learn_eips(self, found: Iterable[ElasticIp], asked: Collection[str], seen: float) -> None:
        """A describe's answer for Elastic IPs, with our own recent writes laid over it; absent ones do not exist."""
        shown = {eip.allocation_id: replace(eip, seen=seen) for eip in found}
        for allocation_id in asked:
            eip, written = shown.get(allocation_id), self._eip_writes.get(allocation_id)
            if written is not None and seen >= written.seen + SETTLE:
                del self._eip_writes[allocation_id]
            elif written is not None and (
                eip is None or (eip.eni_id, eip.address) != (written.eni_id, written.address)
            ):
                self._ask_again(written.seen + SETTLE)
                eip = written
            elif eip is not None and written is not None:
                eip = replace(eip, seen=max(seen, written.seen))
            self.eips[allocation_id] = eip

    def wrote(self, action: Action, now: float, *, raced: bool = False) -> None:
        """Our own write succeeded: know it without asking. `raced`: over what was there, without our having seen it."""
        if isinstance(action, SetRoute):
            if action.replaces == action.eni_id:  # written again, because it was seen before the claim began
                self._watch_shared(now, now)
            elif raced:  # mostly another's, perhaps the same of another pod on this ENI: not worth a look before that
                self._watch_shared(now + WITHDRAW_ROUTES_AFTER, now)
            route = Route(action.destination, action.eni_id, True, now)
            self._note_route(action.table_id, action.destination, route, now)
        elif isinstance(action, DeleteRoute):
            self._note_route(action.table_id, action.destination, None, now)
        elif isinstance(action, AssignAddress):
            self._note_address(action.eni_id, action.address, True, now)
        elif isinstance(action, UnassignAddress):
            self._note_address(action.eni_id, action.address, False, now)
            self._holders[action.address] = Holder("", False, False, now)
        elif isinstance(action, DisableSourceDestCheck):
            self._checks_off[action.eni_id] = now
            if action.eni_id in self._states:
                self._states[action.eni_id] = replace(self._states[action.eni_id], source_dest_check=False)
        elif isinstance(action, AssociateEip):
            known = self.eips.get(action.allocation_id)
            public_ip = known.public_ip if known is not None else ""
            bound = ElasticIp(action.allocation_id, public_ip, action.eni_id, action.address, now, live=True)
            self.eips[action.allocation_id] = self._eip_writes[action.allocation_id] = bound

    def claimed(self, before: Claims, after: Claims) -> None:
        """Watch claims that have just come to be held without our having written all of it.

        What was there already is another pod's on the same ENI, whose address has left it perhaps: that pod takes it
        back after a while, because EC2 does not show whose it is. It is put back at the next look.
        """
        for address, claim in after.items():
            old = before.get(address)
            written = {table for table, to in self._route_writes if to == claim.destination}
            written |= {eni for eni, each in self._address_writes if each == address}
            inherited = {target for target in claim.held if target.startswith(("rtb-", "eni-"))} - written
            if inherited and not (old is not None and old.held and old.since == claim.since):
                self._watch_shared(self.at, self.at)
        self._look_at_shared()

    def _watch_shared(self, begin: float, now: float) -> None:
        self._shared_from = min(begin, self._shared_from) if now < self._shared_until else begin
        self._shared_until = now + SHARED_FOR

    def _look_at_shared(self) -> None:
        if self.at < self._shared_until and self.recheck_at is None:
            self.recheck_at = max(self.at, self._shared_from) + SHARED_EACH

    def doubt(self, action: Action) -> None:
        """A write found the world other than we thought: forget what it relied on, so that it is read again."""
        if isinstance(action, AssignAddress | UnassignAddress):
            self._holders.pop(action.address, None)
            state = self._states.get(action.eni_id)
            if isinstance(action, UnassignAddress) and state is not None:
                kept = {address: seen for address, seen in state.addresses.items() if address != action.address}
                self._states[action.eni_id] = replace(state, addresses=kept)

    def fullness(self, action: Action) -> int | None:
        """How many routes (addresses) of a family the table (ENI) of an action was last seen with; for quotas."""
        table = (self._tables or {}).get(action.table_id) if isinstance(action, SetRoute) else None
        if table is not None and isinstance(action, SetRoute):
            return sum(each.version == action.destination.version for each in table.routes)
        state = self._states.get(action.eni_id) if isinstance(action, AssignAddress) else None
        if state is not None and isinstance(action, AssignAddress):
            return sum(each.version == action.address.version for each in state.addresses)
        return None

    def _ask_again(self, at: float) -> None:
        self.recheck_at = at if self.recheck_at is None else max(self.recheck_at, at)

    def _note_route(self, table_id: str, destination: Network, route: Route | None, now: float) -> None:
        self._route_writes[table_id, destination] = (route, now)
        if self._tables is not None and table_id in self._tables:
            self._lay_route(self._tables[table_id], destination, route)

    def _lay_route(self, table: RouteTable, destination: Network, route: Route | None) -> None:
        assert self._tables is not None
        routes = {key: value for key, value in table.routes.items() if key != destination}
        if route is not None:
            routes[destination] = route
        self._tables[table.id] = replace(self._tables[table.id], routes=routes)

    def _note_address(self, eni_id: str, address: Address, present: bool, now: float) -> None:
        self._address_writes[eni_id, address] = (present, now)
        state = self._states.get(eni_id)
        if state is not None:
            addresses = dict(state.addresses)
            _set_present(addresses, address, present, now)
            self._states[eni_id] = replace(state, addresses=addresses)


def _set_present(addresses: dict[Address, float], address: Address, present: bool, at: float) -> None:
    if present:
        addresses[address] = at
    else:
        addresses.pop(address, None)


def known_to_imds(imds: DiscoveryPort) -> Mapping[str, Eni]:
    """Every ENI of the worker, or none where IMDS cannot be reached."""
    try:
        return imds.enis()
    except CallError as error:
        event(log, logging.WARNING, "imds unreachable", why=error.failure, then="EC2 is asked instead")
        return {}


def discover(macs: Collection[str], imds: DiscoveryPort, ec2: Ec2Port) -> dict[str, Eni]:
    """The ENIs behind some MACs: from IMDS, and from EC2 where IMDS cannot be reached.

    Raises CallError when neither answers; the message then holds both reasons.
    """
    try:
        return dict(imds.enis())
    except CallError as error:
        unreachable = error
    try:
        return _discover_by_ec2(macs, ec2)
    except CallError as error:
        failure = error.failure
        raise CallError(
            Failure(failure.kind, failure.call, failure.code, f"{failure.message} (and {unreachable})", failure.remedy)
        ) from error


def _discover_by_ec2(macs: Collection[str], ec2: Ec2Port) -> dict[str, Eni]:
    """The same facts from three describes."""
    found = [eni for eni in ec2.enis_by_mac(sorted(macs)) if eni.mac in macs]
    enis: dict[str, Eni] = {}
    for vpc_id in sorted({eni.vpc_id for eni in found}):
        of_vpc = [eni for eni in found if eni.vpc_id == vpc_id]
        enis.update(enis_described(of_vpc, ec2.subnets(vpc_id), ec2.route_tables(vpc_id)))
    return enis


def enis_described(
    found: Iterable[EniDescription], subnets: Iterable[Subnet], tables: Iterable[RouteTable]
) -> dict[str, Eni]:
    """The ENIs of one VPC by MAC, as EC2 describes them; its CIDRs are the `local` routes that each table has.

    Raises CallError when something that belongs to them is not shown.
    """
    cidrs = {subnet.id: subnet.cidrs for subnet in subnets}
    local = tuple(dict.fromkeys(cidr for table in tables for cidr in table.local))
    enis: dict[str, Eni] = {}
    for eni in found:
        if eni.subnet_id not in cidrs or not local:
            raise CallError(
                Failure(
                    ErrorKind.INVALID,
                    "ec2:DescribeSubnets",
                    "NotShown",
                    f"EC2 does not show subnet {eni.subnet_id} or the route tables of {eni.vpc_id} to this role",
                    "let the pod reach IMDS (hop limit 2)",
                )
            )
        own = cidrs[eni.subnet_id]
        enis[eni.mac] = Eni(eni.id, eni.mac, eni.device_index, eni.subnet_id, own, eni.vpc_id, local, eni.owner_id)
    return enis
