"""When EC2 throttles: how fast this process makes each call, so that a hundred of them together do not storm.

EC2 has a token bucket for each operation, account and Region (Amazon EC2 Developer Guide, "Request throttling for the
Amazon EC2 API"). A process sees neither it nor the other processes. It sees what is refused, and in the route tables
how many routes have lost their target: so many writes all of them together are about to make. Time is passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from vipmanager.actions import (
    AssignAddress,
    AssociateEip,
    Change,
    DeleteRoute,
    DisableSourceDestCheck,
    SetRoute,
    VpcAction,
)
from vipmanager.errors import Failure
from vipmanager.model import RouteTable

Key = tuple[str, ...]
Batch = tuple[VpcAction, ...]

BUCKET = 100
REFILL = 5.0
"""Calls at once, and calls a second, of one operation: what public measurements of route writes fit."""
FULL = BUCKET / REFILL
"""Seconds in which an empty bucket is full again; an older refusal says nothing any more."""
FIRST = 8
"""Calls at once before any is answered; each that is granted allows one more, which doubles them in a round trip."""
MOST = 32
"""The same in the end: as many as are made at once, and as many that wait for a thread; a refusal can hit no more."""
AFTER_LOOK = 4
"""The same after a look at the tables that has shown nobody else at work, though they seemed to announce a crowd."""
LOOK_WITHIN = 2.0
"""Seconds after which that look is no longer waited for."""
LOOK_AFTER = 10.0
"""Seconds after which it is looked again whether the crowd that sets the pace is still at work; twice that later on."""
QUIET = REFILL / 2.0
"""Calls of others a second below which it is not, or not so large that it uses up what is refilled."""
CROWD = 30
"""Calls of others in the round trip of our first ones that show that the bucket is being emptied this moment."""
SOONEST, LATEST, LEAST = 1.0, 20.0, 1.0 / REFILL
"""Mean seconds between paced calls: after a first refusal, after many, and after many grants."""
SLOWER, FASTER = 2.0, 2.0
"""A refusal stretches that, a grant shortens it: as quickly, for one pod that others crowded out must not wait long."""
GUESS, BOLDER = 2.0, 1.5
"""Mean seconds between calls while a crowd is suspected and nothing was refused; what each grant divides that by."""
SLACK = 1.06
"""How much longer than it has to a crowd's work is taken to last: at the full rate chance alone has more refused."""
JITTER = 0.5
"""Share of a pause by which it is longer or shorter, so that processes do not beat in step."""
LAST = 0.7
"""Share of a pause before the last call, which is not to come later than those of others."""
ANNOUNCED = "ReplaceRoute"
"""The operation whose calls the tables announce."""


@dataclass(frozen=True)
class Waiting:
    """How many routes without a live target others are to write, as the tables were at `seen`."""

    routes: int = 0
    seen: float = float("-inf")


Tables = Callable[[], Waiting]


def waiting(tables: Iterable[RouteTable] | None, own: Collection[Key]) -> Waiting:
    """Count the routes to ENIs that are blackholes; those that this process writes itself (`own`) are not counted."""
    found = tuple(tables or ())
    lost = (
        ("route", table.id, str(route.destination))
        for table in found
        for route in table.routes.values()
        if not route.live and route.target.startswith("eni-")
    )
    return Waiting(sum(key not in own for key in lost), min((table.seen for table in found), default=float("-inf")))


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

    def admit(self, batches: Sequence[Batch], now: float, tables: Tables) -> list[Batch]:
        """Of the calls that are due, those that may be made now: of each operation the ones that wait longest."""
        lanes = {name: lane for name, lane in self._lanes.items() if lane.remembers(now)}
        due: dict[str, list[Batch]] = {}
        for batch in self._in_line(batches):
            due.setdefault(operation(batch[0]), []).append(batch)
        self._lanes |= {name: _Lane(self._draw, name == ANNOUNCED) for name in due.keys() - self._lanes.keys()}
        self._lanes = {name: lane for name, lane in self._lanes.items() if name in due or name in lanes}
        admitted: list[Batch] = []
        for name, lane in self._lanes.items():
            calls = due.get(name, [])
            admitted += calls[: lane.admit(len(calls), now, tables)]
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


class _Lane:
    """One operation: at first a window that grows, and once something was refused one call at a time."""

    def __init__(self, draw: Callable[[], float], announced: bool) -> None:
        self._draw = draw
        self._announced = announced  # the tables tell how many calls there will be
        self._fresh = True
        self._window = 0
        self._held = self._granted = 0
        self._refusals = 0  # since the last grant
        self._refused_at = self._sent_at = float("-inf")
        self._paced = False
        self._unsure = False  # refused for the first time
        self._pause = SOONEST
        self._crowd: Waiting | None = None  # what the tables announced when they were last judged
        self._until = float("-inf")  # when all that could be done
        self._at_most = LATEST  # between calls, while that is a guess
        self._looked_at, self._look_after = float("-inf"), LOOK_AFTER
        self._next_at: float | None = None
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
        if self._paced or self._in_doubt or self._crowd is not None:
            room = not self.running and self._next_at is None and self.looking is None
        else:
            room = self.running <= self._window // 2
        return self._held > 0 and room

    def admit(self, count: int, now: float, tables: Tables) -> int:
        """How many of so many calls may be made now."""
        allowed = self._allowed(count, now, tables) if count else 0
        self.running += allowed
        self._held = count - allowed
        self._sent_at = now if allowed else self._sent_at
        return allowed

    def answered(self, throttled: bool, now: float) -> None:
        """A call came back."""
        self.running -= 1
        self._next_at = None
        if throttled:
            if self._paced and now >= self._until:
                self._pause = min(LATEST, self._pause * SLOWER)
            self._unsure |= not self._refused
            self._refused_at = now
            self._refusals += 1
            return
        self._granted += 1
        self._refusals = 0
        if self._paced:
            self._pause = max(LEAST, self._pause / FASTER)
            self._at_most = self._at_most / BOLDER if self._at_most < LATEST else LATEST
        elif self._crowd is None:
            self._window = min(MOST, self._window + 1)

    @property
    def _refused(self) -> bool:
        return self._refused_at > float("-inf")

    @property
    def _in_doubt(self) -> bool:
        """Whether it has to be decided how to go on: something was refused, or the own share of a bucket is used."""
        return self._unsure or (not self._paced and self._crowd is not None and not self._window)

    @property
    def _look_at(self) -> float | None:
        """When to see whether the crowd is still there, while its size sets the pace."""
        if not self._paced or self._crowd is None:
            return None
        return self._looked_at + self._look_after

    def _allowed(self, count: int, now: float, tables: Tables) -> int:
        if self._fresh:
            self._begin(count, tables)
        overdue = self._look_at is not None and now >= self._look_at
        if (self._in_doubt or overdue) and (self.running or not self._judge(count, now, tables)):
            return 0
        if self._paced:
            return self._one(count, now)
        if self._crowd is None:
            return max(0, min(count, self._window - self.running))
        allowed = min(count, self._window)
        self._window -= allowed
        return allowed

    def _begin(self, count: int, tables: Tables) -> None:
        """The first window: where the tables announce more calls than the bucket holds, the own share of it."""
        self._fresh = False
        self._window = FIRST
        crowd = tables() if self._announced else Waiting()
        if crowd.routes and crowd.routes + count > BUCKET:
            self._crowd = crowd
            self._window = max(1, int(count * BUCKET / (crowd.routes + count) + self._draw()))

    def _judge(self, count: int, now: float, tables: Tables) -> bool:
        """Look at the tables anew: whether others are at work, and how much is left. False until they were read."""
        crowd = Waiting()
        if self._announced:
            self.looking = now if self.looking is None else self.looking
            crowd = tables()
            if crowd.seen < self.looking and now < self.looking + LOOK_WITHIN:
                return False
        before, self._crowd, self.looking = self._crowd, None, None
        written = before.routes - crowd.routes if before is not None else 0
        refused, self._unsure = self._unsure, False
        if self._paced:
            elapsed = crowd.seen - before.seen if before is not None else 0.0
            quiet = not refused and elapsed > 0.0 and written < QUIET * elapsed
            self._look_after *= 2.0
        else:
            quiet = not refused and written <= 0
        self._looked_at = now
        if quiet:
            self._let_go()
            return True
        if not self._paced:
            self._at_most = LATEST if written > CROWD else GUESS
            self._pause = max(LEAST, min(SOONEST, FULL / max(1, self._granted)))  # our part of a full bucket
        self._pace(count, now, crowd)
        return True

    def _let_go(self) -> None:
        """Nobody else is at work."""
        self._paced = False
        self._window = AFTER_LOOK
        self._refused_at = self._until = float("-inf")
        self._next_at = None

    def _pace(self, count: int, now: float, crowd: Waiting) -> None:
        """One call at a time from now on; where there is a crowd, in the time that all of its calls need."""
        self._until = float("-inf")
        if crowd.routes and crowd.routes + count > BUCKET / 2:
            self._crowd = crowd
            self._until = now + SLACK * (crowd.routes + count) / REFILL
        if not self._paced:
            self._next_at = now + self._mean(count, now) * self._draw()
        self._paced = True

    def _one(self, count: int, now: float) -> int:
        if self.running:
            return 0
        if self._next_at is None:
            jitter = 1.0 + JITTER * (2.0 * self._draw() - 1.0)
            self._next_at = self._sent_at + self._mean(count, now) * jitter * (1.0 if count > 1 else LAST)
        return int(now >= self._next_at)

    def _mean(self, count: int, now: float) -> float:
        """The mean pause until the next call: as the tables announce, or as refusals and grants have taught."""
        if now >= self._until:
            return self._pause
        spread = (self._until - now) / count
        if not self._refused:  # it is nothing but a guess
            spread = min(spread, self._at_most)
        return max(spread, self._pause if self._refusals > 1 else LEAST)
