"""Each line of "Faults seen in their code" (PREDECESSORS.md) as a test that the programs before this one fail."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from lab import links
from lab.lab import Lab
from lab.topology import WORKER_B, WorkerSpec
from tests.scenario.support import (
    ONE_AZ,
    PEER1_NET,
    PEER2_NET,
    add_bridge,
    assert_answers,
    destinations,
    eni,
    everywhere,
    holder,
    init,
    own_address6,
    pod_routes,
    pod_rules,
    point,
    sidecar,
    start,
    targets,
    until,
    writes,
)

pytestmark = pytest.mark.namespaces

ONE, TWO, THREE = "192.168.0.1", "192.168.0.2", "192.168.0.3"
FLOATING6 = "fd12::1"


@pytest.mark.parametrize("fault", ["api error", "lost connections"])
def test_an_api_error_or_timeout_is_not_ignored_by_an_init_run(lab: Lab, fault: str) -> None:
    """«a failed child process, timeout or API error is ignored and the init container exits 0 with no route written»"""
    if fault == "api error":
        lab.ec2.faults.fail("CreateRoute", times=None, status=500)
    else:
        lab.ec2.faults.reset("CreateRoute", times=None)
    run = start(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}), "init", InitTimeout=2)
    assert run.ends() == 1
    missing = " ".join(event["item"] for event in run.events("missing"))
    assert all(table in missing for table in lab.route_table_ids), run.text
    assert targets(lab, f"{ONE}/32") == {}


def test_a_failed_child_process_is_not_ignored_by_an_init_run(lab: Lab) -> None:
    """«a failed child process … is ignored»: there are none any more; what they did fails by itself (a pod route)."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    links.set_link(pod.ns, "net1", up=False)
    run = start(pod, "init", InitTimeout=1, Intf1Peers=PEER1_NET)
    assert run.ends() == 1
    assert run.mentions("net1", "down")


def test_a_throttled_replace_does_not_leave_the_stale_route(lab: Lab) -> None:
    """«any replace error (throttling, denial) falls through to create, whose "already exists" is swallowed»"""
    point(lab, f"{ONE}/32", eni(lab, "b", 1))
    lab.ec2.faults.fail("ReplaceRoute", "RequestLimitExceeded", times=6)
    init(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}))
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))
    assert not lab.ec2.calls_since(0, "CreateRoute")
    assert_answers(lab, ONE)


def test_a_denied_replace_does_not_pass_for_success(lab: Lab) -> None:
    """The other half of the same line: the stale route cannot be helped, but the run fails and says why."""
    point(lab, f"{ONE}/32", eni(lab, "b", 1))
    lab.ec2.faults.deny("ec2:ReplaceRoute")
    run = start(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}), "init")
    assert run.ends() == 1
    for table in lab.route_table_ids:
        assert run.mentions("ec2:ReplaceRoute", table), run.text
    assert not lab.ec2.calls_since(0, "CreateRoute")


def test_ipv6_routes_subnets_and_gateways_are_ipv6s_own(lab: Lab) -> None:
    """«IPv6: replace sent with both destination fields; IPv6 subnets never matched; IPv4 gateway used for …»"""
    inside = own_address6(lab, "a", 2, 0x77)
    point(lab, f"{FLOATING6}/128", eni(lab, "b", 1))
    pod = lab.pod("pod", "a", {"net1": [f"{FLOATING6}/128"], "net2": [f"{inside}/128"]})
    peers = f"{lab.peers['peer1'].address6}, {ip_network((lab.peers['peer2'].address6, 128))}"
    init(pod, Intf1Peers=peers, Intf2Peers="fd99::/64", UseSBR="False")

    replaced = lab.ec2.calls_since(0, "ReplaceRoute")
    assert len(replaced) == len(lab.route_table_ids)
    assert all("DestinationCidrBlock" not in call.params for call in replaced)
    assert targets(lab, f"{FLOATING6}/128") == everywhere(lab, eni(lab, "a", 1))
    assert holder(lab, inside) == eni(lab, "a", 2)
    assert pod_routes(pod)[254, f"{lab.peers['peer1'].address6}/128"] == ("fe80:ec2::1", "net1")
    assert_answers(lab, FLOATING6)


def test_an_interface_that_is_no_enis_does_not_block_the_others(lab: Lab) -> None:
    """«an interface whose MAC is no ENI's (macvlan, dummy, bridge) raises and blocks every other interface»"""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    add_bridge(pod, "br0", "172.30.0.1/24")
    pod.add_interface("net2", [f"{TWO}/32"], device_index=2)
    run = init(pod)
    assert_answers(lab, ONE, TWO)
    assert len(run.events("ignored", interface="br0")) == 1
    assert not [each for each in destinations(lab.ec2.calls) if "172.30" in each[2]]


def test_two_interfaces_on_one_eni_both_get_their_own(lab: Lab) -> None:
    """«two pod interfaces on one ENI share a MAC, and overwrite each other in a dict keyed by MAC»"""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    pod.add_interface("second", [f"{TWO}/32"], device_index=1)
    init(pod)
    for address in (ONE, TWO):
        assert targets(lab, f"{address}/32") == everywhere(lab, eni(lab, "a", 1))
    assert_answers(lab, ONE, TWO)
    rules = pod_rules(pod)
    assert rules[ONE] != rules[TWO]
    assert {pod_routes(pod)[table, "0.0.0.0/0"][1] for table in rules.values()} == {"net1", "second"}


def test_an_address_in_no_subnet_does_not_crash_the_loop(lab: Lab) -> None:
    """«an address in no subnet yields None and crashes the loop for ever»"""
    pod = lab.pod("pod", "a", {"net1": ["10.10.200.1/32", f"{ONE}/32"]})
    run = sidecar(pod, ONE, SubnetBasedLoopbacks="True")
    run.wait_mention("10.10.200.1", "no subnet")
    pod.add_address("net1", f"{TWO}/32")
    run.wait("claimed", address=TWO)
    assert_answers(lab, ONE, TWO)


def test_an_address_that_vanishes_is_withdrawn_and_one_that_returns_is_claimed_again(lab: Lab) -> None:
    """«an address that vanishes is never withdrawn; one that returns is never claimed again (fail-back broken)»"""
    inside = "10.10.11.77"
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{inside}/24"], "net2": [f"{TWO}/32"]})
    run = sidecar(pod, ONE, TWO, inside)
    for cidr in (f"{ONE}/32", f"{inside}/24"):
        pod.del_address("net1", cidr)
    until(lambda: not targets(lab, f"{ONE}/32"), lambda: f"withdrawal of {ONE}:\n{run.text}")
    until(lambda: holder(lab, inside) is None, lambda: f"withdrawal of {inside}:\n{run.text}")
    assert_answers(lab, TWO)
    for cidr in (f"{ONE}/32", f"{inside}/24"):
        pod.add_address("net1", cidr)
    for address in (ONE, inside):
        run.wait("claimed", count=2, address=address)
    assert_answers(lab, ONE, inside)


def test_a_rule_for_one_address_does_not_pass_for_another_that_begins_alike(lab: Lab) -> None:
    """«rule lookup by unanchored text: 10.10.1.10's rule passes for 10.10.1.1's»"""
    pod = lab.pod("pod", "a", {"net1": ["192.168.0.10/32"]})
    init(pod, UseSBR="True")
    pod.add_address("net1", "192.168.0.1/32")
    init(pod, UseSBR="True")
    assert pod_rules(pod) == {"192.168.0.10": 101, "192.168.0.1": 101}
    assert_answers(lab, "192.168.0.1", "192.168.0.10")


def test_source_based_routing_without_peers_has_its_default_route(lab: Lab) -> None:
    """«with source based routing and no peers, no default route is installed, although the comments promise it»"""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{FLOATING6}/128"]})
    init(pod, UseSBR="True")
    assert pod_routes(pod)[101, "0.0.0.0/0"] == ("10.10.11.1", "net1")
    assert pod_routes(pod)[101, "::/0"] == ("fe80:ec2::1", "net1")
    assert_answers(lab, ONE, FLOATING6)


@pytest.mark.parametrize("name", ["flow1", "veth0", "eth01", "ens5", "lo0"])
def test_interfaces_are_told_apart_by_what_they_are_and_not_by_their_name(lab: Lab, name: str) -> None:
    """«interfaces are excluded by substring: any name that contains "lo" or "eth0" is dropped, ens5 is kept»"""
    pod = lab.pod("pod", "a", {})
    pod.add_interface(name, [f"{ONE}/32"], device_index=1)
    links.add_address(pod.ns, "lo", f"{THREE}/32")
    run = init(pod)
    assert_answers(lab, ONE)
    assert run.events("claimed", address=ONE)
    assert not run.mentions(THREE)
    assert [event["name"] for event in run.events("interface")] == [name]
    assert not run.mentions(pod.address)


def test_one_changed_address_rewrites_no_other(lab: Lab) -> None:
    """«one changed address rewrites every route of every address (12 changes: 416 calls measured)»"""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"], "net2": [f"{TWO}/32"]})
    run = sidecar(pod, ONE, TWO)
    mark = lab.ec2.mark()
    pod.add_address("net1", f"{THREE}/32")
    run.wait("claimed", address=THREE)
    made = sorted(destinations(writes(lab.ec2.calls_since(mark))))
    assert made == sorted(("CreateRoute", table, f"{THREE}/32") for table in lab.route_table_ids)


@pytest.mark.parametrize("index", [1, 2])
def test_of_two_enis_in_one_subnet_the_one_with_the_interfaces_mac_gets_the_address(
    make_lab: Callable[..., Lab], index: int
) -> None:
    """«ENI matched by subnet CIDR: two ENIs in one subnet, the wrong one gets the address (their issue #12)»"""
    twins = WorkerSpec("a", "us-east-2a", "nodes-a", ("multus1-a", "multus1-a"))
    lab = make_lab(workers=(twins, WORKER_B))
    address, address6 = "10.10.11.77", own_address6(lab, "a", index, 0x77)
    addresses: dict[str, list[str]] = {"net1": [], "net2": []}
    addresses[f"net{index}"] = [f"{address}/32", f"{address6}/128"]
    init(lab.pod("pod", "a", addresses))
    assert holder(lab, address) == holder(lab, address6) == eni(lab, "a", index)
    assert_answers(lab, address, address6)


@pytest.mark.parametrize("length", [32, 28, 24, 16])
def test_an_address_of_the_subnet_is_assigned_whatever_its_prefix_length(lab: Lab, length: int) -> None:
    """«exact prefix match: an address configured as /32 inside the subnet is skipped, and it still exits 0»"""
    init(lab.pod("pod", "a", {"net1": [f"10.10.11.77/{length}"]}))
    assert holder(lab, "10.10.11.77") == eni(lab, "a", 1)
    if length != 16:  # with the whole VPC on-link the pod itself looks for the peers on the link
        assert_answers(lab, "10.10.11.77")


def test_ipv6_reassignment_frees_the_address_on_the_other_eni_only_and_first(make_lab: Callable[..., Lab]) -> None:
    """«IPv6 reassignment unassigns from its own ENI too, and assign races with release»"""
    lab = make_lab(workers=ONE_AZ)
    moved, kept = own_address6(lab, "a", 1, 0x77), own_address6(lab, "a", 1, 0x78)
    admin = lab.ec2.admin()
    admin.assign_ipv6_addresses(NetworkInterfaceId=eni(lab, "c", 1), Ipv6Addresses=[moved])
    admin.assign_ipv6_addresses(NetworkInterfaceId=eni(lab, "a", 1), Ipv6Addresses=[kept])
    init(lab.pod("pod", "a", {"net1": [f"{moved}/128", f"{kept}/128"]}))

    assert holder(lab, moved) == holder(lab, kept) == eni(lab, "a", 1)
    freed = lab.ec2.calls_since(0, "UnassignIpv6Addresses")
    assert [(call.params["NetworkInterfaceId"], call.params["Ipv6Addresses.1"]) for call in freed] == [
        (eni(lab, "c", 1), moved)
    ]
    assigned = lab.ec2.calls_since(0, "AssignIpv6Addresses")
    assert [call.status for call in assigned] == [200]
    assert freed[0].finished < assigned[0].started
    assert_answers(lab, moved, kept)


def test_describes_are_paged_and_edge_tables_left_out(make_lab: Callable[..., Lab]) -> None:
    """«the describe calls are not paged; edge route tables are not left out»"""
    lab = make_lab(route_tables=11)
    lab.ec2.page_size = 2
    lab.imds.refuse()  # so that the ENIs, subnets and tables are all asked of EC2
    init(lab.pod("pod", "a", {"net1": [f"{ONE}/32"], "net2": ["10.10.254.5/32"]}), SubnetBasedLoopbacks="True")
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))
    assert targets(lab, "10.10.254.0/28") == everywhere(lab, eni(lab, "a", 2))
    assert len(lab.route_table_ids) == 11
    edge = lab.ec2.state().route_tables[lab.topology.edge_table_id]
    assert not [route for route in edge.routes if route.eni_id]


def test_the_device_index_is_the_enis_and_no_name_or_host_name_is_parsed(lab: Lab) -> None:
    """«NodePort: … device index taken as a count; the region parsed out of a host name; `eth4` hard-coded»

    «Any healthy holder counts as "same", so draining never moves the ENI» and «EIP mode pings the allocation id» are
    of the nodeport mode, which is not part of this package yet: their tests come with it.
    """
    first = lab.ec2.state().enis[eni(lab, "a", 1)].attachment
    pod = lab.pod("pod", "a", {})
    pod.add_interface("sig7", [f"{TWO}/32"], device_index=2)
    assert first is not None
    lab.ec2.admin().detach_network_interface(AttachmentId=first.attachment_id, Force=True)  # index 2 is the only one
    mark = len(lab.imds.requests)
    region = {"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "HOSTNAME": "ip-10-0-0-1.eu-nowhere-9.compute.internal"}
    run = init(pod, env=region, Intf2Peers=f"{PEER1_NET},{PEER2_NET}", UseSBR="False")
    assert run.events("interface", name="sig7", index=2, eni=eni(lab, "a", 2))
    assert pod_routes(pod)[254, f"{PEER1_NET.partition('/')[0]}/24"] == ("10.10.12.1", "sig7")
    asked = [request.path for request in lab.imds.requests[mark:]]
    assert "/latest/meta-data/placement/region" in asked
    assert_answers(lab, TWO)


def test_peers_belong_to_the_device_index_and_not_to_the_order_of_interfaces(lab: Lab) -> None:
    """The same line for two interfaces that are made, and named, the other way round."""
    pod = lab.pod("pod", "a", {})
    pod.add_interface("net1", [f"{TWO}/32"], device_index=2)
    pod.add_interface("net2", [f"{ONE}/32"], device_index=1)
    init(pod, Intf1Peers=PEER1_NET, Intf2Peers=PEER2_NET, UseSBR="False")
    routes = pod_routes(pod)
    assert routes[254, "10.10.31.0/24"] == ("10.10.11.1", "net2")
    assert routes[254, "10.10.32.0/24"] == ("10.10.12.1", "net1")
    assert targets(lab, f"{TWO}/32") == everywhere(lab, eni(lab, "a", 2))
    assert_answers(lab, ONE, peers=["peer1"])
    assert_answers(lab, TWO, peers=["peer2"])
