"""samples/nodeport on two nodes of the lab, with its Kubernetes API: one holds, the other takes over, in each mode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lab.deployment import PORT
from lab.hosts import Worker
from lab.lab import Lab
from lab.topology import WORKER_A, WORKER_B, WorkerSpec
from tests.e2e.image import Images
from tests.e2e.kubelet import KubePod
from tests.e2e.manifests import SAMPLES, read
from tests.e2e.stage import PEER, SAME_SUBNET, Probe

CONFIGMAP = "vipmanager-nodeport"


@dataclass(frozen=True)
class Mode:
    """A FloatingMode, what floats in it, and the other node: in a's subnets (c) or in another zone (b)."""

    name: str
    floating: str
    other: WorkerSpec
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As the cases' titles."""
        return f"samples/nodeport/deployment.yaml with its configmap.yaml, FloatingMode {self.name}"


MODES = (
    Mode("address", "10.10.1.80", SAME_SUBNET[0]),
    Mode("eni", "10.10.1.80", SAME_SUBNET[0]),
    Mode("route", "192.168.3.80", WORKER_B),
    Mode("subnet", "10.10.200.5", WORKER_B, {"FloatingSubnetCidr": "10.10.200.0/28"}),
)

Say = Callable[[str], None]


def play(mode: Mode, images: Images, say: Say) -> set[str]:
    """Run it; what stood in for what. Raises where something does not work."""
    objects = read(SAMPLES / "nodeport" / name for name in ("deployment.yaml", "configmap.yaml"))
    objects.configmaps[CONFIGMAP] |= {"FLOATING_IP": mode.floating, "FloatingMode": mode.name, **mode.settings}
    notes = {"samples/nodeport: what floats is of the lab's VPC; the Lease is in the lab's API"}
    (workload,) = objects.workloads
    with Lab(workers=(WORKER_A, mode.other), kube=True) as lab, contextlib.ExitStack() as stack:
        pods: dict[str, KubePod] = {}
        for worker in lab.workers.values():
            worker.serve_http(PORT)
            name = f"nodeport-{worker.name}"
            account = lab.kube.pod(name, worker.name, owner=worker.name)
            fields = {"metadata.name": name, "spec.nodeName": worker.name, "metadata.namespace": lab.kube.namespace}
            pod = KubePod(worker, "127.0.0.1", workload, objects, images, fields, account=account, notes=notes)
            stack.callback(pod.remove)
            pods[worker.name] = pod
            pod.start()
        _play(lab, mode.floating, pods, say)
    return notes


def _play(lab: Lab, floating: str, pods: dict[str, KubePod], say: Say) -> None:
    with contextlib.closing(Probe(lab, [floating])) as probe:
        holder = _holder(lab, floating)
        say(f"  {PEER} reaches {floating}, which node {holder} holds")
        lab.terminate(holder)
        pods.pop(holder).kill()
        probe.wait()
    assert _holder(lab, floating) != holder
    say(f"  node {holder} terminated: node {_holder(lab, floating)} holds, silent for {probe.gap:.1f} s")
    for pod in pods.values():
        pod.stop()
    say("  pod stopped when asked to")


def _holder(lab: Lab, floating: str) -> str:
    """The node that has the address on an interface."""
    has = [name for name, worker in lab.workers.items() if not worker.is_cut and floating in _addresses(worker)]
    (found,) = has
    return found


def _addresses(worker: Worker) -> set[str]:
    return {address.partition("/")[0] for link in worker.interfaces() for address in link.addresses}
