"""What `vipmanager doctor` makes of the facts: one Finding each, with what was seen and how to mend it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vipmanager.actions import AssignAddress, SetRoute
from vipmanager.config import Config
from vipmanager.doctor.granted import granted, said
from vipmanager.doctor.model import Facts, Finding, Verdict
from vipmanager.doctor.routes import chosen, duplicates
from vipmanager.model import Observed
from vipmanager.model_node import NO_MANAGE_TAG

SKEW_WARN, SKEW_FAIL = 30.0, 300.0
"""Seconds. A request must reach AWS within five minutes of its signature (IAM User Guide, "Troubleshoot SigV4"); what
EC2 and STS were seen to refuse is fifteen minutes off."""

MEND_CLOCK = "let the node's chrony follow 169.254.169.123; AWS refuses what is signed 5 to 15 minutes off"

STRICT = 1
"""rp_filter: packets are dropped whose source would be answered by another interface (kernel, ip-sysctl)."""

UNKNOWN_ENIS = "neither IMDS nor EC2 told of it"
MEND_UNKNOWN_ENIS = "mend IMDS, the credentials or the way to EC2 first"


def findings(facts: Facts, config: Config) -> tuple[Finding, ...]:
    """Every check that applies to the mode, in the order in which one would mend things."""
    checks = (
        _capabilities(facts),
        _interfaces(facts),
        _imds(facts),
        _credentials(facts),
        _clock(facts),
        granted(facts),
        _kubernetes(facts),
        _looked(facts),
        _undescribed(facts),
        chosen(facts, config),
        _source_dest_checks(facts, config),
        _room(facts),
        _no_manage(facts),
        _rp_filter(facts, config),
        duplicates(facts),
        _problems(facts),
        _state_dir(facts),
    )
    return tuple(finding for check in checks for finding in check)


def _capabilities(facts: Facts) -> Iterator[Finding]:
    add = (
        "add it to securityContext.capabilities of the container; if it is there, this runtime keeps it for user 0: "
        "runAsUser: 0 and runAsNonRoot: false (docs/image.md)"
    )
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
    """That an interface is no ENI's is said only where its MAC was asked for, and somebody answered."""
    enis, foreign = facts.observed.enis, facts.observed.foreign
    for each in facts.interfaces:
        eni = enis.get(each.mac)
        held = ", ".join(map(str, each.addresses)) or "no address"
        if eni is not None:
            seen = f"{each.mac}, {eni.id} (device index {eni.device_index}): {held}"
            verdict = Verdict.OK if each.up else Verdict.FAIL
            mend = "" if each.up else "it is down; the CNI plugin or the application has to set it up"
            yield Finding(f"interface {each.name}", verdict, seen if each.up else f"{seen}, down", mend)
        elif each.mac in foreign:
            yield Finding(
                f"interface {each.name}",
                Verdict.WARN,
                f"{each.mac or 'no MAC'}: no ENI of this worker has this MAC: {held}",
                "if its addresses shall be delivered, its NetworkAttachmentDefinition must use ipvlan or host-device "
                "on an ENI of the worker (macvlan and bridge have MACs of their own, which a VPC drops)",
            )
        else:
            seen = f"{each.mac or 'no MAC'}: {held}; its ENI is not known: {UNKNOWN_ENIS}"
            yield Finding(f"interface {each.name}", Verdict.WARN, seen, MEND_UNKNOWN_ENIS)
    if any(each.mac in enis for each in facts.interfaces):
        return
    if facts.looked is None or (not facts.interfaces and facts.mode != "nodeport"):
        yield Finding(
            "interfaces",
            Verdict.FAIL,
            "no interface on an ENI of this worker",
            "check the annotation k8s.v1.cni.cncf.io/networks of the pod and the ENIs of the node",
        )
    elif not facts.interfaces:
        yield Finding("interfaces", Verdict.WARN, f"not known which are ENIs: {UNKNOWN_ENIS}", MEND_UNKNOWN_ENIS)


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
        yield Finding("credentials", Verdict.FAIL, said(facts.identity.failure), facts.identity.failure.remedy)


def _clock(facts: Facts) -> Iterator[Finding]:
    if facts.skew is None:
        why = "AWS did not answer" if facts.identity.failure else "AWS's answer does not tell its time"
        yield Finding("clock", Verdict.WARN, f"not known: {why}", f"compare it on the node: {MEND_CLOCK}")
        return
    off = abs(facts.skew)
    verdict = Verdict.FAIL if off >= SKEW_FAIL else Verdict.WARN if off >= SKEW_WARN else Verdict.OK
    direction = "ahead of" if facts.skew > 0 else "behind"
    seen = f"{off:.0f} s {direction} AWS's" if off >= 1 else "with AWS's to the second"
    yield Finding("clock", verdict, seen, "" if verdict is Verdict.OK else MEND_CLOCK)


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
            yield Finding(check, verdict, said(answer.failure), answer.failure.remedy)


def _looked(facts: Facts) -> Iterator[Finding]:
    if facts.looked is not None:
        yield Finding("EC2", Verdict.FAIL, said(facts.looked), facts.looked.remedy)


def _undescribed(facts: Facts) -> Iterator[Finding]:
    """Which checks are missing below, because a describe fails; why it does is said by its own line."""
    failing = {asked.operation for asked in facts.permissions if asked.refused}
    for operation, check, what in (
        ("DescribeRouteTables", "route tables", "which are selected, how full they are and who has which route"),
        ("DescribeNetworkInterfaces", "ENIs", "source/dest checks, free addresses and tags"),
    ):
        if operation in failing:
            yield Finding(check, Verdict.WARN, f"not known: {what}", f"mend {operation} first")


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
        yield Finding("addresses per ENI", Verdict.WARN, f"the instance type's limit is not known: {said(why)}", mend)


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


def _problems(facts: Facts) -> Iterator[Finding]:
    for problem in facts.problems:
        yield Finding(problem.subject, Verdict.FAIL if problem.fatal else Verdict.WARN, problem.text)


def _state_dir(facts: Facts) -> Iterator[Finding]:
    if facts.state_dir:
        mend = "mount an emptyDir there, so that claims outlive a restart of the container and status can be shown"
        yield Finding("StateDir", Verdict.WARN, facts.state_dir, mend)
