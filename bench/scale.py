"""`python -m bench.scale`: a whole Availability Zone fails, and its addresses come back on a hundred pods at once.

The pods are real init runs (Agent, plan, pacer) in simulated time on the tests' EC2 double, with EC2's throttle: 100
calls of an operation at once and 5 a second. So minutes pass in seconds, and always in the same way. The floor is the
token bound: (necessary calls - 100) / 5 s.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import machine
from tests.unit.crowd import DESCRIBES, LATENCY, ROUTES, Crowd
from vipmanager.apply import Retry, RetryBook
from vipmanager.crowd import BUCKET, REFILL, Key
from vipmanager.errors import Failure
from vipmanager.pacer import Batch, Pacer, Tables

TABLES = 4
CALLS_REACH, TIME_REACH = 1.1, 1.15
DEFAULT_FILE = Path(__file__).with_name("scale.json")

HEADER = (
    f"{'addr.':>6} {'pods':>5} {'tables':>6} {'necessary':>9} {'sent':>6} {'refused':>7} {'ratio':>6} {'bound s':>8} "
    f"{'time s':>7} {'ratio':>6} {'slowest pod s':>13} {'describes':>9}"
)


@dataclass(frozen=True)
class Case:
    """`pods` that start within `spread` seconds, `each` addresses on each.

    `announced`: EC2 shows the routes of the failed zone as blackholes; otherwise it still takes their targets for live.
    `stale` routes of each table are blackholes that nobody takes over, `innocents` live routes of others that stay.
    """

    pods: int
    each: int
    spread: float = 0.0
    announced: bool = True
    stale: int = 0
    innocents: int = 0
    paced: bool = True

    @property
    def title(self) -> str:
        """What is special about it."""
        start = f"pods start within {self.spread:g} s" if self.spread else "all pods start at the same instant"
        seen = "" if self.announced else "; EC2 does not show yet that the old targets are gone"
        stale = f"; {self.stale} stale blackholes in each table besides" if self.stale else ""
        more = f"; {self.innocents} live routes of others in each table besides" if self.innocents else ""
        return f"{start}{seen}{stale}{more}{'' if self.paced else '; without the pacer, as before it'}"


@dataclass(frozen=True)
class Result:
    """What came of a case; times in simulated seconds."""

    case: Case
    necessary: int
    sent: int
    refused: int
    bound: float
    took: float
    slowest: float
    describes: int
    undelivered: int

    @property
    def calls_ratio(self) -> float:
        """Calls that were sent, by those that were necessary."""
        return self.sent / self.necessary

    @property
    def time_ratio(self) -> float | None:
        """By the token bound, or by the time within which the pods start, where that is longer."""
        floor = max(self.bound, self.case.spread)
        return self.took / floor if floor else None

    def as_line(self) -> str:
        """For the table."""
        case = self.case
        ratio = "–" if self.time_ratio is None else f"{self.time_ratio:.2f}"
        return (
            f"{case.pods * case.each:>6} {case.pods:>5} {TABLES:>6} {self.necessary:>9} {self.sent:>6} "
            f"{self.refused:>7} {self.calls_ratio:>6.2f} {self.bound:>8.1f} {self.took:>7.1f} {ratio:>6} "
            f"{self.slowest:>13.1f} {self.describes:>9}  {self.met}"
        ).rstrip()

    @property
    def met(self) -> str:
        """Which of the two is missed; nothing is asked of one pod, of stale routes and of what came before."""
        if self.case.pods < 100 or self.case.stale or not self.case.paced:
            return ""
        missed = [f"calls > {CALLS_REACH}"] if self.calls_ratio > CALLS_REACH else []
        missed += [f"time > {TIME_REACH}"] if (self.time_ratio or 0.0) > TIME_REACH else []
        return "NO: " + ", ".join(missed) if missed else "yes"


CASES = (
    Case(100, 1),
    Case(100, 5),
    Case(100, 10),
    Case(100, 1, spread=15.0),
    Case(100, 5, spread=15.0),
    Case(100, 10, spread=15.0),
    Case(100, 1, announced=False),
    Case(100, 5, announced=False),
    Case(100, 10, announced=False),
    Case(100, 1, announced=False, innocents=100),
    Case(100, 1, announced=False, innocents=1000),
    Case(100, 1, announced=False, spread=2.0),
    Case(100, 1, announced=False, spread=15.0),
    Case(100, 5, announced=False, spread=15.0),
    Case(1, 2, announced=False, innocents=100),
    Case(10, 1, announced=False, innocents=100),
    Case(1, 32, announced=False, innocents=500),
    Case(1, 60, announced=False, innocents=500),
    Case(1, 32),
    Case(1, 60),
    Case(1, 2, stale=300),
    Case(10, 1, stale=300),
    Case(100, 1, paced=False),
    Case(100, 5, paced=False),
)


class Unpaced(Pacer):
    """No pacer: each call that was refused is tried again for itself, with full jitter."""

    def admit(self, batches: Sequence[Batch], now: float, tables: Tables, start: bool = False) -> list[Batch]:
        """All of them."""
        return list(batches)

    def answered(self, batch: Batch, failure: Failure | None, now: float) -> None:
        """Nothing to learn."""


class UnpacedBook(RetryBook):
    """A refusal is a failure like others."""

    def throttled(self, key: Key, failure: Failure, now: float) -> Retry:
        """See RetryBook."""
        return self.failed(key, failure, now)


def run(case: Case, seed: int = 0) -> Result:
    """Let the zone fail; an AssertionError when an address has not come back within simulated days."""
    crowd = Crowd(
        [case.each] * case.pods,
        tables=TABLES,
        announced=case.announced,
        stale=case.stale,
        innocents=case.innocents,
        spread=case.spread,
        seed=seed,
    )
    if not case.paced:
        for pod in crowd.pods:
            pod.agent._pacer, pod.agent._retries = Unpaced(), UnpacedBook(crowd.draws.random)
    assert crowd.run(), "some pods never end"
    necessary = case.pods * case.each * TABLES
    return Result(
        case,
        necessary,
        crowd.count(*ROUTES),
        crowd.count(*ROUTES, throttled=True),
        max(0.0, (necessary - BUCKET) / REFILL),
        crowd.took,
        max(pod.took or 0.0 for pod in crowd.pods),
        crowd.count(*DESCRIBES),
        crowd.undelivered(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print the table. The exit status is 1 when an address was not delivered."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of chance; default 0")
    parser.add_argument(
        "--only", type=int, nargs="+", choices=range(1, len(CASES) + 1), metavar="N", help="cases, from 1"
    )
    parser.add_argument("--json", type=Path, default=DEFAULT_FILE, metavar="FILE", help="default bench/scale.json")
    parsed = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    print(machine.heading(machine.describe(), LATENCY).splitlines()[0])
    print(
        f"Simulated time; seed {parsed.seed}. Reach: calls ≤ {CALLS_REACH} ×, time ≤ {TIME_REACH} × the token bound.\n"
    )
    print(HEADER, flush=True)
    results = list(
        _run_all([CASES[number - 1] for number in parsed.only or range(1, len(CASES) + 1)], parsed.seed, print)
    )
    rows = [
        {**asdict(result), "calls_ratio": result.calls_ratio, "time_ratio": result.time_ratio} for result in results
    ]
    parsed.json.write_text(json.dumps({"seed": parsed.seed, "results": rows}, indent=1) + "\n")
    return int(any(result.undelivered for result in results))


def _run_all(cases: Sequence[Case], seed: int, say: Callable[[str], None]) -> Iterator[Result]:
    before = ""
    for case in cases:
        if case.title != before:
            say(case.title)
            before = case.title
        began = time.monotonic()
        result = run(case, seed)
        say(f"{result.as_line()}   [{time.monotonic() - began:.0f} s]")
        sys.stdout.flush()
        yield result


if __name__ == "__main__":
    sys.exit(main())
