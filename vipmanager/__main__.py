"""The entrypoint: signals first, because as PID 1 a process that handles none cannot be stopped; then the mode."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_stop: list[Callable[[], None]] = []


def _on_signal(number: int, _frame: FrameType | None) -> None:
    if _stop:
        _stop[0]()
    else:  # nothing has been claimed yet
        os._exit(128 + number if "init" in " ".join(sys.argv[1:]).lower() else 0)


def entrypoint() -> None:
    """Run, and leave without waiting for threads whose calls hang."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    from vipmanager.cli import main

    try:
        code = main(sys.argv[1:], _stop.append)
    except BaseException:
        import logging

        logging.getLogger("vipmanager").exception("crashed")
        code = 70  # EX_SOFTWARE
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    entrypoint()
