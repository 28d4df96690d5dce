"""Whether this node is fit to hold: counts failures in a row, and says when to look again. Time is passed in."""

from __future__ import annotations

from collections.abc import Callable

from vipmanager.config import Config

PROBE_PERIOD = 5.0
"""Seconds between a standby's probes of the floating addresses."""


class Health:
    """The verdict on this node. A node is unfit until it has been looked at once.

    A standby that cannot deliver what floats is unfit at once; everything else counts up to HealthThreshold, and one
    success makes it good.
    """

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._threshold = config.health_threshold
        self._period = config.retry_period
        self._failures = 0
        self._healthy = False
        self.next_check = self.next_probe = clock()
        self.why = "not checked yet"

    def check_due(self, now: float) -> bool:
        """Whether it is time for a check."""
        return now >= self.next_check

    def checked(self, now: float) -> None:
        """A check has begun."""
        self.next_check = now + self._period

    def probe_due(self, now: float) -> bool:
        """Whether it is time for a standby's probe."""
        return now >= self.next_probe

    def probed(self, now: float) -> None:
        """A probe has begun."""
        self.next_probe = now + PROBE_PERIOD

    def judge(self, failure: str, *, at_once: bool) -> tuple[bool, str]:
        """Count one check: `failure` is empty when it went well. Returns the verdict and its reason."""
        self._failures = self._failures + 1 if failure else 0
        if not failure:
            self._healthy = True
        elif at_once or self._failures >= self._threshold:
            self._healthy = False
        self.why = f"{failure} ({self._failures} in a row)" if failure else ""
        return self._healthy, self.why
