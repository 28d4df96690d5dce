"""Logs: one event a line with its facts, as `key=value` text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any


def event(logger: logging.Logger, level: int, name: str, /, **facts: Any) -> None:
    """Log an event and its facts; a fact that is None or empty is left out, `took` is in seconds."""
    if logger.isEnabledFor(level):
        shown = {key: _shown(key, value) for key, value in facts.items() if value is not None and value != ""}
        logger.log(level, name, extra={"facts": shown})


def _shown(key: str, value: Any) -> Any:
    if key == "took":
        return f"{value:.3f}s"
    return value if isinstance(value, int | bool) else str(value)


def printable(line: str) -> str:
    """A line with escapes for whatever would steer the terminal of who reads it, or begin another line.

    What others say, and the messages and tracebacks of libraries, may hold anything.
    """
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """`TIME LEVEL event key=value …`; values with blanks are quoted, and what is no event's line is indented."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, with a traceback below it when there is one."""
        facts = getattr(record, "facts", {})
        quoted = " ".join(f"{key}={self._quote(str(value))}" for key, value in facts.items())
        line = f"{_stamp(record)} {record.levelname} {printable(record.getMessage())} {quoted}".rstrip()
        below = self.formatException(record.exc_info).splitlines() if record.exc_info else ()
        return "\n".join([line, *(f"  {printable(each)}" for each in below)])

    @staticmethod
    def _quote(value: str) -> str:
        if not value.isprintable():
            return json.dumps(value)
        return json.dumps(value, ensure_ascii=False) if " " in value or '"' in value else value


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The event, its level and time, and its facts."""
        data = {"time": _stamp(record), "level": record.levelname, "event": record.getMessage()}
        data.update(getattr(record, "facts", {}))
        if record.exc_info:
            data["traceback"] = self.formatException(record.exc_info)
        return printable(json.dumps(data, ensure_ascii=False))


def set_up(level: str, form: str) -> None:
    """Send vipmanager's events to stderr. Other libraries' records are shown from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("vipmanager").setLevel(level)
