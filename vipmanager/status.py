"""The status file: what a running vipmanager says of itself, and `vipmanager status` that shows it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "status.json"
NOT_RUNNING = 1


class StatusFile:
    """Writes the status as one JSON object, atomically and only when it has changed."""

    def __init__(self, directory: str) -> None:
        self._path = Path(directory) / FILE
        self._last: Mapping[str, Any] | None = None

    def write(self, status: Mapping[str, Any]) -> str:
        """Write it where it differs from the last; returns why that was not possible, or nothing."""
        if status == self._last:
            return ""
        data = {**status, "pid": os.getpid(), "started": _started(os.getpid()), "updated": time.time()}
        temporary = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w") as file:
                json.dump(data, file)
            temporary.replace(self._path)
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        self._last = dict(status)
        return ""


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks (field 22 of proc_pid_stat(5)): a number may be used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def show(directory: str, *, as_json: bool) -> int:
    """Print the status of the vipmanager that keeps its state here. Exit code 0 while it runs."""
    path = Path(directory) / FILE
    try:
        status = json.loads(path.read_text())
        running = bool(status["started"]) and _started(int(status["pid"])) == status["started"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it cannot be read"
        sys.stderr.write(f"vipmanager: no status in {path}: {why}; is vipmanager running in this container?\n")
        return NOT_RUNNING
    status["running"] = running
    sys.stdout.write((json.dumps(status, indent=2) if as_json else _text(status)) + "\n")
    return 0 if running else NOT_RUNNING


def _text(status: Mapping[str, Any]) -> str:
    lines = [f"{status.get('role', 'UNKNOWN')}  {status.get('identity', '')}"]
    if not status["running"]:
        lines[0] = f"NOT RUNNING (process {status['pid']} has ended; this is the last it said)\n{lines[0]}"
    since = f", since {_time(status['since'])}" if status.get("since") else ""
    lines.append(f"holder      {status.get('holder') or 'nobody'}{since}")
    lines.append(f"lease       {status.get('lease', '')}, {status.get('transitions', 0)} transitions")
    if status.get("lease_problem"):
        lines.append(f"lease calls {status['lease_problem']}")
    lines.append(f"last change {status.get('why') or 'none seen'}")
    lines.append(f"health      {status.get('health') or 'good'}")
    lines += [_item(item) for item in status.get("floating", ())]
    lines += [f"problem     {problem}" for problem in status.get("problems", ())]
    return "\n".join(lines)


def _item(item: Mapping[str, Any]) -> str:
    where = " ".join(str(item[key]) for key in ("eni", "interface") if item.get(key))
    answers = item.get("answers")
    seen = "" if answers is None else ", answers" if answers else ", does not answer from here"
    return f"{item['name']:<24} {item['state']}{f' on {where}' if where else ''}{seen}"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
