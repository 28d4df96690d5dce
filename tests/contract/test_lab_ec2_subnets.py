"""The lab's EC2: subnets that come and go, and the CIDRs of a VPC they lie in."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.lab_world import World, refused, until

NEW = "10.99.0.0/24"  # in no CIDR of the VPC
LONG = 60.0  # seconds that are not over during a test


def create(world: World, cidr: str, **more: Any) -> dict[str, Any]:
    return world.api.create_subnet(VpcId=world.vpc, CidrBlock=cidr, AvailabilityZone="us-east-2a", **more)["Subnet"]


def associate(world: World, cidr: str = NEW) -> dict[str, Any]:
    return world.api.associate_vpc_cidr_block(VpcId=world.vpc, CidrBlock=cidr)["CidrBlockAssociation"]


def cidrs(world: World) -> dict[str, str]:
    """The VPC's IPv4 CIDRs with their states."""
    vpc = world.api.describe_vpcs(VpcIds=[world.vpc])["Vpcs"][0]
    return {each["CidrBlock"]: each["CidrBlockState"]["State"] for each in vpc["CidrBlockAssociationSet"]}


def local_in_all_tables(world: World, cidr: str) -> bool:
    """Whether the CIDR is a local route: of all tables, or else of none."""
    tables = world.api.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [world.vpc]}])["RouteTables"]
    routes = [[each for each in table["Routes"] if each.get("DestinationCidrBlock") == cidr] for table in tables]
    assert all(routes) or not any(routes)
    assert all(each["GatewayId"] == "local" for found in routes for each in found)
    return all(routes)


# Subnets --------------------------------------------------------------------------------------------------------------


def test_a_new_subnet_has_its_tags_and_the_main_table(world: World) -> None:
    tags = [{"Key": "vipmanager/floating", "Value": "10.10.7.7"}]
    made = create(world, "10.10.7.0/28", TagSpecifications=[{"ResourceType": "subnet", "Tags": tags}])
    by_tag = [{"Name": "tag:vipmanager/floating", "Values": ["10.10.7.7"]}]
    (shown,) = world.api.describe_subnets(Filters=by_tag)["Subnets"]
    assert (shown["SubnetId"], shown["CidrBlock"], shown["Tags"]) == (made["SubnetId"], "10.10.7.0/28", tags)
    assert shown["AvailabilityZone"] == "us-east-2a"
    table = world.ec2.state().table_of_subnet(made["SubnetId"])
    assert table is not None
    assert table.route_table_id == world.main_table


def test_a_cidr_is_made_canonical(world: World) -> None:
    assert create(world, "10.10.7.9/28")["CidrBlock"] == "10.10.7.0/28"


@pytest.mark.parametrize(
    ("cidr", "code"),
    [
        pytest.param(NEW, "InvalidSubnet.Range", id="outside of the VPC"),
        pytest.param("10.10.0.0/15", "InvalidSubnet.Range", id="larger than the VPC"),
        pytest.param("10.10.7.0/29", "InvalidSubnet.Range", id="too small"),
        pytest.param("10.10.1.0/24", "InvalidSubnet.Conflict", id="the same as another"),
        pytest.param("10.10.1.128/25", "InvalidSubnet.Conflict", id="in another"),
        pytest.param("10.10.0.0/23", "InvalidSubnet.Conflict", id="around another"),
        pytest.param("10.10.7.0", "InvalidParameterValue", id="no CIDR"),
    ],
)
def test_a_subnet_that_cannot_be_is_not_made(world: World, cidr: str, code: str) -> None:
    before = world.ec2.state().subnets.keys()
    refused(lambda: create(world, cidr), code)
    assert world.ec2.state().subnets.keys() == before


def test_ipv6_cidrs_have_the_same_rules(world: World) -> None:
    held = str(world.ec2.state().subnets[world.subnets[0]].ipv6_cidrs[0][1])
    refused(lambda: create(world, "10.10.7.0/24", Ipv6CidrBlock=held), "InvalidSubnet.Conflict")
    refused(lambda: create(world, "10.10.7.0/24", Ipv6CidrBlock="2001:db8::/64"), "InvalidSubnet.Range")


def test_a_subnet_is_deleted_only_when_it_is_empty(world: World) -> None:
    admin = world.ec2.admin()
    subnet = create(world, "10.10.7.0/28")["SubnetId"]
    eni = admin.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    refused(lambda: world.api.delete_subnet(SubnetId=subnet), "DependencyViolation")
    admin.delete_network_interface(NetworkInterfaceId=eni)
    world.api.delete_subnet(SubnetId=subnet)
    refused(lambda: world.api.delete_subnet(SubnetId=subnet), "InvalidSubnetID.NotFound")
    assert create(world, "10.10.7.0/28")["SubnetId"] != subnet  # in another zone it might be now


def test_a_deleted_subnets_association_goes_along(world: World) -> None:
    admin = world.ec2.admin()
    subnet = create(world, "10.10.7.0/28")["SubnetId"]
    table = admin.create_route_table(VpcId=world.vpc)["RouteTable"]["RouteTableId"]
    admin.associate_route_table(RouteTableId=table, SubnetId=subnet)
    world.api.delete_subnet(SubnetId=subnet)
    assert world.ec2.state().route_tables[table].associations == ()


# CIDRs of the VPC -----------------------------------------------------------------------------------------------------


def test_associating_a_cidr_takes_its_time(world: World) -> None:
    world.ec2.admin().create_route_table(VpcId=world.vpc)
    world.ec2.cidr_delay = LONG
    made = associate(world)
    assert (made["CidrBlock"], made["CidrBlockState"]["State"]) == (NEW, "associating")
    assert cidrs(world) == {"10.10.0.0/16": "associated", NEW: "associating"}
    assert not local_in_all_tables(world, NEW)
    refused(lambda: create(world, NEW), "InvalidSubnet.Range")  # not yet
    world.ec2.hurry()
    until(lambda: cidrs(world)[NEW] == "associated")
    assert local_in_all_tables(world, NEW)
    assert create(world, NEW)["CidrBlock"] == NEW


def test_a_table_made_meanwhile_has_the_route_when_the_others_have(world: World) -> None:
    world.ec2.cidr_delay = LONG
    associate(world)
    world.ec2.admin().create_route_table(VpcId=world.vpc)
    assert not local_in_all_tables(world, NEW)


def test_filters_on_associations(world: World) -> None:
    def matching(name: str, value: str) -> bool:
        asked = [{"Name": f"cidr-block-association.{name}", "Values": [value]}]
        return [each["VpcId"] for each in world.api.describe_vpcs(Filters=asked)["Vpcs"]] == [world.vpc]

    assert not matching("state", "associating")
    world.ec2.cidr_delay = LONG
    associate(world)
    assert matching("state", "associating")
    assert matching("cidr-block", NEW)


@pytest.mark.parametrize(
    "cidr",
    [
        pytest.param("10.10.0.0/16", id="the same as another"),
        pytest.param("10.10.7.0/24", id="in another"),
        pytest.param("10.99.0.0/23", id="around one that is being associated"),
        pytest.param("10.0.0.0/8", id="too large"),
        pytest.param("10.98.0.0/29", id="too small"),
        pytest.param("192.168.0.0/24", id="around a route's destination"),
    ],
)
def test_a_cidr_that_cannot_be_is_not_associated(world: World, cidr: str) -> None:
    world.ec2.cidr_delay = LONG
    associate(world)
    world.create("192.168.0.2/32")
    refused(lambda: associate(world, cidr), "InvalidVpc.Range")
    assert cidrs(world).keys() == {"10.10.0.0/16", NEW}


def test_a_cidr_may_lie_in_a_larger_route(world: World) -> None:
    world.create("192.168.0.0/16")
    associate(world, "192.168.7.0/24")
    assert cidrs(world)["192.168.7.0/24"] == "associated"


def test_a_vpc_that_does_not_exist(world: World) -> None:
    world.vpc = "vpc-0123456789abcdef0"
    refused(lambda: associate(world), "InvalidVpcID.NotFound")
    refused(lambda: create(world, NEW), "InvalidVpcID.NotFound")
