"""`vipmanager status`: shows what a running vipmanager says of itself; and the probe of its readiness."""

from __future__ import annotations

import json
import math
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vipmanager.arguments import MODES
from vipmanager.files import read_limited
from vipmanager.logs import printable
from vipmanager.status_file import FILE, is_outdated, is_stopped, started

NOT_RUNNING = 1
DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What comes of reading a file that another than vipmanager has written."""
WITHIN = 1.0
"""Seconds in which the health port must answer; it gives the loop 0.7 s."""
ANSWER = 64 * 1024
"""Bytes of an answer that are read."""


def show(directory: str, *, as_json: bool) -> int:
    """Print the status of the vipmanager that keeps its state here. Exit code 0 while it runs, or has done its job.

    Where it is not certain that this is still so, that is the first thing that is said, and the exit code is 1.
    """
    status = _load(directory)
    if isinstance(status, str):
        sys.stderr.write(f"vipmanager: {status}\n")
        return NOT_RUNNING
    try:
        status["doubt"] = doubt = _doubt(status)
        if doubt:
            status |= {"ready": False, "not_ready": doubt}
        text = json.dumps(status, indent=2) if as_json else _text(status)
    except DAMAGE:
        sys.stderr.write(f"vipmanager: no status in {Path(directory) / FILE}: it cannot be read\n")
        return NOT_RUNNING
    sys.stdout.write(text + "\n")
    return 0 if (status["running"] and not doubt) or _is_done(status) else NOT_RUNNING


def probe(directory: str) -> int:
    """Exit code 0 when everything desired is in place, or an init run has put it there; else why not, on stderr."""
    status = _load(directory)
    if isinstance(status, str):
        why = status
    elif not status["running"]:
        why = "" if _is_done(status) else f"not running: process {status.get('pid')} has ended"
    else:
        try:
            why = _not_ready(status)
        except DAMAGE:
            why = f"no status in {Path(directory) / FILE}: it cannot be read"
    if why:
        sys.stderr.write(f"vipmanager: not ready: {why}\n")
    return NOT_RUNNING if why else 0


def running_mode(directory: str) -> str:
    """The mode of the vipmanager that runs and keeps its state here; empty where none does."""
    status = _load(directory)
    mode = "" if isinstance(status, str) or not status["running"] else str(status.get("mode"))
    return mode if mode in MODES.values() else ""


def _load(directory: str) -> dict[str, Any] | str:
    """The status with `running`, or why there is none."""
    path = Path(directory) / FILE
    try:
        status: dict[str, Any] = json.loads(read_limited(path))
        running = bool(status["started"]) and started(int(status["pid"])) == status["started"]
        outdated = running and is_outdated(path)
    except (OSError, *DAMAGE) as error:
        why = error.strerror if isinstance(error, OSError) else "it cannot be read"
        return f"no status in {path}: {why}; is vipmanager running in this container?"
    return {**status, "running": running, "outdated": outdated}


def _not_ready(status: Mapping[str, Any]) -> str:
    """Of one that runs, by its own word now where it can be asked, else by what it wrote last."""
    if not is_stopped(int(status["pid"])) and status.get("serves"):
        return _refusal(str(status["serves"]), "/readyz")
    return _doubt(status) or ("" if status.get("ready") is True else str(status.get("not_ready") or "starting"))


def _doubt(status: Mapping[str, Any]) -> str:
    """Why what one that runs wrote last may no longer be so; empty where it is."""
    if not status["running"]:
        return ""
    if is_stopped(int(status["pid"])):
        return f"process {status['pid']} has been stopped by a signal"
    hangs = _refusal(str(status["serves"]), "/healthz") if status.get("serves") else ""
    if hangs:
        return hangs
    return "the status could not be written anew" if status["outdated"] else ""


def _refusal(at: str, path: str) -> str:
    """What the health port at HOST:PORT answers; empty where it is 200. Raises ValueError where that is not here."""
    if re.fullmatch(r"(127\.0\.0\.1|\[::1]):[0-9]{1,5}", at) is None:
        raise ValueError(at)
    host, _, port = at.rpartition(":")
    answer, deadline = b"", time.monotonic() + WITHIN
    try:
        with socket.create_connection((host.strip("[]"), int(port)), WITHIN) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            while len(answer) < ANSWER:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                data = connection.recv(ANSWER)
                if not data:
                    break
                answer += data
    except OSError as error:
        return f"{at} does not answer: {error.strerror or error}"
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    return "" if head.startswith("HTTP/1.1 200 ") else body.strip() or f"{at} does not answer"


def _is_done(status: Mapping[str, Any]) -> bool:
    return bool(status.get("result") == "ok")


def _text(status: Mapping[str, Any]) -> str:
    node = status.get("mode") == "nodeport" or "role" in status
    text = "\n".join(_node(status) if node else _pod(status, time.time()))
    return "\n".join(map(printable, text.split("\n")))


def _end(status: Mapping[str, Any]) -> str:
    """How it ended, or why it may be other than shown; empty while it runs."""
    if status["running"]:
        return f"NOT CERTAIN ({status['doubt']}; this is the last it said)" if status["doubt"] else ""
    if status.get("result"):
        return f"ENDED: {status['result']} ({_time(status['updated'])}; this is the last it said)"
    return f"NOT RUNNING (process {status['pid']} has ended; this is the last it said)"


def _pod(status: Mapping[str, Any], now: float) -> Iterator[str]:
    """Init and sidecar: the verdict, one line for each address, then what is wrong."""
    if _end(status):
        yield _end(status)
    yield f"{status.get('mode')}  {'ready' if status.get('ready') else 'not ready: ' + str(status.get('not_ready'))}"
    rows = [_address(item, now) for item in status.get("addresses", ())]
    widths = [max(len(row[column]) for row in rows) for column in range(5)] if rows else []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join((*cells, *row[5:])).rstrip()
    if not rows:
        yield "no floating address on this pod"
    for item in status.get("failing", ()):
        again = _again(item.get("next_retry"), now)
        yield f"failing     {item['item']}: {item['why']} ({item['attempts']} times{again})"
    said = tuple(item["why"] for item in status.get("addresses", ()) if item.get("why"))
    yield from (f"problem     {problem}" for problem in status.get("problems", ()) if not problem.endswith(said))
    yield from (f"ignored     {line}" for line in status.get("ignored", ()))


def _address(item: Mapping[str, Any], now: float) -> tuple[str, ...]:
    """Address, placement, interface, ENI, state; since when, how much of it is done, why, and what comes next."""
    tables = item.get("tables")
    done = f", {tables['done']} of {tables['total']} tables" if tables and tables["total"] else ""
    to = f" to {item['conceded_to']}" if item.get("conceded_to") else ""
    subnet = item.get("destination") if item.get("placement") == "subnet-route" else ""
    last = f"since {_time(item['since'])}{done}{f', by a route to {subnet}' if subnet else ''}"
    why = f": {item['why']}" if item.get("why") else ""
    return (
        str(item["name"]),
        item.get("placement") or "-",
        item.get("interface") or "-",
        item.get("eni") or "-",
        f"{item['state']}{to}",
        f"{last}{why}{_again(item.get('next_retry'), now)}",
    )


def _again(at: float | None, now: float) -> str:
    if at is None:
        return ""
    return f"; next try in {math.ceil(at - now)} s ({_time(at)})" if at > now else "; next try at once"


def _node(status: Mapping[str, Any]) -> Iterator[str]:
    """Nodeport: the role, the lease, one line for each item, then what is wrong."""
    if _end(status):
        yield _end(status)
    yield f"{status.get('role', 'UNKNOWN')}  {status.get('identity', '')}"
    since = f", since {_time(status['since'])}" if status.get("since") else ""
    yield f"holder      {status.get('holder') or 'nobody'}{since}"
    yield f"lease       {status.get('lease', '')}, {status.get('transitions', 0)} transitions"
    if status.get("lease_problem"):
        yield f"lease calls {status['lease_problem']}"
    yield f"last change {status.get('why') or 'none seen'}"
    yield f"health      {status.get('health') or 'good'}"
    yield from (_item(item) for item in status.get("floating", ()))
    yield from (f"problem     {problem}" for problem in status.get("problems", ()))


def _item(item: Mapping[str, Any]) -> str:
    where = " ".join(str(item[key]) for key in ("eni", "interface") if item.get(key))
    answers = item.get("answers")
    seen = "" if answers is None else ", answers" if answers else ", does not answer from here"
    return f"{item['name']:<24} {item['state']}{f' on {where}' if where else ''}{seen}"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
