"""ICMP and ICMPv6 echo (RFC 792, RFC 4443), with raw sockets: what `ping` does."""

from __future__ import annotations

import select
import socket
import struct
import time
from ipaddress import ip_address

from lab.frames import internet_checksum

_HEADER = struct.Struct("!BBHHHQ")  # type, code, checksum, identifier, sequence; then our own 64 bits of sequence
_TYPES = {4: (8, 0), 6: (128, 129)}  # IP version → request, reply


class EchoSocket:
    """Sends numbered echo requests to one address, and receives the replies from it."""

    def __init__(self, target: str, identifier: int, source: str | None = None) -> None:
        """Open it in the calling thread's network namespace. Raises OSError, e.g. where there is no route."""
        self.target = target
        self._version = ip_address(target).version
        self._identifier = identifier & 0xFFFF
        self._request, self._reply = _TYPES[self._version]
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP) if self._version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        self._socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        try:
            if source:
                self._socket.bind((source, 0))
            self._socket.connect((target, 0))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For select()."""
        return self._socket.fileno()

    def send(self, number: int) -> None:
        """Send request `number`. Raises OSError."""
        fields = (self._request, 0, 0, self._identifier, number & 0xFFFF, number)
        packet = _HEADER.pack(*fields)
        if self._version == 4:  # the kernel fills in ICMPv6's checksum itself: RFC 3542
            packet = packet[:2] + internet_checksum(packet).to_bytes(2, "big") + packet[4:]
        self._socket.send(packet)

    def receive(self) -> int | None:
        """The number of a reply that has arrived, or None when there is none (left). Raises OSError."""
        while True:
            try:
                packet = self._socket.recv(2048)
            except BlockingIOError:
                return None
            if self._version == 4:
                packet = packet[(packet[0] & 15) * 4 :]  # an IPv4 raw socket shows the IP header too
            if len(packet) < _HEADER.size:
                continue
            kind, _, _, identifier, _, number = _HEADER.unpack_from(packet)
            if kind == self._reply and identifier == self._identifier:
                return int(number)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def ping(target: str, *, source: str | None = None, timeout: float = 1.0, count: int = 1, identifier: int = 1) -> bool:
    """Whether the target answers one of `count` requests, waiting `timeout` seconds for each."""
    try:
        echo = EchoSocket(target, identifier, source)
    except OSError:
        return False
    try:
        return any(_answered(echo, number, timeout) for number in range(count))
    finally:
        echo.close()


def _answered(echo: EchoSocket, number: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    try:
        echo.send(number)
        while (left := deadline - time.monotonic()) > 0:
            if select.select([echo], [], [], left)[0] and echo.receive() is not None:
                return True
    except OSError:  # e.g. no route, or the host itself found the target unreachable
        time.sleep(max(0.0, deadline - time.monotonic()))
    return False
