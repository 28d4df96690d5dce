"""Takes a `VpcState` from moto's backend.

moto's objects are mutable and know too little (a route's state, which address an Elastic IP is bound to), so what the
lab serves is always a state, never moto. What did not change stays the same object: see `state`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, TypeVar

from lab.ec2.state import (
    ACTIVE,
    BLACKHOLE,
    LOCAL,
    Association,
    Attachment,
    ElasticIp,
    Eni,
    Instance,
    PrivateAddress,
    PublicAddress,
    Route,
    RouteTable,
    Subnet,
    Tags,
    Vpc,
    VpcState,
    instance_runs,
)

Made = TypeVar("Made")

# In moto's Route, the attribute that names the target, whatever its kind.
_TARGETS = (
    "network_interface_id",
    "gateway_id",
    "nat_gateway_id",
    "egress_only_internet_gateway_id",
    "transit_gateway_id",
    "vpc_peering_connection_id",
    "carrier_gateway_id",
)


class Snapshots:
    """Makes states of moto's EC2 `backend`.

    `bindings` tells to which private address an Elastic IP (by allocation ID) is bound; moto knows only the ENI.
    `transitions` tells the state of an attachment (by its ID) that is not "attached".
    """

    def __init__(self, backend: Any, bindings: Mapping[str, str], transitions: Mapping[str, str]) -> None:
        self._backend = backend
        self._bindings = bindings
        self._transitions = transitions

    def whole(self, before: VpcState | None) -> VpcState:
        """The state after a change that may have touched anything."""
        backend = self._backend
        empty = VpcState(version=-1, region=backend.region_name, account_id=backend.account_id)
        vpcs = {vpc.id: self._vpc(vpc) for vpc in backend.vpcs.values()}
        instances = {each.id: self._instance(each) for kept in backend.reservations.values() for each in kept.instances}
        state = replace(
            self.of_enis(before or empty),
            vpcs=_kept(vpcs, before, "vpcs"),
            instances=_kept(instances, before, "instances"),
        )
        tables = {table.id: self._route_table(table, state) for table in backend.route_tables.values()}
        return replace(state, route_tables=_kept(tables, before, "route_tables"))

    def of_enis(self, before: VpcState) -> VpcState:
        """The state after a change of what ENIs hold: addresses and attributes, but not attachments."""
        elastic_ips = {each.allocation_id: self._elastic_ip(each) for each in self._backend.addresses}
        enis = {eni.id: self._eni(eni, elastic_ips.values()) for eni in self._backend.enis.values()}
        return replace(
            before,
            version=before.version + 1,
            enis=_kept(enis, before, "enis"),
            subnets=_kept(self._subnets(enis.values()), before, "subnets"),
            elastic_ips=_kept(elastic_ips, before, "elastic_ips"),
        )

    def of_route_table(self, before: VpcState, table_id: str) -> VpcState:
        """The state after a change of one table's routes."""
        table = self._route_table(self._backend.route_tables[table_id], before)
        return replace(before, version=before.version + 1, route_tables={**before.route_tables, table_id: table})

    def _vpc(self, vpc: Any) -> Vpc:
        def cidrs(ipv6: bool, state: str = "associated") -> list[tuple[str, Any]]:
            held = vpc.get_cidr_block_association_set(ipv6=ipv6)
            return [
                (each["association_id"], ip_network(each["cidr_block"], strict=False))
                for each in held
                if each["cidr_block_state"]["state"] == state
            ]

        return Vpc(
            vpc_id=vpc.id,
            owner_id=vpc.owner_id,
            cidr=IPv4Network(vpc.cidr_block, strict=False),
            cidrs=tuple(cidrs(ipv6=False)),
            ipv6_cidrs=tuple(cidrs(ipv6=True)),
            pending_cidrs=tuple((*each, "associating") for each in cidrs(ipv6=False, state="associating")),
            is_default=vpc.is_default,
            dhcp_options_id=vpc.dhcp_options_id,
            instance_tenancy=vpc.instance_tenancy,
            tags=self._tags(vpc.id),
        )

    def _subnets(self, enis: Iterable[Eni]) -> dict[str, Subnet]:
        used: dict[str, int] = {}
        for eni in enis:
            used[eni.subnet_id] = used.get(eni.subnet_id, 0) + len(eni.private_addresses)
        held = (subnet for zone in self._backend.subnets.values() for subnet in zone.values())
        return {subnet.id: self._subnet(subnet, used.get(subnet.id, 0)) for subnet in held}

    def _subnet(self, subnet: Any, used: int) -> Subnet:
        cidr = IPv4Network(subnet.cidr_block, strict=False)
        return Subnet(
            subnet_id=subnet.id,
            vpc_id=subnet.vpc_id,
            owner_id=subnet.owner_id,
            cidr=cidr,
            ipv6_cidrs=tuple(
                (each["associationId"], IPv6Network(each["ipv6CidrBlock"], strict=False))
                for each in subnet.ipv6_cidr_block_association_set
            ),
            availability_zone=subnet.availability_zone,
            availability_zone_id=subnet.availability_zone_id,
            available_addresses=cidr.num_addresses - 5 - used,  # EC2 keeps five of each subnet
            default_for_az=subnet.default_for_az,
            map_public_ip=subnet.map_public_ip_on_launch is True or subnet.map_public_ip_on_launch == "true",
            tags=self._tags(subnet.id),
        )

    def _instance(self, instance: Any) -> Instance:
        profile = instance.iam_instance_profile
        return Instance(
            instance_id=instance.id,
            instance_type=instance.instance_type,
            state=instance.state,
            # moto's placement overlooks the subnet of an ENI that is given at launch.
            availability_zone=instance.nics[0].availability_zone if 0 in instance.nics else instance.placement.zone,
            image_id=instance.image_id or "",
            iam_instance_profile=getattr(profile, "arn", profile) or None,
            launch_time=instance.launch_time,
            tags=self._tags(instance.id),
        )

    def _elastic_ip(self, address: Any) -> ElasticIp:
        bound = self._bindings.get(address.allocation_id) if address.eni else None
        if address.eni and bound is None:
            bound = address.eni.private_ip_address
        return ElasticIp(
            public_ip=address.public_ip,
            allocation_id=address.allocation_id,
            association_id=address.association_id,
            eni_id=address.eni.id if address.eni else None,
            private_ip=IPv4Address(bound) if bound else None,
            instance_id=address.eni.instance.id if address.eni and address.eni.instance else None,
            tags=self._tags(address.allocation_id),
        )

    def _eni(self, eni: Any, elastic_ips: Iterable[ElasticIp]) -> Eni:
        public = {
            each.private_ip: PublicAddress(each.public_ip, each.allocation_id, each.association_id, eni.owner_id)
            for each in elastic_ips
            if each.eni_id == eni.id
        }
        addresses = [IPv4Address(each["PrivateIpAddress"]) for each in eni.private_ip_addresses]
        primary = IPv4Address(eni.private_ip_address)
        addresses.sort(key=lambda address: address != primary)
        return Eni(
            eni_id=eni.id,
            mac=eni.mac_address,
            vpc_id=eni.vpc_id,
            subnet_id=eni.subnet_id,
            availability_zone=eni.availability_zone,
            owner_id=eni.owner_id,
            private_addresses=tuple(PrivateAddress(each, each == primary, public.get(each)) for each in addresses),
            ipv6_addresses=tuple(IPv6Address(each) for each in eni.ipv6_addresses),
            attachment=self._attachment(eni),
            source_dest_check=eni.source_dest_check,
            status=eni.status,
            description=eni.description,
            groups=tuple(sorted((group.id, group.name) for group in eni.group_set)),
            interface_type=eni.interface_type,
            requester_managed=eni.requester_managed,
            tags=self._tags(eni.id),
        )

    def _attachment(self, eni: Any) -> Attachment | None:
        if not eni.attachment_id or eni.instance is None:
            return None
        return Attachment(
            attachment_id=eni.attachment_id,
            instance_id=eni.instance.id,
            device_index=eni.device_index,
            owner_id=eni.owner_id,
            status=self._transitions.get(eni.attachment_id, "attached"),
            attach_time=eni.attach_time,
            delete_on_termination=bool(eni.delete_on_termination),
        )

    def _route_table(self, table: Any, state: VpcState) -> RouteTable:
        # A destination that is a prefix list has no place in a state; vipmanager makes none. And a CIDR of the VPC is
        # routed from when it is associated until it is not, which moto does not tell apart.
        routes = (_route(route, state) for route in table.routes if not route.destination_prefix_list)
        networks = state.vpcs[table.vpc_id].networks
        return RouteTable(
            route_table_id=table.id,
            vpc_id=table.vpc_id,
            owner_id=table.owner_id,
            routes=tuple(route for route in routes if route.target != LOCAL or route.destination in networks),
            associations=tuple(_association(each) for each in table.associations),
            tags=self._tags(table.id),
        )

    def _tags(self, resource_id: str) -> Tags:
        return tuple(self._backend.tags.get(resource_id, {}).items())


def _kept(made: dict[str, Made], before: VpcState | None, name: str) -> Mapping[str, Made]:
    """`made`, with the objects of the state before where they are equal."""
    if before is None:
        return made
    old: Mapping[str, Made] = getattr(before, name)
    merged = {key: old[key] if old.get(key) == value else value for key, value in made.items()}
    same = merged.keys() == old.keys() and all(merged[key] is old[key] for key in merged)
    return old if same else merged


def _association(association: Mapping[str, Any]) -> Association:
    return Association(
        association_id=association["RouteTableAssociationId"],
        main=association["Main"],
        subnet_id=association.get("SubnetId"),
        gateway_id=association.get("GatewayId"),
    )


def _route(route: Any, state: VpcState) -> Route:
    destination = ip_network(route.destination_cidr_block or route.destination_ipv6_cidr_block, strict=False)
    if route.local:
        return Route(destination, LOCAL, ACTIVE, "CreateRouteTable")
    target = next((found for name in _TARGETS if (found := getattr(route, name))), "unknown")
    if not target.startswith("eni-"):
        return Route(destination, target)
    eni = state.enis.get(target)
    instance = state.instances.get(eni.instance_id or "") if eni else None
    if eni is None or instance is None or instance.state == "terminated":
        return Route(destination, target, BLACKHOLE)
    # EC2-SEMANTICS "ENI detached or deleted, …". Of a stopped instance too, as users of NAT instances report; AWS's
    # documentation names only terminated ones. The route keeps its instance, and is active again when that runs.
    # An ENI that is on its way on or off is no live one either.
    status = ACTIVE if eni.attached and instance_runs(instance) else BLACKHOLE
    return Route(destination, target, status, instance_id=instance.instance_id, instance_owner_id=eni.owner_id)
