"""An address moves with its pod: to another worker, to another Availability Zone; shown on packets from both peers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from lab.ec2.state import BLACKHOLE
from lab.lab import Lab
from lab.pod import Pod
from tests.scenario.support import (
    ONE_AZ,
    PEER1_NET,
    PEER2_NET,
    assert_answers,
    assert_silent,
    eni,
    eni_state,
    everywhere,
    holder,
    init,
    own_address6,
    pod_routes,
    pod_rules,
    set_check,
    targets,
    writes,
)

pytestmark = pytest.mark.namespaces

ONE, TWO = "192.168.0.1", "192.168.0.2"
PATTERN_1 = {"net1": [f"{ONE}/32"], "net2": [f"{TWO}/32"]}
PATTERN_1_IPV6 = {"net1": ["fd12::1/128"], "net2": ["fd12::2/128"]}
PATTERN_2 = {"net1": ["10.10.254.5/32"], "net2": ["10.10.254.21/32"]}


def addresses_of(interfaces: Mapping[str, Sequence[str]]) -> list[str]:
    """The addresses without their lengths."""
    return [cidr.partition("/")[0] for cidrs in interfaces.values() for cidr in cidrs]


@pytest.mark.parametrize("interfaces", [PATTERN_1, PATTERN_1_IPV6], ids=["IPv4", "IPv6"])
def test_pattern_1_moves_to_another_az_when_a_worker_is_cut_off(
    lab: Lab, interfaces: Mapping[str, Sequence[str]]
) -> None:
    """EC2 still shows the first worker running, so the routes to it look healthy, and are taken over all the same."""
    addresses = addresses_of(interfaces)
    init(lab.pod("first", "a", interfaces))
    assert_answers(lab, *addresses)
    lab.cut("a")
    assert_silent(lab, *addresses)

    run = init(lab.pod("second", "b", interfaces))
    assert_answers(lab, *addresses)
    for index, address in enumerate(addresses, start=1):
        length = 128 if ":" in address else 32
        assert targets(lab, f"{address}/{length}") == everywhere(lab, eni(lab, "b", index))
        assert run.events("claimed", address=address, tables=4, moved_from=eni(lab, "a", index))


def test_the_peer_sees_one_gap_and_then_no_more_loss(lab: Lab) -> None:
    """A packet every 5 ms to both addresses: none is lost after the first one that the new pod answers."""
    init(lab.pod("first", "a", PATTERN_1))
    prober = lab.prober("peer1", [ONE, TWO])
    prober.wait_reply()
    lab.cut("a")
    cut = time.monotonic()
    init(lab.pod("second", "b", PATTERN_1))
    back = prober.wait_reply(after=cut)
    prober.wait_reply(after=time.monotonic())
    logs = prober.stop()
    for address in (ONE, TWO):
        assert logs[address].lost() > 0
        assert logs[address].lost(start=back) == 0, logs[address]


def test_routes_of_a_terminated_worker_are_replaced(lab: Lab) -> None:
    """Its routes are blackholes by then, which are there and so must be replaced and not created."""
    init(lab.pod("first", "a", PATTERN_1))
    lab.terminate("a")
    tables = [lab.ec2.state().route_tables[table] for table in lab.route_table_ids]
    assert all(route.state == BLACKHOLE for table in tables for route in table.routes if route.eni_id)
    mark = lab.ec2.mark()
    init(lab.pod("second", "b", PATTERN_1))
    assert_answers(lab, ONE, TWO)
    calls = lab.ec2.calls_since(mark, "CreateRoute", "ReplaceRoute")
    assert [(call.action, call.status) for call in calls] == [("ReplaceRoute", 200)] * 8


def test_it_fails_back_to_where_it_came_from(lab: Lab) -> None:
    """The first worker returns from its outage, and its pod is started anew."""
    init(lab.pod("first", "a", PATTERN_1))
    lab.cut("a")
    init(lab.pod("second", "b", PATTERN_1))
    lab.delete_pod("first")
    lab.restore("a")
    assert_answers(lab, ONE, TWO)
    init(lab.pod("third", "a", PATTERN_1))
    assert_answers(lab, ONE, TWO)
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))


def test_pattern_2_moves_whole_subnets_to_another_az(lab: Lab) -> None:
    """Addresses in subnets that no ENI is in: each subnet is routed whole."""
    addresses = addresses_of(PATTERN_2)
    init(lab.pod("first", "a", PATTERN_2), SubnetBasedLoopbacks="True")
    assert_answers(lab, *addresses)
    lab.cut("a")
    assert_silent(lab, *addresses)
    init(lab.pod("second", "b", PATTERN_2), SubnetBasedLoopbacks="True")
    assert_answers(lab, *addresses)
    for index, cidr in enumerate(sorted(lab.floating_subnets), start=1):
        assert targets(lab, cidr) == everywhere(lab, eni(lab, "b", index))
    assert not [each for each in lab.ec2.calls if each.params.get("DestinationCidrBlock", "").endswith("/32")]


def test_addresses_of_the_enis_subnet_move_between_workers_of_one_az(make_lab: Callable[..., Lab]) -> None:
    """IPv4 is reassigned in one call, IPv6 freed on the other ENI first; the other worker looks healthy to EC2."""
    lab = make_lab(workers=ONE_AZ)
    address, address6 = "10.10.11.77", own_address6(lab, "a", 1, 0x77)
    interfaces = {"net1": [f"{address}/24", f"{address6}/128"]}
    init(lab.pod("first", "a", interfaces))
    assert holder(lab, address) == holder(lab, address6) == eni(lab, "a", 1)
    assert_answers(lab, address, address6)
    lab.cut("a")
    assert_silent(lab, address, address6)
    init(lab.pod("second", "c", interfaces))
    assert holder(lab, address) == holder(lab, address6) == eni(lab, "c", 1)
    assert_answers(lab, address, address6)
    assert not lab.ec2.calls_since(0, "ModifyNetworkInterfaceAttribute"), "the ENI's own addresses pass its check"


def test_addresses_of_a_terminated_workers_eni_move(make_lab: Callable[..., Lab]) -> None:
    """The ENI outlives the instance and keeps the addresses until somebody takes them."""
    lab = make_lab(workers=ONE_AZ)
    address, address6 = "10.10.12.77", own_address6(lab, "a", 2, 0x77)
    interfaces = {"net2": [f"{address}/32", f"{address6}/128"]}
    init(lab.pod("first", "a", interfaces))
    lab.terminate("a")
    init(lab.pod("second", "c", interfaces))
    assert holder(lab, address) == holder(lab, address6) == eni(lab, "c", 2)
    assert_answers(lab, address, address6)


def test_two_interfaces_on_one_eni_move_together(lab: Lab) -> None:
    """One MAC, two interfaces: each has its own table, and both addresses leave and arrive through the same ENI."""

    def twins(name: str, worker: str) -> Pod:
        pod = lab.pod(name, worker, {"net1": [f"{ONE}/32"]})
        pod.add_interface("net1b", [f"{TWO}/32"], device_index=1)
        return pod

    for name, worker in (("first", "a"), ("second", "b")):
        pod = twins(name, worker)
        init(pod)
        assert pod_rules(pod) == {ONE: 101, TWO: 301}
        assert pod_routes(pod)[101, "0.0.0.0/0"][1] == "net1"
        assert pod_routes(pod)[301, "0.0.0.0/0"][1] == "net1b"
        assert targets(lab, f"{ONE}/32") == targets(lab, f"{TWO}/32") == everywhere(lab, eni(lab, worker, 1))
        assert_answers(lab, ONE, TWO)
        lab.cut(worker)


@pytest.mark.parametrize(
    "interfaces",
    [PATTERN_1, PATTERN_1_IPV6, PATTERN_2, {"net2": ["10.10.12.77/24"]}, {**PATTERN_2, "net1": [f"{ONE}/32"]}],
    ids=["pattern 1", "IPv6", "pattern 2", "own subnet", "both patterns"],
)
def test_a_second_init_of_the_same_pod_only_looks(lab: Lab, interfaces: Mapping[str, Sequence[str]]) -> None:
    """Nothing to do costs nothing but describes."""
    pod = lab.pod("pod", "a", interfaces)
    init(pod, SubnetBasedLoopbacks="True")
    mark = lab.ec2.mark()
    init(pod, SubnetBasedLoopbacks="True")
    assert writes(lab.ec2.calls_since(mark)) == []
    assert_answers(lab, *addresses_of(interfaces))


def test_a_fresh_init_needs_at_most_2t_plus_4_calls(lab: Lab) -> None:
    """Two addresses, four tables: eight routes, two source/dest checks, two describes."""
    init(lab.pod("pod", "a", PATTERN_1))
    assert len(lab.ec2.calls) <= 2 * len(lab.route_table_ids) + 4


def test_only_tagged_tables_are_written(lab: Lab) -> None:
    """The peer whose subnet's table is tagged gets through, the other one does not."""
    table = lab.ec2.state().table_of_subnet(lab.peers["peer2"].eni.subnet_id)
    assert table is not None
    name = dict(table.tags)["Name"]
    init(lab.pod("pod", "a", PATTERN_1), VPCRTTag=f"vipmanager=yes, Name={name}")
    assert targets(lab, f"{ONE}/32") == {table.route_table_id: eni(lab, "a", 1)}
    assert_answers(lab, ONE, TWO, peers=["peer2"])
    assert_silent(lab, ONE, TWO, peers=["peer1"])


# Which interface a reply leaves by. In the lab a reply that leaves by eth0 ends in the control network, as on EKS it
# would leave with the pod's address from the node's own ENI.


def test_replies_to_a_peer_leave_by_the_interface_of_its_list(lab: Lab) -> None:
    """Intf1Peers holds one peer only: the other's packets arrive, but nothing sends the replies back through net1."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    init(pod, Intf1Peers=PEER1_NET)
    assert_answers(lab, ONE, peers=["peer1"])
    assert_silent(lab, ONE, peers=["peer2"])
    assert pod_rules(pod) == {}
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))


def test_source_based_routing_answers_peers_that_are_in_no_list(lab: Lab) -> None:
    """The same with UseSBR: the address decides, not the peer."""
    init(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}), Intf1Peers=PEER1_NET, UseSBR="True")
    assert_answers(lab, ONE)


def test_without_peers_and_without_source_based_routing_no_reply_leaves_by_the_interface(lab: Lab) -> None:
    """What auto is there to avoid, and UseSBR "False" asks for: the VPC's side is done, the pod's is left alone."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    init(pod, UseSBR="False")
    assert_silent(lab, ONE)
    assert pod_rules(pod) == {}
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))


def test_a_reply_leaves_by_the_peers_interface_or_with_sbr_by_the_addresss_own(lab: Lab) -> None:
    """net2's address, asked by a peer of net1's list: net1's ENI is made to drop it, which shows who sent the reply."""
    pod = lab.pod("pod", "a", PATTERN_1)
    peers: dict[str, object] = {"Intf1Peers": PEER1_NET, "Intf2Peers": PEER2_NET}
    init(pod, UseSBR="False", **peers)
    assert_answers(lab, TWO)
    net1 = eni(lab, "a", 1)
    set_check(lab, net1, True)
    before = lab.router.dropped[net1, "source-check"]
    assert_silent(lab, TWO, peers=["peer1"])
    assert lab.router.dropped[net1, "source-check"] > before, "the reply left by net1"
    assert_answers(lab, TWO, peers=["peer2"])

    init(pod, UseSBR="True", SourceDestCheck="Keep", **peers)
    assert eni_state(lab, net1).source_dest_check
    assert_answers(lab, TWO)


def test_a_peer_removed_from_the_list_is_removed_from_the_pod(lab: Lab) -> None:
    """Routes that are ours and no longer wanted go; anybody else's stay."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    init(pod, Intf1Peers=f"{PEER1_NET},{PEER2_NET},172.16.0.0/12")
    assert_answers(lab, ONE)
    before = pod_routes(pod)
    init(pod, Intf1Peers=PEER2_NET)
    gone = {(254, PEER1_NET), (254, "172.16.0.0/12")}
    assert pod_routes(pod) == {key: route for key, route in before.items() if key not in gone}
    assert_answers(lab, ONE, peers=["peer2"])
    assert_silent(lab, ONE, peers=["peer1"])
