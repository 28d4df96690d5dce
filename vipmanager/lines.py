"""Log lines about addresses: one for each, or one for all of many that share a route (RouteAggregation)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vipmanager.logs import event
from vipmanager.model import Address, Claim, PlacementKind

FEW = 4
"""Addresses that share a destination and get a line each; of more there is one line that counts them."""

LISTED = 16
"""Addresses that a line names one by one; of more it names the first and counts the rest."""

Emit = Callable[..., None]


def listed(addresses: Sequence[Address]) -> str:
    """Some addresses in one fact."""
    named = ",".join(map(str, addresses[:LISTED]))
    return named if len(addresses) <= LISTED else f"{named},… ({len(addresses)})"


@dataclass
class Line:
    """What is said of some addresses; `text` is for a Kubernetes Event, in which `{}` stands for them."""

    level: int
    name: str
    destination: str
    facts: Mapping[str, Any]
    reason: str
    text: str
    addresses: list[Address] = field(default_factory=list)
    took: float | None = None


class Lines:
    """Collects what is to be said in a round, in order."""

    def __init__(self) -> None:
        self._lines: dict[tuple[object, ...], Line] = {}

    def add(
        self,
        level: int,
        name: str,
        claim: Claim,
        *,
        reason: str = "",
        text: str = "",
        took: float | None = None,
        **facts: Any,
    ) -> None:
        """Say something of a claim's address. A shared destination is said in the place of a fact of that name."""
        shared = claim.kind is PlacementKind.HOST_ROUTE and claim.destination.num_addresses > 1
        if shared:
            facts["destination"] = str(claim.destination)
        key = (name, claim.eni_id, claim.destination if shared else claim.address, text, *facts.items())
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(level, name, str(claim.destination), facts, reason, text)
        line.addresses.append(claim.address)
        if took is not None:
            line.took = max(took, line.took or took)

    def say(self, log: logging.Logger, emit: Emit) -> None:
        """Log them all, and hand those with a reason on as Kubernetes Events."""
        for line in self._lines.values():
            many = len(line.addresses) > FEW
            whom: list[tuple[str, object]] = [("address", each) for each in line.addresses]
            if many:
                whom = [("addresses", len(line.addresses))]
            for key, value in whom:
                event(log, line.level, line.name, **{key: value}, **line.facts, took=line.took)
                if line.reason:
                    named = f"{value} addresses in {line.destination}" if many else str(value)
                    text, about = line.text.format(named), line.destination if many else str(value)
                    emit(line.reason, text, warning=line.level >= logging.WARNING, about=about)
        self._lines.clear()
