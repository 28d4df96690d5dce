"""The lab's EC2 over HTTP: the faults that tests can ask for."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError, ConnectionError, ReadTimeoutError

from tests.contract.lab_world import OUTSIDE, OUTSIDE6, World, assign, client, in_table, refused, until


def test_a_denied_call_names_principal_action_and_resource(world: World) -> None:
    faults = world.ec2.faults
    world.create()
    faults.deny("ec2:ReplaceRoute", "ec2:DescribeVpcs")
    message = refused(world.replace, "UnauthorizedOperation", 403)
    table = f"arn:aws:ec2:us-east-2:{world.ec2.account_id}:route-table/{world.main_table}"
    assert message == (
        "You are not authorized to perform this operation. "
        f"User: {world.ec2.keys.base.principal} is not authorized to perform: ec2:ReplaceRoute on resource: {table} "
        "because no identity-based policy allows the ec2:ReplaceRoute action"
    )
    assert "on resource" not in refused(world.api.describe_vpcs, "UnauthorizedOperation", 403)
    faults.allow_all()
    world.replace()


def test_the_next_calls_fail_before_they_are_applied(world: World) -> None:
    faults = world.ec2.faults
    faults.fail("CreateRoute", times=2)
    faults.fail("CreateRoute", "InternalError", status=500, when=lambda params: "DestinationIpv6CidrBlock" in params)
    refused(world.create, "Unavailable", 503)
    refused(world.create, "Unavailable", 503)
    assert world.route(OUTSIDE) is None
    world.create()
    refused(lambda: world.create(OUTSIDE6), "InternalError", 500)
    world.create(OUTSIDE6)


def test_an_answer_can_be_lost_after_the_call_is_applied(world: World) -> None:
    world.ec2.faults.fail_after("CreateRoute")
    with pytest.raises((ConnectionError, ConnectionClosedError)):
        world.create()
    assert world.route(OUTSIDE)
    assert (world.ec2.calls[0].action, world.ec2.calls[0].status) == ("CreateRoute", 0)


def test_a_connection_can_be_reset_before_the_call_is_applied(world: World) -> None:
    world.ec2.faults.reset("CreateRoute")
    with pytest.raises((ConnectionError, ConnectionClosedError)):
        world.create()
    assert world.route(OUTSIDE) is None
    world.create()


def test_an_answer_can_be_late(world: World) -> None:
    world.ec2.faults.hang("CreateRoute", seconds=0.2)
    started = time.monotonic()
    world.create()
    assert time.monotonic() - started >= 0.2
    world.create(OUTSIDE6)
    assert time.monotonic() - started < 2


def test_an_unreachable_endpoint_never_answers(world: World) -> None:
    impatient = client(world.ec2, read_timeout=0.2, connect_timeout=0.2)
    world.ec2.faults.block()
    with pytest.raises(ReadTimeoutError):
        impatient.create_route(**in_table(world.main_table, OUTSIDE), NetworkInterfaceId=world.enis[0])
    world.ec2.faults.unblock()
    until(lambda: bool(world.ec2.calls))
    assert world.route(OUTSIDE) is None  # what was sent while it was blocked is lost
    world.create()


def test_a_race_can_be_made_just_before_a_call_is_applied(world: World) -> None:
    """Somebody creates the route between our describe and our create."""
    seen: list[dict[str, str]] = []

    def meanwhile(params: Any) -> None:
        seen.append(dict(params))
        world.ec2.admin().create_route(**in_table(world.main_table, OUTSIDE), NetworkInterfaceId=world.enis[1])

    world.ec2.faults.before("CreateRoute", meanwhile)
    refused(world.create, "RouteAlreadyExists")
    assert world.route(OUTSIDE)["NetworkInterfaceId"] == world.enis[1]
    assert seen[0]["DestinationCidrBlock"] == OUTSIDE


def test_only_the_calls_of_one_caller_can_be_raced_and_several_things_can_happen_before_a_call(world: World) -> None:
    """What is planned twice happens twice."""
    user = world.ec2.keys.add_user("somebody")
    seen: list[str] = []
    world.ec2.faults.before("*", lambda _: seen.append("somebody's"), times=None, by=lambda key: key == user.access_key)
    world.ec2.faults.before("*", lambda _: seen.append("anybody's"), times=None)
    world.ec2.faults.before("*", lambda _: seen.append("once"))
    world.table()
    assert seen == ["anybody's", "once"]
    client(world.ec2, keys=user).describe_route_tables()
    assert seen == ["anybody's", "once", "somebody's", "anybody's"]


def test_a_call_can_be_applied_after_its_caller_has_given_up(world: World) -> None:
    """The caller's time is over; the call is not."""
    held = world.ec2.faults.hold("CreateRoute", seconds=0.5)
    applied: list[float] = []
    world.ec2.on_change(lambda _: applied.append(time.monotonic()))
    started = time.monotonic()
    impatient = client(world.ec2, read_timeout=0.1)
    with pytest.raises(ReadTimeoutError):
        impatient.create_route(**in_table(world.main_table, OUTSIDE), NetworkInterfaceId=world.enis[0])
    until(lambda: bool(applied))
    assert applied[0] - started >= 0.5
    assert world.route(OUTSIDE)
    assert held.hits == 1


def test_a_fault_tells_how_many_calls_it_has_hit(world: World) -> None:
    """None of them is as good as no fault."""
    throttle, failure = world.ec2.faults.throttle("Describe*", bucket=1), world.ec2.faults.fail("CreateRoute")
    world.table()
    assert (throttle.hits, failure.hits) == (0, 0)
    refused(world.table, "RequestLimitExceeded", 503)
    refused(world.create, "Unavailable", 503)
    assert (throttle.hits, failure.hits) == (1, 1)


def test_half_of_a_list_of_addresses_can_be_applied_before_an_error(world: World) -> None:
    """Of one address, and of what lists none, nothing is withheld."""
    world.ec2.faults.partial("*", None)
    held = len(world.ipv4(0))
    assign(world, 0, "10.10.1.70")
    refused(lambda: assign(world, 0, "10.10.1.71", "10.10.1.72", "10.10.1.73"), "InternalError", 500)
    assert world.ipv4(0)[held:] == ["10.10.1.70", "10.10.1.71", "10.10.1.72"]
    world.create()


def test_a_fault_can_be_ended_alone(world: World) -> None:
    faults = world.ec2.faults
    throttle, failure = faults.throttle("*", bucket=0, refill=0.001), faults.fail("*", times=None)
    refused(world.table, "Unavailable", 503)
    failure()
    failure()
    refused(world.table, "RequestLimitExceeded", 503)
    throttle()
    world.table()


def test_cleared_faults_are_gone(world: World) -> None:
    faults = world.ec2.faults
    faults.deny("ec2:*")
    faults.fail("*", times=None)
    faults.throttle("*", bucket=0, refill=0.001)
    refused(world.table, "Unavailable", 503)
    faults.clear()
    world.table()


def test_latency_is_spent_around_the_call_and_in_parallel(world: World) -> None:
    world.ec2.latency = 0.2
    mark, started = world.ec2.mark(), time.monotonic()
    threads = [threading.Thread(target=world.create, args=(f"192.168.9.{number}/32",)) for number in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: time.monotonic() - started > 0.05)
    assert len(world.ec2.state().route_tables[world.main_table].routes) == 2  # not applied before half of it
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 0.55
    calls = world.ec2.calls_since(mark, "CreateRoute")
    assert len(calls) == 3
    assert all(call.finished - call.started >= 0.2 for call in calls)
    world.ec2.faults.deny("ec2:CreateRoute")
    mark = world.ec2.mark()
    refused(world.create, "UnauthorizedOperation", 403)
    (call,) = world.ec2.calls_since(mark)
    assert call.finished - call.started >= 0.2  # a refusal is no faster
