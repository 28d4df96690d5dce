"""Asking several things at once, each a few times: for commands that look once and end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vipmanager.apply import PASSING, WORKERS
from vipmanager.errors import CallError, ErrorKind, Failure

ATTEMPTS = 6
PATIENCE = 10.0
"""Seconds after which nothing is tried again; somebody waits for the answer."""

Answer = TypeVar("Answer")


class Asker:
    """Runs calls in parallel. What fails for a passing reason is tried again, within bounds."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self._sleep, self._draw = sleep, draw
        self._pool = ThreadPoolExecutor(WORKERS, "vipmanager-ask")

    def each(self, calls: Sequence[Callable[[], Answer]]) -> list[Answer | Failure]:
        """The answers in the order of the calls; a Failure where there is none."""
        until = self.clock() + PATIENCE
        return list(self._pool.map(lambda call: self._attempt(call, until), calls))

    def all(self, calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
        """The answers. Raises CallError where one is missing."""
        answers = []
        for answer in self.each(calls):
            if isinstance(answer, Failure):
                raise CallError(answer)
            answers.append(answer)
        return answers

    def _attempt(self, call: Callable[[], Answer], until: float) -> Answer | Failure:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = call()
            except CallError as error:
                answer = error.failure  # type: ignore[assignment]
            if not (isinstance(answer, Failure) and answer.kind is ErrorKind.RETRY) or attempt == ATTEMPTS:
                break
            pause = PASSING.delay(attempt, self._draw)
            if self.clock() + pause >= until:
                break
            self._sleep(pause)
        return answer
