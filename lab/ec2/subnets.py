"""Subnets, and the CIDRs of a VPC they lie in: CreateSubnet, DeleteSubnet, AssociateVpcCidrBlock."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from lab.ec2 import params, strict
from lab.ec2.errors import Ec2Error, invalid_value
from lab.ec2.params import Params, required
from lab.ec2.render import element
from lab.ec2.world import DONE, Prepare, World, Write

_IPV4_PREFIXES = range(16, 29)  # "between a /28 netmask and /16 netmask", of VPCs and of subnets (VPC user guide)
_IPV6_PREFIX = 64


def prepare_create_subnet(world: World, request: Params) -> Params:
    """CreateSubnet: inside the CIDRs that are associated by now, and apart from every other subnet of the VPC."""
    vpc = strict.vpc(world.state, required(request, "VpcId"))
    prepared = dict(request)
    if text := request.get("CidrBlock"):
        wanted = _ipv4(text)
        prepared["CidrBlock"] = str(wanted)  # "100.68.0.18/18; we modify it to 100.68.0.0/18" (CreateSubnet)
        if wanted.prefixlen not in _IPV4_PREFIXES:
            raise Ec2Error("InvalidSubnet.Range", f"The CIDR '{wanted}' is invalid.")
        strict.subnet_range(world.state, vpc, wanted)
    if text := request.get("Ipv6CidrBlock"):
        wanted6 = _ipv6(text)
        if wanted6.prefixlen != _IPV6_PREFIX:
            raise Ec2Error("InvalidSubnet.Range", f"The CIDR '{wanted6}' is invalid.")
        strict.subnet_range(world.state, vpc, wanted6)
    return prepared


def delete_subnet(world: World, request: Params) -> str:
    """DeleteSubnet: not while an ENI is in it. Its association with a route table goes with it, which moto keeps."""
    home = strict.subnet(world.state, required(request, "SubnetId"))
    if any(world.state.enis_of_subnet(home.subnet_id)):
        raise Ec2Error("DependencyViolation", f"The subnet '{home.subnet_id}' has dependencies and cannot be deleted.")
    table = world.state.table_of_subnet(home.subnet_id)
    for association in table.associations if table else ():
        if association.subnet_id == home.subnet_id:
            world.backend.disassociate_route_table(association.association_id)
    world.backend.delete_subnet(home.subnet_id)
    world.changed()
    return DONE


def associate_vpc_cidr_block(world: World, request: Params) -> str:
    """AssociateVpcCidrBlock: the CIDR can be used once it is `associated`, and every route table has it as local.

    What is refused is in "Add an IPv4 CIDR block" of the VPC user guide: a CIDR that overlaps one of the VPC's, and
    one that is "the same or larger than a destination CIDR range in a route in any of the VPC route tables".
    """
    vpc = strict.vpc(world.state, required(request, "VpcId"))
    if params.flag(request, "AmazonProvidedIpv6CidrBlock"):
        made = world.backend.associate_vpc_cidr_block(vpc.vpc_id, None, True)
        name = "ipv6CidrBlock"
    else:
        wanted = _ipv4(required(request, "CidrBlock"))
        if wanted.prefixlen not in _IPV4_PREFIXES:
            raise Ec2Error("InvalidVpc.Range", f"The CIDR '{wanted}' is invalid.")
        strict.vpc_range(world.state, vpc, wanted)
        made = world.backend.associate_vpc_cidr_block(vpc.vpc_id, str(wanted), False)
        name = "cidrBlock"
    made["cidr_block_state"]["state"] = "associating"
    world.changed()
    association = (
        element("associationId", made["association_id"])
        + element(name, made["cidr_block"])
        + f"<{name}State>{element('state', 'associating')}</{name}State>"
    )
    world.later(world.delays.cidr, lambda world: _finish_association(world, made))
    return element("vpcId", vpc.vpc_id) + f"<{name}Association>{association}</{name}Association>"


def _finish_association(world: World, association: dict[str, Any]) -> None:
    """Unless it has been disassociated meanwhile."""
    if association["cidr_block_state"]["state"] == "associating":
        association["cidr_block_state"]["state"] = "associated"
        world.changed()


def _ipv4(text: str) -> IPv4Network:
    try:
        return IPv4Network(text if "/" in text else "", strict=False)
    except ValueError:
        raise _not_a_cidr(text, "cidrBlock") from None


def _ipv6(text: str) -> IPv6Network:
    try:
        return IPv6Network(text if "/" in text else "")
    except ValueError:
        raise _not_a_cidr(text, "ipv6CidrBlock") from None


def _not_a_cidr(text: str, name: str) -> Ec2Error:
    return invalid_value(f"Value ({text}) for parameter {name} is invalid. This is not a valid CIDR block.")


PREPARED: Mapping[str, Prepare] = {"CreateSubnet": prepare_create_subnet}

WRITES: Mapping[str, Write] = {
    "AssociateVpcCidrBlock": associate_vpc_cidr_block,
    "DeleteSubnet": delete_subnet,
}
