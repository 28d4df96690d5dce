"""Elastic IPs of pods: bound once the private address is ours, left to whoever takes them over, wrong ones named."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from tests.unit.builders import (
    NOW,
    OUTSIDE,
    claim,
    claims,
    config,
    holder,
    interface,
    observed,
    state,
    subnet,
    table,
)
from vipmanager.actions import AssignAddress, AssociateEip, Need, Plan
from vipmanager.model import Claim, Claims, ElasticIp, Observed
from vipmanager.plan import make_plan

OWN, OTHER = "10.10.1.50", "10.10.1.60"
EIP = "eipalloc-00000001"
SETTINGS = config(UseSBR="False", Intf1EIPs=f"{OWN}={EIP}")
BIND = AssociateEip(EIP, "eni-1", IPv4Address(OWN))
ASSIGN = AssignAddress("eni-1", ip_address(OWN))


def eip(eni_id: str = "", address: str = OWN, *, seen: float = NOW, live: bool = True) -> ElasticIp:
    """The Elastic IP as EC2 shows it; bound to nothing when no ENI is given."""
    bound = IPv4Address(address) if eni_id else None
    return ElasticIp(EIP, "3.3.3.3", eni_id, bound, seen, live and bool(eni_id))


def seen(known: ElasticIp | None = None, held: tuple[str, ...] = (OWN,), at: float = NOW, **facts: Any) -> Observed:
    """A pod with OWN on net1, whose ENI holds it; the Elastic IP as given."""
    given = {"states": {"eni-1": state(1, *held)}, "eips": {EIP: known or eip()}, **facts}
    return observed(interface(1, OWN), at=at, **given)


def plan(world: Observed, before: Claims | None = None) -> Plan:
    """With OWN mapped to the Elastic IP under Intf1EIPs."""
    return make_plan(world, before or {}, SETTINGS)


def ours(found: Plan) -> Claim:
    """The claim of OWN."""
    return found.claims[ip_address(OWN)]


def bound_before(**changes: Any) -> Claims:
    """The claim of OWN of whose Elastic IP it is known that it was ours."""
    since = NOW - 60
    return claims(claim(OWN, since=since, held={"eni-1": since + 1, EIP: since + 2}, **changes))


# Binding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "known",
    [
        eip(),
        eip("eni-9"),
        eip("eni-9", OTHER),
        eip("eni-9", live=False),
        eip("eni-1", OTHER),
        eip("eni-1", seen=NOW - 1),
    ],
    ids=["free", "moved along", "elsewhere", "dead", "of another address of ours", "seen before the claim"],
)
def test_it_is_bound_from_wherever_it_is(known: ElasticIp) -> None:
    found = plan(seen(known))
    assert (found.actions, found.needs, found.problems) == ((BIND,), frozenset(), ())
    assert EIP not in ours(found).held


def test_what_is_bound_already_costs_no_call() -> None:
    found = plan(seen(eip("eni-1")))
    assert (found.actions, found.needs, found.problems) == ((), frozenset(), ())
    assert ours(found).held == {"eni-1": NOW, EIP: NOW}


def test_it_is_asked_for_in_the_same_round_trip_as_everything_else() -> None:
    world = replace(seen(), states={}, eips={})
    found = plan(world)
    assert (found.actions, found.needs) == ((), frozenset({Need.STATES, Need.EIPS}))


def test_it_waits_for_its_private_address_and_is_asked_for_meanwhile() -> None:
    assert plan(seen(held=())).actions == (ASSIGN,)
    found = plan(replace(seen(held=()), eips={}))
    assert (found.actions, found.needs) == ((ASSIGN,), frozenset({Need.EIPS}))


def test_a_binding_older_than_the_address_on_our_eni_is_not_believed() -> None:
    """Both describes lagged, and we had to assign the address: what was bound to it went with its former holder."""
    states = {"eni-1": state(1, OWN, held_since=NOW + 1)}
    assert plan(seen(eip("eni-1", seen=NOW), states=states, at=NOW + 1)).actions == (BIND,)


def test_of_a_primary_address_it_is_bound_at_once() -> None:
    settings = config(UseSBR="False", Intf1EIPs=f"10.10.1.10={EIP}")
    world = observed(interface(1, "10.10.1.10"), states={"eni-1": state(1, seen=NOW - 9)}, eips={EIP: eip()})
    assert make_plan(world, {}, settings).actions == (AssociateEip(EIP, "eni-1", IPv4Address("10.10.1.10")),)


def test_without_a_mapped_address_nothing_is_asked() -> None:
    """A shared ConfigMap names the addresses of all pods."""
    settings = config(UseSBR="False", Intf1EIPs=f"{OTHER}={EIP}", Intf2EIPs="10.10.2.60=eipalloc-00000002")
    world = replace(seen(), eips={})
    found = make_plan(world, {}, settings)
    assert (found.actions, found.needs, found.problems) == ((), frozenset(), ())


def test_two_addresses_have_one_each() -> None:
    other = "eipalloc-00000002"
    settings = config(UseSBR="False", Intf1EIPs=f"{OWN}={EIP},{OTHER}={other}")
    states = {"eni-1": state(1, OWN, OTHER)}
    world = observed(
        interface(1, OWN, OTHER), states=states, eips={EIP: eip(), other: replace(eip(), allocation_id=other)}
    )
    found = make_plan(world, {}, settings)
    assert found.actions == (BIND, AssociateEip(other, "eni-1", IPv4Address(OTHER)))


def test_an_interface_that_is_down_binds_nothing() -> None:
    world = replace(seen(), interfaces=(interface(1, OWN, up=False),))
    found = plan(world)
    assert (found.actions, found.problems) == ((), ())


# Left alone ----------------------------------------------------------------------------------------------------------


def test_what_another_live_eni_took_over_is_left_there_and_said() -> None:
    for known in (eip("eni-9", OTHER), eip("eni-1", OTHER)):
        found = plan(seen(known), bound_before())
        assert found.actions == ()
        (problem,) = found.problems
        assert problem.subject == "Intf1EIPs" and not problem.fatal
        assert all(word in problem.text for word in (EIP, "3.3.3.3", OWN, known.eni_id, OTHER))
        assert EIP in ours(found).held


@pytest.mark.parametrize("known", [eip(), eip("eni-9", OTHER, live=False)], ids=["free", "dead"])
def test_what_nobody_live_has_is_bound_again(known: ElasticIp) -> None:
    found = plan(seen(known), bound_before())
    assert (found.actions, found.problems) == ((BIND,), ())


def test_an_address_that_comes_back_takes_its_elastic_ip_back() -> None:
    found = plan(seen(eip("eni-9", OTHER)), bound_before(vanished=NOW - 1))
    assert (found.actions, found.problems) == ((BIND,), ())


def test_another_elastic_ip_in_the_settings_is_bound() -> None:
    since = NOW - 60
    before = claims(claim(OWN, since=since, held={"eni-1": since + 1, "eipalloc-00000009": since + 2}))
    assert plan(seen(eip("eni-9", OTHER)), before).actions == (BIND,)


def test_a_conceded_address_leaves_its_elastic_ip_alone() -> None:
    before = bound_before(conceded_to="eni-9", conceded_at=NOW - 1)
    world = seen(eip("eni-1"), held=(), holders={ip_address(OWN): holder("eni-9")})
    for known in (eip(), eip("eni-9"), eip("eni-1")):
        found = plan(replace(world, eips={EIP: known}), before)
        assert (found.actions, found.problems) == ((), ())
    for unknown in ({}, {EIP: None}):
        found = plan(replace(world, eips=unknown), before)
        assert (found.needs, found.problems) == (frozenset(), ())


def test_an_address_that_is_being_taken_over_leaves_it_alone() -> None:
    """The Elastic IP went along; the address is conceded as soon as its holder is known."""
    found = plan(seen(eip("eni-9"), held=()), bound_before())
    assert (found.actions, found.needs, found.problems) == ((), frozenset({Need.HOLDERS}), ())


def test_an_address_that_left_the_pod_leaves_it_alone() -> None:
    world = replace(seen(eip("eni-9", OTHER)), interfaces=(interface(1),))
    found = plan(world, bound_before())
    assert [action for action in found.actions if isinstance(action, AssociateEip)] == []
    assert found.problems == ()


def test_a_claim_that_is_taken_up_again_binds_it_again() -> None:
    """Whoever had the address is gone: the Elastic IP was bound to that."""
    before = bound_before(conceded_to="eni-9", conceded_at=NOW - 1)
    world = seen(eip("eni-9"), holders={ip_address(OWN): holder("")})
    found = plan(world, before)
    assert found.actions == (BIND,) and not ours(found).conceded_to


# Wrong settings ------------------------------------------------------------------------------------------------------


def test_an_elastic_ip_that_does_not_exist_is_named() -> None:
    found = plan(seen(eips={EIP: None}))
    (problem,) = found.problems
    assert found.actions == () and problem.fatal
    assert problem.subject == "Intf1EIPs" and f"{OWN}={EIP}" in problem.text and "correct" in problem.text


def test_a_mapping_under_another_index_is_warned_of() -> None:
    settings = config(UseSBR="False", Intf2EIPs=f"{OWN}={EIP}")
    found = make_plan(replace(seen(), eips={}), {}, settings)
    (problem,) = found.problems
    assert (found.actions, found.needs) == ((), frozenset()) and not problem.fatal
    assert problem.subject == "Intf2EIPs" and all(word in problem.text for word in (OWN, "net1", "Intf1EIPs"))


def test_an_address_named_for_two_indexes_takes_that_of_its_interface() -> None:
    settings = config(UseSBR="False", Intf1EIPs=f"{OWN}={EIP}", Intf2EIPs=f"{OWN}=eipalloc-00000002")
    found = make_plan(seen(), {}, settings)
    assert (found.actions, found.problems) == ((BIND,), ())


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        (OUTSIDE, {}, "host-route"),
        ("10.10.2.50", {"SubnetBasedLoopbacks": "True"}, "subnet-route"),
        (OWN, {"AssignIPs": "False"}, 'AssignIPs: "False"'),
    ],
)
def test_an_address_that_is_not_assigned_to_the_eni_can_have_none(text: str, more: dict[str, str], said: str) -> None:
    settings = config(UseSBR="False", Intf1EIPs=f"{text}={EIP}", **more)
    world = observed(interface(1, text), tables=[table("rtb-1")], subnets=(subnet(1), subnet(2)))
    found = make_plan(world, {}, settings)
    (problem,) = [problem for problem in found.problems if problem.subject == "Intf1EIPs"]
    assert problem.fatal and text in problem.text and said in problem.text
    assert found.needs == frozenset() and not any(isinstance(action, AssociateEip) for action in found.actions)


def test_an_address_without_placement_has_that_one_problem() -> None:
    settings = config(UseSBR="False", Intf1EIPs=f"10.10.1.2={EIP}")
    (problem,) = make_plan(observed(interface(1, "10.10.1.2")), {}, settings).problems
    assert "reserved" in problem.text


def test_of_an_address_on_two_interfaces_the_one_that_has_it_counts() -> None:
    settings = config(UseSBR="False", Intf1EIPs=f"{OWN}={EIP}")
    world = observed(interface(1, OWN), interface(3, OWN, on=1), states={"eni-1": state(1, OWN)}, eips={EIP: eip()})
    found = make_plan(world, {}, settings)
    assert found.actions == (BIND,)
    assert [problem.subject for problem in found.problems] == [f"{OWN} on net3"]
