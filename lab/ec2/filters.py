"""The filters of the describe calls, as the AWS API reference lists them under each.

A filter gives a resource's values; it matches if one of them matches one of the request's. `*` and `?` are wildcards,
a backslash makes the next character literal, and values are case-sensitive (EC2 user guide, "Filter resources").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from lab.ec2.errors import invalid_value
from lab.ec2.state import Association, Eni, PrivateAddress, Route, RouteTable, Subnet, Tags, Vpc

Values = Callable[[Any], Iterable[object]]
Filters = Mapping[str, Values]


def _all(of: Callable[[Any], Iterable[Any]], value: Callable[[Any], object]) -> Values:
    """A filter on the parts of a resource: `value` of each of them."""
    return lambda resource: (value(part) for part in of(resource))


def _one(value: Callable[[Any], object]) -> Values:
    """A filter on one value of a resource; None is no value."""
    return lambda resource: (value(resource),)


def _associations(table: RouteTable) -> tuple[Association, ...]:
    return table.associations


def _routes(table: RouteTable) -> tuple[Route, ...]:
    return table.routes


def _targets(prefix: str) -> Values:
    """The route targets with an ID of that kind."""
    return lambda table: (route.target for route in table.routes if route.target.startswith(prefix))


def _destinations(version: int) -> Values:
    return lambda table: (route.destination for route in table.routes if route.destination.version == version)


ROUTE_TABLE: Filters = {
    "association.gateway-id": _all(_associations, lambda each: each.gateway_id),
    "association.main": _one(lambda table: table.main),
    "association.route-table-association-id": _all(_associations, lambda each: each.association_id),
    "association.route-table-id": lambda table: (table.route_table_id,) if table.associations else (),
    "association.subnet-id": _all(_associations, lambda each: each.subnet_id),
    "owner-id": _one(lambda table: table.owner_id),
    "route-table-id": _one(lambda table: table.route_table_id),
    "route.destination-cidr-block": _destinations(4),
    "route.destination-ipv6-cidr-block": _destinations(6),
    "route.egress-only-internet-gateway-id": _targets("eigw-"),
    "route.gateway-id": lambda table: (
        route.target for route in table.routes if route.target.startswith(("igw-", "vgw-", "vpce-", "local"))
    ),
    "route.instance-id": _all(_routes, lambda route: route.instance_id),
    "route.nat-gateway-id": _targets("nat-"),
    "route.origin": _all(_routes, lambda route: route.origin),
    "route.state": _all(_routes, lambda route: route.state),
    "route.transit-gateway-id": _targets("tgw-"),
    "route.vpc-peering-connection-id": _targets("pcx-"),
    "vpc-id": _one(lambda table: table.vpc_id),
}


def _private(eni: Eni) -> tuple[PrivateAddress, ...]:
    return eni.private_addresses


def _public(attribute: str) -> Values:
    """An attribute of the Elastic IPs of the ENI."""
    return lambda eni: (getattr(each.public, attribute) for each in eni.private_addresses if each.public)


def _attachment(attribute: str) -> Values:
    return lambda eni: (getattr(eni.attachment, attribute),) if eni.attachment else ()


ENI: Filters = {
    "addresses.association.owner-id": _public("owner_id"),
    "addresses.association.public-ip": _public("public_ip"),
    "addresses.primary": _all(_private, lambda each: each.primary),
    "addresses.private-ip-address": _all(_private, lambda each: each.address),
    "association.allocation-id": _public("allocation_id"),
    "association.association-id": _public("association_id"),
    "association.ip-owner-id": _public("owner_id"),
    "association.public-ip": _public("public_ip"),
    "attachment.attachment-id": _attachment("attachment_id"),
    "attachment.delete-on-termination": _attachment("delete_on_termination"),
    "attachment.device-index": _attachment("device_index"),
    "attachment.instance-id": _attachment("instance_id"),
    "attachment.instance-owner-id": _attachment("owner_id"),
    "attachment.status": _attachment("status"),
    "availability-zone": _one(lambda eni: eni.availability_zone),
    "description": _one(lambda eni: eni.description),
    "group-id": _all(lambda eni: eni.groups, lambda group: group[0]),
    "group-name": _all(lambda eni: eni.groups, lambda group: group[1]),
    "interface-type": _one(lambda eni: eni.interface_type),
    "ipv6-addresses.ipv6-address": lambda eni: eni.ipv6_addresses,
    "mac-address": _one(lambda eni: eni.mac),
    "network-interface-id": _one(lambda eni: eni.eni_id),
    "owner-id": _one(lambda eni: eni.owner_id),
    "private-ip-address": _all(_private, lambda each: each.address),
    "requester-managed": _one(lambda eni: eni.requester_managed),
    "source-dest-check": _one(lambda eni: eni.source_dest_check),
    "status": _one(lambda eni: eni.status),
    "subnet-id": _one(lambda eni: eni.subnet_id),
    "vpc-id": _one(lambda eni: eni.vpc_id),
}

SUBNET: Filters = {
    "availability-zone": _one(lambda subnet: subnet.availability_zone),
    "availabilityZone": _one(lambda subnet: subnet.availability_zone),
    "availability-zone-id": _one(lambda subnet: subnet.availability_zone_id),
    "available-ip-address-count": _one(lambda subnet: subnet.available_addresses),
    "cidr": _one(lambda subnet: subnet.cidr),
    "cidr-block": _one(lambda subnet: subnet.cidr),
    "cidrBlock": _one(lambda subnet: subnet.cidr),
    "default-for-az": _one(lambda subnet: subnet.default_for_az),
    "ipv6-cidr-block-association.association-id": _all(lambda subnet: subnet.ipv6_cidrs, lambda each: each[0]),
    "ipv6-cidr-block-association.ipv6-cidr-block": _all(lambda subnet: subnet.ipv6_cidrs, lambda each: each[1]),
    "ipv6-cidr-block-association.state": _all(lambda subnet: subnet.ipv6_cidrs, lambda _: "associated"),
    "map-public-ip-on-launch": _one(lambda subnet: subnet.map_public_ip),
    "owner-id": _one(lambda subnet: subnet.owner_id),
    "state": _one(lambda _: "available"),
    "subnet-id": _one(lambda subnet: subnet.subnet_id),
    "vpc-id": _one(lambda subnet: subnet.vpc_id),
}

VPC: Filters = {
    "cidr": _one(lambda vpc: vpc.cidr),
    "cidr-block-association.association-id": _all(lambda vpc: vpc.cidr_associations, lambda each: each[0]),
    "cidr-block-association.cidr-block": _all(lambda vpc: vpc.cidr_associations, lambda each: each[1]),
    "cidr-block-association.state": _all(lambda vpc: vpc.cidr_associations, lambda each: each[2]),
    "dhcp-options-id": _one(lambda vpc: vpc.dhcp_options_id),
    "ipv6-cidr-block-association.association-id": _all(lambda vpc: vpc.ipv6_cidrs, lambda each: each[0]),
    "ipv6-cidr-block-association.ipv6-cidr-block": _all(lambda vpc: vpc.ipv6_cidrs, lambda each: each[1]),
    "ipv6-cidr-block-association.state": _all(lambda vpc: vpc.ipv6_cidrs, lambda _: "associated"),
    "is-default": _one(lambda vpc: vpc.is_default),
    "owner-id": _one(lambda vpc: vpc.owner_id),
    "state": _one(lambda _: "available"),
    "vpc-id": _one(lambda vpc: vpc.vpc_id),
}

ELASTIC_IP: Filters = {
    "allocation-id": _one(lambda eip: eip.allocation_id),
    "association-id": _one(lambda eip: eip.association_id),
    "network-interface-id": _one(lambda eip: eip.eni_id),
    "private-ip-address": _one(lambda eip: eip.private_ip),
    "public-ip": _one(lambda eip: eip.public_ip),
}


def matcher(asked: Iterable[tuple[str, list[str]]], known: Filters) -> Callable[[Any], bool]:
    """Tells whether a resource matches every filter; raises InvalidParameterValue for one that does not exist."""
    tests = [(_values(name, known), _pattern(tuple(wanted))) for name, wanted in asked]
    return lambda resource: all(_matches(values(resource), pattern) for values, pattern in tests)


def _values(name: str, known: Filters) -> Values:
    if name in known:
        return known[name]
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return lambda resource: (value for each, value in resource.tags if each == key)
    if name == "tag-key":
        return _all(_tags, lambda tag: tag[0])
    if name == "tag-value":
        return _all(_tags, lambda tag: tag[1])
    raise invalid_value(f"The filter '{name}' is invalid")


def _tags(resource: Vpc | Subnet | Eni | RouteTable) -> Tags:
    return resource.tags


def _matches(values: Iterable[object], pattern: re.Pattern[str]) -> bool:
    return any(value is not None and pattern.fullmatch(_text(value)) for value in values)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@lru_cache(maxsize=256)
def _pattern(wanted: tuple[str, ...]) -> re.Pattern[str]:
    """One regular expression for all values of a filter; none of them matches nothing."""
    return re.compile("|".join(_translate(each) for each in wanted) or r"(?!)", re.DOTALL)


def _translate(value: str) -> str:
    wildcards = {"*": ".*", "?": "."}
    parts = re.findall(r"\\.|.", value, re.DOTALL)
    return "".join(wildcards.get(part) or re.escape(part[-1]) for part in parts)
