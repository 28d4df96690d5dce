"""What looks at the route tables tell of others who write routes: how many, how large a crowd, how much is left."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipmanager.crowd import BUCKET, FULL, REFILL, Crowd, Look, look
from vipmanager.model import Route, RouteTable


def table(name: str, targets: dict[int, tuple[str, bool]], seen: float = 7.0) -> RouteTable:
    """A route table with a target for each of some addresses."""
    routes = {}
    for number, (target, live) in targets.items():
        destination = ip_network(f"192.168.0.{number}/32")
        routes[destination] = Route(destination, target, live)
    return RouteTable(name, routes, (), {}, seen=seen)


def at(seen: float, others: int, written: int = 0) -> Look:
    """Tables with so many routes to ENIs of others, of which so many have been taken over."""
    return Look(seen, frozenset({"rtb-1"}), Counter({"eni-gone": others - written, "eni-new": written}))


def crowd_met(others: int, written: int, granted: int = 1, count: int = 3, refused: int = 0) -> Crowd:
    """What is known after the first look; our own routes are among `others`, and the `written`."""
    crowd = Crowd(at(0.0, others), others - granted - count)
    crowd.share(granted + count)
    crowd.met(at(0.2, others, written + granted), count, granted, refused)
    return crowd


def test_a_look_counts_routes_to_enis_of_others() -> None:
    targets = {0: ("eni-1", True), 1: ("eni-2", False), 2: ("eni-3", False), 3: ("tgw-1", False), 4: ("eni-3", True)}
    own = {("route", "rtb-1", "192.168.0.1/32")}
    found = look([table("rtb-1", targets)], own, {"eni-1"})
    assert (found.seen, found.lost, found.others) == (7.0, 1, 3)
    assert look(None, set(), set()) == Look()


def test_written_is_what_no_longer_points_where_it_pointed() -> None:
    before = look([table("rtb-1", {0: ("eni-2", True), 1: ("eni-2", True), 2: ("eni-4", True)})], set(), set())
    after = look([table("rtb-1", {0: ("eni-3", True), 1: ("eni-2", True), 3: ("eni-4", True)})], set(), set())
    assert after.written_since(before) == 1


def test_a_route_that_comes_to_our_own_eni_was_written_too() -> None:
    """Pods of one worker share its ENI."""
    before = look([table("rtb-1", {0: ("eni-2", True)})], set(), {"eni-1"})
    after = look([table("rtb-1", {0: ("eni-1", True)})], set(), {"eni-1"})
    assert after.written_since(before) == 1


def test_other_tables_are_not_compared() -> None:
    before = look([table("rtb-1", {0: ("eni-2", True)}), table("rtb-2", {0: ("eni-2", True)})], set(), set())
    after = look([table("rtb-1", {0: ("eni-2", True)})], set(), set())
    assert after.written_since(before) == 0


@pytest.mark.parametrize("innocents", [0, 400, 4000])
def test_others_have_made_as_large_a_share_of_their_calls_as_we(innocents: int) -> None:
    crowd = crowd_met(400 + innocents, written=99)
    assert crowd.rest == 297 and crowd.tokens == 0.0
    assert 300 / REFILL < crowd.lasts(3) < 1.1 * 300 / REFILL


def test_few_others_leave_room_for_all() -> None:
    crowd = crowd_met(440, written=9)
    assert crowd.rest + 3 < crowd.tokens == 90.0


def test_nobody_leaves_all() -> None:
    assert crowd_met(440, written=0).rest == 0.0


def test_a_bucket_that_others_emptied_before_may_have_been_emptied_by_all() -> None:
    assert crowd_met(400, written=1, granted=0, count=4, refused=1).rest == 395
    assert crowd_met(2000, written=0, granted=100, count=28, refused=28).rest == 0.0


def test_a_bucket_that_we_emptied_tells_of_nobody_whatever_old_tables_show() -> None:
    crowd = Crowd(at(0.0, 2000), 1872)
    crowd.met(at(600.0, 2000, 300), 28, 100, 28)
    assert crowd.rest == 0.0 == crowd.tokens


def test_a_crowd_that_writes_half_as_fast_as_expected_is_smaller_than_thought() -> None:
    crowd = crowd_met(4000, written=99)
    crowd.followed(at(20.2, 4000, 150), 3, 0, 0)
    assert 130 < crowd.rest < 297 - 50
    assert crowd.tokens == pytest.approx(FULL * REFILL - 50, abs=1.0)


def test_one_that_hardly_writes_is_gone() -> None:
    crowd = crowd_met(4000, written=99)
    crowd.followed(at(10.2, 4000, 102), 3, 0, 0)
    assert crowd.rest + 3 < crowd.tokens


def test_one_that_goes_on_after_all_should_be_done_is_larger() -> None:
    crowd = crowd_met(4000, written=30)
    crowd.followed(at(20.2, 4000, 31 + 100), 3, 0, 0)
    assert crowd.rest > 0.0


def test_refusals_of_our_own_tell_of_more() -> None:
    calm, refused = crowd_met(4000, written=99), crowd_met(4000, written=99)
    calm.followed(at(10.2, 4000, 150), 3, 0, 0)
    refused.followed(at(10.2, 4000, 150), 3, 0, 2)
    assert refused.rest > calm.rest and refused.tokens == 0.0


@pytest.mark.parametrize(("announced", "rest"), [(True, 3996 - 80), (False, 80)])
def test_many_refusals_make_it_all_that_is_announced_or_as_many_again(announced: bool, rest: int) -> None:
    crowd = Crowd(at(0.0, 4000), 3996, announced)
    crowd.share(4)
    crowd.met(at(0.2, 4000, 31), 3, 1, 0)
    crowd.followed(at(10.2, 4000, 31 + 50), 3, 0, 2)
    assert crowd.rest == rest


@given(
    others=st.integers(101, 5000),
    share=st.integers(0, 100),
    looks=st.lists(
        st.tuples(st.floats(0.1, 60.0), st.integers(0, 300), st.integers(0, 2), st.integers(0, 3)), max_size=9
    ),
)
def test_estimates_keep_to_what_is_possible(others: int, share: int, looks: list[tuple[float, int, int, int]]) -> None:
    written = min(share, others - 4)
    crowd, now = crowd_met(others, written), 0.2
    for elapsed, more, granted, refused in looks:
        now, written = now + elapsed, min(others, written + more)
        crowd.followed(at(now, others, written), 3, granted, refused)
        assert 0.0 <= crowd.rest <= others and 0.0 <= crowd.tokens <= BUCKET
        assert 0.0 <= crowd.spare(3) <= 3.0 and crowd.lasts(3) >= 0.0
