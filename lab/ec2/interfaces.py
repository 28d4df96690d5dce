"""ENIs and instances: what moto does, put right before (the request) or after (its objects).

moto picks random addresses, taken and reserved ones among them, makes security groups of whatever it is told, knows no
client tokens, and leaves ENIs on terminated instances.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.ec2 import addresses, params, render, strict
from lab.ec2.errors import Ec2Error, invalid_value
from lab.ec2.params import Params, required
from lab.ec2.state import Subnet, VpcState
from lab.ec2.world import DONE, Afterwards, Prepare, World, Write


def create_network_interface(world: World, request: Params) -> str:
    """CreateNetworkInterface, once for each client token ("Ensuring idempotency in Amazon EC2 API requests")."""
    token = request.get("ClientToken")
    asked = {key: value for key, value in request.items() if key != "ClientToken"}
    before = world.tokens.get(token or "")
    if before is None:
        eni_id = _make(world, request)
        world.enis_changed()
    elif before[0] != asked:
        raise Ec2Error(
            "IdempotentParameterMismatch",
            f"The client token {token} has been used with other parameters in an earlier request.",
        )
    else:
        eni_id = before[1]
    made = render.eni(strict.eni(world.state, eni_id))  # of one that was made for the token, and is deleted: NotFound
    if token:
        world.tokens[token] = (asked, eni_id)
    return f"<networkInterface>{made}</networkInterface>" + render.element("clientToken", token)


def _make(world: World, request: Params) -> str:
    """Make an ENI whose addresses are all free; its ID."""
    state = world.state
    home = strict.subnet(state, required(request, "SubnetId"))
    groups = params.items(request, "SecurityGroupId")
    for group_id in groups:
        if _group(world, group_id).vpc_id != home.vpc_id:
            raise Ec2Error("InvalidParameter", "You have specified two resources that belong to different networks.")
    ipv4, ipv6 = _ipv4(state, home, request), _ipv6(state, home, request)
    made = world.backend.create_network_interface(
        world.backend.get_subnet(home.subnet_id),
        ipv4[0],
        [{"PrivateIpAddress": each, "Primary": each == ipv4[0]} for each in ipv4],
        group_ids=groups,
        description=request.get("Description"),
        tags=params.tags(request, "network-interface"),
        ipv6_addresses=ipv6,
    )
    return str(made.id)


def _ipv4(state: VpcState, home: Subnet, request: Params) -> list[str]:
    """The IPv4 addresses of the new ENI, the primary one first."""
    named = params.items_of(request, "PrivateIpAddresses", "PrivateIpAddress")
    primary = [
        address for number, address in enumerate(named, 1)
        if params.flag(request, f"PrivateIpAddresses.{number}.Primary")
    ]  # fmt: skip
    if single := request.get("PrivateIpAddress"):
        primary.append(single)
    if len(primary) > 1:
        raise Ec2Error("InvalidParameterCombination", "Only one primary private IP address can be specified")
    secondary = [address for address in named if address not in primary]
    for text in (*primary, *secondary):
        _check_new(state, home, text)
    free = (str(each) for each in addresses.free_addresses(state, home, home.cidr))
    unnamed = (each for each in free if each not in named and each not in primary)
    chosen = addresses.take(unnamed, (not primary) + (params.count(request, "SecondaryPrivateIpAddressCount") or 0))
    return [*primary, *chosen[: not primary], *secondary, *chosen[not primary :]]


def _ipv6(state: VpcState, home: Subnet, request: Params) -> list[str]:
    """The IPv6 addresses of the new ENI, canonical."""
    named = []
    for text in params.items_of(request, "Ipv6Addresses", "Ipv6Address"):
        _check_new(state, home, text)
        named.append(str(strict.ipv6(text)))
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
            if eni is not None and eni.delete_on_termination:
                addresses.unbind_all(world, held.eni_id)  # of one that stays, its Elastic IPs do too
                world.backend.delete_network_interface(held.eni_id)
            elif eni is not None:
                world.transitions.pop(eni.attachment_id, None)
                # Not moto's detach_eni: the instance keeps its list, from which moto describes it.
                eni.instance = eni.attachment_id = eni.attach_time = None
                eni.status = "available"
            home = world.backend.get_subnet(held.subnet_id)
            home.del_subnet_ip(str(held.primary_ip))


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
    "DeleteNetworkInterface": prepare_delete_network_interface,
    "RunInstances": prepare_run_instances,
}

AFTERWARDS: Mapping[str, Afterwards] = {
    "RunInstances": after_run_instances,
    "TerminateInstances": after_terminate_instances,
}

WRITES: Mapping[str, Write] = {
    "CreateNetworkInterface": create_network_interface,
    "ModifyNetworkInterfaceAttribute": modify_network_interface_attribute,
}
