"""The demo's output: lines with a time, of a width that fits any terminal, in colour where somebody looks at one."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TextIO

WIDTH = 110
"""Columns. What vipmanager logged is shown as it is, however long."""

_WHO = 10
_TEXT = 9 + 2 + _WHO + 2  # where a timeline's text begins
_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}
_COLOUR_OF: Mapping[str, str] = {"EC2": "cyan", "cluster": "yellow", "operator": "yellow", "vipmanager": "magenta"}


@dataclass(frozen=True, order=True)
class Event:
    """Something that happened. `when` is a time.monotonic()."""

    when: float
    who: str
    text: str


class Timeline:
    """Prints to a stream. Times are shown in seconds since `started`, a time.monotonic().

    `check` is called before each line, and may raise what ends the story.
    """

    def __init__(self, stream: TextIO, started: float, check: Callable[[], None] = lambda: None) -> None:
        self._stream = stream
        self._check = check
        self._started = started
        self._colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self._started

    def title(self, text: str) -> None:
        """Begin a part."""
        self.line()
        self.line(f"── {text} ".ljust(WIDTH, "─"), "bold")

    def say(self, who: str, text: str) -> None:
        """Show what happens now."""
        self.tell([Event(time.monotonic(), who, text)])

    def tell(self, events: Iterable[Event]) -> None:
        """Show what has happened, in order of time."""
        for event in sorted(events):
            first, *rest = textwrap.wrap(event.text, WIDTH - _TEXT, break_on_hyphens=False)
            stamp = self._styled(f"{event.when - self._started:9.3f}", "dim")
            who = self._styled(event.who.ljust(_WHO), _COLOUR_OF.get(event.who, "green"))
            self.line(f"{stamp}  {who}  {first}")
            for line in rest:
                self.detail(line)

    def detail(self, text: str) -> None:
        """Add to the event before."""
        self.line(" " * _TEXT + text)

    def note(self, text: str, style: str = "") -> None:
        """Say something that has no time. Of an item of a list, what follows its first line is indented with it."""
        for paragraph in text.splitlines():
            inner = paragraph.lstrip()
            hanging = " " * (len(paragraph) - len(inner) + (2 if inner.startswith("- ") else 0))
            for line in textwrap.wrap(paragraph, WIDTH - 2, break_on_hyphens=False, subsequent_indent=hanging) or [""]:
                self.line(f"  {line}", style)

    def line(self, text: str = "", style: str = "") -> None:
        """Print one line as it is."""
        self._check()
        print(self._styled(text, style), file=self._stream, flush=True)

    def _styled(self, text: str, style: str) -> str:
        return f"\033[{_COLOURS[style]}m{text}\033[0m" if style and text and self._colour else text


def milliseconds(seconds: float) -> str:
    """`612 ms`."""
    return f"{round(seconds * 1000)} ms"
