"""What the acts of the demo are made of: pods, runs of vipmanager, and what is told about each."""

from __future__ import annotations

import itertools
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lab.demo.changes import Changes
from lab.demo.summary import Row
from lab.demo.timeline import Event, Timeline, milliseconds
from lab.demo.traffic import BOUND, PEER, Failed, Traffic
from lab.ec2.layer import Call
from lab.lab import Lab
from lab.pod import Container, Pod

OTHER_PEER = "peer2"
Addresses = Mapping[str, Sequence[str]]
Settings = Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """What a vipmanager in a pod is to do now. Its part began at `started`, a time.monotonic(), and at EC2's `mark`."""

    pod: Pod
    mode: str
    container: Container
    started: float
    mark: int


class Stage:
    """A lab, the timeline that tells what happens in it, and the rows of the summary so far."""

    def __init__(self, lab: Lab, timeline: Timeline) -> None:
        self.lab = lab
        self.timeline = timeline
        self.rows: list[Row] = []
        self._changes = Changes(lab)
        self._pod_numbers = itertools.count(1)
        self._runs: list[Run] = []
        self._move = ("", "")

    # Acts

    def begin(self, act: str, title: str, text: str, settings: Settings) -> None:
        """Begin an act."""
        self._move = (act, "")
        self.timeline.title(title)
        self.timeline.note(text)
        shown = ", ".join(f'{key}: "{value}"' for key, value in settings.items()) or "empty, which means all defaults"
        self.timeline.note(f"ConfigMap: {shown}")
        self.timeline.line()

    def begin_move(self, move: str) -> None:
        """Name what comes next, for the summary."""
        self._move = (self._move[0], move)

    def fail(self, failure: Failed) -> None:
        """Tell what went wrong in the present move, and what the runs of vipmanager concerned logged."""
        self.rows.append(Row(*self._move, failure=str(failure)))
        self.timeline.line()
        self.timeline.note(f"FAILED: {failure}", "red")
        for run in self._runs:
            if failure.run in (None, run.container):
                self.timeline.note(f"vipmanager {run.mode} in {run.pod.name} on worker {run.pod.worker.name} logged:")
                for line in run.container.output().splitlines() or ["(nothing)"]:
                    self.timeline.line(f"    {line}")

    def clear(self) -> None:
        """End an act: no pods, and every worker connected."""
        for name in list(self.lab.pods):
            self.lab.delete_pod(name)
        for worker in self.lab.workers:
            self.lab.restore(worker)
        self._runs.clear()

    # What happens

    def start_pod(self, worker: str, addresses: Addresses) -> Pod:
        """Start a pod, as Kubernetes and Multus would."""
        name = f"app-{next(self._pod_numbers)}"
        pod = self.lab.pod(name, worker, addresses)
        shown = ", ".join(
            f"{interface} {' '.join(cidrs) or 'without an address'}" for interface, cidrs in addresses.items()
        )
        self.timeline.say("cluster", f"pod {name} starts on worker {worker}: {shown}")
        return pod

    def cut(self, worker: str) -> None:
        """Cut a worker off from everything."""
        self.lab.cut(worker)
        self.timeline.say("cluster", f"worker {worker} is cut off from the network; EC2 still shows it running")

    def vipmanager(self, pod: Pod, mode: str, settings: Settings) -> Run:
        """Start vipmanager in a pod."""
        started, mark = time.monotonic(), self.lab.ec2.mark()
        run = Run(pod, mode, pod.vipmanager([mode], settings), started, mark)
        self._runs.append(run)
        self.timeline.tell([Event(run.started, "vipmanager", f"{mode} starts in {pod.name}")])
        return run

    def wait_ready(self, runs: Sequence[Run]) -> None:
        """Wait until sidecars that have no address yet have read what they will need."""
        for run in runs:
            deadline = time.monotonic() + BOUND
            while not {"DescribeRouteTables", "DescribeNetworkInterfaces"} <= {
                call.action for call in self._calls(run)
            }:
                if time.monotonic() > deadline or run.container.poll() is not None:
                    raise Failed(
                        f"the sidecar in {run.pod.name} has not read the route tables and its ENIs", run.container
                    )
                time.sleep(0.01)
            self.timeline.say("vipmanager", f"{run.mode} in {run.pod.name} has read EC2 and waits for addresses")

    def add_by_hand(self, run: Run, interface: str, cidr: str) -> Run:
        """Add an address in a sidecar's pod: what the sidecar is to do then."""
        asked = replace(run, started=time.monotonic(), mark=self.lab.ec2.mark())
        run.pod.add_address(interface, cidr)
        text = f"in {run.pod.name} on worker {run.pod.worker.name}: ip address add {cidr} dev {interface}"
        self.timeline.tell([Event(asked.started, "operator", text)])
        return asked

    def delete_by_hand(self, run: Run, interface: str, cidr: str) -> None:
        """Delete an address in a sidecar's pod."""
        text = f"in {run.pod.name} on worker {run.pod.worker.name}: ip address del {cidr} dev {interface}"
        self.timeline.say("operator", text)
        run.pod.del_address(interface, cidr)

    def stop(self, runs: Sequence[Run]) -> None:
        """Stop sidecars, as Kubernetes does."""
        told = time.monotonic()
        for run in runs:
            run.container.terminate()
        ended = max(self._end(run) for run in runs)
        names = " and ".join(run.pod.name for run in runs)
        text = f"SIGTERM to the sidecars in {names}: exit status 0 after {milliseconds(ended - told)}"
        self.timeline.tell([Event(ended, "vipmanager", text)])

    # What is seen

    def show_unreachable(self, traffic: Traffic) -> None:
        """See that nobody has the addresses yet."""
        reason = traffic.dropped()
        text = f"sends to {' and '.join(traffic.targets)}, which nobody has: dropped ({reason})"
        self.timeline.say(PEER, text)

    def show_flowing(self, traffic: Traffic) -> None:
        """See that packets flow before a move."""
        traffic.steady()
        self.timeline.say(PEER, f"sends to {' and '.join(traffic.targets)}: every packet is answered")

    def show_init(self, run: Run, traffic: Traffic) -> None:
        """See an init run through: its end, what it changed, the first packets. Raises Failed."""
        ended = self._end(run)
        text = f"init in {run.pod.name}: exit status 0 after {milliseconds(ended - run.started)}"
        self._show_result(run, traffic, [Event(ended, "vipmanager", text)])

    def show_routed(self, run: Run, traffic: Traffic, destination: str, eni_id: str) -> None:
        """See a sidecar bring a destination to an ENI in every route table. Raises Failed."""
        tables = self.lab.route_table_ids
        if not self._changes.wait_for(
            lambda state: all(
                any(str(route.destination) == destination and route.target == eni_id for route in each.routes)
                for each in (state.route_tables[table] for table in tables)
            ),
            BOUND,
        ):
            raise Failed(
                f"{destination} is not routed to {eni_id} in every route table after {BOUND:g} s", run.container
            )
        self._show_result(run, traffic, [])

    def show_gap(self, run: Run, traffic: Traffic, until: str = "") -> None:
        """End the traffic of a move: what it lost, whose part was what, and the row for the summary. Raises Failed.

        `until` says what had to happen before vipmanager's part began.
        """
        try:
            gaps = traffic.gaps(run.started)
        except Failed as failure:
            raise Failed(str(failure), run.container) from failure
        worst = max(gaps, key=lambda gap: gap.first)
        before, own = worst.split(run.started)
        lost = None if before is None else worst.lost
        self.rows.append(Row(*self._move, lost, before, own, len(self._calls(run))))
        if before is None:
            return
        for gap in gaps:
            without = sum(filter(None, gap.split(run.started)))
            self.timeline.say(PEER, f"{gap.target}: {gap.lost} packets lost, {without} ms without service")
        self.timeline.detail(f"  {before:>5} ms  until {until}")
        begin = "the start of its process" if run.mode == "init" else "then"
        self.timeline.detail(f"+ {own:>5} ms  vipmanager's part, from {begin} to the first answer")

    def _show_result(self, run: Run, traffic: Traffic, events: list[Event]) -> None:
        """Tell what changed and which packets came back, then see that it stays so, from another zone too."""
        try:
            arrivals = {target: traffic.answered(target, run.started) for target in traffic.targets}
        except Failed as failure:
            raise Failed(str(failure), run.container) from failure
        begin = "vipmanager was started" if run.mode == "init" else "the address was added"
        answers = [
            Event(when, PEER, f"{target} answers, {milliseconds(when - run.started)} after {begin}")
            for target, when in arrivals.items()
        ]
        self.timeline.tell([*self._changes.events(run.started), *self._refusals(run), *answers, *events])
        traffic.steady()
        for target in traffic.targets:
            if not self.lab.ping(OTHER_PEER, target, timeout=BOUND):
                raise Failed(f"{target} does not answer {OTHER_PEER}", run.container)
        self.timeline.say(OTHER_PEER, f"in the other zone, behind another route table, reaches {_it(traffic)} too")

    def _end(self, run: Run) -> float:
        """Wait until a vipmanager has ended with status 0; when it did. Raises Failed."""
        process = os.pidfd_open(run.container.pid)  # wait() with a timeout would look only now and then
        try:
            select.select([process], [], [], BOUND)
        finally:
            os.close(process)
        ended = time.monotonic()
        name = f"vipmanager {run.mode} in {run.pod.name}"
        try:
            status = run.container.wait(0)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} has not ended after {BOUND:g} s", run.container) from None
        if status != 0:
            raise Failed(f"{name} ended with exit status {status}", run.container)
        return ended

    def _calls(self, run: Run) -> list[Call]:
        """The EC2 calls of a run, by the access key that each worker has for itself."""
        key = run.pod.env["AWS_ACCESS_KEY_ID"]
        return [call for call in self.lab.ec2.calls_since(run.mark) if call.access_key == key]

    def _refusals(self, run: Run) -> list[Event]:
        """The calls of a run that EC2 refused, the same of several route tables or ENIs as one event."""
        grouped: dict[tuple[str, str], list[Call]] = {}
        for call in self._calls(run):
            if call.error:
                grouped.setdefault((call.action, call.error), []).append(call)
        return [
            Event(calls[0].finished, "EC2", f"refuses {action} {len(calls)} times: {error}")
            for (action, error), calls in grouped.items()
        ]


def _it(traffic: Traffic) -> str:
    return "it" if len(traffic.targets) == 1 else "them"
