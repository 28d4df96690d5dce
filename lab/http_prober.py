"""Asks a URL at a steady rate, on a new connection each time, and remembers who answered: the gap that clients see.

As `lab.prober`, it does so in a process of its own, and its times are of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from lab.prober import ProbeLog, ProbeProcess

if TYPE_CHECKING:
    from lab.host import Host

_LIMIT = 1.0  # seconds that an attempt may take


@dataclass(frozen=True)
class HttpLog(ProbeLog):
    """Every attempt: `probes` has when it began, and after how many seconds its answer was complete, or None.

    `nodes` has who answered each, None where nobody did. `lost` and `longest_gap` are as of pings: by when attempts
    were begun.
    """

    nodes: tuple[str | None, ...] = ()

    def holders(self) -> list[tuple[float, str]]:
        """Who answered, from when on: the first answer, and each that came from another node than the one before."""
        found: list[tuple[float, str]] = []
        for (sent, _), node in zip(self.probes, self.nodes, strict=True):
            if node is not None and (not found or found[-1][1] != node):
                found.append((sent, node))
        return found

    def gap_at(self, when: float) -> tuple[float, float]:
        """The last attempt before `when` that succeeded, and the first after it. Raises LookupError without both."""
        before = [sent for sent, rtt in self.probes if rtt is not None and sent < when]
        after = [sent for sent, rtt in self.probes if rtt is not None and sent >= when]
        if not before or not after:
            raise LookupError(f"{self.target} did not answer {'before' if not before else 'after'} {when}")
        return before[-1], after[0]

    def outage(self, since: float) -> tuple[float, float]:
        """Between which two attempts nobody answered longest, until after `since`; see longest_outage()."""
        return longest_outage([sent for sent, rtt in self.probes if rtt is not None], since)


def longest_outage(answered: Sequence[float], since: float) -> tuple[float, float]:
    """Of two such attempts that follow each other, the two that are furthest apart; the second is after `since`.

    Raises LookupError where there are none.
    """
    pairs = [(last, first) for last, first in itertools.pairwise(answered) if first > since]
    if not pairs:
        raise LookupError(f"nobody answered both before and after {since}")
    return max(pairs, key=lambda pair: pair[1] - pair[0])


class HttpProber(ProbeProcess):
    """A running prober, started by Lab.http_prober()."""

    def __init__(self, host: Host, url: str, interval: float) -> None:
        """`url`: http://ADDRESS:PORT/…; names are not looked up."""
        self.url = url
        self._answers: list[tuple[float, float, str]] = []  # (sent, seconds, node), as they came
        super().__init__(host, [sys.executable, "-m", "lab.http_prober", "--interval", str(interval), "--live", url])

    def wait_answer(self, node: str | None = None, *, after: float | None = None, timeout: float = 10.0) -> float:
        """Wait for an answer, of that node when given, to an attempt begun after `after` (a time.monotonic()).

        Returns when it arrived. Raises TimeoutError.
        """
        since = float("-inf") if after is None else after

        def first() -> float | None:
            wanted = (each for each in self._answers if each[0] > since and node in (None, each[2]))
            return next((sent + seconds for sent, seconds, _ in wanted), None)

        with self._condition:
            self._condition.wait_for(lambda: self._final is not None or first() is not None, timeout)
            arrived = first()
        if arrived is None:
            raise TimeoutError(f"{self.url} was not answered{f' by {node}' if node else ''} within {timeout} s")
        return arrived

    def answers(self) -> list[tuple[float, str]]:
        """The answers so far, by when they were asked for: (time, node)."""
        with self._condition:
            return sorted((sent, node) for sent, _, node in self._answers)

    def stop(self) -> HttpLog:
        """Stop asking; the log. May be called again. Raises RuntimeError when the prober died."""
        attempts = self._finish()["attempts"]
        return HttpLog(
            self.url,
            tuple((sent, seconds) for sent, seconds, _ in attempts),
            tuple(node for _, _, node in attempts),
        )

    def _take_reply(self, fields: list[str]) -> None:
        sent, seconds, node = fields
        self._answers.append((float(sent), float(seconds), node))


class _Asking:
    """The asking itself, in the prober's process."""

    def __init__(self, url: str, interval: float, live: bool) -> None:
        self._url = urlsplit(url)
        self._interval = interval
        self._live = live
        self._stopped = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self.attempts: list[list[Any]] = []  # [sent, seconds, node]

    def stop(self) -> None:
        """Begin no more attempts."""
        self._stopped.set()

    def read_input(self) -> None:
        """Stop at the end of standard input."""
        if not os.read(sys.stdin.fileno(), 4096):
            self.stop()

    async def run(self) -> None:
        """Ask until stopped. The schedule is absolute, and attempts do not wait for each other."""
        started = time.monotonic()
        for number in itertools.count():
            with contextlib.suppress(TimeoutError):
                left = started + number * self._interval - time.monotonic()
                await asyncio.wait_for(self._stopped.wait(), max(0.0, left))
            if self._stopped.is_set():
                break
            self.attempts.append([time.monotonic(), None, None])
            self._start(self._attempt(self.attempts[-1]))
        await asyncio.gather(*self._under_way)

    def _start(self, attempt: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(attempt)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _attempt(self, record: list[Any]) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError, EOFError):  # refused, reset, cut short, too late
            node = await asyncio.wait_for(_get(self._url), _LIMIT)
            record[1:] = time.monotonic() - record[0], node
            if self._live:
                print(*record, flush=True)


async def _get(url: SplitResult) -> str:
    """The body of what the URL answers with 200. Raises OSError, ValueError or EOFError."""
    reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
    try:
        writer.write(f"GET {url.path or '/'} HTTP/1.0\r\nHost: {url.netloc}\r\n\r\n".encode())
        head, separator, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    if not separator:
        raise EOFError("the connection ended before the answer did")
    if head.split(b" ", 2)[1] != b"200":
        raise ValueError(head.decode(errors="replace"))
    return "_".join(body.decode(errors="replace").split()) or "-"


async def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    asking = _Asking(arguments.url, arguments.interval, arguments.live)
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), asking.read_input)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asking.stop)
    await asking.run()
    return {"url": arguments.url, "attempts": asking.attempts}


def main() -> None:
    """Ask until standard input ends or a SIGTERM comes, then print the attempts as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m lab.http_prober", description=main.__doc__)
    parser.add_argument("url", help="http://ADDRESS:PORT/PATH")
    parser.add_argument("--interval", type=float, default=0.02, help="seconds between attempts")
    parser.add_argument("--live", action="store_true", help="print a line for each answer: time, seconds, node")
    print(json.dumps(asyncio.run(_run(parser.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
