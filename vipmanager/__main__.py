"""The entrypoint: signals first, because as PID 1 a process that handles none cannot be stopped; then the mode."""

from __future__ import annotations

import gc
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
        os._exit(0 if _stays() else 128 + number)


def _stays() -> bool:
    """Whether the mode is one that is ended by a signal, as far as it can be told before anything is imported."""
    words = set(" ".join(sys.argv[1:]).split())  # one argument may be a command of several words: arguments.SCRIPT
    if words & {"plan", "doctor", "status", "iam-policy", "free-ips"}:
        return False
    if words & {"init", "initContainers", "sidecar", "nodeport"}:
        return bool({"sidecar", "nodeport"} & words)
    return os.environ.get("RunAsSidecar", "").strip().lower() in ("true", "yes", "on", "1")


def entrypoint() -> None:
    """Run, and leave without waiting for threads whose calls hang."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    gc.disable()  # looking for garbage among what is imported costs a tenth of the start-up; cli turns it on again
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
