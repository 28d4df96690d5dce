"""A small VPC in the lab's EC2, a plain boto3 client for it, and what the suites of the lab's EC2 share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from lab.ec2.quotas import AddressLimit, Quotas
from lab.ec2.server import LabEc2

OUTSIDE = "192.168.0.2/32"  # a floating address: in no CIDR of the VPC
OUTSIDE6 = "2001:db8::2/128"
QUOTAS = Quotas(routes_per_table=3, addresses=AddressLimit(ipv4=4, ipv6=3))


def client(ec2: LabEc2, service: str = "ec2", keys: Any = None, **config: Any) -> Any:
    """A client as vipmanager would have one, but without retries: a test is to see each answer."""
    keys = keys or ec2.keys.base
    return boto3.client(
        service,
        region_name=ec2.region,
        endpoint_url=ec2.url,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        aws_session_token=keys.token,
        config=Config(retries={"total_max_attempts": 1}, **config),
    )


@dataclass
class World:
    """A VPC with two subnets, a worker in each, and an extra ENI on each worker."""

    ec2: LabEc2
    api: Any  # the client under test
    vpc: str
    subnets: list[str]
    instances: list[str]
    enis: list[str]
    main_table: str

    def table(self, **query: Any) -> dict[str, Any]:
        """The main route table, as described."""
        return self.api.describe_route_tables(RouteTableIds=[self.main_table], **query)["RouteTables"][0]

    def route(self, destination: str) -> dict[str, Any] | None:
        """The main table's route for the destination."""
        key = "DestinationIpv6CidrBlock" if ":" in destination else "DestinationCidrBlock"
        return next((each for each in self.table()["Routes"] if each.get(key) == destination), None)

    def create(self, destination: str = OUTSIDE, eni: int = 0, **more: Any) -> None:
        """CreateRoute in the main table to one of the ENIs."""
        self.api.create_route(**in_table(self.main_table, destination), NetworkInterfaceId=self.enis[eni], **more)

    def replace(self, destination: str = OUTSIDE, eni: int = 0, **more: Any) -> None:
        """ReplaceRoute likewise."""
        self.api.replace_route(**in_table(self.main_table, destination), NetworkInterfaceId=self.enis[eni], **more)

    def eni(self, number: int) -> dict[str, Any]:
        """An ENI, as described."""
        found = self.api.describe_network_interfaces(NetworkInterfaceIds=[self.enis[number]])
        return found["NetworkInterfaces"][0]

    def ipv4(self, number: int) -> list[str]:
        """Its IPv4 addresses, the primary one first."""
        return [each["PrivateIpAddress"] for each in self.eni(number)["PrivateIpAddresses"]]

    def ipv6(self, number: int) -> list[str]:
        """Its IPv6 addresses."""
        return [each["Ipv6Address"] for each in self.eni(number)["Ipv6Addresses"]]

    def ipv6_address(self, number: int) -> str:
        """An address of the first subnet's IPv6 CIDR."""
        return str(self.ec2.state().subnets[self.subnets[0]].ipv6_cidrs[0][1][number])


def in_table(table: str, destination: str) -> dict[str, str]:
    key = "DestinationIpv6CidrBlock" if ":" in destination else "DestinationCidrBlock"
    return {"RouteTableId": table, key: destination}


def build(ec2: LabEc2) -> World:
    """Make the world through `admin()`."""
    admin = ec2.admin()
    vpc = admin.create_vpc(CidrBlock="10.10.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
    (_, ipv6), *_ = ec2.state().vpcs[vpc].ipv6_cidrs
    subnets, instances, enis = [], [], []
    for number, zone in enumerate("ab", 1):
        made = admin.create_subnet(
            VpcId=vpc,
            CidrBlock=f"10.10.{number}.0/24",
            Ipv6CidrBlock=str(list(ipv6.subnets(new_prefix=64))[number]),
            AvailabilityZone=f"us-east-2{zone}",
        )
        subnet = made["Subnet"]["SubnetId"]
        run = admin.run_instances(
            ImageId="ami-12345678", InstanceType="m5.xlarge", MinCount=1, MaxCount=1, SubnetId=subnet
        )
        instance = run["Instances"][0]["InstanceId"]
        eni = admin.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
        admin.attach_network_interface(NetworkInterfaceId=eni, InstanceId=instance, DeviceIndex=1)
        subnets.append(subnet)
        instances.append(instance)
        enis.append(eni)
    tables = ec2.state().route_tables.values()
    main = next(table.route_table_id for table in tables if table.vpc_id == vpc and table.main)
    return World(ec2, client(ec2), vpc, subnets, instances, enis, main)


def refused(call: Callable[[], object], code: str, status: int = 400) -> str:
    """Expect the call to be refused with that code; returns the message."""
    with pytest.raises(ClientError) as caught:
        call()
    error = caught.value.response
    assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    return str(error["Error"]["Message"])


def assign(world: World, eni: int, *addresses: str, **more: Any) -> Any:
    return world.api.assign_private_ip_addresses(
        NetworkInterfaceId=world.enis[eni], PrivateIpAddresses=list(addresses), **more
    )


def second_eni(world: World) -> int:
    """Add an ENI in the first ENI's subnet, on the same worker; returns its number."""
    admin = world.ec2.admin()
    made = admin.create_network_interface(SubnetId=world.subnets[0])["NetworkInterface"]["NetworkInterfaceId"]
    admin.attach_network_interface(NetworkInterfaceId=made, InstanceId=world.instances[0], DeviceIndex=2)
    world.enis.append(made)
    return len(world.enis) - 1


def elastic_ip(world: World) -> str:
    return str(world.ec2.admin().allocate_address(Domain="vpc")["AllocationId"])


def found(world: World, **filters: str | list[str]) -> set[str]:
    """The ENIs that match; a filter's dashes and dots are written `_` and `__`."""
    asked = [
        {"Name": name.replace("__", ".").replace("_", "-"), "Values": [value] if isinstance(value, str) else value}
        for name, value in filters.items()
    ]
    answer = world.api.describe_network_interfaces(Filters=asked)
    return {each["NetworkInterfaceId"] for each in answer["NetworkInterfaces"]}


def until(condition: Callable[[], bool], bound: float = 5.0) -> None:
    """Wait for the condition, at most `bound` seconds."""
    end = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def works(call: Callable[[], object]) -> bool:
    try:
        call()
    except ClientError:
        return False
    return True


def ignoring(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # whatever a client makes of a dropped connection
        return
