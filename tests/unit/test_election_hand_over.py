"""The rules by which an unhealthy or a stopping holder gives the lease away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.election_facts import (
    FREE,
    FRESH,
    OURS,
    RACE,
    THEIRS,
    TIMEOUT,
    done,
    knowing,
    leading,
    renewed,
    sick,
    told,
)
from vipmanager.plan import election
from vipmanager.plan.election_facts import Acquire, Facts, Read, Release, Renew, Request, Wait

# Health --------------------------------------------------------------------------------------------------------------


def test_an_unhealthy_holder_offers_the_lease_at_once_and_goes_on_holding() -> None:
    """Nobody answers: the address stays where it is."""
    facts = sick(leading(at=100.0))
    step = election.step(facts, 100.1)
    assert isinstance(step, Renew) and step.lease.offered == "no answer on 30007"
    facts = done(facts, step, at=100.1)
    assert election.step(facts, 100.2) == Wait(101.1)
    for at in (101.1, 102.1, 103.1, 104.1, 105.1):
        facts = renewed(facts, sent=at)
    tenure = told(facts, 105.1)
    assert tenure.leading and not tenure.yielding_to


def test_a_holder_that_is_healthy_again_withdraws_the_offer_and_forgets_who_wanted_it() -> None:
    """At once too."""
    offered = replace(OURS, offered="sick", wanted_by="node-a", version="20")
    facts = election.watched(sick(leading(at=100.0)), offered, 100.2)
    facts = election.with_health(facts, True, "")
    assert not told(facts, 100.3).yielding_to
    step = election.step(facts, 100.3)
    assert isinstance(step, Renew)
    assert (step.lease.offered, step.lease.wanted_by) == ("", "")


def test_a_healthy_standby_asks_for_an_offered_lease_once() -> None:
    """It changes nothing but who wants it."""
    offered = replace(THEIRS, offered="sick")
    assert election.step(knowing(offered), 100.0) == Request(replace(offered, wanted_by="node-b"))
    assert isinstance(election.step(knowing(replace(offered, wanted_by="node-c")), 100.0), Wait)
    assert isinstance(election.step(knowing(offered, facts=sick(FRESH)), 100.0), Wait)


def test_a_holder_yields_to_who_asked_and_renews_until_it_has_vacated() -> None:
    """Vacating is the main loop's work, and takes its time."""
    wanted = replace(OURS, offered="sick", wanted_by="node-a", version="20")
    facts = election.watched(sick(leading(at=100.0)), wanted, 100.2)
    tenure = told(facts, 100.2)
    assert tenure.leading and tenure.yielding_to == "node-a"
    step = election.step(facts, 101.0)
    assert isinstance(step, Renew) and step.lease.wanted_by == "node-a"
    facts = election.resigned(facts, "vacated", 101.1, for_good=False)
    assert not told(facts, 101.1).leading
    step = election.step(facts, 101.1)
    assert isinstance(step, Release)
    assert (step.lease.holder, step.lease.duration, step.lease.offered) == ("", 1, "")
    assert not election.released(facts)
    facts = done(facts, step, at=101.2)
    assert election.released(facts)
    assert told(facts, 101.2).why == "yielded to node-a: sick"


def test_who_yielded_leaves_the_others_three_retry_periods() -> None:
    """Then any candidate may take it, the one that yielded included."""
    wanted = replace(OURS, offered="sick", wanted_by="node-a", version="20")
    facts = election.watched(sick(leading(at=100.0)), wanted, 100.2)
    facts = election.resigned(facts, "vacated", 101.0, for_good=False)
    facts = replace(done(facts, election.step(facts, 101.0), at=101.0), heard_at=103.9)
    assert election.step(facts, 103.9) == Wait(104.0)
    assert isinstance(election.step(facts, 104.0), Acquire)
    healthy = election.with_health(facts, True, "")
    assert election.step(healthy, 103.9) == Wait(104.0)


@pytest.mark.parametrize(
    ("facts", "wanted_by", "expected"),
    [(FRESH, "", 0.0), (FRESH, "node-b", 0.0), (FRESH, "node-c", 1.0), (sick(FRESH), "", 2.0)],
    ids=["healthy", "asked for it", "another asked for it", "unhealthy"],
)
def test_candidates_for_a_free_lease_go_in_order(facts: Facts, wanted_by: str, expected: float) -> None:
    """Who never takes it is waited for no longer than that."""
    free = knowing(replace(FREE, wanted_by=wanted_by), at=100.0, facts=facts)
    if expected:
        assert isinstance(election.step(free, 99.9 + expected), Wait)
    assert isinstance(election.step(replace(free, heard_at=101.0), 100.0 + expected), Acquire)


def test_an_unhealthy_node_that_takes_the_lease_offers_it() -> None:
    """A node that is fit may have it."""
    step = election.step(replace(knowing(FREE, facts=sick(FRESH)), heard_at=102.0), 102.0)
    assert isinstance(step, Acquire) and step.lease.offered == "no answer on 30007"


# Resigning -----------------------------------------------------------------------------------------------------------


def test_a_resignation_is_released_at_once_and_not_published_as_leading() -> None:
    """Whatever pause a failure had ordered."""
    facts = election.failed(leading(at=100.0), election.step(leading(at=100.0), 101.0), TIMEOUT, 101.1, 0.9)
    facts = election.resigned(facts, "told to stop", 101.2, for_good=True)
    assert not told(facts, 101.2).leading
    step = election.step(facts, 101.2)
    assert isinstance(step, Release)
    facts = done(facts, step, at=101.3)
    tenure = told(facts, 101.3)
    assert (tenure.holder, tenure.why) == ("", "handed over: told to stop")


def test_who_left_for_good_takes_nothing_any_more_and_asks_nothing() -> None:
    """The process is about to end."""
    facts = election.resigned(leading(at=100.0), "told to stop", 101.0, for_good=True)
    facts = done(facts, election.step(facts, 101.0), at=101.0)
    assert election.step(facts, 1000.0) == Wait(None)


def test_a_take_over_that_was_under_way_when_we_left_is_released() -> None:
    """Its answer comes after the resignation."""
    facts = knowing(FREE)
    step = election.step(facts, 100.0)
    facts = done(election.resigned(facts, "told to stop", 100.1, for_good=True), step, at=100.2)
    assert not told(facts, 100.2).leading and not election.released(facts)
    assert isinstance(election.step(facts, 100.2), Release)


def test_a_release_of_unknown_outcome_is_repeated_until_the_record_says_that_it_is_done() -> None:
    """A race means that it was stored, or that another has the lease."""
    facts = election.resigned(leading(at=100.0), "told to stop", 101.0, for_good=True)
    step = election.step(facts, 101.0)
    facts = election.failed(facts, step, TIMEOUT, 102.0, 0.5)
    assert election.step(facts, 102.5) == step
    facts = election.failed(facts, step, RACE, 102.6, 0.5)
    assert not election.released(facts)
    assert election.step(facts, 102.6) == Read()
    assert election.released(election.read(facts, FREE, 102.6, 102.7))


def test_resigning_what_another_has_is_moot() -> None:
    """Nothing is written."""
    facts = election.resigned(knowing(THEIRS), "told to stop", 100.0, for_good=False)
    assert election.released(facts)
    assert not election.released(election.resigned(FRESH, "told to stop", 100.0, for_good=True)), "not known yet"
