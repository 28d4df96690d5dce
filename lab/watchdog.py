"""What outlives the lab for a moment: kills the lab's processes and removes its files, however the lab ended.

Run as a script with the lab's scratch directory as argument. Each line on standard input is the number of a process
that leads its own process group. When the lab ends, by kill -9 too, standard input ends.
Like a container, a group goes with its leader: when that ends, so do the processes it started.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import sys


def watch(scratch: str) -> None:
    """Follow the processes named on standard input until it ends, then kill what is left of them."""
    groups: dict[int, int] = {}  # pidfd → process group
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    unfinished = b""
    while True:
        for key, _ in selector.select():
            if key.fd != 0:
                selector.unregister(key.fd)
                _kill(groups.pop(key.fd))
                os.close(key.fd)
                continue
            read = os.read(0, 65536)
            if not read:
                for group in groups.values():
                    _kill(group)
                shutil.rmtree(scratch, ignore_errors=True)
                return
            *lines, unfinished = (unfinished + read).split(b"\n")
            for line in lines:
                with contextlib.suppress(ProcessLookupError):  # it has ended already
                    descriptor = os.pidfd_open(int(line))
                    groups[descriptor] = int(line)
                    selector.register(descriptor, selectors.EVENT_READ)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch(sys.argv[1])
