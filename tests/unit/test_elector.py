"""The elector's threads against leases in memory; what they decide is tested in test_election.py.

Time is the machine's, put forward where a test would have to wait, and settings are long, so that nothing ends by
itself while the machine is busy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.doubles.clock import SkewedClock, until
from tests.doubles.leases import FakeLeases, LeaseStore
from vipmanager.config import Config
from vipmanager.elector import Elector
from vipmanager.errors import ErrorKind
from vipmanager.model_node import Lease, Tenure

CONFIG = Config(lease_duration=120, renew_deadline=90.0, retry_period=30.0)
BRISK = Config(lease_duration=60, renew_deadline=40.0, retry_period=0.05)


@dataclass
class Node:
    """An elector, its client and its clock."""

    name: str
    leases: FakeLeases
    clock: SkewedClock
    elector: Elector
    wakes: list[Tenure] = field(default_factory=list)
    nudges: int = 0

    def advance(self, seconds: float) -> None:
        """Put its clock forward, and let it look at it."""
        self.clock.advance(seconds)
        self.nudges += 1
        self.elector.set_health(True, f"at {self.nudges}")

    def leads(self) -> bool:
        """As the main loop sees it."""
        tenure = self.elector.tenure()
        return tenure.leading and self.clock() < tenure.until


Start = Callable[..., Node]


@pytest.fixture
def store() -> LeaseStore:
    return LeaseStore()


@pytest.fixture
def start(store: LeaseStore) -> Iterator[Start]:
    """Start an elector: name, and settings; everything is stopped at the end."""
    nodes: list[Node] = []

    def begin(name: str, config: Config = CONFIG, *, timeout: float = 0.05, run: bool = True) -> Node:
        leases, clock, wakes = FakeLeases(store, timeout=timeout), SkewedClock(), list[Tenure]()

        def wake() -> None:
            wakes.append(elector._tenure)

        elector = Elector(leases, config, name, clock, lambda: 1000.0, wake, draw=lambda: 0.0)
        nodes.append(Node(name, leases, clock, elector, wakes))
        if run:
            elector.start()
        return nodes[-1]

    yield begin
    for node in nodes:
        node.elector.stop()
        node.leases.faults.clear()
        node.leases.restore()


def standby_of(start: Start, holder: Node, name: str = "node-b", config: Config = CONFIG) -> Node:
    """A second node that knows who holds and watches the lease."""
    until(holder.leads)
    node = start(name, config)
    until(lambda: node.elector.tenure().holder == holder.name and node.leases.watching == 1)
    return node


def test_a_lease_that_nobody_has_is_taken_and_the_main_loop_woken(start: Start, store: LeaseStore) -> None:
    """The published state says why."""
    node = start("node-a")
    until(node.leads)
    until(lambda: any(tenure.leading for tenure in node.wakes))
    tenure = node.elector.tenure()
    assert (tenure.holder, tenure.why, tenure.since) == ("node-a", "no lease was there", 1000.0)
    assert tenure.until == tenure.renewed_at + 90.0
    assert store.lease is not None and store.lease.holder == "node-a"


def test_of_two_that_start_at_once_one_leads(start: Start, store: LeaseStore) -> None:
    """Both find none."""
    nodes = [start("node-a", run=False), start("node-b", run=False)]
    hold = [node.leases.faults.hang("create") for node in nodes]
    for node in nodes:
        node.elector.start()
    until(lambda: all(node.leases.faults.named("create") for node in nodes))
    for go_on in hold:
        go_on.set()
    until(lambda: all(node.elector.tenure().holder for node in nodes))
    assert [node.leads() for node in nodes].count(True) == 1


def test_a_holder_renews_and_tells_the_main_loop_each_time(start: Start) -> None:
    """Which extends the lifetimes of the addresses."""
    node = start("node-a", BRISK)
    until(lambda: len({tenure.renewed_at for tenure in node.wakes if tenure.leading}) >= 4)
    assert len({tenure.began for tenure in node.wakes if tenure.leading}) == 1


def test_a_standby_calls_nothing_while_it_sees_the_holder_renew(start: Start, store: LeaseStore) -> None:
    """It reads once and watches."""
    holder = start("node-a", Config(lease_duration=60, renew_deadline=40.0, retry_period=0.05))
    standby = standby_of(start, holder)
    at = store.revision
    until(lambda: store.revision > at + 20)
    assert [call.operation for call in standby.leases.faults.named()].count("read") == 1
    assert not standby.leases.faults.named("update", "create")
    assert standby.elector.tenure().holder == "node-a"


def test_told_to_stop_the_holder_hands_over_at_once_and_says_when_that_is_stored(
    start: Start, store: LeaseStore
) -> None:
    """The standby sees it through its watch; the one that left does not come back."""
    holder = start("node-a")
    standby = standby_of(start, holder)
    assert not holder.elector.released()
    go_on = holder.leases.faults.hang("update")
    holder.elector.resign("told to stop", for_good=True)
    assert not holder.elector.tenure().leading
    until(lambda: bool(holder.leases.faults.named("update")))
    assert not holder.elector.released()
    wakes = len(holder.wakes)
    go_on.set()
    until(lambda: holder.elector.released() and len(holder.wakes) > wakes)
    until(standby.leads)
    assert standby.elector.tenure().why == "node-a released it"
    standby.elector.resign("told to stop", for_good=True)
    until(standby.elector.released)
    until(lambda: holder.elector.tenure().holder == "" and holder.elector.released())
    assert store.lease is not None and store.lease.holder == ""


def test_the_lease_of_a_silent_holder_is_taken_when_it_has_expired(start: Start) -> None:
    """And the holder has stopped before, and says why."""
    holder = start("node-a")
    standby = standby_of(start, holder)
    holder.leases.hang()
    holder.advance(91.0)
    until(lambda: not holder.elector.tenure().leading)
    until(lambda: "ReadTimeoutError" in holder.elector.tenure().why)
    assert holder.elector.tenure().why.startswith("could not renew for 90 s")
    standby.advance(121.0)
    until(standby.leads)
    assert standby.elector.tenure().why.startswith("took over from node-a: its lease expired")
    holder.leases.restore()
    until(lambda: holder.elector.tenure().holder == "node-b")
    assert not holder.leads()


def test_a_call_that_hangs_does_not_hold_up_what_is_published(start: Start) -> None:
    """Health, events and resignations are taken in meanwhile."""
    holder = start("node-a")
    until(holder.leads)
    tenure = holder.elector.tenure()
    go_on = holder.leases.faults.hang("update")
    holder.elector.set_health(False, "sick")
    until(lambda: bool(holder.leases.faults.named("update")))
    assert holder.elector.tenure().until == tenure.until
    holder.elector.resign("told to stop", for_good=True)
    assert not holder.elector.tenure().leading and not holder.elector.released()
    go_on.set()
    until(holder.elector.released)


def test_an_unhealthy_holder_yields_to_a_healthy_standby(start: Start, store: LeaseStore) -> None:
    """It offers, the standby asks, the main loop vacates and resigns, the standby takes it."""
    holder = start("node-a")
    standby = standby_of(start, holder)
    holder.elector.set_health(False, "no answer on 30007")
    until(lambda: holder.elector.tenure().yielding_to == "node-b")
    assert holder.leads()
    holder.elector.resign("vacated")
    until(standby.leads)
    until(lambda: holder.elector.tenure().holder == "node-b")
    assert store.lease is not None
    assert (store.lease.offered, store.lease.wanted_by) == ("", "")
    assert any(tenure.why == "yielded to node-b: no answer on 30007" for tenure in holder.wakes)


def test_a_watch_that_broke_is_begun_again(start: Start, store: LeaseStore) -> None:
    """What happened meanwhile is not lost."""
    holder = start("node-a")
    standby = standby_of(start, holder)
    standby.leases.refuse()
    until(lambda: standby.leases.watching == 0)
    holder.elector.resign("told to stop", for_good=True)
    until(holder.elector.released)
    standby.leases.restore()
    until(standby.leads)


def test_without_a_watch_the_lease_is_read(start: Start) -> None:
    """Two RetryPeriods after anything was heard; watching may be forbidden."""
    holder = start("node-a")
    until(holder.leads)
    standby = start("node-b", run=False)
    standby.leases.faults.fail("watch", ErrorKind.DENIED, times=None)
    standby.elector.start()
    until(lambda: standby.elector.tenure().holder == "node-a")
    holder.elector.resign("told to stop", for_good=True)
    until(holder.elector.released)
    standby.advance(61.0)
    until(standby.leads)


def test_a_restarted_process_has_what_its_predecessor_had(start: Start) -> None:
    """The same pod name: nobody took it in between."""
    first = start("node-a")
    until(first.leads)
    first.elector.stop()
    second = start("node-a")
    until(second.leads)
    assert second.elector.tenure().why == "was ours already (restart)"
    assert second.elector.tenure().transitions == 0


def test_a_stopped_elector_calls_no_more(start: Start, store: LeaseStore) -> None:
    """What comes through a watch that is still open changes nothing either."""
    node = start("node-a", BRISK)
    other = standby_of(start, node)
    other.elector.stop()
    calls = len(other.leases.faults.named())
    at = store.revision
    until(lambda: store.revision > at + 5)
    assert len(other.leases.faults.named()) == calls


@pytest.mark.parametrize("operation", ["read", "watch"])
def test_what_a_thread_dies_of_is_raised_in_the_main_loop(start: Start, operation: str) -> None:
    """Without an elector an address would stay for ever."""
    node = start("node-a", run=False)
    node.leases.faults.crash(operation, ZeroDivisionError("a bug"))
    node.elector.start()

    def raised() -> bool:
        try:
            node.elector.tenure()
        except ZeroDivisionError:
            return True
        return False

    until(raised)
    until(lambda: bool(node.wakes))


# Logs ----------------------------------------------------------------------------------------------------------------


def records(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    """The events of this name so far."""
    return [record for record in list(caplog.records) if record.getMessage() == name]


def fact(record: logging.LogRecord, name: str) -> str:
    """One fact of an event."""
    return str(record.__dict__["facts"].get(name, ""))


def test_a_hand_over_is_told_on_both_nodes(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO, with the reasons."""
    caplog.set_level(logging.INFO, "vipmanager.elector")
    holder = start("node-a")
    standby = standby_of(start, holder)
    holder.elector.resign("told to stop", for_good=True)
    until(standby.leads)
    until(lambda: len(records(caplog, "lease taken")) == 2)
    assert [fact(each, "why") for each in records(caplog, "lease released")] == ["handed over: told to stop"]
    assert [fact(each, "why") for each in records(caplog, "lease taken")] == [
        "no lease was there",
        "node-a released it",
    ]
    assert not records(caplog, "lease lost")


def test_a_failing_call_is_a_warning_once_until_it_works_again(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is repeated."""
    caplog.set_level(logging.INFO, "vipmanager.elector")
    node = start("node-a", BRISK, run=False)
    node.leases.faults.fail("read", code="Timeout", times=5)
    node.elector.start()
    until(node.leads)
    until(lambda: bool(records(caplog, "lease calls work again")))
    failed = records(caplog, "lease call failed")
    assert [(each.levelno, fact(each, "code")) for each in failed] == [(logging.WARNING, "Timeout")]


def test_what_is_denied_is_an_error_that_is_repeated_seldom(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """With what changes it."""
    caplog.set_level(logging.INFO, "vipmanager.elector")
    node = start("node-a", BRISK, run=False)
    node.leases.faults.fail("read", ErrorKind.DENIED, code="Forbidden", times=None)
    node.elector.start()
    until(lambda: len(node.leases.faults.named("read")) >= 4)
    assert [each.levelno for each in records(caplog, "lease call failed")] == [logging.ERROR]
    node.advance(31.0)
    until(lambda: len(records(caplog, "lease call failed")) == 2)


def test_a_foreign_take_over_is_a_loss(start: Start, store: LeaseStore, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody wrote the lease while it was ours."""
    caplog.set_level(logging.INFO, "vipmanager.elector")
    node = start("node-a")
    until(lambda: node.leads() and node.leases.watching == 1)
    store.put(Lease("node-z", 6, renewed="now", transitions=7))
    until(lambda: bool(records(caplog, "lease lost")))
    assert fact(records(caplog, "lease lost")[0], "holder") == "node-z"
    assert not node.elector.tenure().leading
