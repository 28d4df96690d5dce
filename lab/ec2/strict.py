"""What EC2 refuses and moto does not: one function a rule, named and cited by its row of EC2-SEMANTICS.md.

Each reads the state, and returns nothing (or what it looked up) or raises the `Ec2Error` that EC2 answers. Messages are
EC2's where one is on public record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from lab.ec2.errors import Ec2Error, invalid_value, missing
from lab.ec2.params import Params, required
from lab.ec2.quotas import Quotas
from lab.ec2.state import LOCAL, Address, Eni, Instance, Network, Route, RouteTable, Subnet, Vpc, VpcState

# "You can't add routes … that are an exact match or a subset of the following": VPC user guide, Configure route tables.
_RESERVED_DESTINATIONS: tuple[Network, ...] = (IPv4Network("169.254.168.0/22"), IPv6Network("fd00:ec2::/32"))

_RESERVED_AT_START = 4  # of each subnet: network, router, DNS, future use; and the last (user guide, "Subnet sizing")


# Things that must exist ----------------------------------------------------------------------------------------------


def route_table(state: VpcState, request: Params) -> RouteTable:
    """The request's route table."""
    table_id = required(request, "RouteTableId")
    table = state.route_tables.get(table_id)
    if table is None:
        raise Ec2Error("InvalidRouteTableID.NotFound", f"The routeTable ID '{table_id}' does not exist")
    return table


def eni(state: VpcState, eni_id: str) -> Eni:
    """The ENI. Row "Create/ReplaceRoute to an ENI … that does not exist"."""
    found = state.enis.get(eni_id)
    if found is None:
        raise Ec2Error("InvalidNetworkInterfaceID.NotFound", f"The networkInterface ID '{eni_id}' does not exist")
    return found


def subnet(state: VpcState, subnet_id: str) -> Subnet:
    """The subnet."""
    found = state.subnets.get(subnet_id)
    if found is None:
        raise Ec2Error("InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist")
    return found


def vpc(state: VpcState, vpc_id: str) -> Vpc:
    """The VPC."""
    found = state.vpcs.get(vpc_id)
    if found is None:
        raise Ec2Error("InvalidVpcID.NotFound", f"The vpc ID '{vpc_id}' does not exist")
    return found


def instance(state: VpcState, instance_id: str) -> Instance:
    """The instance, in whatever state."""
    found = state.instances.get(instance_id)
    if found is None:
        raise Ec2Error("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
    return found


def only_eni_of_instance(state: VpcState, instance_id: str) -> Eni:
    """The ENI an instance stands for as a route's target: CreateRoute, "unless exactly one is attached"."""
    enis = state.enis_of_instance(instance(state, instance_id).instance_id)
    if len(enis) != 1:
        raise Ec2Error(
            "InvalidInstanceID",
            f"There are multiple interfaces attached to instance '{instance_id}'. Please specify an interface ID for "
            "the operation instead.",
        )
    return enis[0]


# Routes --------------------------------------------------------------------------------------------------------------


def destination(request: Params) -> Network:
    """The request's destination in canonical form: "100.68.0.18/18, we modify it to 100.68.0.0/18" (CreateRoute)."""
    ipv4, ipv6 = request.get("DestinationCidrBlock"), request.get("DestinationIpv6CidrBlock")
    if ipv4 and ipv6:
        raise Ec2Error(
            "InvalidParameterCombination",
            "The parameters destinationCidrBlock and destinationIpv6CidrBlock cannot be used together",
        )
    if not ipv4 and not ipv6:
        raise missing("destinationCidrBlock or destinationIpv6CidrBlock")
    try:
        if ipv4:
            return IPv4Network(ipv4 if "/" in ipv4 else "", strict=False)
        return IPv6Network(ipv6 if ipv6 and "/" in ipv6 else "", strict=False)
    except ValueError:
        name = "destinationCidrBlock" if ipv4 else "destinationIpv6CidrBlock"
        raise invalid_value(
            f"Value ({ipv4 or ipv6}) for parameter {name} is invalid. This is not a valid CIDR block."
        ) from None


def destination_not_reserved(wanted: Network) -> None:
    """Link-local service addresses cannot be routed."""
    for reserved in _RESERVED_DESTINATIONS:
        if _within(wanted, reserved):
            raise invalid_value(f"The destination CIDR block {wanted} is reserved")


def destination_inside_vpc(state: VpcState, vpc: Vpc, wanted: Network) -> None:
    """Row "Create/ReplaceRoute inside the VPC's CIDR": only a subnet's exact CIDR."""
    if not any(_within(wanted, network) for network in vpc.networks):
        return
    subnets = (each for each in state.subnets.values() if each.vpc_id == vpc.vpc_id)
    if not any(wanted in each.networks for each in subnets):
        raise invalid_value("Route destination doesn't match any subnet CIDR blocks.")


def destination_for_edge_table(vpc: Vpc, table: RouteTable, wanted: Network) -> None:
    """A gateway's table routes into the VPC only: "no … routes to CIDR blocks outside of the ranges in your VPC"."""
    if table.edge and not any(_within(wanted, network) for network in vpc.networks):
        raise invalid_value(f"The destination CIDR block {wanted} is outside of the VPC of the edge table")


def target_in_vpc(table: RouteTable, target_id: str, vpc_id: str | None) -> None:
    """Row "Create/ReplaceRoute to an ENI of another VPC"."""
    if vpc_id != table.vpc_id:
        raise invalid_value(f"route table {table.route_table_id} and {target_id} belong to different networks")


def route_is_new(table: RouteTable, wanted: Network) -> None:
    """Row "CreateRoute, destination exists": nothing is changed."""
    if wanted in table.by_destination:
        raise Ec2Error("RouteAlreadyExists", f"The route identified by {wanted} already exists.")


def route_to_replace(table: RouteTable, wanted: Network) -> Route:
    """Row "ReplaceRoute, no such route". Of a local route the lab does not replace the target, which EC2 could."""
    route = table.by_destination.get(wanted)
    if route is None:
        raise invalid_value(f"There is no route defined for '{wanted}' in the route table. Use CreateRoute instead.")
    if route.target == LOCAL:
        raise Ec2Error("UnsupportedOperation", f"The lab keeps the local route {wanted}")
    return route


def route_to_delete(table: RouteTable, wanted: Network) -> Route:
    """DeleteRoute of a route that is not there, or of the VPC's own."""
    route = table.by_destination.get(wanted)
    if route is None:
        kind = "cidr" if wanted.version == 4 else "ipv6-cidr"
        raise Ec2Error(
            "InvalidRoute.NotFound",
            f"no route with destination-{kind}-block {wanted} in route table {table.route_table_id}",
        )
    if route.target == LOCAL:
        raise invalid_value(f"cannot remove local route {wanted} in route table {table.route_table_id}")
    return route


def route_quota(quotas: Quotas, table: RouteTable, wanted: Network) -> None:
    """Row "CreateRoute beyond the quota": non-local, non-propagated routes, each family apart."""
    held = sum(
        1 for route in table.routes if route.origin == "CreateRoute" and route.destination.version == wanted.version
    )
    if held >= quotas.routes_per_table:
        raise Ec2Error("RouteLimitExceeded", "The maximum number of routes has been reached.")


# CIDRs ---------------------------------------------------------------------------------------------------------------


def subnet_range(state: VpcState, home: Vpc, wanted: Network) -> None:
    """A subnet's CIDR lies in one of the VPC's, and overlaps no other subnet's (CreateSubnet)."""
    if not any(_within(wanted, network) for network in home.networks):
        raise Ec2Error("InvalidSubnet.Range", f"The CIDR '{wanted}' is invalid.")
    for other in state.subnets.values():
        if other.vpc_id == home.vpc_id and any(_overlap(wanted, network) for network in other.networks):
            raise Ec2Error("InvalidSubnet.Conflict", f"The CIDR '{wanted}' conflicts with another subnet")


def vpc_range(state: VpcState, home: Vpc, wanted: IPv4Network) -> None:
    """AssociateVpcCidrBlock: apart from the VPC's other CIDRs, also those that are being associated, and its routes."""
    held = (*(cidr for _, cidr in home.cidrs), *(cidr for _, cidr, _ in home.pending_cidrs))
    if any(_overlap(wanted, network) for network in held):
        raise Ec2Error("InvalidVpc.Range", f"The CIDR '{wanted}' conflicts with another CIDR of the VPC {home.vpc_id}")
    for table in state.route_tables.values():
        for route in table.routes if table.vpc_id == home.vpc_id else ():
            if route.target != LOCAL and _within(route.destination, wanted):
                raise Ec2Error(
                    "InvalidVpc.Range",
                    f"The CIDR '{wanted}' conflicts with the route {route.destination} of {table.route_table_id}",
                )


# Addresses -----------------------------------------------------------------------------------------------------------


def ipv4(text: str) -> IPv4Address:
    """An IPv4 address as a parameter."""
    try:
        return IPv4Address(text)
    except ValueError:
        raise invalid_value(f"invalid value for parameter address: {text}") from None


def ipv6(text: str) -> IPv6Address:
    """An IPv6 address as a parameter."""
    try:
        return IPv6Address(text)
    except ValueError:
        raise invalid_value(f"invalid value for parameter address: {text}") from None


def address_in_subnet(home: Subnet, address: Address) -> None:
    """Row "AssignPrivateIpAddresses, address outside the subnet, or reserved"; of IPv6 the same."""
    network = next((each for each in home.networks if address in each), None)
    if network is None:
        raise invalid_value(f"Address {address} does not fall within the subnet's address range")
    if reserved(network, address):
        raise invalid_value(f"Address {address} is in subnet's reserved address range")


def reserved(network: Network, address: Address) -> bool:
    """Whether EC2 keeps the address of the subnet's CIDR for itself."""
    offset = int(address) - int(network.network_address)
    return offset < _RESERVED_AT_START or address == network.broadcast_address


def may_move(state: VpcState, to: Eni, addresses: Iterable[IPv4Address], allowed: bool) -> None:
    """Rows "…, address on another ENI, without AllowReassignment" and "with": a primary address never moves.

    The row says InvalidIPAddress.InUse; EC2 answers InvalidParameterValue with this text (Ansible's ec2_eni
    documentation quotes it, and several controllers parse it).
    """
    held = []
    for address in addresses:
        owner = state.owner_of(to.vpc_id, address)
        if owner is None or owner.eni_id == to.eni_id:
            continue
        if not allowed:
            held.append(str(address))
        elif address == owner.primary_ip:
            raise invalid_value(f"Address {address} is the primary address of interface {owner.eni_id}")
    if held:
        raise invalid_value(f"[{', '.join(held)}] assigned, but move is not allowed.")


def address_free(state: VpcState, vpc_id: str, address: Address, but: str | None = None) -> None:
    """Row "AssignIpv6Addresses of an address held elsewhere", and CreateNetworkInterface of any: refused."""
    owner = state.owner_of(vpc_id, address)
    if owner is not None and owner.eni_id != but:
        raise Ec2Error("InvalidIPAddress.InUse", f"Address {address} is in use.")


def address_quota(quotas: Quotas, state: VpcState, to: Eni, added: Sequence[Address]) -> None:
    """Row "…, more addresses than the instance type allows per ENI"."""
    instance = state.instances.get(to.instance_id or "")
    limit = quotas.addresses_of(instance.instance_type if instance else None)
    ipv4_held = len(to.private_addresses) + sum(1 for address in added if address.version == 4)
    ipv6_held = len(to.ipv6_addresses) + sum(1 for address in added if address.version == 6)
    if ipv4_held > limit.ipv4:
        raise Ec2Error("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
    if ipv6_held > limit.ipv6:
        raise Ec2Error("PrivateIpAddressLimitExceeded", "Number of IPv6 addresses will exceed limit.")


def addresses_on_eni(holder: Eni, addresses: Iterable[Address]) -> None:
    """Row "UnassignPrivateIpAddresses of an address not on that ENI"; of IPv6 the same. Not of the primary either."""
    for address in addresses:
        if address not in holder.addresses:
            raise invalid_value(f"Some of the specified addresses are not assigned to interface {holder.eni_id}")
        if address == holder.primary_ip:
            raise invalid_value(
                f"Value ({address}) for parameter privateIpAddress is invalid. "
                "The primary IP address of an interface cannot be unassigned."
            )


def _within(inner: Network, outer: Network) -> bool:
    """Whether `inner` is `outer` or part of it, of the same family."""
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _overlap(one: Network, other: Network) -> bool:
    return _within(one, other) or _within(other, one)
