"""Shifts this process's time of day by the seconds (a double) in the file $LAB_WALL_CLOCK_OFFSET: see lab.walltime."""

from __future__ import annotations

import datetime
import mmap
import os
import struct
import time
from collections.abc import Callable
from typing import Any

_REALTIME = time.CLOCK_REALTIME
_time, _clock_gettime, _gmtime, _localtime = time.time, time.clock_gettime, time.gmtime, time.localtime
_datetime = datetime.datetime


class _AnyDatetime(type):
    """What C code makes is a datetime all the same."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)


class _Datetime(_datetime, metaclass=_AnyDatetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
        return cls.fromtimestamp(time.time())


def _install(offset: Callable[[], float]) -> None:
    def now() -> float:
        return _time() + offset()

    def clock_gettime(clock: int) -> float:
        return now() if clock == _REALTIME else _clock_gettime(clock)

    time.time = now
    time.time_ns = lambda: int(now() * 1e9)
    time.clock_gettime = clock_gettime
    time.gmtime = lambda seconds=None: _gmtime(now() if seconds is None else seconds)
    time.localtime = lambda seconds=None: _localtime(now() if seconds is None else seconds)
    datetime.datetime = _Datetime  # type: ignore[misc]


if os.environ.get("LAB_WALL_CLOCK_OFFSET"):
    with open(os.environ["LAB_WALL_CLOCK_OFFSET"], "rb") as _file:
        _map = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _install(lambda: float(struct.unpack("=d", _map[:8])[0]))
