"""What EC2 does to the holder of the lease, in simulated time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.doubles.faults import Call
from tests.unit.agents import events
from tests.unit.node_builders import EIP, OUTSIDE, VIP, settings
from tests.unit.node_driver import MODES, Worlds, started
from vipmanager.apply import PASSING
from vipmanager.clients import ec2_errors
from vipmanager.errors import CallError, ErrorKind
from vipmanager.observe import SETTLE
from vipmanager.read_node import RESYNC

LONGEST_RESYNC = 1.2 * RESYNC + 1.0


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    made = Worlds()
    yield made
    made.close()


def test_throttling_in_the_middle_of_a_move(worlds: Worlds) -> None:
    world = started(worlds, settings(OUTSIDE, "route"), "ab")
    world.ec2.faults.fail("replace_route", code="RequestLimitExceeded", times=8)
    world.nodes[0].kill()
    world.until(world.delivered)
    assert set(world.ec2.targets(f"{OUTSIDE}/32").values()) == {"eni-2"}
    called = world.ec2.faults.named("replace_route")
    assert len(called) == 10  # eight that were refused, and one for each table


def test_repetitions_wait_with_jitter(worlds: Worlds) -> None:
    world = worlds(settings())
    tries: list[float] = []

    def refuse(_: Call) -> None:
        tries.append(world.now)
        if len(tries) < 6:
            raise refusal("AssignPrivateIpAddresses", "RequestLimitExceeded")

    world.ec2.faults.before("assign", refuse, times=None)
    world.start(1)
    world.until(world.delivered)
    waits = [after - before - world.trip for before, after in itertools.pairwise(tries)]
    assert len(waits) == 5
    assert all(0 <= wait <= PASSING.base * 2**number + 0.01 for number, wait in enumerate(waits, 1))
    assert len({round(wait, 3) for wait in waits}) > 1


def test_throttling_makes_no_node_unfit(worlds: Worlds) -> None:
    """It meets every node: each hand-over would cost a move more, and there would be no end of them."""
    world = started(worlds, settings(f"{OUTSIDE},192.168.0.2", "route"), "ab")
    world.ec2.faults.fail("replace_route", code="RequestLimitExceeded", times=None)
    world.nodes[0].kill()
    world.until(lambda: world.on(OUTSIDE) == ["node-2"])
    world.start(1)
    world.run(20.0)
    assert world.on(OUTSIDE) == ["node-2"]
    world.ec2.faults.clear()
    world.until(world.delivered)
    assert world.store.lease.transitions == 1


@pytest.mark.parametrize("mode", ["address", "route", "eni", "subnet"])
def test_an_outage_of_ec2_leaves_the_addresses_where_they_are(worlds: Worlds, mode: str) -> None:
    world = started(worlds, *MODES[mode])
    world.run(2 * SETTLE)
    for call in {call.operation for call in world.ec2.faults.named()}:
        world.ec2.faults.fail(call, code="Unavailable", times=None)
    world.run(600.0)
    world.ec2.faults.clear()
    world.run(60.0)
    assert world.delivered()
    assert (world.store.lease.holder, world.store.lease.transitions) == ("node-1", 0)


def test_what_no_node_may_do_does_not_send_the_addresses_to_and_fro(worlds: Worlds) -> None:
    """Each tries, and tries again ever more seldom."""
    world = worlds(settings(f"{VIP},{EIP}"))
    world.ec2.faults.before("associate", deny_association, times=None)
    world.start()
    world.run(15.0)
    assert world.store.lease.transitions == 1
    world.run(600.0)
    assert 2 <= world.store.lease.transitions <= 10
    world.ec2.faults.clear()
    world.until(world.delivered, 130.0)  # a call that is denied is repeated every two minutes at least


@pytest.mark.parametrize("after", [1.0, SETTLE + 2.0, 45.0])
def test_an_address_that_is_taken_away_is_taken_back(worlds: Worlds, after: float) -> None:
    """Just after the write the look that confirms it finds out, later the resync."""
    world = started(worlds)
    world.run(after - 1.0)
    world.ec2.give("eni-2", VIP)
    took = world.until(lambda: world.ec2.holder(VIP) == "eni-1", LONGEST_RESYNC)
    assert after > 1.0 or took < SETTLE + 0.2
    world.run(2 * RESYNC)
    assert world.operations() == ["assign", "assign"]


@pytest.mark.parametrize("after", [1.0, SETTLE + 2.0, 45.0])
def test_an_elastic_ip_too(worlds: Worlds, after: float) -> None:
    world = started(worlds, settings(EIP))
    world.run(after - 1.0)
    world.ec2.associate(EIP, "eni-2", ip_address(world.nodes[1].address))
    world.until(lambda: world.ec2.state.eips[EIP].eni_id == "eni-1", LONGEST_RESYNC)
    world.run(2 * RESYNC)
    assert world.operations() == ["associate", "associate"]


@pytest.mark.parametrize("after", [1.0, SETTLE + 2.0, 45.0])
def test_a_route_too(worlds: Worlds, after: float) -> None:
    world = started(worlds, settings(OUTSIDE, "route"))
    world.run(after - 1.0)
    world.ec2.put_route("rtb-1", f"{OUTSIDE}/32", "eni-2")
    world.ec2.drop_route("rtb-2", f"{OUTSIDE}/32")
    world.until(lambda: set(world.ec2.targets(f"{OUTSIDE}/32").values()) == {"eni-1"}, LONGEST_RESYNC)
    world.run(2 * RESYNC)
    assert len(world.writes) == 2 + 1 + 2  # the routes, the check, and the routes again


@pytest.mark.parametrize("kind", [ErrorKind.LOST, ErrorKind.RACE])
def test_when_the_world_is_another_it_is_looked_at_again(worlds: Worlds, kind: ErrorKind) -> None:
    world = worlds(settings(f"{VIP},{EIP}"))
    world.ec2.faults.fail("associate", kind)
    world.start(1)
    world.until(world.delivered)
    world.run(1.0)
    calls = [call.operation for call in world.ec2.faults.named()]
    first = calls.index("associate")
    assert {"enis_of_instance", "elastic_ips"} <= set(calls[first:])
    assert calls.count("associate") == 2


def test_what_is_denied_is_said_once_and_makes_the_node_unfit(worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
    """With the IAM action; a node that may has it then."""
    world = worlds(settings())
    denied = refusal("AssignPrivateIpAddresses", "UnauthorizedOperation", "eni-1")

    def deny(call: Call) -> None:
        if call.arguments[0] == "eni-1":
            raise denied

    world.ec2.faults.before("assign", deny, times=None)
    world.start(1)
    world.run(2.0)
    assert world.nodes[0].status["health"].endswith("(2 in a row)")
    assert world.store.lease.offered == ""
    world.run(30.0)
    failures = [record for record in caplog.records if record.getMessage() == "failed"]
    assert [record.levelname for record in failures] == ["ERROR"]
    assert "allow ec2:AssignPrivateIpAddresses" in failures[0].__dict__["facts"]["why"]
    assert "AssignPrivateIpAddresses" in world.store.lease.offered
    assert world.on(VIP) == ["node-1"]  # nobody else is there
    world.start(2)
    world.until(lambda: world.ec2.holder(VIP) == "eni-2" and world.on(VIP) == ["node-2"])


def test_a_node_that_lacks_the_subnet_says_so_and_another_has_it(
    worlds: Worlds, caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds(settings(), "ba")
    world.start(1)
    world.run(3.0)
    assert [fact["of"] for fact in events(caplog, "problem")] == [VIP]
    assert "lies in no subnet" in world.nodes[0].status["problems"][0]
    world.start(2)
    world.until(world.delivered)
    assert world.on(VIP) == ["node-2"]


def test_every_slot_of_the_instance_is_taken(worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
    world = worlds(*MODES["eni"])
    world.ec2.add_instance("i-1", "a", slots=1)
    world.start(1)
    world.run(10.0)
    failures = events(caplog, "failed")
    assert ["MAX_ENI" in fact["why"] for fact in failures] == [True]
    world.start(2)
    world.until(world.delivered)
    assert [node.name for node in world.masters] == ["node-2"]


def test_an_elastic_ip_that_does_not_exist(worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
    world = worlds(settings("eipalloc-0123456789abcdef1"))
    world.start(1)
    world.run(30.0)
    assert ["allocate-address" in fact["what"] for fact in events(caplog, "problem")] == [True]
    assert world.writes == []


def test_an_answer_that_was_lost_makes_no_second_eni(worlds: Worlds) -> None:
    world = worlds(*MODES["eni-eip"])
    world.unanswered = {"create_eni", "attach_eni"}
    world.start(1)
    world.run(3.0)
    world.unanswered = set()
    world.until(world.delivered)
    assert [eni for eni in world.ec2.state.enis if eni.startswith("eni-made")] == ["eni-made1"]


def test_a_token_is_not_used_again_for_an_eni_that_is_gone(worlds: Worlds) -> None:
    world = worlds(*MODES["eni-eip"])
    world.unanswered = {"create_eni"}
    world.start(1)
    world.until(lambda: "attach_eni" in world.operations())
    world.unanswered = set()
    world.until(world.delivered)
    made = next(eni for eni in world.ec2.state.enis if eni.startswith("eni-made"))
    world.ec2.detach(made)
    world.ec2.remove_eni(made)
    world.until(lambda: made not in world.ec2.state.enis and world.delivered(), 2 * RESYNC)
    world.until(lambda: world.ec2.state.eips[EIP].eni_id not in ("", made), 2 * RESYNC)


def refusal(api: str, code: str, resource: str = "") -> CallError:
    """What EC2 answers, as the real client classifies it."""
    return CallError(ec2_errors.failure(api, code, "refused", 400, service="ec2", resource=resource))


def deny_association(_: Call) -> None:
    """What EC2 does where the policy lacks the action."""
    raise refusal("AssociateAddress", "UnauthorizedOperation", EIP)
