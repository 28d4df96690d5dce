"""The sidecar: from the kernel's event to the routes, API calls per change, and what it costs while nothing happens."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.figures import Figure
from bench.process import HERE, KIB_PER_MB, BenchError, floor_argv, floor_env, reset, route_calls, until
from bench.sizes import Sizes
from lab.lab import Lab
from lab.pod import Container, Pod

TABLES = 4
CHANGE_REACH = 110.0  # ms
CALLS_REACH = TABLES + 1
CPU_REACH = 0.1  # % of a core
MEMORY_REACH = 60.0


class KernelEvents:
    """When addresses appeared in a pod, as the kernel told a listener there."""

    def __init__(self, pod: Pod) -> None:
        self._condition = threading.Condition()
        self._appeared: dict[str, float] = {}
        self._ready = False
        argv = [sys.executable, "-I", "-S", str(HERE / "kernel_events.py")]
        self._process = pod.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True, name="bench-kernel-events").start()

    def __enter__(self) -> Self:
        with self._condition:
            if not self._condition.wait_for(lambda: self._ready, timeout=10.0):
                raise BenchError("the listener for kernel events did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def appeared(self, address: str, timeout: float = 5.0) -> float:
        """Wait for the event; its time (s of CLOCK_MONOTONIC). Raises BenchError."""
        with self._condition:
            if not self._condition.wait_for(lambda: address in self._appeared, timeout):
                raise BenchError(f"the kernel announced no {address} within {timeout} s")
            return self._appeared[address]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                at, _, rest = line.strip().partition(" ")
                kind, _, address = rest.partition(" ")
                with self._condition:
                    if at == "ready":
                        self._ready = True
                    elif kind == "new":
                        self._appeared[address] = float(at)
                    self._condition.notify_all()


@dataclass(frozen=True)
class Usage:
    """What a process has used so far: CPU seconds, and how often its threads went to sleep."""

    cpu: float
    sleeps: int


def used(pid: int) -> Usage:
    """From proc(5): schedstat counts a thread's nanoseconds, stat counts hundredths of a second."""
    cpu, sleeps = 0.0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        cpu += int((task / "schedstat").read_text().split()[0]) / 1e9
        sleeps += int(_status(task)["voluntary_ctxt_switches"])
    if cpu == 0:
        raise BenchError("this kernel does not count a thread's CPU time (CONFIG_SCHED_INFO)")
    return Usage(cpu, sleeps)


def peak_memory(pid: int) -> float:
    """The peak resident memory of a running process, in MB."""
    return int(status_of(pid)["VmHWM"].split()[0]) * KIB_PER_MB


def status_of(pid: int) -> dict[str, str]:
    """What proc_pid_status(5) says of a process."""
    return _status(Path(f"/proc/{pid}"))


def _status(directory: Path) -> dict[str, str]:
    lines = (directory / "status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def measure(sizes: Sizes) -> Iterator[Figure]:
    """One sidecar that is given one address after another, and then left alone."""
    with Lab(route_tables=TABLES, latency=sizes.latency) as lab:
        pod = lab.pod("pod", "a", {"net1": ["192.168.0.1/32"], "net2": []})
        with started(lab, pod, "192.168.0.1") as sidecar:
            delays, counted = _changes(lab, pod, sidecar, sizes)
            idle, idle_calls = _idle(lab, sidecar.pid, sizes.idle)
            memory = peak_memory(sidecar.pid)
        reset(lab)
        floor = _floor_changes(lab, pod, sizes)
    case = (
        f"sidecar, address added (kernel's event) → last of {TABLES} tables written, 1 to {sizes.changes} others there"
    )
    yield Figure(case, "median", "ms", tuple(delays), tuple(floor), CHANGE_REACH)
    yield Figure(case, "95th percentile", "ms", tuple(delays), tuple(floor), p95=True)
    case = f"sidecar, API calls for one added address × {TABLES} route tables, with the describe afterwards"
    for others, calls in counted.items():
        name = f"{others} other address{'es' if others > 1 else ''} there"
        yield Figure(case, name, "calls", (float(calls),), (float(TABLES),), CALLS_REACH)
    case = f"sidecar, idle for {sizes.idle:g} s with {sizes.changes + 1} addresses"
    yield Figure(case, "CPU", "% of a core", (idle.cpu / sizes.idle * 100,), reach=CPU_REACH)
    yield Figure(case, "API calls", "calls", (float(idle_calls),), reach=0.0)
    yield Figure(case, "threads gone to sleep", "times", (float(idle.sleeps),))
    yield Figure(case, "peak memory", "MB", (memory,), reach=MEMORY_REACH)


@contextlib.contextmanager
def started(lab: Lab, pod: Pod, address: str | None) -> Iterator[Container]:
    """A sidecar that has claimed the address, or is ready for one; stopped at the end. Raises BenchError."""
    sidecar = pod.vipmanager(["sidecar"], {})
    try:
        if address is not None:
            wait_for_claim(sidecar, address)
        else:
            until("a standby reads the route tables", lambda: _has_read_tables(lab, pod))
        yield sidecar
        if sidecar.poll() is not None:
            raise BenchError(f"the sidecar ended with {sidecar.returncode}:\n{sidecar.output()}")
        sidecar.terminate()
        if sidecar.wait(10.0) != 0:
            raise BenchError(f"the sidecar ended with {sidecar.returncode}:\n{sidecar.output()}")
    except BenchError as error:
        raise BenchError(f"{error}\n{sidecar.output()}") from error
    finally:
        if sidecar.poll() is None:
            sidecar.kill()
            sidecar.wait()


def _has_read_tables(lab: Lab, pod: Pod) -> bool:
    key = pod.env["AWS_ACCESS_KEY_ID"]
    return any(call.action == "DescribeRouteTables" and call.access_key == key for call in lab.ec2.calls)


def wait_for_claim(sidecar: Container, address: str, count: int = 1) -> None:
    """Wait until it has said so many times that it claimed the address. Raises BenchError."""
    until(f"claim {count} of {address}", lambda: sidecar.output().count(f" claimed address={address} ") >= count)


def _changes(lab: Lab, pod: Pod, sidecar: Container, sizes: Sizes) -> tuple[list[float], dict[int, int]]:
    """Milliseconds from each new address to its last route; and the calls of some changes, by the number of others."""
    delays: list[float] = []
    counted: dict[int, int] = {}
    with KernelEvents(pod) as events:
        for number in range(sizes.changes):
            address = f"192.168.1.{number + 1}"
            others = number + 1
            if others in sizes.counted and number:
                _verified(lab)  # or the describe after an earlier change would be counted with this one
            mark = lab.ec2.mark()
            pod.add_address("net1", f"{address}/32")
            appeared = events.appeared(address)
            wait_for_claim(sidecar, address)
            routes = route_calls(lab.ec2.calls_since(mark), address)
            if len(routes) != TABLES:
                raise BenchError(f"{address} was written {len(routes)} times")
            delays.append((max(call.finished for call in routes) - appeared) * 1000)
            if others in sizes.counted:
                _verified(lab)
                counted[others] = len(lab.ec2.calls_since(mark))
        _verified(lab)
    return delays, counted


def _verified(lab: Lab) -> None:
    """Wait until the sidecar has looked once more at what it last wrote; then it has nothing left to do."""

    def looked() -> bool:
        calls = lab.ec2.calls
        wrote = max(index for index, call in enumerate(calls) if not call.action.startswith("Describe"))
        return any(call.action == "DescribeRouteTables" for call in calls[wrote:])

    until("a describe after the last write", looked)
    time.sleep(0.1)  # for the round that the answer starts


def _idle(lab: Lab, pid: int, seconds: float) -> tuple[Usage, int]:
    """What the sidecar used, and how many calls it made, while nothing happened."""
    mark, before = lab.ec2.mark(), used(pid)
    time.sleep(seconds)
    after = used(pid)
    return Usage(after.cpu - before.cpu, after.sleeps - before.sleeps), len(lab.ec2.calls_since(mark))


def _floor_changes(lab: Lab, pod: Pod, sizes: Sizes) -> list[float]:
    """Milliseconds in which the floor's client, made and warm, writes the same routes one after the other."""
    argv = [*floor_argv(lab, pod)[:3], "--warm"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = pod.popen(argv, env=floor_env(pod), cwd=pod.directory, **pipes)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise BenchError("the floor script did not start")
        eni_id = pod.pod_interfaces()[0].eni.eni_id
        return [_floor_change(lab, process.stdin, f"192.168.2.{n + 1}", eni_id) for n in range(sizes.floor_changes)]
    finally:
        process.kill()
        process.communicate()


def _floor_change(lab: Lab, stdin: Any, address: str, eni_id: str) -> float:
    mark, told = lab.ec2.mark(), time.monotonic()
    stdin.write(f"{address} {eni_id}\n")
    stdin.flush()
    until(f"the floor's routes of {address}", lambda: len(route_calls(lab.ec2.calls_since(mark), address)) == TABLES)
    return (max(call.finished for call in route_calls(lab.ec2.calls_since(mark), address)) - told) * 1000
