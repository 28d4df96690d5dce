"""Who holds the lease: a state machine without I/O and without a clock. `elector` feeds it and does what it says.

What keeps two nodes from holding at once: every write names the version it was made from, so one of two writers
loses; a holder counts its time from when it *sent* its last renewal, all others count from when they *saw* it, and the
holder stops (RenewDeadline) well before others may begin (LeaseDuration). The times in the record, other nodes' wall
clocks, play no part.
"""

from __future__ import annotations

import math
from dataclasses import replace

from vipmanager.errors import ErrorKind, Failure
from vipmanager.model_node import Lease, Tenure
from vipmanager.plan.election_facts import Acquire, Create, Facts, Read, Release, Renew, Request, Step, Wait

MARGIN = 1.0
"""Seconds between the end of an address's kernel lifetime and the moment another node may take the lease."""

LEAST_MARGIN = 0.5
"""What the shortest lifetime (1 s) must leave: kernels are up to 0.25 s late, and clocks drift."""

KERNEL_LATE = 0.3
"""Seconds that must lie at least between the end of an address's lifetime and another node's tenure."""

LONGEST_PAUSE = 5.0
"""Seconds between repetitions of a call that is refused, at most."""


# What to do next -----------------------------------------------------------------------------------------------------


def step(facts: Facts, now: float) -> Step:
    """The next thing to do."""
    if now < facts.due:
        return Wait(min(facts.due, facts.until) if facts.leading(now) else facts.due)
    if not facts.known or facts.stale:
        return Read()
    if facts.ours and (facts.resigning or facts.left):
        return Release(_released(facts))
    if facts.left:
        return Wait(None)
    if facts.ours or (facts.record is None and now < facts.until):  # deleted while it was ours
        return _hold(facts, now)
    return _stand_by(facts, now)


def _hold(facts: Facts, now: float) -> Step:
    if facts.record is None:
        return Create(_taken(facts), "ours was deleted")
    if facts.renewed_at is None:
        return Renew(_renewed(facts), facts.attempt or "was ours already (restart)")
    due = facts.renewed_at + facts.terms.retry
    if now >= due or bool(facts.record.offered) == facts.healthy:
        return Renew(_renewed(facts), f"renewed again after {now - facts.renewed_at:.1f} s")
    return Wait(due)


def _stand_by(facts: Facts, now: float) -> Step:
    take_at = _take_at(facts)
    if now >= take_at:
        why = _why_free(facts, now)
        return Create(_taken(facts), why) if facts.record is None else Acquire(_taken(facts), why)
    if facts.record is not None and _may_ask(facts, facts.record, now):
        return Request(replace(facts.record, wanted_by=facts.terms.identity))
    read_at = facts.heard_at + 2 * facts.terms.retry  # watching is enough while there is something to see
    return Read() if now >= read_at else Wait(min(take_at, read_at))


def _free_at(facts: Facts) -> float:
    """When the lease is or was nobody's; a deleted one is its last holder's for as long as that may not know."""
    if facts.record is None:
        return facts.seen_at + facts.void
    if not facts.record.holder:
        return facts.seen_at
    return facts.seen_at + max(facts.terms.duration, facts.record.duration)


def _take_at(facts: Facts) -> float:
    """When we may take it: healthy nodes go first, and of these the one that the last holder made way for."""
    periods = 0.0 if facts.healthy else 2.0
    record = facts.record
    if record is not None and not record.holder and record.wanted_by not in ("", facts.terms.identity):
        periods += 1.0
    return max(_free_at(facts) + periods * facts.terms.retry, facts.not_before)


def _may_ask(facts: Facts, record: Lease, now: float) -> bool:
    return bool(facts.healthy and record.holder and record.offered and not record.wanted_by and now >= facts.not_before)


def _why_free(facts: Facts, now: float) -> str:
    if facts.record is None:
        return "the lease was deleted" if facts.void else "no lease was there"
    if facts.record.holder:
        return f"took over from {facts.record.holder}: its lease expired {now - _free_at(facts):.1f} s ago"
    return f"{facts.last_holder} released it" if facts.last_holder else "it was released"


def _offer(facts: Facts) -> str:
    return "" if facts.healthy else facts.ailment or "unhealthy"


def _renewed(facts: Facts) -> Lease:
    assert facts.record is not None
    offered = _offer(facts)
    wanted_by = facts.record.wanted_by if offered and facts.record.offered else ""
    return replace(facts.record, duration=facts.terms.duration, offered=offered, wanted_by=wanted_by)


def _taken(facts: Facts) -> Lease:
    terms, offered = facts.terms, _offer(facts)
    if facts.record is None:
        return Lease(terms.identity, terms.duration, renewed="", transitions=0, offered=offered)
    return replace(
        facts.record,
        holder=terms.identity,
        duration=terms.duration,
        transitions=facts.record.transitions + 1,
        offered=offered,
        wanted_by="",
    )


def _released(facts: Facts) -> Lease:
    """Free for all; `wanted_by` stays, so that others let that one go first. The API wants a duration above 0."""
    assert facts.record is not None
    return replace(facts.record, holder="", duration=1, offered="")


# What was learned ----------------------------------------------------------------------------------------------------


def watched(facts: Facts, lease: Lease | None, at: float) -> Facts:
    """A watch event that arrived at `at`; one that is older than what is known says nothing."""
    if _not_newer(lease, facts.record):
        return facts
    return _settled(_learned(replace(facts, heard_at=at), lease, at), at)


def read(facts: Facts, lease: Lease | None, sent: float, at: float) -> Facts:
    """The answer to a Read."""
    races = 0 if lease != facts.record else facts.races  # somebody did win the race
    facts = replace(_worked(facts), races=races, heard_at=at)
    if facts.learned_at > sent and _not_newer(lease, facts.record):  # events or writes have overtaken it
        return _settled(facts, at)
    return _settled(_learned(facts, lease, at), at)


def written(facts: Facts, done: Step, stored: Lease, sent: float, at: float) -> Facts:
    """A write that was sent at `sent` was stored, which was known at `at`."""
    led, seen_at = facts.leading(at), facts.seen_at
    facts = replace(_worked(facts), races=0, heard_at=at)
    if not (facts.learned_at > sent and _not_newer(stored, facts.record)):
        facts = _learned(facts, stored, at)
        if isinstance(done, Request):  # nothing was stored between what we knew and this
            facts = replace(facts, seen_at=seen_at)
    unchanged = isinstance(done, Renew) and done.lease.version == stored.version != ""  # no other node sees that
    if isinstance(done, Create | Renew | Acquire) and facts.ours and not unchanged:
        began, why = (facts.began, facts.why) if led else (at, done.why)
        why = facts.why if facts.resigning or facts.left else why
        facts = replace(facts, renewed_at=sent, began=began, why=why, attempt="")
    return _settled(facts, at)


def failed(facts: Facts, done: Step, failure: Failure, at: float, draw: float) -> Facts:
    """A call failed at `at`; `draw` in [0, 1) spreads the repetitions of many nodes.

    After a RACE the lease is read again at once; after anything else the write may have been stored or not: the same
    write again finds out, because it can only be stored once.
    """
    if isinstance(done, Create | Acquire):
        facts = replace(facts, attempt=done.why)
    top = facts.terms.retry
    if failure.kind is ErrorKind.RACE:
        pause = draw * top if facts.races else 0.0
        return replace(facts, stale=True, races=facts.races + 1, due=at + pause)
    failures = facts.failures + 1
    if failure.kind is not ErrorKind.RETRY and not facts.leading(at):
        top = min(LONGEST_PAUSE, top * 2.0 ** min(failures, 10))
    return replace(facts, failures=failures, failure=failure, due=at + max(0.1, draw) * top)


def with_health(facts: Facts, healthy: bool, ailment: str) -> Facts:
    """Whether we are fit to hold, and why not."""
    return replace(facts, healthy=healthy, ailment=ailment)


def resigned(facts: Facts, why: str, at: float, *, for_good: bool) -> Facts:
    """The addresses are off: give the lease back, and for good when the process is going to end."""
    wanted_by = "" if for_good else _yielding_to(facts, at)
    if wanted_by and facts.record is not None:
        why = f"yielded to {wanted_by}: {facts.record.offered}"
    else:
        why = f"handed over: {why}"
    return _settled(
        replace(
            facts,
            resigning=True,
            left=facts.left or for_good,
            why=why if facts.leading(at) else facts.why,
            due=-math.inf,
        ),
        at,
    )


def released(facts: Facts) -> bool:
    """No resignation is pending and the record does not name us."""
    return not facts.resigning and not facts.ours


def _worked(facts: Facts) -> Facts:
    return replace(facts, stale=False, failure=None, failures=0, due=-math.inf)


def _learned(facts: Facts, lease: Lease | None, at: float) -> Facts:
    """What the store holds. Any version that is new to us is a sign of the holder's life, whatever is in it.

    Were it only a new renewal time, a holder whose wall clock was put back could write one twice and be overlooked. Of
    other nodes' writes there is one for each offer, so they cannot keep a dead holder alive.
    """
    before = facts.record
    if facts.known and lease == before:
        return facts
    kept = lease is None or lease.holder == facts.terms.identity
    return replace(
        facts,
        known=True,
        record=lease,
        seen_at=at,
        learned_at=at,
        void=max(facts.terms.duration, before.duration) if before is not None else 0.0,
        renewed_at=facts.renewed_at if kept else None,
        attempt=facts.attempt if kept else "",
        last_holder=(lease.holder if lease else "") or facts.last_holder,
        why=_why_changed(facts, lease, at),
    )


def _why_changed(facts: Facts, lease: Lease | None, at: float) -> str:
    before, after = facts.record.holder if facts.record else "", lease.holder if lease else ""
    if lease is None:
        return "the lease was deleted" if facts.known else "there is no lease"
    if facts.known and before == after:
        return facts.why
    if not after:
        if facts.resigning or facts.left:
            return facts.why
        return f"{before} released it" if before else "it was released"
    if not facts.known:
        return f"{after} had it when this node looked first"
    if before and at < _free_at(facts):
        return f"{after} took it from {before}"
    return _why_free(facts, at)


def _settled(facts: Facts, at: float) -> Facts:
    """A resignation is done when the lease is known to be somebody else's or nobody's."""
    if not facts.resigning or not facts.known or facts.stale or facts.ours:
        return facts
    return replace(facts, resigning=False, renewed_at=None, not_before=at + 3 * facts.terms.retry)


def _not_newer(lease: Lease | None, known: Lease | None) -> bool:
    """Whether `lease` is no later than what is known. Versions that are no numbers tell nothing."""
    if lease is None or known is None or not (lease.version.isdigit() and known.version.isdigit()):
        return False
    return int(lease.version) <= int(known.version)


# What the main loop is told ------------------------------------------------------------------------------------------


def tenure(facts: Facts, now: float, wall: float, before: Tenure) -> Tenure:
    """What to publish at `now`; `wall` is the time of day, `before` what was published last."""
    record, leading = facts.record, facts.leading(now)
    holder = record.holder if record is not None and (leading or not facts.ours) else ""
    changed = (leading, holder) != (before.leading, before.holder)
    unsettled = facts.ours and facts.renewed_at is None and not (facts.resigning or facts.left)
    told = Tenure(
        known=facts.known and not unsettled,
        holder=holder,
        since=wall if changed else before.since,
        transitions=record.transitions if record is not None else 0,
        why=facts.why,
        failure=facts.failure,
    )
    if leading and facts.renewed_at is not None:
        return replace(
            told,
            leading=True,
            began=facts.began,
            renewed_at=facts.renewed_at,
            until=facts.until,
            expires=facts.renewed_at + facts.terms.duration,
            yielding_to=_yielding_to(facts, now),
        )
    if facts.ours and facts.renewed_at is not None and not facts.resigning and not facts.left:
        return replace(told, why=_why_lapsed(facts))
    return told


def _why_lapsed(facts: Facts) -> str:
    text = f"could not renew for {facts.terms.deadline:g} s"
    return f"{text}: {facts.failure}" if facts.failure is not None else text


def _yielding_to(facts: Facts, now: float) -> str:
    if facts.record is None or facts.healthy or not facts.leading(now) or not facts.record.offered:
        return ""
    return facts.record.wanted_by


def lifetime(tenure: Tenure, now: float) -> int:
    """Seconds of kernel lifetime for a floating address that is put on an interface at `now`; 0: do not put it.

    It ends a second before another node may take the lease; where that leaves nothing (short leases), half a second.
    """
    if not tenure.leading or now >= tenure.until:
        return 0
    left = tenure.expires - now
    return max(math.floor(left - MARGIN), 1 if left >= 1.0 + LEAST_MARGIN else 0)


def put_by(tenure: Tenure, seconds: int) -> float:
    """By when an address with that lifetime must be on the interface, so that it ends before another node has it."""
    return tenure.expires - seconds - KERNEL_LATE
