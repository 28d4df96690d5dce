"""Which Kubernetes Events are sent, and when: bounded in number and in rate, and what is told last is what is the case.

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
"""Seconds in which an event is only counted that says what the last one about the same thing said."""
REMEMBERED = 256
"""Things about which the last event is known."""


class PodEvent(NamedTuple):  # a dataclass would cost more to make, at each start
    """What is said of the Pod: `first` and `last` time it happened (Unix seconds), and how often between.

    `about`: the address or whatever it is about; empty where it is about nothing but itself.
    """

    reason: str
    message: str
    warning: bool
    first: float
    last: float
    times: int = 1
    about: str = ""

    @property
    def what(self) -> tuple[str, str, bool]:
        """What makes two of them the same."""
        return self.reason, self.message, self.warning

    @property
    def topic(self) -> object:
        """Of two with the same topic, the later one is true."""
        return self.about or self.what


class _Last:
    """The last event about a topic, sent or waiting, and its repetitions, which are held back until then."""

    def __init__(self, what: tuple[str, str, bool], until: float) -> None:
        self.what, self.until = what, until
        self.held: PodEvent | None = None

    @property
    def held_times(self) -> int:
        return self.held.times if self.held is not None else 0


class EventQueue:
    """A queue that says for itself what may be sent. `now` is seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self.dropped = 0  # events that will not be sent, each repetition of one too
        self._waiting: deque[PodEvent] = deque()
        self._last: OrderedDict[object, _Last] = OrderedDict()  # by topic; the one that ends first is first
        self._tokens = float(BURST)
        self._filled = 0.0

    def put(self, event: PodEvent, now: float) -> None:
        """Add an event. One that repeats the last about its topic is counted, and said when REPEAT_AFTER is over.

        While the rate or the room is used up, it takes the place of what waits about its topic: a story that goes to
        and fro is told as far as that goes, and how it ended always.
        """
        self._end_repeats(now)
        last = self._last.get(event.topic)
        if last is None or last.what != event.what:
            self._fill(now)
            if last is not None and (self._tokens < 1.0 or len(self._waiting) >= ROOM):
                self._drop_waiting(event.topic)
            self._append(event, now)
            return
        held = last.held
        last.held = event if held is None else held._replace(last=event.last, times=held.times + event.times)

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
        moments = [last.until for last in self._last.values() if last.held is not None][:1]
        if self._waiting:
            moments.append(now + max(0.0, 1.0 - self._tokens) * REFILL)
        return min(moments, default=None)

    def clear(self) -> None:
        """Drop everything."""
        self.dropped += sum(event.times for event in self._waiting)
        self.dropped += sum(last.held_times for last in self._last.values())
        self._waiting.clear()
        self._last.clear()

    def _append(self, event: PodEvent, now: float) -> None:
        self._forget(event.topic)
        self._last[event.topic] = _Last(event.what, now + REPEAT_AFTER)
        if len(self._last) > REMEMBERED:
            self._forget(next(iter(self._last)))
        self._waiting.append(event)
        if len(self._waiting) > ROOM:
            oldest = self._waiting.popleft()
            self.dropped += oldest.times
            last = self._last.get(oldest.topic)
            if last is not None and last.what == oldest.what:  # nobody was told, so that it would be no repetition
                self._forget(oldest.topic)

    def _forget(self, topic: object) -> None:
        """With the repetitions that are held back: what is told later must be what is the case."""
        last = self._last.pop(topic, None)
        self.dropped += last.held_times if last is not None else 0

    def _drop_waiting(self, topic: object) -> None:
        superseded = [event for event in self._waiting if event.topic == topic]
        self.dropped += sum(event.times for event in superseded)
        self._waiting = deque(event for event in self._waiting if event.topic != topic)

    def _end_repeats(self, now: float) -> None:
        """Forget what has not come again, and say the rest anew."""
        while self._last and (first := next(iter(self._last.values()))).until <= now:
            self._last.popitem(last=False)
            if first.held is not None:
                self._append(first.held, now)

    def _fill(self, now: float) -> None:
        self._tokens = min(float(BURST), self._tokens + max(0.0, now - self._filled) / REFILL)
        self._filled = now
