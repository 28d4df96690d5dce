"""The stacks, made by moto's CloudFormation: what it can make is there, and one stack's outputs serve the next.

moto is no judge of what CloudFormation refuses (cfn-lint is, in tests/unit), nor of IAM's and Auto Scaling's rules. It
makes no access entry, Pod Identity association, inline policy, lifecycle hook, retry setting, tag or association of a
route table, and calls no function: a custom resource is never done.
"""

from __future__ import annotations

import base64
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.iam.models import ManagedPolicy

from tests.contract.cfn_support import CFN, template
from vipmanager import iam
from vipmanager.config import load

REGION, ACCOUNT = "us-east-2", "123456789012"
IMAGE = "ami-0123456789abcdef0"
CIDRS = {
    "MultusCidrA1": "10.10.11.0/24",
    "MultusCidrA2": "10.10.12.0/24",
    "MultusCidrB1": "10.10.21.0/24",
    "MultusCidrB2": "10.10.22.0/24",
}
CLUSTER = {
    "ClusterName": "lab",
    "ApiServerEndpoint": "https://lab.eks.amazonaws.com",
    "CertificateAuthority": "Q0E=",
    "MaxPods": "30",
}


@dataclass
class Account:
    """moto's account with a VPC, two subnets for eth0, and a route table of peers."""

    clients: dict[str, Any] = field(default_factory=dict)
    vpc: str = ""
    nodes: list[str] = field(default_factory=list)
    peers: str = ""
    group: str = ""

    def api(self, service: str) -> Any:
        """A client."""
        if service not in self.clients:
            self.clients[service] = boto3.client(service, region_name=REGION)
        return self.clients[service]

    def create(self, name: str, **parameters: str) -> dict[str, str]:
        """Make the stack of a template; its outputs."""
        given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it does not make; the module's docstring names it
            self.api("cloudformation").create_stack(
                StackName=name, TemplateBody=for_moto(name), Parameters=given, Capabilities=["CAPABILITY_NAMED_IAM"]
            )
        return self.outputs(name)

    def outputs(self, name: str) -> dict[str, str]:
        """A stack's outputs."""
        (stack,) = self.api("cloudformation").describe_stacks(StackName=name)["Stacks"]
        return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}

    def status(self, name: str) -> str:
        """A stack's status."""
        (stack,) = self.api("cloudformation").describe_stacks(StackName=name)["Stacks"]
        return str(stack["StackStatus"])

    def tables(self) -> dict[str, dict[str, Any]]:
        """The VPC's route tables."""
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}]
        found = self.api("ec2").describe_route_tables(Filters=filters)["RouteTables"]
        return {each["RouteTableId"]: each for each in found}

    def subnets(self) -> dict[str, dict[str, Any]]:
        """The VPC's subnets by CIDR."""
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}]
        return {each["CidrBlock"]: each for each in self.api("ec2").describe_subnets(Filters=filters)["Subnets"]}


def for_moto(name: str) -> str:
    """The template, with what moto insists on: ports though all protocols are meant, and an AMI's parameter it has."""
    text = (CFN / f"{name}.yaml").read_text()
    text = text.replace('IpProtocol: "-1",', 'IpProtocol: "-1", FromPort: -1, ToPort: -1,')
    text = re.sub(r'^( +)IpProtocol: "-1"$', r"\g<0>\n\1FromPort: -1\n\1ToPort: -1", text, flags=re.M)
    return re.sub(r"/aws/service/eks/\S+/image_id", "/lab/image", text)


@pytest.fixture
def policy_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudFormation takes a policy as JSON text too; moto would quote it again."""
    make = ManagedPolicy.create_from_cloudformation_json

    def create(name: str, body: dict[str, Any], account_id: str, region_name: str, **kwargs: Any) -> ManagedPolicy:
        document = json.loads(body["Properties"]["PolicyDocument"])
        parsed = {**body, "Properties": {**body["Properties"], "PolicyDocument": document}}
        return make(name, parsed, account_id, region_name, **kwargs)

    monkeypatch.setattr(ManagedPolicy, "create_from_cloudformation_json", create)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, policy_as_text: None) -> Iterator[Account]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws(config={"lambda": {"use_docker": False}}):
        made = Account()
        ec2 = made.api("ec2")
        made.vpc = ec2.create_vpc(CidrBlock="10.10.0.0/16")["Vpc"]["VpcId"]
        for number, zone in enumerate("ab"):
            subnet = ec2.create_subnet(
                VpcId=made.vpc, CidrBlock=f"10.10.{100 + number}.0/24", AvailabilityZone=f"{REGION}{zone}"
            )
            made.nodes.append(subnet["Subnet"]["SubnetId"])
        made.peers = ec2.create_route_table(VpcId=made.vpc)["RouteTable"]["RouteTableId"]
        made.group = ec2.create_security_group(GroupName="cluster", Description="cluster", VpcId=made.vpc)["GroupId"]
        made.api("ssm").put_parameter(Name="/lab/image", Type="String", Value=IMAGE)
        yield made


def network(account: Account, **more: str) -> dict[str, str]:
    zones = {"ZoneA": f"{REGION}a", "ZoneB": f"{REGION}b"}
    return account.create("network", VpcId=account.vpc, PeerCidr="10.10.0.0/16", **zones, **CIDRS, **more)


def roles(account: Account, **more: str) -> dict[str, str]:
    return account.create("iam", VpcId=account.vpc, ClusterName="lab", **more)


def test_the_network_for_addresses_outside_the_vpc(account: Account) -> None:
    outputs = network(account)
    assert account.status("network") == "CREATE_COMPLETE"
    subnets = account.subnets()
    assert {cidr: subnets[cidr]["AvailabilityZone"] for cidr in CIDRS.values()} == {
        "10.10.11.0/24": "us-east-2a",
        "10.10.12.0/24": "us-east-2a",
        "10.10.21.0/24": "us-east-2b",
        "10.10.22.0/24": "us-east-2b",
    }
    ids = [subnets[cidr]["SubnetId"] for cidr in CIDRS.values()]
    assert f"{outputs['MultusSubnetsA']},{outputs['MultusSubnetsB']}".split(",") == ids
    assert len(account.tables()) == 3  # the main one, the peers', and the new one
    assert load({"VPCRTTag": outputs["VPCRTTag"]}).route_tables.tags == (("vipmanager", "floating"),)
    assert account.api("lambda").list_functions()["Functions"] == []


def test_the_network_with_floating_subnets(account: Account) -> None:
    floating = {"FloatingCidr1": "10.10.254.0/28", "FloatingCidr2": "10.10.254.16/28"}
    network(account, **floating, PeerRouteTables=account.peers)
    assert set(floating.values()) <= set(account.subnets())
    (function,) = account.api("lambda").list_functions()["Functions"]
    assert (function["Runtime"], function["Handler"]) == ("python3.14", "index.handler")


@pytest.mark.parametrize("identity", ["PodIdentity", "IRSA", "Node"])
def test_the_roles(account: Account, identity: str) -> None:
    outputs = roles(account, Identity=identity, OidcProvider="oidc.eks.us-east-2.amazonaws.com/id/1")
    assert account.status("iam") == "CREATE_COMPLETE"
    api = account.api("iam")
    version = api.get_policy_version(PolicyArn=outputs["VipmanagerPolicy"], VersionId="v1")["PolicyVersion"]
    tagged = load({"VPCRTTag": "vipmanager=floating"})
    assert version["Document"] == iam.policy(tagged, "sidecar", iam.Scope(REGION, ACCOUNT, account.vpc))
    name = outputs["VipmanagerRole"].rpartition("/")[2]
    trust = api.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
    trust = json.loads(trust) if isinstance(trust, str) else trust
    actions = {
        "PodIdentity": ["sts:AssumeRole", "sts:TagSession"],
        "IRSA": "sts:AssumeRoleWithWebIdentity",
        "Node": "sts:AssumeRole",
    }
    assert trust["Statement"][0]["Action"] == actions[identity]
    assert (outputs["VipmanagerRole"] == outputs["NodeRole"]) == (identity == "Node")
    assert (name == "vipmanager") == (identity != "Node")


@pytest.fixture
def nodes(account: Account) -> dict[str, str]:
    """The outputs of the node group's stack, which takes the others'."""
    net, profile = network(account), roles(account)["NodeInstanceProfile"]
    return account.create(
        "nodegroup",
        VpcId=account.vpc,
        ClusterSecurityGroup=account.group,
        NodeInstanceProfile=profile,
        NodeSubnetA=account.nodes[0],
        NodeSubnetB=account.nodes[1],
        MultusSubnetsA=net["MultusSubnetsA"],
        MultusSubnetsB=net["MultusSubnetsB"],
        MultusSecurityGroups=net["MultusSecurityGroup"],
        **CLUSTER,
    )


def test_a_group_of_nodes_in_each_zone(account: Account, nodes: dict[str, str]) -> None:
    groups = account.api("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert {group["VPCZoneIdentifier"] for group in groups} == set(account.nodes)
    assert {group["AutoScalingGroupName"] for group in groups} <= set(nodes["NodeGroups"].split(","))
    for group in groups:
        kept = {tag["Key"]: tag["Value"] for tag in group["Tags"] if tag["PropagateAtLaunch"]}
        assert kept == {"kubernetes.io/cluster/lab": "owned", "multus/node-group": "nodegroup"}


def test_the_nodes_as_they_are_launched(account: Account, nodes: dict[str, str]) -> None:
    ec2 = account.api("ec2")
    (launch_template,) = ec2.describe_launch_templates()["LaunchTemplates"]
    versions = ec2.describe_launch_template_versions(LaunchTemplateId=launch_template["LaunchTemplateId"])
    data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert (data["ImageId"], data["SecurityGroupIds"]) == (IMAGE, [account.group])
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert b"apiServerEndpoint: https://lab.eks.amazonaws.com\n" in base64.b64decode(data["UserData"])


def test_events_and_the_clock_call_the_function(account: Account, nodes: dict[str, str]) -> None:
    (function,) = account.api("lambda").list_functions()["Functions"]
    events = account.api("events")
    rules = events.list_rules()["Rules"]
    for rule in rules:
        assert [each["Arn"] for each in events.list_targets_by_rule(Rule=rule["Name"])["Targets"]] == [
            function["FunctionArn"]
        ]
    assert sorted(rule.get("ScheduleExpression", "") for rule in rules) == ["", "rate(1 hour)"]
    (pattern,) = [json.loads(rule["EventPattern"]) for rule in rules if rule.get("EventPattern")]
    body = template("nodegroup.yaml")["Resources"]["NodeGroupA"]["Properties"]["LifecycleHookSpecificationList"]
    hooks = {hook["LifecycleHookName"]["Fn::Sub"].replace("${AWS::StackName}", "nodegroup") for hook in body}
    assert set(pattern["detail"]["LifecycleHookName"]) == hooks


def test_the_stacks_can_be_deleted(account: Account, nodes: dict[str, str]) -> None:
    api = account.api("cloudformation")
    for name in ("nodegroup", "iam", "network"):
        api.delete_stack(StackName=name)
    left = api.list_stacks(StackStatusFilter=["CREATE_COMPLETE", "DELETE_FAILED"])["StackSummaries"]
    assert left == []
    assert set(account.subnets()) == {"10.10.100.0/24", "10.10.101.0/24"}
