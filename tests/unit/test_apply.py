"""Each action succeeds or fails for itself, and is tried again for itself."""

from __future__ import annotations

import threading
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from tests.doubles.clock import Bell
from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.netlink import FakeNetlink
from vipmanager.actions import (
    AddPodRule,
    AssignAddress,
    AssociateEip,
    DeletePodRoute,
    DeletePodRule,
    DeleteRoute,
    DisableSourceDestCheck,
    SetPodRoute,
    SetRoute,
    UnassignAddress,
    VpcAction,
)
from vipmanager.apply import (
    PASSING,
    STANDING,
    Jobs,
    RetryBook,
    apply_pod,
    apply_vpc,
    batches,
)
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model import MAIN_TABLE, PodRoute, PodRule

KEY = ("route", "rtb-1", "192.168.0.1/32")
ROUTED = ip_network("192.168.0.1/32")
ADDRESS = ip_address("192.168.0.1")


def failure(kind: ErrorKind = ErrorKind.RETRY) -> Failure:
    """A failure of this kind."""
    return Failure(kind, "ec2:CreateRoute", "Code", "text")


# Backoff -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_delays_are_drawn_from_the_whole_of_a_doubling_range_up_to_a_cap(kind: ErrorKind) -> None:
    """Full jitter (AWS Architecture Blog, "Exponential Backoff and Jitter")."""
    backoff = STANDING if kind in (ErrorKind.DENIED, ErrorKind.LIMIT, ErrorKind.INVALID) else PASSING
    for draw in (0.0, 0.5, 0.999):
        book = RetryBook(lambda draw=draw: draw)
        delays = [book.failed(KEY, failure(kind), 100.0).due - 100.0 for _ in range(12)]
        tops = [min(backoff.cap, backoff.base * 2**attempt) for attempt in range(1, 13)]
        assert delays == pytest.approx([draw * top for top in tops])
    assert tops[-1] == backoff.cap


@pytest.mark.parametrize("code", ["AuthFailure", "SignatureDoesNotMatch"])
def test_credentials_that_are_refused_are_tried_again_soon(code: str) -> None:
    """A clock that was off is right again without anybody's doing; a permission is not given so."""
    book = RetryBook(lambda: 1.0)
    refused = Failure(ErrorKind.DENIED, "ec2:CreateRoute", code, "not able to validate the provided access credentials")
    assert [book.failed(KEY, refused, 0.0).due for _ in range(12)][-1] == PASSING.cap
    assert book.standing()[KEY].standing, "an init run ends with it all the same"


def test_a_thousand_failures_do_not_overflow() -> None:
    book = RetryBook(lambda: 1.0)
    for _ in range(2000):
        retry = book.failed(KEY, failure(), 0.0)
    assert (retry.attempts, retry.due) == (2000, PASSING.cap)


def test_what_never_failed_is_due() -> None:
    book = RetryBook(lambda: 0.5)
    assert book.due(KEY, 0.0) and book.get(KEY) is None and book.next_due([KEY]) is None


def test_what_failed_is_due_again_at_its_time() -> None:
    book = RetryBook(lambda: 0.5)
    retry = book.failed(KEY, failure(), 100.0)
    assert not book.due(KEY, retry.due - 0.001) and book.due(KEY, retry.due)
    assert book.next_due([KEY, ("other",)]) == retry.due


def test_success_forgets() -> None:
    book = RetryBook(lambda: 0.5)
    book.failed(KEY, failure(), 100.0)
    book.succeeded(KEY)
    assert book.due(KEY, 100.0) and book.standing() == {}
    assert book.failed(KEY, failure(), 100.0).attempts == 1


def test_each_item_is_counted_for_itself_and_the_earliest_is_next() -> None:
    draws = iter([0.9, 0.1])
    book = RetryBook(lambda: next(draws))
    late, soon = book.failed(KEY, failure(), 100.0), book.failed(("other",), failure(), 100.0)
    assert (late.attempts, soon.attempts) == (1, 1)
    assert book.next_due([KEY, ("other",)]) == soon.due < late.due
    assert book.next_due([KEY]) == late.due


def test_what_is_no_longer_wanted_is_forgotten() -> None:
    book = RetryBook(lambda: 0.5)
    book.failed(KEY, failure(), 0.0)
    book.failed(("other",), failure(), 0.0)
    book.keep({("other",)})
    assert set(book.standing()) == {("other",)}


def test_a_throttled_call_is_no_failure_of_its_item() -> None:
    book = RetryBook(lambda: 0.5)
    throttled = Failure(ErrorKind.RETRY, "ec2:CreateRoute", "RequestLimitExceeded", "too many")
    for now in range(10):
        assert book.throttled(KEY, throttled, float(now)).attempts == 0
        assert book.due(KEY, float(now)) and not book.sole(KEY)
    assert book.failed(KEY, failure(), 10.0).attempts == 1 and book.sole(KEY)
    assert book.throttled(KEY, throttled, 20.0).attempts == 1  # what failed before is not forgotten


def test_what_is_paced_is_due_when_the_pacer_says() -> None:
    book = RetryBook(lambda: 0.5)
    book.throttled(KEY, Failure(ErrorKind.RETRY, "ec2:CreateRoute", "RequestLimitExceeded", "too many"), 10.0)
    other = book.failed(("other",), failure(), 10.0)
    due = {key: retry.due for key, retry in book.standing(30.0).items()}
    assert due == {KEY: 30.0, ("other",): other.due}
    assert book.standing()[KEY].due == 10.0


@pytest.mark.parametrize(
    ("kind", "standing"),
    [
        (ErrorKind.RETRY, False),
        (ErrorKind.RACE, False),
        (ErrorKind.LOST, False),
        (ErrorKind.DENIED, True),
        (ErrorKind.LIMIT, True),
        (ErrorKind.INVALID, True),
    ],
)
def test_what_a_repetition_will_hardly_change(kind: ErrorKind, standing: bool) -> None:
    assert RetryBook(lambda: 0.0).failed(KEY, failure(kind), 0.0).standing is standing


# Jobs ----------------------------------------------------------------------------------------------------------------


class Collector:
    """Jobs, and what they have handed back."""

    def __init__(self, workers: int = 16) -> None:
        self.bell = Bell()
        self.woken = 0
        self.jobs = Jobs(self._wake, workers)

    def _wake(self) -> None:
        self.woken += 1
        self.bell.ring()

    def results(self, count: int) -> list[object]:
        """Wait for so many results."""
        self.bell.wait(lambda: self.woken >= count)
        return self.jobs.collect()


def test_results_and_failures_come_back_with_their_keys() -> None:
    collector = Collector()

    def denied() -> None:
        raise CallError(failure(ErrorKind.DENIED))

    collector.jobs.submit((("a",),), "subject", lambda: 7)
    collector.jobs.submit((("b",), ("c",)), "other", denied)
    assert collector.jobs.running == {("a",), ("b",), ("c",)}
    done = {each.keys: each for each in collector.results(2)}  # type: ignore[attr-defined]
    assert (done[("a",),].value, done[("a",),].subject, done[("a",),].failure) == (7, "subject", None)
    assert done[("b",), ("c",)].failure == failure(ErrorKind.DENIED)
    assert collector.jobs.running == set()


def test_a_bug_comes_back_as_itself() -> None:
    collector = Collector()
    bug = ZeroDivisionError("a bug")

    def crash() -> None:
        raise bug

    collector.jobs.submit((("a",),), None, crash)
    (done,) = collector.results(1)
    assert done.crash is bug  # type: ignore[attr-defined]


def test_calls_run_at_once_and_no_more_than_the_workers() -> None:
    collector = Collector(workers=3)
    go_on, running, most, lock = threading.Event(), set[int](), [0], threading.Lock()

    def call(number: int) -> None:
        with lock:
            running.add(number)
            most[0] = max(most[0], len(running))
        collector.bell.ring()
        go_on.wait(30)
        with lock:
            running.discard(number)

    for number in range(8):
        collector.jobs.submit(((str(number),),), None, lambda number=number: call(number))
    collector.bell.wait(lambda: len(running) == 3)
    go_on.set()
    collector.bell.wait(lambda: collector.woken == 8)
    assert most == [3] and len(collector.jobs.collect()) == 8


def test_a_thread_that_is_done_is_used_again() -> None:
    collector = Collector()
    threads = set()
    for number in range(1, 6):
        collector.jobs.submit((("a",),), None, lambda: threads.add(threading.current_thread().name))
        collector.results(number)
    assert len(threads) == 1


def test_its_threads_keep_no_process_alive() -> None:
    collector = Collector()
    found: list[bool] = []
    collector.jobs.submit((("a",),), None, lambda: found.append(threading.current_thread().daemon))
    collector.results(1)
    assert found == [True]


# Batches -------------------------------------------------------------------------------------------------------------


def assign(text: str, eni: str = "eni-1") -> AssignAddress:
    """Assign an address."""
    return AssignAddress(eni, ip_address(text))


def test_addresses_of_one_eni_and_family_are_one_call() -> None:
    route = SetRoute("rtb-1", ROUTED, "eni-1", "", ADDRESS)
    release = UnassignAddress("eni-1", ip_address("10.10.1.60"), "vanished")
    actions: list[VpcAction] = [
        assign("10.10.1.50"),
        assign("10.10.1.51"),
        assign("10.10.2.50", "eni-2"),
        assign("2600:1f14:0:1::50"),
        release,
        route,
        DisableSourceDestCheck("eni-1"),
    ]
    assert sorted(map(len, batches(actions, lambda _: False))) == [1, 1, 1, 1, 1, 2]
    assert (assign("10.10.1.50"), assign("10.10.1.51")) in batches(actions, lambda _: False)


def test_what_failed_before_goes_alone() -> None:
    """One address that EC2 refuses must not keep the others from being assigned: a call is all or none."""
    actions = [assign("10.10.1.50"), assign("10.10.1.51"), assign("10.10.1.52")]
    found = batches(actions, lambda key: key == actions[1].key)
    assert sorted(found, key=len) == [(actions[1],), (actions[0], actions[2])]


def test_routes_never_share_a_call() -> None:
    actions = [SetRoute(f"rtb-{number}", ROUTED, "eni-1", "", ADDRESS) for number in range(5)]
    assert batches(actions, lambda _: False) == [(action,) for action in actions]


# EC2 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ec2() -> FakeEc2:
    made = FakeEc2()
    made.add_vpc(VPC, "10.10.0.0/16", "2600:1f14::/56")
    made.add_subnet("subnet-1", "10.10.1.0/24", "2600:1f14:0:1::/64")
    for number in (1, 2):
        made.add_eni(f"eni-{number}", f"02:00:00:00:00:0{number}", number, "subnet-1", f"10.10.1.1{number}")
    made.add_table("rtb-1")
    return made


def verbs(ec2: FakeEc2) -> list[str]:
    """The calls that were made."""
    return [call.operation for call in ec2.faults.calls]


@pytest.mark.parametrize(("replaces", "verb"), [("", "create_route"), ("eni-2", "replace_route")])
def test_the_verb_that_fits_what_was_seen(ec2: FakeEc2, replaces: str, verb: str) -> None:
    if replaces:
        ec2.put_route("rtb-1", str(ROUTED), replaces)
    apply_vpc(ec2, [SetRoute("rtb-1", ROUTED, "eni-1", replaces, ADDRESS)])
    assert ec2.targets(str(ROUTED)) == {"rtb-1": "eni-1"}
    assert verbs(ec2) == [verb]


def test_a_route_that_appeared_is_replaced_and_one_that_vanished_is_created(ec2: FakeEc2) -> None:
    ec2.put_route("rtb-1", str(ROUTED), "eni-2")
    apply_vpc(ec2, [SetRoute("rtb-1", ROUTED, "eni-1", "", ADDRESS)])
    assert ec2.targets(str(ROUTED)) == {"rtb-1": "eni-1"}
    ec2.drop_route("rtb-1", str(ROUTED))
    apply_vpc(ec2, [SetRoute("rtb-1", ROUTED, "eni-1", "eni-2", ADDRESS)])
    assert ec2.targets(str(ROUTED)) == {"rtb-1": "eni-1"}
    assert verbs(ec2) == ["create_route", "replace_route", "replace_route", "create_route"]


def test_a_route_that_appeared_is_left_alone_where_it_may_be_a_takers(ec2: FakeEc2) -> None:
    ec2.put_route("rtb-1", str(ROUTED), "eni-2")
    with pytest.raises(CallError) as caught:
        apply_vpc(ec2, [SetRoute("rtb-1", ROUTED, "eni-1", "", ADDRESS, unless_there=True)])
    assert (caught.value.kind, ec2.targets(str(ROUTED))) == (ErrorKind.RACE, {"rtb-1": "eni-2"})


def test_the_other_verb_is_tried_once_only(ec2: FakeEc2) -> None:
    for verb in ("create_route", "replace_route"):
        ec2.faults.fail(verb, ErrorKind.RACE, times=None)
    with pytest.raises(CallError) as caught:
        apply_vpc(ec2, [SetRoute("rtb-1", ROUTED, "eni-1", "", ADDRESS)])
    assert caught.value.kind is ErrorKind.RACE
    assert verbs(ec2) == ["create_route", "replace_route"]


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if kind is not ErrorKind.RACE])
def test_another_failure_never_falls_through_to_the_other_verb(ec2: FakeEc2, kind: ErrorKind) -> None:
    """Their fault: any replace error fell through to create, whose "already exists" was swallowed."""
    ec2.put_route("rtb-1", str(ROUTED), "eni-2")
    ec2.faults.fail("replace_route", kind)
    with pytest.raises(CallError) as caught:
        apply_vpc(ec2, [SetRoute("rtb-1", ROUTED, "eni-1", "eni-2", ADDRESS)])
    assert caught.value.kind is kind
    assert verbs(ec2) == ["replace_route"]


def test_the_other_writes(ec2: FakeEc2) -> None:
    own, own2 = ip_address("10.10.1.50"), ip_address("10.10.1.51")
    apply_vpc(ec2, [AssignAddress("eni-1", own), AssignAddress("eni-1", own2)])
    assert (ec2.holder(str(own)), ec2.holder(str(own2))) == ("eni-1", "eni-1")
    apply_vpc(ec2, [UnassignAddress("eni-1", own, "vanished")])
    assert (ec2.holder(str(own)), ec2.holder(str(own2))) == (None, "eni-1")
    apply_vpc(ec2, [DisableSourceDestCheck("eni-1")])
    assert not ec2.state.enis["eni-1"].source_dest_check
    ec2.put_route("rtb-1", str(ROUTED), "eni-1")
    apply_vpc(ec2, [DeleteRoute("rtb-1", ROUTED, "eni-1", ADDRESS)])
    assert ec2.targets(str(ROUTED)) == {"rtb-1": None}
    assert len(verbs(ec2)) == 4


def test_an_elastic_ip_is_bound_from_wherever_it_is_in_one_call(ec2: FakeEc2) -> None:
    own = IPv4Address("10.10.1.50")
    ec2.add_eip("eipalloc-1", "3.3.3.3", "eni-1", "10.10.1.10")
    apply_vpc(ec2, [AssignAddress("eni-1", own)])
    apply_vpc(ec2, [AssociateEip("eipalloc-1", "eni-1", own)])
    assert (ec2.state.eips["eipalloc-1"].eni_id, ec2.state.eips["eipalloc-1"].address) == ("eni-1", own)
    assert verbs(ec2) == ["assign", "associate"]


def test_elastic_ips_are_calls_of_their_own() -> None:
    binds = [AssociateEip(f"eipalloc-{n}", "eni-1", IPv4Address(f"10.10.1.5{n}")) for n in range(2)]
    assigns = [AssignAddress("eni-1", bind.address) for bind in binds]
    assert batches([*assigns, *binds], alone=lambda _: False) == [tuple(assigns), *((bind,) for bind in binds)]


# The pod -------------------------------------------------------------------------------------------------------------


def test_the_pods_side() -> None:
    netlink = FakeNetlink()
    netlink.add("net1", "02:00:00:00:00:01")
    route = PodRoute(MAIN_TABLE, "10.0.0.0/8", "10.10.1.1", netlink.index("net1"))
    rule = PodRule("192.168.0.1/32", 101)
    apply_pod(netlink, SetPodRoute(route))
    apply_pod(netlink, AddPodRule(rule))
    assert (netlink.routes(), netlink.rules()) == ({route}, {rule})
    apply_pod(netlink, DeletePodRoute(route))
    apply_pod(netlink, DeletePodRule(rule))
    assert (netlink.routes(), netlink.rules()) == (set(), set())
    netlink.close()
