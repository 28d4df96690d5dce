"""Sees each change of EC2's as it happens: what a round or a resync mends again would show in no state at the end."""

from __future__ import annotations

import threading
import time
from ipaddress import ip_network
from typing import TYPE_CHECKING

from lab.ec2.state import RouteTable, VpcState

if TYPE_CHECKING:
    from lab.chaos.stage import Stage

HELD_FOR = 1.0
"""Seconds after which a call that was under way when an address came is no excuse."""


class Witness:
    """Notes each route that a sidecar deletes although it leads to the pod that has had the address for a while.

    What the schedule itself does, in the thread that made this, is no sidecar's doing. Where pods share an ENI, nobody
    can tell whose a route to it is.
    """

    def __init__(self, stage: Stage) -> None:
        self.complaints: list[str] = []
        self._stage = stage
        self._thread = threading.get_ident()
        self._tables = stage.lab.ec2.state().route_tables
        stage.lab.ec2.on_change(self._changed)

    def _changed(self, state: VpcState) -> None:
        before, self._tables = self._tables, state.route_tables
        if threading.get_ident() == self._thread:
            return
        for table_id, table in before.items():
            after = state.route_tables.get(table_id)
            if after is not None and after is not table:
                self._compare(table, after)

    def _compare(self, before: RouteTable, after: RouteTable) -> None:
        gone = set(before.by_destination) - set(after.by_destination)
        for floating in self._stage.world.floatings if gone else ():
            destination = ip_network(self._stage.destination(floating))
            if not self._stage.is_routed(floating) or destination not in gone:
                continue
            target = before.by_destination[destination].target
            for home, since in self._stage.held_since(floating).items():
                shared = sum(self._stage.eni(each) == target for each in self._stage.wanted) > 1
                if self._stage.eni(home) == target and not shared and since < time.monotonic() - HELD_FOR:
                    self.complaints.append(
                        f"the route of {floating.name} in {before.route_table_id} was deleted while {home} had it"
                    )
