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
class World:
    """The one mutable thing of the layer; used under the layer's lock.

    `bindings`: Elastic IP (allocation ID) → the private address it is bound to.
    """

    backend: Any
    quotas: Quotas
    state: VpcState
    snapshots: Snapshots
    bindings: dict[str, str] = field(default_factory=dict)

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

DONE = "<return>true</return>"
