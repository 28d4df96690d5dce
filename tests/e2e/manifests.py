"""What is read from the manifests; nothing in them is changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SAMPLES, NAD = ROOT / "samples", ROOT / "nad"
CONFIGMAPS = {"nonvpc": "vipmanager-cm.yaml", "vpc": "vipmanager-cm-vpc.yaml", "subnet": "vipmanager-cm-subnet.yaml"}
"""The folder of nad/ → the ConfigMap in samples/ that belongs to it, as the README there says."""
WORKLOADS = ("Deployment", "StatefulSet")
NETWORKS = "k8s.v1.cni.cncf.io/networks"


class ManifestError(RuntimeError):
    """A manifest names something that is not there."""


@dataclass
class Objects:
    """The objects of some files, as a cluster would have them after `kubectl apply`."""

    workloads: list[dict[str, Any]] = field(default_factory=list)
    configmaps: dict[str, dict[str, str]] = field(default_factory=dict)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, documents: Iterable[Mapping[str, Any] | None]) -> None:
        """Take the objects of a file."""
        for each in documents:
            if not each or "kind" not in each:
                continue
            name = each.get("metadata", {}).get("name", "")
            if each["kind"] in WORKLOADS:
                self.workloads.append(dict(each))
            elif each["kind"] == "ConfigMap":
                self.configmaps[name] = dict(each.get("data", {}))
            elif each["kind"] == "NetworkAttachmentDefinition":
                self.networks[name] = {"name": name, **json.loads(each["spec"]["config"])}  # as Multus names it


def read(files: Iterable[Path]) -> Objects:
    """The objects of the files."""
    found = Objects()
    for path in files:
        found.add(yaml.safe_load_all(path.read_text()))
    return found


def networks_of(pattern: str) -> list[Path]:
    """The NetworkAttachmentDefinitions of a folder of nad/."""
    return sorted((NAD / pattern).glob("*.yaml"))


def kustomized(folder: Path) -> Objects | None:
    """What `kubectl kustomize` or `kustomize build` makes of a folder; None where there is neither."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    if kustomize := shutil.which("kustomize", path=path):
        command = [kustomize, "build", str(folder)]
    elif kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize", str(folder)]
    else:
        return None
    found = Objects()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found.add(yaml.safe_load_all(done.stdout))
    return found


def wanted_networks(workload: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The networks of a workload's pods: the interface's name, the definition's. `namespace/name@interface` or JSON."""
    said = workload["spec"]["template"]["metadata"].get("annotations", {}).get(NETWORKS, "").strip()
    if said.startswith("["):
        entries = [(each.get("interface", ""), each["name"]) for each in json.loads(said)]
    else:
        entries = []
        for word in filter(None, (word.strip() for word in said.split(","))):
            name, _, interface = word.partition("@")
            entries.append((interface, name.rpartition("/")[2]))
    return [(interface or f"net{number}", name) for number, (interface, name) in enumerate(entries, 1)]


def environment(container: Mapping[str, Any], objects: Objects, fields: Mapping[str, str]) -> dict[str, str]:
    """A container's variables: envFrom, then env. `fields`: what a fieldRef may name. Raises ManifestError."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        name = source["configMapRef"]["name"]
        if name not in objects.configmaps:
            raise ManifestError(f"no ConfigMap {name}")
        found |= objects.configmaps[name]
    for each in container.get("env", ()):
        if "value" in each:
            found[each["name"]] = str(each["value"])
        else:
            found[each["name"]] = fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
    return found


def is_ours(container: Mapping[str, Any]) -> bool:
    """Whether the container's image is vipmanager's, in whatever registry."""
    return re.search(r"(^|/)vipmanager(:|$)", container["image"]) is not None


def memory(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as 128Mi."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i?)?", quantity).groups()  # type: ignore[union-attr]
    factors = {None: 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    return int(number) * factors[unit]
