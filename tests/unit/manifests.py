"""The manifests of samples/ and nad/, as the tests read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import yaml

from vipmanager import __version__
from vipmanager.model import Address, Network, PlacementKind

ROOT = Path(__file__).resolve().parents[2]
SAMPLES, NAD = ROOT / "samples", ROOT / "nad"
IMAGE = f"ACCOUNT.dkr.ecr.REGION.amazonaws.com/vipmanager:{__version__}"
REGISTRY = r"[\w.]+\.dkr\.ecr\.[\w-]+\.amazonaws\.com"
"""A registry of ECR."""
KUSTOMIZE_KINDS = ("Component", "Kustomization")
OPERATOR_GROUP = "monitoring.coreos.com/v1"
"""Of the Prometheus operator's resources, which have no schema in Kubernetes' own API."""
WORKLOADS = ("Deployment", "StatefulSet")
KINDS = {
    "nonvpc": PlacementKind.HOST_ROUTE,
    "vpc": PlacementKind.SUBNET_ROUTE,
    "subnet": PlacementKind.ENI_ADDRESS,
}
"""The folders of nad/, and the placement of their addresses."""
PATTERNS = tuple(KINDS)
CONFIGMAPS = {"nonvpc": "vipmanager-cm.yaml", "vpc": "vipmanager-cm-vpc.yaml", "subnet": "vipmanager-cm-subnet.yaml"}
"""The ConfigMap of each, in samples/."""
VERSIONS = ("1.36", "1.37")
"""Kubernetes' current minor versions, whose schemas are checked."""
NETWORKS = "k8s.v1.cni.cncf.io/networks"


@dataclass(frozen=True)
class Manifest:
    """One object of a file."""

    path: Path
    content: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.kind}/{self.name}"

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.content["kind"])

    @property
    def name(self) -> str:
        """Its name; a kustomization has none."""
        return str(self.content.get("metadata", {}).get("name", ""))

    @property
    def namespace(self) -> str:
        """Where it is; empty: wherever it is applied."""
        return str(self.content["metadata"].get("namespace", ""))

    @property
    def pod(self) -> dict[str, Any]:
        """The pod of a workload."""
        return dict(self.content["spec"]["template"]["spec"])

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All containers of a workload's pod, init containers first."""
        return [*self.pod.get("initContainers", ()), *self.pod.get("containers", ())]

    @property
    def vipmanager(self) -> dict[str, Any]:
        """The one container of ours."""
        (found,) = (each for each in self.containers if each["name"] == "vipmanager")
        return dict(found)

    @property
    def networks(self) -> list[str]:
        """The NetworkAttachmentDefinitions that a workload's pod asks for."""
        said = self.content["spec"]["template"]["metadata"].get("annotations", {}).get(NETWORKS, "")
        return [name.strip() for name in said.split(",") if name.strip()]

    @property
    def network(self) -> dict[str, Any]:
        """The CNI configuration in a NetworkAttachmentDefinition."""
        return dict(json.loads(self.content["spec"]["config"]))

    @property
    def pattern(self) -> str:
        """The folder of a NetworkAttachmentDefinition."""
        return self.path.parent.name


def read(path: Path) -> list[Manifest]:
    """The objects of a file."""
    return [Manifest(path, content) for content in yaml.safe_load_all(path.read_text())]


def parse(text: str, path: Path) -> list[Manifest]:
    """The objects of a text, such as a tool prints."""
    return [Manifest(path, content) for content in yaml.safe_load_all(text)]


def below(folder: Path) -> list[Manifest]:
    """The objects of all files below a folder. Prometheus' own rule files are no objects."""
    found = []
    for path in sorted(folder.glob("**/*.yaml")):
        found += [each for each in read(path) if "kind" in each.content]
    return found


@dataclass(frozen=True)
class Place:
    """Whose registry it is, and where."""

    account: str
    region: str

    @property
    def registry(self) -> str:
        """The registry's name."""
        return f"{self.account}.dkr.ecr.{self.region}.amazonaws.com"


OTHERS = Place("998877665544", "eu-south-2")
"""An account and a region that no file names."""


def edited(folder: Path) -> Path:
    """A copy of samples/ in a folder, after the two edits of its README, for the account and region of OTHERS."""
    (command,) = re.findall(r"^sed -i 's/ACCOUNT.*$", (SAMPLES / "README.md").read_text(), re.MULTILINE)
    command = re.sub(r"ACCOUNT/\d{12}/", f"ACCOUNT/{OTHERS.account}/", command)
    command = re.sub(r"REGION/[a-z]+-[a-z]+-\d/", f"REGION/{OTHERS.region}/", command)
    copy = shutil.copytree(SAMPLES, folder / "samples")
    subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    return copy


@dataclass(frozen=True)
class Given:
    """The addresses that an IPAM may give, from `first` to `last`, and the network that comes with them."""

    first: Address
    last: Address
    network: Network


def given(ipam: dict[str, Any]) -> Iterator[Given]:
    """What the IPAM part of a CNI configuration gives, one for each address or pool that a pod gets."""
    if ipam["type"] == "static":
        for entry in ipam["addresses"]:
            interface = ip_interface(entry["address"])
            yield Given(interface.ip, interface.ip, interface.network)
    elif ipam["type"] == "host-local":
        for ranges in ipam["ranges"]:
            for each in ranges:
                yield _given(each["subnet"], each["rangeStart"], each["rangeEnd"])
    else:
        for each in ipam.get("ipRanges", [ipam]):
            yield _given(each["range"], each["range_start"], each["range_end"])


def _given(network: str, first: str, last: str) -> Given:
    return Given(ip_address(first), ip_address(last), ip_network(network))


def every(each: Given) -> Iterator[Address]:
    """Each address of a pool."""
    kind: type[IPv4Address] | type[IPv6Address] = IPv4Address if each.network.version == 4 else IPv6Address
    yield from map(kind, range(int(each.first), int(each.last) + 1))
