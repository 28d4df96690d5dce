"""Simulated time: tasks that take turns, one at a time, and a clock that goes on only when none of them can.

A task is a thread that holds the baton; `sleep` and `Gate.wait` hand it over. So code that blocks can be run as it is,
many seconds of it in an instant, and always in the same order.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any

from tests.doubles.clock import BOUND

TURNS = 20_000
"""Turns at one moment after which time is taken to stand still for ever."""


class Killed(BaseException):
    """Ends a task wherever it waits, as SIGKILL does."""


class Task:
    """One thread of one process; `owner` is the process."""

    def __init__(self, timeline: Timeline, owner: Hashable, work: Callable[[], object]) -> None:
        self.owner = owner
        self.error: BaseException | None = None
        self.ended = self.killed = False
        self.token = 0  # of the wake-up that counts
        self._timeline, self._work = timeline, work
        self._baton = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Let it go on until it waits or ends."""
        self._baton.release()
        assert self._timeline.back.acquire(timeout=BOUND), "a task does not wait in simulated time"

    def pause(self) -> None:
        """Give the baton back; only from within the task."""
        self._timeline.back.release()
        self._baton.acquire()
        if self.killed:
            raise Killed

    def _run(self) -> None:
        self._baton.acquire()
        try:
            if not self.killed:
                self._work()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self._timeline.back.release()


Ticket = tuple[Task, int]


class Timeline:
    """The clock, and what happens when. `after` is called after each turn, to check what must always hold."""

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        self.after: Callable[[], None] = lambda: None
        self.back = threading.Semaphore(0)
        self.tasks: list[Task] = []
        self._current: Task | None = None
        self._stopped: dict[Hashable, list[Task]] = {}
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def clock(self) -> float:
        """The time, in seconds."""
        return self.now

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), what))

    def spawn(self, owner: Hashable, work: Callable[[], object]) -> Task:
        """Begin a task."""
        task = Task(self, owner, work)
        self.tasks.append(task)
        self.at(self.now, lambda: self._turn(task))
        return task

    def sleep(self, seconds: float) -> None:
        """Let the task that calls this wait."""
        self.wait_until(self.now + seconds)

    def ticket(self) -> Ticket:
        """For the task that calls this: by it one wait can be ended, and no later one."""
        assert self._current is not None, "only a task can wait"
        self._current.token += 1
        return self._current, self._current.token

    def wait_until(self, when: float | None, ticket: Ticket | None = None) -> None:
        """Let the task that calls this wait until then, or until its ticket is `ready`."""
        task, token = ticket or self.ticket()
        if when is not None:
            self.at(when, lambda: self._resume(task, token))
        task.pause()

    def ready(self, ticket: Ticket) -> None:
        """End a wait, if it has not ended yet."""
        self.at(self.now, lambda: self._resume(*ticket))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until then, or until something is so; whether it has come to be so."""
        moment, turns = self.now, 0
        while not done():
            if not self._queue or self._queue[0][0] > until:
                self.now = max(self.now, until)
                return done()
            self.now, _, what = heapq.heappop(self._queue)
            turns = turns + 1 if self.now == moment else 0
            moment = self.now
            assert turns < TURNS, "time stands still"
            what()
            self.after()
        return True

    def remote(self, serve: Callable[[], Any], going: float, coming: float) -> Any:
        """Something that is done elsewhere, whatever becomes of the task that asks for it meanwhile."""
        answers: list[tuple[Any, BaseException | None]] = []
        ticket = self.ticket()

        def arrive() -> None:
            try:
                answers.append((serve(), None))
            except BaseException as error:
                answers.append((None, error))
            self.at(self.now + coming, lambda: self.ready(ticket))

        self.at(self.now + going, arrive)
        self.wait_until(None, ticket)
        answer, error = answers[0]
        if error is not None:
            raise error
        return answer

    def kill(self, owner: Hashable) -> None:
        """SIGKILL: the process does nothing more. Not to be called by a task."""
        assert self._current is None
        for task in [task for task in self.tasks if task.owner == owner]:
            task.killed = True
            self.tasks.remove(task)
            if not task.ended:
                task.step()
        self._stopped.pop(owner, None)

    def stop(self, owner: Hashable) -> None:
        """SIGSTOP."""
        self._stopped[owner] = []

    def go_on(self, owner: Hashable) -> None:
        """SIGCONT."""
        for task in self._stopped.pop(owner):
            self.at(self.now, lambda task=task: self._turn(task))  # type: ignore[misc]

    def close(self) -> None:
        """End every task."""
        for owner in {task.owner for task in self.tasks}:
            self.kill(owner)

    def _resume(self, task: Task, token: int) -> None:
        if task.token == token:
            task.token += 1
            self._turn(task)

    def _turn(self, task: Task) -> None:
        if task.killed or task.ended:
            return
        if task.owner in self._stopped:
            self._stopped[task.owner].append(task)
            return
        self._current = task
        task.step()
        self._current = None
        if task.ended:
            self.tasks.remove(task)
            if task.error is not None:
                raise task.error


class Gate:
    """Stands in for threading.Condition and threading.Event: the lock is not needed, the wait is in simulated time."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._waiting: list[Ticket] = []
        self._set = False

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is notified or set; a millisecond at least, so that roundings let time go on."""
        if self._set:
            return True
        ticket = self._timeline.ticket()
        self._waiting.append(ticket)
        self._timeline.wait_until(None if timeout is None else self._timeline.now + max(timeout, 0.001), ticket)
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        return self._set

    def notify_all(self) -> None:
        """Wake whoever waits."""
        waiting, self._waiting = self._waiting, []
        for ticket in waiting:
            self._timeline.ready(ticket)

    def set(self) -> None:
        """As threading.Event does."""
        self._set = True
        self.notify_all()

    def is_set(self) -> bool:
        """As threading.Event does."""
        return self._set
