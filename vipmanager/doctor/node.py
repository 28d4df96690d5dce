"""What doctor asks only of a node: the Lease and what the role lets it do with it, the health check, nftables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vipmanager.config import Config
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.floating import HealthCheck
from vipmanager.model import PodInterface, PodNetwork
from vipmanager.model_node import Lease
from vipmanager.ports import HostPort, LeaseAccessPort

VERBS = ("get", "create", "update", "watch")
"""What an elector does with the Lease (samples/nodeport/rbac.yaml)."""
HEALTH_TIMEOUT = 1.0
"""Seconds."""


@dataclass(frozen=True)
class NodeOutside:
    """The ports of a node. `lease` is None where the namespace is not known; `check` says why a check fails."""

    host: HostPort
    lease: LeaseAccessPort | None
    lease_name: str
    check: Callable[[HealthCheck, str, float], str]


class NodeReads:
    """A node's interfaces, told as a pod's are."""

    def __init__(self, host: HostPort) -> None:
        self._host = host

    def interfaces(self) -> tuple[PodInterface, ...]:
        """Those that are not made on top of another."""
        found = self._host.host_interfaces()
        return tuple(PodInterface(i.index, i.name, i.mac, i.up, i.addresses) for i in found if i.physical and i.mac)

    def pod_network(self) -> PodNetwork:
        """See RoutesPort."""
        return self._host.pod_network()


def lease(outside: NodeOutside) -> str:
    """Who has the Lease. Raises CallError, also where the role does not allow all that an elector does with it."""
    if outside.lease is None:
        text, remedy = "POD_NAMESPACE is empty", "set it from fieldRef metadata.namespace"
        raise CallError(Failure(ErrorKind.INVALID, "get lease", "NoNamespace", text, remedy))
    try:
        missing, unasked = [verb for verb in VERBS if not outside.lease.may(verb)], ""
    except CallError as error:  # a role may lack even this question
        missing, unasked = [], f"; not asked whether it may {', '.join(VERBS[1:])} it: {error.failure.code}"
    if missing:
        verbs = ", ".join(missing)
        remedy = f"allow {verbs} on it: apply samples/nodeport/rbac.yaml, with LeaseName in its resourceNames"
        text = f"the service account of this pod may not {verbs} {outside.lease_name}"
        raise CallError(Failure(ErrorKind.DENIED, "leases.coordination.k8s.io", "Forbidden", text, remedy))
    return told(outside.lease.read(), outside.lease_name) + unasked


def told(found: Lease | None, name: str) -> str:
    """Who has the lease."""
    if found is None:
        return f"{name}: not there yet; the first holder makes it"
    return f"{name}: held by {found.holder or 'nobody'}"


def health(outside: NodeOutside, config: Config, host: str) -> str:
    """That the health check answers. Raises CallError."""
    assert config.health_check is not None
    why = outside.check(config.health_check, host, HEALTH_TIMEOUT)
    if why:
        remedy = "start what it asks on this node, or correct HealthCheck"
        raise CallError(Failure(ErrorKind.INVALID, "HealthCheck", "Unhealthy", why, remedy))
    return f"{config.health_check} answers"


def marks(outside: NodeOutside) -> str:
    """Our tables in nftables. Raises CallError."""
    return f"available, tables of ours: {', '.join(sorted(outside.host.marks())) or 'none'}"
