"""What a node knows in an election, for the tests of its rules."""

from __future__ import annotations

from dataclasses import replace

from vipmanager.errors import ErrorKind, Failure
from vipmanager.model_node import Lease, Tenure
from vipmanager.plan import election
from vipmanager.plan.election_facts import Facts, Read, Renew, Step, Terms, Wait

TERMS = Terms("node-b", duration=6, deadline=4.0, retry=1.0)
FRESH = Facts(TERMS)
THEIRS = Lease("node-a", 6, renewed="12:00:00", transitions=3, acquired="11:00:00", version="10")
OURS = replace(THEIRS, holder="node-b")
FREE = replace(THEIRS, holder="", duration=1)
TIMEOUT = Failure(ErrorKind.RETRY, "leases:update", "ReadTimeoutError", "no answer")
RACE = Failure(ErrorKind.RACE, "leases:update", "Conflict", "the object has been modified")
DENIED = Failure(ErrorKind.DENIED, "leases:update", "Forbidden", "may not update", "apply rbac.yaml")


def knowing(lease: Lease | None, at: float = 100.0, facts: Facts = FRESH) -> Facts:
    """What a process knows that read this at `at`."""
    return election.read(facts, lease, at, at)


def leading(at: float = 100.0, facts: Facts = FRESH) -> Facts:
    """What a holder knows whose renewal was sent and answered at `at`."""
    return renewed(knowing(OURS, at, facts), at)


def renewed(facts: Facts, sent: float, answered: float | None = None) -> Facts:
    """Let the next step, which has to be a renewal, succeed."""
    step = election.step(facts, sent)
    assert isinstance(step, Renew)
    return election.written(facts, step, stored(step.lease), sent, sent if answered is None else answered)


def stored(lease: Lease) -> Lease:
    """As the store gives it back."""
    return replace(lease, renewed=f"{lease.renewed}+", version=str(int(lease.version or 0) + 1))


def done(facts: Facts, step: Step, at: float) -> Facts:
    """Let a write succeed."""
    assert not isinstance(step, Read | Wait)
    return election.written(facts, step, stored(step.lease), at, at)


def told(facts: Facts, now: float, before: Tenure | None = None, wall: float = 0.0) -> Tenure:
    """What is published."""
    return election.tenure(facts, now, wall, before or Tenure())


def sick(facts: Facts) -> Facts:
    """Not fit to hold."""
    return election.with_health(facts, False, "no answer on 30007")
