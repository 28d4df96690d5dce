"""`python -m lab.chaos.soak --minutes 30`: does a sidecar whose addresses change each second grow?"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from lab.chaos.processes import WORKER, Census, census
from lab.chaos.sidecar import named_threads
from lab.chaos.stage import WORKERS
from lab.lab import Lab
from lab.pod import Container, Pod

TABLES, LATENCY = 4, 0.02  # s
WARM = 3
"""The minute from which growth counts: by then every thread and connection has been there once."""
CONNECTIONS = 16 + 2
"""As many calls to EC2 as it has under way at once, which it keeps; the health port, and who scrapes it."""
THREADS = 16
"""Threads for calls to EC2 (vipmanager.apply.WORKERS). Of others it has as many as at first."""
GROWTH = 2 * 1024
"""kB of memory that a sidecar may grow by from then on."""
SCRAPE = 15.0  # seconds between scrapes, as Prometheus does
HELD = 5
"""Addresses held at a time. Each is a new one, so that what is remembered of past ones shows."""

_FIRST = IPv4Address("172.30.0.1")
_MOVES = "10.10.11.90/32"
"""An address of the ENIs' subnet. It moves from one worker to the other and back."""
_MOVES_EACH = 10  # changes
_READY_WITHIN = 30.0  # seconds


@dataclass(frozen=True)
class Reading:
    """A sidecar at one time. Memory in kB: resident, and its proportional share."""

    minute: float
    rss: int
    pss: int
    held: Census

    def __str__(self) -> str:
        held, threads = self.held, self.held.threads.total()
        return f"{self.minute:6.1f} {self.rss:9} {self.pss:9} {held.other + held.tcp:11} {held.tcp:11} {threads:7}"


def read(pid: int, minute: float) -> Reading:
    """Read it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return Reading(minute, kilobytes["Rss"], kilobytes["Pss"], census(pid))


def soak(minutes: float, port: int, interval: float = 1.0) -> list[Reading]:
    """Run it, and print a reading each minute. Raises RuntimeError when the sidecar ends. `port` 0: no scrapes.

    An address changes each `interval` seconds; each tenth time one moves from a second pod, or back to it.
    """
    readings: list[Reading] = []
    print("minute   RSS kB    PSS kB descriptors connections threads")
    with Lab(route_tables=TABLES, latency=LATENCY, workers=[WORKERS["a"], WORKERS["c"]]) as lab:
        pod, other = lab.pod("pod", "a", {"net1": []}), lab.pod("other", "c", {"net1": []})
        health = {"HealthPort": port} if port else {}
        container = pod.vipmanager(["sidecar"], {"LogFormat": "json", **health}, named_threads(pod.env))
        other.vipmanager(["sidecar"], {"LogFormat": "json"})
        started = time.monotonic()
        scraped, minute = 0, 1
        for number, _ in enumerate(_changes(pod, other), 1):
            if container.poll() is not None:
                raise RuntimeError(f"the sidecar ended:\n{container.output()[-2000:]}")
            now = number * interval
            if port and now >= SCRAPE * (scraped + 1):
                scraped += _scrape(pod, port)
            if now >= 60 * minute:
                readings.append(read(container.pid, minute))
                print(readings[-1], flush=True)
                minute += 1
            if now >= minutes * 60:
                break
            time.sleep(max(0.0, started + now - time.monotonic()))
        _sum_up(lab, container, scraped, time.monotonic() - started)
    return readings


def _changes(pod: Pod, other: Pod) -> Iterator[None]:
    """One address added or deleted at each step, or moved."""
    held: deque[str] = deque()
    has, has_not = other, pod
    other.add_address("net1", _MOVES)
    for number in itertools.count():
        if number % _MOVES_EACH == 0:
            has.del_address("net1", _MOVES)
            has_not.add_address("net1", _MOVES)
            has, has_not = has_not, has
        elif len(held) < HELD:
            held.append(f"{_FIRST + number}/32")
            pod.add_address("net1", held[-1])
        else:
            pod.del_address("net1", held.popleft())
        yield


def _scrape(pod: Pod, port: int) -> int:
    """Read the metrics as Prometheus does; 1. Raises OSError, or ValueError when they are none."""

    def get() -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5.0) as answer:
            return bytes(answer.read())

    if b"vipmanager_claims_total" not in pod.ns.run(get):
        raise ValueError("the scrape gave no metrics of vipmanager's")
    return 1


def _sum_up(lab: Lab, container: Container, scraped: int, seconds: float) -> None:
    claimed = container.output().count('"event": "claimed"')
    withdrawn = container.output().count('"event": "withdrawn"')
    calls = lab.ec2.calls
    moved = sum(call.action == "AssignPrivateIpAddresses" and call.status == 200 for call in calls)
    print(
        f"{seconds:.0f} s: {claimed} claimed, {withdrawn} withdrawn, {moved} moved, {len(calls)} EC2 calls, "
        f"{scraped} scrapes"
    )


def complaints(readings: Sequence[Reading]) -> list[str]:
    """What has grown between the minute WARM and the end."""
    warm = [reading for reading in readings if reading.minute >= WARM]
    if len(warm) < 2:
        return [f"too short: growth counts from minute {WARM} on"]
    first, last = warm[0], warm[-1]
    print(
        f"growth from minute {first.minute:g} to {last.minute:g}: RSS {last.rss - first.rss:+} kB, "
        f"PSS {last.pss - first.pss:+} kB, descriptors {last.held.other - first.held.other:+} "
        f"besides {last.held.tcp - first.held.tcp:+} connections, "
        f"threads {last.held.threads.total() - first.held.threads.total():+}"
    )
    found = [] if last.rss - first.rss <= GROWTH else [f"it grew by more than {GROWTH} kB"]
    if last.held.other > first.held.other:
        found.append("it has more descriptors")
    if last.held.tcp > CONNECTIONS:
        found.append(f"it has more than {CONNECTIONS} connections")
    for name, number in sorted(last.held.threads.items()):
        if number > (THREADS if name == WORKER else first.held.threads[name]):
            found.append(f"it has {number} threads {name}, and had {first.held.threads[name]}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; 1 when something grew."""
    parser = argparse.ArgumentParser(prog="python -m lab.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--port", type=int, default=8086, help="HealthPort, scraped each 15 s; 0: off")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between changes of an address")
    parsed = parser.parse_args(arguments)
    found = complaints(soak(parsed.minutes, parsed.port, parsed.interval))
    for each in found:
        print(f"! {each}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
