"""Nodes, a store and a network in simulated time: what test_election_safety.py makes trouble in."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import replace

from vipmanager.errors import ErrorKind, Failure
from vipmanager.model_node import Lease, Tenure
from vipmanager.plan import election
from vipmanager.plan.election_facts import Acquire, Create, Facts, Read, Release, Renew, Step, Terms, Wait

TROUBLE_UNTIL = 30.0
CALL_TIMEOUT = 2.0
KERNEL_LATE = 0.25
"""Seconds by which a kernel removes an address after its lifetime, at most (measured)."""


class Race(Exception):
    """The store holds another version."""


class World:
    """True time, the store, the network and the schedule of faults."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.record: Lease | None = None
        self._versions = itertools.count(1)
        self.slow = False
        self.trace: list[str] = []
        self.nodes: list[Node] = []

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._count), what))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        self.now = until

    def note(self, text: str) -> None:
        """One line of the story that a failing schedule tells."""
        self.trace.append(f"{self.now:8.3f} {text}")

    @property
    def story(self) -> str:
        """Its end."""
        return "\n".join(["", *self.trace[-60:]])

    def chance(self, probability: float) -> bool:
        """True that often; only while there is to be trouble."""
        return self.now < TROUBLE_UNTIL and self.rng.random() < probability

    def latency(self) -> float:
        """Seconds one way; now and then a message is held up for long, but none beyond the time of trouble."""
        if self.chance(0.01):
            return self.rng.uniform(0.0, min(9.0, TROUBLE_UNTIL - self.now))
        return self.rng.uniform(0.002, 0.6 if self.slow else 0.06)

    # the store

    def execute(self, step: Step, stamp: str) -> Lease | None:
        """Serve a request, as an API server does: a write that was made from another version is refused."""
        if isinstance(step, Read):
            return self.record
        assert not isinstance(step, Wait)
        if isinstance(step, Create):
            if self.record is not None:
                raise Race
        elif self.record is None or self.record.version != step.lease.version:
            raise Race
        stored = replace(step.lease, version=str(next(self._versions)))
        if isinstance(step, Create | Renew | Acquire | Release):
            stored = replace(stored, renewed=stamp)
        if self.record is not None and stored == replace(self.record, version=stored.version):
            return self.record  # as Kubernetes does: nothing has changed, so nothing is written
        self.store(stored)
        self.note(f"stored {type(step).__name__} {stored.holder or '-'} v{stored.version}")
        return stored

    def store(self, record: Lease | None) -> None:
        """Change it and tell the watches."""
        self.record = record
        for node in self.nodes:
            if node.process is not None:
                node.process.announce(record)


class Node:
    """A machine: its clocks, its kernel with or without the address, and at most one process."""

    def __init__(self, world: World, name: str, terms: Terms) -> None:
        self.world, self.name, self.terms = world, name, terms
        self.offset = world.rng.uniform(0.0, 100_000.0)
        self.rate = 1.0 + world.rng.uniform(-0.01, 0.01)
        self.wall = world.rng.uniform(0.0, 10.0)
        self.cut = self.deaf = False  # nothing gets through to the API; nothing comes back
        self.lag = 0.0  # seconds that answers take besides
        self.torn = False  # the wall clock goes back and forth
        self.process: Process | None = None
        self.has_until = 0.0  # true time at which the kernel takes the address off
        self.births = itertools.count(1)

    def clock(self) -> float:
        """CLOCK_BOOTTIME."""
        return self.offset + self.world.now * self.rate

    def true(self, local: float) -> float:
        """When this clock shows `local`."""
        return (local - self.offset) / self.rate

    def stamp(self) -> str:
        """The wall clock, so coarse that jumps make equal stamps."""
        if self.torn:
            return str(int(self.world.now) % 2)
        return str(int(20.0 * (self.world.now * self.rate + self.wall)))

    def boot(self, *, anew: bool) -> None:
        """Start a process, as a restarted container or as a new pod."""
        if self.process is not None:
            return
        name = f"{self.name}.{next(self.births)}" if anew else self.terms.identity
        self.terms = replace(self.terms, identity=name)
        self.process = Process(self)
        self.world.note(f"{name} starts")
        self.process.begin()

    def kill(self) -> None:
        """kill -9: the kernel keeps the address until its lifetime ends."""
        if self.process is not None:
            self.process.dead = True
            self.process = None

    def put(self, seconds: int) -> None:
        """The address is on for so many seconds of this node's time, and nobody else may have it now."""
        for other in self.world.nodes:
            if other is not self and other.has_until > self.world.now:
                late = other.has_until - self.world.now
                raise AssertionError(f"{self.name} and {other.name} (for {late:.3f} s more){self.world.story}")
        self.has_until = self.world.now + seconds / self.rate + self.world.rng.uniform(0.0, KERNEL_LATE)

    def take_off(self) -> None:
        """The address is off."""
        self.has_until = min(self.has_until, self.world.now)


class Process:
    """`vipmanager nodeport`: the machine, the watch, and a main loop that does nothing but the address."""

    def __init__(self, node: Node) -> None:
        self.node, self.world = node, node.world
        self.facts = Facts(node.terms)
        self.tenure = Tenure()
        self.kept = -1.0
        self.dead = self.stopped = self.busy = self.leaving = False
        self._deferred: list[Callable[[], None]] = []
        self._timer = itertools.count()
        self._due = 0
        self._call = 0
        self._watching, self._last_event = False, 0.0

    def later(self, delay: float, what: Callable[[], None]) -> None:
        """Run something in this process, unless it is dead by then; while it is stopped, it waits."""
        self.world.at(self.world.now + delay, lambda: self._run(what))

    def _run(self, what: Callable[[], None]) -> None:
        if self.stopped:
            self._deferred.append(what)
        elif not self.dead:
            what()

    def go_on(self) -> None:
        """SIGCONT: what has come meanwhile is handled, in whatever order the threads run."""
        self.stopped = False
        waiting, self._deferred = self._deferred, []
        self.world.rng.shuffle(waiting)
        for what in waiting:
            self.later(self.world.rng.uniform(0.0, 0.002), what)

    def begin(self) -> None:
        self.node.take_off()  # whoever is not the holder removes it
        self.think()
        self._connect()

    # the machine

    def fold(self, change: Callable[[Facts], Facts]) -> None:
        self.facts = change(self.facts)
        self.think()

    def think(self) -> None:
        now = self.node.clock()
        told = election.tenure(self.facts, now, 0.0, self.tenure)
        if told != self.tenure:
            self.tenure = told
            self.later(self.world.rng.uniform(0.0, 0.005), self.main)
        if self.busy:
            return
        step = election.step(self.facts, now)
        if isinstance(step, Wait):
            if step.until is not None:
                self._due = number = next(self._timer)
                delay = max(0.0, self.node.true(step.until) - self.world.now) + 1e-6
                self.later(delay, lambda: self.think() if number == self._due else None)
            return
        self.busy = True
        self._call += 1
        self.later(self.world.rng.uniform(0.0, 0.002), lambda: self._transmit(step, now, self._call))

    def _transmit(self, step: Step, sent: float, call: int) -> None:
        self.later(CALL_TIMEOUT / self.node.rate, lambda: self._answered(step, sent, call, ErrorKind.RETRY))
        if not self.node.cut and not self.world.chance(0.02):
            self.world.at(self.world.now + self.world.latency(), lambda: self._arrive(step, sent, call))

    def _arrive(self, step: Step, sent: float, call: int) -> None:
        """At the API server; the process may be dead by now."""
        answer: Lease | ErrorKind | None
        try:
            answer = self.world.execute(step, self.node.stamp())
        except Race:
            answer = ErrorKind.RACE
        if not self.node.cut and not self.node.deaf and not self.world.chance(0.02):
            delay = self.world.latency() + self.node.lag
            self.later(delay, lambda: self._answered(step, sent, call, answer))

    def _answered(self, step: Step, sent: float, call: int, answer: Lease | ErrorKind | None) -> None:
        if call != self._call or not self.busy:
            return
        self.busy = False
        at, draw = self.node.clock(), self.world.rng.random()
        if isinstance(answer, ErrorKind):
            failure = Failure(answer, "lease", "Simulated", "")
            self.fold(lambda facts: election.failed(facts, step, failure, at, draw))
        elif isinstance(step, Read):
            self.fold(lambda facts: election.read(facts, answer, sent, at))
        elif answer is not None:
            self.fold(lambda facts: election.written(facts, step, answer, sent, at))

    # the watch

    def _connect(self) -> None:
        if not self.node.cut:
            self._watching = True
        else:
            self.later(self.world.rng.uniform(0.1, 2.0), self._connect)

    def announce(self, record: Lease | None) -> None:
        """Send an event, in order; a stream that loses one ends, and is begun again some time later."""
        if not self._watching or self.dead:
            return
        if self.node.cut or self.node.deaf or self.world.chance(0.02):
            self._watching = False
            self.later(self.world.rng.uniform(0.1, 6.0), self._connect)
            return
        self._last_event = max(self._last_event + 1e-6, self.world.now + self.world.latency())
        self.later(self._last_event - self.world.now, lambda: self._event(record))

    def _event(self, record: Lease | None) -> None:
        at = self.node.clock()
        self.fold(lambda facts: election.watched(facts, record, at))

    # the main loop

    def main(self) -> None:
        """The rule for the address: a kernel lifetime at each renewal, off at `until`, off before the lease is."""
        now, tenure = self.node.clock(), self.tenure
        seconds = election.lifetime(tenure, now)
        if self.leaving or tenure.yielding_to or not tenure.leading or seconds == 0:
            self.node.take_off()
            self.kept = -1.0
            if tenure.leading and (tenure.yielding_to or self.leaving):
                self.later(self.world.rng.uniform(0.0, 0.05), self.resign)
            return
        if tenure.renewed_at != self.kept:
            self.kept = tenure.renewed_at
            self.node.put(seconds)
        self.later(max(0.0, self.node.true(tenure.until) - self.world.now), self.main)

    def flap(self) -> None:
        """Somebody took the address off; it is put on again, at an odd moment."""
        self.node.take_off()
        self.kept = -1.0
        self.main()

    def resign(self) -> None:
        self.fold(lambda facts: election.resigned(facts, "told to", self.node.clock(), for_good=self.leaving))

    def terminate(self) -> None:
        """SIGTERM: hand over, and end when that is done or after two seconds."""
        self.leaving = True
        self.main()
        self.resign()
        self.later(self.world.rng.uniform(0.2, 2.0), lambda: self.node.kill() if self.node.process is self else None)
