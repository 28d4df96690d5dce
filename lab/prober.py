"""Pings at a steady rate, and remembers each one: how many packets did a failover lose, and for how long?

The pinging is done by a process of its own in the peer's namespace (`python -m lab.prober`), so that nothing the lab
or a test computes can delay it. Times are of CLOCK_MONOTONIC, which is one clock for all processes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.echo import EchoSocket

if TYPE_CHECKING:
    from lab.host import Host

_LINGER = 0.5  # seconds that the last probes' replies are waited for
_STOPPED_WITHIN = 10.0  # seconds


@dataclass(frozen=True)
class ProbeLog:
    """Every probe of one target: when it was sent, and after how many seconds its reply came, or None."""

    target: str
    probes: tuple[tuple[float, float | None], ...]

    @property
    def sent(self) -> int:
        """How many probes were sent."""
        return len(self.probes)

    @property
    def received(self) -> int:
        """How many were answered."""
        return sum(rtt is not None for _, rtt in self.probes)

    def lost(self, start: float = float("-inf"), end: float = float("inf")) -> int:
        """How many probes sent in the interval were never answered."""
        return sum(rtt is None and start <= sent <= end for sent, rtt in self.probes)

    def longest_gap(self, start: float = float("-inf"), end: float = float("inf")) -> float:
        """The longest time, in seconds, between two answered probes that follow each other, by when they were sent.

        Without loss this is the interval. The interval's own ends count as answered when they are finite, and so do
        the first and the last probe when they are not.
        """
        inside = [(sent, rtt) for sent, rtt in self.probes if start <= sent <= end]
        if not inside:
            return max(0.0, end - start) if end - start < float("inf") else 0.0
        marks = [max(start, min(inside[0][0], end)) if start == float("-inf") else start]
        marks += [sent for sent, rtt in inside if rtt is not None]
        marks.append(inside[-1][0] if end == float("inf") else end)
        return max(later - earlier for earlier, later in itertools.pairwise(marks))


class ProbeProcess:
    """A process that probes until its standard input ends: a line for each reply, and at last one line of JSON.

    `_take_reply` gets the lines, with `_condition` held; `_final` is the JSON.
    """

    def __init__(self, host: Host, argv: Sequence[str]) -> None:
        self._condition = threading.Condition()
        self._final: dict[str, Any] | None = None
        self._process = host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, name="lab-prober", daemon=True)
        self._reader.start()

    def _take_reply(self, fields: list[str]) -> None:
        raise NotImplementedError

    def _finish(self) -> dict[str, Any]:
        """End the process; its result. May be called again. Raises RuntimeError when it had died."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._reader.join(_STOPPED_WITHIN)
        self._process.wait(_STOPPED_WITHIN)
        if self._final is None:
            raise RuntimeError(f"the prober ended with status {self._process.returncode}, without a result")
        return self._final

    def _read(self) -> None:
        """Follow the process's output."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if not line.endswith("\n"):  # it was killed
                    break
                with self._condition:
                    if line.startswith("{"):
                        self._final = json.loads(line)
                    else:
                        self._take_reply(line.split())
                    self._condition.notify_all()
        with self._condition:
            self._condition.notify_all()


class Prober(ProbeProcess):
    """A running prober, started by Lab.prober()."""

    def __init__(self, host: Host, targets: Sequence[str], interval: float, source: str | None = None) -> None:
        self._replies: dict[str, list[tuple[float, float]]] = {target: [] for target in targets}  # (sent, rtt)
        argv = [sys.executable, "-m", "lab.prober", "--interval", str(interval), "--live"]
        argv += [item for target in targets for item in ("--target", target)]
        argv += ["--source", source] if source else []
        super().__init__(host, argv)

    def wait_reply(self, target: str | None = None, *, after: float | None = None, timeout: float = 10.0) -> float:
        """Wait for a reply to a probe sent after `after` (a time.monotonic(); None: any); when it arrived.

        `target` None means each of the targets; then the latest is returned. Raises TimeoutError.
        """
        targets = list(self._replies) if target is None else [target]
        since = float("-inf") if after is None else after

        def first(replies: list[tuple[float, float]]) -> float | None:
            return next((sent + rtt for sent, rtt in replies if sent > since), None)

        with self._condition:
            self._condition.wait_for(
                lambda: self._final is not None or all(first(self._replies[each]) is not None for each in targets),
                timeout,
            )
            arrivals = {each: first(self._replies[each]) for each in targets}
        missing = [each for each, arrival in arrivals.items() if arrival is None]
        if missing:
            raise TimeoutError(f"no reply from {', '.join(missing)} within {timeout} s")
        return max(arrival for arrival in arrivals.values() if arrival is not None)

    def stop(self) -> dict[str, ProbeLog]:
        """Stop pinging; the log of each target. May be called again. Raises RuntimeError when the prober died."""
        return {
            target: ProbeLog(target, tuple((sent, rtt) for sent, rtt in found["probes"]))
            for target, found in self._finish().items()
        }

    def _take_reply(self, fields: list[str]) -> None:
        target, sent, rtt = fields
        self._replies[target].append((float(sent), float(rtt)))


class _Probing:
    """The pinging itself, in the prober's process, until stop() is called or standard input ends."""

    def __init__(self, targets: Sequence[str], source: str | None, interval: float, live: bool) -> None:
        self._interval = interval
        self._live = live
        self._echoes = [EchoSocket(target, number + 1, source) for number, target in enumerate(targets)]
        self._probes: list[list[list[float | None]]] = [[] for _ in targets]  # per target, [sent, rtt] by number
        self._stopped = False

    def stop(self) -> None:
        """Send no more."""
        self._stopped = True

    def run(self) -> None:
        """Ping until stopped, then wait a moment for the last replies.

        The schedule is absolute: a probe that goes out late does not delay those after it.
        """
        started = time.monotonic()
        for number in itertools.count():
            self._receive_until(started + number * self._interval, [*self._echoes, sys.stdin], lambda: self._stopped)
            if self._stopped:
                break
            for echo, probes in zip(self._echoes, self._probes, strict=True):
                probes.append([time.monotonic(), None])
                with contextlib.suppress(OSError):  # no route, or a full queue: it counts as sent, and lost
                    echo.send(number)
        self._receive_until(time.monotonic() + _LINGER, self._echoes, self._complete)

    def results(self) -> Mapping[str, Any]:
        """What happened, by target."""
        return {
            echo.target: {
                "sent": len(probes),
                "received": sum(rtt is not None for _, rtt in probes),
                "probes": probes,
            }
            for echo, probes in zip(self._echoes, self._probes, strict=True)
        }

    def _complete(self) -> bool:
        return all(not probes or probes[-1][1] is not None for probes in self._probes)

    def _receive_until(self, deadline: float, sources: Sequence[Any], enough: Callable[[], bool]) -> None:
        while (left := deadline - time.monotonic()) > 0 and not enough():
            for source in select.select(sources, [], [], left)[0]:
                if source is sys.stdin:
                    self._stopped = self._stopped or not os.read(0, 4096)
                else:
                    self._receive(source, self._probes[self._echoes.index(source)])

    def _receive(self, echo: EchoSocket, probes: list[list[float | None]]) -> None:
        with contextlib.suppress(OSError):  # an ICMP error about a probe
            while (number := echo.receive()) is not None:
                sent, rtt = probes[number]
                if rtt is None and sent is not None:
                    probes[number][1] = rtt = time.monotonic() - sent
                    if self._live:
                        print(echo.target, sent, rtt, flush=True)


def main() -> None:
    """Ping until standard input ends or a SIGTERM comes, then print the results as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m lab.prober", description=main.__doc__)
    parser.add_argument("--target", action="append", required=True, help="address to ping; may be repeated")
    parser.add_argument("--source", help="address to ping from")
    parser.add_argument("--interval", type=float, default=0.005, help="seconds between pings of one target")
    parser.add_argument("--live", action="store_true", help="print a line for each reply: target, time sent, seconds")
    arguments = parser.parse_args()
    probing = _Probing(arguments.target, arguments.source, arguments.interval, arguments.live)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: probing.stop())
    probing.run()
    print(json.dumps(probing.results()), flush=True)


if __name__ == "__main__":
    main()
