"""The status file: what a running vipmanager says of itself.

One that is no longer true is removed. Where not even that can be done (a file system that has become read-only), the
process that wrote it holds a lock on it, flock(2), for as long as it lives: that takes no write.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vipmanager.files import write_atomically

FILE = "status.json"


class StatusFile:
    """Writes the status as one JSON object, atomically and only when it has changed."""

    def __init__(self, directory: str) -> None:
        self._path = Path(directory) / FILE
        self._last: Mapping[str, Any] | None = None
        self._outdated: int | None = None  # the descriptor of a file that is locked

    def write(self, status: Mapping[str, Any]) -> str:
        """Write it where it differs from the last; returns why that was not possible, or nothing."""
        if status == self._last:
            return ""
        data = {**status, "pid": os.getpid(), "started": started(os.getpid()), "updated": time.time()}
        self._last = None
        try:
            self._put(json.dumps(data))
        except OSError as error:
            self._disown()
            return f"{self._path}: {error.strerror}"
        self._last = dict(status)
        if self._outdated is not None:  # of the file that was replaced
            os.close(self._outdated)
            self._outdated = None
        return ""

    def _disown(self) -> None:
        """Mark what is still there as no longer true."""
        if self._outdated is not None:
            return
        with contextlib.suppress(OSError):  # there is none
            self._outdated = _locked(self._path, exclusive=True)

    def _put(self, text: str) -> None:
        """Raises OSError, and then there is no status rather than one that is no longer true."""
        try:
            write_atomically(self._path, text)
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink()
            write_atomically(self._path, text)  # on a full disk there is room now


def is_outdated(path: Path) -> bool:
    """Whether the process that wrote a status has marked it as no longer true. Raises OSError."""
    try:
        os.close(_locked(path, exclusive=False))
    except BlockingIOError:
        return True
    return False


def _locked(path: Path, *, exclusive: bool) -> int:
    """The descriptor of a file with a lock on it. Raises OSError, BlockingIOError where another has locked it."""
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock  # hardly ever needed

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        flock(descriptor, (LOCK_EX if exclusive else LOCK_SH) | LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def started(pid: int) -> str:
    """When a process started, in the kernel's ticks (field 22 of proc_pid_stat(5)): a number may be used again.

    Empty where it has ended.
    """
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def is_stopped(pid: int) -> bool:
    """Whether a process has been stopped by a signal, or by a debugger (field 3)."""
    return _stat(pid)[:1] in (["T"], ["t"])


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third on; none where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
