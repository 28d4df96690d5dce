"""The pod's own routes and rules: peers through the VPC's gateway, and source based routing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vipmanager.actions import (
    Action,
    AddPodRule,
    DeletePodRoute,
    DeletePodRule,
    SetPodRoute,
)
from vipmanager.config import Config
from vipmanager.model import (
    EC2_IPV6_GATEWAY,
    MAIN_TABLE,
    Address,
    Eni,
    Network,
    Observed,
    PodInterface,
    PodNetwork,
    PodRoute,
    PodRule,
    Problem,
)

TABLE_BASE = 100
TABLES_PER_ROUND = 200
"""The k-th further interface on an ENI uses 100 + N + 200·k, which keeps clear of the kernel's 253 to 255."""


@dataclass(frozen=True)
class Attachment:
    """A pod interface with its ENI. `ordinal` counts the interfaces on that ENI from 0, in the kernel's order."""

    interface: PodInterface
    eni: Eni
    ordinal: int

    @property
    def table(self) -> int:
        """The interface's own routing table."""
        return TABLE_BASE + self.eni.device_index + TABLES_PER_ROUND * self.ordinal


def attachments(observed: Observed) -> tuple[Attachment, ...]:
    """Every pod interface whose MAC is an ENI's. Two interfaces may share an ENI, hence a MAC."""
    counts: defaultdict[str, int] = defaultdict(int)
    found = []
    for interface in sorted(observed.interfaces, key=lambda interface: interface.index):
        eni = observed.enis.get(interface.mac)
        if eni is not None:
            found.append(Attachment(interface, eni, counts[eni.id]))
            counts[eni.id] += 1
    return tuple(found)


def lacking(observed: Observed) -> str:
    """Why nothing on this pod can be delivered: it has no interface on an ENI. Empty while that is not certain.

    A pod that is made before Multus runs on its node comes up with eth0 alone, and a new container in it changes that
    as little (k8snetworkplumbingwg/multus-cni issue 1387).
    """
    if observed.pending or attachments(observed):
        return ""
    seen = ", ".join(each.name for each in observed.interfaces)
    return (
        f"no pod interface is on an ENI of this worker (seen: {seen or 'none besides lo and eth0'}); if the annotation "
        "k8s.v1.cni.cncf.io/networks is right, the pod was made before Multus ran on the node: delete the pod"
    )


def gateway(eni: Eni, version: int) -> Address | None:
    """The VPC's router as an ENI sees it, or None when its subnet lacks that family.

    IPv4: the first host address of the subnet. IPv6: `fe80:ec2::1` (Amazon VPC User Guide, subnet sizing).
    """
    cidr = next((cidr for cidr in eni.subnet_cidrs if cidr.version == version), None)
    if cidr is None:
        return None
    return cidr.network_address + 1 if version == 4 else EC2_IPV6_GATEWAY


def plan_pod(observed: Observed, config: Config) -> tuple[list[Action], list[Problem]]:
    """The difference between the pod's routes and rules that are ours and those that are wanted."""
    routes: dict[tuple[int, str], PodRoute] = {}
    rules: set[PodRule] = set()
    problems: list[Problem] = []
    found = attachments(observed)
    for attachment in found:
        peers = config.peers.get(attachment.eni.device_index, ()) if attachment.ordinal == 0 else ()
        if not attachment.interface.up:
            continue
        for route in _peer_routes(attachment, peers, problems):
            routes.setdefault((route.table, route.destination), route)
        if config.source_routing or (config.source_routing is None and not peers):
            for default, rule in _source_routing(attachment, problems):
                routes.setdefault((default.table, default.destination), default)
                rules.add(rule)
    if found and not observed.pending:
        problems.extend(_peers_without_interface(found, config))
    actions = _difference(observed.pod, frozenset(routes.values()), frozenset(rules))
    if observed.pending:  # what looks stale may belong to an interface whose ENI is not known yet
        actions = [action for action in actions if isinstance(action, SetPodRoute | AddPodRule)]
    return actions, problems


def _peer_routes(attachment: Attachment, peers: Sequence[Network], problems: list[Problem]) -> Iterator[PodRoute]:
    for peer in peers:
        via = gateway(attachment.eni, peer.version)
        if via is None:
            problems.append(_no_family(attachment, f"peer {peer}", peer.version))
        else:
            yield PodRoute(MAIN_TABLE, str(peer), str(via), attachment.interface.index)


def _source_routing(attachment: Attachment, problems: list[Problem]) -> Iterator[tuple[PodRoute, PodRule]]:
    for address in attachment.interface.addresses:
        via = gateway(attachment.eni, address.version)
        if via is None:
            problems.append(_no_family(attachment, f"source based routing of {address}", address.version))
            continue
        everything = "0.0.0.0/0" if address.version == 4 else "::/0"
        source = f"{address}/{address.max_prefixlen}"
        yield (
            PodRoute(attachment.table, everything, str(via), attachment.interface.index),
            PodRule(source, attachment.table),
        )


def _no_family(attachment: Attachment, what: str, version: int) -> Problem:
    eni = attachment.eni
    return Problem(
        f"{what} on {attachment.interface.name}",
        f"has no gateway, because subnet {eni.subnet_id} of {eni.id} has no IPv{version} CIDR; associate one with it",
    )


def _peers_without_interface(found: Sequence[Attachment], config: Config) -> Iterator[Problem]:
    present = {attachment.eni.device_index: attachment.interface.name for attachment in found}
    seen = ", ".join(f"{name} on {index}" for index, name in sorted(present.items())) or "none"
    for index in sorted(set(config.peers) - set(present)):
        yield Problem(
            f"Intf{index}Peers",
            f"no pod interface is on ENI device index {index} (seen: {seen}), so these peers get no route",
            fatal=False,
        )


def _difference(pod: PodNetwork, routes: frozenset[PodRoute], rules: frozenset[PodRule]) -> list[Action]:
    """Replace in place what has a new gateway or device; delete only what has no successor."""
    kept = {(route.table, route.destination) for route in routes}
    actions: list[Action] = [SetPodRoute(route) for route in sorted(routes - pod.routes)]
    actions += [AddPodRule(rule) for rule in sorted(rules - pod.rules)]
    actions += [DeletePodRule(rule) for rule in sorted(pod.rules - rules)]
    stale = (route for route in pod.routes - routes if (route.table, route.destination) not in kept)
    return actions + [DeletePodRoute(route) for route in sorted(stale)]
