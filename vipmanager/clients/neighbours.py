"""What is said to the neighbours on a link, and asked of them: raw sockets, which need NET_RAW.

Facts: RFC 826 and 5227 (ARP), RFC 4861 (neighbour advertisements), RFC 792 and 4443 (echo), packet(7), raw(7), icmp(7),
linux/icmp.h, linux/icmpv6.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv6Address, ip_address
from time import monotonic

from vipmanager.clients.netlink import RETRY_ERRNOS
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model import Address

ARP, IPV6 = 0x0806, 0x86DD
ETHERNET, IPV4, REQUEST = 1, 0x0800, 1
BROADCAST = b"\xff" * 6
ALL_NODES, ALL_NODES_MAC = IPv6Address("ff02::1"), bytes.fromhex("333300000001")

NEIGHBOUR_ADVERTISEMENT, OVERRIDE, TARGET_LINK_ADDRESS = 136, 0x20, 2
HOP_LIMIT = 255
"""A receiver takes nothing else, as it shows that no router was in between."""

ECHO_REQUEST, ECHO_REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
FAMILIES = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}
SOL_RAW, ICMP_FILTER, ICMPV6_FILTER = 255, 1, 1
NOBODY_THERE = frozenset(
    (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ECONNREFUSED, errno.EADDRNOTAVAIL)
)


class Neighbours:
    """The neighbour port. It keeps nothing, and may be used from several threads at a time."""

    def announce(self, device: str, mac: str, address: Address) -> None:
        """See NeighbourPort."""
        what = f"announce {address} on {device}"
        try:
            hardware = bytes.fromhex(mac.replace(":", ""))
        except ValueError:
            hardware = b""
        if len(hardware) != 6:
            raise CallError(_failure(what, errno.EINVAL))  # a link that is no Ethernet
        frame = (
            neighbour_advertisement(hardware, address) if address.version == 6 else arp_announcement(hardware, address)
        )
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as link:
                link.bind((device, 0))  # protocol 0: nothing is received
                link.send(frame)
        except OSError as error:
            raise CallError(_failure(what, error.errno or errno.EIO)) from error

    def echo(self, address: Address, timeout: float) -> bool:
        """See NeighbourPort. Without NET_RAW it does with a ping socket, where the node's ping_group_range allows."""
        what = f"echo {address}"
        deadline = monotonic() + timeout
        try:
            with _open_icmp(address.version) as icmp:
                return _ask(icmp, address, deadline)
        except OSError as error:
            if error.errno in NOBODY_THERE:
                return False
            raise CallError(_failure(what, error.errno or errno.EIO)) from error


def arp_announcement(mac: bytes, address: Address) -> bytes:
    """A broadcast request whose sender and target are both the address (RFC 5227, section 3)."""
    arp = struct.pack("!HHBBH", ETHERNET, IPV4, 6, 4, REQUEST) + mac + address.packed + bytes(6) + address.packed
    return BROADCAST + mac + struct.pack("!H", ARP) + arp


def neighbour_advertisement(mac: bytes, address: Address) -> bytes:
    """An unsolicited advertisement to all nodes that overrides what they know (RFC 4861, sections 4.4 and 7.2.6)."""
    message = struct.pack("!BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, OVERRIDE << 24) + address.packed
    message += struct.pack("!BB", TARGET_LINK_ADDRESS, 1) + mac
    ends = address.packed + ALL_NODES.packed
    pseudo_header = ends + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo_header + message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, HOP_LIMIT)
    return ALL_NODES_MAC + mac + struct.pack("!H", IPV6) + header + ends + message


def _open_icmp(version: int) -> socket.socket:
    """A raw socket that passes echo replies only; where it is not permitted, a ping socket. Raises OSError."""
    family, protocol = FAMILIES[version]
    try:
        icmp = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except PermissionError as error:
        try:
            return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, protocol)
        except OSError:
            raise error from None
    # a set bit blocks a type; ICMP has 32 that can be named here, ICMPv6 256
    blocked = bytearray(b"\xff" * (4 if version == 4 else 32))
    number, word = ECHO_REPLY[version] % 32, ECHO_REPLY[version] // 32 * 4
    blocked[word : word + 4] = struct.pack("=I", 0xFFFFFFFF & ~(1 << number))
    if version == 4:
        icmp.setsockopt(SOL_RAW, ICMP_FILTER, bytes(blocked))
    else:
        icmp.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, bytes(blocked))
    return icmp


def _ask(icmp: socket.socket, address: Address, deadline: float) -> bool:
    """Send one request and wait for its reply until the deadline, whatever else comes meanwhile."""
    version, is_raw = address.version, icmp.type == socket.SOCK_RAW
    body = os.urandom(20)  # identifier, sequence number and data; nobody guesses them, and no two calls share them
    head = struct.pack("!BBH", ECHO_REQUEST[version], 0, 0)
    if version == 4:  # ICMPv6's checksum is the kernel's business
        head = struct.pack("!BBH", ECHO_REQUEST[version], 0, _checksum(head + body))
    icmp.settimeout(max(deadline - monotonic(), 0.001))
    try:
        icmp.sendto(head + body, (str(address), 0))
        while (left := deadline - monotonic()) > 0:
            icmp.settimeout(left)
            answer, source = icmp.recvfrom(2048)
            if is_raw and version == 4:
                answer = answer[(answer[0] & 0x0F) * 4 :]  # raw(7): the IP header comes with it
            is_ours = answer[:2] == bytes((ECHO_REPLY[version], 0)) and _same(answer[4:], body, is_raw)
            if is_ours and ip_address(source[0]) == address:
                return True
    except (TimeoutError, PermissionError):  # the second: netfilter drops what we send
        return False
    return False


def _same(answer: bytes, body: bytes, is_raw: bool) -> bool:
    """Whether identifier, sequence number and data are ours; a ping socket has the kernel choose the identifier."""
    return answer == body if is_raw else answer[2:] == body[2:]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _failure(what: str, number: int) -> Failure:
    name, text = errno.errorcode.get(number, str(number)), os.strerror(number)
    if number in (errno.EPERM, errno.EACCES):
        remedy = "the container needs NET_RAW: securityContext.capabilities.add: [NET_RAW]"
        return Failure(ErrorKind.DENIED, what, name, text, remedy)
    retry = number in RETRY_ERRNOS or number in (errno.ENXIO, errno.EMFILE, errno.ENFILE)
    return Failure(ErrorKind.RETRY if retry else ErrorKind.INVALID, what, name, text)
