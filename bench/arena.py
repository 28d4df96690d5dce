"""Pairs of nodes on which randomized trials of the election are held, and what must come of each."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from bench.floats import Group, Terms, restart_ended, unexpected_ends, workers
from bench.process import BenchError
from bench.trials import LATENCY, Round, Step, Trial
from lab.holders import Holders, Tenure, boot_time
from lab.lab import Lab

TRY_AGAIN = 0.05
"""Seconds until a step that could not be done is tried again."""
CONVERGED_WITHIN = 25.0
"""Seconds, besides LeaseDuration, for one holder on one node once nothing is wrong any more. Starting takes most of
them where the machine is busy."""


@dataclass(frozen=True)
class Result:
    """What came of a trial. `gap`: the longest time (s) nobody had some address; `settled`: seconds until all was well
    after the last fault; `overlaps`: how often two nodes had one at once."""

    kind: str
    gap: float
    settled: float
    overlaps: int
    said: str = ""


class Arena:
    """A lab with pairs of nodes, groups on each pair, and an observer of who has what."""

    def __init__(self, lab: Lab, holders: Holders, pairs: Sequence[Sequence[Group]]) -> None:
        self.lab, self.holders, self.pairs = lab, holders, pairs
        self._stop = threading.Event()

    @property
    def groups(self) -> list[Group]:
        """All of them."""
        return list(itertools.chain(*self.pairs))

    def run(self, seed: int, rounds: int) -> list[Result]:
        """Hold the trials, on all pairs at the same time. Raises BenchError with all there is to know of a failure."""
        results: list[Result] = []
        failures: list[BaseException] = []

        def work(number: int, groups: Sequence[Group]) -> None:
            try:
                random = Random(f"{seed} {number}")
                for _ in range(rounds):
                    if not self._stop.is_set():
                        results.extend(self._round(groups, random))
            except BaseException as error:  # raised again below
                failures.append(error)
                self._stop.set()

        threads = [threading.Thread(target=work, args=each, daemon=True) for each in enumerate(self.pairs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return results

    def start(self) -> None:
        """Start every replica, and wait until each group has its holder."""
        for group in self.groups:
            for replica in group.replicas.values():
                replica.start()
        began, runs = boot_time(), {name: 0 for group in self.groups for name in group.replicas}
        for group in self.groups:
            self._settle(Trial(group, "start", [], began, runs), began)

    def has_settled(self, group: Group) -> bool:
        """Whether one node holds the Lease and it alone has each address, on its interface and in EC2."""
        owners = group.owners()
        return (
            len(owners) == 1
            and all(self.holders.holders(address) == owners for address in group.addresses)
            and {group.lease_holder()} == owners
        )

    def overlaps(self) -> list[str]:
        """Each time that two nodes had an address at once, since all began."""
        return [
            f"{group.name} {address}: {one} and {other}"
            for group in self.groups
            for address in group.addresses
            for one, other in self.holders.overlaps(address)
        ]

    def _round(self, groups: Sequence[Group], random: Random) -> list[Result]:
        here = {group.name: group.lease_holder() or next(iter(group.replicas)) for group in groups}
        drawn = Round(self.lab, groups, here, random)
        trials = drawn.trials()
        began = boot_time()
        for trial in trials:
            trial.at, trial.runs = began, {node: len(each.runs) - 1 for node, each in trial.group.replicas.items()}
        try:
            self._perform({step for trial in trials for step in trial.steps}, began)
        finally:
            drawn.undo()
        ended = boot_time()
        return [self._result(trial, ended) for trial in trials]

    def _perform(self, steps: set[Step], began: float) -> None:
        order = itertools.count()
        queue = [(step.at, next(order), step) for step in sorted(steps, key=lambda step: (step.at, step.text))]
        heapq.heapify(queue)
        while queue:
            at, _, step = heapq.heappop(queue)
            self._stop.wait(max(0.0, began + at - boot_time()))
            if step.action() is False:
                heapq.heappush(queue, (boot_time() - began + TRY_AGAIN, next(order), step))

    def _result(self, trial: Trial, ended: float) -> Result:
        settled = self._settle(trial, ended) - ended
        now = boot_time()
        gap, overlaps = 0.0, 0
        for address in trial.group.addresses:
            gap = max(gap, self.holders.longest_gap(address, trial.at, now))
            overlaps += len(_since(self.holders.overlaps(address), trial.at))
        said = self.describe(trial) if overlaps else ""
        return Result(trial.kind, gap, settled, overlaps, said)

    def _settle(self, trial: Trial, since: float) -> float:
        """Wait until the group has settled; when that was. Raises BenchError."""
        deadline = since + trial.group.terms.duration + CONVERGED_WITHIN
        while not self.has_settled(trial.group):
            restart_ended(trial.group)
            if ends := unexpected_ends([trial.group]):
                raise BenchError(f"{'; '.join(ends)}\n{self.describe(trial)}")
            if boot_time() > deadline:
                took = f"{boot_time() - since:.0f} s"
                raise BenchError(f"{trial.group.name} has not one holder after {took}\n{self.describe(trial)}")
            time.sleep(0.05)
        return boot_time()

    def describe(self, trial: Trial) -> str:
        """What was done in a trial, who had what, and what the processes have said of it."""
        group = trial.group
        ago = boot_time() - trial.at
        lines = [
            f"{group.name}: {trial.kind}; {group.terms}; began at {trial.at:.3f} s since boot, "
            f"{datetime.fromtimestamp(time.time() - ago, UTC):%H:%M:%S.%f}",
            *(f"  {trial.at + step.at:.3f} {step.text}" for step in trial.steps),
            f"Lease: {self.lab.kube.lease(group.name)}; holder {group.lease_holder()}; EC2: {group.owners()}",
        ]
        for address in group.addresses:
            had = [each for each in self.holders.tenures(address) if each.end is None or each.end > trial.at - 10.0]
            lines += [f"{address}:", *(f"  {each}" for each in had)]
        return "\n".join([*lines, group.logs(trial.runs)])


def _since(overlaps: Sequence[tuple[Tenure, Tenure]], at: float) -> list[tuple[Tenure, Tenure]]:
    return [each for each in overlaps if max(one.start for one in each) >= at]


@contextmanager
def arena(pairs: int, groups: int, terms: Terms) -> Iterator[Arena]:
    """So many pairs of nodes, with so many groups on each, all started."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(workers=workers(pairs), latency=LATENCY, kube=True))
        holders = stack.enter_context(Holders({name: worker.ns for name, worker in lab.workers.items()}))
        names = list(lab.workers)
        made = [
            [Group(lab, pair * groups + number, names[2 * pair : 2 * pair + 2], terms) for number in range(groups)]
            for pair in range(pairs)
        ]
        lab.kube.set_leases(*(group.name for pair in made for group in pair))
        for name in names:
            lab.kube.faults(name).latency = LATENCY
        built = Arena(lab, holders, made)
        built.start()
        yield built
