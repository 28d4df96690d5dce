"""EC2's answers, as botocore gives them, in the design's words. A field that is missing is read cautiously.

What cannot be read is no reason to crash, and none to leave it out: an ENI, a table or a route that is not seen would
be taken for gone. So the whole answer is refused (`understood`). A tag without a key is left out: it selects nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any, TypeVar

from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model import Address, Attachment, ElasticIp, EniDescription, Network, Route, RouteTable, Subnet

Item = Mapping[str, Any]
Answer = TypeVar("Answer")

UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading an answer raises that is not what it should be."""

TARGET_KEYS = (
    "NetworkInterfaceId",
    "GatewayId",
    "NatGatewayId",
    "TransitGatewayId",
    "VpcPeeringConnectionId",
    "EgressOnlyInternetGatewayId",
    "LocalGatewayId",
    "CarrierGatewayId",
    "CoreNetworkArn",
    "InstanceId",
)


def understood(operation: str, resource: str, read: Callable[[], Answer]) -> Answer:
    """What `read` makes of an answer to an operation (EC2's name of it). Raises CallError: RETRY where it cannot."""
    try:
        return read()
    except UNREADABLE as error:
        raise CallError(bad_answer(operation, resource, error)) from error


def bad_answer(operation: str, resource: str, error: object) -> Failure:
    """An answer that is none of EC2's, or one of a kind that is not known here."""
    why = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    text = f"the answer of EC2 could not be understood: {why[:200]} ({resource})"
    return Failure(ErrorKind.RETRY, f"ec2:{operation}", "BadAnswer", text)


def route_table(item: Item, seen: float) -> RouteTable:
    """A RouteTable."""
    routes: dict[Network, Route] = {}
    local: list[Network] = []
    for route in item.get("Routes", ()):
        cidr = route.get("DestinationCidrBlock") or route.get("DestinationIpv6CidrBlock")
        if not cidr:  # a prefix list's route can be no floating address's
            continue
        destination = _network(cidr)
        if route.get("GatewayId") == "local":
            local.append(destination)
        elif route.get("Origin") != "EnableVgwRoutePropagation":  # a static route beside it wins and can be created
            target = next((route[key] for key in TARGET_KEYS if route.get(key)), "unknown")
            routes[destination] = Route(destination, target, route.get("State") != "blackhole", seen)
    edge = any(link.get("GatewayId") for link in item.get("Associations", ()))
    return RouteTable(item["RouteTableId"], routes, tuple(local), _tags(item, "Tags"), edge, seen)


def eni(item: Item) -> EniDescription:
    """A NetworkInterface."""
    attachment = _attachment(item.get("Attachment") or {})
    ipv4 = [(_address(entry["PrivateIpAddress"]), entry.get("Primary")) for entry in item.get("PrivateIpAddresses", ())]
    ipv6 = [(_address(entry["Ipv6Address"]), entry.get("IsPrimaryIpv6")) for entry in item.get("Ipv6Addresses", ())]
    addresses = [*ipv4, *ipv6]
    return EniDescription(
        id=item["NetworkInterfaceId"],
        mac=item.get("MacAddress", "").lower(),
        device_index=attachment.device_index if attachment else -1,
        subnet_id=item.get("SubnetId", ""),
        vpc_id=item.get("VpcId", ""),
        owner_id=item.get("OwnerId", ""),
        addresses=tuple(address for address, _ in addresses),
        primary=frozenset(address for address, primary in addresses if primary),
        source_dest_check=bool(item.get("SourceDestCheck", True)),
        live=attachment is not None and attachment.status in ("attached", "attaching"),
        attachment=attachment,
        zone=item.get("AvailabilityZone", ""),
        groups=tuple(group["GroupId"] for group in item.get("Groups", ())),
        prefixes=tuple(_prefixes(item)),
        tags=_tags(item, "TagSet"),
    )


def subnet(item: Item) -> Subnet:
    """A Subnet, with the CIDRs that are associated."""
    ipv6 = (
        link["Ipv6CidrBlock"]
        for link in item.get("Ipv6CidrBlockAssociationSet", ())
        if link.get("Ipv6CidrBlockState", {}).get("State", "associated") == "associated"
    )
    cidrs = [item["CidrBlock"]] if item.get("CidrBlock") else []
    return Subnet(
        item["SubnetId"],
        tuple(_network(cidr) for cidr in [*cidrs, *ipv6]),
        item.get("AvailabilityZone", ""),
        _tags(item, "Tags"),
    )


def elastic_ip(item: Item, seen: float) -> ElasticIp:
    """An Address."""
    bound = item.get("PrivateIpAddress")
    return ElasticIp(
        item.get("AllocationId", ""),
        item.get("PublicIp", ""),
        item.get("NetworkInterfaceId", ""),
        IPv4Address(str(bound)) if bound else None,
        seen,
        live=bool(item.get("InstanceId")),
    )


def _attachment(item: Item) -> Attachment | None:
    status = item.get("Status", "")
    if not status or status == "detached":  # of one that has just ended EC2 may tell a while longer
        return None
    return Attachment(
        item.get("AttachmentId", ""), item.get("InstanceId", ""), int(item.get("DeviceIndex", -1)), status
    )


def _prefixes(item: Item) -> Iterator[Network]:
    for entry in item.get("Ipv4Prefixes", ()):
        yield _network(entry["Ipv4Prefix"])
    for entry in item.get("Ipv6Prefixes", ()):
        yield _network(entry["Ipv6Prefix"])


def _tags(item: Item, key: str) -> dict[str, str]:
    return {str(tag["Key"]): str(tag.get("Value", "")) for tag in item.get(key, ()) if tag.get("Key")}


def _address(text: object) -> Address:
    """Of its text only: to ipaddress, numbers and bytes are addresses too. Raises ValueError."""
    return ip_address(str(text))


def _network(text: object) -> Network:
    return ip_network(str(text))
