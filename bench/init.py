"""Init: wall clock, CPU, memory and API calls, by number of route tables and of addresses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bench import process
from bench.figures import Figure
from bench.process import BenchError, Run
from bench.sizes import Sizes
from lab.lab import Lab

TRIVIAL_BELOW = 20.0  # MB


@dataclass(frozen=True)
class Reach:
    """What issue 2 asks of a case; None where it asks nothing."""

    wall: float | None = None
    cpu: float | None = None
    calls: float | None = None


REACH = {
    (2, 1): Reach(calls=2 * 1 + 4),
    (2, 4): Reach(wall=0.80, cpu=0.55, calls=2 * 4 + 4),
    (2, 16): Reach(calls=2 * 16 + 4),
    (2, 48): Reach(wall=1.4, cpu=0.70, calls=2 * 48 + 4),
}
"""By addresses and tables."""
MEMORY_REACH = 60.0


@dataclass
class Runs:
    """The runs of one program in one case: in a new pod with nothing set, and there again with nothing left to do."""

    fresh: list[Run] = field(default_factory=list)
    again: list[Run] = field(default_factory=list)


def by_tables(sizes: Sizes) -> Iterator[Figure]:
    """Two addresses, more and more route tables."""
    for tables in sizes.tables:
        yield from _case(sizes, 2, tables)


def over_tls(sizes: Sizes) -> Iterator[Figure]:
    """The same over TLS, as EC2 is reached in earnest; the issue's figures are over plain HTTP."""
    for tables in (4, max(sizes.tables)):
        yield from _case(sizes, 2, tables, tls=True)


def by_addresses(sizes: Sizes) -> Iterator[Figure]:
    """Four route tables, more and more addresses."""
    for addresses in sizes.addresses:
        yield from _case(sizes, addresses, 4)


def trivial_child(latency: float) -> float:
    """The peak memory (MB) found for a process that does nothing, measured like the others: it must be small."""
    with Lab(latency=latency) as lab:
        memory = process.run(lab, lab.pod("trivial", "a", {}), ["true"]).memory
    if memory > TRIVIAL_BELOW:
        raise BenchError(f"/bin/true is found to use {memory:.0f} MB: no figure of memory can be believed here")
    return memory


def _case(sizes: Sizes, addresses: int, tables: int, *, tls: bool = False) -> Iterator[Figure]:
    ours, floor = Runs(), Runs()
    with Lab(route_tables=tables, latency=sizes.latency, tls=tls) as lab:
        _one(lab, addresses, Runs(), floor=False)  # files are in memory from here on, bytecode is compiled
        for number in range(sizes.runs):
            _one(lab, addresses, ours, floor=False)
            if number < sizes.floor_runs:
                _one(lab, addresses, floor, floor=True)
    if ours.fresh[0].actions != floor.fresh[0].actions:
        raise BenchError(f"not the same calls: {dict(ours.fresh[0].actions)}, floor {dict(floor.fresh[0].actions)}")
    s, t = "es" if addresses > 1 else "", "s" if tables > 1 else ""
    case = f"init, {addresses} address{s} × {tables} route table{t}{', over TLS' if tls else ''}"
    yield from _figures(case, ours, floor, (addresses, tables))


def _one(lab: Lab, addresses: int, runs: Runs, *, floor: bool) -> None:
    """A new pod and nothing in the VPC; a run, and once more when everything is done."""
    process.reset(lab)
    floating = [f"192.168.{number // 250}.{number % 250 + 1}" for number in range(addresses)]
    pod = lab.pod("pod", "a", {name: each for name, each in process.spread(floating).items() if each})
    measure = process.floor if floor else process.init
    try:
        runs.fresh.append(measure(lab, pod))
        process.check_routes(lab, pod)
        runs.again.append(measure(lab, pod))
        process.check_routes(lab, pod)
    finally:
        lab.delete_pod("pod")


def _figures(case: str, ours: Runs, floor: Runs, size: tuple[int, int]) -> Iterator[Figure]:
    reach = REACH.get(size, Reach())

    def figure(name: str, unit: str, what: str, when: str, limit: float | None = None) -> Figure:
        own, beside = getattr(ours, when), getattr(floor, when)
        return Figure(
            case,
            name,
            unit,
            tuple(_quantity(run, what) for run in own),
            tuple(_quantity(run, what) for run in beside),
            limit,
        )

    yield figure("wall clock", "s", "wall", "fresh", reach.wall)
    yield figure("CPU", "CPU s", "cpu", "fresh", reach.cpu)
    yield figure("peak memory", "MB", "memory", "fresh", MEMORY_REACH)
    yield figure("API calls", "calls", "calls", "fresh", reach.calls)
    yield figure("again: wall clock", "s", "wall", "again")
    yield figure("again: CPU", "CPU s", "cpu", "again")
    yield figure("again: API calls", "calls", "calls", "again")
    yield figure("again: … but describes", "calls", "writes", "again", 0)


def _quantity(run: Run, what: str) -> float:
    value = getattr(run, what)
    return float(len(value) if isinstance(value, tuple) else value)
