"""Nothing runs while nothing happens, and never without a pause."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.agents import events
from tests.unit.node_builders import settings
from tests.unit.node_driver import MODES, World, Worlds, started
from tests.unit.node_process import busiest
from vipmanager.config import Config
from vipmanager.observe import SETTLE

every_mode = pytest.mark.parametrize(("config", "zones"), MODES.values(), ids=MODES)


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    made = Worlds()
    yield made
    made.close()


@every_mode
def test_few_rounds_while_nothing_happens(worlds: Worlds, config: Config, zones: str) -> None:
    world = started(worlds, config, zones)
    world.run(2 * SETTLE)
    since, calls = world.now, len(world.ec2.faults.named())
    world.run(20.0)  # the holder: renewals and its own health; a standby: its health and a probe now and then
    rounds = [sum(at >= since for at in node.process.rounds) for node in world.nodes]
    assert rounds[0] <= 3 * 20
    assert rounds[1] <= 2 * 20
    assert len(world.ec2.faults.named()) - calls <= 2 * 6


@pytest.mark.parametrize("operation", ["enis_of_instance", "elastic_ips", "assign", "associate"])
def test_few_rounds_while_a_call_fails(worlds: Worlds, operation: str) -> None:
    world = worlds(*MODES["address"])
    world.ec2.faults.fail(operation, times=None)
    world.start()
    world.run(40.0)
    calm(world)


@pytest.mark.parametrize("operation", ["enis_tagged", "subnets", "create_eni", "attach_eni"])
def test_few_rounds_while_a_call_for_an_eni_fails(worlds: Worlds, operation: str) -> None:
    world = worlds(*MODES["eni"])
    world.ec2.faults.fail(operation, times=None)
    world.start()
    world.run(40.0)
    calm(world)


@pytest.mark.parametrize("operation", ["host_interfaces", "put_address", "pod_network"])
def test_few_rounds_while_the_kernel_fails(worlds: Worlds, operation: str) -> None:
    world = worlds(settings())
    world.nodes[0].host.faults.fail(operation, times=None)
    world.start()
    world.run(40.0)
    calm(world)


def test_few_rounds_while_discovery_fails(worlds: Worlds) -> None:
    world = worlds(settings())
    for node in world.nodes:
        node.imds.faults.fail("enis", times=None)
    world.ec2.faults.fail("enis_by_mac", times=None)
    world.start()
    world.run(40.0)
    calm(world)


def test_few_rounds_while_ec2_shows_no_eni_of_this_node(worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
    """The wrong region, say: it is no use to ask four times a second."""
    world = worlds(settings())
    world.start(1)
    world.ec2.faults.before("enis_by_mac", lambda _: world.ec2.detach("eni-1"), times=1)
    world.run(40.0)
    calm(world)
    assert len(world.ec2.faults.named()) < 40
    assert any("AWS_REGION" in fact["why"] for fact in events(caplog, "failed"))


@every_mode
@pytest.mark.parametrize("lag", [0.5, 3.0])
def test_few_rounds_and_no_write_twice_while_describes_lag(
    worlds: Worlds, config: Config, zones: str, lag: float
) -> None:
    world = worlds(config, zones)
    world.run(10.0)  # so that the world has been for longer than describes lag
    world.ec2.lag = lag
    world.start(1)
    world.run(40.0)
    assert world.delivered()
    done = [(write.operation, str(write.arguments)) for write in world.writes]
    assert len(done) == len(set(done))
    calm(world)


def calm(world: World) -> None:
    for node in world.nodes:
        for process in node.processes:
            assert busiest(process, world.now - 30.0) <= 16, node.name
