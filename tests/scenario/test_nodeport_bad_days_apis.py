"""Days when an API goes wrong: Kubernetes away for one node or for all, EC2 throttling, hanging or away, no IMDS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.lab import Lab
from tests.scenario.nodeport_support import MASTER, WORKERS, annotation, renewals, running
from tests.scenario.support import until

pytestmark = pytest.mark.namespaces

VIP = "10.10.1.80"
ROUTED: dict[str, object] = {"FLOATING_IP": "192.168.0.80", "FloatingMode": "route"}
UPDATE = "leases.coordination.k8s.io:update"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """For one Deployment after the other."""
    with Lab(workers=WORKERS, internet=True, kube=True) as made:
        yield made


# Kubernetes


@pytest.mark.parametrize("refuse", [True, False], ids=["refused", "silent"])
def test_the_kubernetes_api_is_away_for_longer_than_the_lease(lab: Lab, refuse: bool) -> None:
    """The holder steps down in time, nobody takes over, and when the API is back one node does."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        holder, other = nodes.settle()
        lab.kube.cut_all(refuse=refuse)
        role = nodes.runs[holder].wait("role", role="BACKUP")
        assert "1.5 s" in role["why"]  # its RenewDeadline
        until(lambda: nodes.on_interfaces(VIP) == [], "the address is off")
        nodes.runs[other].wait("lease call failed", call=UPDATE)  # the lease has run out, it would take it
        assert not nodes.runs[other].events("role", role="MASTER")
        lab.kube.restore_all()
        now = nodes.wait_holder()
        nodes.wait_standby(nodes.other(now), now)
        nodes.assert_only(now)
        assert nodes.runs[holder].events("lease calls work again")


def test_the_kubernetes_api_is_away_for_one_node_and_then_for_the_other(lab: Lab) -> None:
    """Each time the one that has it takes over; the one that lost it keeps off."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        holder, other = nodes.settle()
        lab.kube.faults(holder).hang()
        nodes.wait_holder(other)
        nodes.assert_only(other)
        assert "could not renew" in nodes.runs[holder].events("lease lost")[0]["why"]
        lab.kube.faults(holder).clear()
        nodes.wait_standby(holder, other)
        lab.kube.faults(other).refuse()
        nodes.wait_holder(holder)
        nodes.assert_only(holder)
        lab.kube.faults(other).clear()
        nodes.wait_standby(other, holder)


def test_a_hiccup_of_the_kubernetes_api_changes_nothing(lab: Lab) -> None:
    """Connections are reset, and the next renewal gets through before the deadline."""
    with running(lab, "ac", FLOATING_IP=VIP, RenewDeadline=10, LeaseDuration=11) as nodes:
        holder, other = nodes.settle()
        lab.kube.cut_all(refuse=True)
        nodes.runs[holder].wait("lease call failed", call=UPDATE)
        lab.kube.restore_all()
        nodes.runs[holder].wait("lease calls work again")
        nodes.wait_standby(other, holder)
        nodes.assert_only(holder)
        assert nodes.status(holder)["transitions"] == 0
        assert len(nodes.runs[holder].events("role")) == 1


def test_pods_that_start_without_the_kubernetes_api_wait_for_it(lab: Lab) -> None:
    """Nothing is touched until then."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        lab.kube.cut_all(refuse=True)
        mark = lab.ec2.mark()
        nodes.start()
        for worker in "ac":
            nodes.runs[worker].wait("lease call failed")
        assert nodes.on_interfaces(VIP) == []
        assert nodes.writes(mark) == []
        lab.kube.restore_all()
        nodes.assert_only(nodes.wait_holder())


def test_a_holder_is_deleted_while_the_kubernetes_api_is_away(lab: Lab) -> None:
    """It cannot release the lease and says so; the address is off all the same, and the lease runs out."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        holder, other = nodes.settle()
        lab.kube.faults(holder).hang()
        nodes.stop(holder)
        assert "not released" in nodes.runs[holder].events("stopped")[0]["what"]
        nodes.wait_holder(other)
        nodes.assert_only(other)


# EC2


def test_throttling_in_the_middle_of_a_move_is_waited_out(lab: Lab) -> None:
    """Two of four tables are written, then EC2 has had enough for a while: each failed call is repeated, no other."""
    with running(lab, "ab", **ROUTED) as nodes:
        nodes.start("a")
        nodes.wait_holder("a")
        mark = lab.ec2.mark()
        nodes.start("b")
        until(lambda: lab.ec2.calls_since(mark, "DescribeRouteTables"), "the standby has seen the routes")
        nodes.wait_standby("b", "a")
        late = set(lab.route_table_ids[2:])
        lab.ec2.faults.fail(
            "ReplaceRoute", "RequestLimitExceeded", times=6, when=lambda params: params["RouteTableId"] in late
        )
        nodes.stop("a")
        nodes.wait_holder("b")
        nodes.assert_only("b")
        assert len(lab.ec2.calls_since(mark, "ReplaceRoute", "CreateRoute")) == len(lab.route_table_ids) + 6
        assert len(nodes.runs["b"].mentions("RequestLimitExceeded")) <= len(late)  # the same is said once


def test_throttling_of_every_call_in_the_middle_of_an_enis_move(lab: Lab) -> None:
    """Reads too: what failed is repeated with growing pauses, until the ENI is there."""
    with running(lab, "ac", FLOATING_IP=VIP, FloatingMode="eni") as nodes:
        lab.ec2.attach_delay, lab.ec2.detach_delay = 0.1, 0.2
        holder, other = nodes.settle()
        for action, times in (("DescribeNetworkInterfaces", 5), ("AttachNetworkInterface", 3)):
            lab.ec2.faults.fail(action, "RequestLimitExceeded", times=times)
        mark = lab.ec2.mark()
        nodes.stop(holder)
        nodes.wait_holder(other)
        nodes.assert_only(other)
        assert sorted(nodes.writes(mark)) == [*["AttachNetworkInterface"] * 4, "DetachNetworkInterface"]


def test_a_lost_answer_of_a_write_is_found_out(lab: Lab) -> None:
    """The call was applied and the connection reset: it is repeated or looked up, and nothing is made twice."""
    with running(lab, "ac", FLOATING_IP=VIP, FloatingMode="eni") as nodes:
        lab.ec2.faults.fail_after("CreateNetworkInterface")
        lab.ec2.faults.fail_after("AttachNetworkInterface")
        holder, other = nodes.settle()
        nodes.assert_only(holder)
        lab.ec2.faults.fail_after("DetachNetworkInterface")
        nodes.stop(holder)
        nodes.wait_holder(other)
        nodes.assert_only(other)


def test_ec2_hangs_for_the_new_holder(lab: Lab) -> None:
    """The call was applied, its answer does not come: clients get through, and a check of EC2 shows that it stands."""
    with running(lab, "ac", FLOATING_IP=VIP, ResyncInterval=1) as nodes:
        holder, other = nodes.settle()
        lab.ec2.faults.hang("AssignPrivateIpAddresses", 60)
        nodes.stop(holder)
        nodes.wait_holder(other)
        nodes.assert_only(other)


def test_ec2_is_away_while_the_holder_changes(lab: Lab) -> None:
    """The new one has the lease and waits; when EC2 is back it finishes, without a restart."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        holder, other = nodes.settle()
        lab.ec2.faults.block()
        nodes.stop(holder)
        until(lambda: nodes.status(other).get("role") == MASTER, nodes.logs)
        until(lambda: [item["state"] for item in nodes.status(other)["floating"]] != ["delivered"], nodes.logs)
        lab.ec2.faults.unblock()
        nodes.wait_holder(other)
        nodes.assert_only(other)


def test_ec2_is_away_and_nothing_has_to_move(lab: Lab) -> None:
    """The address stays where it is: another node could not have EC2 deliver it, even one that has not noticed yet."""
    with running(lab, "ac", FLOATING_IP=VIP, HealthThreshold=2) as nodes:
        nodes.start("a", ResyncInterval=1)
        nodes.wait_holder("a")
        nodes.start("c")
        nodes.wait_standby("c", "a")
        mark = lab.ec2.mark()
        lab.ec2.faults.fail("*", "Unavailable", times=None)
        until(lambda: len(lab.ec2.calls_since(mark)) >= 6, "it has tried to look again and again")
        renewals(lab, "np-a", 10)  # several checks of its health later
        assert not annotation(lab, "offered")
        assert nodes.on_interfaces(VIP) == ["a"]
        assert nodes.answering(VIP) == "a"
        lab.ec2.faults.clear()
        until(lambda: not nodes.status("a")["health"], "it is well again")
        nodes.assert_only("a")


def test_describes_that_lag_do_not_make_it_write_twice(lab: Lab) -> None:
    """EC2's reads are behind its writes."""
    with running(lab, "ac", FLOATING_IP=VIP, ResyncInterval=1) as nodes:
        holder, other = nodes.settle()
        lab.ec2.lag = 1.0
        mark = lab.ec2.mark()
        nodes.stop(holder)
        nodes.wait_holder(other)
        until(lambda: len(lab.ec2.calls_since(mark, "DescribeNetworkInterfaces")) >= 3, "it has looked again")
        lab.ec2.lag = 0.0
        nodes.assert_only(other)
        assert nodes.writes(mark) == ["AssignPrivateIpAddresses"]


# IMDS


@pytest.mark.parametrize("imds", ["refused", "silent"])
def test_without_imds_ec2_tells_who_the_node_is(lab: Lab, imds: str) -> None:
    """A hop limit of 1 does not concern the host network, a disabled IMDS does."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        if imds == "refused":
            lab.imds.refuse()
        else:
            lab.imds.block()
        holder, other = nodes.settle()
        nodes.assert_only(holder)
        nodes.stop(holder)
        nodes.wait_holder(other)
        nodes.assert_only(other)
