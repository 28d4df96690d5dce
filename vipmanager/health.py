"""Whether this node is fit to hold: counts failures in a row, and says when to look again. Time is passed in."""

from __future__ import annotations

from collections.abc import Callable

from vipmanager.config import Config

PROBE_PERIOD = 5.0
"""Seconds between a standby's probes of the floating addresses."""


DOUBT = 30.0
DOUBT_MOST = 600.0
"""Seconds for which a node that has failed as the holder counts as unfit: twice as long each time, up to this."""


class Health:
    """The verdict on this node. A node is unfit until it has been looked at once.

    A standby that cannot deliver what floats is unfit at once; everything else counts up to HealthThreshold, and one
    success makes it good.
    """

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._threshold = config.health_threshold
        self._period = config.retry_period
        self._clock = clock
        self._failures = 0
        self._healthy = False
        self._hidden = self._doubt = ""
        self._penalty, self._doubted_until = DOUBT, float("-inf")
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

    def judge(self, check: str, fatal: str, standing: str, *, holds: bool) -> tuple[bool, str]:
        """One look, each part empty when it is well; returns the verdict and its reason.

        `check` is what HealthCheck says, `fatal` what keeps this node from delivering, `standing` what has failed.
        """
        failure = check or fatal or standing
        if not failure and not holds and self._clock() < self._doubted_until:
            failure = fatal = self._doubt
        self._hidden = standing if holds and not check and not fatal else ""
        self._failures = self._failures + 1 if failure else 0
        if not failure:
            self._healthy = True
        elif (fatal and not holds) or self._failures >= self._threshold:
            self._healthy = False
        self.why = f"{failure} ({self._failures} in a row)" if failure else ""
        return self._healthy, self.why

    def made_way(self) -> None:
        """Another node holds now. What failed here shows in a holder only, so a standby is not believed to be well.

        Else two nodes that may not do something would pass the addresses to and fro for ever.
        """
        if self._hidden:
            now = self._clock()
            again = now < self._doubted_until + DOUBT_MOST
            self._penalty = min(DOUBT_MOST, 2 * self._penalty) if again else DOUBT
            self._doubted_until, self._doubt = now + self._penalty, f"failed when it held: {self._hidden}"
