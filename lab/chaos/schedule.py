"""A schedule: what the application does and what goes wrong, and when; all of it from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from lab.chaos import faults, world
from lab.chaos.world import Floating, Home, World

SHORTEST, LONGEST = 3.0, 6.0
"""Seconds for which things go wrong."""

ADD, DELETE = "add", "delete"


@dataclass(frozen=True)
class Step:
    """Something that begins at `at` and, where it lasts, ends at `until`; seconds since the begin of the schedule."""

    at: float
    what: str
    given: Mapping[str, str | float]
    until: float | None = None

    def __str__(self) -> str:
        given = " ".join(f"{key}={value}" for key, value in self.given.items())
        until = f" until {self.until:.2f}" if self.until is not None else ""
        return f"{self.at:5.2f} {self.what} {given}{until}".rstrip()


@dataclass(frozen=True)
class Schedule:
    """What one seed gives. `length` in seconds."""

    seed: int
    world: World
    steps: tuple[Step, ...]
    length: float

    def __str__(self) -> str:
        return "\n".join([f"seed {self.seed}, {self.length:.2f} s", str(self.world), *map(str, self.steps)])


def make(seed: int, names: tuple[str, ...] = ()) -> Schedule:
    """The schedule of a seed; `names`: of these faults only."""
    random = Random(seed)
    drawn = world.make(random)
    length = random.uniform(SHORTEST, LONGEST)
    steps = [*_application(random, drawn, length), *_faults(random, drawn, length, names)]
    return Schedule(seed, drawn, tuple(sorted(steps, key=lambda step: step.at)), length)


def _application(random: Random, drawn: World, length: float) -> list[Step]:
    """An application that is active on one pod at a time, now and then on none, and for moments on two."""
    at_home = {floating: floating.first for floating in drawn.movable}
    steps: list[Step] = []
    at = random.uniform(0.0, 0.5)
    while at < length - 0.5:
        floating = random.choice(drawn.movable)
        held = at_home[floating]
        to = _next_home(random, floating, held)
        gap = random.choice((0.0, 0.0, random.uniform(0.0, 0.4)))
        first, second = ((held, DELETE), (to, ADD))
        if held is not None and to is not None and held != to and random.random() < 0.3:
            first, second = second, first
        for when, (home, what) in ((at, first), (at + gap, second)):
            if home is not None:
                steps.append(_move(when, what, floating, home))
        at_home[floating] = to
        at += gap + random.uniform(0.1, 1.0)
    return steps


def _next_home(random: Random, floating: Floating, held: Home | None) -> Home | None:
    """Another home most of the time; none; or the same again, after a moment."""
    others = [home for home in floating.homes if home != held]
    chance = random.random()
    if held is not None and chance < 0.15:
        return None
    if not others or (held is not None and chance < 0.25):
        return random.choice(floating.homes)
    return random.choice(others)


def _move(at: float, what: str, floating: Floating, home: Home) -> Step:
    return Step(at, what, {"address": floating.name, "pod": home.pod, "interface": home.interface})


def _faults(random: Random, drawn: World, length: float, names: tuple[str, ...]) -> list[Step]:
    steps: list[Step] = []
    for _ in range(random.randint(3, 7)):
        fault = faults.FAULTS[random.choice(names or sorted(faults.FAULTS))]
        at = random.uniform(0.0, length - 0.5)
        given = fault.draw(random, drawn)
        until = random.uniform(at + 0.3, length)
        if given is None or any((step.what, step.given) == (fault.name, given) for step in steps):
            continue  # it cannot happen in this world, or happens already
        steps.append(Step(at, fault.name, given, until if fault.lasts else None))
    return steps
