"""Groups of two replicas, each with a Lease and floating addresses of its own, for faults to be done to."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from lab.containers import Container
from lab.hosts import Worker
from lab.lab import Lab
from lab.topology import WorkerSpec
from lab.walltime import WallClock
from vipmanager.clients.deadline import SIGNAL

_FIRST_ADDRESS = 100


def workers(pairs: int) -> list[WorkerSpec]:
    """Pairs of workers, a1 and b1, …, with one ENI each, all in one subnet, so that its addresses can move."""
    names = [f"{side}{number}" for number in range(1, pairs + 1) for side in "ab"]
    return [WorkerSpec(name, "us-east-2a", "nodes-a", ()) for name in names]


@dataclass(frozen=True)
class Terms:
    """The election's settings, in seconds."""

    duration: int
    deadline: float
    retry: float

    def __str__(self) -> str:
        return f"Lease {self.duration}/{self.deadline:g}/{self.retry:g}"


class Replica:
    """The pod of a group on one node, in all its lives."""

    def __init__(self, lab: Lab, worker: Worker, group: str, config: Mapping[str, object]) -> None:
        self.node = worker.name
        self.runs: list[Container] = []
        self.name = ""
        self.expected = True  # that it runs
        self._lab, self._worker, self._group = lab, worker, group
        self._config = {**config, "StateDir": worker.directory / f"state-{group}"}
        self._names = itertools.count(1)
        self.clock = WallClock(worker.directory / f"clock-{group}")
        self.env = self.clock.env(worker.env)

    @property
    def run(self) -> Container:
        """The last process."""
        return self.runs[-1]

    @property
    def gone(self) -> bool:
        """Whether the last process has ended."""
        return self.run.poll() is not None

    def start(self, *, renamed: bool = True) -> None:
        """Start it, as another pod or, with the old name, as a container of the same pod that is restarted."""
        if renamed:
            self.name = f"{self._group}-{self.node}{next(self._names)}"
        env = {"POD_NAME": self.name, "NODE_NAME": self.node, **self._lab.kube.env(self.node), **self.env}
        self.runs.append(self._worker.vipmanager(["nodeport"], self._config, env))
        self.expected = True

    def stop(self, number: signal.Signals) -> None:
        """Send SIGTERM or SIGKILL."""
        self.expected = False
        self.run.send_signal(number)

    def pause(self) -> None:
        """Stop it in the middle of whatever it is doing."""
        self.run.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo pause()."""
        self.run.send_signal(signal.SIGCONT)


class Group:
    """A Lease, what floats with it, and a replica on each of two nodes."""

    def __init__(
        self,
        lab: Lab,
        number: int,
        nodes: Sequence[str],
        terms: Terms,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Nothing runs yet. Every other group has an IPv6 address as well."""
        self.name = f"np-{number}"
        self.terms = terms
        self._lab = lab
        eni = lab.workers[nodes[0]].eni(0)
        self.addresses = [f"10.10.1.{_FIRST_ADDRESS + number}"]
        if number % 2 and eni.subnet_cidr6:
            self.addresses.append(str(ip_network(eni.subnet_cidr6)[_FIRST_ADDRESS + number]))
        config = {
            "FLOATING_IP": ", ".join(self.addresses),
            "LeaseName": self.name,
            "LeaseDuration": terms.duration,
            "RenewDeadline": terms.deadline,
            "RetryPeriod": terms.retry,
            "LogLevel": "DEBUG",
            **(settings or {}),
        }
        self.replicas = {name: Replica(lab, lab.workers[name], self.name, config) for name in nodes}

    def other(self, node: str) -> str:
        """The other node."""
        return next(each for each in self.replicas if each != node)

    def lease_holder(self) -> str:
        """The node whose replica the Lease names; empty for nobody, or for a pod that is no more."""
        lease = self._lab.kube.lease(self.name)
        identity = lease["spec"].get("holderIdentity") if lease else ""
        return next((node for node, replica in self.replicas.items() if replica.name == identity), "")

    def renewed_off(self) -> float:
        """By how many seconds the Lease's renewTime differs from the time of day. Raises LookupError."""
        lease = self._lab.kube.lease(self.name)
        if lease is None:
            raise LookupError(self.name)
        return (datetime.fromisoformat(lease["spec"]["renewTime"]) - datetime.now(UTC)).total_seconds()

    def owners(self) -> set[str]:
        """The nodes that EC2 delivers the addresses to; an empty name for none."""
        return {self._owner(address) for address in self.addresses}

    def _owner(self, address: str) -> str:
        found = self._lab.ec2.state().owner_of(self._lab.vpc_id, ip_address(address))
        workers = self._lab.workers.items()
        return next((name for name, worker in workers if found and worker.eni(0).eni_id == found.eni_id), "")

    def logs(self, since: Mapping[str, int], lines: int = 80) -> str:
        """The ends of what its processes have logged, from the run of that number on."""
        texts = []
        for node, replica in self.replicas.items():
            for number, run in enumerate(replica.runs[since[node] :], since[node] + 1):
                shown = run.output().splitlines()[-lines:]
                texts.append(f"--- {self.name} on {node}, process {number}\n" + "\n".join(shown))
        return "\n".join(texts)


def restart_ended(group: Group) -> None:
    """Do what the kubelet does with those that have ended themselves, because they were stopped at a bad moment."""
    for replica in group.replicas.values():
        if replica.expected and replica.run.poll() == SIGNAL:
            replica.start(renamed=False)


def unexpected_ends(groups: Sequence[Group]) -> list[str]:
    """The processes that have ended and should not have."""
    return [
        f"{group.name} on {replica.node} has ended with {replica.run.returncode}"
        for group in groups
        for replica in group.replicas.values()
        if replica.expected and replica.gone
    ]
