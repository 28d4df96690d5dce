"""RouteAggregation while addresses move: a prefix of ours is not taken for the delivery of what a longer route has."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.unit.sidecars import Pod, Zone

MOVING, HELD = "192.168.7.2", "192.168.7.3"
SOON = 1.0
SETTINGS = {"RouteAggregation": "True", "ResyncInterval": "300"}


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[Zone]:
    made = Zone(tmp_path)
    yield made
    made.close()


def targets(zone: Zone, address: str) -> set[str | None]:
    """Where the tables' longest routes for the address go."""
    found: set[str | None] = set()
    for table in zone.ec2.state.tables.values():
        fitting = [to for to in table.routes if ip_address(address) in to]
        found.add(table.routes[max(fitting, key=lambda to: to.prefixlen)] if fitting else None)
    return found


def delivered(zone: Zone, address: str, pod: Pod) -> bool:
    return targets(zone, address) == {pod.eni}


@pytest.mark.parametrize("leaves", [True, False], ids=["it leaves the other", "the other keeps it"])
@pytest.mark.parametrize("pool", [True, False], ids=["pool", "prefix"])
def test_an_address_is_taken_over_from_a_longer_route_that_was_not_there_before(
    zone: Zone, leaves: bool, pool: bool
) -> None:
    """The other's /32 came after this pod had read the tables, and wins over the prefix that it makes now."""
    settings = {**SETTINGS, **({"Intf1Pools": "192.168.7.2/31"} if pool else {})}
    a, b = zone.pod(1), zone.pod(2, HELD)
    a.start(ResyncInterval="300")
    b.start(**settings)
    assert zone.run(SOON, lambda: delivered(zone, HELD, b))
    zone.run(10.0)
    a.hold(MOVING)
    assert zone.run(SOON, lambda: delivered(zone, MOVING, a))
    zone.run(10.0)
    if leaves:
        a.hold()
    b.hold(MOVING, HELD)
    assert zone.run(SOON, lambda: delivered(zone, MOVING, b))
    # Two that keep one address, one by a prefix and one by a /32, do not see each other (docs/configuration.md).
    lasts = 400.0 if leaves else 5.0
    assert not zone.run(lasts, lambda: not (delivered(zone, MOVING, b) and delivered(zone, HELD, b)))


def test_routes_of_a_draw_are_taken_back_when_the_address_leaves_both(zone: Zone) -> None:
    """Each pod has some tables and has conceded; nobody else would take these routes back."""
    a, b = zone.pod(1, MOVING), zone.pod(2)
    for pod in (a, b):
        pod.start(ResyncInterval="3")
    assert zone.run(SOON, lambda: delivered(zone, MOVING, a))
    zone.run(10.0)
    for table in ("rtb-0", "rtb-1"):
        zone.ec2.put_route(table, f"{MOVING}/32", b.eni)
    zone.run(6.0)
    assert targets(zone, MOVING) == {a.eni, b.eni}
    a.hold()
    for table in ("rtb-0", "rtb-1"):
        zone.ec2.delete_route(table, ip_network(f"{MOVING}/32"))
    assert zone.run(30.0, lambda: targets(zone, MOVING) == {None})
