"""What a command in a document names (files, objects, options, settings): a check fails where it is not there."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import yaml
from botocore import xform_name

from tests.unit.docs_commands import ROOT, SUBSTITUTED, Block, blocks
from tests.unit.manifests import NAD, SAMPLES, Manifest, below
from vipmanager import __version__, arguments, config
from vipmanager.manifest import read_configmap

Check = Callable[[list[str], Block], None]

MANIFESTS = [*below(SAMPLES), *below(NAD)]


def vipmanager_words(words: list[str], block: Block) -> None:
    """They parse, and the ConfigMap is one that vipmanager takes."""
    if words[1:] in (["--version"], ["--help"]):
        return
    configmap = arguments.parse(words[1:]).configmap
    if configmap:
        assert config.load(read_configmap(str(ROOT / configmap))).warnings == ()


def kubectl_words(words: list[str], block: Block) -> None:
    """Files, objects, containers and labels exist."""
    own, _, inside = " ".join(words).partition(" -- ")
    options = own.split()
    for option, value in itertools.pairwise(options):
        if option == "-f" and not value.startswith("https://"):
            assert (ROOT / value).is_file() or value in made_by(block.document), value
        elif option in ("-l", "--selector"):
            assert value in labels(), value
        elif option in ("-c", "--container"):
            assert value in {each["name"] for workload in workloads_of(options) for each in workload.containers}
    for kind, name in re.findall(r" (deployment|statefulset|configmap)[/ ]([\w-]+)(?= |$)", own):
        assert named(kind, name), own
    if namespace := re.search(r" -n ([\w-]+)", own):
        assert namespace[1] in {
            "kube-system",
            *(each.content.get("metadata", {}).get("namespace") for each in MANIFESTS),
        }
    if inside.startswith("vipmanager"):
        vipmanager_words(inside.split(), block)


def aws_words(words: list[str], block: Block) -> None:
    """Service, operation and options exist in botocore's models, what is required is given, and files are there."""
    service, operation = words[1:3]
    given = {word for word in words[3:] if word.startswith("--")}
    for word in words:
        if word.startswith("file://"):
            assert word.removeprefix("file://") in made_by(block.document), word
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
    ("ec2-instance-connect", "ssh"): frozenset(("--instance-id", "--connection-type")),
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
        assert words[2] in ("venv", "lab.chaos", "lab.demo", "tests.e2e"), words
        assert (
            words[2] == "venv"
            or list(ROOT.glob(f"{words[2].replace('.', '/')}*/__main__.py"))
            or (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
        )
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
    "output": output_words,
    "describe": describe_words,
    "sed": sed_words,
    "python": python_words,
    "python3": python_words,
    "make": make_words,
    "docker": image_words,
    **dict.fromkeys(
        (".", "apt-get", "cat", "cd", "cp", "eksctl", "export", "grep", "ip", "ping", "pip", "private", "rm"), anything
    ),
}


def made_by(document: Path) -> set[str]:
    """Files that a document's own commands write."""
    return {name for block in blocks(document) for name in block.made}


def named(kind: str, name: str) -> list[Manifest]:
    """The objects of the samples with that kind and name."""
    return [each for each in MANIFESTS if (each.kind.lower(), each.name) == (kind, name)]


def labels() -> set[str]:
    """The labels that pods of the samples, and nodes of cfn/, have."""
    templates = [
        each.content["spec"]["template"]["metadata"]
        for each in MANIFESTS
        if each.kind in ("Deployment", "StatefulSet") and "metadata" in each.content["spec"]["template"]
    ]
    found = {f"{key}={value}" for each in templates for key, value in each.get("labels", {}).items()}
    return {*found, *template_of("cfn/nodegroup.yaml")["Parameters"]["NodeLabels"]["Default"].split(",")}


def workloads_of(words: list[str]) -> list[Manifest]:
    """The workload whose pod `kubectl exec` or `logs` names: by its own name, or a StatefulSet's pod by its number."""
    for word in words:
        if match := re.fullmatch(r"(deployment|statefulset)/([\w-]+)|([a-z]+)-\d", word):
            return named(match[1], match[2]) if match[1] else named("statefulset", match[3])
    raise AssertionError(words)
