"""What a double can be told to do wrong: fail, hang, or let something happen just before a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.doubles.clock import BOUND, Bell
from vipmanager.errors import CallError, ErrorKind, Failure


@dataclass(frozen=True)
class Call:
    """A recorded call: the port's method and its arguments."""

    operation: str
    arguments: tuple[Any, ...]


@dataclass
class _Planned:
    operation: str
    times: int | None
    when: Callable[[Call], bool]
    effect: Callable[[Call], None]


class _Bucket:
    """Tokens, full at first."""

    def __init__(self, clock: Callable[[], float], size: float, refill: float) -> None:
        self._clock, self._size, self._refill = clock, size, refill
        self._tokens, self._filled = size, clock()
        self._lock = threading.Lock()

    def take(self, call: Call) -> None:
        """Take a token, or refuse the call as EC2 does."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._size, self._tokens + (now - self._filled) * self._refill)
            self._filled = now
            if self._tokens < 1.0:
                code = "RequestLimitExceeded"
                raise CallError(Failure(ErrorKind.RETRY, f"fake:{call.operation}", code, "too many calls"))
            self._tokens -= 1.0


@dataclass
class Faults:
    """Records every call, and does to the next ones what it was told. Thread-safe."""

    bell: Bell = field(default_factory=Bell)
    calls: list[Call] = field(default_factory=list)
    answered: list[Call] = field(default_factory=list)
    _planned: list[_Planned] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(
        self,
        operation: str,
        kind: ErrorKind = ErrorKind.RETRY,
        *,
        code: str = "Told",
        times: int | None = 1,
        when: Callable[[Call], bool] = lambda _: True,
    ) -> None:
        """Fail the next `times` calls (None: all), before anything is applied."""

        def effect(call: Call) -> None:
            raise CallError(Failure(kind, f"fake:{call.operation}", code, "the double was told to fail"))

        self._plan(_Planned(operation, times, when, effect))

    def crash(self, operation: str, error: BaseException) -> None:
        """Raise what no port may raise: a bug."""

        def effect(_: Call) -> None:
            raise error

        self._plan(_Planned(operation, 1, lambda _: True, effect))

    def hang(
        self, operation: str, *, times: int | None = 1, when: Callable[[Call], bool] = lambda _: True
    ) -> threading.Event:
        """Let the next calls wait until the event that is returned is set."""
        go_on = threading.Event()
        self._plan(_Planned(operation, times, when, lambda _: _hold(go_on)))
        return go_on

    def throttle(
        self, *operations: str, clock: Callable[[], float], bucket: float = 100.0, refill: float = 5.0
    ) -> None:
        """Give each of these operations a token bucket, full at first (EC2-SEMANTICS.md, row "too many calls")."""
        for operation in operations:
            self._plan(_Planned(operation, None, lambda _: True, _Bucket(clock, bucket, refill).take))

    def before(self, operation: str, callback: Callable[[Call], None], *, times: int | None = 1) -> None:
        """Let something happen just before the next calls are applied."""
        self._plan(_Planned(operation, times, lambda _: True, callback))

    def clear(self) -> None:
        """No faults any more."""
        with self._lock:
            self._planned.clear()

    def begin(self, operation: str, *arguments: Any) -> Call:
        """Note a call and suffer what is planned for it; no lock is held while it waits."""
        call = Call(operation, arguments)
        with self._lock:
            self.calls.append(call)
            planned = [each for each in self._planned if each.operation == operation and each.when(call)][:1]
            for each in planned:
                if each.times is not None:
                    each.times -= 1
                    if each.times == 0:
                        self._planned.remove(each)
        self.bell.ring()
        for each in planned:
            each.effect(call)
        return call

    def end(self, call: Call) -> None:
        """Note that a call was answered without an error."""
        with self._lock:
            self.answered.append(call)
        self.bell.ring()

    def named(self, *operations: str) -> list[Call]:
        """The calls so far, all or those of some operations."""
        with self._lock:
            return [call for call in self.calls if not operations or call.operation in operations]

    def _plan(self, planned: _Planned) -> None:
        with self._lock:
            self._planned.append(planned)


def _hold(go_on: threading.Event) -> None:
    go_on.wait(4 * BOUND)  # longer than any test waits, so that no test can pass because of it
