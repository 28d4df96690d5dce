"""Convergence is a property: whoever holds the lease last finishes the job, wherever its predecessors were interrupted.

Worlds, interruptions and failures are generated; everything runs in simulated time, on the real loop and elector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address, ip_network

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.doubles.ec2 import VPC, State
from tests.unit.builders import mac
from tests.unit.node_builders import CIDR, EIP, OUTSIDE, SUBNET_VIP, VIP, VIP6, settings
from tests.unit.node_driver import Node, World
from vipmanager.config import Config
from vipmanager.floating import FloatingMode
from vipmanager.model_node import FLOATING_TAG
from vipmanager.read_node import RESYNC

ENI_MODES = (FloatingMode.ENI, FloatingMode.SUBNET)
WAYS = {
    "address": (f"{VIP}", "address", "aaa"),
    "address, EIP": (f"{VIP},{EIP}", "address", "aaa"),
    "address, both families": (f"{VIP},{VIP6}", "address", "aaa"),
    "EIP": (EIP, "address", "aab"),
    "route": (OUTSIDE, "route", "aab"),
    "route, EIP": (f"{OUTSIDE},fd00::1,{EIP}", "route", "aab"),
    "eni": (f"{VIP},10.10.1.81", "eni", "aaa"),
    "eni, EIP": (f"{VIP},{EIP}", "eni", "aaa"),
    "subnet": (SUBNET_VIP, "subnet", "aab"),
    "subnet, EIP": (f"{SUBNET_VIP},{EIP}", "subnet", "aab"),
    "subnet, EIP, outside the VPC's CIDR": (f"100.64.99.5,{EIP}", "subnet", "aab"),
}
WRITES_OF_ONE_LIFE = 16
"""Ten steps at most (detach, by force, delete ENI and subnet, CIDR, subnet, ENI, attach, check, EIP), some repeated."""
FAILING = [
    "assign", "unassign", "associate", "create_route", "replace_route", "create_eni", "attach_eni", "detach_eni",
    "delete_eni", "create_subnet", "delete_subnet", "disable_source_dest_check", "enis_tagged", "subnets",
    "enis_of_instance", "enis_by_mac", "enis_holding", "elastic_ips", "route_tables", "instance_state",
]  # fmt: skip
FOREIGN = {"10.99.0.0/16": "tgw-1", "192.168.0.77/32": "eni-foreign", "0.0.0.0/0": "igw-1"}


@dataclass(frozen=True)
class Life:
    """A process runs on a node until so many writes are made, or for so long; then it ends in that way."""

    node: int
    writes: int
    seconds: float
    end: str
    unanswered: frozenset[str]


@dataclass(frozen=True)
class Story:
    """A generated run."""

    way: str
    lives: tuple[Life, ...]
    last: int
    lag: float
    attaching: float
    detaching: float
    failures: tuple[tuple[str, int], ...]
    left_over: str
    seed: int


LIVES = st.builds(
    Life,
    node=st.integers(0, 2),
    writes=st.integers(0, 9),
    seconds=st.sampled_from([1.0, 8.0, 25.0]),
    end=st.sampled_from(["kill", "kill", "terminate", "stop", "power off", "stopped"]),
    unanswered=st.frozensets(st.sampled_from(["create_eni", "attach_eni", "detach_eni", "create_subnet", "assign"])),
)
STORIES = st.builds(
    Story,
    way=st.sampled_from(sorted(WAYS)),
    lives=st.lists(LIVES, max_size=4).map(tuple),
    last=st.integers(0, 2),
    lag=st.sampled_from([0.0, 0.0, 0.4, 2.0]),
    attaching=st.sampled_from([0.0, 2.0]),
    detaching=st.sampled_from([0.0, 5.0, 30.0]),
    failures=st.lists(st.tuples(st.sampled_from(FAILING), st.integers(1, 3)), max_size=4).map(tuple),
    left_over=st.sampled_from(["", "", "eni", "address"]),
    seed=st.integers(0, 1000),
)
thorough = hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def config_of(way: str) -> Config:
    """Its settings."""
    floating, mode, _ = WAYS[way]
    cidr = {"FloatingSubnetCidr": "100.64.99.0/28" if "outside" in way else CIDR} if mode == "subnet" else {}
    return settings(floating, mode, **cidr)


def build(story: Story) -> World:
    """The VPC as it is found, with things in it that are none of ours."""
    world = World(config_of(story.way), WAYS[story.way][2], seed=story.seed)
    ec2 = world.ec2
    ec2.add_subnet("subnet-foreign", "10.10.50.0/24", zone="a")
    ec2.add_eni("eni-foreign", mac(50), 1, "subnet-1", "10.10.1.50", instance="i-foreign")
    ec2.add_eni("eni-loose", mac(51), 1, "subnet-foreign", "10.10.50.51", instance="i-foreign")
    ec2.detach("eni-loose")
    for table in list(ec2.state.tables):
        for destination, target in FOREIGN.items():
            ec2.put_route(table, destination, target)
    mode = world.config.floating_mode
    if story.left_over == "address" and mode is FloatingMode.ADDRESS and world.config.floating.addresses:
        ec2.give("eni-2", str(world.config.floating.addresses[0]))
    if story.left_over == "eni" and mode is FloatingMode.ENI:
        tagged = {FLOATING_TAG: str(world.config.floating)}
        ec2.add_eni("eni-left", mac(60), 3, "subnet-1", str(world.config.floating.addresses[0]), instance="i-2")
        ec2.put_eni(replace(ec2.state.enis["eni-left"], tags=tagged))
    world.attaching, world.detaching = story.attaching, story.detaching
    world.run(5.0)
    ec2.lag = story.lag
    for operation, times in story.failures:
        ec2.faults.fail(operation, times=times)
    return world


def live(world: World, life: Life) -> None:
    """One process, to its end."""
    node = next((node for node in (*world.nodes[life.node :], *world.nodes) if free(node)), None)
    if node is None:
        return
    process = node.start()
    world.unanswered = set(life.unanswered)
    goal = len(world.writes) + life.writes
    world.timeline.run(world.now + life.seconds, lambda: len(world.writes) >= goal or process.code is not None)
    world.unanswered = set()
    assert process.error is None
    if life.end == "terminate":
        node.terminate()
    elif life.end == "stop":
        process.stop()
    elif life.end in ("power off", "stopped"):
        power_off = partial(node.power_off, "terminated" if life.end == "power off" else "stopped")
        power_off() if len([each for each in world.nodes if on(each)]) > 1 else node.kill()
    else:
        node.kill()


def on(node: Node) -> bool:
    """Whether the machine runs."""
    return node.world.ec2.state.instances[node.instance].state == "running"


def free(node: Node) -> bool:
    """Whether a process can be started."""
    return on(node) and (not node.processes or node.process.code is not None)


def finish(world: World, story: Story) -> Node:
    """Nothing fails any more, and one process is left: it delivers, and comes to rest."""
    world.ec2.faults.clear()
    for node in world.nodes:
        if node.processes and node.process.stopped:
            node.process.go_on()
    for node in world.nodes:
        if node.processes and node.process.code is None:
            node.kill()
    last = next(node for node in (*world.nodes[story.last :], *world.nodes) if free(node))
    last.start()
    world.until(world.delivered, 240.0)
    world.run(2 * RESYNC)
    before = len(world.writes)
    world.run(2 * RESYNC)
    assert world.writes[before:] == []
    assert world.delivered()
    return last


def untouched(state: State) -> Mapping[str, object]:
    """What is none of ours: subnets and ENIs without our tag, and other routes."""
    ours = {FLOATING_TAG}
    named = {ip_network(OUTSIDE), ip_network("fd00::1")}
    return {
        "subnets": {key: each for key, each in state.subnets.items() if not ours & set(each.tags)},
        "enis": {
            key: (each.subnet_id, each.attachment, each.source_dest_check)
            for key, each in state.enis.items()
            if not ours & set(each.tags) and key in ("eni-foreign", "eni-loose")
        },
        "routes": {
            (table.id, to): target for table in state.tables.values() for to, target in table.routes.items()
            if to not in named
        },
    }  # fmt: skip


@thorough
@given(STORIES)
def test_whoever_is_last_delivers_everything_once(story: Story) -> None:
    world = build(story)
    try:
        before = untouched(world.ec2.state)
        for life in story.lives:
            live(world, life)
        last = finish(world, story)
        check_delivered(world, last)
        assert untouched(world.ec2.state) == before
        assert len(world.writes) <= WRITES_OF_ONE_LIFE * (len(story.lives) + 1)
    finally:
        world.close()


def check_delivered(world: World, last: Node) -> None:
    """EC2 and the kernels, not what the process says of itself."""
    state, config = world.ec2.state, world.config
    tagged = [eni for eni in state.enis.values() if FLOATING_TAG in eni.tags]
    target, names = last.eni, config.floating.addresses
    if config.floating_mode in ENI_MODES:
        assert len(tagged) == 1
        assert tagged[0].attachment is not None
        assert (tagged[0].attachment.instance_id, tagged[0].attachment.status) == (last.instance, "attached")
        target = tagged[0].id
    else:
        assert tagged == []
    for address in names:
        assert world.on(address) == [last.name]
        if config.floating_mode is FloatingMode.ROUTE:
            assert set(world.ec2.targets(f"{address}/{address.max_prefixlen}").values()) == {target}
            assert not state.enis[target].source_dest_check
        else:
            assert world.ec2.holder(str(address)) == target
    for allocation_id, partner in config.floating.partners(config.floating_mode).items():
        bound = state.eips[allocation_id]
        assert (bound.eni_id, bound.address) == (target, partner or ip_address(last.address))
    homes = [subnet for subnet in state.subnets.values() if FLOATING_TAG in subnet.tags]
    assert [(home.vpc_id, home.cidrs, home.zone) for home in homes] == (
        [(VPC, (config.floating_subnet,), last.zone)] if config.floating_mode is FloatingMode.SUBNET else []
    )
    assert config.floating_mode is not FloatingMode.SUBNET or not state.enis[target].source_dest_check
