"""The lab's EC2 over HTTP: recording, connections, and what moto answers."""

from __future__ import annotations

import threading
from typing import Any

from lab.ec2.server import LabEc2
from lab.ec2.state import VpcState
from tests.contract.lab_world import OUTSIDE, World, assign, client, ignoring, refused


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
    refused(lambda: attach(made, 1, 2), "InvalidParameterCombination")  # another Availability Zone
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
    waiting = threading.Thread(target=lambda: ignoring(api.describe_vpcs))
    waiting.start()
    ec2.close()
    ec2.close()
    waiting.join(5)
    assert not waiting.is_alive()
