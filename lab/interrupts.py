"""Ctrl-C that waits until a step is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred() -> Iterator[None]:
    """Hold a SIGINT back until the block has ended; then it does what it would have done. Nests.

    For short blocks that must not stop half-way: building, and above all tearing down.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread runs signal handlers
        yield
        return
    pending: list[FrameType | None] = []
    before = signal.signal(signal.SIGINT, lambda _, frame: pending.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
        if pending and callable(before):
            before(signal.SIGINT, pending[0])
        elif pending and before is not signal.SIG_IGN:
            signal.raise_signal(signal.SIGINT)
