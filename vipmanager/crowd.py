"""What the route tables show of others who write routes at this moment: whether they are a crowd, and how large it is.

Nobody tells a process how many others there are. But each has read the tables before its first call; when its first
calls are answered, the tables show how many routes others have taken over meanwhile. Pure: time is what looks say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from vipmanager.model import RouteTable

Key = tuple[str, ...]

BUCKET = 100
REFILL = 5.0
"""Calls at once, and calls a second, of one operation: what public measurements of route writes fit."""
FULL = BUCKET / REFILL
"""Seconds in which an empty bucket is full again; what is older says nothing of it any more."""
RESERVE, SLACK = 10.0, 0.03
"""Tokens that a crowd leaves in the bucket, and per call that is still to be made: else chance has more refused."""
UNSURE, SURE = 10.0, 60.0
"""How many calls' worth of evidence an estimate counts for: a mere assumption, and at most."""
CALM = 3
"""Grants that one's own refusals are weighed against: a single one may be chance."""
QUIET = 0.25
"""Share of the calls that were expected, below which the estimate counts for nothing."""


@dataclass(frozen=True)
class Look:
    """The routes to ENIs as a process saw them.

    `routes` counts them by ENI, without the process's own ENIs; `lost` those without a live target that others are to
    write. Counts are small and quickly compared; that an ENI gains as many routes as it loses is not what happens when
    a zone fails.
    """

    seen: float = float("-inf")
    tables: frozenset[str] = frozenset()
    routes: Counter[str] = field(default_factory=Counter)
    lost: int = 0

    @property
    def others(self) -> int:
        """All routes to ENIs of others."""
        return self.routes.total()

    def written_since(self, before: Look) -> int:
        """How many routes have been taken from the ENI that they pointed to; 0 where the tables are not the same."""
        return (before.routes - self.routes).total() if self.tables == before.tables else 0


def look(tables: Iterable[RouteTable] | None, own: Collection[Key], enis: Collection[str]) -> Look:
    """See what matters here: `own` are the keys of the writes that this process is to make, `enis` its ENIs."""
    found = tuple(tables or ())
    targets = Counter(route.target for table in found for route in table.routes.values())
    others = {target: count for target, count in targets.items() if target.startswith("eni-") and target not in enis}
    lost = (
        ("route", table.id, str(route.destination))
        for table in found
        for route in table.routes.values()
        if not route.live and route.target in others
    )
    return Look(
        min((table.seen for table in found), default=float("-inf")),
        frozenset(table.id for table in found),
        Counter(others),
        sum(key not in own for key in lost),
    )


class Crowd:
    """Others who write routes: how many calls they are still to make (`rest`), and the `tokens` in the bucket.

    At first as many as there are routes to ENIs of others, at most: a healthy zone's never move. `announced`: those are
    blackholes, so that where something is refused most of them are taken to be a crowd's.
    """

    def __init__(self, first: Look, most: int, announced: bool = False) -> None:
        self.rest, self.tokens = float(most), float(BUCKET)
        self._first = self._last = first
        self._most, self._announced = most, announced
        self._written = self._granted = 0  # by others and by us since the first look
        self._share = 0.0
        self._trust = UNSURE

    def share(self, count: int) -> float:
        """How many of so many calls to make before it is looked again, when each does as we do; on average."""
        self._share = max(1.0, count * min(1.0, self.tokens / (self.rest + count)))
        return self._share

    def spare(self, count: int) -> float:
        """How many of so many calls to make at once later on, so that all together leave the reserve."""
        return count * min(1.0, self._spare / (self.rest + count))

    def lasts(self, count: int) -> float:
        """Seconds until so many calls and all of theirs are made, and the reserve is there."""
        return max(0.0, self.rest + count + self._reserve - self.tokens) / REFILL

    def met(self, look: Look, count: int, granted: int, refused: int) -> None:
        """Learn from the first look after calls of ours: so many were granted and refused, `count` are left.

        The others are taken to have had as large a share of their calls granted as was ours to make.
        """
        if look.seen > self._first.seen + FULL:  # too long ago to tell what has been written just now
            self._first, self._granted = look, 0
            self._note(look, 0)
        else:
            self._note(look, granted)
        own = max(granted, self._granted)
        made, self._share = self._share or max(1.0, own), 0.0
        explained = self._written + own
        self.rest = self._bounded(self._written * max(0.0, own + count - made) / made)
        self.tokens = 0.0 if refused else max(0.0, BUCKET - explained)
        self._trust = float(explained)
        if refused and (not own or (own if self._announced else explained) < BUCKET / 2):  # who knows by how many
            self.missed()

    def missed(self) -> None:
        """Nothing is known: the worst is assumed until the next look."""
        self.rest, self.tokens, self._trust = self._bounded(self._most), 0.0, UNSURE

    def followed(self, look: Look, count: int, granted: int, refused: int) -> None:
        """Learn from a later look: where they write more than was thought they are more, and the reverse."""
        elapsed, before = look.seen - self._last.seen, self._written
        if elapsed <= 0.0:
            return
        expected = self._expected(count + granted, REFILL * elapsed)
        self._note(look, granted)
        used = self._written - before + granted
        self.tokens = 0.0 if refused else min(BUCKET, max(0.0, self.tokens + REFILL * elapsed - used))
        rest = self.rest - (used - granted)
        wanted = used * (1.0 + refused / (granted + CALM))
        if used < QUIET * expected:
            self._trust = 0.0
        if rest > 0.0:
            rest *= (self._trust + wanted) / (self._trust + expected)
        elif 2.0 * used > REFILL * elapsed:  # all should be done, and they still write: as many again as just now
            rest = used
        if refused > max(1.0, granted / 2.0):  # far more than was thought: all that is announced, or as many again
            rest = max(rest, self._most if self._announced else self._written)
        self._trust = min(SURE, self._trust + expected)
        self.rest = self._bounded(rest)

    @property
    def _reserve(self) -> float:
        return RESERVE + SLACK * self.rest

    @property
    def _spare(self) -> float:
        return max(0.0, self.tokens - self._reserve)

    def _expected(self, count: int, refilled: float) -> float:
        """The calls, ours among them, that all were to make meanwhile."""
        calls = self.rest + count - self._spare
        if calls <= 0.0:
            return self.rest + count
        return self._spare + min(calls, refilled * calls / (calls + max(0.0, self._reserve - self.tokens)))

    def _bounded(self, rest: float) -> float:
        return max(0.0, min(rest, self._most - self._written))

    def _note(self, look: Look, granted: int) -> None:
        self._granted += granted
        self._written = min(self._most, max(0, look.written_since(self._first) - self._granted))
        self._last = look
