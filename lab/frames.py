"""Ethernet frames as far as the lab's router has to understand them.

ARP (RFC 826), neighbour discovery (RFC 4861), and the translation of an IPv4 address (RFC 3022).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

ETH_P_ALL = 3
IPV4, ARP, IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
MIN_IPV4, MIN_IPV6 = 14 + 20, 14 + 40  # bytes up to the end of the fixed header

_ARP_REQUEST, _ARP_REPLY = 1, 2
_ARP_LENGTH = 14 + 28
_ARP_ETHERNET_IPV4 = b"\x00\x01\x08\x00\x06\x04"
_ICMPV6 = 58
_TCP, _UDP = 6, 17
_SOURCE, _DESTINATION = 26, 30  # where an IPv4 header has its addresses
_HEADER_CHECKSUM = 24
_CHECKSUMS = {_TCP: 16, _UDP: 6}  # where these have theirs
_SOLICITATION, _ADVERTISEMENT = 135, 136
_NEIGHBOUR_DISCOVERY = range(133, 138)
_SOLICITATION_LENGTH = MIN_IPV6 + 24
_TARGET_LINK_ADDRESS = 2
_IS_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20


@dataclass(frozen=True)
class Question:
    """Somebody asks for the MAC of `target`. `sender` is the address that asks."""

    mac: bytes
    sender: IPv4Address | IPv6Address
    target: IPv4Address | IPv6Address


def parse_arp_request(frame: bytes | bytearray, length: int) -> Question | None:
    """The question in an ARP frame; None for a reply, a gratuitous ARP or a probe for a duplicate (RFC 5227)."""
    if length < _ARP_LENGTH or frame[14:20] != _ARP_ETHERNET_IPV4 or frame[20:22] != _ARP_REQUEST.to_bytes(2, "big"):
        return None
    sender, target = IPv4Address(bytes(frame[28:32])), IPv4Address(bytes(frame[38:42]))
    if sender == target or sender == IPv4Address(0):
        return None
    return Question(bytes(frame[22:28]), sender, target)


def is_neighbour_discovery(frame: bytes | bytearray, length: int) -> bool:
    """Whether an IPv6 frame is neighbour discovery, which no router forwards."""
    return length > MIN_IPV6 and frame[20] == _ICMPV6 and frame[MIN_IPV6] in _NEIGHBOUR_DISCOVERY


def parse_neighbour_solicitation(frame: bytes | bytearray, length: int) -> Question | None:
    """The question in a neighbour discovery frame; None for anything else, and for duplicate address detection."""
    if length < _SOLICITATION_LENGTH or frame[MIN_IPV6] != _SOLICITATION:
        return None
    sender, target = IPv6Address(bytes(frame[22:38])), IPv6Address(bytes(frame[62:78]))
    if sender == IPv6Address(0):
        return None
    return Question(bytes(frame[6:12]), sender, target)


def answer(question: Question, mac: bytes, *, is_router: bool = False) -> bytes:
    """The frame that tells the asking host that the target is at `mac`."""
    if isinstance(question.target, IPv4Address):
        return b"".join(
            (
                question.mac + mac + ARP,
                _ARP_ETHERNET_IPV4 + _ARP_REPLY.to_bytes(2, "big"),
                mac + question.target.packed,
                question.mac + question.sender.packed,
            )
        )
    flags = _SOLICITED | _OVERRIDE | (_IS_ROUTER if is_router else 0)
    message = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, flags << 24) + question.target.packed
    message += bytes((_TARGET_LINK_ADDRESS, 1)) + mac
    addresses = question.target.packed + question.sender.packed
    checksum = internet_checksum(addresses + struct.pack("!II", len(message), _ICMPV6) + message)
    message = message[:2] + checksum.to_bytes(2, "big") + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255)
    return question.mac + mac + IPV6 + header + addresses + message


def set_source(frame: bytearray, address: IPv4Address) -> None:
    """Let an IPv4 packet come from another address."""
    _translate(frame, _SOURCE, address.packed)


def set_destination(frame: bytearray, address: IPv4Address) -> None:
    """Let an IPv4 packet go to another address."""
    _translate(frame, _DESTINATION, address.packed)


def _translate(frame: bytearray, offset: int, new: bytes) -> None:
    """Replace an address, and mend the checksums that it is part of.

    TCP and UDP have it in their pseudo header, ICMP has not. Only the first fragment of a packet bears their header.
    """
    old = bytes(frame[offset : offset + 4])
    frame[offset : offset + 4] = new
    _mend_checksum(frame, _HEADER_CHECKSUM, old, new)
    protocol, is_first = frame[23], not int.from_bytes(frame[20:22], "big") & 0x1FFF
    if is_first and protocol in _CHECKSUMS:
        position = 14 + (frame[14] & 15) * 4 + _CHECKSUMS[protocol]
        if protocol == _UDP and not any(frame[position : position + 2]):  # it has no checksum
            return
        _mend_checksum(frame, position, old, new)
        if protocol == _UDP and not any(frame[position : position + 2]):
            frame[position : position + 2] = b"\xff\xff"  # RFC 768: what is computed as 0 is sent so


def _mend_checksum(frame: bytearray, position: int, old: bytes, new: bytes) -> None:
    """Equation 3 of RFC 1624, for two words at once: HC' = ~(~HC + ~m + m')."""
    total = ~int.from_bytes(frame[position : position + 2], "big") & 0xFFFF
    total += sum(~word & 0xFFFF for word in struct.unpack("!2H", old)) + sum(struct.unpack("!2H", new))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    frame[position : position + 2] = (~total & 0xFFFF).to_bytes(2, "big")


def internet_checksum(data: bytes) -> int:
    """The checksum of RFC 1071 over the data."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
