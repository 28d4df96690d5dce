"""What an operator is told of the nodeport mode: a failover in a few events, and nothing twice."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from tests.doubles.clock import StillClock
from tests.unit.node_builders import EIP, NOW, VIP, settings
from tests.unit.node_process import Statuses
from vipmanager.actions import AssignAddress
from vipmanager.actions_node import PutAddress
from vipmanager.apply import Retry
from vipmanager.errors import ErrorKind, Failure
from vipmanager.metrics import Metrics
from vipmanager.model import Problem
from vipmanager.model_node import Tenure
from vipmanager.monitor import Monitor
from vipmanager.plan.node_draft import Item, NodePlan
from vipmanager.report_node import NodeReport

ASSIGN = AssignAddress("eni-1", ip_address(VIP))
PUT = PutAddress(2, "eth0", ip_address(VIP))
OURS = Tenure(
    True, True, NOW, NOW, NOW + 4, NOW + 6, holder="node-1", since=7.0, transitions=2, why="node-2 released it"
)
THEIRS = Tenure(holder="node-2", why="node-2 took it")
LEASE = ("ns/vipmanager",)
DONE = NodePlan(items=(Item(VIP, "eni-1", "eth0"), Item(EIP, "eni-1")))
HALF = NodePlan(items=(Item(VIP, "eni-1", "eth0"), Item(EIP, "", "", "reading Elastic IPs")))


@pytest.fixture
def file() -> Statuses:
    return Statuses()


@pytest.fixture
def report(file: Statuses) -> NodeReport:
    monitor = Monitor("nodeport", file=file)  # type: ignore[arg-type]
    return NodeReport(settings(f"{VIP},{EIP}"), "pod-1", "node-1", "ns/vipmanager", monitor)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    """The events since the last time, as (level, name, facts)."""
    caplog.set_level(logging.INFO, "vipmanager")

    def since() -> list[tuple[str, str, dict[str, Any]]]:
        found = [(record.levelname, record.getMessage(), record.__dict__["facts"]) for record in caplog.records]
        caplog.clear()
        return found

    return since


def failed(kind: ErrorKind = ErrorKind.RETRY, code: str = "Unavailable", message: str = "try later") -> Retry:
    return Retry(1, NOW, Failure(kind, "ec2:AssignPrivateIpAddresses", code, message))


class TestRole:
    """MASTER and BACKUP."""

    def test_a_standby_that_starts_says_nothing(self, report: NodeReport, told: Any) -> None:
        report.tenure(THEIRS, False)
        assert told() == []

    def test_a_change_is_said_once(self, report: NodeReport, told: Any) -> None:
        report.tenure(THEIRS, False)
        for _ in range(2):
            report.tenure(OURS, True)
        assert told() == [("INFO", "role", {"role": "MASTER", "holder": "node-1", "why": "node-2 released it"})]
        for _ in range(2):
            report.tenure(THEIRS, False)
        assert told() == [("INFO", "role", {"role": "BACKUP", "holder": "node-2", "why": "node-2 took it"})]

    @pytest.mark.parametrize(
        ("tenure", "why"),
        [(OURS, "no renewal for 4 s"), (replace(OURS, yielding_to="node-2"), "makes way for node-2")],
    )
    def test_a_holder_that_has_stopped_says_why(self, report: NodeReport, told: Any, tenure: Tenure, why: str) -> None:
        report.tenure(OURS, True)
        told()
        report.tenure(tenure, False)
        assert told() == [("INFO", "role", {"role": "BACKUP", "holder": "unknown", "why": why})]

    @pytest.mark.parametrize(("released", "level"), [(True, "INFO"), (False, "WARNING")])
    def test_the_end(self, report: NodeReport, told: Any, released: bool, level: str) -> None:
        report.stopped(released=released)
        ((shown, name, facts),) = told()
        assert (shown, name, "not" in facts["what"]) == (level, "stopped", not released)


class TestWork:
    """Changes, failures, what is delivered."""

    def test_changes(self, report: NodeReport, told: Any) -> None:
        report.applied(PUT, 0.001)
        report.applied(ASSIGN, None)
        assert told() == [
            ("INFO", "done", {"what": f"put address={VIP} interface=eth0", "took": "0.001s"}),
            ("INFO", "done", {"what": f"assign address={VIP} eni=eni-1"}),
        ]

    def test_a_failure_is_said_once_until_it_works_again(self, report: NodeReport, told: Any) -> None:
        """EC2's words may differ each time: an encoded authorization message does."""
        for number in range(3):
            denied = failed(ErrorKind.DENIED, "UnauthorizedOperation", f"Encoded authorization message: {number}")
            report.failed(ASSIGN.key, denied, ASSIGN)
        ((level, name, facts),) = told()
        assert (level, name, facts["what"]) == ("ERROR", "failed", str(ASSIGN))
        report.failed(ASSIGN.key, failed(), ASSIGN)
        assert [level for level, _, _ in told()] == ["WARNING"]
        report.succeeded(ASSIGN.key)
        report.succeeded(ASSIGN.key)
        assert told() == [("INFO", "works again", {"what": f"address {VIP}"})]
        report.failed(ASSIGN.key, failed(), ASSIGN)
        assert len(told()) == 1

    def test_a_new_tenure_says_it_again(self, report: NodeReport, told: Any) -> None:
        report.tenure(OURS, True)
        report.failed(ASSIGN.key, failed(), ASSIGN)
        report.failed(("fact", "OWN"), failed())
        report.tenure(THEIRS, False)
        told()
        report.tenure(OURS, True)
        report.failed(ASSIGN.key, failed(), ASSIGN)
        report.failed(("fact", "OWN"), failed())
        assert [name for _, name, _ in told()] == ["role", "failed"]

    def test_what_is_delivered_is_said_once_a_tenure(self, report: NodeReport, told: Any) -> None:
        report.tenure(OURS, True)
        told()
        assert [item.name for item in report.plan(HALF, True, "")] == [VIP]
        assert report.plan(HALF, True, "") == ()
        assert [item.name for item in report.plan(DONE, True, "")] == [EIP]
        assert [facts["item"] for _, name, facts in told() if name == "delivered"] == [VIP, EIP]
        report.plan(HALF, True, "")
        assert [item.name for item in report.plan(DONE, True, "")] == [EIP]
        told()
        report.tenure(THEIRS, False)
        assert report.plan(DONE, False, "") == ()
        report.tenure(OURS, True)
        assert len(report.plan(DONE, True, "")) == 2

    def test_problems_come_and_go(self, report: NodeReport, told: Any) -> None:
        fatal, mere = Problem(VIP, "lies in no subnet"), Problem("eni-1", "has its check on", fatal=False)
        for _ in range(2):
            report.plan(NodePlan(problems=(fatal, mere)), False, "")
        assert told() == [
            ("ERROR", "problem", {"of": VIP, "what": "lies in no subnet"}),
            ("WARNING", "problem", {"of": "eni-1", "what": "has its check on"}),
        ]
        report.plan(NodePlan(problems=(mere,)), False, "")
        assert told() == [("INFO", "solved", {"of": VIP, "what": "lies in no subnet"})]

    def test_probes_are_said_when_they_change(self, report: NodeReport, told: Any) -> None:
        report.tenure(THEIRS, False)
        report.probes({VIP: True})
        assert told() == []
        for _ in range(2):
            report.probes({VIP: False})
        lost = {"address": VIP, "result": "does not answer", "holder": "node-2"}
        assert told() == [("WARNING", "probe", lost)]
        report.probes({VIP: True})
        assert told() == [("INFO", "probe", {**lost, "result": "answers"})]

    def test_a_warning_of_a_lifetime(self, report: NodeReport, told: Any) -> None:
        for address in ("a", "b"):
            report.once("not announced", address=address)
        assert told() == [("WARNING", "not announced", {"address": "a"})]


class TestOutside:
    """Readiness, metrics and Events."""

    @pytest.fixture
    def metrics(self) -> Metrics:
        return Metrics()

    @pytest.fixture
    def told(self) -> list[tuple[str, bool]]:
        return []

    @pytest.fixture
    def clock(self) -> StillClock:
        return StillClock(NOW)

    @pytest.fixture
    def report(self, metrics: Metrics, told: list[tuple[str, bool]], clock: StillClock) -> NodeReport:
        class Sink:
            def emit(self, reason: str, message: str, *, warning: bool, about: str = "") -> None:
                told.append((reason, warning))

        self.monitor = Monitor("nodeport", metrics=metrics, sink=Sink(), clock=clock)
        return NodeReport(settings(f"{VIP},{EIP}"), "pod-1", "node-1", "ns/vipmanager", self.monitor)

    def ready(self, report: NodeReport, tenure: Tenure, holds: bool, plan: NodePlan = DONE, health: str = "") -> str:
        """Why a round ends without readiness."""
        report.tenure(tenure, holds)
        report.plan(plan, holds, health)
        return self.monitor.ready()[1]

    def test_a_holder_is_ready_when_everything_is_delivered(self, report: NodeReport) -> None:
        assert self.ready(report, OURS, True, HALF) == f"{EIP}: reading Elastic IPs"
        assert self.ready(report, OURS, True) == ""
        assert self.ready(report, OURS, True, health="refused (1 in a row)") == ""

    def test_another_node_is_ready_when_it_could_take_over(self, report: NodeReport) -> None:
        known = replace(THEIRS, known=True)
        assert "has not been read" in self.ready(report, THEIRS, False)
        assert self.ready(report, known, False, HALF) == ""
        assert self.ready(report, known, False, HALF, "not checked yet") == "not checked yet"
        assert "Unavailable" in self.ready(report, replace(known, failure=failed().failure), False)

    def test_what_is_measured(self, report: NodeReport, metrics: Metrics, clock: StillClock) -> None:
        self.ready(report, OURS, True, HALF)
        found = metrics.snapshot()
        assert found["vipmanager_holds"] == {LEASE: 1}
        assert found["vipmanager_lease_transitions_total"] == {LEASE: 2}
        assert found["vipmanager_addresses"] == {("delivered", "address"): 1, ("pending", "address"): 1}
        clock.advance(3.0)
        assert metrics.snapshot()["vipmanager_lease_renewal_age_seconds"] == {LEASE: 3.0}
        self.ready(report, OURS, True)
        assert metrics.snapshot()["vipmanager_convergence_seconds"][()].sum == 3.0  # type: ignore[union-attr]
        assert metrics.snapshot()["vipmanager_drift_total"] == {(): 0}
        self.ready(report, OURS, True, HALF)
        assert metrics.snapshot()["vipmanager_drift_total"] == {(): 1}
        self.ready(report, THEIRS, False)
        found = metrics.snapshot()
        assert found["vipmanager_holds"] == {LEASE: 0}
        assert found["vipmanager_addresses"] == {("standby", "address"): 2}
        assert "vipmanager_lease_renewal_age_seconds" not in found

    def test_changes_of_hands_are_not_counted_from_nothing(self, report: NodeReport, metrics: Metrics) -> None:
        """A 0 before the Lease has been read would make an increase of all that it has counted so far."""
        report.tenure(Tenure(), False)
        assert "vipmanager_lease_transitions_total" not in metrics.snapshot()
        report.tenure(replace(THEIRS, known=True, transitions=7), False)
        assert metrics.snapshot()["vipmanager_lease_transitions_total"] == {LEASE: 7}

    @pytest.mark.parametrize(("retry", "deadline"), [(1.0, 4.0), (5.0, 10.0), (0.5, 0.6)])
    def test_renewals_are_weighed_by_the_settings(
        self, metrics: Metrics, clock: StillClock, retry: float, deadline: float
    ) -> None:
        """In time at RetryPeriod, whatever that is; late past the middle; missed at RenewDeadline."""
        config = replace(settings(VIP), retry_period=retry, renew_deadline=deadline)
        report = NodeReport(
            config, "pod-1", "node-1", "ns/vipmanager", Monitor("nodeport", metrics=metrics, clock=clock)
        )
        tenure = replace(OURS, began=clock(), renewed_at=clock())

        def renewals() -> list[float]:
            found = metrics.snapshot()["vipmanager_lease_renewals_total"]
            return [found[(*LEASE, result)] for result in ("ok", "late", "missed")]  # type: ignore[misc]

        assert renewals() == [0, 0, 0]
        report.tenure(tenure, True)
        for after, counted in (
            (retry, [1, 0, 0]),
            ((retry + deadline) / 2 - 0.01, [2, 0, 0]),
            ((retry + deadline) / 2 + 0.01, [2, 1, 0]),
        ):
            clock.advance(after)
            report.tenure(tenure, True)  # a round for another reason
            tenure = replace(tenure, renewed_at=clock())
            report.tenure(tenure, True)
            assert renewals() == counted
        clock.advance(deadline)
        report.tenure(tenure, False)  # it lets go by itself, and then the elector says so
        report.tenure(THEIRS, False)
        assert renewals() == [2, 1, 1]
        report.tenure(THEIRS, False)
        assert renewals() == [2, 1, 1]

    def test_a_renewal_after_the_deadline_was_missed(
        self, report: NodeReport, metrics: Metrics, clock: StillClock
    ) -> None:
        tenure = replace(OURS, began=clock(), renewed_at=clock())
        report.tenure(tenure, True)
        clock.advance(4.5)
        report.tenure(replace(tenure, began=clock(), renewed_at=clock()), True)
        assert metrics.snapshot()["vipmanager_lease_renewals_total"] == {
            (*LEASE, "ok"): 0, (*LEASE, "late"): 0, (*LEASE, "missed"): 1}  # fmt: skip

    def test_what_is_handed_over_or_taken_away_was_not_missed(
        self, report: NodeReport, metrics: Metrics, clock: StillClock
    ) -> None:
        for lost in (THEIRS, Tenure(known=True)):
            report.tenure(replace(OURS, began=clock(), renewed_at=clock()), True)
            clock.advance(1.0)
            report.tenure(lost, False)
        assert set(metrics.snapshot()["vipmanager_lease_renewals_total"].values()) == {0}

    def test_the_age_of_the_comparison(self, report: NodeReport, metrics: Metrics, clock: StillClock) -> None:
        clock.advance(4.0)
        assert metrics.snapshot()["vipmanager_resync_age_seconds"] == {(): 4.0}
        report.succeeded(("fact", "TABLES"))
        report.succeeded(("fact", "OWN"))
        clock.advance(1.0)
        assert metrics.snapshot()["vipmanager_resync_age_seconds"] == {(): 1.0}

    def test_actions_are_counted(self, report: NodeReport, metrics: Metrics) -> None:
        report.applied(PUT, None)
        report.failed(ASSIGN.key, failed(), ASSIGN)
        report.failed(ASSIGN.key, failed(), ASSIGN)
        assert metrics.snapshot()["vipmanager_actions_total"] == {("host-address", "ok"): 1, ("address", "retry"): 2}

    def test_events_of_the_lease(self, report: NodeReport, told: list[tuple[str, bool]]) -> None:
        for tenure, holds in (
            (THEIRS, False),
            (OURS, True),
            (replace(OURS, yielding_to="node-2"), False),
            (OURS, True),
            (OURS, False),
            (OURS, True),
        ):
            report.tenure(tenure, holds)
        report.stopped(released=True)
        names = ["Holding", "Released", "Holding", "LostLease", "Holding", "Released"]
        assert told == [(name, name == "LostLease") for name in names]

    def test_events_of_failures(self, report: NodeReport, told: list[tuple[str, bool]]) -> None:
        for key in (ASSIGN.key, ("address", "other")):
            report.failed(key, failed(), ASSIGN)
        assert told == [("Failing", True)]
        report.succeeded(ASSIGN.key)
        report.failed(ASSIGN.key, failed(), ASSIGN)
        assert told == [("Failing", True)]
        for key in (ASSIGN.key, ("address", "other")):
            report.succeeded(key)
        assert told == [("Failing", True), ("Recovered", False)]
        report.failed(ASSIGN.key, failed(), ASSIGN)
        report.plan(NodePlan(problems=(Problem(VIP, "x"), Problem("eni-1", "y", fatal=False))), False, "")
        assert told[2:] == [("Failing", True)] * 2

    def test_what_fails_to_a_new_holder_is_an_event_of_its_own(
        self, report: NodeReport, told: list[tuple[str, bool]]
    ) -> None:
        report.tenure(OURS, True)
        report.failed(ASSIGN.key, failed(), ASSIGN)
        report.tenure(THEIRS, False)
        report.tenure(OURS, True)
        report.failed(ASSIGN.key, failed(), ASSIGN)
        failing, recovered = ("Failing", True), ("Recovered", False)
        assert [each for each in told if each in (failing, recovered)] == [failing, recovered, failing]

    def test_what_failed_on_the_way_fails_no_more_when_everything_is_in_place(
        self, report: NodeReport, told: list[tuple[str, bool]]
    ) -> None:
        report.tenure(OURS, True)
        told.clear()
        report.failed(("eni", "detach"), failed(), ASSIGN)
        report.plan(HALF, True, "")
        assert told == [("Failing", True)]
        report.plan(DONE, True, "")
        assert told == [("Failing", True), ("Recovered", False)]
        report.failed(ASSIGN.key, failed(), ASSIGN)
        report.plan(replace(DONE, actions=(ASSIGN,)), True, "")
        assert told[2:] == [("Failing", True)]


class TestStatus:
    """The status file."""

    def test_of_a_holder(self, report: NodeReport, file: Statuses) -> None:
        report.tenure(OURS, True)
        report.plan(replace(HALF, problems=(Problem(VIP, "x"),)), True, "refused (1 in a row)")
        assert file.last == {
            "mode": "nodeport",
            "role": "MASTER",
            "identity": "pod-1",
            "node": "node-1",
            "lease": "ns/vipmanager",
            "holder": "node-1",
            "since": 7.0,
            "transitions": 2,
            "why": "node-2 released it",
            "lease_problem": "",
            "floating_mode": "address",
            "health": "refused (1 in a row)",
            "floating": [
                {"name": VIP, "state": "delivered", "eni": "eni-1", "interface": "eth0"},
                {"name": EIP, "state": "reading Elastic IPs", "eni": "", "interface": ""},
            ],
            "problems": [f"{VIP}: x"],
            "ready": False,
            "not_ready": f"{EIP}: reading Elastic IPs",
            "result": "",
        }

    @pytest.mark.parametrize(("tenure", "state"), [(THEIRS, "held by another node"), (Tenure(), "not held")])
    def test_of_a_standby(self, report: NodeReport, file: Statuses, tenure: Tenure, state: str) -> None:
        report.tenure(tenure, False)
        report.plan(DONE, False, "")
        assert [(item["state"], item["answers"]) for item in file.last["floating"]] == [(state, None)] * 2
        report.probes({VIP: True})
        report.plan(DONE, False, "")
        assert [item["answers"] for item in file.last["floating"]] == [True, None]

    def test_what_the_lease_lacks(self, report: NodeReport, file: Statuses) -> None:
        report.tenure(replace(THEIRS, failure=failed().failure), False)
        report.plan(DONE, False, "")
        assert "Unavailable" in file.last["lease_problem"]

    def test_a_file_that_cannot_be_written_is_said_once(self, report: NodeReport, file: Statuses, told: Any) -> None:
        file.problem = "/run/x: Read-only file system"
        for _ in range(3):
            report.plan(DONE, False, "")
        assert told() == [("WARNING", "status not written", {"why": file.problem})]
