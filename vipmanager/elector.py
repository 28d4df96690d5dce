"""The leader election at work: one thread does what `plan.election` says, another watches the lease.

Calls may hang for as long as the client's own time limit, so whoever acts on a Tenure checks `until` for itself.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from typing import Any

from vipmanager.config import Config
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.logs import event
from vipmanager.model_node import Lease, Tenure
from vipmanager.plan import election
from vipmanager.plan.election_facts import Acquire, Create, Facts, Read, Release, Renew, Step, Terms, Wait
from vipmanager.ports import LeasePort

log = logging.getLogger("vipmanager.elector")

WATCH_AGAIN = 0.1
WATCH_AGAIN_MOST = 5.0
"""Seconds before a broken watch is begun again: drawn from a range that doubles, up to this."""

REMIND = 30.0
"""Seconds between two reminders of a call that is denied."""

Change = Callable[[Facts], Facts]
Note = tuple[int, str, dict[str, Any]]


class Elector:
    """Takes part in the election. Every method may be called from any thread; none of them waits for a call."""

    def __init__(
        self,
        lease: LeasePort,
        config: Config,
        identity: str,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        wake: Callable[[], None],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._lease, self._clock, self._wall_clock, self._wake, self._draw = lease, clock, wall_clock, wake, draw
        self._changed = threading.Condition()
        self._facts = Facts(Terms.of(identity, config))
        self._tenure = Tenure()
        self._writing = False
        self._stopped = threading.Event()
        self._crash: BaseException | None = None
        self._events = 0

    def start(self) -> None:
        """Begin."""
        for work in (self._elect, self._watch):
            name = f"vipmanager{work.__name__.replace('_', '-')}"
            threading.Thread(target=self._guarded, args=(work,), daemon=True, name=name).start()

    def stop(self) -> None:
        """Call no more; a call that is under way is not waited for."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def tenure(self) -> Tenure:
        """The last published state. Raises what a thread died of: without it an address would stay for ever."""
        if self._crash is not None:
            raise self._crash
        return self._tenure

    def set_health(self, healthy: bool, why: str = "") -> None:
        """Whether this node is fit to hold, and why not. It counts as healthy until it is told otherwise."""
        self._fold(lambda facts: election.with_health(facts, healthy, why))

    def resign(self, why: str, *, for_good: bool = False) -> None:
        """Give the lease back; the addresses are off already, because another node may take it at once.

        `for_good`: never take it again, because the process is about to end. Else (in answer to `yielding_to`) this
        node leaves the others some time to take it, and then is a candidate again.
        """
        self._fold(lambda facts: election.resigned(facts, why, self._clock(), for_good=for_good))

    def released(self) -> bool:
        """Whether the resignation has been stored, or there is nothing to give back."""
        return not self._writing and election.released(self._facts)

    # the state, and telling of it

    def _fold(self, change: Change, *, written: bool = False) -> None:
        """Change what is known, publish what follows, and let the other thread look at it."""
        with self._changed:
            before, old, waiting = self._facts, self._tenure, not self.released()
            self._facts = change(before)
            self._writing = self._writing and not written
            new = self._tenure = election.tenure(self._facts, self._clock(), self._wall_clock(), old)
            if self._facts != before:
                self._changed.notify_all()
            changed = new != old or (waiting and self.released())
        for level, name, facts in _changes(old, new, before, self._facts):  # a log that blocks must not hold the lock
            event(log, level, name, **facts)
        if changed:
            self._wake()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # handed to the main loop, which raises it: a bug must not hide in a thread
            self._crash = error
            with contextlib.suppress(Exception):
                self._wake()

    # the machine

    def _elect(self) -> None:
        calls = _Complaints("lease calls work again")
        while not self._stopped.is_set():
            self._fold(lambda facts: facts)  # time has passed: a tenure may have ended
            with self._changed:
                now = self._clock()
                step = election.step(self._facts, now)
                if isinstance(step, Wait):
                    if not self._stopped.is_set():
                        self._changed.wait(None if step.until is None else max(0.0, step.until - now))
                    continue
                self._writing = not isinstance(step, Read)
            self._call(step, calls)

    def _call(self, step: Step, calls: _Complaints) -> None:
        sent = self._clock()
        try:
            answer = self._send(step)
        except CallError as error:
            at, failure, draw = self._clock(), error.failure, self._draw()
            if failure.kind is ErrorKind.RACE:
                event(log, logging.DEBUG, "lease changed meanwhile", call=failure.call)
            else:
                calls.failed(failure, at)
            self._fold(lambda facts: election.failed(facts, step, failure, at, draw), written=True)
            return
        at = self._clock()
        calls.worked()
        if isinstance(step, Read):
            self._fold(lambda facts: election.read(facts, answer, sent, at))
        elif answer is not None:
            self._fold(lambda facts: election.written(facts, step, answer, sent, at), written=True)

    def _send(self, step: Step) -> Lease | None:
        if isinstance(step, Create):
            return self._lease.create(step.lease)
        if isinstance(step, Read | Wait):
            return self._lease.read()
        renew = isinstance(step, Acquire | Renew | Release)
        return self._lease.update(step.lease, renew=renew, acquire=isinstance(step, Acquire))

    # the watch

    def _watch(self) -> None:
        calls, attempt = _Complaints("lease is watched again"), 0
        silence = float(self._facts.terms.duration)
        while not self._stopped.is_set():
            heard = self._events
            try:
                self._lease.watch(self._seen, silence)
            except CallError as error:
                failure: Failure | None = error.failure
            else:
                failure = None
            if self._events != heard:
                attempt = 0
                calls.worked()
            # Nothing to see for long is no failure: a lease that nobody wants is silent.
            elif failure is not None and (attempt or failure.kind is not ErrorKind.RETRY):
                calls.failed(failure, self._clock())
            attempt += 1
            self._stopped.wait(self._draw() * min(WATCH_AGAIN_MOST, WATCH_AGAIN * 2.0 ** min(attempt, 10)))

    def _seen(self, lease: Lease | None) -> None:
        at = self._clock()
        self._events += 1
        if not self._stopped.is_set():
            self._fold(lambda facts: election.watched(facts, lease, at))


def _changes(old: Tenure, new: Tenure, before: Facts, after: Facts) -> list[Note]:
    """What is worth a line in the log."""
    notes: list[Note] = []
    name = after.terms.identity
    if new.leading and (not old.leading or new.began != old.began):
        notes.append((logging.INFO, "lease taken", {"why": new.why, "transitions": new.transitions}))
    if old.leading and not new.leading and not (after.resigning or after.left):
        notes.append((logging.INFO, "lease lost", {"why": new.why, "holder": new.holder}))
    if before.ours and not after.ours and (before.resigning or before.left):
        notes.append((logging.INFO, "lease released", {"why": new.why}))
    elif old.holder != new.holder and name not in (old.holder, new.holder):
        notes.append((logging.INFO, "holder changed", {"holder": new.holder or "nobody", "why": new.why}))
    offered, was_offered = (facts.record.offered if facts.record else "" for facts in (after, before))
    if bool(offered) != bool(was_offered) and new.leading:
        text = "lease offered" if offered else "lease offered no more"
        notes.append((logging.INFO, text, {"why": offered}))
    if new.yielding_to and new.yielding_to != old.yielding_to:
        notes.append((logging.INFO, "lease wanted", {"by": new.yielding_to}))
    return notes


class _Complaints:
    """Says once what fails, what else fails, and when it works again; repeats what is denied, but seldom."""

    def __init__(self, worked: str) -> None:
        self._worked = worked
        self._said: dict[tuple[ErrorKind, str, str], float] = {}

    def failed(self, failure: Failure, now: float) -> None:
        """A call failed."""
        denied = failure.kind is ErrorKind.DENIED
        reason = (failure.kind, failure.call, failure.code)
        if reason in self._said and not (denied and now >= self._said[reason] + REMIND):
            return
        self._said[reason] = now
        level = logging.ERROR if denied else logging.WARNING
        event(log, level, "lease call failed", call=failure.call, code=failure.code, error=failure.message,
              remedy=failure.remedy)  # fmt: skip

    def worked(self) -> None:
        """A call was answered."""
        if self._said:
            event(log, logging.INFO, self._worked)
            self._said.clear()
