"""Never two holders: two or three nodes, a store and a network in simulated time, with everything that can go wrong.

Each seed is one schedule of faults: partitions, lost requests and answers, calls that hang and arrive late, watches
that lose events, processes that are stopped in the middle (SIGSTOP) or killed, nodes that reboot, clocks that drift and
wall clocks that jump, settings that differ. A schedule is a function of its seed, so a failing one can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.unit.election_world import CALL_TIMEOUT, TROUBLE_UNTIL, Node, World
from vipmanager.plan import election
from vipmanager.plan.election_facts import Terms

SCHEDULES = [*range(250), 329, 365, 368, 507, 531, 911, 1003, 1244, 1246, 1296, 1309, 3901]
"""The last ones are those in which a rule that is nearly right (a shorter margin, another sign of life) fails."""


@dataclass
class Trouble:
    """Draws the faults of a schedule."""

    world: World
    deletes: bool

    def draw(self) -> None:
        """Between three and twelve faults, at any time."""
        kinds = [self.cut, self.deaf, self.stop, self.jump, self.tear, self.sick, self.slow, self.lag, self.last_gasp]
        # A process that has just begun cannot know of a lease that was deleted: it would take it at once.
        kinds += [self.delete] if self.deletes else [self.kill, self.reboot, self.replace_pod]
        for _ in range(self.world.rng.randint(3, 12)):
            start = self.world.rng.uniform(3.0, TROUBLE_UNTIL - 1.0)
            end = min(TROUBLE_UNTIL, start + self.world.rng.choice([0.5, 2.0, 8.0, 15.0]) * self.world.rng.random())
            self._plan(self.world.rng.choice(kinds), start, end)

    def _plan(self, kind: Callable[[Node, bool], None], start: float, end: float) -> None:
        def begin() -> None:
            holding = [node for node in self.world.nodes if node.has_until > self.world.now]
            node = self.world.rng.choice(holding if holding and self.world.rng.random() < 0.6 else self.world.nodes)
            switch(node, True)
            self.world.at(end, lambda: switch(node, False))

        def switch(node: Node, on: bool) -> None:
            self.world.note(f"{kind.__name__} {node.name} {'begins' if on else 'ends'}")
            kind(node, on)

        self.world.at(start, begin)

    def cut(self, node: Node, on: bool) -> None:
        node.cut = on

    def deaf(self, node: Node, on: bool) -> None:
        node.deaf = on

    def slow(self, node: Node, on: bool) -> None:
        self.world.slow = on

    def stop(self, node: Node, on: bool) -> None:
        if node.process is not None:
            if on:
                node.process.stopped = self.world.now < TROUBLE_UNTIL
            elif node.process.stopped:
                node.process.go_on()

    def lag(self, node: Node, on: bool) -> None:
        """Answers are slow, and when they come the process is soon stopped."""
        node.lag = self.world.rng.uniform(0.2, CALL_TIMEOUT) if on else 0.0
        if on and self.world.rng.random() < 0.5:
            self._plan_stop(node, self.world.now + self.world.rng.uniform(0.5, 3.0))

    def last_gasp(self, node: Node, on: bool) -> None:
        """The API is away; just before the tenure ends the address is put on again, and then the process stops."""
        node.cut = on
        process = node.process
        if on and process is not None and process.tenure.leading:
            end = node.true(process.tenure.until)
            gasp = max(self.world.now, end - self.world.rng.uniform(0.0, 1.5))
            self.world.at(gasp, lambda: process.later(0.0, process.flap))
            self._plan_stop(node, self.world.rng.uniform(gasp, end))

    def _plan_stop(self, node: Node, start: float) -> None:
        self.world.at(start, lambda: self.stop(node, True))
        self.world.at(start + self.world.rng.uniform(0.0, 8.0), lambda: self.stop(node, False))

    def tear(self, node: Node, on: bool) -> None:
        node.torn = on

    def jump(self, node: Node, on: bool) -> None:
        node.wall += self.world.rng.choice([-3600.0, -2.0, -1.0, 1.0, 3600.0])

    def sick(self, node: Node, on: bool) -> None:
        process = node.process
        if process is not None:
            process.later(0.0, lambda: process.fold(lambda facts: election.with_health(facts, not on, "sick")))

    def kill(self, node: Node, on: bool) -> None:
        node.kill() if on else node.boot(anew=False)

    def reboot(self, node: Node, on: bool) -> None:
        if on:
            node.kill()
            node.take_off()
        else:
            node.boot(anew=self.world.rng.random() < 0.5)

    def replace_pod(self, node: Node, on: bool) -> None:
        if not on:
            node.boot(anew=True)
        elif node.process is not None:
            node.process.later(0.0, node.process.terminate)

    def delete(self, node: Node, on: bool) -> None:
        if on:
            self.world.store(None)

    def end(self) -> None:
        """Everything is mended."""
        self.world.slow = False
        for node in self.world.nodes:
            node.cut = node.deaf = node.torn = False
            node.lag = 0.0
            if node.process is not None and node.process.leaving:
                node.kill()
            node.boot(anew=True)
            assert node.process is not None
            if node.process.stopped:
                node.process.go_on()
            node.process.fold(lambda facts: election.with_health(facts, True, ""))


TERMS = [(6, 4.0, 1.0), (6, 4.0, 1.0), (6, 5.0, 1.0), (4, 3.0, 1.0), (10, 7.0, 2.0), (3, 2.0, 0.5), (2, 1.0, 0.25)]


def build(seed: int) -> tuple[World, Trouble]:
    """Two or three nodes with the settings of one ConfigMap, or of two in a roll-out."""
    world = World(seed)
    common = world.rng.choice(TERMS)
    differs = world.rng.random() < 0.2
    for number in range(world.rng.choice([2, 2, 3])):
        terms = Terms(f"node-{number}.0", *(world.rng.choice(TERMS) if differs else common))
        world.nodes.append(Node(world, f"node-{number}", terms))
    for node in world.nodes:
        world.at(world.rng.uniform(0.0, 1.0), lambda node=node: node.boot(anew=False))  # type: ignore[misc]
    return world, Trouble(world, deletes=world.rng.random() < 0.2)


def holders(world: World) -> list[str]:
    """Who has the address."""
    return [node.name for node in world.nodes if node.has_until > world.now]


@pytest.mark.parametrize("seed", SCHEDULES)
def test_two_nodes_never_have_the_address_and_one_has_it_when_the_trouble_is_over(seed: int) -> None:
    """Safety is asserted wherever a node puts the address on; liveness when everything is mended."""
    world, trouble = build(seed)
    trouble.draw()
    world.run(TROUBLE_UNTIL)
    trouble.end()
    duration, retry = (max(getattr(node.terms, name) for node in world.nodes) for name in ("duration", "retry"))
    world.run(TROUBLE_UNTIL + 1.01 * duration + 4 * retry + CALL_TIMEOUT)
    found = holders(world)
    assert len(found) == 1, f"{found} after the trouble{world.story}"
    for _ in range(20):
        world.run(world.now + 0.5)
        assert holders(world) == found, world.story
