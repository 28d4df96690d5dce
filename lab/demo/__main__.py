"""`python -m lab.demo [nodeport]`: signals first, so that a Ctrl-C at any moment ends it in order; then the story."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Raised in the place of a plain KeyboardInterrupt.

    When that passes through an exec() of text, as dataclasses use it, the interpreter remembers it and in the end kills
    itself by SIGINT, whoever caught it (unhandled_keyboard_interrupt in CPython's pythonrun.c).
    """


_STARTED = time.monotonic()
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_told: list[int] = []
_STORIES = {
    (): "floating addresses move between workers and zones.",
    ("nodeport",): "one floating IP for the NodePorts of two nodes.",
}
"""What the arguments stand for."""


def _on_interrupt(number: int, _frame: FrameType | None) -> None:
    """SIGINT, which the lab holds back while it builds and tears down: end, once."""
    _ignore_signals()
    _told.append(number)
    raise Interrupted


def _on_other(number: int, _frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP: like SIGINT, but for the exit status."""
    _told.append(number)
    signal.raise_signal(signal.SIGINT)


def _check() -> None:
    """End if told to: what the handler raises is lost when it happens to run in a finalizer or a weakref's callback."""
    if _told:
        raise Interrupted


def _handle_signals() -> None:
    signal.signal(signal.SIGINT, _on_interrupt)
    for number in _SIGNALS[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _on_other)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main() -> int:
    """Run the demo; the exit status: 1 when traffic did not flow or the lab cannot run, 128 + N for a signal."""
    try:
        _handle_signals()
        return _play()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("\ninterrupted; nothing is left behind", file=sys.stderr)
        return 128 + (_told or [signal.SIGINT])[0]
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    finally:
        _ignore_signals()  # what is left to do takes no time, and has an exit status already


def _play() -> int:
    from lab import interrupts
    from lab.demo.timeline import Timeline

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    timeline = Timeline(sys.stdout, _STARTED, _check)
    asked = tuple(sys.argv[1:])
    if asked not in _STORIES:
        timeline.note("usage: python -m lab.demo [nodeport]", "red")
        return 2
    timeline.line(f"vipmanager: {_STORIES[asked]} Ctrl-C ends it and leaves nothing.", "bold")
    try:
        with interrupts.deferred():  # they take a second, but imports have weakref callbacks: see _check()
            from lab.demo import nodeport, story
            from lab.privileges import LabUnavailable
    except ModuleNotFoundError as error:
        timeline.note(f"The lab needs {error.name}, which is not installed: `make demo` installs what it needs.", "red")
        return 1
    try:
        return nodeport.run(timeline) if asked else story.run(timeline)
    except LabUnavailable as error:
        timeline.note(str(error), "red")
        return 1


if __name__ == "__main__":
    sys.exit(main())
