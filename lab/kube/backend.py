"""What the real API server, an existing cluster and the small server have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lab.kube import rbac
from lab.kube.api import Api
from lab.netns import Namespace

SERVER_ADDRESS = "100.64.0.2"
"""Where the workers find it; proxies listen there."""
NAMESPACE = "vipmanager"
"""The Kubernetes namespace, where all of the API is the lab's."""


def account_of(worker: str) -> str:
    """The name of a worker's service account."""
    return f"vipmanager-{worker}"


def user_of(namespace: str, worker: str) -> str:
    """The user behind a worker's token."""
    return f"system:serviceaccount:{namespace}:{account_of(worker)}"


def cluster_at(address: tuple[str, int], authority: Path) -> Mapping[str, object]:
    """The entry of a kubeconfig for an API server at an address that its certificate is for."""
    host, port = address
    return {"server": f"https://{host}:{port}", "certificate-authority": str(authority)}


class Backend(Protocol):
    """An API server."""

    ns: Namespace  # from which it is reached
    address: tuple[str, int]
    authority: Path  # the certificates by which it is known
    admin: Api  # with every right that the lab needs
    version: str
    namespace: str  # of Kubernetes, where the Leases and accounts are

    def cluster(self, address: tuple[str, int]) -> Mapping[str, object]:
        """The entry of a kubeconfig for those who reach it at another address."""

    def token(self, worker: str) -> str:
        """Make the worker's service account, which may do nothing yet, and a token of it."""

    def make_pod(self, name: str, owner: str) -> str:
        """Make a Pod that nothing runs, with the account of `owner`; its uid."""

    def pod_token(self, owner: str, pod: str, uid: str) -> str:
        """A new token of the account of `owner`, bound to the Pod as the kubelet has them made."""

    def allow(self, worker: str, rules: rbac.Rules) -> None:
        """Let these be the worker's rules from now on."""

    def close(self) -> None:
        """Stop it, or leave nothing behind in it."""
