"""Settings: a mapping of strings (a ConfigMap through envFrom) becomes one frozen Config, or every problem at once.

`SETTINGS` is the single table of keys, defaults and meanings; docs/configuration.md and the README are checked against
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from vipmanager.errors import ConfigError
from vipmanager.floating import Floating, FloatingMode, HealthCheck
from vipmanager.model import Network
from vipmanager.parsers import (
    Invalid,
    TagSelector,
    one_of,
    parse_boolean,
    parse_directory,
    parse_eips,
    parse_floating,
    parse_health_check,
    parse_lease_name,
    parse_peer,
    parse_pool,
    parse_port,
    parse_role,
    parse_subnet_cidr,
    parse_tags,
    parse_tristate,
    seconds,
    whole,
)

TAG_LENGTH = 256
"""Characters of a tag's value (Amazon EC2 User Guide, "Tag restrictions")."""

INTERFACE_KEY = re.compile(r"Intf([1-9][0-9]?)(Peers|EIPs|Pools)")


@dataclass(frozen=True)
class Config:
    """Every setting, parsed. `peers`, `eips`, `pools` are by ENI device index; None in a tri-state means automatic."""

    peers: Mapping[int, tuple[Network, ...]] = field(default_factory=dict)
    route_tables: TagSelector = field(default_factory=TagSelector)
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
    eips: Mapping[int, Mapping[IPv4Address, str]] = field(default_factory=dict)
    aggregate_routes: bool = False
    pools: Mapping[int, tuple[Network, ...]] = field(default_factory=dict)
    floating: Floating = field(default_factory=Floating)
    floating_mode: FloatingMode = FloatingMode.ADDRESS
    floating_subnet: IPv4Network | None = None
    lease_name: str = "vipmanager"
    lease_duration: int = 6
    renew_deadline: float = 4.0
    retry_period: float = 1.0
    health_check: HealthCheck | None = None
    health_threshold: int = 3
    health_port: int = 8086
    log_level: str = "INFO"
    log_format: str = "text"
    warnings: tuple[str, ...] = ()


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
    Setting("RouteAggregation", "aggregate_routes", "False", parse_boolean,
            "`True`: the `host-route` addresses of an ENI share the fewest prefixes that hold nothing else: 256 "
            "contiguous ones cost one call for each route table"),
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
    Setting("FLOATING_IP", "floating", "", parse_floating,
            "`nodeport`: what floats between nodes: IPv4 and IPv6 addresses and Elastic IPs (`eipalloc-…`), "
            "comma-separated"),
    Setting("FloatingMode", "floating_mode", "address",
            lambda text: FloatingMode(one_of(*(mode.value for mode in FloatingMode))(text)),
            "`nodeport`: how it floats: `address`, `route`, `eni` or `subnet`"),
    Setting("FloatingSubnetCidr", "floating_subnet", "", parse_subnet_cidr,
            "`nodeport`, mode `subnet`: the CIDR of the subnet that follows the holder"),
    Setting("LeaseName", "lease_name", "vipmanager", parse_lease_name,
            "`nodeport`: the Lease by which the nodes agree who holds; one for each Deployment"),
    Setting("LeaseDuration", "lease_duration", "6", whole(2, 3600, "seconds"),
            "`nodeport`: seconds without a renewal after which another node takes over"),
    Setting("RenewDeadline", "renew_deadline", "4", seconds(0.5),
            "`nodeport`: seconds without a renewal after which the holder stops; at most LeaseDuration - 1"),
    Setting("RetryPeriod", "retry_period", "1", seconds(0.1),
            "`nodeport`: seconds between renewals; RenewDeadline must be at least 1.2 times as long"),
    Setting("HealthCheck", "health_check", "", parse_health_check,
            "`nodeport`: what the holder checks on its node: `tcp://:30007` or `http://:30007/path`"),
    Setting("HealthThreshold", "health_threshold", "3", whole(1, 1000, "failures in a row"),
            "`nodeport`: failures in a row after which the holder offers the address to a healthy node"),
    Setting("HealthPort", "health_port", "8086", parse_port,
            "`sidecar` and `nodeport`: TCP port of `/healthz`, `/readyz` and `/metrics`; 0 = off"),
    Setting("LogLevel", "log_level", "INFO", one_of("DEBUG", "INFO", "WARNING", "ERROR"),
            "`DEBUG`, `INFO`, `WARNING` or `ERROR`"),
    Setting("LogFormat", "log_format", "text", one_of("text", "json"), "`text` or `json`"),
)  # fmt: skip

PEERS_MEANING = (
    "comma-separated peer hosts and networks (IPv4 and IPv6) reached through the pod interface on ENI device index N"
)
EIPS_MEANING = (
    "comma-separated `address=eipalloc-…`: Elastic IPs bound to `eni-address`es of the pod interface on ENI device "
    "index N"
)
POOLS_MEANING = (
    "comma-separated networks outside the VPC (IPv4 and IPv6), each routed whole to the ENI on device index N as soon "
    "as one of its addresses is on the pod interface there"
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
    peers: dict[int, tuple[Network, ...]] = {}
    eips: dict[int, Mapping[IPv4Address, str]] = {}
    pools: dict[int, tuple[Network, ...]] = {}
    for key, kind, index in _interface_keys(values, problems):
        if kind == "Peers":
            peers.update({index: found} if (found := _read_networks(key, values[key], parse_peer, problems)) else {})
        elif kind == "Pools":
            pools.update({index: found} if (found := _read_networks(key, values[key], parse_pool, problems)) else {})
        else:
            eips.update({index: bound} if (bound := _read_eips(key, values[key], problems)) else {})
    config = Config(peers=peers, eips=eips, pools=pools, warnings=tuple(_peer_conflicts(peers)), **parsed)
    problems += [*_eip_problems(eips), *_pool_problems(pools)]
    if not any(problem.startswith(("LeaseDuration=", "RenewDeadline=", "RetryPeriod=")) for problem in problems):
        problems += _lease_problems(config)
    if problems:
        raise ConfigError(problems)
    return config


def check_nodeport(config: Config) -> None:
    """What the nodeport mode needs besides. Raises ConfigError with every problem found."""
    problems = []
    floating, mode = config.floating, config.floating_mode
    if not floating.addresses and not floating.eips:
        problems.append(
            "FLOATING_IP='': nothing floats; accepted: an IPv4 or IPv6 address, eipalloc-…, or several with commas"
        )
    partners = list(floating.partners(mode).values())
    if partners.count(None) > 1:
        problems.append(
            f"FLOATING_IP={str(floating)!r}: {partners.count(None)} Elastic IPs have no floating IPv4 address to be "
            "bound to, and the holder's primary address can have one only; add an address for each, or use several "
            "Deployments"
        )
    if mode.moves_eni and len(str(floating)) > TAG_LENGTH:
        problems.append(
            f"FLOATING_IP={str(floating)!r}: is the value of a tag in this mode, which EC2 limits to {TAG_LENGTH} "
            "characters; use several Deployments"
        )
    problems += _subnet_problems(config)
    if problems:
        raise ConfigError(problems)


def _subnet_problems(config: Config) -> Iterator[str]:
    cidr, mode, floating = config.floating_subnet, config.floating_mode, config.floating
    if mode is not FloatingMode.SUBNET:
        if cidr is not None:
            yield f"FloatingSubnetCidr={str(cidr)!r}: only FloatingMode subnet has a use for it"
        return
    if cidr is None:
        yield "FloatingSubnetCidr='': FloatingMode subnet needs it: a CIDR of the VPC that is in no other subnet"
        return
    for address in floating.addresses:
        if address not in cidr:
            yield f"FLOATING_IP={str(floating)!r}: {address} does not lie in FloatingSubnetCidr {cidr}"
        elif int(address) - int(cidr[0]) < 4 or address == cidr[-1]:
            yield f"FLOATING_IP={str(floating)!r}: AWS reserves {address} in {cidr} (first four, last)"


def _lease_problems(config: Config) -> Iterator[str]:
    """The holder must have stopped, and its kernel taken the address off, before another node may take over."""
    if config.renew_deadline > config.lease_duration - 1:
        yield (
            f"RenewDeadline={config.renew_deadline:g}: accepted: at most LeaseDuration - 1 = "
            f"{config.lease_duration - 1:g}, so that the holder has stopped before another node takes over"
        )
    if config.renew_deadline / config.retry_period < 1.2 - 1e-9:  # 1.2 × 0.17 is a little more than 0.204
        yield (
            f"RetryPeriod={config.retry_period:g}: accepted: at most RenewDeadline / 1.2 = "
            f"{config.renew_deadline / 1.2:.4g}, so that a renewal can be repeated in time"
        )


def _interface_keys(values: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, str, int]]:
    """The `IntfN…` keys: the key, what it sets, and N."""
    for key in sorted(key for key in values if key.startswith("Intf")):
        match = INTERFACE_KEY.fullmatch(key)
        if match:
            yield key, match[2], int(match[1])
            continue
        zero = key in ("Intf0Peers", "Intf0EIPs", "Intf0Pools")
        hint = "device index 0 is the node's primary interface" if zero else "unknown setting"
        problems.append(
            f"{key}={values[key]!r}: {hint}; accepted: Intf1Peers, Intf2Peers, … Intf99Peers, Intf1EIPs, … Intf99EIPs, "
            "Intf1Pools, … Intf99Pools"
        )


def _read_networks(key: str, text: str, parse: Callable[[str], Network], problems: list[str]) -> tuple[Network, ...]:
    networks: dict[Network, None] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks[parse(item)] = None
        except Invalid as wrong:
            problems.append(f"{key}: {wrong}")
    return tuple(networks)


def _read_eips(key: str, text: str, problems: list[str]) -> Mapping[IPv4Address, str]:
    try:
        return parse_eips(text)
    except Invalid as wrong:
        problems.append(f"{key}={text!r}: {wrong}")
        return {}


def _eip_problems(eips: Mapping[int, Mapping[IPv4Address, str]]) -> Iterator[str]:
    """An Elastic IP can be bound to one address, whatever the interface."""
    first: dict[str, int] = {}
    for index in sorted(eips):
        for allocation in eips[index].values():
            if first.setdefault(allocation, index) != index:
                yield f"Intf{index}EIPs: {allocation} is in Intf{first[allocation]}EIPs too; it has one address only"


def _pool_problems(pools: Mapping[int, tuple[Network, ...]]) -> Iterator[str]:
    """A pool is one interface's whole, and an address is in one pool."""
    listed = [(index, pool) for index in sorted(pools) for pool in pools[index]]
    order = sorted(
        range(len(listed)), key=lambda at: (listed[at][1].version, listed[at][1][0], listed[at][1].prefixlen)
    )
    around: list[int] = []  # those that hold the present one, broadest first: there may be thousands all in all
    for at in order:
        while around and listed[at][1][0] not in listed[around[-1]][1]:
            around.pop()
        if around:
            (other, before), (index, pool) = (listed[each] for each in sorted((at, around[-1])))
            yield f"Intf{index}Pools: {pool} overlaps {before} of Intf{other}Pools; an address is in one pool only"
        around.append(at)


def _peer_conflicts(peers: Mapping[int, tuple[Network, ...]]) -> Iterator[str]:
    """A peer in two lists can be reached through one interface only: the lower device index has it."""
    first: dict[Network, int] = {}
    for index in sorted(peers):
        for peer in peers[index]:
            if first.setdefault(peer, index) != index:
                yield f"peer {peer} is in Intf{first[peer]}Peers and Intf{index}Peers; it is reached by the first"
