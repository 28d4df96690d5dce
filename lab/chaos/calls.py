"""What the sidecars asked EC2 to change: each only what is its pod's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network

from lab.chaos.stage import Stage
from lab.chaos.world import POOL, Floating
from lab.ec2.layer import Call
from lab.ec2.params import items


def foreign(stage: Stage) -> Iterator[str]:
    """Nothing that is not vipmanager's has changed, and no call was ever about a thing that is not the caller's."""
    yield from stage.foreign.complaints()
    for call in stage.lab.ec2.calls:
        if call.action.startswith("Describe") or call.service != "ec2" or call.access_key is None:
            continue  # nothing is changed by a call of nobody that EC2 knows
        pod = stage.pod_of(call.access_key)
        if not _fits(stage, pod, call):
            yield f"foreign: {pod or call.access_key}'s {call.action} {dict(call.params)}"
        elif call.params.get("RouteTableId", "") not in {"", *stage.tables_ever}:
            yield f"foreign: {pod}'s {call.action} in a table that is not selected: {dict(call.params)}"


def _fits(stage: Stage, pod: str, call: Call) -> bool:
    """Whether a call is about an ENI of the caller's, and an address that has a home on it."""
    if pod not in stage.sidecars:
        return False
    params, eni = call.params, call.params.get("NetworkInterfaceId")
    own = {stage.eni(home) for home in stage.world.pod(pod).homes}
    if call.action.endswith("Route"):
        return (eni is None or eni in own) and _is_its_destination(stage, pod, eni, params)
    if call.action.endswith("Addresses"):
        listed = {*items(params, "PrivateIpAddress"), *items(params, "Ipv6Addresses")}
        return bool(listed) and all(_may_list(stage, pod, address, eni, call.action) for address in listed)
    if call.action == "AssociateAddress":
        bound = [each for each in _of(stage, pod) if each.eip and stage.allocation(each) == params.get("AllocationId")]
        return eni in own and any(stage.address(each) == params.get("PrivateIpAddress") for each in bound)
    return call.action.endswith("Attribute") and eni in own and params.get("SourceDestCheck.Value") == "false"


def _of(stage: Stage, pod: str) -> list[Floating]:
    """The addresses that have a home in a pod."""
    return [each for each in stage.world.floatings if any(home.pod == pod for home in each.homes)]


def _may_list(stage: Stage, pod: str, address: str, eni: str | None, action: str) -> bool:
    """To take an IPv6 address over, it is unassigned from whoever of those that share it has it."""
    floating = next((each for each in _of(stage, pod) if stage.address(each) == address), None)
    if floating is None or stage.is_routed(floating):
        return False
    homes = [home for home in floating.homes if home.pod == pod or action == "UnassignIpv6Addresses"]
    return eni in {stage.eni(home) for home in homes}


def _is_its_destination(stage: Stage, pod: str, eni: str | None, params: Mapping[str, str]) -> bool:
    """One address's, that of several which all have a home on that ENI (RouteAggregation), or the pod's pool."""
    about = params.get("DestinationCidrBlock") or params.get("DestinationIpv6CidrBlock") or ""
    routed = [each for each in _of(stage, pod) if stage.is_routed(each)]
    mine = [each for each in routed if eni is None or eni in {stage.eni(h) for h in each.homes if h.pod == pod}]
    if about in {str(ip_network(stage.destination(each))) for each in mine}:
        return True
    pool = stage.world.settings.pool
    if pool is not None and pool.pod == pod and about == POOL:
        return eni in (None, stage.eni(pool))
    if not stage.world.settings.aggregate:
        return False
    addresses = {ip_address(stage.address(each)) for each in mine}
    network = ip_network(about)
    return network.num_addresses <= len(addresses) and all(address in addresses for address in network)
