"""`python -m lab.demo`: it ends well, says when it does not, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from lab.demo.summary import Row, show
from lab.demo.timeline import WIDTH, Timeline
from lab.demo.traffic import Failed, find_gap
from lab.prober import ProbeLog
from tests.scenario.demos import BOUND, Start, demos

namespaces = pytest.mark.namespaces

DEMO = ("-m", "lab.demo")
DENIED = (
    "-c",
    "import sys\n"
    "from lab.demo import __main__, story\n"
    "play = story.run\n"
    "story.run = lambda timeline: play(\n"
    "    timeline, acts=story.ACTS[:1], prepare=lambda lab: lab.ec2.faults.deny('ec2:ReplaceRoute'))\n"
    "sys.exit(__main__.main())\n",
)
"""The first act on an EC2 that lets nobody replace a route."""
NOT_POSSIBLE = (
    "-c",
    "import os, sys\n"
    "from pathlib import Path\n"
    "from lab import netns\n"
    "uid, gid = os.geteuid(), os.getegid()\n"
    "netns.unshare(netns.CLONE_NEWUSER)\n"
    "Path('/proc/self/setgroups').write_text('deny')\n"
    "Path('/proc/self/uid_map').write_text(f'0 {uid} 1')\n"
    "Path('/proc/self/gid_map').write_text(f'0 {gid} 1')\n"
    "Path('/proc/sys/user/max_net_namespaces').write_text('0')\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'lab.demo'])\n",
)
"""The demo where the kernel gives nobody a network namespace."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts demos."""
    with demos(tmp_path, *DEMO) as run:
        yield run


# The whole of it ------------------------------------------------------------------------------------------------------


@namespaces
def test_the_whole_demo(start: Start) -> None:
    demo = start()
    status = demo.end()
    text = demo.text
    assert status == 0, text
    demo.assert_nothing_left()

    assert "\033" not in text
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    stamps = [float(found) for found in re.findall(r"^ *(\d+\.\d{3})  ", text, re.MULTILINE)]
    assert stamps == sorted(stamps)
    for move in (
        "route 192.168.0.2/32  no route → a/eth1  in rt-0 rt-1 rt-2 rt-3",
        "route 192.168.1.2/32  a/eth2 → b/eth2  in rt-0 rt-1 rt-2 rt-3",
        "route 192.168.0.10/32  no route → a/eth1  in rt-0 rt-1 rt-2 rt-3",
        "route 192.168.0.10/32  a/eth1 → b/eth1  in rt-0 rt-1 rt-2 rt-3",
        "route 192.168.0.10/32  b/eth1 → a/eth1  in rt-0 rt-1 rt-2 rt-3",
        "route 10.10.254.0/28  local → a/eth1  in rt-0 rt-1 rt-2 rt-3",
        "route 10.10.254.16/28  a/eth2 → b/eth2  in rt-0 rt-1 rt-2 rt-3",
    ):
        assert move in text
    assert re.search(r"address 10\.10\.11\.\d+  a/eth1 → c/eth1", text)
    assert re.search(r"address [0-9a-f:]+:[0-9a-f:]+  no ENI → c/eth1", text)
    moves = re.findall(r"^  \d .*?(?:failover )?\w → \w +(\d+) +(\d+) ms +(\d+) ms +(\d+) ms +\d+$", text, re.MULTILINE)
    assert len(moves) == 5
    for lost, without, before, own in moves:
        assert int(lost) > 0
        assert int(without) == int(before) + int(own)


@namespaces
def test_traffic_that_does_not_flow_is_a_failure(start: Start) -> None:
    demo = start(*DENIED)
    status = demo.end()
    assert status == 1, demo.text
    demo.assert_nothing_left()
    assert "FAILED: vipmanager init in app-2 ended with exit status 1" in demo.text
    assert "vipmanager init in app-2 on worker b logged:" in demo.text
    assert "UnauthorizedOperation" in demo.text
    assert "app-1 on worker a logged" not in demo.text
    assert "All traffic that should flow did" not in demo.text


@namespaces
def test_where_no_namespace_can_be_had_it_says_what_is_missing(start: Start) -> None:
    demo = start(*NOT_POSSIBLE)
    status = demo.end()
    assert status == 1, demo.text
    assert "no network namespaces for uid" in demo.text
    assert "--cap-add NET_ADMIN" in demo.text
    assert "Traceback" not in demo.text
    demo.assert_nothing_left()


# Its end before its time ----------------------------------------------------------------------------------------------

CHANCE = random.Random(20261121)
# After so many lines and seconds: while it imports, builds, in each act. (The whole demo prints about 130 lines.)
POINTS = [(1, CHANCE.uniform(0.0, 2.0)) for _ in range(4)]
POINTS += [(CHANCE.randrange(first, first + 25), CHANCE.uniform(0.0, 1.0)) for first in (10, 35, 60, 85)]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@namespaces
@pytest.mark.parametrize(
    ("lines", "seconds", "number"),
    [(lines, seconds, SIGNALS[index % 2]) for index, (lines, seconds) in enumerate(POINTS)],
    ids=lambda value: f"{value:.2f}" if isinstance(value, float) else str(getattr(value, "name", value)),
)
def test_a_signal_at_any_point_leaves_nothing(start: Start, lines: int, seconds: float, number: signal.Signals) -> None:
    demo = start()
    demo.read_lines(lines)
    demo.read_for(seconds)
    os.killpg(demo.process.pid, number)
    assert demo.end() == 128 + number, demo.text
    demo.assert_nothing_left()
    assert "Traceback" not in demo.text
    assert demo.text.endswith("interrupted; nothing is left behind\n")


@namespaces
def test_ctrl_c_again_and_again_changes_nothing(start: Start) -> None:
    demo = start()
    demo.read_lines(25)
    deadline = time.monotonic() + BOUND
    while demo.process.poll() is None and time.monotonic() < deadline:
        for number in SIGNALS:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(demo.process.pid, number)
        demo.read(0.01)
    assert demo.end() == 128 + signal.SIGINT, demo.text
    demo.assert_nothing_left()


@pytest.mark.parametrize(
    "story",
    [
        "exec('import signal; signal.raise_signal(signal.SIGINT)')",  # as in dataclasses
        "[swallow(), timeline.line('more')]",  # as in __del__
    ],
)
def test_no_interrupt_is_lost(start: Start, tmp_path: Path, story: str) -> None:
    (tmp_path / "played.py").write_text(
        "import contextlib, signal, sys\n"
        "from lab.demo import __main__, story\n"
        "def swallow():\n"
        "    with contextlib.suppress(BaseException):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        f"story.run = lambda timeline: {story}\n"
        "sys.exit(__main__.main())\n",
    )
    demo = start("-m", "played", env={"PYTHONPATH": str(tmp_path)})
    assert demo.end() == 128 + signal.SIGINT, demo.text
    assert "more" not in demo.text


@namespaces
def test_a_reader_that_goes_away_ends_it(start: Start) -> None:
    reader, writer = os.pipe()
    demo = start(stdout=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.readline()
    assert demo.process.wait(BOUND) == 128 + signal.SIGPIPE
    demo.assert_nothing_left()


# Colour, numbers ------------------------------------------------------------------------------------------------------


class Terminal:
    """A stream that says that it is a terminal, or not."""

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal
        self.text = ""

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: an empty one does not count
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: Mapping[str, str], coloured: bool
) -> None:
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    if "NO_COLOR" not in environment:
        monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal(terminal)
    Timeline(stream, 0.0).say("EC2", "something changes")  # type: ignore[arg-type]
    assert ("\033[" in stream.text) is coloured
    assert "something changes" in stream.text


def test_long_events_are_wrapped() -> None:
    stream = Terminal(False)
    Timeline(stream, 0.0).say("peer1", "sends to " + ", ".join(["2001:db8:1234:5678::51"] * 8))  # type: ignore[arg-type]
    lines = stream.text.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= WIDTH


def log(*answers: float | None) -> ProbeLog:
    """A probe a second, from 0 on: after how many seconds each was answered, or None."""
    return ProbeLog("192.168.0.2", tuple((float(number), rtt) for number, rtt in enumerate(answers)))


def test_the_gap_is_from_the_last_answered_packet_to_the_first_answer() -> None:
    gap = find_gap(log(0.1, 0.1, None, None, 0.25, 0.1), after=3.0)
    assert (gap.last, gap.first, gap.lost, gap.stray) == (1.0, 4.25, 2, 0)
    assert gap.split(3.0) == (2000, 1250)


def test_packets_lost_outside_of_the_gap_are_seen() -> None:
    assert find_gap(log(0.1, None, 0.1, None, None, 0.1, None, 0.1), after=4.0).stray == 2


def test_without_an_answer_before_there_is_no_gap_but_a_first_answer() -> None:
    gap = find_gap(log(None, None, 0.5, 0.1, None, 0.1), after=1.0)
    assert (gap.last, gap.first, gap.stray) == (None, 2.5, 1)
    assert gap.split(1.0) == (None, 1500)


@pytest.mark.parametrize("answers", [(None, None), (0.1, 0.1, None)])
def test_no_answer_any_more_is_a_failure(answers: Sequence[float | None]) -> None:
    with pytest.raises(Failed, match=r"192\.168\.0\.2"):
        find_gap(log(*answers), after=1.5)


def test_a_failed_move_is_in_the_summary() -> None:
    stream = Terminal(False)
    rows = [Row("act", "a → b", 10, 20, 30, 4), Row("act", "b → a", failure="no packet came back")]
    show(Timeline(stream, 0.0), rows)  # type: ignore[arg-type]
    assert re.search(r"a → b +10 +50 ms +20 ms +30 ms +4$", stream.text, re.MULTILINE)
    assert re.search(r"b → a +FAILED$", stream.text, re.MULTILINE)
    assert "b → a: no packet came back" in stream.text
    assert "All traffic" not in stream.text
