"""The verdict on a node: failures in a row, and when to look again."""

from __future__ import annotations

import pytest

from tests.doubles.clock import StillClock
from tests.unit.node_builders import settings
from vipmanager.health import DOUBT, DOUBT_MOST, PROBE_PERIOD, Health


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def health(clock: StillClock) -> Health:
    return Health(settings(HealthThreshold="3", RetryPeriod="2"), clock)


def verdicts(health: Health, *checks: str, holds: bool = True) -> list[bool]:
    """What follows from checks with these results."""
    return [health.judge(check, "", "", holds=holds)[0] for check in checks]


def test_a_node_is_unfit_until_it_has_been_looked_at(health: Health) -> None:
    assert health.why == "not checked yet"
    assert verdicts(health, "refused", "refused") == [False, False]
    assert verdicts(health, "") == [True]
    assert health.why == ""


def test_failures_count_up_to_the_threshold(health: Health) -> None:
    assert verdicts(health, "", "refused", "refused", "refused", "refused") == [True, True, True, False, False]


@pytest.mark.parametrize("parts", [("x", "", ""), ("", "x", ""), ("", "", "x")])
def test_each_part_counts(health: Health, parts: tuple[str, str, str]) -> None:
    assert verdicts(health, "") == [True]
    assert [health.judge(*parts, holds=True)[0] for _ in range(3)] == [True, True, False]


def test_one_success_begins_the_count_anew(health: Health) -> None:
    assert verdicts(health, "", "refused", "refused", "", "refused", "refused") == [True] * 6
    assert verdicts(health, "refused", "") == [False, True]


def test_a_standby_that_cannot_deliver_is_unfit_at_once(health: Health) -> None:
    """A holder is not: it may be about to learn better, and somebody has to hold."""
    assert verdicts(health, "") == [True]
    assert health.judge("", "in no subnet", "", holds=True)[0]
    assert not health.judge("", "in no subnet", "", holds=False)[0]
    assert verdicts(health, "") == [True]


def test_the_reason_says_how_often(health: Health) -> None:
    verdicts(health, "", "refused")
    assert health.judge("timeout", "in no subnet", "denied", holds=True) == (True, "timeout (2 in a row)")
    assert health.why == "timeout (2 in a row)"


class TestDoubt:
    """A node that has failed when it held."""

    @staticmethod
    def fail(health: Health, check: str = "", standing: str = "denied") -> None:
        """It is found unfit, and another holds."""
        for _ in range(3):
            health.judge(check, "", standing, holds=True)
        health.made_way()

    def test_it_counts_as_unfit_for_a_while(self, health: Health, clock: StillClock) -> None:
        self.fail(health)
        assert health.judge("", "", "", holds=False) == (False, "failed when it held: denied (4 in a row)")
        clock.advance(DOUBT - 0.1)
        assert verdicts(health, "", holds=False) == [False]
        clock.advance(0.1)
        assert verdicts(health, "", holds=False) == [True]

    def test_twice_as_long_each_time(self, health: Health, clock: StillClock) -> None:
        waits = []
        for _ in range(7):
            self.fail(health)
            began = clock()
            while not verdicts(health, "", holds=False)[0]:
                clock.advance(1.0)
            waits.append(clock() - began)
        assert waits == [DOUBT, 2 * DOUBT, 4 * DOUBT, 8 * DOUBT, 16 * DOUBT, DOUBT_MOST, DOUBT_MOST]
        clock.advance(DOUBT_MOST)
        self.fail(health)
        clock.advance(DOUBT)
        assert verdicts(health, "", holds=False) == [True]

    def test_what_a_standby_checks_itself_leaves_none(self, health: Health) -> None:
        self.fail(health, check="refused")
        assert verdicts(health, "", holds=False) == [True]

    def test_when_it_holds_nevertheless_it_is_judged_by_what_it_does(self, health: Health) -> None:
        self.fail(health)
        assert verdicts(health, "", holds=True) == [True]


def test_a_check_each_retry_period_and_a_probe_now_and_then(health: Health, clock: StillClock) -> None:
    assert health.check_due(clock())
    assert health.probe_due(clock())
    health.checked(clock())
    health.probed(clock())
    assert (health.next_check, health.next_probe) == (clock() + 2, clock() + PROBE_PERIOD)
    assert not health.check_due(clock() + 1.9)
    assert health.check_due(clock() + 2)
    assert not health.probe_due(clock() + PROBE_PERIOD - 0.1)
    assert health.probe_due(clock() + PROBE_PERIOD)
