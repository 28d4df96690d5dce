"""The lab's EC2, driven over HTTP by a plain boto3 client: a test for each row of EC2-SEMANTICS.md, and its own tools.

Where a test says "Row …" it names the row of that table.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ConnectionError, ReadTimeoutError

from lab.ec2.quotas import AddressLimit, Quotas
from lab.ec2.server import LabEc2
from lab.ec2.state import VpcState

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
        self.api.create_route(**_to(self.main_table, destination), NetworkInterfaceId=self.enis[eni], **more)

    def replace(self, destination: str = OUTSIDE, eni: int = 0, **more: Any) -> None:
        """ReplaceRoute likewise."""
        self.api.replace_route(**_to(self.main_table, destination), NetworkInterfaceId=self.enis[eni], **more)

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


def _to(table: str, destination: str) -> dict[str, str]:
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


@pytest.fixture
def world() -> Iterator[World]:
    with LabEc2(quotas=QUOTAS) as ec2:
        ec2.serve("127.0.0.1")
        yield build(ec2)


def refused(call: Callable[[], object], code: str, status: int = 400) -> str:
    """Expect the call to be refused with that code; returns the message."""
    with pytest.raises(ClientError) as caught:
        call()
    error = caught.value.response
    assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    return str(error["Error"]["Message"])


# Rows: routes --------------------------------------------------------------------------------------------------------


def test_replace_route_without_a_route_is_refused(world: World) -> None:
    """Row "ReplaceRoute, no such route"."""
    for destination in (OUTSIDE, OUTSIDE6):
        message = refused(lambda to=destination: world.replace(to), "InvalidParameterValue")
        assert message == f"There is no route defined for '{destination}' in the route table. Use CreateRoute instead."


def test_create_route_of_an_existing_destination_is_refused_and_changes_nothing(world: World) -> None:
    """Row "CreateRoute, destination exists"."""
    for destination in (OUTSIDE, OUTSIDE6):
        world.create(destination, eni=0)
        refused(lambda to=destination: world.create(to, eni=1), "RouteAlreadyExists")
        assert world.route(destination)["NetworkInterfaceId"] == world.enis[0]


def test_replace_route_moves_the_route(world: World) -> None:
    for destination in (OUTSIDE, OUTSIDE6):
        world.create(destination, eni=0)
        world.replace(destination, eni=1)
        assert world.route(destination)["NetworkInterfaceId"] == world.enis[1]


def test_create_route_beyond_the_quota_is_refused_for_each_family_apart(world: World) -> None:
    """Row "CreateRoute beyond the quota"."""
    for number in range(QUOTAS.routes_per_table):
        world.create(f"192.168.0.{number}/32")
    refused(lambda: world.create("192.168.1.1/32"), "RouteLimitExceeded")
    world.create(OUTSIDE6)


@pytest.mark.parametrize("destination", ["10.10.1.7/32", "10.10.1.0/25", "10.10.0.0/17", "10.10.77.0/24"])
def test_a_destination_inside_the_vpc_must_be_a_subnets_cidr(world: World, destination: str) -> None:
    """Row "Create/ReplaceRoute inside the VPC's CIDR"."""
    message = refused(lambda: world.create(destination), "InvalidParameterValue")
    assert message == "Route destination doesn't match any subnet CIDR blocks."


def test_a_subnets_exact_cidr_may_be_routed(world: World) -> None:
    """Row "Create/ReplaceRoute inside the VPC's CIDR": what is allowed."""
    subnet = world.ec2.state().subnets[world.subnets[1]]
    for cidr in (str(subnet.cidr), str(subnet.ipv6_cidrs[0][1])):
        world.create(cidr, eni=0)
        assert world.route(cidr)["NetworkInterfaceId"] == world.enis[0]


def test_an_ipv6_destination_inside_the_vpc_must_be_a_subnets_cidr(world: World) -> None:
    """Row "Create/ReplaceRoute inside the VPC's CIDR", IPv6."""
    refused(lambda: world.create(f"{world.ipv6_address(9)}/128"), "InvalidParameterValue")


def test_the_local_route_is_kept(world: World) -> None:
    refused(lambda: world.create("10.10.0.0/16"), "RouteAlreadyExists")
    refused(lambda: world.replace("10.10.0.0/16"), "UnsupportedOperation")
    refused(lambda: world.api.delete_route(**_to(world.main_table, "10.10.0.0/16")), "InvalidParameterValue")
    assert world.route("10.10.0.0/16")["GatewayId"] == "local"


def test_a_route_to_an_eni_of_another_vpc_is_refused(world: World) -> None:
    """Row "Create/ReplaceRoute to an ENI of another VPC, or one that does not exist"."""
    admin = world.ec2.admin()
    other = admin.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    subnet = admin.create_subnet(VpcId=other, CidrBlock="10.20.1.0/24")["Subnet"]["SubnetId"]
    foreign = admin.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    world.create()
    for call in (world.api.create_route, world.api.replace_route):
        refused(
            lambda call=call: call(**_to(world.main_table, OUTSIDE), NetworkInterfaceId=foreign),
            "InvalidParameterValue",
        )
    assert world.route(OUTSIDE)["NetworkInterfaceId"] == world.enis[0]


def test_a_route_to_an_eni_that_does_not_exist_is_refused(world: World) -> None:
    """Row "Create/ReplaceRoute to an ENI of another VPC, or one that does not exist"."""
    world.create()
    for call in (world.api.create_route, world.api.replace_route):
        refused(
            lambda call=call: call(**_to(world.main_table, OUTSIDE), NetworkInterfaceId="eni-0123456789abcdef0"),
            "InvalidNetworkInterfaceID.NotFound",
        )


def test_a_detached_enis_route_is_a_blackhole_until_it_is_attached_again(world: World) -> None:
    """Row "ENI detached or deleted, instance terminated"."""
    admin = world.ec2.admin()
    world.create()
    assert world.route(OUTSIDE)["State"] == "active"
    assert world.route(OUTSIDE)["InstanceId"] == world.instances[0]
    attachment = world.eni(0)["Attachment"]["AttachmentId"]
    admin.detach_network_interface(AttachmentId=attachment)
    assert world.route(OUTSIDE) == {
        "DestinationCidrBlock": OUTSIDE,
        "NetworkInterfaceId": world.enis[0],
        "Origin": "CreateRoute",
        "State": "blackhole",
    }
    admin.attach_network_interface(NetworkInterfaceId=world.enis[0], InstanceId=world.instances[0], DeviceIndex=1)
    assert world.route(OUTSIDE)["State"] == "active"


def test_a_deleted_enis_route_is_a_blackhole(world: World) -> None:
    """Row "ENI detached or deleted, instance terminated"."""
    admin = world.ec2.admin()
    world.create()
    refused(lambda: admin.delete_network_interface(NetworkInterfaceId=world.enis[0]), "InvalidParameterValue")
    admin.detach_network_interface(AttachmentId=world.eni(0)["Attachment"]["AttachmentId"])
    admin.delete_network_interface(NetworkInterfaceId=world.enis[0])
    assert (world.route(OUTSIDE)["State"], world.route(OUTSIDE)["NetworkInterfaceId"]) == ("blackhole", world.enis[0])
    refused(lambda: world.eni(0), "InvalidNetworkInterfaceID.NotFound")


def test_a_terminated_instance_leaves_blackholes_and_free_enis(world: World) -> None:
    """Row "ENI detached or deleted, instance terminated"."""
    world.create()
    primary = world.ec2.state().enis_of_instance(world.instances[0])[0].eni_id
    world.ec2.admin().terminate_instances(InstanceIds=[world.instances[0]])
    assert world.route(OUTSIDE)["State"] == "blackhole"
    assert world.eni(0)["Status"] == "available"
    assert "Attachment" not in world.eni(0)
    assert primary not in world.ec2.state().enis  # made at launch: goes with the instance
    found = world.api.describe_instances(InstanceIds=[world.instances[0]])
    assert found["Reservations"][0]["Instances"][0]["State"]["Name"] == "terminated"


def test_a_stopped_instances_route_is_a_blackhole_until_it_runs(world: World) -> None:
    world.create()
    world.ec2.admin().stop_instances(InstanceIds=[world.instances[0]])
    assert world.route(OUTSIDE)["State"] == "blackhole"
    assert world.eni(0)["Attachment"]["Status"] == "attached"
    world.ec2.admin().start_instances(InstanceIds=[world.instances[0]])
    assert world.route(OUTSIDE)["State"] == "active"


def test_delete_route(world: World) -> None:
    for destination in (OUTSIDE, OUTSIDE6):
        world.create(destination)
        world.api.delete_route(**_to(world.main_table, destination))
        assert world.route(destination) is None
        refused(lambda to=destination: world.api.delete_route(**_to(world.main_table, to)), "InvalidRoute.NotFound")


def test_destinations_are_made_canonical(world: World) -> None:
    """CreateRoute: "if you specify 100.68.0.18/18, we modify it to 100.68.0.0/18"."""
    world.create("100.68.0.18/18")
    assert world.route("100.68.0.0/18")
    world.replace("100.68.0.99/18", eni=1)
    world.create("2001:DB8:0::2/128")
    assert world.route(OUTSIDE6)


@pytest.mark.parametrize("destination", ["192.168.0.2", "192.168.0.2/33", "nonsense"])
def test_a_destination_that_is_no_cidr_is_refused(world: World, destination: str) -> None:
    message = refused(lambda: world.create(destination), "InvalidParameterValue")
    assert (
        message
        == f"Value ({destination}) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block."
    )


def test_an_ipv6_destination_in_the_ipv4_field_is_refused(world: World) -> None:
    refused(
        lambda: world.api.create_route(
            RouteTableId=world.main_table, DestinationCidrBlock=OUTSIDE6, NetworkInterfaceId=world.enis[0]
        ),
        "InvalidParameterValue",
    )


def test_both_destination_fields_at_once_are_refused(world: World) -> None:
    """One of the predecessors' faults: "IPv6: replace sent with both destination fields"."""
    refused(
        lambda: world.replace(OUTSIDE6, DestinationCidrBlock=OUTSIDE),
        "InvalidParameterCombination",
    )


@pytest.mark.parametrize("destination", ["169.254.169.254/32", "fd00:ec2::254/128"])
def test_service_addresses_cannot_be_routed(world: World, destination: str) -> None:
    refused(lambda: world.create(destination), "InvalidParameterValue")


def test_an_unknown_route_table_is_not_found(world: World) -> None:
    missing = "rtb-0123456789abcdef0"
    refused(
        lambda: world.api.create_route(**_to(missing, OUTSIDE), NetworkInterfaceId=world.enis[0]),
        "InvalidRouteTableID.NotFound",
    )
    refused(lambda: world.api.describe_route_tables(RouteTableIds=[missing]), "InvalidRouteTableID.NotFound")


def test_an_edge_table_shows_its_gateway_and_takes_no_route_out_of_the_vpc(world: World) -> None:
    admin = world.ec2.admin()
    gateway = admin.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    admin.attach_internet_gateway(InternetGatewayId=gateway, VpcId=world.vpc)
    edge = admin.create_route_table(VpcId=world.vpc)["RouteTable"]["RouteTableId"]
    admin.associate_route_table(RouteTableId=edge, GatewayId=gateway)
    (table,) = world.api.describe_route_tables(RouteTableIds=[edge])["RouteTables"]
    assert [each.get("GatewayId") for each in table["Associations"]] == [gateway]
    assert "SubnetId" not in table["Associations"][0]
    refused(
        lambda: world.api.create_route(**_to(edge, OUTSIDE), NetworkInterfaceId=world.enis[0]), "InvalidParameterValue"
    )
    world.api.create_route(RouteTableId=world.main_table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    assert world.route("0.0.0.0/0")["GatewayId"] == gateway


def test_a_subnet_has_one_route_table(world: World) -> None:
    admin = world.ec2.admin()
    first, second = (admin.create_route_table(VpcId=world.vpc)["RouteTable"]["RouteTableId"] for _ in range(2))
    admin.associate_route_table(RouteTableId=first, SubnetId=world.subnets[0])
    refused(
        lambda: admin.associate_route_table(RouteTableId=second, SubnetId=world.subnets[0]),
        "Resource.AlreadyAssociated",
    )
    assert world.ec2.state().table_of_subnet(world.subnets[0]).route_table_id == first
    assert world.ec2.state().table_of_subnet(world.subnets[1]).route_table_id == world.main_table


# Rows: addresses -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("address", ["10.10.2.50", "192.168.0.2", "10.10.1.0", "10.10.1.3", "10.10.1.255"])
def test_an_address_outside_the_subnet_or_reserved_is_refused(world: World, address: str) -> None:
    """Row "AssignPrivateIpAddresses, address outside the subnet, or reserved"."""
    refused(lambda: assign(world, 0, address), "InvalidParameterValue")
    assert address not in world.ipv4(0)


def test_an_address_on_another_eni_is_refused_without_reassignment(world: World) -> None:
    """Row "…, address on another ENI, without AllowReassignment"; for its code see `strict.may_move`."""
    other = second_eni(world)
    assign(world, 0, "10.10.1.50")
    message = refused(lambda: assign(world, other, "10.10.1.50"), "InvalidParameterValue")
    assert message == "[10.10.1.50] assigned, but move is not allowed."
    assert "10.10.1.50" in world.ipv4(0)


def test_reassignment_moves_the_address_away_from_the_other_eni(world: World) -> None:
    """Row "…, with AllowReassignment"."""
    other = second_eni(world)
    assign(world, 0, "10.10.1.50")
    answer = assign(world, other, "10.10.1.50", AllowReassignment=True)
    assert answer["AssignedPrivateIpAddresses"] == [{"PrivateIpAddress": "10.10.1.50"}]
    assert "10.10.1.50" in world.ipv4(other)
    assert "10.10.1.50" not in world.ipv4(0)


def test_a_primary_address_is_never_moved(world: World) -> None:
    """Row "…, with AllowReassignment": a primary address."""
    other = second_eni(world)
    primary = world.ipv4(0)[0]
    refused(lambda: assign(world, other, primary, AllowReassignment=True), "InvalidParameterValue")
    assert primary in world.ipv4(0)


def test_assigning_what_the_eni_has_changes_nothing(world: World) -> None:
    assign(world, 0, "10.10.1.50")
    before = world.ipv4(0)
    assign(world, 0, "10.10.1.50")
    assert world.ipv4(0) == before


def test_more_addresses_than_the_instance_type_allows_are_refused(world: World) -> None:
    """Row "…, more addresses than the instance type allows per ENI": the primary one counts."""
    assign(world, 0, "10.10.1.50", "10.10.1.51", "10.10.1.52")
    refused(lambda: assign(world, 0, "10.10.1.53"), "PrivateIpAddressLimitExceeded")
    addresses = [world.ipv6_address(number) for number in (50, 51, 52, 53)]
    world.api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[0], Ipv6Addresses=addresses[:3])
    refused(
        lambda: world.api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[0], Ipv6Addresses=addresses[3:]),
        "PrivateIpAddressLimitExceeded",
    )


def test_addresses_by_count_are_free_ones(world: World) -> None:
    answer = world.api.assign_private_ip_addresses(NetworkInterfaceId=world.enis[0], SecondaryPrivateIpAddressCount=2)
    given = [each["PrivateIpAddress"] for each in answer["AssignedPrivateIpAddresses"]]
    assert world.ipv4(0)[1:] == given
    assert all(ip_address(each) in IPv4Network("10.10.1.0/24") for each in given)
    held = [address for eni in world.ec2.state().enis.values() for address in eni.addresses if eni.vpc_id == world.vpc]
    assert len(held) == len(set(held))


def test_unassigning_an_address_that_is_not_on_the_eni_is_refused(world: World) -> None:
    """Row "UnassignPrivateIpAddresses of an address not on that ENI"."""
    assign(world, 0, "10.10.1.50")

    def unassign(*addresses: str) -> None:
        world.api.unassign_private_ip_addresses(NetworkInterfaceId=world.enis[0], PrivateIpAddresses=list(addresses))

    refused(lambda: unassign("10.10.1.50", "10.10.1.51"), "InvalidParameterValue")
    assert "10.10.1.50" in world.ipv4(0)  # all or nothing
    refused(lambda: unassign(world.ipv4(0)[0]), "InvalidParameterValue")  # nor the primary
    unassign("10.10.1.50")
    assert "10.10.1.50" not in world.ipv4(0)


def test_an_ipv6_address_held_elsewhere_must_be_unassigned_first(world: World) -> None:
    """Row "AssignIpv6Addresses of an address held elsewhere"."""
    other = second_eni(world)
    address = world.ipv6_address(50)
    api = world.api
    answer = api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[0], Ipv6Addresses=[address])
    assert answer["AssignedIpv6Addresses"] == [address]
    refused(
        lambda: api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[other], Ipv6Addresses=[address]),
        "InvalidIPAddress.InUse",
    )
    answer = api.unassign_ipv6_addresses(NetworkInterfaceId=world.enis[0], Ipv6Addresses=[address])
    assert answer["UnassignedIpv6Addresses"] == [address]
    api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[other], Ipv6Addresses=[address])
    assert (world.ipv6(0), world.ipv6(other)) == ([], [address])


def test_unassigning_an_ipv6_address_that_is_not_on_the_eni_is_refused(world: World) -> None:
    refused(
        lambda: world.api.unassign_ipv6_addresses(
            NetworkInterfaceId=world.enis[0], Ipv6Addresses=[world.ipv6_address(50)]
        ),
        "InvalidParameterValue",
    )


def test_an_ipv6_address_outside_the_subnet_is_refused(world: World) -> None:
    for address in ("2001:db8::2", world.ipv6_address(1)):
        refused(
            lambda address=address: world.api.assign_ipv6_addresses(
                NetworkInterfaceId=world.enis[0], Ipv6Addresses=[address]
            ),
            "InvalidParameterValue",
        )


def elastic_ip(world: World) -> str:
    return str(world.ec2.admin().allocate_address(Domain="vpc")["AllocationId"])


def test_associate_address_binds_to_the_private_address(world: World) -> None:
    """Row "AssociateAddress with PrivateIpAddress"."""
    allocation = elastic_ip(world)
    assign(world, 0, "10.10.1.50")
    binding = {"AllocationId": allocation, "NetworkInterfaceId": world.enis[0], "PrivateIpAddress": "10.10.1.50"}
    association = world.api.associate_address(**binding)["AssociationId"]
    (described,) = world.api.describe_addresses(AllocationIds=[allocation])["Addresses"]
    assert (described["PrivateIpAddress"], described["AssociationId"]) == ("10.10.1.50", association)
    primary, secondary = world.eni(0)["PrivateIpAddresses"]
    assert "Association" not in primary
    assert secondary["Association"]["AllocationId"] == allocation


def test_associate_address_of_an_address_that_is_not_on_the_eni_is_refused(world: World) -> None:
    """Row "AssociateAddress with PrivateIpAddress": it must be on the ENI."""
    refused(
        lambda: world.api.associate_address(
            AllocationId=elastic_ip(world), NetworkInterfaceId=world.enis[0], PrivateIpAddress="10.10.1.99"
        ),
        "InvalidParameterValue",
    )


def test_an_associated_elastic_ip_moves_only_with_reassociation(world: World) -> None:
    """Row "AssociateAddress without AllowReassociation on an associated EIP"."""
    allocation = elastic_ip(world)
    world.api.associate_address(AllocationId=allocation, NetworkInterfaceId=world.enis[0])
    move = {"AllocationId": allocation, "NetworkInterfaceId": world.enis[1]}
    refused(lambda: world.api.associate_address(**move, AllowReassociation=False), "Resource.AlreadyAssociated")
    assert world.eni(0)["Association"]["AllocationId"] == allocation
    world.api.associate_address(**move, AllowReassociation=True)
    assert "Association" not in world.eni(0)
    assert world.eni(1)["Association"]["AllocationId"] == allocation


def test_a_moved_address_takes_its_elastic_ip_along_and_an_unassigned_one_loses_it(world: World) -> None:
    """AssignPrivateIpAddresses: "any Elastic IP address that is associated … is also moved"."""
    other = second_eni(world)
    allocation = elastic_ip(world)
    assign(world, 0, "10.10.1.50")
    world.api.associate_address(
        AllocationId=allocation, NetworkInterfaceId=world.enis[0], PrivateIpAddress="10.10.1.50"
    )
    assign(world, other, "10.10.1.50", AllowReassignment=True)
    (described,) = world.api.describe_addresses(AllocationIds=[allocation])["Addresses"]
    assert (described["NetworkInterfaceId"], described["PrivateIpAddress"]) == (world.enis[other], "10.10.1.50")
    world.api.unassign_private_ip_addresses(NetworkInterfaceId=world.enis[other], PrivateIpAddresses=["10.10.1.50"])
    (described,) = world.api.describe_addresses(AllocationIds=[allocation])["Addresses"]
    assert "AssociationId" not in described


def test_source_dest_check_is_on_until_it_is_turned_off(world: World) -> None:
    """Row "source/dest check on (the default)": the flag; what it does is the router's."""
    assert world.eni(0)["SourceDestCheck"] is True
    world.api.modify_network_interface_attribute(NetworkInterfaceId=world.enis[0], SourceDestCheck={"Value": False})
    assert world.eni(0)["SourceDestCheck"] is False
    assert world.ec2.state().enis[world.enis[0]].source_dest_check is False


# Rows: describes -----------------------------------------------------------------------------------------------------


def found(world: World, **filters: str | list[str]) -> set[str]:
    """The ENIs that match; a filter's dashes and dots are written `_` and `__`."""
    asked = [
        {"Name": name.replace("__", ".").replace("_", "-"), "Values": [value] if isinstance(value, str) else value}
        for name, value in filters.items()
    ]
    answer = world.api.describe_network_interfaces(Filters=asked)
    return {each["NetworkInterfaceId"] for each in answer["NetworkInterfaces"]}


def test_address_filters_match_secondary_and_ipv6_addresses(world: World) -> None:
    """Row "DescribeNetworkInterfaces filters"."""
    assign(world, 0, "10.10.1.50")
    address = world.ipv6_address(50)
    world.api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[0], Ipv6Addresses=[address])
    only = {world.enis[0]}
    assert found(world, addresses__private_ip_address="10.10.1.50") == only
    assert found(world, private_ip_address=world.ipv4(0)[0]) == only
    answer = world.api.describe_network_interfaces(
        Filters=[{"Name": "ipv6-addresses.ipv6-address", "Values": [address]}]
    )
    assert [each["NetworkInterfaceId"] for each in answer["NetworkInterfaces"]] == [world.enis[0]]


def test_filters_of_enis(world: World) -> None:
    mac = world.eni(0)["MacAddress"]
    first, second = world.enis
    assert found(world, mac_address=mac) == {first}
    assert found(world, mac_address=[mac, world.eni(1)["MacAddress"]]) == {first, second}
    assert found(world, subnet_id=world.subnets[1], attachment__instance_id=world.instances[1]) >= {second}
    assert found(world, vpc_id=world.vpc, status="in-use") >= {first, second}
    assert found(world, network_interface_id=first, vpc_id="vpc-nothing") == set()
    assert found(world, attachment__status="attached", attachment__device_index="1") == {first, second}
    world.ec2.admin().create_tags(Resources=[first], Tags=[{"Key": "role", "Value": "a*b"}])
    for name, value in [("tag:role", "a*"), ("tag:role", "a\\*b"), ("tag-key", "rol?"), ("tag:role", "a?b")]:
        answer = world.api.describe_network_interfaces(Filters=[{"Name": name, "Values": [value]}])
        assert [each["NetworkInterfaceId"] for each in answer["NetworkInterfaces"]] == [first], (name, value)
    answer = world.api.describe_network_interfaces(Filters=[{"Name": "tag:role", "Values": ["A*", "b"]}])
    assert answer["NetworkInterfaces"] == []


def test_filters_of_route_tables(world: World) -> None:
    admin = world.ec2.admin()
    other = admin.create_route_table(VpcId=world.vpc)["RouteTable"]["RouteTableId"]
    admin.associate_route_table(RouteTableId=other, SubnetId=world.subnets[0])
    admin.create_tags(Resources=[other], Tags=[{"Key": "vipmanager", "Value": "yes"}])
    world.create()

    def tables(name: str, *values: str) -> set[str]:
        asked = [{"Name": name, "Values": list(values)}, {"Name": "vpc-id", "Values": [world.vpc]}]
        return {each["RouteTableId"] for each in world.api.describe_route_tables(Filters=asked)["RouteTables"]}

    main = world.main_table
    assert tables("vpc-id", world.vpc) == {main, other}
    assert tables("route-table-id", other) == {other}
    assert tables("association.main", "true") == {main}
    assert tables("association.subnet-id", world.subnets[0]) == {other}
    assert tables("tag:vipmanager", "yes") == tables("tag-key", "vipmanager") == {other}
    assert tables("route.destination-cidr-block", OUTSIDE) == {main}
    assert tables("route.gateway-id", "local") == {main, other}
    assert tables("route.state", "active") == {main, other}


@pytest.mark.parametrize(
    "call", ["describe_route_tables", "describe_network_interfaces", "describe_subnets", "describe_vpcs"]
)
def test_an_unknown_filter_is_refused(world: World, call: str) -> None:
    asked = [{"Name": "route.network-interface-id", "Values": ["eni-1"]}]
    message = refused(lambda: getattr(world.api, call)(Filters=asked), "InvalidParameterValue")
    assert message == "The filter 'route.network-interface-id' is invalid"


def test_a_filter_takes_two_hundred_values(world: World) -> None:
    values = [f"10.10.9.{number}" for number in range(201)]
    assert found(world, private_ip_address=values[:200]) == set()
    refused(lambda: found(world, private_ip_address=values), "FilterLimitExceeded")


def test_ids_that_do_not_exist_are_not_found(world: World) -> None:
    api = world.api
    refused(lambda: api.describe_subnets(SubnetIds=["subnet-nothing"]), "InvalidSubnetID.NotFound")
    refused(lambda: api.describe_vpcs(VpcIds=["vpc-nothing"]), "InvalidVpcID.NotFound")
    refused(
        lambda: api.describe_network_interfaces(NetworkInterfaceIds=["eni-nothing"]),
        "InvalidNetworkInterfaceID.NotFound",
    )


def test_describes_parse_into_what_ec2_gives(world: World) -> None:
    account = world.ec2.account_id
    table = world.table()
    assert (table["VpcId"], table["OwnerId"], table["Tags"]) == (world.vpc, account, [])
    (association,) = table["Associations"]
    assert association.pop("RouteTableAssociationId").startswith("rtbassoc-")
    assert association == {
        "Main": True,
        "RouteTableId": world.main_table,
        "AssociationState": {"State": "associated"},
    }
    assert world.route("10.10.0.0/16") == {
        "DestinationCidrBlock": "10.10.0.0/16",
        "GatewayId": "local",
        "Origin": "CreateRouteTable",
        "State": "active",
    }
    eni = world.eni(0)
    assert {
        key: eni[key] for key in ("SubnetId", "VpcId", "Status", "OwnerId", "AvailabilityZone", "SourceDestCheck")
    } == {
        "SubnetId": world.subnets[0],
        "VpcId": world.vpc,
        "Status": "in-use",
        "OwnerId": account,
        "AvailabilityZone": "us-east-2a",
        "SourceDestCheck": True,
    }
    attachment = eni["Attachment"]
    assert (
        attachment["DeviceIndex"],
        attachment["InstanceId"],
        attachment["Status"],
        attachment["InstanceOwnerId"],
    ) == (
        1,
        world.instances[0],
        "attached",
        account,
    )
    assert eni["PrivateIpAddresses"] == [{"PrivateIpAddress": eni["PrivateIpAddress"], "Primary": True}]
    assert eni["Groups"][0]["GroupName"] == "default"
    (subnet,) = world.api.describe_subnets(SubnetIds=world.subnets[:1])["Subnets"]
    assert (subnet["CidrBlock"], subnet["AvailabilityZone"]) == ("10.10.1.0/24", "us-east-2a")
    assert subnet["AvailableIpAddressCount"] == 256 - 5 - 2
    assert subnet["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"].endswith("::/64")
    (vpc,) = world.api.describe_vpcs(VpcIds=[world.vpc])["Vpcs"]
    assert vpc["CidrBlockAssociationSet"][0]["CidrBlock"] == "10.10.0.0/16"
    assert vpc["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"].endswith("::/56")


def test_route_tables_come_a_hundred_a_page_even_unasked(world: World) -> None:
    """Row "DescribeRouteTables, …": paged."""
    admin = world.ec2.admin()
    wanted = {world.main_table} | {
        admin.create_route_table(VpcId=world.vpc)["RouteTable"]["RouteTableId"] for _ in range(104)
    }
    asked = [{"Name": "vpc-id", "Values": [world.vpc]}]
    first = world.api.describe_route_tables(Filters=asked)
    assert len(first["RouteTables"]) == 100
    second = world.api.describe_route_tables(Filters=asked, NextToken=first["NextToken"])
    assert "NextToken" not in second
    assert {each["RouteTableId"] for each in first["RouteTables"] + second["RouteTables"]} == wanted
    pages = world.api.get_paginator("describe_route_tables").paginate(Filters=asked, MaxResults=20)
    assert [len(page["RouteTables"]) for page in pages] == [20, 20, 20, 20, 20, 5]


def test_pages_can_be_made_small(world: World) -> None:
    """Row "DescribeRouteTables, …": the page size is settable."""
    world.ec2.page_size = 1
    for call, key in [("describe_network_interfaces", "NetworkInterfaces"), ("describe_subnets", "Subnets")]:
        pages = list(world.api.get_paginator(call).paginate(Filters=[{"Name": "vpc-id", "Values": [world.vpc]}]))
        assert [len(page[key]) for page in pages] == [1] * len(pages)
        assert len(pages) > 1
    refused(lambda: world.api.describe_subnets(NextToken="nonsense"), "InvalidNextToken")
    refused(lambda: world.api.describe_route_tables(MaxResults=101), "InvalidParameterValue")


def test_reads_can_lag_behind_writes(world: World) -> None:
    """Row "reads after writes"."""
    world.ec2.lag = 0.3
    until(lambda: _works(world.table))  # until then the table itself is not visible
    world.create()
    written = time.monotonic()
    assert world.route(OUTSIDE) is None
    refused(world.create, "RouteAlreadyExists")  # writes do not lag
    until(lambda: world.route(OUTSIDE) is not None)
    assert time.monotonic() - written >= 0.3
    world.ec2.lag = 0.0
    world.api.delete_route(**_to(world.main_table, OUTSIDE))
    assert world.route(OUTSIDE) is None


def until(condition: Callable[[], bool], bound: float = 5.0) -> None:
    """Wait for the condition, at most `bound` seconds."""
    end = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


# Rows: every call ----------------------------------------------------------------------------------------------------


def test_dry_run_tells_whether_and_changes_nothing(world: World) -> None:
    """Row "DryRun=True"."""
    refused(lambda: world.create(DryRun=True), "DryRunOperation", 412)
    assert world.route(OUTSIDE) is None
    world.ec2.faults.deny("ec2:CreateRoute")
    refused(lambda: world.create(DryRun=True), "UnauthorizedOperation", 403)


def test_too_many_calls_are_throttled_by_action(world: World) -> None:
    """Row "too many calls": a token bucket for each action, refilled with time."""
    world.create()
    world.ec2.faults.throttle("*Route", bucket=2, refill=10.0)
    world.replace()
    world.replace()
    refused(world.replace, "RequestLimitExceeded", 503)
    world.create("192.168.0.3/32")  # another action has a bucket of its own
    world.table()  # and this one none
    until(lambda: _works(world.replace))


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except ClientError:
        return False
    return True


# Credentials ---------------------------------------------------------------------------------------------------------


def test_unknown_keys_are_refused(world: World) -> None:
    stranger = client(world.ec2, keys=world.ec2.keys.add_user("stranger"))
    stranger.describe_vpcs()
    world.ec2.keys.forget(stranger._request_signer._credentials.access_key)
    refused(stranger.describe_vpcs, "AuthFailure", 401)


def test_expired_keys_are_refused(world: World) -> None:
    session = world.ec2.keys.add_role_session("node", "i-1", lifetime=60)
    api = client(world.ec2, keys=session)
    api.describe_vpcs()
    world.ec2.keys.expire(session.access_key)
    refused(api.describe_vpcs, "RequestExpired")


def test_unsigned_requests_are_refused(world: World) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", world.ec2.port)
    connection.request("POST", "/", "Action=DescribeVpcs&Version=2016-11-15")
    answer = connection.getresponse()
    body = answer.read().decode()
    assert answer.status == 403
    assert "<Response><Errors><Error><Code>MissingAuthenticationToken</Code>" in body
    assert body.endswith("</RequestID></Response>")
    connection.close()


def test_an_assumed_roles_keys_work_and_are_its_own(world: World) -> None:
    """A role for route tables in another account: `RouteTableRole`."""
    sts = client(world.ec2, "sts")
    assert sts.get_caller_identity()["Arn"] == world.ec2.keys.base.principal
    role = "arn:aws:iam::210987654321:role/route-writer"
    answer = sts.assume_role(RoleArn=role, RoleSessionName="pod-1", DurationSeconds=900)
    assert answer["AssumedRoleUser"]["Arn"] == "arn:aws:sts::210987654321:assumed-role/route-writer/pod-1"
    made = answer["Credentials"]
    keys = type(world.ec2.keys.base)(
        made["AccessKeyId"], made["SecretAccessKey"], "", "", made["SessionToken"], made["Expiration"]
    )
    identity = client(world.ec2, "sts", keys).get_caller_identity()
    assert (identity["Account"], identity["Arn"]) == ("210987654321", answer["AssumedRoleUser"]["Arn"])
    world.ec2.faults.deny("ec2:*Route", access_key=world.ec2.keys.base.access_key)
    refused(world.create, "UnauthorizedOperation", 403)
    client(world.ec2, keys=keys).create_route(**_to(world.main_table, OUTSIDE), NetworkInterfaceId=world.enis[0])
    assert world.route(OUTSIDE)["NetworkInterfaceId"] == world.enis[0]
    world.ec2.faults.deny("sts:AssumeRole")
    message = refused(lambda: sts.assume_role(RoleArn=role, RoleSessionName="pod-1"), "AccessDenied", 403)
    assert message.startswith(f"User: {world.ec2.keys.base.principal} is not authorized to perform: sts:AssumeRole")
    refused(
        lambda: client(world.ec2, "sts", world.ec2.keys.add_role_session("x", "y", lifetime=-1)).get_caller_identity(),
        "RequestExpired",
    )


def test_a_web_identity_needs_no_signature(world: World) -> None:
    """IAM roles for service accounts: AssumeRoleWithWebIdentity is not signed."""
    answer = client(world.ec2, "sts").assume_role_with_web_identity(
        RoleArn="arn:aws:iam::123456789012:role/pod", RoleSessionName="pod", WebIdentityToken="eyJ0b2tlbiI6"
    )
    assert answer["Credentials"]["AccessKeyId"]
    assert world.ec2.calls[-1].access_key is None


# Faults --------------------------------------------------------------------------------------------------------------


def test_a_denied_call_names_principal_action_and_resource(world: World) -> None:
    faults = world.ec2.faults
    world.create()
    faults.deny("ec2:ReplaceRoute", "ec2:DescribeVpcs")
    message = refused(world.replace, "UnauthorizedOperation", 403)
    table = f"arn:aws:ec2:us-east-2:{world.ec2.account_id}:route-table/{world.main_table}"
    assert message == (
        "You are not authorized to perform this operation. "
        f"User: {world.ec2.keys.base.principal} is not authorized to perform: ec2:ReplaceRoute on resource: {table} "
        "because no identity-based policy allows the ec2:ReplaceRoute action"
    )
    assert "on resource" not in refused(world.api.describe_vpcs, "UnauthorizedOperation", 403)
    faults.allow_all()
    world.replace()


def test_the_next_calls_fail_before_they_are_applied(world: World) -> None:
    faults = world.ec2.faults
    faults.fail("CreateRoute", times=2)
    faults.fail("CreateRoute", "InternalError", status=500, when=lambda params: "DestinationIpv6CidrBlock" in params)
    refused(world.create, "Unavailable", 503)
    refused(world.create, "Unavailable", 503)
    assert world.route(OUTSIDE) is None
    world.create()
    refused(lambda: world.create(OUTSIDE6), "InternalError", 500)
    world.create(OUTSIDE6)


def test_an_answer_can_be_lost_after_the_call_is_applied(world: World) -> None:
    world.ec2.faults.fail_after("CreateRoute")
    with pytest.raises((ConnectionError, ConnectionClosedError)):
        world.create()
    assert world.route(OUTSIDE)
    assert (world.ec2.calls[0].action, world.ec2.calls[0].status) == ("CreateRoute", 0)


def test_a_connection_can_be_reset_before_the_call_is_applied(world: World) -> None:
    world.ec2.faults.reset("CreateRoute")
    with pytest.raises((ConnectionError, ConnectionClosedError)):
        world.create()
    assert world.route(OUTSIDE) is None
    world.create()


def test_an_answer_can_be_late(world: World) -> None:
    world.ec2.faults.hang("CreateRoute", seconds=0.2)
    started = time.monotonic()
    world.create()
    assert time.monotonic() - started >= 0.2
    world.create(OUTSIDE6)
    assert time.monotonic() - started < 2


def test_an_unreachable_endpoint_never_answers(world: World) -> None:
    impatient = client(world.ec2, read_timeout=0.2, connect_timeout=0.2)
    world.ec2.faults.block()
    with pytest.raises(ReadTimeoutError):
        impatient.create_route(**_to(world.main_table, OUTSIDE), NetworkInterfaceId=world.enis[0])
    world.ec2.faults.unblock()
    until(lambda: bool(world.ec2.calls))
    assert world.route(OUTSIDE) is None  # what was sent while it was blocked is lost
    world.create()


def test_a_race_can_be_made_just_before_a_call_is_applied(world: World) -> None:
    """Somebody creates the route between our describe and our create."""
    seen: list[dict[str, str]] = []

    def meanwhile(params: Any) -> None:
        seen.append(dict(params))
        world.ec2.admin().create_route(**_to(world.main_table, OUTSIDE), NetworkInterfaceId=world.enis[1])

    world.ec2.faults.before("CreateRoute", meanwhile)
    refused(world.create, "RouteAlreadyExists")
    assert world.route(OUTSIDE)["NetworkInterfaceId"] == world.enis[1]
    assert seen[0]["DestinationCidrBlock"] == OUTSIDE


def test_cleared_faults_are_gone(world: World) -> None:
    faults = world.ec2.faults
    faults.deny("ec2:*")
    faults.fail("*", times=None)
    faults.throttle("*", bucket=0, refill=0.001)
    refused(world.table, "Unavailable", 503)
    faults.clear()
    world.table()


def test_latency_is_spent_around_the_call_and_in_parallel(world: World) -> None:
    world.ec2.latency = 0.2
    mark, started = world.ec2.mark(), time.monotonic()
    threads = [threading.Thread(target=world.create, args=(f"192.168.9.{number}/32",)) for number in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: time.monotonic() - started > 0.05)
    assert len(world.ec2.state().route_tables[world.main_table].routes) == 2  # not applied before half of it
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 0.55
    calls = world.ec2.calls_since(mark, "CreateRoute")
    assert len(calls) == 3
    assert all(call.finished - call.started >= 0.2 for call in calls)
    world.ec2.faults.deny("ec2:CreateRoute")
    mark = world.ec2.mark()
    refused(world.create, "UnauthorizedOperation", 403)
    (call,) = world.ec2.calls_since(mark)
    assert call.finished - call.started >= 0.2  # a refusal is no faster


# The rest of it ------------------------------------------------------------------------------------------------------


def test_calls_are_recorded_and_admins_are_not(world: World) -> None:
    assert world.ec2.calls == []
    world.create()
    refused(world.create, "RouteAlreadyExists")
    first, second = world.ec2.calls
    assert (first.service, first.action, first.status, first.error) == ("ec2", "CreateRoute", 200, None)
    assert first.params == {
        "RouteTableId": world.main_table,
        "DestinationCidrBlock": OUTSIDE,
        "NetworkInterfaceId": world.enis[0],
    }
    assert first.access_key == world.ec2.keys.base.access_key
    assert first.started <= first.finished <= second.started
    assert (second.status, second.error) == (400, "RouteAlreadyExists")


def test_each_change_is_told_with_the_new_state(world: World) -> None:
    states: list[VpcState] = [world.ec2.state()]
    world.ec2.on_change(states.append)
    world.create()
    refused(world.create, "RouteAlreadyExists")
    world.table()
    world.replace(eni=1)
    assign(world, 0, "10.10.1.50")
    assert [state.version - states[0].version for state in states] == [0, 1, 2, 3]
    before, created, replaced, assigned = states
    table = world.main_table
    assert len(before.route_tables[table].routes) + 1 == len(created.route_tables[table].routes)
    assert replaced.route_tables[table].routes[-1].target == world.enis[1]
    assert created.route_tables[table].routes[-1].target == world.enis[0]  # states never change
    assert assigned.route_tables is replaced.route_tables  # and keep what is the same
    assert assigned.enis[world.enis[1]] is before.enis[world.enis[1]]


def test_a_connection_is_kept_alive(world: World) -> None:
    """Ten calls of one client: one connection."""
    accepted: list[object] = []
    server = world.ec2._servers[0]
    original = server.process_request

    def counting(connection: Any, address: Any) -> None:
        accepted.append(address)
        original(connection, address)

    server.process_request = counting  # type: ignore[method-assign]
    for number in range(5):
        world.table()
        refused(lambda: world.replace(OUTSIDE), "InvalidParameterValue")
        world.ec2.latency = number / 1000
    assert len(accepted) == 1


def test_an_action_that_nobody_implements_is_invalid(world: World) -> None:
    refused(lambda: world.api.describe_ipams(), "InvalidAction")
    connection = world.api.meta.events
    connection.register("before-call.ec2.DescribeVpcs", lambda params, **_: params["body"].update(Action="MakeTea"))
    refused(world.api.describe_vpcs, "InvalidAction")


def test_what_moto_answers_keeps_ec2s_errors(world: World) -> None:
    refused(lambda: world.api.describe_instances(InstanceIds=["i-0123456789abcdef0"]), "InvalidInstanceID.NotFound")
    refused(
        lambda: world.api.associate_route_table(RouteTableId=world.main_table, SubnetId="subnet-0"),
        "InvalidSubnetID.NotFound",
    )


def test_attaching_what_is_attached_or_elsewhere_is_refused(world: World) -> None:
    admin = world.ec2.admin()
    made = admin.create_network_interface(SubnetId=world.subnets[0])["NetworkInterface"]["NetworkInterfaceId"]

    def attach(eni: str, instance: int, index: int) -> None:
        admin.attach_network_interface(NetworkInterfaceId=eni, InstanceId=world.instances[instance], DeviceIndex=index)

    refused(lambda: attach(world.enis[0], 0, 2), "InvalidNetworkInterface.InUse")
    refused(lambda: attach(made, 0, 1), "InvalidParameterValue")  # the device index is taken
    refused(lambda: attach(made, 1, 2), "InvalidParameterValue")  # another Availability Zone
    attach(made, 0, 2)
    primary = world.ec2.state().enis_of_instance(world.instances[0])[0].attachment
    refused(lambda: admin.detach_network_interface(AttachmentId=primary.attachment_id), "OperationNotPermitted")


def test_new_enis_hold_what_was_asked_for(world: World) -> None:
    admin = world.ec2.admin()
    ipv6 = world.ipv6_address(77)
    made = admin.create_network_interface(
        SubnetId=world.subnets[0],
        PrivateIpAddress="10.10.1.77",
        SecondaryPrivateIpAddressCount=2,
        Ipv6Addresses=[{"Ipv6Address": ipv6}],
        TagSpecifications=[{"ResourceType": "network-interface", "Tags": [{"Key": "Name", "Value": "<&>"}]}],
    )["NetworkInterface"]["NetworkInterfaceId"]
    (eni,) = world.api.describe_network_interfaces(NetworkInterfaceIds=[made])["NetworkInterfaces"]
    assert eni["PrivateIpAddress"] == "10.10.1.77"
    assert len(eni["PrivateIpAddresses"]) == 3
    assert eni["Ipv6Addresses"][0]["Ipv6Address"] == ipv6
    assert eni["TagSet"] == [{"Key": "Name", "Value": "<&>"}]
    refused(
        lambda: admin.create_network_interface(SubnetId=world.subnets[0], PrivateIpAddress="10.10.1.77"),
        "InvalidIPAddress.InUse",
    )


def test_two_labs_do_not_see_each_other(world: World) -> None:
    with LabEc2() as other:
        assert other.account_id != world.ec2.account_id
        assert world.vpc not in other.state().vpcs


def test_closing_ends_what_waits() -> None:
    ec2 = LabEc2()
    ec2.serve("127.0.0.1")
    api = client(ec2)
    ec2.faults.block()
    waiting = threading.Thread(target=lambda: _ignore(api.describe_vpcs))
    waiting.start()
    ec2.close()
    ec2.close()
    waiting.join(5)
    assert not waiting.is_alive()


def _ignore(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # whatever a client makes of a dropped connection
        return
