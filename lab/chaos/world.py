"""What a schedule is played with: workers, pods, and the floating addresses that an application moves between them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

HOST_ROUTE, SUBNET_ROUTE, ENI_ADDRESS = "host-route", "subnet-route", "eni-address"

NOISE = "192.168.250.250"
"""A floating address that is there for moments only: it comes and goes in a `netlink-burst`."""

POOL = "192.168.9.0/30"
"""A pool of one interface, where a world has one: IntfNPools. Two floating addresses lie in it."""

PATIENT = 300.0
"""The ResyncInterval of a world in which nothing may wait for the resync."""

_SUBNETS = {("a", 1): "multus1-a", ("c", 1): "multus1-a", ("b", 1): "multus1-b"}  # (worker, device index) → subnet
_FIRST_ADDRESS = {"multus1-a": "10.10.11.80", "multus1-b": "10.10.21.80"}


@dataclass(frozen=True, order=True)
class Home:
    """Where a floating address may be: an interface of a pod."""

    pod: str
    interface: str

    def __str__(self) -> str:
        return f"{self.pod}/{self.interface}"


@dataclass(frozen=True)
class PodSpec:
    """A pod to make: netN for each of the device indexes N."""

    name: str
    worker: str
    indexes: tuple[int, ...]

    @property
    def homes(self) -> tuple[Home, ...]:
        """Its interfaces."""
        return tuple(Home(self.name, f"net{index}") for index in self.indexes)


@dataclass(frozen=True)
class Floating:
    """A floating address. `subnet6`: the address is that number in the IPv6 CIDR of the subnet of this name.

    `eip`: an Elastic IP belongs to it.
    """

    name: str
    placement: str
    address: str
    homes: tuple[Home, ...]
    first: Home | None
    subnet6: str = ""
    eip: bool = False

    def __str__(self) -> str:
        homes = " ".join(map(str, self.homes))
        where = f"{self.address} in {self.subnet6}" if self.subnet6 else self.address
        return f"{self.name}: {where} {self.placement}{' with EIP' * self.eip}, homes {homes}, first {self.first}"


@dataclass(frozen=True)
class Settings:
    """vipmanager's, the same for all pods. `resync` in seconds.

    `pool`: the interface that POOL belongs to. `tagged`: VPCRTTag selects tables, and there is one that it does not.
    `table_role`: RouteTableRole. `web_identity`: credentials are of a role, by STS.
    """

    resync: float
    release: bool = True
    delete_routes: bool = False
    aggregate: bool = False
    pool: Home | None = None
    tagged: bool = False
    table_role: bool = False
    web_identity: bool = False

    def __str__(self) -> str:
        names = ("release", "delete_routes", "aggregate", "tagged", "table_role", "web_identity")
        said = [name for name in names if getattr(self, name)] + ([f"pool of {self.pool}"] if self.pool else [])
        return f"ResyncInterval {self.resync:g} s, settings: {', '.join(said) or 'none'}"


@dataclass(frozen=True)
class World:
    """What is there before anything goes wrong. Seconds; `tables` counts the main one."""

    workers: tuple[str, ...]
    pods: tuple[PodSpec, ...]
    floatings: tuple[Floating, ...]
    tables: int
    latency: float
    settings: Settings

    @property
    def patient(self) -> bool:
        """Whether there is no resync in the time that it lives."""
        return self.settings.resync >= PATIENT

    @property
    def movable(self) -> tuple[Floating, ...]:
        """The addresses that the application moves: all but the noise."""
        return tuple(floating for floating in self.floatings if floating.address != NOISE)

    def pod(self, name: str) -> PodSpec:
        """The pod of that name."""
        return next(pod for pod in self.pods if pod.name == name)

    def __str__(self) -> str:
        lines = [f"workers {' '.join(self.workers)}, {self.tables} tables, EC2's latency {self.latency:g} s"]
        lines.append(str(self.settings))
        lines += [f"pod {pod.name} on {pod.worker}: {' '.join(str(home) for home in pod.homes)}" for pod in self.pods]
        return "\n".join([*lines, *map(str, self.floatings)])


def make(random: Random) -> World:
    """Draw a world. In one Availability Zone the addresses of the ENIs' subnet can move between workers, too."""
    workers = ("a", random.choice("ccb"))
    pods = _pods(random, workers)
    settings = _settings(random, pods)
    return World(
        workers,
        pods,
        tuple(_floatings(random, pods, settings.pool)),
        tables=random.choice((2, 4, 5, 5, 6)),
        latency=random.choice((0.0, 0.0, 0.02, 0.06)),
        settings=settings,
    )


def _settings(random: Random, pods: tuple[PodSpec, ...]) -> Settings:
    """A third has no resync in time: what only a resync mends would hide behind a short interval."""
    homes = [home for pod in pods for home in pod.homes]
    return Settings(
        resync=random.choice((2.0, 3.0, 4.0, 5.0, PATIENT, PATIENT)),
        release=random.random() < 0.7,
        delete_routes=random.random() < 0.3,
        aggregate=random.random() < 0.3,
        pool=random.choice(homes) if random.random() < 0.2 else None,
        tagged=random.random() < 0.25,
        table_role=random.random() < 0.2,
        web_identity=random.random() < 0.25,
    )


def _pods(random: Random, workers: tuple[str, ...]) -> tuple[PodSpec, ...]:
    """Two to four pods, of which two now and then share an ENI."""
    number = random.randint(2, 4)
    if number == 2 and random.random() < 0.5:
        return tuple(PodSpec(f"p{each}", worker, (1, 2)) for each, worker in enumerate(workers))
    slots = [(workers[0], 1), (workers[1], 1), (workers[0], 2), (workers[1], 2)]
    if random.random() < 0.2:
        slots[2] = slots[0]
    return tuple(PodSpec(f"p{each}", worker, (index,)) for each, (worker, index) in enumerate(slots[:number]))


def _floatings(random: Random, pods: tuple[PodSpec, ...], pool: Home | None) -> list[Floating]:
    everywhere = [home for pod in pods for home in pod.homes]

    def routed(name: str, placement: str, address: str) -> Floating:
        homes = _some(random, everywhere)
        return Floating(name, placement, address, homes, _first(random, homes))

    found = [routed(f"h{n}", HOST_ROUTE, f"192.168.7.{n}") for n in range(1, random.randint(2, 4) + 1)]
    found += [routed(f"v{n}", HOST_ROUTE, f"fd12::{n}") for n in range(1, random.randint(1, 2) + 1)]
    if random.random() < 0.5:
        found.append(routed("s1", SUBNET_ROUTE, "10.10.254.5"))
    if pool is not None:
        others = random.sample([home for home in everywhere if home != pool], random.randint(1, len(everywhere) - 1))
        homes = (pool, *sorted(others))
        found += [Floating(f"q{n}", HOST_ROUTE, f"192.168.9.{n}", homes, _first(random, homes)) for n in (1, 2)]
    return [*found, *_assigned(random, pods), Floating("noise", HOST_ROUTE, NOISE, tuple(everywhere), None)]


def _assigned(random: Random, pods: tuple[PodSpec, ...]) -> list[Floating]:
    """Addresses of the subnets that the ENIs of device index 1 are in."""
    found: list[Floating] = []
    for subnet, first in _FIRST_ADDRESS.items():
        homes = tuple(home for pod in pods for home in pod.homes if _SUBNETS.get((pod.worker, _index(home))) == subnet)
        if not homes:
            continue
        prefix, _, number = first.rpartition(".")
        for each in range(random.randint(1, 3)):
            address, eip = f"{prefix}.{int(number) + each}", each == 0 and random.random() < 0.4
            name = f"e{len(found) + 1}"
            found.append(Floating(name, ENI_ADDRESS, address, homes, _first(random, homes), eip=eip))
        if random.random() < 0.6:
            name = f"e{len(found) + 1}"
            found.append(Floating(name, ENI_ADDRESS, "128", homes, _first(random, homes), subnet6=subnet))
    return found


def _index(home: Home) -> int:
    return int(home.interface.removeprefix("net"))


def _some(random: Random, homes: list[Home]) -> tuple[Home, ...]:
    return tuple(sorted(random.sample(homes, random.randint(2, len(homes)))))


def _first(random: Random, homes: tuple[Home, ...]) -> Home | None:
    return None if random.random() < 0.15 else random.choice(homes)
