"""Kubernetes Events on the own Pod, from a thread of their own: the loop tells, and never waits for it."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable

from vipmanager.clients.event_queue import EventQueue, PodEvent
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.logs import event as log_event

log = logging.getLogger("vipmanager.events")

ATTEMPTS = 4
"""For one event, with up to 1, 2 and 4 s in between."""
BACKOFF = 1.0
QUIET = 3600.0
"""Seconds until it is tried again where no Events are wanted or there is no Kubernetes: a Role may come later."""
STOP_WITHIN = 0.5
"""Seconds for what has not been sent when vipmanager ends."""


class PodEvents:
    """See EventSink. The thread starts with the first event and ends where Events are not accepted."""

    def __init__(
        self,
        create: Callable[[PodEvent, str], None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`create` sends one, if not EventApi.create; `wall` is Unix time."""
        self._create = create
        self._clock, self._wall, self._chance = clock, wall, chance
        self._changed = threading.Condition()
        self._queue = EventQueue()
        self._thread: threading.Thread | None = None
        self._quiet_until = -math.inf
        self._stopping = False
        self._unsent = 0

    @property
    def dropped(self) -> int:
        """How many events were never sent: too many at a time, or not accepted."""
        with self._changed:
            return self._unsent + self._queue.dropped

    def emit(self, reason: str, message: str, *, warning: bool, about: str = "") -> None:
        """See EventSink."""
        at, now = self._wall(), self._clock()
        with self._changed:  # never held while something is sent
            if self._stopping or now < self._quiet_until:
                self._unsent += 1
                return
            self._queue.put(PodEvent(reason, message, warning, at, at, about=about), now)
            self._changed.notify_all()
            if self._thread is None:
                self._start()

    def close(self, within: float = STOP_WITHIN) -> None:
        """Take no more, and give what waits up to `within` seconds; what was refused or fails is left."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(within)
        if dropped := self.dropped:
            log_event(log, logging.DEBUG, "events not sent", count=dropped)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had: Events are the last that one would be needed for
            self._thread = None

    def _run(self) -> None:
        if self._create is None:
            from vipmanager.clients.event_api import EventApi  # start-up time is failover time: not before it is used

            self._create = EventApi().create
        while (event := self._next()) is not None:
            failure = self._send(event, self._create)
            if failure is None:
                continue
            log_event(log, logging.DEBUG, "event not sent", reason=event.reason, why=failure)
            with self._changed:
                self._unsent += event.times
                if failure.kind is ErrorKind.DENIED:
                    self._quiet_until = self._clock() + QUIET
                    self._queue.clear()
                    self._thread = None
                    return

    def _next(self) -> PodEvent | None:
        """Wait for an event that may be sent; None at the end."""
        with self._changed:
            while True:
                now = self._clock()
                event = self._queue.take(now)
                if event is not None or self._stopping:
                    return event
                due = self._queue.due(now)
                self._changed.wait(None if due is None else max(0.0, due - now))

    def _send(self, event: PodEvent, create: Callable[[PodEvent, str], None]) -> Failure | None:
        """Try it a few times; why it was not sent."""
        unique = os.urandom(8).hex()
        pause = BACKOFF
        for left in reversed(range(ATTEMPTS)):
            try:
                create(event, unique)
            except CallError as error:
                failure = error.failure
            else:
                return None
            if failure.kind is not ErrorKind.RETRY or not left or not self._pause(pause * self._chance()):
                break
            pause *= 2
        return failure

    def _pause(self, seconds: float) -> bool:
        """Wait; False where vipmanager is told to end meanwhile."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopping, seconds)
