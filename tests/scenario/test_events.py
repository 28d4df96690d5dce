"""Kubernetes Events on the own Pod, where RBAC allows them; nothing but normal work where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab.deployment import Deployment
from lab.kube import apiserver, cluster
from lab.kube.incluster import InCluster
from lab.lab import Lab
from lab.pod import Pod
from tests.scenario.nodeport_support import SHORT
from tests.scenario.support import assert_answers, eni, init, point, remove_route, sidecar, start, until

pytestmark = pytest.mark.namespaces

ONE = "192.168.0.1"


@pytest.fixture(scope="module", autouse=True)
def _own_api() -> None:
    if apiserver.assets() is None and cluster.kubeconfig() is not None:
        pytest.skip("pods have a service account in the lab's own Kubernetes API only: unset KUBECONFIG")


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(kube=True)


def account(pod: Pod) -> InCluster:
    assert pod.account is not None
    return pod.account


def told(lab: Lab, of: InCluster) -> list[tuple[str, str]]:
    """Type and reason of the Events on a Pod, in the order in which it happened."""
    return [(event["type"], event["reason"]) for event in lab.kube.events(of)]


def wait_told(lab: Lab, of: InCluster, reason: str, *texts: str) -> dict[str, Any]:
    """Wait for an Event in whose message all these texts are."""

    def found() -> dict[str, Any] | None:
        events = [each for each in lab.kube.events(of) if each["reason"] == reason]
        return next((each for each in events if all(text in each["message"] for text in texts)), None)

    event = until(found, lambda: f"{reason} {texts}: {lab.kube.events(of)}")
    assert event is not None
    return event


def test_a_sidecar_tells_on_its_pod_what_it_claims_and_concedes(lab: Lab) -> None:
    init(lab.pod("before", "b", {"net1": [f"{ONE}/32"]}))
    pod = lab.pod("app-a", "a", {"net1": []}, service_account=True)
    lab.kube.allow_events(pod.name)
    run = start(pod, "sidecar", ResyncInterval=1)
    run.wait("interface", name="net1")
    pod.add_address("net1", f"{ONE}/32")
    claimed = wait_told(lab, account(pod), "Claimed", ONE, eni(lab, "a", 1), eni(lab, "b", 1))
    assert claimed["type"] == "Normal"
    assert claimed["involvedObject"]["uid"] == account(pod).uid

    taker = lab.pod("app-b", "b", {"net1": [f"{ONE}/32"]}, service_account=True)
    lab.kube.allow_events(taker.name)
    on_taker = sidecar(taker, ONE)
    conceded = wait_told(lab, account(pod), "Conceded", ONE, eni(lab, "b", 1))
    assert conceded["type"] == "Warning"
    wait_told(lab, account(taker), "Claimed", ONE)
    taker.del_address("net1", f"{ONE}/32")
    on_taker.wait("address gone")
    assert told(lab, account(pod)) == [("Normal", "Claimed"), ("Warning", "Conceded")]
    assert run.stop() == on_taker.stop() == 0


def test_what_ec2_refuses_is_told_and_that_it_is_over(lab: Lab) -> None:
    lab.ec2.faults.fail("CreateRoute", times=None)
    pod = lab.pod("app", "a", {"net1": [f"{ONE}/32"]}, service_account=True)
    lab.kube.allow_events(pod.name)
    sidecar(pod)
    assert wait_told(lab, account(pod), "Failing", "CreateRoute")["type"] == "Warning"
    lab.ec2.faults.clear()
    wait_told(lab, account(pod), "Claimed", ONE)
    wait_told(lab, account(pod), "Recovered", "CreateRoute")


def test_what_goes_to_and_fro_is_told_as_it_is(lab: Lab) -> None:
    """Twice taken over and back: the last Event is what is the case."""
    pod = lab.pod("app", "a", {"net1": [f"{ONE}/32"]}, service_account=True)
    lab.kube.allow_events(pod.name)
    run = sidecar(pod, ONE, ResyncInterval=1)
    other = eni(lab, "b", 1)
    for number in (1, 2):
        point(lab, f"{ONE}/32", other)
        run.wait("conceded", address=ONE, count=number)
        if number == 2:
            break
        for table in lab.route_table_ids:
            remove_route(lab, f"{ONE}/32", table)
        run.wait("claimed", address=ONE, count=number + 1)
    claimed, conceded = ("Normal", "Claimed"), ("Warning", "Conceded")
    expected = [claimed, conceded] * 2
    until(lambda: told(lab, account(pod)) == expected, lambda: str(told(lab, account(pod))))


def test_what_is_refused_again_is_told_again(lab: Lab) -> None:
    """An address that EC2 refused left the pod, and comes back to be refused again."""
    lab.ec2.faults.deny("ec2:CreateRoute")
    pod = lab.pod("app", "a", {"net1": []}, service_account=True)
    lab.kube.allow_events(pod.name)
    run = start(
        pod,
        "sidecar",
    )
    run.wait("interface", name="net1")
    failing, recovered = ("Warning", "Failing"), ("Normal", "Recovered")
    for number in (1, 2):
        pod.add_address("net1", f"{ONE}/32")
        run.wait("failed", code="UnauthorizedOperation", count=number)
        expected = [failing, recovered] * (number - 1) + [failing]
        wait_failures(lab, pod, expected)
        pod.del_address("net1", f"{ONE}/32")
        run.wait("address gone", count=number)
        wait_failures(lab, pod, [*expected, recovered])


def wait_failures(lab: Lab, pod: Pod, expected: list[tuple[str, str]]) -> None:
    """Wait until these are the Events about what fails."""

    def found() -> list[tuple[str, str]]:
        return [event for event in told(lab, account(pod)) if event[1] in ("Failing", "Recovered")]

    until(lambda: found() == expected, lambda: str(found()))


def test_without_the_right_everything_else_works_and_nothing_is_said(lab: Lab) -> None:
    pod = lab.pod("app", "a", {"net1": [f"{ONE}/32"]}, service_account=True)
    run = sidecar(pod, ONE, LogLevel="DEBUG")
    run.wait_mention("event not sent", "Forbidden")
    pod.add_address("net1", "192.168.0.2/32")
    run.wait("claimed", address="192.168.0.2")
    assert_answers(lab, ONE, "192.168.0.2")
    assert run.stop() == 0
    assert len(run.events("event not sent")) == 1
    assert {each["level"] for each in run.events() if "event" in each["event"]} <= {"DEBUG", "INFO"}
    assert account(pod).token not in run.text
    assert lab.kube.events(account(pod)) == []


def test_a_kubernetes_api_that_hangs_delays_nothing(lab: Lab) -> None:
    """Nor the end."""
    pod = lab.pod("app", "a", {"net1": [f"{ONE}/32"]}, service_account=True)
    lab.kube.allow_events(pod.name)
    lab.kube.cut_all()
    run = sidecar(pod, ONE)
    pod.add_address("net1", "192.168.0.2/32")
    run.wait("claimed", address="192.168.0.2")
    assert_answers(lab, ONE, "192.168.0.2")
    assert run.stop() == 0
    assert lab.kube.events(account(pod)) == []


def test_a_pod_without_a_service_account_is_as_ever(lab: Lab) -> None:
    """automountServiceAccountToken: false."""
    pod = lab.pod("app", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod, ONE, LogLevel="DEBUG")
    run.wait_mention("event not sent", "NoCluster")
    assert run.stop() == 0
    assert [event["level"] for event in run.mentions("event not sent")] == ["DEBUG"]


def test_the_holder_of_a_floating_address_is_told_on_the_pods_of_a_deployment(make_lab: Callable[..., Lab]) -> None:
    """In the cluster, by the account alone: no KUBECONFIG."""
    lab = make_lab(kube=True)
    config = {**SHORT, "FLOATING_IP": "192.168.100.80", "FloatingMode": "route", "LogFormat": "json", "HealthPort": 0}
    deployment = Deployment(lab, ("a", "b"), config, in_cluster=True)
    deployment.start("a")
    until(lambda: deployment.has_all("a"), deployment.logs)
    wait_told(lab, deployment.accounts["a"], "Holding", "192.168.100.80")
    deployment.start("b")
    until(lambda: deployment.stands_by("b", "a"), deployment.logs)
    deployment.runs["a"].terminate()
    until(lambda: deployment.has_all("b"), deployment.logs)
    wait_told(lab, deployment.accounts["b"], "Holding", "192.168.100.80")
    wait_told(lab, deployment.accounts["a"], "Released")
