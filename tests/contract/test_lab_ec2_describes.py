"""The lab's EC2 over HTTP: the rows of EC2-SEMANTICS.md on describes: filters, paging, lag."""

from __future__ import annotations

import time

import pytest

from tests.contract.lab_world import OUTSIDE, World, assign, found, in_table, refused, until, works


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
    until(lambda: works(world.table))  # until then the table itself is not visible
    world.create()
    written = time.monotonic()
    assert world.route(OUTSIDE) is None
    refused(world.create, "RouteAlreadyExists")  # writes do not lag
    until(lambda: world.route(OUTSIDE) is not None)
    assert time.monotonic() - written >= 0.3
    world.ec2.lag = 0.0
    world.api.delete_route(**in_table(world.main_table, OUTSIDE))
    assert world.route(OUTSIDE) is None
