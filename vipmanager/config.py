"""Settings: a mapping of strings (a ConfigMap through envFrom) becomes one frozen Config, or every problem at once.

`SETTINGS` is the single table of keys, defaults and meanings; docs/configuration.md and the README are checked against
it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_network
from typing import Any, NamedTuple

from vipmanager.errors import ConfigError
from vipmanager.model import Network

TRUE_WORDS = frozenset(("true", "yes", "on", "1"))
FALSE_WORDS = frozenset(("false", "no", "off", "0"))
PEERS_KEY = re.compile(r"Intf([1-9][0-9]?)Peers")
ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]+")
BOOLEANS = "true/false/yes/no/on/off/1/0"


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


@dataclass(frozen=True)
class Config:
    """Every setting, parsed. `peers` maps an ENI device index to its peers; None in a tri-state means automatic."""

    peers: Mapping[int, tuple[Network, ...]] = field(default_factory=dict)
    route_tables: TagSelector = TagSelector()
    sidecar: bool = False
    subnet_routes: bool = False
    source_routing: bool | None = None
    assign: bool | None = None
    disable_source_dest_check: bool = True
    route_table_role: str = ""
    init_timeout: float = 300.0
    resync_interval: float = 300.0
    release_on_exit: bool = True
    delete_routes_on_exit: bool = False
    state_dir: str = "/run/vipmanager"
    log_level: str = "INFO"
    log_format: str = "text"
    warnings: tuple[str, ...] = ()


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


def parse_peer(text: str) -> Network:
    """One host or network. Raises Invalid, with the network meant where host bits are set."""
    try:
        peer = ip_network(text)
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise Invalid(f"{text!r} is no address or network; accepted: 10.0.0.1, 10.0.0.0/24, fd00::/64") from None
        raise Invalid(f"{text!r} has host bits set; did you mean {meant}, or the host {text.split('/')[0]}?") from None
    if peer.prefixlen == 0:
        raise Invalid(
            f'{text!r} would take the pod\'s way to AWS too; use UseSBR: "True" for a default route by source'
        )
    if peer.is_multicast or peer.is_loopback or peer.network_address.is_unspecified:
        raise Invalid(f"{text!r} can be no peer (multicast, loopback or unspecified)")
    return peer


class Setting(NamedTuple):
    """One key: the field it sets, its default as a user would write it, how it is read, and what it means."""

    key: str
    field: str
    default: str
    parse: Callable[[str], Any]
    meaning: str


SETTINGS: tuple[Setting, ...] = (
    Setting("VPCRTTag", "route_tables", "ALL", parse_tags,
            "which route tables: `ALL`, `key`, `key=value`, or several, comma-separated, that must all match"),
    Setting("RunAsSidecar", "sidecar", "False", parse_boolean,
            "`False`: do the job once and exit 0. `True`: keep watching"),
    Setting("SubnetBasedLoopbacks", "subnet_routes", "False", parse_boolean,
            "allow `subnet-route`: a route for the whole subnet that holds the address"),
    Setting("UseSBR", "source_routing", "auto", parse_tristate,
            "source based routing: a rule per floating address and a default route per interface in table 100+N. "
            "Auto: on where the interface has no peers"),
    Setting("AssignIPs", "assign", "Auto", parse_tristate,
            "`Auto`: by placement. `True`: an address that cannot be assigned to its ENI is an error. "
            "`False`: never assign"),
    Setting("SourceDestCheck", "disable_source_dest_check", "Disable",
            lambda text: one_of("Disable", "Keep")(text) == "Disable",
            "routed placements need it off on the ENI: `Disable` turns it off, `Keep` only warns"),
    Setting("RouteTableRole", "route_table_role", "", parse_role,
            "IAM role ARN assumed for route table calls (a shared VPC's route tables belong to another account)"),
    Setting("InitTimeout", "init_timeout", "300", seconds(1),
            "seconds an init run may wait for addresses and retry before it fails"),
    Setting("ResyncInterval", "resync_interval", "300", seconds(1, zero="off"),
            "seconds (±20 %) between a sidecar's checks of EC2 for drift; 0 = off"),
    Setting("ReleaseOnExit", "release_on_exit", "True", parse_boolean,
            "a sidecar that is told to stop unassigns the `eni-address`es that are still on its own ENI"),
    Setting("DeleteRoutesOnExit", "delete_routes_on_exit", "False", parse_boolean,
            "… and deletes the routes that still point to its ENI"),
    Setting("StateDir", "state_dir", "/run/vipmanager", parse_directory,
            "where claims and status are kept; use an emptyDir, so that they outlive a container restart"),
    Setting("LogLevel", "log_level", "INFO", one_of("DEBUG", "INFO", "WARNING", "ERROR"),
            "`DEBUG`, `INFO`, `WARNING` or `ERROR`"),
    Setting("LogFormat", "log_format", "text", one_of("text", "json"), "`text` or `json`"),
)  # fmt: skip

PEERS_MEANING = (
    "comma-separated peer hosts and networks (IPv4 and IPv6) reached through the pod interface on ENI device index N"
)


def is_setting(key: str) -> bool:
    """True for a key that belongs to vipmanager, misspelt `Intf…` keys included."""
    return key.startswith("Intf") or any(key == setting.key for setting in SETTINGS)


def load(values: Mapping[str, str]) -> Config:
    """Read a mapping of settings; other keys are left alone, an empty value means the default.

    Raises ConfigError with every problem found.
    """
    problems: list[str] = []
    parsed: dict[str, Any] = {}
    for setting in SETTINGS:
        text = values.get(setting.key, "").strip()
        try:
            if text:
                parsed[setting.field] = setting.parse(text)
        except Invalid as wrong:
            problems.append(f"{setting.key}={text!r}: {wrong}")
    peers = dict(_read_peers(values, problems))
    if problems:
        raise ConfigError(problems)
    return Config(peers=peers, warnings=tuple(_peer_conflicts(peers)), **parsed)


def _read_peers(values: Mapping[str, str], problems: list[str]) -> Iterator[tuple[int, tuple[Network, ...]]]:
    for key in sorted(key for key in values if key.startswith("Intf")):
        match = PEERS_KEY.fullmatch(key)
        if not match:
            hint = "device index 0 is the node's primary interface" if key == "Intf0Peers" else "unknown setting"
            problems.append(f"{key}={values[key]!r}: {hint}; accepted: Intf1Peers, Intf2Peers, … Intf99Peers")
            continue
        peers: dict[Network, None] = {}
        for item in filter(None, (part.strip() for part in values[key].split(","))):
            try:
                peers[parse_peer(item)] = None
            except Invalid as wrong:
                problems.append(f"{key}: {wrong}")
        if peers:
            yield int(match[1]), tuple(peers)


def _peer_conflicts(peers: Mapping[int, tuple[Network, ...]]) -> Iterator[str]:
    """A peer in two lists can be reached through one interface only: the lower device index has it."""
    first: dict[Network, int] = {}
    for index in sorted(peers):
        for peer in peers[index]:
            if first.setdefault(peer, index) != index:
                yield f"peer {peer} is in Intf{first[peer]}Peers and Intf{index}Peers; it is reached by the first"
