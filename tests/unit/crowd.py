"""Many pods that start when an Availability Zone has failed: real init runs in simulated time, on one throttled EC2."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.imds import FakeImds
from tests.doubles.netlink import FakeNetlink
from tests.unit.node_process import WRITES, NodeJobs, NodeWatch
from tests.unit.timeline import Timeline
from vipmanager.agent import Agent, Outside
from vipmanager.claims import ClaimStore
from vipmanager.config import load
from vipmanager.errors import CallError
from vipmanager.model import Claims

LATENCY = 0.06
ROUTES = ("create_route", "replace_route")
DESCRIBES = ("route_tables", "enis", "subnets")


@dataclass(frozen=True)
class Sent:
    """A call that has reached EC2: when, from which pod, and whether it was throttled."""

    at: float
    pod: int
    operation: str
    throttled: bool


class Crowd:
    """Pods on workers of their own, with so many floating addresses each, all of them routed in each route table.

    `lost` routes of each table point to ENIs of workers that are gone. The pods' own are among them where `announced`;
    else EC2 does not show yet that their old targets are gone. `innocents` of each table are live routes of others that
    nobody moves. `spread` is the time (s) within which the pods start.
    """

    def __init__(
        self,
        addresses: Sequence[int],
        *,
        tables: int = 4,
        announced: bool = True,
        stale: int = 0,
        innocents: int = 0,
        spread: float = 0.0,
        bucket: float = 100.0,
        seed: int = 0,
    ) -> None:
        self.timeline = Timeline()
        self.draws = random.Random(seed)
        self.ec2 = FakeEc2(self.timeline.clock)
        self.ec2.routes_per_table = 1_000_000
        self.ec2.faults.throttle(*WRITES, clock=self.timeline.clock, bucket=bucket)
        self.sent: list[Sent] = []
        self.tables = [f"rtb-{number}" for number in range(tables)]
        self._build(addresses, announced, stale, innocents)
        self.began = self.timeline.now
        self.pods = [_Pod(self, number, spread * self.draws.random()) for number in range(len(addresses))]

    def run(self, within: float = 3600.0) -> bool:
        """Let time pass until all have ended; whether they have."""
        try:
            return self.timeline.run(self.timeline.now + within, lambda: all(pod.took is not None for pod in self.pods))
        finally:
            self.timeline.close()
            for pod in self.pods:
                pod.kernel.close()

    @property
    def took(self) -> float:
        """Seconds from the first start until the last pod was done."""
        return max(pod.starts + (pod.took or 0.0) for pod in self.pods) - min(pod.starts for pod in self.pods)

    def undelivered(self) -> int:
        """Routes that do not point at the ENI of the pod that has their address."""
        return sum(
            self.ec2.state.tables[table].routes.get(ip_network(address)) != f"eni-{pod}"
            for table in self.tables
            for pod, each in enumerate(self.wanted)
            for address in each
        )

    def count(self, *operations: str, throttled: bool | None = None) -> int:
        """The calls so far."""
        return sum(call.operation in operations and throttled in (None, call.throttled) for call in self.sent)

    def _build(self, addresses: Sequence[int], announced: bool, stale: int, innocents: int) -> None:
        ec2 = self.ec2
        ec2.add_vpc(VPC, "10.10.0.0/16")
        for table in self.tables:
            ec2.add_table(table)
        self.wanted: list[list[str]] = []
        for number, count in enumerate(addresses):
            subnet = number // 200
            if not number % 200:
                ec2.add_subnet(f"subnet-{subnet}", f"10.10.{subnet}.0/24")
            mac = f"02:00:00:00:{number // 256:02x}:{number % 256:02x}"
            ec2.add_eni(f"eni-{number}", mac, 1, f"subnet-{subnet}", f"10.10.{subnet}.{number % 200 + 10}")
            first = sum(map(len, self.wanted))
            self.wanted.append([str(ip_address("192.168.0.0") + first + each) for each in range(count)])
        total = sum(addresses)
        ec2.add_eni("eni-other", "02:00:00:01:00:00", 1, "subnet-0", "10.10.0.250")
        old = "eni-gone" if announced else "eni-other"
        routes = {ip_network(address): old for each in self.wanted for address in each}
        routes |= {ip_network(ip_address("172.16.0.0") + each): "eni-gone" for each in range(stale)}
        routes |= {ip_network(ip_address("172.18.0.0") + each): "eni-other" for each in range(innocents)}
        assert len(routes) == total + stale + innocents
        found = {name: replace(ec2.state.tables[name], routes=routes) for name in self.tables}
        ec2.set(replace(ec2.state, tables=found))
        del ec2._history[:-1]


class _Pod:
    """One init run."""

    def __init__(self, crowd: Crowd, number: int, delay: float) -> None:
        self.world, self.number = crowd, number
        self.starts = crowd.timeline.now + delay
        self.took: float | None = None
        self.code: int | None = None
        self.kernel = FakeNetlink()
        self.kernel.add("net1", crowd.ec2.state.enis[f"eni-{number}"].mac, *crowd.wanted[number])
        self.watch = NodeWatch(crowd.timeline)
        imds = FakeImds(crowd.ec2, f"eni-{number}")
        outside = Outside(self.kernel, imds, _PodEc2(self), crowd.timeline.clock, crowd.draws.random)  # type: ignore[arg-type]
        self.agent = Agent(load({"InitTimeout": "86400"}), outside, self.watch, _Memory(), sidecar=False)  # type: ignore[arg-type]
        self.agent._jobs = NodeJobs(self)  # type: ignore[assignment, arg-type]
        crowd.timeline.at(self.starts, lambda: crowd.timeline.spawn(self, self._run))

    def _run(self) -> None:
        self.watch.tell()
        self.code = self.agent.run()
        self.took = self.world.timeline.now - self.starts


class _Memory(ClaimStore):
    """Claims of an init run, which reads none."""

    def __init__(self) -> None:
        pass

    def save(self, claims: Claims) -> None:
        """Nowhere."""


class _PodEc2:
    """EC2 as one pod reaches it: each call takes a while."""

    def __init__(self, pod: _Pod) -> None:
        self._pod, self._crowd = pod, pod.world

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> Any:
        asked = self._crowd.timeline.now
        jitter = 1.0 + 0.2 * self._crowd.draws.random()
        trip = 0.0 if name == "warm_up" else LATENCY / 2 * jitter
        answer = self._crowd.timeline.remote(lambda: self._serve(name, arguments), trip, trip)
        if name == "route_tables":  # as old as the question
            answer = tuple(replace(table, seen=asked) for table in answer)
        return answer

    def _serve(self, name: str, arguments: tuple[Any, ...]) -> Any:
        throttled = False
        try:
            return getattr(self._crowd.ec2, name)(*arguments)
        except CallError as error:
            throttled = error.failure.throttled
            raise
        finally:
            self._crowd.sent.append(Sent(self._crowd.timeline.now, self._pod.number, name, throttled))
            del self._crowd.ec2._history[:-1]  # nothing lags here
