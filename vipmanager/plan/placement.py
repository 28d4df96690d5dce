"""Which placement makes the VPC deliver a floating address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from vipmanager.config import Config
from vipmanager.model import (
    Address,
    Eni,
    Network,
    PlacementKind,
    Problem,
    Subnet,
)


@dataclass(frozen=True)
class Placement:
    """How one floating address is delivered: through which ENI, and for a route, with which destination."""

    address: Address
    interface: str
    eni: Eni
    kind: PlacementKind
    destination: Network


def host_network(address: Address) -> Network:
    """The /32 or /128 of an address."""
    return ip_network(address)


def reserved(address: Address, subnet: Network) -> bool:
    """True for the first four and the last address of a subnet, which EC2 keeps (VPC User Guide, subnet sizing)."""
    offset = int(address) - int(subnet.network_address)
    return offset < 4 or offset == subnet.num_addresses - 1


def containing(address: Address, networks: Sequence[Network]) -> Network | None:
    """The first of some networks that holds an address; networks of the other family never do."""
    return next((network for network in networks if network.version == address.version and address in network), None)


def place(
    address: Address, interface: str, eni: Eni, config: Config, subnets: Sequence[Subnet] | None
) -> Placement | Problem | None:
    """The placement of an address, the reason why it has none, or None while the VPC's subnets are not known.

    DESIGN, "Words": in the ENI's own subnet `eni-address`, outside the VPC `host-route`, in another subnet of the VPC
    `subnet-route` where the settings allow it.
    """
    own = containing(address, eni.subnet_cidrs)
    if own is not None:
        return _place_in_own_subnet(address, interface, eni, config, own)
    if config.assign:
        cidrs = ", ".join(map(str, eni.subnet_cidrs))
        return Problem(
            f"{address} on {interface}",
            f"is not in the subnet of {eni.id} ({eni.subnet_id}: {cidrs}), so it cannot be assigned to it; "
            'AssignIPs: "Auto" would route it instead',
        )
    vpc_cidr = containing(address, eni.vpc_cidrs)
    if vpc_cidr is None:
        return Placement(address, interface, eni, PlacementKind.HOST_ROUTE, host_network(address))
    return _place_in_vpc(address, interface, eni, config, vpc_cidr, subnets)


def _place_in_own_subnet(
    address: Address, interface: str, eni: Eni, config: Config, subnet: Network
) -> Placement | Problem:
    subject = f"{address} on {interface}"
    if config.assign is False:
        return Problem(subject, f'left alone in {subnet} of {eni.id}, because AssignIPs is "False"', fatal=False)
    if reserved(address, subnet):
        return Problem(
            subject,
            f"is reserved by AWS in {subnet} ({eni.subnet_id}): the first four and the last address; "
            "choose another in the NetworkAttachmentDefinition",
        )
    return Placement(address, interface, eni, PlacementKind.ENI_ADDRESS, host_network(address))


def _place_in_vpc(
    address: Address,
    interface: str,
    eni: Eni,
    config: Config,
    vpc_cidr: Network,
    subnets: Sequence[Subnet] | None,
) -> Placement | Problem | None:
    subject = f"{address} on {interface}"
    if not config.subnet_routes:
        return Problem(
            subject,
            f"lies in the VPC's {vpc_cidr} but not in the subnet of {eni.id} ({eni.subnet_id}); "
            'SubnetBasedLoopbacks: "True" would route its whole subnet to the ENI',
        )
    if subnets is None:
        return None
    for subnet in subnets:
        cidr = containing(address, subnet.cidrs)
        if cidr is not None:
            return Placement(address, interface, eni, PlacementKind.SUBNET_ROUTE, cidr)
    return Problem(
        subject,
        f"lies in the VPC's {vpc_cidr} but in no subnet, and EC2 routes only whole subnets inside a VPC; "
        "create a subnet that holds it, or use an address outside the VPC",
    )
