"""Ends this process when a moment has come: for what must be done by then or not at all.

A process may be stopped at any instruction (SIGSTOP, a frozen cgroup, a starved machine), also between its look at the
clock and the call that the look was for. So the kernel watches: a timer's signal is there before the thread runs on,
and its handler is `_exit` itself. Python's own handlers would run too late, between two bytecodes; SIGKILL, and any
signal's default action, is ignored for PID 1 of a container (pid_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SIGNAL = signal.SIGRTMAX - 1
"""Also the exit status."""
_SIGEV_THREAD_ID, _TIMER_ABSTIME = 4, 1  # sigevent(3type), timer_settime(2)


class _Event(ctypes.Structure):
    """struct sigevent: 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_int * 12),
    )


class _Setting(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("again_s", "again_ns", "s", "ns"))


class Deadline:
    """A timer of the thread that makes it; it does nothing before by(). Raises OSError."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._libc, "timer_create"):  # glibc before 2.34
            self._libc = ctypes.CDLL("librt.so.1", use_errno=True)
        handle = ctypes.CDLL(None).signal
        handle.argtypes, handle.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        handle(SIGNAL, ctypes.cast(ctypes.CDLL(None)._exit, ctypes.c_void_p))
        event = _Event(signal=SIGNAL, notify=_SIGEV_THREAD_ID, thread=threading.get_native_id())
        self._timer = ctypes.c_void_p()
        self._check(self._libc.timer_create(time.CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(self._timer)))

    @contextmanager
    def by(self, moment: float) -> Iterator[None]:
        """End the process at that moment (s of CLOCK_BOOTTIME) unless the block has been left before."""
        if moment == math.inf:
            yield
            return
        whole = math.floor(moment)
        self._set(whole, max(1, int((moment - whole) * 1e9)))
        try:
            yield
        finally:
            self._set(0, 0)

    def _set(self, seconds: int, nanoseconds: int) -> None:
        setting = _Setting(0, 0, seconds, nanoseconds)
        self._check(self._libc.timer_settime(self._timer, _TIMER_ABSTIME, ctypes.byref(setting), None))

    def _check(self, result: int) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, f"timer: {os.strerror(number)}")
