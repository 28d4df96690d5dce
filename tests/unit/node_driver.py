"""Nodes with the real Nodeport and the real Elector in simulated time, on one EC2 region and one lease.

What must always hold is asserted after every turn: a floating address is on the interfaces of one node at most.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Any

from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.host import FakeHost, FakeNeighbours
from tests.doubles.imds import FakeImds
from tests.doubles.leases import LeaseStore
from tests.unit.builders import mac
from tests.unit.node_builders import CIDR, EIP, OUTSIDE, SUBNET_VIP, VIP, VIP6, settings
from tests.unit.node_process import Process, Write
from tests.unit.timeline import Gate, Timeline
from vipmanager.config import Config
from vipmanager.model import Address

SUBNETS = {"a": 1, "b": 2}
"""The nodes' subnet in each zone: 10.10.N.0/24."""

MODES = {
    "address": (settings(f"{VIP},{EIP}"), "aa"),
    "ipv6": (settings(f"{VIP},{VIP6}"), "aa"),
    "route": (settings(f"{OUTSIDE},{EIP}", "route"), "ab"),
    "eni": (settings(f"{VIP},{EIP}", "eni"), "aa"),
    "subnet": (settings(f"{SUBNET_VIP},{EIP}", "subnet", FloatingSubnetCidr=CIDR), "ab"),
    "eip": (settings(EIP), "ab"),
    "eni-eip": (settings(EIP, "eni"), "aa"),
}
"""The settings of each way to float, and the zones of two nodes."""


class World:
    """One VPC, one lease, and nodes: number N is in the Nth of `zones`, with eni-N and the address 10.10.S.1N."""

    def __init__(self, config: Config, zones: str = "aa", *, seed: int = 0) -> None:
        self.config, self.timeline = config, Timeline()
        self.draws = random.Random(seed)
        self.store = LeaseStore()
        self.stored = Gate(self.timeline)
        self.ec2 = FakeEc2(self.timeline.clock)
        self.trip, self.lease_trip, self.plugging = 0.06, 0.02, 0.2
        self.attaching = self.detaching = 0.0  # seconds that EC2 takes
        self.writes: list[Write] = []
        self.on_write: Callable[[Write], None] = lambda _: None
        self.pauses: dict[str, float] = {}  # by call: seconds more that it takes to reach EC2
        self.late: dict[str, float] = {}  # … that its answer takes
        self.unanswered: set[str] = set()  # calls that are carried out, and whose answers are lost
        self._built = None
        for zone, number in SUBNETS.items():
            self.ec2.add_vpc(VPC, "10.10.0.0/16", "2600:1f14::/56")
            home = (f"10.10.{number}.0/24", f"2600:1f14:0:{number}::/64")
            self.ec2.add_subnet(f"subnet-{number}", *home, zone=zone)
            self.ec2.add_table(f"rtb-{number}")
        self.ec2.add_eip(EIP, "198.51.100.1")
        self.nodes = [Node(self, number, zone) for number, zone in enumerate(zones, 1)]
        self.timeline.after = self._follow

    @property
    def now(self) -> float:
        """The time."""
        return self.timeline.now

    def start(self, *numbers: int) -> None:
        """Start the processes of these nodes, or of all."""
        for node in self.nodes:
            if not numbers or node.number in numbers:
                node.start()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.timeline.run(self.now + seconds)

    def until(self, what: Callable[[], bool], within: float = 30.0) -> float:
        """Let time pass until something is so; how long that took. An AssertionError when it does not come to be."""
        began = self.now
        assert self.timeline.run(self.now + within, what), f"not within {within} s"
        return self.now - began

    def on(self, address: str | Address) -> list[str]:
        """The nodes that have an address on an interface."""
        return [node.name for node in self.nodes if node.host.has(ip_address(address))]

    @property
    def masters(self) -> list[Node]:
        """The nodes that say they hold."""
        return [node for node in self.nodes if node.status.get("role") == "MASTER"]

    def delivered(self) -> bool:
        """Whether one node says that everything is delivered."""
        return len(self.masters) == 1 and all(each["state"] == "delivered" for each in self.masters[0].items)

    def operations(self, since: float = 0.0) -> list[str]:
        """The writes that EC2 has carried out."""
        return [write.operation for write in self.writes if write.at >= since]

    def remote(self, serve: Callable[[], Any], going: float, coming: float) -> Any:
        """See Timeline."""
        return self.timeline.remote(serve, going, coming)

    def close(self) -> None:
        """End everything; a process that has crashed unnoticed is an error."""
        self.timeline.close()
        for node in self.nodes:
            node.host.close()
        for process in (process for node in self.nodes for process in node.processes):
            assert process.error is None, repr(process.error)

    def _follow(self) -> None:
        """EC2's attachments become interfaces of the nodes."""
        if self.ec2.state is not self._built:
            self._built = self.ec2.state
            for node in self.nodes:
                node.follow()

    def check(self) -> None:
        """What is asserted whenever an address has come or gone."""
        held = Counter(address for node in self.nodes for address in node.host.held & set(self._floating))
        assert all(count == 1 for count in held.values()), f"on two nodes at {self.now}: {held}"

    @property
    def _floating(self) -> tuple[Address, ...]:
        return self.config.floating.addresses


class Node:
    """A machine: its kernel, its ENIs, and at most one process."""

    def __init__(self, world: World, number: int, zone: str) -> None:
        self.world, self.number, self.zone = world, number, zone
        self.name, self.instance, self.eni = f"node-{number}", f"i-{number}", f"eni-{number}"
        self.address = f"10.10.{SUBNETS[zone]}.{10 + number}"
        world.ec2.add_instance(self.instance, zone)
        home = f"subnet-{SUBNETS[zone]}"
        world.ec2.add_eni(self.eni, mac(number), 0, home, self.address, instance=self.instance)
        world.ec2.put_eni(replace(world.ec2.state.enis[self.eni], groups=("sg-1",)))
        self.processes: list[Process] = []
        self.host = NodeHost(world, self)
        self.host.plug("eth0", mac(number), self.address)
        self._plugged = {mac(number): "eth0"}
        self.neighbours, self.imds = FakeNeighbours(), FakeImds(world.ec2, self.eni)
        self.cut = False  # from the Kubernetes API
        self.ailment = ""  # what HealthCheck finds

    def start(self) -> Process:
        """Start vipmanager."""
        self.processes.append(Process(self))
        return self.processes[-1]

    @property
    def process(self) -> Process:
        """The last one."""
        return self.processes[-1]

    @property
    def status(self) -> Mapping[str, Any]:
        """What vipmanager last said of itself; nothing when it does not run."""
        return self.process.statuses.last if self.processes and self.process.running else {}

    @property
    def items(self) -> list[Mapping[str, Any]]:
        """What floats, as the status has it."""
        return list(self.status.get("floating", ()))

    def kill(self) -> None:
        """SIGKILL."""
        self.world.timeline.kill(self.process)
        self.process.code = 137

    def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.nodeport.stop()
        self.world.until(lambda: self.process.code is not None)
        assert self.process.code is not None
        return self.process.code

    def power_off(self, state: str = "terminated") -> None:
        """The machine is gone with all that was on it."""
        self.kill()
        self.world.ec2.add_instance(self.instance, self.zone, state)
        for name in self._plugged.values():
            with suppress(StopIteration):  # not there yet
                self.host.set_addresses(name)

    def follow(self) -> None:
        """The kernel has an interface for each ENI that EC2 shows attached, a little later."""
        mine = self.world.ec2.state.enis_of(self.instance)
        attached = [eni for eni in mine if eni.attachment and eni.attachment.status != "attaching"]
        self.imds.eni_ids = [eni.id for eni in attached]
        for number in sorted(set(self._plugged) - {eni.mac for eni in attached}):
            name = self._plugged.pop(number)
            with suppress(StopIteration):  # not there yet
                self.host.unplug(name)
        for eni in attached:
            if eni.mac not in self._plugged:
                self._plugged[eni.mac] = name = f"ens{eni.device_index}"
                self.world.timeline.at(self.world.now + self.world.plugging, partial(self._plug, name, eni.mac))

    def _plug(self, name: str, number: str) -> None:
        if self._plugged.get(number) == name:
            self.host.plug(name, number, up=False)


class NodeHost(FakeHost):
    """The kernel, which ends addresses by itself and tells the process of changes."""

    def __init__(self, world: World, node: Node) -> None:
        super().__init__(world.timeline.clock)
        self._world, self._node = world, node

    @property
    def held(self) -> set[Address]:
        """Every address on an interface."""
        return {address for interface in self._interfaces.values() for address in interface.addresses}

    def has(self, address: Address) -> bool:
        """Whether it is on an interface."""
        return address in self.held

    def put_address(self, device: int, address: Address, lifetime: int, by: float = math.inf) -> None:
        """See HostPort."""
        super().put_address(device, address, lifetime, by)
        self._world.timeline.at(self._world.now + lifetime, self.expire)

    def _event(self) -> None:
        for process in self._node.processes[-1:]:
            process.watch.tell()
        if hasattr(self._world, "nodes"):
            self._world.check()


class Worlds:
    """Makes worlds, and ends them."""

    def __init__(self) -> None:
        self._made: list[World] = []

    def __call__(self, config: Config, zones: str = "aa", *, seed: int = 0) -> World:
        self._made.append(World(config, zones, seed=seed))
        return self._made[-1]

    def close(self) -> None:
        """End them all."""
        for world in self._made:
            world.close()


def started(worlds: Worlds, config: Config | None = None, zones: str = "aa") -> World:
    """A world whose first node holds and delivers, and whose others stand by."""
    world = worlds(config or settings(), zones)
    world.start(1)
    world.until(world.delivered)
    world.start(*range(2, len(zones) + 1))
    world.run(1.0)
    return world
