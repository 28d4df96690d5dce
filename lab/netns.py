"""Network namespaces without a name: they live as long as somebody holds them open, and no longer.

Nothing is put in /run/netns, so a lab that is killed leaves nothing behind: the kernel takes each namespace down, with
its interfaces, once the lab's descriptor and the last process in it are gone.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

CLONE_NEWNET = 0x40000000  # linux/sched.h
CLONE_NEWUSER = 0x10000000

_libc = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")


def unshare(flags: int) -> None:
    """Give the calling thread (CLONE_NEWUSER: process) namespaces of its own. Python has os.unshare from 3.12 only."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into a namespace of the given kind. Python has os.setns from 3.12 only."""
    _check(_libc.setns(descriptor, kind), "setns")


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


class Namespace:
    """A network namespace, held open until close()."""

    def __init__(self, name: str) -> None:
        """Make an empty namespace with its loopback up. `name` is for people only. Raises OSError."""
        self.name = name
        self._descriptor = -1
        in_thread(self._make)

    def _make(self) -> None:
        unshare(CLONE_NEWNET)
        self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The open descriptor of the namespace, as setns(2) and IFLA_NET_NS_FD take it."""
        if self._descriptor < 0:
            raise ValueError(f"the namespace {self.name} is closed")
        return self._descriptor

    @property
    def inode(self) -> int:
        """What tells namespaces apart: the number in `net:[…]`."""
        return os.fstat(self.fileno()).st_ino

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into the namespace for a while. Not for the main thread: see run()."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(self.fileno(), CLONE_NEWNET)
            yield
        finally:
            setns(before, CLONE_NEWNET)
            os.close(before)

    def run(self, action: Callable[[], _T]) -> _T:
        """Run the action in the namespace and return what it returns, or raise what it raised.

        It runs in a thread of its own, which no signal handler ever interrupts: a Ctrl-C can neither leave the caller
        in the wrong namespace nor stop the action half-way.
        """

        def enter_and_run() -> _T:
            setns(self.fileno(), CLONE_NEWNET)
            return action()

        return in_thread(enter_and_run)

    def close(self) -> None:
        """Let go of the namespace. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Surroundings(Namespace):
    """The namespace that the calling thread is in."""

    def _make(self) -> None:  # by a fresh thread, which is where the one is that started it
        self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def in_thread(action: Callable[[], _T]) -> _T:
    """Run the action in a fresh thread; what it returns or raises is returned or raised here."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(action())
        except BaseException as error:  # raised again in the caller
            errors.append(error)

    thread = threading.Thread(target=call, name="lab-namespace", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
