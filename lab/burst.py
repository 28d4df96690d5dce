"""Address changes by the thousand: as many rtnetlink messages as the kernel takes, in few system calls."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from lab import links
from lab.netns import Namespace

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, interface
_RTM_NEWADDR, _RTM_DELADDR = 20, 21  # linux/rtnetlink.h
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x1, 0x4, 0x400
_NLMSG_ERROR = 2
_IFA_LOCAL, _IFA_ADDRESS = 2, 1
_PAIRS_AT_ONCE = 250
_LAST = 1  # the sequence number of a message that is to be acknowledged


def flap(ns: Namespace, interface: str, address: str, changes: int) -> None:
    """Add a /32 to an interface and delete it, again and again: `changes` changes, an even number.

    The address must not be there before, and is not afterwards. Raises OSError.
    """

    def send(iproute: object) -> None:
        index = socket.if_nametoindex(interface)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.bind((0, 0))
            for messages in _batches(index, IPv4Address(address), changes // 2):
                netlink.send(messages)
                _await_acknowledgement(netlink)

    links.netlink(ns, send)


def _batches(index: int, address: IPv4Address, pairs: int) -> Iterator[bytes]:
    add = _message(_RTM_NEWADDR, _NLM_F_REQUEST | _NLM_F_CREATE, index, address)
    delete = _message(_RTM_DELADDR, _NLM_F_REQUEST, index, address)
    last = _message(_RTM_DELADDR, _NLM_F_REQUEST | _NLM_F_ACK, index, address, _LAST)
    while pairs > 0:
        number = min(pairs, _PAIRS_AT_ONCE)
        yield (add + delete) * (number - 1) + add + last
        pairs -= number


def _message(kind: int, flags: int, index: int, address: IPv4Address, sequence: int = 0) -> bytes:
    attributes = b"".join(struct.pack("=HH4s", 8, each, address.packed) for each in (_IFA_LOCAL, _IFA_ADDRESS))
    body = _ADDRESS.pack(socket.AF_INET, address.max_prefixlen, 0, 0, index) + attributes
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def _await_acknowledgement(netlink: socket.socket) -> None:
    """Until the batch's last message has been acknowledged. Raises the first refusal."""
    while True:
        answer = netlink.recv(65536)
        while answer:
            length, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            code = -struct.unpack_from("=i", answer, _HEADER.size)[0] if kind == _NLMSG_ERROR else 0
            if code:
                raise OSError(code, f"address change: {os.strerror(code)} ({errno.errorcode.get(code)})")
            if sequence == _LAST:
                return
            answer = answer[(length + 3) & ~3 :]
