"""Health: who makes way for whom, and who does not; what standbys see; what `vipmanager status` says of it all."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab.lab import Lab
from tests.scenario.nodeport_support import WORKERS, annotation, renewals, running, take
from tests.scenario.support import until

pytestmark = pytest.mark.namespaces

VIP = "10.10.1.80"
CHECKED: dict[str, object] = {"FLOATING_IP": VIP, "HealthCheck": "tcp://:30007", "HealthThreshold": 2}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """For one Deployment after the other."""
    with Lab(workers=WORKERS, kube=True) as made:
        yield made


# The holder's own check


@pytest.mark.parametrize("check", ["tcp://:30007", "http://:30007/healthz"])
def test_a_holder_whose_check_fails_makes_way_for_a_healthy_node(lab: Lab, check: str) -> None:
    """It offers the lease and goes on; the standby asks for it; the address is off before it is on again."""
    with running(lab, "ac", **(CHECKED | {"HealthCheck": check})) as nodes:
        holder, other = nodes.settle()
        nodes.responders[holder].close()
        nodes.wait_holder(other)
        nodes.assert_only(other)
        before = nodes.runs[holder]
        (offered,) = before.events("lease offered")
        assert f"{lab.workers[holder].address}:30007" in offered["why"]
        assert before.events("lease wanted", by=f"np-{other}")
        (released,) = before.events("lease released")
        assert f"yielded to np-{other}" in released["why"]
        until(lambda: "in a row" in nodes.status(holder)["health"], "its status says why it is unfit")
        assert not annotation(lab, "offered")
        assert not annotation(lab, "wanted-by")


def test_where_no_node_is_healthy_the_address_stays(lab: Lab) -> None:
    """It is offered and nobody asks for it, renewal after renewal; when the check is good again, the offer ends."""
    with running(lab, "ac", **CHECKED) as nodes:
        holder, other = nodes.settle()
        nodes.responders[other].close()
        until(lambda: nodes.status(other)["health"], "the standby is unfit")
        nodes.responders[holder].close()
        until(lambda: annotation(lab, "offered"), "the lease is offered")
        renewals(lab, f"np-{holder}", 8)
        assert not annotation(lab, "wanted-by")
        assert nodes.on_interfaces(VIP) == [holder]
        assert lab.ping("peer1", VIP, count=5)
        nodes.responders[holder] = lab.workers[holder].serve_http(30007)
        nodes.runs[holder].wait("lease offered no more")
        until(lambda: not annotation(lab, "offered"), "the offer is withdrawn")
        assert nodes.wait_holder() == holder
        nodes.assert_only(holder)


def test_an_offer_is_taken_by_a_node_that_becomes_healthy_later(lab: Lab) -> None:
    """Also by one that comes later."""
    with running(lab, "ac", **CHECKED) as nodes:
        nodes.start("a")
        nodes.wait_holder("a")
        nodes.responders["c"].close()
        nodes.start("c")
        until(lambda: nodes.status("c").get("health", "").startswith("tcp "), "the standby is unfit")
        nodes.responders["a"].close()
        until(lambda: annotation(lab, "offered"), "the lease is offered")
        renewals(lab, "np-a", 3)
        nodes.responders["c"] = lab.workers["c"].serve_http(30007)
        nodes.wait_holder("c")
        nodes.assert_only("c")


def test_a_single_failure_is_forgiven(lab: Lab) -> None:
    """Below HealthThreshold nothing is offered, whatever the status says."""
    with running(lab, "ac", **(CHECKED | {"HealthThreshold": 1000})) as nodes:
        holder, _ = nodes.settle()
        nodes.responders[holder].close()
        until(lambda: "in a row" in nodes.status(holder)["health"], "the check has failed")
        renewals(lab, f"np-{holder}", 4)
        assert not annotation(lab, "offered")
        nodes.responders[holder] = lab.workers[holder].serve_http(30007)
        until(lambda: not nodes.status(holder)["health"], "one success makes it good")
        nodes.assert_only(holder)
        assert not nodes.runs[holder].events("lease offered")


# What a standby sees


def test_a_standby_says_that_the_address_does_not_answer(lab: Lab) -> None:
    """Somebody has moved it to where nobody has it on an interface, and the holder may not take it back at first."""
    with running(lab, "ac", FLOATING_IP=VIP, HealthThreshold=1000, ResyncInterval=1) as nodes:
        nodes.start("a")
        nodes.wait_holder("a")
        lab.ec2.faults.deny("ec2:AssignPrivateIpAddresses")
        take(lab, "c", VIP)
        nodes.start("c")
        nodes.runs["c"].wait("probe", address=VIP, result="does not answer", holder="np-a")
        until(lambda: [item["answers"] for item in nodes.status("c")["floating"]] == [False], "the status says so")
        lab.ec2.faults.clear()
        nodes.runs["c"].wait("probe", address=VIP, result="answers")
        assert nodes.wait_holder() == "a"


# Status


def test_status_of_the_holder_and_of_the_standby(lab: Lab) -> None:
    """Words for people, JSON for programs."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        holder, other = nodes.settle()
        shown = nodes.launch("status", worker=holder)
        assert shown.ends() == 0
        first, *lines = shown.text.splitlines()
        assert first.split() == ["MASTER", f"np-{holder}"]
        eni = lab.workers[holder].eni(0).eni_id
        assert any(line.split() == [VIP, "delivered", "on", eni, "eth0"] for line in lines)
        assert any(line.startswith("holder") and f"np-{holder}, since 20" in line for line in lines)
        assert any(line.startswith("last change") for line in lines)

        shown = nodes.launch("status", worker=other)
        assert shown.ends() == 0
        assert shown.text.split()[:4] == ["BACKUP", f"np-{other}", "holder", f"np-{holder},"]
        assert "held by another node" in shown.text


def test_status_after_a_failover_says_what_happened(lab: Lab) -> None:
    """First the holder's node dies, then the pod that took over is deleted."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        holder, other = nodes.settle()
        nodes.kill(holder)
        nodes.wait_holder(other)
        shown = nodes.launch("status", "--json", worker=other)
        assert shown.ends() == 0
        status = json.loads(shown.text)
        assert (status["role"], status["holder"], status["transitions"]) == ("MASTER", f"np-{other}", 1)
        assert f"took over from np-{holder}: its lease expired" in status["why"]
        assert status["since"] > 0
        assert [(item["name"], item["state"]) for item in status["floating"]] == [(VIP, "delivered")]
        assert status["running"]

        dead = nodes.launch("status", worker=holder)
        assert dead.ends() == 1
        assert dead.text.startswith("NOT RUNNING")

        nodes.start(holder)
        nodes.wait_standby(holder, other)
        nodes.stop(other)
        nodes.wait_holder(holder)
        shown = nodes.launch("status", "--json", worker=holder)
        assert shown.ends() == 0
        status = json.loads(shown.text)
        assert (status["role"], status["transitions"]) == ("MASTER", 2)
        assert status["why"] == f"np-{other} released it"


def test_status_without_a_process_says_so(lab: Lab) -> None:
    """The exit code is for probes."""
    with running(lab, "b", FLOATING_IP="10.10.2.80") as nodes:
        shown = nodes.launch("status", worker="b", StateDir="/nowhere")
        assert shown.ends() == 1
        assert "no status in /nowhere/status.json" in shown.text
