"""The agent as sidecar: claims, concessions, withdrawals and a quick end; nothing while nothing happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agents import DESCRIBES, PEER, TABLES, WRITES, Pod, Pods, answered, events, settled
from tests.unit.builders import mac
from vipmanager.errors import ErrorKind
from vipmanager.plan.vpc import UNASSIGN_AFTER, WITHDRAW_ROUTES_AFTER
from vipmanager.report import OK

FIRST, SECOND, THIRD = "192.168.0.1", "192.168.0.2", "192.168.0.3"
OWN, OWN6 = "10.10.1.50", "2600:1f14:0:1::50"


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path)
    yield made
    made.close()


# Claiming ------------------------------------------------------------------------------------------------------------


def test_one_new_address_costs_t_calls_and_one_describe_afterwards(pods: Pods) -> None:
    pod = pods([FIRST], [SECOND])
    pod.sidecar()
    settled(pod, lambda: pod.routed(FIRST), lambda: pod.routed(SECOND, "eni-2"))
    mark = pod.mark()
    pod.kernel.set_addresses("net1", FIRST, THIRD)
    pod.wait(lambda: pod.routed(THIRD))
    assert [call.operation for call in pod.calls(since=mark)] == ["create_route"] * TABLES
    settled(pod)
    assert [call.operation for call in pod.calls(since=mark)] == ["create_route"] * TABLES + ["route_tables"]


def test_a_standby_claims_without_asking_first(pods: Pods) -> None:
    pod = pods()
    pod.sidecar()
    pod.wait(lambda: answered(pod, 0, *DESCRIBES) >= 2)
    mark = pod.mark()
    pod.kernel.set_addresses("net1", FIRST, OWN)
    pod.wait(lambda: pod.routed(FIRST) and pod.ec2.holder(OWN) == "eni-1")
    assert {call.operation for call in pod.calls(since=mark)} <= {"create_route", "assign", "disable_source_dest_check"}


def test_an_idle_sidecar_asks_nothing_between_resyncs(pods: Pods) -> None:
    """With resync off time may pass for ever; a change that comes afterwards shows that it was awake."""
    pod = pods([FIRST])
    pod.sidecar(ResyncInterval="0")
    settled(pod, lambda: pod.routed(FIRST))
    mark = pod.mark()
    for _ in range(3):
        pod.pass_time(100_000.0)
    pod.kernel.set_addresses("net1", FIRST, THIRD)
    pod.wait(lambda: pod.routed(THIRD))
    assert {call.operation for call in pod.calls(since=mark)} == {"create_route"}


def test_drift_is_mended_at_a_resync(pods: Pods) -> None:
    pod = pods([FIRST, OWN])
    pod.sidecar(ResyncInterval="300")
    settled(pod, lambda: pod.routed(FIRST), lambda: pod.ec2.holder(OWN) == "eni-1")
    pod.ec2.drop_route("rtb-2", f"{FIRST}/32")
    pod.ec2.unassign("eni-1", [eni for eni in pod.ec2.state.enis["eni-1"].addresses if str(eni) == OWN])
    mark = pod.mark()
    pod.pass_time(361.0)
    pod.wait(lambda: pod.routed(FIRST) and pod.ec2.holder(OWN) == "eni-1")
    assert [call.operation for call in pod.calls(*WRITES, since=mark)].count("create_route") == 1


def test_an_interface_that_comes_later_is_discovered(pods: Pods) -> None:
    pod = pods([FIRST])
    pod.kernel.remove("net2")
    pod.sidecar()
    pod.wait(lambda: pod.routed(FIRST))
    pod.kernel.add("net2", mac(2), SECOND)
    pod.wait(lambda: pod.routed(SECOND, "eni-2"))


def test_an_address_that_moves_between_interfaces_moves_between_enis(pods: Pods) -> None:
    pod = pods([FIRST, OWN6])
    pod.sidecar()
    pod.wait(lambda: pod.routed(FIRST))
    pod.kernel.set_addresses("net1")
    pod.kernel.set_addresses("net2", FIRST)
    pod.wait(lambda: pod.routed(FIRST, "eni-2"))


@pytest.mark.parametrize("kind", [ErrorKind.DENIED, ErrorKind.LIMIT, ErrorKind.INVALID])
def test_what_will_not_pass_is_said_once_and_all_else_goes_on(
    pods: Pods, caplog: pytest.LogCaptureFixture, kind: ErrorKind
) -> None:
    pod = pods([FIRST])
    pod.draw = 0.5
    pod.ec2.faults.fail("create_route", kind, times=None, when=lambda call: call.arguments[0] == "rtb-1")
    pod.sidecar()
    others = {"rtb-0": "eni-1", "rtb-1": None, "rtb-2": "eni-1", "rtb-3": "eni-1"}
    pod.wait(lambda: pod.ec2.targets(f"{FIRST}/32") == others)
    pod.kernel.set_addresses("net1", FIRST, OWN)
    pod.wait(lambda: pod.ec2.holder(OWN) == "eni-1")
    tried = len(pod.calls("create_route"))
    pod.pass_time(3.0)
    pod.wait(lambda: len(pod.calls("create_route")) > tried)
    assert len(events(caplog, "failed")) == 1
    pod.ec2.faults.clear()
    pod.pass_time(120.0)
    pod.wait(lambda: pod.routed(FIRST))


def test_a_bug_on_a_thread_ends_it(pods: Pods) -> None:
    pod = pods([FIRST])
    pod.ec2.faults.crash("create_route", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        pod.sidecar().result()


# Conceding -----------------------------------------------------------------------------------------------------------


def take_over(pod: Pod) -> None:
    """Another worker's pod takes the addresses."""
    for table in pod.region.tables:
        pod.ec2.put_route(table, f"{FIRST}/32", PEER)
    pod.ec2.give(PEER, OWN)


def test_what_another_live_eni_took_over_is_conceded_and_not_fought_for(
    pods: Pods, caplog: pytest.LogCaptureFixture
) -> None:
    pod = pods([FIRST, OWN])
    pod.sidecar()
    settled(pod, lambda: pod.routed(FIRST), lambda: pod.ec2.holder(OWN) == "eni-1")
    take_over(pod)
    mark = pod.mark()
    for resync in range(1, 4):
        pod.pass_time(361.0)
        pod.wait(lambda resync=resync: answered(pod, mark, "route_tables") >= resync)
    pod.wait(lambda: len(events(caplog, "conceded")) == 2)
    assert pod.calls(*WRITES, since=mark) == []
    assert {facts["to"] for facts in events(caplog, "conceded")} == {PEER}


def test_a_conceded_address_is_claimed_again_when_its_holder_dies(pods: Pods) -> None:
    pod = pods([FIRST, OWN])
    run = pod.sidecar()
    settled(pod, lambda: pod.routed(FIRST), lambda: pod.ec2.holder(OWN) == "eni-1")
    take_over(pod)
    pod.pass_time(361.0)
    pod.wait(lambda: len(pod.calls("enis_holding")) >= 1)
    pod.ec2.detach(PEER)
    pod.pass_time(361.0)
    pod.wait(lambda: pod.routed(FIRST) and pod.ec2.holder(OWN) == "eni-1")
    assert run.running


def test_a_conceded_address_is_claimed_again_when_it_comes_back(pods: Pods, caplog: pytest.LogCaptureFixture) -> None:
    pod = pods([FIRST])
    pod.sidecar()
    settled(pod, lambda: pod.routed(FIRST))
    take_over(pod)
    pod.pass_time(361.0)
    pod.wait(lambda: len(events(caplog, "conceded")) == 1)
    looks = len(pod.kernel.faults.named("interfaces"))
    pod.kernel.set_addresses("net1")
    pod.wait(lambda: len(pod.kernel.faults.named("interfaces")) > looks)
    pod.kernel.set_addresses("net1", FIRST)
    pod.wait(lambda: pod.routed(FIRST))


def test_a_restarted_container_remembers_what_it_conceded(pods: Pods, caplog: pytest.LogCaptureFixture) -> None:
    pod = pods([FIRST])
    run = pod.sidecar()
    settled(pod, lambda: pod.routed(FIRST))
    take_over(pod)
    pod.pass_time(361.0)
    pod.wait(lambda: len(events(caplog, "conceded")) == 1)
    assert run.stop() == OK
    mark = pod.mark()
    pod.kernel.events.setblocking(False)
    pod.sidecar()
    pod.wait(lambda: answered(pod, mark, "route_tables") >= 1)
    pod.kernel.set_addresses("net1", FIRST, THIRD)
    pod.wait(lambda: pod.routed(THIRD))
    assert pod.routed(FIRST, PEER)


def test_active_and_standby_hand_over_and_do_not_flap(pods: Pods, caplog: pytest.LogCaptureFixture) -> None:
    active, standby = pods([FIRST]), pods(enis=("eni-8",))
    active.sidecar()
    standby.sidecar()
    settled(active, lambda: active.routed(FIRST))
    standby.kernel.set_addresses("net1", FIRST)  # while it is on the other, too
    standby.wait(lambda: standby.routed(FIRST, "eni-8"))
    mark = active.mark()
    for pod in (active, standby):
        pod.pass_time(361.0)
    active.wait(lambda: len(events(caplog, "conceded")) == 1)
    active.kernel.set_addresses("net1")
    standby.pass_time(361.0)
    active.wait(lambda: answered(active, mark, "route_tables") >= 3)
    assert active.calls(*WRITES, since=mark) == []
    assert standby.routed(FIRST, "eni-8")


# Withdrawing ---------------------------------------------------------------------------------------------------------


def test_an_address_that_leaves_is_withdrawn(pods: Pods, caplog: pytest.LogCaptureFixture) -> None:
    pod = pods([FIRST, SECOND, OWN])
    pod.sidecar()
    settled(pod, lambda: pod.routed(FIRST), lambda: pod.routed(SECOND), lambda: pod.ec2.holder(OWN) == "eni-1")
    pod.kernel.set_addresses("net1", SECOND)
    pod.wait(lambda: not pod.kernel.rules() & {rule for rule in pod.kernel.rules() if rule.source == f"{FIRST}/32"})
    pod.pass_time(UNASSIGN_AFTER + 0.1)
    pod.wait(lambda: pod.ec2.holder(OWN) is None)
    assert pod.routed(FIRST)
    pod.pass_time(WITHDRAW_ROUTES_AFTER)
    pod.wait(lambda: pod.routed(FIRST, None))
    assert pod.routed(SECOND)


def test_an_address_that_returns_is_claimed_again(pods: Pods) -> None:
    """Their fault: fail-back was broken."""
    pod = pods([FIRST])
    pod.sidecar()
    settled(pod, lambda: pod.routed(FIRST))
    for _ in range(2):
        pod.kernel.set_addresses("net1")
        pod.wait(lambda: not pod.kernel.rules())
        pod.pass_time(WITHDRAW_ROUTES_AFTER + 1)
        pod.wait(lambda: pod.routed(FIRST, None))
        pod.kernel.set_addresses("net1", FIRST)
        pod.wait(lambda: pod.routed(FIRST))


def test_a_route_that_was_taken_over_meanwhile_is_not_withdrawn(pods: Pods) -> None:
    pod = pods([FIRST])
    pod.sidecar()
    settled(pod, lambda: pod.routed(FIRST))
    pod.kernel.set_addresses("net1")
    pod.wait(lambda: not pod.kernel.rules())
    take_over(pod)
    mark = pod.mark()
    pod.pass_time(WITHDRAW_ROUTES_AFTER + 1)
    pod.wait(lambda: answered(pod, mark, "route_tables") >= 1)
    pod.kernel.set_addresses("net1", THIRD)
    pod.wait(lambda: pod.routed(THIRD))
    assert pod.calls("delete_route") == [] and pod.routed(FIRST, PEER)


def test_of_two_addresses_that_leave_the_one_that_is_still_ours_is_unassigned(pods: Pods) -> None:
    """UnassignPrivateIpAddresses is all or none, and the other was taken over unseen."""
    pod = pods([OWN, "10.10.1.51"])
    pod.sidecar()
    settled(pod, lambda: pod.ec2.holder(OWN) == "eni-1")
    pod.ec2.give(PEER, "10.10.1.51")
    pod.kernel.set_addresses("net1")
    pod.wait(lambda: not pod.kernel.rules())
    pod.pass_time(UNASSIGN_AFTER + 0.1)
    pod.wait(lambda: pod.ec2.holder(OWN) is None)
    assert pod.ec2.holder("10.10.1.51") == PEER
