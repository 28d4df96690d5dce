"""`FakeLeases`: the lease port. Several of them, one for each node, are clients of one `LeaseStore`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from tests.doubles.clock import BOUND, Bell
from tests.doubles.faults import Faults
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model_node import Lease


@dataclass
class LeaseStore:
    """The API server's side: one lease or none, what others wrote into it, and every state it has had."""

    bell: Bell = field(default_factory=Bell)
    history: list[tuple[int, Lease | None]] = field(default_factory=list)  # revision, what it was from then on
    foreign: dict[str, str] = field(default_factory=dict)
    ended: int = 0  # how often the watches were ended
    changed: threading.Condition = field(default_factory=threading.Condition)
    _stamps: int = 0

    @property
    def revision(self) -> int:
        """That of the last change; 0 when there was none."""
        return self.history[-1][0] if self.history else 0

    @property
    def lease(self) -> Lease | None:
        """What is stored."""
        return self.history[-1][1] if self.history else None

    def put(self, lease: Lease | None) -> Lease | None:
        """Store it as the next version, whatever it says and whoever has it; None deletes it."""
        with self.changed:
            revision = self.revision + 1
            stored = None if lease is None else replace(lease, version=str(revision))
            self.history.append((revision, stored))
            self.ring()
        return stored

    def write_foreign(self, values: Mapping[str, str]) -> None:
        """Write fields that are not ours into the lease, as somebody else would."""
        with self.changed:
            self.foreign |= values
            self.put(self.lease)

    def stamp(self) -> str:
        """A time that no other stamp has."""
        self._stamps += 1
        return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._stamps)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def end_watches(self) -> None:
        """Let the server end every stream, as it does every few minutes."""
        with self.changed:
            self.ended += 1
            self.ring()

    def ring(self) -> None:
        """Wake watches and tests."""
        with self.changed:
            self.changed.notify_all()
        self.bell.ring()


class FakeLeases:
    """One client. `faults` fails or holds its next calls (`read`, `create`, `update`, `watch`).

    What is done to its network lasts until restore(). `watching` is the number of watches that are open.
    """

    def __init__(self, store: LeaseStore, *, timeout: float = BOUND) -> None:
        """`timeout` is how long a call hangs before it fails."""
        self.faults = Faults(store.bell)
        self.watching = 0
        self._store = store
        self._timeout = timeout
        self._network = ""  # or `hanging`, `refusing`
        self._seen = 0  # revision

    def hang(self) -> None:
        """From now on nothing comes through, on an open watch either."""
        self._set_network("hanging")

    def refuse(self) -> None:
        """From now on connections are refused, and open watches are reset."""
        self._set_network("refusing")

    def restore(self) -> None:
        """Let everything through again."""
        self._set_network("")

    def read(self) -> Lease | None:
        """See LeasePort."""
        call = self.faults.begin("read")
        self._pass("read", time.monotonic() + self._timeout)
        self._seen, found = self._store.revision, self._store.lease
        self.faults.end(call)
        return found

    def create(self, lease: Lease) -> Lease:
        """See LeasePort."""
        call = self.faults.begin("create", lease)
        self._pass("create", time.monotonic() + self._timeout)
        with self._store.changed:
            if self._store.lease is not None:
                raise _error("create", ErrorKind.RACE, "AlreadyExists")
            self._store.foreign.clear()
            stamp = self._store.stamp()
            made = self._put(replace(lease, renewed=stamp, acquired=stamp))
        self.faults.end(call)
        return made

    def update(self, lease: Lease, *, renew: bool, acquire: bool = False) -> Lease:
        """See LeasePort."""
        call = self.faults.begin("update", lease, renew, acquire)
        self._pass("update", time.monotonic() + self._timeout)
        with self._store.changed:
            stored = self._store.lease
            if stored is None or stored.version != lease.version:
                raise _error("update", ErrorKind.RACE, "Conflict")
            stamp = self._store.stamp()
            made = self._put(
                replace(
                    lease,
                    renewed=stamp if renew else stored.renewed,
                    acquired=stamp if acquire else stored.acquired,
                )
            )
        self.faults.end(call)
        return made

    def watch(self, seen: Callable[[Lease | None], None], silence: float) -> None:
        """See LeasePort."""
        call = self.faults.begin("watch", silence)
        ended, after = self._store.ended, self._seen
        deadline = time.monotonic() + silence
        self.watching += 1
        try:
            self._pass("watch", deadline)
            if not after and self._store.lease is not None:  # it has seen none: the present state first
                after = self._store.revision - 1
            while events := self._wait_for_events(after, ended, deadline):
                for revision, lease in events:
                    self._seen = after = revision
                    seen(lease)
                deadline = time.monotonic() + silence
        finally:
            self.watching -= 1
        self.faults.end(call)

    def _put(self, lease: Lease) -> Lease:
        made = self._store.put(lease if lease.holder else replace(lease, duration=1))
        assert made is not None
        self._seen = self._store.revision
        return made

    def _wait_for_events(self, after: int, ended: int, deadline: float) -> list[tuple[int, Lease | None]]:
        """What came after a revision; nothing when the server has ended the stream."""
        store = self._store

        def happened() -> bool:
            if self._network:
                return self._network == "refusing"
            return store.revision > after or store.ended > ended

        with store.changed:
            if not store.changed.wait_for(happened, max(0.0, deadline - time.monotonic())):
                self._seen = 0
                raise _error("watch", ErrorKind.RETRY, "ReadTimeoutError")
            self._pass("watch", deadline)
            return [each for each in store.history if each[0] > after]

    def _pass(self, operation: str, deadline: float) -> None:
        """Get through the network, or fail."""
        with self._store.changed:
            within = max(0.0, deadline - time.monotonic())
            if not self._store.changed.wait_for(lambda: self._network != "hanging", within):
                raise _error(operation, ErrorKind.RETRY, "ReadTimeoutError")
            if self._network:
                raise _error(operation, ErrorKind.RETRY, "NewConnectionError")

    def _set_network(self, network: str) -> None:
        self._network = network
        self._store.ring()


def _error(operation: str, kind: ErrorKind, code: str) -> CallError:
    return CallError(Failure(kind, f"fake:{operation}", code, "as the API server would"))
