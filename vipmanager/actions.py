"""What is to be done: one frozen value for each change, and the plan that holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Address

from vipmanager.model import Address, Claims, Network, PodRoute, PodRule, Problem


class Change(ABC):
    """One thing to be done. It prints as an operator would say it."""

    @property
    @abstractmethod
    def key(self) -> tuple[str, ...]:
        """What it changes: two changes with one key are never under way at the same time."""


@dataclass(frozen=True)
class SetRoute(Change):
    """Point `destination` in a route table at an ENI; `replaces` is the present target, empty when there is none.

    `unless_there`: leave a route alone that has appeared in the meantime. It may be somebody's who took over addresses
    that were ours, and which are among those that the destination holds.
    """

    table_id: str
    destination: Network
    eni_id: str
    replaces: str
    address: Address
    unless_there: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        return ("route", self.table_id, str(self.destination))

    def __str__(self) -> str:
        verb = "replace" if self.replaces else "create"
        return f"{verb} route table={self.table_id} destination={self.destination} eni={self.eni_id}"


@dataclass(frozen=True)
class DeleteRoute(Change):
    """Take back a route that was last seen pointing at our ENI."""

    table_id: str
    destination: Network
    eni_id: str
    address: Address

    @property
    def key(self) -> tuple[str, ...]:
        return ("route", self.table_id, str(self.destination))

    def __str__(self) -> str:
        return f"delete route table={self.table_id} destination={self.destination} eni={self.eni_id}"


@dataclass(frozen=True)
class AssignAddress(Change):
    """Make an address a secondary address of an ENI (IPv4: taken over from any other ENI)."""

    eni_id: str
    address: Address

    @property
    def key(self) -> tuple[str, ...]:
        return ("address", str(self.address))

    def __str__(self) -> str:
        return f"assign address={self.address} eni={self.eni_id}"


@dataclass(frozen=True)
class UnassignAddress(Change):
    """Remove an address from an ENI: to release it, or to free an IPv6 address for a take-over."""

    eni_id: str
    address: Address
    why: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("address", str(self.address))

    def __str__(self) -> str:
        return f"unassign address={self.address} eni={self.eni_id} why={self.why}"


@dataclass(frozen=True)
class DisableSourceDestCheck(Change):
    """Let an ENI pass packets for addresses that are not its own; routed placements need it."""

    eni_id: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("check", self.eni_id)

    def __str__(self) -> str:
        return f"disable source/dest check eni={self.eni_id}"


@dataclass(frozen=True)
class AssociateEip(Change):
    """Bind an Elastic IP to a private address of an ENI, from wherever it was."""

    allocation_id: str
    eni_id: str
    address: IPv4Address

    @property
    def key(self) -> tuple[str, ...]:
        return ("eip", self.allocation_id)

    def __str__(self) -> str:
        return f"associate eip={self.allocation_id} address={self.address} eni={self.eni_id}"


@dataclass(frozen=True)
class SetPodRoute(Change):
    """Add or replace a route of the pod."""

    route: PodRoute

    @property
    def key(self) -> tuple[str, ...]:
        return ("pod-route", str(self.route.table), self.route.destination)

    def __str__(self) -> str:
        r = self.route
        return f"set pod route destination={r.destination} via={r.gateway} device={r.device} table={r.table}"


@dataclass(frozen=True)
class DeletePodRoute(Change):
    """Delete a route of the pod that is ours and no longer wanted."""

    route: PodRoute

    @property
    def key(self) -> tuple[str, ...]:
        return ("pod-route", str(self.route.table), self.route.destination)

    def __str__(self) -> str:
        r = self.route
        return f"delete pod route destination={r.destination} via={r.gateway} device={r.device} table={r.table}"


@dataclass(frozen=True)
class AddPodRule(Change):
    """Add a source rule of the pod."""

    rule: PodRule

    @property
    def key(self) -> tuple[str, ...]:
        return ("pod-rule", self.rule.source, str(self.rule.table))

    def __str__(self) -> str:
        return f"add pod rule {_rule(self.rule)}"


@dataclass(frozen=True)
class DeletePodRule(Change):
    """Delete a source rule of the pod that is ours and no longer wanted."""

    rule: PodRule

    @property
    def key(self) -> tuple[str, ...]:
        return ("pod-rule", self.rule.source, str(self.rule.table))

    def __str__(self) -> str:
        return f"delete pod rule {_rule(self.rule)}"


def _rule(rule: PodRule) -> str:
    mark = f" mark={rule.mark:#x}/{rule.mask:#x}" if rule.mask else ""
    return f"from={rule.source}{mark} table={rule.table}"


Withdrawal = DeleteRoute | UnassignAddress
VpcAction = SetRoute | AssignAddress | Withdrawal | DisableSourceDestCheck | AssociateEip
PodAction = SetPodRoute | DeletePodRoute | AddPodRule | DeletePodRule
Action = VpcAction | PodAction


class Need(Enum):
    """A fact that the plan lacks."""

    TABLES = "route tables"
    STATES = "the worker's ENIs"
    SUBNETS = "subnets"
    HOLDERS = "holders of addresses"
    EIPS = "Elastic IPs"


@dataclass(frozen=True)
class Plan:
    """What one round decided: sorted actions, what cannot be done, and the claims as they stand after deciding.

    `needs` says which facts would let it decide more, `wake_at` when it would decide more by time passing alone.
    """

    actions: tuple[Action, ...] = ()
    problems: tuple[Problem, ...] = ()
    claims: Claims = field(default_factory=dict)
    needs: frozenset[Need] = frozenset()
    wake_at: float | None = None

    def wants(self, action: VpcAction) -> bool:
        """Whether it asks for that, too: a call that has waited for its turn, or for EC2, may have been overtaken."""
        mine = self._by_key.get(action.key)
        return isinstance(mine, type(action)) and mine.eni_id == action.eni_id

    @cached_property
    def _by_key(self) -> dict[tuple[str, ...], Action]:
        return {action.key: action for action in self.actions}
