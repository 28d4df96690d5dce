"""Sees each change of EC2's as it happens: what a round or a resync mends again would show in no state at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.chaos.world import Floating, Home
from lab.ec2.layer import UnderWay
from lab.ec2.state import VpcState

if TYPE_CHECKING:
    from lab.chaos.stage import Stage

HELD_FOR = 2.0
"""Seconds after which a decision that was made before an address came or went is no excuse for a call."""
PROMPT = 8.0
"""Seconds from an address's coming to its delivery where nothing goes wrong: it takes two round trips.

Less than the 10 s that a former holder waits before it deletes its routes: who only waits for that, takes nothing over.
"""


@dataclass
class Episode:
    """An address on an interface, from its coming to its leaving. Times: time.monotonic().

    `over`: it left, or came to another pod too. `contested`: another claim of it had not been done when it came.
    """

    floating: Floating
    home: Home
    came: float
    contested: bool
    delivered: float | None = None
    over: float | None = None


class Witness:
    """Notes what sidecars take from a pod that has had the address for a while, and how long each delivery took.

    What the schedule itself does is no sidecar's doing. Where pods share an ENI nobody can tell whose a route to it is.
    """

    def __init__(self, stage: Stage) -> None:
        self.complaints: list[str] = []
        self.episodes: list[Episode] = []
        self.stopping: set[str] = set()  # pods that were told to stop, and may let go what they hold
        self.late: dict[str, float] = {}  # pod → until when its calls may come late, on time.monotonic()
        self._stage = stage
        self._lock = threading.Lock()
        self._places = self._all(stage.lab.ec2.state())
        self._seen: dict[str, list[tuple[float, frozenset[str]]]] = {
            floating.name: [(0.0, frozenset(self._places[floating.name].values()))]
            for floating in stage.world.floatings
        }
        self._since: dict[tuple[str, str], float] = {}  # (floating, place) → since when it leads where it does
        self._left: dict[tuple[str, str], float] = {}  # (floating, pod) → when
        stage.lab.ec2.on_change(self._changed)

    # What the application does ---------------------------------------------------------------------------------------

    def came(self, floating: Floating, home: Home) -> None:
        """An address is about to appear on an interface."""
        now = time.monotonic()
        with self._lock:
            others = [each for each in self.episodes if each.floating == floating and each.over is None]
            contested = any(each.delivered is None and each.home.pod != home.pod for each in others)
            for each in others:
                each.over = now
            episode = Episode(floating, home, now, contested)
            self.episodes.append(episode)
            self._note_delivery(floating, now)

    def left(self, floating: Floating, home: Home) -> None:
        """An address leaves an interface."""
        now = time.monotonic()
        with self._lock:
            self._left[floating.name, home.pod] = now
            for each in self.episodes:
                if (each.floating, each.home, each.over) == (floating, home, None):
                    each.over = now

    # What EC2 shows --------------------------------------------------------------------------------------------------

    def targets_at(self, floating: Floating, at: float) -> frozenset[str]:
        """All that it was delivered to at a time."""
        with self._lock:
            return [targets for since, targets in self._seen[floating.name] if since <= at][-1]

    def targets_since(self, floating: Floating, since: float) -> list[frozenset[str]]:
        """All that it was delivered to then, and at each change from then on."""
        first = self.targets_at(floating, since)
        with self._lock:
            return [first, *(targets for at, targets in self._seen[floating.name] if at > since)]

    def _all(self, state: VpcState) -> dict[str, Mapping[str, str]]:
        return {floating.name: self._stage.places(floating, state) for floating in self._stage.world.floatings}

    def _changed(self, state: VpcState) -> None:
        call, now = self._stage.lab.ec2.under_way, time.monotonic()
        with self._lock:
            before, self._places = self._places, self._all(state)
            for floating in self._stage.world.floatings:
                was, places = before[floating.name], self._places[floating.name]
                if was == places:
                    continue
                self._seen[floating.name].append((now, frozenset(places.values())))
                self._note_delivery(floating, now)
                for place in was.keys() & places.keys():
                    if was[place] == places[place]:
                        continue
                    if call is not None and self._since.get((floating.name, place), 0.0) < call.started - HELD_FOR:
                        self._judge(floating, place, was[place], places[place], call)
                    self._since[floating.name, place] = now

    def _note_delivery(self, floating: Floating, now: float) -> None:
        targets = set(self._places[floating.name].values())
        for each in self.episodes:
            if (each.floating, each.over, each.delivered) == (floating, None, None) and targets == {
                self._stage.eni(each.home)
            }:
                each.delivered = now

    def _judge(self, floating: Floating, place: str, was: str, now: str, call: UnderWay) -> None:
        """Whether it was for the caller to take it away from who had it."""
        stage, pod = self._stage, self._stage.pod_of(call.access_key)
        holders = {home: since for home, since in stage.held_since(floating).items() if stage.eni(home) == was}
        shared = sum(stage.eni(each) == was for each in stage.wanted) > 1
        if shared or not holders or min(holders.values()) > call.started - HELD_FOR:
            return
        if pod in self.stopping and any(home.pod == pod for home in holders):
            return
        if now != "nothing" or not call.action.startswith("DeleteRoute"):
            has = any(home.pod == pod and home not in holders for home in stage.holders(floating))
            lately = self._left.get((floating.name, pod), 0.0) > call.started - HELD_FOR
            if has or lately or call.started < self.late.get(pod, 0.0):
                return
        whose = ", ".join(map(str, holders))
        self.complaints.append(
            f"{pod or call.access_key} took {floating.name} from {whose}, which had it, by {call.action} in {place}: "
            f"{was} → {now}"
        )

    # Judging ---------------------------------------------------------------------------------------------------------

    def too_slow(self, since: float) -> Iterator[str]:
        """The deliveries that nothing excuses: of what came since then, where no fault had to do with it."""
        now = time.monotonic()
        with self._lock:
            episodes = list(self.episodes)
        for each in episodes:
            end = min(at for at in (each.delivered, each.over, now) if at is not None)
            if each.came < since or end - each.came <= PROMPT or each.contested:
                continue
            if not self._stage.in_trouble(each.floating, each.home, until=min(end, each.came + PROMPT)):
                done = "delivered" if end == each.delivered else "not delivered"
                yield f"{each.floating.name} was {done} {end - each.came:.1f} s after it came to {each.home}"
