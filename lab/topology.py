"""Builds the lab's VPC, through the EC2 API like anybody else would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Any

from lab.fabric import LabEni

REGION = "us-east-2"
INTERNET = "internet"  # the name of the host outside
VPC_CIDR = "10.10.0.0/16"
_INSTANCE_TYPE = "m5.xlarge"
_IMAGE = "ami-12c6146b"  # one of those that moto knows
_SUBNETTED_TABLES = 4  # further route tables have no subnet: they only make for more writes

_FLOATING = {"floating-1": "10.10.254.0/28", "floating-2": "10.10.254.16/28"}


@dataclass(frozen=True)
class SubnetSpec:
    """A subnet to make. `table` is the number of its route table, modulo the number of tables; 0 is the main one."""

    name: str
    cidr: str
    availability_zone: str
    table: int
    ipv6: bool = True


@dataclass(frozen=True)
class WorkerSpec:
    """A worker: device 0 in the node subnet, and one ENI in each of the Multus subnets, by their names."""

    name: str
    availability_zone: str
    node_subnet: str
    multus_subnets: tuple[str, ...]


# Peers' and workers' subnets are on different tables, so that traffic shows whether all tables were written.
SUBNETS = (
    SubnetSpec("nodes-a", "10.10.1.0/24", "us-east-2a", 0),
    SubnetSpec("nodes-b", "10.10.2.0/24", "us-east-2b", 0),
    SubnetSpec("multus1-a", "10.10.11.0/24", "us-east-2a", 3),
    SubnetSpec("multus2-a", "10.10.12.0/24", "us-east-2a", 0),
    SubnetSpec("multus1-b", "10.10.21.0/24", "us-east-2b", 3),
    SubnetSpec("multus2-b", "10.10.22.0/24", "us-east-2b", 0),
    SubnetSpec("peers-a", "10.10.31.0/24", "us-east-2a", 1),
    SubnetSpec("peers-b", "10.10.32.0/24", "us-east-2b", 2),
    SubnetSpec("floating-1", _FLOATING["floating-1"], "us-east-2a", 0),
    SubnetSpec("floating-2", _FLOATING["floating-2"], "us-east-2a", 0, ipv6=False),
)
WORKER_A = WorkerSpec("a", "us-east-2a", "nodes-a", ("multus1-a", "multus2-a"))
WORKER_B = WorkerSpec("b", "us-east-2b", "nodes-b", ("multus1-b", "multus2-b"))
WORKERS = (WORKER_A, WORKER_B)
PEERS = (WorkerSpec("peer1", "us-east-2a", "peers-a", ()), WorkerSpec("peer2", "us-east-2b", "peers-b", ()))


@dataclass(frozen=True)
class Machine:
    """An instance that was made, with its ENIs by device index."""

    name: str
    availability_zone: str
    instance_id: str
    enis: tuple[LabEni, ...]


@dataclass
class Topology:
    """What was made. `route_table_ids` begins with the main table; `floating_subnets` is CIDR → subnet ID."""

    vpc_id: str
    route_table_ids: list[str]
    edge_table_id: str = ""
    floating_subnets: dict[str, str] = field(default_factory=dict)
    subnets: dict[str, Any] = field(default_factory=dict)  # name → what CreateSubnet returned
    machines: dict[str, Machine] = field(default_factory=dict)


def build(client: Any, *, route_tables: int, workers: Sequence[WorkerSpec], ipv6: bool, internet: bool) -> Topology:
    """Make the VPC with everything in it. `client` is a boto3 EC2 client.

    `internet`: all subnets are public, which is that their tables have a default route to the internet gateway.
    """
    vpc = client.create_vpc(CidrBlock=VPC_CIDR, AmazonProvidedIpv6CidrBlock=ipv6)["Vpc"]
    topology = Topology(vpc["VpcId"], _make_tables(client, vpc["VpcId"], route_tables))
    gateway = _make_gateway(client, vpc["VpcId"])
    topology.edge_table_id = _make_edge_table(client, vpc["VpcId"], gateway)
    for table in topology.route_table_ids if internet else ():
        client.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    vpc6 = _ipv6_cidr(client, vpc["VpcId"]) if ipv6 else None
    for number, spec in enumerate(SUBNETS):
        _make_subnet(client, topology, spec, vpc6, number)
    for machine in (*workers, *PEERS):
        topology.machines[machine.name] = _make_machine(client, topology, machine)
    return topology


def _make_tables(client: Any, vpc_id: str, count: int) -> list[str]:
    main = client.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])["RouteTables"]
    tables = [main[0]["RouteTableId"]]
    tables += [client.create_route_table(VpcId=vpc_id)["RouteTable"]["RouteTableId"] for _ in range(1, count)]
    for number, table in enumerate(tables):
        tags = [{"Key": "Name", "Value": f"rt-{number}"}, {"Key": "vipmanager", "Value": "yes"}]
        client.create_tags(Resources=[table], Tags=tags)
    return tables


def _make_gateway(client: Any, vpc_id: str) -> str:
    gateway = str(client.create_internet_gateway()["InternetGateway"]["InternetGatewayId"])
    client.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc_id)
    return gateway


def _make_edge_table(client: Any, vpc_id: str, gateway: str) -> str:
    """A route table of the internet gateway, which no floating address belongs in."""
    table = str(client.create_route_table(VpcId=vpc_id)["RouteTable"]["RouteTableId"])
    client.associate_route_table(RouteTableId=table, GatewayId=gateway)
    client.create_tags(Resources=[table], Tags=[{"Key": "Name", "Value": "edge"}])
    return table


def _ipv6_cidr(client: Any, vpc_id: str) -> IPv6Network:
    vpc = client.describe_vpcs(VpcIds=[vpc_id])["Vpcs"][0]
    return IPv6Network(vpc["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"])


def _make_subnet(client: Any, topology: Topology, spec: SubnetSpec, vpc6: IPv6Network | None, number: int) -> None:
    request = {"VpcId": topology.vpc_id, "CidrBlock": spec.cidr, "AvailabilityZone": spec.availability_zone}
    if vpc6 is not None and spec.ipv6:
        request["Ipv6CidrBlock"] = str(IPv6Network((int(vpc6.network_address) + (number << 64), 64)))
    subnet = client.create_subnet(**request)["Subnet"]
    topology.subnets[spec.name] = subnet
    if spec.name in _FLOATING:
        topology.floating_subnets[spec.cidr] = subnet["SubnetId"]
    table = spec.table % min(len(topology.route_table_ids), _SUBNETTED_TABLES)
    if table:  # 0 is the main table, which needs no association
        client.associate_route_table(RouteTableId=topology.route_table_ids[table], SubnetId=subnet["SubnetId"])


def _make_machine(client: Any, topology: Topology, spec: WorkerSpec) -> Machine:
    subnets = [topology.subnets[name] for name in (spec.node_subnet, *spec.multus_subnets)]
    enis = [_make_eni(client, subnet, index) for index, subnet in enumerate(subnets)]
    reservation = client.run_instances(
        ImageId=_IMAGE,
        MinCount=1,
        MaxCount=1,
        InstanceType=_INSTANCE_TYPE,
        Placement={"AvailabilityZone": spec.availability_zone},
        NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": enis[0].eni_id}],
    )
    instance_id = reservation["Instances"][0]["InstanceId"]
    for eni in enis[1:]:
        client.attach_network_interface(
            NetworkInterfaceId=eni.eni_id, InstanceId=instance_id, DeviceIndex=eni.device_index
        )
    client.create_tags(Resources=[instance_id], Tags=[{"Key": "Name", "Value": spec.name}])
    return Machine(spec.name, spec.availability_zone, instance_id, tuple(enis))


def _make_eni(client: Any, subnet: dict[str, Any], device_index: int) -> LabEni:
    associations = subnet.get("Ipv6CidrBlockAssociationSet") or []
    cidr6 = associations[0]["Ipv6CidrBlock"] if associations else None
    extra = {"Ipv6AddressCount": 1} if cidr6 else {}
    eni = client.create_network_interface(SubnetId=subnet["SubnetId"], **extra)["NetworkInterface"]
    addresses6 = eni.get("Ipv6Addresses") or []
    return LabEni(
        eni_id=eni["NetworkInterfaceId"],
        mac=eni["MacAddress"],
        device_index=device_index,
        subnet_id=subnet["SubnetId"],
        subnet_cidr=subnet["CidrBlock"],
        subnet_cidr6=cidr6,
        primary_ip=eni["PrivateIpAddress"],
        primary_ip6=addresses6[0]["Ipv6Address"] if addresses6 else None,
    )
