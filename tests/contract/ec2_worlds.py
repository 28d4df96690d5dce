"""The same small region, twice: behind the double, and behind the real client over HTTP (the lab's EC2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any, Protocol

from lab.ec2.quotas import AddressLimit, Quotas
from lab.ec2.server import LabEc2
from tests.doubles.ec2 import VPC, FakeEc2
from vipmanager.clients.ec2 import Ec2Client
from vipmanager.model import Address, Network
from vipmanager.ports import Ec2Port

ROUTES_PER_TABLE = 3
ADDRESSES_PER_ENI = 4
QUOTAS = Quotas(routes_per_table=ROUTES_PER_TABLE, addresses=AddressLimit(ADDRESSES_PER_ENI, ADDRESSES_PER_ENI))

CIDR_A, CIDR_B = "10.10.1.0/24", "10.10.2.0/24"
ZONE_A, ZONE_B = "us-east-2a", "us-east-2b"
PRIMARY_A, PRIMARY_A2, PRIMARY_B = "10.10.1.10", "10.10.1.11", "10.10.2.10"


class Ec2World(Protocol):
    """A VPC with subnets `a` and `b`, ENIs `a` and `a2` in `a` and `b` in `b`, all attached; one ENI in another VPC.

    `tables` are two ordinary route tables; `edge` is a gateway's.
    """

    port: Ec2Port
    account: str
    vpc: str
    subnet_ids: Mapping[str, str]
    cidr6: Network  # of subnet a
    enis: dict[str, str]
    macs: dict[str, str]
    elsewhere: str  # an ENI of another VPC
    tables: list[str]
    edge: str

    def v6(self, number: int) -> Address:
        """An IPv6 address of subnet a."""
        return self.cidr6[number]

    def targets(self, table: str) -> dict[Network, str]:
        """The static routes that are truly there."""
        ...

    def addresses(self, eni: str) -> set[Address]:
        """The addresses that are truly there."""
        ...

    def detach(self, eni: str) -> None:
        """Detach an ENI."""
        ...

    def delete_eni(self, eni: str) -> None:
        """Delete a detached ENI."""
        ...

    def add_tables(self, count: int) -> list[str]:
        """More route tables."""
        ...

    def tag(self, table: str, key: str, value: str) -> None:
        """Tag a route table."""
        ...

    def calls_made(self) -> int:
        """How many calls were made so far."""
        ...


class FakeWorld:
    """Behind the double."""

    def __init__(self) -> None:
        self.ec2 = ec2 = FakeEc2()
        ec2.routes_per_table, ec2.addresses_per_eni = ROUTES_PER_TABLE, ADDRESSES_PER_ENI
        self.port: Ec2Port = ec2
        self.account = "123456789012"
        self.vpc = VPC
        self.cidr6 = ip_network("2600:1f14:0:1::/64")
        ec2.add_vpc(VPC, "10.10.0.0/16", "2600:1f14::/56")
        ec2.add_vpc("vpc-2", "10.20.0.0/16")
        ec2.add_subnet("subnet-a", CIDR_A, str(self.cidr6))
        ec2.add_subnet("subnet-b", CIDR_B, zone=ZONE_B)
        ec2.add_subnet("subnet-2", "10.20.1.0/24", vpc_id="vpc-2")
        self.subnet_ids = {"a": "subnet-a", "b": "subnet-b"}
        self.enis = {"a": "eni-a", "a2": "eni-a2", "b": "eni-b"}
        self.macs = {"a": "02:00:00:00:00:0a", "a2": "02:00:00:00:00:a2", "b": "02:00:00:00:00:0b"}
        self.elsewhere = "eni-2"
        ec2.add_eni("eni-a", self.macs["a"], 1, "subnet-a", PRIMARY_A)
        ec2.add_eni("eni-a2", self.macs["a2"], 1, "subnet-a", PRIMARY_A2)
        ec2.add_eni("eni-b", self.macs["b"], 2, "subnet-b", PRIMARY_B)
        ec2.add_eni("eni-2", "02:00:00:00:00:02", 1, "subnet-2", "10.20.1.10")
        self.tables: list[str] = self.add_tables(2)
        self.edge = "rtb-edge"
        ec2.add_table(self.edge, edge=True)
        ec2.add_table("rtb-other", vpc_id="vpc-2")

    def v6(self, number: int) -> Address:
        return self.cidr6[number]

    def targets(self, table: str) -> dict[Network, str]:
        return dict(self.ec2.state.tables[table].routes)

    def addresses(self, eni: str) -> set[Address]:
        return set(self.ec2.state.enis[eni].addresses)

    def detach(self, eni: str) -> None:
        self.ec2.detach(eni)

    def delete_eni(self, eni: str) -> None:
        self.ec2.remove_eni(eni)

    def add_tables(self, count: int) -> list[str]:
        made = [f"rtb-{len(self.ec2.state.tables) + number}" for number in range(count)]
        for table in made:
            self.ec2.add_table(table)
        return made

    def tag(self, table: str, key: str, value: str) -> None:
        tables = self.ec2.state.tables
        tagged = replace(tables[table], tags={**tables[table].tags, key: value})
        self.ec2.set(replace(self.ec2.state, tables={**tables, table: tagged}))

    def calls_made(self) -> int:
        return len(self.ec2.faults.calls)


class LabWorld:
    """Behind the real client."""

    def __init__(self, ec2: LabEc2, client: Ec2Client) -> None:
        self.ec2 = ec2
        self.port: Ec2Port = client
        self.account = ec2.account_id
        self.admin = admin = ec2.admin()
        self.vpc, block = self._make_vpc("10.10.0.0/16")
        self.cidr6 = list(ip_network(block).subnets(new_prefix=64))[1]
        self.subnet_ids = {
            "a": self._make_subnet(self.vpc, CIDR_A, AvailabilityZone=ZONE_A, Ipv6CidrBlock=str(self.cidr6)),
            "b": self._make_subnet(self.vpc, CIDR_B, AvailabilityZone=ZONE_B),
        }
        self.enis: dict[str, str] = {}
        self.macs: dict[str, str] = {}
        for name, subnet, primary, index in (
            ("a", "a", PRIMARY_A, 1),
            ("a2", "a", PRIMARY_A2, 1),
            ("b", "b", PRIMARY_B, 2),
        ):
            self.enis[name] = self._make_eni(self.subnet_ids[subnet], primary, index)
            self.macs[name] = ec2.state().enis[self.enis[name]].mac
        other, _ = self._make_vpc("10.20.0.0/16")
        self.elsewhere = self._make_eni(self._make_subnet(other, "10.20.1.0/24"), "10.20.1.10", 1)
        own = (table for table in ec2.state().route_tables.values() if table.vpc_id == self.vpc)
        self.tables: list[str] = [next(own).route_table_id, *self.add_tables(1)]
        self.edge = self._make_edge_table(admin)
        self._mark = ec2.mark()

    def v6(self, number: int) -> Address:
        return self.cidr6[number]

    def targets(self, table: str) -> dict[Network, str]:
        routes = self.ec2.state().route_tables[table].routes
        return {route.destination: route.target for route in routes if route.target != "local"}

    def addresses(self, eni: str) -> set[Address]:
        return set(self.ec2.state().enis[eni].addresses)

    def detach(self, eni: str) -> None:
        attachment = self.ec2.state().enis[eni].attachment
        assert attachment is not None
        self.admin.detach_network_interface(AttachmentId=attachment.attachment_id)

    def delete_eni(self, eni: str) -> None:
        self.admin.delete_network_interface(NetworkInterfaceId=eni)

    def add_tables(self, count: int) -> list[str]:
        return [self.admin.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"] for _ in range(count)]

    def tag(self, table: str, key: str, value: str) -> None:
        self.admin.create_tags(Resources=[table], Tags=[{"Key": key, "Value": value}])

    def calls_made(self) -> int:
        return len(self.ec2.calls_since(self._mark))

    def _make_vpc(self, cidr: str) -> tuple[str, str]:
        vpc = self.admin.create_vpc(CidrBlock=cidr, AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
        return vpc, str(self.ec2.state().vpcs[vpc].ipv6_cidrs[0][1])

    def _make_subnet(self, vpc: str, cidr: str, **more: Any) -> str:
        return str(self.admin.create_subnet(VpcId=vpc, CidrBlock=cidr, **more)["Subnet"]["SubnetId"])

    def _make_eni(self, subnet: str, primary: str, index: int) -> str:
        run = self.admin.run_instances(
            ImageId="ami-12c6146b", InstanceType="m5.xlarge", MinCount=1, MaxCount=1, SubnetId=subnet
        )
        made = self.admin.create_network_interface(SubnetId=subnet, PrivateIpAddress=primary)["NetworkInterface"]
        instance, eni = run["Instances"][0]["InstanceId"], str(made["NetworkInterfaceId"])
        self.admin.attach_network_interface(NetworkInterfaceId=eni, InstanceId=instance, DeviceIndex=index)
        return eni

    def _make_edge_table(self, admin: Any) -> str:
        gateway = admin.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        admin.attach_internet_gateway(InternetGatewayId=gateway, VpcId=self.vpc)
        table = str(admin.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"])
        admin.associate_route_table(RouteTableId=table, GatewayId=gateway)
        return table


def a(number: int) -> Address:
    """An IPv4 address of subnet a."""
    return ip_address(f"10.10.1.{number}")
