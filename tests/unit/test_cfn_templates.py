"""The CloudFormation templates: linted, in step with lambda/ and vipmanager, and what the nodes are told."""

from __future__ import annotations

import email
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cfnlint.api import lint

from cfn import embed
from tests.contract.cfn_support import CFN, Stack, template
from vipmanager import iam
from vipmanager.config import load

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
def test_vipmanager_may_do_what_iam_policy_prints(mode: str) -> None:
    policy = of_iam(Mode=mode).property("VipmanagerPolicy", "PolicyDocument")
    assert policy == iam.policy(load({}), mode, SCOPE)


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


def parts(**given: Any) -> list[tuple[str, str]]:
    """The user data's parts: content type and text."""
    message = email.message_from_string(launch(**given)["UserData"])
    assert message.is_multipart()
    return [(part.get_content_type(), str(part.get_payload())) for part in message.get_payload()]


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


@pytest.mark.parametrize(("given", "kubelet"), [({}, {}), ({"MaxPods": "44"}, {"maxPods": 44})])
def test_nodeadm_is_told_of_the_cluster(given: dict[str, str], kubelet: dict[str, int]) -> None:
    kind, text = parts(**given)[0]
    assert kind == "application/node.eks.aws"
    assert yaml.safe_load(text) == {
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {
            "cluster": {
                "name": "lab",
                "apiServerEndpoint": "https://lab.eks.amazonaws.com",
                "certificateAuthority": "Q0E=",
                "cidr": "10.100.0.0/16",
            },
            "kubelet": {"flags": ["--node-labels=multus=true"], "config": kubelet},
        },
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


IMDS = {"02:00:00:00:00:05": "0", "02:00:00:00:00:06": "1", "02:00:00:00:00:07": "2"}
LINKS = {"ens5": "02:00:00:00:00:05", "ens6": "02:00:00:00:00:07", "ens7": "02:00:00:00:00:06"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A place for stand-ins of the programs that the nodes' script calls; what it did is in `did`."""
    programs = {
        # Answers as IMDSv2: by the URL's end, and nothing without the token.
        "curl": 'case "$*" in *"PUT"*) echo token; exit;; *"-token: token"*) ;; *) exit 22;; esac\n'
        'case "${*: -1}" in\n'
        + "".join(f"*/{mac}/device-number) printf {index} ;;\n" for mac, index in IMDS.items())
        + "*/macs/) printf '"
        + "".join(f"{mac}/\\n" for mac in IMDS)
        + "' ;;\n*) exit 22 ;;\nesac\n",
        "ip": 'case "$*" in "-o link")\n'
        + "".join(
            f'echo "{number}: {name}: <BROADCAST> mtu 1500 state DOWN \\    link/ether {mac} brd ff:ff:ff:ff:ff:ff"\n'
            for number, (name, mac) in enumerate(LINKS.items(), 2)
        )
        + f'exit;; esac\necho "ip $*" >> {tmp_path}/did\n',
        "networkctl": f'echo "networkctl $*" >> {tmp_path}/did\n',
        "sleep": "exit 0\n",
    }
    (tmp_path / "bin").mkdir()
    (tmp_path / "network").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    yield tmp_path


def boot(node: Path, patience: int = 600, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run the nodes' script with the stand-ins, and folders of its own; `patience` (s) in place of its own."""
    kind, script = parts(**given)[1]
    assert kind == "text/x-shellscript"
    assert "-lt 600" in script
    text = script.replace("/etc/systemd/network", str(node / "network")).replace("-lt 600", f"-lt {patience}")
    return run(text, node / "bin")


def run(text: str, programs: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of bash's, with these programs before the system's."""
    path = f"{programs}:{os.environ['PATH']}"
    command = ["bash", "-c", text]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False)


def test_the_enis_are_named_by_device_index(node: Path) -> None:
    done = boot(node)
    assert (done.returncode, done.stderr) == (0, "")
    assert (node / "did").read_text().splitlines() == [
        "ip link set dev ens7 down",
        "ip link set dev ens7 name eth1",
        "ip link set dev eth1 mtu 9001 up",
        "ip link set dev ens6 down",
        "ip link set dev ens6 name eth2",
        "ip link set dev eth2 mtu 9001 up",
        "networkctl reload",
    ]
    files = {path.name: path.read_text() for path in (node / "network").iterdir()}
    assert files["10-multus-eth1.link"] == "[Match]\nPermanentMACAddress=02:00:00:00:00:06\n[Link]\nName=eth1\n"
    assert "PermanentMACAddress=02:00:00:00:00:07\n" in files["10-multus-eth2.network"]
    assert "\n[Network]\nDHCP=no\n" in files["10-multus-eth2.network"]
    assert len(files) == 4


def test_a_node_says_which_eni_it_missed(node: Path) -> None:
    done = boot(node, patience=0, MultusSubnetsA=[*SUBNETS, "subnet-3"])
    assert (done.returncode, done.stderr) == (1, "no ENI at device index 3\n")


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
