"""What Neighbours puts on a link, byte by byte, and what another kernel and other hosts make of it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any

import pytest

from lab import links, netns
from lab.frames import internet_checksum
from lab.netns import Namespace
from tests.contract.netlink_worlds import until_local
from tests.doubles.clock import BOUND, until
from tests.doubles.host import FakeNeighbours
from vipmanager.clients.neighbours import Neighbours
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import Address
from vipmanager.ports import NeighbourPort

pytestmark = pytest.mark.namespaces

MAC, PEER_MAC, OLD_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:09"
FLOATING = [ip_address("10.0.0.80"), ip_address("fd00::80")]
PEER = {4: ip_address("10.0.0.2"), 6: ip_address("fd00::2")}
PEER_TOO = {4: ip_address("10.0.0.3"), 6: ip_address("fd00::3")}
NOBODY = {4: ip_address("10.0.0.77"), 6: ip_address("fd00::77")}
NO_ROUTE = {4: ip_address("203.0.113.1"), 6: ip_address("2001:db8::1")}
ETH_P_ALL, NUD_STALE = 3, 0x04
SOON = 0.4  # seconds to wait for an answer that does not come


@dataclass
class Link:
    """A node and its peer."""

    node: Namespace
    peer: Namespace

    def announce(self, address: Address) -> None:
        """Announce on the node's interface."""
        self.node.run(lambda: Neighbours().announce("ens5", MAC, address))

    def echo(self, address: Address, timeout: float) -> bool:
        """Ask from the node."""
        return self.node.run(lambda: Neighbours().echo(address, timeout))


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link(Namespace("node"), Namespace("peer"))
    for ns in (made.node, made.peer):
        links.set_up_host(ns)
    links.make_pair(made.node, "ens5", made.peer, "eth0", mac=MAC)
    links.netlink(made.peer, lambda iproute: iproute.link("set", index=_index(iproute), address=PEER_MAC))
    for cidr in ("10.0.0.1/24", "fd00::1/64"):
        links.add_address(made.node, "ens5", cidr)
    for cidr in ("10.0.0.2/24", "10.0.0.3/24", "fd00::2/64", "fd00::3/64"):
        links.add_address(made.peer, "eth0", cidr)
    for ns, text in ((made.node, "fd00::1"), (made.peer, "fd00::2"), (made.peer, "fd00::3")):
        until_local(ns, text)
    yield made
    made.node.close()
    made.peer.close()


def _index(iproute: Any) -> int:
    return int(iproute.link_lookup(ifname="eth0")[0])


# Announcements -------------------------------------------------------------------------------------------------------


def capture(link: Link, protocol: int, act: Callable[[], None]) -> bytes:
    """The next frame of that protocol that the peer receives and the node's MAC sent."""

    def open_capture() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sock.bind(("eth0", ETH_P_ALL))
        sock.settimeout(BOUND)
        return sock

    with link.peer.run(open_capture) as sock:
        act()
        while True:
            frame = sock.recv(2048)
            is_advertisement = protocol != 0x86DD or frame[54] == 136
            if frame[6:12].hex(":") == MAC and frame[12:14] == protocol.to_bytes(2, "big") and is_advertisement:
                return frame


def test_ipv4_is_announced_by_a_broadcast_request_for_itself(link: Link) -> None:
    """RFC 5227, section 3: sender and target are the address."""
    frame = capture(link, 0x0806, lambda: link.announce(FLOATING[0]))
    assert frame[:14].hex(":") == f"ff:ff:ff:ff:ff:ff:{MAC}:08:06"
    assert struct.unpack("!HHBBH", frame[14:22]) == (1, 0x0800, 6, 4, 1)  # Ethernet, IPv4, lengths, request
    assert (frame[22:28].hex(":"), frame[28:32]) == (MAC, FLOATING[0].packed)
    assert (frame[32:38], frame[38:42]) == (bytes(6), FLOATING[0].packed)
    assert not any(frame[42:])  # padding, if there is any


def test_ipv6_is_announced_by_an_unsolicited_advertisement(link: Link) -> None:
    """RFC 4861, sections 4.4 and 7.2.6."""
    frame = capture(link, 0x86DD, lambda: link.announce(FLOATING[1]))
    assert frame[:14].hex(":") == f"33:33:00:00:00:01:{MAC}:86:dd"
    first, length, following, hops = struct.unpack("!IHBB", frame[14:22])
    assert (first, length, following, hops) == (6 << 28, 32, 58, 255)
    source, destination, message = frame[22:38], frame[38:54], frame[54:]
    assert (source, destination) == (FLOATING[1].packed, IPv6Address("ff02::1").packed)
    assert message[:2] == bytes((136, 0))
    assert message[4:8] == bytes((0x20, 0, 0, 0))  # override; neither router nor solicited
    assert message[8:24] == FLOATING[1].packed
    assert (message[24:26], message[26:].hex(":")) == (bytes((2, 1)), MAC)  # target link-layer address, 8 bytes
    assert internet_checksum(source + destination + struct.pack("!II", 32, 58) + message) == 0


@pytest.mark.parametrize("address", FLOATING, ids=str)
def test_neighbours_that_knew_another_mac_learn_the_new_one(link: Link, address: Address) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6

    def known(iproute: Any) -> list[str]:
        found = iproute.get_neighbours(family=family)
        return [each.get_attr("NDA_LLADDR") for each in found if each.get_attr("NDA_DST") == str(address)]

    entry = {"dst": str(address), "lladdr": OLD_MAC, "state": NUD_STALE, "family": family}
    links.netlink(link.peer, lambda iproute: iproute.neigh("add", ifindex=_index(iproute), **entry))
    assert links.netlink(link.peer, known) == [OLD_MAC]
    link.announce(address)
    until(lambda: links.netlink(link.peer, known) == [MAC])


@pytest.mark.parametrize("address", FLOATING, ids=str)
def test_a_link_that_is_down_or_gone_is_to_be_retried(link: Link, address: Address) -> None:
    links.set_link(link.node, "ens5", up=False)
    for device in ("ens5", "ens9"):
        with pytest.raises(CallError) as caught:
            link.node.run(lambda device=device: Neighbours().announce(device, MAC, address))
        assert caught.value.kind is ErrorKind.RETRY


@pytest.mark.parametrize("mac", ["", "02:00:00:00:00", "tunnel"])
def test_a_link_that_is_no_ethernet_is_invalid(mac: str) -> None:
    with pytest.raises(CallError) as caught:
        Neighbours().announce("ens5", mac, FLOATING[0])
    assert caught.value.kind is ErrorKind.INVALID


# Echo ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_that_answers(link: Link, version: int) -> None:
    assert link.echo(PEER[version], BOUND)


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_of_this_node_answers(link: Link, version: int) -> None:
    """The holder asks itself; the raw socket sees the request as well."""
    assert link.echo(ip_address("10.0.0.1" if version == 4 else "fd00::1"), BOUND)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("where", [NOBODY, NO_ROUTE], ids=["nobody has it", "no route"])
def test_an_address_that_does_not_answer(link: Link, where: dict[int, Address], version: int) -> None:
    assert not link.echo(where[version], SOON)


ECHO_SYSCTLS = {4: "net/ipv4/icmp_echo_ignore_all", 6: "net/ipv6/icmp/echo_ignore_all"}
REPLY = {4: b"\x00\x00", 6: b"\x81\x00"}


def say(sock: socket.socket, version: int, body: bytes, code: bytes | None = None) -> None:
    """Send an ICMP message to the node; the kernel computes the checksum of ICMPv6."""
    head = code or REPLY[version]
    checksum = internet_checksum(head + b"\0\0" + body) if version == 4 else 0
    sock.sendto(head + checksum.to_bytes(2, "big") + body, ("10.0.0.1" if version == 4 else "fd00::1", 0))


def forged(sock: socket.socket, other: socket.socket, version: int, body: bytes) -> None:
    """Answer a request wrongly in every way that an answer can be wrong."""
    say(other, version, body)  # from another address
    say(sock, version, bytes((body[0] ^ 1,)) + body[1:])  # another identifier
    say(sock, version, body[:3] + bytes((body[3] ^ 1,)) + body[4:])  # another sequence number
    say(sock, version, body[:-1] + bytes((body[-1] ^ 1,)))  # other data
    say(sock, version, body[:-1])
    say(sock, version, b"")
    say(sock, version, body, b"\x03\x01" if version == 4 else b"\x01\x03")  # unreachable


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("then_right", [False, True])
def test_only_the_answer_of_that_address_to_that_request_counts(link: Link, version: int, then_right: bool) -> None:
    links.write_sysctls(link.peer, {ECHO_SYSCTLS[version]: "1"})
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6

    def open_raw(address: Address) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_RAW, protocol)
        sock.bind((str(address), 0))
        sock.settimeout(BOUND)
        return sock

    def respond(sock: socket.socket, other: socket.socket) -> None:
        request = b""
        while request[:1] != (b"\x08" if version == 4 else b"\x80"):
            request = sock.recv(2048)[20 if version == 4 else 0 :]
        forged(sock, other, version, request[4:])
        if then_right:
            say(sock, version, request[4:])

    with (
        link.peer.run(lambda: open_raw(PEER[version])) as sock,
        link.peer.run(lambda: open_raw(PEER_TOO[version])) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        responder = pool.submit(respond, sock, other)
        assert link.echo(PEER[version], BOUND if then_right else 1.0) is then_right
        responder.result(BOUND)


def test_several_threads_ask_at_once(link: Link) -> None:
    targets = [where[version] for where in (PEER, NOBODY, PEER_TOO, NO_ROUTE) for version in (4, 6)] * 2
    port, enter = Neighbours(), (link.node.fileno(), netns.CLONE_NEWNET)
    with ThreadPoolExecutor(len(targets), initializer=netns.setns, initargs=enter) as pool:
        answers = list(pool.map(lambda address: port.echo(address, 2.0), targets))
    assert answers == [True, True, False, False, True, True, False, False] * 2


# Without NET_RAW -----------------------------------------------------------------------------------------------------

WITHOUT_NET_RAW = """
import ctypes, struct, sys
from ipaddress import ip_address
from vipmanager.clients.neighbours import Neighbours
from vipmanager.errors import CallError

libc = ctypes.CDLL(None)
header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)  # capset(2): version 3, this thread
data = ctypes.create_string_buffer(24)
assert libc.capget(header, data) == 0
low = [word & ~(1 << 13) for word in struct.unpack("=6I", data.raw)[:3]]  # CAP_NET_RAW
assert libc.capset(header, struct.pack("=6I", *low, *struct.unpack("=6I", data.raw)[3:])) == 0
try:
    if sys.argv[1] == "announce":
        Neighbours().announce("ens5", "02:00:00:00:00:01", ip_address(sys.argv[2]))
        print("announced")
    else:
        print(Neighbours().echo(ip_address(sys.argv[2]), float(sys.argv[3])))
except CallError as error:
    print(error.kind.name, error.failure.remedy)
"""


def without_net_raw(link: Link, *arguments: str) -> str:
    """Run it on the node in a process that has every capability but NET_RAW."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, "-c", WITHOUT_NET_RAW, *arguments]
    run = link.node.run(lambda: subprocess.run(argv, capture_output=True, text=True, env=environment, check=False))
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("address", FLOATING, ids=str)
def test_without_net_raw_announcing_is_denied(link: Link, address: Address) -> None:
    assert without_net_raw(link, "announce", str(address)).startswith("DENIED ")
    assert "NET_RAW" in without_net_raw(link, "announce", str(address))


@pytest.mark.parametrize("version", [4, 6])
def test_without_net_raw_and_ping_sockets_asking_is_denied(link: Link, version: int) -> None:
    """A new namespace's ping_group_range is `1 0`: nobody."""
    said = without_net_raw(link, "echo", str(PEER[version]), "1")
    assert said.startswith("DENIED ") and "NET_RAW" in said


@pytest.mark.parametrize("version", [4, 6])
def test_without_net_raw_a_ping_socket_does(link: Link, version: int) -> None:
    links.write_sysctls(link.node, {"net/ipv4/ping_group_range": "0 0"})
    assert without_net_raw(link, "echo", str(PEER[version]), str(BOUND)) == "True"
    assert without_net_raw(link, "echo", str(NOBODY[version]), str(SOON)) == "False"


# The double ----------------------------------------------------------------------------------------------------------


def test_the_double_records_and_answers_as_it_is_told() -> None:
    fake = FakeNeighbours()
    port: NeighbourPort = fake
    fake.answer({"10.0.0.80": True})
    port.announce("ens5", MAC, FLOATING[0])
    assert (fake.announced, port.echo(FLOATING[0], 1.0), port.echo(FLOATING[1], 1.0)) == (
        [("ens5", MAC, FLOATING[0])],
        True,
        False,
    )
    fake.may_send = False
    for call in (lambda: port.announce("ens5", MAC, FLOATING[0]), lambda: port.echo(FLOATING[0], 1.0)):
        with pytest.raises(CallError) as caught:
            call()
        assert caught.value.kind is ErrorKind.DENIED
