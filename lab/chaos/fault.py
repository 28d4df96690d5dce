"""What a fault is, and the drawing of whom it hits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from lab.chaos.stage import Stage
from lab.chaos.world import ENI_ADDRESS, Floating, Home, World

Given = Mapping[str, str | float]
End = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """`draw`: what it is to hit in a world, None where it cannot; `begin` returns what ends it; `lasts`: it has an end
    of its own, drawn too."""

    name: str
    draw: Callable[[Random, World], Given | None]
    begin: Callable[[Stage, Given], End | None]
    lasts: bool


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, draw: Callable[[Random, World], Given | None], *, lasts: bool = True
) -> Callable[[Callable[[Stage, Given], End | None]], Callable[[Stage, Given], End | None]]:
    """Put a function among the faults, under a name."""

    def register(begin: Callable[[Stage, Given], End | None]) -> Callable[[Stage, Given], End | None]:
        FAULTS[name] = Fault(name, draw, begin, lasts)
        return begin

    return register


# Drawing -------------------------------------------------------------------------------------------------------------


def anything(**values: tuple[str | float, ...]) -> Callable[[Random, World], Given | None]:
    """Draws one of the choices for each value, whatever the world."""
    return lambda random, _: {key: random.choice(choices) for key, choices in values.items()}


def a_pod(random: Random, world: World) -> Given:
    """Draws a pod."""
    return {"pod": random.choice(world.pods).name}


def an_interface(random: Random, world: World) -> Given:
    """Draws an interface of a pod."""
    home = random.choice([home for pod in world.pods for home in pod.homes])
    return {"pod": home.pod, "interface": home.interface}


def an_address(
    wanted: Callable[[Floating], bool], **values: tuple[str | float, ...]
) -> Callable[[Random, World], Given | None]:
    """Draws a floating address of that kind, None where there is none, and one of the choices for each value."""

    def draw(random: Random, world: World) -> Given | None:
        found = [floating for floating in world.movable if wanted(floating)]
        if not found:
            return None
        return {"address": random.choice(found).name, **{key: random.choice(each) for key, each in values.items()}}

    return draw


def is_routed(floating: Floating) -> bool:
    """Whether it is delivered by routes."""
    return floating.placement != ENI_ADDRESS


def home_of(given: Given) -> Home:
    """The interface that was drawn."""
    return Home(str(given["pod"]), str(given["interface"]))
