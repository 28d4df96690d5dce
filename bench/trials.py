"""Randomized trials of the election: what is done to a pair of nodes and to the groups on it, and when.

Each trial is a schedule that a seed determines; what comes of it depends on the machine as well.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from bench.floats import Group, Replica, Terms
from lab.lab import Lab

START_WITHIN = 0.4
"""Seconds in which the faults of a trial begin."""
FURTHEST = 840.0
"""Seconds that a wall clock is off: from 15 minutes on EC2 refuses its signatures."""
LATENCY = 0.06
"""Seconds that a call to the Kubernetes API takes when nothing is the matter."""


@dataclass(frozen=True)
class Step:
    """Something done so many seconds after the round began. `action` returns False when it has to be tried again."""

    at: float
    text: str
    action: Callable[[], object]


@dataclass
class Trial:
    """What is done to a group in a round; `at` is when the round began (boot_time), `runs` each node's process then."""

    group: Group
    kind: str
    steps: list[Step]
    at: float = 0.0
    runs: dict[str, int] = field(default_factory=dict)


class Round:
    """Draws the trials of one round: one for each of the groups, with faults of the nodes that are common to them."""

    def __init__(self, lab: Lab, groups: Sequence[Group], holders: dict[str, str], random: Random) -> None:
        """`holders`: group → the node that holds."""
        self._lab, self._groups, self._holders, self._random = lab, groups, holders, random
        self._nodes = list(groups[0].replicas)
        self._terms: Terms = groups[0].terms
        self._over = False
        self.length = self._terms.duration * random.uniform(0.8, 3.0)

    def trials(self) -> list[Trial]:
        """One trial for each group."""
        kind, common = self._common()
        made = []
        for group in self._groups:
            own_kind, own = "", []
            if not kind or self._random.random() < 0.6:
                own_kind, own = self._own(group)
            if kind == _EC2:
                own += self._move(group)
            made.append(Trial(group, kind or own_kind, sorted([*common, *own], key=lambda step: step.at)))
        return made

    def undo(self) -> None:
        """End every fault of the nodes and of EC2 that concerns them."""
        self._over = True
        for node in self._nodes:
            self._lab.restore(node)
            self._lab.kube.faults(node).clear()
            self._lab.kube.faults(node).latency = LATENCY

    # of both nodes' surroundings

    def _common(self) -> tuple[str, list[Step]]:
        draw = self._random.random()
        if draw < 0.45:
            return "", []
        kind, make = self._random.choice(
            (
                ("API does not answer", self._api_hangs),
                ("API refuses connections", self._api_refuses),
                ("API slow, up to 1.5 s", self._api_slow),
                ("node cut off", self._cut),
                (_EC2, self._ec2),
            )
        )
        return kind, list(make())

    def _api_hangs(self) -> Iterator[Step]:
        for node in self._some_nodes():
            faults = self._lab.kube.faults(node)
            yield from self._phase(f"API does not answer {node}", faults.hang, faults.clear)

    def _api_refuses(self) -> Iterator[Step]:
        for node in self._some_nodes():
            faults = self._lab.kube.faults(node)
            yield from self._phase(f"API refuses {node}", faults.refuse, faults.clear)

    def _api_slow(self) -> Iterator[Step]:
        for node in self._nodes:
            faults = self._lab.kube.faults(node)
            for _ in range(self._random.randint(1, 3)):
                latency = self._random.uniform(0.0, 1.5)
                at = self._random.uniform(0.0, self.length)
                yield Step(at, f"API takes {latency:.2f} s for {node}", _setter(faults, latency))

    def _cut(self) -> Iterator[Step]:
        node = self._random.choice(self._nodes)
        yield from self._phase(f"cut off {node}", lambda: self._lab.cut(node), lambda: self._lab.restore(node))

    def _ec2(self) -> Iterator[Step]:
        """EC2 fails the calls about any of the groups' addresses; not those of other pairs' groups."""
        names = {address for group in self._groups for address in group.addresses}
        random, faults = self._random, self._lab.ec2.faults
        times, late = random.randint(1, 6), random.uniform(0.2, 4.0)

        def ours(params: Mapping[str, str]) -> bool:
            return not self._over and not names.isdisjoint(params.values())

        text, action = random.choice(
            (
                (f"answers {times} writes {late:.1f} s late", lambda: faults.hang(_ASSIGN, late, times, when=ours)),
                (f"throttles {times} writes", lambda: faults.fail(_ASSIGN, _THROTTLED, times=times, when=ours)),
                (f"does {times} writes without an answer", lambda: faults.fail_after(_ASSIGN, times=times, when=ours)),
                (f"drops {times} writes", lambda: faults.reset(_ASSIGN, times, when=ours)),
            )
        )
        yield Step(random.uniform(0.0, START_WITHIN), f"EC2 {text}", action)

    # of a group's processes

    def _own(self, group: Group) -> tuple[str, list[Step]]:
        kind, make = self._random.choice(
            (
                ("SIGSTOP, SIGCONT", self._pause),
                ("SIGSTOP, SIGCONT", self._pause),
                ("SIGKILL, restart", self._kill),
                ("SIGTERM, restart", self._terminate),
                ("wall clock jumps", self._jump),
            )
        )
        return kind, list(make(group))

    def _pause(self, group: Group) -> Iterator[Step]:
        for replica in self._some_replicas(group):
            shortest = 0.2 * self._terms.duration
            yield from self._phase(f"stop {replica.name}", replica.pause, replica.go_on, shortest)

    def _kill(self, group: Group) -> Iterator[Step]:
        for replica in self._some_replicas(group):
            yield from self._end(replica, signal.SIGKILL)

    def _terminate(self, group: Group) -> Iterator[Step]:
        for replica in self._some_replicas(group):
            yield from self._end(replica, signal.SIGTERM)

    def _jump(self, group: Group) -> Iterator[Step]:
        """Clocks jump, and in half of the trials the lease changes hands meanwhile."""
        for replica in self._some_replicas(group):
            for _ in range(self._random.randint(1, 2)):
                offset = self._random.uniform(-FURTHEST, FURTHEST)
                at = self._random.uniform(0.0, 0.5 * self.length)
                yield Step(at, f"clock of {replica.name} is {offset:+.0f} s off", _jumper(replica, offset))
        if self._random.random() < 0.5:
            yield from self._move(group)

    def _move(self, group: Group) -> Iterator[Step]:
        """The holder stops holding, in one way or another."""
        holder = group.replicas[self._holders[group.name]]
        number = self._random.choice((signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP))
        if number is signal.SIGSTOP:
            shortest = self._terms.duration + 0.2
            yield from self._phase(f"stop {holder.name}", holder.pause, holder.go_on, shortest)
        else:
            yield from self._end(holder, number)

    def _end(self, replica: Replica, number: signal.Signals) -> Iterator[Step]:
        at = self._random.uniform(0.0, START_WITHIN)
        renamed = self._random.random() < 0.5
        again = at + self._random.choice((0.0, self._random.uniform(0.0, 0.8 * self.length)))

        def restart() -> bool:
            if not replica.expected and replica.gone:  # unless somebody else has
                replica.start(renamed=renamed)
            return replica.expected

        as_whom = "another pod" if renamed else "the same pod"
        yield Step(at, f"{number.name} to {replica.name}", lambda: replica.stop(number))
        yield Step(again, f"start on {replica.node} as {as_whom}", restart)

    # what is drawn

    def _phase(
        self, text: str, begin: Callable[[], object], end: Callable[[], object], shortest: float = 0.2
    ) -> Iterator[Step]:
        at = self._random.uniform(0.0, START_WITHIN)
        lasting = self._random.uniform(shortest, max(shortest, self.length))
        yield Step(at, f"{text} for {lasting:.2f} s", begin)
        yield Step(at + lasting, f"end of: {text}", end)

    def _some_nodes(self) -> list[str]:
        return self._random.choice(([self._nodes[0]], [self._nodes[1]], self._nodes))

    def _some_replicas(self, group: Group) -> list[Replica]:
        """The holder, twice as often as the standby or both."""
        holder = self._holders[group.name]
        choices = ([holder], [holder], [group.other(holder)], [holder, group.other(holder)])
        return [group.replicas[node] for node in self._random.choice(choices)]


_EC2 = "EC2 fails in a move"
_ASSIGN = "*ssign*Addresses"
_THROTTLED = "RequestLimitExceeded"


def _setter(faults: object, latency: float) -> Callable[[], object]:
    return lambda: setattr(faults, "latency", latency)


def _jumper(replica: Replica, offset: float) -> Callable[[], object]:
    return lambda: replica.clock.jump(offset)
