"""Plays schedules and judges them, several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import multiprocessing
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from lab.chaos import faults, invariants, schedule
from lab.chaos.invariants import Census
from lab.chaos.schedule import ADD, DELETE, Schedule, Step
from lab.chaos.stage import DONE_WITHIN, ChaosError, Stage, until
from lab.chaos.world import Home

RETRY = 20.0
"""Seconds: the longest that vipmanager lets pass before it repeats a call that failed (its backoff's cap)."""
WITHDRAWAL = 10.0
"""Seconds from an address leaving a pod to the end of its routes (vipmanager.plan.vpc.WITHDRAW_ROUTES_AFTER)."""
SETTLE = 5.0
"""Seconds for which vipmanager believes its own writes rather than a describe (vipmanager.observe.SETTLE)."""
JITTER = 1.2
"""The longest that a resync takes, in ResyncIntervals."""
DRAW = 30.0
"""Seconds after which a draw between two claimants is ended (vipmanager.plan.claims.SPLIT_AFTER)."""

_POLL = 0.1  # seconds
SCHEDULES_PER_PROCESS = 40  # then a new one: what moto keeps of past labs is not worth a thought


@dataclass(frozen=True)
class Result:
    """What came of a schedule. `converged`: seconds from the end of the last fault; None: it did not."""

    seed: int
    converged: float | None
    bound: float
    took: float
    complaints: tuple[str, ...] = ()
    text: str = ""
    kept: str = ""
    calls: int = 0
    faults: tuple[str, ...] = field(default=())

    @property
    def good(self) -> bool:
        """Whether everything held."""
        return not self.complaints


def bound(stage: Stage) -> float:
    """Seconds after the end of the last fault within which everything must have converged.

    A call that failed is repeated (RETRY) at the latest; drift is found by the next resync, and what another pod has
    left behind at the one after; routes of an address that went just before the end are deleted WITHDRAWAL later; a
    write that two pods made at the same moment is looked at SETTLE later. A draw takes DRAW and another resync.
    """
    resync = JITTER * stage.world.resync
    shared = any(len(stage.holders(floating)) > 1 for floating in stage.world.floatings)
    return RETRY + WITHDRAWAL + SETTLE + 2 * resync + (DRAW + resync if shared else 0.0)


def play(seed: int, names: tuple[str, ...] = (), keep: Path | None = None) -> Result:
    """Play the schedule of a seed. What failed is kept in a folder below `keep`."""
    planned = schedule.make(seed, names)
    started = time.monotonic()
    used = tuple(sorted({step.what for step in planned.steps} - {ADD, DELETE}))
    with contextlib.ExitStack() as stack:
        try:
            stage = stack.enter_context(Stage(planned.world, seed, **_needs(planned)))
            converged, complaints = _run(stage, planned)
            limit, calls = bound(stage), len(stage.lab.ec2.calls)
        except Exception:  # the lab's or ours: the run of the others goes on
            return Result(
                seed, None, 0.0, time.monotonic() - started, (traceback.format_exc(),), str(planned), faults=used
            )
        folder = _keep(stage, planned, complaints, keep / f"seed-{seed}") if complaints and keep else ""
    took = time.monotonic() - started
    return Result(seed, converged, limit, took, tuple(complaints), str(planned), folder, calls, used)


def _needs(planned: Schedule) -> dict[str, list[str]]:
    def pods(*names: str) -> list[str]:
        return [str(step.given["pod"]) for step in planned.steps if step.what in names]

    return {"clocks": pods("clock-jump"), "volumes": pods("state-dir-full", "state-dir-read-only")}


def _run(stage: Stage, planned: Schedule) -> tuple[float | None, list[str]]:
    """When it converged after the end of the faults, if it did, and what is wrong."""
    for sidecar in stage.sidecars.values():
        sidecar.start()
    begun = time.monotonic()
    until(lambda: not _wrong(stage), lambda: f"the start: {_wrong(stage)}")
    stage.note("delivered")
    until(lambda: invariants.looked(stage, begun, stage.lab.ec2.calls), "each sidecar's first look")
    before = {name: _census(stage, name) for name in stage.sidecars}
    _play_steps(stage, planned.steps)
    stage.note("nothing goes wrong any more")
    converged = _await_convergence(stage)
    complaints = [*invariants.delivery(stage), *invariants.packets(stage), *invariants.alive(stage)]
    complaints += [*invariants.foreign(stage), *invariants.leaks(stage, before), *stage.witness.complaints]
    if converged is None and not complaints:
        complaints.append("it converged too late, or not for long")
    return converged, complaints + list(_stop(stage))


def _wrong(stage: Stage) -> list[str]:
    return [*invariants.delivery(stage), *invariants.alive(stage)]


def _census(stage: Stage, name: str) -> Census:
    container = stage.sidecars[name].container
    assert container is not None
    return invariants.census(container.pid)


def _play_steps(stage: Stage, steps: Sequence[Step]) -> None:
    """Begin and end each at its time, and all by the end."""
    numbers = itertools.count()
    due: list[tuple[float, int, str, Callable[[], None] | Step]] = []
    for step in steps:
        heapq.heappush(due, (step.at, next(numbers), str(step), step))
    started = time.monotonic()
    while due:
        at, _, text, item = heapq.heappop(due)
        time.sleep(max(0.0, started + at - time.monotonic()))
        if not isinstance(item, Step):
            stage.note(f"end of {text}")
            item()
            continue
        end = _begin(stage, item)
        if end is not None:
            heapq.heappush(due, (item.until or at, next(numbers), text, end))


def _begin(stage: Stage, step: Step) -> Callable[[], None] | None:
    if step.what in (ADD, DELETE):
        home = Home(str(step.given["pod"]), str(step.given["interface"]))
        (stage.add if step.what == ADD else stage.delete)(str(step.given["address"]), home)
        return None
    stage.note(str(step))
    return faults.FAULTS[step.what].begin(stage, step.given)


def _await_convergence(stage: Stage) -> float | None:
    """Seconds until everything was in place and stayed so while each sidecar looked once more; None: not in time."""
    started, mark = time.monotonic(), stage.lab.ec2.mark()
    limit, confirmed = bound(stage), JITTER * stage.world.resync + DONE_WITHIN
    clean: float | None = None
    while clean is not None or time.monotonic() < started + limit:
        now = time.monotonic()
        if _wrong(stage):
            clean = None
        elif clean is None:
            clean = now
        elif invariants.looked(stage, clean, stage.lab.ec2.calls_since(mark)):
            return clean - started
        elif now > clean + confirmed:
            return None
        time.sleep(_POLL)
    return None


def _stop(stage: Stage) -> Iterator[str]:
    """Every sidecar ends with success when it is told to."""
    running = {name: each.container for name, each in stage.sidecars.items() if each.container is not None}
    for container in running.values():
        container.terminate()
    for name, container in running.items():
        try:
            code = container.wait(DONE_WITHIN)
        except Exception as error:
            yield f"{name}'s sidecar does not end: {error}"
        else:
            if code != 0:
                yield f"{name}'s sidecar ended with {code}"


def _keep(stage: Stage, planned: Schedule, complaints: Sequence[str], folder: Path) -> str:
    """Keep what tells how it came to this: the schedule, what was done when, EC2's calls, and the sidecars' logs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "schedule.txt").write_text(f"{planned}\n\n" + "\n".join(complaints) + "\n")
    offset = time.time() - time.monotonic()

    def stamp(at: float) -> str:
        return time.strftime("%H:%M:%S", time.gmtime(at + offset)) + f".{int((at + offset) % 1 * 1000):03d}"

    names = {each.credentials.access_key: name for name, each in stage.sidecars.items()}
    lines = [(at, f"--- {text}") for at, text in stage.log]
    for call in stage.lab.ec2.calls:
        about = json.dumps(dict(call.params))
        took = f"{call.finished - call.started:.3f}s"
        text = f"{names.get(call.access_key or '', '?')} {call.action} {call.status} {call.error or ''} {took} {about}"
        lines.append((call.started, text))
    (folder / "timeline.txt").write_text("".join(f"{stamp(at)} {text}\n" for at, text in sorted(lines)))
    enis = [f"{home}: {stage.eni(home)}" for home in stage.wanted]
    (folder / "enis.txt").write_text("\n".join(enis) + "\n")
    for name, sidecar in stage.sidecars.items():
        for log in sidecar.pod.directory.glob("*.log"):
            shutil.copy(log, folder / f"{name}-{log.name}")
        state = sidecar.volume.seen_from_outside if sidecar.volume else sidecar.pod.directory / "state"
        with contextlib.suppress(OSError):
            shutil.copy(state / "claims.json", folder / f"{name}-claims.json")
    return str(folder)


def play_all(
    seeds: Sequence[int], workers: int, names: tuple[str, ...] = (), keep: Path | None = None
) -> Iterator[Result]:
    """Play the schedules of these seeds, so many at a time; results in the order in which they are done."""
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(seeds))
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=SCHEDULES_PER_PROCESS) as pool:
        running: set[Future[Result]] = set()
        while waiting or running:
            while waiting and len(running) < workers:
                running.add(pool.submit(play, waiting.pop(), names, keep))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


__all__ = ["ChaosError", "Result", "bound", "play", "play_all"]
