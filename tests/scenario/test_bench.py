"""The benchmark works: everything in it runs, and its figures are of what it says. No time is asserted."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.figures import Figure
from bench.kernel_events import addresses

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.namespaces
def test_quick_run(tmp_path: Path) -> None:
    """`python -m bench --quick` measures each section, prints each figure and writes each to the file."""
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "--quick", "--imports", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())
    figures: list[dict[str, Any]] = result["figures"]
    for figure in figures:
        assert figure["case"] in done.stdout
        assert figure["name"] in done.stdout
        assert all(math.isfinite(sample) for sample in figure["samples"])
    assert result["failed"] == {}
    assert result["machine"]["packages"]["botocore"]
    assert result["trivial_child_mb"] < 20, "memory of the bench itself is counted in"
    _check_init(_named(figures, "init, 2 addresses × 4 route tables"))
    words = (
        "init, 1 address ",
        "sidecar, address added",
        "sidecar, API calls",
        "sidecar, idle",
        "what HealthPort adds",
        "plan, 1 address",
        "failover",
        "moved by",
        "two nodes hold at once?",
        "nodeport, mode route",
        "nodeport, mode subnet",
        "nodeport, idle",
    )
    for word in words:
        assert any(word in figure["case"] for figure in figures), word
    assert "botocore" in done.stdout.partition("imports of init")[2]
    _check_nodeport(figures)


def _named(figures: list[dict[str, Any]], case: str) -> dict[str, dict[str, Any]]:
    return {figure["name"]: figure for figure in figures if figure["case"] == case}


def _check_init(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """What does not depend on the machine: the calls, and that both programs are seen to use something."""
    assert figures["API calls"]["samples"] == figures["API calls"]["floor"]["samples"] == [2 * 4 + 4]
    assert figures["again: … but describes"]["samples"] == [0]
    for name in ("wall clock", "CPU", "peak memory"):
        assert figures[name]["value"] > 0
        assert figures[name]["floor"]["value"] > 0


def _check_nodeport(figures: list[dict[str, Any]]) -> None:
    """Of a failover, what does not depend on the machine; beside it stands what the samples' document says."""
    for mode, writes in (("address", 1), ("eni", 2)):  # AssignPrivateIpAddresses; Detach- and AttachNetworkInterface
        (case,) = {each["case"] for each in figures if re.match(f"nodeport, mode {mode}, .* cut off", each["case"])}
        found = _named(figures, case)
        assert found["… of which change something"]["samples"] == [writes]
        assert found["gap"]["value"] > 0
        assert "64 s" in found["gap"]["documented"]


def test_unknown_section_is_refused() -> None:
    """A misspelt section does not run nothing and call it a success."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "init-tables" in done.stderr


def test_figure_compares_what_it_says_with_what_it_should_reach() -> None:
    """The median counts, or the 95th percentile by nearest rank where that is asked for."""
    samples = tuple(float(number) for number in range(1, 31))
    assert Figure("case", "median", "ms", samples, reach=15.5).met is True
    assert Figure("case", "median", "ms", samples, reach=15.4).met is False
    assert Figure("case", "95th", "ms", samples, p95=True).value == 29.0
    assert Figure("case", "nothing asked", "ms", samples).met is None
    line = Figure("case", "wall clock", "s", (1.0, 2.0, 4.0), (8.0,), reach=1.5).as_line().split()
    assert line == ["wall", "clock", "(s)", "2.00", "[1.00–4.00]", "8.00", "≤", "1.50", "NO"]
    line = Figure("case", "gap", "s", (1.0,), documented="64 s, they say").as_line()
    assert line.split() == ["gap", "(s)", "1.00", "64", "s,", "they", "say", "–"]


def test_kernel_events_are_read() -> None:
    """Two messages in one datagram: an address that came (IFA_LOCAL counts), and an IPv6 address that went."""
    came = bytes.fromhex(
        "28000000" "1400" "0000" "00000000" "00000000"  # nlmsghdr: 40 bytes, RTM_NEWADDR
        "02200000" "03000000"  # ifaddrmsg: AF_INET, /32, interface 3
        "0800" "0100" "0a000001"  # IFA_ADDRESS 10.0.0.1
        "0800" "0200" "c0a80001"  # IFA_LOCAL 192.168.0.1
    )  # fmt: skip
    went = bytes.fromhex(
        "2c000000" "1500" "0000" "00000000" "00000000"
        "0a800000" "03000000"
        "1400" "0100" "fd000000000000000000000000000001"
    )  # fmt: skip
    assert addresses(came + went) == [("new", "192.168.0.1"), ("gone", "fd00::1")]
