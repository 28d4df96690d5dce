"""`python -m lab.demo nodeport`: the story is told to its end, says when it does not go well, and leaves nothing."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.demo.timeline import WIDTH
from tests.scenario.demos import Start, demos

pytestmark = pytest.mark.namespaces

REVOKED = (
    "-c",
    "import sys\n"
    "from lab.demo import nodeport, timeline\n"
    "from lab.demo.nodes import NodeStage\n"
    "def first(stage):\n"
    "    for worker in 'ab':\n"
    "        stage.lab.kube.revoke(worker)\n"
    "    nodeport.delete(stage)\n"
    "sys.exit(nodeport.run(timeline.Timeline(sys.stdout, 0.0), acts=[first]))\n",
)
"""The first act on a Kubernetes API that allows nothing any more."""
CHANCE = random.Random(20261121)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts demos."""
    with demos(tmp_path, "-m", "lab.demo", "nodeport") as run:
        yield run


def test_the_whole_story(start: Start) -> None:
    demo = start()
    status = demo.end()
    text = demo.text
    assert status == 0, text
    demo.assert_nothing_left()

    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    rows = re.findall(r"^  (\d)  .*?(\w → \w|\w, as before) +(\d+) +(\d+) ms +(\d+) ms$", text, re.MULTILINE)
    assert [number for number, *_ in rows] == ["1", "2", "3", "4"], text
    assert {move for number, move, *_ in rows if number != "3"} <= {"a → b", "b → a"}
    before = ""
    for _, move, lost, gap, off in rows:
        assert before in ("", move[0]), "each act begins where the last one ended"
        before = move[-1] if "→" in move else move[0]
        assert int(lost) >= 0
        assert int(off) <= int(gap) + 1, "clients are answered although no node has the address"
    parts = re.split(r"^── (.)", text, flags=re.MULTILINE)
    told = dict(zip(parts[1::2], parts[2::2], strict=True))
    for number in "1234":
        assert "answered by" in told[number]
    assert "has ended, with exit status 0" in told["1"]
    assert "uncordon" in told["2"]
    assert re.search(r"is connected again\n.*is BACKUP", told["4"], re.DOTALL)
    assert sorted(re.findall(r"^    (MASTER|BACKUP)  np-", told["v"], re.MULTILINE)) == ["BACKUP", "MASTER"]
    assert "was never on two nodes at once" in told["S"]


def test_what_does_not_go_as_expected_is_a_failure(start: Start) -> None:
    demo = start(*REVOKED)
    status = demo.end()
    assert status == 1, demo.text
    demo.assert_nothing_left()
    assert re.search(r"FAILED: .*\n", demo.text)
    assert "leases.coordination.k8s.io" in demo.text
    assert re.search(r"^  1  .*FAILED$", demo.text, re.MULTILINE)
    assert "never on two nodes" not in demo.text


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("lines", [1, CHANCE.randrange(20, 40), CHANCE.randrange(45, 75)])
def test_a_signal_leaves_nothing(start: Start, lines: int, number: signal.Signals) -> None:
    demo = start()
    demo.read_lines(lines)
    demo.read_for(CHANCE.uniform(0.0, 1.0))
    os.killpg(demo.process.pid, number)
    assert demo.end() == 128 + number, demo.text
    demo.assert_nothing_left()
    assert "Traceback" not in demo.text
    assert demo.text.endswith("interrupted; nothing is left behind\n")


def test_another_argument_is_refused(start: Start) -> None:
    demo = start("-m", "lab.demo", "nodeports")
    assert demo.end() == 2
    assert "usage: python -m lab.demo [nodeport]" in demo.text
