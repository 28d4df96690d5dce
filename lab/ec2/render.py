"""The XML of what the describe calls return: element names are the `locationName`s of botocore's EC2 model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape

from lab.ec2.state import (
    LOCAL,
    Association,
    Attachment,
    ElasticIp,
    Eni,
    PrivateAddress,
    PublicAddress,
    Route,
    RouteTable,
    Subnet,
    Tags,
    Vpc,
)

# A route's target is told by the kind of its ID; https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Route.html
_TARGET_ELEMENTS = {
    LOCAL: "gatewayId",
    "igw": "gatewayId",
    "vgw": "gatewayId",
    "vpce": "gatewayId",
    "eni": "networkInterfaceId",
    "nat": "natGatewayId",
    "eigw": "egressOnlyInternetGatewayId",
    "tgw": "transitGatewayId",
    "pcx": "vpcPeeringConnectionId",
    "cagw": "carrierGatewayId",
}


def element(name: str, value: object) -> str:
    """`<name>value</name>`, or nothing when the value is None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, datetime):
        text = value.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    else:
        text = escape(str(value))
    return f"<{name}>{text}</{name}>"


def listing(name: str, parts: Iterable[Any], render: Callable[[Any], str]) -> str:
    """EC2's form of a list: `<name><item>…</item>…</name>`."""
    return f"<{name}>{''.join(f'<item>{render(part)}</item>' for part in parts)}</{name}>"


def _tags(tags: Tags) -> str:
    return listing("tagSet", tags, lambda tag: element("key", tag[0]) + element("value", tag[1]))


def _route(route: Route) -> str:
    # A describe renders hundreds of these: no `element`, as no value in it is missing or needs escaping.
    kind = "destinationCidrBlock" if route.destination.version == 4 else "destinationIpv6CidrBlock"
    target = _TARGET_ELEMENTS.get(route.target.partition("-")[0], "gatewayId")
    instance = (
        f"<instanceId>{route.instance_id}</instanceId><instanceOwnerId>{route.instance_owner_id}</instanceOwnerId>"
        if route.instance_id
        else ""
    )
    return (
        f"<{kind}>{route.destination}</{kind}><{target}>{route.target}</{target}>{instance}"
        f"<origin>{route.origin}</origin><state>{route.state}</state>"
    )


def _association(table_id: str) -> Callable[[Association], str]:
    return lambda each: (
        element("routeTableAssociationId", each.association_id)
        + element("routeTableId", table_id)
        + element("subnetId", each.subnet_id)
        + element("gatewayId", each.gateway_id)
        + element("main", each.main)
        + "<associationState><state>associated</state></associationState>"
    )


def route_table(table: RouteTable) -> str:
    """A RouteTable."""
    return (
        element("routeTableId", table.route_table_id)
        + element("vpcId", table.vpc_id)
        + element("ownerId", table.owner_id)
        + listing("routeSet", table.routes, _route)
        + listing("associationSet", table.associations, _association(table.route_table_id))
        + "<propagatingVgwSet/>"
        + _tags(table.tags)
    )


def _public(public: PublicAddress | None) -> str:
    if public is None:
        return ""
    return (
        "<association>"
        + element("allocationId", public.allocation_id)
        + element("associationId", public.association_id)
        + element("ipOwnerId", public.owner_id)
        + element("publicIp", public.public_ip)
        + "</association>"
    )


def _private_address(each: PrivateAddress) -> str:
    return element("privateIpAddress", each.address) + element("primary", each.primary) + _public(each.public)


def _attachment(attachment: Attachment | None) -> str:
    if attachment is None:
        return ""
    return (
        "<attachment>"
        + element("attachmentId", attachment.attachment_id)
        + element("instanceId", attachment.instance_id)
        + element("instanceOwnerId", attachment.owner_id)
        + element("deviceIndex", attachment.device_index)
        + element("networkCardIndex", 0)
        + element("status", attachment.status)
        + element("attachTime", attachment.attach_time)
        + element("deleteOnTermination", attachment.delete_on_termination)
        + "</attachment>"
    )


def eni(each: Eni) -> str:
    """A NetworkInterface."""
    return (
        element("networkInterfaceId", each.eni_id)
        + element("subnetId", each.subnet_id)
        + element("vpcId", each.vpc_id)
        + element("availabilityZone", each.availability_zone)
        + element("description", each.description)
        + element("ownerId", each.owner_id)
        + element("requesterManaged", each.requester_managed)
        + element("status", each.status)
        + element("macAddress", each.mac)
        + element("privateIpAddress", each.primary_ip)
        + element("sourceDestCheck", each.source_dest_check)
        + element("interfaceType", each.interface_type)
        + listing("groupSet", each.groups, lambda group: element("groupId", group[0]) + element("groupName", group[1]))
        + _attachment(each.attachment)
        + _public(each.private_addresses[0].public)
        + listing("privateIpAddressesSet", each.private_addresses, _private_address)
        + listing("ipv6AddressesSet", each.ipv6_addresses, _ipv6_address)
        + _tags(each.tags)
    )


def _ipv6_address(address: object) -> str:
    return element("ipv6Address", address) + element("isPrimaryIpv6", False)


def _ipv6_cidr(association: tuple[str, object]) -> str:
    return (
        element("associationId", association[0])
        + element("ipv6CidrBlock", association[1])
        + "<ipv6CidrBlockState><state>associated</state></ipv6CidrBlockState>"
    )


def subnet(each: Subnet) -> str:
    """A Subnet."""
    return (
        element("subnetId", each.subnet_id)
        + element("vpcId", each.vpc_id)
        + element("ownerId", each.owner_id)
        + element("state", "available")
        + element("cidrBlock", each.cidr)
        + listing("ipv6CidrBlockAssociationSet", each.ipv6_cidrs, _ipv6_cidr)
        + element("availabilityZone", each.availability_zone)
        + element("availabilityZoneId", each.availability_zone_id)
        + element("availableIpAddressCount", each.available_addresses)
        + element("defaultForAz", each.default_for_az)
        + element("mapPublicIpOnLaunch", each.map_public_ip)
        + _tags(each.tags)
    )


def _cidr(association: tuple[str, object, str]) -> str:
    return (
        element("associationId", association[0])
        + element("cidrBlock", association[1])
        + f"<cidrBlockState><state>{association[2]}</state></cidrBlockState>"
    )


def vpc(each: Vpc) -> str:
    """A Vpc."""
    return (
        element("vpcId", each.vpc_id)
        + element("ownerId", each.owner_id)
        + element("state", "available")
        + element("cidrBlock", each.cidr)
        + listing("cidrBlockAssociationSet", each.cidr_associations, _cidr)
        + listing("ipv6CidrBlockAssociationSet", each.ipv6_cidrs, _ipv6_cidr)
        + element("dhcpOptionsId", each.dhcp_options_id)
        + element("instanceTenancy", each.instance_tenancy)
        + element("isDefault", each.is_default)
        + _tags(each.tags)
    )


def elastic_ip(each: ElasticIp) -> str:
    """An Address."""
    return (
        element("publicIp", each.public_ip)
        + element("allocationId", each.allocation_id)
        + element("domain", "vpc")
        + element("instanceId", each.instance_id)
        + element("associationId", each.association_id)
        + element("networkInterfaceId", each.eni_id)
        + element("privateIpAddress", each.private_ip)
        + _tags(each.tags)
    )
