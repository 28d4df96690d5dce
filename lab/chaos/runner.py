"""Plays schedules and judges them, several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import json
import multiprocessing
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from lab.chaos import calls, invariants, leftovers, processes, release, schedule
from lab.chaos.fault import Missed
from lab.chaos.faults import FAULTS
from lab.chaos.processes import Census
from lab.chaos.schedule import ADD, DELETE, Schedule, Step
from lab.chaos.sidecar import DONE_WITHIN
from lab.chaos.stage import ChaosError, Stage, until
from lab.chaos.witness import PROMPT
from lab.chaos.world import Home

RETRY = 20.0
"""Seconds: the longest that vipmanager lets pass before it repeats a call that failed (its backoff's cap)."""
WITHDRAWAL = 10.0
"""Seconds from an address leaving a pod to the end of its routes (vipmanager.plan.vpc.WITHDRAW_ROUTES_AFTER)."""
SETTLE = 5.0
"""Seconds for which vipmanager believes its own writes rather than a describe (vipmanager.observe.SETTLE)."""
ANSWER = 10.0
"""Seconds for which vipmanager waits for an answer (vipmanager.clients.ec2.READ_TIMEOUT)."""
JITTER = 1.2
"""The longest that a resync takes, in ResyncIntervals."""
DRAW = 30.0
"""Seconds after which a draw between two claimants is ended (vipmanager.plan.claims.SPLIT_AFTER)."""

LOOK = 1.0  # s: for a describe that is due
_POLL = 0.1  # s
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
    faults: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()  # faults that had nothing to hit

    @property
    def good(self) -> bool:
        """Whether everything held."""
        return not self.complaints


def bound(stage: Stage, drifted: bool) -> float:
    """Seconds after the end of the last fault within which everything must have converged.

    A call that failed is repeated (RETRY) at the latest, one that gets no answer is given up ANSWER later; routes of an
    address that went just before the end are deleted WITHDRAWAL later; a write that two pods made at the same moment is
    looked at SETTLE later. A prefix whose routes are deleted may first have stayed for one of its addresses that went.
    Drift is found by the next resync, and what another pod has left behind at the one after: only where there was some.
    A draw takes DRAW, and who has conceded learns of it by a resync.
    """
    settings = stage.world.settings
    resync = 0.0 if stage.world.patient else JITTER * settings.resync
    shared = any(len(stage.holders(floating)) > 1 for floating in stage.world.floatings)
    prefixes = settings.aggregate or settings.pool is not None
    seconds = RETRY + ANSWER + WITHDRAWAL + SETTLE + (WITHDRAWAL + SETTLE if prefixes else 0.0)
    return seconds + (2 * resync if drifted else 0.0) + (DRAW + resync if shared else 0.0)


def play(seed: int, names: tuple[str, ...] = (), keep: Path | None = None) -> Result:
    """Play the schedule of a seed. What failed is kept in a folder below `keep`."""
    planned = schedule.make(seed, names)
    started = time.monotonic()
    used = {step.what for step in planned.steps} - {ADD, DELETE}
    converged, limit, made, folder = None, 0.0, 0, ""
    missed: set[str] = set()
    complaints: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            stage = stack.enter_context(Stage(planned.world, seed, **_needs(planned)))
            try:
                converged, complaints = judge(stage, planned)
            except Exception:  # the lab's or ours: the run of the others goes on
                complaints = [traceback.format_exc()]
            limit, made, missed = bound(stage, _drifted(planned)), len(stage.lab.ec2.calls), stage.missed - stage.hit
            folder = _keep(stage, planned, complaints, keep / f"seed-{seed}") if complaints and keep else ""
        except Exception:  # there is no stage to tell of it
            complaints.append(traceback.format_exc())
    took = time.monotonic() - started
    hit, missing = tuple(sorted(used - missed)), tuple(sorted(missed))
    return Result(seed, converged, limit, took, tuple(complaints), str(planned), folder, made, hit, missing)


def _needs(planned: Schedule) -> dict[str, list[str]]:
    def pods(*names: str) -> list[str]:
        return [str(step.given["pod"]) for step in planned.steps if step.what in names]

    return {"clocks": pods("clock-jump"), "volumes": pods("state-dir-full", "state-dir-read-only")}


def judge(stage: Stage, planned: Schedule, limit: float | None = None) -> tuple[float | None, list[str]]:
    """Play it. When it converged after the end of the faults, if it did, and what is wrong. Raises ChaosError.

    `limit`: seconds to wait for that, if not for what `bound` says.
    """
    for name in stage.sidecars:
        stage.start(name)
    begun = time.monotonic()
    until(lambda: not _wrong(stage), lambda: f"the start: {_wrong(stage)}")
    stage.note("delivered")
    until(lambda: invariants.looked(stage, begun, stage.lab.ec2.calls), "each sidecar's first look")
    before = {name: _census(stage, name) for name in stage.sidecars}
    started = time.monotonic()
    for step in planned.opening:
        _take_over(stage, step)
    _play_steps(stage, planned.steps)
    stage.note("nothing goes wrong any more")
    converged = _await_convergence(stage, limit or bound(stage, _drifted(planned)))
    complaints = [*invariants.delivery(stage), *invariants.packets(stage), *invariants.alive(stage)]
    complaints += [*leftovers.pods(stage), *processes.leaks(stage, before), *stage.witness.too_slow(started)]
    if converged is None and not complaints:
        complaints.append("it converged too late, or not for long")
    stage.note("all are told to stop")
    complaints += release.stop(stage, converged=converged is not None)
    return converged, [*complaints, *calls.foreign(stage), *stage.witness.complaints, *stage.complaints]


def _drifted(planned: Schedule) -> bool:
    return any(step.what in FAULTS and FAULTS[step.what].drifts(step.given) for step in planned.steps)


def _wrong(stage: Stage) -> list[str]:
    return [*invariants.delivery(stage), *invariants.alive(stage)]


def _census(stage: Stage, name: str) -> Census:
    container = stage.sidecars[name].container
    assert container is not None
    return processes.census(container.pid)


def _take_over(stage: Stage, step: Step) -> None:
    """Let an address come to another pod, and leave the former one when it is delivered, or is too late."""
    floating = stage.floating(str(step.given["address"]))
    former = stage.holders(floating)
    _begin(stage, step)
    episode, deadline = stage.witness.episodes[-1], time.monotonic() + PROMPT + LOOK
    while episode.delivered is None and time.monotonic() < deadline:
        time.sleep(_POLL)
    for home in former:
        stage.delete(floating.name, home)


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
    fault = FAULTS[step.what]
    stage.troubles.append(fault.trouble(stage, step.given, time.monotonic()))
    try:
        end = fault.begin(stage, step.given)
    except Missed:
        stage.missed.add(fault.name)
        stage.note(f"{fault.name} hit nothing")
        return None
    if end is None:
        stage.hit.add(fault.name)
        return None
    return functools.partial(_ending, stage, fault.name, end)


def _ending(stage: Stage, name: str, end: Callable[[], None]) -> None:
    try:
        end()
    except Missed:
        stage.missed.add(name)
        stage.note(f"{name} hit nothing")
    else:
        stage.hit.add(name)


def _await_convergence(stage: Stage, limit: float) -> float | None:
    """Seconds until everything was in place and stayed so while each sidecar looked once more; None: not in time.

    Without a resync, while what addresses left behind was withdrawn and each had looked at its last writes.
    """
    started, mark = time.monotonic(), stage.lab.ec2.mark()
    confirmed = JITTER * stage.world.settings.resync + DONE_WITHIN
    clean: float | None = None
    while clean is not None or time.monotonic() < started + limit:
        now = time.monotonic()
        if _wrong(stage):
            clean = None
        elif clean is None:
            clean = now
        elif stage.world.patient:
            if now > max(clean + SETTLE, started + WITHDRAWAL) + 2 * LOOK:
                return clean - started
        elif invariants.looked(stage, clean, stage.lab.ec2.calls_since(mark)):
            return clean - started
        elif now > clean + confirmed:
            return None
        time.sleep(_POLL)
    return None


def _keep(stage: Stage, planned: Schedule, complaints: Sequence[str], folder: Path) -> str:
    """Keep what tells how it came to this: the schedule, what was done when, EC2's calls, and the sidecars' logs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "schedule.txt").write_text(f"{planned}\n\n" + "\n".join(complaints) + "\n")
    offset = time.time() - time.monotonic()

    def stamp(at: float) -> str:
        return time.strftime("%H:%M:%S", time.gmtime(at + offset)) + f".{int((at + offset) % 1 * 1000):03d}"

    lines = [(at, f"--- {text}") for at, text in stage.log]
    for call in stage.lab.ec2.calls:
        about = json.dumps(dict(call.params))
        took = f"{call.finished - call.started:.3f}s"
        text = f"{stage.pod_of(call.access_key) or '?'} {call.action} {call.status} {call.error or ''} {took} {about}"
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


__all__ = ["ChaosError", "Result", "bound", "judge", "play", "play_all"]
