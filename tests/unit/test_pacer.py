"""The pacer: fast while nothing is refused, one call at a time afterwards, and as slow as a crowd makes it."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, ip_network

import pytest

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
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model import Route, RouteTable
from vipmanager.pacer import AFTER_LOOK, FIRST, FULL, LATEST, LOOK_WITHIN, SOONEST, Pacer, Waiting, operation, waiting

THROTTLED = Failure(ErrorKind.RETRY, "ec2:ReplaceRoute", "RequestLimitExceeded", "too many")
BROKEN = Failure(ErrorKind.RETRY, "ec2:ReplaceRoute", "InternalError", "broken")
NOBODY = Waiting(0, 0.0)
ADDRESS = IPv4Address("192.168.0.1")


def route(number: int, replaces: str = "eni-9") -> SetRoute:
    """A write of one of many routes."""
    return SetRoute(f"rtb-{number:03}", ip_network("192.168.0.1/32"), "eni-1", replaces, ADDRESS)


class Desk:
    """A pacer, what there is to do, and a clock."""

    def __init__(self, count: int, crowd: Waiting = NOBODY, draw: float = 0.5) -> None:
        self.pacer = Pacer(lambda: draw)
        self.todo: list[VpcAction] = [route(number) for number in range(count)]
        self.going: list[VpcAction] = []
        self.crowd, self.now = crowd, 100.0

    def admit(self) -> list[VpcAction]:
        """Hand over what may go."""
        due = [(action,) for action in self.todo if action not in self.going]
        admitted = [batch[0] for batch in self.pacer.admit(due, self.now, lambda: self.crowd)]
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


def throttled_desk(count: int, crowd: Waiting = NOBODY, draw: float = 0.5) -> Desk:
    """One whose first calls were all refused, and that has seen the tables since."""
    desk = Desk(count, draw=draw)
    desk.admit()
    desk.answer_all(THROTTLED)
    desk.crowd = Waiting(crowd.routes, desk.now)
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
        pauses.append(desk.wait())
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


# what the tables announce


def test_a_crowd_gives_each_its_share_of_the_bucket() -> None:
    assert len(Desk(4, Waiting(396, 0.0)).admit()) == 1
    assert len(Desk(20, Waiting(380, 0.0)).admit()) == 5


def test_few_lost_routes_are_no_crowd() -> None:
    assert len(Desk(8, Waiting(90, 0.0)).admit()) == 8


def test_then_it_looks_whether_others_are_at_work() -> None:
    desk = Desk(4, Waiting(396, 0.0))
    desk.admit()
    desk.answer_all()
    assert desk.admit() == []
    assert desk.pacer.look_since == desk.now and desk.pacer.held == {action.key for action in desk.todo}
    assert desk.pacer.next_at() == desk.now + LOOK_WITHIN


def test_alone_among_stale_routes_it_does_not_wait() -> None:
    desk = Desk(4, Waiting(396, 0.0))
    desk.admit()
    desk.answer_all()
    desk.admit()
    desk.crowd = Waiting(396, desk.now + 0.1)
    desk.now += 0.1
    assert len(desk.admit()) == 3 <= AFTER_LOOK


def test_a_look_that_fails_is_not_waited_for_long() -> None:
    desk = Desk(4, Waiting(396, 0.0))
    desk.admit()
    desk.answer_all()
    desk.admit()
    desk.wait()
    assert len(desk.admit()) == 3


def test_in_a_crowd_the_rest_is_spread_over_what_the_crowd_needs() -> None:
    desk = Desk(4, Waiting(396, 0.0))
    desk.admit()
    desk.answer_all()
    desk.admit()
    desk.now += 0.1
    desk.crowd = Waiting(297, desk.now)
    desk.admit()
    times = []
    while desk.todo:
        desk.wait()
        desk.crowd = Waiting(int(297 - 5 * (desk.now - 100.0)), desk.now)  # others go on
        if desk.admit():
            times.append(desk.now - 100.0)
            desk.answer_all()
            desk.admit()
    assert times[0] > 5.0 and 40.0 < times[-1] < 66.0


def test_a_crowd_that_has_stopped_holds_nobody_up() -> None:
    desk = throttled_desk(4, Waiting(400))
    sent = 0
    while desk.todo:
        desk.wait()
        desk.crowd = Waiting(400, desk.now)  # nobody writes
        sent += len(desk.admit())
        desk.answer_all()
        desk.admit()
    assert sent == 4 and desk.now < 140.0  # a bucket of such a crowd would take 80 s


def test_waiting_counts_lost_routes_to_enis_that_others_are_to_write() -> None:
    to = [ip_network(f"192.168.0.{number}/32") for number in range(5)]
    routes = {
        to[0]: Route(to[0], "eni-1", live=True),
        to[1]: Route(to[1], "eni-2", live=False),
        to[2]: Route(to[2], "eni-3", live=False),
        to[3]: Route(to[3], "tgw-1", live=False),
    }
    table = RouteTable("rtb-1", routes, (), {}, seen=7.0)
    assert waiting([table], {("route", "rtb-1", str(to[1]))}) == Waiting(1, 7.0)
    assert waiting(None, set()).routes == 0


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


def test_where_nothing_is_announced_there_is_no_storm_either() -> None:
    crowd = Crowd([1] * 30, announced=False, bucket=20.0)
    assert crowd.run() and not crowd.undelivered()
    assert crowd.count(*ROUTES) < 3 * 120


def test_pods_that_differ_in_size_all_come_through() -> None:
    crowd = Crowd([1] * 20 + [20], bucket=50.0)
    assert crowd.run() and not crowd.undelivered()
    assert crowd.took < 2.0 * (40 * 4 - 50) / 5.0
