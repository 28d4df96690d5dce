"""Elastic IPs of pods, on packets from the internet: bound with the address, moved along with it, not fought for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.lab import Lab
from tests.scenario.support import BOUND, ONE_AZ, eni, holder, init, sidecar, start, until

pytestmark = pytest.mark.namespaces

ADDRESS, OTHER = "10.10.11.77", "10.10.11.78"
ROUTED = "192.168.0.1"
SOON = {"ResyncInterval": 1}


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Workers a and c share an AZ, and there is a host outside."""
    return make_lab(workers=ONE_AZ, internet=True)


def allocate(lab: Lab) -> str:
    """A new Elastic IP; its allocation id."""
    return str(lab.ec2.admin().allocate_address(Domain="vpc")["AllocationId"])


def public(lab: Lab, eip: str) -> str:
    """The address that the internet knows."""
    return lab.ec2.state().elastic_ips[eip].public_ip


def binding(lab: Lab, eip: str) -> tuple[str | None, str]:
    """The ENI and the private address an Elastic IP is bound to."""
    found = lab.ec2.state().elastic_ips[eip]
    return found.eni_id, str(found.private_ip)


def rebind(lab: Lab, eip: str, worker: str, address: str) -> None:
    """Somebody binds it to an address that a worker's first extra ENI gets for it."""
    net1 = eni(lab, worker, 1)
    admin = lab.ec2.admin()
    admin.assign_private_ip_addresses(NetworkInterfaceId=net1, PrivateIpAddresses=[address], AllowReassignment=True)
    admin.associate_address(
        AllocationId=eip, NetworkInterfaceId=net1, PrivateIpAddress=address, AllowReassociation=True
    )


def reached(lab: Lab, eip: str) -> bool:
    """Whether it answers the internet."""
    return lab.internet.reach(public(lab, eip), count=5)


def actions(lab: Lab, mark: int) -> list[str]:
    """The API calls since then."""
    return sorted(call.action for call in lab.ec2.calls_since(mark) if call.service == "ec2")


# init


def test_an_init_run_binds_it_and_the_internet_reaches_the_pod(lab: Lab) -> None:
    """One describe and one call more than without, and none when it is bound already."""
    eip, of_another_pod = allocate(lab), allocate(lab)
    pod = lab.pod("pod", "a", {"net1": [f"{ADDRESS}/24"]})
    settings = {"Intf1EIPs": f"{ADDRESS}={eip},{OTHER}={of_another_pod}"}
    mark = lab.ec2.mark()
    run = init(pod, **settings)
    assert actions(lab, mark) == [
        "AssignPrivateIpAddresses",
        "AssociateAddress",
        "DescribeAddresses",
        "DescribeNetworkInterfaces",
    ]
    assert binding(lab, eip) == (eni(lab, "a", 1), ADDRESS)
    assert binding(lab, of_another_pod)[0] is None
    assert reached(lab, eip)
    assert run.events("bound", eip=eip, public=public(lab, eip), address=ADDRESS)
    mark = lab.ec2.mark()
    init(pod, **settings)
    assert actions(lab, mark) == ["DescribeAddresses", "DescribeNetworkInterfaces"]


def test_a_pod_without_elastic_ips_asks_for_none(lab: Lab) -> None:
    """As before there were any."""
    mark = lab.ec2.mark()
    init(lab.pod("pod", "a", {"net1": [f"{ADDRESS}/24"]}))
    assert actions(lab, mark) == ["AssignPrivateIpAddresses", "DescribeNetworkInterfaces"]


def test_it_fails_over_with_its_address(lab: Lab) -> None:
    """The worker is lost; EC2 moves the Elastic IP along with the address, which the new pod makes sure of."""
    eip = allocate(lab)
    settings = {"Intf1EIPs": f"{ADDRESS}={eip}"}
    init(lab.pod("first", "a", {"net1": [f"{ADDRESS}/24"]}), **settings)
    lab.cut("a")
    assert not lab.internet.reach(public(lab, eip), timeout=0.3)
    mark = lab.ec2.mark()
    init(lab.pod("second", "c", {"net1": [f"{ADDRESS}/24"]}), **settings)
    assert binding(lab, eip) == (eni(lab, "c", 1), ADDRESS)
    assert reached(lab, eip)
    assert actions(lab, mark).count("AssociateAddress") == actions(lab, mark).count("DescribeAddresses") == 1


def test_one_that_does_not_exist_is_named_and_the_address_is_delivered(lab: Lab) -> None:
    """Fatal, after all else is done."""
    eip = "eipalloc-0123456789abcdef0"
    run = start(lab.pod("pod", "a", {"net1": [f"{ADDRESS}/24"]}), "init", Intf1EIPs=f"{ADDRESS}={eip}")
    assert run.ends() == 1
    (missing,) = run.events("missing")
    assert missing["item"] == "Intf1EIPs" and eip in missing["why"], run.text
    assert holder(lab, ADDRESS) == eni(lab, "a", 1)


def test_a_routed_address_cannot_have_one(lab: Lab) -> None:
    """It has no private address that EC2 knows."""
    eip = allocate(lab)
    run = start(lab.pod("pod", "a", {"net1": [f"{ROUTED}/32"]}), "init", Intf1EIPs=f"{ROUTED}={eip}")
    assert run.ends() == 1
    (missing,) = run.events("missing")
    assert missing["item"] == "Intf1EIPs" and "host-route" in missing["why"], run.text
    assert lab.ping("peer1", ROUTED, count=5)


@pytest.mark.parametrize("action", ["DescribeAddresses", "AssociateAddress"])
def test_a_denied_action_is_named_and_the_rest_is_done(lab: Lab, action: str) -> None:
    """Once the policy is mended, a sidecar completes it by itself."""
    eip = allocate(lab)
    lab.ec2.faults.deny(f"ec2:{action}")
    pod = lab.pod("pod", "a", {"net1": [f"{ADDRESS}/24"]})
    run = sidecar(pod, ADDRESS, Intf1EIPs=f"{ADDRESS}={eip}")
    failed = run.wait_mention("failed", f"ec2:{action}")
    assert failed["kind"] == "denied" and f"allow ec2:{action}" in failed["remedy"]
    assert lab.ping("peer1", ADDRESS, count=5)
    lab.ec2.faults.allow_all()
    run.wait("bound", eip=eip)
    assert reached(lab, eip)


# sidecar


def test_an_address_that_comes_to_a_standby_brings_it(lab: Lab) -> None:
    """Active and standby, each with a sidecar and the same ConfigMap."""
    eip = allocate(lab)
    settings = {"Intf1EIPs": f"{ADDRESS}={eip}", **SOON}
    active, standby = lab.pod("active", "a", {"net1": [f"{ADDRESS}/24"]}), lab.pod("standby", "c", {"net1": []})
    first, second = sidecar(active, ADDRESS, **settings), sidecar(standby, **settings)
    first.wait("bound", eip=eip)
    assert reached(lab, eip)
    standby.add_address("net1", f"{ADDRESS}/24")  # while it is on the other, too
    second.wait("bound", eip=eip)
    first.wait("conceded", address=ADDRESS)
    active.del_address("net1", f"{ADDRESS}/24")
    assert reached(lab, eip)
    mark = lab.ec2.mark()
    until(lambda: len(lab.ec2.calls_since(mark, "DescribeAddresses")) >= 4, "resyncs of both")
    assert lab.ec2.calls_since(mark, "AssociateAddress") == []
    assert binding(lab, eip) == (eni(lab, "c", 1), ADDRESS)


def test_what_somebody_unbound_is_bound_again_at_resync(lab: Lab) -> None:
    """That is drift."""
    eip = allocate(lab)
    run = sidecar(lab.pod("pod", "a", {"net1": [f"{ADDRESS}/24"]}), Intf1EIPs=f"{ADDRESS}={eip}", **SOON)
    run.wait("bound", eip=eip)
    lab.ec2.admin().disassociate_address(AssociationId=lab.ec2.state().elastic_ips[eip].association_id)
    until(lambda: binding(lab, eip) == (eni(lab, "a", 1), ADDRESS), "bound again")
    assert reached(lab, eip)


def test_what_was_taken_over_is_left_alone_until_its_holder_is_gone(lab: Lab) -> None:
    """Claims do not flap. The private address stays ours all the while."""
    eip = allocate(lab)
    run = sidecar(lab.pod("pod", "a", {"net1": [f"{ADDRESS}/24"]}), Intf1EIPs=f"{ADDRESS}={eip}", **SOON)
    run.wait("bound", eip=eip)
    rebind(lab, eip, "c", OTHER)
    run.wait("problem", of="Intf1EIPs")
    mark = lab.ec2.mark()
    until(lambda: len(lab.ec2.calls_since(mark, "DescribeAddresses")) >= 3, "resyncs")
    assert lab.ec2.calls_since(mark, "AssociateAddress") == []
    assert (holder(lab, ADDRESS), binding(lab, eip)) == (eni(lab, "a", 1), (eni(lab, "c", 1), OTHER))
    assert len(run.events("problem")) == 1
    lab.terminate("c")
    until(lambda: binding(lab, eip) == (eni(lab, "a", 1), ADDRESS), lambda: run.text, BOUND)
    assert reached(lab, eip)
