"""Lets interfaces appear at workers, and vanish, as EC2 attaches and detaches ENIs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from lab.ec2.server import LabEc2
from lab.ec2.state import VpcState
from lab.hosts import Worker

_log = logging.getLogger(__name__)


class HotPlug:
    """A thread that takes each worker to EC2's latest state.

    A thread of its own, because EC2 tells of a change with its lock held, and making an interface takes a while. As on
    a real instance, an interface therefore comes and goes a moment after the API says so.
    """

    def __init__(self, ec2: LabEc2, workers: Mapping[str, Worker]) -> None:
        self._workers = workers
        self._condition = threading.Condition()
        self._state: VpcState | None = None  # that is yet to be followed
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="lab-hotplug", daemon=True)
        self._thread.start()
        ec2.on_change(self._changed)

    def close(self) -> None:
        """Follow no more changes. May be called again."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _changed(self, state: VpcState) -> None:
        with self._condition:
            self._state = state
            self._condition.notify()

    def _run(self) -> None:
        enis = None
        while (state := self._next()) is not None:
            if state.enis is enis:  # a state keeps what has not changed; most changes are of routes
                continue
            enis = state.enis
            for worker in list(self._workers.values()):
                try:
                    worker.follow(state)
                except Exception:  # the others are to follow all the same
                    _log.exception("worker %s could not follow a change of its ENIs", worker.name)

    def _next(self) -> VpcState | None:
        """Wait for a state; None: closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._state is not None)
            state, self._state = self._state, None
            return None if self._closed else state
