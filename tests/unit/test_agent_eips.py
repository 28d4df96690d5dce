"""The agent and Elastic IPs: one describe and one call for each, and no fight over one that was taken over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.unit.agents import DESCRIBES, PEER, WRITES, Pod, Pods, answered, events, settled
from vipmanager.errors import ErrorKind
from vipmanager.report import FAILED, OK

OWN, OTHER = "10.10.1.50", "10.10.1.60"
EIP, SECOND, FOREIGN = "eipalloc-00000001", "eipalloc-00000002", "eipalloc-00000003"
SETTINGS = {"Intf1EIPs": f"{OWN}={EIP}"}


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path)
    for number, eip in enumerate((EIP, SECOND, FOREIGN), 1):
        made.region.ec2.add_eip(eip, f"3.3.3.{number}")
    yield made
    made.close()


def bound(pod: Pod, eip: str = EIP) -> tuple[str, str]:
    """What an Elastic IP is bound to."""
    found = pod.ec2.state.eips[eip]
    return found.eni_id, str(found.address)


def take(pod: Pod, eip: str = EIP) -> None:
    """Somebody binds it to an address of another worker's ENI."""
    public_ip = pod.ec2.state.eips[eip].public_ip
    pod.ec2.give(PEER, OTHER)
    pod.ec2.add_eip(eip, public_ip, PEER, OTHER)


# init ----------------------------------------------------------------------------------------------------------------


def test_it_costs_one_describe_and_one_call_for_each(pods: Pods) -> None:
    pod = pods([OWN, "10.10.1.51"])
    take(pod, SECOND)
    assert pod.init(Intf1EIPs=f"{OWN}={EIP},10.10.1.51={SECOND},10.10.1.52={FOREIGN}") == OK
    assert (bound(pod), bound(pod, SECOND)) == (("eni-1", OWN), ("eni-1", "10.10.1.51"))
    assert sorted(call.operation for call in pod.calls()) == ["assign", "associate", "associate", "elastic_ips", "enis"]


def test_it_is_asked_for_together_with_everything_else(pods: Pods) -> None:
    """The describes are under way at the same time: none of them is answered before the last has been asked."""
    pod = pods([OWN, "192.168.0.1"])
    holds = [pod.ec2.faults.hang(operation) for operation in ("elastic_ips", "enis", "route_tables")]
    run = pod.start(**SETTINGS)
    pod.wait(lambda: len(pod.calls(*DESCRIBES)) == 3)
    for hold in holds:
        hold.set()
    assert run.result() == OK
    assert bound(pod) == ("eni-1", OWN)


def test_what_is_in_place_costs_one_describe(pods: Pods) -> None:
    pod = pods([OWN])
    assert pod.init(**SETTINGS) == OK
    mark = pod.mark()
    assert pod.init(**SETTINGS) == OK
    assert sorted(call.operation for call in pod.calls(since=mark)) == ["elastic_ips", "enis"]


@pytest.mark.parametrize("settings", [{}, {"Intf1EIPs": f"{OTHER}={EIP}"}], ids=["unset", "of other pods"])
def test_without_one_of_its_own_a_pod_does_not_ask(pods: Pods, settings: dict[str, str]) -> None:
    pod = pods([OWN])
    assert pod.init(**settings) == OK
    assert pod.calls("elastic_ips", "associate") == []


def test_one_that_comes_along_with_its_address_is_bound_for_certain(pods: Pods) -> None:
    pod = pods([OWN])
    pod.ec2.give(PEER, OWN)
    pod.ec2.add_eip(EIP, "3.3.3.1", PEER, OWN)
    assert pod.init(**SETTINGS) == OK
    assert bound(pod) == ("eni-1", OWN)
    assert [call.operation for call in pod.calls(*WRITES)] == ["assign", "associate"]


def test_describes_that_lag_do_not_confuse_it(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shows it bound to us as before, another that the address is not ours, which is then assigned."""
    pod = pods([OWN])
    before = pod.ec2.elastic_ips
    shown = [replace(eip, eni_id="eni-1", address=IPv4Address(OWN), live=True) for eip in before([EIP])]
    monkeypatch.setattr(pod.ec2, "elastic_ips", lambda ids: before(ids) and tuple(shown))
    assert pod.init(**SETTINGS) == OK
    assert bound(pod) == ("eni-1", OWN)


def test_one_that_does_not_exist_fails_the_run_and_all_else_is_done(
    pods: Pods, caplog: pytest.LogCaptureFixture
) -> None:
    pod = pods([OWN, "10.10.1.51"])
    missing = "eipalloc-0000000f"
    assert pod.init(Intf1EIPs=f"{OWN}={missing},10.10.1.51={SECOND}") == FAILED
    assert pod.ec2.holder(OWN) == "eni-1" and bound(pod, SECOND) == ("eni-1", "10.10.1.51")
    (facts,) = events(caplog, "missing")
    assert facts["item"] == "Intf1EIPs" and missing in facts["why"]


@pytest.mark.parametrize("operation", ["elastic_ips", "associate"])
def test_what_is_denied_fails_the_run_and_all_else_is_done(
    pods: Pods, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    pod = pods([OWN, "192.168.0.1"])
    pod.draw = 0.5
    pod.ec2.faults.fail(operation, ErrorKind.DENIED, times=None)
    assert pod.init(**SETTINGS) == FAILED
    assert pod.ec2.holder(OWN) == "eni-1" and pod.routed("192.168.0.1")
    (facts,) = events(caplog, "missing")
    assert operation in facts["why"] and len(pod.calls(operation)) == 1


@pytest.mark.parametrize("operation", ["elastic_ips", "associate"])
def test_what_passes_by_itself_is_retried(pods: Pods, operation: str) -> None:
    pod = pods([OWN])
    pod.ec2.faults.fail(operation, ErrorKind.RETRY, times=3)
    assert pod.init(**SETTINGS) == OK
    assert bound(pod) == ("eni-1", OWN)


def test_one_that_is_released_under_us_is_named(pods: Pods, caplog: pytest.LogCaptureFixture) -> None:
    pod = pods([OWN])
    pod.draw = 0.5

    def release() -> None:
        eips = {key: eip for key, eip in pod.ec2.state.eips.items() if key != EIP}
        pod.ec2.set(type(pod.ec2.state)(**{**vars(pod.ec2.state), "eips": eips}))

    pod.ec2.faults.before("associate", lambda _: release())
    assert pod.init(**SETTINGS) == FAILED
    assert any(facts["item"] == "Intf1EIPs" for facts in events(caplog, "missing"))


# sidecar -------------------------------------------------------------------------------------------------------------


def test_a_new_address_gets_it_after_its_assignment(pods: Pods, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vipmanager")
    pod = pods()
    pod.sidecar(**SETTINGS)
    pod.wait(lambda: answered(pod, 0, *DESCRIBES) >= 2)
    mark = pod.mark()
    pod.kernel.set_addresses("net1", OWN)
    pod.wait(lambda: bound(pod) == ("eni-1", OWN))
    assert [call.operation for call in pod.calls(*WRITES, since=mark)] == ["assign", "associate"]
    assert len(pod.calls("elastic_ips", since=mark)) == 1
    pod.wait(lambda: len(events(caplog, "bound")) == 1)


def test_what_somebody_unbound_is_bound_again_at_a_resync(pods: Pods) -> None:
    pod = pods([OWN])
    pod.sidecar(**SETTINGS)
    settled(pod, lambda: bound(pod) == ("eni-1", OWN))
    pod.ec2.add_eip(EIP, "3.3.3.1")
    pod.pass_time(361.0)
    pod.wait(lambda: bound(pod) == ("eni-1", OWN))


def test_what_was_taken_over_is_left_and_said_once_until_its_holder_is_gone(
    pods: Pods, caplog: pytest.LogCaptureFixture
) -> None:
    pod = pods([OWN])
    pod.sidecar(**SETTINGS)
    settled(pod, lambda: bound(pod) == ("eni-1", OWN))
    take(pod)
    mark = pod.mark()
    for resync in range(1, 4):
        pod.pass_time(361.0)
        pod.wait(lambda resync=resync: answered(pod, mark, "elastic_ips") >= resync)
    pod.wait(lambda: len(events(caplog, "problem")) == 1)
    assert pod.calls(*WRITES, since=mark) == [] and bound(pod) == (PEER, OTHER)
    pod.ec2.detach(PEER)
    pod.pass_time(361.0)
    pod.wait(lambda: bound(pod) == ("eni-1", OWN))
    assert len(events(caplog, "problem")) == 1


def test_a_restarted_container_remembers_that_it_was_taken_over(pods: Pods, caplog: pytest.LogCaptureFixture) -> None:
    pod = pods([OWN])
    run = pod.sidecar(ReleaseOnExit="False", **SETTINGS)
    settled(pod, lambda: bound(pod) == ("eni-1", OWN))
    assert run.stop() == OK
    take(pod)
    mark = pod.mark()
    pod.kernel.events.setblocking(False)
    pod.sidecar(ReleaseOnExit="False", **SETTINGS)
    pod.wait(lambda: len(events(caplog, "problem")) == 1)
    assert pod.calls(*WRITES, since=mark) == [] and bound(pod) == (PEER, OTHER)


def test_a_hand_over_takes_it_along_and_the_former_holder_leaves_it(
    pods: Pods, caplog: pytest.LogCaptureFixture
) -> None:
    active, standby = pods([OWN]), pods(enis=("eni-9",))
    active.sidecar(**SETTINGS)
    standby.sidecar(Intf2EIPs=f"{OWN}={EIP}")  # eni-9 has device index 2
    settled(active, lambda: bound(active) == ("eni-1", OWN))
    standby.kernel.set_addresses("net1", OWN)  # while it is on the other, too
    standby.wait(lambda: answered(standby, 0, "associate") == 2)  # it is bound by the assignment already
    mark = active.mark()
    active.pass_time(361.0)
    active.wait(lambda: len(events(caplog, "conceded")) == 1)
    looked = active.mark()
    active.pass_time(361.0)
    standby.pass_time(361.0)
    active.wait(lambda: answered(active, looked, "elastic_ips") >= 2)
    assert active.calls("assign", "associate", since=mark) == []
    assert bound(active) == ("eni-9", OWN)
