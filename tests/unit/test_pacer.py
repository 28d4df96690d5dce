"""The pacer: fast while nothing is refused, one call at a time afterwards, and as slow as a crowd makes it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.clock import StillClock
from tests.doubles.ec2 import VPC, FakeEc2
from tests.unit.crowd import ROUTES, Crowd
from vipmanager.actions import (
    AssignAddress,
    AssociateEip,
    DeleteRoute,
    DisableSourceDestCheck,
    SetRoute,
    UnassignAddress,
    VpcAction,
)
from vipmanager.crowd import BUCKET, FULL, REFILL, Look
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.pacer import FIRST, LATEST, LOOK_WITHIN, SOONEST, Pacer, operation

THROTTLED = Failure(ErrorKind.RETRY, "ec2:ReplaceRoute", "RequestLimitExceeded", "too many")
BROKEN = Failure(ErrorKind.RETRY, "ec2:ReplaceRoute", "InternalError", "broken")
NOBODY = Look(0.0)
ADDRESS = IPv4Address("192.168.0.1")


def route(number: int, replaces: str = "eni-9") -> SetRoute:
    """A write of one of many routes."""
    return SetRoute(f"rtb-{number:03}", ip_network("192.168.0.1/32"), "eni-1", replaces, ADDRESS)


def seen(at: float, others: int, written: int = 0, lost: int = 0) -> Look:
    """Tables with so many routes to ENIs of others, of which so many have been taken over."""
    routes = Counter({"eni-gone": others - written, "eni-new": written})
    return Look(at, frozenset({"rtb-1"}), routes, lost)


class Desk:
    """The pacer of a process that starts, what there is to do, and a clock."""

    def __init__(self, count: int, crowd: Look = NOBODY, draw: float = 0.5, *, start: bool = True) -> None:
        self.pacer = Pacer(lambda: draw)
        self.todo: list[VpcAction] = [route(number) for number in range(count)]
        self.going: list[VpcAction] = []
        self.crowd, self.start, self.now = crowd, start, 0.1

    def admit(self) -> list[VpcAction]:
        """Hand over what may go."""
        due = [(action,) for action in self.todo if action not in self.going]
        admitted = [batch[0] for batch in self.pacer.admit(due, self.now, lambda: self.crowd, self.start)]
        self.going += admitted
        return admitted

    def answer(self, action: VpcAction, failure: Failure | None = None) -> None:
        """A call comes back."""
        self.going.remove(action)
        if failure is None:
            self.todo.remove(action)
        self.pacer.answered((action,), failure, self.now)

    def answer_all(self, failure: Failure | None = None) -> None:
        """All that are under way come back."""
        for action in list(self.going):
            self.answer(action, failure)

    def wait(self) -> float:
        """Let the time pass that the pacer asks for; how long that is."""
        at = self.pacer.next_at()
        assert at is not None
        passed, self.now = at - self.now, max(self.now, at)
        return passed

    def look(self, others: int, written: int) -> list[VpcAction]:
        """A round trip later the tables have been read again; what may go then. Our own routes are among `others`."""
        assert self.admit() == [] and self.pacer.look_since is not None
        self.now += 0.1
        self.crowd = seen(self.now, others, written)
        return self.admit()

    def drain(self, others: int, rate: float) -> list[float]:
        """When each call that is left is made, while others write so many a second."""
        times: list[float] = []
        written, since = self.crowd.routes["eni-new"], self.now
        while self.todo:
            if self.going:
                self.answer_all()
            elif self.pacer.look_since is None:
                self.wait()
            own = len(times)
            self.crowd = seen(self.now, others, min(others, int(written + rate * (self.now - since)) + own))
            times += [self.now] * len(self.admit())
            if not self.going and self.pacer.look_since is not None:
                self.now += 0.1
        return times


def throttled_desk(count: int, draw: float = 0.5) -> Desk:
    """One whose first calls were all refused, though the tables show nobody else."""
    desk = Desk(count, draw=draw)
    desk.admit()
    desk.answer_all(THROTTLED)
    assert desk.admit() == []
    return desk


# while nothing is refused


def test_few_calls_go_at_once() -> None:
    desk = Desk(FIRST)
    assert len(desk.admit()) == FIRST
    assert not desk.pacer.held and desk.pacer.next_at() is None


def test_many_calls_double_with_each_round_trip() -> None:
    desk = Desk(100)
    waves = []
    while desk.todo:
        waves.append(len(desk.admit()))
        desk.answer_all()
    assert waves == [8, 16, 32, 32, 12]


def test_half_a_window_that_came_back_is_room_for_more() -> None:
    desk = Desk(100)
    first = desk.admit()
    for action in first[:2]:
        desk.answer(action)
    assert not desk.pacer.ready
    desk.answer(first[2])
    assert desk.pacer.ready


def test_what_fails_otherwise_slows_nothing_down() -> None:
    desk = Desk(40)
    desk.admit()
    desk.answer_all(BROKEN)
    assert len(desk.admit()) == 2 * FIRST


def test_each_operation_has_a_pace_of_its_own() -> None:
    desk = throttled_desk(20)
    desk.todo += [route(number, replaces="") for number in range(30, 35)]
    assert {operation(action) for action in desk.admit()} == {"CreateRoute"}


def test_every_write_belongs_to_an_operation() -> None:
    six = [AssignAddress("eni-1", ADDRESS), UnassignAddress("eni-1", ADDRESS, "gone"), DisableSourceDestCheck("eni-1")]
    actions = [*six, AssociateEip("eipalloc-1", "eni-1", ADDRESS), route(1), route(1, "")]
    actions.append(DeleteRoute("rtb-1", ip_network("192.168.0.1/32"), "eni-1", ADDRESS))
    assert len({operation(action) for action in actions}) == len(actions)


# after a refusal


def test_after_a_refusal_they_go_one_at_a_time() -> None:
    desk = throttled_desk(20)
    assert 0.0 < desk.wait() <= SOONEST
    assert len(desk.admit()) == 1
    assert desk.admit() == [] and desk.pacer.next_at() is None  # its answer is what wakes us


def test_refusals_stretch_the_pause_up_to_a_bound_and_grants_shorten_it() -> None:
    desk = throttled_desk(40)
    pauses = []
    for failure in [THROTTLED] * 6 + [None] * 30:
        pauses.append(round(desk.wait(), 6))
        (action,) = desk.admit()
        desk.answer(action, failure)
        desk.admit()
    assert pauses[1:7] == sorted(pauses[1:7]) and pauses[6] == pytest.approx(LATEST)
    assert pauses[7:] == sorted(pauses[7:], reverse=True) and pauses[-1] < 0.5


def test_what_was_refused_is_first_again() -> None:
    desk = throttled_desk(5)
    for _ in range(3):
        desk.wait()
        (action,) = desk.admit()
        assert action == route(0)
        desk.answer(action, THROTTLED)
        desk.admit()


def test_nothing_starves_while_new_work_comes() -> None:
    desk = throttled_desk(3)
    served = []
    for number in range(6):
        desk.todo.insert(0, route(100 + number))
        desk.admit()
        desk.wait()
        (action,) = desk.admit()
        served.append(action)
        desk.answer(action)
        desk.admit()
    assert served[:3] == [route(0), route(1), route(2)]


def test_an_old_refusal_is_forgotten() -> None:
    desk = throttled_desk(1)
    desk.wait()
    desk.admit()
    desk.answer_all()
    desk.now += FULL + 1.0
    desk.admit()
    desk.todo = [route(number) for number in range(4)]
    assert len(desk.admit()) == 4


def test_a_recent_one_is_not() -> None:
    desk = throttled_desk(1)
    desk.wait()
    desk.admit()
    desk.answer_all()
    desk.admit()
    desk.todo = [route(number) for number in range(4)]
    assert len(desk.admit()) <= 1


# where the tables show that there could be a crowd


def test_a_process_that_starts_takes_its_share_of_the_bucket() -> None:
    assert len(Desk(4, seen(0.0, 400)).admit()) == 1
    assert len(Desk(20, seen(0.0, 400)).admit()) == 5
    assert len(Desk(4, seen(0.0, 4000)).admit()) == 1


def test_what_moves_while_it_runs_goes_at_once() -> None:
    assert len(Desk(4, seen(0.0, 400), start=False).admit()) == 4


def test_unless_the_tables_announce_it() -> None:
    assert len(Desk(4, seen(0.0, 400, lost=396), start=False).admit()) == 1


def test_few_routes_of_others_are_no_crowd() -> None:
    assert len(Desk(8, seen(0.0, 98, lost=90)).admit()) == 8
    assert len(Desk(8, seen(0.0, BUCKET)).admit()) == 8


def test_then_it_looks_whether_others_are_at_work() -> None:
    desk = Desk(4, seen(0.0, 400))
    desk.admit()
    desk.answer_all()
    assert desk.admit() == []
    assert desk.pacer.look_since == desk.now and desk.pacer.held == {action.key for action in desk.todo}
    assert desk.pacer.next_at() == desk.now + LOOK_WITHIN


@pytest.mark.parametrize("others", [0, 9, 20])
def test_alone_or_among_few_it_does_not_wait(others: int) -> None:
    desk = Desk(4, seen(0.0, 400))
    desk.admit()
    desk.answer_all()
    waves = [len(desk.look(400, 1 + others))]
    desk.answer_all()
    waves.append(len(desk.admit()))
    assert waves == [1, 2] and desk.pacer.next_at() is None


def test_it_goes_on_as_it_began() -> None:
    desk = Desk(128, seen(0.0, 2000))
    began = len(desk.admit())
    desk.answer_all()
    assert len(desk.look(2000, began)) == began == 6
    desk.answer_all()
    assert len(desk.admit()) == 2 * began


def test_in_a_crowd_the_rest_is_spread_over_what_the_crowd_needs() -> None:
    desk = Desk(4, seen(0.0, 400))
    desk.admit()
    desk.answer_all()
    assert desk.look(400, 100) == []
    times = desk.drain(400, rate=REFILL)
    assert len(times) == 3 and 5.0 < times[0] < 20.0 and 40.0 < times[-1] < 69.0


def test_routes_of_a_healthy_zone_do_not_count() -> None:
    desk = Desk(4, seen(0.0, 4000))
    desk.admit()
    desk.answer_all()
    assert desk.look(4000, 100) == []
    assert 40.0 < desk.drain(4000, rate=REFILL)[-1] < 69.0


def test_a_look_that_fails_is_not_waited_for_long_and_shows_nothing() -> None:
    desk = Desk(4, seen(0.0, 400))
    desk.admit()
    desk.answer_all()
    desk.admit()
    assert desk.wait() == LOOK_WITHIN
    assert desk.admit() == []
    assert desk.drain(400, rate=0.0)[-1] < 10.0  # the next one shows that nobody writes


def test_a_crowd_that_has_stopped_holds_nobody_up() -> None:
    desk = Desk(4, seen(0.0, 400))
    desk.admit()
    desk.answer_all()
    desk.look(400, 100)
    assert desk.drain(400, rate=0.0)[-1] < 10.0


def test_whoever_finds_the_bucket_empty_takes_all_others_for_a_crowd() -> None:
    desk = Desk(4, seen(0.0, 400))
    desk.admit()
    desk.answer_all(THROTTLED)
    assert desk.look(400, 1) == []
    assert desk.drain(400, rate=REFILL)[-1] > 40.0


def test_whoever_emptied_it_alone_does_not() -> None:
    desk = Desk(128, seen(0.0, 2000), start=False)
    while len(desk.todo) > 28:
        for action in desk.admit():
            desk.answer(action, None if len(desk.todo) > 28 else THROTTLED)
    assert desk.look(2000, 100) == []
    assert desk.drain(2000, rate=0.0)[-1] < 28 / REFILL + 2.0


def test_old_tables_do_not_tell_what_was_written_just_now() -> None:
    desk = Desk(4, seen(-600.0, 400), start=False)
    desk.admit()
    desk.answer_all(THROTTLED)
    assert desk.look(400, 300) == []  # all that has been written in ten minutes
    assert desk.drain(400, rate=0.0)[-1] < 10.0


# real init runs in simulated time


def test_the_doubles_bucket_is_ec2s() -> None:
    clock = StillClock()
    ec2 = FakeEc2(clock)
    ec2.add_vpc(VPC, "10.10.0.0/16")
    ec2.add_subnet("subnet-1", "10.10.1.0/24")
    ec2.add_eni("eni-1", "02:00:00:00:00:01", 1, "subnet-1", "10.10.1.10")
    ec2.faults.throttle("disable_source_dest_check", "delete_route", clock=clock, bucket=2.0, refill=5.0)

    def granted(times: int) -> int:
        count = 0
        for _ in range(times):
            with suppress(CallError):
                ec2.disable_source_dest_check("eni-1")
                count += 1
        return count

    assert granted(5) == 2
    clock.advance(0.2)
    assert granted(5) == 1
    clock.advance(60.0)
    assert granted(5) == 2
    with pytest.raises(CallError) as caught:
        ec2.disable_source_dest_check("eni-1")
    assert caught.value.failure.throttled and caught.value.kind is ErrorKind.RETRY


def test_a_lone_pod_is_not_held_up() -> None:
    crowd = Crowd([2])
    assert crowd.run() and not crowd.undelivered()
    assert crowd.took < 0.2  # describes, and all eight writes at once: two round trips
    assert crowd.count(*ROUTES) == 8


def test_a_lone_pod_among_stale_routes_takes_three_round_trips_more_at_most() -> None:
    crowd = Crowd([2], stale=200)
    assert crowd.run() and not crowd.undelivered()
    assert crowd.took < 0.2 + 3 * 0.072


def test_a_lone_pod_with_more_than_the_bucket_uses_what_is_refilled() -> None:
    crowd = Crowd([32])
    assert crowd.run() and not crowd.undelivered()
    assert crowd.took < 1.5 * (32 * 4 - 100) / 5.0
    assert crowd.count(*ROUTES, throttled=True) <= 32


@pytest.mark.parametrize("seed", range(2))
def test_a_crowd_neither_storms_nor_starves(seed: int) -> None:
    """A smaller one than that of `make bench-scale`, and wider bounds."""
    crowd = Crowd([1] * 50, seed=seed)
    assert crowd.run() and not crowd.undelivered()
    necessary = 50 * 4
    assert crowd.count(*ROUTES) < 1.3 * necessary
    assert crowd.took < 1.5 * (necessary - 100) / 5.0


def test_a_pod_among_live_routes_of_others_takes_four_round_trips_more_at_most() -> None:
    crowd = Crowd([2], announced=False, innocents=100)
    assert crowd.run() and not crowd.undelivered()
    assert crowd.took < 0.2 + 4 * 0.072


def test_so_do_the_pods_of_one_node() -> None:
    crowd = Crowd([1] * 10, announced=False, innocents=100)
    assert crowd.run() and not crowd.undelivered()
    assert crowd.took < 0.5 and not crowd.count(*ROUTES, throttled=True)


def test_where_nothing_is_announced_there_is_no_storm_either() -> None:
    crowd = Crowd([1] * 50, announced=False, innocents=50)
    assert crowd.run() and not crowd.undelivered()
    necessary = 50 * 4
    assert crowd.count(*ROUTES) < 1.3 * necessary
    assert crowd.took < 1.5 * (necessary - 100) / 5.0


def test_nor_where_the_bucket_is_smaller_than_thought() -> None:
    crowd = Crowd([1] * 30, announced=False, bucket=20.0)
    assert crowd.run() and not crowd.undelivered()
    assert crowd.count(*ROUTES) < 3 * 120


@settings(max_examples=8, deadline=None)
@given(
    addresses=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    innocents=st.integers(0, 60),
    spread=st.sampled_from([0.0, 3.0]),
    bucket=st.sampled_from([20.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_every_pod_of_every_crowd_comes_through(
    addresses: list[int], innocents: int, spread: float, bucket: float, seed: int
) -> None:
    crowd = Crowd(addresses, announced=False, innocents=innocents, spread=spread, bucket=bucket, seed=seed)
    assert crowd.run(within=600.0) and not crowd.undelivered()
    assert crowd.count(*ROUTES) < 3 * 4 * sum(addresses) + 40


def test_pods_that_differ_in_size_all_come_through() -> None:
    crowd = Crowd([1] * 20 + [20], bucket=50.0)
    assert crowd.run() and not crowd.undelivered()
    assert crowd.took < 2.0 * (40 * 4 - 50) / 5.0
