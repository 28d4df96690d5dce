"""What fails, item by item, and the Kubernetes Events that tell of it: one for each reason, not one for each item."""

from __future__ import annotations

from collections.abc import Callable

from vipmanager.apply import Key
from vipmanager.errors import Failure
from vipmanager.monitor import Monitor

Reason = tuple[str, str]
"""The call and its error code: EC2's words may differ each time."""


class Failing:
    """Remembers what fails until it succeeds or is no longer wanted. Used from the loop's thread only."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._reasons: dict[Key, Reason] = {}
        self._told: set[Reason] = set()
        self._mended: set[Reason] = set()

    def failed(self, key: Key, failure: Failure, what: object, *, lasting: bool = True) -> bool:
        """Note it; an Event where the reason is `lasting` and has none yet. Returns whether it is new for this item."""
        reason = (failure.call, failure.code)
        if lasting and reason not in self._told:
            self._told.add(reason)
            self._monitor.emit("Failing", f"{what}: {failure.brief}", warning=True, about=" ".join(reason))
        new = self._reasons.get(key) != reason
        self._reasons[key] = reason
        return new

    def succeeded(self, key: Key) -> bool:
        """Forget it; returns whether it had failed."""
        reason = self._reasons.pop(key, None)
        if reason is not None:
            self._mended.add(reason)
        return reason is not None

    def keep(self, wanted: Callable[[Key], bool]) -> None:
        """Forget what is no longer wanted, as RetryBook.keep does: should it be, and fail again, it is told anew."""
        self._reasons = {key: reason for key, reason in self._reasons.items() if wanted(key)}

    def tell_ended(self) -> None:
        """An Event for each reason for which nothing fails any more: it works again, or nobody wants it to."""
        over = self._told - set(self._reasons.values())
        self._told -= over
        for call, code in sorted(over):
            text = f"{call} no longer fails with {code}"
            if (call, code) not in self._mended:
                text = f"what {call} failed for with {code} is no longer to be done"
            self._monitor.emit("Recovered", text, about=f"{call} {code}")
        self._mended.clear()
