"""What floats and how: each mode through a hand-over, a dead node and a restart, shown on packets and in EC2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from lab.lab import Lab
from tests.scenario.nodeport_support import WORKERS, Nodes

pytestmark = pytest.mark.namespaces


@dataclass(frozen=True)
class Case:
    """A mode, what floats, and between which two workers."""

    name: str
    workers: str
    floating: str
    settings: dict[str, object] = field(default_factory=dict)

    def nodes(self, lab: Lab) -> Nodes:
        """The Deployment."""
        return Nodes(lab, self.workers, FLOATING_IP=self.floating, **self.settings)


SUBNET: dict[str, object] = {"FloatingMode": "subnet", "FloatingSubnetCidr": "10.10.200.0/28"}
CASES = (
    Case("address, IPv4, on an ENI that is not the first", "ac", "10.10.11.80"),
    Case("address, IPv6", "ac", "{address6}"),
    Case("address, IPv4 and IPv6", "ac", "10.10.1.80, {address6}"),
    Case("address, IPv4 with an Elastic IP", "ac", "10.10.1.80,{eip}"),
    Case("Elastic IP alone, two zones", "ab", "{eip}"),
    Case("route, two zones", "ab", "192.168.0.80,fd12::80", {"FloatingMode": "route"}),
    Case("eni", "ac", "10.10.1.80", {"FloatingMode": "eni"}),
    Case("subnet with an Elastic IP, two zones", "ab", "10.10.200.5,{eip}", SUBNET),
    Case("subnet, the CIDR new to the VPC", "ab", "10.20.1.5", {**SUBNET, "FloatingSubnetCidr": "10.20.1.0/28"}),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """EC2 takes a moment to attach and to detach, as it does."""
    with Lab(workers=WORKERS, internet=True, kube=True) as made:
        yield made


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def deployment(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    """One for all tests of a mode, each of which leaves a holder and a standby."""
    lab.ec2.attach_delay, lab.ec2.detach_delay, lab.ec2.cidr_delay = 0.3, 0.6, 0.5
    nodes = request.param.nodes(lab)
    nodes.start()
    yield nodes
    nodes.close()


@pytest.fixture
def nodes(deployment: Nodes) -> Iterator[Nodes]:
    """The Deployment; what it has logged is shown when the test fails."""
    yield deployment
    print(deployment.logs())


def test_of_two_that_start_at_once_one_holds(nodes: Nodes) -> None:
    """The other stands by."""
    holder, other = nodes.settle()
    nodes.assert_only(holder)
    assert nodes.status(other)["holder"] == f"np-{holder}"


def test_cordon_and_pod_delete_hand_over(nodes: Nodes) -> None:
    """SIGTERM: the standby takes it at once, and the pod that replaces the deleted one becomes the standby."""
    holder, other = nodes.settle()
    nodes.stop(holder)
    assert nodes.runs[holder].events("stopped", what="lease released")
    nodes.wait_holder(other)
    nodes.assert_only(other)
    nodes.start(holder, pod=f"np-{holder}-new")
    nodes.wait_standby(holder, other)
    nodes.assert_only(other)


def test_a_holder_that_is_cut_off_is_followed(nodes: Nodes) -> None:
    """It has lost the Kubernetes API, EC2 and the VPC: it steps down by itself, and stays down when it is back."""
    holder, other = nodes.settle()
    nodes.lab.cut(holder)
    nodes.wait_holder(other)
    nodes.assert_only(other)
    nodes.runs[holder].wait("role", role="BACKUP")
    nodes.lab.restore(holder)
    nodes.wait_standby(holder, other)
    nodes.assert_only(other)


def test_after_a_kill_and_a_restart_one_holds(nodes: Nodes) -> None:
    """The container runtime restarts it: it goes on, or the other does if that took longer than the lease lasts."""
    holder, _ = nodes.settle()
    nodes.kill(holder)
    nodes.start(holder)
    now, other = nodes.settle()
    nodes.assert_only(now)
    assert nodes.status(other)["role"] == "BACKUP"
