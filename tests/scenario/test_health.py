"""/healthz, /readyz and /metrics of real processes: true at the moment they are asked, and only where they may be."""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.host import Host
from lab.lab import Lab
from lab.netns import Namespace
from tests.scenario.nodeport_support import WORKERS as NODES
from tests.scenario.nodeport_support import Nodes, running
from tests.scenario.support import (
    BOUND,
    ONE_AZ,
    Run,
    assert_answers,
    eni,
    init,
    own_address6,
    sidecar,
    start,
    start_by,
    until,
)

pytestmark = pytest.mark.namespaces

PORT = 8086
ONE, TWO, THREE = "192.168.0.1", "192.168.0.2", "192.168.0.3"
STUCK_SITE = Path(__file__).with_name("stuck_site")
VIP = "10.10.1.80"
VIPS = f"{VIP}, {{address6}}"

Labels = tuple[str, ...]


def ask(ns: Namespace, address: str, path: str, port: int = PORT) -> tuple[int, str]:
    """Status and body, asked from a namespace. Status 0: nothing answers there."""

    def get() -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection(address, port, timeout=BOUND)) as connection:
            try:
                connection.request("GET", path)
                response = connection.getresponse()
            except (ConnectionError, http.client.HTTPException):
                return 0, ""
            return response.status, response.read().decode()

    return ns.run(get)


def inside(host: Host, path: str, port: int = PORT) -> tuple[int, str]:
    """The same, asked within the pod or node."""
    return ask(host.ns, "127.0.0.1", path, port)


def metrics(host: Host, port: int = PORT) -> dict[tuple[str, Labels], float]:
    """(name, the labels' values by their names' order) → value."""
    status, text = inside(host, "/metrics", port)
    assert status == 200
    families = text_string_to_metric_families(text)
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def wait_ready(host: Host) -> None:
    """Wait until /readyz says 200."""
    until(lambda: inside(host, "/readyz")[0] == 200, lambda: f"ready: {inside(host, '/readyz')}")


# Sidecar


def test_ready_means_that_the_addresses_work(lab: Lab) -> None:
    """While EC2 refuses, /readyz says why; when it first says 200, a peer's packets arrive."""
    lab.ec2.faults.deny("ec2:CreateRoute")
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"], "net2": [f"{TWO}/32"]})
    start(pod, "sidecar")
    until(lambda: "CreateRoute" in inside(pod, "/readyz")[1], "the refusal is a reason")
    status, why = inside(pod, "/readyz")
    assert status == 503
    assert ONE in why
    assert inside(pod, "/healthz") == (200, "ok\n")
    lab.ec2.faults.clear()
    wait_ready(pod)
    assert_answers(lab, ONE, TWO)


def test_a_standby_is_ready_and_an_address_that_comes_makes_it_unready_until_it_works(lab: Lab) -> None:
    """A startup probe must not wait for an address that the application itself will add."""
    pod = lab.pod("pod", "a", {"net1": [], "net2": []})
    start(pod, "sidecar")
    wait_ready(pod)
    lab.ec2.faults.block()
    pod.add_address("net1", f"{ONE}/32")
    until(lambda: ONE in inside(pod, "/readyz")[1], "the address is a reason")
    assert inside(pod, "/readyz")[0] == 503
    lab.ec2.faults.unblock()
    wait_ready(pod)
    assert_answers(lab, ONE)


def test_a_loop_that_does_not_come_round_is_not_healthy(lab: Lab) -> None:
    """The thread that answers goes on; what it says of the loop is true."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    stuck = pod.directory / "stuck"
    path = f"{STUCK_SITE}{os.pathsep}{pod.env['PYTHONPATH']}"
    sidecar(pod, ONE, env={"PYTHONPATH": path, "STUCK": str(stuck)})
    assert inside(pod, "/healthz") == (200, "ok\n")
    stuck.touch()
    pod.add_address("net1", f"{TWO}/32")
    until(lambda: inside(pod, "/healthz")[0] == 503, "it is stuck")
    for asked in ("/healthz", "/readyz"):
        status, why = inside(pod, asked)
        assert status == 503
        assert "the loop" in why
    assert metrics(pod)["vipmanager_loop_age_seconds", ()] > 0
    for argument in ("--ready", "--json"):
        command = pod.vipmanager(["status", argument], {})
        assert command.wait(BOUND) == 1
        assert "the loop has not come round" in command.output()
    stuck.unlink()
    until(lambda: inside(pod, "/healthz")[0] == 200, "it goes on")
    wait_ready(pod)
    assert_answers(lab, TWO)


def test_metrics_tell_what_happened(make_lab) -> None:  # type: ignore[no-untyped-def]
    """A claim, a throttle, a concession, by numbers that the lab's own record of the calls confirms."""
    lab: Lab = make_lab(workers=ONE_AZ)
    end = lab.ec2.faults.throttle("DescribeRouteTables", bucket=0, refill=0.0001)
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{TWO}/32"]})
    run = start(pod, "sidecar", ResyncInterval=1)
    until(
        lambda: metrics_or_none(pod).get(("vipmanager_ec2_throttles_total", ("DescribeRouteTables",)), 0) >= 1,
        "throttled",
    )
    end()
    for address in (ONE, TWO):
        run.wait("claimed", address=address)
    wait_ready(pod)
    found = metrics(pod)
    routes = len(lab.route_table_ids) * 2
    assert found["vipmanager_claims_total", ()] == 2
    assert found["vipmanager_addresses", ("host-route", "claimed")] == 2
    assert found["vipmanager_actions_total", ("route", "ok")] == routes
    assert found["vipmanager_ec2_calls_total", ("ok", "CreateRoute")] == routes
    assert found["vipmanager_ec2_call_seconds_count", ("CreateRoute",)] == routes
    assert found["vipmanager_ec2_calls_total", ("RequestLimitExceeded", "DescribeRouteTables")] >= 1
    assert found["vipmanager_ready", ()] == 1
    assert found["vipmanager_convergence_seconds_count", ()] >= 1
    assert found["vipmanager_build_info", ("sidecar", "0.1.0")] == 1

    init(lab.pod("taker", "c", {"net1": [f"{ONE}/32"]}))
    run.wait("conceded", address=ONE, to=eni(lab, "c", 1))
    until(
        lambda: metrics(pod).get(("vipmanager_addresses", ("host-route", "conceded"))) == 1, lambda: str(metrics(pod))
    )
    assert metrics(pod)["vipmanager_concessions_total", ()] == 1
    assert metrics(pod)["vipmanager_addresses", ("host-route", "claimed")] == 1


def metrics_or_none(host: Host) -> dict[tuple[str, Labels], float]:
    """As metrics(), and empty while nothing is served yet."""
    return metrics(host) if inside(host, "/metrics")[0] == 200 else {}


def test_floating_addresses_do_not_answer(lab: Lab) -> None:
    """Peers reach the application there, and nothing of vipmanager's; the pod's own address and loopback do answer."""
    address6 = own_address6(lab, "a", 1, 0x80)
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{address6}/128"]})
    sidecar(pod, ONE, address6)
    wait_ready(pod)
    peer = lab.host("peer1").ns
    for address in (ONE, address6):
        assert lab.ping("peer1", address, count=5)
        assert ask(peer, address, "/healthz") == (0, "")
        assert ask(pod.ns, address, "/healthz") == (0, "")
    assert ask(pod.ns, pod.address, "/healthz") == (200, "ok\n")
    assert ask(pod.ns, "127.0.0.1", "/healthz") == (200, "ok\n")
    assert ask(pod.ns, "::1", "/healthz") == (200, "ok\n")


def test_an_address_that_comes_later_does_not_answer_either(lab: Lab) -> None:
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod, ONE)
    pod.add_address("net1", f"{TWO}/32")
    run.wait("claimed", address=TWO)
    assert lab.ping("peer1", TWO, count=5)
    assert ask(lab.host("peer1").ns, TWO, "/readyz") == (0, "")


def test_a_port_that_is_taken_is_no_reason_not_to_work(lab: Lab) -> None:
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    other = pod.serve_http(PORT, "another")
    try:
        run = sidecar(pod, ONE)
        refused = run.wait("not serving", port=PORT)
        assert "HealthPort" in refused["remedy"]
        assert inside(pod, "/healthz") == (200, "another")
        pod.add_address("net1", f"{TWO}/32")
        run.wait("claimed", address=TWO)
        assert len(run.events("not serving")) == 1
        command = pod.vipmanager(["status", "--ready"], {})
        assert command.wait(BOUND) == 0, f"it does not take the other's answer for its own: {command.output()}"
    finally:
        other.close()


def test_another_port_and_none(lab: Lab) -> None:
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod, ONE, HealthPort=8087)
    assert inside(pod, "/healthz", 8087) == (200, "ok\n")
    assert inside(pod, "/healthz") == (0, "")
    assert run.stop() == 0
    off = sidecar(pod, HealthPort=0)
    off.wait("interface", name="net1")
    assert listening(off) == set()


def listening(run: Run) -> set[int]:
    """The TCP ports on which anything listens in the namespace of a process."""
    tables = [Path(f"/proc/{run.container.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}  # TCP_LISTEN


def test_an_init_run_neither_listens_nor_imports_what_would(lab: Lab) -> None:
    """Its start-up is failover time. A sidecar does not import what only a scrape needs."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    lab.ec2.faults.block()
    run = start_by(lab, pod, sys.executable, "-X", "importtime", "-m", "vipmanager", "init")
    until(lambda: "botocore.client" in run.text, "it has asked EC2")
    assert listening(run) == set()
    lab.ec2.faults.unblock()
    assert run.ends() == 0, run.text
    assert imported(run).isdisjoint({"vipmanager.serve", "vipmanager.metrics", "prometheus_client", "http.server"})

    run = start_by(lab, pod, sys.executable, "-X", "importtime", "-m", "vipmanager", "sidecar")
    wait_ready(pod)
    assert "vipmanager.serve" in imported(run)
    assert imported(run).isdisjoint({"prometheus_client", "http.server"})
    assert metrics(pod)
    assert "prometheus_client" in imported(run)


def imported(run: Run) -> set[str]:
    """The modules that a process with `-X importtime` has imported so far."""
    lines = run.text.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


# Nodeport


@pytest.fixture(scope="module")
def node_lab() -> Iterator[Lab]:
    """For one Deployment after the other."""
    with Lab(workers=NODES, kube=True) as made:
        yield made


def test_the_holder_and_the_standby_are_ready(node_lab: Lab) -> None:
    """On the node's own address, of either family, and never on what floats."""
    with running(node_lab, "ac", FLOATING_IP=VIPS) as nodes:
        holder, other = nodes.settle()
        for each in (holder, other):
            wait_ready(node_lab.workers[each])
            own = node_lab.workers[each].eni(0)
            for address in (own.primary_ip, own.primary_ip6):
                assert ask(node_lab.workers[other].ns, str(address), "/healthz") == (200, "ok\n")
        for address in nodes.addresses:
            assert node_lab.ping("peer1", address, count=5)
            assert ask(node_lab.host("peer1").ns, address, "/healthz") == (0, "")
        assert holds(nodes) == {holder: 1.0, other: 0.0}
        found = metrics(node_lab.workers[holder])
        assert found["vipmanager_addresses", ("address", "delivered")] == 2
        assert found["vipmanager_build_info", ("nodeport", "0.1.0")] == 1
        nodes.stop(holder)
        nodes.wait_holder(other)
        (lease,) = holds_of(node_lab, other)
        assert lease.endswith("/vipmanager")
        found = metrics(node_lab.workers[other])
        assert found["vipmanager_holds", (lease,)] == 1
        assert found["vipmanager_lease_transitions_total", (lease,)] == 1
        until(
            lambda: metrics(node_lab.workers[other])["vipmanager_lease_renewals_total", (lease, "ok")] >= 1,
            "no renewal is counted",
        )


def holds(nodes: Nodes) -> dict[str, float]:
    """What each node says by vipmanager_holds of its only Lease."""
    found = {each: tuple(holds_of(nodes.lab, each).values()) for each in nodes.workers}
    return {each: value for each, (value,) in found.items()}


def holds_of(lab: Lab, worker: str) -> dict[str, float]:
    """vipmanager_holds by Lease."""
    found = metrics(lab.workers[worker])
    return {labels[0]: value for (name, labels), value in found.items() if name == "vipmanager_holds"}


def test_an_unfit_node_is_not_ready(node_lab: Lab) -> None:
    with running(node_lab, "ac", FLOATING_IP=VIP, HealthCheck="tcp://:30007", HealthThreshold=1) as nodes:
        _, other = nodes.settle()
        worker = node_lab.workers[other]
        wait_ready(worker)
        nodes.responders[other].close()
        until(lambda: inside(worker, "/readyz")[0] == 503, "it is unfit")
        assert "30007" in inside(worker, "/readyz")[1]
        assert inside(worker, "/healthz") == (200, "ok\n")
