"""Marks in the nodeport mode's loop: when they are looked at, and what a kernel means that has none."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.unit.agents import events
from tests.unit.node_builders import VIP, settings
from tests.unit.node_driver import World, Worlds, started
from vipmanager.errors import ErrorKind
from vipmanager.model_node import Mark
from vipmanager.plan.node_host import marks_table

ENI = settings(VIP, "eni")
TABLE = marks_table(ENI.floating)
LEFT = frozenset({Mark(ip_address(VIP), 4711, 0x5000000)})
ELSEWHERE = "vipmanager_00000000"


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    made = Worlds()
    yield made
    made.close()


def tables(world: World) -> list[set[str]]:
    """The names of the tables of each node."""
    return [set(node.host.marks()) for node in world.nodes]


def test_they_come_and_go_with_the_addresses(worlds: Worlds) -> None:
    """On a hand-over too."""
    world = started(worlds, ENI)
    assert tables(world) == [{TABLE}, set()]
    assert world.nodes[0].terminate() == 0
    assert tables(world)[0] == set()
    world.until(world.delivered)
    assert tables(world) == [set(), {TABLE}]
    assert all(rule.table for rule in world.nodes[1].host.pod_network().rules)


def test_what_a_killed_process_has_left_goes_and_what_is_not_ours_stays(worlds: Worlds) -> None:
    """Found at the first look, on a standby."""
    world = worlds(ENI)
    world.nodes[1].host.set_marks(TABLE, LEFT)
    world.nodes[1].host.set_marks(ELSEWHERE, LEFT)
    world.start(1)
    world.until(world.delivered)
    world.start(2)
    world.run(1.0)
    assert tables(world)[1] == {ELSEWHERE}


def test_what_somebody_has_flushed_is_back_with_the_next_renewal(worlds: Worlds) -> None:
    """A change of nftables makes no event."""
    world = started(worlds, ENI)
    before = world.nodes[0].host.marks()
    world.nodes[0].host.delete_marks(TABLE)
    world.run(2 * world.config.retry_period)
    assert world.nodes[0].host.marks() == before


def test_without_them_nothing_is_read(worlds: Worlds) -> None:
    """Once the first look has shown that there are none: an address on the primary ENI needs none."""
    world = started(worlds)
    read = len(world.nodes[0].host.faults.named("marks"))
    world.run(60.0)
    assert len(world.nodes[0].host.faults.named("marks")) == read


@pytest.mark.parametrize("operation", ["marks", "set_marks"])
def test_a_kernel_without_nftables_is_no_reason_to_move(
    worlds: Worlds, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All the rest is done; it is said once."""
    caplog.set_level("INFO")
    world = worlds(ENI)
    for node in world.nodes:
        node.host.faults.fail(operation, ErrorKind.INVALID, times=None, code="EOPNOTSUPP")
    world.start(1)
    world.until(world.delivered)
    world.start(2)
    world.run(60.0)
    assert [(node.status["role"], node.status["health"]) for node in world.nodes] == [("MASTER", ""), ("BACKUP", "")]
    said = [fact for fact in events(caplog, "problem", "failed") if "EOPNOTSUPP" in str(fact)]
    assert len(said) == 1
