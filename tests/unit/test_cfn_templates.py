"""The CloudFormation templates: linted, in step with lambda/, vipmanager and samples/, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cfnlint.api import lint

from cfn import embed
from tests.contract.cfn_support import CFN, Stack, template
from vipmanager import iam
from vipmanager.config import load
from vipmanager.manifest import read_configmap

TEMPLATES = ["iam.yaml", "network.yaml", "nodegroup.yaml"]
FUNCTIONS = {
    "multus_enis.py": ("nodegroup.yaml", "EniFunction"),
    "network_additions.py": ("network.yaml", "AdditionsFunction"),
}
NONE = "AWS::NoValue"
SCOPE = iam.Scope()
PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": SCOPE.region,
    "AWS::AccountId": SCOPE.account,
    "AWS::NoValue": NONE,
    "AWS::StackName": "nodes",
}
SUBNETS = ["subnet-1", "subnet-2"]
CLUSTER = {
    "ClusterName": "lab",
    "ApiServerEndpoint": "https://lab.eks.amazonaws.com",
    "CertificateAuthority": "Q0E=",
    "MultusSubnetsA": SUBNETS,
}


def test_there_are_no_other_templates() -> None:
    assert sorted(path.name for path in CFN.glob("*.yaml")) == TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_cfn_lint_finds_nothing(name: str) -> None:
    text = (CFN / name).read_text()
    assert lint(text) == []
    assert "cfn-lint" not in text  # nothing is ignored, nor by a .cfnlintrc
    assert not list(CFN.parent.glob(".cfnlintrc*"))


def test_cfn_lint_would_find_something() -> None:
    found = lint((CFN / "iam.yaml").read_text().replace("Roles: [!Ref NodeRole]", "Roles: [!Ref NodeRoles]"))
    assert {match.rule.id for match in found} == {"E1020"}


# The functions' code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_embedding_again_changes_nothing(name: str) -> None:
    text = (CFN / name).read_text()
    assert embed.embedded(text) == text


def test_every_function_is_tested_here() -> None:
    assert sorted(path.name for path in (CFN / "lambda").glob("*.py")) == sorted(FUNCTIONS)


@pytest.mark.parametrize("source", FUNCTIONS)
def test_the_template_embeds_the_code(source: str) -> None:
    name, function = FUNCTIONS[source]
    properties = template(name)["Resources"][function]["Properties"]
    assert properties["Code"]["ZipFile"] == (CFN / "lambda" / source).read_text()
    assert properties["Handler"] == "index.handler"  # what CloudFormation calls the file
    assert properties["Runtime"] == "python3.14"


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_is_plain_ascii(name: str) -> None:
    """Other characters become question marks in places (aws-cloudformation/cloudformation-coverage-roadmap 814)."""
    assert (CFN / name).read_text().isascii()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_cli_deploys_it_without_a_bucket(name: str) -> None:
    assert len((CFN / name).read_bytes()) <= embed.MAX_BODY


def test_embed_tells_what_is_out_of_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "lambda").mkdir()
    (tmp_path / "lambda" / "multus_enis.py").write_text("new = 1\n\nlast = 2\n")
    copy = tmp_path / "nodegroup.yaml"
    copy.write_text((CFN / "nodegroup.yaml").read_text())
    monkeypatch.setattr(embed, "HERE", tmp_path)
    assert embed.main(check=True) == 1
    assert "nodegroup.yaml" in capsys.readouterr().err
    assert embed.main(check=False) == 0
    assert "ZipFile: |\n          new = 1\n\n          last = 2\n        # end\n" in copy.read_text()
    assert embed.main(check=True) == 0


# Permissions ---------------------------------------------------------------------------------------------------------


def of_iam(**given: str) -> Stack:
    return Stack(template("iam.yaml"), {**PSEUDO, "VpcId": SCOPE.vpc, "ClusterName": "lab", **given})


@pytest.mark.parametrize("mode", ["init", "sidecar"])
@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({}, "vipmanager=floating"),
        ({"RouteTableTagKey": "routes", "RouteTableTagValue": "pods"}, "routes=pods"),
        ({"RouteTableTagKey": ""}, "ALL"),
    ],
)
def test_vipmanager_may_do_what_iam_policy_prints(mode: str, given: dict[str, str], setting: str) -> None:
    policy = json.loads(of_iam(Mode=mode, **given).property("VipmanagerPolicy", "PolicyDocument"))
    assert policy == iam.policy(load({"VPCRTTag": setting}), mode, SCOPE)


@pytest.mark.parametrize("name", ["vipmanager-cm.yaml", "vipmanager-cm-vpc.yaml"])
def test_the_quick_starts_settings_need_no_more(name: str) -> None:
    """docs/eks.md: what `vipmanager iam-policy` prints is what the stack's role has."""
    settings = {**read_configmap(str(CFN.parent / "samples" / name)), "VPCRTTag": "vipmanager=floating"}
    policy = json.loads(of_iam().property("VipmanagerPolicy", "PolicyDocument"))
    assert policy == iam.policy(load(settings), "sidecar", SCOPE)


def test_the_stacks_have_one_tag() -> None:
    """What network.yaml puts on the tables, iam.yaml lets vipmanager write to."""
    network, roles = template("network.yaml")["Parameters"], template("iam.yaml")["Parameters"]
    for name in ("RouteTableTagKey", "RouteTableTagValue"):
        assert network[name]["Default"] == roles[name]["Default"]


@pytest.mark.parametrize("role", ["PodIdentityRole", "IrsaRole"])
def test_the_samples_name_the_role(role: str) -> None:
    sample = yaml.safe_load((CFN.parent / "samples/common/serviceaccount-irsa.yaml").read_text())
    arn = sample["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
    assert arn.rpartition("/")[2] == of_iam().property(role, "RoleName")
    assert of_iam(RoleName="other").property(role, "RoleName") == "other"


@pytest.mark.parametrize(
    ("identity", "holders"),
    [("PodIdentity", {"PodIdentityRole"}), ("IRSA", {"IrsaRole"}), ("Node", {"NodeRole"})],
)
def test_one_role_has_vipmanagers_policy(identity: str, holders: set[str]) -> None:
    stack = of_iam(Identity=identity, OidcProvider="oidc.eks.us-east-2.amazonaws.com/id/1")
    made = {
        name
        for name, each in stack.body["Resources"].items()
        if each["Type"] == "AWS::IAM::Role" and ("Condition" not in each or stack.holds(each["Condition"]))
    }
    assert {name for name in made if "VipmanagerPolicy" in stack.property(name, "ManagedPolicyArns")} == holders


def test_irsa_names_one_service_account() -> None:
    issuer = "oidc.eks.us-east-2.amazonaws.com/id/1"
    trust = of_iam(Identity="IRSA", OidcProvider=issuer, Namespace="core", ServiceAccount="upf").property(
        "IrsaRole", "AssumeRolePolicyDocument"
    )
    (statement,) = yaml.safe_load(trust)["Statement"]
    assert statement["Principal"] == {"Federated": f"arn:aws:iam::{SCOPE.account}:oidc-provider/{issuer}"}
    assert statement["Condition"]["StringEquals"] == {
        f"{issuer}:aud": "sts.amazonaws.com",
        f"{issuer}:sub": "system:serviceaccount:core:upf",
    }


def test_pod_identity_names_one_service_account_of_one_cluster() -> None:
    stack = of_iam(Namespace="core", ServiceAccount="upf")
    (statement,) = stack.property("PodIdentityRole", "AssumeRolePolicyDocument", "Statement")
    assert statement["Condition"]["StringEquals"] == {
        "aws:RequestTag/eks-cluster-name": "lab",
        "aws:RequestTag/kubernetes-namespace": "core",
        "aws:RequestTag/kubernetes-service-account": "upf",
    }


# The nodes -----------------------------------------------------------------------------------------------------------


def launch(**given: Any) -> dict[str, Any]:
    """The launch template's data."""
    stack = Stack(template("nodegroup.yaml"), {**PSEUDO, **CLUSTER, **given})
    return dict(stack.property("NodeLaunchTemplate", "LaunchTemplateData"))


def test_vipmanager_finds_the_route_table_by_the_tag_that_the_stack_says() -> None:
    stack = Stack(template("network.yaml"), {**PSEUDO, "RouteTableTagKey": "routes", "RouteTableTagValue": "pods"})
    selector = load({"VPCRTTag": stack.resolve(stack.body["Outputs"]["VPCRTTag"]["Value"])}).route_tables
    tags = {tag["Key"]: tag["Value"] for tag in stack.property("MultusRouteTable", "Tags")}
    assert selector.tags == (("routes", "pods"),)
    assert tags["routes"] == "pods"
    associated = {
        stack.property(name, "SubnetId")
        for name, each in stack.body["Resources"].items()
        if each["Type"] == "AWS::EC2::SubnetRouteTableAssociation"
    }
    assert associated == {"MultusSubnetA1", "MultusSubnetA2", "MultusSubnetB1", "MultusSubnetB2"}


def test_imds_is_version_2_and_two_hops_away() -> None:
    assert launch()["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 2,
    }


def test_all_zones_have_the_same_nodes() -> None:
    body = template("nodegroup.yaml")
    groups = {
        name: each for name, each in body["Resources"].items() if each["Type"] == "AWS::AutoScaling::AutoScalingGroup"
    }
    texts = {
        str(each).replace(f"NodeSubnet{name[-1]}", "").replace(f"MultusSubnets{name[-1]}", "")
        for name, each in groups.items()
    }
    assert sorted(groups) == ["NodeGroupA", "NodeGroupB", "NodeGroupC"]
    assert {text.replace("'Condition': 'ThirdZone', ", "") for text in texts} == {min(texts, key=len)}


def run(text: str, programs: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of bash's, with these programs before the system's."""
    path = f"{programs}:{os.environ['PATH']}"
    command = ["bash", "-c", text]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False)


# What is refused before anything is made -----------------------------------------------------------------------------

ZONES = {"NodeSubnetA": "a", "NodeSubnetB": "b", "MultusSubnetsA": ["a", "a"], "MultusSubnetsB": ["b", "b"]}


def refused(zones: dict[str, Any], vpcs: dict[str, Any]) -> list[str]:
    """What nodegroup.yaml says of subnets in these zones and VPCs."""
    known = {f"{name}.AvailabilityZone": zone for name, zone in zones.items()}
    known |= {f"{name}.VpcId": vpc for name, vpc in vpcs.items()}
    return Stack(template("nodegroup.yaml"), {**PSEUDO, **CLUSTER, "VpcId": "vpc-1", **known}).refused()


@pytest.mark.parametrize(
    ("zones", "vpcs", "said"),
    [
        ({}, {}, []),
        ({"MultusSubnetsA": ["a", "b"]}, {}, ["MultusSubnetsA are to be in the Availability Zone of NodeSubnetA"]),
        ({"MultusSubnetsB": ["a", "b"]}, {}, ["MultusSubnetsB are to be in the Availability Zone of NodeSubnetB"]),
        (
            {"NodeSubnetB": "a", "MultusSubnetsB": ["a", "a"]},
            {},
            ["NodeSubnetA and NodeSubnetB are to be in different Availability Zones"],
        ),
        ({}, {"MultusSubnetsA": ["vpc-1", "vpc-2"]}, ["MultusSubnetsA are to be in VpcId"]),
        ({}, {"MultusSubnetsB": ["vpc-2", "vpc-2"]}, ["MultusSubnetsB are to be in VpcId"]),
    ],
)
def test_subnets_that_no_node_could_have(zones: dict[str, Any], vpcs: dict[str, Any], said: list[str]) -> None:
    own = {"MultusSubnetsA": ["vpc-1", "vpc-1"], "MultusSubnetsB": ["vpc-1", "vpc-1"]}
    assert refused({**ZONES, **zones}, {**own, **vpcs}) == said


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("iam.yaml", {"Identity": "IRSA"}, ["IRSA needs OidcProvider"]),
        ("iam.yaml", {"Identity": "Node"}, []),
        (
            "network.yaml",
            {"FloatingIpv6Cidr2": "2001:db8:10:fd::/64", "FloatingCidr1": "10.10.254.0/28"},
            ["FloatingIpv6Cidr2 needs FloatingCidr2, as it is the same subnet"],
        ),
    ],
)
def test_parameters_that_need_others(name: str, given: dict[str, str], said: list[str]) -> None:
    assert Stack(template(name), {**PSEUDO, **given}).refused() == said


def test_the_number_of_pods_has_to_be_said() -> None:
    """It depends on instance type and Multus ENIs, and no default can be right for all."""
    assert "Default" not in template("nodegroup.yaml")["Parameters"]["MaxPods"]


@pytest.mark.parametrize("topic", ["", "arn:aws:sns:us-east-2:123456789012:oncall"])
def test_somebody_is_told_of_nodes_that_get_no_enis(topic: str) -> None:
    stack = Stack(template("nodegroup.yaml"), {**PSEUDO, **CLUSTER, "AlarmTopic": topic})
    (counted,) = stack.property("EniFunctionTrouble", "MetricTransformations")
    alarm = stack.resolve(stack.body["Resources"]["EniFunctionAlarm"]["Properties"])
    assert (alarm["Namespace"], alarm["MetricName"]) == (counted["MetricNamespace"], counted["MetricName"])
    assert alarm["AlarmActions"] == ([topic] if topic else NONE)


# IPv6 ----------------------------------------------------------------------------------------------------------------

V6 = {
    "MultusIpv6CidrA1": "2001:db8:10:b::/64",
    "MultusIpv6CidrA2": "2001:db8:10:c::/64",
    "MultusIpv6CidrB1": "2001:db8:10:15::/64",
    "MultusIpv6CidrB2": "2001:db8:10:16::/64",
    "FloatingIpv6Cidr1": "2001:db8:10:fe::/64",
    "FloatingIpv6Cidr2": "2001:db8:10:fd::/64",
    "PeerIpv6Cidr": "2001:db8:10::/56",
}


@pytest.mark.parametrize("given", [{}, V6], ids=["IPv4", "both"])
def test_subnets_and_peers_of_ipv6(given: dict[str, str]) -> None:
    stack = Stack(template("network.yaml"), {**PSEUDO, **given, "PeerCidr": "10.10.0.0/16"})
    for name, each in stack.body["Resources"].items():
        if each["Type"] == "AWS::EC2::Subnet":
            kind, number = name.split("Subnet")
            assert stack.property(name, "Ipv6CidrBlock") == given.get(f"{kind}Ipv6Cidr{number}", NONE)
    rule = stack.body["Resources"]["MultusSecurityGroupOfIpv6Peers"]
    assert stack.holds(rule["Condition"]) == bool(given)
    assert stack.resolve(rule["Properties"]["CidrIpv6"]) == given.get("PeerIpv6Cidr", "")
    let_out = stack.property("MultusSecurityGroup", "SecurityGroupEgress")
    assert [rule.get("CidrIp", rule.get("CidrIpv6")) for rule in let_out] == ["0.0.0.0/0", "::/0"]


@pytest.mark.parametrize("name", V6)
def test_its_parameters_take_cidrs(name: str) -> None:
    pattern = template("network.yaml")["Parameters"][name]["AllowedPattern"]
    assert re.fullmatch(pattern, V6[name])
    assert re.fullmatch(pattern, "")
    assert not re.fullmatch(pattern, "10.10.11.0/24")


# The words -----------------------------------------------------------------------------------------------------------


def test_the_readmes_commands_deploy_the_templates(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", (CFN / "README.md").read_text(), re.S | re.M)
    (tmp_path / "aws").write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> {tmp_path}/did\necho "value"\n')
    (tmp_path / "aws").chmod(0o755)
    done = run("set -eu\n" + "\n".join(blocks), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    did = (tmp_path / "did").read_text().splitlines()
    deployed = [line for line in did if line.startswith("cloudformation deploy")]
    for name, line in zip(["network", "iam", "nodegroup"], deployed, strict=True):
        parameters = template(f"{name}.yaml")["Parameters"]
        given = set(re.findall(r" ([A-Z]\w+)=", line.partition("--parameter-overrides")[2]))
        assert f"--template-file cfn/{name}.yaml " in line
        assert {key for key, value in parameters.items() if "Default" not in value} <= given <= set(parameters)
    outputs = {each for name in TEMPLATES for each in template(name)["Outputs"]}
    assert set(re.findall(r"OutputKey=='(\w+)'", "\n".join(did))) <= outputs
    assert sum("delete-stack" in line for line in did) == 3


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_parameter_is_described_and_grouped(name: str) -> None:
    body = template(name)
    groups = body["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(each for group in groups for each in group["Parameters"]) == sorted(body["Parameters"])
    assert all(each["Description"] for each in body["Parameters"].values())
