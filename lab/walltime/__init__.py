"""A wall clock of its own for one process: it jumps when it is told to, without any privilege.

The process gets `site` put in front of its PYTHONPATH; `site/sitecustomize.py`, which Python imports before anything
else, adds what is in a file to all that tells the time of day. Clocks that only count seconds are left alone.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

_SITE = Path(__file__).with_name("site")
_VARIABLE = "LAB_WALL_CLOCK_OFFSET"  # sitecustomize.py reads it


class WallClock:
    """How many seconds the time of day of a process is off; 0 at first."""

    def __init__(self, file: Path) -> None:
        """`file` is made here, and has to stay as long as the process."""
        self._file = file
        self.offset = 0.0
        file.write_bytes(struct.pack("=d", 0.0))

    def jump(self, offset: float) -> None:
        """Let the clock be so many seconds off from now on."""
        self.offset = offset
        with open(self._file, "r+b", buffering=0) as file:  # the process has it mapped
            file.write(struct.pack("=d", offset))

    def env(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What a process needs in its environment, which else were `environment`."""
        paths = [str(_SITE), *filter(None, [environment.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths), _VARIABLE: str(self._file)}
