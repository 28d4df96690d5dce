"""samples/nodeport on two nodes of the lab, with its Kubernetes API: one holds, the other takes over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from lab.deployment import PORT
from lab.lab import Lab
from lab.topology import WORKER_A, WorkerSpec
from tests.e2e.image import Images
from tests.e2e.kubelet import KubePod
from tests.e2e.manifests import SAMPLES, read
from tests.e2e.stage import PEER, SAME_SUBNET, Probe

WORKERS: tuple[WorkerSpec, ...] = (WORKER_A, SAME_SUBNET[0])
FLOATING = "10.10.1.80"
CONFIGMAP = "vipmanager-nodeport"
TITLE = "samples/nodeport/deployment.yaml with its configmap.yaml"

Say = Callable[[str], None]


def play(images: Images, say: Say) -> set[str]:
    """Run it; what stood in for what. Raises where something does not work."""
    objects = read(SAMPLES / "nodeport" / name for name in ("deployment.yaml", "configmap.yaml"))
    objects.configmaps[CONFIGMAP]["FLOATING_IP"] = FLOATING
    notes = {f"samples/nodeport: FLOATING_IP is {FLOATING}, of the lab's VPC; its lease API is the lab's"}
    (workload,) = objects.workloads
    with Lab(workers=WORKERS, kube=True) as lab, contextlib.ExitStack() as stack:
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
        _play(lab, pods, say)
    return notes


def _play(lab: Lab, pods: dict[str, KubePod], say: Say) -> None:
    with contextlib.closing(Probe(lab, [FLOATING])) as probe:
        holder = _holder(lab)
        say(f"  {PEER} reaches {FLOATING}, which node {holder} holds")
        lab.terminate(holder)
        pods.pop(holder).kill()
        probe.wait()
    assert _holder(lab) != holder
    say(f"  node {holder} terminated: node {_holder(lab)} holds, silent for {probe.gap:.1f} s")
    for pod in pods.values():
        pod.stop()
    say("  pod stopped when asked to")


def _holder(lab: Lab) -> str:
    """The node that has the address on an interface."""
    has = [
        name
        for name, worker in lab.workers.items()
        if not worker.is_cut and any(FLOATING in address for link in worker.interfaces() for address in link.addresses)
    ]
    (found,) = has
    return found
