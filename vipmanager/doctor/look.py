"""`vipmanager doctor`: looks at everything that the mode needs, as far as possible at once, and says how to mend it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, ip_network
from time import monotonic
from typing import Any

from vipmanager.actions import AssociateEip, DeleteRoute, DisableSourceDestCheck, Plan, SetRoute
from vipmanager.actions_node import AttachEni, CloudAction, CreateEni, CreateSubnet, DeleteEni, DeleteSubnet, DetachEni
from vipmanager.clients import pod_facts
from vipmanager.clients.ec2_facts import FactsClient
from vipmanager.clients.ec2_operations import PERMISSION_ONLY
from vipmanager.config import Config
from vipmanager.doctor.checks import Answer, Facts, Finding, Instance, Verdict, findings, worst
from vipmanager.errors import CallError, Failure
from vipmanager.iam import operations
from vipmanager.model import Claims, Eni, EniDescription, Observed, PodInterface, PodNetwork, RouteTable
from vipmanager.model_node import Lease
from vipmanager.observe import View, discover
from vipmanager.plan import make_plan
from vipmanager.plan.placement import host_network
from vipmanager.ports import HostPort
from vipmanager.preview.pod import Sources, answer_needs

OK, FAILED = 0, 1
TEST_ADDRESS = IPv4Address("192.0.2.1")
"""For documentation (RFC 5737): nothing is routed or bound, DryRun asks whether it might be."""
TEST_CIDR = ip_network("192.0.2.0/28")

Probe = Callable[[], Failure | None]


@dataclass(frozen=True)
class NodeChecks:
    """What is asked only of a node; each returns what was seen, or raises CallError."""

    lease: Callable[[], str]
    health: Callable[[str], str] | None
    marks: Callable[[], str]


@dataclass(frozen=True)
class Outside:
    """The ports; `ec2` is the same client as the sources'. `node` in the mode nodeport only."""

    sources: Sources
    ec2: FactsClient
    claims: Claims
    node: NodeChecks | None = None


def run(config: Config, mode: str, outside: Outside, *, as_json: bool) -> int:
    """Look, print the findings, and return the exit code: 1 where one fails."""
    found = findings(look(config, mode, outside), config)
    sys.stdout.write((_json(mode, found) if as_json else _text(mode, found)) + "\n")
    return FAILED if worst(found) is Verdict.FAIL else OK


def look(config: Config, mode: str, outside: Outside) -> Facts:
    """Every fact; what cannot be had is told by its failure."""
    asker, ec2 = outside.sources.asker, outside.ec2
    facts = Facts(mode, pod_facts.capabilities(), state_dir=pod_facts.why_unwritable(config.state_dir))
    view = View(config.route_tables)
    view.at = asker.clock()
    try:
        view.look(outside.sources.netlink)
    except CallError as error:
        return replace(facts, looked=error.failure)
    facts = replace(facts, interfaces=view.interfaces, rp_filter=pod_facts.rp_filter(i.name for i in view.interfaces))
    macs = sorted({interface.mac for interface in view.interfaces})
    first: list[Any] = asker.each([partial(_timed, outside.sources.imds.enis), ec2.identity])
    facts = replace(facts, imds=_answer(first[0]), identity=_identity(first[1]), skew=getattr(first[1], "skew", None))
    try:
        known = {} if isinstance(first[0], Failure) else first[0][0]
        found = known if set(macs) & set(known) else discover(macs, outside.sources.imds, ec2)
        view.learn_enis(found, macs)
        unanswered = answer_needs(config, outside.sources, view, outside.claims) if mode != "nodeport" else []
    except CallError as error:
        return replace(facts, looked=error.failure, observed=view.observed())
    plan = make_plan(view.observed(), outside.claims, config) if mode != "nodeport" else Plan()
    facts = replace(facts, problems=(*plan.problems, *unanswered), actions=plan.actions)
    return _details(_mine(facts, view), config, outside, view)


def _mine(facts: Facts, view: View) -> Facts:
    """The node's host network has interfaces that are no ENI's and none of its business."""
    if facts.mode != "nodeport":
        return facts
    return replace(facts, interfaces=tuple(each for each in facts.interfaces if each.mac in view.enis))


def _details(facts: Facts, config: Config, outside: Outside, view: View) -> Facts:
    """What is asked once the ENIs are known: descriptions, tables, permissions, the worker."""
    macs = {interface.mac for interface in facts.interfaces}
    enis = [eni for mac, eni in view.enis.items() if mac in macs]
    if not enis:
        return replace(facts, observed=view.observed())
    asker, ec2 = outside.sources.asker, outside.ec2
    both: list[Any] = asker.each(
        [partial(ec2.enis, [eni.id for eni in enis]), partial(ec2.route_tables, enis[0].vpc_id)]
    )
    described: tuple[EniDescription, ...] = () if isinstance(both[0], Failure) else both[0]
    tables: tuple[RouteTable, ...] = () if isinstance(both[1], Failure) else both[1]
    failed = next((each for each in both if isinstance(each, Failure)), None)
    if not isinstance(both[1], Failure):
        view.learn_tables(tables)
    probes = _probes(config, facts.mode, outside, enis[0], described, [table for table in tables if not table.edge])
    instance_id = next((eni.attachment.instance_id for eni in described if eni.attachment), "")
    names = sorted(probes)
    answers: list[Any] = asker.each([*(probes[name] for name in names), partial(_instance, ec2, instance_id)])
    observed = view.observed()
    facts = replace(
        facts,
        observed=observed,
        looked=failed,
        enis=described,
        tables=sum(not table.edge for table in tables),
        permissions=dict(zip(names, answers, strict=False)),
        unasked=tuple(name for name in operations(config, facts.mode) if name not in {*names, *PERMISSION_ONLY}),
        instance=answers[-1],
    )
    return _node(facts, config, outside, observed, enis)


def _node(facts: Facts, config: Config, outside: Outside, observed: Observed, enis: Sequence[Eni]) -> Facts:
    node = outside.node
    if node is None:
        return facts
    primary = {eni.mac for eni in enis if eni.device_index == 0}
    addresses = [a for i in facts.interfaces if i.mac in primary for a in i.addresses if a.version == 4]
    host = str(next((a for a in addresses if a not in config.floating.addresses), ""))
    calls: list[Callable[[], str]] = [node.lease, node.marks, *([partial(node.health, host)] if node.health else [])]
    answers = [_answer(each) for each in outside.sources.asker.each(calls)]
    return replace(facts, lease=answers[0], marks=answers[1], health=answers[2] if node.health else None)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = monotonic()
    return call(), monotonic() - began


def _answer(value: Any) -> Answer:
    if isinstance(value, Failure):
        return Answer(failure=value)
    return Answer(value) if isinstance(value, str) else Answer(took=value[1])


def _identity(value: Any) -> Answer:
    return Answer(failure=value) if isinstance(value, Failure) else Answer(value.arn)


def _instance(ec2: FactsClient, instance_id: str) -> Instance:
    """The worker; that the role may not ask is told by the check that wants it."""
    if not instance_id:
        return Instance()
    try:
        worker = ec2.worker(instance_id)
    except CallError as error:
        return Instance(instance_id, failures=(error.failure,))
    try:
        ipv4, ipv6 = ec2.addresses_per_eni(worker.type) if worker.type else (None, None)
    except CallError as error:
        return Instance(instance_id, worker.type, worker.hop_limit, failures=(error.failure,))
    return Instance(instance_id, worker.type, worker.hop_limit, ipv4, ipv6)


# permissions


def _probes(
    config: Config,
    mode: str,
    outside: Outside,
    eni: Eni,
    described: Sequence[EniDescription],
    tables: Sequence[RouteTable],
) -> Mapping[str, Probe]:
    """A question for each operation that the settings can ever call; describes are simply made."""
    ec2 = outside.ec2
    own = next((each for each in described if each.id == eni.id), None)
    dry = _dry_runs(config, eni, own, tables)
    real: Mapping[str, Callable[[], object]] = {
        "DescribeRouteTables": lambda: ec2.route_tables(eni.vpc_id),
        "DescribeNetworkInterfaces": lambda: ec2.enis([eni.id]),
        "DescribeSubnets": lambda: ec2.subnets(eni.vpc_id),
        "DescribeAddresses": lambda: ec2.elastic_ips(_eips(config)),
        "DescribeVpcs": lambda: ec2.vpc_cidrs(eni.vpc_id),
        "DescribeInstances": lambda: ec2.instance_state(own.attachment.instance_id if own and own.attachment else ""),
        "AssignPrivateIpAddresses": lambda: ec2.may_assign(eni, 4, release=False),
        "AssignIpv6Addresses": lambda: ec2.may_assign(eni, 6, release=False),
        "UnassignPrivateIpAddresses": lambda: ec2.may_assign(eni, 4, release=True),
        "UnassignIpv6Addresses": lambda: ec2.may_assign(eni, 6, release=True),
    }
    probes: dict[str, Probe] = {}
    for name in operations(config, mode):
        if name in dry:
            probes[name] = partial(outside.sources.permissions.check, dry[name])
        elif name in real:
            probes[name] = partial(_tried, real[name])
    return probes


def _tried(call: Callable[[], object]) -> Failure | None:
    """A CallError goes to the asker, which knows what is worth a second attempt."""
    call()
    return None


def _eips(config: Config) -> list[str]:
    bound = [eip for by_address in config.eips.values() for eip in by_address.values()]
    return sorted({*bound, *config.floating.eips})


def _dry_runs(
    config: Config, eni: Eni, own: EniDescription | None, tables: Sequence[RouteTable]
) -> Mapping[str, CloudAction]:
    """A change for each operation that takes DryRun, on what is there."""
    actions: dict[str, CloudAction] = {"ModifyNetworkInterfaceAttribute": DisableSourceDestCheck(eni.id)}
    chosen = [table for table in tables if config.route_tables.matches(table.tags)]
    if chosen:
        table, to = chosen[0].id, host_network(TEST_ADDRESS)
        actions["CreateRoute"] = SetRoute(table, to, eni.id, "", TEST_ADDRESS)
        actions["ReplaceRoute"] = SetRoute(table, to, eni.id, eni.id, TEST_ADDRESS)
        actions["DeleteRoute"] = DeleteRoute(table, to, eni.id, TEST_ADDRESS)
    if _eips(config):
        address = next((each for each in (own.primary if own else ()) if each.version == 4), TEST_ADDRESS)
        actions["AssociateAddress"] = AssociateEip(_eips(config)[0], eni.id, IPv4Address(address))
    if own is not None and own.attachment is not None:
        instance, floating = own.attachment.instance_id, str(config.floating)
        actions["CreateNetworkInterface"] = CreateEni(eni.subnet_id, (), own.groups, floating)
        actions["AttachNetworkInterface"] = AttachEni(eni.id, instance, 1)
        actions["DetachNetworkInterface"] = DetachEni(eni.id, own.attachment.id, instance, False)
        actions["DeleteNetworkInterface"] = DeleteEni(eni.id)
        actions["CreateSubnet"] = CreateSubnet(eni.vpc_id, config.floating_subnet or TEST_CIDR, own.zone, floating)
        actions["DeleteSubnet"] = DeleteSubnet(eni.subnet_id, config.floating_subnet or TEST_CIDR)
    return actions


# print


def _text(mode: str, found: Sequence[Finding]) -> str:
    width = max((len(finding.check) for finding in found), default=0)
    lines = []
    for finding in found:
        lines.append(f"{finding.verdict.value:<5}{finding.check:<{width}}  {finding.seen}")
        if finding.mend and finding.mend not in finding.seen:
            lines.append(f"{'':<5}{'':<{width}}  → {finding.mend}")
    counts = {verdict: sum(finding.verdict is verdict for finding in found) for verdict in Verdict}
    verdict = ", ".join(f"{number} {verdict.value}" for verdict, number in counts.items())
    return "\n".join([*lines, f"{mode}: {verdict}"])


def _json(mode: str, found: Sequence[Finding]) -> str:
    findings_ = [
        {"check": each.check, "verdict": each.verdict.value, "seen": each.seen, "mend": each.mend} for each in found
    ]
    return json.dumps({"mode": mode, "verdict": worst(found).value, "findings": findings_}, indent=2)


class NodeReads:
    """A node's interfaces, told as a pod's are."""

    def __init__(self, host: HostPort) -> None:
        self._host = host

    def interfaces(self) -> tuple[PodInterface, ...]:
        """Those that are not made on top of another."""
        found = self._host.host_interfaces()
        return tuple(PodInterface(i.index, i.name, i.mac, i.up, i.addresses) for i in found if i.physical and i.mac)

    def pod_network(self) -> PodNetwork:
        """See RoutesPort."""
        return self._host.pod_network()


def lease_text(lease: Lease | None, name: str) -> str:
    """Who has the lease."""
    if lease is None:
        return f"{name}: not there yet; the first holder makes it"
    return f"{name}: held by {lease.holder or 'nobody'}"
