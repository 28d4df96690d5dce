"""What must hold once nothing goes wrong any more. Each function yields complaints; none is fine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from lab.chaos.stage import Sidecar, Stage
from lab.chaos.world import Floating, Home
from lab.ec2.layer import Call
from lab.ec2.params import items

CALLS_AT_ONCE = 16
"""vipmanager's threads for calls, and so its connections to EC2 (vipmanager.apply.WORKERS)."""

_PINGS = 5


# Delivery ------------------------------------------------------------------------------------------------------------


def delivery(stage: Stage) -> Iterator[str]:
    """Every address is delivered to its last claimant and to nobody else, and every sidecar knows where it stands."""
    claims = {name: _claims(sidecar) for name, sidecar in stage.sidecars.items()}
    for floating in stage.world.floatings:
        holders = stage.holders(floating)
        targets = _routed_to(stage, floating) if stage.is_routed(floating) else _assigned_to(stage, floating)
        if holders:
            yield from _held(stage, floating, holders, targets, claims)
        else:
            left = {name for name, sidecar in stage.sidecars.items() if sidecar.forgetful}
            excused = {stage.eni(home) for home in floating.homes if home.pod in left}
            for target in sorted((targets & stage.enis()) - excused):
                yield f"{floating.name} is held by nobody, and is still delivered to {target}"
        for name, known in claims.items():
            if stage.address(floating) in known and name not in {home.pod for home in holders}:
                yield f"{name} still has a claim of {floating.name}: {known[stage.address(floating)]}"


def _held(
    stage: Stage, floating: Floating, holders: list[Home], targets: set[str], claims: dict[str, dict[str, Any]]
) -> Iterator[str]:
    """Of several pods that hold it exactly one has it, and the others say so.

    On two interfaces of one pod it is delivered to one of them, which vipmanager names as a problem.
    """
    having = [home for home in holders if targets == {stage.eni(home)}]
    if not having:
        where = {str(home): stage.eni(home) for home in holders}
        yield f"{floating.name} is held by {where} and delivered to {sorted(targets)}"
        return
    known = {home: claims[home.pod].get(stage.address(floating)) for home in holders}
    for home, claim in known.items():
        if claim is None or claim["vanished"] is not None:
            yield f"{home} holds {floating.name} and has no claim of it: {claim}"
    conceded = [home for home, claim in known.items() if claim and claim["conceded_to"]]
    for home in set(having) & set(conceded) if len(having) == 1 else ():
        yield f"{floating.name} is delivered to {home}, which has conceded it"
    having_pods = {home.pod for home in having}
    for home in (home for home in holders if home.pod not in having_pods and home not in conceded):
        yield f"{floating.name} is not delivered to {home}, which has not conceded it"
    if floating.eip:
        elastic = stage.lab.ec2.state().elastic_ips[stage.allocation(floating)]
        if elastic.eni_id not in targets or str(elastic.private_ip) != stage.address(floating):
            yield f"{floating.name}: its Elastic IP is bound to {elastic.private_ip} of {elastic.eni_id}"


def _routed_to(stage: Stage, floating: Floating) -> set[str]:
    """The targets in all tables; a table without the route counts as "nothing", when others have it."""
    destination = ip_network(stage.destination(floating))
    routes = [table.by_destination.get(destination) for table in stage.tables()]
    targets = {route.target if route is not None else "nothing" for route in routes}
    return set() if targets == {"nothing"} else targets


def _assigned_to(stage: Stage, floating: Floating) -> set[str]:
    owner = stage.lab.ec2.state().owner_of(stage.lab.vpc_id, ip_address(stage.address(floating)))
    return {owner.eni_id} if owner else set()


def _claims(sidecar: Sidecar) -> dict[str, Any]:
    """What a sidecar has put down: address → claim."""
    directory = sidecar.volume.seen_from_outside if sidecar.volume else sidecar.pod.directory / "state"
    try:
        found = json.loads((directory / "claims.json").read_text())["claims"]
    except FileNotFoundError:
        return {}
    return {claim["address"]: claim for claim in found}


def packets(stage: Stage) -> Iterator[str]:
    """Each address that one pod has answers both peers, and from outside where it has an Elastic IP."""
    for floating in stage.world.floatings:
        if len(stage.holders(floating)) != 1:
            continue
        address = stage.address(floating)
        for name, peer in stage.lab.peers.items():
            if not peer.reach(address, count=_PINGS):
                yield f"{floating.name} does not answer {name}; dropped: {list(stage.lab.router.last_drops)[-3:]}"
        if floating.eip:
            public = stage.lab.ec2.state().elastic_ips[stage.allocation(floating)].public_ip
            if not stage.lab.internet.reach(public, count=_PINGS):
                yield f"{floating.name} does not answer the internet at {public}"


# Others' things ------------------------------------------------------------------------------------------------------


def foreign(stage: Stage) -> Iterator[str]:
    """Nothing that is not vipmanager's has changed, and no call was ever about such a thing."""
    yield from stage.foreign.complaints()
    destinations = {str(ip_network(stage.destination(each))) for each in stage.world.floatings if stage.is_routed(each)}
    addresses = {stage.address(each) for each in stage.world.floatings if not stage.is_routed(each)}
    eips = {stage.allocation(each) for each in stage.world.floatings if each.eip}
    for call in stage.lab.ec2.calls:
        if call.action.startswith("Describe") or call.service != "ec2":
            continue
        params = call.params
        about = params.get("DestinationCidrBlock") or params.get("DestinationIpv6CidrBlock")
        listed = {*items(params, "PrivateIpAddress"), *items(params, "Ipv6Addresses")}
        allowed = {
            "Route": about in destinations and params.get("RouteTableId") != stage.lab.topology.edge_table_id,
            "Addresses": bool(listed) and listed <= addresses,
            "Attribute": params.get("SourceDestCheck.Value") == "false",
            "AssociateAddress": params.get("AllocationId") in eips,
        }
        eni = params.get("NetworkInterfaceId")
        fits = any(allowed[suffix] for suffix in allowed if call.action.endswith(suffix))
        if not fits or (eni is not None and eni not in stage.enis()):
            yield f"foreign: {call.action} {dict(params)}"


# Processes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Census:
    """What a process holds: threads, TCP connections, and other descriptors."""

    threads: int
    tcp: int
    other: int


def census(pid: int) -> Census:
    """Count it. Raises OSError when the process has ended."""
    process = Path(f"/proc/{pid}")
    tcp_inodes = {
        line.split()[9] for name in ("tcp", "tcp6") for line in (process / "net" / name).read_text().splitlines()[1:]
    }
    targets = []
    for descriptor in (process / "fd").iterdir():
        try:
            targets.append(str(descriptor.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    sockets = {target.removeprefix("socket:[").rstrip("]") for target in targets if target.startswith("socket:")}
    tcp = len(sockets & tcp_inodes)
    return Census(len(list((process / "task").iterdir())), tcp, len(targets) - tcp)


def leaks(stage: Stage, before: dict[str, Census]) -> Iterator[str]:
    """Threads and connections are bounded by the calls at once; of other descriptors there are as many as at first."""
    for name, sidecar in stage.sidecars.items():
        if sidecar.container is None or sidecar.container.poll() is not None:
            continue
        now, then = census(sidecar.container.pid), before[name]
        if now.other > then.other:
            yield f"{name} has {now.other} descriptors besides its connections, and had {then.other}"
        if now.tcp > CALLS_AT_ONCE + then.tcp or now.threads > CALLS_AT_ONCE + then.threads:
            yield f"{name} has {now.threads} threads and {now.tcp} connections, and had {then.threads} and {then.tcp}"


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
    keys = {sidecar.credentials.access_key for sidecar in stage.sidecars.values()}
    for action in ("DescribeRouteTables", "DescribeNetworkInterfaces"):
        asked = {call.access_key for call in calls if call.action == action and call.started > since}
        if not keys <= asked:
            return False
    return True
