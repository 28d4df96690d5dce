"""`FakeEc2`: the EC2 ports with a VPC behind them, as strict as EC2 is (EC2-SEMANTICS.md), without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from tests.doubles.ec2_floating import FloatingCalls
from tests.doubles.ec2_region import VPC, ZONE, FakeTable, State, refusal, within
from vipmanager.model import Address, ElasticIp, EniDescription, Network, Route, RouteTable, Subnet

__all__ = ["VPC", "ZONE", "FakeEc2", "FakeTable", "State"]


class FakeEc2(FloatingCalls):
    """Both EC2 ports. `faults` makes it misbehave and records calls, `lag` (s) is how far reads are behind."""

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
            return tuple(Subnet(key, each.cidrs, each.zone, each.tags) for key, each in found if each.vpc_id == vpc_id)

    def create_route(self, table_id: str, destination: Network, eni_id: str) -> None:
        """See Ec2Port. Rows "CreateRoute, destination exists" and "… beyond the quota"."""
        with self._call("create_route", table_id, destination, eni_id, write=True):
            table = self._table_for("CreateRoute", table_id, eni_id)
            if destination in table.routes:
                raise refusal("CreateRoute", "RouteAlreadyExists", table_id)
            self._check_destination("CreateRoute", table, destination)
            if sum(each.version == destination.version for each in table.routes) >= self.routes_per_table:
                raise refusal("CreateRoute", "RouteLimitExceeded", table_id)
            self._put_table(replace(table, routes={**table.routes, destination: eni_id}))

    def replace_route(self, table_id: str, destination: Network, eni_id: str) -> None:
        """See Ec2Port. Row "ReplaceRoute, no such route"."""
        with self._call("replace_route", table_id, destination, eni_id, write=True):
            table = self._table_for("ReplaceRoute", table_id, eni_id)
            if destination not in table.routes:
                raise refusal("ReplaceRoute", "InvalidParameterValue", table_id)
            self._check_destination("ReplaceRoute", table, destination)
            self._put_table(replace(table, routes={**table.routes, destination: eni_id}))

    def delete_route(self, table_id: str, destination: Network) -> None:
        """See Ec2Port."""
        with self._call("delete_route", table_id, destination, write=True):
            if table_id not in self.state.tables:
                raise refusal("DeleteRoute", "InvalidRouteTableID.NotFound", table_id)
            self.drop_route(table_id, str(destination))

    def assign(self, eni_id: str, addresses: Sequence[Address]) -> None:
        """See Ec2Port. Rows on AssignPrivateIpAddresses and AssignIpv6Addresses."""
        with self._call("assign", eni_id, *addresses, write=True):
            api = "AssignPrivateIpAddresses" if addresses[0].version == 4 else "AssignIpv6Addresses"
            eni = self._eni(api, eni_id)
            for address in addresses:
                self._check_assignable(api, eni, address)
            added = [address for address in dict.fromkeys(addresses) if address not in eni.addresses]
            of_family = [each for each in (*eni.addresses, *added) if each.version == addresses[0].version]
            if len(of_family) > self.addresses_per_eni:
                raise refusal(api, "PrivateIpAddressLimitExceeded", eni_id)
            for address in added:
                self.give(eni_id, str(address))

    def unassign(self, eni_id: str, addresses: Sequence[Address]) -> None:
        """See Ec2Port. Row "UnassignPrivateIpAddresses of an address not on that ENI"."""
        with self._call("unassign", eni_id, *addresses, write=True):
            api = "UnassignPrivateIpAddresses" if addresses[0].version == 4 else "UnassignIpv6Addresses"
            eni = self._eni(api, eni_id)
            if any(address not in eni.addresses or address in eni.primary for address in addresses):
                raise refusal(api, "InvalidParameterValue", eni_id)
            self._unbind(lambda eip: eip.eni_id == eni_id and eip.address in addresses)
            self.put_eni(replace(eni, addresses=tuple(each for each in eni.addresses if each not in addresses)))

    def disable_source_dest_check(self, eni_id: str) -> None:
        """See Ec2Port."""
        with self._call("disable_source_dest_check", eni_id, write=True):
            self.put_eni(replace(self._eni("ModifyNetworkInterfaceAttribute", eni_id), source_dest_check=False))

    def elastic_ips(self, allocation_ids: Sequence[str]) -> tuple[ElasticIp, ...]:
        """See Ec2Port."""
        seen = self.clock()
        with self._call("elastic_ips", *allocation_ids):
            state = self._seen_state()
            found = (eip for key, eip in state.eips.items() if key in allocation_ids)
            return tuple(replace(eip, seen=seen, live=bool(eip.eni_id) and state.live(eip.eni_id)) for eip in found)

    def associate(self, allocation_id: str, eni_id: str, address: IPv4Address) -> None:
        """See Ec2Port. Row "AssociateAddress with PrivateIpAddress"; what was bound to that address no longer is."""
        with self._call("associate", allocation_id, eni_id, address, write=True):
            if allocation_id not in self.state.eips:
                raise refusal("AssociateAddress", "InvalidAllocationID.NotFound", allocation_id)
            eni = self._eni("AssociateAddress", eni_id)
            if address not in eni.addresses:
                raise refusal("AssociateAddress", "InvalidParameterValue", eni_id)
            self._unbind(lambda eip: (eip.eni_id, eip.address) == (eni_id, address))
            self._put_eip(replace(self.state.eips[allocation_id], eni_id=eni_id, address=address))

    # rules

    def _table_for(self, api: str, table_id: str, eni_id: str) -> FakeTable:
        """Rows "Create/ReplaceRoute to an ENI of another VPC, or one that does not exist"."""
        if table_id not in self.state.tables:
            raise refusal(api, "InvalidRouteTableID.NotFound", table_id)
        table = self.state.tables[table_id]
        if self._eni(api, eni_id).vpc_id != table.vpc_id:
            raise refusal(api, "InvalidParameterValue", eni_id)
        return table

    def _check_destination(self, api: str, table: FakeTable, destination: Network) -> None:
        """Row "Create/ReplaceRoute inside the VPC's CIDR"; an edge table routes into the VPC only."""
        inside = any(within(destination, cidr) for cidr in self.state.vpcs[table.vpc_id])
        homes = (subnet.cidrs for subnet in self.state.subnets.values() if subnet.vpc_id == table.vpc_id)
        if (inside and not any(destination in cidrs for cidrs in homes)) or (table.edge and not inside):
            raise refusal(api, "InvalidParameterValue", str(destination))

    def _check_assignable(self, api: str, eni: EniDescription, address: Address) -> None:
        self._check_in_subnet(api, eni.subnet_id, address)
        owner = self.state.owner(eni.vpc_id, address)
        if owner is not None and owner.id != eni.id:
            if address.version == 6:
                raise refusal(api, "InvalidIPAddress.InUse", str(address))
            if address in owner.primary:
                raise refusal(api, "InvalidParameterValue", str(address))


def _describe_table(state: State, table: FakeTable, seen: float) -> RouteTable:
    routes = {to: Route(to, target, state.live(target), seen) for to, target in table.routes.items()}
    return RouteTable(table.id, routes, state.vpcs[table.vpc_id], table.tags, table.edge, seen)
