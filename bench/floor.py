"""The floor: what anybody's shortest boto3 script costs that makes the same EC2 calls, one after the other.

    python floor.py VPC_ID ENI=ADDRESS,ADDRESS…       what an init run does
    python floor.py VPC_ID --warm                     a client already made; each line `ADDRESS ENI` is one change

It decides nothing, repeats nothing, and sets no routes in the pod.
"""

from __future__ import annotations

import sys
from typing import Any

import boto3


def init(ec2: Any, vpc_id: str, wanted: dict[str, str]) -> None:
    """Point each address (`address/32` → ENI) at its ENI in every route table."""
    enis = ec2.describe_network_interfaces(Filters=_filter("network-interface-id", sorted(set(wanted.values()))))
    tables = ec2.describe_route_tables(Filters=_filter("vpc-id", [vpc_id]))
    for eni in enis["NetworkInterfaces"]:
        if eni["SourceDestCheck"]:
            ec2.modify_network_interface_attribute(
                NetworkInterfaceId=eni["NetworkInterfaceId"], SourceDestCheck={"Value": False}
            )
    for table in _not_edge(tables):
        routes = {route.get("DestinationCidrBlock"): route.get("NetworkInterfaceId") for route in table["Routes"]}
        for destination, eni_id in wanted.items():
            if routes.get(destination) != eni_id:
                write = ec2.replace_route if destination in routes else ec2.create_route
                write(RouteTableId=table["RouteTableId"], DestinationCidrBlock=destination, NetworkInterfaceId=eni_id)


def warm(ec2: Any, vpc_id: str) -> None:
    """Create the routes of one address after another, as they are named on standard input."""
    tables = list(_not_edge(ec2.describe_route_tables(Filters=_filter("vpc-id", [vpc_id]))))
    print("ready", flush=True)
    for line in sys.stdin:
        address, eni_id = line.split()
        for table in tables:
            ec2.create_route(
                RouteTableId=table["RouteTableId"], DestinationCidrBlock=f"{address}/32", NetworkInterfaceId=eni_id
            )


def _filter(name: str, values: list[str]) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": values}]


def _not_edge(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        table for table in answer["RouteTables"] if not any(each.get("GatewayId") for each in table["Associations"])
    ]


def main() -> None:
    """See the module."""
    vpc_id, *rest = sys.argv[1:]
    ec2 = boto3.client("ec2")
    if rest == ["--warm"]:
        warm(ec2, vpc_id)
        return
    pairs = [item.split("=") for item in rest]
    init(ec2, vpc_id, {f"{address}/32": eni_id for eni_id, addresses in pairs for address in addresses.split(",")})


if __name__ == "__main__":
    main()
