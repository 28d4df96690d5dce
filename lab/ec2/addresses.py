"""The writes on addresses: of ENIs, IPv4 and IPv6, and Elastic IPs.

They work on moto's objects rather than through its API: moto leaves a moved address on both ENIs, ignores the private
address of an Elastic IP, and assigns what is taken (EC2-SEMANTICS.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from itertools import islice
from typing import Any, TypeVar

from lab.ec2 import params, strict
from lab.ec2.errors import Ec2Error, invalid_value, missing
from lab.ec2.params import Params, required
from lab.ec2.render import element, listing
from lab.ec2.state import Address, Eni, Network, Subnet, VpcState
from lab.ec2.world import DONE, Prepare, World, Write

Taken = TypeVar("Taken")

_PUBLIC = IPv4Network("203.0.113.0/24")  # for documentation (RFC 5737): what the lab's Elastic IPs are


def free_addresses(state: VpcState, home: Subnet, network: Network) -> Iterator[Address]:
    """The addresses of a subnet's CIDR that EC2 could give out, lowest first."""
    for address in network:
        if not strict.reserved(network, address) and state.owner_of(home.vpc_id, address) is None:
            yield address


def take(free: Iterator[Taken], number: int) -> list[Taken]:
    """That many free addresses; raises InsufficientFreeAddressesInSubnet."""
    taken = list(islice(free, number))
    if len(taken) < number:
        raise Ec2Error("InsufficientFreeAddressesInSubnet", "The specified subnet does not have enough free addresses.")
    return taken


# Addresses of ENIs ---------------------------------------------------------------------------------------------------


def assign_private_ip_addresses(world: World, request: Params) -> str:
    """AssignPrivateIpAddresses, named or by count, with or without AllowReassignment."""
    state = world.state
    to = strict.eni(state, required(request, "NetworkInterfaceId"))
    home = state.subnets[to.subnet_id]
    named = [strict.ipv4(each) for each in params.items(request, "PrivateIpAddress")]
    number = params.count(request, "SecondaryPrivateIpAddressCount")
    _one_of(bool(named), number is not None, "privateIpAddress", "secondaryPrivateIpAddressCount")
    for address in named:
        strict.address_in_subnet(home, address)
    strict.may_move(state, to, named, params.flag(request, "AllowReassignment"))
    wanted: Sequence[Address] = named or take(free_addresses(state, home, home.cidr), number or 0)
    added = [address for address in dict.fromkeys(wanted) if address not in to.addresses]
    strict.address_quota(world.quotas, state, to, added)
    for new in added:
        _move(world, to, new)
    world.enis_changed()
    return (
        element("networkInterfaceId", to.eni_id)
        + listing("assignedPrivateIpAddressesSet", wanted, lambda each: element("privateIpAddress", each))
        + DONE
    )


def _move(world: World, to: Eni, address: Address) -> None:
    """Put an IPv4 address on the ENI. Its Elastic IP moves along: AssignPrivateIpAddresses, "is also moved"."""
    target = world.backend.enis[to.eni_id]
    owner = world.state.owner_of(to.vpc_id, address)
    if owner is not None:
        _remove_ipv4(world, owner, address)
    target.private_ip_addresses.append({"Primary": False, "PrivateIpAddress": str(address)})
    for elastic in _bound_to(world, owner, address):
        elastic.eni, elastic.instance = target, target.instance


def _remove_ipv4(world: World, holder: Eni, address: Address) -> None:
    held = world.backend.enis[holder.eni_id].private_ip_addresses
    held[:] = [each for each in held if each["PrivateIpAddress"] != str(address)]


def _bound_to(world: World, holder: Eni | None, address: Address) -> list[Any]:
    """moto's Elastic IPs that are bound to this address of the ENI."""
    return [
        each
        for each in world.backend.addresses
        if holder is not None
        and (known := world.state.elastic_ips[each.allocation_id]).eni_id == holder.eni_id
        and known.private_ip == address
    ]


def unassign_private_ip_addresses(world: World, request: Params) -> str:
    """UnassignPrivateIpAddresses; an Elastic IP of an address loses its association."""
    holder = strict.eni(world.state, required(request, "NetworkInterfaceId"))
    addresses = [strict.ipv4(each) for each in params.items(request, "PrivateIpAddress")]
    if not addresses:
        raise missing("privateIpAddress")
    strict.addresses_on_eni(holder, addresses)
    for address in addresses:
        for elastic in _bound_to(world, holder, address):
            _unbind(world, elastic)
        _remove_ipv4(world, holder, address)
    world.enis_changed()
    return DONE


def assign_ipv6_addresses(world: World, request: Params) -> str:
    """AssignIpv6Addresses, named or by count. There is no reassignment."""
    state = world.state
    to = strict.eni(state, required(request, "NetworkInterfaceId"))
    home = state.subnets[to.subnet_id]
    named = [strict.ipv6(each) for each in params.items(request, "Ipv6Addresses")]
    number = params.count(request, "Ipv6AddressCount")
    _one_of(bool(named), number is not None, "ipv6Addresses", "ipv6AddressCount")
    if not home.ipv6_cidrs:
        raise invalid_value(f"The subnet {home.subnet_id} has no IPv6 CIDR block")
    for address in named:
        strict.address_in_subnet(home, address)
        strict.address_free(state, to.vpc_id, address, but=to.eni_id)
    wanted: Sequence[Address] = named or take(free_addresses(state, home, home.ipv6_cidrs[0][1]), number or 0)
    added = [address for address in dict.fromkeys(wanted) if address not in to.addresses]
    strict.address_quota(world.quotas, state, to, added)
    world.backend.enis[to.eni_id].ipv6_addresses.extend(str(address) for address in added)
    world.enis_changed()
    return element("networkInterfaceId", to.eni_id) + listing("assignedIpv6Addresses", wanted, str)


def unassign_ipv6_addresses(world: World, request: Params) -> str:
    """UnassignIpv6Addresses."""
    holder = strict.eni(world.state, required(request, "NetworkInterfaceId"))
    addresses = [strict.ipv6(each) for each in params.items(request, "Ipv6Addresses")]
    if not addresses:
        raise missing("ipv6Addresses")
    strict.addresses_on_eni(holder, addresses)
    held = world.backend.enis[holder.eni_id].ipv6_addresses
    held[:] = [each for each in held if strict.ipv6(each) not in addresses]
    world.enis_changed()
    return element("networkInterfaceId", holder.eni_id) + listing("unassignedIpv6Addresses", addresses, str)


def _one_of(first: bool, second: bool, first_name: str, second_name: str) -> None:
    if first and second:
        raise Ec2Error(
            "InvalidParameterCombination", f"You may specify {first_name} or {second_name}, but not both of them."
        )
    if not first and not second:
        raise missing(f"{first_name} or {second_name}")


# Elastic IPs ---------------------------------------------------------------------------------------------------------


def prepare_allocate_address(world: World, request: Params) -> Params:
    """AllocateAddress: moto's own choice is a loopback address, which no packet is ever sent to."""
    held = {each.public_ip for each in world.backend.addresses}
    free = next((str(each) for each in _PUBLIC.hosts() if str(each) not in held), None)
    if free is None:
        raise Ec2Error("AddressLimitExceeded", "The maximum number of addresses has been reached.")
    return {"Address": free, **request}


def associate_address(world: World, request: Params) -> str:
    """AssociateAddress, with an ENI or an instance, and the private address it is to be bound to."""
    state = world.state
    elastic = _elastic_ip(world, request)
    target = _association_target(state, request)
    private = request.get("PrivateIpAddress")
    address = strict.ipv4(private) if private else target.primary_ip
    if address not in target.addresses:
        raise invalid_value(f"The address {address} is not assigned to interface {target.eni_id}")
    known = state.elastic_ips[elastic.allocation_id]
    if (known.eni_id, known.private_ip) == (target.eni_id, address):
        return DONE + element("associationId", known.association_id)
    others = _bound_to(world, target, address)
    if (known.eni_id or others) and not params.flag(request, "AllowReassociation"):
        what = f"resource [{elastic.allocation_id}]" if known.eni_id else f"address [{address}]"
        raise Ec2Error("Resource.AlreadyAssociated", f"{what} is already associated")
    for other in others:
        _unbind(world, other)
    moto_eni = world.backend.enis[target.eni_id]
    world.backend.associate_address(eni=moto_eni, allocation_id=elastic.allocation_id, reassociate=True)
    elastic.instance = moto_eni.instance
    world.bindings[elastic.allocation_id] = str(address)
    world.enis_changed()
    return DONE + element("associationId", elastic.association_id)


def _association_target(state: VpcState, request: Params) -> Eni:
    """The ENI; of an instance its primary one."""
    if eni_id := request.get("NetworkInterfaceId"):
        return strict.eni(state, eni_id)
    instance_id = required(request, "InstanceId")
    if instance_id not in state.instances:
        raise Ec2Error("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
    enis = state.enis_of_instance(instance_id)
    if not enis:
        raise Ec2Error("IncorrectInstanceState", f"The instance '{instance_id}' has no network interface")
    return enis[0]


def disassociate_address(world: World, request: Params) -> str:
    """DisassociateAddress, by association or address."""
    wanted = request.get("AssociationId") or required(request, "PublicIp")
    for elastic in world.backend.addresses:
        if elastic.eni and wanted in (elastic.association_id, elastic.public_ip):
            _unbind(world, elastic)
            world.enis_changed()
            return DONE
    raise Ec2Error("InvalidAssociationID.NotFound", f"The association ID '{wanted}' does not exist")


def release_address(world: World, request: Params) -> str:
    """ReleaseAddress: refused while associated (InvalidIPAddress.InUse), which moto does not."""
    elastic = _elastic_ip(world, request)
    if elastic.eni:
        raise Ec2Error("InvalidIPAddress.InUse", f"Address {elastic.public_ip} is in use.")
    world.backend.release_address(allocation_id=elastic.allocation_id)
    world.enis_changed()
    return DONE


def _elastic_ip(world: World, request: Params) -> Any:
    """moto's Elastic IP that the request names."""
    allocation_id, public_ip = request.get("AllocationId"), request.get("PublicIp")
    if not allocation_id and not public_ip:
        raise missing("allocationId")
    for elastic in world.backend.addresses:
        if allocation_id == elastic.allocation_id or public_ip == elastic.public_ip:
            return elastic
    if allocation_id:
        raise Ec2Error("InvalidAllocationID.NotFound", f"The allocation ID '{allocation_id}' does not exist")
    raise Ec2Error("InvalidAddress.NotFound", f"Address '{public_ip}' not found.")


def _unbind(world: World, elastic: Any) -> None:
    if elastic.eni:
        elastic.eni.public_ip = None
    elastic.eni = elastic.instance = elastic.association_id = None
    world.bindings.pop(elastic.allocation_id, None)


def unbind_all(world: World, eni_id: str) -> None:
    """Take every Elastic IP off an ENI that goes away."""
    for elastic in world.backend.addresses:
        if elastic.eni and elastic.eni.id == eni_id:
            _unbind(world, elastic)


PREPARED: Mapping[str, Prepare] = {"AllocateAddress": prepare_allocate_address}

WRITES: Mapping[str, Write] = {
    "AssignIpv6Addresses": assign_ipv6_addresses,
    "AssignPrivateIpAddresses": assign_private_ip_addresses,
    "AssociateAddress": associate_address,
    "DisassociateAddress": disassociate_address,
    "ReleaseAddress": release_address,
    "UnassignIpv6Addresses": unassign_ipv6_addresses,
    "UnassignPrivateIpAddresses": unassign_private_ip_addresses,
}
