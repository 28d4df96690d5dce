"""How the text of a setting becomes a value. Each parser raises Invalid, whose message says what is accepted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from vipmanager.floating import Floating, HealthCheck
from vipmanager.model import Address, Network, may_float

TRUE_WORDS = frozenset(("true", "yes", "on", "1"))
FALSE_WORDS = frozenset(("false", "no", "off", "0"))
ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]+")
BOOLEANS = "true/false/yes/no/on/off/1/0"
ALLOCATION_ID = re.compile(r"eipalloc-[0-9a-f]{8,17}")
LEASE_NAME = re.compile(r"[a-z0-9]+(-+[a-z0-9]+)*(\.[a-z0-9]+(-+[a-z0-9]+)*)*")


class Invalid(ValueError):
    """A value is not accepted; the message says what is."""


@dataclass(frozen=True)
class TagSelector:
    """Which route tables `VPCRTTag` means: all of them, or those that carry every one of the tags.

    A tag's value may be None (any value) and may hold the wildcards * and ? as EC2's own filters do.
    """

    tags: tuple[tuple[str, str | None], ...] = ()

    def matches(self, tags: Mapping[str, str]) -> bool:
        """True when every wanted tag is there."""
        return all(key in tags and (value is None or _like(tags[key], value)) for key, value in self.tags)

    def __str__(self) -> str:
        return ",".join(key if value is None else f"{key}={value}" for key, value in self.tags) or "ALL"


def _like(text: str, pattern: str) -> bool:
    """EC2's wildcards are * and ?; a bracket, which fnmatch knows as well, means itself."""
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def parse_boolean(text: str) -> bool:
    """Any of the accepted words for true and false, in any case. Raises Invalid."""
    word = text.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise Invalid(f"accepted: {BOOLEANS}")


def parse_tristate(text: str) -> bool | None:
    """A boolean, or `auto` for None. Raises Invalid."""
    if text.lower() == "auto":
        return None
    try:
        return parse_boolean(text)
    except Invalid:
        raise Invalid(f"accepted: auto/{BOOLEANS}") from None


def parse_tags(text: str) -> TagSelector:
    """`ALL`, or comma-separated `key` and `key=value`. Raises Invalid."""
    if text.upper() == "ALL":
        return TagSelector()
    tags: list[tuple[str, str | None]] = []
    for item in text.split(","):
        key, equals, value = item.strip().partition("=")
        if not key.strip():
            raise Invalid(f"the tag {item.strip()!r} has no key; accepted: ALL, key, key=value, or several with commas")
        tags.append((key.strip(), value.strip() if equals else None))
    return TagSelector(tuple(tags))


def one_of(*words: str) -> Callable[[str], str]:
    """A parser for one of some words, in any case; it returns the word as it is written here."""

    def parse(text: str) -> str:
        for word in words:
            if text.lower() == word.lower():
                return word
        raise Invalid(f"accepted: {', '.join(words)}")

    return parse


def seconds(minimum: float, zero: str = "") -> Callable[[str], float]:
    """A parser for a number of seconds of at least `minimum`; 0 is accepted too where `zero` says what it means."""

    def parse(text: str) -> float:
        accepted = f"accepted: a number of seconds, {minimum:g} or more" + (f", or 0 ({zero})" if zero else "")
        try:
            value = float(text)
        except ValueError:
            raise Invalid(accepted) from None
        if not math.isfinite(value) or (value < minimum and not (zero and value == 0)):
            raise Invalid(accepted)
        return value

    return parse


def parse_role(text: str) -> str:
    """The ARN of an IAM role. Raises Invalid."""
    if not ROLE_ARN.fullmatch(text):
        raise Invalid("accepted: a role ARN such as arn:aws:iam::123456789012:role/name")
    return text


def parse_directory(text: str) -> str:
    """An absolute path. Raises Invalid."""
    if not text.startswith("/") or "\0" in text:
        raise Invalid("accepted: an absolute path")
    return text


def _parse_network(text: str) -> Network:
    accepted = f"{text!r} is no address or network; accepted: 10.0.0.1, 10.0.0.0/24, fd00::/64"
    if "%" in text:
        raise Invalid(accepted)
    try:
        return ip_network(text)
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise Invalid(accepted) from None
        raise Invalid(f"{text!r} has host bits set; did you mean {meant}, or the host {text.split('/')[0]}?") from None


def parse_pool(text: str) -> Network:
    """A network whose addresses are all of one interface. Raises Invalid."""
    pool = _parse_network(text)
    if pool.prefixlen == 0:
        raise Invalid(f"{text!r} is everything; accepted: 192.168.0.0/28, fd00::/64")
    if pool.is_multicast or pool.is_loopback or pool.is_link_local or pool.network_address.is_unspecified:
        raise Invalid(f"{text!r} can be no pool (multicast, loopback, link-local or unspecified)")
    return pool


def parse_peer(text: str) -> Network:
    """One host or network. Raises Invalid, with the network meant where host bits are set."""
    peer = _parse_network(text)
    if peer.prefixlen == 0:
        raise Invalid(
            f'{text!r} would take the pod\'s way to AWS too; use UseSBR: "True" for a default route by source'
        )
    if peer.is_multicast or peer.is_loopback or peer.network_address.is_unspecified:
        raise Invalid(f"{text!r} can be no peer (multicast, loopback or unspecified)")
    return peer


def whole(minimum: int, maximum: int, unit: str) -> Callable[[str], int]:
    """A parser for a whole number between two bounds, both accepted."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not minimum <= int(text) <= maximum:
            raise Invalid(f"accepted: a whole number of {unit}, {minimum} to {maximum}")
        return int(text)

    return parse


def parse_port(text: str) -> int:
    """A TCP port, or 0. Raises Invalid."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise Invalid("accepted: a TCP port, 1 to 65535, or 0 (off)")
    return int(text)


def parse_floating(text: str) -> Floating:
    """Addresses and allocation ids, comma-separated, each once. Raises Invalid."""
    addresses: list[Address] = []
    eips: list[str] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        if item.startswith("eipalloc-"):
            eips.append(parse_allocation(item))
        else:
            addresses.append(parse_address(item, "10.0.0.80, 2001:db8::80, or eipalloc-… of an Elastic IP"))
    twice = next((each for each, times in Counter([*addresses, *eips]).items() if times > 1), None)
    if twice is not None:
        raise Invalid(f"{twice} is named twice")
    return Floating(tuple(addresses), tuple(eips))


def parse_allocation(text: str) -> str:
    """The allocation id of an Elastic IP. Raises Invalid."""
    if not ALLOCATION_ID.fullmatch(text):
        raise Invalid(f"{text!r} is no allocation id; accepted: eipalloc- and 8 to 17 hexadecimal digits")
    return text


def parse_address(text: str, accepted: str) -> Address:
    """One usable unicast address, without a prefix length. Raises Invalid, with examples of what is `accepted`."""
    try:
        address = ip_address(text)
    except ValueError:
        hint = "; leave the prefix length away" if "/" in text else ""
        raise Invalid(f"{text!r} is no address{hint}; accepted: {accepted}") from None
    if not may_float(address):
        raise Invalid(f"{text!r} cannot float (multicast, loopback, link-local or unspecified)")
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise Invalid(f"{text!r} names an interface; accepted: {accepted}")
    return address


def parse_eips(text: str) -> Mapping[IPv4Address, str]:
    """`address=eipalloc-…`, comma-separated: each address and each Elastic IP once. Raises Invalid."""
    found: dict[IPv4Address, str] = {}
    taken: set[str] = set()
    for item in filter(None, (part.strip() for part in text.split(","))):
        left, equals, right = (part.strip() for part in item.partition("="))
        if not equals:
            raise Invalid(f"{item!r} has no =; accepted: 10.0.0.80=eipalloc-…, several with commas")
        address, allocation = parse_address(left, "10.0.0.80=eipalloc-…"), parse_allocation(right)
        if not isinstance(address, IPv4Address):
            raise Invalid(f"{left}: an Elastic IP is bound to an IPv4 address")
        if address in found or allocation in taken:
            raise Invalid(f"{item!r} repeats an address or an Elastic IP; one is bound to one")
        found[address] = allocation
        taken.add(allocation)
    return found


def parse_subnet_cidr(text: str) -> IPv4Network:
    """The CIDR of an IPv4 subnet: /16 to /28, as EC2 has them (VPC User Guide, subnet sizing). Raises Invalid."""
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        raise Invalid("it is no IPv4 network; accepted: 192.168.248.0/24 (/16 to /28)") from None
    if not 16 <= network.prefixlen <= 28:
        raise Invalid("EC2 has subnets from /16 to /28")
    if str(network.network_address) != text.split("/")[0]:
        raise Invalid(f"host bits are set; did you mean {network}?")
    return network


def parse_lease_name(text: str) -> str:
    """A Kubernetes object name (RFC 1123 subdomain). Raises Invalid."""
    if len(text) > 253 or not LEASE_NAME.fullmatch(text):
        raise Invalid("accepted: a Kubernetes object name: lower-case letters, digits, - and ., at most 253")
    return text


def parse_health_check(text: str) -> HealthCheck:
    """`tcp://[HOST]:PORT` or `http[s]://[HOST][:PORT]/PATH`; without HOST, this node. Raises Invalid."""
    accepted = "accepted: tcp://:30007, http://:30007/path, https://…; without a host, this node's primary address"
    if not re.fullmatch(r"[A-Za-z]+://[!-~]+", text):  # no blanks, and nothing that HTTP cannot carry
        raise Invalid(accepted)
    try:
        url = urlsplit(text)
        port = {"http": 80, "https": 443}.get(url.scheme, 0) if url.port is None else url.port
    except ValueError as error:
        raise Invalid(f"{error}; {accepted}") from None
    if url.scheme not in ("tcp", "http", "https") or not port or "@" in url.netloc or url.fragment:
        raise Invalid(accepted)
    if url.scheme == "tcp" and (url.path.strip("/") or url.query):
        raise Invalid(accepted)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return HealthCheck(url.scheme, url.hostname or "", port, path if url.scheme != "tcp" else "")
