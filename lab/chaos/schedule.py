"""A schedule: what the application does and what goes wrong, and when; all of it from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from lab.chaos import world
from lab.chaos.fault import EC2, POD, VPC, is_routed
from lab.chaos.faults import FAULTS
from lab.chaos.world import Floating, Home, World

SHORTEST, LONGEST = 3.0, 6.0
"""Seconds for which things go wrong."""

ADD, DELETE = "add", "delete"
WITHDRAWN = "kill-9-at-withdrawal"


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
    """What one seed gives. `length` in seconds.

    `opening`: addresses that come to another pod before anything goes wrong, each of which leaves its former one as
    soon as it is delivered. In most schedules some fault has to do with whatever is taken over later.
    """

    seed: int
    world: World
    steps: tuple[Step, ...]
    length: float
    opening: tuple[Step, ...] = ()

    def __str__(self) -> str:
        opening = [f"first: {str(step).strip()}" for step in self.opening]
        return "\n".join([f"seed {self.seed}, {self.length:.2f} s", str(self.world), *opening, *map(str, self.steps)])


def make(seed: int, names: tuple[str, ...] = ()) -> Schedule:
    """The schedule of a seed; `names`: of these faults only."""
    random = Random(seed)
    drawn = world.make(random)
    length = random.uniform(SHORTEST, LONGEST)
    at_home = {floating: floating.first for floating in drawn.movable}
    opening = tuple(_opening(random, drawn, at_home))
    moves, troubles = _application(random, drawn, length, at_home), _faults(random, drawn, length, names)
    steps = [*(move for move in moves if not _is_given_up(move, troubles)), *troubles]
    length = max(length, *(step.until or step.at for step in steps))
    return Schedule(seed, drawn, tuple(sorted(steps, key=lambda step: step.at)), length, opening)


def _opening(random: Random, drawn: World, at_home: dict[Floating, Home | None]) -> Iterator[Step]:
    """One address that is routed, and one of an ENI's, where they can be taken over by another pod."""
    for wanted in (is_routed, lambda floating: not is_routed(floating)):
        moves = [
            (floating, home)
            for floating, held in at_home.items()
            for home in floating.homes
            if wanted(floating) and held is not None and held.pod != home.pod
        ]
        if moves:
            floating, home = random.choice(moves)
            at_home[floating] = home
            yield _move(0.0, ADD, floating, home)


def _application(random: Random, drawn: World, length: float, at_home: dict[Floating, Home | None]) -> list[Step]:
    """An application that is active on one pod at a time, now and then on none, and for moments on two."""
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


def _is_given_up(move: Step, troubles: list[Step]) -> bool:
    """Whether the address has left for good by then."""
    address = move.given["address"]
    return any(each.what == WITHDRAWN and each.given["address"] == address and each.at < move.at for each in troubles)


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
    """Of all kinds, or of one, so that there is something which they do not touch. None that a world cannot mend."""
    steps: list[Step] = []
    kind = random.choice((None, None, EC2, POD, VPC))
    chosen = [name for name in sorted(FAULTS) if kind in (None, FAULTS[name].kind)]
    for _ in range(random.randint(3, 7)):
        fault = FAULTS[random.choice(names or chosen)]
        at = random.uniform(0.0, length - 0.5)
        given = fault.draw(random, drawn)
        least = at + fault.least
        until = random.uniform(least, max(least, length + fault.tail))
        if given is None or any((step.what, step.given) == (fault.name, given) for step in steps):
            continue  # it cannot happen in this world, or happens already
        if drawn.patient and fault.drifts(given):
            continue  # nobody would look
        steps.append(Step(at, fault.name, given, until if fault.lasts else None))
    return steps
