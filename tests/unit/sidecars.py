"""Sidecars in simulated time: the real agent, doubles of kernel, IMDS and EC2, calls that take as long as is said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.imds import FakeImds
from tests.doubles.netlink import FakeNetlink
from tests.unit.builders import mac
from tests.unit.node_process import NodeJobs, NodeWatch
from tests.unit.timeline import Timeline
from vipmanager.agent import Agent, Outside
from vipmanager.apply import Key
from vipmanager.claims import ClaimStore
from vipmanager.config import load

LATENCY = 0.06
TABLES = 4


class Zone:
    """Pods on ENIs of one subnet, one each, and four route tables."""

    def __init__(self, directory: Path) -> None:
        self.timeline = Timeline()
        self.directory = directory
        self.ec2 = FakeEc2(self.timeline.clock)
        self.ec2.add_vpc(VPC, "10.10.0.0/16")
        self.ec2.add_subnet("subnet-1", "10.10.1.0/24")
        for number in range(TABLES):
            self.ec2.add_table(f"rtb-{number}")
        self.pods: list[Pod] = []

    def pod(self, number: int, *addresses: str) -> Pod:
        """A pod on `eni-<number>`; its sidecar is started by `start`."""
        self.ec2.add_eni(f"eni-{number}", mac(number), 1, "subnet-1", f"10.10.1.1{number}")
        self.pods.append(Pod(self, number, addresses))
        return self.pods[-1]

    def beside(self, pod: Pod, *addresses: str) -> Pod:
        """Another pod on the same ENI."""
        self.pods.append(Pod(self, int(pod.eni.removeprefix("eni-")), addresses))
        return self.pods[-1]

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, or until it is so; whether it is."""
        return self.timeline.run(self.timeline.now + seconds, done)

    def routed(self, address: str, pod: Pod) -> bool:
        """Whether each table sends it there."""
        return set(self.ec2.targets(f"{address}/32").values()) == {pod.eni}

    def close(self) -> None:
        """End all."""
        self.timeline.close()
        for pod in self.pods:
            pod.kernel.close()


class Pod:
    """A pod with net1. `late`: seconds that EC2 keeps a call of an operation waiting before it carries it out."""

    def __init__(self, zone: Zone, number: int, addresses: tuple[str, ...]) -> None:
        self.zone, self.eni = zone, f"eni-{number}"
        self.directory = zone.directory / f"pod-{len(zone.pods)}"
        self.late: defaultdict[str, float] = defaultdict(float)
        self.kernel = FakeNetlink()
        self.kernel.add("net1", mac(number), *addresses)
        self.codes: list[int] = []
        self.calls: list[str] = []
        self._agent: Agent | None = None
        self._watch = NodeWatch(zone.timeline)

    def start(self, **settings: str) -> None:
        """Start its sidecar, with the state of the one before."""
        timeline = self.zone.timeline
        outside = Outside(self.kernel, FakeImds(self.zone.ec2, self.eni), _Ec2(self), timeline.clock, lambda: 0.5)  # type: ignore[arg-type]
        store = ClaimStore(str(self.directory), "life")
        self._watch = NodeWatch(timeline)
        agent = self._agent = Agent(load(settings), outside, self._watch, store, sidecar=True)  # type: ignore[arg-type]
        self._process = _Process(self._watch, timeline)
        agent._jobs = self._jobs = _Jobs(self._process)  # type: ignore[assignment]
        self._watch.tell()
        timeline.spawn(self._process, lambda: self.codes.append(agent.run()))

    def kill(self) -> None:
        """SIGKILL."""
        self.zone.timeline.kill(self._process)

    def stop(self) -> None:
        """SIGTERM."""
        assert self._agent is not None
        self._agent.stop()
        self._watch.wake()

    def queue(self) -> None:
        """Let calls wait for a thread from now on."""
        self._jobs.open = False

    def unqueue(self) -> None:
        """Let them go on."""
        self._jobs.go_on()

    def hold(self, *addresses: str) -> None:
        """Have these addresses and no others on net1."""
        self.kernel.set_addresses("net1", *addresses)
        self._watch.tell()


class _Jobs(NodeJobs):
    """Threads in simulated time, and calls that find none free."""

    def __init__(self, process: _Process) -> None:
        super().__init__(process)  # type: ignore[arg-type]
        self.open = True
        self._waiting: list[tuple[tuple[Key, ...], Any, Callable[[], Any]]] = []

    def submit(self, keys: tuple[Key, ...], subject: Any, call: Callable[[], Any]) -> None:
        """See Jobs."""
        if self.open:
            super().submit(keys, subject, call)
        else:
            self.running.update(keys)
            self._waiting.append((keys, subject, call))

    def go_on(self) -> None:
        """Threads are free."""
        self.open = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            super().submit(*each)


class _Process:
    """What NodeJobs asks of a process."""

    def __init__(self, watch: NodeWatch, timeline: Timeline) -> None:
        self.watch = watch
        self.world = self
        self.timeline = timeline


class _Ec2:
    """EC2 as one pod reaches it."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> Any:
        pod, ec2 = self._pod, self._pod.zone.ec2
        trip = 0.0 if name == "warm_up" else LATENCY / 2
        pod.calls.append(name)

        def serve() -> Any:
            del ec2._history[:-1]  # nothing lags here
            return getattr(ec2, name)(*arguments)

        return pod.zone.timeline.remote(serve, trip + pod.late[name], trip)
