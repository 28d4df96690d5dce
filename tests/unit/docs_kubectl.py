"""kubectl's words in the documents: verbs, options and kinds are kubectl's, objects are those of the manifests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lab.kube.cluster import LABEL as OF_THE_LAB
from tests.unit.docs_commands import ROOT, SUBSTITUTED
from tests.unit.manifests import NAD, SAMPLES, WORKLOADS, Manifest, below
from vipmanager.config import Config

MANIFESTS = [*below(SAMPLES), *below(NAD)]

EVERYWHERE = "-n= --namespace="
SELECTED = "-l= --selector="
VERBS = {
    "apply": "-f= --filename= -k= --kustomize= --server-side --dry-run=",
    "cordon": SELECTED,
    "debug": "-c= --container= --image= -i -t -it --target=",
    "delete": f"-f= --filename= -k= --kustomize= {SELECTED} --ignore-not-found --wait= --timeout=",
    "describe": SELECTED,
    "drain": f"{SELECTED} --ignore-daemonsets --delete-emptydir-data --timeout=",
    "exec": "-c= --container= -i -t -it",
    "get": f"{SELECTED} -o= --output= -A --all-namespaces -w --watch --field-selector= -L= --label-columns= --sort-by=",
    "kustomize": "",
    "logs": f"{SELECTED} -c= --container= -f --follow -p --previous --prefix --since= --tail=",
    "patch": "--local -f= --filename= -o= --output= -p= --patch= --type=",
    "rollout restart": SELECTED,
    "rollout status": "--timeout=",
    "set env": SELECTED,
    "set image": SELECTED,
    "set resources": f"{SELECTED} -c= --containers= --limits= --requests=",
    "uncordon": SELECTED,
    "wait": f"{SELECTED} --for= --timeout= -f= --filename=",
}
"""What the documents may use; test_docs_checkers.py compares it with `kubectl VERB --help`. `=`: has a value."""

KINDS = {
    "configmap": "configmap",
    "crd": "customresourcedefinition",
    "daemonset": "daemonset",
    "deploy": "deployment",
    "deployment": "deployment",
    "event": "event",
    "lease": "lease",
    "namespace": "namespace",
    "node": "node",
    "pod": "pod",
    "serviceaccount": "serviceaccount",
    "statefulset": "statefulset",
}
"""Kinds by their names in a command; a plural `s` goes first."""

OTHERS = {
    ("daemonset", "aws-node"): "kube-system",
    ("daemonset", "kube-multus-ds"): "kube-system",
    ("daemonset", "whereabouts"): "kube-system",
    ("lease", Config().lease_name): "vipmanager",
}
"""Objects that no manifest here has, and their namespaces: EKS', Multus', whereabouts', and the Lease of nodeport."""

OF_NODES = ("cordon", "drain", "uncordon")

PLACEHOLDER = re.compile(rf"[A-Z_]+|.*\$.*|.*{SUBSTITUTED}.*")
"""A name that the reader, or another command, puts in."""


@dataclass
class Command:
    """What a kubectl command says."""

    verb: str
    operands: list[str] = field(default_factory=list)
    options: list[tuple[str, str]] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)
    """What follows `--`, and is run in a container."""

    def values(self, *names: str) -> list[str]:
        """The values of these options."""
        return [value for name, value in self.options if name in names]

    @property
    def namespace(self) -> str:
        """Where it looks; empty: where the reader's context says."""
        return next(iter(self.values("-n", "--namespace")), "")

    @property
    def objects(self) -> list[tuple[str, str]]:
        """Kind and name of what it is about; the name is empty where it is about all of the kind."""
        if self.verb in OF_NODES:
            return [("node", name) for name in self.operands]
        if self.verb == "kustomize":
            return []
        names = [word for word in self.operands if "=" not in word]
        if not names or "/" in names[0]:
            found = [(kind_of(kind), name) for kind, name in (word.split("/") for word in names)]
        elif self.verb in ("debug", "exec", "logs"):
            found = [("pod", names[0])]
        else:
            found = [(kind_of(names[0]), name) for name in names[1:] or [""]]
        return found


def kind_of(word: str) -> str:
    """The kind that a command names. Raises KeyError."""
    return KINDS[word.removesuffix("s")]


def read(words: list[str]) -> Command:
    """Take a command apart. Raises AssertionError where kubectl has no such verb, or the verb no such option."""
    rest = words[1:]
    inside: list[str] = []
    if "--" in rest:
        at = rest.index("--")
        rest, inside = rest[:at], rest[at + 1 :]
    options, operands = _split(rest)
    two = " ".join(operands[:2])
    verb = two if two in VERBS else next(iter(operands), "")
    assert verb in VERBS, f"kubectl has no {verb!r}, or docs_kubectl.py does not know it"
    possible = known_options(verb)
    for name, _ in options:
        assert name in possible, f"kubectl {verb} has no {name}"
    return Command(verb, operands[len(verb.split()) :], options, inside)


def known_options(verb: str) -> set[str]:
    """The options that a verb can have."""
    return {each.rstrip("=") for each in f"{VERBS[verb]} {EVERYWHERE}".split()}


def _split(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Options with their values, and what is left. `-f` and `-p` have a value except with `logs`."""
    valued = {
        each.rstrip("=") for verb in VERBS.values() for each in [*verb.split(), *EVERYWHERE.split()] if "=" in each
    }
    if "logs" in words:
        valued -= {"-f", "-p"}
    options: list[tuple[str, str]] = []
    operands: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            operands.append(word)
        elif equals or name not in valued:
            options.append((name, value))
        else:
            options.append((name, next(rest)))
    return options, operands


def check_objects(command: Command, node_labels: frozenset[str]) -> None:
    """Objects and labels are there, in the namespace that the command looks into. Raises AssertionError."""
    everywhere = any(name in ("-A", "--all-namespaces") for name, _ in command.options)
    for kind, name in command.objects:
        if name and not PLACEHOLDER.fullmatch(name):
            _in(command, namespaces_of(kind, name), everywhere, f"{kind} {name}")
    for value in command.values("-l", "--selector"):
        if command.verb in OF_NODES or ("node", "") in command.objects:
            assert value in node_labels, f"no node has {value}"
        else:
            _in(command, labels().get(value), everywhere, value)
    _check_namespace(command)


def _check_namespace(command: Command) -> None:
    """It is one that there is, or the reader's; with files, one that they do not contradict."""
    given = command.namespace
    if not given or PLACEHOLDER.fullmatch(given):
        return
    paths = [ROOT / path for path in files_of(command)]
    told = {each.namespace for each in MANIFESTS if _namespaced(each) and {each.path, *each.path.parents} & {*paths}}
    if paths:
        assert told <= {"", given}, f"the objects are in {told}, not in {given!r}"
    else:
        known = {"kube-system", *(each.namespace for each in MANIFESTS if _namespaced(each))}
        assert given in known, f"no manifest has the namespace {given!r}"


def _in(command: Command, namespaces: set[str] | None, everywhere: bool, what: str) -> None:
    assert namespaces, f"{what} is nowhere"
    elsewhere = everywhere or PLACEHOLDER.fullmatch(command.namespace)
    assert elsewhere or command.namespace in namespaces, f"{what} is in {namespaces}, not in {command.namespace!r}"


def _namespaced(each: Manifest) -> bool:
    return "metadata" in each.content


def namespaces_of(kind: str, name: str) -> set[str]:
    """Where an object of that kind and name is; empty: in the reader's own namespace."""
    if kind == "pod":
        return {each.namespace for each in _pods(name)}
    found = {
        each.namespace for each in MANIFESTS if _namespaced(each) and (each.kind.lower(), each.name) == (kind, name)
    }
    return found | ({OTHERS[kind, name]} if (kind, name) in OTHERS else set())


def _pods(name: str) -> Iterator[Manifest]:
    """The StatefulSets that have a pod of that name. A Deployment's pods have names that no document can know."""
    owner, _, number = name.rpartition("-")
    for each in MANIFESTS:
        if (each.kind, each.name) == ("StatefulSet", owner) and number.isdecimal():
            yield from [each] if int(number) < each.content["spec"]["replicas"] else []


def labels() -> dict[str, set[str]]:
    """The labels of the manifests' pods, of kube-proxy's, and of the lab's in a cluster; and their namespaces."""
    found = {"k8s-app=kube-proxy": {"kube-system"}} | {f"{key}={value}": {""} for key, value in OF_THE_LAB.items()}
    for each in MANIFESTS:
        if each.kind in WORKLOADS:
            for key, value in each.content["spec"]["template"].get("metadata", {}).get("labels", {}).items():
                found.setdefault(f"{key}={value}", set()).add(each.namespace)
    return found


def containers_of(command: Command) -> list[list[str]]:
    """The names of the containers of each workload that the command may mean, in the order of the manifest."""
    workloads: list[Manifest] = []
    for kind, name in command.objects:
        if name and not PLACEHOLDER.fullmatch(name):
            named = [each for each in MANIFESTS if (each.kind.lower(), each.name) == (kind, name)]
            workloads += [each for each in (_pods(name) if kind == "pod" else named) if each.kind in WORKLOADS]
    if not workloads:
        workloads = [each for each in MANIFESTS if each.kind in WORKLOADS]
    return [[each["name"] for each in workload.containers] for workload in workloads]


def check_containers(command: Command) -> None:
    """`-c NAME` and `NAME=image` are of the workload; without `-c` a command of ours meets our container."""
    every = {name for names in containers_of(command) for name in names}
    for name in command.values("-c", "--container", "--containers"):
        assert name in every, f"no container {name}"
    if command.verb == "set image" and not OTHERS.keys() & set(command.objects):
        for name in (word.partition("=")[0] for word in command.operands if "=" in word):
            assert name in every or PLACEHOLDER.fullmatch(name), f"no container {name}"
    if command.inside[:1] == ["vipmanager"] and not command.values("-c", "--container"):
        workloads = containers_of(command)
        assert all(names == ["vipmanager"] for names in workloads), "which container? Say -c vipmanager"


def files_of(command: Command) -> list[Path]:
    """The files and folders that it reads, other people's (https://…) left out."""
    names = command.values("-f", "--filename", "-k", "--kustomize") if command.verb != "logs" else []
    names += command.operands if command.verb == "kustomize" else []
    return [Path(name) for name in names if not name.startswith("https://")]
