"""A world, alive: the lab with its pods and sidecars, and an account of what the application has put where."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_network
from types import TracebackType
from typing import Self, TypeVar

from moto.moto_api._internal import mock_random

from lab.chaos.foreign import Foreign
from lab.chaos.witness import Witness
from lab.chaos.world import HOST_ROUTE, SUBNET_ROUTE, Floating, Home, PodSpec, World
from lab.ec2.auth import Credentials
from lab.ec2.state import RouteTable
from lab.lab import Lab
from lab.pod import Container, Pod
from lab.topology import WORKER_A, WORKER_B, WorkerSpec
from lab.volume import Volume
from lab.walltime import WallClock

WORKERS = {"a": WORKER_A, "b": WORKER_B, "c": WorkerSpec("c", "us-east-2a", "nodes-a", ("multus1-a", "multus2-a"))}

DONE_WITHIN = 30.0
"""Seconds for what only a broken lab would not do."""

_POLL = 0.02  # seconds

T = TypeVar("T")


class ChaosError(Exception):
    """The lab, not vipmanager, did not do what it was to do."""


def until(condition: Callable[[], T], what: str | Callable[[], str], within: float = DONE_WITHIN) -> T:
    """Wait until the condition holds; what it returned. Raises ChaosError."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise ChaosError(f"not within {within:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(_POLL)
    return found


@dataclass
class Sidecar:
    """A pod with its vipmanager. `container` None: it is not running, and is to be started again.

    `forgetful`: it was killed while it could not keep its state, so that it may not know what it has left behind.
    """

    spec: PodSpec
    pod: Pod
    credentials: Credentials
    settings: Mapping[str, object]
    clock: WallClock | None = None
    volume: Volume | None = None
    container: Container | None = None
    unwritable: bool = False
    forgetful: bool = False
    ended: list[int] = field(default_factory=list)  # the exit codes of those that ended by themselves

    def start(self) -> None:
        """Start the container, unless it runs."""
        if self.container is not None:
            return
        env = {"AWS_ACCESS_KEY_ID": self.credentials.access_key, "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key}
        if self.clock is not None:
            env |= self.clock.env({**self.pod.env})
        inside = self.volume.command if self.volume is not None else ()
        self.container = self.pod.vipmanager(["sidecar"], self.settings, env, inside=inside)

    def kill(self) -> None:
        """kill -9 it, if it runs."""
        if self.container is not None:
            self.container.kill()
            self.container.wait(DONE_WITHIN)
            self.container = None
            self.forgetful |= self.unwritable


class Stage:
    """The lab that a world is played in, as a context manager. Used from one thread."""

    def __init__(self, world: World, seed: int, *, clocks: Iterable[str] = (), volumes: Iterable[str] = ()) -> None:
        """`clocks`, `volumes`: the pods that are to have a wall clock (a state directory) that can be tampered with."""
        self.world = world
        self.log: list[tuple[float, str]] = []  # what was done, and when, on time.monotonic()
        self.sidecars: dict[str, Sidecar] = {}
        self.wanted: dict[Home, set[Floating]] = {home: set() for pod in world.pods for home in pod.homes}
        self.lost: set[Home] = set()  # interfaces that are gone with their ENI
        self._came: dict[tuple[Floating, Home], float] = {}
        self._clocks, self._volumes = frozenset(clocks), frozenset(volumes)
        self._eips: dict[str, str] = {}  # floating → allocation ID
        self._resources = ExitStack()
        mock_random.seed(seed)  # IDs: who has the lower one matters

    def __enter__(self) -> Self:
        specs = [WORKERS[name] for name in self.world.workers]
        lab = Lab(route_tables=self.world.tables, workers=specs, internet=self.with_eips, latency=self.world.latency)
        try:
            self.lab = self._resources.enter_context(lab)
            self._eips = {each.name: self.lab.allocate_eip()[0] for each in self.world.floatings if each.eip}
            for spec in self.world.pods:
                self.sidecars[spec.name] = self._make(spec)
            self.foreign = Foreign(self)
            self.witness = Witness(self)
            for floating in self.world.floatings:
                if floating.first is not None:
                    self.add(floating.name, floating.first)
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    @property
    def with_eips(self) -> bool:
        """Whether there are Elastic IPs, and so the internet."""
        return any(floating.eip for floating in self.world.floatings)

    def _make(self, spec: PodSpec) -> Sidecar:
        pod = self.lab.pod(spec.name, spec.worker, {f"net{index}": () for index in spec.indexes})
        settings: dict[str, object] = {
            "LogFormat": "json",
            "SubnetBasedLoopbacks": "True",
            "ResyncInterval": f"{self.world.resync:g}",
        }
        for floating in self.world.floatings:
            for home in floating.homes if floating.eip else ():
                if home.pod == spec.name:
                    key = f"Intf{home.interface.removeprefix('net')}EIPs"
                    settings[key] = f"{floating.address}={self._eips[floating.name]}"
        sidecar = Sidecar(spec, pod, self.lab.ec2.keys.add_user(spec.name), settings)
        if spec.name in self._clocks:
            sidecar.clock = WallClock(pod.directory / "clock")
        if spec.name in self._volumes:
            sidecar.volume = Volume(pod)
            settings["StateDir"] = sidecar.volume.path
        return sidecar

    def note(self, text: str) -> None:
        """Keep what was done, for the report of a failure."""
        self.log.append((time.monotonic(), text))

    # What things are called in EC2 -----------------------------------------------------------------------------------

    def floating(self, name: str) -> Floating:
        """The floating address of that name."""
        return next(floating for floating in self.world.floatings if floating.name == name)

    def address(self, floating: Floating) -> str:
        """The address itself."""
        if not floating.subnet6:
            return floating.address
        associations = self.lab.topology.subnets[floating.subnet6]["Ipv6CidrBlockAssociationSet"]
        return str(ip_network(associations[0]["Ipv6CidrBlock"])[int(floating.address)])

    def destination(self, floating: Floating) -> str:
        """The destination of its routes."""
        if floating.placement == SUBNET_ROUTE:
            return next(cidr for cidr in self.lab.floating_subnets if _within(floating.address, cidr))
        return str(ip_network(self.address(floating)))

    def is_routed(self, floating: Floating) -> bool:
        """Whether it is delivered by routes."""
        return floating.placement in (HOST_ROUTE, SUBNET_ROUTE)

    def allocation(self, floating: Floating) -> str:
        """The allocation ID of its Elastic IP."""
        return self._eips[floating.name]

    def eni(self, home: Home) -> str:
        """The ID of the ENI behind a pod's interface."""
        worker = self.lab.workers[self.world.pod(home.pod).worker]
        index = int(home.interface.removeprefix("net"))
        return next(eni.eni_id for eni in worker.enis if eni.device_index == index)

    def enis(self) -> set[str]:
        """The ENIs behind the pods."""
        return {self.eni(home) for home in self.wanted}

    def tables(self) -> list[RouteTable]:
        """The VPC's route tables that vipmanager is to write, as they are now."""
        tables = self.lab.ec2.state().route_tables.values()
        return [table for table in tables if table.vpc_id == self.lab.vpc_id and not table.edge]

    # What the application does ---------------------------------------------------------------------------------------

    def holders(self, floating: Floating) -> list[Home]:
        """The interfaces that have the address now."""
        return [home for home in self.wanted if floating in self.wanted[home] and home not in self.lost]

    def held_since(self, floating: Floating) -> dict[Home, float]:
        """The interfaces that have it, and when it came there, on time.monotonic(). For any thread."""
        return {home: self._came[floating, home] for home in self.holders(floating)}

    def add(self, name: str, home: Home) -> None:
        """Let the application put an address on an interface; when that is back, if it is gone."""
        floating = self.floating(name)
        if floating in self.wanted[home]:
            return
        self._came[floating, home] = time.monotonic()
        self.wanted[home].add(floating)
        if home not in self.lost:
            self.sidecars[home.pod].pod.add_address(home.interface, self._cidr(floating))
        self.note(f"add {name} to {home}")

    def delete(self, name: str, home: Home) -> None:
        """Let the application take an address off an interface."""
        floating = self.floating(name)
        if floating not in self.wanted[home]:
            return
        self.wanted[home].remove(floating)
        if home not in self.lost:
            self.sidecars[home.pod].pod.del_address(home.interface, self._cidr(floating))
        self.note(f"delete {name} from {home}")

    def lose(self, home: Home) -> None:
        """Note that an interface has gone with its ENI."""
        self.sidecars[home.pod].pod.lost_interface(home.interface)
        self.lost.add(home)
        self.note(f"{home} is gone")

    def regain(self, home: Home) -> None:
        """Make the interface of an ENI that is back, with the addresses that the application wants on it."""
        index = int(home.interface.removeprefix("net"))
        pod = self.sidecars[home.pod].pod
        pod.add_interface(home.interface, device_index=index)
        for floating in sorted(self.wanted[home], key=lambda floating: floating.name):
            self._came[floating, home] = time.monotonic()
            pod.add_address(home.interface, self._cidr(floating))
        self.lost.remove(home)
        self.note(f"{home} is back")

    def _cidr(self, floating: Floating) -> str:
        address = self.address(floating)
        return f"{address}/{ip_network(address).prefixlen}"


def _within(address: str, cidr: str) -> bool:
    return ip_network(address).subnet_of(ip_network(cidr))  # type: ignore[arg-type]
