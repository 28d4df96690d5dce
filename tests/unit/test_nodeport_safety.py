"""One node at a time: how a tenure ends, and that nothing is done after it. In simulated time.

The driver asserts at every change that an address is on one node at most; here is also when it comes and goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.unit.agents import events
from tests.unit.node_builders import OUTSIDE, VIP, VIP6, settings
from tests.unit.node_driver import MODES, World, Worlds, started
from tests.unit.node_process import Write
from vipmanager.errors import CallError, ErrorKind
from vipmanager.nodeport import STOP_WITHIN, WRITE_WITHIN

HEALTH = {"HealthCheck": "tcp://:30007"}
NOBODY: list[str] = []


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    made = Worlds()
    yield made
    made.close()


def changes(world: World, seconds: float) -> list[tuple[float, list[str]]]:
    """Who has VIP from when on."""
    end, seen = world.now + seconds, [(world.now, world.on(VIP))]
    while world.timeline.run(end, lambda: world.on(VIP) != seen[-1][1]):
        seen.append((world.now, world.on(VIP)))
    return seen


class TestExpiry:
    """The holder cannot renew."""

    def test_addresses_are_off_before_the_lease_may_be_taken(self, worlds: Worlds) -> None:
        world = started(worlds)
        tenure = world.nodes[0].process.elector.tenure()
        world.nodes[0].cut = True
        seen = changes(world, 10.0)
        assert [names for _, names in seen] == [["node-1"], NOBODY, ["node-2"]]
        (_, _), (off, _), (on, _) = seen
        tenure = world.nodes[0].process.elector.tenure()
        assert not tenure.leading
        assert on - off >= 1.0
        assert world.nodes[0].status["role"] == "BACKUP"
        assert world.ec2.holder(VIP) == "eni-2"

    def test_off_at_until_even_when_the_kernel_would_let_it_stay(self, worlds: Worlds) -> None:
        world = worlds(settings(LeaseDuration="20", RenewDeadline="4"))
        world.start(1)
        world.until(world.delivered)
        until = world.nodes[0].process.elector.tenure().until
        world.nodes[0].cut = True
        seen = changes(world, 10.0)
        assert [names for _, names in seen] == [["node-1"], NOBODY]
        assert until <= seen[1][0] <= until + 1.1  # one more renewal may have been under way

    @pytest.mark.parametrize("mode", ["address", "route", "eni", "subnet"])
    def test_nothing_is_written_after_it(self, worlds: Worlds, mode: str) -> None:
        """Whatever there would be to do: EC2 refuses all until then, and is at work on some of it."""
        world = worlds(*MODES[mode])
        world.start(1)
        world.run(0.2)
        for operation in ("assign", "associate", "create_route", "create_eni", "attach_eni", "create_subnet"):
            world.ec2.faults.fail(operation, times=None)
        world.run(3.0)
        until = world.nodes[0].process.elector.tenure().until
        world.nodes[0].cut = True
        tries = len(world.ec2.faults.named())
        world.timeline.run(until + 1.1)
        assert len(world.ec2.faults.named()) > tries
        world.ec2.faults.clear()
        late = len(world.writes)
        world.run(60.0)
        assert world.writes[late:] == []

    def test_a_fence_stands_before_each_write(self, worlds: Worlds) -> None:
        world = started(worlds)
        process = world.nodes[0].process
        process.fence()  # passes
        world.nodes[0].cut = True
        world.timeline.run(process.elector.tenure().until - 0.001)
        process.fence()
        world.timeline.run(process.elector.tenure().until)
        with pytest.raises(CallError) as raised:
            process.fence()
        assert raised.value.kind is ErrorKind.LOST

    def test_an_api_that_is_away_for_an_hour(self, worlds: Worlds) -> None:
        world = started(worlds)
        for node in world.nodes:
            node.cut = True
        assert [names for _, names in changes(world, 3600.0)] == [["node-1"], NOBODY]
        assert [node.status["role"] for node in world.nodes] == ["BACKUP", "BACKUP"]
        assert "ReadTimeoutError" in world.nodes[0].status["lease_problem"]
        for node in world.nodes:
            node.cut = False
        world.until(lambda: world.delivered() and len(world.on(VIP)) == 1, 10.0)
        assert world.nodes[0].status["lease_problem"] == ""


class TestDeath:
    """The holder is killed, stopped, or its node is gone."""

    def test_the_kernel_takes_the_address_off(self, worlds: Worlds) -> None:
        world = started(worlds)
        world.nodes[0].kill()
        seen = changes(world, 10.0)
        assert [names for _, names in seen] == [["node-1"], NOBODY, ["node-2"]]
        assert seen[2][0] - seen[1][0] >= 0.9

    def test_a_node_that_is_gone_is_replaced_within_the_lease(self, worlds: Worlds) -> None:
        world = started(worlds)
        world.nodes[0].power_off()
        assert world.until(world.delivered) <= world.config.lease_duration + 0.5

    @pytest.mark.parametrize("stop", [0.0, 0.005, 0.01, 0.025, 0.031, 0.05, 0.061, 0.08, 0.1, 0.5])
    def test_sigstop_for_longer_than_the_lease(self, worlds: Worlds, stop: float) -> None:
        """It is stopped while it moves things, and goes on when another has them."""
        world = worlds(settings(f"{VIP},{VIP6}"))
        world.ec2.give("eni-2", VIP6)
        world.start(1)
        process = world.nodes[0].process
        world.until(lambda: process.elector.tenure().leading)
        world.run(stop)
        process.stop()
        world.start(2)
        world.until(world.delivered)
        world.run(3.0)
        resumed = world.now
        process.go_on()
        world.run(10.0)
        assert [write.node for write in world.writes if write.at >= resumed] == []
        assert world.on(VIP) == world.on(VIP6) == ["node-2"]
        assert {world.ec2.holder(VIP), world.ec2.holder(VIP6)} == {"eni-2"}
        assert [node.status["role"] for node in world.nodes] == ["BACKUP", "MASTER"]

    def test_what_a_former_tenure_wrote_proves_nothing(self, worlds: Worlds) -> None:
        """A write's answer comes when another node has been at work since, and this one holds again."""
        world = started(worlds, settings(OUTSIDE, "route"), "ab")
        world.ec2.drop_route("rtb-1", f"{OUTSIDE}/32")
        world.late = {"create_route": 14.0}
        world.until(lambda: world.operations().count("create_route") == 3, 60.0)
        world.late = {}
        world.nodes[0].cut = True
        world.until(lambda: set(world.ec2.targets(f"{OUTSIDE}/32").values()) == {"eni-2"}, 9.0)
        world.nodes[0].cut = False
        world.run(0.5)
        world.nodes[1].terminate()
        world.until(lambda: world.nodes[0].status["role"] == "MASTER", 6.0)
        assert ("route", "rtb-1", f"{OUTSIDE}/32") in world.nodes[0].process.jobs.running
        world.until(lambda: ("route", "rtb-1", f"{OUTSIDE}/32") not in world.nodes[0].process.jobs.running)
        world.until(lambda: set(world.ec2.targets(f"{OUTSIDE}/32").values()) == {"eni-1"}, 1.0)

    @pytest.mark.parametrize("seed", range(20))
    def test_both_at_once_gives_one_holder(self, worlds: Worlds, seed: int) -> None:
        world = worlds(settings(), seed=seed)
        world.start()
        world.run(5.0)
        assert len(world.masters) == 1
        assert world.on(VIP) == [world.masters[0].name]
        assert world.operations() == ["assign"]

    def test_a_container_that_is_restarted_goes_on(self, worlds: Worlds) -> None:
        world = started(worlds)
        world.nodes[0].kill()
        world.run(1.0)
        world.start(1)
        world.run(2.0)
        assert world.delivered() and world.on(VIP) == ["node-1"]
        assert world.store.lease.transitions == 0
        assert world.nodes[0].host.faults.named("remove_address") == []  # it left the address until it knew


class TestSigterm:
    """SIGTERM hands over at once."""

    def test_the_addresses_go_first_then_the_lease(self, worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        world = started(worlds)
        process, asked = world.nodes[0].process, world.now
        process.nodeport.stop()
        world.until(lambda: world.on(VIP) == NOBODY, 0.1)
        assert world.store.lease.holder == "node-1"
        world.until(lambda: process.code is not None, 0.1)
        assert process.code == 0
        assert events(caplog, "stopped") == [{"what": "lease released"}]
        world.until(world.delivered, 0.5)
        assert world.on(VIP) == ["node-2"]
        assert world.now - asked <= 0.5
        assert world.store.lease.transitions == 2 - 1

    def test_a_write_under_way_is_waited_for(self, worlds: Worlds) -> None:
        """Else it might come after the next holder's."""
        world = worlds(settings())
        world.pauses = {"assign": 0.6}
        world.start(1)
        process = world.nodes[0].process
        world.until(lambda: ("address", VIP) in process.jobs.running)
        world.start(2)
        world.run(0.1)
        process.nodeport.stop()
        world.until(lambda: world.store.lease.holder == "", 2.0)
        assert [write.node for write in world.writes] == ["node-1"]
        world.until(world.delivered)
        assert [write.node for write in world.writes] == ["node-1", "node-2"]

    def test_but_not_for_ever(self, worlds: Worlds) -> None:
        world = worlds(settings())
        world.pauses = {"assign": 9.0}
        world.start(1)
        process = world.nodes[0].process
        world.until(lambda: ("address", VIP) in process.jobs.running)
        process.nodeport.stop()
        took = world.until(lambda: world.store.lease.holder == "", 5.0)
        assert took <= WRITE_WITHIN + 0.1

    def test_an_api_that_does_not_answer_is_not_waited_for_long(
        self, worlds: Worlds, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = started(worlds)
        world.nodes[0].cut = True
        world.run(0.5)
        asked = world.now
        assert world.nodes[0].terminate() == 0
        assert world.now - asked <= STOP_WITHIN + 0.1
        assert ["not released" in fact["what"] for fact in events(caplog, "stopped")] == [True]
        assert world.on(VIP) == NOBODY

    def test_a_lease_is_not_released_while_an_address_stays(
        self, worlds: Worlds, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The kernel refuses to remove it: so it must have ended it before the lease runs out."""
        world = started(worlds)
        world.nodes[0].host.faults.fail("remove_address", times=None)
        assert world.nodes[0].terminate() == 0
        assert world.store.lease.holder == "node-1"
        assert ["not released" in fact["what"] for fact in events(caplog, "stopped")] == [True]
        assert [names for _, names in changes(world, 10.0)] == [["node-1"], NOBODY, ["node-2"]]

    def test_what_a_killed_process_left_is_not_forgotten_while_the_enis_are_not_known(
        self, worlds: Worlds, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The lease is its own again before EC2 has said which ENIs are: nothing is removed, so nothing is released."""
        world = started(worlds)
        world.nodes[0].kill()
        world.trip = 30.0
        world.start(1)
        world.until(lambda: world.nodes[0].process.elector.tenure().leading, 1.0)
        assert world.nodes[0].terminate() == 0
        world.trip = 0.06
        assert world.store.lease.holder == "node-1"
        assert ["not released" in fact["what"] for fact in events(caplog, "stopped")] == [True]
        assert [names for _, names in changes(world, 10.0)] == [["node-1"], NOBODY, ["node-2"]]

    def test_a_standby_just_goes(self, worlds: Worlds) -> None:
        world = started(worlds)
        renewed = world.store.lease.transitions
        assert world.nodes[1].terminate() == 0
        world.run(5.0)
        assert (world.store.lease.holder, world.store.lease.transitions) == ("node-1", renewed)
        assert world.operations() == ["assign"]

    def test_a_standby_that_is_about_to_take_it_gives_it_back(self, worlds: Worlds) -> None:
        """Both are told to stop: nobody is to wait for a lease that was taken while its taker was leaving."""
        world = worlds(settings(), "aaa")
        world.start()
        world.until(world.delivered)
        world.run(2.0)
        holder = world.masters[0]
        first, last = (node for node in world.nodes if node is not holder)
        last.cut = True
        holder.process.nodeport.stop()
        world.until(lambda: first.process.elector._writing, 1.0)
        first.process.nodeport.stop()
        world.until(lambda: first.process.code is not None, 3.0)
        assert world.store.lease.holder == ""

    def test_during_the_first_moments(self, worlds: Worlds) -> None:
        for delay in (0.0, 0.01, 0.02, 0.03, 0.05, 0.1):
            world = worlds(settings())
            world.start(1)
            world.run(delay)
            assert world.nodes[0].terminate() == 0
            world.run(1.0)
            assert world.on(VIP) == NOBODY
            assert world.store.lease is None or world.store.lease.holder == ""


class TestYielding:
    """A holder that is not fit makes way for one that is."""

    def test_it_vacates_then_resigns(self, worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        world = started(worlds, settings(**HEALTH))
        world.nodes[0].ailment = "connection refused"
        seen = changes(world, 6.0)
        assert [names for _, names in seen] == [["node-1"], NOBODY, ["node-2"]]
        assert seen[2][0] - seen[1][0] < 0.3
        assert world.delivered()
        assert world.store.lease.holder == "node-2"
        roles = events(caplog, "role")
        assert [fact["role"] for fact in roles] == ["MASTER", "BACKUP", "MASTER"]
        assert roles[1]["why"] == "makes way for node-2"
        world.nodes[0].ailment = ""
        world.run(20.0)
        assert world.on(VIP) == ["node-2"]

    def test_fewer_failures_than_the_threshold_change_nothing(self, worlds: Worlds) -> None:
        world = started(worlds, settings(**HEALTH))
        for _ in range(4):
            world.nodes[0].ailment = "connection refused"
            world.run(2.0)
            world.nodes[0].ailment = ""
            world.run(2.0)
        assert world.store.lease.holder == "node-1"
        assert [names for _, names in changes(world, 1.0)] == [["node-1"]]

    def test_when_no_node_is_fit_the_address_stays(self, worlds: Worlds) -> None:
        world = started(worlds, settings(**HEALTH))
        for node in reversed(world.nodes):
            node.ailment = "connection refused"
            world.run(2.0)
        assert [names for _, names in changes(world, 60.0)] == [["node-1"]]
        assert "connection refused" in world.store.lease.offered
        world.nodes[1].ailment = ""
        world.until(lambda: world.on(VIP) == ["node-2"], 5.0)

    def test_a_write_that_hangs_is_not_waited_for_long(self, worlds: Worlds) -> None:
        """Nobody has the address meanwhile."""
        world = started(worlds, settings(f"{VIP},{VIP6}", **HEALTH))
        world.ec2.give("eni-2", VIP6)
        world.pauses = {"assign": 12.0, "unassign": 12.0}
        process = world.nodes[0].process
        world.until(lambda: ("address", VIP6) in process.jobs.running, 60.0)
        world.run(0.1)
        world.pauses = {}
        world.nodes[0].ailment = "connection refused"
        seen = changes(world, 8.0)
        assert [names for _, names in seen] == [["node-1"], NOBODY, ["node-2"]]
        assert seen[2][0] - seen[1][0] <= WRITE_WITHIN + 0.3

    def test_an_address_that_cannot_be_removed_is_not_yielded(self, worlds: Worlds) -> None:
        world = started(worlds, settings(**HEALTH))
        world.nodes[0].host.faults.fail("remove_address", times=None)
        world.nodes[0].ailment = "connection refused"
        seen = changes(world, 20.0)
        assert [names for _, names in seen] == [["node-1"], NOBODY, ["node-2"]]


def test_writes_of_two_holders_do_not_cross(worlds: Worlds) -> None:
    """Each hand-over: every write of the former holder has been carried out before the next one's first."""
    world = started(worlds, settings(f"{VIP},{VIP6}"))
    for _ in range(4):
        holder = world.masters[0]
        holder.terminate()
        world.until(lambda holder=holder: world.delivered() and world.masters != [holder])  # type: ignore[misc]
        holder.start()
        world.run(2.0)
    nodes = [write.node for write in sorted(world.writes, key=when)]
    assert sum(before != after for before, after in itertools.pairwise(nodes)) == 4


def when(write: Write) -> float:
    """For sorting."""
    return write.at
