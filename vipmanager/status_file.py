"""The status file: what a running vipmanager says of itself."""

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

    def write(self, status: Mapping[str, Any]) -> str:
        """Write it where it differs from the last; returns why that was not possible, or nothing."""
        if status == self._last:
            return ""
        data = {**status, "pid": os.getpid(), "started": started(os.getpid()), "updated": time.time()}
        self._last = None
        try:
            self._put(json.dumps(data))
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        self._last = dict(status)
        return ""

    def _put(self, text: str) -> None:
        """Raises OSError, and then there is no status rather than one that is no longer true."""
        try:
            write_atomically(self._path, text)
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink()
            write_atomically(self._path, text)  # on a full disk there is room now


def started(pid: int) -> str:
    """When a process started, in the kernel's ticks (field 22 of proc_pid_stat(5)): a number may be used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
