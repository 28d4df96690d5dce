"""The VPC's forwarding: a userland router between the ENIs, steered by what EC2 holds at the moment.

There is one port per ENI, the far end of the ENI's veth pair, read and written as raw frames: the kernel forwards
nothing. Like a VPC it answers ARP and neighbour solicitations for a whole subnet with one MAC, sends each packet where
`lab.ec2.delivery` says, leaves the TTL alone, and drops the rest without an ICMP error. It is the internet gateway
too: behind the port INTERNET are all addresses outside the VPC, and Elastic IPs are translated on the way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from lab import frames
from lab.ec2.delivery import Delivered, Dropped, ToInternet, deliver, deliver_from_internet
from lab.ec2.state import Address, VpcState
from lab.netns import Namespace

# The MAC of everything that is not the asking host itself. It is not that of the ports' interfaces, so that the kernel
# takes every frame for one to another host, and leaves it alone.
ROUTER_MAC = bytes.fromhex("060000ec2001")
GATEWAY6 = IPv6Address("fe80:ec2::1")  # EC2-SEMANTICS.md: the IPv6 gateway of every subnet

INTERNET = "internet"  # stands for an ENI's ID where there is none

_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23  # linux/if_packet.h: do not show us what we send
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 4 << 20  # bytes; the kernel gives an ordinary user less
_FRAMES_AT_ONCE = 64  # from one port before the next has its turn
_DROPS_KEPT = 50
_CACHE_LIMIT = 65536

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drop:
    """A packet that was dropped. `when` is on the clock of time.monotonic()."""

    when: float
    eni_id: str
    source: str
    destination: str
    reason: str


@dataclass(frozen=True)
class _Sent:
    """What is to happen to a packet: to this port, from another address, or to one."""

    port: Port
    source: IPv4Address | None = None
    destination: IPv4Address | None = None


@dataclass(eq=False)
class Port:
    """Where an ENI is plugged in. While it is not `up`, frames from and to it are discarded.

    An ENI may have several ports, one per pod interface on it: then `addresses` says which of them gets a packet, as
    ipvlan decides by its child's addresses.
    """

    eni_id: str
    name: str
    mac: bytes
    socket: socket.socket
    up: bool = True
    addresses: set[Address] = field(default_factory=set)


class Router:
    """Forwards between ports in a thread of its own, from the first add_port() until close()."""

    def __init__(self, ns: Namespace, state: Callable[[], VpcState]) -> None:
        """`ns` holds the ports' interfaces; `state` is asked for the current state at every packet, so must be fast."""
        self.forwarded = 0  # packets
        self.dropped: Counter[tuple[str, str]] = Counter()  # (ENI, reason) → packets
        self.last_drops: deque[Drop] = deque(maxlen=_DROPS_KEPT)
        self._ns = ns
        self._state = state
        self._lock = threading.Lock()  # guards _ports and _by_eni; held while a port's frames are handled
        self._ports: dict[int, Port] = {}
        self._by_eni: dict[str, list[Port]] = {}
        self._decided_for: VpcState | None = None
        self._decisions: dict[tuple[str, bytes], _Sent | str] = {}
        self._buffer = bytearray(1 << 16)
        self._epoll = select.epoll()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="lab-router", daemon=True)
        self._thread.start()

    def add_port(self, eni_id: str, name: str, mac: str) -> Port:
        """Plug an interface of the router's namespace in as a port of the ENI, whose host end has the MAC `mac`."""
        port = Port(eni_id, name, bytes.fromhex(mac.replace(":", "")), self._ns.run(lambda: _open(name)))
        with self._lock:
            self._ports[port.socket.fileno()] = port
            self._by_eni.setdefault(eni_id, []).append(port)
            self._decisions.clear()
            self._epoll.register(port.socket, select.EPOLLIN)
        return port

    def remove_port(self, port: Port) -> None:
        """Unplug a port. May be called again."""
        with self._lock:
            if self._ports.pop(port.socket.fileno(), None) is None:
                return
            self._by_eni[port.eni_id].remove(port)
            self._decisions.clear()
            self._epoll.unregister(port.socket)
            port.socket.close()

    def set_addresses(self, port: Port, addresses: set[Address]) -> None:
        """Say which addresses are behind the port; it matters for an ENI with several ports."""
        with self._lock:
            port.addresses = addresses
            self._decisions.clear()

    def close(self) -> None:
        """Stop forwarding and unplug everything. May be called again."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        for port in list(self._ports.values()):
            self.remove_port(port)
        self._epoll.close()
        os.close(self._stop)
        self._stop = -1

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._stop:
                    return
                with self._lock:
                    port = self._ports.get(descriptor)
                    if port is not None:
                        self._read(port)

    def _read(self, port: Port) -> None:
        """Handle the frames that wait at a port."""
        buffer, receive = self._buffer, port.socket.recv_into
        for _ in range(_FRAMES_AT_ONCE):
            try:
                length = receive(buffer)
            except OSError:  # nothing more to read, or the interface was set down or is gone
                return
            if not port.up:
                continue
            try:
                self._handle(port, length)
            except Exception:  # one bad frame must not stop the VPC
                _log.exception("the router failed on a frame: port=%s eni=%s", port.name, port.eni_id)

    def _handle(self, port: Port, length: int) -> None:
        """Handle one frame, the first `length` bytes of the buffer."""
        buffer = self._buffer
        kind = buffer[12:14]
        if kind == frames.ARP:
            self._answer(port, frames.parse_arp_request(buffer, length))
        elif kind == frames.IPV6 and frames.is_neighbour_discovery(buffer, length):
            self._answer(port, frames.parse_neighbour_solicitation(buffer, length))
        elif buffer[0] & 1:  # broadcast or multicast, of which a VPC has none
            return
        elif kind == frames.IPV4 and length >= frames.MIN_IPV4:
            self._forward(port, length, bytes(buffer[26:34]))
        elif kind == frames.IPV6 and length >= frames.MIN_IPV6:
            self._forward(port, length, bytes(buffer[22:54]))

    def _answer(self, port: Port, question: frames.Question | None) -> None:
        """Answer for any address of the ENI's subnet, and the IPv6 gateway, that is not the asking host's own."""
        if question is None or question.target == question.sender:
            return
        if port.eni_id == INTERNET:
            self._send(port, frames.answer(question, ROUTER_MAC))
            return
        state = self._state()
        eni = state.enis.get(port.eni_id)
        if eni is None or question.target in eni.addresses:
            return
        if question.target == GATEWAY6 or state.subnets[eni.subnet_id].contains(question.target):
            self._send(port, frames.answer(question, ROUTER_MAC, is_router=question.target == GATEWAY6))

    def _forward(self, port: Port, length: int, addresses: bytes) -> None:
        """Send the packet in the buffer on; `addresses` is its source followed by its destination."""
        state = self._state()
        if state is not self._decided_for or len(self._decisions) > _CACHE_LIMIT:
            self._decisions.clear()
            self._decided_for = state
        key = (port.eni_id, addresses)
        decision = self._decisions.get(key)
        if decision is None:
            decision = self._decisions[key] = self._decide(state, port.eni_id, addresses)
        if isinstance(decision, str):
            self._drop(port, addresses, decision)
        elif not decision.port.up:
            self._drop(port, addresses, "port-down")
        else:
            if decision.source:
                frames.set_source(self._buffer, decision.source)
            if decision.destination:
                frames.set_destination(self._buffer, decision.destination)
            self._buffer[0:12] = decision.port.mac + ROUTER_MAC
            if self._send(decision.port, memoryview(self._buffer)[:length]):
                self.forwarded += 1
            else:
                self._drop(port, addresses, "not-sent")

    def _decide(self, state: VpcState, eni_id: str, addresses: bytes) -> _Sent | str:
        """The port that gets a packet, and with which addresses, or why none does."""
        source, destination = _split(addresses)
        outcome: Delivered | ToInternet | Dropped
        if eni_id == INTERNET:
            outcome = deliver_from_internet(state, source, destination)
        else:
            outcome = deliver(state, eni_id, source, destination)
        if isinstance(outcome, Dropped):
            return outcome.reason
        if isinstance(outcome, ToInternet):
            ports = self._by_eni.get(INTERNET)
            return _Sent(ports[0], source=outcome.source) if ports else "no-port"
        ports = self._by_eni.get(outcome.eni_id)
        if not ports:
            return "no-port"
        wanted = outcome.destination or destination
        port = next((port for port in ports if wanted in port.addresses), ports[0])
        return _Sent(port, destination=outcome.destination)

    def _drop(self, port: Port, addresses: bytes, reason: str) -> None:
        self.dropped[port.eni_id, reason] += 1
        source, destination = _split(addresses)
        self.last_drops.append(Drop(time.monotonic(), port.eni_id, str(source), str(destination), reason))

    def _send(self, port: Port, frame: bytes | memoryview) -> bool:
        with contextlib.suppress(OSError):  # the queue is full, or the interface is down
            port.socket.send(frame)
            return True
        return False


def _split(addresses: bytes) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    half = len(addresses) // 2
    return ip_address(addresses[:half]), ip_address(addresses[half:])


def _open(name: str) -> socket.socket:
    """Open an interface of the calling thread's namespace for raw frames."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(frames.ETH_P_ALL))
    opened.bind((name, frames.ETH_P_ALL))
    opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:  # only the machine's real root may exceed net.core.rmem_max
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    return opened
