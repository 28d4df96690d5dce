"""What `vipmanager doctor` makes of the facts: one Finding each, with what was seen and how to mend it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from vipmanager.actions import AssignAddress, SetRoute
from vipmanager.config import Config
from vipmanager.errors import Failure
from vipmanager.model import EniDescription, Observed, PodInterface, Problem, RouteTable
from vipmanager.model_node import NO_MANAGE_TAG

ROUTES_PER_TABLE = 500
"""The default of the quota «Routes per route table», per family; it was 50 until June 2025 and can be raised to 1,000
(Amazon VPC User Guide, "Amazon VPC quotas"; Service Quotas L-93826ACB)."""

SKEW_WARN, SKEW_FAIL = 30.0, 300.0
"""Seconds. AWS refuses a request that was signed more than five minutes off (IAM User Guide, "Troubleshoot SigV4")."""

STRICT = 1
"""rp_filter: packets are dropped whose source would be answered by another interface (kernel, ip-sysctl)."""


class Verdict(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One check: what was seen, and how to mend it where it is not ok."""

    check: str
    verdict: Verdict
    seen: str
    mend: str = ""


@dataclass(frozen=True)
class Answer:
    """What a service said: its text, or why there was none; `took` is in seconds."""

    text: str = ""
    failure: Failure | None = None
    took: float = 0.0


@dataclass(frozen=True)
class Instance:
    """The worker. `hop_limit` is IMDS's, `ipv4` and `ipv6` the most addresses that an ENI of its type may have."""

    id: str = ""
    type: str = ""
    hop_limit: int | None = None
    ipv4: int | None = None
    ipv6: int | None = None
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Facts:
    """All that was looked at. What could not be read is empty, and its failure says why."""

    mode: str
    capabilities: frozenset[str] = frozenset()
    interfaces: tuple[PodInterface, ...] = ()
    observed: Observed = field(default_factory=Observed)
    looked: Failure | None = None
    problems: tuple[Problem, ...] = ()
    actions: tuple[object, ...] = ()
    enis: tuple[EniDescription, ...] = ()
    tables: int = 0
    imds: Answer = Answer()
    identity: Answer = Answer()
    skew: float | None = None
    instance: Instance = Instance()
    permissions: Mapping[str, Failure | None] = field(default_factory=dict)
    unasked: tuple[str, ...] = ()
    rp_filter: Mapping[str, int] = field(default_factory=dict)
    state_dir: str = ""
    lease: Answer | None = None
    health: Answer | None = None
    marks: Answer | None = None


def findings(facts: Facts, config: Config) -> tuple[Finding, ...]:
    """Every check that applies to the mode, in the order in which one would mend things."""
    checks = (
        _capabilities(facts),
        _interfaces(facts),
        _imds(facts),
        _credentials(facts),
        _clock(facts),
        _permissions(facts),
        _unasked(facts),
        _kubernetes(facts),
        _looked(facts),
        _route_tables(facts, config),
        _source_dest_checks(facts, config),
        _room(facts),
        _no_manage(facts),
        _rp_filter(facts, config),
        _duplicates(facts),
        _problems(facts),
        _state_dir(facts),
    )
    return tuple(finding for check in checks for finding in check)


def _said(failure: Failure) -> str:
    """What went wrong; how to mend it stands beside it."""
    return f"{failure.call}: {failure.code}: {failure.message}"


def _capabilities(facts: Facts) -> Iterator[Finding]:
    add = "add it to securityContext.capabilities of the container; if it is there, set runAsUser: 0 (docs/image.md)"
    for name, used in (("NET_ADMIN", True), ("NET_RAW", facts.mode == "nodeport")):
        if name in facts.capabilities:
            yield Finding(name, Verdict.OK, "effective")
        elif not used:
            yield Finding(name, Verdict.OK, "not there, and not needed in this mode")
        elif name == "NET_RAW":
            yield Finding(name, Verdict.WARN, "missing: addresses are not announced and not probed", add)
        else:
            yield Finding(name, Verdict.FAIL, "missing: no route, rule or address can be set", add)


def _interfaces(facts: Facts) -> Iterator[Finding]:
    with_eni = 0
    for each in facts.interfaces:
        eni = facts.observed.enis.get(each.mac)
        held = ", ".join(map(str, each.addresses)) or "no address"
        with_eni += eni is not None
        if eni is not None:
            seen = f"{each.mac}, {eni.id} (device index {eni.device_index}): {held}"
            verdict = Verdict.OK if each.up else Verdict.FAIL
            mend = "" if each.up else "it is down; the CNI plugin or the application has to set it up"
            yield Finding(f"interface {each.name}", verdict, seen if each.up else f"{seen}, down", mend)
        elif facts.mode != "nodeport":
            yield Finding(
                f"interface {each.name}",
                Verdict.WARN,
                f"{each.mac or 'no MAC'}: no ENI of this worker has this MAC: {held}",
                "if its addresses shall be delivered, its NetworkAttachmentDefinition must use ipvlan or host-device "
                "on an ENI of the worker (macvlan and bridge have MACs of their own, which a VPC drops)",
            )
    if not with_eni:
        yield Finding(
            "interfaces",
            Verdict.FAIL,
            "no interface on an ENI of this worker",
            "check the annotation k8s.v1.cni.cncf.io/networks of the pod and the ENIs of the node",
        )


def _imds(facts: Facts) -> Iterator[Finding]:
    limit = facts.instance.hop_limit
    told = f", hop limit {limit}" if limit is not None else ""
    if facts.imds.failure is None:
        yield Finding("IMDS", Verdict.OK, f"answered in {facts.imds.took * 1000:.0f} ms{told}")
        return
    why = "the hop limit is 1, and a pod is one hop further" if limit == 1 else "blocked or switched off"
    mend = "raise HttpPutResponseHopLimit to 2, and allow 169.254.169.254 in network policies"
    yield Finding("IMDS", Verdict.WARN, f"{facts.imds.failure.message}{told}: {why}; EC2 is asked instead", mend)


def _credentials(facts: Facts) -> Iterator[Finding]:
    if facts.identity.failure is None:
        yield Finding("credentials", Verdict.OK, facts.identity.text)
    else:
        yield Finding("credentials", Verdict.FAIL, _said(facts.identity.failure), facts.identity.failure.remedy)


def _clock(facts: Facts) -> Iterator[Finding]:
    if facts.skew is None:
        return
    off = abs(facts.skew)
    verdict = Verdict.FAIL if off >= SKEW_FAIL else Verdict.WARN if off >= SKEW_WARN else Verdict.OK
    mend = "" if verdict is Verdict.OK else "let the node's chrony follow 169.254.169.123; at 300 s AWS refuses all"
    direction = "ahead of" if facts.skew > 0 else "behind"
    seen = f"{off:.0f} s {direction} AWS's" if off >= 1 else "with AWS's to the second"
    yield Finding("clock", verdict, seen, mend)


def _permissions(facts: Facts) -> Iterator[Finding]:
    for operation, failure in sorted(facts.permissions.items()):
        name = operation if ":" in operation else f"ec2:{operation}"
        if failure is None:
            yield Finding(f"IAM {name}", Verdict.OK, "allowed")
        else:
            denied = failure.kind.value == "denied"
            yield Finding(f"IAM {name}", Verdict.FAIL if denied else Verdict.WARN, _said(failure), failure.remedy)


def _unasked(facts: Facts) -> Iterator[Finding]:
    if facts.unasked:
        names = ", ".join(facts.unasked)
        yield Finding("IAM", Verdict.OK, f"not asked, because EC2 takes no DryRun for it: {names}")


def _kubernetes(facts: Facts) -> Iterator[Finding]:
    for check, answer, fatal in (
        ("Lease", facts.lease, True),
        ("HealthCheck", facts.health, False),
        ("nftables", facts.marks, False),
    ):
        if answer is None:
            continue
        if answer.failure is None:
            yield Finding(check, Verdict.OK, answer.text)
        else:
            verdict = Verdict.FAIL if fatal else Verdict.WARN
            yield Finding(check, verdict, _said(answer.failure), answer.failure.remedy)


def _looked(facts: Facts) -> Iterator[Finding]:
    if facts.looked is not None:
        yield Finding("EC2", Verdict.FAIL, _said(facts.looked), facts.looked.remedy)


def _route_tables(facts: Facts, config: Config) -> Iterator[Finding]:
    tables = facts.observed.tables
    if tables is None:
        return
    if not tables:
        yield Finding(
            "route tables",
            Verdict.FAIL,
            f"VPCRTTag={config.route_tables} selects none of {facts.tables}",
            "tag the route tables of the subnets that send to the floating addresses, or set VPCRTTag to ALL",
        )
        return
    yield Finding("route tables", Verdict.OK, f"{len(tables)} selected of {facts.tables} by {config.route_tables}")
    for table in tables:
        yield from _quota(table, facts.actions)


def _quota(table: RouteTable, actions: Collection[object]) -> Iterator[Finding]:
    """Said of tables that come near the default quota; what the account's quota is, is not asked for."""
    for version in (4, 6):
        present = sum(each.version == version for each in [*table.routes, *table.local])
        wanted = {
            action.destination
            for action in actions
            if isinstance(action, SetRoute)
            and action.table_id == table.id
            and action.destination.version == version
            and action.destination not in table.routes
        }
        if present + len(wanted) > ROUTES_PER_TABLE * 9 // 10:
            yield Finding(
                f"quota of {table.id}",
                Verdict.WARN,
                f"{present} IPv{version} routes and {len(wanted)} to come; the default quota is {ROUTES_PER_TABLE}",
                "raise «Routes per route table» (Service Quotas, L-93826ACB) in time, or set RouteAggregation",
            )


def _source_dest_checks(facts: Facts, config: Config) -> Iterator[Finding]:
    routed = {a.eni_id for a in facts.actions if isinstance(a, SetRoute)} | _routed_to(facts.observed)
    for eni in facts.enis:
        if eni.id not in routed:
            continue
        if not eni.source_dest_check:
            yield Finding(f"source/dest check of {eni.id}", Verdict.OK, "off")
        elif config.disable_source_dest_check:
            yield Finding(f"source/dest check of {eni.id}", Verdict.OK, "on; vipmanager turns it off")
        else:
            yield Finding(
                f"source/dest check of {eni.id}",
                Verdict.FAIL,
                "on, and SourceDestCheck is Keep: packets for routed addresses are dropped",
                "turn it off on the ENI, or set SourceDestCheck to Disable",
            )


def _routed_to(observed: Observed) -> set[str]:
    return {route.target for table in observed.tables or () for route in table.routes.values()}


def _room(facts: Facts) -> Iterator[Finding]:
    """An ENI's limit counts its primary address and prefixes too (EC2 User Guide, "IP addresses per ENI")."""
    mine = {eni.id for eni in facts.observed.enis.values()}
    for eni in facts.enis:
        for version, limit in ((4, facts.instance.ipv4), (6, facts.instance.ipv6)):
            used = sum(each.version == version for each in [*eni.addresses, *eni.prefixes])
            wanted = sum(
                isinstance(a, AssignAddress) and a.eni_id == eni.id and a.address.version == version
                for a in facts.actions
            )
            if limit is None or eni.id not in mine or not (used or wanted):
                continue
            seen = f"{used} of {limit} used, {wanted} to come"
            if used + wanted > limit:
                mend = "use another ENI, a larger instance type, or addresses outside the subnet, which are routed"
                yield Finding(f"IPv{version} addresses of {eni.id}", Verdict.FAIL, seen, mend)
            else:
                yield Finding(f"IPv{version} addresses of {eni.id}", Verdict.OK, seen)
    if facts.instance.failures and any(isinstance(action, AssignAddress) for action in facts.actions):
        why = facts.instance.failures[0]
        mend = f"{why.remedy} (for doctor alone: vipmanager iam-policy --doctor)" if why.remedy else ""
        yield Finding("addresses per ENI", Verdict.WARN, f"the instance type's limit is not known: {_said(why)}", mend)


def _no_manage(facts: Facts) -> Iterator[Finding]:
    for eni in facts.enis:
        if eni.tags.get(NO_MANAGE_TAG, "").lower() == "true":
            yield Finding(f"no_manage of {eni.id}", Verdict.OK, "tagged")
        elif eni.device_index > 0:
            yield Finding(
                f"no_manage of {eni.id}",
                Verdict.WARN,
                f"no tag {NO_MANAGE_TAG}=true: the VPC CNI may give its addresses to other pods",
                f"tag the ENI {NO_MANAGE_TAG}=true before the node's aws-node pod starts",
            )


def _rp_filter(facts: Facts, config: Config) -> Iterator[Finding]:
    """A pod's reverse path goes by its source rules or its peers' routes; a node's by marks, which do not count."""
    for each in facts.interfaces:
        eni = facts.observed.enis.get(each.mac)
        if facts.rp_filter.get(each.name) != STRICT or eni is None:
            continue
        if facts.mode == "nodeport":
            if eni.device_index > 0:
                yield Finding(
                    f"rp_filter of {each.name}",
                    Verdict.FAIL,
                    "1 (strict): packets for a floating address on it are dropped",
                    f"set net.ipv4.conf.{each.name}.rp_filter and net.ipv4.conf.all.rp_filter to 2 on the node",
                )
        elif config.source_routing is False or (config.source_routing is None and eni.device_index in config.peers):
            yield Finding(
                f"rp_filter of {each.name}",
                Verdict.WARN,
                f"1 (strict): packets from hosts that are not in Intf{eni.device_index}Peers are dropped",
                f"add them to Intf{eni.device_index}Peers, set UseSBR to True, or "
                f"net.ipv4.conf.{each.name}.rp_filter to 2",
            )


def _duplicates(facts: Facts) -> Iterator[Finding]:
    """Who else EC2 shows as the live holder of what is on this pod."""
    mine = {eni.id for eni in facts.observed.enis.values()}
    for address in sorted(facts.observed.appeared, key=lambda each: (each.version, each)):
        takers: dict[str, list[str]] = {}
        for table in facts.observed.tables or ():
            for destination, route in table.routes.items():
                host = destination.num_addresses == 1 and destination.network_address == address
                if host and route.live and route.target not in mine:
                    takers.setdefault(route.target, []).append(table.id)
        holder = facts.observed.holders.get(address)
        if holder is not None and holder.live and holder.eni_id not in mine:
            takers.setdefault(holder.eni_id, [])
        for taker, tables in sorted(takers.items()):
            where = f" in {', '.join(tables)}" if tables else ""
            yield Finding(
                f"claim of {address}",
                Verdict.WARN,
                f"EC2 delivers it to {taker}{where}, and it is on this pod too",
                "if two pods have it, remove it from one of them; the last one that claims it, has it",
            )


def _problems(facts: Facts) -> Iterator[Finding]:
    for problem in facts.problems:
        yield Finding(problem.subject, Verdict.FAIL if problem.fatal else Verdict.WARN, problem.text)


def _state_dir(facts: Facts) -> Iterator[Finding]:
    if facts.state_dir:
        mend = "mount an emptyDir there, so that claims outlive a restart of the container and status can be shown"
        yield Finding("StateDir", Verdict.WARN, facts.state_dir, mend)


def worst(found: Sequence[Finding]) -> Verdict:
    """The worst verdict of all."""
    order = list(Verdict)
    return max((finding.verdict for finding in found), key=order.index, default=Verdict.OK)
