"""What a fault is, and the drawing of whom it hits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from lab.chaos.stage import Stage, Trouble
from lab.chaos.world import ENI_ADDRESS, Floating, Home, World

Given = Mapping[str, str | float]
End = Callable[[], None]

EC2, POD, VPC = "ec2", "pod", "vpc"
"""Kinds of faults: of the APIs; of a pod, its vipmanager and its worker; others who write to the VPC."""


class Missed(Exception):
    """There was nothing to hit. Raised when a fault begins, or when it ends."""


def never(_: Given) -> bool:
    """No drift, whatever was drawn."""
    return False


def anywhere(_: World) -> bool:
    """In whatever world."""
    return True


def always(_: Given) -> bool:
    """Drift, whatever was drawn."""
    return True


@dataclass(frozen=True)
class Fault:
    """`draw`: what it is to hit in a world, None where it cannot; `begin` returns what ends it.

    `lasts`: it has an end of its own, drawn too, `least` seconds after its begin or more, up to `tail` seconds after
    the end of the schedule. `drifts`: what it
    leaves only a resync mends. `delays`: in such a world it may delay the delivery of what it names (a pod, an
    address; else of all).
    """

    name: str
    draw: Callable[[Random, World], Given | None]
    begin: Callable[[Stage, Given], End | None]
    kind: str
    lasts: bool = True
    drifts: Callable[[Given], bool] = never
    delays: Callable[[World], bool] = anywhere
    tail: float = 0.0
    least: float = 0.3

    def trouble(self, stage: Stage, given: Given, at: float) -> Trouble:
        """Whom it may delay."""
        world = stage.world
        if not self.delays(world):
            return Trouble(at, self.name)
        if "pod" in given:
            enis = {stage.eni(home) for home in world.pod(str(given["pod"])).homes}
            return Trouble(at, self.name, pods=frozenset(home.pod for home in stage.wanted if stage.eni(home) in enis))
        if "worker" in given:
            pods = frozenset(pod.name for pod in world.pods if pod.worker == given["worker"])
            return Trouble(at, self.name, pods=pods)
        if "address" in given and not world.settings.aggregate and not world.settings.pool:
            return Trouble(at, self.name, floatings=frozenset({str(given["address"])}))
        return Trouble(at, self.name, everybody=True)


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, draw: Callable[[Random, World], Given | None], kind: str, **options: Any
) -> Callable[[Callable[[Stage, Given], End | None]], Callable[[Stage, Given], End | None]]:
    """Put a function among the faults, under a name; `options` as in Fault."""

    def register(begin: Callable[[Stage, Given], End | None]) -> Callable[[Stage, Given], End | None]:
        FAULTS[name] = Fault(name, draw, begin, kind, **options)
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
