"""The rules of the election, one by one. What they are for, all together, is tested in test_election_safety.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.election_facts import (
    DENIED,
    FREE,
    FRESH,
    OURS,
    RACE,
    TERMS,
    THEIRS,
    TIMEOUT,
    done,
    knowing,
    leading,
    renewed,
    stored,
    told,
)
from vipmanager.config import Config
from vipmanager.model_node import Lease, Tenure
from vipmanager.plan import election
from vipmanager.plan.election_facts import Acquire, Create, Read, Renew, Step, Terms, Wait

# Free, held, expired -------------------------------------------------------------------------------------------------


def test_the_terms_are_the_settings() -> None:
    """Where the numbers come from."""
    assert Terms.of("node-b", Config()) == TERMS


def test_the_lease_is_read_before_anything_else() -> None:
    """A process knows nothing when it starts."""
    assert election.step(FRESH, 100.0) == Read()


@pytest.mark.parametrize(("lease", "kind"), [(None, Create), (FREE, Acquire)])
def test_a_free_lease_is_taken_at_once(lease: Lease | None, kind: type[Step]) -> None:
    """None was ever seen, or it was released."""
    step = election.step(knowing(lease), 100.0)
    assert isinstance(step, kind) and isinstance(step, Create | Acquire)
    assert (step.lease.holder, step.lease.duration) == ("node-b", 6)
    assert step.lease.transitions == (0 if lease is None else 4)


def test_a_held_lease_is_taken_when_it_has_not_changed_for_its_duration() -> None:
    """By our clock since we saw it, and from the version that we saw."""
    facts = knowing(THEIRS, at=100.0)
    facts = replace(facts, heard_at=105.0)
    assert election.step(facts, 105.9) == Wait(106.0)
    step = election.step(facts, 106.1)
    assert isinstance(step, Acquire)
    assert (step.lease.version, step.lease.transitions) == ("10", 4)
    assert step.why == "took over from node-a: its lease expired 0.1 s ago"


@pytest.mark.parametrize(("duration", "expected"), [(4, 106.0), (9, 109.0)])
def test_of_two_durations_the_longer_one_counts(duration: int, expected: float) -> None:
    """The holder's settings may differ from ours during a roll-out."""
    facts = replace(knowing(replace(THEIRS, duration=duration)), heard_at=expected)
    assert election.step(facts, expected - 0.01) == Wait(expected)
    assert isinstance(election.step(facts, expected), Acquire)


@pytest.mark.parametrize("change", [{"renewed": "12:00:01"}, {"wanted_by": "node-c"}, {}])
def test_every_new_version_is_a_sign_of_life_whatever_is_in_it(change: dict[str, str]) -> None:
    """Even one with the same renewal time: the holder's wall clock may have been put back in between."""
    facts = election.watched(knowing(THEIRS, at=100.0), replace(THEIRS, version="11", **change), 105.0)
    facts = replace(facts, heard_at=110.0)
    assert election.step(facts, 110.9) == Wait(111.0)


def test_the_present_state_read_again_is_no_sign_of_life() -> None:
    """Reading does not keep a dead holder alive."""
    facts = knowing(THEIRS, at=104.0, facts=knowing(THEIRS, at=100.0))
    assert election.step(facts, 105.9) == Wait(106.0)


def test_our_own_request_is_no_sign_of_the_holders_life() -> None:
    """It was made from the version that we knew, so the holder has written nothing in between."""
    facts = knowing(replace(THEIRS, offered="sick"), at=100.0)
    facts = done(facts, election.step(facts, 105.0), at=105.0)
    assert election.step(facts, 105.5) == Wait(106.0)


def test_an_event_that_is_older_than_what_is_known_is_ignored() -> None:
    """Watches lag behind our own reads and writes."""
    facts = knowing(replace(THEIRS, version="12"), at=100.0)
    assert election.watched(facts, replace(THEIRS, version="9", holder="node-c"), 103.0) == facts


def test_an_answer_that_events_have_overtaken_is_ignored_but_no_other() -> None:
    """After a restore of its data the store may count from a lower version, and what is read counts."""
    newer, older = replace(THEIRS, version="12"), replace(THEIRS, version="9")
    facts = election.watched(knowing(THEIRS, at=100.0), newer, 101.0)
    assert election.read(facts, older, sent=100.9, at=101.1).record == newer
    assert election.read(facts, older, sent=101.1, at=101.2).record == older


def test_a_deleted_lease_is_still_its_holders_until_it_would_have_expired() -> None:
    """The holder may not know yet."""
    facts = replace(election.watched(knowing(THEIRS, at=100.0), None, 103.0), heard_at=108.9)
    assert election.step(facts, 108.9) == Wait(109.0)
    step = election.step(facts, 109.0)
    assert isinstance(step, Create) and step.why == "the lease was deleted"


def test_a_holder_whose_lease_was_deleted_makes_it_anew_and_does_not_act_until_then() -> None:
    """A process that has just started could take it."""
    facts = election.watched(leading(at=100.0), None, 101.0)
    assert not told(facts, 101.0).leading
    step = election.step(facts, 101.0)
    assert isinstance(step, Create)
    facts = done(facts, step, at=101.1)
    assert told(facts, 101.1).leading
    late = election.watched(leading(at=100.0), None, 103.9)
    assert isinstance(election.step(replace(late, heard_at=104.0), 104.0), Wait)


def test_a_silent_watch_is_made_up_for_by_reading() -> None:
    """Two RetryPeriods after anything was heard, and not before."""
    facts = knowing(THEIRS, at=100.0)
    assert election.step(facts, 100.0) == Wait(102.0)
    assert election.step(facts, 102.0) == Read()
    heard = election.watched(facts, replace(THEIRS, version="11"), 101.5)
    assert election.step(heard, 102.0) == Wait(103.5)


# Holding -------------------------------------------------------------------------------------------------------------


def test_the_holder_counts_from_when_its_renewal_was_sent() -> None:
    """And others from when they saw it, which is later."""
    tenure = told(renewed(knowing(OURS), sent=100.0, answered=102.5), 102.5)
    assert tenure.leading
    assert (tenure.renewed_at, tenure.until, tenure.expires) == (100.0, 104.0, 106.0)
    assert tenure.began == 102.5


def test_the_holder_renews_after_a_retry_period_from_the_version_it_knows() -> None:
    """Not sooner."""
    facts = leading(at=100.0)
    assert election.step(facts, 100.5) == Wait(101.0)
    step = election.step(facts, 101.0)
    assert isinstance(step, Renew) and facts.record is not None
    assert step.lease == facts.record


def test_the_holder_stops_at_its_deadline() -> None:
    """Whatever becomes of the calls."""
    facts = election.failed(leading(at=100.0), election.step(leading(at=100.0), 101.0), TIMEOUT, 103.5, 0.9)
    assert told(facts, 103.9).leading
    assert election.step(facts, 103.6) == Wait(104.0), "its end is published in time"
    tenure = told(facts, 104.0)
    assert not tenure.leading and tenure.holder == ""
    assert tenure.why == f"could not renew for 4 s: {TIMEOUT}"
    assert tenure.failure == TIMEOUT


def test_a_holder_that_stopped_begins_anew_when_its_renewal_succeeds() -> None:
    """Nobody had taken it. What it did before is not to be relied on."""
    facts = renewed(leading(at=100.0), sent=160.0, answered=160.1)
    tenure = told(facts, 160.1)
    assert tenure.leading and tenure.began == 160.1
    assert tenure.why == "renewed again after 60.0 s"


def test_a_renewal_whose_answer_comes_after_the_deadline_begins_a_new_tenure() -> None:
    """The main loop has taken the addresses off in between."""
    facts = renewed(leading(at=100.0), sent=103.0, answered=104.5)
    assert told(facts, 104.5).began == 104.5
    assert told(renewed(leading(at=100.0), sent=103.0, answered=103.9), 103.9).began == 100.0


def test_a_lease_that_names_us_is_ours_after_a_renewal_and_not_before() -> None:
    """A restarted container."""
    facts = knowing(OURS)
    assert not told(facts, 100.0).leading
    step = election.step(facts, 100.0)
    assert isinstance(step, Renew)
    tenure = told(done(facts, step, at=100.0), 100.0)
    assert tenure.leading and tenure.transitions == 3
    assert tenure.why == "was ours already (restart)"


def test_our_renewal_seen_through_the_watch_does_not_prolong_the_tenure() -> None:
    """It does not say when it was sent."""
    facts = election.watched(leading(at=100.0), replace(OURS, version="99", renewed="later"), 103.0)
    assert told(facts, 103.0).until == 104.0


def test_a_renewal_that_changed_nothing_in_the_store_does_not_count() -> None:
    """Kubernetes writes nothing when nothing has changed, so nobody else saw it."""
    facts = leading(at=100.0)
    step = election.step(facts, 101.0)
    assert isinstance(step, Renew)
    facts = election.written(facts, step, step.lease, 101.0, 101.1)
    assert told(facts, 101.1).until == 104.0
    assert isinstance(election.step(facts, 101.1), Renew)


def test_a_holder_that_sees_another_one_stops_at_once() -> None:
    """An administrator may have edited it."""
    facts = election.watched(leading(at=100.0), replace(THEIRS, version="99", transitions=9), 101.0)
    tenure = told(facts, 101.0)
    assert not tenure.leading and tenure.holder == "node-a"


# Failing calls -------------------------------------------------------------------------------------------------------


def test_a_write_that_lost_a_race_is_not_repeated_before_reading() -> None:
    """At once the first time; after a pause when it happens again and again."""
    facts = leading(at=100.0)
    facts = election.failed(facts, election.step(facts, 101.0), RACE, 101.1, 0.5)
    assert election.step(facts, 101.1) == Read()
    assert told(facts, 101.1).failure is None
    assert facts.record is not None
    facts = election.read(facts, facts.record, 101.1, 101.2)
    facts = election.failed(facts, election.step(facts, 101.2), RACE, 101.3, 0.5)
    assert election.step(facts, 101.3) == Wait(101.8)


def test_a_write_of_unknown_outcome_is_repeated_and_its_reason_is_kept() -> None:
    """It was stored: the record names us, but when we renewed is not known."""
    facts = knowing(FREE)
    step = election.step(facts, 100.0)
    facts = election.failed(facts, step, TIMEOUT, 101.0, 0.5)
    assert election.step(facts, 101.0) == Wait(101.5)
    assert election.step(facts, 101.5) == step
    assert isinstance(step, Acquire)
    facts = election.watched(facts, stored(step.lease), 101.6)
    assert not told(facts, 101.6).leading
    assert told(renewed(facts, sent=101.6), 101.6).why == step.why


@pytest.mark.parametrize(("draw", "pause"), [(0.0, 0.1), (0.5, 0.5), (0.99, 0.99)])
def test_repetitions_are_spread_over_the_retry_period(draw: float, pause: float) -> None:
    """Many nodes must not come back together; and not in a tight loop either."""
    facts = election.failed(FRESH, Read(), TIMEOUT, 100.0, draw)
    assert election.step(facts, 100.0) == Wait(100.0 + pause)


def test_what_is_denied_is_repeated_more_and_more_seldom_but_every_five_seconds() -> None:
    """Somebody may mend it; a holder within its tenure has no time for that."""
    facts, pauses = knowing(THEIRS), []
    for _ in range(5):
        facts = election.failed(facts, Read(), DENIED, 100.0, 1.0)
        pauses.append(facts.due - 100.0)
    assert pauses == [2.0, 4.0, 5.0, 5.0, 5.0]
    holder = leading(at=100.0)
    assert election.failed(holder, election.step(holder, 101.0), DENIED, 101.0, 1.0).due == 102.0


def test_a_success_ends_the_failure() -> None:
    """Nothing of it is left."""
    facts = election.failed(leading(at=100.0), election.step(leading(at=100.0), 101.0), TIMEOUT, 101.1, 0.0)
    assert told(renewed(facts, sent=101.3), 101.3).failure is None


# Why -----------------------------------------------------------------------------------------------------------------


def test_the_last_change_of_hands_is_dated_and_explained() -> None:
    """As this node saw it; a renewal is no change."""
    facts = knowing(THEIRS)
    first = told(facts, 100.0, wall=1.0)
    assert (first.holder, first.since, first.why) == ("node-a", 1.0, "node-a had it when this node looked first")
    facts = election.watched(facts, replace(THEIRS, version="11"), 101.0)
    assert told(facts, 101.0, before=first, wall=2.0).since == 1.0
    facts = election.watched(facts, replace(FREE, version="12"), 102.0)
    second = told(facts, 102.0, before=first, wall=3.0)
    assert (second.holder, second.since, second.why) == ("", 3.0, "node-a released it")
    step = election.step(facts, 102.0)
    third = told(done(facts, step, at=102.1), 102.1, before=second, wall=4.0)
    assert (third.leading, third.since, third.why) == (True, 4.0, "node-a released it")


def test_a_standby_sees_why_another_took_over() -> None:
    """By its own reckoning."""
    taken = replace(THEIRS, holder="node-c", transitions=4, version="11")
    assert told(election.watched(knowing(THEIRS), taken, 101.0), 101.0).why == "node-c took it from node-a"
    late = told(election.watched(knowing(THEIRS), taken, 106.2), 106.2)
    assert late.why == "took over from node-a: its lease expired 0.2 s ago"


# Lifetimes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "deadline", "since", "expected"),
    [
        (6, 4.0, 0.0, 5),
        (6, 4.0, 0.1, 4),
        (6, 4.0, 3.9, 1),
        (6, 4.0, 4.0, 0),  # its tenure has ended
        (6, 5.0, 4.4, 1),
        (6, 5.0, 4.6, 0),  # nothing whole ends early enough
        (2, 1.0, 0.4, 1),
        (2, 1.0, 0.6, 0),
    ],
)
def test_a_lifetime_ends_a_second_before_others_may_take_the_lease(
    duration: int, deadline: float, since: float, expected: int
) -> None:
    """Half a second where the lease is too short for that: kernels are late by up to a quarter."""
    tenure = Tenure(leading=True, renewed_at=100.0, until=100.0 + deadline, expires=100.0 + duration)
    seconds = election.lifetime(tenure, 100.0 + since)
    assert seconds == expected
    assert since + seconds <= duration - 0.5
    assert election.lifetime(replace(tenure, leading=False), 100.0 + since) == 0
