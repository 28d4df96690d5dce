"""The sidecar: addresses that come, go and move as it runs; conceding, releasing, restarting; drift; no idle work."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import pytest

from lab import links
from lab.lab import Lab
from lab.pod import Pod
from tests.scenario.support import (
    ONE_AZ,
    Run,
    assert_answers,
    assert_silent,
    destinations,
    eni,
    everywhere,
    holder,
    init,
    own_address6,
    point,
    remove_route,
    sidecar,
    targets,
    until,
    wait_routed,
    wake_ups,
    writes,
)

pytestmark = pytest.mark.namespaces

ONE, TWO, THREE = "192.168.0.1", "192.168.0.2", "192.168.0.3"
NOTHING: dict[str, list[str]] = {"net1": [], "net2": []}
SOON = {"ResyncInterval": 1}


def standby(lab: Lab, name: str, worker: str, **settings: object) -> tuple[Pod, Run]:
    """A pod without addresses, and its sidecar, which has found its interfaces."""
    pod = lab.pod(name, worker, NOTHING)
    run = sidecar(pod, **settings)
    run.wait("interface", name="net2")
    return pod, run


def settled(pod: Pod, *claimed: str, **settings: object) -> Run:
    """A sidecar whose pod's init container has done the writing, so that it believes what it reads from the start.

    (For five seconds after a write of its own it believes that rather than a describe, which may lag.)
    """
    init(pod)
    return sidecar(pod, *claimed, **settings)


def conceding(lab: Lab, **settings: object) -> tuple[Pod, Run]:
    """A pod on a whose sidecar has conceded ONE to worker b, where init has taken it over; it still holds TWO."""
    pod = lab.pod("conceding", "a", {"net1": [f"{ONE}/32", f"{TWO}/32"]})
    run = settled(pod, ONE, TWO, **{**SOON, **settings})
    init(lab.pod("taker", "b", {"net1": [f"{ONE}/32"]}))
    run.wait("conceded", address=ONE, to=eni(lab, "b", 1))
    return pod, run


# Addresses come, go and move


def test_an_address_moved_by_hand_from_active_to_standby_and_back(lab: Lab) -> None:
    """Added on the active pod, moved to the standby in another AZ, and moved back (fail-back); both families.

    On its way there it is on both for a moment, so that the former holder's clean-up comes after the take-over.
    """
    cidrs = (f"{THREE}/32", "fd12::3/128")
    addresses = (THREE, "fd12::3")
    active, on_active = standby(lab, "active", "a")
    passive, on_passive = standby(lab, "passive", "b", ResyncInterval=1)
    for cidr, address in zip(cidrs, addresses, strict=True):
        active.add_address("net1", cidr)
        on_active.wait("claimed", address=address)
    assert_answers(lab, *addresses)
    mark, key = lab.ec2.mark(), lab.env("b")["AWS_ACCESS_KEY_ID"]
    until(
        lambda: any(call.access_key == key for call in lab.ec2.calls_since(mark, "DescribeRouteTables")),
        "the standby sees whose they are, so that it can say it",
    )

    for cidr, address in zip(cidrs, addresses, strict=True):
        passive.add_address("net1", cidr)
        on_passive.wait("claimed", address=address, moved_from=eni(lab, "a", 1))
        active.del_address("net1", cidr)
    assert_answers(lab, *addresses)
    for cidr, address in zip(cidrs, addresses, strict=True):
        on_active.wait("withdrawn", address=address)
        assert targets(lab, cidr) == everywhere(lab, eni(lab, "b", 1)), "the former holder took the new routes away"

    for cidr, address in zip(cidrs, addresses, strict=True):
        passive.del_address("net1", cidr)
        active.add_address("net1", cidr)
        on_active.wait("claimed", count=2, address=address)
        assert targets(lab, cidr) == everywhere(lab, eni(lab, "a", 1))
    assert_answers(lab, *addresses)


def test_an_address_of_the_subnet_moves_between_sidecars(make_lab: Callable[..., Lab]) -> None:
    """Both families; the former holder's clean-up must not take the address from the new one."""
    lab = make_lab(workers=ONE_AZ)
    moved = {"10.10.11.77": "/24", own_address6(lab, "a", 1, 0x77): "/128"}
    active, on_active = standby(lab, "active", "a")
    passive, on_passive = standby(lab, "passive", "c")
    for address, length in moved.items():
        active.add_address("net1", address + length)
        on_active.wait("claimed", address=address)
    assert_answers(lab, *moved)
    for address, length in moved.items():
        active.del_address("net1", address + length)
        passive.add_address("net1", address + length)
    for address in moved:
        on_passive.wait("claimed", address=address)
        on_active.wait("withdrawn", address=address)
        assert holder(lab, address) == eni(lab, "c", 1)
    assert_answers(lab, *moved)


def test_a_burst_of_addresses_is_written_once_each(lab: Lab) -> None:
    """Forty routed addresses at once: each table gets each route by one call."""
    pod = lab.pod("pod", "a", NOTHING)
    run = sidecar(pod)
    run.wait("interface", name="net1")
    mark = lab.ec2.mark()
    burst = [f"192.168.7.{number}" for number in range(1, 41)]
    for address in burst:
        pod.add_address("net1", f"{address}/32")
    for address in burst:
        run.wait("claimed", address=address)
    made = sorted(destinations(writes(lab.ec2.calls_since(mark))))
    assert made == sorted(("CreateRoute", table, f"{each}/32") for each in burst for table in lab.route_table_ids)
    assert_answers(lab, burst[0], burst[-1])


def test_an_interface_added_later_is_delivered(lab: Lab) -> None:
    """A second interface appears, with its address, while the sidecar runs."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod, ONE)
    pod.add_interface("late", [f"{TWO}/32"], device_index=2)
    run.wait("claimed", address=TWO, eni=eni(lab, "a", 2))
    assert_answers(lab, ONE, TWO)


def test_an_interface_set_down_gives_its_address_up_and_takes_it_again(lab: Lab) -> None:
    """A link that is down delivers nothing, so its addresses count as gone; the pod's routes return with it."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"], "net2": [f"{TWO}/32"]})
    run = sidecar(pod, ONE, TWO)
    pod.set_link("net1", up=False)
    run.wait("address gone", address=ONE)
    pod.set_link("net1", up=True)
    run.wait("claimed", count=2, address=ONE)
    assert_answers(lab, ONE, TWO)


# Claims do not flap


def test_a_claim_is_conceded_when_another_live_pod_takes_over_and_not_fought_for(lab: Lab) -> None:
    """After conceding, the next thing it writes is something else."""
    pod, run = conceding(lab)
    mark = lab.ec2.mark()
    pod.add_address("net1", f"{THREE}/32")
    run.wait("claimed", address=THREE)
    reads = len(lab.ec2.calls_since(mark, "DescribeRouteTables"))
    until(lambda: len(lab.ec2.calls_since(mark, "DescribeRouteTables")) >= reads + 2, "two more resyncs")
    assert {each[2] for each in destinations(writes(lab.ec2.calls_since(mark)))} == {f"{THREE}/32"}
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "b", 1))
    assert len(run.events("conceded")) == 1
    assert_answers(lab, ONE, TWO, THREE)


def test_an_address_of_the_subnet_is_conceded_too(make_lab: Callable[..., Lab]) -> None:
    """Both families, to another worker of the AZ."""
    lab = make_lab(workers=ONE_AZ)
    address, address6 = "10.10.11.77", own_address6(lab, "a", 1, 0x77)
    interfaces = {"net1": [f"{address}/32", f"{address6}/128"]}
    pod = lab.pod("pod", "a", interfaces)
    run = settled(pod, address, address6, **SOON)
    init(lab.pod("taker", "c", interfaces))
    for each in (address, address6):
        run.wait("conceded", address=each, to=eni(lab, "c", 1))
    pod.add_address("net1", "10.10.11.78/32")
    run.wait("claimed", address="10.10.11.78")
    assert holder(lab, address) == holder(lab, address6) == eni(lab, "c", 1)
    assert_answers(lab, address, address6, "10.10.11.78")


def test_a_conceded_claim_is_taken_up_when_its_holder_dies(lab: Lab) -> None:
    """The other worker is terminated, so that its routes are blackholes: nobody live holds the address."""
    _, run = conceding(lab)
    lab.terminate("b")
    run.wait("claimed", address=ONE, moved_from=eni(lab, "b", 1))
    assert_answers(lab, ONE, TWO)


def test_a_conceded_claim_is_taken_up_when_its_routes_are_gone(lab: Lab) -> None:
    """Nobody holds it: the other pod has released it."""
    _, run = conceding(lab)
    for table in lab.route_table_ids:
        remove_route(lab, f"{ONE}/32", table)
    run.wait("claimed", count=2, address=ONE)
    assert_answers(lab, ONE, TWO)


def test_a_conceded_address_that_is_added_anew_is_claimed_anew(lab: Lab) -> None:
    """Somebody moves it back by hand."""
    pod, run = conceding(lab)
    pod.del_address("net1", f"{ONE}/32")
    run.wait("withdrawn", address=ONE)
    pod.add_address("net1", f"{ONE}/32")
    run.wait("claimed", count=2, address=ONE)
    wait_routed(lab, f"{ONE}/32", eni(lab, "a", 1))
    assert_answers(lab, ONE)


# Restart and release


def test_a_restarted_container_keeps_conceded_what_it_had_conceded(lab: Lab) -> None:
    """Killed without notice, started again over the same StateDir."""
    pod, run = conceding(lab)
    run.container.send_signal(signal.SIGKILL)
    assert run.ends() == -signal.SIGKILL
    mark = lab.ec2.mark()
    again = sidecar(pod, TWO, **SOON)
    pod.add_address("net1", f"{THREE}/32")
    again.wait("claimed", address=THREE)
    assert {each[2] for each in destinations(writes(lab.ec2.calls_since(mark)))} == {f"{THREE}/32"}
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "b", 1))


def test_a_restarted_container_notices_that_it_lost_an_address_meanwhile(lab: Lab) -> None:
    """Taken over while the container was down: it was this pod's claim, so it is conceded and not fought for."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{TWO}/32"]})
    run = sidecar(pod, ONE, TWO)
    run.container.send_signal(signal.SIGKILL)
    run.ends()
    init(lab.pod("taker", "b", {"net1": [f"{ONE}/32"]}))
    mark = lab.ec2.mark()
    again = sidecar(pod, TWO)
    again.wait("conceded", address=ONE, to=eni(lab, "b", 1))
    assert writes(lab.ec2.calls_since(mark)) == []


def test_a_restart_before_all_was_written_writes_the_rest(lab: Lab) -> None:
    """Killed while two of four tables are refused; the next start finds the other two done."""
    refused = set(lab.route_table_ids[:2])
    lab.ec2.faults.fail("CreateRoute", times=None, when=lambda params: params["RouteTableId"] in refused)
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod)
    until(lambda: set(targets(lab, f"{ONE}/32")) == set(lab.route_table_ids) - refused, "the other two tables")
    run.container.send_signal(signal.SIGKILL)
    run.ends()
    lab.ec2.faults.clear()
    mark = lab.ec2.mark()
    sidecar(pod, ONE)
    assert {each[1] for each in destinations(writes(lab.ec2.calls_since(mark)))} == refused
    assert_answers(lab, ONE)


@pytest.mark.parametrize("release", [True, False])
def test_sigterm_releases_addresses_of_the_subnet_as_configured(lab: Lab, release: bool) -> None:
    """ReleaseOnExit; both families. Routes stay, because the next pod replaces them without a gap."""
    address, address6 = "10.10.11.77", own_address6(lab, "a", 1, 0x77)
    pod = lab.pod("pod", "a", {"net1": [f"{address}/24", f"{address6}/128", f"{ONE}/32"]})
    run = sidecar(pod, address, address6, ONE, **({} if release else {"ReleaseOnExit": "False"}))
    assert run.stop() == 0
    kept = None if release else eni(lab, "a", 1)
    assert holder(lab, address) == holder(lab, address6) == kept
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))


def test_sigterm_deletes_routes_where_that_is_configured(lab: Lab) -> None:
    """DeleteRoutesOnExit takes back what is still its own, and leaves what another pod has taken over."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{TWO}/32"]})
    run = sidecar(pod, ONE, TWO, DeleteRoutesOnExit="True")
    point(lab, f"{TWO}/32", eni(lab, "b", 1))
    assert run.stop() == 0
    assert targets(lab, f"{ONE}/32") == {}
    assert targets(lab, f"{TWO}/32") == everywhere(lab, eni(lab, "b", 1))


def test_sigterm_says_what_it_could_not_release(lab: Lab) -> None:
    """One of four tables refuses: its address is still delivered here, and nobody is told otherwise."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{TWO}/32"]})
    run = sidecar(pod, ONE, TWO, DeleteRoutesOnExit="True")
    table = lab.route_table_ids[2]
    lab.ec2.faults.fail(
        "DeleteRoute",
        "UnauthorizedOperation",
        times=None,
        status=403,
        when=lambda params: params["RouteTableId"] == table and params["DestinationCidrBlock"] == f"{ONE}/32",
    )
    assert run.stop() == 0
    (left,) = run.events("not released")
    assert (left["addresses"], left["at"]) == (ONE, table)
    assert "UnauthorizedOperation" in left["why"]
    assert run.events("stopped")[0]["released"] == TWO
    assert targets(lab, f"{ONE}/32") == {table: eni(lab, "a", 1)}
    assert targets(lab, f"{TWO}/32") == {}
    claims = json.loads((pod.directory / "state" / "claims.json").read_text())["claims"]
    assert [(claim["address"], [*claim["held"]]) for claim in claims] == [(ONE, [table])]


def test_sigterm_does_not_unassign_what_another_worker_has_taken(make_lab: Callable[..., Lab]) -> None:
    """An address released by the old pod after the new one has it would be an outage."""
    lab = make_lab(workers=ONE_AZ)
    address, address6 = "10.10.11.77", own_address6(lab, "a", 1, 0x77)
    interfaces = {"net1": [f"{address}/32", f"{address6}/128"]}
    run = sidecar(lab.pod("old", "a", interfaces), address, address6)
    init(lab.pod("new", "c", interfaces))
    assert run.stop() == 0
    assert holder(lab, address) == holder(lab, address6) == eni(lab, "c", 1)
    assert_answers(lab, address, address6)


def test_after_a_release_the_next_start_claims_again(lab: Lab) -> None:
    """A container that was stopped and started in the same pod, over the same StateDir."""
    address = "10.10.11.77"
    pod = lab.pod("pod", "a", {"net1": [f"{address}/24"]})
    assert sidecar(pod, address).stop() == 0
    assert holder(lab, address) is None
    sidecar(pod, address)
    assert holder(lab, address) == eni(lab, "a", 1)
    assert_answers(lab, address)


# Calls


def test_one_changed_address_costs_a_call_per_table_and_one_describe(lab: Lab) -> None:
    """However many other addresses there are. The describe comes once reads may be trusted to show the writes."""
    pod = lab.pod("pod", "a", {"net1": [f"192.168.7.{number}/32" for number in range(1, 9)]})
    run = settled(pod, *(f"192.168.7.{number}" for number in range(1, 9)), ResyncInterval=0)
    mark = lab.ec2.mark()
    pod.add_address("net1", f"{ONE}/32")
    run.wait("claimed", address=ONE)
    until(lambda: lab.ec2.calls_since(mark, "DescribeRouteTables"), "the describe after the change")
    pod.add_address("net1", f"{TWO}/32")
    run.wait("claimed", address=TWO)  # a call too many for ONE would have come before
    made = [call.action for call in lab.ec2.calls_since(mark)]
    assert made == ["CreateRoute"] * 4 + ["DescribeRouteTables"] + ["CreateRoute"] * 4


def test_an_idle_sidecar_calls_nobody(lab: Lab) -> None:
    """Neither EC2 nor IMDS, nor runs, while 500 packets pass, and though the kernel reports a change that is none."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", "10.10.11.77/24"]})
    run = settled(pod, ONE, "10.10.11.77")
    calls, requests = lab.ec2.mark(), len(lab.imds.requests)
    before = wake_ups(run)
    prober = lab.prober("peer1", [ONE])
    links.add_address(pod.ns, "lo", "127.0.0.2/32")
    prober.wait_reply(after=time.monotonic() + 2.5)
    assert prober.stop()[ONE].received >= 400
    assert wake_ups(run) - before < 50
    assert lab.ec2.calls_since(calls) == []
    assert lab.imds.requests[requests:] == []
    pod.add_address("net1", f"{TWO}/32")
    run.wait("claimed", address=TWO)  # it was awake all the while
    assert len(lab.ec2.calls_since(calls)) == 4


# Drift


def test_a_route_that_somebody_deleted_is_written_again_at_resync(lab: Lab) -> None:
    """One of the tables; the others are left alone."""
    run = settled(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}), ONE, **SOON)
    mark = lab.ec2.mark()
    remove_route(lab, f"{ONE}/32", lab.route_table_ids[1])
    wait_routed(lab, f"{ONE}/32", eni(lab, "a", 1))
    until(lambda: writes(lab.ec2.calls_since(mark)), "a call is recorded when it is answered, after it was applied")
    assert destinations(writes(lab.ec2.calls_since(mark))) == [("CreateRoute", lab.route_table_ids[1], f"{ONE}/32")]
    assert_answers(lab, ONE)
    assert not run.events("conceded")


def test_a_new_route_table_gets_its_routes_at_resync(lab: Lab) -> None:
    """A table made after the start."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    settled(pod, ONE, **SOON)
    table = lab.ec2.admin().create_route_table(VpcId=lab.vpc_id)["RouteTable"]["RouteTableId"]

    def target() -> set[str]:
        return {route.target for route in lab.ec2.state().route_tables[table].routes}

    until(lambda: eni(lab, "a", 1) in target(), "the route in the new table")


def test_a_route_that_leads_to_a_dead_eni_is_taken_back_at_resync(lab: Lab) -> None:
    """The ENI of a terminated worker holds nothing: that is drift and no take-over."""
    run = settled(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}), ONE, **SOON)
    lab.terminate("b")
    point(lab, f"{ONE}/32", eni(lab, "b", 1))
    wait_routed(lab, f"{ONE}/32", eni(lab, "a", 1))
    assert_answers(lab, ONE)
    assert not run.events("conceded")


def test_an_address_that_somebody_unassigned_is_assigned_again_at_resync(lab: Lab) -> None:
    """Both families."""
    address, address6 = "10.10.11.77", own_address6(lab, "a", 1, 0x77)
    net1 = eni(lab, "a", 1)
    settled(lab.pod("pod", "a", {"net1": [f"{address}/24", f"{address6}/128"]}), address, address6, **SOON)
    lab.ec2.admin().unassign_private_ip_addresses(NetworkInterfaceId=net1, PrivateIpAddresses=[address])
    lab.ec2.admin().unassign_ipv6_addresses(NetworkInterfaceId=net1, Ipv6Addresses=[address6])
    until(lambda: holder(lab, address) == holder(lab, address6) == net1, "both assigned again")
    assert_answers(lab, address, address6)


def test_a_source_dest_check_that_somebody_turned_on_is_turned_off_at_resync(lab: Lab) -> None:
    """Routed placements need it off."""
    settled(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}), ONE, **SOON)
    net1 = eni(lab, "a", 1)
    lab.ec2.admin().modify_network_interface_attribute(NetworkInterfaceId=net1, SourceDestCheck={"Value": True})
    assert_silent(lab, ONE, peers=["peer1"])
    until(lambda: not lab.ec2.state().enis[net1].source_dest_check, "the check turned off")
    assert_answers(lab, ONE)
