"""The end of the sidecars: what they give back when they are told to stop, and what they leave."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from lab.chaos.sidecar import DONE_WITHIN
from lab.chaos.stage import Stage
from lab.chaos.world import Floating
from lab.ec2.layer import Call
from lab.ec2.params import items

IN_TIME = 1.4
"""Seconds after which a stopping sidecar may have left something: it ends after 1.5 s (vipmanager's STOP_WITHIN)."""
_POLL = 0.01  # seconds


@dataclass(frozen=True)
class Ending:
    """How a sidecar ended: its exit code, None when it did not, and after how many seconds."""

    code: int | None
    seconds: float


def stop(stage: Stage, *, converged: bool) -> Iterator[str]:
    """Tell all sidecars to stop. Each ends with success; where all was in place, each gives back what it is to."""
    claims = {name: sidecar.claims() for name, sidecar in stage.sidecars.items()}
    tables = {table.route_table_id: set(table.routes) for table in stage.tables()}
    mark = stage.lab.ec2.mark()
    endings = _stop_all(stage)
    for name, ending in endings.items():
        if ending.code is None:
            yield f"{name}'s sidecar does not end"
        elif ending.code != 0:
            yield f"{name}'s sidecar ended with {ending.code}"
    calls = [call for call in stage.lab.ec2.calls_since(mark) if not call.action.startswith("Describe")]
    yield from not_theirs(stage, claims, calls)
    if converged:
        yield from given_back(stage, claims, endings, calls)
        if not stage.world.settings.delete_routes:
            now = {table.route_table_id: set(table.routes) for table in stage.tables()}
            if now != tables:
                yield f"routes have changed with the stop: were {tables}, are {now}"


def _stop_all(stage: Stage) -> dict[str, Ending]:
    told = time.monotonic()
    waiting = {name for name, sidecar in stage.sidecars.items() if sidecar.container is not None}
    stage.witness.stopping |= waiting
    for name in waiting:
        stage.sidecars[name].tell_to_stop()
    endings: dict[str, Ending] = {}
    while waiting and time.monotonic() < told + DONE_WITHIN:
        for name in sorted(waiting):
            container = stage.sidecars[name].container
            code = container.poll() if container is not None else 0
            if code is not None:
                endings[name] = Ending(code, time.monotonic() - told)
                waiting.remove(name)
        time.sleep(_POLL)
    return endings | {name: Ending(None, DONE_WITHIN) for name in waiting}


def given_back(
    stage: Stage, claims: Mapping[str, Mapping[str, Any]], endings: Mapping[str, Ending], calls: list[Call]
) -> Iterator[str]:
    """By ReleaseOnExit and DeleteRoutesOnExit; who ran out of time must have asked for it at least."""
    state = stage.lab.ec2.state()
    for floating in stage.world.floatings:
        routed = stage.is_routed(floating)
        back = stage.world.settings.delete_routes if routed else stage.world.settings.release
        targets = set(stage.places(floating, state).values())
        for home in stage.holders(floating):
            claim = claims[home.pod].get(stage.address(floating))
            if claim is None or claim["conceded_to"] or _shared(stage, stage.eni(home)):
                continue
            asked = any(stage.pod_of(call.access_key) == home.pod and names(call, stage, floating) for call in calls)
            if back and stage.eni(home) in targets and not (asked and endings[home.pod].seconds > IN_TIME):
                yield f"{home} has stopped after {endings[home.pod].seconds:.2f} s, and {floating.name} is still there"
            elif not routed and not back and stage.eni(home) not in targets and len(stage.holders(floating)) == 1:
                yield f"{home} has stopped, and {floating.name} is not there any more"


def not_theirs(stage: Stage, claims: Mapping[str, Mapping[str, Any]], calls: list[Call]) -> Iterator[str]:
    """What a sidecar that stops gives back without having it: what it never claimed, or has conceded."""
    for call in calls:
        known = claims.get(stage.pod_of(call.access_key), {})
        own = {stage.address(each) for each in stage.world.floatings if names(call, stage, each)}
        own = {address for address in own if address in known and not known[address]["conceded_to"]}
        if call.service == "ec2" and call.access_key is not None and not own:
            yield f"{stage.pod_of(call.access_key)}, told to stop, does {call.action} {dict(call.params)}"


def names(call: Call, stage: Stage, floating: Floating) -> bool:
    """Whether a call is about an address, alone or with others."""
    address = stage.address(floating)
    if address in {*items(call.params, "PrivateIpAddress"), *items(call.params, "Ipv6Addresses")}:
        return not stage.is_routed(floating)
    about = call.params.get("DestinationCidrBlock") or call.params.get("DestinationIpv6CidrBlock")
    if about is None or not stage.is_routed(floating):
        return False
    together = stage.may_be_ours(ip_network(about)) and ip_address(address) in ip_network(about)
    return about == stage.destination(floating) or together


def _shared(stage: Stage, eni: str) -> bool:
    return sum(stage.eni(home) == eni for home in stage.wanted) > 1
