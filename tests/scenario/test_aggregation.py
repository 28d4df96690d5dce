"""RouteAggregation and IntfNPools on packets: many addresses cost as much as one, and one of them can go elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from lab.ec2.quotas import Quotas
from lab.lab import Lab
from tests.scenario.support import (
    assert_answers,
    destinations,
    eni,
    everywhere,
    init,
    point,
    sidecar,
    start,
    targets,
    until,
    wait_routed,
    writes,
)

pytestmark = pytest.mark.namespaces

TOGETHER = {"RouteAggregation": "True"}
SOON = {**TOGETHER, "ResyncInterval": 1}
ALL, HALF, OTHER_HALF = "192.168.0.0/29", "192.168.0.0/30", "192.168.0.4/30"
EIGHT = [str(address) for address in ip_network(ALL)]


def on(*addresses: str) -> dict[str, list[str]]:
    """All of them on net1."""
    return {"net1": [f"{address}/{128 if ':' in address else 32}" for address in addresses]}


def ours(lab: Lab, worker: str) -> set[str]:
    """The destinations of all routes to a worker's ENI on net1, in any table."""
    target, tables = eni(lab, worker, 1), lab.ec2.state().route_tables
    return {str(to) for table in lab.route_table_ids for to, route in tables[table].by_destination.items()
            if route.target == target}  # fmt: skip


def test_256_contiguous_addresses_cost_one_call_for_each_table(lab: Lab) -> None:
    block = [str(address) for address in ip_network("192.168.0.0/24")]
    pod = lab.pod("first", "a", on(*block))
    mark = lab.ec2.mark()
    run = init(pod, **TOGETHER)
    calls = lab.ec2.calls_since(mark)
    assert sorted(destinations(calls)) == sorted(
        ("CreateRoute", table, "192.168.0.0/24") for table in lab.route_table_ids
    )
    assert len([call for call in calls if call.action.startswith("Describe")]) == 2
    assert {call.action for call in writes(calls)} <= {"CreateRoute", "ModifyNetworkInterfaceAttribute"}
    (claimed,) = run.events("claimed")
    assert (claimed["addresses"], claimed["destination"], claimed["tables"]) == (256, "192.168.0.0/24", 4)
    assert_answers(lab, block[0], block[100], block[255])


@pytest.mark.parametrize("block", ["192.168.0.0/28", "fd12::/124"], ids=["IPv4", "IPv6"])
def test_a_pod_moves_whole_with_one_call_for_each_table(lab: Lab, block: str) -> None:
    addresses = [str(address) for address in ip_network(block)]
    init(lab.pod("first", "a", on(*addresses)), **TOGETHER)
    lab.terminate("a")
    mark = lab.ec2.mark()
    run = init(lab.pod("second", "b", on(*addresses)), **TOGETHER)
    assert sorted(destinations(lab.ec2.calls_since(mark))) == sorted(
        ("ReplaceRoute", table, block) for table in lab.route_table_ids
    )
    assert run.events("claimed", addresses=16, moved_from=eni(lab, "a", 1))
    assert_answers(lab, addresses[0], addresses[-1])


def test_routes_of_a_dead_pod_that_was_not_aggregated_do_not_win(lab: Lab) -> None:
    init(lab.pod("first", "a", on(*EIGHT[:4])))
    lab.terminate("a")
    init(lab.pod("second", "b", on(*EIGHT)), **TOGETHER)
    assert_answers(lab, *EIGHT)
    assert ours(lab, "b") == {ALL, *(f"{address}/32" for address in EIGHT[:4])}


def test_a_pool_is_routed_whole(lab: Lab) -> None:
    pod = lab.pod("first", "a", on("192.168.0.1", "192.168.0.6", "192.168.0.14"))
    init(pod, Intf1Pools="192.168.0.0/28")
    assert ours(lab, "a") == {"192.168.0.0/28"}
    assert_answers(lab, "192.168.0.1", "192.168.0.14")


def test_a_pool_inside_the_vpc_is_refused(lab: Lab) -> None:
    run = start(lab.pod("first", "a", on("192.168.0.1")), "init", Intf1Pools="10.10.0.0/24")
    assert run.ends() == 1
    assert run.mentions("Intf1Pools", "10.10.0.0/24")
    assert_answers(lab, "192.168.0.1")


def test_one_address_is_taken_over_and_comes_back(lab: Lab) -> None:
    """As pod of another worker does, whose route to it alone is longer than the one that all share."""
    pod = lab.pod("first", "a", on(*EIGHT))
    init(pod, **TOGETHER)
    run = sidecar(pod, **SOON)
    run.wait("claimed", addresses=8)
    mark, one = lab.ec2.mark(), EIGHT[3]
    init(lab.pod("second", "b", on(one)))
    run.wait("conceded", address=one, to=eni(lab, "b", 1))
    assert targets(lab, f"{one}/32") == everywhere(lab, eni(lab, "b", 1))
    assert_answers(lab, *EIGHT)
    assert not run.events("conceded", address=EIGHT[0])
    lab.terminate("b")
    wait_routed(lab, f"{one}/32", eni(lab, "a", 1))
    run.wait("claimed", address=one)
    assert_answers(lab, *EIGHT)
    touched = {to for _, _, to in destinations(lab.ec2.calls_since(mark))}
    assert touched == {f"{one}/32"}


def test_addresses_come_and_go_and_no_packet_of_the_others_is_lost(lab: Lab) -> None:
    """Growth and shrinkage of a prefix under traffic; in the end there are the fewest again."""
    pod = lab.pod("first", "a", on(*EIGHT[:4]))
    init(pod, **TOGETHER)
    run = sidecar(pod, *EIGHT[:4], **TOGETHER)
    prober = lab.prober("peer1", EIGHT[:3])
    prober.wait_reply()
    for address in EIGHT[4:]:
        pod.add_address("net1", f"{address}/32")
        run.wait("claimed", address=address)
    until(lambda: ours(lab, "a") == {ALL}, lambda: f"grown: {ours(lab, 'a')}")
    assert_answers(lab, *EIGHT)
    for address in EIGHT[4:]:
        pod.del_address("net1", f"{address}/32")
    until(lambda: ours(lab, "a") == {HALF}, lambda: f"shrunk: {ours(lab, 'a')}", within=60.0)
    prober.wait_reply(after=time.monotonic())
    for log in prober.stop().values():
        assert log.sent > 100 and log.lost() == 0, log


def test_it_goes_on_after_a_restart_in_the_middle(lab: Lab) -> None:
    """Killed while the old prefix is still there; the next process finds it and what is to become of it."""
    pod = lab.pod("first", "a", on(*EIGHT))
    init(pod, **TOGETHER)
    run = sidecar(pod, **TOGETHER)
    run.wait("claimed", addresses=8)
    prober = lab.prober("peer1", EIGHT[:3])
    prober.wait_reply()
    for address in EIGHT[4:]:
        pod.del_address("net1", f"{address}/32")
    until(lambda: HALF in ours(lab, "a"), "the half", within=60.0)
    run.container.kill()
    run.ends()
    assert ours(lab, "a") >= {ALL, HALF}
    sidecar(pod, **TOGETHER)
    until(lambda: ours(lab, "a") == {HALF}, lambda: f"shrunk: {ours(lab, 'a')}", within=60.0)
    prober.wait_reply(after=time.monotonic())
    assert [log.lost() for log in prober.stop().values()] == [0, 0, 0]


def test_a_full_table_keeps_the_prefix_that_is_there(make_lab: Callable[..., Lab]) -> None:
    """One address of eight leaves, and there is no room for the three prefixes that hold the others alone."""
    lab = make_lab(quotas=Quotas(routes_per_table=2))
    pod = lab.pod("first", "a", on(*EIGHT))
    init(pod, **TOGETHER)
    run = sidecar(pod, **TOGETHER)
    run.wait("claimed", addresses=8)
    prober = lab.prober("peer1", EIGHT[:7])
    prober.wait_reply()
    pod.del_address("net1", f"{EIGHT[7]}/32")
    run.wait("failed", code="RouteLimitExceeded")
    assert targets(lab, ALL) == everywhere(lab, eni(lab, "a", 1))
    prober.wait_reply(after=time.monotonic())
    assert [log.lost() for log in prober.stop().values()] == [0] * 7


def test_two_pods_on_one_eni_have_a_prefix_each(lab: Lab) -> None:
    first = lab.pod("first", "a", on(*EIGHT[:4]))
    second = lab.pod("second", "a", on(*EIGHT[4:]))
    runs = [init(each, **TOGETHER) for each in (first, second)]
    assert len(runs) == 2 and ours(lab, "a") == {HALF, OTHER_HALF}
    run = sidecar(first, *EIGHT[:4], **TOGETHER)
    for address in EIGHT[:4]:
        first.del_address("net1", f"{address}/32")
    run.wait("withdrawn", count=4)
    assert ours(lab, "a") == {OTHER_HALF}
    assert_answers(lab, *EIGHT[4:])


def test_switched_on_for_a_pod_that_ran_without_it(lab: Lab) -> None:
    """The container is restarted with another ConfigMap: the prefix comes, and then the single routes go."""
    pod = lab.pod("first", "a", on(*EIGHT))
    run = sidecar(pod, *EIGHT)
    run.container.kill()
    run.ends()
    assert len(ours(lab, "a")) == 8
    prober = lab.prober("peer1", EIGHT[:2])
    prober.wait_reply()
    sidecar(pod, **TOGETHER)
    until(lambda: ours(lab, "a") == {ALL}, lambda: f"{ours(lab, 'a')}", within=60.0)
    assert [log.lost() for log in prober.stop().values()] == [0, 0]


def test_another_pods_route_that_somebody_points_elsewhere_stays(lab: Lab) -> None:
    """Broader and neighbouring routes are nobody's business here."""
    point(lab, "192.168.0.0/24", eni(lab, "b", 1))
    point(lab, "192.168.0.9/32", eni(lab, "a", 1))
    init(lab.pod("first", "a", on(*EIGHT)), **TOGETHER)
    assert targets(lab, "192.168.0.0/24") == everywhere(lab, eni(lab, "b", 1))
    assert ours(lab, "a") == {ALL, "192.168.0.9/32"}
    assert_answers(lab, *EIGHT)
