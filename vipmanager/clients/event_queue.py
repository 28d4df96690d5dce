"""Which Kubernetes Events are sent, and when: bounded in number, in rate, and the same one counted instead of repeated.

Every Event is an object in the cluster's etcd for an hour (kube-apiserver, --event-ttl), and the API server may limit
how fast they come (EventRateLimit), so a client limits itself, as client-go's recorder does.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

BURST = 10
"""Events that may be sent at once."""
REFILL = 10.0
"""Seconds after which one more may be sent."""
ROOM = 32
"""Events that may wait. One more drops the oldest: what is the case now matters more than what was."""
REPEAT_AFTER = 600.0
"""Seconds in which the same event is only counted."""
REMEMBERED = 256
"""Events that are known when they come again."""


class PodEvent(NamedTuple):  # a dataclass would cost more to make, at each start
    """What is said of the Pod: `first` and `last` time it happened (Unix seconds), and how often between."""

    reason: str
    message: str
    warning: bool
    first: float
    last: float
    times: int = 1

    @property
    def what(self) -> tuple[str, str, bool]:
        """What makes two of them the same."""
        return self.reason, self.message, self.warning


class _Seen:
    def __init__(self, until: float) -> None:
        self.until = until
        self.held: PodEvent | None = None


class EventQueue:
    """A queue that says for itself what may be sent. `now` is seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self.dropped = 0  # events that will not be sent, each repetition of one too
        self._waiting: deque[PodEvent] = deque()
        self._seen: OrderedDict[tuple[str, str, bool], _Seen] = OrderedDict()  # the one that ends first is first
        self._tokens = float(BURST)
        self._filled = 0.0

    def put(self, event: PodEvent, now: float) -> None:
        """Add an event; one that was there within REPEAT_AFTER is counted, and said when that time is over."""
        self._end_repeats(now)
        seen = self._seen.get(event.what)
        if seen is None:
            self._append(event, now)
            return
        held = seen.held
        seen.held = event if held is None else held._replace(last=event.last, times=held.times + event.times)

    def take(self, now: float) -> PodEvent | None:
        """Remove and return the oldest, if one may be sent now."""
        self._end_repeats(now)
        self._fill(now)
        if not self._waiting or self._tokens < 1.0:
            return None
        self._tokens -= 1.0
        return self._waiting.popleft()

    def due(self, now: float) -> float | None:
        """When take() will have something if nothing is put; None: never."""
        self._fill(now)
        moments = [seen.until for seen in self._seen.values() if seen.held is not None][:1]
        if self._waiting:
            moments.append(now + max(0.0, 1.0 - self._tokens) * REFILL)
        return min(moments, default=None)

    def clear(self) -> None:
        """Drop everything."""
        self.dropped += sum(event.times for event in self._waiting)
        self.dropped += sum(seen.held.times for seen in self._seen.values() if seen.held is not None)
        self._waiting.clear()
        self._seen.clear()

    def _append(self, event: PodEvent, now: float) -> None:
        self._seen[event.what] = _Seen(now + REPEAT_AFTER)
        if len(self._seen) > REMEMBERED:
            _, seen = self._seen.popitem(last=False)
            self.dropped += seen.held.times if seen.held is not None else 0
        self._waiting.append(event)
        if len(self._waiting) > ROOM:
            self.dropped += self._waiting.popleft().times

    def _end_repeats(self, now: float) -> None:
        """Forget what has not come again, and say the rest anew."""
        while self._seen and (first := next(iter(self._seen.values()))).until <= now:
            self._seen.popitem(last=False)
            if first.held is not None:
                self._append(first.held, now)

    def _fill(self, now: float) -> None:
        self._tokens = min(float(BURST), self._tokens + max(0.0, now - self._filled) / REFILL)
        self._filled = now
