"""Addresses that move while calls are on their way: nobody takes one back that has moved on, nobody is left without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.sidecars import TABLES, Pod, Zone
from vipmanager.agent import STOP_WITHIN
from vipmanager.observe import SHARED_EACH
from vipmanager.plan.vpc import RETURN_AFTER

VIP = "192.168.0.1"
OWN = "10.10.1.50"
AWAY = 1.0
"""Seconds from one pod to the other, longer than a call takes."""
BACK = RETURN_AFTER + 3.0
"""Seconds within which a conceded address that nobody has any more is delivered again."""


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[Zone]:
    made = Zone(tmp_path)
    yield made
    made.close()


def holds(zone: Zone, address: str, pod: Pod) -> bool:
    if address == VIP:
        return zone.routed(address, pod)
    return address in {str(each) for each in zone.ec2.state.enis[pod.eni].addresses}


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)], ids=["to the higher ENI", "to the lower"])
def test_a_route_that_is_made_late_does_not_take_the_address_from_who_has_it_now(
    zone: Zone, first: int, second: int
) -> None:
    """EC2 keeps the first pod's calls waiting; meanwhile the address goes to the second, and is delivered there."""
    a, b = zone.pod(first), zone.pod(second)
    for pod in (a, b):
        pod.start()
    zone.run(AWAY)
    a.late["create_route"] = 3.0
    a.hold(VIP)
    zone.run(AWAY)
    a.hold()
    b.hold(VIP)
    assert zone.run(AWAY, lambda: zone.routed(VIP, b))
    assert not zone.run(400.0, lambda: not zone.routed(VIP, b)), "it stays there"
    assert a.calls.count("create_route") == TABLES
    assert "replace_route" not in a.calls


def test_a_call_that_waits_for_its_turn_is_not_made_once_the_address_has_left(zone: Zone) -> None:
    """The pod's threads are all busy with calls that EC2 keeps waiting."""
    a, b = zone.pod(1), zone.pod(2, VIP)
    b.start()
    assert zone.run(AWAY, lambda: zone.routed(VIP, b))
    a.start()
    zone.run(AWAY)
    a.queue()
    a.hold(VIP)
    zone.run(AWAY)
    a.hold()
    zone.run(AWAY)
    a.unqueue()
    assert not zone.run(400.0, lambda: not zone.routed(VIP, b))
    assert "replace_route" not in a.calls


@pytest.mark.parametrize("address", [VIP, OWN])
def test_an_address_that_was_away_while_the_sidecar_was_down_is_delivered_again(zone: Zone, address: str) -> None:
    """What the claims file says is older than the other's claim: it is conceded first, and nobody may have it."""
    a, b = zone.pod(1, address), zone.pod(2)
    for pod in (a, b):
        pod.start(ReleaseOnExit="False")
    assert zone.run(AWAY, lambda: holds(zone, address, a))
    zone.run(10.0)
    a.kill()
    a.hold()
    b.hold(address)
    assert zone.run(AWAY, lambda: holds(zone, address, b))
    zone.run(10.0)
    b.hold()
    a.hold(address)
    a.start()
    assert zone.run(BACK, lambda: holds(zone, address, a))
    assert not zone.run(400.0, lambda: not holds(zone, address, a))


@pytest.mark.parametrize("address", [VIP, OWN])
def test_a_conceded_address_costs_one_look(zone: Zone, address: str) -> None:
    """While its new holder lives there is nothing more to ask."""
    a, b = zone.pod(1, address), zone.pod(2)
    for pod in (a, b):
        pod.start(ResyncInterval="0")
    assert zone.run(AWAY, lambda: holds(zone, address, a))
    zone.run(10.0)
    b.hold(address)
    assert zone.run(AWAY, lambda: holds(zone, address, b))
    a.kill()
    a.start(ResyncInterval="0")
    zone.run(5.0)
    before = len(a.calls)
    zone.run(400.0)
    assert len(a.calls) == before + 1
    assert holds(zone, address, b)


@pytest.mark.parametrize(("address", "call"), [(VIP, "create_route"), (OWN, "assign")])
def test_what_is_on_its_way_when_the_sidecar_is_told_to_stop_is_taken_back_too(
    zone: Zone, address: str, call: str
) -> None:
    a = zone.pod(1)
    a.start(DeleteRoutesOnExit="True")
    zone.run(AWAY)
    a.late[call] = 0.4
    a.hold(address)
    zone.run(0.2, lambda: call in a.calls)
    assert not holds(zone, address, a)
    a.stop()
    assert zone.run(STOP_WITHIN + 0.5, lambda: bool(a.codes))
    zone.run(10.0)
    assert not holds(zone, address, a)
    assert address == OWN or set(zone.ec2.targets(f"{VIP}/32").values()) == {None}


def test_what_waits_for_its_turn_when_the_sidecar_is_told_to_stop_is_not_made(zone: Zone) -> None:
    a = zone.pod(1)
    a.start()
    zone.run(AWAY)
    a.queue()
    a.hold(VIP)
    zone.run(AWAY)
    a.stop()
    a.unqueue()
    assert zone.run(STOP_WITHIN + 0.5, lambda: bool(a.codes))
    zone.run(10.0)
    assert "create_route" not in a.calls


def test_ec2_that_does_not_answer_keeps_no_sidecar_from_stopping(zone: Zone) -> None:
    a = zone.pod(1)
    a.start(DeleteRoutesOnExit="True")
    zone.run(AWAY)
    a.late["create_route"] = a.late["route_tables"] = 60.0
    a.hold(VIP)
    zone.run(AWAY)
    a.stop()
    assert zone.run(STOP_WITHIN + 0.1, lambda: bool(a.codes))
    assert a.codes == [0]


@pytest.mark.parametrize("knows", [True, False], ids=["seen before", "not seen before"])
def test_an_address_that_goes_to_another_pod_on_the_same_eni(zone: Zone, knows: bool) -> None:
    """The former holder takes back its route, which is the new one's too: EC2 does not show whose it is."""
    a = zone.pod(1)
    b = zone.beside(a)
    for pod in (a, b):
        pod.start(ResyncInterval="3" if knows else "0")
    zone.run(AWAY)
    a.hold(VIP)
    assert zone.run(AWAY, lambda: zone.routed(VIP, a))
    zone.run(8.0)
    a.hold()
    b.hold(VIP)
    zone.run(9.0)
    assert zone.run(5.0, lambda: not zone.routed(VIP, b)), "it was taken back"
    assert zone.run(SHARED_EACH + 0.5, lambda: zone.routed(VIP, b))
    assert not zone.run(400.0, lambda: not zone.routed(VIP, b))
