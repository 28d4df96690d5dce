"""A node that waits for its Multus ENIs: the lab's EC2, a double of Auto Scaling, and the function with its own policy.

EC2's refusals are the lab's. What moto alone answers here: DescribeInstances and DeleteNetworkInterface's bookkeeping.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lab.ec2.auth import Credentials
from lab.ec2.quotas import Quotas
from lab.ec2.server import LabEc2
from tests.contract.cfn_support import AutoScaling, Stack, module, template
from tests.contract.ec2_fixtures import point_sdk_at

GROUP = "nodes"  # the stack's name
LONG = 60.0
KEY = Credentials("AKIALABMULTUSENIS000", "not-a-secret", "arn:aws:iam::123456789012:user/function", "AIDAFUNCTION")
NODE_GROUP = {"multus/node-group": GROUP}
INTERFACES = 2
LAUNCH_CALLS = 3 + 5 * INTERFACES  # what a launch without trouble takes


@dataclass
class Context:
    """Lambda's context: its time is over after so many questions."""

    questions: int = 20

    def get_remaining_time_in_millis(self) -> int:
        """As Lambda names it."""
        self.questions -= 1
        return 180_000 if self.questions > 0 else 0


@dataclass
class World:
    """A VPC with a node in it that waits for its ENIs."""

    ec2: LabEc2
    function: ModuleType
    groups: AutoScaling
    vpc: str
    subnets: list[str]  # of the ENIs
    group: str
    node: str
    slept: list[float]  # s, each pause of the function
    pending: dict[str, Any] = field(default_factory=dict)  # `detail` of the launch event

    def call(self, detail: dict[str, Any], context: Context | None = None) -> None:
        """Invoke the function with an event."""
        self.function.handler({"source": "aws.autoscaling", "detail": detail}, context or Context())

    def launch(self) -> None:
        """Invoke it with the launch event."""
        self.call(self.pending)

    def sweep(self) -> None:
        """Invoke it as the schedule does."""
        self.function.handler({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}, Context())

    def enis(self) -> list[dict[str, Any]]:
        """What the function has made, by device index."""
        filters = [{"Name": "tag:multus/node-group", "Values": [GROUP]}]
        found = self.ec2.admin().describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
        return sorted(found, key=lambda eni: tags(eni)["multus/index"])

    def end(self) -> None:
        """EC2 ends the node, and Auto Scaling forgets it."""
        self.groups.states.pop(self.node, None)
        self.groups.tokens.pop(self.node, None)
        self.ec2.admin().terminate_instances(InstanceIds=[self.node])

    def check_ready(self) -> None:
        """The node has its ENIs, in order and set up, and nothing else was made."""
        enis = self.enis()
        assert [eni["SubnetId"] for eni in enis] == self.subnets
        for index, eni in enumerate(enis, 1):
            attachment = eni["Attachment"]
            assert (attachment["InstanceId"], attachment["DeviceIndex"]) == (self.node, index)
            assert (attachment["Status"], attachment["DeleteOnTermination"]) == ("attached", True)
            assert eni["SourceDestCheck"] is False
            assert [each["GroupId"] for each in eni["Groups"]] == [self.group]
            assert tags(eni) == {
                "Name": f"{GROUP} {self.node} eth{index}",
                "multus/index": str(index),
                "multus/node": self.node,
                "multus/node-group": GROUP,
                "node.k8s.amazonaws.com/no_manage": "true",
            }


def tags(eni: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in eni["TagSet"]}


@pytest.fixture(scope="module")
def function(endpoint: int, module_patch: pytest.MonkeyPatch) -> ModuleType:
    """The function's code, with the SDK's settings of the lab. It makes its clients once, as in Lambda."""
    point_sdk_at(module_patch, f"http://127.0.0.1:{endpoint}", KEY.access_key, KEY.secret_key)
    module_patch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    module_patch.setenv("AWS_MAX_ATTEMPTS", "1")  # each failure is to be seen
    module_patch.setenv("NODE_GROUP", GROUP)
    return module("multus_enis")


@pytest.fixture
def world(endpoint: int, function: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    groups = AutoScaling()
    groups.install(function.autoscaling)
    with LabEc2("us-east-2", quotas=Quotas(enis_by_type={"t3.small": INTERFACES, "m5.xlarge": 4})) as ec2:
        ec2.keys.add(KEY)
        ec2.serve("127.0.0.1", endpoint)

        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            ec2.hurry()
            time.sleep(0.001)

        monkeypatch.setattr(function, "time", SimpleNamespace(sleep=sleep))
        yield build(ec2, function, groups, slept)
    groups.remove(function.autoscaling)


def build(ec2: LabEc2, function: ModuleType, groups: AutoScaling, slept: list[float]) -> World:
    """Make the VPC, give the function's key its policy, and launch a node."""
    admin = ec2.admin()
    vpc = admin.create_vpc(CidrBlock="10.10.0.0/16")["Vpc"]["VpcId"]

    def subnet(number: int, zone: str = "a") -> str:
        made = admin.create_subnet(VpcId=vpc, CidrBlock=f"10.10.{number}.0/24", AvailabilityZone=f"us-east-2{zone}")
        return str(made["Subnet"]["SubnetId"])

    own, *subnets = (subnet(number) for number in range(INTERFACES + 1))
    group = admin.create_security_group(GroupName="multus", Description="multus", VpcId=vpc)["GroupId"]
    admin.create_network_interface(SubnetId=own, Groups=[group])  # the lab knows groups by the ENIs in them
    log = "arn:aws:logs:us-east-2:123456789012:log-group:enis:*"
    given = {**PSEUDO, "AWS::AccountId": ec2.account_id, "VpcId": vpc, "EniFunctionLog.Arn": log}
    stack = Stack(template("nodegroup.yaml"), given)
    document = stack.property("EniFunctionPolicy", "PolicyDocument")
    known = [each for each in document["Statement"] if each["Sid"] != "Groups"]  # of Auto Scaling the lab has no rules
    ec2.policies.attach(KEY.access_key, {**document, "Statement": known})
    world = World(ec2, function, groups, vpc, subnets, group, run(ec2, own), slept)
    world.pending = pending(world)
    return world


PSEUDO = {"AWS::Partition": "aws", "AWS::Region": "us-east-2", "AWS::StackName": GROUP, "AWS::NoValue": "AWS::NoValue"}


def run(ec2: LabEc2, subnet: str, instance_type: str = "m5.xlarge") -> str:
    """Run a node as the launch template would."""
    node_tags = [{"Key": key, "Value": value} for key, value in NODE_GROUP.items()]
    made = ec2.admin().run_instances(
        ImageId="ami-12345678",
        InstanceType=instance_type,
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet,
        TagSpecifications=[{"ResourceType": "instance", "Tags": node_tags}],
    )
    return str(made["Instances"][0]["InstanceId"])


def pending(world: World, **metadata: Any) -> dict[str, Any]:
    """Let the node wait in its group; the event's detail, with the metadata that the template gives the hook."""
    given = {
        **PSEUDO,
        "MultusSubnetsA": metadata.get("subnets", world.subnets),
        "MultusSecurityGroups": metadata.get("groups", [world.group]),
    }
    hook = Stack(template("nodegroup.yaml"), given).property("NodeGroupA", "LifecycleHookSpecificationList")[0]
    assert len(hook["NotificationMetadata"]) <= 1023  # Auto Scaling API reference, LifecycleHookSpecification
    detail = world.groups.wait(world.node, "Pending:Wait")
    assert (hook["LifecycleHookName"], hook["LifecycleTransition"]) == (
        detail["LifecycleHookName"],
        detail["LifecycleTransition"],
    )
    return {**detail, "NotificationMetadata": hook["NotificationMetadata"]}
