"""What can be made to go wrong with EC2, from a test or a bench: deterministic, and thread-safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from lab.ec2.auth import Credentials
from lab.ec2.errors import Ec2Error, unauthorized
from lab.ec2.params import Params

ADDRESS_LISTS = ("PrivateIpAddress", "Ipv6Addresses")
"""The lists of addresses in requests."""

_DEFAULT_CODES = {500: "InternalError", 503: "Unavailable"}  # errors-overview, "Server error codes"


class ConnectionLost(Exception):
    """The connection is to be dropped without an answer."""


@dataclass
class _Planned:
    """Something that is to happen to the next `times` calls (None: all) that match."""

    action: str
    kind: str
    times: int | None
    when: Callable[[Params], bool] | None = None
    error: Ec2Error | None = None
    seconds: float = 0.0
    callback: Callable[[Params], None] | None = None
    by: Callable[[str | None], bool] | None = None  # asked with the caller's access key; None: whoever calls
    hits: int = 0

    def matches(self, action: str, request: Params) -> bool:
        return fnmatchcase(action, self.action) and (self.when is None or self.when(request))


@dataclass
class _Bucket:
    """A token bucket, full at first."""

    size: float
    refill: float  # tokens/s
    tokens: float = field(init=False)
    filled: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tokens = self.size

    def take(self) -> bool:
        now = time.monotonic()
        self.tokens = min(self.size, self.tokens + (now - self.filled) * self.refill)
        self.filled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(eq=False)
class _Throttle:
    """A throttle, with a bucket for each action that it matches."""

    action: str
    size: int
    refill: float
    buckets: dict[str, _Bucket] = field(default_factory=dict)
    hits: int = 0


@dataclass(frozen=True)
class End:
    """Ends one fault when it is called. May be called again."""

    _end: Callable[[], None]
    _fault: _Planned | _Throttle

    def __call__(self) -> None:
        self._end()

    @property
    def hits(self) -> int:
        """How many calls it has hit so far."""
        return self._fault.hits


def _lists_several(request: Params) -> bool:
    return any(f"{name}.2" in request for name in ADDRESS_LISTS)


class Faults:
    """Faults of the endpoint. An `action` is an API action, or a pattern of them ("Assign*", "*").

    `times` is how many of the next matching calls are hit, None: every one until `clear`. `when` is asked with the
    call's flat parameters, and a call it says no to is passed over and not counted. What plans a fault returns what
    ends that one alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []
        self._denied: list[tuple[str, str | None]] = []
        self._throttles: list[_Throttle] = []
        self._reachable = threading.Event()
        self._reachable.set()

    # To be called by tests -------------------------------------------------------------------------------------------

    def deny(self, *iam_actions: str, access_key: str | None = None) -> None:
        """Refuse these IAM actions ("ec2:ReplaceRoute", "ec2:*", "sts:AssumeRole"), to one key or to all."""
        with self._lock:
            self._denied += [(each, access_key) for each in iam_actions]

    def allow_all(self) -> None:
        """Undo every `deny`."""
        with self._lock:
            self._denied.clear()

    def fail(
        self,
        action: str,
        code: str | None = None,
        *,
        times: int | None = 1,
        status: int = 503,
        when: Callable[[Params], bool] | None = None,
        message: str = "The lab was told to fail this call.",
    ) -> End:
        """Answer with an error, before anything is applied."""
        error = Ec2Error(code or _DEFAULT_CODES.get(status, "InternalError"), message, status)
        return self._plan(_Planned(action, "fail", times, when, error=error))

    def fail_after(self, action: str, *, times: int | None = 1, when: Callable[[Params], bool] | None = None) -> End:
        """Apply the call, and lose the answer: the connection is reset."""
        return self._plan(_Planned(action, "fail_after", times, when))

    def partial(self, action: str, times: int | None = 1, *, when: Callable[[Params], bool] | None = None) -> End:
        """Apply the first half of a call that lists several addresses, then answer InternalError.

        No page of AWS's says that these calls are atomic. A call that lists one address or none is passed over.
        """
        several = _lists_several if when is None else lambda params: _lists_several(params) and when(params)
        error = Ec2Error("InternalError", "An internal error has occurred", 500)
        return self._plan(_Planned(action, "partial", times, several, error=error))

    def reset(self, action: str, times: int | None = 1, *, when: Callable[[Params], bool] | None = None) -> End:
        """Reset the connection before the call is applied."""
        return self._plan(_Planned(action, "reset", times, when))

    def hang(
        self,
        action: str,
        seconds: float,
        times: int | None = 1,
        *,
        when: Callable[[Params], bool] | None = None,
    ) -> End:
        """Apply the call, and answer so many seconds later."""
        return self._plan(_Planned(action, "hang", times, when, seconds=seconds))

    def hold(
        self,
        action: str,
        seconds: float,
        times: int | None = 1,
        *,
        when: Callable[[Params], bool] | None = None,
    ) -> End:
        """Apply the call so many seconds late, whether or not the caller still waits for the answer."""
        return self._plan(_Planned(action, "hold", times, when, seconds=seconds))

    def before(
        self,
        action: str,
        callback: Callable[[Params], None],
        *,
        times: int | None = 1,
        by: Callable[[str | None], bool] | None = None,
    ) -> End:
        """Call `callback(params)` just before the call is applied, with no lock held: it may use `admin()`.

        `by`: asked with the caller's access key whether it is meant. What is planned for one call is all done.
        """
        return self._plan(_Planned(action, "before", times, callback=callback, by=by))

    def throttle(self, action: str, bucket: int = 100, refill: float = 5.0) -> End:
        """Row "too many calls": a token bucket, `refill` tokens/s, for each action that matches."""
        throttle = _Throttle(action, bucket, refill)
        with self._lock:
            self._throttles.append(throttle)
        return End(lambda: self._end(self._throttles, throttle), throttle)

    def block(self) -> None:
        """Make the endpoint unreachable: connections are accepted, requests never applied nor answered."""
        self._reachable.clear()

    def unblock(self) -> None:
        """End `block`. What was waiting is dropped: it was never answered."""
        self._reachable.set()

    def clear(self) -> None:
        """No faults any more."""
        with self._lock:
            self._planned.clear()
            self._denied.clear()
            self._throttles.clear()
        self._reachable.set()

    def _plan(self, planned: _Planned) -> End:
        with self._lock:
            self._planned.append(planned)
        return End(lambda: self._end(self._planned, planned), planned)

    def _end(self, faults: list[Any], fault: object) -> None:
        with self._lock:
            faults[:] = [each for each in faults if each is not fault]

    # To be called by the layer ---------------------------------------------------------------------------------------

    def check_reachable(self) -> None:
        """Wait out a `block`, then raise ConnectionLost."""
        if not self._reachable.is_set():
            self._reachable.wait()
            raise ConnectionLost

    def check_throttle(self, action: str) -> None:
        """Take a token; raises RequestLimitExceeded."""
        with self._lock:
            for throttle in self._throttles:
                if not fnmatchcase(action, throttle.action):
                    continue
                bucket = throttle.buckets.setdefault(action, _Bucket(throttle.size, throttle.refill))
                if not bucket.take():
                    throttle.hits += 1
                    raise Ec2Error("RequestLimitExceeded", "Request limit exceeded.", 503)

    def check_allowed(self, service: str, action: str, caller: Credentials, resource: str | None) -> None:
        """Raises UnauthorizedOperation (EC2) or AccessDenied (STS) with the text AWS gives."""
        wanted = f"{service}:{action}"
        with self._lock:
            denied = any(
                fnmatchcase(wanted, pattern) and key in (None, caller.access_key) for pattern, key in self._denied
            )
        if not denied:
            return
        raise unauthorized(service, wanted, caller.principal, resource)

    def before_apply(self, action: str, request: Params) -> None:
        """Do what is planned before the call is applied."""
        if self._next("reset", action, request):
            raise ConnectionLost
        if (failing := self._next("fail", action, request)) and failing.error:
            raise failing.error

    def held_for(self, action: str, request: Params) -> float:
        """The seconds to wait before the call is applied."""
        holding = self._next("hold", action, request)
        return holding.seconds if holding else 0.0

    def run_callbacks(self, action: str, request: Params, access_key: str | None = None) -> None:
        """Run what `before` planned."""
        with self._lock:
            planned = [
                each
                for each in self._planned
                if each.kind == "before" and each.matches(action, request) and (each.by is None or each.by(access_key))
            ]
            for each in planned:
                self._count(each)
        for each in planned:
            if each.callback:
                each.callback(request)

    def half_of(self, action: str, request: Params) -> tuple[Params, Ec2Error] | None:
        """What of the call is applied when it is to be done by half, and the answer."""
        planned = self._next("partial", action, request)
        if planned is None or planned.error is None:
            return None
        listed = {key for key in request if key.partition(".")[0] in ADDRESS_LISTS}
        kept = {key for key in listed if int(key.split(".")[1]) <= (len(listed) + 1) // 2}
        return {key: value for key, value in request.items() if key not in listed - kept}, planned.error

    def after_apply(self, action: str, request: Params) -> float:
        """Do what is planned after it; returns the seconds to hold the answer back."""
        if self._next("fail_after", action, request):
            raise ConnectionLost
        hanging = self._next("hang", action, request)
        return hanging.seconds if hanging else 0.0

    def _next(self, kind: str, action: str, request: Params) -> _Planned | None:
        """The first of that kind that is planned for this call; counts it."""
        with self._lock:
            planned = next(
                (each for each in self._planned if each.kind == kind and each.matches(action, request)), None
            )
            if planned is not None:
                self._count(planned)
            return planned

    def _count(self, planned: _Planned) -> None:
        planned.hits += 1
        if planned.times is not None:
            planned.times -= 1
            if planned.times == 0:
                self._planned[:] = [each for each in self._planned if each is not planned]
