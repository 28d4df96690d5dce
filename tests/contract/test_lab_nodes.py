"""Workers as nodes: their primary ENI, what runs on them, the ENIs that come and go, and the internet outside."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from ipaddress import IPv4Address
from typing import Any

import pytest

from lab import frames, links
from lab.hosts import Worker
from lab.http_prober import HttpLog
from lab.lab import Lab
from lab.links import Link

pytestmark = pytest.mark.namespaces

QUICK = 0.1  # seconds to wait for what must fail; what must not fail has much longer
PORT = 30007


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(internet=True) as made:
        yield made


@pytest.fixture
def eni(lab: Lab) -> Iterator[str]:
    """A free ENI in the first worker's node subnet, and EC2 without delays; gone afterwards."""
    admin = lab.ec2.admin()
    made = admin.create_network_interface(SubnetId=lab.workers["a"].enis[0].subnet_id)
    eni_id = str(made["NetworkInterface"]["NetworkInterfaceId"])
    yield eni_id
    lab.ec2.attach_delay = lab.ec2.detach_delay = 0.0
    lab.ec2.stuck_detach = False
    held = lab.ec2.state().enis.get(eni_id)
    if held and held.attachment:
        admin.detach_network_interface(AttachmentId=held.attachment.attachment_id, Force=True)
    if held:
        admin.delete_network_interface(NetworkInterfaceId=eni_id)


@pytest.fixture
def elastic_ip(lab: Lab) -> Iterator[tuple[str, str]]:
    """An Elastic IP that is bound to nothing: allocation ID, address."""
    allocation, public = lab.allocate_eip()
    yield allocation, public
    admin = lab.ec2.admin()
    if bound := lab.ec2.state().elastic_ips[allocation].association_id:
        admin.disassociate_address(AssociationId=bound)
    admin.release_address(AllocationId=allocation)


def wait_for(condition: Callable[[], Any], bound: float = 20.0) -> Any:
    deadline = time.monotonic() + bound
    while not (result := condition()):
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(0.01)
    return result


def attach(lab: Lab, eni: str, worker: str = "a", index: int = 3) -> str:
    answer = lab.ec2.admin().attach_network_interface(
        NetworkInterfaceId=eni, InstanceId=lab.workers[worker].instance_id, DeviceIndex=index
    )
    return str(answer["AttachmentId"])


def detach(lab: Lab, attachment: str, **more: Any) -> None:
    lab.ec2.admin().detach_network_interface(AttachmentId=attachment, **more)


def interface(lab: Lab, worker: Worker, eni: str) -> Link | None:
    """The interface with the ENI's MAC."""
    mac = lab.ec2.state().enis[eni].mac
    return next((link for link in worker.interfaces() if link.mac == mac), None)


def bind(lab: Lab, allocation: str, eni: str, private: str) -> None:
    lab.ec2.admin().associate_address(
        AllocationId=allocation, NetworkInterfaceId=eni, PrivateIpAddress=private, AllowReassociation=True
    )


def names(worker: Worker) -> set[str]:
    return {link.name for link in worker.interfaces()}


# The primary ENI and the control network ------------------------------------------------------------------------------


def test_eth0_is_the_first_eni_and_control0_is_no_enis(lab: Lab) -> None:
    worker = lab.workers["a"]
    shown = {link.name: link for link in worker.interfaces()}
    first = worker.eni(0)
    assert (shown["eth0"].mac, shown["eth0"].addresses) == (
        first.mac,
        (f"{first.primary_ip}/24", f"{first.primary_ip6}/64"),
    )
    assert shown["control0"].addresses == ()
    assert lab.ec2.state().eni_by_mac(shown["control0"].mac) is None


def test_workers_reach_each_other_and_peers_through_the_vpc(lab: Lab) -> None:
    here, there = lab.workers["a"], lab.workers["b"]
    forwarded = lab.router.forwarded
    assert here.reach(there.address)
    assert here.reach(str(there.address6))
    assert lab.ping("peer1", here.address)
    assert lab.ping("peer1", str(here.address6))
    wait_for(lambda: lab.router.forwarded >= forwarded + 8)  # it counts what it has sent


def test_a_worker_reaches_ec2_and_imds_and_is_known_there(lab: Lab) -> None:
    script = """
import json, os, urllib.request
base, token = "http://169.254.169.254/latest/", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
request = urllib.request.Request(base + "api/token", method="PUT", headers=token)
token = {"X-aws-ec2-metadata-token": urllib.request.urlopen(request, timeout=5).read().decode()}
request = urllib.request.Request(base + "meta-data/instance-id", headers=token)
print(json.dumps(urllib.request.urlopen(request, timeout=5).read().decode()))
"""
    worker = lab.workers["b"]
    process = worker.popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=20)
    assert json.loads(output) == worker.instance_id
    assert worker.reach("100.64.0.1")


def test_a_cut_worker_has_neither_network(lab: Lab) -> None:
    worker = lab.workers["a"]
    lab.cut("a")
    try:
        assert not lab.ping("peer1", worker.address, timeout=QUICK)
        assert not worker.reach(lab.workers["b"].address, timeout=QUICK)
        assert not worker.reach("100.64.0.1", timeout=QUICK)
    finally:
        lab.restore("a")
    assert lab.ping("peer1", worker.address)
    assert worker.reach("100.64.0.1", count=5)


# Processes ------------------------------------------------------------------------------------------------------------


def test_vipmanager_runs_on_a_worker_with_files_of_its_own(lab: Lab) -> None:
    here, there = (lab.workers[name].vipmanager(["--version"], {}) for name in "ab")
    assert (here.wait(20), there.wait(20)) == (0, 0)
    assert here.output().strip() and here.output() == there.output()
    assert here.log.parent != there.log.parent
    again = lab.workers["a"].vipmanager(["--version"], {}, {"NODE_NAME": "a"})
    assert again.wait(20) == 0
    assert (again.log.parent, again.log == here.log) == (here.log.parent, False)
    assert lab.workers["a"].env["StateDir"] != lab.workers["b"].env["StateDir"]


def test_a_prober_sees_who_answers_and_for_how_long_nobody_does(lab: Lab) -> None:
    worker = lab.workers["a"]
    responder = worker.serve_http(PORT)
    prober = lab.http_prober("peer1", f"http://{worker.address}:{PORT}/")
    prober6 = lab.http_prober("peer1", f"http://[{worker.address6}]:{PORT}/", interval=0.05)
    prober6.wait_answer("a")
    prober.wait_answer("a")
    responder.close()
    refused = time.monotonic()
    other = worker.serve_http(PORT, "other")
    prober.wait_answer("other", after=refused)
    log = prober.stop()
    assert [node for _, node in log.holders()] == ["a", "other"]
    last, first = log.gap_at(refused)
    assert last < refused <= first
    assert log.longest_gap() >= first - last
    assert log.received <= log.sent - log.lost(last, first)
    assert prober6.stop().received > 0
    other.close()


def test_attempts_do_not_wait_for_each_other(lab: Lab) -> None:
    worker = lab.workers["b"]
    responder = worker.serve_http(PORT)
    prober = lab.http_prober("peer2", f"http://{worker.address}:{PORT}/")
    prober.wait_answer("b")
    responder.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    with pytest.raises(TimeoutError):
        prober.wait_answer(after=stopped + 0.1, timeout=0.5)
    responder.process.send_signal(signal.SIGCONT)
    prober.wait_answer("b", after=time.monotonic())
    log = prober.stop()
    waiting = [sent for sent, rtt in log.probes if rtt is not None and rtt > 0.2]
    assert len(waiting) > 1  # begun while others waited, and answered: none took over a second
    responder.close()


def test_what_a_log_tells() -> None:
    probes = ((0.0, 0.1), (1.0, None), (2.0, None), (3.0, 0.1), (4.0, 0.1))
    log = HttpLog("x", probes, ("a", None, None, "b", "a"))
    assert log.holders() == [(0.0, "a"), (3.0, "b"), (4.0, "a")]
    assert log.gap_at(0.5) == (0.0, 3.0)
    assert log.longest_gap() == 3.0
    for when in (-1.0, 5.0):
        with pytest.raises(LookupError):
            log.gap_at(when)


# ENIs that come and go ------------------------------------------------------------------------------------------------


def test_an_attached_enis_interface_appears_down_and_bare(lab: Lab, eni: str) -> None:
    worker = lab.workers["a"]
    lab.ec2.attach_delay = 0.05
    attach(lab, eni)
    shown = wait_for(lambda: interface(lab, worker, eni))
    assert shown.name.startswith("ens")
    assert (shown.up, shown.addresses) == (False, ())
    assert (shown.name, eni) in [(name, each.eni_id) for name, each in worker.plugged()]
    assert worker.eni(3).eni_id == eni


def test_a_plugged_interface_carries_packets(lab: Lab, eni: str) -> None:
    worker, state = lab.workers["a"], lab.ec2.state()
    address = str(state.enis[eni].primary_ip)
    attachment = attach(lab, eni)
    shown = wait_for(lambda: interface(lab, worker, eni))
    links.set_link(worker.ns, shown.name, up=True)
    links.add_address(worker.ns, shown.name, f"{address}/32")
    links.add_route(worker.ns, shown.name, f"{lab.peers['peer1'].address}/32", gateway="10.10.1.1", source=address)
    assert lab.ping("peer1", address)
    lab.ec2.stuck_detach = True
    detach(lab, attachment)
    assert not lab.ping("peer1", address, timeout=QUICK)
    assert interface(lab, worker, eni) is not None  # the guest has not let go
    detach(lab, attachment, Force=True)
    wait_for(lambda: interface(lab, worker, eni) is None)


def test_a_detached_eni_can_be_plugged_in_elsewhere(lab: Lab, eni: str) -> None:
    here, there = lab.workers["a"], lab.workers["b"]
    made = lab.ec2.admin().create_network_interface(SubnetId=there.enis[0].subnet_id)
    other = str(made["NetworkInterface"]["NetworkInterfaceId"])
    first = attach(lab, eni)
    wait_for(lambda: interface(lab, here, eni))
    detach(lab, first)
    second = attach(lab, other, "b")
    wait_for(lambda: interface(lab, there, other) and not interface(lab, here, eni))
    name = next(name for name, each in there.plugged() if each.eni_id == other)
    detach(lab, second)
    third = attach(lab, other, "b")  # at once: it is another interface all the same
    wait_for(lambda: other in {each.eni_id for shown, each in there.plugged() if shown != name})
    detach(lab, third)
    lab.ec2.admin().delete_network_interface(NetworkInterfaceId=other)
    wait_for(lambda: names(there) == {"eth0", "eth1", "eth2", "control0"})


def test_a_cut_workers_new_interface_is_cut_too(lab: Lab, eni: str) -> None:
    worker, address = lab.workers["a"], str(lab.ec2.state().enis[eni].primary_ip)
    lab.cut("a")
    try:
        attach(lab, eni)
        shown = wait_for(lambda: interface(lab, worker, eni))
        links.set_link(worker.ns, shown.name, up=True)
        links.add_address(worker.ns, shown.name, f"{address}/32")
        links.add_route(worker.ns, shown.name, f"{lab.peers['peer1'].address}/32", gateway="10.10.1.1", source=address)
        assert not lab.ping("peer1", address, timeout=QUICK)
        assert lab.router.last_drops[-1].reason == "port-down"
    finally:
        lab.restore("a")
    assert lab.ping("peer1", address)


def test_imds_shows_an_eni_from_when_it_is_attached(lab: Lab, eni: str) -> None:
    worker, mac = lab.workers["a"], lab.ec2.state().enis[eni].mac
    lab.ec2.attach_delay = 60.0

    def macs() -> list[str]:
        headers = Message()
        headers["X-aws-ec2-metadata-token-ttl-seconds"] = "60"
        _, token, _ = lab.imds.handle("PUT", "/latest/api/token", worker.address, headers)
        headers["X-aws-ec2-metadata-token"] = token
        path = "/latest/meta-data/network/interfaces/macs/"
        return [each.rstrip("/") for each in lab.imds.handle("GET", path, worker.address, headers)[1].splitlines()]

    attachment = attach(lab, eni)
    assert mac not in macs()
    detach(lab, attachment, Force=True)
    lab.ec2.attach_delay = 0.0
    wait_for(lambda: lab.ec2.state().enis[eni].attachment is None)
    attach(lab, eni)
    assert mac in macs()


def test_an_interface_in_a_pod_goes_with_its_eni() -> None:
    with Lab() as lab:
        worker = lab.workers["a"]
        pod = lab.pod("pod", "a", {"net1": ["192.168.0.2/32"]})
        attachment = lab.ec2.state().enis[worker.eni(1).eni_id].attachment
        assert attachment is not None
        detach(lab, attachment.attachment_id)
        wait_for(lambda: [link.name for link in pod.interfaces()] == ["eth0"])
        assert "eth1" not in names(worker)
        with pytest.raises(LookupError):
            pod.add_interface("net3", device_index=1)
        lab.delete_pod("pod")
        lab.terminate("b")
        wait_for(lambda: names(lab.workers["b"]) == {"control0"})
        assert "eth1" not in json.dumps(lab.workers["b"].plugged())


# The internet ---------------------------------------------------------------------------------------------------------


def test_an_elastic_ip_is_reached_from_outside_while_it_is_bound(lab: Lab, elastic_ip: tuple[str, str]) -> None:
    allocation, public = elastic_ip
    outside, (here, there) = lab.internet, lab.workers.values()
    before = lab.router.dropped["internet", "no-elastic-ip"]
    assert not outside.reach(public, timeout=QUICK)
    assert lab.router.dropped["internet", "no-elastic-ip"] == before + 1
    bind(lab, allocation, here.eni(0).eni_id, here.address)
    assert outside.reach(public)
    assert here.reach(outside.address)
    assert not there.reach(outside.address, timeout=QUICK)  # it has no public address
    assert lab.router.last_drops[-1].reason.startswith("not-an-eni-target:igw-")
    responders = [worker.serve_http(PORT) for worker in (here, there)]
    prober = lab.http_prober("internet", f"http://{public}:{PORT}/")
    prober.wait_answer(here.name)
    bind(lab, allocation, there.eni(0).eni_id, there.address)
    prober.wait_answer(there.name)
    assert [node for _, node in prober.stop().holders()] == [here.name, there.name]
    for responder in responders:
        responder.close()


def test_a_secondary_address_has_an_elastic_ip_of_its_own(lab: Lab, elastic_ip: tuple[str, str]) -> None:
    allocation, public = elastic_ip
    worker = lab.workers["a"]
    eni, private = worker.eni(0).eni_id, "10.10.1.80"
    lab.ec2.admin().assign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=[private])
    bind(lab, allocation, eni, private)
    assert not lab.internet.reach(public, timeout=QUICK)  # the guest does not answer for it yet
    links.add_address(worker.ns, "eth0", f"{private}/32")
    assert lab.internet.reach(public)
    assert worker.reach(lab.internet.address, source=private)
    assert not worker.reach(lab.internet.address, source=worker.address, timeout=QUICK)
    links.delete_address(worker.ns, "eth0", f"{private}/32")
    lab.ec2.admin().unassign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=[private])


def test_a_subnet_without_a_route_to_the_gateway_is_not_in_reach(lab: Lab, elastic_ip: tuple[str, str]) -> None:
    allocation, public = elastic_ip
    worker, admin, table = lab.workers["a"], lab.ec2.admin(), lab.route_table_ids[0]
    gateway = next(route.target for route in lab.ec2.state().route_tables[table].routes if route.target[:4] == "igw-")
    bind(lab, allocation, worker.eni(0).eni_id, worker.address)
    assert lab.internet.reach(public)
    admin.delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")
    try:
        assert not lab.internet.reach(public, timeout=QUICK)
        assert lab.router.last_drops[-1].reason == "no-internet-route"
    finally:
        admin.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)


def test_tcp_and_udp_pass_the_gateway_whole(lab: Lab, elastic_ip: tuple[str, str]) -> None:
    allocation, public = elastic_ip
    worker, outside = lab.workers["a"], lab.internet
    bind(lab, allocation, worker.eni(0).eni_id, worker.address)
    listening = worker.ns.run(lambda: socket.create_server((worker.address, 5000)))
    taking = worker.ns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sending = outside.ns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with listening, taking, sending:
        taking.bind((worker.address, 5000))
        for each in (listening, taking, sending):
            each.settimeout(5)
        sending.sendto(b"x" * 1001, (public, 5000))  # the kernel drops it if its checksum is wrong
        data, sender = taking.recvfrom(2048)
        assert (len(data), sender[0]) == (1001, outside.address)
        taking.sendto(b"y", sender)
        assert sending.recvfrom(2048) == (b"y", (public, 5000))
        out = outside.ns.run(lambda: socket.create_connection((public, 5000), timeout=5))
        inside, peer = listening.accept()
        with out, inside:
            assert peer[0] == outside.address
            threading.Thread(target=out.sendall, args=(b"x" * 300_000,), daemon=True).start()
            received = 0
            while received < 300_000:
                received += len(inside.recv(65536))


def datagram(sender: str, payload: bytes, checksum: bytes | None = None) -> bytearray:
    """A frame with a UDP datagram to a fixed receiver; with the right checksum when none is given."""
    addresses = socket.inet_aton(sender) + socket.inet_aton("198.51.100.10")
    length = 8 + len(payload)
    head = b"\x13\x88\x13\x88" + length.to_bytes(2, "big")
    if checksum is None:
        pseudo_header = addresses + b"\0\x11" + length.to_bytes(2, "big")
        computed = frames.internet_checksum(pseudo_header + head + b"\0\0" + payload)
        checksum = (computed or 0xFFFF).to_bytes(2, "big")  # RFC 768: 0 means that there is none
    header = bytearray(b"\x45\0" + (20 + length).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0" + addresses)
    header[10:12] = frames.internet_checksum(bytes(header)).to_bytes(2, "big")
    return bytearray(12) + frames.IPV4 + header + head + checksum + payload


def test_a_changed_source_leaves_a_datagram_that_is_right() -> None:
    private, public = "10.10.1.4", "203.0.113.1"
    makes_it_0 = bytes(datagram(public, b"\0\0")[40:42])
    assert datagram(public, makes_it_0)[40:42] == b"\xff\xff"
    for payload in (b"", b"odd", b"\0\0", makes_it_0):
        frame = datagram(private, payload)
        frames.set_source(frame, IPv4Address(public))
        assert frame == datagram(public, payload)
        frames.set_source(frame, IPv4Address(private))
        assert frame == datagram(private, payload)
    without = datagram(private, b"none", checksum=b"\0\0")
    frames.set_source(without, IPv4Address(public))
    assert without == datagram(public, b"none", checksum=b"\0\0")


def test_a_lab_without_internet_says_so() -> None:
    with pytest.raises(LookupError, match="internet=True"):
        _ = Lab().internet
