"""Seeded chaos, in CI: 32 schedules, other ones than the last time a version was changed are `make chaos SEED=…`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from random import Random

import pytest

from lab.chaos import runner, schedule, world
from lab.chaos.faults import FAULTS
from lab.chaos.schedule import ADD, DELETE, Schedule, Step
from lab.chaos.stage import Stage
from lab.chaos.world import HOST_ROUTE, Floating, Home, PodSpec, Settings, World

FIRST, SCHEDULES = 1, 32
AT_ONCE = 4 * (os.cpu_count() or 1)
"""Most of a schedule's time is waiting."""


def test_a_seed_gives_the_same_schedule_each_time() -> None:
    """Else a failure could not be repeated."""
    assert [str(schedule.make(seed)) for seed in range(50)] == [str(schedule.make(seed)) for seed in range(50)]
    assert len({str(schedule.make(seed)) for seed in range(50)}) == 50


def test_the_schedules_have_every_fault_and_every_placement() -> None:
    """Those of 200 seeds; and each step is within its schedule's time."""
    planned = [schedule.make(seed) for seed in range(200)]
    assert {step.what for each in planned for step in each.steps} == {*FAULTS, schedule.ADD, schedule.DELETE}
    assert {floating.placement for each in planned for floating in each.world.floatings} == {
        world.HOST_ROUTE,
        world.SUBNET_ROUTE,
        world.ENI_ADDRESS,
    }
    for each in planned:
        for step in each.steps:
            assert 0 <= step.at <= each.length
            assert step.until is None or step.at < step.until <= each.length


def test_a_world_is_drawn_from_the_random_numbers_alone() -> None:
    """No hash, no clock, no order of a set."""
    assert str(world.make(Random(7))) == str(world.make(Random(7)))


A, B = Home("p0", "net1"), Home("p1", "net1")
SETTLED = 8.0
"""Seconds after which both sidecars have started and delivered, on a busy machine too."""
BROKEN = Path(__file__).with_name("broken_site")


def moves(name: str, at: float) -> tuple[Step, ...]:
    """It comes to B; with "h1" it leaves A at the same time, "h2" stays on both."""
    given = {"address": name, "interface": "net1"}
    leaves = (Step(at, DELETE, {**given, "pod": "p0"}),) if name == "h1" else ()
    return (*leaves, Step(at, ADD, {**given, "pod": "p1"}))


@pytest.mark.namespaces
def test_the_judge_condemns_a_broken_vipmanager() -> None:
    """One that takes nothing over, leaves its rules in the pod, and harms others when it is told to stop."""
    pods = (PodSpec("p0", "a", (1,)), PodSpec("p1", "b", (1,)))
    floatings = tuple(Floating(f"h{n}", HOST_ROUTE, f"192.168.7.{n}", (A, B), A) for n in (1, 2))
    drawn = World(("a", "b"), pods, floatings, 2, 0.0, Settings(world.PATIENT))
    planned = Schedule(0, drawn, (*moves("h1", SETTLED), *moves("h2", SETTLED)), SETTLED + 0.5)
    with Stage(drawn, 0) as stage:
        for sidecar in stage.sidecars.values():
            paths = [str(BROKEN), sidecar.pod.env["PYTHONPATH"]]
            sidecar.pod.env["PYTHONPATH"] = os.pathsep.join(paths)
        converged, complaints = runner.judge(stage, planned, limit=12.0)
    assert converged is None
    said = "\n".join(complaints)
    assert re.search(r"h1 was (not )?delivered [\d.]+ s after it came to p1/net1", said)
    assert re.search(r"h2 came to p1/net1 [\d.]+ s after p0/net1, and is delivered to p0/net1", said)
    assert "p0 has one of vipmanager's rules left over: ('192.168.7.1/32', 101)" in said
    assert "told to stop, does DeleteRoute" in said
    assert re.search(r"foreign: p[01]'s DeleteRoute .*192\.168\.0\.0/16", said)


@pytest.mark.namespaces
def test_seeded_chaos(tmp_path: Path) -> None:
    """Everything holds once nothing goes wrong any more: see lab/chaos/invariants.py."""
    results = list(runner.play_all(range(FIRST, FIRST + SCHEDULES), AT_ONCE, keep=tmp_path))
    assert len(results) == SCHEDULES
    failed = [result for result in results if not result.good]
    report = "\n\n".join("\n".join((result.text, *result.complaints, result.kept)) for result in failed)
    seeds = " ".join(str(result.seed) for result in failed)
    assert not failed, f"make chaos SEED={seeds} N=1:\n{report}"
