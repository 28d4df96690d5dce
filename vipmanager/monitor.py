"""What the outside sees of a running vipmanager: alive, ready, status file, metrics, events.

The loop's thread tells it what each round came to; threads that serve HTTP ask. Nothing here decides anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from vipmanager import __version__
from vipmanager.logs import event
from vipmanager.model import Address

if TYPE_CHECKING:  # an init run does without
    from vipmanager.metrics import Metrics
    from vipmanager.ports import EventSink
    from vipmanager.status_file import StatusFile
    from vipmanager.watch import Watch

log = logging.getLogger("vipmanager")

FRESH = 10.0
"""Seconds for which a round of the loop shows that it lives; an idle one is woken to see whether it does."""

JUMP = 1.0
"""Seconds by which the wall clock must jump before times in the status are corrected: a file that only time changes
would be written for nothing."""

FLAP_WITHIN, FLAP_AFTER = 600.0, 3
"""Seconds, and claims of one address in them: the next one is a flap. A switch-over, and one back, are none; nor are
many addresses that move together."""

REMEMBERED = 900.0
"""Seconds for which the slowest convergence is shown: most are over before the first scrape or between two."""

ZERO = ("claims_total", "concessions_total", "flaps_total", "drift_total", "convergence_seconds")


class Monitor:
    """One for each process. Without file, metrics or sink, that part is left out.

    What the reports call is the loop's; `alive`, `ready`, `hidden` and `serves` may be called from any thread.
    `clock` is the loop's own, `wall` Unix time.
    """

    def __init__(
        self,
        mode: str,
        *,
        file: StatusFile | None = None,
        metrics: Metrics | None = None,
        sink: EventSink | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        hidden: Collection[Address] = (),
    ) -> None:
        self.mode = mode
        self._file, self._metrics, self._sink = file, metrics, sink
        self._clock, self._wall = clock, wall
        self._watch: Watch | None = None
        self._beats = threading.Condition()
        self._beat_at, self._resting = clock(), False
        self._not_ready, self._hidden = "starting", frozenset(hidden)
        self._offset = wall() - clock()
        self._stamps: dict[str, tuple[object, float]] = {}
        self._status: Mapping[str, Any] = {}
        self._unwritable = ""
        self._serves, self._serves_unwritten = "", False
        self._uncompared: set[str] = set()
        self._compared_at: float | None = None
        self._open_since: float | None = None
        self._claims: deque[tuple[float, Address]] = deque()
        self._claimed: Counter[Address] = Counter()
        self._slow: tuple[tuple[float, float], ...] = ()
        if metrics is not None:
            metrics.set("vipmanager_build_info", 1, version=__version__, mode=mode)
            metrics.set("vipmanager_ready", 0)
            for name in ZERO:
                metrics.begin(f"vipmanager_{name}")
            metrics.compute("vipmanager_slowest_convergence_seconds", self._slowest)
            metrics.compute("vipmanager_loop_age_seconds", self._loop_age)
            metrics.compute("vipmanager_resync_age_seconds", lambda: self.age(self._compared_at))

    def attach(self, watch: Watch) -> None:
        """The loop's watch: it can be woken, it hears the kernel, and counts what it missed."""
        self._watch = watch
        self.compute("vipmanager_netlink_overruns_total", lambda: watch.overruns)

    # the heartbeat

    def beat(self) -> None:
        """A round begins."""
        with self._beats:
            self._beat_at, self._resting = self._clock(), False
            self._beats.notify_all()
        if self._serves_unwritten and self._status:
            self._write("")

    def rest(self) -> None:
        """The loop is about to wait until something happens."""
        self._resting = True

    def alive(self, within: float) -> bool:
        """Whether the loop has made a round lately; an idle one is woken, and has `within` seconds to show a beat."""
        with self._beats:
            asked = self._clock()
            if asked < self._beat_at + FRESH:
                return True
            if self._watch is not None:
                self._watch.wake()
            return self._beats.wait_for(lambda: self._beat_at >= asked, within)

    def _loop_age(self) -> float:
        return 0.0 if self._resting else max(0.0, self._clock() - self._beat_at)

    # readiness, the status file

    def ready(self) -> tuple[bool, str]:
        """Whether everything desired was in place at the end of the last round, and if not, why."""
        why = self._not_ready
        return not why, why

    def hidden(self) -> frozenset[Address]:
        """The floating addresses of this pod or node: nothing of vipmanager's answers on them."""
        return self._hidden

    def serves(self, at: str) -> None:
        """Where /readyz can be asked from within, as HOST:PORT; the loop writes it into the status."""
        if at == self._serves:
            return
        self._serves, self._serves_unwritten = at, True
        if self._watch is not None:
            self._watch.wake()

    def publish(self, status: Mapping[str, Any], not_ready: str, hidden: Collection[Address]) -> None:
        """What a round came to; `not_ready` is empty when everything is in place."""
        self._not_ready, self._hidden = not_ready, frozenset(hidden)
        self.set("vipmanager_ready", 0 if not_ready else 1)
        self._status = status
        self._write("")

    def ended(self, result: str) -> None:
        """The process is about to end: `ok`, `failed` or `stopped`."""
        if result != "ok":
            self._not_ready = self._not_ready or result
        self._write(result)

    def _write(self, result: str) -> None:
        self._serves_unwritten = False
        if self._file is None:
            return
        served = {"serves": self._serves} if self._serves else {}
        known = {**self._status, **served, "ready": not self._not_ready, "not_ready": self._not_ready, "result": result}
        why = self._file.write({"mode": self.mode, **known})
        if why and why != self._unwritable:
            level = logging.DEBUG if self.mode == "init" else logging.WARNING
            event(log, level, "status not written", why=why)
        self._unwritable = why

    def unix(self, at: float) -> float:
        """A time of the loop's clock as Unix time; the same each time, unless the wall clock was set."""
        offset = self._wall() - self._clock()
        if abs(offset - self._offset) > JUMP:
            self._offset = offset
        return round(at + self._offset, 3)

    def since(self, states: Mapping[str, object]) -> dict[str, float]:
        """When each of these came to be in its present state, as this process saw it, in Unix time."""
        now = round(self._wall(), 3)
        before = self._stamps
        self._stamps = {
            name: before[name] if name in before and before[name][0] == state else (state, now)
            for name, state in states.items()
        }
        return {name: stamp for name, (_, stamp) in self._stamps.items()}

    # metrics

    def begin(self, name: str, **labels: str) -> None:
        """See Metrics."""
        if self._metrics is not None:
            self._metrics.begin(name, **labels)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """See Metrics."""
        if self._metrics is not None:
            self._metrics.add(name, amount, **labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        """See Metrics."""
        if self._metrics is not None:
            self._metrics.set(name, value, **labels)

    def replace(self, name: str, values: Mapping[tuple[str, ...], float]) -> None:
        """See Metrics."""
        if self._metrics is not None:
            self._metrics.replace(name, values)

    def compute(self, name: str, function: Callable[[], float | None], **labels: str) -> None:
        """See Metrics."""
        if self._metrics is not None:
            self._metrics.compute(name, function, **labels)

    def claimed(self, address: Address) -> None:
        """A claim is complete."""
        if self._metrics is None:
            return
        now = self._clock()
        while self._claims and self._claims[0][0] <= now - FLAP_WITHIN:
            _, old = self._claims.popleft()
            self._claimed[old] -= 1
            if not self._claimed[old]:
                del self._claimed[old]
        self._metrics.add("vipmanager_claims_total")
        if self._claimed[address] >= FLAP_AFTER:
            self._metrics.add("vipmanager_flaps_total")
        self._claims.append((now, address))
        self._claimed[address] += 1

    def progress(self, *, under_way: bool, began: float | None = None) -> None:
        """Whether anything is left to do. `began`: when the round began that finds so; the kernel may be earlier."""
        heard = None
        began = self._clock() if began is None else began
        if self._watch is not None:
            heard, self._watch.heard = self._watch.heard, None
        if under_way and self._open_since is None:
            self._open_since = began if heard is None else min(heard, began)
        elif not under_way and self._open_since is not None:
            self._converged(self._clock() - self._open_since)
            self._open_since = None

    def _converged(self, took: float) -> None:
        if self._metrics is None:
            return
        self._metrics.observe("vipmanager_convergence_seconds", took)
        now = self._clock()
        longer = ((at, each) for at, each in self._slow if each > took and at > now - REMEMBERED)
        self._slow = (*longer, (now, took))  # the longest first; one assignment, because another thread reads it

    def _slowest(self) -> float:
        oldest = self._clock() - REMEMBERED
        return next((took for at, took in self._slow if at > oldest), 0.0)

    def compare(self, facts: Collection[str]) -> None:
        """EC2 is about to be compared in full: these facts are read anew. None at all: there is nothing to compare."""
        self._uncompared = set(facts)
        if not facts:
            self._compared_at = None
        elif self._compared_at is None:
            self._compared_at = self._clock()

    def compared(self, fact: str) -> None:
        """EC2 has answered; the last of the facts makes the comparison complete."""
        if fact in self._uncompared:
            self._uncompared.discard(fact)
            if not self._uncompared:
                self._compared_at = self._clock()

    def age(self, at: float | None) -> float | None:
        """Seconds since a time of the loop's clock."""
        return None if at is None else max(0.0, self._clock() - at)

    # events

    def emit(self, reason: str, message: str, *, warning: bool = False, about: str = "") -> None:
        """Tell Kubernetes, where a sink is given. See EventSink."""
        if self._sink is not None:
            self._sink.emit(reason, message, warning=warning, about=about)
