"""Answers of EC2 and STS that end: botocore takes as many bytes as come, for as long as each comes in time."""

from __future__ import annotations

import io
from http.client import HTTPResponse
from typing import Any

from vipmanager.clients.wire import TooLong, after, left

LONGEST = 64 << 20
"""Bytes of an answer, its head included. 100 route tables, which are a page, with 1,000 routes each are 30 MB."""
WITHIN = 60.0
"""Seconds from the request's last byte to the answer's."""


def bound_answers(client: Any) -> None:
    """Make a botocore client give up an answer that is longer (HTTPClientError) or takes longer (ReadTimeoutError).

    botocore has no public way to what reads from the socket: these are the classes from which its session makes its
    pools, and they say which class reads an answer.
    """
    pools = client._endpoint.http_session._pool_classes_by_scheme
    for scheme, pool in pools.items():
        connection = type("Connection", (pool.ConnectionCls,), {"response_class": _Bounded})
        pools[scheme] = type("Pool", (pool,), {"ConnectionCls": connection})


class _Bounded(HTTPResponse):
    """An answer that ends."""

    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        raw: Any = self.fp.detach()
        self.fp = io.BufferedReader(_Reader(sock, raw))


class _Reader(io.RawIOBase):
    """What comes from a socket; its own timeout begins anew with each byte."""

    def __init__(self, sock: Any, raw: Any) -> None:
        self._sock, self._raw = sock, raw
        self._each, self._deadline, self._room = sock.gettimeout(), after(WITHIN), LONGEST

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come. Raises OSError, TimeoutError, TooLong."""
        self._sock.settimeout(min(left(self._deadline), self._each or WITHIN))
        count: int = self._raw.readinto(buffer)
        self._room -= count
        if self._room < 0:
            raise TooLong(f"an answer of more than {LONGEST} bytes")
        return count

    def close(self) -> None:
        """Let the socket go, as its own file would."""
        self._raw.close()
        super().close()
