"""What must hold once nothing goes wrong any more. Each function yields complaints; none is fine.

Here: delivery. Beside it: `calls` (what each pod's calls were about), `leftovers` (the pods' own routes and rules),
`processes` (threads and descriptors), `release` (what a stop leaves), `witness` (what happened meanwhile).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lab.chaos.stage import Stage
from lab.chaos.world import Floating, Home
from lab.ec2.layer import Call

APART = 2.0
"""Seconds between two claims of one address after which they are no draw: the later one is to have it."""

_PINGS = 5

Claims = dict[str, dict[str, Any]]


def delivery(stage: Stage) -> Iterator[str]:
    """Every address is delivered to its last claimant and to nobody else, and every sidecar knows where it stands."""
    state = stage.lab.ec2.state()
    claims: Claims = {name: sidecar.claims() for name, sidecar in stage.sidecars.items()}
    for floating in stage.world.floatings:
        holders = stage.holders(floating)
        targets = set(stage.places(floating, state).values())
        if holders:
            yield from _held(stage, floating, holders, targets, claims)
        else:
            for target in sorted((targets & stage.enis()) - _excused(stage, floating)):
                yield f"{floating.name} is held by nobody, and is still delivered to {target}"
        for name, known in claims.items():
            if stage.address(floating) in known and name not in {home.pod for home in holders}:
                yield f"{name} still has a claim of {floating.name}: {known[stage.address(floating)]}"


def _excused(stage: Stage, floating: Floating) -> set[str]:
    """The ENIs of pods that may not know what they left behind, and of the pool that it lies in."""
    forgetful = {name for name, sidecar in stage.sidecars.items() if sidecar.forgetful}
    pool = stage.in_pool(floating)
    mates = [each for each in stage.world.movable if stage.in_pool(each) and pool in stage.holders(each)]
    homes = [home for home in floating.homes if home.pod in forgetful] + ([pool] if pool and mates else [])
    return {stage.eni(home) for home in homes}


def _held(stage: Stage, floating: Floating, holders: list[Home], targets: set[str], claims: Claims) -> Iterator[str]:
    """Of several pods that hold it exactly one has it, the last that came, and the others say so.

    On two interfaces of one pod it is delivered to one of them, which vipmanager names as a problem. Without a resync
    the others do not know, unless they have looked for another reason.
    """
    having = [home for home in holders if targets == {stage.eni(home)}]
    if not having:
        where = {str(home): stage.eni(home) for home in holders}
        yield f"{floating.name} is held by {where} and delivered to {sorted(targets)}"
        return
    yield from _last_claimant(stage, floating, having)
    known = {home: claims[home.pod].get(stage.address(floating)) for home in holders}
    for home, claim in known.items():
        if claim is None or claim["vanished"] is not None:
            yield f"{home} holds {floating.name} and has no claim of it: {claim}"
    conceded = [home for home, claim in known.items() if claim and claim["conceded_to"]]
    for home in set(having) & set(conceded) if len(having) == 1 else ():
        yield f"{floating.name} is delivered to {home}, which has conceded it"
    having_pods = {home.pod for home in having}
    for home in (home for home in holders if home.pod not in having_pods and home not in conceded):
        if not stage.world.patient:
            yield f"{floating.name} is not delivered to {home}, which has not conceded it"
    if floating.eip:
        elastic = stage.lab.ec2.state().elastic_ips[stage.allocation(floating)]
        if elastic.eni_id not in targets or str(elastic.private_ip) != stage.address(floating):
            yield f"{floating.name}: its Elastic IP is bound to {elastic.private_ip} of {elastic.eni_id}"


def _last_claimant(stage: Stage, floating: Floating, having: list[Home]) -> Iterator[str]:
    since = stage.held_since(floating)
    last = max(since, key=lambda home: since[home])
    if any(home.pod == last.pod for home in having):
        return
    for former in having:
        apart = since[last] - since[former]
        if apart > APART and not _may_stay(stage, floating, former, last, since[last]):
            yield f"{floating.name} came to {last} {apart:.1f} s after {former}, and is delivered to {former}"


def _may_stay(stage: Stage, floating: Floating, former: Home, last: Home, came: float) -> bool:
    """Whether it was a draw, as the former's claim was not done yet when the last came; or it was nobody's since.

    What nobody live holds is claimed again by who has conceded it. So is what a pod has no memory of; and a call that
    EC2 was late to apply takes it back.
    """
    pair = {stage.eni(former), stage.eni(last)}
    seen = stage.witness.targets_since(floating, came)
    if seen[0] != {stage.eni(former)} or stage.held_calls:
        return True
    if any(stage.sidecars[home.pod].forgetful for home in (former, last)):
        return True
    unassigned = {"nothing"} if not stage.is_routed(floating) and floating.subnet6 else set()  # IPv6: freed first
    return any(targets - pair - unassigned for targets in seen)


def packets(stage: Stage) -> Iterator[str]:
    """Each address that a pod holds answers both peers, and from outside where it has an Elastic IP."""
    for floating in stage.world.floatings:
        holders = stage.holders(floating)
        if not holders or len({home.pod for home in holders}) < len(holders):
            continue  # on two interfaces of one pod the replies leave by one of them
        address = stage.address(floating)
        for name, peer in stage.lab.peers.items():
            if not peer.reach(address, count=_PINGS):
                yield f"{floating.name} does not answer {name}; dropped: {list(stage.lab.router.last_drops)[-3:]}"
        if floating.eip:
            public = stage.lab.ec2.state().elastic_ips[stage.allocation(floating)].public_ip
            if not stage.lab.internet.reach(public, count=_PINGS):
                yield f"{floating.name} does not answer the internet at {public}"


def alive(stage: Stage) -> Iterator[str]:
    """Every sidecar runs, and none has crashed."""
    for name, sidecar in stage.sidecars.items():
        code = sidecar.container.poll() if sidecar.container is not None else "none"
        if code is not None:
            yield f"{name}'s sidecar does not run: {code}"
        for log in sidecar.pod.directory.glob("*.log"):
            if '"event": "crashed"' in log.read_text(errors="replace"):
                yield f"{name}'s sidecar has crashed: {log.name}"


def looked(stage: Stage, since: float, calls: list[Call]) -> bool:
    """Whether each sidecar has read EC2 whole by a call that began after `since`, so that it knows what we see."""
    for action in ("DescribeRouteTables", "DescribeNetworkInterfaces"):
        asked = {stage.pod_of(call.access_key) for call in calls if call.action == action and call.started > since}
        if not stage.sidecars.keys() <= asked:
            return False
    return True
