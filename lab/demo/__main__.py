"""`python -m lab.demo`: signals first, so that a Ctrl-C at any moment ends it in order; then the story."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from types import FrameType

_STARTED = time.monotonic()
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_told: list[int] = []


def _on_interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGINT, which the lab holds back while it builds and tears down: end, once."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _on_other(number: int, _frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP: like SIGINT, but for the exit status."""
    _told.append(number)
    signal.raise_signal(signal.SIGINT)


def _handle_signals() -> None:
    signal.signal(signal.SIGINT, _on_interrupt)
    for number in _SIGNALS[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _on_other)


def main() -> int:
    """Run the demo; the exit status: 1 when traffic did not flow or the lab cannot run, 128 + N for a signal."""
    try:
        _handle_signals()
        return _play()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("\ninterrupted; nothing is left behind", file=sys.stderr)
        return 128 + (_told[0] if _told else signal.SIGINT)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    finally:
        for number in _SIGNALS:  # what is left to do takes no time, and has an exit status already
            signal.signal(number, signal.SIG_IGN)


def _play() -> int:
    from lab.demo.timeline import Timeline

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    timeline = Timeline(sys.stdout, _STARTED)
    timeline.line(
        "vipmanager: floating addresses move between workers and zones. Ctrl-C ends it and leaves nothing.", "bold"
    )
    try:
        from lab.demo import story  # imports moto and boto3, which take a second
        from lab.privileges import LabUnavailable
    except ModuleNotFoundError as error:
        timeline.note(f"The lab needs {error.name}, which is not installed: `make demo` installs what it needs.", "red")
        return 1
    try:
        return story.run(timeline)
    except LabUnavailable as error:
        timeline.note(str(error), "red")
        return 1


if __name__ == "__main__":
    sys.exit(main())
