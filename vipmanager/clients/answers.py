"""Answers of EC2 and STS that end: botocore takes as many bytes as come, for as long as each comes in time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import Any

from vipmanager.clients.wire import TooLong

LONGEST = 64 << 20
"""Bytes of an answer's body. 100 route tables, which are a page, with 1,000 routes each are 30 MB."""
WITHIN = 60.0
"""Seconds from an answer's head to its end."""
_PART = 1 << 16


def bound_answers(client: Any) -> None:
    """Make a botocore client give up an answer that is longer, or takes longer: an HTTPClientError that says so.

    botocore has no public way to what reads the body: these are the classes from which its session makes its pools.
    """
    pools = client._endpoint.http_session._pool_classes_by_scheme
    for scheme, pool in pools.items():
        pools[scheme] = _bounded(pool)


def _bounded(pool: type[Any]) -> type[Any]:
    class Bounded(pool):  # type: ignore[misc]
        """The pool whose answers end."""

        def urlopen(self, *arguments: Any, **options: Any) -> Any:
            """See urllib3; botocore reads the body by `stream`."""
            answer = super().urlopen(*arguments, **options)
            answer.stream = partial(_parts, answer, monotonic() + WITHIN)
            return answer

    return Bounded


def _parts(answer: Any, deadline: float) -> Iterator[bytes]:
    """The body as it comes. Raises TooLong, TimeoutError; the connection is closed then."""
    room = LONGEST
    while part := answer.read1(_PART):
        room -= len(part)
        if room < 0:
            answer.close()
            raise TooLong(f"an answer of more than {LONGEST} bytes")
        if monotonic() > deadline:
            answer.close()
            raise TimeoutError(f"an answer that has not ended after {WITHIN:g} s")
        yield part
