"""A pod's emptyDir that can be full or read-only: a small tmpfs in a mount namespace that a process of the pod holds.

Nobody outside sees the mount. As with Kubernetes the volume outlives the container that uses it; it ends with the pod.
The script is run as a program of its own, by path and without the lab's imports, so that it costs little.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.containers import ContainerHost

SIZE = 64 * 1024  # bytes

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_RDONLY, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 0x1, 0x20, 0x4000, 0x40000  # linux/mount.h
_OPTIONS = {"ro": _MS_REMOUNT | _MS_RDONLY, "rw": _MS_REMOUNT}
_BLOCK = 4096


class Volume:
    """The volume of a host, mounted at `path` for what is started with `command`."""

    def __init__(self, host: ContainerHost) -> None:
        """Mount it, empty. Raises RuntimeError where the kernel refuses."""
        self.path = host.directory / "volume"
        self._keeper = host.popen(
            [*_SCRIPT, "keep", str(self.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    @property
    def command(self) -> list[str]:
        """What a command line is put behind to be run where the volume is mounted."""
        return [*_SCRIPT, "enter", str(self._keeper.pid)]

    def set_read_only(self, read_only: bool) -> None:
        """Mount it read-only, or writable again."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.write("ro\n" if read_only else "rw\n")
        self._keeper.stdin.flush()
        self._answer()

    def fill(self) -> None:
        """Leave no block of it free."""
        with contextlib.suppress(OSError), open(self._filler, "ab", buffering=0) as file:
            while True:
                file.write(bytes(_BLOCK))

    def free(self) -> None:
        """Undo `fill`."""
        self._filler.unlink(missing_ok=True)

    def read(self, name: str) -> str:
        """The text of a file in it. Raises OSError."""
        return (self.seen_from_outside / name).read_text()

    @property
    def seen_from_outside(self) -> Path:
        """The path by which this process sees what is in the volume."""
        return Path(f"/proc/{self._keeper.pid}/root{self.path}")

    @property
    def _filler(self) -> Path:
        return self.seen_from_outside / "filler"

    def _answer(self) -> None:
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        if line != "done\n":
            raise RuntimeError(f"no volume at {self.path}: {line or 'its process ended'}")


_SCRIPT = [sys.executable, "-I", "-S", __file__]


def _mount(path: str, kind: str | None, flags: int, data: str | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    text = data.encode() if data else None
    if libc.mount(b"none", path.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), text) != 0:
        _fail("mount")


def _fail(call: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")


def _keep(path: str) -> None:
    """Hold the mount until standard input ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        _fail("unshare")
    _mount("/", None, _MS_REC | _MS_PRIVATE)
    Path(path).mkdir()
    size = f"size={SIZE},mode=0700"
    _mount(path, "tmpfs", 0, size)
    print("done", flush=True)
    for line in sys.stdin:
        _mount(path, "tmpfs", _OPTIONS[line.strip()], size)
        print("done", flush=True)


def _enter(keeper: str, argv: Sequence[str]) -> None:
    """Become the command, in the keeper's mount namespace and the directory of before."""
    libc = ctypes.CDLL(None, use_errno=True)
    directory = Path.cwd()
    descriptor = os.open(f"/proc/{keeper}/ns/mnt", os.O_RDONLY)
    if libc.setns(descriptor, _CLONE_NEWNS) != 0:
        _fail("setns")
    os.close(descriptor)
    os.chdir(directory)
    os.execv(argv[0], list(argv))


if __name__ == "__main__":
    if sys.argv[1] == "keep":
        _keep(sys.argv[2])
    else:
        _enter(sys.argv[2], sys.argv[3:])
