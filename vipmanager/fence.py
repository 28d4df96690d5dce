"""What stands between a former holder of the lease and EC2."""

from __future__ import annotations

from collections.abc import Callable

from vipmanager.elector import Elector
from vipmanager.errors import CallError, ErrorKind, Failure

FENCED = Failure(
    ErrorKind.LOST, "lease", "NotHolder", "this node's tenure has ended, so nothing is written to EC2 any more"
)


class Fence:
    """Stands before each write to EC2, up to the moment it goes out: only a holder may pass."""

    def __init__(self, elector: Elector, clock: Callable[[], float]) -> None:
        self._elector, self._clock = elector, clock
        self.open = False

    def __call__(self) -> None:
        """Raise CallError where the tenure has ended, or is being given up."""
        tenure = self._elector.tenure()
        if not self.open or not tenure.leading or self._clock() >= tenure.until:
            raise CallError(FENCED)
