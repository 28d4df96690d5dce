"""What an operator is told: when something changes, once, in words; and an init run's verdict."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from tests.doubles.clock import StillClock
from tests.unit.builders import DEFAULTS, NOW, OUTSIDE, claim, claims, config, interface, mac, observed, state, table
from vipmanager.actions import AssignAddress, Need, Plan, SetRoute, UnassignAddress
from vipmanager.apply import Retry
from vipmanager.errors import ErrorKind, Failure
from vipmanager.metrics import Metrics
from vipmanager.model import Claims, ElasticIp, Holder, Problem
from vipmanager.monitor import Monitor
from vipmanager.report import LASTING, Report

ROUTED = f"{OUTSIDE}/32"
ROUTE = SetRoute("rtb-1", ip_network(ROUTED), "eni-1", "eni-9", ip_address(OUTSIDE))
HELD = observed(interface(1, OUTSIDE), tables=[table("rtb-1", {ROUTED: "eni-1"}), table("rtb-2", {ROUTED: "eni-1"})])
CLAIM = claim(OUTSIDE, held={"rtb-1": NOW, "rtb-2": NOW})


class Log:
    """The events that were logged, with their facts."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __call__(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Level, event and facts since the last time."""
        found = [(record.levelname, record.getMessage(), record.__dict__["facts"]) for record in self._caplog.records]
        self._caplog.clear()
        return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    caplog.set_level(logging.INFO, "vipmanager")
    return Log(caplog)


class Sink:
    """Hears Events."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, bool]] = []

    def emit(self, reason: str, message: str, *, warning: bool, about: str = "") -> None:
        """See EventSink."""
        self.told.append((reason, message, warning))

    def reasons(self) -> list[tuple[str, bool]]:
        """Without the words, and only since the last time."""
        told, self.told = self.told, []
        return [(reason, warning) for reason, _, warning in told]


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def report(sink: Sink, metrics: Metrics) -> Report:
    return Report(DEFAULTS, Monitor("sidecar", metrics=metrics, sink=sink))


def count(metrics: Metrics, name: str, *labels: str) -> Any:
    """A counter's value."""
    return metrics.snapshot().get(f"vipmanager_{name}_total", {}).get(labels, 0)


def decide(report: Report, after: Claims, before: Claims, seen: Any = HELD) -> None:
    """A round that ended with these claims."""
    report.decided(Plan(claims=after), before, seen)


def test_a_claim_is_told_when_it_is_complete_and_once(log: Log, report: Report) -> None:
    half = observed(interface(1, OUTSIDE), tables=[table("rtb-1", {ROUTED: "eni-1"}), table("rtb-2")])
    decide(report, claims(CLAIM), {}, half)
    assert log() == []
    report.applied(ROUTE)
    written = [table("rtb-1", {ROUTED: "eni-1"}), table("rtb-2", {ROUTED: "eni-1"}, seen=NOW + 0.25)]
    decide(report, claims(CLAIM), claims(CLAIM), observed(interface(1, OUTSIDE), tables=written))
    ((level, name, facts),) = log()
    assert (level, name) == ("INFO", "claimed")
    expected = {"address": OUTSIDE, "placement": "host-route", "eni": "eni-1", "tables": 2, "moved_from": "eni-9"}
    assert facts == {**expected, "took": "0.250s"}
    decide(report, claims(CLAIM), claims(CLAIM))
    assert log() == []


def test_a_bound_elastic_ip_is_told_when_it_is_first_known_and_once(log: Log, report: Report) -> None:
    own, eip = "10.10.1.50", "eipalloc-00000001"
    shown = ElasticIp(eip, "3.3.3.3", "eni-1", IPv4Address(own), NOW + 0.5, True)
    seen = observed(interface(1, own), states={"eni-1": state(1, own)}, eips={eip: shown})
    arrived = claim(own, held={"eni-1": NOW})
    decide(report, claims(arrived), {}, seen)
    assert [name for _, name, _ in log()] == ["claimed"]
    bound = replace(arrived, held={"eni-1": NOW, eip: NOW + 0.5})
    decide(report, claims(bound), claims(arrived), seen)
    ((level, name, facts),) = log()
    assert (level, name) == ("INFO", "bound")
    assert facts == {"eip": eip, "public": "3.3.3.3", "address": own, "eni": "eni-1", "took": "0.500s"}
    decide(report, claims(bound), claims(bound), seen)
    assert log() == []
    anew = replace(bound, since=NOW + 1, held={"eni-1": NOW + 2, eip: NOW + 2})
    decide(report, claims(anew), claims(bound), replace(seen, states={"eni-1": state(1, own, seen=NOW + 2)}))
    assert [name for _, name, _ in log()] == ["claimed", "bound"]


def test_a_claim_that_is_taken_up_again_is_told_again(log: Log, report: Report) -> None:
    decide(report, claims(CLAIM), {})
    log()
    given_up = replace(CLAIM, conceded_to="eni-9", conceded_at=NOW)
    decide(report, claims(given_up), claims(CLAIM))
    assert [(level, name) for level, name, _ in log()] == [("WARNING", "conceded")]
    decide(report, claims(given_up), claims(given_up))
    assert log() == []
    decide(report, claims(CLAIM), claims(given_up))
    assert [name for _, name, _ in log()] == ["claimed"]


def test_the_end_of_a_claim_is_told_in_two_steps(log: Log, report: Report) -> None:
    gone = replace(CLAIM, vanished=NOW)
    decide(report, claims(CLAIM), {})
    decide(report, claims(gone), claims(CLAIM))
    decide(report, claims(gone), claims(gone))
    decide(report, {}, claims(gone))
    decide(report, {}, {})
    assert [name for _, name, _ in log()] == ["claimed", "address gone", "withdrawn"]


def test_a_problem_is_told_when_it_comes_and_not_again(log: Log, report: Report) -> None:
    fatal, other = Problem("a", "text"), Problem("b", "text", fatal=False)
    for problems in ((fatal, other), (other, fatal), (fatal,), (fatal, other)):
        report.decided(Plan(problems=problems), {}, HELD)
    assert [(level, name, facts["of"]) for level, name, facts in log()] == [
        ("ERROR", "problem", "a"),
        ("WARNING", "problem", "b"),
        ("WARNING", "problem", "b"),
    ]


def test_interfaces_are_named_once_and_those_of_no_eni_too(log: Log, report: Report) -> None:
    seen = observed(interface(1, OUTSIDE), interface(7), enis=observed(interface(1)).enis)
    for world in (seen, replace(seen, foreign=frozenset({mac(7)})), replace(seen, foreign=frozenset({mac(7)}))):
        report.discovered(world)
    told = [(level, name, facts.get("name") or facts["interface"]) for level, name, facts in log()]
    assert told == [("INFO", "interface", "net1"), ("WARNING", "ignored", "net7")]


def retry(
    code: str = "RequestLimitExceeded", kind: ErrorKind = ErrorKind.RETRY, remedy: str = "", attempts: int = 1
) -> Retry:
    """A failure."""
    return Retry(attempts, NOW, Failure(kind, "ec2:CreateRoute", code, "why", remedy))


def test_failures_of_one_reason_are_one_line(log: Log, report: Report) -> None:
    """An outage of EC2 hits all tables at once."""
    for number in range(48):
        report.failed(("route", f"rtb-{number}"), retry())
    report.flush()
    ((level, name, facts),) = log()
    assert (level, name, facts["others"], facts["code"]) == ("WARNING", "failed", 47, "RequestLimitExceeded")


def test_a_failure_that_repeats_is_not_told_again_and_another_reason_is(log: Log, report: Report) -> None:
    for code in ("Throttling", "Throttling", "Throttling", "UnauthorizedOperation", "UnauthorizedOperation"):
        report.failed(("route", "rtb-1"), retry(code))
        report.flush()
    assert [facts["code"] for _, _, facts in log()] == ["Throttling", "UnauthorizedOperation"]


def test_a_failure_tells_its_remedy_and_how_full_a_table_is(log: Log, report: Report) -> None:
    report.failed(ROUTE.key, retry("RouteLimitExceeded", ErrorKind.LIMIT, "raise it"), ROUTE, 50)
    report.flush()
    ((_, _, facts),) = log()
    assert (facts["full_with"], facts["remedy"], facts["item"]) == (50, "raise it", str(ROUTE))


def test_recovery_is_told_of_what_had_failed(log: Log, report: Report) -> None:
    report.failed(ROUTE.key, retry(), ROUTE)
    report.flush()
    report.applied(ROUTE)
    report.applied(ROUTE)
    report.flush()
    report.flush()
    assert [name for _, name, _ in log()] == ["failed", "recovered"]


# Metrics and Events --------------------------------------------------------------------------------------------------


def test_a_claims_life_is_counted_and_told(report: Report, metrics: Metrics, sink: Sink) -> None:
    report.applied(ROUTE)
    decide(report, claims(CLAIM), {})
    decide(report, claims(CLAIM), claims(CLAIM))
    text = f"{OUTSIDE} is delivered to eni-1 (host-route in 2 route tables), moved from eni-9"
    assert sink.told == [("Claimed", text, False)]
    sink.told.clear()
    given_up = replace(CLAIM, conceded_to="eni-9", conceded_at=NOW)
    for before in (CLAIM, given_up):
        decide(report, claims(given_up), claims(before))
    assert sink.told == [("Conceded", f"{OUTSIDE} was taken over by eni-9", True)]
    decide(report, claims(CLAIM), claims(given_up))
    sink.told.clear()
    gone = replace(CLAIM, vanished=NOW)
    decide(report, claims(gone), claims(CLAIM))
    decide(report, {}, claims(gone))
    assert sink.reasons() == [("Withdrawn", False)]
    assert (count(metrics, "claims"), count(metrics, "concessions"), count(metrics, "drift")) == (2, 1, 0)


def test_actions_are_counted_by_kind_and_result(report: Report, metrics: Metrics) -> None:
    report.applied(ROUTE)
    for _ in range(2):  # each attempt, though it is said once
        report.failed(ROUTE.key, retry("UnauthorizedOperation", ErrorKind.DENIED), ROUTE)
    report.failed(("fact", "TABLES"), retry())
    assert metrics.snapshot()["vipmanager_actions_total"] == {("route", "ok"): 1, ("route", "denied"): 2}


def test_a_reason_is_one_event_until_nothing_fails_for_it(report: Report, sink: Sink) -> None:
    """An outage that hits each table at another time is not one event a table."""
    for number in range(3):
        report.failed(("route", f"rtb-{number}"), retry("Throttling", remedy="wait"))
        report.flush()
    assert not sink.told, "it may pass at the next attempt"
    for number in range(3):
        report.failed(("route", f"rtb-{number}"), retry("Throttling", remedy="wait", attempts=LASTING))
        report.flush()
    ((reason, message, warning),) = sink.told
    assert (reason, warning) == ("Failing", True)
    assert "route rtb-0" in message and "Throttling" in message and "wait" in message
    sink.told.clear()
    report.failed(("route", "rtb-1"), retry("UnauthorizedOperation", ErrorKind.DENIED))
    report.flush()
    assert sink.reasons() == [("Failing", True)]
    for number in (0, 2, 1):
        report.recovered(("route", f"rtb-{number}"))
        report.flush()
    assert [(reason, message.split()[-1]) for reason, message, _ in sink.told] == [
        ("Recovered", "Throttling"),
        ("Recovered", "UnauthorizedOperation"),
    ]


def test_a_refusal_is_told_anew_when_what_was_refused_before_is_no_longer_wanted(
    report: Report, sink: Sink, log: Log
) -> None:
    """.6 is denied and leaves the pod; .7 is denied by the same code, then .6 again."""
    denied = retry("UnauthorizedOperation", ErrorKind.DENIED)
    for number in (6, 7, 6):
        action = SetRoute("rtb-1", ip_network(f"192.168.0.{number}/32"), "eni-1", "", ip_address(OUTSIDE))
        report.failed(action.key, denied, action)
        report.flush()
        ((_, name, facts),) = log()
        assert (name, facts["item"]) == ("failed", str(action))
        report.keep({("kernel",)})
        report.flush()
    assert sink.reasons() == [("Failing", True), ("Recovered", False)] * 3
    assert log() == [], "that nothing is left to fail is no recovery"


def test_what_is_wanted_still_is_not_told_anew(report: Report, sink: Sink, log: Log) -> None:
    denied = retry("UnauthorizedOperation", ErrorKind.DENIED)
    for number in range(3):
        report.failed(ROUTE.key, denied, ROUTE)
        report.failed(("route", f"rtb-{number}", "other"), denied)
        report.keep({ROUTE.key})
        report.flush()
    assert sink.reasons() == [("Failing", True)]
    assert [name for _, name, _ in log()] == ["failed"] * 3


class TestMovedFrom:
    """Who had an address of a subnet before it was assigned."""

    OWN, OWN6 = "10.10.1.50", "2600:1f14:0:1::50"

    def told(self, report: Report, sink: Sink, own: str, holder: Holder, *done: Any) -> str:
        """What is said of a claim that is completed by these actions."""
        begun, held = claim(own), claim(own, held={"eni-1": NOW})
        before = observed(interface(1, own), states={"eni-1": state(1)}, holders={ip_address(own): holder})
        decide(report, claims(begun), {}, before)
        for action in done:
            report.applied(action)
        decide(report, claims(held), claims(begun), observed(interface(1, own), states={"eni-1": state(1, own)}))
        ((_, message, _),) = sink.told
        return message.partition(", moved from ")[2]

    def test_an_ipv6_address_that_was_freed(self, report: Report, sink: Sink) -> None:
        address = ip_address(self.OWN6)
        done = (UnassignAddress("eni-9", address, "taken over"), AssignAddress("eni-1", address))
        assert self.told(report, sink, self.OWN6, Holder("eni-9", True, False, NOW), *done) == "eni-9"

    def test_an_ipv4_address_whose_holder_was_read(self, report: Report, sink: Sink) -> None:
        done = AssignAddress("eni-1", ip_address(self.OWN))
        assert self.told(report, sink, self.OWN, Holder("eni-9", True, False, NOW), done) == "eni-9"

    @pytest.mark.parametrize("holder", [Holder("", False, False, NOW), Holder("eni-9", True, False, NOW - 1)])
    def test_nobody_or_nobody_knows(self, report: Report, sink: Sink, holder: Holder) -> None:
        assert self.told(report, sink, self.OWN, holder, AssignAddress("eni-1", ip_address(self.OWN))) == ""

    def test_our_own_release_is_no_move(self, report: Report, sink: Sink) -> None:
        address = ip_address(self.OWN)
        done = (UnassignAddress("eni-1", address, "vanished"), AssignAddress("eni-1", address))
        assert self.told(report, sink, self.OWN, Holder("", False, False, NOW), *done) == ""


def test_a_fatal_problem_is_an_event(report: Report, sink: Sink) -> None:
    for _ in range(2):
        report.decided(Plan(problems=(Problem("a", "text"), Problem("b", "text", fatal=False))), {}, HELD)
    assert sink.told == [("Failing", "a: text", True)]


class TestDrift:
    """What was ours and is no more, though nobody took it over and the address stayed."""

    @pytest.fixture(autouse=True)
    def claimed(self, report: Report, log: Log) -> None:
        decide(report, claims(CLAIM), {})
        log()

    def drifted(self, *tables: Any) -> Any:
        """What is seen then."""
        return observed(interface(1, OUTSIDE), tables=tables)

    @pytest.mark.parametrize("now", [{}, {ROUTED: "eni-dead"}], ids=["deleted", "led astray"])
    def test_a_route_is_counted_once_until_it_is_ours_again(
        self, report: Report, metrics: Metrics, log: Log, now: dict[str, str]
    ) -> None:
        ours = table("rtb-2", {ROUTED: "eni-1"})
        lost = self.drifted(table("rtb-1", now, seen=NOW + 300, dead=True), ours)
        for _ in range(3):
            decide(report, claims(CLAIM), claims(CLAIM), lost)
        assert count(metrics, "drift") == 1
        found = "eni-dead" if now else "nothing"
        assert log() == [("WARNING", "drift", {"address": OUTSIDE, "at": "rtb-1", "found": found})]
        decide(report, claims(CLAIM), claims(CLAIM))
        decide(report, claims(CLAIM), claims(CLAIM), lost)
        assert count(metrics, "drift") == 2

    def test_a_new_table_a_new_claim_and_a_take_over_are_none(self, report: Report, metrics: Metrics) -> None:
        new = self.drifted(*[table(each, {ROUTED: "eni-1"}) for each in ("rtb-1", "rtb-2")], table("rtb-3"))
        decide(report, claims(CLAIM), claims(CLAIM), new)
        again = claim(OUTSIDE, since=NOW + 10)
        decide(report, claims(again), claims(CLAIM), self.drifted(table("rtb-1"), table("rtb-2")))
        given_up = replace(CLAIM, conceded_to="eni-9")
        decide(report, claims(given_up), claims(CLAIM), self.drifted(table("rtb-1", {ROUTED: "eni-9"})))
        assert count(metrics, "drift") == 0

    def test_what_is_not_known_is_none(self, report: Report, metrics: Metrics) -> None:
        decide(report, claims(CLAIM), claims(CLAIM), observed(interface(1, OUTSIDE), tables=None))
        assert count(metrics, "drift") == 0


def test_a_round_is_published(report: Report, metrics: Metrics) -> None:
    monitor = report._monitor
    decide(report, claims(CLAIM), {})
    report.round(Plan(claims=claims(CLAIM)), {}, looked=True)
    assert monitor.ready() == (True, "")
    assert monitor.hidden() == {ip_address(OUTSIDE)}
    assert metrics.snapshot()["vipmanager_addresses"] == {("claimed", "host-route"): 1}
    assert metrics.snapshot()["vipmanager_problems"] == {("true",): 0, ("false",): 0}
    report.round(Plan(claims=claims(CLAIM), actions=(ROUTE,)), {}, looked=True)
    assert monitor.ready()[0] is False
    report.round(Plan(claims=claims(CLAIM)), {}, looked=True)
    assert metrics.snapshot()["vipmanager_convergence_seconds"][()].count == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("interval", "seen", "aged"),
    [
        ("300", HELD, True),
        ("0", HELD, False),
        ("300", observed(), False),
        ("300", observed(interface(7), enis={}, foreign=frozenset({mac(7)})), False),
        ("300", observed(interface(7), enis={}), True),
    ],
    ids=["an ENI", "no resyncs", "no interface", "no ENI", "not known yet"],
)
def test_when_there_is_an_age_of_the_resync(metrics: Metrics, interval: str, seen: Any, aged: bool) -> None:
    report = Report(config(ResyncInterval=interval), Monitor("sidecar", metrics=metrics))
    for _ in range(2):
        decide(report, {}, {}, seen)
        report.round(Plan(), {}, looked=True)
        report.compares()
        assert ("vipmanager_resync_age_seconds" in metrics.snapshot()) is aged


def test_the_age_begins_anew_when_a_pod_gets_its_first_eni(metrics: Metrics) -> None:
    clock = StillClock()
    report = Report(DEFAULTS, Monitor("sidecar", metrics=metrics, clock=clock))
    decide(report, {}, {}, observed())
    report.round(Plan(), {}, looked=True)
    clock.advance(1000.0)
    decide(report, {}, {}, HELD)
    report.round(Plan(), {}, looked=True)
    clock.advance(2.0)
    assert metrics.snapshot()["vipmanager_resync_age_seconds"] == {(): 2.0}
    for key in (("fact", "TABLES"), ("fact", "STATES")):
        report.answered(key)
    assert metrics.snapshot()["vipmanager_resync_age_seconds"] == {(): 0.0}


# An init run's verdict -----------------------------------------------------------------------------------------------

WHOLE = Plan(claims=claims(CLAIM))
DENIED = {ROUTE.key: retry("UnauthorizedOperation", ErrorKind.DENIED)}
THROTTLED = {ROUTE.key: retry()}


@pytest.mark.parametrize(
    ("plan", "failures", "late", "verdict"),
    [
        (WHOLE, {}, False, 0),
        (WHOLE, {}, True, 0),
        (replace(WHOLE, actions=(ROUTE,)), {}, False, None),
        (replace(WHOLE, actions=(ROUTE,)), {}, True, 1),
        (replace(WHOLE, actions=(ROUTE,)), THROTTLED, False, None),
        (replace(WHOLE, actions=(ROUTE,)), THROTTLED, True, 1),
        (replace(WHOLE, actions=(ROUTE,)), DENIED, False, 1),
        (replace(WHOLE, needs=frozenset({Need.TABLES})), {}, False, None),
        (replace(WHOLE, needs=frozenset({Need.TABLES})), {("fact", "TABLES"): DENIED[ROUTE.key]}, False, 1),
        (replace(WHOLE, problems=(Problem("a", "b"),)), {}, False, 1),
        (replace(WHOLE, problems=(Problem("a", "b", fatal=False),)), {}, False, 0),
        (replace(WHOLE, problems=(Problem("a", "b"),), actions=(ROUTE,)), {}, False, None),
    ],
)
def test_the_verdict(report: Report, plan: Plan, failures: dict[Any, Retry], late: bool, verdict: int | None) -> None:
    assert report.verdict(plan, HELD, failures, late) == verdict


@pytest.mark.parametrize(
    "seen",
    [observed(), observed(interface(1)), observed(interface(1, OUTSIDE, up=False))],
    ids=["no interface", "no address", "down"],
)
def test_with_nothing_to_deliver_it_waits_and_then_says_what_it_saw(log: Log, report: Report, seen: Any) -> None:
    assert report.verdict(Plan(), seen, {}, late=False) is None
    assert log() == []
    assert report.verdict(Plan(), seen, {}, late=True) == 1
    names = {name: facts for _, name, facts in log()}
    assert "300s" in names["nothing to deliver"]["waited"] and names["nothing to deliver"]["seen"]
    assert "InitTimeout" in names["failed"]["why"]


def test_while_an_interface_is_not_known_it_waits(report: Report) -> None:
    assert report.verdict(WHOLE, replace(HELD, enis={}), {}, late=False) is None


def test_a_failed_run_lists_exactly_what_is_missing(log: Log, report: Report) -> None:
    plan = replace(WHOLE, problems=(Problem("10.0.0.1", "no subnet"), Problem("b", "c", fatal=False)), actions=(ROUTE,))
    assert report.verdict(plan, HELD, DENIED, late=False) == 1
    told = log()
    assert [(name, facts.get("item")) for _, name, facts in told] == [
        ("missing", "10.0.0.1"),
        ("missing", " ".join(ROUTE.key)),
        ("failed", None),
    ]
    assert told[-1][2] == {"missing": 2}
    assert all(level == "ERROR" for level, _, _ in told)


def test_success_names_what_was_conceded(log: Log, report: Report) -> None:
    given_up = claims(replace(CLAIM, conceded_to="eni-9"))
    assert report.verdict(Plan(claims=given_up), HELD, {}, late=False) == 0
    ((_, name, facts),) = log()
    assert (name, facts) == ("done", {"addresses": 1, "conceded": OUTSIDE})


def test_an_interface_with_many_addresses_is_told_in_a_line_that_can_be_read(log: Any) -> None:
    Report(DEFAULTS).discovered(observed(interface(1, *map(str, ip_network("192.168.0.0/24")))))
    ((_, _, facts),) = log()
    assert facts["addresses"].startswith("192.168.0.0,192.168.0.1,") and facts["addresses"].endswith("… (256)")
    assert len(facts["addresses"]) < 300


def test_addresses_that_share_a_route_are_told_in_one_line_when_there_are_many(log: Any) -> None:
    report = Report(DEFAULTS)
    for count, lines in ((4, 4), (16, 1)):
        shared = ip_network(f"192.168.{count}.0/{32 - count.bit_length() + 1}")
        made = claims(*(claim(str(each), destination=shared, held={"rtb-1": NOW}) for each in shared))
        report.applied(SetRoute("rtb-1", shared, "eni-1", "eni-9", shared[1]))
        decide(report, made, {}, observed(interface(1), tables=[table("rtb-1", {str(shared): "eni-1"})]))
        told = log()
        assert len(told) == lines
        _, name, facts = told[0]
        assert (name, facts["destination"], facts["moved_from"]) == ("claimed", str(shared), "eni-9")
        assert facts.get("addresses") == (count if lines == 1 else None)
        taken = {address: replace(each, conceded_to="eni-8", conceded_at=NOW) for address, each in made.items()}
        decide(report, taken, made, observed(interface(1), tables=[table("rtb-1", {str(shared): "eni-8"})]))
        assert [(name, facts["to"]) for _, name, facts in log()] == [("conceded", "eni-8")] * lines
