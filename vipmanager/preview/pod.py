"""`vipmanager plan` for pods: looks at both sides as a run does, decides as it does, and does nothing.

What a run would do in several rounds, such as binding an Elastic IP once its address has arrived, is foreseen by
taking each round's changes as done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from vipmanager.actions import Change, DisableSourceDestCheck, Need, Plan, PodAction, SetRoute, VpcAction
from vipmanager.arguments import UsageError
from vipmanager.asking import Asker
from vipmanager.config import Config
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.facts import Question, eni_ids, question
from vipmanager.model import (
    Address,
    Claim,
    Claims,
    ElasticIp,
    Network,
    Observed,
    PlacementKind,
    PodInterface,
    PodNetwork,
    Problem,
)
from vipmanager.observe import PodReads, View, discover, enis_described
from vipmanager.parsers import parse_address
from vipmanager.plan import make_plan
from vipmanager.plan.claims import holdings
from vipmanager.ports import DiscoveryPort, Ec2Port, PermissionPort
from vipmanager.preview.permissions import with_permissions
from vipmanager.preview.steps import (
    Present,
    Preview,
    Shown,
    Step,
    address_in_place,
    describe,
    eip_in_place,
    route_in_place,
)

LOOKS = 6
"""How often facts are asked for at most: each answer may raise a question, but a world that goes on raising them
contradicts itself."""

ACCEPTED = "eni-…=ADDRESS[,ADDRESS…]"

ORDER = ("address", "check", "route", "eip")


@dataclass(frozen=True)
class Sources:
    """What a preview is made of."""

    netlink: PodReads
    imds: DiscoveryPort
    ec2: Ec2Port
    permissions: PermissionPort
    asker: Asker


class Supposed(NamedTuple):
    """An interface that a pod is supposed to have."""

    eni_id: str
    addresses: tuple[Address, ...]


def parse_on(texts: Iterable[str]) -> tuple[Supposed, ...]:
    """`eni-…=ADDRESS[,ADDRESS…]`, once for each interface. Raises UsageError."""
    supposed = []
    for text in texts:
        eni_id, _, listed = text.partition("=")
        try:
            addresses = tuple(dict.fromkeys(parse_address(each.strip(), ACCEPTED) for each in listed.split(",")))
        except ValueError as error:
            raise UsageError(f"--on {text}: {error}") from error
        if not eni_id.startswith("eni-"):
            raise UsageError(f"--on {text}: {eni_id!r} is no network interface; accepted: {ACCEPTED}")
        supposed.append(Supposed(eni_id, addresses))
    return tuple(supposed)


class _SupposedPod:
    """A pod's network namespace that is not there: these interfaces, and no routes or rules."""

    def __init__(self, interfaces: Sequence[PodInterface]) -> None:
        self._interfaces = tuple(interfaces)

    def interfaces(self) -> tuple[PodInterface, ...]:
        return self._interfaces

    def pod_network(self) -> PodNetwork:
        return PodNetwork()


def preview_pod(config: Config, mode: str, sources: Sources, claims: Claims) -> Preview:
    """What this pod's vipmanager would do now; `claims` are those that it has. Raises CallError."""
    view = View(config.route_tables)
    view.at = sources.asker.clock()
    view.look(sources.netlink)
    macs = sorted({interface.mac for interface in view.interfaces})
    if not macs and not claims:
        return Preview(mode, problems=(_nothing_to_deliver(view.observed()),))
    (found,) = sources.asker.all([lambda: discover(macs, sources.imds, sources.ec2)])
    view.learn_enis(found, macs)
    return _preview(config, mode, sources, view, claims)


def preview_on(config: Config, mode: str, sources: Sources, supposed: Sequence[Supposed]) -> Preview:
    """What a pod with these interfaces would have done; needs neither pod nor IMDS. Raises CallError."""
    view = View(config.route_tables)
    now = view.at = sources.asker.clock()
    ids = sorted({each.eni_id for each in supposed})
    ec2, asker = sources.ec2, sources.asker
    (found,) = asker.all([lambda: ec2.enis(ids)])
    missing = set(ids) - {eni.id for eni in found}
    if missing:
        text = f"there is no network interface {', '.join(sorted(missing))} in this account and region"
        raise _wrong("NotShown", text)
    vpcs = sorted({eni.vpc_id for eni in found})
    if len(vpcs) > 1:
        text = f"the network interfaces of --on are in several VPCs ({', '.join(vpcs)})"
        raise _wrong("SeveralVpcs", text)
    asked: list[Callable[[], Any]] = [partial(ec2.subnets, vpcs[0]), partial(ec2.route_tables, vpcs[0])]
    subnets, tables = asker.all(asked)
    macs = {eni.id: eni.mac for eni in found}
    names = (
        ["the interface"] if len(supposed) == 1 else [f"interface {number}" for number in range(1, len(supposed) + 1)]
    )
    interfaces = [
        PodInterface(number, name, macs[each.eni_id], True, each.addresses)
        for number, (name, each) in enumerate(zip(names, supposed, strict=True), 1)
    ]
    view.look(_SupposedPod(interfaces))
    view.learn_enis(enis_described(found, subnets, tables), list(macs.values()))
    view.learn_tables(tables)
    view.learn_states(found, ids, now)
    view.subnets = subnets
    preview = _preview(config, mode, sources, view, {})
    loose = sorted(eni.id for eni in found if not eni.live)
    notes = [f"{eni_id} is attached to no instance: its device index is not known" for eni_id in loose]
    return replace(preview, notes=(*preview.notes, *notes))


def _wrong(code: str, text: str) -> CallError:
    return CallError(Failure(ErrorKind.INVALID, "ec2:DescribeNetworkInterfaces", code, text, "correct --on"))


def _preview(config: Config, mode: str, sources: Sources, view: View, claims: Claims) -> Preview:
    unanswered = answer_needs(config, sources, view, claims)
    observed = view.observed()
    first = make_plan(observed, claims, config)
    changes = _foresee(first, view, config, sources.asker.clock())
    now = Present(
        observed.tables or (),
        observed.holders,
        observed.eips,
        observed.pod,
        {interface.index: interface.name for interface in observed.interfaces},
    )
    problems = [*first.problems, *unanswered, *_immovable(changes, observed)]
    if mode == "init" or not observed.interfaces:
        problems += [] if _has_addresses(observed) else [_nothing_to_deliver(observed)]
    shower = _Shower(first, changes, observed, config, now)
    shown = (*shower.shown(), *_unplaced(first, observed))
    here = [describe(action, now) for action in changes if isinstance(action, PodAction)]
    later = () if first.wake_at is None else (_later(first.wake_at - observed.at),)
    cloud = [action for action in changes if isinstance(action, VpcAction)]
    preview = Preview(
        mode,
        shown,
        tuple(shower.left.values()),
        tuple(here),
        problems=tuple(sorted(problems, key=_by_subject)),
        notes=later,
    )
    return with_permissions(preview, cloud, sources.permissions, sources.asker)


# look


def answer_needs(
    config: Config, sources: Sources, view: View, claims: Claims, *, without: set[Need] | None = None
) -> list[Problem]:
    """Ask for what the plan lacks, all at once, until it lacks nothing; what EC2 does not show is a problem.

    Raises CallError where a question fails; with `without` it joins those that are not asked, and the rest goes on.
    """
    holders: set[Address] = set()
    left_out: set[Need] = set() if without is None else without
    for _ in range(LOOKS):
        plan = make_plan(view.observed(), claims, config)
        held = {address for address, claim in plan.claims.items() if claim.kind is PlacementKind.ENI_ADDRESS}
        if not eni_ids(view, plan.claims):
            return []
        now = sources.asker.clock()
        needs = _sorted(plan.needs - {Need.HOLDERS} - left_out)
        questions = [question(need, view, plan.claims, config, sources.ec2, now) for need in needs]
        wanted = held - holders or Need.HOLDERS in plan.needs  # who has an address is shown though it may not matter
        if wanted and Need.HOLDERS not in left_out:
            holders |= held
            needs.append(Need.HOLDERS)
            questions.append(_holders(view, plan.claims, sorted(held, key=_by_version), sources.ec2, now))
        if not questions:
            return []
        answers = sources.asker.each([ask for ask, _ in questions])
        for need, (_, learn), answer in zip(needs, questions, answers, strict=True):
            if not isinstance(answer, Failure):
                learn(answer)
            elif without is None:
                raise CallError(answer)
            else:
                without.add(need)
    lacking = _sorted(make_plan(view.observed(), claims, config).needs - left_out)
    return [Problem("EC2", f"does not show {need.value} in full; not all changes are known") for need in lacking]


def _sorted(needs: Iterable[Need]) -> list[Need]:
    return sorted(needs, key=lambda need: need.name)


def _holders(view: View, claims: Claims, held: list[Address], ec2: Ec2Port, now: float) -> Question:
    ids = eni_ids(view, claims)
    vpc_id = next(eni.vpc_id for eni in view.enis.values() if eni.id in ids)
    return lambda: ec2.enis_holding(vpc_id, held), lambda found: view.learn_holders(found, held, now)


def _foresee(plan: Plan, view: View, config: Config, now: float) -> list[Change]:
    """Every round's changes, each once, in the order in which they would be made."""
    changes: dict[Change, None] = {}
    while new := [action for action in plan.actions if action not in changes]:
        changes.update(dict.fromkeys(new))
        for action in new:
            view.wrote(action, now)
        plan = make_plan(view.observed(), plan.claims, config)
    return list(changes)


# show


class _Shower:
    """Lays the changes, and what is in place, beside the addresses that they are for; each is shown once."""

    def __init__(self, plan: Plan, changes: Sequence[Change], observed: Observed, config: Config, now: Present) -> None:
        self._plan, self._observed, self._config, self._now = plan, observed, config, now
        self.left = {change: describe(change, now) for change in changes if not isinstance(change, PodAction)}
        self._routed = {change.destination for change in changes if isinstance(change, SetRoute)}
        self._seen: set[tuple[str, Network]] = set()  # routes that were shown as in place
        self._names = {address: each for each in observed.interfaces if each.up for address in each.addresses}
        self._enis = {eni.id: eni for eni in observed.enis.values()}

    def shown(self) -> Iterator[Shown]:
        """Every claim."""
        claims = self._plan.claims
        for address in sorted(claims, key=_by_version):
            claim = claims[address]
            steps = sorted([*self._changes(claim), *self._in_place(claim)], key=_by_kind)
            state, why = self._state(claim, steps)
            eni, interface = self._enis.get(claim.eni_id), self._names.get(address)
            yield Shown(
                str(address),
                state,
                interface.name if interface else "",
                claim.eni_id,
                eni.device_index if eni else None,
                claim.kind.value,
                str(claim.destination),
                claim.conceded_to,
                why,
                tuple(steps),
            )

    def _changes(self, claim: Claim) -> list[Step]:
        """Those for its address; the source/dest check of its ENI is shown with the first routed one."""
        routed = claim.kind is not PlacementKind.ENI_ADDRESS and not claim.conceded_to
        mine = [
            change
            for change in self.left
            if getattr(change, "address", None) == claim.address
            or (isinstance(change, DisableSourceDestCheck) and routed and change.eni_id == claim.eni_id)
        ]
        return [self.left.pop(change) for change in mine]

    def _in_place(self, claim: Claim) -> Iterator[Step]:
        if claim.conceded_to or claim.vanished is not None:
            return
        for target, holding in holdings(claim, self._observed).items():
            key = (target, claim.destination)
            if not holding.ours_since(claim.since) or key in self._seen:
                continue
            if claim.kind is PlacementKind.ENI_ADDRESS:
                yield address_in_place(claim.address, claim.eni_id)
            else:
                self._seen.add(key)
                yield route_in_place(target, claim.destination, claim.eni_id)
        eip = self._eip(claim)
        if eip is not None and (eip.eni_id, eip.address) == (claim.eni_id, claim.address):
            yield eip_in_place(eip)

    def _eip(self, claim: Claim) -> ElasticIp | None:
        eni = self._enis.get(claim.eni_id)
        if eni is None or not isinstance(claim.address, IPv4Address):
            return None
        return self._observed.eips.get(self._config.eips.get(eni.device_index, {}).get(claim.address, ""))

    def _state(self, claim: Claim, steps: Sequence[Step]) -> tuple[str, str]:
        if claim.conceded_to:
            return "conceded", ""
        if claim.vanished is not None:
            return "withdrawing", "it has left the pod"
        if any(step.action is not None for step in steps):
            return "pending", ""
        if claim.kind is not PlacementKind.ENI_ADDRESS and claim.destination in self._routed:
            return "pending", f"delivered with others by {claim.destination}"
        standing = holdings(claim, self._observed).values()
        state = self._observed.states.get(claim.eni_id)
        primary = state is not None and claim.address in state.primary
        if primary or (standing and all(holding.ours_since(claim.since) for holding in standing)):
            return "claimed", ""
        problems = self._plan.problems
        return "refused", next((each.text for each in problems if each.subject == str(claim.address)), "")


def _by_version(address: Address) -> tuple[int, Address]:
    return address.version, address


def _by_subject(problem: Problem) -> tuple[bool, str]:
    return not problem.fatal, str(problem)


def _by_kind(step: Step) -> tuple[int, str]:
    return ORDER.index(step.kind), str(step.facts.get("table", ""))


def _unplaced(plan: Plan, observed: Observed) -> Iterator[Shown]:
    """Addresses of the pod that no claim can be made for, with the reason."""
    why = {problem.subject: problem.text for problem in plan.problems}
    for interface in observed.interfaces:
        eni = observed.enis.get(interface.mac)
        for address in interface.addresses if eni and interface.up else ():
            text = why.get(f"{address} on {interface.name}")
            if eni and text and address not in plan.claims:
                yield Shown(str(address), "refused", interface.name, eni.id, eni.device_index, why=text)


def _immovable(changes: Iterable[Change], observed: Observed) -> Iterator[Problem]:
    """Addresses that EC2 will not move, because they are the primary ones of other ENIs."""
    wanted = {action.key[1]: action for action in changes if action.key[0] == "address"}
    for address, holder in observed.holders.items():
        if holder.primary and str(address) in wanted:
            text = f"is the primary address of {holder.eni_id}, which never leaves it; choose another"
            yield Problem(str(address), text)


def _has_addresses(observed: Observed) -> bool:
    return any(each.up and each.addresses and each.mac in observed.enis for each in observed.interfaces)


def _nothing_to_deliver(observed: Observed) -> Problem:
    seen = [
        f"{each.name} ({each.mac or 'no MAC'}, "
        f"{observed.enis[each.mac].id if each.mac in observed.enis else 'no ENI of this worker'}, "
        f"{'up' if each.up else 'down'}): {', '.join(map(str, each.addresses)) or 'no global address'}"
        for each in observed.interfaces
    ]
    listed = "; ".join(seen) or "no interface besides lo and eth0"
    return Problem("this pod", f"has nothing to deliver (seen: {listed})")


def _later(seconds: float) -> str:
    return f"in {max(seconds, 0):.0f} s a run would decide more (what has left the pod is taken back with a delay)"
