"""The writes on route tables: CreateRoute, ReplaceRoute, DeleteRoute, and associations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lab.ec2 import strict
from lab.ec2.errors import Ec2Error, missing
from lab.ec2.params import Params, flag, required
from lab.ec2.state import Network, RouteTable
from lab.ec2.world import DONE, World, Write

# Target parameter → the argument of moto's create_route and replace_route.
_TARGETS = {
    "NetworkInterfaceId": "interface_id",
    "InstanceId": "interface_id",
    "GatewayId": "gateway_id",
    "NatGatewayId": "nat_gateway_id",
    "EgressOnlyInternetGatewayId": "egress_only_igw_id",
    "TransitGatewayId": "transit_gateway_id",
    "VpcPeeringConnectionId": "vpc_peering_connection_id",
}

# Targets that moto takes without looking: its collection of them, EC2's error code.
_UNCHECKED = {
    "NatGatewayId": ("nat_gateways", "NatGatewayNotFound"),
    "TransitGatewayId": ("transit_gateways", "InvalidTransitGatewayID.NotFound"),
}


@dataclass(frozen=True)
class _Wanted:
    """A route as a request asks for it, all but existence checked."""

    table: RouteTable
    destination: Network
    target: Mapping[str, str]  # argument of moto → ID

    @property
    def arguments(self) -> dict[str, str | None]:
        """For moto's create_route and replace_route."""
        return {"route_table_id": self.table.route_table_id, **_destination(self.destination), **self.target}


def create_route(world: World, request: Params) -> str:
    """CreateRoute."""
    wanted = _wanted(world, request)
    strict.route_is_new(wanted.table, wanted.destination)
    _inside(world, wanted)
    strict.route_quota(world.quotas, wanted.table, wanted.destination)
    world.backend.create_route(**wanted.arguments)
    world.table_changed(wanted.table.route_table_id)
    return DONE


def replace_route(world: World, request: Params) -> str:
    """ReplaceRoute."""
    if flag(request, "LocalTarget"):
        raise Ec2Error("UnsupportedOperation", "The lab keeps local routes")
    wanted = _wanted(world, request)
    strict.route_to_replace(wanted.table, wanted.destination)
    _inside(world, wanted)
    world.backend.replace_route(**wanted.arguments)
    world.table_changed(wanted.table.route_table_id)
    return DONE


def delete_route(world: World, request: Params) -> str:
    """DeleteRoute."""
    table = strict.route_table(world.state, request)
    destination = strict.destination(request)
    strict.route_to_delete(table, destination)
    world.backend.delete_route(table.route_table_id, **_destination(destination))
    world.table_changed(table.route_table_id)
    return DONE


def associate_route_table(world: World, request: Params) -> str:
    """AssociateRouteTable, with a subnet or an internet gateway: moto overlooks that a subnet has one table."""
    table = strict.route_table(world.state, request)
    subnet_id, gateway_id = request.get("SubnetId"), request.get("GatewayId")
    for other in world.state.route_tables.values():
        for each in other.associations:
            if (subnet_id and each.subnet_id == subnet_id) or (gateway_id and each.gateway_id == gateway_id):
                raise Ec2Error(
                    "Resource.AlreadyAssociated",
                    f"the specified association for route table {table.route_table_id} conflicts with an existing "
                    "association",
                )
    if subnet_id:
        strict.target_in_vpc(table, f"subnet {subnet_id}", strict.subnet(world.state, subnet_id).vpc_id)
    elif gateway_id:
        strict.target_in_vpc(table, f"network gateway {gateway_id}", _gateway_vpc(world, gateway_id))
    else:
        raise missing("subnetId or gatewayId")
    made = world.backend.associate_route_table(table.route_table_id, gateway_id=gateway_id, subnet_id=subnet_id)
    world.changed()
    return f"<associationId>{made}</associationId><associationState><state>associated</state></associationState>"


def _wanted(world: World, request: Params) -> _Wanted:
    table = strict.route_table(world.state, request)
    destination = strict.destination(request)
    strict.destination_not_reserved(destination)
    return _Wanted(table, destination, _target(world, request, table))


def _inside(world: World, wanted: _Wanted) -> None:
    """The rules on where a route may lead to, checked after whether it exists."""
    vpc = world.state.vpcs[wanted.table.vpc_id]
    strict.destination_inside_vpc(world.state, vpc, wanted.destination)
    strict.destination_for_edge_table(vpc, wanted.table, wanted.destination)


def _target(world: World, request: Params, table: RouteTable) -> dict[str, str]:
    given = [name for name in _TARGETS if request.get(name)]
    if len(given) > 1:
        raise Ec2Error("InvalidParameterCombination", f"The parameters {', '.join(given)} cannot be used together")
    if not given:
        raise missing("gatewayId, networkInterfaceId or another target")
    name = given[0]
    target_id = required(request, name)
    if name == "InstanceId":
        target_id = strict.only_eni_of_instance(world.state, target_id).eni_id
    if _TARGETS[name] == "interface_id":
        strict.target_in_vpc(table, f"interface {target_id}", strict.eni(world.state, target_id).vpc_id)
    elif target_id.startswith("igw-"):
        strict.target_in_vpc(table, f"network gateway {target_id}", _gateway_vpc(world, target_id))
    elif name in _UNCHECKED:
        collection, code = _UNCHECKED[name]
        if target_id not in getattr(world.backend, collection):
            raise Ec2Error(code, f"The {name} '{target_id}' does not exist")
    return {_TARGETS[name]: target_id}


def _gateway_vpc(world: World, gateway_id: str) -> str | None:
    """The VPC an internet gateway is attached to; moto raises InvalidInternetGatewayID.NotFound."""
    vpc = world.backend.get_internet_gateway(gateway_id).vpc
    return vpc.id if vpc else None


def _destination(destination: Network) -> dict[str, str | None]:
    """For moto: canonical text, under the argument of its family."""
    ipv4, ipv6 = (str(destination), None) if destination.version == 4 else (None, str(destination))
    return {"destination_cidr_block": ipv4, "destination_ipv6_cidr_block": ipv6}


WRITES: Mapping[str, Write] = {
    "AssociateRouteTable": associate_route_table,
    "CreateRoute": create_route,
    "DeleteRoute": delete_route,
    "ReplaceRoute": replace_route,
}
