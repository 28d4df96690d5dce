"""What a container finds in its file system that the machine has not: in a mount namespace of the process's own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from lab.netns import unshare

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where every container finds its service account."""
_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000  # linux/mount.h

_libc = ctypes.CDLL(None, use_errno=True)


def service_account(directory: Path) -> Callable[[], None]:
    """What a thread does so that the processes it starts find the directory at SERVICE_ACCOUNT; for `prepare`.

    /run is empty there otherwise, and nobody else sees any of it. (unshare(2): a thread may leave the others' mount
    namespace, and no longer shares their working directory then.)
    """

    def mount_it() -> None:
        unshare(_CLONE_NEWNS)
        _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        runtime = SERVICE_ACCOUNT.parents[2].resolve()  # /var/run leads to /run
        source = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # it may be below /run
        try:
            _mount("tmpfs", str(runtime), "tmpfs", 0)
            SERVICE_ACCOUNT.mkdir(parents=True)
            _mount(f"/proc/thread-self/fd/{source}", str(SERVICE_ACCOUNT), "", _MS_BIND)
        finally:
            os.close(source)

    return mount_it


def bind_in_private(source: Path, target: Path) -> Callable[[], None]:
    """What a thread does so that the processes it starts find `source` at `target`; for `prepare`. Nobody else does."""

    def mount_it() -> None:
        unshare(_CLONE_NEWNS)
        _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        _mount(str(source), str(target), "", _MS_BIND)

    return mount_it


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")
