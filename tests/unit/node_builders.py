"""Small worlds for the nodeport mode's plans: node n has ENI eni-n in 10.10.n.0/24, device index 0, zone a."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from tests.unit.builders import VPC_CIDRS, mac, subnet
from vipmanager.actions import AddPodRule
from vipmanager.actions_node import NodeAction, SetMarks
from vipmanager.config import Config, check_nodeport, load
from vipmanager.model import Attachment, Eni, EniDescription, PodNetwork, PodRule, Subnet
from vipmanager.model_node import (
    FLOATING_TAG,
    MARK_MASK,
    ElasticIp,
    FloatingEnis,
    HostInterface,
    Mark,
    NodeObserved,
)
from vipmanager.plan.node_draft import NODE_TABLE_BASE
from vipmanager.plan.node_host import marks_table

NOW = 1000.0
EIP = "eipalloc-0123456789abcdef0"
VIP, VIP6, OUTSIDE = "10.10.1.80", "2600:1f14:0:1::80", "192.168.0.1"
CIDR = "10.10.99.0/28"
SUBNET_VIP = "10.10.99.5"


def settings(floating: str = VIP, mode: str = "address", **others: str) -> Config:
    """Settings of the nodeport mode, checked."""
    config = load({"FLOATING_IP": floating, "FloatingMode": mode, **others})
    check_nodeport(config)
    return config


def node_eni(number: int = 1, index: int = 0) -> Eni:
    """An ENI of this node, as discovery tells it."""
    home = subnet(number)
    return Eni(f"eni-{number}", mac(number), index, home.id, home.cidrs, "vpc-1", VPC_CIDRS)


def described(
    number: int = 1,
    *addresses: str,
    index: int = 0,
    instance: str = "i-1",
    status: str = "attached",
    zone: str = "a",
    check: bool = False,
    tags: Mapping[str, str] | None = None,
    home: str = "",
) -> EniDescription:
    """An ENI as EC2 tells it; 10.10.N.10 is its primary address. Without an instance it is available."""
    primary = ip_address(f"10.10.{number}.10")
    attachment = Attachment(f"attach-{number}", instance, index, status) if instance else None
    return EniDescription(
        id=f"eni-{number}",
        mac=mac(number),
        device_index=index if instance else -1,
        subnet_id=home or f"subnet-{number}",
        vpc_id="vpc-1",
        owner_id="123456789012",
        addresses=(primary, *map(ip_address, addresses)),
        primary=frozenset({primary}),
        source_dest_check=check,
        live=status in ("attached", "attaching") and bool(instance),
        attachment=attachment,
        zone=zone,
        groups=("sg-1",),
        tags=dict(tags or {}),
    )


def floating_eni(config: Config, number: int = 9, *addresses: str, primary: str = "", **facts: Any) -> EniDescription:
    """The ENI with our tag; its addresses are those given and no others."""
    made = described(number, tags={FLOATING_TAG: str(config.floating)}, **facts)
    held = tuple(map(ip_address, addresses)) or config.floating.addresses
    return replace(made, addresses=held, primary=frozenset({ip_address(primary) if primary else held[0]}))


def host(number: int = 1, *addresses: str, name: str = "eth0", up: bool = True, **facts: Any) -> HostInterface:
    """The node's interface with the MAC of ENI number N; its index is N."""
    return HostInterface(number, name, mac(number), up, tuple(map(ip_address, addresses)), **facts)


def zoned(number: int, zone: str = "a", tags: Mapping[str, str] | None = None) -> Subnet:
    """A subnet with its zone."""
    return replace(subnet(number), zone=zone, tags=dict(tags or {}))


def floating_subnet(config: Config, zone: str = "a", *, ours: bool = True) -> Subnet:
    """The subnet of FloatingSubnetCidr."""
    tags = {FLOATING_TAG: str(config.floating)} if ours else {}
    return Subnet("subnet-99", (ip_network(CIDR),), zone, tags)


def eip(eni_id: str = "", address: str = "", *, seen: float = NOW) -> ElasticIp:
    """The Elastic IP, bound or not."""
    return ElasticIp(EIP, "198.51.100.1", eni_id, IPv4Address(address) if address else None, seen)


def rules_and_marks(address: str, device: int, index: int) -> tuple[NodeAction, ...]:
    """What routes the replies of an IPv4 address on interface number `device`, whose ENI has that device index."""
    value, table = index << 24, NODE_TABLE_BASE + index
    return (
        AddPodRule(PodRule("0.0.0.0/0", table, value, MARK_MASK)),
        AddPodRule(PodRule(f"{address}/32", table)),
        SetMarks(marks_table(settings(address).floating), frozenset({Mark(ip_address(address), device, value)})),
    )


def node(*interfaces: HostInterface, at: float = NOW, **facts: Any) -> NodeObserved:
    """A snapshot of a node with its primary ENI; facts not given have been read and are empty."""
    own = facts.pop("own", (described(),))
    interfaces = facts.pop("interfaces", interfaces)
    known: dict[str, Any] = {
        "enis": {mac(1): node_eni()},
        "own": {each.id: each for each in own},
        "own_seen": at,
        "held": {(each.id, address): at for each in own for address in each.addresses},
        "checks_on": frozenset(each.id for each in own if each.source_dest_check),
        "tables": (),
        "subnets": (zoned(1), zoned(2)),
        "subnets_seen": at,
        "vpc_cidrs_seen": at,
        "floating": FloatingEnis((), at),
        "network": PodNetwork(),
    }
    return NodeObserved(at=at, interfaces=interfaces or (host(),), **{**known, **facts})
