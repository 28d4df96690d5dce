"""The lab's EC2 over HTTP: the rows of EC2-SEMANTICS.md on routes."""

from __future__ import annotations

import pytest

from tests.contract.lab_world import OUTSIDE, OUTSIDE6, QUOTAS, World, in_table, refused


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
    refused(lambda: world.api.delete_route(**in_table(world.main_table, "10.10.0.0/16")), "InvalidParameterValue")
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
            lambda call=call: call(**in_table(world.main_table, OUTSIDE), NetworkInterfaceId=foreign),
            "InvalidParameterValue",
        )
    assert world.route(OUTSIDE)["NetworkInterfaceId"] == world.enis[0]


def test_a_route_to_an_eni_that_does_not_exist_is_refused(world: World) -> None:
    """Row "Create/ReplaceRoute to an ENI of another VPC, or one that does not exist"."""
    world.create()
    for call in (world.api.create_route, world.api.replace_route):
        refused(
            lambda call=call: call(**in_table(world.main_table, OUTSIDE), NetworkInterfaceId="eni-0123456789abcdef0"),
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
        world.api.delete_route(**in_table(world.main_table, destination))
        assert world.route(destination) is None
        refused(
            lambda to=destination: world.api.delete_route(**in_table(world.main_table, to)), "InvalidRoute.NotFound"
        )


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
        lambda: world.api.create_route(**in_table(missing, OUTSIDE), NetworkInterfaceId=world.enis[0]),
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
        lambda: world.api.create_route(**in_table(edge, OUTSIDE), NetworkInterfaceId=world.enis[0]),
        "InvalidParameterValue",
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
