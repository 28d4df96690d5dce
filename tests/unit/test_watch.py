"""Kernel events, wakes and timers: a burst is one wake, a wake is never lost."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.doubles.clock import BOUND
from vipmanager.watch import Watch


class Kernel:
    """A pair of sockets in place of netlink's."""

    def __init__(self) -> None:
        self.events, self.sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.events.setblocking(False)

    def send(self, count: int = 1) -> None:
        """So many events."""
        for _ in range(count):
            self.sender.send(b"changed")

    def pending(self) -> bool:
        """Whether an event is still to be read."""
        try:
            self.events.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.sender.close()
    made.events.close()


@pytest.fixture
def watch(kernel: Kernel) -> Iterator[Watch]:
    made = Watch(kernel.events, time.monotonic)
    yield made
    made.close()


def far() -> float:
    """A time that no test waits for."""
    return time.monotonic() + BOUND


def test_what_is_to_be_done_before_the_first_wait_is_done_then_and_once(watch: Watch) -> None:
    done: list[str] = []
    watch.before_first_wait(lambda: done.append("done"))
    assert done == []
    for _ in range(2):
        watch.wake()
        assert watch.wait(far()) is False
        assert done == ["done"]


def test_a_burst_of_events_is_one_wake(watch: Watch, kernel: Kernel) -> None:
    kernel.send(5)
    assert watch.wait(far()) is True
    assert not kernel.pending()
    assert watch.wait(time.monotonic()) is False


def test_events_that_come_during_the_burst_belong_to_it(kernel: Kernel) -> None:
    now = [0.0]

    def clock() -> float:
        """Each look at the clock brings another event and 8 ms."""
        kernel.send()
        now[0] += 0.008
        return now[0]

    watch = Watch(kernel.events, clock)
    kernel.send()
    assert watch.wait(None) is True
    assert not kernel.pending()


def test_it_returns_at_its_time(watch: Watch) -> None:
    until = time.monotonic() + 0.02
    assert watch.wait(until) is False
    assert time.monotonic() >= until


def test_a_time_that_has_passed_is_no_wait(watch: Watch) -> None:
    assert watch.wait(time.monotonic() - 5) is False


def test_a_wake_before_the_wait_is_not_lost(watch: Watch) -> None:
    watch.wake()
    watch.wake()
    assert watch.wait(None) is False
    assert watch.wait(time.monotonic()) is False


def test_a_wake_from_another_thread(watch: Watch) -> None:
    threading.Thread(target=watch.wake, daemon=True).start()
    assert watch.wait(None) is False


def test_any_number_of_wakes_does_not_block(watch: Watch) -> None:
    """The pipe fills up; a signal handler must not hang on it."""
    for _ in range(100_000):
        watch.wake()
    assert watch.wait(None) is False


def test_a_wake_ends_a_burst_early_and_the_kernel_is_still_to_be_read(watch: Watch, kernel: Kernel) -> None:
    kernel.send()
    watch.wake()
    assert watch.wait(None) is True
    assert not kernel.pending()


class Overrun:
    """A socket whose messages were lost, or that is broken."""

    def __init__(self, kernel: Kernel, number: int) -> None:
        self._kernel, self._number, self.raised = kernel, number, 0

    def fileno(self) -> int:
        return self._kernel.events.fileno()

    def recv(self, size: int) -> bytes:
        if not self.raised:
            self.raised += 1
            raise OSError(self._number, "lost")
        return self._kernel.events.recv(size)

    def close(self) -> None:
        pass


def test_an_overrun_means_read_the_kernel(kernel: Kernel) -> None:
    events = Overrun(kernel, errno.ENOBUFS)
    watch = Watch(events, time.monotonic)  # type: ignore[arg-type]
    kernel.send()
    assert watch.wait(far()) is True
    assert events.raised == 1 and not kernel.pending()
    assert watch.overruns == 1


def test_the_first_event_is_remembered_until_it_is_cleared(watch: Watch, kernel: Kernel) -> None:
    assert watch.heard is None
    before = time.monotonic()
    kernel.send()
    assert watch.wait(far()) is True
    first = watch.heard
    assert first is not None and first >= before
    kernel.send()
    assert watch.wait(far()) is True
    assert watch.heard == first and watch.overruns == 0


def test_a_broken_socket_is_not_taken_for_silence(kernel: Kernel) -> None:
    watch = Watch(Overrun(kernel, errno.EBADF), time.monotonic)  # type: ignore[arg-type]
    kernel.send()
    with pytest.raises(OSError, match="lost"):
        watch.wait(far())


def test_without_events_there_are_wakes_and_timers() -> None:
    watch = Watch(None, time.monotonic)
    assert watch.wait(time.monotonic()) is False
    watch.wake()
    assert watch.wait(None) is False
    watch.close()


@pytest.mark.parametrize("until", [1e300, float("inf"), 3e6 + time.monotonic()])
def test_a_time_that_poll_cannot_take_is_waited_for_in_parts(until: float) -> None:
    """poll(2) takes an int of milliseconds: settings may ask for more than 25 days."""
    watch = Watch(None, time.monotonic)
    watch.wake()
    assert watch.wait(until) is False
    watch.close()
