"""The agent as a sidecar that is told to stop: it releases what its settings say, and never waits for AWS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agents import PEER, TABLES, WRITES, Pod, Pods, Run, answered, events, settled
from vipmanager import agent
from vipmanager.errors import ErrorKind
from vipmanager.report import OK

FIRST, SECOND, THIRD = "192.168.0.1", "192.168.0.2", "192.168.0.3"
OWN, OWN6 = "10.10.1.50", "2600:1f14:0:1::50"


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path)
    yield made
    made.close()


def started(pods: Pods, *addresses: str, **settings: str) -> tuple[Pod, Run]:
    """A sidecar that has claimed the addresses."""
    pod = pods(list(addresses))
    run = pod.sidecar(**settings)
    routed = [each for each in addresses if not each.startswith(("10.10.", "2600:"))]
    own = [each for each in addresses if each not in routed]
    settled(pod, lambda: all(map(pod.routed, routed)), lambda: all(pod.ec2.holder(each) == "eni-1" for each in own))
    return pod, run


def test_by_default_addresses_are_released_and_routes_stay(pods: Pods) -> None:
    pod, run = started(pods, FIRST, OWN, OWN6)
    assert run.stop() == OK
    assert (pod.ec2.holder(OWN), pod.ec2.holder(OWN6)) == (None, None)
    assert pod.routed(FIRST)


def test_nothing_is_released_where_that_is_set(pods: Pods) -> None:
    pod, run = started(pods, FIRST, OWN, ReleaseOnExit="False")
    mark = pod.mark()
    assert run.stop() == OK
    assert pod.calls(*WRITES, since=mark) == []


def test_routes_that_are_still_ours_are_deleted_where_that_is_set(pods: Pods) -> None:
    pod, run = started(pods, FIRST, SECOND, DeleteRoutesOnExit="True")
    pod.ec2.put_route("rtb-2", f"{FIRST}/32", PEER)
    assert run.stop() == OK
    assert pod.ec2.targets(f"{FIRST}/32") == dict.fromkeys(pod.region.tables) | {"rtb-2": PEER}
    assert pod.routed(SECOND, None)


def test_what_another_has_taken_over_does_not_keep_the_rest_from_being_released(
    pods: Pods, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "vipmanager")
    pod, run = started(pods, OWN, "10.10.1.51")
    pod.ec2.give(PEER, "10.10.1.51")
    assert run.stop() == OK
    assert (pod.ec2.holder(OWN), pod.ec2.holder("10.10.1.51")) == (None, PEER)
    (facts,) = events(caplog, "stopped")
    assert facts["released"] == OWN  # and no word of what was not
    assert events(caplog, "not released") == [], "nothing of it is left"


def test_an_address_that_one_table_still_delivers_is_not_released(pods: Pods, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "vipmanager")
    pod, run = started(pods, FIRST, SECOND, DeleteRoutesOnExit="True")
    pod.ec2.faults.fail("delete_route", ErrorKind.DENIED)
    assert run.stop() == OK
    (facts,) = events(caplog, "not released")
    left = facts["addresses"]
    (gone,) = {FIRST, SECOND} - {left}
    assert pod.routed(gone, None)
    assert pod.ec2.targets(f"{left}/32") == dict.fromkeys(pod.region.tables) | {facts["at"]: "eni-1"}
    assert [each["released"] for each in events(caplog, "stopped")] == [gone]


def test_an_answer_that_did_not_come_is_no_release(
    pods: Pods, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "STOP_WITHIN", 0.3)
    caplog.set_level("INFO", "vipmanager")
    pod, run = started(pods, OWN)
    go_on = pod.ec2.faults.hang("unassign", times=None)
    try:
        assert run.stop() == OK
    finally:
        go_on.set()
    (facts,) = events(caplog, "not released")
    assert (facts["addresses"], facts["at"]) == (OWN, "eni-1")
    assert "not answered" in facts["why"]
    assert [each["released"] for each in events(caplog, "stopped")] == ["none"]


def test_what_could_not_be_released_is_remembered(pods: Pods) -> None:
    pod, run = started(pods, OWN)
    pod.ec2.faults.fail("unassign", ErrorKind.RETRY)
    assert run.stop() == OK
    assert pod.ec2.holder(OWN) == "eni-1"
    mark = pod.mark()
    pod.sidecar()
    pod.wait(lambda: answered(pod, mark, "enis") >= 1)
    pod.kernel.set_addresses("net1", OWN, THIRD)
    pod.wait(lambda: pod.routed(THIRD))
    assert pod.calls("assign", since=mark) == []


@pytest.mark.parametrize("operation", ["route_tables", "enis", "create_route", "assign"])
def test_a_call_that_hangs_does_not_keep_it_from_stopping(
    pods: Pods, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "STOP_WITHIN", 0.2)
    pod = pods([FIRST, OWN])
    go_on = pod.ec2.faults.hang(operation, times=None)
    run = pod.sidecar()
    pod.wait(lambda: len(pod.calls(operation)) >= 1)
    try:
        assert run.stop() == OK
    finally:
        go_on.set()


def test_a_call_that_hangs_does_not_keep_addresses_from_being_released(
    pods: Pods, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "vipmanager")
    pod, run = started(pods, FIRST, OWN, DeleteRoutesOnExit="True")
    go_on = pod.ec2.faults.hang("create_route", times=None)
    pod.kernel.set_addresses("net1", FIRST, OWN, THIRD)
    pod.wait(lambda: len(pod.calls("create_route")) > TABLES)
    try:
        assert run.stop() == OK
        assert pod.ec2.holder(OWN) is None and pod.routed(FIRST, None)
        assert [facts["released"] for facts in events(caplog, "stopped")] == [f"{OWN},{FIRST}"]
    finally:
        go_on.set()


def test_it_may_be_stopped_before_it_has_begun(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "STOP_WITHIN", 0.2)
    pod = pods()
    go_on = pod.ec2.faults.hang("warm_up")
    run = pod.sidecar()
    try:
        assert run.stop() == OK
    finally:
        go_on.set()
