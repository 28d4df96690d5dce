"""Asking several things at once, each a few times."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.doubles.clock import BOUND
from vipmanager.asking import ATTEMPTS, PATIENCE, Asker
from vipmanager.errors import CallError, ErrorKind, Failure


class Clock:
    """Time passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def failing(kind: ErrorKind, times: int, log: list[str]) -> Callable[[], str]:
    """A call that fails so often and then answers."""

    def call() -> str:
        log.append("asked")
        if len(log) <= times:
            raise CallError(Failure(kind, "ec2:Describe", "Told", "told to fail"))
        return "answer"

    return call


def asker(clock: Clock | None = None) -> Asker:
    clock = clock or Clock()
    return Asker(clock, clock.sleep, lambda: 0.5)


def test_answers_come_in_the_order_of_the_questions() -> None:
    """Though they are asked at the same time: the first is answered only once the second was asked."""
    asked = threading.Event()

    def second() -> int:
        asked.set()
        return 2

    assert asker().all([lambda: 1 if asked.wait(BOUND) else 0, second]) == [1, 2]


def test_a_passing_failure_is_tried_again() -> None:
    log: list[str] = []
    assert asker().all([failing(ErrorKind.RETRY, ATTEMPTS - 1, log)]) == ["answer"]
    assert len(log) == ATTEMPTS


def test_attempts_are_limited() -> None:
    log: list[str] = []
    with pytest.raises(CallError, match="told to fail"):
        asker().all([failing(ErrorKind.RETRY, 99, log)])
    assert len(log) == ATTEMPTS


def test_so_is_time() -> None:
    """A call that takes long to fail is not repeated as often."""
    clock, log = Clock(), list[str]()

    def slow() -> str:
        clock.sleep(0.4 * PATIENCE)
        return failing(ErrorKind.RETRY, 99, log)()

    (failure,) = asker(clock).each([slow])
    assert isinstance(failure, Failure)
    assert len(log) == 3


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if kind is not ErrorKind.RETRY])
def test_what_will_not_change_is_not_asked_again(kind: ErrorKind) -> None:
    log: list[str] = []
    (failure,) = asker().each([failing(kind, 99, log)])
    assert isinstance(failure, Failure)
    assert len(log) == 1


def test_an_answer_beside_a_failure_is_kept() -> None:
    first, second = asker().each([failing(ErrorKind.DENIED, 99, []), lambda: "answer"])
    assert isinstance(first, Failure)
    assert second == "answer"


def test_a_bug_is_not_hidden() -> None:
    def broken() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asker().all([broken])
