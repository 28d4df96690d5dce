"""Which manifests are run, with which networks and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.manifests import CONFIGMAPS, ROOT, SAMPLES, Objects, is_ours, kustomized, networks_of, read
from tests.e2e.stage import Case

PREDECESSORS = Path(__file__).with_name("predecessors")
SPARE = {"nonvpc": "b", "vpc": "b", "subnet": "c"}
"""Where a pod goes next: to the other zone, or within the subnet where an address cannot leave it."""
EXAMPLE = SAMPLES / "kustomize" / "example"


def cases(skipped: list[str]) -> Iterator[Case]:
    """All of them; `skipped` gets what cannot be run here."""
    for pattern in CONFIGMAPS:
        for name in ("deployment-sidecar.yaml", "deployment-init.yaml"):
            yield _deployment(SAMPLES / name, pattern)
    yield _deployment(SAMPLES / "deployment-sidecar-container.yaml", "nonvpc")
    yield _not_root(_deployment(SAMPLES / "deployment-sidecar.yaml", "nonvpc"))
    yield _not_root(_deployment(SAMPLES / "deployment-init.yaml", "subnet"))
    yield _statefulset("statefulset-sidecar.yaml", "nonvpc", ("a", "b"), "b", moving="192.168.0.2")
    yield _statefulset("statefulset-init.yaml", "subnet", ("a", "c"), "d")
    skipped.append("samples/statefulset-init.yaml: 2 of its 3 pods, so that a worker is left for the failover")
    skipped.append("nad/: definitions that no sample's pod names (IPv6, dual, static, host-device)")
    for path in sorted(PREDECESSORS.glob("*.yaml")):
        yield _deployment(path, "nonvpc")
    found = kustomized(EXAMPLE)
    if found is None:
        skipped.append("samples/kustomize/example: neither kubectl nor kustomize is installed (make kustomize)")
    else:
        found.networks = read(networks_of("nonvpc")).networks
        yield Case(f"kustomize build {EXAMPLE.relative_to(ROOT)}: web", found, "web")


def _deployment(path: Path, pattern: str) -> Case:
    return Case(_title(path, pattern), _objects(path, pattern), _name(path), spare=SPARE[pattern])


def _not_root(case: Case) -> Case:
    """The same with the image's own user instead of root, and everything else as it is."""
    for workload in case.objects.workloads:
        pod = workload["spec"]["template"]["spec"]
        for container in filter(is_ours, (*pod.get("initContainers", ()), *pod["containers"])):
            container["securityContext"].pop("runAsUser", None)
            container["securityContext"]["runAsNonRoot"] = True
    return dataclasses.replace(case, title=f"{case.title}, but not as root")


def _statefulset(name: str, pattern: str, homes: tuple[str, ...], spare: str, moving: str = "") -> Case:
    path = SAMPLES / name
    return Case(_title(path, pattern), _objects(path, pattern), _name(path), homes, spare, moving)


def _objects(path: Path, pattern: str) -> Objects:
    return read([path, SAMPLES / CONFIGMAPS[pattern], *networks_of(pattern)])


def _name(path: Path) -> str:
    (workload,) = read([path]).workloads
    return str(workload["metadata"]["name"])


def _title(path: Path, pattern: str) -> str:
    return f"{path.relative_to(ROOT)} with nad/{pattern} and samples/{CONFIGMAPS[pattern]}"
