"""Clocks that tests hold in their hand, and a way to wait for what other threads do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BOUND = 20.0
"""Seconds after which a condition that should have come true is a failure; generous, because machines are shared."""


class StillClock:
    """Stands still until it is told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class SkewedClock:
    """Runs like CLOCK_MONOTONIC, and can be put forward so that a test need not wait."""

    def __init__(self) -> None:
        self._offset = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._offset

    def advance(self, seconds: float) -> None:
        """Put it forward."""
        self._offset += seconds


class Bell:
    """Lets a test wait for a condition on state that other threads change."""

    def __init__(self) -> None:
        self._condition = threading.Condition()

    def ring(self) -> None:
        """Say that something changed."""
        with self._condition:
            self._condition.notify_all()

    def wait(self, what: Callable[[], bool], bound: float = BOUND) -> None:
        """Return when `what` is true; AssertionError when it has not become so within the bound."""
        with self._condition:
            assert self._condition.wait_for(what, bound), "the condition did not come true"


def until(what: Callable[[], bool], bound: float = BOUND) -> None:
    """Wait for something that rings no bell."""
    end = time.monotonic() + bound
    pause = threading.Event()
    while not what():
        assert time.monotonic() < end, "the condition did not come true"
        pause.wait(0.005)
