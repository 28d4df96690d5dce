"""`vipmanager doctor`: looks at everything that the mode needs, as far as possible at once, and says how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

from vipmanager.actions import Need, Plan
from vipmanager.clients import pod_facts
from vipmanager.config import Config
from vipmanager.doctor import node
from vipmanager.doctor.checks import findings
from vipmanager.doctor.model import Answer, Facts, Instance, Verdict
from vipmanager.doctor.permissions import ask
from vipmanager.doctor.questions import Ground
from vipmanager.doctor.text import as_json as json_of
from vipmanager.doctor.text import as_text, worst
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.iam import operations
from vipmanager.model import Claims, Eni
from vipmanager.model_node import FLOATING_TAG
from vipmanager.observe import View, discover
from vipmanager.plan import make_plan
from vipmanager.ports import FactsPort, Identity
from vipmanager.preview.pod import Sources, answer_needs

OK, FAILED = 0, 1


@dataclass(frozen=True)
class Outside:
    """The ports; `ec2` is the same client as the sources'. `node` in the mode nodeport only."""

    sources: Sources
    ec2: FactsPort
    claims: Claims
    node: node.NodeOutside | None = None


def run(config: Config, mode: str, outside: Outside, *, as_json: bool) -> int:
    """Look, print the findings, and return the exit code: 1 where one fails."""
    found = findings(look(config, mode, outside), config)
    sys.stdout.write((json_of(mode, found) if as_json else as_text(mode, found)) + "\n")
    return FAILED if worst(found) is Verdict.FAIL else OK


def look(config: Config, mode: str, outside: Outside) -> Facts:
    """Every fact; what cannot be had is told by its failure, and keeps nothing else from being looked at."""
    asker = outside.sources.asker
    facts = Facts(mode, pod_facts.capabilities(), state_dir=pod_facts.why_unwritable(config.state_dir))
    view = View(config.route_tables)
    view.at = asker.clock()
    try:
        view.look(outside.sources.netlink)
    except CallError as error:
        return replace(facts, looked=error.failure)
    facts = replace(facts, interfaces=view.interfaces, rp_filter=pod_facts.rp_filter(i.name for i in view.interfaces))
    first: list[Callable[[], Any]] = [partial(_timed, outside.sources.imds.enis), outside.ec2.identity]
    imds, identity = asker.each(first)
    facts = _who(replace(facts, imds=_answer(imds)), identity)
    macs = sorted({interface.mac for interface in view.interfaces})
    try:
        view.learn_enis(discover(macs, _Told(imds), outside.ec2), macs)
    except CallError as error:
        facts = replace(facts, looked=error.failure)
    if mode == "nodeport":  # a node has interfaces that are no ENI's and none of its business
        facts = replace(facts, interfaces=tuple(each for each in facts.interfaces if each.mac in view.enis))
    present = {interface.mac for interface in facts.interfaces}
    enis = [eni for mac, eni in view.enis.items() if mac in present]
    facts = _ec2(facts, config, outside, view, enis) if enis else replace(facts, observed=view.observed())
    return _node(facts, config, outside, enis)


class _Told:
    """IMDS, which has been asked already."""

    def __init__(self, answer: tuple[Mapping[str, Eni], float] | Failure) -> None:
        self._answer = answer

    def region(self) -> str:
        raise NotImplementedError

    def enis(self) -> Mapping[str, Eni]:
        if isinstance(self._answer, Failure):
            raise CallError(self._answer)
        return self._answer[0]


# EC2


def _ec2(facts: Facts, config: Config, outside: Outside, view: View, enis: Sequence[Eni]) -> Facts:
    """What is asked once the ENIs are known: descriptions, tables, permissions, the worker."""
    reads = _read(facts.mode, config, outside, view, enis)
    failures = [each for each in reads.values() if isinstance(each, Failure)]
    others = [each for each in failures if each.kind is not ErrorKind.DENIED or each.of_credentials]
    if len(others) == len(reads):  # EC2 answers nothing: to go on would be to wait in vain
        return replace(facts, looked=others[0], observed=view.observed())
    described, tables = _or_none(reads, "DescribeNetworkInterfaces"), _or_none(reads, "DescribeRouteTables")
    facts = _decide(facts, config, outside, view)
    observed = view.observed()
    ground = Ground(
        config,
        facts.mode,
        enis,
        described,
        observed.tables,
        _or_none(reads, "DescribeSubnets"),
        _or_none(reads, FLOATING_TAG) if FLOATING_TAG in reads else (),
    )
    told = {name: each if isinstance(each, Failure) else None for name, each in reads.items() if name != FLOATING_TAG}
    instance = partial(_instance, outside.ec2, ground.instance)
    sources = outside.sources
    permissions, (worker,) = ask(ground, told, outside.ec2, sources.permissions, sources.asker, instance)
    return replace(
        facts,
        observed=observed,
        looked=others[0] if others else None,
        enis=described or (),
        tables=sum(not table.edge for table in tables or ()),
        permissions=permissions,
        instance=worker,
    )


def _read(mode: str, config: Config, outside: Outside, view: View, enis: Sequence[Eni]) -> Mapping[str, Any]:
    """The answer or the failure of each describe that the mode makes; and of the floating ENIs, by their tag."""
    ec2, asker = outside.ec2, outside.sources.asker
    ids, vpc_id, now = [eni.id for eni in enis], enis[0].vpc_id, asker.clock()
    bound = [eip for by_address in config.eips.values() for eip in by_address.values()]
    eips = sorted({*bound, *config.floating.eips})
    calls: dict[str, Callable[[], Any]] = {
        "DescribeNetworkInterfaces": lambda: ec2.enis(ids),
        "DescribeRouteTables": lambda: ec2.route_tables(vpc_id),
        "DescribeSubnets": lambda: ec2.subnets(vpc_id),
        "DescribeAddresses": lambda: ec2.elastic_ips(eips),
        "DescribeVpcs": lambda: ec2.vpc_cidrs(vpc_id),
    }
    known = operations(config, mode)
    calls = {name: call for name, call in calls.items() if name in known}
    if mode == "nodeport" and config.floating_mode.moves_eni:
        calls[FLOATING_TAG] = lambda: ec2.enis_tagged(vpc_id, FLOATING_TAG, str(config.floating))
    reads: dict[str, Any] = dict(zip(calls, asker.each(list(calls.values())), strict=True))
    learn: Mapping[str, Callable[[Any], None]] = {
        "DescribeNetworkInterfaces": lambda found: view.learn_states(found, ids, now),
        "DescribeRouteTables": view.learn_tables,
        "DescribeSubnets": lambda found: setattr(view, "subnets", found),
        "DescribeAddresses": lambda found: view.learn_eips(found, eips, now),
    }
    for name, answer in reads.items():
        if name in learn and not isinstance(answer, Failure):
            learn[name](answer)
    return reads


def _or_none(reads: Mapping[str, Any], name: str) -> Any:
    answer = reads.get(name)
    return None if isinstance(answer, Failure) else answer


def _decide(facts: Facts, config: Config, outside: Outside, view: View) -> Facts:
    """What a run in a pod would make of it."""
    if facts.mode == "nodeport":
        return facts
    without: set[Need] = set()
    unanswered = answer_needs(config, outside.sources, view, outside.claims, without=without)
    plan: Plan = make_plan(view.observed(), outside.claims, config)
    return replace(facts, problems=(*plan.problems, *unanswered), actions=plan.actions, claims=plan.claims)


def _instance(ec2: FactsPort, instance_id: str) -> Instance:
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


# the rest


def _node(facts: Facts, config: Config, outside: Outside, enis: Sequence[Eni]) -> Facts:
    there = outside.node
    if there is None:
        return facts
    primary = {eni.mac for eni in enis if eni.device_index == 0}
    addresses = [a for i in facts.interfaces if i.mac in primary for a in i.addresses if a.version == 4]
    host = str(next((a for a in addresses if a not in config.floating.addresses), ""))
    calls: list[Callable[[], str]] = [partial(node.lease, there), partial(node.marks, there)]
    if config.health_check is not None and (host or config.health_check.host):
        calls.append(partial(node.health, there, config, host))
    answers = [_answer(each) for each in outside.sources.asker.each(calls)]
    return replace(facts, lease=answers[0], marks=answers[1], health=answers[2] if len(answers) > 2 else None)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = monotonic()
    return call(), monotonic() - began


def _answer(value: Any) -> Answer:
    if isinstance(value, Failure):
        return Answer(failure=value)
    return Answer(value) if isinstance(value, str) else Answer(took=value[1])


def _who(facts: Facts, told: Identity | Failure) -> Facts:
    if isinstance(told, Failure):
        return replace(facts, identity=Answer(failure=told))
    return replace(facts, identity=Answer(told.arn, told.failure), skew=told.skew)
