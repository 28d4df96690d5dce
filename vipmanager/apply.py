"""Plan → outcomes, in parallel: each action succeeds or fails for itself, and is tried again for itself."""

from __future__ import annotations

import queue
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vipmanager.actions import (
    AddPodRule,
    AssignAddress,
    AssociateEip,
    DeletePodRoute,
    DeletePodRule,
    DeleteRoute,
    DisableSourceDestCheck,
    PodAction,
    SetPodRoute,
    SetRoute,
    UnassignAddress,
    VpcAction,
)
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.ports import Ec2Port, RoutesPort

WORKERS = 16
"""Calls under way at once; EC2's own bucket for route writes holds about 100."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Backoff:
    """Full jitter: a delay is uniform between 0 and base·2ⁿ seconds, at most `cap` (AWS Architecture Blog, 2015)."""

    base: float
    cap: float

    def delay(self, attempt: int, draw: Callable[[], float]) -> float:
        """Seconds before attempt number `attempt` (from 1) is repeated; `draw` gives a number in [0, 1)."""
        return draw() * min(self.cap, self.base * 2.0 ** min(attempt, 32))


PASSING = Backoff(0.1, 20.0)
STANDING = Backoff(2.0, 120.0)
"""What a repetition will hardly change (denied, limit, invalid) is repeated seldom, in case somebody mends it; not so
what is over when a clock is right again."""


@dataclass(frozen=True)
class Retry:
    """A failed item: how often, when it is due again, and why."""

    attempts: int
    due: float
    failure: Failure

    @property
    def standing(self) -> bool:
        """True when a repetition is not expected to help."""
        return self.failure.kind in (ErrorKind.DENIED, ErrorKind.LIMIT, ErrorKind.INVALID)


class RetryBook:
    """Which items failed and when each is due again. Time is passed in."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._retries: dict[Key, Retry] = {}

    def failed(self, key: Key, failure: Failure, now: float) -> Retry:
        """Note a failure; returns when and why it is tried again."""
        attempts = self._retries[key].attempts + 1 if key in self._retries else 1
        retry = Retry(attempts, 0.0, failure)
        backoff = STANDING if retry.standing and not failure.of_credentials else PASSING
        retry = Retry(attempts, now + backoff.delay(attempts, self._draw), failure)
        self._retries[key] = retry
        return retry

    def alone(self, key: Key, failure: Failure, now: float) -> None:
        """Its batch was refused as a whole: it is due at once, by itself, and has not failed until then."""
        self._retries[key] = Retry(0, now, replace(failure, kind=ErrorKind.RETRY))

    def throttled(self, key: Key, failure: Failure, now: float) -> Retry:
        """Too many calls were made, which is not this one's fault: when it has its turn again is the pacer's matter."""
        attempts = self._retries[key].attempts if key in self._retries else 0
        self._retries[key] = Retry(attempts, now, failure)
        return self._retries[key]

    def sole(self, key: Key) -> bool:
        """Whether it failed and must not share a call with others."""
        return key in self._retries and not self._retries[key].failure.throttled

    def succeeded(self, key: Key) -> None:
        """Forget its failures."""
        self._retries.pop(key, None)

    def due(self, key: Key, now: float) -> bool:
        """True when it never failed, or may be tried again."""
        return key not in self._retries or self._retries[key].due <= now

    def get(self, key: Key) -> Retry | None:
        """The last failure of an item, if it stands."""
        return self._retries.get(key)

    def keep(self, keys: Collection[Key]) -> None:
        """Forget items that are no longer wanted."""
        self._retries = {key: retry for key, retry in self._retries.items() if key in keys}

    def next_due(self, keys: Iterable[Key]) -> float | None:
        """The earliest time at which one of these may be tried again."""
        return min((self._retries[key].due for key in keys if key in self._retries), default=None)

    def standing(self, paced: float | None = None) -> dict[Key, Retry]:
        """Everything that has failed and has not succeeded since; what was throttled is due at `paced`, or later."""
        if paced is None:
            return dict(self._retries)
        return {
            key: replace(retry, due=max(retry.due, paced)) if retry.failure.throttled else retry
            for key, retry in self._retries.items()
        }


@dataclass(frozen=True)
class Done:
    """A finished job: the keys it was for, its value or its failure, and a bug's exception if it was one."""

    keys: tuple[Key, ...]
    subject: Any
    value: Any = None
    failure: Failure | None = None
    crash: BaseException | None = None


class Jobs:
    """Runs calls on daemon threads and hands the results back to one thread.

    Daemon threads, because a call that hangs must not keep a stopping process alive; threads are started as needed.
    """

    def __init__(self, wake: Callable[[], None], workers: int = WORKERS) -> None:
        self._wake = wake
        self._workers = workers
        self._idle = threading.Semaphore(0)
        self._threads = 0
        self._queue: queue.SimpleQueue[tuple[tuple[Key, ...], Any, Callable[[], Any]]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self.running: set[Key] = set()

    def submit(self, keys: tuple[Key, ...], subject: Any, call: Callable[[], Any]) -> None:
        """Run a call; its keys count as running until its result is collected."""
        self.running.update(keys)
        self._queue.put((keys, subject, call))
        if not self._idle.acquire(blocking=False) and self._threads < self._workers:
            self._threads += 1
            threading.Thread(target=self._work, daemon=True, name=f"vipmanager-{self._threads}").start()

    def collect(self) -> list[Done]:
        """What has finished since the last time; does not wait."""
        finished = []
        while not self._done.empty():
            done = self._done.get()
            self.running.difference_update(done.keys)
            finished.append(done)
        return finished

    def _work(self) -> None:
        while True:
            keys, subject, call = self._queue.get()
            try:
                done = Done(keys, subject, value=call())
            except CallError as error:
                done = Done(keys, subject, failure=error.failure)
            except BaseException as error:  # handed to the loop, which raises it: a bug must not hide in a thread
                done = Done(keys, subject, crash=error)
            self._done.put(done)
            self._idle.release()
            self._wake()


def batches(actions: Iterable[VpcAction], alone: Callable[[Key], bool]) -> list[tuple[VpcAction, ...]]:
    """One call each: address actions of one ENI and family go together unless one failed before and must go alone.

    AssignPrivateIpAddresses has no maximum of its own (EC2 API reference; botocore's model): what bounds a call is how
    many addresses the instance type lets an ENI have, so that one call for each ENI and family is the least.
    """
    together: defaultdict[tuple[object, ...], list[VpcAction]] = defaultdict(list)
    single: list[tuple[VpcAction, ...]] = []
    for action in actions:
        if isinstance(action, AssignAddress | UnassignAddress) and not alone(action.key):
            together[type(action), action.eni_id, action.address.version].append(action)
        else:
            single.append((action,))
    return [tuple(group) for group in together.values()] + single


UNWANTED = Failure(ErrorKind.RACE, "", "Unwanted", "it was overtaken before EC2 was asked for it")
"""Of a call that was not made, or not made again, because nobody wants any more what it would do."""
Wants = Callable[[VpcAction], bool]


def always(_: VpcAction) -> bool:
    """Whatever became of it."""
    return True


def apply_vpc(ec2: Ec2Port, batch: Sequence[VpcAction], wants: Wants = always) -> bool:
    """One batch against EC2, if it is still wanted; whether a route was there that was not seen. Raises CallError."""
    if not all(wants(action) for action in batch):
        raise CallError(UNWANTED)
    first = batch[0]
    if isinstance(first, SetRoute):
        return _set_route(ec2, first, wants)
    if isinstance(first, DeleteRoute):
        ec2.delete_route(first.table_id, first.destination)
    elif isinstance(first, DisableSourceDestCheck):
        ec2.disable_source_dest_check(first.eni_id)
    elif isinstance(first, AssociateEip):
        ec2.associate(first.allocation_id, first.eni_id, first.address)
    else:
        addresses = [action.address for action in batch if isinstance(action, AssignAddress | UnassignAddress)]
        (ec2.assign if isinstance(first, AssignAddress) else ec2.unassign)(first.eni_id, addresses)
    return False


def _set_route(ec2: Ec2Port, action: SetRoute, wants: Wants) -> bool:
    """The verb that fits what was last seen, and once the other when the route appeared or vanished under us.

    Where it appeared because the address has left this pod for another, while EC2 kept the first call waiting, the
    other verb would take it from its new holder.
    """
    verbs = [ec2.create_route, ec2.replace_route]
    first, second = reversed(verbs) if action.replaces else verbs
    try:
        first(action.table_id, action.destination, action.eni_id)
    except CallError as error:
        if error.kind is not ErrorKind.RACE or action.unless_there:
            raise
        if not wants(action):
            raise CallError(UNWANTED) from error
        second(action.table_id, action.destination, action.eni_id)
        return not action.replaces
    return False


def apply_pod(netlink: RoutesPort, action: PodAction) -> None:
    """One change of the routes and rules of a network namespace. Raises CallError."""
    if isinstance(action, SetPodRoute):
        netlink.set_route(action.route)
    elif isinstance(action, DeletePodRoute):
        netlink.delete_route(action.route)
    elif isinstance(action, AddPodRule):
        netlink.add_rule(action.rule)
    elif isinstance(action, DeletePodRule):
        netlink.delete_rule(action.rule)
