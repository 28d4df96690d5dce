"""The lab's network does what a VPC does, and goes away without a trace."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import frames, links
from lab.lab import Lab
from lab.netns import Namespace
from lab.pod import Pod
from lab.prober import ProbeLog
from lab.router import GATEWAY6, ROUTER_MAC
from lab.topology import WORKER_A, WorkerSpec

pytestmark = pytest.mark.namespaces

REPOSITORY = Path(__file__).resolve().parents[2]
FLOATING, FLOATING6 = "192.168.0.2", "fd12::2"
IP_RECVTTL = 12  # linux/in.h
QUICK = 0.1  # seconds to wait for a ping that must fail; those that must not fail have much longer


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def pod(lab: Lab) -> Iterator[Pod]:
    """A pod on worker a with the floating addresses and their return routes; the VPC does not know of it."""
    before = lab.ec2.state()
    made = lab.pod("pod", "a", {"net1": [f"{FLOATING}/32", f"{FLOATING6}/128"]})
    add_return_routes(lab, made, "net1", FLOATING, FLOATING6)
    yield made
    lab.delete_pod("pod")
    restore(lab, before)


def restore(lab: Lab, before: Any) -> None:
    """Take routes and source/dest checks back to what they were."""
    client = lab.ec2.admin()
    for table in lab.ec2.state().route_tables.values():
        for destination in (
            table.by_destination.keys() - before.route_tables[table.route_table_id].by_destination.keys()
        ):
            client.delete_route(RouteTableId=table.route_table_id, **destination_of(str(destination)))
    for eni in before.enis.values():
        if lab.ec2.state().enis[eni.eni_id].source_dest_check != eni.source_dest_check:
            set_check(lab, eni.eni_id, eni.source_dest_check)


def add_return_routes(lab: Lab, pod: Pod, interface: str, source: str, source6: str | None = None) -> None:
    index = int(interface[3:])
    gateway = pod.worker.eni(index).subnet_cidr.replace(".0/24", ".1")
    for peer in lab.peers.values():
        links.add_route(pod.ns, interface, f"{peer.address}/32", gateway=gateway, source=source)
        if source6:
            links.add_route(pod.ns, interface, f"{peer.address6}/128", gateway=str(GATEWAY6), source=source6)


def destination_of(cidr: str) -> dict[str, str]:
    return {"DestinationIpv6CidrBlock" if ":" in cidr else "DestinationCidrBlock": cidr}


def set_check(lab: Lab, eni_id: str, on: bool) -> None:
    lab.ec2.admin().modify_network_interface_attribute(NetworkInterfaceId=eni_id, SourceDestCheck={"Value": on})


def route(lab: Lab, cidr: str, eni_id: str, tables: list[str] | None = None) -> None:
    for table in lab.route_table_ids if tables is None else tables:
        lab.ec2.admin().create_route(RouteTableId=table, NetworkInterfaceId=eni_id, **destination_of(cidr))


def wait_for(condition: Callable[[], Any], bound: float = 10.0) -> Any:
    deadline = time.monotonic() + bound
    while not (result := condition()):
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(0.01)
    return result


def drops(lab: Lab, eni_id: str, reason: str) -> int:
    return lab.router.dropped[eni_id, reason]


# ARP and neighbour discovery ------------------------------------------------------------------------------------------


class Wire:
    """Raw frames to and from an interface."""

    def __init__(self, ns: Namespace, name: str) -> None:
        self.mac = bytes.fromhex(next(link.mac for link in links.list_links(ns) if link.name == name).replace(":", ""))
        self._socket = ns.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(frames.ETH_P_ALL)))
        self._socket.bind((name, frames.ETH_P_ALL))
        self._socket.settimeout(5)

    def close(self) -> None:
        self._socket.close()

    def ask_arp(self, sender: str, target: str) -> None:
        self._socket.send(
            b"\xff" * 6 + self.mac + frames.ARP + bytes.fromhex("0001080006040001") + self.mac
            + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
        )  # fmt: skip

    def ask_neighbour(self, sender: str, target: str) -> None:
        source, wanted = (socket.inet_pton(socket.AF_INET6, each) for each in (sender, target))
        group = bytes.fromhex("ff0200000000000000000001ff") + wanted[-3:]
        message = bytes((135, 0, 0, 0, 0, 0, 0, 0)) + wanted
        header = bytes.fromhex("6000000000183aff") + source + group
        self._socket.send(b"\x33\x33" + group[-4:] + self.mac + frames.IPV6 + header + message)

    def answers(self, until: str) -> list[tuple[str, bytes, bool]]:
        """(address, MAC, router?) of each answer, up to the one about `until`."""
        found = []
        while True:
            frame, sender = self._socket.recvfrom(2048)
            if sender[2] == socket.PACKET_OUTGOING:
                continue
            if frame[12:14] == frames.ARP and frame[20:22] == b"\0\2":
                found.append((socket.inet_ntoa(frame[28:32]), frame[22:28], False))
            elif frame[12:14] == frames.IPV6 and frame[20] == 58 and frame[54] == 136:
                assert self._checksum_is_right(frame)
                found.append((socket.inet_ntop(socket.AF_INET6, frame[62:78]), frame[80:86], bool(frame[58] & 0x80)))
            if found and found[-1][0] == until:
                return found

    def _checksum_is_right(self, frame: bytes) -> bool:
        message = frame[54:]
        pseudo_header = frame[22:54] + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big")
        return frames.internet_checksum(pseudo_header + message) == 0


@pytest.fixture
def wire(pod: Pod) -> Iterator[Wire]:
    made = Wire(pod.ns, "net1")
    yield made
    made.close()


def test_arp_is_answered_for_the_whole_subnet(wire: Wire) -> None:
    for address in ("10.10.11.1", "10.10.11.200"):  # the router's own, and one that nobody has
        wire.ask_arp(FLOATING, address)
        assert wire.answers(until=address) == [(address, ROUTER_MAC, False)]


@pytest.mark.parametrize(
    ("sender", "target"),
    [
        pytest.param(FLOATING, "10.10.11.4", id="an address of the asking ENI"),
        pytest.param("10.10.11.7", "10.10.11.7", id="gratuitous"),
        pytest.param("0.0.0.0", "10.10.11.7", id="probe for a duplicate"),
        pytest.param(FLOATING, "10.10.12.1", id="another subnet"),
        pytest.param(FLOATING, "192.168.0.9", id="outside the VPC"),
    ],
)
def test_arp_is_not_answered(wire: Wire, sender: str, target: str) -> None:
    wire.ask_arp(sender, target)
    wire.ask_arp(FLOATING, "10.10.11.1")  # the router answers in order
    assert [address for address, _, _ in wire.answers(until="10.10.11.1")] == ["10.10.11.1"]


def test_neighbours_are_answered_for_the_gateway_and_the_whole_subnet(pod: Pod, wire: Wire) -> None:
    own = pod.worker.eni(1).primary_ip6
    assert own is not None
    other = own.rpartition(":")[0] + ":1234"
    wire.ask_neighbour("::", other)  # duplicate address detection
    wire.ask_neighbour(FLOATING6, own)
    wire.ask_neighbour(FLOATING6, "fd12::9")
    wire.ask_neighbour(FLOATING6, other)
    wire.ask_neighbour(FLOATING6, str(GATEWAY6))
    assert wire.answers(until=str(GATEWAY6)) == [(other, ROUTER_MAC, False), (str(GATEWAY6), ROUTER_MAC, True)]


# Forwarding -----------------------------------------------------------------------------------------------------------


def test_peers_reach_each_other_by_the_local_route(lab: Lab) -> None:
    assert lab.ping("peer1", lab.peers["peer2"].address)
    assert lab.ping("peer2", str(lab.peers["peer1"].address6))


def test_routes_count_in_the_senders_table_only(lab: Lab, pod: Pod) -> None:
    eni, eni_of_peer2 = pod.worker.eni(1).eni_id, lab.peers["peer2"].eni.eni_id
    set_check(lab, eni, False)
    table_of_peer1 = lab.ec2.state().table_of_subnet(lab.peers["peer1"].eni.subnet_id)
    assert table_of_peer1 is not None
    route(lab, f"{FLOATING}/32", eni, [table_of_peer1.route_table_id])
    route(lab, f"{FLOATING6}/128", eni, [table_of_peer1.route_table_id])
    before = drops(lab, eni_of_peer2, "no-route")
    assert lab.ping("peer1", FLOATING)
    assert lab.ping("peer1", FLOATING6)
    assert not lab.ping("peer2", FLOATING, timeout=QUICK)
    assert drops(lab, eni_of_peer2, "no-route") == before + 1
    assert lab.router.last_drops[-1].destination == FLOATING


def test_a_pod_reaches_peers_from_its_floating_address(lab: Lab, pod: Pod) -> None:
    set_check(lab, pod.worker.eni(1).eni_id, False)
    route(lab, f"{FLOATING}/32", pod.worker.eni(1).eni_id)
    assert lab.reach("pod", lab.peers["peer1"].address)
    assert lab.reach("pod", lab.peers["peer2"].address, source=FLOATING)


def test_a_replaced_route_moves_traffic_without_loss(lab: Lab, pod: Pod) -> None:
    here, there = pod.worker.eni(1).eni_id, lab.workers["b"].eni(1).eni_id
    for eni_id in (here, there):
        set_check(lab, eni_id, False)
    other = lab.pod("other", "b", {"net1": [f"{FLOATING}/32"]})
    try:
        add_return_routes(lab, other, "net1", FLOATING)
        route(lab, f"{FLOATING}/32", here)
        prober = lab.prober("peer1", [FLOATING])
        prober.wait_reply()
        for table in lab.route_table_ids:
            lab.ec2.admin().replace_route(
                RouteTableId=table, DestinationCidrBlock=f"{FLOATING}/32", NetworkInterfaceId=there
            )
        pod.set_link("net1", up=False)  # from here only the other pod can answer
        prober.wait_reply(after=time.monotonic())
        log = prober.stop()[FLOATING]
        assert log.lost() == 0
        assert log.longest_gap() < 0.5
    finally:
        lab.delete_pod("other")


def test_destination_check(lab: Lab, pod: Pod) -> None:
    route(lab, f"{FLOATING}/32", pod.worker.eni(1).eni_id)
    peer = lab.peers["peer1"].eni.eni_id
    before = drops(lab, peer, "dest-check")
    assert not lab.ping("peer1", FLOATING, timeout=QUICK)
    assert drops(lab, peer, "dest-check") == before + 1
    set_check(lab, pod.worker.eni(1).eni_id, False)
    assert lab.ping("peer1", FLOATING)


def test_source_check(lab: Lab, pod: Pod) -> None:
    eni = pod.worker.eni(1).eni_id
    before = drops(lab, eni, "source-check")
    assert not lab.reach("pod", lab.peers["peer1"].address, source=FLOATING, timeout=QUICK)
    assert drops(lab, eni, "source-check") == before + 1


def test_a_secondary_address_needs_no_route(lab: Lab, pod: Pod) -> None:
    pod.add_address("net1", "10.10.11.50/32")
    client, eni = lab.ec2.admin(), pod.worker.eni(1).eni_id
    assert not lab.ping("peer1", "10.10.11.50", timeout=QUICK)
    client.assign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=["10.10.11.50"])
    links.add_route(pod.ns, "net1", "10.10.31.0/24", gateway="10.10.11.1", source="10.10.11.50")
    pod.del_address("net1", f"{FLOATING}/32")  # and with it the routes that prefer it
    assert lab.ping("peer1", "10.10.11.50")
    client.unassign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=["10.10.11.50"])
    assert not lab.ping("peer1", "10.10.11.50", timeout=QUICK)


def test_a_route_for_a_subnets_cidr_beats_local(lab: Lab, pod: Pod) -> None:
    pod.add_address("net1", "10.10.254.5/32")
    set_check(lab, pod.worker.eni(1).eni_id, False)
    assert not lab.ping("peer1", "10.10.254.5", timeout=QUICK)
    route(lab, "10.10.254.0/28", pod.worker.eni(1).eni_id)
    assert lab.ping("peer1", "10.10.254.5")


def test_udp_arrives_with_its_checksum_and_ttl(lab: Lab) -> None:
    sender, receiver = lab.peers["peer1"], lab.peers["peer2"]
    taking = receiver.ns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sending = sender.ns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with taking, sending:
        taking.settimeout(5)
        taking.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        taking.bind((receiver.address, 5000))
        for size in (1, 1472):
            sending.sendto(b"x" * size, (receiver.address, 5000))
            data, control, _, _ = taking.recvmsg(2048, 64)  # the kernel has dropped it if the checksum is wrong
            assert (len(data), int.from_bytes(control[0][2], sys.byteorder)) == (size, 64)


def test_tcp_carries_more_than_a_segment(lab: Lab) -> None:
    sender, receiver = lab.peers["peer1"], lab.peers["peer2"]
    listening = receiver.ns.run(lambda: socket.create_server((str(receiver.address6), 5000), family=socket.AF_INET6))
    with listening:
        sending = sender.ns.run(lambda: socket.create_connection((str(receiver.address6), 5000), timeout=5))
        taking, _ = listening.accept()
        with sending, taking:
            taking.settimeout(5)
            threading.Thread(target=sending.sendall, args=(b"x" * 300_000,), daemon=True).start()
            received = 0
            while received < 300_000:
                received += len(taking.recv(65536))


# Pods -----------------------------------------------------------------------------------------------------------------


def test_a_pod_has_the_enis_mac_and_just_the_addresses_given(lab: Lab, pod: Pod) -> None:
    eth0, net1 = pod.interfaces()
    assert (eth0.name, eth0.addresses) == ("eth0", (f"{pod.address}/32",))
    assert (net1.name, net1.mac) == ("net1", pod.worker.eni(1).mac)
    assert net1.addresses == (f"{FLOATING}/32", f"{FLOATING6}/128")


def test_two_interfaces_on_one_eni(lab: Lab, pod: Pod) -> None:
    eni = pod.worker.eni(1)
    pod.add_interface("net1b", ["192.168.0.3/32"], device_index=1)
    assert [link.mac for link in pod.interfaces()][1:] == [eni.mac, eni.mac]
    set_check(lab, eni.eni_id, False)
    for address in (FLOATING, "192.168.0.3"):
        route(lab, f"{address}/32", eni.eni_id)
        assert lab.ping("peer1", address)
    pod.set_link("net1", up=False)
    links.add_route(pod.ns, "net1b", f"{lab.peers['peer1'].address}/32", gateway="10.10.11.1", source="192.168.0.3")
    assert lab.ping("peer1", "192.168.0.3")  # not by net1
    assert lab.router.last_drops[-1].reason != "not-sent"


def test_an_interface_goes_back_to_the_worker_and_on_to_the_next_pod(lab: Lab) -> None:
    worker = lab.workers["a"]
    for name in ("first", "second"):
        pod = lab.pod(name, "a", {"net2": ["192.168.7.7/32"]})
        assert [link.name for link in pod.interfaces()] == ["eth0", "net2"]
        lab.delete_pod(name)
        back = {link.name: link for link in worker.interfaces()}
        assert back.keys() == {"eth0", "eth1", "eth2", "control0"}
        assert (back["eth2"].mac, back["eth2"].addresses, back["eth2"].up) == (worker.eni(2).mac, (), True)


def test_a_pod_that_cannot_be_made_leaves_nothing(lab: Lab) -> None:
    with pytest.raises(LookupError):
        lab.pod("bad", "a", {"net1": [], "net7": []})
    assert "bad" not in lab.pods
    assert {link.name for link in lab.workers["a"].interfaces()} == {"eth0", "eth1", "eth2", "control0"}


def test_ec2_and_imds_answer_in_a_pod_and_know_its_worker(lab: Lab, pod: Pod) -> None:
    script = """
import json, os, socket, urllib.request
with socket.create_connection(("100.64.0.1", 8000), 5): pass
base, token = "http://169.254.169.254/latest/", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
request = urllib.request.Request(base + "api/token", method="PUT", headers=token)
token = {"X-aws-ec2-metadata-token": urllib.request.urlopen(request, timeout=5).read().decode()}
request = urllib.request.Request(base + "meta-data/instance-id", headers=token)
print(json.dumps([urllib.request.urlopen(request, timeout=5).read().decode(), os.environ["AWS_ENDPOINT_URL"]]))
"""
    argv = [sys.executable, "-c", script]
    process = pod.popen(argv, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=20)
    assert json.loads(output) == [pod.worker.instance_id, lab.ec2.url]


def test_no_aws_setting_leaks_in(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    assert {name for name in lab.env("a") if name.startswith("AWS_")} == {
        "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    }  # fmt: skip
    assert lab.env("a")["AWS_ACCESS_KEY_ID"] != lab.env("b")["AWS_ACCESS_KEY_ID"]


# Failures -------------------------------------------------------------------------------------------------------------


def can_connect(pod: Pod) -> bool:
    def connect() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("100.64.0.1", 8000), QUICK):
            return True
        return False

    return pod.ns.run(connect)


def test_a_cut_worker_is_unreachable_and_runs_on(lab: Lab, pod: Pod) -> None:
    eni = pod.worker.eni(1).eni_id
    set_check(lab, eni, False)
    route(lab, f"{FLOATING}/32", eni)
    assert lab.ping("peer1", FLOATING)
    assert can_connect(pod)
    lab.cut("a")
    try:
        assert not lab.ping("peer1", FLOATING, timeout=QUICK)
        assert not lab.reach("pod", lab.peers["peer1"].address, timeout=QUICK)
        assert not can_connect(pod)
        assert lab.ec2.state().instances[pod.worker.instance_id].state == "running"
    finally:
        lab.restore("a")
    assert lab.ping("peer1", FLOATING)
    wait_for(lambda: can_connect(pod))  # the kernel takes up to a second to see that a link has its carrier again


def test_a_third_worker_may_share_the_subnets_of_the_first() -> None:
    spec = WorkerSpec("c", "us-east-2a", "nodes-a", ("multus1-a", "multus1-a"))
    with Lab(workers=[WORKER_A, spec], ipv6=False) as lab:
        assert (
            lab.workers["c"].eni(1).subnet_id == lab.workers["c"].eni(2).subnet_id == lab.workers["a"].eni(1).subnet_id
        )
        assert lab.workers["a"].eni(1).primary_ip6 is None
        pod = lab.pod("pod", "c", {"net1": [], "net2": [f"{FLOATING}/32"]})
        links.add_route(pod.ns, "net2", f"{lab.peers['peer1'].address}/32", gateway="10.10.11.1", source=FLOATING)
        set_check(lab, pod.worker.eni(2).eni_id, False)
        route(lab, f"{FLOATING}/32", pod.worker.eni(2).eni_id)
        assert lab.ping("peer1", FLOATING)


def test_a_terminated_workers_routes_are_blackholes() -> None:
    with Lab(route_tables=1) as lab:
        pod = lab.pod("pod", "a", {"net1": [f"{FLOATING}/32"]})
        add_return_routes(lab, pod, "net1", FLOATING)
        set_check(lab, pod.worker.eni(1).eni_id, False)
        route(lab, f"{FLOATING}/32", pod.worker.eni(1).eni_id)
        assert lab.ping("peer1", FLOATING)
        process = pod.popen(["sleep", "100"])
        lab.terminate("a")
        assert process.wait(5) == -signal.SIGKILL
        assert not lab.ping("peer1", FLOATING, timeout=QUICK)
        assert drops(lab, lab.peers["peer1"].eni.eni_id, "blackhole") == 1
        routes = lab.ec2.admin().describe_route_tables(RouteTableIds=lab.route_table_ids)["RouteTables"][0]["Routes"]
        assert [each["State"] for each in routes if each.get("DestinationCidrBlock") == f"{FLOATING}/32"] == [
            "blackhole"
        ]


# The prober's arithmetic ----------------------------------------------------------------------------------------------


def test_prober_results() -> None:
    log = ProbeLog("x", ((0.0, 0.1), (1.0, None), (2.0, None), (3.0, 0.1), (4.0, 0.1), (5.0, None)))
    assert (log.sent, log.received, log.lost(), log.lost(1.5, 4.5)) == (6, 3, 3, 1)
    assert log.longest_gap() == 3.0
    assert log.longest_gap(3.0, 4.5) == 1.0
    assert log.longest_gap(3.0, 6.0) == 2.0
