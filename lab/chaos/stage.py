"""A world, alive: the lab with its pods and sidecars, and an account of what the application has put where."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import Self, TypeVar

from moto.moto_api._internal import mock_random

from lab.chaos.foreign import AROUND, Foreign
from lab.chaos.sidecar import DONE_WITHIN, Sidecar
from lab.chaos.witness import Witness
from lab.chaos.world import HOST_ROUTE, POOL, SUBNET_ROUTE, Floating, Home, PodSpec, World
from lab.ec2.state import Network, Route, RouteTable, VpcState
from lab.lab import Lab
from lab.topology import WORKER_A, WORKER_B, WorkerSpec
from lab.volume import Volume
from lab.walltime import WallClock

WORKERS = {"a": WORKER_A, "b": WORKER_B, "c": WorkerSpec("c", "us-east-2a", "nodes-a", ("multus1-a", "multus2-a"))}

_POLL = 0.02  # seconds
_TAG = {"Key": "vipmanager", "Value": "yes"}  # what lab.topology gives its tables
_TOGETHER, _TOGETHER6 = ip_network("192.168.7.0/29"), ip_network("fd12::/125")  # what RouteAggregation may make of them
_SESSION = 15 * 60 + 4.0
"""Seconds that sessions last by what STS says: botocore asks for others when 15 minutes are left."""

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


@dataclass(frozen=True)
class Trouble:
    """A fault that has begun: whom it may delay. `everybody`: whoever asks EC2."""

    at: float
    what: str
    everybody: bool = False
    pods: frozenset[str] = frozenset()
    floatings: frozenset[str] = frozenset()

    def touches(self, floating: Floating, home: Home) -> bool:
        """Whether it may delay the delivery of an address there."""
        return self.everybody or home.pod in self.pods or floating.name in self.floatings


class Stage:
    """The lab that a world is played in, as a context manager. Used from one thread."""

    def __init__(self, world: World, seed: int, *, clocks: Iterable[str] = (), volumes: Iterable[str] = ()) -> None:
        """`clocks`, `volumes`: the pods that are to have a wall clock (a state directory) that can be tampered with."""
        self.world = world
        self.log: list[tuple[float, str]] = []  # what was done, and when, on time.monotonic()
        self.sidecars: dict[str, Sidecar] = {}
        self.wanted: dict[Home, set[Floating]] = {home: set() for pod in world.pods for home in pod.homes}
        self.lost: set[Home] = set()  # interfaces that are gone with their ENI
        self.troubles: list[Trouble] = []
        self.complaints: list[str] = []  # what was wrong on the way
        self.hit: set[str] = set()  # faults that hit something, and those that had nothing to hit
        self.missed: set[str] = set()
        self.held_calls = False  # whether EC2 was ever late to apply a call
        self.tables_ever: set[str] = set()  # those that vipmanager was to write at some time
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
            if self.world.settings.tagged:
                self.lab.ec2.admin().create_route_table(VpcId=self.lab.vpc_id)
            self.tables_ever |= {table.route_table_id for table in self.tables()}
            self.lab.ec2.keys.session_lifetime = _SESSION
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
        settings = self._settings(spec)
        for floating in self.world.floatings:
            for home in floating.homes if floating.eip else ():
                if home.pod == spec.name:
                    key = f"Intf{home.interface.removeprefix('net')}EIPs"
                    settings[key] = f"{floating.address}={self._eips[floating.name]}"
        user = None if self.world.settings.web_identity else self.lab.ec2.keys.add_user(spec.name)
        sidecar = Sidecar(spec, pod, user, settings, role=self._arn(self.roles_of(spec.name)[0]))
        if spec.name in self._clocks:
            sidecar.clock = WallClock(pod.directory / "clock")
        if spec.name in self._volumes:
            sidecar.volume = Volume(pod)
            settings["StateDir"] = sidecar.volume.path
        return sidecar

    def _settings(self, spec: PodSpec) -> dict[str, object]:
        drawn = self.world.settings
        settings: dict[str, object] = {
            "LogFormat": "json",
            "SubnetBasedLoopbacks": "True",
            "ResyncInterval": f"{drawn.resync:g}",
            "ReleaseOnExit": drawn.release,
            "DeleteRoutesOnExit": drawn.delete_routes,
            "RouteAggregation": drawn.aggregate,
        }
        if drawn.tagged:
            settings["VPCRTTag"] = f"{_TAG['Key']}={_TAG['Value']}"
        if drawn.table_role:
            settings["RouteTableRole"] = self._arn(self.roles_of(spec.name)[1])
        if drawn.pool is not None and drawn.pool.pod == spec.name:
            settings[f"Intf{drawn.pool.interface.removeprefix('net')}Pools"] = POOL
        return settings

    def _arn(self, role: str) -> str:
        return f"arn:aws:iam::{self.lab.ec2.account_id}:role/{role}"

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

    def places(self, floating: Floating, state: VpcState) -> dict[str, str]:
        """Where it is delivered to in each place: selected table → target; of an ENI's address the ENI that has it.

        A table that says nothing of it has "nothing"; what others route around it counts as nothing.
        """
        if not self.is_routed(floating):
            owner = state.owner_of(self.lab.vpc_id, ip_address(self.address(floating)))
            return {"ENI": owner.eni_id if owner else "nothing"}
        return {table.route_table_id: self._target(floating, table) for table in self.tables(state)}

    def _target(self, floating: Floating, table: RouteTable) -> str:
        route = self.route_of(floating, table)
        return "nothing" if route is None else route.target

    def route_of(self, floating: Floating, table: RouteTable) -> Route | None:
        """The route of a table that delivers it, unless that is one of others' around it."""
        if floating.placement == SUBNET_ROUTE:
            return table.by_destination.get(ip_network(self.destination(floating)))
        route = table.lookup(ip_address(self.address(floating)))
        return None if route is None or str(route.destination) in (*AROUND, "0.0.0.0/0", "::/0") else route

    def in_pool(self, floating: Floating) -> Home | None:
        """The interface whose pool it lies in: it gets the address as long as it has another of the pool."""
        inside = ":" not in floating.address and not floating.subnet6 and _within(floating.address, POOL)
        return self.world.settings.pool if inside else None

    def may_be_ours(self, destination: Network) -> bool:
        """Whether vipmanager may have routes to it: of one address, of several together, or of a pool."""
        if destination in {ip_network(self.destination(each)) for each in self.world.floatings if self.is_routed(each)}:
            return True
        shared = [_TOGETHER, _TOGETHER6] * self.world.settings.aggregate
        if self.world.settings.pool:
            shared.append(ip_network(POOL))
        return any(destination.version == each.version and destination.subnet_of(each) for each in shared)  # type: ignore[arg-type]

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

    def tables(self, state: VpcState | None = None) -> list[RouteTable]:
        """The VPC's route tables that vipmanager is to write, as they are now (or in a state)."""
        tables = (state or self.lab.ec2.state()).route_tables.values()
        chosen = [table for table in tables if table.vpc_id == self.lab.vpc_id and not table.edge]
        tag = (_TAG["Key"], _TAG["Value"])
        return [table for table in chosen if not self.world.settings.tagged or tag in table.tags]

    def add_table(self, *, selected: bool) -> str:
        """Add one that vipmanager is to write, or (where it selects by tag) one that it is not to."""
        admin = self.lab.ec2.admin()
        table = str(admin.create_route_table(VpcId=self.lab.vpc_id)["RouteTable"]["RouteTableId"])
        if selected:
            admin.create_tags(Resources=[table], Tags=[_TAG])
        if selected or not self.world.settings.tagged:
            self.tables_ever.add(table)
        return table

    def roles_of(self, pod: str) -> tuple[str, str]:
        """The names of the roles that its vipmanager may have: its own, and RouteTableRole."""
        return f"pod-{pod}", f"tables-{pod}"

    def pod_of(self, access_key: str | None) -> str:
        """The pod whose vipmanager has that key, be it a user's or one of its roles'; "" if none has."""
        principal = self.lab.ec2.keys.principal(access_key) if access_key else ""
        if ":user/" in principal:
            name = principal.rpartition("/")[2]
        else:
            name = principal.partition(":assumed-role/")[2].partition("/")[0].partition("-")[2]
        return name if name in self.sidecars else ""

    # vipmanager's processes --------------------------------------------------------------------------------------

    def start(self, pod: str) -> None:
        """Start its sidecar, unless it runs. What it does not remember, it claims as if it had come just now."""
        sidecar = self.sidecars[pod]
        if sidecar.container is not None:
            return
        known = {address for address, claim in sidecar.claims().items() if claim["vanished"] is None}
        for home in sidecar.spec.homes:
            for floating in self.wanted[home] if home not in self.lost else ():
                if self.address(floating) not in known:
                    self._appears(floating, home)
        self.witness.stopping.discard(pod)
        sidecar.start()

    def kill(self, pod: str) -> None:
        """kill -9 its sidecar, if it runs."""
        self.sidecars[pod].shoot()
        self.sidecars[pod].reap()

    def stop(self, pod: str) -> int | None:
        """Tell its sidecar to stop, and wait for that; the exit code."""
        self.witness.stopping.add(pod)
        self.sidecars[pod].tell_to_stop()
        return self.sidecars[pod].reap()

    def in_trouble(self, floating: Floating, home: Home, until: float) -> bool:
        """Whether a fault that began before then may have delayed the delivery of an address there."""
        return any(trouble.at <= until and trouble.touches(floating, home) for trouble in self.troubles)

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
        if home not in self.lost:
            self._appears(floating, home)
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
        self.witness.left(floating, home)
        if home not in self.lost:
            self.sidecars[home.pod].pod.del_address(home.interface, self._cidr(floating))
        self.note(f"delete {name} from {home}")

    def lose(self, home: Home) -> None:
        """Note that an interface has gone with its ENI."""
        self.sidecars[home.pod].pod.lost_interface(home.interface)
        self.lost.add(home)
        for floating in self.wanted[home]:
            self.witness.left(floating, home)
        self.note(f"{home} is gone")

    def regain(self, home: Home) -> None:
        """Make the interface of an ENI that is back, with the addresses that the application wants on it."""
        index = int(home.interface.removeprefix("net"))
        pod = self.sidecars[home.pod].pod
        pod.add_interface(home.interface, device_index=index)
        for floating in sorted(self.wanted[home], key=lambda floating: floating.name):
            self._appears(floating, home)
            pod.add_address(home.interface, self._cidr(floating))
        self.lost.remove(home)
        self.note(f"{home} is back")

    def _appears(self, floating: Floating, home: Home) -> None:
        self._came[floating, home] = time.monotonic()
        self.witness.came(floating, home)

    def _cidr(self, floating: Floating) -> str:
        address = self.address(floating)
        return f"{address}/{ip_network(address).prefixlen}"


def _within(address: str, cidr: str) -> bool:
    return ip_network(address).subnet_of(ip_network(cidr))  # type: ignore[arg-type]
