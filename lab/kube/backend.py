"""What the real API server and the small one have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lab.kube import rbac
from lab.kube.api import Api

SERVER_ADDRESS = "100.64.0.2"
"""Where the workers find it; proxies listen there."""
NAMESPACE = "vipmanager"


def user_of(worker: str) -> str:
    """The user behind a worker's token."""
    return f"system:serviceaccount:{NAMESPACE}:vipmanager-{worker}"


class Backend(Protocol):
    """An API server on the loopback of a namespace."""

    address: tuple[str, int]
    authority: Path  # the certificate by which it is known
    admin: Api  # with every right
    version: str

    def token(self, worker: str) -> str:
        """Make the worker's service account, which may do nothing yet, and a token of it."""

    def allow(self, worker: str, rules: rbac.Rules) -> None:
        """Let these be the worker's rules from now on."""

    def close(self) -> None:
        """Stop it."""
