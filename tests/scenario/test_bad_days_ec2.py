"""The issue's "Bad input and bad days", EC2's part: refusals, quotas, outages, lag, and others who write too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from lab.ec2.quotas import AddressLimit, Quotas
from lab.lab import Lab
from tests.scenario.support import (
    ONE_AZ,
    assert_answers,
    eni,
    eni_state,
    everywhere,
    holder,
    init,
    own_address6,
    point,
    remove_route,
    sidecar,
    start,
    targets,
    until,
    wait_routed,
)

pytestmark = pytest.mark.namespaces

ONE, TWO = "192.168.0.1", "192.168.0.2"
INSIDE = "10.10.11.77"

# Denied actions


@dataclass(frozen=True)
class Denial:
    """A denied action, what its message names (one of them), and the address that is delivered in spite."""

    action: str
    resources: Callable[[Lab], list[str]]
    delivered: str


DENIALS = (
    Denial("CreateRoute", lambda lab: lab.route_table_ids, INSIDE),
    Denial("ReplaceRoute", lambda lab: lab.route_table_ids, INSIDE),
    Denial("ModifyNetworkInterfaceAttribute", lambda lab: [eni(lab, "a", 1)], INSIDE),
    Denial("AssignPrivateIpAddresses", lambda lab: [eni(lab, "a", 1)], ONE),
    Denial("DescribeRouteTables", lambda _: ["on *"], INSIDE),
    Denial("DescribeNetworkInterfaces", lambda _: ["on *"], ONE),
)


@pytest.mark.parametrize("denial", DENIALS, ids=lambda denial: denial.action)
def test_a_denied_action_is_named_and_the_rest_goes_on(lab: Lab, denial: Denial) -> None:
    """A sidecar; once the policy is mended, it completes by itself what was denied."""
    if denial.action == "ReplaceRoute":
        point(lab, f"{ONE}/32", eni(lab, "b", 1))
    lab.ec2.faults.deny(f"ec2:{denial.action}")
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{INSIDE}/24"]})
    run = sidecar(pod)
    failed = run.wait_mention("failed", f"ec2:{denial.action}")
    assert failed["kind"] == "denied"
    assert any(resource in failed["remedy"] for resource in denial.resources(lab)), run.text
    if denial.delivered == INSIDE:
        until(lambda: holder(lab, INSIDE) == eni(lab, "a", 1), "the address assigned")
    else:
        wait_routed(lab, f"{ONE}/32", eni(lab, "a", 1))

    lab.ec2.faults.allow_all()
    for address in (ONE, INSIDE):
        run.wait("claimed", address=address)
    until(lambda: not eni_state(lab, eni(lab, "a", 1)).source_dest_check, "the check turned off")
    assert_answers(lab, ONE, INSIDE)


@pytest.mark.parametrize("denial", DENIALS, ids=lambda denial: denial.action)
def test_an_init_run_that_is_denied_an_action_fails_with_what_is_missing(lab: Lab, denial: Denial) -> None:
    """At once, not at InitTimeout: nobody gains by waiting."""
    if denial.action == "ReplaceRoute":
        point(lab, f"{ONE}/32", eni(lab, "b", 1))
    lab.ec2.faults.deny(f"ec2:{denial.action}")
    run = start(lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{INSIDE}/24"]}), "init")
    assert run.ends() == 1
    missing = run.events("missing")
    assert all(f"ec2:{denial.action}" in event["why"] for event in missing), run.text
    assert missing
    if denial.action.endswith("Route"):
        assert {event["item"].split()[1] for event in missing} == set(lab.route_table_ids)


# Nothing to write to, nowhere to put it


def test_a_tag_that_selects_no_table_is_named(lab: Lab) -> None:
    """A sidecar delivers the rest, and the routes once a table has the tag."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{INSIDE}/24"]})
    run = sidecar(pod, INSIDE, VPCRTTag="floating=yes", ResyncInterval=1)
    run.wait_mention("VPCRTTag", "floating=yes")
    assert not [call for call in lab.ec2.calls if call.action == "CreateRoute"]
    tags = [{"Key": "floating", "Value": "yes"}]
    lab.ec2.admin().create_tags(Resources=lab.route_table_ids, Tags=tags)
    run.wait("claimed", address=ONE)
    assert_answers(lab, ONE, INSIDE)


def test_an_init_run_whose_tag_selects_no_table_fails(lab: Lab) -> None:
    """It would deliver nothing."""
    run = start(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}), "init", VPCRTTag="floating=yes")
    assert run.ends() == 1
    assert [event for event in run.events("missing") if "VPCRTTag" in event["item"]]


@pytest.mark.parametrize("subnet_routes", ["True", "False"])
def test_an_address_in_the_vpc_but_in_no_subnet_is_named(lab: Lab, subnet_routes: str) -> None:
    """With the setting that matters, and the address beside it is delivered."""
    nowhere = "10.10.200.7"
    pod = lab.pod("pod", "a", {"net1": [f"{nowhere}/32", f"{ONE}/32"]})
    run = start(pod, "init", SubnetBasedLoopbacks=subnet_routes)
    assert run.ends() == 1
    (problem,) = run.events("problem")
    assert problem["of"].startswith(f"{nowhere} ")
    assert ("SubnetBasedLoopbacks" in problem["why"]) == (subnet_routes == "False")
    assert targets(lab, f"{nowhere}/32") == {}
    assert_answers(lab, ONE)


@pytest.mark.parametrize("address", ["10.10.11.2", "10.10.11.255"])
def test_an_address_that_aws_reserves_is_named(lab: Lab, address: str) -> None:
    """The first four and the last of a subnet can be no ENI's."""
    run = start(lab.pod("pod", "a", {"net1": [f"{address}/32", f"{ONE}/32"]}), "init")
    assert run.ends() == 1
    assert run.events("missing")[0]["item"].startswith(f"{address} ")
    assert not lab.ec2.calls_since(0, "AssignPrivateIpAddresses")
    assert_answers(lab, ONE)


# Quotas


def test_a_full_route_table_is_named_with_its_number_of_routes(make_lab: Callable[..., Lab]) -> None:
    """Two routes fit into each table, three addresses want one; the other family has a quota of its own."""
    lab = make_lab(quotas=Quotas(routes_per_table=2))
    for number, table in enumerate(lab.route_table_ids):
        point(lab, f"172.31.{number}.0/24", eni(lab, "b", 1), [table])
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod, ONE)
    for cidr in (f"{TWO}/32", "fd12::2/128"):
        pod.add_address("net1", cidr)
    failed = run.wait_mention("failed", "RouteLimitExceeded")
    run.wait("claimed", address="fd12::2")
    assert failed["full_with"] == 2
    assert "L-93826ACB" in failed["remedy"]
    assert any(table in failed["item"] + failed["why"] for table in lab.route_table_ids)
    assert targets(lab, f"{TWO}/32") == {}
    assert_answers(lab, ONE, "fd12::2")

    for number, table in enumerate(lab.route_table_ids):
        remove_route(lab, f"172.31.{number}.0/24", table)
    run.wait("claimed", address=TWO)
    assert_answers(lab, TWO)


def test_an_eni_full_of_addresses_is_named_with_their_number(make_lab: Callable[..., Lab]) -> None:
    """Its own primary address and two others fit; a routed one that comes with the third is none of that quota's."""
    lab = make_lab(quotas=Quotas(addresses=AddressLimit(ipv4=3, ipv6=15)))
    first, second, third = (f"10.10.11.{number}" for number in (77, 78, 79))
    pod = lab.pod("pod", "a", {"net1": [f"{first}/32", f"{second}/32"]})
    run = sidecar(pod, first, second)
    for cidr in (f"{third}/32", f"{ONE}/32"):
        pod.add_address("net1", cidr)
    failed = run.wait("failed", code="PrivateIpAddressLimitExceeded", full_with=3)
    assert third in failed["item"]
    assert eni(lab, "a", 1) in failed["item"]
    run.wait("claimed", address=ONE)
    assert holder(lab, third) is None
    assert_answers(lab, ONE, first, second)


def test_addresses_that_do_not_all_fit_are_delivered_as_far_as_they_do(make_lab: Callable[..., Lab]) -> None:
    """Three addresses at once, two places: EC2 refuses the batch whole, which must not cost the two their place."""
    lab = make_lab(quotas=Quotas(addresses=AddressLimit(ipv4=3, ipv6=15)))
    addresses = {f"10.10.11.{number}" for number in (77, 78, 79)}
    pod = lab.pod("pod", "a", {"net1": [f"{address}/24" for address in addresses]})
    run = start(pod, "init")
    assert run.ends() == 1
    delivered = {each for each in addresses if holder(lab, each) == eni(lab, "a", 1)}
    assert len(delivered) == 2
    assert_answers(lab, *delivered)
    assert {event["item"].split()[-1] for event in run.events("missing")} == addresses - delivered


# Outages


OUTAGES: Mapping[str, Callable[[Lab], None]] = {
    "throttled": lambda lab: lab.ec2.faults.throttle("*Route", bucket=2, refill=10.0),
    "everything throttled": lambda lab: lab.ec2.faults.throttle("*", bucket=2, refill=8.0),
    "internal errors": lambda lab: lab.ec2.faults.fail("*", times=12, status=500),
    "unavailable": lambda lab: lab.ec2.faults.fail("*", times=12, status=503),
    "connections lost": lambda lab: lab.ec2.faults.reset("*", times=12),
    "answers lost": lambda lab: lab.ec2.faults.fail_after("*", times=12),
    "slow": lambda lab: lab.ec2.faults.hang("*", 0.5, times=6),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_delays_an_init_run_and_nothing_else(make_lab: Callable[..., Lab], outage: str) -> None:
    """A take-over of a route, new ones, and of addresses of both families; each call may fail or be lost."""
    lab = make_lab(workers=ONE_AZ)
    address6 = own_address6(lab, "a", 1, 0x77)
    point(lab, f"{ONE}/32", eni(lab, "b", 1))
    admin = lab.ec2.admin()
    admin.assign_private_ip_addresses(NetworkInterfaceId=eni(lab, "c", 1), PrivateIpAddresses=[INSIDE])
    admin.assign_ipv6_addresses(NetworkInterfaceId=eni(lab, "c", 1), Ipv6Addresses=[address6])
    OUTAGES[outage](lab)
    init(lab.pod("pod", "a", {"net1": [f"{ONE}/32", f"{TWO}/32", f"{INSIDE}/24", f"{address6}/128"]}))
    lab.ec2.faults.clear()
    for destination in (f"{ONE}/32", f"{TWO}/32"):
        assert targets(lab, destination) == everywhere(lab, eni(lab, "a", 1))
    assert holder(lab, INSIDE) == holder(lab, address6) == eni(lab, "a", 1)
    assert_answers(lab, ONE, TWO, INSIDE, address6)


def test_an_endpoint_that_never_answers_ends_an_init_run_with_failure(lab: Lab) -> None:
    """Each call has a time of its own, so the run ends though no call ever does."""
    lab.ec2.faults.block()
    run = start(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}), "init", InitTimeout=1)
    assert run.ends() == 1
    assert run.events("missing")
    assert targets(lab, f"{ONE}/32") == {}


def test_a_sidecar_survives_an_outage_of_everything(lab: Lab) -> None:
    """EC2 resets each connection while an address comes; the one that was there stays."""
    pod = lab.pod("pod", "a", {"net1": [f"{ONE}/32"]})
    run = sidecar(pod, ONE)
    lab.ec2.faults.reset("*", times=None)
    pod.add_address("net1", f"{TWO}/32")
    run.wait_mention("failed", "ec2:CreateRoute")
    lab.ec2.faults.clear()
    run.wait("claimed", address=TWO)
    assert_answers(lab, ONE, TWO)


def test_a_look_that_fails_is_repeated(lab: Lab) -> None:
    """A standby reads the tables before it is due; one failure must neither be the end of that nor keep it busy."""
    lab.ec2.faults.fail("DescribeRouteTables", times=2)
    pod = lab.pod("pod", "a", {"net1": []})
    run = sidecar(pod, ResyncInterval=0)
    until(
        lambda: [call.status for call in lab.ec2.calls_since(0, "DescribeRouteTables")] == [503, 503, 200],
        lambda: f"a third call:\n{run.text}",
    )
    pod.add_address("net1", f"{ONE}/32")
    run.wait("claimed", address=ONE)
    assert_answers(lab, ONE)


# Lag, and others who write too


def test_a_lagging_describe_misleads_an_init_run_for_a_call_only(lab: Lab) -> None:
    """It does not show the former pod's routes yet, so create is tried first, and answered RouteAlreadyExists."""
    before = time.monotonic()
    interfaces = {"net1": [f"{ONE}/32", "fd12::1/128"]}
    init(lab.pod("first", "a", interfaces))

    def show_how_it_was(_: Mapping[str, str]) -> None:
        lab.ec2.lag = time.monotonic() - before

    lab.ec2.faults.before("Describe*", show_how_it_was, times=None)
    mark = lab.ec2.mark()
    init(lab.pod("second", "b", interfaces))
    assert {call.error for call in lab.ec2.calls_since(mark, "CreateRoute")} == {"RouteAlreadyExists"}
    for destination in (f"{ONE}/32", "fd12::1/128"):
        assert targets(lab, destination) == everywhere(lab, eni(lab, "b", 1))
    assert_answers(lab, ONE, "fd12::1")


def test_a_lagging_describe_makes_no_sidecar_concede_what_it_just_took(lab: Lab) -> None:
    """Reads two seconds old show the former holder, alive; a resync each second believes its own writes rather."""
    init(lab.pod("former", "b", {"net1": [f"{ONE}/32"]}))
    held = time.monotonic()

    def show_how_it_was(_: Mapping[str, str]) -> None:
        lab.ec2.lag = min(2.0, time.monotonic() - held)

    pod = lab.pod("pod", "a", {"net1": [f"{TWO}/32"]})
    run = sidecar(pod, TWO, ResyncInterval=1)
    lab.ec2.faults.before("Describe*", show_how_it_was, times=None)
    pod.add_address("net1", f"{ONE}/32")
    run.wait("claimed", address=ONE)
    mark = lab.ec2.mark()
    until(lambda: len(lab.ec2.calls_since(mark, "DescribeRouteTables")) >= 4, "four looks at the tables")
    assert run.events("conceded") == []
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))
    assert_answers(lab, ONE, TWO)


def test_a_route_that_appears_under_us_is_replaced(lab: Lab) -> None:
    """Somebody creates it between our describe and our call, in every table."""
    stale = eni(lab, "b", 1)
    lab.ec2.faults.before(
        "CreateRoute", lambda params: point(lab, f"{ONE}/32", stale, [params["RouteTableId"]]), times=None
    )
    init(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}))
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))
    assert_answers(lab, ONE)


def test_a_route_that_vanishes_under_us_is_created(lab: Lab) -> None:
    """Somebody deletes it between our describe and our call, in every table."""
    point(lab, f"{ONE}/32", eni(lab, "b", 1))
    lab.ec2.faults.before(
        "ReplaceRoute", lambda params: remove_route(lab, f"{ONE}/32", params["RouteTableId"]), times=None
    )
    init(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}))
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))
    assert_answers(lab, ONE)


def test_a_route_that_comes_and_goes_under_us_ends_as_ours(lab: Lab) -> None:
    """It appears before the create and is gone again before the replace that follows, once in each table."""
    tables = len(lab.route_table_ids)
    stale = eni(lab, "b", 1)
    lab.ec2.faults.before(
        "CreateRoute", lambda params: point(lab, f"{ONE}/32", stale, [params["RouteTableId"]]), times=tables
    )
    lab.ec2.faults.before(
        "ReplaceRoute", lambda params: remove_route(lab, f"{ONE}/32", params["RouteTableId"]), times=tables
    )
    init(lab.pod("pod", "a", {"net1": [f"{ONE}/32"]}))
    assert targets(lab, f"{ONE}/32") == everywhere(lab, eni(lab, "a", 1))
    assert_answers(lab, ONE)


def test_an_address_that_another_eni_takes_under_us_is_ours_in_the_end(make_lab: Callable[..., Lab]) -> None:
    """IPv6 has no reassignment: the assign is refused, the new holder is looked up and the address freed there."""
    lab = make_lab(workers=ONE_AZ)
    address6 = own_address6(lab, "a", 1, 0x77)

    def take(_: Mapping[str, str]) -> None:
        lab.ec2.admin().assign_ipv6_addresses(NetworkInterfaceId=eni(lab, "c", 1), Ipv6Addresses=[address6])

    lab.ec2.faults.before("AssignIpv6Addresses", take)
    init(lab.pod("pod", "a", {"net1": [f"{address6}/128"]}))
    assert holder(lab, address6) == eni(lab, "a", 1)
    assert_answers(lab, address6)


def test_an_address_that_is_another_enis_primary_one_is_named(make_lab: Callable[..., Lab]) -> None:
    """EC2 never moves a primary address; what stands beside it is delivered."""
    lab = make_lab(workers=ONE_AZ)
    primary = lab.workers["c"].eni(1).primary_ip
    run = start(lab.pod("pod", "a", {"net1": [f"{primary}/24", f"{INSIDE}/24"]}), "init")
    assert run.ends() == 1
    assert [event for event in run.events("missing") if primary in event["item"]]
    assert holder(lab, primary) == eni(lab, "c", 1)
    assert_answers(lab, INSIDE)
