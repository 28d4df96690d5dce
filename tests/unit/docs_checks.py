"""What a command in a document names (files, objects, options, settings): a check fails where it is not there."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import yaml
from botocore import xform_name

from tests.unit import docs_kubectl
from tests.unit.docs_commands import ROOT, SUBSTITUTED, Block, blocks
from vipmanager import __version__, arguments, config
from vipmanager.manifest import read_configmap

Check = Callable[[list[str], Block], None]


def vipmanager_words(words: list[str], block: Block) -> None:
    """They parse, and the ConfigMap is one that vipmanager takes."""
    if words[1:] in (["--version"], ["--help"]):
        return
    configmap = arguments.parse(words[1:]).configmap
    if configmap and configmap not in made_by(block.document):
        assert config.load(read_configmap(str(ROOT / configmap))).warnings == ()


def kubectl_words(words: list[str], block: Block) -> None:
    """Verb and options are kubectl's; files, objects, containers and labels exist where the command looks for them."""
    command = docs_kubectl.read(words)
    docs_kubectl.check_objects(command, node_labels())
    docs_kubectl.check_containers(command)
    for path in docs_kubectl.files_of(command):
        assert (ROOT / path).exists() or str(path) in made_by(block.document), path
    if command.inside[:1] == ["vipmanager"]:
        vipmanager_words(command.inside, block)


def aws_words(words: list[str], block: Block) -> None:
    """Service, operation and options exist in botocore's models, what is required is given, and files are there."""
    service, operation = words[1:3]
    given = {word for word in words[3:] if word.startswith("--")}
    for word in words:
        if word.startswith("file://"):
            path = word.removeprefix("file://")
            assert (ROOT / path).is_file() or path in made_by(block.document), word
    if (service, operation) == ("cloudformation", "deploy"):
        deploy_words(words)
    elif (service, operation) in CUSTOM:
        assert given <= CUSTOM[service, operation] | GLOBAL
    else:
        assert given
        possible, required = options_of(service, operation, words[3])
        extra = EXTRA.get(operation, frozenset())
        assert given <= possible | extra | GLOBAL, given - possible
        assert extra or required <= given, required - given


GLOBAL = frozenset(("--query", "--output", "--region"))
CUSTOM = {
    ("ecr", "get-login-password"): frozenset[str](),
    ("eks", "update-kubeconfig"): frozenset(("--name", "--alias", "--kubeconfig")),
    ("ec2-instance-connect", "ssh"): frozenset(("--instance-id", "--connection-type")),
    ("logs", "tail"): frozenset(("--since", "--follow")),
}
"""Commands of the AWS CLI that are no operations of AWS, and their options."""
EXTRA = {
    "run-instances": frozenset(("--count",)),
    "authorize-security-group-ingress": frozenset(("--protocol", "--port", "--cidr")),
}
"""Options of the AWS CLI's own, which stand for others."""


@functools.cache
def options_of(service: str, operation: str, waiter: str) -> tuple[set[str], set[str]]:
    """The options that the operation (or waiter) can have, and must have."""
    session = botocore.session.get_session()
    model = session.get_service_model(service)
    if operation == "wait":
        waiters = session.get_waiter_model(service)
        name = {xform_name(each, "-"): waiters.get_waiter(each).operation for each in waiters.waiter_names}[waiter]
    else:
        name = {xform_name(each, "-"): each for each in model.operation_names}[operation]
    shape = model.operation_model(name).input_shape
    members = {each: f"--{xform_name(each, '-')}" for each in shape.members}
    return set(members.values()), {members[each] for each in shape.required_members}


def deploy_words(words: list[str]) -> None:
    """The template is there, knows each parameter, and lacks none that has no default."""
    given = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]\w+=", word))
    template = template_of(words[words.index("--template-file") + 1])
    stack = words[words.index("--stack-name") + 1]
    assert STACKS[stack] == words[words.index("--template-file") + 1]
    assert set(given) <= set(template["Parameters"])
    assert {name for name, each in template["Parameters"].items() if "Default" not in each} <= set(given)
    for name, value in given.items():
        pattern = template["Parameters"][name].get("AllowedPattern")
        if pattern and "$" not in value and SUBSTITUTED not in value:
            assert re.fullmatch(pattern, value), name


STACKS = {"multus-network": "cfn/network.yaml", "multus-iam": "cfn/iam.yaml", "multus-nodes": "cfn/nodegroup.yaml"}


class _Tags(yaml.SafeLoader):
    """CloudFormation's own tags say nothing here."""


_Tags.add_multi_constructor("!", lambda loader, suffix, node: None)


@functools.cache
def template_of(path: str) -> dict[str, Any]:
    """A CloudFormation template."""
    return dict(yaml.load((ROOT / path).read_text(), Loader=_Tags))


def echo_words(words: list[str], block: Block) -> None:
    """A command to be pasted elsewhere is one that aws_words takes."""
    if words[1].startswith("aws "):
        aws_words(words[1].split(), block)


def output_words(words: list[str], block: Block) -> None:
    """`output STACK NAME`: an output of that stack's template."""
    _, stack, name = words
    assert name in template_of(STACKS[stack])["Outputs"]


def describe_words(words: list[str], block: Block) -> None:
    """`describe PATH`: what DescribeCluster says of a cluster."""
    model = botocore.session.get_session().get_service_model("eks")
    shape = model.operation_model("DescribeCluster").output_shape.members["cluster"]
    for name in re.sub(r"\[\d\]", "", words[1]).split("."):
        shape = shape.members[name]


def sed_words(words: list[str], block: Block) -> None:
    """The files to be edited exist."""
    for name in words[3:] if words[1] == "-i" else ():
        assert name == SUBSTITUTED or list(ROOT.glob(name)), name


def python_words(words: list[str], block: Block) -> None:
    """A module or a script of this repository, or one that makes virtual environments."""
    if words[1] == "-m":
        path = ROOT / words[2].replace(".", "/")
        assert words[2] == "venv" or (path / "__main__.py").is_file() or path.with_suffix(".py").is_file(), words
    else:
        assert (ROOT / words[1]).is_file()


def make_words(words: list[str], block: Block) -> None:
    """The target and its variables exist."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
    for word in words[2:]:
        assert re.search(rf"^{word.split('=')[0]} \?=", makefile, re.MULTILINE), word


def image_words(words: list[str], block: Block) -> None:
    """docker: an image has the present version."""
    for version in re.findall(r"/vipmanager:(\S+)", " ".join(words)):
        assert version in (__version__, "VERSION")


def anything(words: list[str], block: Block) -> None:
    """A program that has nothing of ours in its words."""


CHECKS: dict[str, Check] = {
    "vipmanager": vipmanager_words,
    "kubectl": kubectl_words,
    "aws": aws_words,
    "echo": echo_words,
    "output": output_words,
    "describe": describe_words,
    "sed": sed_words,
    "python": python_words,
    "python3": python_words,
    "make": make_words,
    "docker": image_words,
    **dict.fromkeys(
        (
            ".",
            "apt-get",
            "cat",
            "cd",
            "cp",
            "curl",
            "cut",
            "eksctl",
            "export",
            "grep",
            "ip",
            "ping",
            "pip",
            "private",
            "rm",
        ),
        anything,
    ),
}


def node_labels() -> frozenset[str]:
    """The labels of the nodes of cfn/."""
    return frozenset(template_of("cfn/nodegroup.yaml")["Parameters"]["NodeLabels"]["Default"].split(","))


def made_by(document: Path) -> set[str]:
    """Files that a document's own commands write."""
    return {name for block in blocks(document) for name in block.made}
