"""Files that hold state: written whole or not at all, for the owner's eyes. Read: whoever wrote them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from pathlib import Path

LIMIT = 4 << 20
"""Bytes of a file that is read; a thousand claims are a tenth of it."""
LEFT_BEHIND = 60.0
"""Seconds after which a temporary file is a dead writer's; a living one's is there for milliseconds."""


def write_atomically(path: Path, text: str) -> None:
    """Put `text` in place of a file, mode 0600; its directory is made. Raises OSError, and then nothing has changed.

    Whoever can write into the directory cannot have another file written: nothing that is there already is opened.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _clear(temporary)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_limited(path: Path, limit: int = LIMIT) -> str:
    """The text of a regular file. Raises OSError, also for a link, a pipe or a file of more than `limit` bytes.

    ValueError where it is no text.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data.decode()


def _clear(temporary: Path) -> None:
    """Remove what was left there by a process of our number, and what others left that were killed while they wrote."""
    prefix = temporary.name.rpartition(".")[0] + "."
    with contextlib.suppress(OSError), os.scandir(temporary.parent) as entries:
        for entry in entries:
            if not entry.name.startswith(prefix):
                continue
            with contextlib.suppress(OSError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if entry.name == temporary.name or age > LEFT_BEHIND:
                    Path(entry.path).unlink()
