"""Runs one command and says what that one process cost: `python -I -S launcher.py LOG COMMAND…`.

A process of its own between the bench and what it measures, because the kernel counts into a child's ru_maxrss the
memory that its parent had when it executed it (exec_mmap() in fs/exec.c): of a bench that holds a lab, a hundred
megabytes. This one is small when it starts the command, and nothing else of it can delay the clock.

Prints: start and end (s of CLOCK_MONOTONIC), exit status, CPU seconds, peak resident memory in KiB.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> None:
    """Start the command with its output in LOG, and wait for it with wait4(2)."""
    log, argv = sys.argv[1], sys.argv[2:]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    redirect = [(os.POSIX_SPAWN_DUP2, descriptor, 1), (os.POSIX_SPAWN_DUP2, descriptor, 2)]
    started = time.monotonic()
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=redirect)
    _, status, usage = os.wait4(pid, 0)
    ended = time.monotonic()
    print(started, ended, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


if __name__ == "__main__":
    main()
