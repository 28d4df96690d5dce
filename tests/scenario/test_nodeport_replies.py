"""NodePorts at a floating address that is not on the primary ENI: replies must leave by its ENI, or EC2 drops them.

The source/dest check of all ENIs is on, as it is by default.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from lab import links
from lab.kubeproxy import KubeProxy, ServicePod
from lab.lab import Lab
from tests.scenario.nodeport_support import WORKERS, Nodes, ask, running
from vipmanager.clients.marks import read_marks
from vipmanager.model_node import MARK_MASK

pytestmark = pytest.mark.namespaces

NODES = "ac"
IN_POD, IN_POD_LOCAL, IN_POD_ELSEWHERE, ON_HOST = 30101, 30102, 30103, 30104
BACKEND = 8080


@dataclass(frozen=True)
class Case:
    """A mode, and what floats."""

    name: str
    mode: str
    floating: str


CASES = (
    Case("eni", "eni", "10.10.1.80,{address6},{eip}"),
    Case("address on the second ENI", "address", "10.10.11.80,{eip}"),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two workers, each with NodePorts for a pod of its own, for the other's pod, and for itself."""
    with Lab(workers=WORKERS, internet=True, kube=True) as made, ExitStack() as stack:
        pods = {
            name: ServicePod(made, made.workers[name], f"pod-{name}", f"10.10.1.6{number}")
            for number, name in enumerate(NODES)
        }
        for pod in pods.values():
            stack.callback(pod.close)
            pod.serve_http(BACKEND)
        for name in NODES:
            worker, proxy = made.workers[name], KubeProxy(made.workers[name])
            (other,) = set(NODES) - {name}
            worker.serve_http(BACKEND)
            proxy.node_port(IN_POD, pods[name].address, BACKEND)
            proxy.node_port(IN_POD_LOCAL, pods[name].address, BACKEND, local=True)
            proxy.node_port(IN_POD_ELSEWHERE, pods[other].address, BACKEND)
            proxy.node_port(ON_HOST, worker.address, BACKEND)
            proxy.node_port(ON_HOST, str(worker.address6), BACKEND)
        yield made


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def nodes(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    """A Deployment."""
    case: Case = request.param
    with running(lab, NODES, FloatingMode=case.mode, FLOATING_IP=case.floating) as made:
        yield made


def test_replies_leave_by_the_floating_eni(lab: Lab, nodes: Nodes) -> None:
    """From pods here and elsewhere, from the node itself, to the VPC and the internet; and after a hand-over."""
    nodes.start("a")
    nodes.wait_holder("a")
    nodes.start("c")
    nodes.wait_standby("c", "a")
    assert_replies(lab, nodes, "a", "c")
    nodes.stop("a")
    nodes.wait_holder("c")
    assert_replies(lab, nodes, "c", "a")
    assert marks(lab, "c")
    assert not marks(lab, "a")


def test_what_a_killed_process_has_left_is_put_right(lab: Lab, nodes: Nodes) -> None:
    """It is harmless where it stands; the next process on that node takes it over, or away."""
    nodes.start("a")
    nodes.wait_holder("a")
    nodes.start("c")
    nodes.wait_standby("c", "a")
    left = marks(lab, "a")
    nodes.kill("a")
    nodes.wait_holder("c")
    assert_replies(lab, nodes, "c", "a")
    assert marks(lab, "a") == left
    nodes.start("a")
    nodes.wait_standby("a", "c")
    assert not marks(lab, "a")


def assert_replies(lab: Lab, nodes: Nodes, holder: str, other: str) -> None:
    """Each NodePort answers, with the right backend, and the holder's primary ENI has had no reply to drop.

    (The other node may be repeating the end of a connection that did not live to see the hand-over.)
    """
    began = time.monotonic()
    for address in nodes.addresses:
        assert ask(lab, "peer1", address, ON_HOST) == holder
    ipv4 = nodes.addresses[0]
    public = lab.ec2.state().elastic_ips[nodes.eips[0]].public_ip
    for host, address in (("peer1", ipv4), ("peer2", ipv4), ("internet", public)):
        assert ask(lab, host, address, IN_POD) == f"pod-{holder}"
        assert ask(lab, host, address, IN_POD_LOCAL) == f"pod-{holder}"
        assert ask(lab, host, address, IN_POD_ELSEWHERE) == f"pod-{other}"
    primary = lab.workers[holder].eni(0).eni_id
    assert lab.ec2.state().enis[primary].source_dest_check
    assert not [drop for drop in lab.router.last_drops if drop.when > began and drop.eni_id == primary]


def marks(lab: Lab, worker: str) -> list[object]:
    """The tables and rules for marks that a worker has."""
    ns = lab.workers[worker].ns
    rules = links.netlink(ns, lambda iproute: [*iproute.get_rules(family=2), *iproute.get_rules(family=10)])
    found = [(rule["family"], rule.get("FRA_FWMARK")) for rule in rules if rule.get("FRA_FWMASK") == MARK_MASK]
    return [*ns.run(read_marks).items(), *found]
