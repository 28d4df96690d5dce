"""What the peer sees: the gap in service when a worker fails, and when an address is moved by hand."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network

from bench import sidecar
from bench.figures import Figure
from bench.process import BenchError, check_routes, floor_argv, floor_env, reset, spread
from bench.sizes import Sizes
from lab import links
from lab.lab import Lab
from lab.pod import Pod
from lab.prober import Prober

FLOATING = ["192.168.0.1", "192.168.0.2"]
PEER = "peer1"
INTERVAL = 0.005
"""Seconds between the peer's packets to each address."""
EDGE = 0.02
"""Seconds around a move that are looked at with it."""


@dataclass
class Gaps:
    """By failover: milliseconds without service, packets lost, milliseconds that the lab took to make the new pod."""

    gap: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    making: list[float] = field(default_factory=list)


def failovers(sizes: Sizes) -> Iterator[Figure]:
    """Worker A is cut; at once the pod is made on worker B, and its init run started."""
    ours, floor = Gaps(), Gaps()
    with Lab(route_tables=4, latency=sizes.latency) as lab:
        for number in range(sizes.failovers):
            _failover(lab, ours, floor=False)
            if number < sizes.floor_failovers:
                _failover(lab, floor, floor=True)
    case = "failover of 2 addresses × 4 route tables to another worker, init"
    yield Figure(case, "without service", "ms", tuple(ours.gap), tuple(floor.gap))
    yield Figure(case, "packets lost per address", "", tuple(ours.lost), tuple(floor.lost))
    yield Figure(case, "… while the lab makes the pod", "ms", tuple(ours.making), tuple(floor.making))


def _failover(lab: Lab, gaps: Gaps, *, floor: bool) -> None:
    reset(lab)
    try:
        before = lab.pod("before", "a", spread(FLOATING))
        _finish(_take_over(lab, before, floor=False))
        check_routes(lab, before)
        prober = lab.prober(PEER, FLOATING, INTERVAL)
        prober.wait_reply()
        started = time.monotonic()
        prober.wait_reply(after=started)
        cut = time.monotonic()
        lab.cut("a")
        since = time.monotonic()  # what is answered from now on, the new pod answers
        after = lab.pod("after", "b", spread(FLOATING))
        if floor:
            _set_pod_routes(lab, after)
        made = time.monotonic()
        process = _take_over(lab, after, floor=floor)
        prober.wait_reply(after=since, timeout=30.0)
        _finish(process)
        check_routes(lab, after)
        logs = prober.stop().values()
        gaps.gap.append(max(log.longest_gap(started) for log in logs) * 1000)
        gaps.lost.append(float(max(log.lost(started) for log in logs)))
        gaps.making.append((made - cut) * 1000)
    finally:
        for name in ("before", "after"):
            if name in lab.pods:
                lab.delete_pod(name)
        lab.restore("a")


def _take_over(lab: Lab, pod: Pod, *, floor: bool) -> subprocess.Popen[bytes]:
    argv = floor_argv(lab, pod) if floor else [sys.executable, "-m", "vipmanager", "init"]
    with open(pod.directory / "take-over.log", "wb") as log:
        return pod.popen(
            argv, env=floor_env(pod), cwd=pod.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )


def _finish(process: subprocess.Popen[bytes]) -> None:
    status = process.wait(30.0)
    if status != 0:
        raise BenchError(f"{process.args!r} ended with {status}")


def _set_pod_routes(lab: Lab, pod: Pod) -> None:
    """The pod's own way back to the peer, which the floor script does not set."""
    first = pod.pod_interfaces()[0]
    gateway = str(ip_network(first.eni.subnet_cidr)[1])
    links.add_route(pod.ns, first.name, f"{lab.peers[PEER].address}/32", gateway=gateway)


def moves(sizes: Sizes) -> Iterator[Figure]:
    """A pod on each worker, both with a sidecar; an address is deleted from one and at once added to the other."""
    address = "192.168.0.9"
    first, later = Gaps(), Gaps()
    with Lab(route_tables=4, latency=sizes.latency) as lab:
        pods = [
            lab.pod("active", "a", {"net1": [f"{address}/32"], "net2": []}),
            lab.pod("standby", "b", {"net1": [], "net2": []}),
        ]
        with sidecar.started(lab, pods[0], address) as a, sidecar.started(lab, pods[1], None) as b:
            sidecars, claimed = [a, b], [1, 0]
            prober = lab.prober(PEER, [address], INTERVAL)
            prober.wait_reply()
            windows = []
            for number in range(sizes.moves):
                source, target = number % 2, (number + 1) % 2
                windows.append(_move(pods[source], pods[target], prober, address))
                claimed[target] += 1
                sidecar.wait_for_claim(sidecars[target], address, claimed[target])
            log = prober.stop()[address]
    for number, (start, end) in enumerate(windows):
        gaps = first if number == 0 else later
        gaps.gap.append(log.longest_gap(start, end) * 1000)
        gaps.lost.append(float(log.lost(start, end)))
    yield from _move_figures("an address moved by hand to a standby's sidecar, 4 route tables: the first time", first)
    yield from _move_figures("… and to and fro from then on", later)


def _move(source: Pod, target: Pod, prober: Prober, address: str) -> tuple[float, float]:
    """Move the address; from when to when the peer's packets are to be looked at."""
    start = time.monotonic() - EDGE
    source.del_address("net1", f"{address}/32")
    deleted = time.monotonic()
    target.add_address("net1", f"{address}/32")
    answered = prober.wait_reply(after=deleted)
    return start, answered + EDGE


def _move_figures(case: str, gaps: Gaps) -> Iterator[Figure]:
    yield Figure(case, "without service", "ms", tuple(gaps.gap))
    yield Figure(case, "packets lost", "", tuple(gaps.lost))
