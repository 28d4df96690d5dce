"""One Lease and two nodes that want it: behind the double, and behind the real client over TLS, with the small test
server, with the real API server and with a cluster that is there already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from lab import links
from lab.children import Children
from lab.kube.labkube import LabKube
from lab.netns import Namespace
from tests.doubles.clock import BOUND, Bell
from tests.doubles.leases import FakeLeases, LeaseStore
from vipmanager.clients.kube import OFFERED, WANTED_BY, LeaseClient
from vipmanager.errors import CallError
from vipmanager.model_node import Lease
from vipmanager.ports import LeasePort

NAME = "vipmanager"  # what the Role in samples/nodeport/rbac.yaml allows
NODES = ("a", "b")
TIMEOUT = 1.0  # seconds for an answer where one is not to come; else BOUND


class LeaseWorld(Protocol):
    """A Lease that is not there yet, and nodes `a` and `b`."""

    def port(self, node: str) -> LeasePort:
        """A client that has seen nothing yet."""

    def impatient(self, node: str) -> LeasePort:
        """One that waits for TIMEOUT only."""

    def hang(self, node: str) -> None:
        """Nothing comes through to the node any more, and nothing from it."""

    def refuse(self, node: str) -> None:
        """The node's connections are refused."""

    def restore(self, node: str) -> None:
        """All comes through again."""

    def write_foreign(self, values: Mapping[str, str]) -> None:
        """Somebody else writes annotations and labels into the lease."""

    def foreign(self) -> Mapping[str, str]:
        """What of that is there."""

    def delete(self) -> None:
        """Somebody deletes the lease."""


class FakeWorld:
    """Behind the double."""

    def __init__(self) -> None:
        self._store = LeaseStore()
        self._clients: dict[str, list[FakeLeases]] = {node: [] for node in NODES}

    def port(self, node: str, timeout: float = BOUND) -> LeasePort:
        self._clients[node].append(made := FakeLeases(self._store, timeout=timeout))
        return made

    def impatient(self, node: str) -> LeasePort:
        return self.port(node, TIMEOUT)

    def hang(self, node: str) -> None:
        for each in self._clients[node]:
            each.hang()

    def refuse(self, node: str) -> None:
        for each in self._clients[node]:
            each.refuse()

    def restore(self, node: str) -> None:
        for each in self._clients[node]:
            each.restore()

    def write_foreign(self, values: Mapping[str, str]) -> None:
        self._store.write_foreign(values)

    def foreign(self) -> Mapping[str, str]:
        return self._store.foreign

    def delete(self) -> None:
        self._store.put(None)


class KubeHost:
    """A namespace with a Kubernetes API in it, and the processes of that."""

    def __init__(self, *, real: bool | None) -> None:
        self.children = Children()
        self.ns = Namespace("kube")
        try:
            links.set_up_host(self.ns)
            self.kube = LabKube(self.ns, self.children, NODES, real=real)
        except BaseException:
            self.close()
            raise

    def reset(self) -> None:
        """As it was at first."""
        self.kube.restore_all()
        for node in NODES:
            self.kube.faults(node).latency = 0.0
            self.kube.grant(node)
        self.kube.delete_lease(NAME)

    def close(self) -> None:
        if hasattr(self, "kube"):
            self.kube.close()
        self.children.close()
        self.ns.close()


class InNamespace:
    """A lease port whose calls are made in a network namespace."""

    def __init__(self, port: LeasePort, ns: Namespace) -> None:
        self._port = port
        self._ns = ns

    def read(self) -> Lease | None:
        return self._ns.run(self._port.read)

    def create(self, lease: Lease) -> Lease:
        return self._ns.run(lambda: self._port.create(lease))

    def update(self, lease: Lease, *, renew: bool, acquire: bool = False) -> Lease:
        return self._ns.run(lambda: self._port.update(lease, renew=renew, acquire=acquire))

    def watch(self, seen: Callable[[Lease | None], None], silence: float) -> None:
        self._ns.run(lambda: self._port.watch(seen, silence))


class KubeWorld:
    """Behind the real client, over TLS."""

    def __init__(self, host: KubeHost) -> None:
        self.host = host
        self.kube = host.kube

    def port(self, node: str, timeout: float = BOUND) -> LeasePort:
        client = LeaseClient(self.kube.namespace, NAME, timeout, environment=self.kube.env(node))
        return InNamespace(client, self.host.ns)

    def impatient(self, node: str) -> LeasePort:
        return self.port(node, TIMEOUT)

    def hang(self, node: str) -> None:
        self.kube.faults(node).hang()

    def refuse(self, node: str) -> None:
        self.kube.faults(node).refuse()

    def restore(self, node: str) -> None:
        self.kube.faults(node).clear()

    def write_foreign(self, values: Mapping[str, str]) -> None:
        lease = self.kube.lease(NAME)
        assert lease is not None
        lease["metadata"]["annotations"] = {**lease["metadata"].get("annotations", {}), **values}
        lease["metadata"]["labels"] = dict(values)
        self.kube.put_lease(lease)

    def foreign(self) -> Mapping[str, str]:
        lease = self.kube.lease(NAME)
        assert lease is not None
        labels, annotations = lease["metadata"].get("labels", {}), lease["metadata"].get("annotations", {})
        assert labels == {key: text for key, text in annotations.items() if key not in (OFFERED, WANTED_BY)}
        return dict(labels)

    def delete(self) -> None:
        self.kube.delete_lease(NAME)


class Watching:
    """A watch in a thread of its own, and what it has seen."""

    def __init__(self, port: LeasePort, silence: float = BOUND) -> None:
        self.seen: list[Lease | None] = []
        self.error: CallError | None = None
        self._bell = Bell()
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(port, silence), daemon=True)
        self._thread.start()

    def _run(self, port: LeasePort, silence: float) -> None:
        try:
            port.watch(self._saw, silence)
        except CallError as error:
            self.error = error
        self._ended = True
        self._bell.ring()

    def _saw(self, lease: Lease | None) -> None:
        self.seen.append(lease)
        self._bell.ring()

    def wait_for(self, lease: Lease | None) -> None:
        """Wait until this has been seen."""
        self._bell.wait(lambda: lease in self.seen)

    def wait_for_end(self) -> CallError | None:
        """Wait until the watch has ended; the error it ended with."""
        self._bell.wait(lambda: self._ended)
        self._thread.join()
        return self.error
