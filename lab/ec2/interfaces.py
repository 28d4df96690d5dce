"""ENIs and instances: what moto does, put right before (the request) or after (its objects).

moto picks random addresses, taken and reserved ones among them, attaches what is attached, and leaves ENIs on
terminated instances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lab.ec2 import addresses, params, strict
from lab.ec2.errors import Ec2Error, invalid_value
from lab.ec2.params import Params, required
from lab.ec2.state import Subnet, VpcState
from lab.ec2.world import DONE, World, Write

Prepare = Callable[[World, Params], Params]
"""Checks a request that is then moto's, and returns it with what moto would have chosen wrongly filled in."""


def prepare_create_network_interface(world: World, request: Params) -> Params:
    """CreateNetworkInterface: every address is named to moto, and free."""
    state = world.state
    home = strict.subnet(state, required(request, "SubnetId"))
    named = list(_named_ipv4(request))
    for text, _ in named:
        _check_new(state, home, text)
    free = addresses.free_addresses(state, home, home.cidr)
    if not any(primary for _, primary in named):
        named.insert(0, (str(addresses.take(free, 1)[0]), True))
    secondary = addresses.take(free, params.count(request, "SecondaryPrivateIpAddressCount") or 0)
    named += [(str(address), False) for address in secondary]
    prepared = {key: value for key, value in request.items() if not key.startswith(_OF_ADDRESSES)}
    for number, (text, primary) in enumerate(named, 1):
        prepared[f"PrivateIpAddresses.{number}.PrivateIpAddress"] = text
        prepared[f"PrivateIpAddresses.{number}.Primary"] = "true" if primary else "false"
    for number, text in enumerate(_ipv6(state, home, request), 1):
        prepared[f"Ipv6Addresses.{number}.Ipv6Address"] = text
    return prepared


_OF_ADDRESSES = (
    "PrivateIpAddress",  # and PrivateIpAddresses
    "SecondaryPrivateIpAddressCount",
    "Ipv6AddressCount",
    "Ipv6Addresses",
)


def _named_ipv4(request: Params) -> Iterator[tuple[str, bool]]:
    """The IPv4 addresses a CreateNetworkInterface names: (address, whether primary), primary first."""
    if primary := request.get("PrivateIpAddress"):
        yield primary, True
    number = 1
    while text := request.get(f"PrivateIpAddresses.{number}.PrivateIpAddress"):
        yield text, params.flag(request, f"PrivateIpAddresses.{number}.Primary")
        number += 1


def _ipv6(state: VpcState, home: Subnet, request: Params) -> list[str]:
    """The IPv6 addresses of the new ENI, canonical."""
    named = []
    number = 1
    while text := request.get(f"Ipv6Addresses.{number}.Ipv6Address"):
        _check_new(state, home, text)
        named.append(str(strict.ipv6(text)))
        number += 1
    asked = params.count(request, "Ipv6AddressCount") or 0
    if asked and not home.ipv6_cidrs:
        raise invalid_value(f"The subnet {home.subnet_id} has no IPv6 CIDR block")
    if asked:
        free = addresses.free_addresses(state, home, home.ipv6_cidrs[0][1])
        named += [str(address) for address in addresses.take(free, asked)]
    return named


def _check_new(state: VpcState, home: Subnet, text: str) -> None:
    address = strict.ipv6(text) if ":" in text else strict.ipv4(text)
    strict.address_in_subnet(home, address)
    strict.address_free(state, home.vpc_id, address)


def prepare_run_instances(world: World, request: Params) -> Params:
    """RunInstances of one instance: its new ENIs get free addresses. More at once are moto's."""
    if request.get("MaxCount", "1") != "1":
        return request
    prepared = dict(request)
    given: set[str] = set()  # in this request: two ENIs may be in one subnet
    for prefix in ("", *(f"NetworkInterface.{number}." for number in range(1, 16))):
        subnet_id = request.get(f"{prefix}SubnetId")
        if not subnet_id:
            continue
        home = strict.subnet(world.state, subnet_id)
        named = request.get(f"{prefix}PrivateIpAddress")
        if named:
            _check_new(world.state, home, named)
        free = (str(each) for each in addresses.free_addresses(world.state, home, home.cidr))
        chosen = named or next(each for each in free if each not in given)
        given.add(chosen)
        prepared[f"{prefix}PrivateIpAddress"] = chosen
    return prepared


def after_run_instances(world: World, request: Params) -> None:
    """An ENI made at launch goes with its instance unless the request says otherwise (DeleteOnTermination)."""
    kept = {
        int(request[f"NetworkInterface.{number}.DeviceIndex"])
        for number in range(1, 16)
        if not params.flag(request, f"NetworkInterface.{number}.DeleteOnTermination", default=True)
    }
    for eni in world.backend.enis.values():
        if eni.id not in world.state.enis and eni.instance is not None:
            eni.delete_on_termination = eni.device_index not in kept


def after_terminate_instances(world: World, request: Params) -> None:
    """Row "ENI detached or deleted, instance terminated": its ENIs are deleted, or set free."""
    for instance_id in params.items(request, "InstanceId"):
        for held in world.state.enis_of_instance(instance_id):
            eni = world.backend.enis.get(held.eni_id)
            addresses.unbind_all(world, held.eni_id)
            if eni is not None and eni.delete_on_termination:
                world.backend.delete_network_interface(held.eni_id)
            elif eni is not None:
                # Not moto's detach_eni: the instance keeps its list, from which moto describes it.
                eni.instance = eni.attachment_id = eni.attach_time = None
                eni.status = "available"
            home = world.backend.get_subnet(held.subnet_id)
            home.del_subnet_ip(str(held.primary_ip))


def prepare_attach_network_interface(world: World, request: Params) -> Params:
    """AttachNetworkInterface: an ENI that is free, to a device index that is, in one Availability Zone."""
    state = world.state
    eni = strict.eni(state, required(request, "NetworkInterfaceId"))
    instance = state.instances.get(required(request, "InstanceId"))
    index = params.count(request, "DeviceIndex")
    if instance is None:
        raise Ec2Error("InvalidInstanceID.NotFound", f"The instance ID '{request['InstanceId']}' does not exist")
    if instance.state == "terminated":
        raise Ec2Error("IncorrectInstanceState", f"The instance '{instance.instance_id}' is not in a valid state")
    if eni.attachment:
        raise Ec2Error("InvalidNetworkInterface.InUse", f"Interface: [{eni.eni_id}] in use.")
    if eni.availability_zone != instance.availability_zone:
        raise invalid_value(
            f"Instance {instance.instance_id} and interface {eni.eni_id} are not in the same availability zone"
        )
    if any(each.device_index == index for each in state.enis_of_instance(instance.instance_id)):
        raise invalid_value(
            f"Instance '{instance.instance_id}' already has an interface attached at device index '{index}'."
        )
    return request


def prepare_detach_network_interface(world: World, request: Params) -> Params:
    """DetachNetworkInterface: never of device index 0."""
    attachment_id = required(request, "AttachmentId")
    for eni in world.state.enis.values():
        if eni.attachment and eni.attachment.attachment_id == attachment_id and eni.device_index == 0:
            raise Ec2Error("OperationNotPermitted", "The network interface at device index 0 cannot be detached.")
    return request


def prepare_delete_network_interface(world: World, request: Params) -> Params:
    """DeleteNetworkInterface: not while it is attached."""
    eni = strict.eni(world.state, required(request, "NetworkInterfaceId"))
    if eni.attachment:
        raise invalid_value(f"Network interface '{eni.eni_id}' is currently in use.")
    addresses.unbind_all(world, eni.eni_id)
    return request


def modify_network_interface_attribute(world: World, request: Params) -> str:
    """ModifyNetworkInterfaceAttribute: "You can specify only one attribute at a time"."""
    eni = world.backend.enis[strict.eni(world.state, required(request, "NetworkInterfaceId")).eni_id]
    groups = params.items(request, "SecurityGroupId")
    changes: dict[str, Any] = {}
    if "SourceDestCheck.Value" in request:
        changes["source_dest_check"] = params.flag(request, "SourceDestCheck.Value")
    if "Description.Value" in request:
        changes["description"] = request["Description.Value"]
    if "Attachment.DeleteOnTermination" in request:
        changes["delete_on_termination"] = params.flag(request, "Attachment.DeleteOnTermination")
    if groups:
        changes["_group_set"] = [_group(world, each) for each in groups]
    if len(changes) != 1:
        raise Ec2Error("InvalidParameterCombination", "Specify one attribute, no more and no less")
    for name, value in changes.items():
        setattr(eni, name, value)
    world.enis_changed()
    return DONE


def _group(world: World, group_id: str) -> Any:
    group = world.backend.get_security_group_from_id(group_id)
    if group is None:
        raise Ec2Error("InvalidGroup.NotFound", f"The security group '{group_id}' does not exist")
    return group


PREPARED: Mapping[str, Prepare] = {
    "AttachNetworkInterface": prepare_attach_network_interface,
    "CreateNetworkInterface": prepare_create_network_interface,
    "DeleteNetworkInterface": prepare_delete_network_interface,
    "DetachNetworkInterface": prepare_detach_network_interface,
    "RunInstances": prepare_run_instances,
}

AFTERWARDS: Mapping[str, Callable[[World, Params], None]] = {
    "RunInstances": after_run_instances,
    "TerminateInstances": after_terminate_instances,
}

WRITES: Mapping[str, Write] = {"ModifyNetworkInterfaceAttribute": modify_network_interface_attribute}
