"""Which Events are sent, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vipmanager.clients.event_queue import BURST, REFILL, REMEMBERED, REPEAT_AFTER, ROOM, EventQueue, PodEvent

START = 5000.0


def made(message: str, at: float = 0.0) -> PodEvent:
    return PodEvent("Claimed", message, False, at, at)


def taken(queue: EventQueue, now: float) -> list[str]:
    """All that may be sent now."""
    found = []
    while (event := queue.take(now)) is not None:
        found.append(event.message)
    return found


def test_a_burst_goes_at_once_and_then_one_in_ten_seconds() -> None:
    queue = EventQueue()
    for number in range(BURST + 3):
        queue.put(made(str(number)), START)
    assert taken(queue, START) == [str(number) for number in range(BURST)]
    assert queue.due(START) == START + REFILL
    assert taken(queue, START + REFILL - 0.1) == []
    assert taken(queue, START + REFILL) == [str(BURST)]
    assert taken(queue, START + 10 * REFILL) == [str(BURST + 1), str(BURST + 2)]
    assert queue.due(START + 10 * REFILL) is None


def test_what_does_not_fit_drops_the_oldest() -> None:
    queue = EventQueue()
    for number in range(ROOM + 5):
        queue.put(made(str(number)), START)
    assert queue.dropped == 5
    assert taken(queue, START + 1000 * REFILL)[0] == "5"


def test_the_same_event_is_counted_and_told_when_its_time_is_over() -> None:
    queue = EventQueue()
    queue.put(made("again", 1.0), START)
    assert taken(queue, START) == ["again"]
    assert queue.due(START) is None
    for number in (2, 3, 4):
        queue.put(made("again", float(number)), START + number)
    assert taken(queue, START + 5) == []
    assert queue.due(START + 5) == START + REPEAT_AFTER
    assert queue.take(START + REPEAT_AFTER) == PodEvent("Claimed", "again", False, 2.0, 4.0, 3)
    queue.put(made("again", 9.0), START + REPEAT_AFTER + 1)  # counted again from then on
    assert taken(queue, START + REPEAT_AFTER + 1) == []


def test_after_its_time_an_event_is_new() -> None:
    queue = EventQueue()
    queue.put(made("again", 1.0), START)
    queue.put(made("again", 700.0), START + REPEAT_AFTER)
    assert taken(queue, START + REPEAT_AFTER) == ["again", "again"]


def test_another_reason_or_type_is_another_event() -> None:
    queue = EventQueue()
    queue.put(PodEvent("Claimed", "x", False, 0.0, 0.0), START)
    queue.put(PodEvent("Failing", "x", False, 0.0, 0.0), START)
    queue.put(PodEvent("Failing", "x", True, 0.0, 0.0), START)
    assert len(taken(queue, START)) == 3


def test_a_cleared_queue_has_nothing_to_say() -> None:
    queue = EventQueue()
    for message in ("one", "two", "two"):
        queue.put(made(message), START)
    queue.clear()
    assert queue.dropped == 3
    assert queue.due(START) is None
    assert taken(queue, START + 2 * REPEAT_AFTER) == []


@given(st.lists(st.tuples(st.integers(0, 3 * REMEMBERED), st.floats(0.0, 100.0), st.booleans()), max_size=400))
def test_every_event_is_sent_or_counted_as_dropped_and_no_faster_than_allowed(
    steps: list[tuple[int, float, bool]],
) -> None:
    queue, now, put, sent, times = EventQueue(), START, 0, 0, []
    for number, pause, take in steps:
        now += pause
        queue.put(made(str(number)), now)
        put += 1
        if take and (event := queue.take(now)) is not None:
            sent += event.times
            times.append(now)
        assert len(queue._waiting) <= ROOM
        assert len(queue._seen) <= REMEMBERED
    while (due := queue.due(now)) is not None:
        assert due <= now + REPEAT_AFTER + 1e-6
        now = max(now, due)
        if (event := queue.take(now)) is not None:
            sent += event.times
            times.append(now)
        else:
            now += 1e-3  # the clock goes on, whatever rounding makes of the tokens
    assert sent + queue.dropped == put
    assert all(b - a >= REFILL - 1e-2 for a, b in zip(times, times[BURST:], strict=False))
