"""Days when the node, its pod or somebody's hands go wrong: leftovers, restarts, terminated nodes, manual changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lab import links
from lab.lab import Lab
from tests.scenario.nodeport_support import LEASE, WORKERS, Nodes, interface_with, running, take
from tests.scenario.support import eni, point, until

pytestmark = pytest.mark.namespaces

VIP = "10.10.1.80"
ROUTED = "192.168.0.80"
SOON: dict[str, object] = {"ResyncInterval": 1}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """For one Deployment after the other."""
    with Lab(workers=WORKERS, internet=True, kube=True) as made:
        yield made


# Pods and nodes


def test_a_restarted_pod_finds_its_own_lease_and_address(lab: Lab) -> None:
    """With a lease that lasts longer than the test: no other node took part, and it was not waited out."""
    with running(lab, "ac", FLOATING_IP=VIP, LeaseDuration=120) as nodes:
        holder, other = nodes.settle()
        nodes.kill(holder)
        nodes.start(holder)
        nodes.wait_holder(holder)
        nodes.assert_only(holder)
        assert nodes.status(holder)["transitions"] == 0
        assert not nodes.runs[other].events("role", role="MASTER")


def test_a_node_that_restarts_without_its_pod_loses_the_address_by_the_kernel(lab: Lab) -> None:
    """kill -9 and no restart: nobody takes the address off but its lifetime, and that before another node has it."""
    with running(lab, "a", FLOATING_IP=VIP) as nodes:
        links.add_address(lab.workers["a"].ns, "eth0", f"{VIP}/24")  # of somebody's attempts by hand, without lifetime
        nodes.start()
        nodes.wait_holder("a")
        assert interface_with(lab, "a", VIP) == ("eth0", f"{VIP}/32")
        nodes.kill("a")
        until(lambda: nodes.on_interfaces(VIP) == [], "the kernel has taken it off")


@pytest.mark.parametrize("length", [32, 24])
def test_what_is_left_on_a_standbys_interface_is_taken_off(lab: Lab, length: int) -> None:
    """Before it starts and while it runs, whatever its prefix length."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        nodes.start("a")
        nodes.wait_holder("a")
        worker = lab.workers["c"]
        links.add_address(worker.ns, "eth0", f"{VIP}/{length}")
        nodes.start("c")
        nodes.runs["c"].wait("done", what=f"remove address={VIP} interface=eth0")
        nodes.wait_standby("c", "a")
        nodes.assert_only("a")
        links.add_address(worker.ns, "eth1", f"{VIP}/{length}")
        nodes.runs["c"].wait("done", what=f"remove address={VIP} interface=eth1")
        nodes.assert_only("a")


def test_a_terminated_node_lets_go_of_the_floating_eni(make_lab: Callable[..., Lab]) -> None:
    """EC2 has the ENI still attached for a while; it is taken by force, because the instance does not run any more."""
    lab = make_lab(workers=WORKERS, kube=True)
    lab.ec2.attach_delay, lab.ec2.detach_delay = 0.1, 0.2
    nodes = Nodes(lab, "ac", FLOATING_IP=VIP, FloatingMode="eni")
    holder, other = nodes.settle()
    lab.terminate(holder)
    nodes.wait_holder(other)
    nodes.assert_only(other)


def test_a_running_node_that_does_not_let_go_is_forced(lab: Lab) -> None:
    """The holder is cut off but runs; its kernel does not give the ENI back. Force is the last resort."""
    with running(lab, "ac", FLOATING_IP=VIP, FloatingMode="eni") as nodes:
        lab.ec2.detach_delay = 0.2
        holder, other = nodes.settle()
        lab.ec2.stuck_detach = True
        mark = lab.ec2.mark()
        nodes.stop(holder)
        nodes.wait_holder(other)
        nodes.assert_only(other)
        calls = lab.ec2.calls_since(mark, "DetachNetworkInterface")
        assert [call.params.get("Force", "false") for call in calls] == ["false", "true"]


# Somebody's hands


def given_to(lab: Lab, holder: str) -> bool:
    """Name another holder in the Lease; False where the present one has just renewed it."""
    lease = lab.kube.lease(LEASE)
    assert lease is not None
    lease["spec"]["holderIdentity"] = holder
    try:
        lab.kube.put_lease(lease)
    except RuntimeError as error:
        assert " 409 " in str(error)
        return False
    return True


def test_an_address_and_an_elastic_ip_that_somebody_moves_are_taken_back(lab: Lab) -> None:
    """By the next check, since the lease says whose they are."""
    with running(lab, "ac", FLOATING_IP=f"{VIP},{{eip}}", **SOON) as nodes:
        holder, other = nodes.settle()
        mark = lab.ec2.mark()
        take(lab, other, VIP)
        lab.ec2.admin().associate_address(
            AllocationId=nodes.eips[0], NetworkInterfaceId=eni(lab, other, 0), AllowReassociation=True
        )
        until(lambda: lab.ec2.calls_since(mark, "AssignPrivateIpAddresses"), nodes.logs)
        until(lambda: lab.ec2.calls_since(mark, "AssociateAddress"), nodes.logs)
        nodes.wait_holder(holder)
        nodes.assert_only(holder)


def test_routes_that_somebody_moves_are_taken_back(lab: Lab) -> None:
    """Only those: one table's route still pointed here."""
    with running(lab, "ab", FLOATING_IP=ROUTED, FloatingMode="route", **SOON) as nodes:
        holder, other = nodes.settle()
        tables = lab.route_table_ids[1:]
        mark = lab.ec2.mark()
        point(lab, f"{ROUTED}/32", eni(lab, other, 0), tables)

        def written() -> list[str]:
            return sorted(call.params["RouteTableId"] for call in lab.ec2.calls_since(mark, "ReplaceRoute"))

        until(lambda: set(written()) == set(tables), nodes.logs)
        nodes.wait_holder(holder)
        nodes.assert_only(holder)
        assert written() == sorted(tables)


@pytest.mark.parametrize("address", ["10.10.1.80", "10.10.11.80", "{address6}"], ids=["eth0", "eth1", "IPv6"])
def test_an_address_that_somebody_takes_off_the_interface_is_put_back(lab: Lab, address: str) -> None:
    """At once, because the kernel tells; EC2 is asked for nothing."""
    with running(lab, "ac", FLOATING_IP=address) as nodes:
        holder, _ = nodes.settle()
        (floating,) = nodes.addresses
        name, cidr = interface_with(lab, holder, floating)
        mark = lab.ec2.mark()
        links.delete_address(lab.workers[holder].ns, name, cidr)
        nodes.runs[holder].wait("done", what=f"put address={floating} interface={name}", count=2)
        nodes.wait_holder(holder)
        nodes.assert_only(holder)
        assert nodes.writes(mark) == []


def test_a_lease_that_somebody_deletes_is_made_anew_by_its_holder(lab: Lab) -> None:
    """And by nobody else, as the holder may not know for a while."""
    with running(lab, "ac", FLOATING_IP=VIP) as nodes:
        holder, other = nodes.settle()
        since = nodes.status(holder)["since"]
        lab.kube.delete_lease(LEASE)
        until(lambda: lab.kube.lease(LEASE), "there is a lease again")
        until(lambda: nodes.status(holder)["since"] != since, "it has begun anew")
        assert nodes.wait_holder() == holder
        nodes.wait_standby(other, holder)
        nodes.assert_only(holder)
        assert not nodes.runs[other].events("role", role="MASTER")


def test_a_lease_that_somebody_gives_to_another_ends_the_tenure(lab: Lab) -> None:
    """The holder sees it, stops, and takes it again when that other has not renewed it."""
    with running(lab, "a", FLOATING_IP=VIP) as nodes:
        nodes.start()
        nodes.wait_holder("a")
        until(lambda: given_to(lab, "somebody"), "the Lease names somebody else")
        nodes.runs["a"].wait("role", role="BACKUP", holder="somebody")
        until(lambda: nodes.on_interfaces(VIP) == [], "the address is off")
        nodes.runs["a"].wait("role", role="MASTER", count=2)
        nodes.wait_holder("a")
        nodes.assert_only("a")
        assert "took over from somebody" in nodes.status("a")["why"]
