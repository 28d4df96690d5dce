"""/metrics: what was counted is what a scraper reads, under names that Prometheus' conventions allow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from vipmanager.clients.exposition import text
from vipmanager.metrics import BUCKETS, COUNTER, GAUGE, HISTOGRAM, METRICS, Histogram, Metric, Metrics

AWKWARD = 'quo"te, back\\slash, new\nline, {brace}, naïve'


def filled() -> Metrics:
    """Every metric has two series, the second with awkward labels; every third observation is beyond the buckets."""
    metrics = Metrics()
    for number, metric in enumerate(METRICS):
        for value in ("a", AWKWARD)[: 2 if metric.labels else 1]:
            labels = dict.fromkeys(metric.labels, value)
            if metric.kind == COUNTER:
                metrics.add(metric.name, number + 1, **labels)
            elif metric.kind == GAUGE:
                metrics.set(metric.name, number + 0.5, **labels)
            else:
                for seconds in (0.02, 7.0, 1e6):
                    metrics.observe(metric.name, seconds, **labels)
    return metrics


def samples(scraped: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) → value, as Prometheus reads it."""
    found = {}
    for family in text_string_to_metric_families(scraped.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def expected(metrics: Metrics) -> Iterator[tuple[tuple[str, tuple[tuple[str, str], ...]], float]]:
    """The same, from the snapshot."""
    by_name: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
    for name, series in metrics.snapshot().items():
        for values, value in series.items():
            labels = dict(zip(by_name[name].labels, values, strict=True))
            if not isinstance(value, Histogram):
                yield (name, tuple(sorted(labels.items()))), float(value)
                continue
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), (*value.buckets, value.count), strict=True):
                yield (f"{name}_bucket", tuple(sorted({**labels, "le": bound}.items()))), float(count)
            yield (f"{name}_sum", tuple(sorted(labels.items()))), value.sum
            yield (f"{name}_count", tuple(sorted(labels.items()))), float(value.count)


def test_a_scraper_reads_what_was_counted() -> None:
    metrics = filled()
    found = samples(text(metrics.snapshot()))
    assert {key: value for key, value in found.items() if not key[0].startswith("process_")} == dict(expected(metrics))


def test_every_metric_of_the_table_is_there_with_its_kind_and_help() -> None:
    families = {family.name: family for family in text_string_to_metric_families(text(filled().snapshot()).decode())}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total") if metric.kind == COUNTER else metric.name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
    ours = [name for name in families if not name.startswith("process_")]
    assert len(ours) == len(METRICS)


def test_what_has_no_value_is_left_out() -> None:
    assert b"vipmanager" not in text({})


@given(st.text(max_size=30), st.floats(allow_nan=False))
def test_any_label_and_number_survive(label: str, number: float) -> None:
    """EC2's error codes are labels, and come from the network."""
    metrics = Metrics()
    metrics.set("vipmanager_addresses", number, state=label, placement="host-route")
    if label.isprintable():  # the parser that ships with the client splits lines at more than LF
        found = samples(text(metrics.snapshot()))
        assert found["vipmanager_addresses", (("placement", "host-route"), ("state", label))] == number
    else:
        assert text(metrics.snapshot())


def test_the_process_is_measured_too() -> None:
    """For whoever watches memory and descriptors over weeks; nothing of Python's own."""
    names = {name for name, _ in samples(text({}))}
    assert {"process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"} <= names
    assert "process_start_time_seconds" in names  # VipmanagerRestarting
    assert not [name for name in names if name.startswith("python_")]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    """prometheus.io/docs/practices/naming: one prefix, base units, a counter's `_total`, and no label named as one."""
    assert re.fullmatch(r"vipmanager_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == COUNTER)
    assert not re.search(r"(?:milli|micro|_ms|_minutes|_percent|_count|_sum|_bucket)$", metric.name)
    assert metric.name.endswith("_seconds") or metric.kind != HISTOGRAM
    assert metric.help[0].isupper() or metric.help[0].isdigit() or metric.help.startswith("nodeport: ")
    assert metric.help.endswith(".")
    assert all(re.fullmatch(r"[a-z]+", label) and label not in ("le", "job", "instance") for label in metric.labels)
