"""What is counted and measured: plain tallies behind one lock, which any thread may add to.

No client library and no I/O: a scrape turns a snapshot into text (clients/exposition.py), and nothing is paid before.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of histogram buckets in seconds: a call takes tens of milliseconds, a throttled take-over minutes."""

MOST_SERIES = 200
"""Label sets of one metric; EC2's error codes are labels, and an endpoint that invents them must not fill memory."""

OTHER = "other"


class Metric(NamedTuple):
    """One metric: `kind` is counter, gauge or histogram; `labels` are names, in the order of a snapshot's tuples."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


LEASE = ("lease",)
"""NAMESPACE/NAME of the Lease: several Deployments of the nodeport mode may run in one namespace."""

METRICS = (
    Metric("vipmanager_build_info", GAUGE, ("version", "mode"), "1, with the version and the mode that runs."),
    Metric(
        "vipmanager_addresses",
        GAUGE,
        ("state", "placement"),
        "Floating addresses by state and placement; in nodeport mode what floats, by state and FloatingMode.",
    ),
    Metric("vipmanager_ready", GAUGE, (), "1 when everything desired is in place, as /readyz says."),
    Metric("vipmanager_problems", GAUGE, ("fatal",), "Things that settings, addresses or EC2 keep from being done."),
    Metric(
        "vipmanager_actions_total", COUNTER, ("kind", "result"), "Changes tried: ok, or the kind of error they met."
    ),
    Metric(
        "vipmanager_convergence_seconds",
        HISTOGRAM,
        (),
        "From the kernel's event, the start, the lease or drift found until nothing was left to do.",
    ),
    Metric(
        "vipmanager_slowest_convergence_seconds",
        GAUGE,
        (),
        "The longest convergence that ended in the last 15 minutes; 0 when none did.",
    ),
    Metric("vipmanager_ec2_calls_total", COUNTER, ("operation", "code"), "Requests to EC2: ok, or the error code."),
    Metric("vipmanager_ec2_call_seconds", HISTOGRAM, ("operation",), "How long requests to EC2 took."),
    Metric("vipmanager_ec2_throttles_total", COUNTER, ("operation",), "Requests that EC2 throttled."),
    Metric("vipmanager_claims_total", COUNTER, (), "Addresses claimed: every target of theirs became ours."),
    Metric("vipmanager_concessions_total", COUNTER, (), "Addresses conceded to another live ENI."),
    Metric(
        "vipmanager_flaps_total",
        COUNTER,
        (),
        "Claims of an address that this pod had claimed three times in the ten minutes before.",
    ),
    Metric(
        "vipmanager_drift_total", COUNTER, (), "Routes and addresses that were ours and that somebody else changed."
    ),
    Metric(
        "vipmanager_resync_age_seconds", GAUGE, (), "Since EC2 was last compared in full; absent while it is not to be."
    ),
    Metric("vipmanager_netlink_overruns_total", COUNTER, (), "Times the kernel dropped events; all is read anew then."),
    Metric("vipmanager_loop_age_seconds", GAUGE, (), "How long the loop's round has lasted; 0 while it waits."),
    Metric("vipmanager_holds", GAUGE, LEASE, "nodeport: 1 while this node is the holder."),
    Metric(
        "vipmanager_lease_transitions_total", COUNTER, LEASE, "nodeport: changes of hands, as the Lease counts them."
    ),
    Metric(
        "vipmanager_lease_renewal_age_seconds", GAUGE, LEASE, "nodeport: since this holder's last successful renewal."
    ),
    Metric(
        "vipmanager_lease_renewals_total",
        COUNTER,
        (*LEASE, "result"),
        "nodeport: this holder's renewals: ok, late (past the middle of RetryPeriod and RenewDeadline) or missed.",
    ),
)
"""All of them. Names and units follow Prometheus' conventions (prometheus.io/docs/practices/naming)."""

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}

LabelValues = tuple[str, ...]


@dataclass(frozen=True)
class Histogram:
    """Observations: how many were at most each of BUCKETS (cumulative; all of them are `count`), and their sum."""

    buckets: tuple[int, ...]
    sum: float
    count: int


Samples = Mapping[LabelValues, float | Histogram]


class _Tally:
    """A histogram as it grows."""

    def __init__(self) -> None:
        self.counts, self.sum = [0] * (len(BUCKETS) + 1), 0.0

    def frozen(self) -> Histogram:
        """As a snapshot has it."""
        cumulative, total = [], 0
        for count in self.counts:
            total += count
            cumulative.append(total)
        return Histogram(tuple(cumulative[:-1]), self.sum, total)


class Metrics:
    """Every method may be called from any thread. Labels are given by name, all of a metric's own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[LabelValues, float]] = {}
        self._tallies: dict[str, dict[LabelValues, _Tally]] = {}
        self._computed: dict[str, tuple[LabelValues, Callable[[], float | None]]] = {}

    def begin(self, name: str, **labels: str) -> None:
        """Show a counter or histogram at zero before there is anything to count.

        A scraper sees only what is added after its first sample of a series (prometheus.io/docs/practices/
        instrumentation, "Avoid missing metrics").
        """
        if BY_NAME[name].kind != HISTOGRAM:
            self.add(name, 0, **labels)
            return
        key = _key(name, labels)
        with self._lock:
            self._tallies.setdefault(name, {}).setdefault(key, _Tally())

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count."""
        key = _key(name, labels)
        with self._lock:
            series = self._values.setdefault(name, {})
            key = _bounded(key, series)
            series[key] = series.get(key, 0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Put a value in place of the last."""
        key = _key(name, labels)
        with self._lock:
            series = self._values.setdefault(name, {})
            series[_bounded(key, series)] = value

    def replace(self, name: str, values: Mapping[LabelValues, float]) -> None:
        """Put these values, and no others, in place of all that the metric had."""
        _ = BY_NAME[name]
        with self._lock:
            self._values[name] = dict(values)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add one observation to a histogram."""
        key = _key(name, labels)
        with self._lock:
            series = self._tallies.setdefault(name, {})
            tally = series.setdefault(_bounded(key, series), _Tally())
            tally.counts[bisect_left(BUCKETS, seconds)] += 1
            tally.sum += seconds

    def compute(self, name: str, function: Callable[[], float | None], **labels: str) -> None:
        """Ask for the value at each snapshot; None leaves the metric out. Called from the scraping thread."""
        self._computed[name] = _key(name, labels), function

    def snapshot(self) -> dict[str, Samples]:
        """Name → label values → value, in the order of METRICS; a metric without a value is left out."""
        computed = {name: (key, function()) for name, (key, function) in list(self._computed.items())}
        found: dict[str, dict[LabelValues, float | Histogram]] = {}
        with self._lock:
            for name, series in self._values.items():
                found[name] = dict(series)
            for name, tallies in self._tallies.items():
                found[name] = {key: tally.frozen() for key, tally in tallies.items()}
        found.update((name, {key: value}) for name, (key, value) in computed.items() if value is not None)
        return {metric.name: found[metric.name] for metric in METRICS if found.get(metric.name)}


def _key(name: str, labels: Mapping[str, str]) -> LabelValues:
    wanted = BY_NAME[name].labels
    if len(labels) != len(wanted):
        raise KeyError(f"{name} has the labels {wanted}")
    return tuple(labels[label] for label in wanted)


def _bounded(key: LabelValues, series: Mapping[LabelValues, object]) -> LabelValues:
    return key if key in series or len(series) < MOST_SERIES else (OTHER,) * len(key)
