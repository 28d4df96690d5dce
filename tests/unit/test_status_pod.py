"""A plan, what was observed and what failed become the state of each address; by the real plan wherever it decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from tests.unit.builders import (
    DEFAULTS,
    NOW,
    OUTSIDE,
    OUTSIDE6,
    claim,
    claims,
    config,
    interface,
    mac,
    observed,
    state,
    table,
)
from vipmanager import status_pod
from vipmanager.apply import Key, Retry
from vipmanager.config import Config
from vipmanager.errors import ErrorKind, Failure
from vipmanager.model import Claims, ElasticIp, Observed, PodNetwork
from vipmanager.plan import make_plan
from vipmanager.plan.holdings import holdings
from vipmanager.status_pod import MOST_REASONS, Entry, Seen

OWN = "10.10.1.50"
ROUTED = f"{OUTSIDE}/32"
DENIED = Failure(ErrorKind.DENIED, "ec2:CreateRoute", "UnauthorizedOperation", "not authorized", "allow it")
THROTTLED = Failure(ErrorKind.RETRY, "ec2:CreateRoute", "RequestLimitExceeded", "too many")


def seen(
    world: Observed,
    before: Claims | None = None,
    settings: Config = DEFAULTS,
    retries: Mapping[Key, Retry] | None = None,
    *,
    looked: bool = True,
) -> Seen:
    """What a round comes to; the pod's own routes are in place."""
    plan = make_plan(world, before or {}, settings)
    pod = status_pod_network(plan.actions)
    world = replace(world, pod=pod)
    return Seen(make_plan(world, before or {}, settings), world, retries or {}, looked)


def status_pod_network(actions: Any) -> PodNetwork:
    """The pod's network as it is once these are applied."""
    routes = frozenset(action.route for action in actions if hasattr(action, "route"))
    return PodNetwork(routes, frozenset(action.rule for action in actions if hasattr(action, "rule")))


def entries(found: Seen) -> tuple[Entry, ...]:
    """Of a round."""
    standing = {address: holdings(claim, found.observed) for address, claim in found.plan.claims.items()}
    return status_pod.entries(found, standing)


def only(found: Seen) -> Entry:
    """The one address."""
    (entry,) = entries(found)
    return entry


def verdict(found: Seen) -> str:
    """Why it is not ready."""
    return status_pod.not_ready(found, entries(found))


def tables(*ours: str, others: Mapping[str, str] | None = None, free: tuple[str, ...] = ()) -> list[Any]:
    """Route tables whose route to OUTSIDE is ours, another's, or not there."""
    found = [table(each, {ROUTED: "eni-1"}) for each in ours]
    found += [table(each, {ROUTED: target}) for each, target in (others or {}).items()]
    return found + [table(each) for each in free]


NET1 = interface(1, OUTSIDE)
HELD = {"rtb-1": NOW, "rtb-2": NOW}


class TestStates:
    """One address in each state."""

    def test_claimed(self) -> None:
        found = seen(observed(NET1, tables=tables("rtb-1", "rtb-2")), claims(claim(OUTSIDE, held=HELD)))
        entry = only(found)
        assert (entry.state, entry.interface, entry.placement, entry.eni_id) == (
            "claimed",
            "net1",
            "host-route",
            "eni-1",
        )
        assert (entry.destination, entry.done, entry.total, entry.why, entry.due) == (ROUTED, 2, 2, "", None)
        assert verdict(found) == ""
        assert not status_pod.under_way(found, entries(found))

    @pytest.mark.parametrize("address", [OWN, "10.10.1.10"], ids=["secondary", "primary"])
    def test_an_own_address_is_claimed(self, address: str) -> None:
        """The primary one was there before its claim, and is not asked for again."""
        world = observed(
            interface(1, address), states={"eni-1": state(1, OWN, held_since=NOW if address == OWN else 1)}
        )
        found = seen(world, claims(claim(address)))
        assert (only(found).state, only(found).destination) == ("claimed", "")
        assert verdict(found) == ""

    def test_pending_while_writes_are_under_way(self) -> None:
        found = seen(observed(NET1, tables=tables("rtb-1", free=("rtb-2",))), claims(claim(OUTSIDE)))
        assert (only(found).state, only(found).why, only(found).done, only(found).total) == (
            "pending",
            "under way",
            1,
            2,
        )
        assert verdict(found) == f"{OUTSIDE} is pending: under way"
        assert status_pod.under_way(found, entries(found))

    def test_pending_with_the_gravest_reason_and_the_next_try(self) -> None:
        retries = {
            ("route", "rtb-1", ROUTED): Retry(9, NOW + 3, THROTTLED),
            ("route", "rtb-2", ROUTED): Retry(1, NOW + 40, DENIED),
        }
        found = seen(observed(NET1, tables=tables(free=("rtb-1", "rtb-2"))), claims(claim(OUTSIDE)), retries=retries)
        assert only(found).why == "ec2:CreateRoute: UnauthorizedOperation: not authorized; allow it"
        assert only(found).due == NOW + 3
        assert only(found).why in verdict(found)

    @pytest.mark.parametrize(
        ("address", "world", "need", "waits"),
        [
            (OUTSIDE, observed(NET1, tables=None), "TABLES", "reading route tables"),
            (OWN, observed(interface(1, OWN), states={}), "STATES", "reading the worker's ENIs"),
        ],
    )
    def test_pending_for_a_fact_and_why_it_cannot_be_read(
        self, address: str, world: Observed, need: str, waits: str
    ) -> None:
        assert only(seen(world)).why == waits
        found = seen(world, retries={("fact", need): Retry(1, NOW + 2, THROTTLED)})
        assert (only(found).state, only(found).due) == ("pending", NOW + 2)
        assert "RequestLimitExceeded" in only(found).why

    def test_pending_while_the_source_dest_check_is_on(self) -> None:
        """The routes are there, and the ENI drops what they bring."""
        world = observed(NET1, tables=tables("rtb-1"), states={"eni-1": state(1, check=True)})
        found = seen(world, claims(claim(OUTSIDE, held={"rtb-1": NOW})))
        assert (only(found).state, only(found).done, only(found).total) == ("pending", 1, 1)

    def test_pending_while_its_elastic_ip_is_not_bound(self) -> None:
        settings = config(Intf1EIPs=f"{OWN}=eipalloc-00000001")
        states = {"eni-1": state(1, OWN)}
        world = observed(interface(1, OWN), states=states)
        held = claims(claim(OWN, held={"eni-1": NOW}))
        assert verdict(seen(world, held, settings)) == "reading Elastic IPs"
        loose = replace(world, eips={"eipalloc-00000001": ElasticIp("eipalloc-00000001", "3.3.3.3", seen=NOW)})
        assert only(seen(loose, held, settings)).state == "pending"

    def test_conceded(self) -> None:
        world = observed(NET1, tables=tables(others={"rtb-1": "eni-9"}))
        found = seen(world, claims(claim(OUTSIDE, held={"rtb-1": NOW - 5})))
        assert (only(found).state, only(found).conceded_to) == ("conceded", "eni-9")
        assert verdict(found) == "", "its own probes must not restart what is to claim it back"
        assert not status_pod.under_way(found, entries(found))

    def test_withdrawing(self) -> None:
        """It does not keep a standby from being ready, nor is there anything to converge to."""
        world = observed(interface(1), tables=tables("rtb-1"), at=NOW + 60)
        world = replace(world, tables=(table("rtb-1", {ROUTED: "eni-1"}, seen=NOW + 50),))
        failed = {("route", "rtb-1", ROUTED): Retry(1, NOW + 70, DENIED)}
        gone = claims(claim(OUTSIDE, held={"rtb-1": NOW}, vanished=NOW))
        found = seen(world, gone, retries=failed)
        assert found.plan.actions
        assert (only(found).state, only(found).interface, only(found).due) == ("withdrawing", "", NOW + 70)
        assert "UnauthorizedOperation" in only(found).why
        assert "no longer on the pod" in only(seen(world, gone)).why
        assert verdict(found) == ""
        assert not status_pod.under_way(found, entries(found))

    def test_refused_for_want_of_a_placement(self) -> None:
        found = seen(observed(interface(1, "10.10.7.7")))
        assert (only(found).state, only(found).placement, only(found).eni_id) == ("refused", "", "eni-1")
        assert "SubnetBasedLoopbacks" in only(found).why
        assert "SubnetBasedLoopbacks" in verdict(found)

    def test_refused_because_the_settings_say_so_is_no_fault(self) -> None:
        found = seen(observed(interface(1, OWN)), settings=config(AssignIPs="False"))
        assert only(found).state == "refused"
        assert verdict(found) == ""

    def test_refused_for_want_of_a_route_table(self) -> None:
        found = seen(observed(NET1, tables=()), settings=config(VPCRTTag="none"))
        assert only(found).state == "refused"
        assert "selects no route table" in only(found).why
        assert "VPCRTTag" in verdict(found)

    def test_refused_because_its_subnet_goes_to_another_eni(self) -> None:
        settings = config(SubnetBasedLoopbacks="True")
        world = observed(interface(1, "10.10.7.7"), interface(2, "10.10.7.8"), tables=(), subnets=(subnet7(),))
        world = replace(world, tables=(table("rtb-1"),))
        found = entries(seen(world, settings=settings))
        assert [entry.state for entry in found] == ["pending", "refused"]
        assert "can be routed to one ENI only" in found[1].why

    def test_an_interface_whose_eni_is_not_known(self) -> None:
        world = observed(NET1, enis={})
        failed = Failure(ErrorKind.RETRY, "imds", "Timeout", "no answer")
        found = seen(world, retries={("fact", "discovery"): Retry(2, NOW + 1, failed)})
        assert (only(found).state, only(found).due) == ("pending", NOW + 1)
        assert "net1" in verdict(found) and "no answer" in verdict(found)
        assert status_pod.under_way(found, entries(found))

    def test_an_address_that_waits_for_the_subnets(self) -> None:
        found = seen(observed(interface(1, "10.10.7.7")), settings=config(SubnetBasedLoopbacks="True"))
        assert (only(found).state, only(found).why) == ("pending", "reading subnets")


def subnet7() -> Any:
    """10.10.7.0/24."""
    from tests.unit.builders import subnet

    return subnet(7)


class TestReadiness:
    """What else keeps a pod from being ready."""

    def test_a_standby_is_ready(self) -> None:
        assert verdict(seen(observed(interface(1), interface(2)))) == ""

    def test_a_pod_without_an_interface_is_no_standby(self) -> None:
        assert "made before Multus ran" in verdict(seen(observed()))
        strange = replace(interface(1), mac="02:00:00:00:ff:ff")
        asked = replace(observed(strange), foreign=frozenset((strange.mac,)))
        assert f"(seen: {strange.name})" in verdict(seen(asked))
        assert "made before Multus ran" not in verdict(seen(observed(strange))), "it is not known yet whose it is"

    def test_before_the_kernel_was_read(self) -> None:
        assert verdict(seen(observed(), looked=False)) == "the pod's network is being read"
        failed = Failure(ErrorKind.DENIED, "netlink", "EPERM", "not permitted", "give it NET_ADMIN")
        found = seen(observed(), retries={("kernel",): Retry(1, NOW, failed)}, looked=False)
        assert "NET_ADMIN" in verdict(found)

    def test_a_route_of_the_pod_that_is_missing(self) -> None:
        world = observed(NET1, tables=tables("rtb-1"))
        plan = make_plan(world, claims(claim(OUTSIDE, held={"rtb-1": NOW})), DEFAULTS)
        found = Seen(plan, world, {})
        assert plan.actions
        assert verdict(found).splitlines() == [f"{action}: under way" for action in plan.actions]

    def test_every_reason_is_given_once_and_not_too_many(self) -> None:
        world = observed(interface(1, *(f"192.168.1.{number}" for number in range(30))), tables=tables(free=("rtb-1",)))
        lines = verdict(seen(world, claims())).splitlines()
        assert len(lines) == MOST_REASONS + 1
        assert lines[0].startswith("192.168.1.0 is pending")
        assert lines[-1].startswith("and ")


class TestDocument:
    """As it is written."""

    def test_the_fields(self) -> None:
        world = observed(
            interface(1, OUTSIDE, OWN),
            interface(3, "192.168.9.9"),
            interface(4, "192.168.9.8", up=False),
            tables=tables("rtb-1", free=("rtb-2",)),
            states={"eni-1": state(1, OWN)},
            foreign=frozenset({mac(3)}),
            enis=observed(interface(1), interface(4)).enis,
        )
        discovery = Failure(ErrorKind.RETRY, "imds", "Timeout", "no answer")
        retries = {
            ("route", "rtb-2", ROUTED): Retry(2, NOW + 3, DENIED),
            ("fact", "discovery"): Retry(5, NOW + 9, discovery),
        }
        found = seen(world, claims(claim(OUTSIDE), claim(OWN, held={"eni-1": NOW})), retries=retries)
        shown = status_pod.document(found, entries(found), lambda at: at + 7.0, {OUTSIDE: 5.0, OWN: 6.0})
        assert shown["addresses"] == [
            {
                "name": OWN,
                "interface": "net1",
                "placement": "eni-address",
                "eni": "eni-1",
                "destination": "",
                "state": "claimed",
                "why": "",
                "next_retry": None,
                "conceded_to": "",
                "since": 6.0,
                "tables": None,
            },
            {
                "name": OUTSIDE,
                "interface": "net1",
                "placement": "host-route",
                "eni": "eni-1",
                "destination": ROUTED,
                "state": "pending",
                "why": "ec2:CreateRoute: UnauthorizedOperation: not authorized; allow it",
                "next_retry": NOW + 10.0,
                "conceded_to": "",
                "since": 5.0,
                "tables": {"done": 1, "total": 2},
            },
        ]
        assert shown["failing"] == [
            {"item": "fact discovery", "why": "imds: Timeout: no answer", "attempts": 5, "next_retry": NOW + 16.0}
        ]
        assert shown["ignored"] == [
            f"192.168.9.9 on net3: no ENI of this worker has its MAC {mac(3)}",
            "192.168.9.8 on net4: the interface is down",
        ]

    def test_families_and_numbers_are_in_order(self) -> None:
        world = observed(interface(1, OUTSIDE6, "192.168.0.10", "192.168.0.9"), tables=None)
        wanted = ["192.168.0.9", "192.168.0.10", OUTSIDE6]
        assert [entry.address for entry in entries(seen(world))] == list(map(ip_address, wanted))

    def test_a_long_message_is_cut(self) -> None:
        """EC2's encoded authorization messages are."""
        text = replace(DENIED, message="x" * 5000).brief
        assert len(text) < 500 and text.endswith("…; allow it")

    def test_tallies(self) -> None:
        world = observed(interface(1, OUTSIDE, "10.10.7.7"), tables=tables(free=("rtb-1",)))
        found = seen(world)
        assert status_pod.tally(entries(found)) == {("pending", "host-route"): 1, ("refused", "none"): 1}
        assert status_pod.problem_tally(found.plan.problems) == {("true",): 1, ("false",): 0}
