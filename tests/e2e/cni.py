"""Multus' part: calls a NetworkAttachmentDefinition's CNI plugin, as the specification says, in a worker's namespace.

https://www.cni.dev/docs/spec/ (1.0.0). Where something is not to be had here, something else stands in, and `notes` say
so: host-device (the ENI itself moves into the pod) for ipvlan where the kernel has none; static for whereabouts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from lab import links
from lab.hosts import Worker
from lab.mounts import bind_in_private
from lab.netns import Namespace

FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
"""Where Debian, Kubernetes' nodes and Fedora have the plugins."""
RECORDS = Path("/var/lib")
"""Below it host-local keeps what it has given away: of each worker its own."""


class CniError(RuntimeError):
    """A plugin has refused; the text is what it said."""


def plugins() -> Path:
    """The folder of the CNI plugins. Raises CniError."""
    for folder in FOLDERS:
        if Path(folder, "host-local").exists():
            return Path(folder)
    raise CniError("no CNI plugins: apt-get install containernetworking-plugins")


def substituted(network: Mapping[str, Any], number: int, notes: set[str]) -> dict[str, Any]:
    """The configuration as it can be carried out here. `number`: which pod of its workload, from 0."""
    config = dict(network)
    if config["type"] == "ipvlan" and not links.has_ipvlan():
        notes.add("this kernel has no ipvlan: host-device moves the ENI itself into the pod")
        config = {"cniVersion": config["cniVersion"], "name": config["name"], "type": "host-device"}
        config |= {"device": network["master"], "ipam": network["ipam"]}
    if config["ipam"]["type"] == "whereabouts":
        notes.add("whereabouts is no package of Debian: static gives each pod the next address of its pool")
        ipam = config["ipam"]
        config["ipam"] = {
            "type": "static",
            "addresses": [_from_pool(each, number) for each in ipam.get("ipRanges", [ipam])],
        }
    return config


def _from_pool(pool: Mapping[str, str], number: int) -> dict[str, str]:
    address = f"{ip_address(pool['range_start']) + number}/{ip_network(pool['range']).prefixlen}"
    return {"address": address} | ({"gateway": pool["gateway"]} if "gateway" in pool else {})


class Attachment:
    """An interface that a plugin has made in a pod. `addresses` are without their length."""

    def __init__(self, worker: Worker, pod: Namespace, name: str, config: Mapping[str, Any], records: Path) -> None:
        """Make it. Raises CniError."""
        self.name = name
        self._worker, self._pod, self._config, self._records = worker, pod, config, records
        result = json.loads(self._call("ADD"))
        self.addresses = [each["address"].partition("/")[0] for each in result.get("ips", ())]

    def delete(self) -> None:
        """Take it away again. Raises CniError."""
        self._call("DEL")

    def _call(self, command: str) -> str:
        folder = plugins()
        argv = [shutil.which(self._config["type"], path=str(folder)) or self._config["type"]]
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self._pod.name,
            "CNI_NETNS": f"/proc/{os.getpid()}/fd/{self._pod.fileno()}",
            "CNI_IFNAME": self.name,
            "CNI_PATH": str(folder),
        }
        process = self._worker.popen(
            argv,
            env=environment,
            prepare=self._own_records(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = str(process.communicate(json.dumps(self._config), timeout=30)[0])
        if process.returncode != 0:
            raise CniError(f"{argv[0]} {command}: {said}")
        return said

    def _own_records(self) -> Callable[[], None]:
        self._records.mkdir(exist_ok=True)
        return bind_in_private(self._records, RECORDS)
