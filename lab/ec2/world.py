"""What a write works on: moto's backend, the current state, and what a change of it means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.ec2.params import Params
from lab.ec2.quotas import Quotas
from lab.ec2.snapshot import Snapshots
from lab.ec2.state import VpcState


@dataclass
class Delays:
    """How long EC2 takes for what it does not do at once, in seconds.

    `stuck_detach`: the guest does not let go, and only a forced detachment ends.
    """

    attach: float = 0.0
    detach: float = 0.0
    cidr: float = 0.0
    stuck_detach: bool = False


@dataclass
class World:
    """The one mutable thing of the layer; used under the layer's lock.

    `bindings`: Elastic IP (allocation ID) → the private address it is bound to. `transitions`: attachment ID →
    "attaching" or "detaching"; one that is in neither is attached. `tokens`: client token → (request, what it made).
    """

    backend: Any
    quotas: Quotas
    state: VpcState
    snapshots: Snapshots
    later: Callable[[float, Callable[[World], None]], None]  # seconds, what to do then; 0: at once
    delays: Delays = field(default_factory=Delays)
    bindings: dict[str, str] = field(default_factory=dict)
    transitions: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, tuple[Params, str]] = field(default_factory=dict)

    def table_changed(self, table_id: str) -> None:
        """Take the state anew after a change of one table's routes."""
        self.state = self.snapshots.of_route_table(self.state, table_id)

    def enis_changed(self) -> None:
        """Take the state anew after a change of addresses or attributes of ENIs."""
        self.state = self.snapshots.of_enis(self.state)

    def changed(self) -> None:
        """Take the state anew after any change."""
        self.state = self.snapshots.whole(self.state)


Write = Callable[[World, Params], str]
"""A write: checks, changes moto's backend, takes the state anew, and returns the XML inside its answer."""

Prepare = Callable[[World, Params], Params]
"""Checks a request that is then moto's, and returns it with what moto would have chosen wrongly filled in."""

Afterwards = Callable[[World, Params], None]
"""Puts moto's objects right after a call that was moto's."""

DONE = "<return>true</return>"
