"""The processes that a lab starts: each in a namespace, and none outlives the lab."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab.netns import Namespace

_KILLED_WITHIN = 10.0  # seconds; longer only if the kernel does not let go of a process


class Children:
    """Starts processes and sees to their end, with the help of a watchdog process for when the lab is killed.

    (PR_SET_PDEATHSIG would need code between fork and exec, which keeps subprocess from using vfork and makes each
    start slower and riskier; and it acts when the *thread* that forked ends.)
    """

    def __init__(self) -> None:
        """Start the watchdog, and make the scratch directory that it removes."""
        self.scratch = Path(tempfile.mkdtemp(prefix="vipmanager-lab-"))
        self._lock = threading.Lock()
        self._processes: list[tuple[Namespace, subprocess.Popen[Any]]] = []
        script = Path(__file__).with_name("watchdog.py")
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(self.scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def popen(
        self, ns: Namespace, argv: Sequence[str], *, prepare: Callable[[], None] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a process in the namespace, as the leader of a session of its own. `options` are subprocess.Popen's.

        `prepare` is called in the thread that starts it, which starts nothing else. It and what it starts are killed
        at close(), at kill(), and when this process ends.
        """

        def start() -> subprocess.Popen[Any]:
            if prepare is not None:
                prepare()
            with self._lock:
                if self._watchdog.stdin is None or self._watchdog.stdin.closed:
                    raise RuntimeError("the lab is closed")
                process: subprocess.Popen[Any] = subprocess.Popen(argv, start_new_session=True, **options)
                self._processes = [each for each in self._processes if each[1].returncode is None]
                self._processes.append((ns, process))
                os.write(self._watchdog.stdin.fileno(), b"%d\n" % process.pid)
            return process

        return ns.run(start)  # the child gets the namespace of the thread that forks

    def running(self, ns: Namespace) -> list[subprocess.Popen[Any]]:
        """The processes started in the namespace that have not ended."""
        with self._lock:
            return [process for each, process in self._processes if each is ns and process.poll() is None]

    def kill(self, ns: Namespace) -> None:
        """Kill everything that was started in the namespace, and wait until it is gone."""
        _kill(self.running(ns))

    def close(self) -> None:
        """Kill everything, remove the scratch directory, and end the watchdog. May be called again."""
        with self._lock:
            _kill([process for _, process in self._processes])
            self._processes.clear()
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()  # it kills what the children left in their groups
            self._watchdog.wait(_KILLED_WITHIN)
        shutil.rmtree(self.scratch, ignore_errors=True)


def _kill(processes: list[subprocess.Popen[Any]]) -> None:
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait(_KILLED_WITHIN)
