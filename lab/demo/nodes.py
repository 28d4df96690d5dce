"""What the acts of the nodeport demo are made of: pods of a Deployment, a client that never stops, and what is told."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from lab.demo.changes import Changes
from lab.demo.timeline import Event, Timeline, milliseconds
from lab.demo.traffic import BOUND, Failed
from lab.deployment import PORT, Deployment
from lab.holders import Holders, Tenure, boot_time
from lab.http_prober import HttpLog, longest_outage
from lab.lab import Lab

CLIENT = "peer1"
INTERVAL = 0.02  # seconds between two requests
STEADY = 1.0  # seconds of answers before and after a move
TICK = 0.02  # seconds between two looks at what is waited for
LOOK_EVERY = 0.1  # seconds between two looks at what has happened
LATE = 0.5  # seconds that an event may be late
_TOLD = ("role ", "lease released", "lease offered", "delivered ")
_LINE = re.compile(r"(\S+Z) [A-Z]+ (.*)")


@dataclass(frozen=True)
class Act:
    """What became of an act: who answered before and after it, and the times (time.monotonic()) of the two requests
    between which nobody did. `off` is how long (s) no node had the address. `failure` says what went wrong.
    """

    title: str
    move: str = ""
    last: float = 0.0
    first: float = 0.0
    off: float = 0.0
    failure: str = ""

    @property
    def gap(self) -> float:
        """Seconds without an answer."""
        return self.first - self.last


class NodeStage:
    """A lab with a Deployment, the client that asks it all the while, the timeline, and the acts so far."""

    def __init__(self, lab: Lab, holders: Holders, deployment: Deployment, address: str, timeline: Timeline) -> None:
        self.lab = lab
        self.deployment = deployment
        self.address = address
        self.timeline = timeline
        self.acts: list[Act] = []
        self._holders = holders
        self._changes = Changes(lab)
        self._title = ""
        self._since = time.monotonic()
        self._events: list[Event] = []  # what has not been told yet
        self._looked = self._since  # at EC2 and the kernel
        self._read: dict[str, int] = {}  # log → how many of its lines have been read
        self._client = lab.http_prober(CLIENT, f"http://{address}:{PORT}/", INTERVAL)

    # Acts

    def begin(self, title: str, text: str) -> None:
        """Begin an act."""
        self._title = title
        self.timeline.title(title)
        self.timeline.note(text)
        self.timeline.line()

    def show_flowing(self) -> tuple[str, str]:
        """See that clients are answered and that a standby is there: the holder, the standby. Raises Failed."""
        holder = self.holder()
        self.steady(holder)
        other = self.deployment.other(holder)
        self.wait(f"{other} stands by", lambda: self.deployment.stands_by(other, holder))
        self.say(CLIENT, f"asks {self.address}:{PORT} all the while: node {holder} answers, {other} stands by")
        self.tell()
        self._since = time.monotonic()
        return holder, other

    def fail(self, failure: Failed) -> None:
        """Tell what went wrong, and what the pods logged."""
        self.tell()
        self.acts.append(Act(self._title, failure=str(failure)))
        self.timeline.line()
        self.timeline.note(f"FAILED: {failure}", "red")
        for line in self.deployment.logs().splitlines():
            self.timeline.line(f"    {line}")

    # What happens

    def start(self, worker: str) -> None:
        """Start a pod there, as its Deployment and the kubelet would."""
        self._look()  # the log of the one before it is not looked at any more
        self.deployment.start(worker)
        self.say("cluster", f"pod {self.deployment.pods[worker]} starts on node {worker}")

    def restart(self, worker: str) -> None:
        """Start its container again, as the kubelet would."""
        self._look()
        self.deployment.restart(worker)
        self.say("cluster", f"the kubelet of {worker} starts the container of the same pod again")

    def delete(self, worker: str) -> None:
        """Delete the pod there."""
        run, pod = self.deployment.runs[worker], self.deployment.pods[worker]
        self.say("operator", f"kubectl delete pod {pod}: SIGTERM")
        run.terminate()
        try:
            status = run.wait(BOUND)
        except subprocess.TimeoutExpired:
            raise Failed(f"{pod} has not ended after {BOUND:g} s", run) from None
        if status != 0:
            raise Failed(f"{pod} ended with exit status {status}", run)
        self.say("cluster", f"{pod} has ended, with exit status 0")

    def kill(self, worker: str) -> None:
        """Kill the process there."""
        run = self.deployment.runs[worker]
        self.say("operator", f"on node {worker}: kill -9 {run.pid}")
        run.send_signal(signal.SIGKILL)
        run.wait(BOUND)

    def cut(self, worker: str) -> None:
        """Cut a node off from everything."""
        self.lab.cut(worker)
        self.say("cluster", f"node {worker} is cut off from the VPC, EC2 and the Kubernetes API")

    def restore(self, worker: str) -> None:
        """Undo cut()."""
        self.lab.restore(worker)
        self.say("cluster", f"node {worker} is connected again")

    # What is seen

    def holder(self) -> str:
        """Wait until a node has everything; its worker. Raises Failed."""
        self.wait("a node holds", lambda: bool(self.deployment.holder()))
        return self.deployment.holder()

    def steady(self, worker: str) -> None:
        """See that the client is answered by this node, for a while. Raises Failed."""
        start = time.monotonic()
        self.answered(worker, start + STEADY)
        others = {node for sent, node in self._client.answers() if sent > start} - {worker}
        if others:
            raise Failed(f"{' and '.join(sorted(others))} answered, and not only {worker}")

    def answered(self, worker: str, after: float) -> float:
        """Wait for its answer to a request that was sent later; when it came. Raises Failed."""
        deadline = time.monotonic() + BOUND
        while True:
            try:
                return self._client.wait_answer(worker, after=after, timeout=TICK)
            except TimeoutError:
                self._follow()
            if time.monotonic() > deadline:
                raise Failed(f"the client was not answered by {worker} within {BOUND:g} s")

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for something. Raises Failed."""
        deadline = time.monotonic() + BOUND
        while not condition():
            if time.monotonic() > deadline:
                raise Failed(f"not within {BOUND:g} s: {what}")
            time.sleep(TICK)
            self._follow()

    def show_result(self, before: str, after: str) -> None:
        """See that `after` has everything and answers, and tell how it came to that. Raises Failed."""
        self.answered(after, self._since)
        self.wait(f"{after} has everything", lambda: self.deployment.has_all(after))
        self.answered(after, time.monotonic())
        last, first = longest_outage([sent for sent, _ in self._client.answers()], self._since)
        text = f"answered by {after}; without an answer for {milliseconds(first - last)}"
        self._events.append(Event(first, CLIENT, text))
        self.steady(after)
        self.tell()
        off = self._holders.longest_gap(self.address, *(when + _since_boot() for when in (last, first)))
        move = f"{before} → {after}" if before != after else f"{after}, as before"
        self.acts.append(Act(self._title, move, last, first, off))

    def show_standby(self, worker: str, holder: str) -> None:
        """See that a node stands by. Raises Failed."""
        self.wait(f"{worker} stands by", lambda: self.deployment.stands_by(worker, holder))
        pod = self.deployment.pods[worker]
        self.say("vipmanager", f"{pod} is BACKUP and fit to take over; {self.deployment.pods[holder]} holds")
        self.tell()
        if self._holders.holders(self.address) != {holder}:
            raise Failed(f"{self.address} is not on {holder} alone")

    # The telling: events come from several places, some late, and are told in order of time

    def say(self, who: str, text: str) -> None:
        """Something happens now."""
        self._events.append(Event(time.monotonic(), who, text))
        self._follow()

    def tell(self) -> None:
        """Tell all that has happened."""
        self._follow(late=0.0)

    def _follow(self, late: float = LATE) -> None:
        """Tell what has happened until `late` seconds ago."""
        if time.monotonic() >= self._looked + LOOK_EVERY or not late:
            self._look()
        then = time.monotonic() - late
        told = [event for event in self._events if event.when <= then]
        self._events = [event for event in self._events if event.when > then]
        self.timeline.tell(told)

    def _look(self) -> None:
        """Collect what has happened since the last look."""
        since, self._looked = self._looked, time.monotonic()
        changed = [*self._changes.events(since), *self._moves(since)]
        self._events += [event for event in changed if event.when < self._looked]  # the others come again
        self._events += self._logged()

    def _moves(self, since: float) -> list[Event]:
        """The address going from interfaces and coming to them."""
        events, shift = [], _since_boot()
        for tenure in self.tenures():
            events.append(Event(tenure.start - shift, "kernel", f"{self.address} is on an interface of {tenure.node}"))
            if tenure.end is not None:
                events.append(Event(tenure.end - shift, "kernel", f"{self.address} is gone from {tenure.node}"))
        return [event for event in events if event.when >= since]

    def _logged(self) -> list[Event]:
        """What the pods have logged of roles and leases and has not been told."""
        events = []
        for worker, pod in self.deployment.pods.items():
            run = self.deployment.runs[worker]
            lines = run.output().splitlines()
            for line in lines[self._read.get(str(run.log), 0) :]:
                found = _LINE.match(line)
                if found and found[2].startswith(_TOLD):
                    events.append(Event(_monotonic(found[1]), "vipmanager", f"{pod}: {found[2]}"))
            self._read[str(run.log)] = len(lines)
        return events

    # The end

    def tenures(self) -> list[Tenure]:
        """Which nodes have had the address, by the kernel."""
        return self._holders.tenures(self.address)

    def overlaps(self) -> Sequence[tuple[Tenure, Tenure]]:
        """The times when two nodes had it."""
        return self._holders.overlaps(self.address)

    def status(self, worker: str) -> str:
        """What `vipmanager status` prints in the pod there."""
        run = self.deployment.command(worker, "status")
        run.wait(BOUND)
        return run.output()

    def stop(self) -> HttpLog:
        """End the client's asking; every request of it. Raises Failed."""
        try:
            return self._client.stop()
        except RuntimeError as error:
            raise Failed(str(error)) from error


def _since_boot() -> float:
    """What the clock of the kernel's announcements is ahead of time.monotonic()."""
    return boot_time() - time.monotonic()


def _monotonic(stamp: str) -> float:
    """A log's time of day as time.monotonic()."""
    return datetime.fromisoformat(stamp).timestamp() - time.time() + time.monotonic()
