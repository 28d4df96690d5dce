"""Says when the kernel announced an address: `python -I -S kernel_events.py`, in the namespace to listen in.

A process of its own, so that nothing the lab computes can make an event seem later than it was, and so what followed
seem quicker. Prints `ready`, then for each address: the time (s of CLOCK_MONOTONIC), `new` or `gone`, the address.
"""

from __future__ import annotations

import socket
import struct
import time

GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR: linux/rtnetlink.h
KINDS = {20: "new", 21: "gone"}  # RTM_NEWADDR, RTM_DELADDR
IFA_ADDRESS, IFA_LOCAL = 1, 2  # linux/if_addr.h
_HEADER, _IFADDRMSG, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), struct.Struct("=HH")


def addresses(datagram: bytes) -> list[tuple[str, str]]:
    """The (`new` or `gone`, address) of each message."""
    found = []
    while len(datagram) >= _HEADER.size:
        length, kind = _HEADER.unpack_from(datagram)[:2]
        if kind in KINDS:
            found.append((KINDS[kind], _address(datagram[_HEADER.size : length])))
        datagram = datagram[_aligned(length) :]
    return found


def _address(message: bytes) -> str:
    family = _IFADDRMSG.unpack_from(message)[0]
    found: dict[int, bytes] = {}
    rest = message[_IFADDRMSG.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        found[kind] = rest[_ATTRIBUTE.size : length]
        rest = rest[_aligned(length) :]
    return socket.inet_ntop(family, found.get(IFA_LOCAL) or found[IFA_ADDRESS])


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def main() -> None:
    """Listen until killed."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    events.bind((0, GROUPS))
    print("ready", flush=True)
    while True:
        datagram = events.recv(65536)
        now = time.monotonic()
        for kind, address in addresses(datagram):
            print(now, kind, address, flush=True)


if __name__ == "__main__":
    main()
