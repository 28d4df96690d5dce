"""The function that gives nodes their Multus ENIs: what it does, and what it makes of events that come as they like."""

from __future__ import annotations

import json
import uuid

import pytest
from botocore.exceptions import ClientError

from tests.contract.cfn_enis_world import GROUP, LONG, World, function, pending, run, world
from tests.contract.ec2_fixtures import endpoint, module_patch

__all__ = ["endpoint", "function", "module_patch", "world"]


# Without trouble -----------------------------------------------------------------------------------------------------


def test_a_node_gets_its_enis(world: World) -> None:
    world.launch()
    world.check_ready()
    assert world.groups.results == [(world.node, "CONTINUE")]


def test_an_eni_is_attached_before_the_next_one_is(world: World) -> None:
    world.ec2.attach_delay = LONG
    attached_before: list[list[str]] = []
    world.ec2.faults.before(
        "AttachNetworkInterface",
        lambda _: attached_before.append([eni["Attachment"]["Status"] for eni in world.enis() if "Attachment" in eni]),
        times=None,
    )
    world.launch()
    world.check_ready()
    assert attached_before == [[], ["attached"]]


def test_each_index_may_have_a_security_group_of_its_own(world: World) -> None:
    admin = world.ec2.admin()
    second = admin.create_security_group(GroupName="second", Description="second", VpcId=world.vpc)["GroupId"]
    admin.create_network_interface(SubnetId=world.subnets[0], Groups=[second])
    world.call(pending(world, groups=[world.group, second]))
    assert [eni["Groups"][0]["GroupId"] for eni in world.enis()] == [world.group, second]


def test_a_node_in_a_warm_pool_gets_its_enis_once(world: World) -> None:
    world.groups.states[world.node] = "Warmed:Pending:Wait"
    world.launch()
    world.check_ready()
    world.call(pending(world))  # from the pool into the group
    world.check_ready()


def test_what_a_node_has_outlasts_an_update_of_the_stack(world: World) -> None:
    world.launch()
    world.call(pending(world, subnets=world.subnets[::-1]))
    world.check_ready()
    assert world.groups.results == [(world.node, "CONTINUE")] * 2


def test_a_node_that_ends_keeps_its_enis_to_its_end(world: World) -> None:
    world.launch()
    world.call(world.groups.wait(world.node, "Terminating:Wait"))
    world.check_ready()  # pods may still use them
    assert world.groups.results[-1] == (world.node, "CONTINUE")
    world.end()
    assert world.enis() == []


# Events that come twice, late or never -------------------------------------------------------------------------------


def test_the_same_event_again_changes_nothing(world: World) -> None:
    world.launch()
    mark = world.ec2.mark()
    world.launch()
    world.check_ready()
    assert {call.action for call in world.ec2.calls_since(mark)} == {"DescribeNetworkInterfaces"}
    assert world.groups.results == [(world.node, "CONTINUE")]


@pytest.mark.parametrize(
    "action", ["CreateNetworkInterface", "ModifyNetworkInterfaceAttribute", "AttachNetworkInterface"]
)
def test_the_same_event_twice_at_once(world: World, action: str) -> None:
    world.ec2.faults.before(action, lambda _: world.launch(), times=1)
    world.launch()
    world.check_ready()
    assert world.groups.results == [(world.node, "CONTINUE")]


@pytest.mark.parametrize("state", ["Terminating:Wait", "Terminating:Proceed", "InService", None])
def test_a_launch_that_comes_too_late_makes_nothing(world: World, state: str | None) -> None:
    world.groups.states.pop(world.node)
    if state:
        world.groups.states[world.node] = state
    world.launch()
    assert world.enis() == []
    assert world.groups.results == []


def test_the_end_before_the_launch(world: World) -> None:
    ending = world.groups.wait(world.node, "Terminating:Wait")
    world.call(ending)
    world.end()
    world.launch()
    assert world.enis() == []


def test_an_end_while_the_enis_are_made(world: World) -> None:
    def end(_: object) -> None:
        world.call(world.groups.wait(world.node, "Terminating:Wait"))
        world.end()

    world.ec2.faults.before("AttachNetworkInterface", end, times=1)
    with pytest.raises(ClientError):
        world.launch()
    world.launch()  # Lambda's retry
    assert world.enis() == []


def test_the_end_of_an_unknown_node(world: World) -> None:
    unknown = {
        **world.groups.wait("i-0123456789abcdef0", "Terminating:Wait"),
        "LifecycleActionToken": str(uuid.uuid4()),
    }
    world.call(unknown)
    assert world.groups.results == []


def test_a_launch_of_an_unknown_node(world: World) -> None:
    world.call({**world.pending, "EC2InstanceId": "i-0123456789abcdef0"})
    assert world.enis() == []


# What cannot work ----------------------------------------------------------------------------------------------------


def abandoned(world: World) -> None:
    """The node was given up at once, and nothing is left when it is gone."""
    assert world.groups.results == [(world.node, "ABANDON")]
    assert all("Attachment" in eni for eni in world.enis())
    world.call(world.groups.wait(world.node, "Terminating:Wait"))
    world.end()
    assert world.enis() == []


def test_more_enis_than_the_instance_type_has(world: World) -> None:
    own = world.ec2.state().instances[world.node]
    assert own.instance_type == "m5.xlarge"
    subnet = next(iter(world.ec2.state().enis_of_instance(world.node))).subnet_id
    world.node = run(world.ec2, subnet, "t3.small")
    world.call(pending(world))
    assert len(world.enis()) == 1  # the second was made, refused, and deleted
    abandoned(world)


def test_a_subnet_that_is_not_there(world: World) -> None:
    world.call(pending(world, subnets=[world.subnets[0], "subnet-0123456789abcdef0"]))
    abandoned(world)


def test_a_subnet_of_another_zone(world: World) -> None:
    made = world.ec2.admin().create_subnet(VpcId=world.vpc, CidrBlock="10.10.9.0/24", AvailabilityZone="us-east-2b")
    world.call(pending(world, subnets=[world.subnets[0], made["Subnet"]["SubnetId"]]))
    abandoned(world)


def test_a_permission_that_comes_later(world: World) -> None:
    """IAM is eventually consistent: a denial may be the policy's youth."""
    world.ec2.faults.deny("ec2:AttachNetworkInterface")
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        world.launch()
    assert world.groups.results == []
    world.ec2.faults.allow_all()
    world.launch()  # Lambda's retry
    world.check_ready()


def test_no_permission(world: World) -> None:
    """Nothing is left when the hook's time is over, which abandons the node."""
    world.ec2.faults.deny("ec2:AttachNetworkInterface")
    for _ in range(3):
        with pytest.raises(ClientError, match="UnauthorizedOperation"):
            world.launch()
    world.call(world.groups.wait(world.node, "Terminating:Wait"))
    world.end()
    assert world.enis() == []


def test_a_device_index_that_somebody_else_took(world: World) -> None:
    admin = world.ec2.admin()
    other = admin.create_network_interface(SubnetId=world.subnets[0])["NetworkInterface"]["NetworkInterfaceId"]
    admin.attach_network_interface(NetworkInterfaceId=other, InstanceId=world.node, DeviceIndex=1)
    with pytest.raises(ClientError, match="already has an interface"):
        world.launch()
    world.end()
    world.sweep()
    assert world.enis() == []


def test_an_attachment_that_does_not_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ec2.lag = LONG  # nor would tags be found
    for _ in range(3):
        with pytest.raises(TimeoutError):
            world.launch()
    assert len(world.enis()) == 1  # the token kept the second and third call from making another
    world.ec2.lag = 0.0
    world.launch()
    world.check_ready()


# Its permissions -----------------------------------------------------------------------------------------------------


def test_it_may_not_touch_what_is_not_its_groups(world: World) -> None:
    admin = world.ec2.admin()
    other = admin.create_network_interface(SubnetId=world.subnets[0], Groups=[world.group])["NetworkInterface"]
    eni, own = other["NetworkInterfaceId"], world.function.ec2
    stranger = admin.run_instances(
        ImageId="ami-12345678", InstanceType="m5.xlarge", MinCount=1, MaxCount=1, SubnetId=world.subnets[0]
    )["Instances"][0]["InstanceId"]
    made = world.function.create(world.node, 1, world.subnets[0], world.group)["NetworkInterfaceId"]
    tag = [{"Key": "multus/node-group", "Value": GROUP}]
    for forbidden in (
        lambda: own.delete_network_interface(NetworkInterfaceId=eni),
        lambda: own.modify_network_interface_attribute(NetworkInterfaceId=eni, SourceDestCheck={"Value": False}),
        lambda: own.create_tags(Resources=[eni], Tags=tag),
        lambda: own.create_network_interface(SubnetId=world.subnets[0], Groups=[world.group]),
        lambda: own.attach_network_interface(NetworkInterfaceId=made, InstanceId=stranger, DeviceIndex=1),
        lambda: own.terminate_instances(InstanceIds=[world.node]),
    ):
        with pytest.raises(ClientError, match="UnauthorizedOperation"):
            forbidden()


def test_the_metadata_is_json(world: World) -> None:
    assert json.loads(world.pending["NotificationMetadata"]) == {"subnets": world.subnets, "groups": [world.group]}
