"""Init and sidecar: a plan, what was observed and what failed become the state of each address. Pure: no I/O, no clock.

Times are the loop's; whoever writes them down makes Unix times of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from vipmanager.actions import (
    Action,
    AssignAddress,
    AssociateEip,
    DeleteRoute,
    DisableSourceDestCheck,
    Need,
    Plan,
    SetRoute,
    UnassignAddress,
)
from vipmanager.apply import Key, Retry
from vipmanager.model import Address, Claim, Observed, PlacementKind, PodInterface, Problem
from vipmanager.plan.holdings import Holding
from vipmanager.plan.pod import lacking

CLAIMED, PENDING, CONCEDED, WITHDRAWING, REFUSED = "claimed", "pending", "conceded", "withdrawing", "refused"

KERNEL: Key = ("kernel",)
DISCOVERY: Key = ("fact", "discovery")

Standings = Mapping[Address, Mapping[str, Holding]]
Retries = Mapping[Key, Retry]


class Entry(NamedTuple):
    """One floating address. `due`: when it is tried again. `done` of `total` targets (tables, or the ENI) are ours."""

    address: Address
    state: str
    interface: str = ""
    placement: str = ""
    eni_id: str = ""
    destination: str = ""
    why: str = ""
    due: float | None = None
    conceded_to: str = ""
    done: int = 0
    total: int = 0
    keys: frozenset[Key] = frozenset()


class Seen(NamedTuple):
    """What a round came to. `looked`: the kernel was read, and has not been changed since."""

    plan: Plan
    observed: Observed
    retries: Retries
    looked: bool = True


def is_ours(claim: Claim, held: Mapping[str, Holding], observed: Observed) -> bool:
    """Whether every target of a claim is ours; an ENI's primary address always was."""
    state = observed.states.get(claim.eni_id)
    if claim.kind is PlacementKind.ENI_ADDRESS and state is not None and claim.address in state.primary:
        return True
    return bool(held) and all(holding.ours_since(claim.since) for holding in held.values())


def entries(seen: Seen, standing: Standings) -> tuple[Entry, ...]:
    """Every address that is on the pod, or claimed, in the order of addresses."""
    plan, observed = seen.plan, seen.observed
    on = _interfaces(observed)
    keys = _keys(plan)
    found = [
        _claimed(claim, on.get(address), standing.get(address, {}), keys, seen)
        for address, claim in plan.claims.items()
    ]
    found += [_unclaimed(address, each, seen) for address, each in on.items() if address not in plan.claims]
    return tuple(sorted(found, key=lambda entry: (entry.address.version, entry.address)))


def _interfaces(observed: Observed) -> dict[Address, PodInterface]:
    """The interface of each address that counts: up, and perhaps an ENI's."""
    found: dict[Address, PodInterface] = {}
    for interface in sorted(observed.interfaces, key=lambda each: each.index):
        if interface.up and interface.mac not in observed.foreign:
            for address in interface.addresses:
                found.setdefault(address, interface)
    return found


def _keys(plan: Plan) -> dict[object, set[Key]]:
    """The open actions by what they are for: a routed destination with its ENI, an address, an ENI."""
    found: dict[object, set[Key]] = {}
    for action in plan.actions:
        if isinstance(action, SetRoute):
            found.setdefault((str(action.destination), action.eni_id), set()).add(action.key)
        elif isinstance(action, AssignAddress | UnassignAddress | AssociateEip):
            found.setdefault(action.address, set()).add(action.key)
        elif isinstance(action, DisableSourceDestCheck):
            found.setdefault(action.eni_id, set()).add(action.key)
        elif isinstance(action, DeleteRoute):
            found.setdefault(("delete", str(action.destination), action.eni_id), set()).add(action.key)
    return found


def _claimed(
    claim: Claim, on: PodInterface | None, held: Mapping[str, Holding], keys: dict[object, set[Key]], seen: Seen
) -> Entry:
    routed = claim.kind is not PlacementKind.ENI_ADDRESS
    destination = str(claim.destination)
    known: dict[str, Any] = {
        "address": claim.address,
        "interface": on.name if on is not None else "",
        "placement": claim.kind.value,
        "eni_id": claim.eni_id,
        "destination": destination if routed else "",
        "done": sum(holding.ours_since(claim.since) for holding in held.values()),
        "total": len(held),
    }
    if claim.vanished is not None:
        mine = keys.get(("delete", destination, claim.eni_id) if routed else claim.address, set())
        why, due = _failure(mine, seen)
        return Entry(**known, state=WITHDRAWING, why=why or "is no longer on the pod", due=due, keys=frozenset(mine))
    if claim.conceded_to:
        why = "another live ENI has taken it over"
        return Entry(**known, state=CONCEDED, why=why, conceded_to=claim.conceded_to)
    refused = _refusal(claim.address, routed, seen)
    if refused:
        return Entry(**known, state=REFUSED, why=refused)
    mine = set(keys.get(claim.address, ()))
    if routed:
        mine = keys.get((destination, claim.eni_id), set()) | keys.get(claim.eni_id, set())
    if is_ours(claim, held, seen.observed) and not mine:
        return Entry(**{**known, "done": len(held)}, state=CLAIMED)
    why, due = _failure(mine or _facts(routed, seen), seen)
    return Entry(**known, state=PENDING, why=why or _waits(mine, routed, seen), due=due, keys=frozenset(mine))


def _unclaimed(address: Address, on: PodInterface, seen: Seen) -> Entry:
    """An address whose placement is not known, or that has none."""
    eni = seen.observed.enis.get(on.mac)
    eni_id = eni.id if eni is not None else ""
    for problem in seen.plan.problems:
        if problem.subject == f"{address} on {on.name}":
            return Entry(address, REFUSED, on.name, eni_id=eni_id, why=problem.text)
    if eni is None:
        why, due = _failure({DISCOVERY}, seen)
        return Entry(address, PENDING, on.name, why=why or f"the ENI behind {on.name} is not known yet", due=due)
    why, due = _failure({_fact(Need.SUBNETS)}, seen)
    return Entry(address, PENDING, on.name, eni_id=eni_id, why=why or f"reading {Need.SUBNETS.value}", due=due)


def _refusal(address: Address, routed: bool, seen: Seen) -> str:
    """Why a claim is not pursued: its destination goes to another ENI, or there is no table."""
    no_table = routed and seen.observed.tables == ()
    for problem in seen.plan.problems:
        if problem.subject == str(address) or (no_table and problem.subject.startswith("VPCRTTag=")):
            return problem.text
    return ""


def _fact(need: Need) -> Key:
    return ("fact", need.name)


def _facts(routed: bool, seen: Seen) -> set[Key]:
    """What a claim without open actions waits to know."""
    wanted = (Need.TABLES, Need.STATES) if routed else (Need.STATES, Need.HOLDERS, Need.EIPS)
    return {_fact(need) for need in wanted if need in seen.plan.needs}


def _waits(mine: set[Key], routed: bool, seen: Seen) -> str:
    facts = {need.value for need in seen.plan.needs if _fact(need) in _facts(routed, seen)}
    return "under way" if mine or not facts else f"reading {', '.join(sorted(facts))}"


def _failure(keys: set[Key], seen: Seen) -> tuple[str, float | None]:
    """The gravest failure among some items, and when the first of them is tried again."""
    failed = [seen.retries[key] for key in sorted(keys) if key in seen.retries]
    if not failed:
        return "", None
    gravest = max(failed, key=lambda retry: (retry.standing, retry.attempts))
    return gravest.failure.brief, min(retry.due for retry in failed)


def is_withdrawal(action: Action, plan: Plan) -> bool:
    """Whether an action only takes back what a vanished address left."""
    if isinstance(action, UnassignAddress):
        claim = plan.claims.get(action.address)
        return claim is None or claim.vanished is not None
    return isinstance(action, DeleteRoute)


MOST_REASONS = 20
"""Reasons why a pod is not ready that are given; who has a hundred addresses is told of the first."""


def not_ready(seen: Seen, found: tuple[Entry, ...]) -> str:
    """Why not everything desired is in place, a reason a line; empty when it is.

    A standby, whose interfaces have no addresses, lacks nothing. Nor does a pod whose address was taken over: it has
    given it up, and its own probes must not restart what is to claim it back when nobody has it any more.
    """
    if not seen.looked:
        return _failure({KERNEL}, seen)[0] or "the pod's network is being read"
    reasons = list(dict.fromkeys(_reasons(seen, found)))
    more = len(reasons) - MOST_REASONS
    return "\n".join([*reasons[:MOST_REASONS], *([f"and {more} more"] if more > 0 else [])])


def _reasons(seen: Seen, found: tuple[Entry, ...]) -> Iterator[str]:
    plan, observed = seen.plan, seen.observed
    if observed.pending:
        names = ", ".join(sorted(each.name for each in observed.interfaces if each.mac in observed.pending))
        why = _failure({DISCOVERY}, seen)[0]
        yield f"the ENI behind {names} is not known yet" + (f": {why}" if why else "")
    if why := lacking(observed):
        yield why
    yield from (str(problem) for problem in plan.problems if problem.fatal)
    yield from (f"{entry.address} is pending: {entry.why}" for entry in found if entry.state == PENDING)
    told = {key for entry in found if entry.state == PENDING for key in entry.keys}
    for action in plan.actions:
        if action.key not in told and not is_withdrawal(action, plan):
            yield f"{action}: {_failure({action.key}, seen)[0] or 'under way'}"
    if Need.EIPS in plan.needs:
        yield f"reading {Need.EIPS.value}"


def under_way(seen: Seen, found: tuple[Entry, ...]) -> bool:
    """Whether anything is left to do but to wait for addresses that have left."""
    open_actions = any(not is_withdrawal(action, seen.plan) for action in seen.plan.actions)
    return open_actions or bool(seen.observed.pending) or any(entry.state == PENDING for entry in found)


def tally(found: tuple[Entry, ...]) -> dict[tuple[str, ...], float]:
    """How many addresses there are by state and placement."""
    return dict(Counter((entry.state, entry.placement or "none") for entry in found))


def problem_tally(problems: tuple[Problem, ...]) -> dict[tuple[str, ...], float]:
    """How many problems are fatal and how many are not."""
    fatal = sum(problem.fatal for problem in problems)
    return {("true",): fatal, ("false",): len(problems) - fatal}


def document(
    seen: Seen, found: tuple[Entry, ...], unix: Callable[[float], float], since: Mapping[str, float]
) -> dict[str, Any]:
    """The status as it is written; `since` has the Unix time of each address' last transition."""
    shown = {key for entry in found for key in entry.keys}
    texts = {action.key: str(action) for action in seen.plan.actions}
    return {
        "addresses": [_item(entry, unix, since[str(entry.address)]) for entry in found],
        "failing": [
            {
                "item": texts.get(key, " ".join(key)),
                "why": retry.failure.brief,
                "attempts": retry.attempts,
                "next_retry": unix(retry.due),
            }
            for key, retry in sorted(seen.retries.items())
            if key not in shown
        ],
        "ignored": _ignored(seen.observed),
        "problems": sorted(map(str, seen.plan.problems)),
    }


def _item(entry: Entry, unix: Callable[[float], float], since: float) -> dict[str, Any]:
    routed = bool(entry.destination)
    return {
        "name": str(entry.address),
        "interface": entry.interface,
        "placement": entry.placement,
        "eni": entry.eni_id,
        "destination": entry.destination,
        "state": entry.state,
        "why": entry.why,
        "next_retry": None if entry.due is None else unix(entry.due),
        "conceded_to": entry.conceded_to,
        "since": since,
        "tables": {"done": entry.done, "total": entry.total} if routed else None,
    }


def _ignored(observed: Observed) -> list[str]:
    """Addresses that are on the pod and that nobody has asked to be delivered."""
    lines = []
    for interface in observed.interfaces:
        addresses = ", ".join(map(str, interface.addresses))
        if addresses and interface.mac in observed.foreign:
            lines.append(
                f"{addresses} on {interface.name}: no ENI of this worker has its MAC {interface.mac or 'none'}"
            )
        elif addresses and not interface.up:
            lines.append(f"{addresses} on {interface.name}: the interface is down")
    return lines
