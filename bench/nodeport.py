"""The nodeport mode: how long clients are without answers when the holder fails or hands over, and what it costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random

from bench.figures import Figure
from bench.floats import Terms
from bench.process import BenchError, until
from bench.sidecar import peak_memory, used
from bench.sizes import Sizes
from lab.deployment import PORT, Deployment
from lab.holders import Holders
from lab.lab import Lab
from lab.responder import Responder
from lab.topology import WorkerSpec

NOTE = """\
nodeport: a client asks over HTTP every 20 ms, each time on a new connection. A gap is from the last answered attempt
to the first that is answered again, by when they began. Instead of a floor, which would need a cluster with the set-up
that the samples document: what they say of it. The Kubernetes API's latency is that of EC2. Takes five minutes."""
DOCUMENTED = "64 s, by the samples"
CLIENT = "peer1"
LEASE = "bench"
MODES = ("address", "route", "eni", "subnet")
NEXT_TO_EACH_OTHER = tuple(WorkerSpec(name, "us-east-2a", "nodes-a", ()) for name in "ab")
WITH_ANOTHER_ZONE = (*NEXT_TO_EACH_OTHER, WorkerSpec("c", "us-east-2b", "nodes-b", ()))
FAILURE_REACH = 1.5  # s on top of LeaseDuration
HAND_OVER_REACH = 500.0  # ms
ENI_REACH = 2.0  # s on top of LeaseDuration and what EC2 takes to detach and to attach
STEADY = 0.3
"""Seconds of answers before anything is done."""
BOUND = 60.0


@dataclass(frozen=True)
class Service:
    """A Deployment on two workers, and the address by which clients reach it."""

    mode: str
    address: str
    lease: str
    deployment: Deployment


@dataclass
class Outages:
    """Of one service: seconds without an answer, EC2 calls of the new holder until it answered, and the writes."""

    gaps: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)


Holding = Sequence[tuple[Service, str]]
"""Services with the worker that holds each."""


class Cluster:
    """A lab with workers that answer, and the services on it."""

    def __init__(self, lab: Lab, sizes: Sizes) -> None:
        self.lab = lab
        self.terms = Terms(*sizes.lease)
        self.responders: dict[str, Responder] = {}
        self._random = Random(3)
        self.addresses: set[str] = set()
        lab.kube.set_leases(*(f"{LEASE}-{mode}" for mode in MODES))
        for worker in lab.workers:
            lab.kube.faults(worker).latency = sizes.latency
            self.answer(worker)

    def answer(self, worker: str) -> None:
        """Let a worker answer clients."""
        self.responders[worker] = self.lab.workers[worker].serve_http(PORT)

    def service(self, mode: str, address: str, workers: str, **settings: object) -> Service:
        """Start a service, with the first of the workers as holder."""
        config: dict[str, object] = {
            "FLOATING_IP": address,
            "FloatingMode": mode,
            "LeaseName": f"{LEASE}-{mode}",
            "LeaseDuration": self.terms.duration,
            "RenewDeadline": self.terms.deadline,
            "RetryPeriod": self.terms.retry,
            "LogLevel": "DEBUG",
            "LogFormat": "json",
            **settings,
        }
        service = Service(mode, address, f"{LEASE}-{mode}", Deployment(self.lab, workers, config, f"np-{mode}"))
        self.addresses.add(address)
        service.deployment.start(workers[0])
        self.wait(service, f"{workers[0]} holds {address}", lambda: service.deployment.has_all(workers[0]))
        service.deployment.start(workers[1])
        return service

    def steady(self, service: Service) -> str:
        """Wait until one worker holds and the other could take over; the holder. Raises BenchError."""

        def in_order() -> bool:
            holder = service.deployment.holder()
            return bool(holder) and service.deployment.stands_by(service.deployment.other(holder), holder)

        self.wait(service, f"a holder and a standby of {service.address}", in_order)
        return service.deployment.holder()

    def wait(self, service: Service, what: str, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises BenchError with what the service has logged."""
        try:
            until(what, condition, BOUND)
        except BenchError as error:
            raise BenchError(f"{error}\n{service.deployment.logs()}") from error

    def moment(self, service: Service, number: int, count: int) -> None:
        """Wait for a moment between two renewals: `count` of them are spread over the period."""
        before = self.lab.kube.lease(service.lease)
        self.wait(service, f"a renewal of {service.lease}", lambda: self.lab.kube.lease(service.lease) != before)
        time.sleep((number + self._random.random()) / count * self.terms.retry)


@contextmanager
def cluster(sizes: Sizes, workers: Sequence[WorkerSpec]) -> Iterator[Cluster]:
    """A cluster. Raises BenchError at the end if two nodes ever had one of the addresses at once."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(workers=workers, latency=sizes.latency, kube=True))
        holders = stack.enter_context(Holders({name: worker.ns for name, worker in lab.workers.items()}))
        made = Cluster(lab, sizes)
        yield made
        for address in sorted(made.addresses):
            for one, other in holders.overlaps(address):
                raise BenchError(f"{address} was on two nodes at once: {one}, {other}")


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Two workers side by side with modes address and route; then three in two zones with eni and subnet."""
    with cluster(sizes, NEXT_TO_EACH_OTHER) as made:
        yield from _failures(made, sizes)
        yield from _yields(made, sizes)
    with cluster(sizes, WITH_ANOTHER_ZONE) as made:
        yield from _moved_enis(made, sizes)


def _failures(made: Cluster, sizes: Sizes) -> Iterator[Figure]:
    address = made.service("address", "10.10.1.80", "ab")
    route = made.service("route", "192.168.0.80", "ab")
    both = (address, route)
    reach = made.terms.duration + FAILURE_REACH
    cut = _repeat(made, both, sizes.node_failures, _Cut(made), at_random=True)
    for service in both:
        case = f"nodeport, mode {service.mode}, {made.terms}: the holder's node is cut off"
        yield from _figures(case, cut[service.mode], reach, DOCUMENTED)
    killed = _repeat(made, both, sizes.node_failures, _Kill(), at_random=True)
    for service in both:
        case = f"nodeport, mode {service.mode}, {made.terms}: the process is killed (-9) and not started again"
        yield Figure(case, "gap", "s", tuple(killed[service.mode].gaps), reach=reach, documented=DOCUMENTED)
    for service in both:
        handed = _repeat(made, [service], sizes.hand_overs, _HandOver())
        case = f"nodeport, mode {service.mode}: planned hand-over (SIGTERM to the holder)"
        gaps = tuple(gap * 1000 for gap in handed[service.mode].gaps)
        yield Figure(case, "gap", "ms", gaps, reach=HAND_OVER_REACH, documented="“no impact”, the samples")
    _stop(route)
    yield from _idle(made, address, sizes.node_idle)
    _stop(address)


def _moved_enis(made: Cluster, sizes: Sizes) -> Iterator[Figure]:
    made.lab.ec2.detach_delay, made.lab.ec2.attach_delay = sizes.detach, sizes.attach
    eni = made.service("eni", "10.10.1.80", "ab")
    subnet = made.service("subnet", "10.10.200.5", "ac", FloatingSubnetCidr="10.10.200.0/28")
    cut = _repeat(made, (eni, subnet), sizes.node_moves, _Cut(made), at_random=True)
    takes = f"{made.terms}, EC2 takes {sizes.detach:g} s to detach, {sizes.attach:g} s to attach"
    reach = made.terms.duration + sizes.detach + sizes.attach + ENI_REACH
    yield from _figures(f"nodeport, mode eni, {takes}: the holder's node is cut off", cut["eni"], reach, DOCUMENTED)
    yield from _figures(f"nodeport, mode subnet, {takes}, another zone: the same", cut["subnet"], None, "")


def _yields(made: Cluster, sizes: Sizes) -> Iterator[Figure]:
    checked = made.service("address", "10.10.1.81", "ab", HealthCheck=f"tcp://:{PORT}")
    yielded = _repeat(made, [checked], sizes.yields, _StopAnswering(made), at_random=True)
    period = f"{made.terms.retry:g} s"
    case = f"nodeport, mode address: the holder's service ends; 3 health checks fail, one each {period}; it yields"
    yield Figure(case, "gap", "s", tuple(yielded["address"].gaps))
    _stop(checked)


def _figures(case: str, outages: Outages, reach: float | None, documented: str) -> Iterator[Figure]:
    yield Figure(case, "gap", "s", tuple(outages.gaps), reach=reach, documented=documented)
    yield Figure(case, "EC2 calls until it answers", "calls", tuple(outages.calls))
    yield Figure(case, "… of which change something", "calls", tuple(outages.writes))


def _stop(service: Service) -> None:
    for run in service.deployment.runs.values():
        run.terminate()
    for run in service.deployment.runs.values():
        run.wait(BOUND)


# What is done to holders, and undone ----------------------------------------------------------------------------------


class _Fault:
    def do(self, holding: Holding) -> None:
        raise NotImplementedError

    def undo(self, holding: Holding) -> None:
        raise NotImplementedError


class _Cut(_Fault):
    def __init__(self, made: Cluster) -> None:
        self._lab = made.lab

    def do(self, holding: Holding) -> None:
        for worker in {worker for _, worker in holding}:
            self._lab.cut(worker)

    def undo(self, holding: Holding) -> None:
        for worker in {worker for _, worker in holding}:
            self._lab.restore(worker)


class _Kill(_Fault):
    def do(self, holding: Holding) -> None:
        for service, worker in holding:
            service.deployment.runs[worker].kill()

    def undo(self, holding: Holding) -> None:
        for service, worker in holding:
            service.deployment.runs[worker].wait(BOUND)
            service.deployment.restart(worker)


class _HandOver(_Fault):
    def do(self, holding: Holding) -> None:
        for service, worker in holding:
            service.deployment.runs[worker].terminate()

    def undo(self, holding: Holding) -> None:
        for service, worker in holding:
            status = service.deployment.runs[worker].wait(BOUND)
            if status != 0:
                raise BenchError(f"it ended with {status}\n{service.deployment.logs()}")
            service.deployment.start(worker)


class _StopAnswering(_Fault):
    def __init__(self, made: Cluster) -> None:
        self._made = made

    def do(self, holding: Holding) -> None:
        for _, worker in holding:
            self._made.responders[worker].close()

    def undo(self, holding: Holding) -> None:
        for _, worker in holding:
            self._made.answer(worker)


# Measuring ------------------------------------------------------------------------------------------------------------


def _repeat(
    made: Cluster, services: Sequence[Service], times: int, fault: _Fault, *, at_random: bool = False
) -> dict[str, Outages]:
    """Do it to the holders again and again; by mode, what became of each."""
    found = {service.mode: Outages() for service in services}
    for number in range(times):
        holding = [(service, made.steady(service)) for service in services]
        if at_random:
            made.moment(services[0], number, times)
        _outage(made, holding, fault, found)
        fault.undo(holding)
    for service in services:
        made.steady(service)
    return found


def _outage(made: Cluster, holding: Holding, fault: _Fault, found: dict[str, Outages]) -> None:
    """Do it, until the other worker of each service answers its client."""
    lab = made.lab
    probers = [lab.http_prober(CLIENT, f"http://{service.address}:{PORT}/") for service, _ in holding]
    try:
        for prober in probers:
            prober.wait_answer(after=prober.wait_answer() + STEADY)
        mark, at = lab.ec2.mark(), time.monotonic()
        fault.do(holding)
        answered = [
            prober.wait_answer(service.deployment.other(holder), after=at, timeout=BOUND)
            for prober, (service, holder) in zip(probers, holding, strict=True)
        ]
        for prober, (service, _) in zip(probers, holding, strict=True):
            last, first = prober.stop().outage(at)
            found[service.mode].gaps.append(first - last)
    except TimeoutError as error:
        raise BenchError("\n".join([str(error), *(service.deployment.logs() for service, _ in holding)])) from error
    for service, holder in holding:  # a call is recorded when it is answered, which may be after the client was
        new = service.deployment.other(holder)
        made.wait(service, f"everything delivered on {new}", partial(service.deployment.has_all, new))
    for (service, holder), until_then in zip(holding, answered, strict=True):
        outages, key = found[service.mode], service.deployment.keys[service.deployment.other(holder)]
        calls = [call for call in lab.ec2.calls_since(mark) if call.access_key == key and call.started <= until_then]
        outages.calls.append(len(calls))
        outages.writes.append(sum(not call.action.startswith("Describe") for call in calls))


def _idle(made: Cluster, service: Service, seconds: float) -> Iterator[Figure]:
    """What a holder and a standby use while nothing happens."""
    holder = made.steady(service)
    roles = {"holder": holder, "standby": service.deployment.other(holder)}
    runs = {role: service.deployment.runs[worker] for role, worker in roles.items()}
    mark, before = made.lab.ec2.mark(), {role: used(run.pid) for role, run in runs.items()}
    asked = {role: _lease_calls(run.output()) for role, run in runs.items()}
    had = {role: peak_memory(run.pid) for role, run in runs.items()}
    time.sleep(seconds)
    case = f"nodeport, idle for {seconds:g} s, {made.terms}, LogLevel DEBUG"
    for role, run in runs.items():
        after, key = used(run.pid), service.deployment.keys[roles[role]]
        ec2 = sum(call.access_key == key for call in made.lab.ec2.calls_since(mark))
        kube = _lease_calls(run.output()) - asked[role]
        yield Figure(case, f"{role}: CPU", "% of a core", ((after.cpu - before[role].cpu) / seconds * 100,))
        memory = peak_memory(run.pid)
        yield Figure(case, f"{role}: peak memory", "MB", (memory,))
        yield Figure(case, f"{role}: … which grew by", "MB", (memory - had[role],))
        yield Figure(case, f"{role}: Kubernetes API, per minute", "calls", (round(kube / seconds * 60, 1),))
        yield Figure(case, f"{role}: EC2, per minute", "calls", (round(ec2 / seconds * 60, 1),))


def _lease_calls(log: str) -> int:
    """How many calls about the Lease it has logged; its watch, one request in five minutes, is none of them."""
    events = (json.loads(line) for line in log.splitlines() if line.startswith("{") and line.endswith("}"))
    return sum(each["event"] == "call" and str(each.get("call")).startswith("leases") for each in events)
