"""Which manifests are run, with which networks and settings."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.manifests import (
    CONFIGMAPS,
    NAD,
    NETWORKS,
    ROOT,
    SAMPLES,
    Objects,
    is_ours,
    kustomized,
    networks_of,
    read,
)
from tests.e2e.stage import Case

PREDECESSORS = Path(__file__).with_name("predecessors")
SPARE = {"nonvpc": "b", "vpc": "b", "subnet": "c"}
"""Where a pod goes next: to the other zone, or within the subnet where an address cannot leave it."""
EXAMPLE = SAMPLES / "kustomize" / "example"
KUSTOMIZED = f"kustomize build {EXAMPLE.relative_to(ROOT)}"
NOT_RUN = {
    "samples/common/serviceaccount-irsa.yaml": "AWS_* variables stand in for the role's token",
    "samples/common/serviceaccount-pod-identity.yaml": "AWS_* variables stand in for the agent",
    "samples/common/poddisruptionbudget.yaml": "nothing drains nodes here",
    "samples/rbac-events.yaml": "the pods' accounts have no token here: no Events",
    "samples/nodeport/rbac.yaml": "its Role is in force in the lab's API; the rest of it is the lab's own",
    "samples/nodeport/service.yaml": "no kube-proxy: a process on each node answers the port",
    "samples/monitoring": "there is no Prometheus operator",
    "nad/vpc/whereabouts.yaml": "its pool has one address, the StatefulSets several pods",
    "nad/*/static.yaml": "no sample's pod names it",
    "nad/*/host-device.yaml": "no sample's pod names it",
    "nad/*/host-local.yaml": "no sample's pod names its IPv6 and dual definitions",
}
"""Of samples/ and nad/, what is not run, and why: checked against schemas and each other only (make test)."""


def cases(skipped: list[str]) -> Iterator[Case]:
    """All of them; `skipped` gets what cannot be run here."""
    for pattern in CONFIGMAPS:
        for name in ("deployment-sidecar.yaml", "deployment-init.yaml"):
            yield _deployment(SAMPLES / name, pattern)
        yield _second_eni(_deployment(SAMPLES / "deployment-sidecar.yaml", pattern))
    yield _deployment(SAMPLES / "deployment-sidecar-container.yaml", "nonvpc")
    yield _as_root(_deployment(SAMPLES / "deployment-sidecar.yaml", "nonvpc"))
    yield _as_root(_deployment(SAMPLES / "deployment-init.yaml", "subnet"))
    yield _statefulset("statefulset-sidecar.yaml", "nonvpc", ("a", "b"), "b", moving="192.168.0.2")
    yield _statefulset("statefulset-init.yaml", "subnet", ("a", "c"), "d")
    skipped.append("samples/statefulset-init.yaml: 2 of its 3 pods, so that a worker is left for the failover")
    yield from _predecessors()
    yield from _kustomized(skipped)
    skipped += [f"{what}: {why}" for what, why in NOT_RUN.items()]


def _predecessors() -> Iterator[Case]:
    """The containers of the documents, on networks of their kind. The address sample's pods only ask each other."""
    networks = PREDECESSORS / "networks.yaml"
    for path in sorted(PREDECESSORS.glob("*init.yaml")) + sorted(PREDECESSORS.glob("*sidecar.yaml")):
        title = f"{path.relative_to(ROOT)} with networks.yaml"
        case = Case(title, read([path, networks]), _name(path))
        if path.name.startswith("address-"):
            case = dataclasses.replace(case, homes=("a", "c"), spare="d", asker="app-1")
        yield case


def _kustomized(skipped: list[str]) -> Iterator[Case]:
    found = kustomized(EXAMPLE)
    if found is None:
        skipped.append(f"{KUSTOMIZED}: neither kubectl nor kustomize is installed (make kustomize)")
        return
    found.networks = read(networks_of("nonvpc")).networks
    yield Case(f"{KUSTOMIZED}: web", found, "web")
    yield Case(f"{KUSTOMIZED}: db", found, "db", ("a", "b"), "c")
    skipped.append(f"{KUSTOMIZED}: batch, which is left without vipmanager")


def _deployment(path: Path, pattern: str) -> Case:
    return Case(_title(path, pattern), _objects(path, pattern), _name(path), spare=SPARE[pattern])


def _second_eni(case: Case) -> Case:
    """The same with two interfaces, as the comment beside the sample's annotation has it."""
    case = dataclasses.replace(copy.deepcopy(case), title=f"{case.title}, nad-if1 and nad-if2")
    for workload in case.objects.workloads:
        workload["spec"]["template"]["metadata"]["annotations"][NETWORKS] = "nad-if1, nad-if2"
    return case


def _as_root(case: Case) -> Case:
    """The same as docs/image.md has it where the runtime or the builder loses file capabilities: runAsUser: 0."""
    case = dataclasses.replace(copy.deepcopy(case), title=f"{case.title}, with runAsUser: 0")
    for workload in case.objects.workloads:
        pod = workload["spec"]["template"]["spec"]
        for container in filter(is_ours, (*pod.get("initContainers", ()), *pod["containers"])):
            container["securityContext"] |= {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False}
    return case


def _statefulset(name: str, pattern: str, homes: tuple[str, ...], spare: str, moving: str = "") -> Case:
    path = SAMPLES / name
    return Case(_title(path, pattern), _objects(path, pattern), _name(path), homes, spare, moving)


def _objects(path: Path, pattern: str) -> Objects:
    return read([path, SAMPLES / CONFIGMAPS[pattern], *networks_of(pattern)])


def _name(path: Path) -> str:
    (workload,) = read([path]).workloads
    return str(workload["metadata"]["name"])


def _title(path: Path, pattern: str) -> str:
    return f"{path.relative_to(ROOT)} with {NAD.name}/{pattern} and samples/{CONFIGMAPS[pattern]}"
