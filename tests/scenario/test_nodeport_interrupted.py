"""Mode `subnet` makes eight writes to move to another zone. Whoever comes next finishes what a dead node has begun."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lab.lab import Lab
from tests.scenario.nodeport_support import WORKERS, Nodes
from tests.scenario.support import until

pytestmark = pytest.mark.namespaces

MOVE = (
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "DeleteSubnet",
    "CreateSubnet",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "AssociateAddress",
)
"""What mode `subnet` asks of EC2 to move to another zone."""


@pytest.fixture(scope="module")
def deployment() -> Iterator[Nodes]:
    """A subnet between two zones, and an EC2 that takes a moment to attach and to detach."""
    with Lab(workers=WORKERS, internet=True, kube=True) as lab:
        lab.ec2.attach_delay, lab.ec2.detach_delay = 0.1, 0.2
        cidr: dict[str, object] = {"FloatingMode": "subnet", "FloatingSubnetCidr": "10.10.201.0/28"}
        nodes = Nodes(lab, "ab", FLOATING_IP="10.10.201.5,{eip}", **cidr)
        yield nodes
        nodes.close()


@pytest.fixture
def nodes(deployment: Nodes) -> Iterator[Nodes]:
    """The Deployment; what it has logged is shown when the test fails."""
    yield deployment
    print(deployment.logs())


def test_a_subnet_moves_to_another_zone_by_eight_writes(nodes: Nodes) -> None:
    """Each of them once: the tests below interrupt it after each."""
    holder, other = nodes.settle()
    mark = nodes.lab.ec2.mark()
    nodes.stop(holder)
    nodes.wait_holder(other)
    assert sorted(nodes.writes(mark)) == sorted(MOVE)


@pytest.mark.parametrize("write", MOVE)
def test_a_subnets_move_is_finished_by_another_node(nodes: Nodes, write: str) -> None:
    """The node that moves it is killed when EC2 has done a step and before it knows; the other one goes on there."""
    holder, other = nodes.settle()
    lab, done = nodes.lab, threading.Event()
    lab.ec2.faults.hang(write, 60, when=lambda _: not done.set())  # asked for after the call has been applied
    nodes.stop(holder)
    until(done.is_set, lambda: f"{write} by {other}\n{nodes.logs()}")
    nodes.kill(other)
    lab.ec2.faults.clear()
    nodes.start(holder)
    nodes.wait_holder(holder)
    nodes.assert_only(holder)
