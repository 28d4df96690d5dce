"""The least IAM policy: which operations for which settings, and what the statements allow."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from lab.ec2.policies import Policies
from vipmanager import iam
from vipmanager.arguments import Arguments
from vipmanager.clients.ec2_operations import OPERATIONS
from vipmanager.commands import run_iam_policy
from vipmanager.config import Config, check_nodeport, load
from vipmanager.floating import FloatingMode
from vipmanager.iam import Scope

SCOPE = Scope("us-east-2", "123456789012", "vpc-1")
VPC = "arn:aws:ec2:us-east-2:123456789012:vpc/vpc-1"
ROLE = "arn:aws:iam::210987654321:role/tables"
EIPS = {"Intf1EIPs": "10.10.1.80=eipalloc-0123456789abcdef0"}
ALL_OF_A_POD = {
    "AssignIpv6Addresses",
    "AssignPrivateIpAddresses",
    "AssociateAddress",
    "CreateRoute",
    "DeleteRoute",
    "DescribeAddresses",
    "DescribeNetworkInterfaces",
    "DescribeRouteTables",
    "DescribeSubnets",
    "ModifyNetworkInterfaceAttribute",
    "ReplaceRoute",
    "UnassignIpv6Addresses",
    "UnassignPrivateIpAddresses",
}
ADDRESSES = ("10.0.1.80", "fd12::80", "eipalloc-0123456789abcdef0")
DISCOVERY = {"DescribeNetworkInterfaces", "DescribeRouteTables", "DescribeSubnets"}


def node(mode: str, *floating: str, **settings: str) -> Config:
    """Settings of the nodeport mode."""
    extra = {"FloatingSubnetCidr": "10.0.1.0/24"} if mode == "subnet" else {}
    config = load({"FLOATING_IP": ",".join(floating), "FloatingMode": mode, **extra, **settings})
    check_nodeport(config)
    return config


def pods() -> list[tuple[str, Config]]:
    """Every combination of the settings that matter to init and sidecar."""
    return [
        (mode, load({"AssignIPs": assign, "SourceDestCheck": check, "RouteTableRole": role, "VPCRTTag": tag, **eips}))
        for mode, assign, check, role, tag, eips in itertools.product(
            ("init", "sidecar"),
            ("Auto", "True", "False"),
            ("Disable", "Keep"),
            ("", ROLE),
            ("ALL", "a=b,c"),
            ({}, EIPS),
        )
    ]


def nodes() -> list[tuple[str, Config]]:
    """Every combination of what floats and how."""
    combined = []
    for mode, check, role in itertools.product(FloatingMode, ("Disable", "Keep"), ("", ROLE)):
        for count in (1, 2, 3):
            for floating in itertools.combinations(ADDRESSES, count):
                if mode is FloatingMode.SUBNET and "fd12::80" in floating:
                    continue
                config = node(mode.value, *floating, SourceDestCheck=check, RouteTableRole=role)
                combined.append(("nodeport", config))
    return combined


def statement(document: dict[str, Any], sid: str) -> dict[str, Any]:
    """The statement with this Sid."""
    (found,) = (each for each in document["Statement"] if each["Sid"] == sid)
    return dict(found)


def allowed(document: dict[str, Any]) -> set[str]:
    """Every action that some statement allows."""
    return {action for each in document["Statement"] for action in each["Action"]}


# which operations


def test_the_cut_down_model_has_what_some_settings_need_and_nothing_else() -> None:
    needed = {name for mode, config in [*pods(), *nodes()] for name in iam.operations(config, mode)}
    assert {*needed, *iam.DOCTOR_OPERATIONS} - iam.PERMISSION_ONLY == set(OPERATIONS)
    assert sorted(OPERATIONS) == list(OPERATIONS)


@pytest.mark.parametrize(
    ("mode", "settings", "without"),
    [
        ("sidecar", {}, {"AssociateAddress", "DescribeAddresses"}),
        ("sidecar", EIPS, set()),
        ("init", EIPS, {"DeleteRoute", "UnassignPrivateIpAddresses"}),
        ("sidecar", {**EIPS, "SourceDestCheck": "Keep"}, {"ModifyNetworkInterfaceAttribute"}),
        (
            "sidecar",
            {**EIPS, "AssignIPs": "True"},
            {"CreateRoute", "DeleteRoute", "ModifyNetworkInterfaceAttribute", "ReplaceRoute"},
        ),
        (
            "sidecar",
            {**EIPS, "AssignIPs": "False"},
            {name for name in ALL_OF_A_POD if "ssign" in name} | {"AssociateAddress", "DescribeAddresses"},
        ),
    ],
    ids=str,
)
def test_what_the_settings_of_a_pod_rule_out_is_not_asked_for(
    mode: str, settings: dict[str, str], without: set[str]
) -> None:
    assert set(iam.operations(load(settings), mode)) == ALL_OF_A_POD - without


@pytest.mark.parametrize(
    ("config", "writes"),
    [
        (node("address", "10.0.1.80"), {"AssignPrivateIpAddresses"}),
        (node("address", "fd12::80"), {"AssignIpv6Addresses", "UnassignIpv6Addresses"}),
        (node("address", ADDRESSES[2]), {"AssociateAddress"}),
        (node("route", "192.168.0.80", SourceDestCheck="Keep"), {"CreateRoute", "ReplaceRoute"}),
        (node("route", ADDRESSES[2]), {"AssociateAddress"}),
        (
            node("eni", ADDRESSES[2]),
            {"AssociateAddress", "AttachNetworkInterface", "CreateNetworkInterface", "CreateTags"}
            | {"DetachNetworkInterface"},
        ),
    ],
    ids=lambda value: f"{value.floating_mode.value} {value.floating}" if isinstance(value, Config) else "",
)
def test_what_floats_and_how_decides_for_a_node(config: Config, writes: set[str]) -> None:
    names = set(iam.operations(config, "nodeport"))
    assert {name for name in names if not name.startswith("Describe")} == writes
    assert names >= DISCOVERY


# what the statements allow


@pytest.mark.parametrize(("mode", "config"), [*pods(), *nodes()])
def test_a_policy_allows_the_operations_and_no_other_within_iams_limits(mode: str, config: Config) -> None:
    own, role = iam.policy(config, mode, SCOPE), iam.role_policy(config, mode, SCOPE)
    routes = allowed(role) if role else set()
    assert allowed(own) | routes == {f"ec2:{name}" for name in iam.operations(config, mode)} | (
        {"sts:AssumeRole"} if role else set()
    )
    assert not allowed(own) & routes
    for document in (own, role):
        if document is not None:
            assert iam.size(document) <= iam.MAX_SIZE
            Policies().attach("key", document)  # refuses what IAM refuses
            for each in document["Statement"]:
                reads = all(action.startswith("ec2:Describe") for action in each["Action"])
                assert (each["Resource"] == "*") == reads, each


def test_route_tables_are_those_of_the_vpc_that_the_setting_selects() -> None:
    config = load({"VPCRTTag": "plain=a, any ,like=b-*"})
    assert statement(iam.policy(config, "sidecar", SCOPE), "RouteTables") == {
        "Sid": "RouteTables",
        "Effect": "Allow",
        "Action": ["ec2:CreateRoute", "ec2:DeleteRoute", "ec2:ReplaceRoute"],
        "Resource": "arn:aws:ec2:us-east-2:123456789012:route-table/*",
        "Condition": {
            "ArnEquals": {"ec2:Vpc": VPC},
            "StringEquals": {"aws:ResourceTag/plain": "a"},
            "Null": {"aws:ResourceTag/any": "false"},
            "StringLike": {"aws:ResourceTag/like": "b-*"},
        },
    }


def test_a_role_for_route_tables_gets_them_and_may_be_assumed() -> None:
    """They, and the VPC, belong to its account."""
    config = load({"RouteTableRole": ROLE, **EIPS})
    own, role = iam.policy(config, "sidecar", SCOPE), iam.role_policy(config, "sidecar", SCOPE)
    assert role is not None
    assert allowed(role) == {f"ec2:{verb}Route" for verb in ("Create", "Delete", "Replace")} | {
        "ec2:DescribeRouteTables"
    }
    assert statement(own, "AssumeRole")["Resource"] == ROLE
    owners = VPC.replace("123456789012", "210987654321")
    tables = statement(role, "RouteTables")
    assert tables["Resource"] == "arn:aws:ec2:us-east-2:210987654321:route-table/*"
    assert tables["Condition"] == {"ArnEquals": {"ec2:Vpc": owners}}
    ours = statement(own, "NetworkInterfaces")
    assert ours["Resource"] == "arn:aws:ec2:us-east-2:123456789012:network-interface/*"
    assert ours["Condition"] == {"ArnEquals": {"ec2:Vpc": VPC.replace("123456789012", "*")}}


def test_elastic_ips_are_named_unless_they_are_too_many() -> None:
    arn = "arn:aws:ec2:us-east-2:123456789012:elastic-ip/"
    few = iam.policy(load(EIPS), "init", SCOPE)
    assert statement(few, "ElasticIps")["Resource"] == f"{arn}eipalloc-0123456789abcdef0"
    bound = ",".join(f"10.0.1.{number}=eipalloc-{number:017x}" for number in range(4, 104))
    many = iam.policy(load({"Intf1EIPs": bound}), "init", SCOPE)
    assert statement(many, "ElasticIps")["Resource"] == f"{arn}*"
    assert iam.size(many) <= iam.MAX_SIZE


def test_the_doctor_reads_a_little_more() -> None:
    more = allowed(iam.policy(load({}), "init", SCOPE, doctor=True)) - allowed(iam.policy(load({}), "init", SCOPE))
    assert more == {f"ec2:{name}" for name in iam.DOCTOR_OPERATIONS}


@pytest.mark.parametrize(
    ("region", "partition"), [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-east-1", "aws-us-gov")]
)
def test_arns_are_of_the_regions_partition(region: str, partition: str) -> None:
    text = json.dumps(iam.policy(load({}), "sidecar", Scope(region, "1", "vpc-1")))
    assert text.count(f"arn:{partition}:ec2:{region}:1:") == text.count("arn:") > 0


def test_what_is_not_known_is_a_placeholder() -> None:
    assert Scope().placeholders == ("REGION", "ACCOUNT", "VPC")
    assert Scope(region="eu-west-1", vpc="vpc-1").placeholders == ("ACCOUNT",)
    assert SCOPE.placeholders == ()


# the command


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells where this is."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("nowhere")
def test_the_command_says_what_is_to_be_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_iam_policy(Arguments("iam-policy", "init", vpc="vpc-1"), load({})) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == iam.policy(load({}), "init", Scope(vpc="vpc-1"))
    assert "replace REGION, ACCOUNT in the policy" in err


@pytest.mark.usefixtures("nowhere")
def test_the_command_takes_the_sdks_region_and_says_whose_each_document_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    config = load({"RouteTableRole": ROLE, "RunAsSidecar": "True"})
    given = Arguments("iam-policy", account="123456789012", vpc="vpc-1", doctor=True)
    assert run_iam_policy(given, config) == 0
    out, err = capsys.readouterr()
    own, end = json.JSONDecoder().raw_decode(out)
    assert own == iam.policy(config, "sidecar", SCOPE, doctor=True)
    assert json.loads(out[end:]) == iam.role_policy(config, "sidecar", SCOPE)
    assert [line.partition("policy of ")[2] for line in err.splitlines()] == [
        "the role that sidecar runs with:",
        f"{ROLE}:",
    ]
