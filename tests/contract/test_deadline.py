"""What must be done by a moment or not at all: a real process is stopped in the middle of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from vipmanager.clients.deadline import SIGNAL

SCRIPT = """
import sys, time
from vipmanager.clients.deadline import Deadline
now = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
deadline = Deadline()
with deadline.by(now() + 0.05):
    pass
time.sleep(0.1)
moment = now() + float(sys.argv[1])
with deadline.by(moment):
    print("inside", flush=True)
    while now() < moment + 5.0:
        if now() > moment + 0.1:  # a timer may be a little late; the user of a moment leaves more than that
            print("too late", flush=True)
"""


def _start(seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"  # so it has outlived the first block, which was left in time
    return process


@pytest.mark.parametrize("stopped", [False, True])
def test_process_ends_and_does_nothing_after_the_moment(stopped: bool) -> None:
    """One that is stopped in the block ends when it is woken; one that merely takes too long ends as well."""
    process = _start(0.5)
    if stopped:
        process.send_signal(signal.SIGSTOP)
        woken = time.clock_gettime(time.CLOCK_BOOTTIME) + 0.8
        while time.clock_gettime(time.CLOCK_BOOTTIME) < woken:
            time.sleep(0.05)
        process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=30)
    assert "too late" not in said
    assert process.returncode == SIGNAL
