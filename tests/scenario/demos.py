"""Demos as processes: what they print, how they end, and that they leave nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOUND = 150.0  # seconds for a whole demo, which takes a fifth of it on an idle machine
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class Demo:
    """A running demo, the leader of its process group, with what it has printed so far."""

    process: subprocess.Popen[bytes]
    files: Path
    printed: bytes = b""
    before: frozenset[int] = field(default_factory=frozenset)  # our children when it was started

    def read(self, seconds: float) -> bool:
        """Read on for so long, or until it ends or prints; False when it has ended."""
        assert self.process.stdout is not None
        if select.select([self.process.stdout], [], [], seconds)[0]:
            text = os.read(self.process.stdout.fileno(), 65536)
            self.printed += text
            return bool(text)
        return True

    def read_lines(self, count: int) -> None:
        """Read until it has printed so many lines."""
        deadline = time.monotonic() + BOUND
        while self.printed.count(b"\n") < count:
            assert self.read(1.0) and time.monotonic() < deadline, self.text

    def read_for(self, seconds: float) -> None:
        """Read for so long, whatever it prints."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            assert self.read(left), self.text

    def end(self) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + BOUND
        while self.read(1.0):
            assert time.monotonic() < deadline, self.text
        return self.process.wait(BOUND)

    @property
    def text(self) -> str:
        """What it has printed, both streams."""
        return self.printed.decode()

    def assert_nothing_left(self) -> None:
        """No process of its, and no file. We are told of each process that it left: see the fixture."""
        assert children() - self.before - {self.process.pid} == set()
        assert list(self.files.iterdir()) == []


Start = Callable[..., Demo]


def children() -> frozenset[int]:
    """Our children, and what we inherited from children of theirs."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry.name))
    return frozenset(found)


@contextlib.contextmanager
def demos(tmp_path: Path, *default: str) -> Iterator[Start]:
    """Starts demos, `default` if nothing else is said. Whatever process one leaves behind becomes our child."""
    started: list[Demo] = []
    files = tmp_path / "files"
    files.mkdir()

    def run(*argv: str, env: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE) -> Demo:
        environment = {**os.environ, "TMPDIR": str(files), "PYTHONUNBUFFERED": "1", **(env or {})}
        before = children()
        process = subprocess.Popen(
            [sys.executable, *(argv or default)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started.append(Demo(process, files, before=before))
        return started[-1]

    assert LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield run
    finally:
        for demo in started:
            if demo.process.poll() is None:
                demo.process.kill()
            demo.process.wait()
            if demo.process.stdout is not None:
                demo.process.stdout.close()
        assert LIBC.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
