"""One call of the API, from its parameters to its answer: who calls, what goes wrong on the way, what is applied.

Transport is elsewhere (`server`): `Layer.handle` is the same for HTTP and for `admin()` clients.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from xml.etree import ElementTree

from moto.core.exceptions import ServiceException

from lab.ec2 import addresses, attachments, interfaces, params, routes, sts, subnets
from lab.ec2.auth import Credentials, Keys, check_time, signed_by
from lab.ec2.errors import Ec2Error, ec2_answer, ec2_error, sts_error
from lab.ec2.faults import ConnectionLost, Faults
from lab.ec2.later import Agenda
from lab.ec2.moto_api import Moto, translated
from lab.ec2.params import Params
from lab.ec2.policies import Policies
from lab.ec2.quotas import Quotas
from lab.ec2.reads import LISTINGS, Reads
from lab.ec2.snapshot import Snapshots
from lab.ec2.state import VpcState
from lab.ec2.world import Afterwards, Delays, Prepare, World, Write

_WRITES: Mapping[str, Write] = {
    **addresses.WRITES,
    **attachments.WRITES,
    **interfaces.WRITES,
    **routes.WRITES,
    **subnets.WRITES,
}
_PREPARED: Mapping[str, Prepare] = {**addresses.PREPARED, **interfaces.PREPARED, **subnets.PREPARED}
_AFTERWARDS: Mapping[str, Afterwards] = {**attachments.AFTERWARDS, **interfaces.AFTERWARDS}

_HISTORY = 60.0  # s of states kept for reads that lag

# What a refusal names as its resource: parameter → kind in the ARN.
_RESOURCES = {"RouteTableId": "route-table", "NetworkInterfaceId": "network-interface", "AllocationId": "elastic-ip"}


@dataclass(frozen=True)
class Call:
    """A recorded call. `status` is HTTP's, 0 where the connection was dropped; times are `time.monotonic()`'s."""

    action: str
    service: str  # "ec2" or "sts"
    params: Mapping[str, str]
    access_key: str | None
    status: int
    error: str | None
    started: float
    finished: float


@dataclass(frozen=True)
class UnderWay:
    """A call that is being answered. `started`: `time.monotonic()`."""

    action: str
    access_key: str | None
    started: float


class Layer:
    """The API of one account in one region. Thread-safe; no lock is held while it waits."""

    def __init__(self, region: str, quotas: Quotas) -> None:
        self.moto = Moto(region)
        self.keys = Keys(self.moto.account_id)
        self.faults = Faults()
        self.policies = Policies()
        self.reads = Reads()
        self.latency = 0.0
        self.lag = 0.0
        self.calls: list[Call] = []
        self.closed = threading.Event()
        self._under_way = threading.local()
        self._lock = threading.RLock()  # a callback of `on_change` may read through admin()
        self._callbacks: list[Callable[[VpcState], None]] = []
        self._agenda = Agenda()
        self._world = _make_world(self.moto, quotas, self._later)
        self._history = deque([(time.monotonic(), self._world.state)])

    @property
    def state(self) -> VpcState:
        """The current state."""
        return self._world.state

    @property
    def delays(self) -> Delays:
        """How long what is not done at once takes."""
        return self._world.delays

    @property
    def under_way(self) -> UnderWay | None:
        """The call that this thread answers; for callbacks of `on_change`. None: an `admin()` client's, or none."""
        return getattr(self._under_way, "call", None)

    def on_change(self, callback: Callable[[VpcState], None]) -> None:
        """Call `callback` with each new state, in order, before the call that made it is answered."""
        self._callbacks.append(callback)

    def handle(self, headers: Message[str, str], request: Mapping[str, str]) -> tuple[int, bytes]:
        """Answer a call as a client sees it: HTTP status, body. Raises `ConnectionLost`.

        `request` holds all parameters, `Action` too.
        """
        started = time.monotonic()
        action, flat = _split(request)
        service, access_key, status, code = sts.service_of(action), None, 0, None
        try:
            self.faults.check_reachable()
            self._wait(self.latency / 2)
            try:
                caller, service = self._caller(headers, action)
                access_key = caller.access_key if caller else None
                self._under_way.call = UnderWay(action, access_key, started)
                status, body = 200, self._through_faults(service, action, flat, caller)
            except Ec2Error as error:
                status, code = error.status, error.code
                body = self._refusal(service, error)
            self._wait(self.latency / 2)
            return status, body
        except ConnectionLost:
            status, code = 0, "ConnectionLost"
            raise
        finally:
            self._under_way.call = None
            self.calls.append(Call(action, service, flat, access_key, status, code, started, time.monotonic()))

    def handle_admin(self, service: str, request: Mapping[str, str]) -> tuple[int, bytes]:
        """Answer a call of an `admin()` client: at once, unrecorded, from the current state; the rules hold."""
        action, flat = _split(request)
        try:
            return 200, self._apply(service, action, flat, self.keys.base, lag=0.0)
        except Ec2Error as error:
            return error.status, self._refusal(service, error)

    def close(self) -> None:
        """Forget the account. Calls under way lose their connection."""
        self.closed.set()
        self.faults.unblock()
        self._agenda.close()
        with self._lock:
            self.moto.forget()

    def _caller(self, headers: Message[str, str], action: str) -> tuple[Credentials | None, str]:
        if action in sts.UNSIGNED and not headers.get("Authorization"):
            return None, "sts"
        access_key, service = signed_by(headers)
        check_time(headers, service)
        return self.keys.check(access_key, headers.get("X-Amz-Security-Token")), service

    def _through_faults(self, service: str, action: str, flat: Params, caller: Credentials | None) -> bytes:
        faults = self.faults
        faults.before_apply(action, flat)
        faults.check_throttle(action)
        if caller:
            faults.check_allowed(service, action, caller, self._resource(service, action, flat))
            self.policies.check(caller, service, action, flat, self.state)
        if params.flag(flat, "DryRun"):
            # Row "DryRun=True": allowed, and nothing is changed.
            raise Ec2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        self._wait(faults.held_for(action, flat))
        faults.run_callbacks(action, flat, caller.access_key if caller else None)
        if half := faults.half_of(action, flat):
            self._apply(service, action, half[0], caller, self.lag)
            raise half[1]
        try:
            return self._apply(service, action, flat, caller, self.lag)
        finally:
            self._wait(faults.after_apply(action, flat))

    def _apply(self, service: str, action: str, flat: Params, caller: Credentials | None, lag: float) -> bytes:
        request_id = str(uuid.uuid4())
        if service == "sts":
            with self._lock:
                return sts.answer(self.moto, self.keys, action, flat, caller, request_id)
        if action in LISTINGS:
            return ec2_answer(action, self.reads.answer(action, flat, self._state_at(lag)), request_id)
        with self._lock:
            self._check_open()
            try:
                if write := _WRITES.get(action):
                    body = ec2_answer(action, write(self._world, flat), request_id)
                else:
                    body = self._through_moto(action, flat)
            except ServiceException as error:
                raise translated(error, action) from error
            finally:
                self._publish()
            return body

    def _through_moto(self, action: str, flat: Params) -> bytes:
        """A call that moto answers itself, prepared and put right where it must be."""
        if prepare := _PREPARED.get(action):
            flat = prepare(self._world, flat)
        status, body = self.moto.call("ec2", action, flat)
        if status >= 400:
            raise _moto_refusal(status, body)
        if not action.startswith(("Describe", "Get")):
            if afterwards := _AFTERWARDS.get(action):
                afterwards(self._world, flat)
            self._world.changed()
        return body

    def _later(self, seconds: float, action: Callable[[World], None]) -> None:
        """Apply the rest of a write, with no delay as a part of it. Called with the lock held."""
        if seconds <= 0:
            action(self._world)
        else:
            self._agenda.add(seconds, lambda: self._apply_later(action))

    def hurry(self) -> None:
        """Let everything that is under way be done now."""
        self._agenda.hurry()

    def _apply_later(self, action: Callable[[World], None]) -> None:
        with self._lock:
            if not self.closed.is_set():
                action(self._world)
                self._publish()

    def _publish(self) -> None:
        """Keep a new state for reads that lag, and tell who wants to know."""
        state, now = self._world.state, time.monotonic()
        if state is self._history[-1][1]:
            return
        self._history.append((now, state))
        while len(self._history) > 1 and self._history[1][0] < now - max(_HISTORY, self.lag):
            self._history.popleft()
        for callback in self._callbacks:
            callback(state)

    def _state_at(self, lag: float) -> VpcState:
        """Row "reads after writes": the state as it was so many seconds ago."""
        if lag <= 0:
            return self._world.state
        until = time.monotonic() - lag
        with self._lock:
            known = [state for since, state in self._history if since <= until]
            return known[-1] if known else self._history[0][1]

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self.closed.wait(seconds)
            self._check_open()

    def _check_open(self) -> None:
        """A call that was under way when the account was forgotten is neither applied nor answered."""
        if self.closed.is_set():
            raise ConnectionLost

    def _resource(self, service: str, action: str, flat: Params) -> str | None:
        """The ARN that a refusal names; describes have none."""
        if service == "sts":
            return flat.get("RoleArn")
        if action.startswith("Describe"):
            return None
        place = f"arn:aws:ec2:{self.moto.region}:{self.moto.account_id}"
        return next(
            (f"{place}:{kind}/{flat[name]}" for name, kind in _RESOURCES.items() if name in flat), f"{place}:*/*"
        )

    def _refusal(self, service: str, error: Ec2Error) -> bytes:
        return (sts_error if service == "sts" else ec2_error)(error, str(uuid.uuid4()))


def _make_world(moto: Moto, quotas: Quotas, later: Callable[[float, Callable[[World], None]], None]) -> World:
    bindings: dict[str, str] = {}
    transitions: dict[str, str] = {}
    snapshots = Snapshots(moto.ec2, bindings, transitions)
    return World(moto.ec2, quotas, snapshots.whole(None), snapshots, later, bindings=bindings, transitions=transitions)


def _split(request: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The action, and the parameters without what every call has."""
    flat = {key: value for key, value in request.items() if key not in ("Action", "Version")}
    return request.get("Action", ""), flat


def _moto_refusal(status: int, body: bytes) -> Ec2Error:
    """An error that moto has answered."""
    root = ElementTree.fromstring(body)
    found = {each.tag.rpartition("}")[2]: each.text or "" for each in root.iter()}
    return Ec2Error(found.get("Code", "InternalError"), found.get("Message", ""), status)
