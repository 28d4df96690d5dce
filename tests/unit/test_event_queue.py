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


def about(reason: str, at: float = 0.0, topic: str = "192.168.0.1") -> PodEvent:
    return PodEvent(reason, f"{topic} {reason}", reason == "Conceded", at, at, about=topic)


def reasons(queue: EventQueue, now: float) -> list[str]:
    """What may be sent now."""
    return [message.rpartition(" ")[2] for message in taken(queue, now)]


def test_what_goes_to_and_fro_is_told_each_time() -> None:
    """Else the last that is told would be the opposite of what is the case, for ten minutes."""
    queue, told = EventQueue(), ["Claimed", "Conceded", "Claimed", "Conceded"]
    for number, reason in enumerate(told):
        queue.put(about(reason), START + number)
        assert reasons(queue, START + number) == [reason]
    queue.put(about("Conceded"), START + 5)
    assert reasons(queue, START + 5) == [], "it has just been told"


def test_a_repetition_that_is_held_back_is_not_told_after_its_opposite() -> None:
    queue = EventQueue()
    for number, reason in enumerate(["Claimed", "Claimed", "Conceded"]):
        queue.put(about(reason), START + number)
    assert reasons(queue, START + 2 * REPEAT_AFTER) == ["Claimed", "Conceded"]
    assert (queue.due(START + 2 * REPEAT_AFTER), queue.dropped) == (None, 1)


def test_a_flapping_pod_is_bounded_and_how_it_ends_is_told_as_soon_as_there_is_room() -> None:
    queue, sent = EventQueue(), []
    for second in range(601):
        queue.put(about(("Claimed", "Conceded")[second % 2]), START + second)
        sent += reasons(queue, START + second)
    assert len(sent) <= BURST + 600 / REFILL
    sent += reasons(queue, START + 601 + REFILL)
    assert sent[-1] == "Claimed"
    assert queue.due(START + 601 + REFILL) is None, "nothing of what was waits any more"


def test_one_that_flaps_does_not_take_the_place_of_others_that_wait() -> None:
    queue = EventQueue()
    for number in range(BURST + 3):
        queue.put(made(str(number)), START)
    for number in range(1000):
        queue.put(about(("Claimed", "Conceded")[number % 2]), START)
    told = [message for minute in range(1, 9) for message in taken(queue, START + minute * 100 * REFILL)]
    assert told[: BURST + 3] == [*map(str, range(BURST + 3))]
    assert told[-1] == "192.168.0.1 Conceded"


def test_what_was_dropped_was_not_told_and_its_repetition_is() -> None:
    queue = EventQueue()
    queue.put(about("Claimed"), START)
    for number in range(ROOM):
        queue.put(made(str(number)), START)
    queue.put(about("Claimed"), START)
    told = [*taken(queue, START), *taken(queue, START + 100 * REFILL), *taken(queue, START + 200 * REFILL)]
    told += [*taken(queue, START + 300 * REFILL), *taken(queue, START + 400 * REFILL)]
    assert told[-1] == "192.168.0.1 Claimed"


def test_a_cleared_queue_has_nothing_to_say() -> None:
    queue = EventQueue()
    for message in ("one", "two", "two"):
        queue.put(made(message), START)
    queue.clear()
    assert queue.dropped == 3
    assert queue.due(START) is None
    assert taken(queue, START + 2 * REPEAT_AFTER) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * REMEMBERED), st.floats(0.0, 100.0), st.booleans(), st.sampled_from("ABC")),
        max_size=400,
    )
)
def test_every_event_is_sent_or_counted_as_dropped_and_no_faster_than_allowed(
    steps: list[tuple[int, float, bool, str]],
) -> None:
    queue, now, put, sent, times = EventQueue(), START, 0, 0, []
    for number, pause, take, reason in steps:
        now += pause
        queue.put(about(reason, topic=str(number)), now)
        put += 1
        if take and (event := queue.take(now)) is not None:
            sent += event.times
            times.append(now)
        assert len(queue._waiting) <= ROOM
        assert len(queue._last) <= REMEMBERED
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
