"""What changed in EC2, and when: the difference of each two states that followed each other."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from lab.demo.timeline import Event, milliseconds
from lab.ec2.state import LOCAL, Eni, RouteTable, VpcState
from lab.lab import Lab

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Change:
    """One thing that changed: `what` went from `old` to `new` in `place` (a route table, an ENI; may be empty)."""

    when: float
    what: str
    old: str
    new: str
    place: str


class Changes:
    """Follows a lab's EC2 from now on."""

    def __init__(self, lab: Lab) -> None:
        self._vpc = lab.vpc_id
        self._names = eni_names(lab)
        self._changed = threading.Condition()
        self._states: list[tuple[float, VpcState]] = [(time.monotonic(), lab.ec2.state())]
        lab.ec2.on_change(self._note)

    def _note(self, state: VpcState) -> None:
        with self._changed:
            self._states.append((time.monotonic(), state))
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[VpcState], bool], bound: float) -> bool:
        """Wait until EC2's state fulfils the condition; False when it has not after `bound` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._states[-1][1]), bound)

    def events(self, since: float) -> list[Event]:
        """What changed since a time.monotonic(), the same change of several route tables or ENIs as one event."""
        grouped: dict[tuple[str, str, str], list[Change]] = {}
        for change in self._since(since):
            grouped.setdefault((change.what, change.old, change.new), []).append(change)
        return [Event(changes[0].when, "EC2", _text(changes)) for changes in grouped.values()]

    def _since(self, since: float) -> Iterator[Change]:
        with self._changed:
            states = list(self._states)
        for (_, before), (when, after) in itertools.pairwise(states):
            if when >= since:
                yield from self._differences(when, before, after)

    def _differences(self, when: float, before: VpcState, after: VpcState) -> Iterator[Change]:
        for table_id, table in after.route_tables.items():
            old_table = before.route_tables.get(table_id)
            if old_table is not None and old_table is not table and table.vpc_id == self._vpc:
                yield from self._routes(when, old_table, table)
        pairs = ((before.enis.get(key), eni) for key, eni in after.enis.items())
        changed = [(old, eni) for old, eni in pairs if old is not None and old is not eni]
        yield from self._addresses(when, changed)
        for old_eni, eni in changed:
            if old_eni.source_dest_check != eni.source_dest_check:
                was, now = ("on" if each.source_dest_check else "off" for each in (old_eni, eni))
                yield Change(when, "source/dest check", was, now, self._name(eni.eni_id))

    def _routes(self, when: float, before: RouteTable, after: RouteTable) -> Iterator[Change]:
        for destination in {**before.by_destination, **after.by_destination}:
            old, new = before.by_destination.get(destination), after.by_destination.get(destination)
            if old != new:
                was = self._name(old.target) if old else _default(before, destination)
                now = self._name(new.target) if new else _default(after, destination)
                yield Change(when, f"route {destination}", was, now, table_name(after))

    def _addresses(self, when: float, changed: Sequence[tuple[Eni, Eni]]) -> Iterator[Change]:
        lost: dict[IPv4Address | IPv6Address, str] = {}
        gained: dict[IPv4Address | IPv6Address, str] = {}
        for before, after in changed:
            lost |= dict.fromkeys(before.addresses - after.addresses, self._name(after.eni_id))
            gained |= dict.fromkeys(after.addresses - before.addresses, self._name(after.eni_id))
        for address in {**lost, **gained}:
            yield Change(when, f"address {address}", lost.get(address, "no ENI"), gained.get(address, "no ENI"), "")

    def _name(self, target: str) -> str:
        return self._names.get(target, target)


def eni_names(lab: Lab) -> Mapping[str, str]:
    """ENI ID → what the demo calls it: `a/eth1` is the ENI of device index 1 on worker a."""
    names = {
        eni.eni_id: f"{worker.name}/eth{eni.device_index}" for worker in lab.workers.values() for eni in worker.enis
    }
    return names | {peer.eni.eni_id: peer.name for peer in lab.peers.values()}


def table_name(table: RouteTable) -> str:
    """A route table's Name tag."""
    return dict(table.tags).get("Name", table.route_table_id)


def _default(table: RouteTable, destination: Network) -> str:
    """Where a destination goes without a route of its own."""
    route = table.lookup(destination.network_address)
    return "local" if route is not None and route.target == LOCAL else "no route"


def _text(changes: Sequence[Change]) -> str:
    text = f"{changes[0].what}  {changes[0].old} → {changes[0].new}"
    places = sorted({change.place for change in changes if change.place})
    if places:
        text += f"  in {' '.join(places)}" if places[0].startswith("rt-") else f"  on {' '.join(places)}"
    return text + (f"  within {milliseconds(changes[-1].when - changes[0].when)}" if len(changes) > 1 else "")
