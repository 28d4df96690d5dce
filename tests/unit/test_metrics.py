"""Tallies that any thread may add to, and the table of them."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vipmanager.clients.ec2_calls import counter
from vipmanager.metrics import BUCKETS, COUNTER, HISTOGRAM, METRICS, MOST_SERIES, OTHER, Histogram, Metrics

CALLS, SECONDS = "vipmanager_ec2_calls_total", "vipmanager_ec2_call_seconds"


def test_the_table_follows_the_conventions() -> None:
    """prometheus.io/docs/practices/naming: a prefix, base units, `_total` for counters."""
    for metric in METRICS:
        assert re.fullmatch(r"vipmanager_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == COUNTER)
        assert metric.kind != HISTOGRAM or metric.name.endswith("_seconds")
        assert metric.help.endswith(".")
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert list(BUCKETS) == sorted(BUCKETS)


def test_what_was_put_in_is_in_the_snapshot_in_the_tables_order() -> None:
    metrics = Metrics()
    metrics.add(CALLS, operation="CreateRoute", code="ok")
    metrics.add(CALLS, 2, code="ok", operation="CreateRoute")
    metrics.set("vipmanager_ready", 1)
    metrics.set("vipmanager_ready", 0)
    metrics.replace("vipmanager_addresses", {("claimed", "host-route"): 2, ("pending", "none"): 1})
    metrics.replace("vipmanager_addresses", {("claimed", "host-route"): 3})
    assert metrics.snapshot() == {
        "vipmanager_addresses": {("claimed", "host-route"): 3},
        "vipmanager_ready": {(): 0},
        CALLS: {("CreateRoute", "ok"): 3},
    }
    names = [metric.name for metric in METRICS]
    assert list(metrics.snapshot()) == sorted(metrics.snapshot(), key=names.index)


def test_a_histogram_is_cumulative_and_a_bound_belongs_to_its_bucket() -> None:
    metrics = Metrics()
    for seconds in (BUCKETS[0], BUCKETS[0] + 0.001, BUCKETS[-1] + 1.0):
        metrics.observe("vipmanager_convergence_seconds", seconds)
    found = metrics.snapshot()["vipmanager_convergence_seconds"][()]
    assert isinstance(found, Histogram)
    assert found.buckets == (1, *(2 for _ in BUCKETS[1:]))
    assert found.count == 3
    assert found.sum == pytest.approx(BUCKETS[0] * 2 + BUCKETS[-1] + 1.001)


def test_a_snapshot_does_not_change_afterwards() -> None:
    metrics = Metrics()
    metrics.add("vipmanager_claims_total")
    metrics.observe(SECONDS, 1.0, operation="CreateRoute")
    before = metrics.snapshot()
    metrics.add("vipmanager_claims_total")
    metrics.observe(SECONDS, 1.0, operation="CreateRoute")
    assert before["vipmanager_claims_total"] == {(): 1}
    assert before[SECONDS] != metrics.snapshot()[SECONDS]


def test_what_begins_is_there_at_zero_and_begins_once() -> None:
    """A scraper sees no increase in what a series begins with."""
    metrics = Metrics()
    metrics.begin("vipmanager_convergence_seconds")
    metrics.begin("vipmanager_claims_total")
    zero = Histogram((0,) * len(BUCKETS), 0.0, 0)
    assert metrics.snapshot() == {"vipmanager_convergence_seconds": {(): zero}, "vipmanager_claims_total": {(): 0}}
    metrics.observe("vipmanager_convergence_seconds", 1.0)
    metrics.add("vipmanager_claims_total")
    metrics.begin("vipmanager_convergence_seconds")
    metrics.begin("vipmanager_claims_total")
    found = metrics.snapshot()
    assert found["vipmanager_claims_total"] == {(): 1}
    assert found["vipmanager_convergence_seconds"][()].count == 1  # type: ignore[union-attr]


def test_what_is_computed_may_have_labels() -> None:
    metrics = Metrics()
    metrics.compute("vipmanager_lease_renewal_age_seconds", lambda: 2.0, lease="core/sip")
    assert metrics.snapshot() == {"vipmanager_lease_renewal_age_seconds": {("core/sip",): 2.0}}
    with pytest.raises(KeyError):
        metrics.compute("vipmanager_lease_renewal_age_seconds", lambda: 2.0)


def test_what_is_computed_is_asked_each_time_and_may_be_absent() -> None:
    metrics, ages = Metrics(), iter((1.0, None, 3.0))
    metrics.compute("vipmanager_resync_age_seconds", lambda: next(ages))
    assert metrics.snapshot() == {"vipmanager_resync_age_seconds": {(): 1.0}}
    assert metrics.snapshot() == {}
    assert metrics.snapshot() == {"vipmanager_resync_age_seconds": {(): 3.0}}


@pytest.mark.parametrize("labels", [{}, {"operation": "CreateRoute"}, {"operation": "a", "status": "b"}])
def test_wrong_labels_are_a_mistake_of_ours(labels: dict[str, str]) -> None:
    with pytest.raises(KeyError):
        Metrics().add(CALLS, **labels)


def test_an_unknown_name_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        Metrics().replace("vipmanager_nothing", {})


def test_labels_that_come_from_outside_cannot_fill_memory() -> None:
    metrics = Metrics()
    for number in range(MOST_SERIES * 3):
        metrics.add(CALLS, operation="CreateRoute", code=f"Code{number}")
    found = metrics.snapshot()[CALLS]
    assert len(found) == MOST_SERIES + 1
    assert found[OTHER, OTHER] == MOST_SERIES * 2


def test_threads_lose_nothing() -> None:
    """EC2's workers count while a scrape reads."""
    metrics, begin = Metrics(), threading.Barrier(5)
    observe = counter(metrics)

    def work(number: int) -> None:
        begin.wait()
        for turn in range(500):
            observe("CreateRoute", "Throttling" if turn % 2 else "ok", 0.001 * number)

    with ThreadPoolExecutor(5) as pool:
        made = [pool.submit(work, number) for number in range(4)]
        begin.wait()
        for _ in range(50):
            metrics.snapshot()
        for each in made:
            each.result()
    found = metrics.snapshot()
    assert found[CALLS] == {("CreateRoute", "ok"): 1000, ("CreateRoute", "Throttling"): 1000}
    assert found["vipmanager_ec2_throttles_total"] == {("CreateRoute",): 1000}
    seconds = found[SECONDS]["CreateRoute",]
    assert isinstance(seconds, Histogram) and seconds.count == 2000


@pytest.mark.parametrize(
    ("code", "throttled"),
    [("ok", False), ("InternalError", False), ("RequestLimitExceeded", True), ("Throttling", True)],
)
def test_which_calls_were_throttled(code: str, throttled: bool) -> None:
    metrics = Metrics()
    counter(metrics)("AssignIpv6Addresses", code, 0.1)
    assert ("vipmanager_ec2_throttles_total" in metrics.snapshot()) is throttled
