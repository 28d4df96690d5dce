"""One run of the nodeport mode in simulated time: the real Nodeport and Elector, and stand-ins for what waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.doubles.leases import FakeLeases
from tests.unit.timeline import Gate, Killed, Ticket, Timeline
from vipmanager.apply import Done, Key
from vipmanager.elector import Elector
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.fence import Fence
from vipmanager.model_node import Lease
from vipmanager.monitor import Monitor
from vipmanager.nodeport import NodeOutside, Nodeport
from vipmanager.report_node import NodeReport

if TYPE_CHECKING:
    from tests.unit.node_driver import Node, World

WRITES = frozenset(
    (
        "create_route", "replace_route", "assign", "unassign", "disable_source_dest_check", "associate", "create_eni",
        "attach_eni", "detach_eni", "delete_eni", "create_subnet", "delete_subnet", "associate_vpc_cidr",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Write:
    """A call that changed EC2."""

    at: float
    node: str
    operation: str
    arguments: tuple[Any, ...]


class Process:
    """One run of vipmanager on a node. `rounds` are the times at which its loop waited."""

    def __init__(self, node: Node) -> None:
        world = node.world
        self.node, self.world = node, world
        self.code: int | None = None
        self.stopped = False
        self.error: BaseException | None = None
        self.statuses = Statuses()
        self.watch = NodeWatch(world.timeline)
        self.lease = NodeLease(world, node)
        self.elector = NodeElector(self, self.lease)
        self.fence = Fence(self.elector, world.timeline.clock)
        outside = NodeOutside(
            node.host, node.neighbours, node.imds, NodeEc2(self), world.timeline.clock, self.fence,
            lambda host: node.ailment, world.draws.random,
        )  # fmt: skip
        self.monitor = Monitor("nodeport", file=self.statuses, clock=world.timeline.clock)  # type: ignore[arg-type]
        self.report = NodeReport(world.config, node.name, node.name, "test/vipmanager", self.monitor)
        self.nodeport = Nodeport(world.config, outside, self.watch, self.elector, self.report)
        self.jobs = NodeJobs(self)
        self.nodeport._jobs = self.nodeport._reader._jobs = self.jobs  # threads, but in simulated time
        world.timeline.spawn(self, self._run)

    @property
    def rounds(self) -> list[float]:
        """When the loop had nothing to do."""
        return self.watch.waits

    @property
    def running(self) -> bool:
        """Whether it does anything."""
        return self.code is None and not self.stopped

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True
        self.world.timeline.stop(self)

    def go_on(self) -> None:
        """SIGCONT."""
        self.stopped = False
        self.world.timeline.go_on(self)

    def _run(self) -> None:
        try:
            self.code = self.nodeport.run()
        except Killed:
            raise
        except BaseException as error:
            self.error, self.code = error, 70


class Statuses:
    """Stands in for StatusFile."""

    def __init__(self) -> None:
        self.last: Mapping[str, Any] = {}
        self.problem = ""

    def write(self, status: Mapping[str, Any]) -> str:
        """Keep it."""
        self.last = dict(status)
        return self.problem


class NodeWatch:
    """Stands in for Watch."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._woken = self._told = False
        self._ticket: Ticket | None = None
        self.waits: list[float] = []

    def wake(self) -> None:
        """See Watch."""
        self._woken = True
        if self._ticket is not None:
            self._timeline.ready(self._ticket)

    def tell(self) -> None:
        """The kernel says that something changed."""
        self._told = True
        if self._ticket is not None:
            self._timeline.ready(self._ticket)

    def wait(self, until: float | None) -> bool:
        """See Watch; poll(2) waits for a millisecond at least."""
        self.waits.append(self._timeline.now)
        if not self._woken and not self._told:
            self._ticket = self._timeline.ticket()
            self._timeline.wait_until(None if until is None else max(until, self._timeline.now + 0.001), self._ticket)
        told, self._woken, self._told, self._ticket = self._told, False, False, None
        return told


class NodeJobs:
    """Stands in for Jobs."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._done: list[Done] = []
        self.running: set[Key] = set()

    def submit(self, keys: tuple[Key, ...], subject: Any, call: Callable[[], Any]) -> None:
        """See Jobs."""
        self.running.update(keys)
        self._process.world.timeline.spawn(self._process, lambda: self._work(keys, subject, call))

    def collect(self) -> list[Done]:
        """See Jobs."""
        finished, self._done = self._done, []
        for done in finished:
            self.running.difference_update(done.keys)
        return finished

    def _work(self, keys: tuple[Key, ...], subject: Any, call: Callable[[], Any]) -> None:
        try:
            done = Done(keys, subject, value=call())
        except CallError as error:
            done = Done(keys, subject, failure=error.failure)
        except Killed:
            raise
        except BaseException as error:
            done = Done(keys, subject, crash=error)
        self._done.append(done)
        self._process.watch.wake()


class NodeElector(Elector):
    """The elector, its threads in simulated time."""

    def __init__(self, process: Process, lease: NodeLease) -> None:
        world, name = process.world, process.node.name
        clock, wake = world.timeline.clock, process.watch.wake
        super().__init__(lease, world.config, name, clock, clock, wake, world.draws.random)
        self._process = process
        self._changed, self._stopped = Gate(world.timeline), Gate(world.timeline)  # type: ignore[assignment]

    def start(self) -> None:
        """See Elector."""
        for work in (self._elect, self._watch):
            self._process.world.timeline.spawn(self._process, partial(self._guarded, work))


class NodeLease:
    """The lease port of one node: calls take a while, and none gets through while the node is cut off."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node
        self._client = FakeLeases(world.store, timeout=0.0)
        self.faults = self._client.faults

    def read(self) -> Lease | None:
        """See LeasePort."""
        return self._call(self._client.read)

    def create(self, lease: Lease) -> Lease:
        """See LeasePort."""
        return self._call(lambda: self._client.create(lease))

    def update(self, lease: Lease, *, renew: bool, acquire: bool = False) -> Lease:
        """See LeasePort."""
        return self._call(lambda: self._client.update(lease, renew=renew, acquire=acquire))

    def watch(self, seen: Callable[[Lease | None], None], silence: float) -> None:
        """See LeasePort."""
        self.faults.begin("watch", silence)
        store, after = self._world.store, 0
        while True:
            deadline = self._world.now + silence
            while store.revision <= after or self._node.cut:
                if self._world.now >= deadline:
                    raise CallError(Failure(ErrorKind.RETRY, "lease:watch", "ReadTimeoutError", "silence"))
                self._world.stored.wait(deadline - self._world.now)
            self._world.timeline.sleep(self._world.lease_trip / 2)
            news = [each for each in store.history if each[0] > after][0 if after else -1 :]
            for revision, lease in news:
                after = revision
                seen(lease)

    def _call(self, call: Callable[[], Any]) -> Any:
        world, store, node = self._world, self._world.store, self._node

        def serve() -> Any:
            revision = store.revision
            if node.cut:
                raise CallError(Failure(ErrorKind.RETRY, "lease:call", "ReadTimeoutError", "cut off"))
            try:
                return call()
            finally:
                if store.revision != revision:
                    world.stored.notify_all()

        patience = world.config.renew_deadline / 2
        return world.remote(serve, world.lease_trip / 2, patience if node.cut else world.lease_trip / 2)


class NodeEc2:
    """EC2 as one process reaches it: each call takes a while, and the fence is asked before a write goes out."""

    def __init__(self, process: Process) -> None:
        self._process, self._world = process, process.world

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        world, sent = self._world, self._world.now
        if name in WRITES:
            self._process.fence()

        def serve() -> Any:
            world.ec2.hold_attach, world.ec2.hold_detach = world.attaching > 0, world.detaching > 0
            answer = getattr(world.ec2, name)(*arguments, **options)
            if name in WRITES:
                self._wrote(Write(world.now, self._process.node.name, name, arguments))
            if name in world.unanswered:
                raise CallError(Failure(ErrorKind.RETRY, f"fake:{name}", "ReadTimeoutError", "the answer was lost"))
            return answer

        going, coming = (world.trip / 2 + seconds.get(name, 0.0) for seconds in (world.pauses, world.late))
        answer = world.remote(serve, going, coming)
        if name == "route_tables":
            return tuple(_seen(table, sent) for table in answer)
        return answer

    def _wrote(self, write: Write) -> None:
        world = self._world
        takes = {"attach_eni": world.attaching, "detach_eni": world.detaching}.get(write.operation, 0.0)
        if takes:
            world.timeline.at(world.now + takes, world.ec2.settle)
        world.writes.append(write)
        world.on_write(write)


def _seen(table: Any, at: float) -> Any:
    """The time at which the question was asked, as the real client has it."""
    return replace(table, seen=at, routes={key: replace(route, seen=at) for key, route in table.routes.items()})


def busiest(process: Process, since: float = 0.0) -> int:
    """The most rounds of its loop within one second."""
    times = [at for at in process.rounds if at >= since]
    return max((sum(begin <= at < begin + 1.0 for at in times) for begin in times), default=0)
