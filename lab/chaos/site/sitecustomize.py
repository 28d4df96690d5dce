"""Gives each thread the name that its program gave it, in /proc too, as Python does from 3.14 on.

Python imports this before anything else. Another sitecustomize that it hides (`lab.walltime`'s) is run after it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_run = threading.Thread.run


def _named(thread: threading.Thread) -> None:
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(thread.name[:15])
    _run(thread)


def _next() -> None:
    here = str(Path(__file__).parent)
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if path != here])
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


threading.Thread.run = _named  # type: ignore[method-assign, assignment]
_next()
