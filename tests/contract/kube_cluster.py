"""A cluster that others run, with the network around it: real etcd and kube-apiserver in a namespace of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import links
from lab.children import Children
from lab.environment import paths
from lab.kube import apiserver
from lab.kube.apiserver import ApiServer
from lab.kube.cluster import LABEL
from lab.netns import Namespace
from tests.contract.lease_worlds import KubeHost


class Cluster:
    """Its certificate is for 127.0.0.1 alone, so that nobody gets through to it by another name unnoticed."""

    def __init__(self) -> None:
        """Start it. KUBEBUILDER_ASSETS must be set."""
        binaries = apiserver.assets()
        assert binaries is not None
        self.children = Children()
        self.directory = self.children.scratch
        self.ns = Namespace("cluster")
        try:
            links.set_up_host(self.ns)
            self.server = ApiServer(self.ns, self.children, binaries, self.directory, ["127.0.0.1"])
        except BaseException:
            self.close()
            raise
        self.kubeconfig = self.write("kubeconfig", {"tokenFile": self._token().name})

    @property
    def authority(self) -> Path:
        """Its certificate."""
        return self.server.authority

    def write(
        self,
        name: str,
        user: Mapping[str, Any],
        cluster: Mapping[str, Any] | None = None,
        server: str = "https://127.0.0.1:6443",
    ) -> Path:
        """Write a kubeconfig; with relative paths where it is not told otherwise."""
        known = {"certificate-authority": self.authority.name} if cluster is None else cluster
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server, **known}}],
            "users": [{"name": "u", "user": dict(user)}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """Of a process that is to find this cluster, and no binaries."""
        kept = {name: value for name, value in os.environ.items() if name != "KUBEBUILDER_ASSETS"}
        return {**kept, **paths(), "KUBECONFIG": str(kubeconfig or self.kubeconfig)}

    def host(self, kubeconfig: Path | None = None, *, real: bool | None = None) -> KubeHost:
        """A lab's Kubernetes API that is made in this cluster's network."""
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("KUBEBUILDER_ASSETS", raising=False)
            patch.setenv("KUBECONFIG", str(kubeconfig or self.kubeconfig))
            return self.ns.run(lambda: KubeHost(real=real))

    def namespaces(self) -> dict[str, str]:
        """The labs' namespaces and their phases. (Nothing here ends one that is Terminating.)"""
        selector = "%2C".join(f"{key}%3D{value}" for key, value in LABEL.items())
        found = self.server.admin.expect("GET", f"/api/v1/namespaces?labelSelector={selector}")["items"]
        return {each["metadata"]["name"]: each["status"]["phase"] for each in found}

    def close(self) -> None:
        """End it."""
        if hasattr(self, "server"):
            self.server.close()
        self.children.close()
        self.ns.close()

    def _token(self) -> Path:
        path = self.directory / "token"
        path.write_text((self.directory / "users.csv").read_text().partition(",")[0] + "\n")
        return path
