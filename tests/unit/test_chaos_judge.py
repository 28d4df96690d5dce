"""The judge of `make chaos` sees what it is there to see: each of these worlds is wrong in one way."""

from __future__ import annotations

from typing import Any

import pytest

from lab.chaos import calls, invariants, leftovers, release
from lab.chaos.release import Ending
from lab.chaos.stage import Trouble
from lab.chaos.witness import HELD_FOR, PROMPT
from tests.unit.chaos_stage import BESIDE, OWN, ROUTED, TABLES, A, B, BareStage, make_stage

TO_A, TO_B = "eni-p0", "eni-p1"
EXCUSES: tuple[dict[str, Any], ...] = (
    {"pods": frozenset({"p1"})},
    {"floatings": frozenset({"h1"})},
    {"everybody": True},
)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> BareStage:
    """A's address is in place, and has been for long."""
    made = make_stage(monkeypatch)
    made.holds(ROUTED, A)
    made.ec2.route(ROUTED, TO_A, "p0")
    made.clock.now += 10
    return made


def delivery(stage: BareStage) -> list[str]:
    """What is wrong with the delivery."""
    return list(invariants.delivery(stage))


# Delivery ------------------------------------------------------------------------------------------------------------


def test_what_is_in_place_is_fine(stage: BareStage) -> None:
    """Else the others say nothing."""
    assert not delivery(stage)
    assert not stage.witness.complaints
    assert not list(stage.witness.too_slow(0.0))


def test_an_address_goes_to_who_claimed_it_last(stage: BareStage) -> None:
    """B's agent takes nothing over; A's would have conceded."""
    stage.holds(ROUTED, B, conceded_to=TO_A)
    assert delivery(stage) == ["h1 came to p1/net1 10.0 s after p0/net1, and is delivered to p0/net1"]
    stage.holds(ROUTED, B)
    stage.holds(ROUTED, A, conceded_to=TO_B)
    stage.ec2.route(ROUTED, TO_B, "p1")
    assert not delivery(stage)


def test_it_is_a_draw_when_the_first_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both wrote at that moment: either may have it."""
    stage = make_stage(monkeypatch)
    stage.holds(ROUTED, A)
    stage.clock.now += 5
    stage.holds(ROUTED, B, conceded_to=TO_A)
    stage.clock.now += 1
    stage.ec2.route(ROUTED, TO_A, "p0")
    assert not delivery(stage)


def test_what_was_nobodys_meanwhile_may_go_back(stage: BareStage) -> None:
    """Who has conceded claims again when nobody live holds it."""
    stage.holds(ROUTED, B, conceded_to=TO_A)
    for target, by in ((TO_B, "p1"), ("", None), (TO_A, "p0")):
        stage.clock.now += 1
        stage.ec2.route(ROUTED, target, by)
    assert not delivery(stage)


def test_one_table_that_leads_elsewhere_is_seen(stage: BareStage) -> None:
    """Also an unselected one may say what it likes, but no other."""
    stage.ec2.route(ROUTED, TO_B, None, TABLES[:1])
    assert "delivered to ['eni-p0', 'eni-p1']" in delivery(stage)[0]


def test_a_delivery_that_waits_for_the_former_holder_is_too_slow(stage: BareStage) -> None:
    """An agent that never takes over gets the address when the former one's routes are withdrawn, after 10 s."""
    stage.loses(ROUTED, A)
    stage.holds(ROUTED, B)
    stage.clock.now += PROMPT + 1
    assert "not delivered" in next(stage.witness.too_slow(0.0))
    stage.ec2.route(ROUTED, TO_B, "p1")
    assert list(stage.witness.too_slow(0.0)) == ["h1 was delivered 9.0 s after it came to p1/net1"]


def test_a_delivery_that_a_fault_delays_is_not(stage: BareStage) -> None:
    """A fault of the pod, of the address, or of EC2 altogether; not one of another pod, or that came too late."""
    at = stage.clock.now
    stage.loses(ROUTED, A)
    stage.holds(ROUTED, B)
    stage.clock.now += PROMPT + 1
    for excuse in EXCUSES:
        stage.troubles = [Trouble(at + 1, "fault", **excuse)]
        assert not list(stage.witness.too_slow(at))
    for none in (Trouble(at + 1, "fault", pods=frozenset({"p0"})), Trouble(at + PROMPT + 1, "fault", everybody=True)):
        stage.troubles = [none]
        assert list(stage.witness.too_slow(at))


# Meanwhile -----------------------------------------------------------------------------------------------------------


def test_a_route_that_a_former_holder_deletes_is_seen(stage: BareStage) -> None:
    """Though a resync mends it."""
    stage.loses(ROUTED, A)
    stage.holds(ROUTED, B)
    stage.ec2.route(ROUTED, TO_B, "p1")
    stage.clock.now += HELD_FOR + 1
    stage.ec2.route(ROUTED, "", "p0", TABLES[:1])
    stage.ec2.route(ROUTED, TO_B, "p1")
    assert ["p0 took h1 from p1/net1" in each for each in stage.witness.complaints] == [True]


def test_a_route_that_is_replaced_by_who_lost_the_address_is_seen(stage: BareStage) -> None:
    """A write that is repeated long after the address went; one that was under way when it went is excused."""
    stage.loses(ROUTED, A)
    stage.holds(ROUTED, B)
    stage.ec2.route(ROUTED, TO_B, "p1")
    stage.clock.now += HELD_FOR / 2
    stage.ec2.route(ROUTED, TO_A, "p0")
    stage.ec2.route(ROUTED, TO_B, "p1")
    assert not stage.witness.complaints
    stage.clock.now += HELD_FOR + 1
    stage.ec2.route(ROUTED, TO_A, "p0", TABLES[:1])
    assert stage.witness.complaints == [
        "p0 took h1 from p1/net1, which had it, by ReplaceRoute in rtb-0: eni-p1 → eni-p0"
    ]


def test_who_has_the_address_may_take_it_over(stage: BareStage) -> None:
    """And what the schedule itself does is nobody's doing."""
    stage.holds(ROUTED, B)
    stage.ec2.route(ROUTED, TO_B, "p1")
    stage.ec2.route(ROUTED, "", None)
    assert not stage.witness.complaints


def test_an_address_that_a_sidecar_lets_go_is_seen_unless_it_was_told_to_stop(stage: BareStage) -> None:
    """Of an ENI, too."""
    stage.holds(OWN, A)
    stage.ec2.assign(OWN, TO_A, "p0")
    stage.clock.now += HELD_FOR + 1
    stage.ec2.assign(OWN, "", "p0")
    assert len(stage.witness.complaints) == 1
    stage.ec2.assign(OWN, TO_A, "p0")
    stage.witness.stopping.add("p0")
    stage.ec2.assign(OWN, "", "p0")
    assert len(stage.witness.complaints) == 1


# Calls ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "action", "params"),
    [
        ("p0", "DeleteRoute", {"RouteTableId": "rtb-0", "DestinationCidrBlock": "192.168.0.0/16"}),
        ("p0", "ReplaceRoute", {"RouteTableId": "rtb-0", "DestinationCidrBlock": "192.168.7.1/32",
                                "NetworkInterfaceId": TO_B}),
        ("p1", "CreateRoute", {"RouteTableId": "rtb-0", "DestinationCidrBlock": "192.168.7.2/32",
                               "NetworkInterfaceId": TO_B}),
        ("p0", "CreateRoute", {"RouteTableId": "rtb-9", "DestinationCidrBlock": "192.168.7.1/32",
                               "NetworkInterfaceId": TO_A}),
        ("p0", "CreateRoute", {"RouteTableId": "rtb-0", "DestinationCidrBlock": "192.168.7.0/30",
                               "NetworkInterfaceId": TO_A}),
        ("p0", "AssignPrivateIpAddresses", {"NetworkInterfaceId": TO_A, "PrivateIpAddress.1": "10.10.11.200"}),
        ("p0", "UnassignPrivateIpAddresses", {"NetworkInterfaceId": TO_B, "PrivateIpAddress.1": "10.10.11.80"}),
        ("p0", "ModifyNetworkInterfaceAttribute", {"NetworkInterfaceId": TO_B, "SourceDestCheck.Value": "false"}),
        ("lab", "DeleteRoute", {"RouteTableId": "rtb-0", "DestinationCidrBlock": "192.168.7.1/32"}),
    ],
)  # fmt: skip
def test_a_call_about_what_is_not_the_callers_is_seen(
    stage: BareStage, pod: str, action: str, params: dict[str, str]
) -> None:
    """Another's route, another pod's ENI, an address without a home there, a table that is not selected."""
    stage.ec2.called(pod, action, **params)
    assert len(list(calls.foreign(stage))) == 1


def test_calls_about_ones_own_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix that holds nothing but addresses with a home there, too."""
    stage = make_stage(monkeypatch, aggregate=True)
    at = {"RouteTableId": "rtb-1", "NetworkInterfaceId": TO_A}
    stage.ec2.called("p0", "CreateRoute", DestinationCidrBlock=f"{ROUTED.address}/32", **at)
    stage.ec2.called("p0", "DeleteRoute", DestinationCidrBlock=f"{BESIDE.address}/32", RouteTableId="rtb-0")
    stage.ec2.called("p1", "AssignPrivateIpAddresses", NetworkInterfaceId=TO_B, **{"PrivateIpAddress.1": OWN.address})
    assert not list(calls.foreign(stage))
    stage.ec2.called("p0", "CreateRoute", DestinationCidrBlock="192.168.7.0/30", **at)
    assert len(list(calls.foreign(stage))) == 1


# The pods' own -------------------------------------------------------------------------------------------------------


def test_a_rule_or_a_route_that_is_left_over_in_a_pod_is_seen(
    stage: BareStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is missing."""
    rules, routes = frozenset({("192.168.7.1/32", 101)}), frozenset({(4, 101, "default")})
    nothing: Any = (frozenset(), frozenset())
    there = {"p0": (rules, routes), "p1": nothing}
    for name, sidecar in stage.sidecars.items():
        sidecar.pod = type("Pod", (), {"ns": name})()
    monkeypatch.setattr("lab.chaos.leftovers.links.netlink", lambda ns, _: there[ns])
    assert not list(leftovers.pods(stage))
    there["p1"] = (rules, routes)
    assert len(list(leftovers.pods(stage))) == 2
    there["p0"], there["p1"] = nothing, nothing
    assert len(list(leftovers.pods(stage))) == 2


# The end -------------------------------------------------------------------------------------------------------------


def given_back(stage: BareStage, seconds: float = 0.1) -> list[str]:
    """What is wrong after a stop."""
    endings = {name: Ending(0, seconds) for name in stage.sidecars}
    return list(release.given_back(stage, stage.known, endings, stage.ec2.calls))


def test_what_a_stop_leaves_is_judged_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENI addresses are given back by ReleaseOnExit, routes by DeleteRoutesOnExit, and not otherwise."""
    for back in (True, False):
        stage = make_stage(monkeypatch, release=back, delete_routes=back)
        for floating in (ROUTED, OWN):
            stage.holds(floating, A)
        stage.ec2.route(ROUTED, TO_A, "p0")
        stage.ec2.assign(OWN, TO_A, "p0")
        assert len(given_back(stage)) == (2 if back else 0)
        stage.ec2.route(ROUTED, "", "p0")
        stage.ec2.assign(OWN, "", "p0")
        assert len(given_back(stage)) == (0 if back else 1)  # routes that are gone are compared as a whole


def test_who_runs_out_of_time_must_have_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that EC2 does not answer is given up."""
    stage = make_stage(monkeypatch)
    stage.holds(OWN, A)
    stage.ec2.assign(OWN, TO_A, "p0")
    assert given_back(stage, seconds=1.5)
    stage.ec2.called("p0", "UnassignPrivateIpAddresses", NetworkInterfaceId=TO_A, **{"PrivateIpAddress.1": OWN.address})
    assert not given_back(stage, seconds=1.5)
    assert given_back(stage, seconds=0.5)


def test_a_stop_that_gives_back_what_was_conceded_is_seen(stage: BareStage) -> None:
    """And what is none of its business at all."""
    unassign = {"NetworkInterfaceId": TO_A, "PrivateIpAddress.1": OWN.address}
    stage.holds(OWN, A)
    stage.ec2.called("p0", "UnassignPrivateIpAddresses", **unassign)
    assert not list(release.not_theirs(stage, stage.known, stage.ec2.calls))
    stage.holds(OWN, A, conceded_to=TO_B)
    stage.ec2.called("p0", "DeleteRoute", RouteTableId="rtb-0", DestinationCidrBlock="192.168.0.0/16")
    assert len(list(release.not_theirs(stage, stage.known, stage.ec2.calls))) == 2
