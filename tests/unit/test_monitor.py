"""What the outside sees: a loop that is idle is alive and one that is stuck is not; times; convergence; the age."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from tests.doubles.clock import BOUND, SkewedClock, StillClock, until
from tests.unit.node_process import Statuses
from vipmanager.metrics import Histogram, Metrics
from vipmanager.monitor import FLAP_AFTER, FLAP_WITHIN, FRESH, REMEMBERED, Monitor
from vipmanager.watch import Watch

ONE, TWO = ip_address("192.168.0.1"), ip_address("192.168.0.2")


class Loop:
    """A thread that waits and beats, as the agents' loops do."""

    def __init__(self, monitor: Monitor, watch: Watch) -> None:
        self._monitor, self._watch = monitor, watch
        self.go_on = threading.Event()
        self.go_on.set()
        self._stopping = False
        self.rounds = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            self._monitor.beat()
            self.rounds += 1
            self.go_on.wait()
            self._monitor.rest()
            self._watch.wait(None)

    def stop(self) -> None:
        """End it."""
        self._stopping = True
        self.go_on.set()
        self._watch.wake()
        self._thread.join(BOUND)


@pytest.fixture
def clock() -> SkewedClock:
    return SkewedClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def monitor(clock: SkewedClock, metrics: Metrics) -> Monitor:
    return Monitor("sidecar", clock=clock, metrics=metrics)


@pytest.fixture
def loop(monitor: Monitor, clock: SkewedClock) -> Iterator[Loop]:
    ours, theirs = socket.socketpair()
    watch = Watch(ours, clock)
    monitor.attach(watch)
    made = Loop(monitor, watch)
    yield made
    made.stop()
    watch.close()
    theirs.close()


def value(metrics: Metrics, name: str) -> Any:
    """The value of a metric without labels."""
    return metrics.snapshot().get(name, {}).get(())


class TestAlive:
    """The heartbeat."""

    def test_a_fresh_beat_is_enough(self, monitor: Monitor, loop: Loop) -> None:
        until(lambda: loop.rounds == 1)
        assert monitor.alive(0.0)
        assert loop.rounds == 1

    def test_an_idle_loop_is_woken_and_answers(self, monitor: Monitor, loop: Loop, clock: SkewedClock) -> None:
        until(lambda: loop.rounds == 1)
        clock.advance(FRESH * 100)
        assert monitor.alive(BOUND)
        assert loop.rounds == 2
        assert monitor.alive(0.0)
        assert loop.rounds == 2

    def test_a_stuck_loop_is_not_alive_until_it_goes_on(
        self, monitor: Monitor, loop: Loop, clock: SkewedClock, metrics: Metrics
    ) -> None:
        until(lambda: loop.rounds == 1)
        loop.go_on.clear()
        clock.advance(FRESH)
        assert monitor.alive(BOUND)  # the beat that begins the round in which it is stuck
        clock.advance(FRESH)
        assert not monitor.alive(0.05)
        assert value(metrics, "vipmanager_loop_age_seconds") >= FRESH
        loop.go_on.set()
        assert monitor.alive(BOUND)

    def test_several_may_ask(self, monitor: Monitor, loop: Loop, clock: SkewedClock) -> None:
        until(lambda: loop.rounds == 1)
        clock.advance(FRESH)
        found: list[bool] = []
        threads = [threading.Thread(target=lambda: found.append(monitor.alive(BOUND))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert found == [True] * 8

    def test_a_loop_that_waits_is_of_no_age(
        self, monitor: Monitor, loop: Loop, clock: SkewedClock, metrics: Metrics
    ) -> None:
        until(lambda: loop.rounds == 1 and monitor._resting)
        clock.advance(1000.0)
        assert value(metrics, "vipmanager_loop_age_seconds") == 0.0


class TestReadiness:
    """`ready`, `hidden` and the file."""

    def test_it_is_what_the_last_round_said(self, monitor: Monitor, metrics: Metrics) -> None:
        assert monitor.ready() == (False, "starting")
        monitor.publish({}, "", {ONE})
        assert monitor.ready() == (True, "")
        assert monitor.hidden() == {ONE}
        assert value(metrics, "vipmanager_ready") == 1
        monitor.publish({}, "192.168.0.1 is pending", ())
        assert monitor.ready() == (False, "192.168.0.1 is pending")
        assert monitor.hidden() == frozenset()
        assert value(metrics, "vipmanager_ready") == 0

    def test_a_node_hides_its_addresses_from_the_start(self) -> None:
        assert Monitor("nodeport", hidden=[ONE]).hidden() == {ONE}

    def test_the_file_has_the_verdict_and_the_end(self) -> None:
        file = Statuses()
        monitor = Monitor("init", file=file)  # type: ignore[arg-type]
        monitor.publish({"addresses": []}, "", ())
        known = {"mode": "init", "addresses": [], "ready": True, "not_ready": ""}
        assert file.last == {**known, "result": ""}
        monitor.ended("ok")
        assert file.last == {**known, "result": "ok"}
        monitor.ended("stopped")
        assert file.last == {**known, "ready": False, "not_ready": "stopped", "result": "stopped"}

    def test_the_file_says_where_it_is_served_with_the_next_round_or_when_the_loop_is_woken(self) -> None:
        file = Statuses()
        monitor = Monitor("sidecar", file=file)  # type: ignore[arg-type]
        monitor.serves("127.0.0.1:1")
        monitor.beat()
        assert file.last == {}, "before there is anything to say"
        monitor.publish({"addresses": []}, "", ())
        assert file.last["serves"] == "127.0.0.1:1"
        monitor.serves("127.0.0.1:2")
        monitor.beat()
        assert file.last["serves"] == "127.0.0.1:2"

    @pytest.mark.parametrize(("mode", "warned"), [("sidecar", 1), ("nodeport", 1), ("init", 0)])
    def test_a_file_that_cannot_be_written_is_said_once(
        self, caplog: pytest.LogCaptureFixture, mode: str, warned: int
    ) -> None:
        caplog.set_level(logging.DEBUG, "vipmanager")
        file = Statuses()
        file.problem = "read-only"
        monitor = Monitor(mode, file=file)  # type: ignore[arg-type]
        for _ in range(3):
            monitor.publish({}, "", ())
        assert [record.getMessage() for record in caplog.records] == ["status not written"]
        assert sum(record.levelno >= logging.WARNING for record in caplog.records) == warned


class TestTimes:
    """What must not change by time passing alone."""

    def test_a_time_to_come_stays_the_same_until_the_clock_is_set(self) -> None:
        clock, wall = StillClock(100.0), StillClock(1_000_000.0)
        monitor = Monitor("sidecar", clock=clock, wall=wall)
        due = monitor.unix(130.0)
        assert due == 1_000_030.0
        clock.advance(10.0)
        wall.advance(10.4)  # the two drift a little
        assert monitor.unix(130.0) == due
        wall.advance(3600.0)
        assert monitor.unix(130.0) == due + 3600.4

    def test_since_is_the_last_change_of_state(self) -> None:
        wall = StillClock(1000.0)
        monitor = Monitor("sidecar", wall=wall)
        assert monitor.since({"a": "pending", "b": "claimed"}) == {"a": 1000.0, "b": 1000.0}
        wall.advance(5.0)
        assert monitor.since({"a": "claimed", "b": "claimed"}) == {"a": 1005.0, "b": 1000.0}
        assert monitor.since({"a": "claimed"}) == {"a": 1005.0}
        wall.advance(5.0)
        assert monitor.since({"a": "claimed", "b": "claimed"}) == {"a": 1005.0, "b": 1010.0}


class TestMeasures:
    """Convergence, and the age of the comparison with EC2."""

    @pytest.fixture
    def still(self) -> StillClock:
        return StillClock()

    @pytest.fixture
    def monitor(self, still: StillClock, metrics: Metrics) -> Monitor:
        return Monitor("sidecar", clock=still, metrics=metrics)

    def converged(self, metrics: Metrics) -> tuple[int, float]:
        """How often, and in how many seconds together."""
        found = value(metrics, "vipmanager_convergence_seconds") or Histogram((), 0.0, 0)
        return found.count, found.sum

    def test_it_is_from_where_there_was_something_to_do(
        self, monitor: Monitor, metrics: Metrics, still: StillClock
    ) -> None:
        monitor.progress(under_way=False, began=still())
        assert self.converged(metrics) == (0, 0.0)
        monitor.progress(under_way=True, began=still())
        still.advance(2.0)
        monitor.progress(under_way=True, began=still())
        still.advance(1.0)
        monitor.progress(under_way=False, began=still())
        assert self.converged(metrics) == (1, 3.0)
        monitor.progress(under_way=False, began=still())
        assert self.converged(metrics) == (1, 3.0)

    def test_it_begins_with_the_kernels_event(self, monitor: Monitor, metrics: Metrics, still: StillClock) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        watch = Watch(ours, still)
        monitor.attach(watch)
        theirs.send(b"changed")
        assert watch.wait(None)
        still.advance(0.5)
        monitor.progress(under_way=True, began=still())
        still.advance(1.0)
        monitor.progress(under_way=False, began=still())
        assert self.converged(metrics) == (1, 1.5)
        assert watch.heard is None
        watch.close()
        theirs.close()

    def test_a_scraper_that_comes_before_it_sees_it_begin_at_zero(self, monitor: Monitor, metrics: Metrics) -> None:
        for name in ("claims", "concessions", "flaps", "drift"):
            assert value(metrics, f"vipmanager_{name}_total") == 0, name
        assert value(metrics, "vipmanager_convergence_seconds").count == 0
        assert value(metrics, "vipmanager_slowest_convergence_seconds") == 0.0

    def converge(self, monitor: Monitor, still: StillClock, seconds: float) -> None:
        monitor.progress(under_way=True, began=still())
        still.advance(seconds)
        monitor.progress(under_way=False, began=still())

    def test_the_slowest_is_remembered_for_a_while(self, monitor: Monitor, metrics: Metrics, still: StillClock) -> None:
        """Most are over before a scraper comes: it sees them nevertheless."""

        def slowest() -> float:
            found: float = value(metrics, "vipmanager_slowest_convergence_seconds")
            return found

        self.converge(monitor, still, 12.0)
        for seconds in (1.0, 3.0, 2.0):
            self.converge(monitor, still, seconds)
        assert slowest() == 12.0
        still.advance(REMEMBERED - 6.0)
        assert slowest() == 3.0
        still.advance(4.0)
        assert slowest() == 2.0
        self.converge(monitor, still, 0.5)
        assert slowest() == 2.0
        still.advance(2.0)
        assert slowest() == 0.5
        still.advance(REMEMBERED)
        assert slowest() == 0.0

    def flaps(self, metrics: Metrics) -> float:
        found: float = value(metrics, "vipmanager_flaps_total")
        return found

    def test_many_addresses_that_move_to_and_fro_once_do_not_flap(
        self, monitor: Monitor, metrics: Metrics, still: StillClock
    ) -> None:
        many = [ip_address(f"192.168.0.{number}") for number in range(1, 7)]
        for _ in range(2):
            for address in many:
                monitor.claimed(address)
            still.advance(60.0)
        assert value(metrics, "vipmanager_claims_total") == 12
        assert self.flaps(metrics) == 0

    def test_an_address_that_is_claimed_again_and_again_flaps(
        self, monitor: Monitor, metrics: Metrics, still: StillClock
    ) -> None:
        monitor.claimed(TWO)
        for claim in range(1, 7):
            monitor.claimed(ONE)
            assert self.flaps(metrics) == max(0, claim - FLAP_AFTER)
            still.advance(30.0)
        still.advance(FLAP_WITHIN)
        monitor.claimed(ONE)
        monitor.claimed(TWO)
        assert self.flaps(metrics) == 3

    def test_claims_now_and_then_do_not_flap(self, monitor: Monitor, metrics: Metrics, still: StillClock) -> None:
        for _ in range(20):
            monitor.claimed(ONE)
            still.advance(FLAP_WITHIN / FLAP_AFTER)
        assert value(metrics, "vipmanager_claims_total") == 20
        assert self.flaps(metrics) == 0
        assert len(monitor._claims) <= FLAP_AFTER

    def test_without_metrics_nothing_is_kept(self, still: StillClock) -> None:
        monitor = Monitor("init", clock=still)
        monitor.claimed(ONE)
        self.converge(monitor, still, 1.0)
        assert not monitor._claims and not monitor._slow

    def test_the_age_is_since_all_facts_were_answered(
        self, monitor: Monitor, metrics: Metrics, still: StillClock
    ) -> None:
        age = "vipmanager_resync_age_seconds"
        assert value(metrics, age) is None
        monitor.compare(("TABLES", "STATES"))
        still.advance(2.0)
        monitor.compared("TABLES")
        assert value(metrics, age) == 2.0
        monitor.compared("EIPS")
        monitor.compared("STATES")
        still.advance(3.0)
        assert value(metrics, age) == 3.0
        monitor.compare(("TABLES", "STATES"))  # a resync of which one half fails
        monitor.compared("STATES")
        still.advance(1.0)
        monitor.compare(("TABLES", "STATES"))
        monitor.compared("STATES")
        assert value(metrics, age) == 4.0
        monitor.compare(())
        assert value(metrics, age) is None


class TestEvents:
    """The sink is optional."""

    def test_it_is_told(self) -> None:
        told: list[tuple[str, str, bool]] = []

        class Sink:
            def emit(self, reason: str, message: str, *, warning: bool, about: str = "") -> None:
                told.append((reason, message, warning))

        Monitor("sidecar", sink=Sink()).emit("Claimed", "it", warning=False)
        Monitor("sidecar").emit("Claimed", "nobody hears it")
        assert told == [("Claimed", "it", False)]
