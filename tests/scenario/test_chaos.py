"""Seeded chaos, in CI: 32 schedules, other ones than the last time a version was changed are `make chaos SEED=…`."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from lab.chaos import runner, schedule, world
from lab.chaos.faults import FAULTS

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


@pytest.mark.namespaces
def test_seeded_chaos(tmp_path: Path) -> None:
    """Everything holds once nothing goes wrong any more: see lab/chaos/invariants.py."""
    results = list(runner.play_all(range(FIRST, FIRST + SCHEDULES), AT_ONCE, keep=tmp_path))
    assert len(results) == SCHEDULES
    failed = [result for result in results if not result.good]
    report = "\n\n".join("\n".join((result.text, *result.complaints, result.kept)) for result in failed)
    seeds = " ".join(str(result.seed) for result in failed)
    assert not failed, f"make chaos SEED={seeds} N=1:\n{report}"
