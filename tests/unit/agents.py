"""A pod on a worker, with the real agent, its real threads and Watch, and doubles for all that is outside."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.clock import BOUND, SkewedClock, until
from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.faults import Call
from tests.doubles.imds import FakeImds
from tests.doubles.netlink import FakeNetlink
from tests.unit.builders import mac
from vipmanager.agent import Agent, Outside
from vipmanager.claims import ClaimStore
from vipmanager.config import load
from vipmanager.observe import SETTLE
from vipmanager.watch import Watch

DESCRIBES = ("route_tables", "enis", "enis_by_mac", "enis_holding", "subnets", "elastic_ips")
WRITES = (
    "create_route",
    "replace_route",
    "delete_route",
    "assign",
    "unassign",
    "disable_source_dest_check",
    "associate",
)
TABLES = 4
PEER = "eni-9"
"""Another worker's ENI in subnet 1."""


class Run:
    """An agent that runs on a thread of its own."""

    def __init__(self, agent: Agent, watch: Watch) -> None:
        self.agent, self.watch = agent, watch
        self.code: int | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.code = self.agent.run()
        except BaseException as error:
            self.error = error

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    def result(self) -> int:
        """Wait for its end; its exit code."""
        self._thread.join(BOUND)
        assert not self.running, "the agent has not ended"
        if self.error is not None:
            raise self.error
        assert self.code is not None
        return self.code

    def stop(self) -> int:
        """Tell it to stop; its exit code."""
        self.agent.stop()
        return self.result()


class Region:
    """EC2 with some route tables, and the clock that everybody goes by."""

    def __init__(self, tables: int) -> None:
        self.clock = SkewedClock()
        self.ec2 = FakeEc2(self.clock)
        self.ec2.add_vpc(VPC, "10.10.0.0/16", "2600:1f14::/56")
        for number in (1, 2):
            self.ec2.add_subnet(f"subnet-{number}", f"10.10.{number}.0/24", f"2600:1f14:0:{number}::/64")
        self.ec2.add_subnet("subnet-3", "10.10.3.0/24")
        for number, home in ((1, 1), (2, 2), (8, 2), (9, 1)):
            self.ec2.add_eni(f"eni-{number}", mac(number), min(number, 2), f"subnet-{home}", f"10.10.{home}.1{number}")
        self.tables = [f"rtb-{number}" for number in range(tables)]
        for table in self.tables:
            self.ec2.add_table(table)
        self.ec2.add_table("rtb-edge", edge=True)


class Pod:
    """A pod with net1 and net2 on two ENIs. `draw` is chance: what every jitter draws."""

    def __init__(
        self, region: Region, state: Path, *addresses: Sequence[str], enis: Sequence[str] = ("eni-1", "eni-2")
    ) -> None:
        self.region, self.ec2, self.clock = region, region.ec2, region.clock
        self.imds = FakeImds(self.ec2, *enis)
        self.kernel = FakeNetlink()
        self.draw = 0.0
        self.runs: list[Run] = []
        self._state = state
        for number, (eni, held) in enumerate(itertools.zip_longest(enis, addresses, fillvalue=()), 1):
            self.kernel.add(f"net{number}", self.ec2.state.enis[str(eni)].mac, *held)

    def start(self, *, sidecar: bool = False, **settings: str) -> Run:
        """Start an agent."""
        watch = Watch(self.kernel.events, self.clock)
        outside = Outside(self.kernel, self.imds, self.ec2, self.clock, lambda: self.draw)
        store = ClaimStore(str(self._state), "life", needed=sidecar)
        run = Run(Agent(load(settings), outside, watch, store, sidecar=sidecar), watch)
        self.runs.append(run)
        return run

    def init(self, **settings: str) -> int:
        """Run as init to its end; the exit code."""
        return self.start(**settings).result()

    def sidecar(self, **settings: str) -> Run:
        """Start as a sidecar."""
        return self.start(sidecar=True, **settings)

    def pass_time(self, seconds: float) -> None:
        """Put the clock forward, and let every agent notice."""
        self.clock.advance(seconds)
        for run in self.runs:
            run.watch.wake()

    def close(self) -> None:
        """End whatever runs."""
        self.ec2.faults.clear()
        for run in self.runs:
            run.agent.stop()
            run._thread.join(BOUND)
        self.kernel.close()

    # what is seen

    def calls(self, *operations: str, since: int = 0) -> list[Call]:
        """EC2's calls but the warming up."""
        wanted = operations or (*DESCRIBES, *WRITES)
        return [call for call in self.ec2.faults.named()[since:] if call.operation in wanted]

    def mark(self) -> int:
        """For `calls`."""
        return len(self.ec2.faults.named())

    def routed(self, address: str, eni: str | None = "eni-1") -> bool:
        """Whether every table sends the address to an ENI."""
        length = ip_address(address).max_prefixlen
        return set(self.ec2.targets(f"{address}/{length}").values()) == {eni}

    def wait(self, what: Callable[[], bool]) -> None:
        """Wait for something."""
        until(what)


class Pods:
    """Makes pods in one region, and ends them."""

    def __init__(self, directory: Path) -> None:
        self.region = Region(TABLES)
        self._directory = directory
        self._made: list[Pod] = []

    def __call__(self, *addresses: list[str], enis: tuple[str, ...] = ("eni-1", "eni-2")) -> Pod:
        self._made.append(Pod(self.region, self._directory / enis[0], *addresses, enis=enis))
        return self._made[-1]

    def close(self) -> None:
        """End them all."""
        for pod in self._made:
            pod.close()


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[dict[str, Any]]:
    """The facts of the events of these names."""
    return [record.__dict__["facts"] for record in caplog.records if record.getMessage() in names]


def settled(pod: Pod, *wanted: Callable[[], bool]) -> None:
    """Wait for these, and for the look that confirms the writes."""
    for what in wanted:
        pod.wait(what)
    mark = pod.mark()
    pod.pass_time(SETTLE + 0.1)
    pod.wait(lambda: answered(pod, mark, *DESCRIBES) >= 1)


def answered(pod: Pod, mark: int, *operations: str) -> int:
    """How many such calls since then were answered."""
    since = pod.ec2.faults.named()[mark:]
    done = [call for call in list(pod.ec2.faults.answered) if any(call is each for each in since)]
    return sum(call.operation in operations for call in done)
