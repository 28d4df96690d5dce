"""One event a line, with its facts, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from vipmanager.logs import JsonFormatter, TextFormatter, event, set_up

log = logging.getLogger("vipmanager.test")


def logged(caplog: pytest.LogCaptureFixture, form: logging.Formatter, name: str = "claimed", **facts: Any) -> str:
    """The line of one event."""
    with caplog.at_level(logging.DEBUG, "vipmanager"):
        event(log, logging.INFO, name, **facts)
    return form.format(caplog.records[-1])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ('a "quote"', r'"a \"quote\""'),
        ("line\nbreak", r'"line\nbreak"'),
        ("tab\there", r'"tab\there"'),
        ("clear\x1b[2Jscreen", r'"clear\u001b[2Jscreen"'),
        ("back\rto the start", r'"back\rto the start"'),
        ("a line\u2028a line\x85", r'"a line\u2028a line\u0085"'),
        ("a=b", "a=b"),
        (7, "7"),
        (True, "True"),
        ("ä", "ä"),
        ("", None),
        (None, None),
    ],
)
def test_text_is_quoted_where_it_must_be(caplog: pytest.LogCaptureFixture, value: Any, shown: str | None) -> None:
    line = logged(caplog, TextFormatter(), fact=value, last=1)
    expected = "claimed last=1" if shown is None else f"claimed fact={shown} last=1"
    assert line.endswith(f"Z INFO {expected}")
    assert "\n" not in line


def test_seconds_are_shown_as_such(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, TextFormatter(), took=0.0814).endswith("took=0.081s")


def test_json_is_one_object_with_the_facts_and_their_types(caplog: pytest.LogCaptureFixture) -> None:
    line = logged(caplog, JsonFormatter(), address="192.168.0.1", tables=4, why='two "words"\n', none=None)
    data = json.loads(line)
    assert "\n" not in line and data.pop("time").endswith("Z")
    assert data == {"level": "INFO", "event": "claimed", "address": "192.168.0.1", "tables": 4, "why": 'two "words"\n'}


@pytest.mark.parametrize("form", [TextFormatter(), JsonFormatter()])
def test_a_traceback_is_kept(caplog: pytest.LogCaptureFixture, form: logging.Formatter) -> None:
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError:
        log.error("crashed", exc_info=sys.exc_info())
    assert "ZeroDivisionError: a bug" in form.format(caplog.records[-1])


def test_a_record_of_another_library_is_shown_too() -> None:
    record = logging.LogRecord("urllib3", logging.WARNING, "f", 1, "odd %s", ("thing",), None)
    assert TextFormatter().format(record).endswith("WARNING odd thing")
    assert json.loads(JsonFormatter().format(record))["event"] == "odd thing"


@pytest.mark.parametrize("form", ["text", "json"])
def test_ours_from_the_level_on_and_others_from_warning_on(capsys: pytest.CaptureFixture[str], form: str) -> None:
    root, ours = logging.getLogger(), logging.getLogger("vipmanager")
    kept = (root.handlers[:], root.level, ours.level)
    try:
        set_up("DEBUG", form)
        event(logging.getLogger("vipmanager.ec2"), logging.DEBUG, "call", on="rtb-1")
        logging.getLogger("botocore").info("silence")
        logging.getLogger("botocore").warning("said")
        set_up("WARNING", form)
        event(log, logging.INFO, "unsaid")
    finally:
        root.handlers[:], root.level = kept[0], kept[1]
        ours.setLevel(kept[2])
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == "" and len(lines) == 2
    assert "rtb-1" in lines[0] and "said" in lines[1]


HOSTILE = "gone\n2026-11-21T22:00:00.000Z INFO claimed address=6.6.6.6 \x1b[2J\x9b31m\u202edlrow"


@pytest.mark.parametrize("form", [TextFormatter(), JsonFormatter()])
@pytest.mark.parametrize("where", ["message", "fact", "traceback"])
def test_what_others_say_begins_no_line_and_steers_no_terminal(form: logging.Formatter, where: str) -> None:
    record = logging.LogRecord("urllib3", logging.WARNING, "", 0, HOSTILE if where == "message" else "x", (), None)
    if where == "fact":
        record.facts = {"why": HOSTILE}
    if where == "traceback":
        record.exc_info = (ValueError, ValueError(HOSTILE), None)
    lines = form.format(record).split("\n")
    assert all(line.isprintable() for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])
    assert len(lines) == (3 if where == "traceback" and isinstance(form, TextFormatter) else 1)
    assert "6.6.6.6" in lines[-1]
    if isinstance(form, JsonFormatter) and where == "message":
        assert json.loads(lines[0])["event"] == HOSTILE
