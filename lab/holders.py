"""Which nodes have an address on an interface, and since when, by the kernel's own announcements.

EC2 cannot show two holders of an address, because it knows one owner of each; the interfaces of two nodes can.

One netlink socket hears all namespaces (NETLINK_LISTEN_ALL_NSID, netlink(7)). The kernel changes addresses of any
namespace under one lock (rtnl) and announces them before it lets go of it, so that the one queue has them in the order
in which they happened: whether two nodes had an address at once is a matter of that order. No clock decides it, and
nothing has to be tolerated. An IPv6 address is announced when the kernel begins to deliver to it, which is a moment
after the request (addrconf_dad_work and __ipv6_ifa_notify in net/ipv6/addrconf.c). Times are of when an announcement
was read, and only say how long something lasted.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lab import links
from lab.netns import Namespace

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NETLINK_LISTEN_ALL_NSID = 270, 1, 8  # linux/socket.h, linux/netlink.h
_GROUPS = (5, 9)  # RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR: linux/rtnetlink.h
_RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWNSID, _NLMSG_ERROR = 20, 21, 88, 2
_NLM_F_REQUEST, _NLM_F_ACK = 0x1, 0x4
_NETNSA_NSID, _NETNSA_FD = 1, 3  # linux/net_namespace.h
_SO_RCVBUFFORCE = 33
_BUFFER = 1 << 24  # bytes; without the right to force it the kernel's own limit, some hundred announcements
_HEADER, _IFADDRMSG, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), struct.Struct("=HH")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2  # linux/if_addr.h
_MARKERS = itertools.cycle([f"127.1.{number // 250}.{number % 250 + 1}" for number in range(50000)])
_READ_WITHIN = 20.0  # seconds


def boot_time() -> float:
    """Seconds since boot, the clock of the nodeport mode."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Tenure:
    """A node has an address on some interface from `start` until `end` (None: still); `first`, `last` count events."""

    node: str
    start: float
    first: int
    end: float | None = None
    last: int | None = None

    def __str__(self) -> str:
        return f"{self.node} {self.start:.3f}–{'' if self.end is None else f'{self.end:.3f}'}"


class Holders:
    """Listens in the nodes' namespaces from the moment it is made until close()."""

    def __init__(self, nodes: Mapping[str, Namespace]) -> None:
        """`nodes`: name → namespace. Raises OSError."""
        self._names = dict(enumerate(nodes, 1))
        self._ns = Namespace("holders")
        self._changed = threading.Condition()
        self._on: dict[tuple[str, str], set[tuple[int, int]]] = {}  # (address, node) → (interface, prefix length)
        self._tenures: dict[str, list[Tenure]] = {}
        self._marked: set[str] = set()
        self._events = itertools.count(1)
        self._error: BaseException | None = None
        self._closing = False
        self._socket = self._ns.run(lambda: _listening(list(nodes.values())))
        for number, ns in enumerate(nodes.values(), 1):
            for found in links.netlink(ns, lambda iproute: list(iproute.get_addr())):
                address = str(found.get("IFA_LOCAL") or found.get("IFA_ADDRESS"))
                self._note(number, _RTM_NEWADDR, address, (found["index"], found["prefixlen"]))
        self._thread = threading.Thread(target=self._listen, name="holders", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def tenures(self, address: str) -> list[Tenure]:
        """Who has had the address, in the order in which they got it. Raises what went wrong while listening."""
        self.sync()
        with self._changed:
            return [Tenure(**vars(each)) for each in self._tenures.get(address, ())]

    def holders(self, address: str) -> frozenset[str]:
        """The nodes that had the address when the last announcement was read, which is now or a moment ago."""
        with self._changed:
            self._check()
            return frozenset(each.node for each in self._tenures.get(address, ()) if each.end is None)

    def overlaps(self, address: str) -> list[tuple[Tenure, Tenure]]:
        """Each two nodes that had the address at once, if for a moment only."""
        return overlapping(self.tenures(address))

    def longest_gap(self, address: str, start: float, end: float) -> float:
        """The longest time (s) between two moments in which no node had the address."""
        return longest_gap(self.tenures(address), start, end)

    def sync(self) -> None:
        """Wait until all that the kernel has announced so far was read. Raises what went wrong while listening."""
        marker = next(_MARKERS)
        links.add_address(self._ns, "lo", f"{marker}/32")
        links.delete_address(self._ns, "lo", f"{marker}/32")
        with self._changed:
            read = self._changed.wait_for(lambda: marker in self._marked or self._error, _READ_WITHIN)
            self._check()
            if not read:
                raise TimeoutError(f"no announcement was read within {_READ_WITHIN:g} s")
            self._marked.remove(marker)

    def close(self) -> None:
        """Stop. May be called again."""
        if self._closing:
            return
        self._closing = True
        links.add_address(self._ns, "lo", f"{next(_MARKERS)}/32")  # so that the thread wakes and ends
        self._thread.join(_READ_WITHIN)
        self._socket.close()
        self._ns.close()

    def _check(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"listening has ended: {self._error}") from self._error

    def _listen(self) -> None:
        try:
            while not self._closing:
                data, control, flags, _ = self._socket.recvmsg(1 << 16, 64)  # ENOBUFS: something was missed
                if flags & socket.MSG_TRUNC:
                    raise OSError("an announcement was longer than the buffer")
                nodes = [
                    struct.unpack("=i", found)[0] for _, kind, found in control if kind == _NETLINK_LISTEN_ALL_NSID
                ]
                with self._changed:
                    for kind, address, place in _announcements(data):
                        self._note(nodes[0] if nodes else 0, kind, address, place)
                    self._changed.notify_all()
        except BaseException as error:  # raised again in whoever asks
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _note(self, number: int, kind: int, address: str, place: tuple[int, int]) -> None:
        if number == 0:
            if kind == _RTM_DELADDR:
                self._marked.add(address)
            return
        node, now, event = self._names[number], boot_time(), next(self._events)
        on, tenures = self._on.setdefault((address, node), set()), self._tenures.setdefault(address, [])
        if kind == _RTM_NEWADDR:
            if not on:
                tenures.append(Tenure(node, now, event))
            on.add(place)
        elif place in on:
            on.remove(place)
            if not on:
                current = next(each for each in tenures if each.node == node and each.end is None)
                current.end, current.last = now, event


def overlapping(tenures: list[Tenure]) -> list[tuple[Tenure, Tenure]]:
    """The pairs of two nodes of which one began before the other had ended."""
    return [
        (one, other)
        for one, other in itertools.combinations(tenures, 2)
        if one.node != other.node and (one.last is None or other.first < one.last)
    ]


def longest_gap(tenures: list[Tenure], start: float, end: float) -> float:
    """The longest time (s) between `start` and `end` that belongs to no tenure."""
    longest, free_since = 0.0, start
    for each in tenures:
        longest = max(longest, min(each.start, end) - free_since)
        free_since = max(free_since, end if each.end is None else each.end)
    return max(longest, end - free_since, 0.0)


def _listening(namespaces: list[Namespace]) -> socket.socket:
    """A socket that hears of every address in the namespaces, which it knows as 1, 2, …, and in its own."""
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        for number, ns in enumerate(namespaces, 1):
            _number(listening, number, ns.fileno())
        try:
            listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:  # in a user namespace
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        listening.setsockopt(_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
        for group in _GROUPS:
            listening.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except BaseException:
        listening.close()
        raise
    return listening


def _number(listening: socket.socket, number: int, descriptor: int) -> None:
    """Give a namespace a number here: it is by this that its announcements are told apart. Raises OSError."""
    body = struct.pack("=B3x", socket.AF_UNSPEC)
    body += struct.pack("=HHi", 8, _NETNSA_NSID, number) + struct.pack("=HHI", 8, _NETNSA_FD, descriptor)
    listening.send(_HEADER.pack(_HEADER.size + len(body), _RTM_NEWNSID, _NLM_F_REQUEST | _NLM_F_ACK, 0, 0) + body)
    answer = listening.recv(1 << 16)
    kind, error = _HEADER.unpack_from(answer)[1], struct.unpack_from("=i", answer, _HEADER.size)[0]
    if kind != _NLMSG_ERROR or error:
        raise OSError(-error, "the kernel gives a namespace no number")


def _announcements(datagram: bytes) -> list[tuple[int, str, tuple[int, int]]]:
    """(RTM_NEWADDR or RTM_DELADDR, address, (interface, prefix length)) of each message."""
    found = []
    while len(datagram) >= _HEADER.size:
        length, kind = _HEADER.unpack_from(datagram)[:2]
        if kind in (_RTM_NEWADDR, _RTM_DELADDR):
            message = datagram[_HEADER.size : length]
            family, prefix_length, _, _, index = _IFADDRMSG.unpack_from(message)
            found.append((kind, _address(family, message[_IFADDRMSG.size :]), (index, prefix_length)))
        datagram = datagram[_aligned(length) :]
    return found


def _address(family: int, attributes: bytes) -> str:
    """The interface's own address; IFA_ADDRESS is the other end's where it has a peer."""
    found: dict[int, bytes] = {}
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        found[kind] = attributes[_ATTRIBUTE.size : length]
        attributes = attributes[_aligned(length) :]
    return socket.inet_ntop(family, found.get(_IFA_LOCAL) or found[_IFA_ADDRESS])


def _aligned(length: int) -> int:
    return (length + 3) & ~3
