"""What EC2 does some time after it has answered: attachments, and CIDRs of VPCs, take a while."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Agenda:
    """Calls what it is given at its time, one after the other, in a thread of its own that starts when it must."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []  # a heap; the number keeps equal times in order
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` so many seconds from now."""
        with self._condition:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), action))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="ec2-agenda", daemon=True)
                self._thread.start()
            self._condition.notify()

    def hurry(self) -> None:
        """Let all that is yet to come be due now, in the order it would have come."""
        with self._condition:
            now = time.monotonic()
            self._due = [(now, next(self._numbers), action) for _, _, action in sorted(self._due)]
            self._condition.notify()

    def close(self) -> None:
        """Call nothing any more. Returns when an action under way has ended. May be called again."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (action := self._next()) is not None:
            action()

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next action's time; None: closed."""
        with self._condition:
            while not self._closed:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._due)[2]
                self._condition.wait(left)
            return None
