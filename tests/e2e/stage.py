"""One manifest on a lab of its own: its pods run, a peer reaches them, and again when their node is gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab import links
from lab.lab import Lab
from lab.pod import Pod
from lab.prober import Prober
from lab.topology import WORKER_A, WORKER_B, WorkerSpec
from tests.e2e.cni import Attachment, substituted
from tests.e2e.image import Images
from tests.e2e.kubelet import KubePod
from tests.e2e.manifests import ManifestError, Objects, wanted_networks

SAME_SUBNET = tuple(WorkerSpec(name, "us-east-2a", "nodes-a", ("multus1-a", "multus2-a")) for name in ("c", "d"))
WORKERS = (WORKER_A, WORKER_B, *SAME_SUBNET)
"""b is in the other zone; c and d are in a's subnets."""
PEER = "peer1"
_ANSWERS_WITHIN = 30.0  # seconds
_INTERVAL = 0.02

Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """A workload of some manifests: `homes`, the workers of its pods; `spare`, where the pod of the first goes next.

    `moving`: an address that the application adds, where it is active. `asker`: who pings, a peer or a pod app-N.
    """

    title: str
    objects: Objects
    workload: str
    homes: tuple[str, ...] = ("a",)
    spare: str = "b"
    moving: str = ""
    asker: str = PEER


@dataclass
class Replica:
    """A pod of a workload, with its interfaces and containers."""

    pod: Pod
    attachments: list[Attachment]
    containers: KubePod

    @property
    def addresses(self) -> list[str]:
        """Those of its interfaces."""
        return [address for each in self.attachments for address in each.addresses]


@dataclass
class Stage:
    """A lab with the replicas of one case."""

    lab: Lab
    images: Images
    case: Case
    notes: set[str] = field(default_factory=set)
    replicas: dict[str, Replica] = field(default_factory=dict)

    @property
    def workload(self) -> dict[str, Any]:
        """The manifest. Raises ManifestError."""
        for each in self.case.objects.workloads:
            if each["metadata"]["name"] == self.case.workload:
                return each
        raise ManifestError(f"no workload {self.case.workload}")

    def start(self, name: str, worker: str, number: int) -> Replica:
        """What Kubernetes does for a pod on a worker: its namespace, its networks, its containers."""
        pod = self.lab.pod(name, worker, {})
        attachments = []
        for interface, network in wanted_networks(self.workload):
            if network not in self.case.objects.networks:
                raise ManifestError(f"no NetworkAttachmentDefinition {network}")
            config = substituted(self.case.objects.networks[network], number, self.notes)
            records = pod.directory.parent / f"cni-{worker}"
            attachments.append(Attachment(pod.worker, pod.ns, interface, config, records))
        fields = {"metadata.name": name, "metadata.namespace": "default", "spec.nodeName": worker}
        fields["status.podIP"] = pod.address
        containers = KubePod(pod, pod.address, self.workload, self.case.objects, self.images, fields, notes=self.notes)
        self.replicas[name] = replica = Replica(pod, attachments, containers)
        containers.start()
        return replica

    def end(self, name: str) -> None:
        """Delete a pod: its containers are asked to stop, its networks go."""
        replica = self.replicas.pop(name)
        replica.containers.stop()
        for attachment in reversed(replica.attachments):
            attachment.delete()
        self.lab.delete_pod(name)

    def lose(self, worker: str) -> None:
        """Terminate a worker, with its pods."""
        self.lab.terminate(worker)
        for name in [name for name, each in self.replicas.items() if each.pod.worker.name == worker]:
            self.replicas.pop(name).containers.kill()

    def close(self) -> None:
        """Remove the containers that are left."""
        for replica in self.replicas.values():
            with contextlib.suppress(Exception):
                replica.containers.remove()


def play(case: Case, images: Images, say: Say) -> set[str]:
    """Run a case; what stood in for what. Raises where something does not work."""
    with Lab(workers=WORKERS, tls=True) as lab:
        stage = Stage(lab, images, case)
        try:
            _play(stage, say)
        finally:
            stage.close()
        return stage.notes


def _play(stage: Stage, say: Say) -> None:
    lab, case = stage.lab, stage.case
    for number, worker in enumerate(case.homes):
        replica = stage.start(f"app-{number}", worker, number)
        say(f"  app-{number} on worker {worker}: {', '.join(replica.addresses)}")
        for port in replica.containers.ports():
            metrics = replica.containers.get(port, "/metrics")[1]
            assert "vipmanager_ready 1.0" in metrics and "process_open_fds" in metrics, metrics
    if case.moving:
        _add(stage, "app-0")
    others = [each for name, each in stage.replicas.items() if name != case.asker]
    wanted = [address for each in others for address in each.addresses] + [case.moving] * bool(case.moving)
    _answer(stage, wanted, say)
    moving = [case.moving] if case.moving else stage.replicas["app-0"].addresses
    with contextlib.closing(Probe(lab, moving, case.asker)) as probe:
        stage.lose(case.homes[0])
        if case.moving:
            _add(stage, "app-1")
        else:
            stage.start("app-next", case.spare, 0)
        probe.wait()
    heir = "app-1" if case.moving else "app-next"
    where = stage.replicas[heir].pod.worker.name
    say(f"  worker {case.homes[0]} terminated: {', '.join(moving)} on worker {where}, silent for {probe.gap:.1f} s")
    watching = any(each.containers.watches for each in stage.replicas.values())
    for name in list(stage.replicas):
        stage.end(name)
    say("  pods deleted: " + ("vipmanager stopped when asked to" if watching else "vipmanager had ended before"))


def _answer(stage: Stage, addresses: list[str], say: Say) -> None:
    asker = stage.case.asker
    prober = Prober(stage.lab.host(asker), addresses, _INTERVAL)
    try:
        prober.wait_reply(timeout=_ANSWERS_WITHIN)
    finally:
        prober.stop()
    say(f"  {asker} reaches {', '.join(addresses)}")


def _add(stage: Stage, name: str) -> None:
    """What the manifest's comment has the application do."""
    stage.notes.add("the application's `ip address add` is done for it: the base image has no ip")
    links.add_address(stage.replicas[name].pod.ns, "net1", f"{stage.case.moving}/32")


class Probe:
    """Pings addresses while they move. `gap`: the longest silence (s), when it is closed."""

    def __init__(self, lab: Lab, addresses: list[str], asker: str = PEER) -> None:
        self._prober = Prober(lab.host(asker), addresses, _INTERVAL)
        self._last = self._prober.wait_reply(timeout=_ANSWERS_WITHIN)
        self.gap = 0.0

    def wait(self) -> None:
        """Wait until all answer again. Raises TimeoutError."""
        self._prober.wait_reply(after=time.monotonic(), timeout=_ANSWERS_WITHIN)

    def close(self) -> None:
        """Stop pinging."""
        self.gap = max(log.longest_gap() for log in self._prober.stop().values())
