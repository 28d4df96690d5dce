"""HTTP for the kubelet and Prometheus: /healthz, /readyz and /metrics.

One thread and one poll(2) have all connections, so that a client that says nothing, or too much, costs a descriptor and
not a thread. Answers are made on other threads, one for each path at a time: whoever asks for one meanwhile waits for
the next. Nothing here runs while nobody asks. http.server would cost a start-up 10 ms.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Protocol

from vipmanager.http_messages import METRICS_TEXT, Answer, read_head, said, write
from vipmanager.logs import event
from vipmanager.model import Address

log = logging.getLogger("vipmanager")

CONNECTIONS = 16
"""At once. One more, and the oldest that nobody works for is ended: a probe gets through however many say nothing."""
HEAD = 8 * 1024
"""Bytes of a request, all in all."""
REQUEST_WITHIN = 5.0
"""Seconds for a connection from its beginning to its end."""
LINGER = 1.0
"""Seconds for the client to take an answer and end the connection (RFC 9112, 9.6)."""
LINGER_BYTES = 64 * 1024
"""Bytes that it may send meanwhile."""
ALIVE_WITHIN = 0.7
"""Seconds in which the loop must come round; a probe of the kubelet waits for 1 s by default (Kubernetes, "Probe")."""
LISTEN_AGAIN = 30.0
"""Seconds before the port is tried again where somebody else has it."""
ACCEPT_AGAIN = 1.0
"""Seconds before a connection is accepted again where the process has no descriptor left."""
BACKLOG = 64

ANYWHERE = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "[::1]"}
NAMES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
MISSING_FAMILY = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT))
NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
RESET = struct.pack("ii", 1, 0)  # struct linger, socket(7): close() sends a RST


class Watched(Protocol):
    """What is asked of the monitor, from other threads than the loop's."""

    def alive(self, within: float) -> bool:
        """Whether the loop comes round within so many seconds."""

    def ready(self) -> tuple[bool, str]:
        """Whether all that should be delivered is; else why not, one reason a line."""

    def hidden(self) -> frozenset[Address]:
        """The floating addresses, at which nothing is answered. Never waits."""

    def serves(self, at: str) -> None:
        """The port is open: `at` says where it is asked from within, as HOST:PORT."""


@dataclass(eq=False)
class Connection:
    """One client. It is read until its head is there, waits while `asked`, is written to, and then drained."""

    sock: socket.socket
    peer: str
    ends: float
    received: bytearray = field(default_factory=bytearray)
    method: str = "GET"
    asked: bool = False
    to_send: bytes = b""
    answered: bool = False
    drained: int = 0
    closed: bool = False

    @property
    def waits_for(self) -> int:
        """The events of poll(2) that matter to it now; errors always do."""
        if self.asked:
            return 0
        return select.POLLOUT if self.to_send else select.POLLIN


@dataclass
class Desk:
    """Where one path's requests wait. `busy` while an answer is being made for those in `served`."""

    make: Callable[[], Answer]
    waiting: list[Connection] = field(default_factory=list)
    served: list[Connection] = field(default_factory=list)
    busy: bool = False


class Server:
    """Listens on a port of all addresses, of IPv4 and of IPv6, as far as the machine has them."""

    def __init__(
        self,
        port: int,
        watched: Watched,
        metrics: Callable[[], bytes],
        clock: Callable[[], float] = time.monotonic,
        *,
        listen_again: float = LISTEN_AGAIN,
    ) -> None:
        """Opens the port; with 0, which tests use, the kernel chooses. `metrics` makes the text of /metrics."""
        self._port, self._watched, self._metrics, self._clock = port, watched, metrics, clock
        self._again = listen_again
        self._listeners: dict[socket.AddressFamily, socket.socket] = {}
        self._closed_families = dict.fromkeys(ANYWHERE, 0.0)  # and when each is tried again
        self._refused: set[socket.AddressFamily] = set()
        self._connections: list[Connection] = []
        self._accept_at = 0.0
        self._desks = {"/healthz": Desk(self._health), "/readyz": Desk(self._readiness), "/metrics": Desk(self._text)}
        self._made: deque[tuple[Desk, Answer]] = deque()
        self._broken: set[str] = set()
        self._woken, self._wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing = False
        self._listen(clock())

    @property
    def ports(self) -> Mapping[socket.AddressFamily, int]:
        """Where it listens, by family."""
        return {family: listener.getsockname()[1] for family, listener in self._listeners.items()}

    def run(self) -> None:
        """Serve until close()."""
        while not self._closing:
            self._round()
        for connection in list(self._connections):
            self._cut(connection)
        for listener in self._listeners.values():
            listener.close()

    def close(self) -> None:
        """Make run() end; may be called from any thread."""
        self._closing = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes too
            os.write(self._wake_end, b"!")

    def _round(self) -> None:
        """Wait for something, and deal with it."""
        now = self._clock()
        self._listen(now)
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        listeners = list(self._listeners.values()) if now >= self._accept_at else []
        for listener in listeners:
            poll.register(listener, select.POLLIN)
        for connection in self._connections:
            poll.register(connection.sock, connection.waits_for)
        ready = dict(poll.poll(self._timeout(now)))
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        for connection in [each for each in self._connections if each.sock.fileno() in ready]:
            self._go_on(connection, ready[connection.sock.fileno()])
        for listener in listeners:
            if listener.fileno() in ready:
                self._accept(listener)
        self._hand_out()
        self._expire()

    def _timeout(self, now: float) -> float | None:
        """Milliseconds until something is due; None while nothing is."""
        times = [connection.ends for connection in self._connections]
        times += self._closed_families.values()
        times += [self._accept_at] if now < self._accept_at else []
        return max(0.0, min(times) - now) * 1000 + 1 if times else None

    # listening

    def _listen(self, now: float) -> None:
        """Open the port for each family that is closed and due."""
        refused: dict[str, list[str]] = {}
        for family in [each for each, due in self._closed_families.items() if now >= due]:
            try:
                self._listeners[family] = _listener(family, self._port)
            except OSError as error:
                if error.errno in MISSING_FAMILY:
                    del self._closed_families[family]
                    continue
                self._closed_families[family] = now + self._again
                if family not in self._refused:
                    self._refused.add(family)
                    refused.setdefault(os.strerror(error.errno or 0), []).append(NAMES[family])
            else:
                self._tell_where()
                del self._closed_families[family]
                level = logging.INFO if family in self._refused else logging.DEBUG
                event(log, level, "serving", port=self._port, of=NAMES[family])
        for why, families in refused.items():
            remedy = "give HealthPort another value, or 0 to turn it off; the rest goes on without"
            event(log, logging.WARNING, "not serving", port=self._port, of=",".join(families), why=why, remedy=remedy)

    def _tell_where(self) -> None:
        family, port = min(self.ports.items())
        self._watched.serves(f"{LOOPBACK[family]}:{port}")

    # connections

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(CONNECTIONS):  # then those that are there have their turn
            try:
                accepted, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # most say that the client has gone again, accept(2)
                if error.errno in NO_DESCRIPTOR:
                    self._accept_at = self._clock() + ACCEPT_AGAIN
                    return
                continue
            self._take(accepted, peer[0])

    def _take(self, accepted: socket.socket, peer: str) -> None:
        connection = Connection(accepted, peer, self._clock() + REQUEST_WITHIN)
        if self._is_hidden(accepted):
            self._end(connection, reset=True)
            return
        if len(self._connections) >= CONNECTIONS:
            self._make_room(peer)
        accepted.setblocking(False)
        self._connections.append(connection)
        self._receive(connection)

    def _make_room(self, peer: str) -> None:
        """Cut the oldest of the address that has most, so that a busy one takes no other's place; at last who waits."""
        have = Counter([peer, *(each.peer for each in self._connections)])
        most = max(have[each.peer] for each in self._connections)
        busiest = [each for each in self._connections if have[each.peer] == most]
        self._cut(min(busiest, key=lambda each: (each.asked, each.ends)))

    def _is_hidden(self, accepted: socket.socket) -> bool:
        """Whether it came to a floating address: those are for the application's peers. Link-local ones are no probe's.

        (The kubelet asks at the pod's address, which is eth0's.)
        """
        try:
            local = ip_address(accepted.getsockname()[0].partition("%")[0])
        except (OSError, ValueError):
            return True
        return (local.version == 6 and local.is_link_local) or local in self._watched.hidden()

    def _go_on(self, connection: Connection, events: int) -> None:
        if connection.asked:  # nothing was polled for but its end
            self._end(connection)
        elif connection.to_send:
            self._send(connection)
        else:
            self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.drained += len(data) if connection.answered else 0
        if not data or connection.drained > LINGER_BYTES:
            self._end(connection)
        elif not connection.answered:
            connection.received += data
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        head, end, _ = connection.received.replace(b"\r\n", b"\n").partition(b"\n\n")
        if len(head) > HEAD:
            self._answer(connection, said(431))
        if not end or connection.answered:
            return
        request = read_head(bytes(head))
        if isinstance(request, Answer):
            self._answer(connection, request)
            return
        connection.method = request.method
        desk = self._desks.get(request.path)
        if desk is None or request.method not in ("GET", "HEAD"):
            self._answer(connection, said(404 if desk is None else 405))
            return
        connection.asked = True
        desk.waiting.append(connection)

    def _answer(self, connection: Connection, answer: Answer) -> None:
        connection.asked, connection.answered = False, True
        connection.to_send = write(answer, connection.method, time.time())
        connection.received.clear()
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        try:
            sent = connection.sock.send(connection.to_send)
            connection.to_send = connection.to_send[sent:]
            if not connection.to_send:
                connection.sock.shutdown(socket.SHUT_WR)  # a close now would take back what the client has not read
                connection.ends = min(connection.ends, self._clock() + LINGER)
        except BlockingIOError:
            return
        except OSError:
            self._end(connection)

    def _expire(self) -> None:
        now = self._clock()
        for connection in [each for each in self._connections if each.ends <= now]:
            self._cut(connection)

    def _cut(self, connection: Connection) -> None:
        """End it before its time; a RST could take an answer back that the client has not read yet."""
        self._end(connection, reset=not connection.answered)

    def _end(self, connection: Connection, *, reset: bool = False) -> None:
        connection.closed = True
        with contextlib.suppress(ValueError):
            self._connections.remove(connection)
        with contextlib.suppress(OSError):
            if reset:
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.sock.close()

    # answers

    def _hand_out(self) -> None:
        """Send the answers that have been made, and have those made that are waited for."""
        while self._made:
            desk, answer = self._made.popleft()
            for connection in desk.served:
                if not connection.closed:
                    self._answer(connection, answer)
            desk.served, desk.busy = [], False
        for path, desk in self._desks.items():
            waiting = [connection for connection in desk.waiting if not connection.closed]
            desk.waiting = waiting if desk.busy else []
            if waiting and not desk.busy:
                desk.served, desk.busy = waiting, True
                threading.Thread(target=self._make, args=(path, desk), daemon=True, name=f"http {path}").start()

    def _make(self, path: str, desk: Desk) -> None:
        """On a thread of its own. A mistake of ours is said once and is no reason to stop: the loop does its work."""
        try:
            answer = desk.make()
        except Exception as error:
            answer = said(500)
            if path not in self._broken:
                self._broken.add(path)
                event(log, logging.ERROR, "not answered", path=path, why=repr(error))
        self._made.append((desk, answer))
        self._wake()

    def _health(self) -> Answer:
        if self._watched.alive(ALIVE_WITHIN):
            return Answer(200, b"ok\n")
        return Answer(503, f"the loop has not come round within {ALIVE_WITHIN:g} s\n".encode())

    def _readiness(self) -> Answer:
        """As of the last round, which says nothing of now where the loop hangs."""
        ready, why = self._watched.ready()
        return self._health() if ready else Answer(503, f"{why}\n".encode())

    def _text(self) -> Answer:
        return Answer(200, self._metrics(), METRICS_TEXT)


def _listener(family: socket.AddressFamily, port: int) -> socket.socket:
    """A socket of one family only: IPv6 is not to take IPv4's port as well (ipv6(7)). Raises OSError."""
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for a container that is restarted
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((ANYWHERE[family], port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
