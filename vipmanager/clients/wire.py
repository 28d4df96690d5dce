"""A socket for http.client that ends: at a moment, and after so many bytes, however slowly or fast they come."""

from __future__ import annotations

import io
import socket
from time import monotonic
from typing import Any


class TooLong(Exception):
    """More came than is taken."""


class Wire:
    """What http.client takes for its socket. It closes nothing: the response outlives the connection."""

    def __init__(self, sock: socket.socket, deadline: float, limit: int) -> None:
        """`deadline`: of the monotonic clock. `limit`: bytes of an answer, its head included."""
        self._sock, self._deadline, self._limit = sock, deadline, limit

    def sendall(self, data: bytes) -> None:
        """Send it before the deadline. Raises OSError."""
        self._sock.settimeout(left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, _: str) -> io.BufferedReader:
        """What the answer is read from."""
        return io.BufferedReader(_Reader(self._sock, self._deadline, self._limit))

    def close(self) -> None:
        """See the class."""


class _Reader(io.RawIOBase):
    """A socket's own timeout begins anew with each byte."""

    def __init__(self, sock: socket.socket, deadline: float, limit: int) -> None:
        self._sock, self._deadline, self._limit, self._room = sock, deadline, limit, limit

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come. Raises OSError, TooLong."""
        self._sock.settimeout(left(self._deadline))
        count = self._sock.recv_into(buffer)
        self._room -= count
        if self._room < 0:
            raise TooLong(f"an answer of more than {self._limit} bytes")
        return count


def after(seconds: float) -> float:
    """The deadline that is so far away."""
    return monotonic() + seconds


def left(deadline: float) -> float:
    """Seconds until the deadline. Raises TimeoutError when there are none."""
    seconds = deadline - monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds
