"""The lab's Kubernetes API as the workers have it: an account, a kubeconfig and a way of its own for each."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

from lab import links
from lab.children import Children
from lab.kube import apiserver, cluster, rbac
from lab.kube.apiserver import ApiServer
from lab.kube.backend import SERVER_ADDRESS, Backend
from lab.kube.cluster import ExistingCluster
from lab.kube.incluster import InCluster
from lab.kube.proxy import Faults, Proxies
from lab.kube.server import LeaseServer
from lab.netns import Namespace

_FIRST_PORT = 6501


class LabKube:
    """The API at 100.64.0.2 in a namespace, with a port for each worker.

    It is the real one where $KUBEBUILDER_ASSETS says where the binaries are, else that of the cluster which $KUBECONFIG
    says, else a small test server.
    """

    def __init__(
        self, ns: Namespace, children: Children, workers: Iterable[str] = (), *, real: bool | None = None
    ) -> None:
        """Make it, with these workers. `real`: whether it is a real one, if not by the environment.

        Raises RuntimeError.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="kube-", dir=children.scratch))
        self._rules = rbac.rules()
        self._faults: dict[str, Faults] = {}
        self._resources = contextlib.ExitStack()
        self.backend = _backend(ns, children, self._directory, real)
        self._resources.callback(self.backend.close)
        self.namespace = self.backend.namespace
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        try:
            links.add_address(ns, "lo", f"{SERVER_ADDRESS}/32")
            self._proxies = Proxies(ns, self.backend.ns)
            self._resources.callback(self._proxies.close)
            for worker in workers:
                self.add(worker)
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> str:
        """Which API server it is."""
        return self.backend.version

    def add(self, worker: str) -> None:
        """Make a worker's account, with the rights of samples/nodeport/rbac.yaml, its way to the API and kubeconfig."""
        token = self.backend.token(worker)
        self.backend.allow(worker, self._rules)
        port = _FIRST_PORT + len(self._faults)
        self._faults[worker] = self._proxies.add((SERVER_ADDRESS, port), self.backend.address)
        self._write_kubeconfig(worker, token)

    def env(self, worker: str) -> dict[str, str]:
        """What a process of the worker needs in its environment."""
        no_proxy = {key: SERVER_ADDRESS for key in ("NO_PROXY", "no_proxy") if _behind_a_proxy()}
        return {"KUBECONFIG": str(self._kubeconfig(worker)), "POD_NAMESPACE": self.namespace, **no_proxy}

    def pod(self, name: str, worker: str, owner: str = "") -> InCluster:
        """Make a Pod on a worker. It has the account of `owner`, a worker, or one of its own, with no rights at all."""
        if not owner:
            self.backend.token(name)
            self.backend.allow(name, [])
        directory = Path(tempfile.mkdtemp(prefix="pod-", dir=self._directory)) / "serviceaccount"
        return InCluster(self.backend, self.faults(worker), owner or name, name, directory)

    def allow_events(self, pod: str, *, allowed: bool = True) -> None:
        """Give the account of a pod the rights of samples/rbac-events.yaml, or take them away."""
        self.backend.allow(pod, rbac.rules(rbac.EVENTS_MANIFEST) if allowed else [])

    def events(self, pod: InCluster) -> list[dict[str, Any]]:
        """The Events on a Pod, as `kubectl describe pod` selects them, oldest first."""
        path = f"/api/v1/namespaces/{self.namespace}/events?fieldSelector=involvedObject.uid%3D{pod.uid}"
        found: list[dict[str, Any]] = self.backend.admin.expect("GET", path)["items"]
        return sorted(found, key=lambda each: each["eventTime"] or "")

    def faults(self, worker: str) -> Faults:
        """What happens on the worker's way to the API."""
        return self._faults[worker]

    def cut_all(self, *, refuse: bool = False) -> None:
        """Take the API away from everybody: it does not answer or, with `refuse`, nothing listens any more."""
        for faults in self._faults.values():
            if refuse:
                faults.refuse()
            else:
                faults.hang()

    def restore_all(self) -> None:
        """Undo cut_all() and each worker's own faults; latencies stay."""
        for faults in self._faults.values():
            faults.clear()

    def lease(self, name: str) -> dict[str, Any] | None:
        """A Lease as it is stored, or None; whatever happens on the workers' ways."""
        status, answer = self.backend.admin.request("GET", f"{self._leases}/{name}")
        if status == 404:
            return None
        if status != 200:
            raise RuntimeError(f"{status} {answer.get('message')}")
        return answer

    def put_lease(self, lease: dict[str, Any]) -> dict[str, Any]:
        """Replace a Lease (or make it), as somebody else would; what was stored. Raises RuntimeError."""
        return self.backend.admin.expect("PUT", f"{self._leases}/{lease['metadata']['name']}", lease)

    def delete_lease(self, name: str) -> None:
        """Delete a Lease; one that is not there is no error."""
        status, answer = self.backend.admin.request("DELETE", f"{self._leases}/{name}")
        if status not in (200, 404):
            raise RuntimeError(f"{status} {answer.get('message')}")

    def revoke(self, worker: str) -> None:
        """Take away all that the worker may do."""
        self.backend.allow(worker, [])

    def grant(self, worker: str, *, without: Collection[str] = ()) -> None:
        """Give the worker the rights of the manifest again, but for some verbs."""
        self.backend.allow(worker, rbac.without(self._rules, without))

    def set_leases(self, *names: str) -> None:
        """Let the workers' rights be for Leases of these names."""
        self._rules = rbac.for_leases(self._rules, names)
        for worker in self._faults:
            self.grant(worker)

    def close(self) -> None:
        """Stop it. May be called again."""
        self._resources.close()

    def _kubeconfig(self, worker: str) -> Path:
        if worker not in self._faults:
            raise LookupError(f"the Kubernetes API has no account for {worker}")
        return self._directory / f"{worker}.kubeconfig"

    def _write_kubeconfig(self, worker: str, token: str) -> None:
        address = self._faults[worker].address
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": dict(self.backend.cluster(address))}],
            "users": [{"name": worker, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": worker, "namespace": self.namespace}}],
            "current-context": "lab",
        }
        path = self._kubeconfig(worker)
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))


def _backend(ns: Namespace, children: Children, directory: Path, real: bool | None) -> Backend:
    """Make the one that the environment has. Raises RuntimeError."""
    if real is False:
        return LeaseServer(ns, directory)
    binaries, given = apiserver.assets(), cluster.kubeconfig()
    if binaries is not None:
        return ApiServer(ns, children, binaries, directory)
    if given is not None:
        return ExistingCluster(given, directory)
    if real:
        raise RuntimeError("there is no real one: set KUBEBUILDER_ASSETS (make kube-assets) or KUBECONFIG")
    return LeaseServer(ns, directory)


def _behind_a_proxy() -> bool:
    return any(name.lower() in ("http_proxy", "https_proxy") for name in os.environ)
