"""What HealthPort costs: the sidecar's start with it and without, and the first scrape."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from bench.figures import Figure
from bench.process import KIB_PER_MB, BenchError, reset, route_calls, spread, until
from bench.sidecar import peak_memory, status_of, wait_for_claim
from bench.sizes import Sizes
from lab.lab import Lab
from lab.pod import Container, Pod

PORT = 8086
TABLES = 4
ADDRESSES = ("192.168.0.1", "192.168.0.2")
WALL_REACH = 0.05  # s
MEMORY_REACH = 8.0  # MB


@dataclass(frozen=True)
class Start:
    """From the start of the process to the last of its routes: seconds of wall clock and of CPU, and peak memory."""

    wall: float
    cpu: float
    memory: float


@dataclass(frozen=True)
class Scrape:
    """The first one: seconds of wall clock and of CPU, and the memory (MB) that the process has more afterwards."""

    wall: float
    cpu: float
    memory: float


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Starts of a sidecar with HealthPort 8086 and with 0, one after the other, so that a busy machine hits both."""
    on: list[Start] = []
    off: list[Start] = []
    scrapes: list[Scrape] = []
    with Lab(route_tables=TABLES, latency=sizes.latency) as lab:
        _start(lab, 0, [])  # files are in memory from here on, bytecode is compiled
        _start(lab, PORT, [])
        for number in range(sizes.health_starts):
            for port in (PORT, 0) if number % 2 else (0, PORT):
                (on if port else off).append(_start(lab, port, scrapes if port else []))
    case = f"sidecar, start → {len(ADDRESSES)} addresses in {TABLES} tables, with HealthPort (floor: 0)"
    for name, unit, what in (("wall clock", "s", "wall"), ("CPU", "CPU s", "cpu"), ("peak memory", "MB", "memory")):
        yield Figure(case, name, unit, _all(on, what), _all(off, what))
    case = "what HealthPort adds to a sidecar's start (of each pair of runs)"
    yield Figure(case, "wall clock", "s", _more(on, off, "wall"), reach=WALL_REACH)
    yield Figure(case, "CPU", "CPU s", _more(on, off, "cpu"))
    yield Figure(case, "peak memory", "MB", _more(on, off, "memory"), reach=MEMORY_REACH)
    case = "the first scrape of /metrics, which imports prometheus_client"
    yield Figure(case, "wall clock", "s", _all(scrapes, "wall"))
    yield Figure(case, "CPU", "CPU s", _all(scrapes, "cpu"))
    yield Figure(case, "memory afterwards", "MB more", _all(scrapes, "memory"), reach=MEMORY_REACH)


def _all(runs: list[Start] | list[Scrape], what: str) -> tuple[float, ...]:
    return tuple(getattr(run, what) for run in runs)


def _more(on: list[Start], off: list[Start], what: str) -> tuple[float, ...]:
    return tuple(one - other for one, other in zip(_all(on, what), _all(off, what), strict=True))


def _start(lab: Lab, port: int, scrapes: list[Scrape]) -> Start:
    """A new pod, with nothing in the VPC; where there is a port, the first scrape is measured as well."""
    reset(lab)
    pod = lab.pod("pod", "a", spread(ADDRESSES))
    mark, began = lab.ec2.mark(), time.monotonic()
    sidecar = pod.vipmanager(["sidecar"], {"HealthPort": port})
    try:
        for address in ADDRESSES:
            wait_for_claim(sidecar, address)
        cpu, memory = _cpu(sidecar.pid), peak_memory(sidecar.pid)
        routes = [call for address in ADDRESSES for call in route_calls(lab.ec2.calls_since(mark), address)]
        if len(routes) != TABLES * len(ADDRESSES):
            raise BenchError(f"{len(routes)} routes were written")
        if port:
            until("the health port answers", lambda: _ready(pod))
            scrapes.append(_scrape(pod, sidecar))
        return Start(max(call.finished for call in routes) - began, cpu, memory)
    finally:
        sidecar.kill()
        sidecar.wait()
        lab.delete_pod("pod")


def _scrape(pod: Pod, sidecar: Container) -> Scrape:
    memory, cpu, began = _memory(sidecar.pid), _cpu(sidecar.pid), time.monotonic()
    status = pod.ns.run(lambda: _get("/metrics"))
    took = time.monotonic() - began
    if status != 200:
        raise BenchError(f"/metrics answers {status}")
    return Scrape(took, _cpu(sidecar.pid) - cpu, _memory(sidecar.pid) - memory)


def _cpu(pid: int) -> float:
    """Seconds, those of threads that have ended included: its clock as clock_getcpuclockid(3) names it."""
    return time.clock_gettime((~pid << 3) | 2)


def _memory(pid: int) -> float:
    return int(status_of(pid)["VmRSS"].split()[0]) * KIB_PER_MB


def _ready(pod: Pod) -> bool:
    try:
        return pod.ns.run(lambda: _get("/readyz")) == 200
    except ConnectionError:
        return False


def _get(path: str) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", PORT, timeout=10.0)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
