"""Netlink events, finished work, signals and timers become wake-ups. Nothing runs while nothing happens."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable

BURST = 0.02
"""Seconds for which the events of a burst are gathered, at most, before one look at the kernel."""

QUIET = 0.005
"""Seconds without an event after which a burst is over: a single address should not wait for others."""

LONGEST_WAIT = 86_400_000.0
"""Milliseconds; poll(2) takes an int, which 25 days do not fit into. Who is woken early looks at the clock."""


class Watch:
    """Blocks until something may have changed. `wake` may be called from any thread and from signal handlers."""

    def __init__(self, events: socket.socket | None, clock: Callable[[], float]) -> None:
        self._events = events
        self._clock = clock
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.heard: float | None = None  # when the first kernel event came; whoever has acted on it clears it
        self.overruns = 0
        self._before_first_wait: Callable[[], None] | None = None
        self._poll = select.poll()
        self._poll.register(self._read_end, select.POLLIN)
        if events is not None:
            self._poll.register(events, select.POLLIN)

    def wake(self) -> None:
        """Make the current or next wait return at once."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes too
            os.write(self._write_end, b"!")

    def before_first_wait(self, call: Callable[[], None]) -> None:
        """Have this called once, when the loop has nothing to do but wait: for what a start-up should not wait for."""
        self._before_first_wait = call

    def wait(self, until: float | None) -> bool:
        """Return at `until` (seconds of the clock), on a wake, or a burst after the first kernel event.

        True when the kernel said that something changed, and is to be read.
        """
        if self._before_first_wait is not None:
            call, self._before_first_wait = self._before_first_wait, None
            call()
        ready = self._ready(until)
        if self._events is None or self._events.fileno() not in ready:
            return False
        if self.heard is None:
            self.heard = self._clock()
        end = self._clock() + BURST
        while ready and self._read_end not in ready and self._clock() < end:
            self._drain_events()
            ready = self._ready(min(end, self._clock() + QUIET))
        self._drain_events()
        return True

    def _ready(self, until: float | None) -> set[int]:
        timeout = None if until is None else min(max(0.0, (until - self._clock()) * 1000.0), LONGEST_WAIT)
        ready = {descriptor for descriptor, _ in self._poll.poll(None if timeout is None else int(timeout) + 1)}
        if self._read_end in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read_end, 4096)
        return ready

    def _drain_events(self) -> None:
        """Throw the messages away: they only wake. ENOBUFS says that some were lost, which the next look makes good."""
        assert self._events is not None
        while True:
            try:
                self._events.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._read_end)
        os.close(self._write_end)
        if self._events is not None:
            self._events.close()
