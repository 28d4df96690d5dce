"""`python -m lab.chaos --seed S --schedules N [--workers K]`."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lab.chaos import runner, schedule
from lab.chaos.faults import FAULTS
from lab.chaos.runner import Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Play schedules; 1 when one of them left something that it should not."""
    parsed = _parser().parse_args(arguments)
    seeds = range(parsed.seed, parsed.seed + parsed.schedules)
    names = tuple(parsed.only.split(",")) if parsed.only else ()
    if parsed.show:
        print("\n\n".join(str(schedule.make(seed, names)) for seed in seeds))
        return 0
    started = time.monotonic()
    results: list[Result] = []
    for result in runner.play_all(seeds, min(parsed.workers, len(seeds)), names, parsed.keep):
        results.append(result)
        _tell(result, parsed.verbose or len(seeds) == 1)
    _sum_up(results, time.monotonic() - started)
    return 0 if all(result.good for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.chaos", description="Seeded schedules of faults, judged.")
    parser.add_argument("--seed", type=int, default=1, help="the first schedule's seed; the others' follow it")
    parser.add_argument("--schedules", type=int, default=1, help="how many")
    parser.add_argument("--workers", type=int, default=4 * (os.cpu_count() or 1), help="how many at a time")
    parser.add_argument("--only", default="", help=f"of these faults only, comma-separated: {', '.join(FAULTS)}")
    parser.add_argument("--keep", type=Path, default=Path(".chaos"), help="where logs of what failed are kept")
    parser.add_argument("--show", action="store_true", help="print the schedules, and play none")
    parser.add_argument("--verbose", action="store_true", help="print each schedule")
    return parser


def _tell(result: Result, whole: bool) -> None:
    mark = "ok  " if result.good else "FAIL"
    converged = f"{result.converged:5.1f} s" if result.converged is not None else "never  "
    times = f"converged {converged} of {result.bound:4.1f}, took {result.took:5.1f} s"
    print(f"{mark} seed {result.seed:<6} {times}  {' '.join(result.faults)}{_missed(result)}")
    if whole or not result.good:
        print("\n".join(f"     {line}" for line in result.text.splitlines()))
    for complaint in result.complaints:
        print(f"     ! {complaint}")
    if result.kept:
        print(f"     logs: {result.kept}")
    if not result.good:
        print(f"     again: make chaos SEED={result.seed} N=1")
    sys.stdout.flush()


def _missed(result: Result) -> str:
    return f" (hit nothing: {' '.join(result.missed)})" if result.missed else ""


def _sum_up(results: Sequence[Result], seconds: float) -> None:
    bad = sorted(result.seed for result in results if not result.good)
    times = sorted(result.converged for result in results if result.converged is not None)
    hit = Counter(name for result in results for name in result.faults)
    missed = Counter(name for result in results for name in result.missed)
    print(
        f"{len(results)} schedules in {seconds:.0f} s ({60 * len(results) / seconds:.1f} a minute), {len(bad)} failed"
    )
    if times:
        print(
            f"converged after the end of the faults: median {statistics.median(times):.1f} s, "
            f"95 % {times[int(0.95 * (len(times) - 1))]:.1f} s, longest {times[-1]:.1f} s"
        )
    print(f"EC2 calls: {sum(result.calls for result in results)}; faults: ", end="")
    print(", ".join(f"{name} {number}" for name, number in sorted(hit.items())))
    if missed:
        print(f"hit nothing: {', '.join(f'{name} {number}' for name, number in sorted(missed.items()))}")
    if bad:
        print(f"failed seeds: {' '.join(map(str, bad))}")


if __name__ == "__main__":
    sys.exit(main())
