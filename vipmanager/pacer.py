"""When EC2 throttles: how fast this process makes each call, so that a hundred of them together do not storm.

EC2 has a token bucket for each operation, account and Region (Amazon EC2 Developer Guide, "Request throttling for the
Amazon EC2 API"). A process sees neither it nor the other processes. It sees what is refused, and in the route tables
what others write (see crowd). Time is passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from vipmanager.actions import (
    AssignAddress,
    AssociateEip,
    Change,
    DeleteRoute,
    DisableSourceDestCheck,
    SetRoute,
    VpcAction,
)
from vipmanager.crowd import BUCKET, FULL, REFILL, Crowd, Key, Look
from vipmanager.errors import Failure

Batch = tuple[VpcAction, ...]
Tables = Callable[[], Look]

FIRST = 8
"""Calls at once before any is answered; each that is granted allows one more, which doubles them in a round trip."""
MOST = 32
"""The same in the end: as many as are made at once, and as many that wait for a thread; a refusal can hit no more."""
LOOK_WITHIN = 2.0
"""Seconds after which a look at the tables is no longer waited for."""
LOOK_AFTER, LATER = 5.0, 10.0
"""Seconds until it is looked again how large the crowd is that sets the pace, and at least between later looks."""
LOOKS = 6
"""Looks at the tables while a crowd is at work, where it takes long."""
SOONEST, LATEST, LEAST = 1.0, 20.0, 1.0 / REFILL
"""Mean seconds between paced calls: after a first refusal, after many, and after many grants."""
SLOWER, FASTER = 2.0, 2.0
"""A refusal stretches that, a grant shortens it: as quickly, for one pod that others crowded out must not wait long."""
JITTER = 0.5
"""Share of a pause by which it is longer or shorter, so that processes do not beat in step."""
SPREAD = 0.75, 0.5
"""A look comes after this share of its time and up to as much more of it, lest a hundred processes look at once."""
LAST = 0.7
"""Share of a pause before the last call, which is not to come later than those of others."""
SEEN = "ReplaceRoute"
"""The operation whose calls the tables show: what others take over pointed elsewhere before."""


def operation(action: Change) -> str:
    """The EC2 operation that an action calls first, which has a bucket of its own."""
    if isinstance(action, SetRoute):
        return "ReplaceRoute" if action.replaces else "CreateRoute"
    if isinstance(action, DeleteRoute):
        return "DeleteRoute"
    if isinstance(action, DisableSourceDestCheck):
        return "ModifyNetworkInterfaceAttribute"
    if isinstance(action, AssociateEip):
        return "AssociateAddress"
    return f"{'Assign' if isinstance(action, AssignAddress) else 'Unassign'} {action.key[0]}"


class Pacer:
    """Holds calls back once EC2 throttles, or where the tables say that it would. Used from one thread only."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._lanes: dict[str, _Lane] = {}
        self._line: dict[Key, None] = {}  # in the order in which they came
        self.held: frozenset[Key] = frozenset()  # what is due and was not admitted

    def admit(self, batches: Sequence[Batch], now: float, tables: Tables, start: bool = False) -> list[Batch]:
        """Of the calls that are due, those that may be made now: of each operation the ones that wait longest.

        `start`: the process starts, and others may start with it; an address's move while it runs must not wait.
        """
        lanes = {name: lane for name, lane in self._lanes.items() if lane.remembers(now)}
        due: dict[str, list[Batch]] = {}
        for batch in self._in_line(batches):
            due.setdefault(operation(batch[0]), []).append(batch)
        self._lanes |= {name: _Lane(self._draw, name == SEEN) for name in due.keys() - self._lanes.keys()}
        self._lanes = {name: lane for name, lane in self._lanes.items() if name in due or name in lanes}
        admitted: list[Batch] = []
        for name, lane in self._lanes.items():
            calls = due.get(name, [])
            admitted += calls[: lane.admit(len(calls), now, tables, start)]
        going = {batch[0].key for batch in admitted}
        self.held = frozenset(each.key for batch in batches if batch[0].key not in going for each in batch)
        return admitted

    def answered(self, batch: Batch, failure: Failure | None, now: float) -> None:
        """Learn what became of a call; one that was not admitted here (while stopping) counts for nothing."""
        lane = self._lanes.get(operation(batch[0]))
        if lane is not None and lane.running:
            lane.answered(failure is not None and failure.throttled, now)

    @property
    def look_since(self) -> float | None:
        """When a fresh look at the route tables has become necessary, if it has."""
        return max((lane.looking for lane in self._lanes.values() if lane.looking is not None), default=None)

    @property
    def ready(self) -> bool:
        """Whether `admit` should be asked again, because answers have made room."""
        return any(lane.ready for lane in self._lanes.values())

    def next_at(self) -> float | None:
        """When `admit` should be asked again, whatever else happens."""
        return min((lane.due for lane in self._lanes.values() if lane.due is not None), default=None)

    def _in_line(self, batches: Sequence[Batch]) -> list[Batch]:
        """What came first is first, so that nothing starves."""
        by_key = {batch[0].key: batch for batch in batches}
        self._line = {key: None for key in self._line if key in by_key} | dict.fromkeys(by_key)
        return [by_key[key] for key in self._line]


class _Slots:
    """Calls spread over a time: one in each slot, at a random moment of it, so that those of a crowd come evenly."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._length = self._next = 0.0
        self._at: float | None = None

    def spread(self, count: int, now: float, seconds: float) -> None:
        """From now on so many calls in so many seconds; what is left of the present slot is stretched like the rest."""
        stretch = seconds / count / self._length if self._length else 0.0
        self._length = seconds / count
        self._next = now + max(0.0, self._next - now) * stretch
        if self._at is not None:
            self._at = now + max(0.0, self._at - now) * stretch

    def at(self) -> float:
        """When the next call is to be made."""
        if self._at is None:
            self._at = self._next + self._length * self._draw()
            self._next += self._length
        return self._at

    def made(self) -> None:
        """It was."""
        self._at = None


class _Lane:
    """One operation: at first a window that grows, and once something was refused one call at a time.

    In a crowd: at once no more than the own share of the bucket, and the rest evenly in the time that all need.
    """

    def __init__(self, draw: Callable[[], float], seen: bool) -> None:
        self._draw = draw
        self._seen = seen  # the tables show the calls of others
        self._fresh = True
        self._window = FIRST
        self._grows = True  # the window, with each call that is granted; else it is a share and used up
        self._paced = False
        self._held = self._granted = 0
        self._news = [0, 0]  # granted and refused since the last look
        self._refused_at = self._sent_at = float("-inf")
        self._pause = SOONEST
        self._next_at: float | None = None
        self._crowd: Crowd | None = None  # others that might be at work
        self._slots = _Slots(draw)
        self._look_at: float | None = None  # when to see how large the crowd is that sets the pace
        self._look_after = LOOK_AFTER
        self.running = 0
        self.looking: float | None = None

    def remembers(self, now: float) -> bool:
        """Whether it knows something that still matters without calls that are due."""
        return self.running > 0 or now < self._refused_at + FULL

    @property
    def due(self) -> float | None:
        """When it goes on by time passing."""
        if self.running or not self._held:
            return None
        times = (self._next_at, self._look_at) if self.looking is None else (self.looking + LOOK_WITHIN,)
        return min((at for at in times if at is not None), default=None)

    @property
    def ready(self) -> bool:
        """Whether answers have made room: all of it, or half of a window."""
        if self._paced or self._in_doubt or not self._grows:
            room = not self.running and self._next_at is None and self.looking is None
        else:
            room = self.running <= self._window // 2
        return self._held > 0 and room

    def admit(self, count: int, now: float, tables: Tables, start: bool) -> int:
        """How many of so many calls may be made now."""
        if self._fresh and count:
            self._begin(count, tables, start)
        allowed = self._allowed(count, now, tables) if count else 0
        self.running += allowed
        self._held = count - allowed
        self._sent_at = now if allowed else self._sent_at
        return allowed

    def answered(self, throttled: bool, now: float) -> None:
        """A call came back."""
        self.running -= 1
        self._next_at = None
        self._slots.made()
        self._news[throttled] += 1
        if throttled:
            if self._paced:
                self._pause = min(LATEST, self._pause * SLOWER)
            self._refused_at = now
            return
        self._granted += 1
        if self._paced:
            self._pause = max(LEAST, self._pause / FASTER)
        elif self._grows:
            self._window = min(MOST, self._window + 1)

    @property
    def _in_doubt(self) -> bool:
        """Whether it has to be decided how to go on: something was refused, or the own share of a bucket is used."""
        return not self._paced and (self._news[True] > 0 or (not self._grows and not self._window))

    def _begin(self, count: int, tables: Tables, start: bool) -> None:
        """The first window: where others might make more calls than the bucket holds, the own share of it."""
        self._fresh = False
        look = tables() if self._seen else Look()
        announced = look.lost > BUCKET
        others = look.lost if announced else look.others - count
        if others + count > BUCKET and others > 0:
            self._crowd = Crowd(look, others, announced)
            if start or announced:
                self._grows = False
                self._window = int(self._crowd.share(count) + self._draw())

    def _allowed(self, count: int, now: float, tables: Tables) -> int:
        overdue = self._look_at is not None and now >= self._look_at
        if (self._in_doubt or overdue) and (self.running or not self._judge(count, now, tables)):
            return 0
        if self._paced and not self._window:
            return self._one(count, now)
        if self._grows:
            return max(0, min(count, self._window - self.running))
        allowed = min(count, self._window)
        self._window -= allowed
        return allowed

    def _judge(self, count: int, now: float, tables: Tables) -> bool:
        """Decide how to go on, after a look at the tables where they tell. False until they were read."""
        if self._crowd is None:
            self._alone(now)
            return True
        self.looking = now if self.looking is None else self.looking
        look = tables()
        if look.seen < self.looking and now < self.looking + LOOK_WITHIN:
            return False
        if look.seen >= self.looking:
            learn = self._crowd.followed if self._paced else self._crowd.met
            learn(look, count, *self._news)
            self._news = [0, 0]
        elif not self._paced:
            self._crowd.missed()
        self.looking = None
        if self._crowd.rest + count <= self._crowd.tokens or (self._crowd.rest < 1.0 and self._crowd.tokens):
            self._free()
        elif self._crowd.rest < 1.0:
            self._alone(now)
        else:
            self._share(self._crowd, count, now)
        return True

    def _free(self) -> None:
        """There is room for all: as fast as at first, and as carefully."""
        self._paced, self._grows = False, True
        self._window = max(1, min(FIRST, self._granted))
        self._refused_at = float("-inf")
        self._next_at = self._look_at = None

    def _alone(self, now: float) -> None:
        """It was refused, and nobody else is seen: one call at a time, as refusals and grants will teach."""
        if not self._paced:
            self._pause = max(LEAST, min(SOONEST, FULL / max(1, self._granted)))  # our part of a full bucket
            self._next_at = now + self._pause * self._draw()
        self._paced, self._grows, self._window = True, False, 0
        self._crowd = self._look_at = None

    def _share(self, crowd: Crowd, count: int, now: float) -> None:
        """At once the own share of what is left of the bucket, the rest in the time that all need."""
        lasts = crowd.lasts(count)
        self._window = min(count, int(crowd.spare(count) + self._draw()))
        begin = now if self._paced else now + SOONEST  # an empty bucket has the first tokens then
        self._slots.spread(max(1, count - self._window), begin, lasts)
        self._next_at = None
        self._look_after = max(min(2.0 * self._look_after, lasts / LOOKS), LATER) if self._paced else LOOK_AFTER
        self._look_at = now + max(LOOK_WITHIN, min(self._look_after, lasts)) * (SPREAD[0] + SPREAD[1] * self._draw())
        self._paced, self._grows = True, False

    def _one(self, count: int, now: float) -> int:
        if self.running:
            return 0
        if self._next_at is None and self._crowd is not None:
            self._next_at = self._slots.at()
        elif self._next_at is None:
            jitter = 1.0 + JITTER * (2.0 * self._draw() - 1.0)
            self._next_at = self._sent_at + self._pause * jitter * (1.0 if count > 1 else LAST)
        return int(now >= self._next_at)
