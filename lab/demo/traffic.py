"""A peer's packets during one move, and what became of them."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lab.lab import Lab
from lab.pod import Container
from lab.prober import ProbeLog

PEER = "peer1"
INTERVAL = 0.005  # seconds between two packets to one address
STEADY = 1.0  # seconds for which packets must flow before and after a move
BOUND = 20.0  # seconds; a wait that takes longer has failed


class Failed(Exception):
    """Something that should have happened did not. `run` is the vipmanager whose log may say why."""

    def __init__(self, text: str, run: Container | None = None) -> None:
        super().__init__(text)
        self.run = run


@dataclass(frozen=True)
class Gap:
    """The time without answers: from when the last packet was sent that was answered, to the first answer after it.

    `last` is None where no packet had been answered before. `stray` packets were lost outside of the gap.
    """

    target: str
    last: float | None
    first: float
    lost: int
    stray: int

    def split(self, at: float) -> tuple[int | None, int]:
        """Its parts before and after a time.monotonic(), in ms; the first is None where nothing had been answered."""
        return None if self.last is None else round((at - self.last) * 1000), round((self.first - at) * 1000)


def find_gap(log: ProbeLog, after: float) -> Gap:
    """The longest time without answers that ended after `after`. Raises Failed where there was no answer at all."""
    answered = [(sent, sent + rtt) for sent, rtt in log.probes if rtt is not None]
    if not answered:
        raise Failed(f"no packet to {log.target} was ever answered")
    sent, arrived = answered[0]
    if sent > after:
        return Gap(log.target, None, arrived, log.lost(end=sent), log.lost(start=sent))
    pairs = [(last, first) for (last, _), first in itertools.pairwise(answered) if first[0] > after]
    if not pairs:
        raise Failed(f"no packet to {log.target} was answered any more")
    last, (sent, arrived) = max(pairs, key=lambda pair: pair[1][0] - pair[0])
    lost = log.lost(last, sent)
    return Gap(log.target, last, arrived, lost, log.lost() - lost)


class Traffic:
    """A peer that sends to some addresses for as long as the `with` block lasts."""

    def __init__(self, lab: Lab, targets: Sequence[str]) -> None:
        self.targets = tuple(targets)
        self._lab = lab

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._prober = self._lab.prober(PEER, self.targets, INTERVAL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._stop()
        elif isinstance(error, Exception):  # when interrupted, the lab ends the prober with everything else
            with contextlib.suppress(Failed):  # the first failure says more
                self._stop()

    def answered(self, target: str, after: float) -> float:
        """Wait for the answer to a packet sent after a time.monotonic(); when it arrived. Raises Failed."""
        try:
            return self._prober.wait_reply(target, after=after, timeout=BOUND)
        except TimeoutError:
            raise Failed(f"no packet to {target} came back within {BOUND:g} s{self._reason(target)}") from None

    def steady(self, seconds: float = STEADY) -> None:
        """Let the packets flow so long. Raises Failed when they stop."""
        until = time.monotonic() + seconds
        for target in self.targets:
            self.answered(target, until)

    def dropped(self) -> str:
        """Wait until packets to each address have been dropped; why the VPC did. Raises Failed."""
        deadline = time.monotonic() + BOUND
        while time.monotonic() < deadline:
            drops = {drop.destination: drop for drop in list(self._lab.router.last_drops) if drop.when > self._started}
            if all(target in drops for target in self.targets):
                return ", ".join(sorted({drops[target].reason for target in self.targets}))
            time.sleep(0.01)
        raise Failed(f"packets to {' and '.join(self.targets)} should be dropped until somebody has the addresses")

    def gaps(self, after: float) -> list[Gap]:
        """End the traffic; how each address was without service. Raises Failed also for any other lost packet."""
        gaps = [find_gap(log, after) for log in self._stop().values()]
        for gap in gaps:
            if gap.stray:
                raise Failed(f"{gap.stray} packets to {gap.target} were lost while it should have been served")
        return gaps

    def _stop(self) -> dict[str, ProbeLog]:
        try:
            return self._prober.stop()
        except RuntimeError as error:
            raise Failed(str(error)) from error

    def _reason(self, target: str) -> str:
        """Why the VPC dropped the last packet to or from an address, when it did so lately."""
        drops = [drop for drop in list(self._lab.router.last_drops) if target in (drop.destination, drop.source)]
        if not drops or drops[-1].when < time.monotonic() - STEADY:
            return ""
        way = "to" if drops[-1].destination == target else "from"
        return f"; the VPC drops packets {way} it: {drops[-1].reason}"
