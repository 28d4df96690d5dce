"""A claims file that somebody else wrote: at worst it makes vipmanager forget."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sidecars import TABLES, Pod, Zone
from vipmanager.claims import FILE, VERSION

VIP, GONE = "192.168.0.1", "192.168.0.77"
OTHER = "eni-7"
PAST = {"since": 1.0, "held": {}, "conceded_to": "", "conceded_at": 0.0, "vanished": None, "scope": None, "aimed": 0.0}
HOURS = 4 * 3600.0


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[Zone]:
    made = Zone(tmp_path)
    yield made
    made.close()


def started(zone: Zone, claim: Mapping[str, Any]) -> Pod:
    """A sidecar that finds this claim in its file, beside another pod's ENI."""
    other, pod = zone.pod(7), zone.pod(1, VIP)
    assert other.eni == OTHER
    path = pod.directory / FILE
    path.parent.mkdir()
    path.write_text(json.dumps({"version": VERSION, "life": "life", "claims": [{**PAST, **claim}]}))
    pod.start()
    return pod


@pytest.mark.parametrize(
    "claim",
    [
        {"address": "8.8.8.8", "placement": "subnet-route", "destination": "0.0.0.0/0"},
        {"address": "8.8.8.8", "placement": "host-route", "destination": "0.0.0.0/0"},
        {"address": GONE, "placement": "host-route", "destination": f"{GONE}/32"},
        {"address": GONE, "placement": "subnet-route", "destination": "192.168.0.0/24"},
    ],
    ids=lambda claim: f"{claim['placement']} {claim['destination']}",
)
def test_routes_to_another_eni_are_not_deleted(zone: Zone, claim: Mapping[str, str]) -> None:
    for number in range(TABLES):
        zone.ec2.put_route(f"rtb-{number}", claim["destination"], OTHER)
    pod = started(zone, {**claim, "eni": OTHER, "vanished": 1.0})
    zone.run(HOURS)
    assert zone.routed(VIP, pod)
    assert set(zone.ec2.targets(claim["destination"]).values()) == {OTHER}
    assert "delete_route" not in pod.calls


def test_a_default_route_to_the_own_eni_is_not_deleted(zone: Zone) -> None:
    """Somebody has made a gateway of the pod; it is no address of ours that has left."""
    for number in range(TABLES):
        zone.ec2.put_route(f"rtb-{number}", "0.0.0.0/0", OTHER)
    claim = {"address": "8.8.8.8", "placement": "subnet-route", "destination": "0.0.0.0/0"}
    pod = started(zone, {**claim, "eni": "eni-1", "vanished": 1.0})
    for number in range(TABLES):
        zone.ec2.put_route(f"rtb-{number}", "0.0.0.0/0", pod.eni)
    zone.run(HOURS)
    assert set(zone.ec2.targets("0.0.0.0/0").values()) == {pod.eni}


def test_an_address_of_another_eni_is_not_taken_off_it(zone: Zone) -> None:
    claim = {"address": "10.10.1.50", "placement": "eni-address", "destination": "10.10.1.50/32"}
    pod = started(zone, {**claim, "eni": OTHER, "vanished": 1.0})
    zone.ec2.assign(OTHER, [ip_address("10.10.1.50")])
    zone.run(HOURS)
    pod.stop()
    zone.run(10.0, lambda: bool(pod.codes))
    assert pod.codes == [0]
    assert "unassign" not in pod.calls


def test_a_claim_of_the_future_does_not_make_it_write_without_end(zone: Zone) -> None:
    pod = started(
        zone, {"address": VIP, "placement": "host-route", "destination": f"{VIP}/32", "eni": "eni-1", "since": 1e12}
    )
    zone.run(60.0)
    assert zone.routed(VIP, pod)
    assert sum(call in ("create_route", "replace_route") for call in pod.calls) == TABLES
