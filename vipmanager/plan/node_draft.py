"""What a round of the nodeport mode works with: the facts it may ask for, and what it has decided so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from vipmanager.actions_node import NodeAction
from vipmanager.model import EC2_IPV6_GATEWAY, Address, Network, Problem
from vipmanager.model_node import MARK_MASK, HostInterface, NodeObserved

NODE_TABLE_BASE = 8600
"""The routing table of device index N is 8600 + N. A pod's 100 + N would meet the VPC CNI's, which gives pods with
security groups 100 + VLAN id (amazon-vpc-cni-k8s, cmd/routed-eni-cni-plugin/driver)."""

MARK_SHIFT = 24
"""Connections through device index N are marked with N in the upper byte, which is MARK_MASK."""

EVER = float("-inf")


class NodeNeed(Enum):
    """A fact that the plan lacks."""

    TABLES = "route tables"
    OWN = "the node's ENIs"
    HOLDERS = "holders of addresses"
    EIPS = "Elastic IPs"
    FLOATING = "the floating ENI"
    SUBNETS = "subnets"
    VPC_CIDRS = "the VPC's CIDRs"
    INSTANCES = "the instance that has the floating ENI"


@dataclass(frozen=True)
class Target:
    """Where a floating address is delivered to: an ENI of this node, and its interface when the node has it already."""

    eni_id: str
    mac: str
    device_index: int
    cidrs: tuple[Network, ...]

    @property
    def table(self) -> int | None:
        """The routing table for what the address sends; the primary ENI uses the node's own."""
        return NODE_TABLE_BASE + self.device_index if self.device_index > 0 else None

    @property
    def mark(self) -> int:
        """What marks connections through this ENI."""
        return self.device_index << MARK_SHIFT & MARK_MASK

    def gateway(self, version: int) -> Address | None:
        """The VPC's router in the ENI's subnet."""
        if version == 6:
            return EC2_IPV6_GATEWAY
        return next((cidr[1] for cidr in self.cidrs if cidr.version == 4), None)


@dataclass(frozen=True)
class Item:
    """The state of one thing that floats, for status and logs; `waits` says for what, empty when it is delivered."""

    name: str
    eni_id: str = ""
    interface: str = ""
    waits: str = ""


@dataclass(frozen=True)
class NodePlan:
    """What one round decided. `keep`: addresses in place, whose lifetimes are to be extended with each renewal.

    `poll`: what has to be looked at again soon, because EC2 is at work on it (attaching, detaching).
    """

    actions: tuple[NodeAction, ...] = ()
    problems: tuple[Problem, ...] = ()
    needs: frozenset[NodeNeed] = frozenset()
    keep: tuple[tuple[int, Address], ...] = ()
    items: tuple[Item, ...] = ()
    poll: frozenset[NodeNeed] = frozenset()


@dataclass
class Draft:
    """What a round collects. `began`: older observations are not believed."""

    began: float
    actions: list[NodeAction] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    needs: set[NodeNeed] = field(default_factory=set)
    waits: dict[str, str] = field(default_factory=dict)
    poll: set[NodeNeed] = field(default_factory=set)

    def wait(self, item: object, why: str) -> None:
        """Say what an item waits for; the first reason stands."""
        self.waits.setdefault(str(item), why)

    def act(self, item: object, action: NodeAction) -> None:
        """Do something for an item."""
        self.actions.append(action)
        self.wait(item, str(action))

    def need(self, item: object, need: NodeNeed) -> None:
        """Ask for a fact that an item waits for."""
        self.needs.add(need)
        self.wait(item, f"reading {need.value}")

    def problem(self, item: object, text: str) -> None:
        """Something keeps an item from being delivered by this node."""
        self.problems.append(Problem(str(item), text))
        self.wait(item, text)


def interface_of(target: Target, observed: NodeObserved) -> HostInterface | None:
    """The node's interface that is the target's ENI; one that is made on top of it may share its MAC."""
    return next((each for each in observed.interfaces if each.physical and each.mac == target.mac), None)
