"""The lab's EC2 over HTTP: what IAM policies allow, and what is said to who is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lab.ec2.auth import Credentials
from tests.contract.lab_world import OUTSIDE, World, client, elastic_ip, in_table, refused, works

REFUSED = "UnauthorizedOperation"


def allow(actions: str | list[str], resource: str | list[str] = "*", **condition: Any) -> dict[str, Any]:
    """A policy of one statement."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": resource}
    return document({**statement, "Condition": condition} if condition else statement)


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


class Someone:
    """A user with some policies, and the world as it is seen with its key."""

    def __init__(self, world: World, *documents: dict[str, Any]) -> None:
        self.world = world
        self.key: Credentials = world.ec2.keys.add_user("someone")
        for each in documents:
            world.ec2.policies.attach(self.key.access_key, each)
        self.api = client(world.ec2, keys=self.key)

    def arn(self, kind: str, name: str = "*") -> str:
        return f"arn:aws:ec2:us-east-2:{self.world.ec2.account_id}:{kind}/{name}"

    def create_route(self, table: str = "", **more: Any) -> None:
        table = table or self.world.main_table
        self.api.create_route(**in_table(table, OUTSIDE), NetworkInterfaceId=self.world.enis[0], **more)


def arn(world: World, kind: str, name: str = "*") -> str:
    return f"arn:aws:ec2:us-east-2:{world.ec2.account_id}:{kind}/{name}"


def tag(world: World, resource: str, **tags: str) -> None:
    world.ec2.admin().create_tags(Resources=[resource], Tags=[{"Key": k, "Value": v} for k, v in tags.items()])


def elsewhere(world: World) -> str:
    """The main route table of another VPC."""
    vpc = world.ec2.admin().create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    return next(table.route_table_id for table in world.ec2.state().route_tables.values() if table.vpc_id == vpc)


# who is asked, and what is said


def test_a_key_without_a_policy_may_do_everything(world: World) -> None:
    Someone(world, allow("ec2:DescribeVpcs"))
    world.create()


def test_what_no_policy_allows_is_refused_and_named(world: World) -> None:
    someone = Someone(world, allow("ec2:DescribeVpcs"))
    someone.api.describe_vpcs()
    assert refused(someone.create_route, REFUSED, 403) == (
        "You are not authorized to perform this operation. "
        f"User: {someone.key.principal} is not authorized to perform: ec2:CreateRoute on resource: "
        f"{arn(world, 'route-table', world.main_table)} because no identity-based policy allows the ec2:CreateRoute "
        "action"
    )
    assert "on resource" not in refused(someone.api.describe_subnets, REFUSED, 403)
    assert world.route(OUTSIDE) is None


def test_several_policies_allow_together_and_a_deny_wins(world: World) -> None:
    both = Someone(world, allow("ec2:CreateRoute"), allow("ec2:Describe*"))
    both.create_route()
    both.api.describe_subnets()
    deny = {"Effect": "Deny", "Action": "ec2:*Route", "Resource": arn(world, "route-table")}
    less = Someone(world, allow("*"), document(deny))
    less.api.describe_subnets()
    assert "with an explicit deny" in refused(less.create_route, REFUSED, 403)


def test_a_dry_run_obeys(world: World) -> None:
    may, may_not = Someone(world, allow("ec2:CreateRoute")), Someone(world, allow("ec2:DeleteRoute"))
    refused(lambda: may.create_route(DryRun=True), "DryRunOperation", 412)
    refused(lambda: may_not.create_route(DryRun=True), REFUSED, 403)


def test_a_role_may_do_what_its_policy_allows_and_is_assumed_by_who_may(world: World) -> None:
    role = f"arn:aws:iam::{world.ec2.account_id}:role/tables"
    world.ec2.policies.attach(role, allow("ec2:CreateRoute"))
    someone = Someone(world, allow("sts:AssumeRole", role))
    sts = client(world.ec2, "sts", keys=someone.key)
    other = {"RoleArn": role.replace("tables", "other"), "RoleSessionName": "run"}
    assert "sts:AssumeRole" in refused(lambda: sts.assume_role(**other), "AccessDenied", 403)
    sts.get_caller_identity()
    made = sts.assume_role(RoleArn=role, RoleSessionName="run")["Credentials"]
    known = world.ec2.keys.check(made["AccessKeyId"], made["SessionToken"])
    someone.api = client(world.ec2, keys=known)
    someone.create_route()
    refused(someone.api.describe_subnets, REFUSED, 403)


# resources and conditions


def test_another_vpcs_table_is_refused(world: World) -> None:
    vpc = {"ec2:Vpc": arn(world, "vpc", world.vpc)}
    someone = Someone(world, allow("ec2:CreateRoute", arn(world, "route-table"), ArnEquals=vpc))
    other = elsewhere(world)
    assert arn(world, "route-table", other) in refused(lambda: someone.create_route(other), REFUSED, 403)
    someone.create_route()


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        ({"StringEquals": {"aws:ResourceTag/floating": "yes"}}, True),
        ({"StringEquals": {"aws:ResourceTag/floating": "y*"}}, False),
        ({"StringEquals": {"aws:ResourceTag/floating": ["no", "yes"]}}, True),
        ({"StringLike": {"ec2:ResourceTag/floating": "y?s"}}, True),
        ({"StringLike": {"aws:ResourceTag/floating": "n*"}}, False),
        ({"StringEquals": {"aws:ResourceTag/other": "yes"}}, False),
        ({"StringEquals": {"aws:ResourceTag/floating": "yes", "aws:ResourceTag/other": "yes"}}, False),
        ({"Null": {"aws:ResourceTag/floating": "false"}}, True),
        ({"Null": {"aws:ResourceTag/floating": "true"}}, False),
        ({"Null": {"aws:ResourceTag/other": "true"}}, True),
        ({"ArnLike": {"ec2:Vpc": "arn:aws:ec2:*:*:vpc/*"}}, True),
        ({"ArnLike": {"ec2:Vpc": "arn:aws:ec2:*:vpc/*"}}, False),
        ({"StringEquals": {"ec2:Region": "us-east-2"}}, True),
        ({"StringEquals": {"ec2:CreateAction": "CreateRoute"}}, False),
    ],
    ids=str,
)
def test_a_condition_is_held_against_the_resource(world: World, condition: dict[str, Any], fits: bool) -> None:
    tag(world, world.main_table, floating="yes")
    assert works(Someone(world, allow("ec2:CreateRoute", **condition)).create_route) is fits


@pytest.mark.parametrize(
    ("resource", "fits"),
    [
        ("arn:aws:ec2:us-east-2:*:route-table/rtb-*", True),
        ("arn:aws:ec2:*:*:*", True),
        ("arn:aws-cn:ec2:us-east-2:*:route-table/*", False),
        ("arn:aws:ec2:us-east-1:*:route-table/*", False),
        ("arn:aws:ec2:us-east-2:*:network-interface/*", False),
    ],
)
def test_a_resource_is_held_part_by_part(world: World, resource: str, fits: bool) -> None:
    assert works(Someone(world, allow("ec2:CreateRoute", resource)).create_route) is fits


def test_a_call_on_two_resources_needs_both(world: World) -> None:
    eip = elastic_ip(world)
    kinds = ("elastic-ip", "network-interface")
    call = {"AllocationId": eip, "NetworkInterfaceId": world.enis[0]}
    for kind, missing in zip(kinds, reversed(kinds), strict=True):
        someone = Someone(world, allow("ec2:AssociateAddress", arn(world, kind)))
        assert f"{missing}/" in refused(lambda api=someone.api: api.associate_address(**call), REFUSED, 403)  # type: ignore[misc]
    Someone(world, allow("ec2:AssociateAddress", [arn(world, kind) for kind in kinds])).api.associate_address(**call)


def test_what_is_made_with_tags_needs_leave_to_tag_and_tags_nothing_else(world: World) -> None:
    """EC2 user guide, "Grant permission to tag Amazon EC2 resources during creation"."""
    make = allow("ec2:CreateNetworkInterface")
    made_only = allow(
        "ec2:CreateTags",
        arn(world, "network-interface"),
        StringEquals={"ec2:CreateAction": "CreateNetworkInterface", "aws:RequestTag/floating": "yes"},
        **{"ForAllValues:StringEquals": {"aws:TagKeys": ["floating", "Name"]}},
    )

    def create(someone: Someone, *tags: str) -> Any:
        listed = [{"Key": key, "Value": "yes"} for key in tags]
        specified = [{"ResourceType": "network-interface", "Tags": listed}] if tags else []
        made = someone.api.create_network_interface(SubnetId=world.subnets[0], TagSpecifications=specified)
        return made["NetworkInterface"]["NetworkInterfaceId"]

    create(Someone(world, make))
    assert "ec2:CreateTags on resource" in refused(lambda: create(Someone(world, make), "floating"), REFUSED, 403)
    tagging = Someone(world, make, made_only)
    create(tagging, "floating", "Name")
    refused(lambda: create(tagging, "Name"), REFUSED, 403)
    refused(lambda: create(tagging, "floating", "another"), REFUSED, 403)
    tags = [{"Key": "floating", "Value": "yes"}]
    refused(lambda: tagging.api.create_tags(Resources=[world.enis[0]], Tags=tags), REFUSED, 403)


def test_an_interface_is_made_only_where_subnet_and_groups_allow(world: World) -> None:
    vpc = {"ec2:Vpc": arn(world, "vpc", world.vpc)}
    beside = allow("ec2:CreateNetworkInterface", [arn(world, "subnet"), arn(world, "security-group")], ArnEquals=vpc)
    someone = Someone(world, beside, allow("ec2:CreateNetworkInterface", arn(world, "network-interface")))
    group = dict(world.ec2.state().enis[world.enis[0]].groups)
    api = someone.api
    api.create_network_interface(SubnetId=world.subnets[0], Groups=list(group))
    other = world.ec2.admin().create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    subnet = world.ec2.admin().create_subnet(VpcId=other, CidrBlock="10.20.1.0/24")["Subnet"]["SubnetId"]
    assert subnet in refused(lambda: api.create_network_interface(SubnetId=subnet), REFUSED, 403)


def test_what_an_attachment_is_of_is_found_by_its_id(world: World) -> None:
    """DetachNetworkInterface names neither the network interface nor the instance."""
    tag(world, world.enis[0], floating="yes")
    attachments = [world.eni(number)["Attachment"]["AttachmentId"] for number in (0, 1)]
    tagged = {"aws:ResourceTag/floating": "yes"}
    someone = Someone(
        world,
        allow("ec2:DetachNetworkInterface", arn(world, "network-interface"), StringEquals=tagged),
        allow("ec2:DetachNetworkInterface", arn(world, "instance")),
    )
    someone.api.detach_network_interface(AttachmentId=attachments[0])
    refused(lambda: someone.api.detach_network_interface(AttachmentId=attachments[1]), REFUSED, 403)


def test_an_action_whose_resources_the_lab_does_not_know_needs_a_statement_for_all(world: World) -> None:
    named = Someone(world, allow("ec2:AllocateAddress", arn(world, "elastic-ip")))
    refused(lambda: named.api.allocate_address(Domain="vpc"), REFUSED, 403)
    Someone(world, allow("ec2:AllocateAddress")).api.allocate_address(Domain="vpc")


# documents


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"Version": "2008-10-17", "Statement": []}, "Version"),
        ({"Version": "2012-10-17", "Statement": []}, "no statement"),
        (allow("ec2:CreateRoute", StringEqualsIgnoreCase={"ec2:Region": "x"}), "operator StringEqualsIgnoreCase"),
        (allow("ec2:CreateRoute", StringEquals={"ec2:Subnet": "x"}), "condition key ec2:Subnet"),
        (allow("ec2:CreateRoute", StringEquals={"ec2:Vpc": "x"}), "is an ARN"),
        (allow("ec2:CreateRoute", ArnLike={"ec2:Region": "x"}), "is no ARN"),
        (allow("ec2:CreateRoute", Null={"ec2:Region": "no"}), "Null"),
        (allow("ec2:CreateRoute", StringEquals={"ec2:Region": "${aws:x}"}), "values"),
        (allow("CreateRoute"), "Action CreateRoute"),
        (allow("ec2:CreateRoute", "rtb-1"), "Resource rtb-1"),
        (allow([]), "nothing named"),
        (document({"Effect": "Allow", "NotAction": "ec2:*", "Resource": "*"}), "NotAction"),
        (document({"Effect": "allow", "Action": "ec2:*", "Resource": "*"}), "Effect"),
        (document({"Effect": "Allow", "Action": "ec2:*"}), "missing"),
        (document({"Sid": "a b", "Effect": "Allow", "Action": "ec2:*", "Resource": "*"}), "Sid"),
        (document(*[{"Sid": "a", "Effect": "Allow", "Action": "ec2:*", "Resource": "*"}] * 2), "repeated"),
        (allow([f"ec2:CreateRoute{number}" for number in range(400)]), "more than 6144"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_document_with_what_iam_refuses_or_the_lab_does_not_know_is_not_attached(
    world: World, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match="malformed policy document") as raised:
        world.ec2.policies.attach("key", wrong)
    assert said in str(raised.value)
