"""A snapshot of the metrics as Prometheus' text format, by its own client library.

Imported at the first scrape, so that nobody pays for the library who does not scrape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from vipmanager.metrics import BUCKETS, BY_NAME, COUNTER, HISTOGRAM, Histogram, Metric, Samples

BOUNDS = (*map(str, BUCKETS), "+Inf")


def text(snapshot: Mapping[str, Samples]) -> bytes:
    """The snapshot, and what the kernel says of the process: CPU, memory, descriptors, its start."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(snapshot))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Snapshot:
    """What a registry asks for metrics."""

    def __init__(self, snapshot: Mapping[str, Samples]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Family]:
        """One family for each metric of the snapshot."""
        return [_family(BY_NAME[name], samples) for name, samples in self._snapshot.items()]


def _family(metric: Metric, samples: Samples) -> Family:
    if metric.kind == HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for values, found in samples.items():
            if isinstance(found, Histogram):
                counts = map(float, (*found.buckets, found.count))
                histogram.add_metric(values, list(zip(BOUNDS, counts, strict=True)), found.sum)
        return histogram
    make = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    for values, value in samples.items():
        if not isinstance(value, Histogram):
            family.add_metric(values, value)
    return family
