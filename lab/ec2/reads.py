"""The describe calls that vipmanager and the tests read: rendered from a `VpcState`, filtered and paged as EC2 does."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.ec2 import filters, params, render
from lab.ec2.errors import Ec2Error, invalid_value
from lab.ec2.params import Params
from lab.ec2.state import VpcState

_KEPT_TOKENS = 1000  # a test that leaves more unfinished listings than this gets "invalid token"


@dataclass(frozen=True)
class Listing:
    """One describe call: what it lists and the limits the API reference gives for it."""

    resources: Callable[[VpcState], Mapping[str, Any]]
    ids: str  # the parameter that lists IDs
    filters: filters.Filters
    not_found: tuple[str, str]  # error code, message with one {}
    render: Callable[[Any], str]
    element: str
    max_page: int | None = 1000  # at most so many a page, asked for or not; None: the call is not paged
    also: Mapping[str, str] = field(default_factory=dict)  # other list parameters → the filter that does the same
    ids_exclude_paging: bool = False  # "You cannot specify this parameter and the … IDs in the same request"


LISTINGS: Mapping[str, Listing] = {
    "DescribeRouteTables": Listing(
        lambda state: state.route_tables,
        "RouteTableId",
        filters.ROUTE_TABLE,
        ("InvalidRouteTableID.NotFound", "The routeTable ID '{}' does not exist"),
        render.route_table,
        "routeTableSet",
        max_page=100,  # EC2-SEMANTICS "DescribeRouteTables, …"
    ),
    "DescribeNetworkInterfaces": Listing(
        lambda state: state.enis,
        "NetworkInterfaceId",
        filters.ENI,
        ("InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '{}' does not exist"),
        render.eni,
        "networkInterfaceSet",
        ids_exclude_paging=True,
    ),
    "DescribeSubnets": Listing(
        lambda state: state.subnets,
        "SubnetId",
        filters.SUBNET,
        ("InvalidSubnetID.NotFound", "The subnet ID '{}' does not exist"),
        render.subnet,
        "subnetSet",
    ),
    "DescribeVpcs": Listing(
        lambda state: state.vpcs,
        "VpcId",
        filters.VPC,
        ("InvalidVpcID.NotFound", "The vpc ID '{}' does not exist"),
        render.vpc,
        "vpcSet",
    ),
    "DescribeAddresses": Listing(
        lambda state: state.elastic_ips,
        "AllocationId",
        filters.ELASTIC_IP,
        ("InvalidAllocationID.NotFound", "The allocation ID '{}' does not exist"),
        render.elastic_ip,
        "addressesSet",
        max_page=None,
        also={"PublicIp": "public-ip"},
    ),
}


class Reads:
    """Answers the calls of LISTINGS. `page_size` caps every page further, so that a test needs no hundred tables."""

    def __init__(self) -> None:
        self.page_size: int | None = None
        self._rest: OrderedDict[str, list[str]] = OrderedDict()  # token → IDs of the pages to come
        self._lock = threading.Lock()

    def answer(self, action: str, request: Params, state: VpcState) -> str:
        """The XML inside the answer of one describe call."""
        listing = LISTINGS[action]
        resources = listing.resources(state)
        limit = self._limit(listing, request)
        token = request.get("NextToken")
        if token:
            ids = [each for each in self._resume(token) if each in resources]
        else:
            ids = _matching(listing, request, resources)
        page, rest = (ids[:limit], ids[limit:]) if limit else (ids, [])
        body = render.listing(listing.element, (resources[each] for each in page), listing.render)
        return body + (render.element("nextToken", self._keep(rest)) if rest else "")

    def _limit(self, listing: Listing, request: Params) -> int | None:
        """The size of a page."""
        asked = params.count(request, "MaxResults")
        if listing.max_page is None:
            return None
        if asked is not None:
            if listing.ids_exclude_paging and params.items(request, listing.ids):
                raise Ec2Error("InvalidParameterCombination", "The parameter maxResults cannot be used with IDs")
            if not 5 <= asked <= listing.max_page:
                bound = "greater than 5" if asked < 5 else f"less than or equal to {listing.max_page}"
                raise invalid_value(
                    f"Value ( {asked} ) for parameter maxResults is invalid. Expecting a value {bound}."
                )
        return min(each for each in (asked, self.page_size, listing.max_page) if each is not None)

    def _keep(self, rest: list[str]) -> str:
        token = uuid.uuid4().hex
        with self._lock:
            self._rest[token] = rest
            while len(self._rest) > _KEPT_TOKENS:
                self._rest.popitem(last=False)
        return token

    def _resume(self, token: str) -> list[str]:
        with self._lock:
            rest = self._rest.get(token)  # kept: a retried request sends the same token again
        if rest is None:
            raise Ec2Error("InvalidNextToken", "The token is invalid")
        return rest


def _matching(listing: Listing, request: Params, resources: Mapping[str, Any]) -> list[str]:
    """The IDs the request asks for, in the order the resources were made."""
    wanted = set(params.items(request, listing.ids))
    for each in wanted:
        if each not in resources:
            code, message = listing.not_found
            raise Ec2Error(code, message.format(each))
    asked = params.filters(request)
    for parameter, name in listing.also.items():
        if values := params.items(request, parameter):
            asked.append((name, values))
    matches = filters.matcher(asked, listing.filters)
    return [each for each, resource in resources.items() if (not wanted or each in wanted) and matches(resource)]
