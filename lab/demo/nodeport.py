"""The story of the nodeport mode: what is done to the node that holds the floating IP, and what a client sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from lab.demo.nodes import CLIENT, INTERVAL, Act, NodeStage
from lab.demo.summary import aligned
from lab.demo.timeline import Timeline, milliseconds
from lab.demo.traffic import Failed
from lab.deployment import PORT, Deployment
from lab.holders import Holders
from lab.http_prober import HttpLog
from lab.lab import Lab
from lab.privileges import LabUnavailable
from lab.topology import WorkerSpec

LATENCY = 0.06  # seconds that each call to EC2 takes, and each to the Kubernetes API
ADDRESS = "10.10.1.80"
CONFIG = {"FLOATING_IP": ADDRESS, "HealthCheck": f"tcp://:{PORT}"}
WORKERS = tuple(WorkerSpec(name, "us-east-2a", "nodes-a", ()) for name in "ab")
_HEADINGS = ("", "answered by", "requests lost", "without answers", "address on no node")
_WIDTHS = (35, 14, 15, 17, 20)

Play = Callable[[NodeStage], None]


def delete(stage: NodeStage) -> None:
    """A rolling update, say."""
    stage.begin(
        "1  The holder's pod is deleted",
        "The address goes, the lease is released, the standby takes it at once. The Deployment makes another pod.",
    )
    holder, other = stage.show_flowing()
    stage.delete(holder)
    stage.start(holder)
    stage.show_result(holder, other)
    stage.show_standby(holder, other)


def cordon(stage: NodeStage) -> None:
    """Before maintenance."""
    stage.begin(
        "2  The holder's node is cordoned",
        "Cordoned means: no new pod there. So the address stays away until it is uncordoned, whatever happens.",
    )
    holder, other = stage.show_flowing()
    stage.say("operator", f"kubectl cordon {holder}")
    stage.delete(holder)
    stage.show_result(holder, other)
    stage.say("operator", f"kubectl uncordon {holder}")
    stage.start(holder)
    stage.show_standby(holder, other)


def kill(stage: NodeStage) -> None:
    """A crash, or the kernel's out-of-memory killer."""
    stage.begin(
        "3  kill -9",
        "The lease is its pod's until it expires. The kubelet starts the container again before that; it finds that "
        "the lease is its own, and goes on.",
    )
    holder, other = stage.show_flowing()
    stage.kill(holder)
    stage.restart(holder)
    stage.wait(f"{holder} or {other} holds", lambda: bool(stage.deployment.holder()))
    now = stage.holder()
    stage.show_result(holder, now)
    stage.show_standby(stage.deployment.other(now), now)


def cut(stage: NodeStage) -> None:
    """A dead node, as the others see it."""
    stage.begin(
        "4  The holder's node is cut off",
        "It cannot renew its lease and takes the address off; its kernel would, if it could not. LeaseDuration after "
        "the last renewal the standby takes over. Then the node comes back.",
    )
    holder, other = stage.show_flowing()
    stage.cut(holder)
    stage.show_result(holder, other)
    stage.restore(holder)
    stage.show_standby(holder, other)
    stage.steady(other)


ACTS: tuple[Play, ...] = (delete, cordon, kill, cut)


def run(timeline: Timeline, acts: Sequence[Play] = ACTS, prepare: Callable[[Lab], None] | None = None) -> int:
    """Build the lab and play the acts; the exit status. `prepare` may make the lab misbehave first.

    Raises LabUnavailable where the lab cannot be built.
    """
    with ExitStack() as stack:
        try:
            lab = stack.enter_context(Lab(workers=WORKERS, latency=LATENCY, kube=True))
            holders = stack.enter_context(Holders({name: worker.ns for name, worker in lab.workers.items()}))
        except (OSError, RuntimeError) as error:
            raise LabUnavailable(f"The lab could not be built: {error}") from error
        if prepare is not None:
            prepare(lab)
        for worker in lab.workers.values():
            lab.kube.faults(worker.name).latency = LATENCY
            worker.serve_http(PORT)
        _introduce(lab, timeline)
        stage = NodeStage(lab, holders, Deployment(lab, tuple(lab.workers), CONFIG), ADDRESS, timeline)
        _play(stage, acts)
        well = _end(stage)
    timeline.note(f"Took {timeline.seconds:.0f} s. The lab is gone, with its processes, namespaces and files.")
    return 0 if well else 1


def _play(stage: NodeStage, acts: Sequence[Play]) -> None:
    """Play the acts. What comes after one that has failed would not be what it says it is."""
    try:
        stage.begin("0  Both nodes start", "Each has a pod of the Deployment. One of them holds, whichever is sooner.")
        for worker in stage.deployment.workers:
            stage.start(worker)
        stage.show_flowing()
        for act in acts:
            act(stage)
    except Failed as failure:
        stage.fail(failure)


def _introduce(lab: Lab, timeline: Timeline) -> None:
    """Say what there is, what is real and what is not."""
    timeline.line()
    for worker in lab.workers.values():
        timeline.line(f"  node {worker.name}  {worker.availability_zone}  {worker.address}")
    timeline.line(f"  {CLIENT}   {lab.peers[CLIENT].address}, in another subnet")
    timeline.line(f"  floating IP  {ADDRESS}, port {PORT}")
    timeline.line()
    timeline.note(
        "Simulated: EC2, and the VPC's router; kube-proxy, by a process on each node that answers on all addresses "
        "with the node's name; the Deployment's controller and the kubelet, whose part is said where it is played. The "
        f"Kubernetes API: {lab.kube.version}. Each call to it or to EC2 takes {LATENCY * 1000:.0f} ms. "
        "Real: vipmanager, interfaces and addresses, and every packet."
    )
    shown = ", ".join(f'{key}: "{value}"' for key, value in CONFIG.items())
    timeline.note(f"ConfigMap: {shown}; by default FloatingMode is address, and the lease 6/4/1 s.")
    timeline.note(
        f"{CLIENT} sends a request every {INTERVAL * 1000:.0f} ms, each on a new connection. A gap is from the last "
        "request that was answered to the first that is again. The times on the left are seconds since the start."
    )


def _end(stage: NodeStage) -> bool:
    """The status of both, the table, and whether all was as it should be."""
    timeline = stage.timeline
    timeline.title("vipmanager status")
    for worker in stage.deployment.workers:
        timeline.line()
        timeline.line(f"  {stage.deployment.pods[worker]} on node {worker}:", "bold")
        for line in stage.status(worker).splitlines():
            timeline.note(f"  {line}")
    try:
        log = stage.stop()
    except Failed as failure:
        stage.fail(failure)
        return False
    timeline.title("Summary")
    timeline.line()
    timeline.line(aligned(_HEADINGS, _WIDTHS), "bold")
    for act in stage.acts:
        timeline.line(aligned(tuple(_cells(act, log)), _WIDTHS), "red" if act.failure else "")
    timeline.line()
    problems = list(_problems(stage, log))
    for problem in problems:
        timeline.note(problem, "red")
    if not problems:
        timeline.note(
            f"{ADDRESS} was never on two nodes at once, by the order of the kernel's own announcements, and no request "
            "was lost outside of these gaps.",
            "green",
        )
    return not problems


def _cells(act: Act, log: HttpLog) -> Iterator[str]:
    yield act.title
    if act.failure:
        yield "FAILED"
        return
    yield act.move
    yield str(log.lost(act.last, act.first))
    yield milliseconds(act.gap)
    yield milliseconds(act.off)


def _problems(stage: NodeStage, log: HttpLog) -> Iterator[str]:
    yield from (f"{act.title}: {act.failure}" for act in stage.acts if act.failure)
    yield from (f"{ADDRESS} was on two nodes at once: {one}, {other}" for one, other in stage.overlaps())
    answered = [sent for sent, rtt in log.probes if rtt is not None]
    if not answered:
        yield f"{CLIENT} was never answered"
        return
    stray = log.lost(answered[0], answered[-1]) - sum(log.lost(act.last, act.first) for act in stage.acts)
    if stray:
        yield f"{stray} requests were lost outside of the gaps"
