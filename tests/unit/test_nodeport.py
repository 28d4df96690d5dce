"""The nodeport mode's loop in simulated time: what the holder does, what a standby does, and their nodes."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.unit.agents import events
from tests.unit.builders import mac
from tests.unit.node_builders import VIP, VIP6, settings
from tests.unit.node_driver import MODES, Worlds, started
from vipmanager.config import Config
from vipmanager.observe import SETTLE
from vipmanager.read_node import RESYNC

every_mode = pytest.mark.parametrize(("config", "zones"), MODES.values(), ids=MODES)


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    made = Worlds()
    yield made
    made.close()


class TestHolder:
    """The node that has the lease."""

    def test_it_delivers_with_one_write(self, worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        world = started(worlds)
        assert [(write.node, write.operation, write.arguments) for write in world.writes] == [
            ("node-1", "assign", ("eni-1", [ip_address(VIP)]))
        ]
        assert world.on(VIP) == ["node-1"]
        assert world.nodes[0].neighbours.announced == [("eth0", mac(1), ip_address(VIP))]
        assert [(node.name, node.status["role"]) for node in world.nodes] == [
            ("node-1", "MASTER"),
            ("node-2", "BACKUP"),
        ]
        assert [fact["item"] for fact in events(caplog, "delivered")] == [VIP]
        world.run(3 * RESYNC)
        assert len(world.writes) == 1
        assert world.on(VIP) == ["node-1"]

    def test_an_ipv6_address_is_freed_first(self, worlds: Worlds) -> None:
        world = worlds(settings(VIP6))
        world.ec2.give("eni-2", VIP6)
        world.start(1)
        world.until(world.delivered)
        calls = [call.operation for call in world.ec2.faults.named("enis_holding", "unassign", "assign")]
        assert calls[-2:] == ["unassign", "assign"]
        assert "enis_holding" in calls[:-2]
        assert world.operations() == ["unassign", "assign"]
        assert world.ec2.holder(VIP6) == "eni-1"

    def test_lifetimes_follow_the_renewals(self, worlds: Worlds) -> None:
        """The kernel would end it before another node may begin, and never ends it while the lease is renewed."""
        world = started(worlds)
        host, renewals = world.nodes[0].host, world.store.revision
        puts = len(host.faults.named("put_address"))
        for _ in range(200):
            world.run(0.05)
            remaining = host.remaining("eth0", VIP)
            tenure = world.nodes[0].process.elector.tenure()
            assert remaining is not None
            assert remaining > 2.5
            assert world.now + remaining <= tenure.expires - 1.0
        assert len(host.faults.named("put_address")) - puts == world.store.revision - renewals

    def test_only_what_is_in_place_is_kept(self, worlds: Worlds) -> None:
        world = worlds(settings(f"{VIP},10.10.77.1"))
        world.start(1)
        world.run(10.0)
        put = [call.arguments[0][1] for call in world.nodes[0].host.faults.named("put_address")]
        assert len(put) > 5
        assert set(put) == {ip_address(VIP)}

    def test_an_address_that_somebody_removes_is_put_back_at_once(self, worlds: Worlds) -> None:
        world = started(worlds)
        world.nodes[0].host.set_addresses("eth0", world.nodes[0].address)
        assert world.on(VIP) == []
        assert world.until(lambda: world.on(VIP) == ["node-1"]) < 0.1
        assert len(world.writes) == 1

    def test_a_role_for_route_tables_plays_no_part(self, worlds: Worlds) -> None:
        world = started(worlds, settings(RouteTableRole="arn:aws:iam::123456789012:role/routes"))
        assert world.operations() == ["assign"]

    @every_mode
    def test_every_mode_comes_to_rest(self, worlds: Worlds, config: Config, zones: str) -> None:
        world = started(worlds, config, zones)
        world.run(2 * SETTLE)
        writes = len(world.writes)
        world.run(3 * RESYNC)
        assert len(world.writes) == writes
        assert world.delivered()


class TestStandby:
    """A node that has not."""

    @every_mode
    def test_it_writes_nothing(self, worlds: Worlds, config: Config, zones: str) -> None:
        world = started(worlds, config, zones)
        world.run(2 * RESYNC)
        assert {write.node for write in world.writes} == {"node-1"}
        assert not world.nodes[1].host.faults.named("put_address", "set_route", "add_rule", "bring_up")

    def test_it_removes_what_was_left_there(self, worlds: Worlds) -> None:
        """By a process that was killed, or by hand; even when it hears nothing of the lease."""
        world = worlds(settings())
        node = world.nodes[0]
        node.host.set_addresses("eth0", node.address, VIP)
        node.cut = True
        world.start(1)
        world.run(world.config.lease_duration - 0.1)
        assert world.on(VIP) == ["node-1"]  # it may be its own; a lifetime would have ended it by now
        world.until(lambda: world.on(VIP) == [], 0.2)
        world.run(1.0)
        node.host.set_addresses("eth0", node.address, VIP)
        world.until(lambda: world.on(VIP) == [], 0.1)
        assert node.host.has(ip_address(node.address))
        assert world.writes == []

    def test_it_says_what_it_sees(self, worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        world = worlds(settings())
        node = world.nodes[1]
        node.neighbours.answer({VIP: True})
        world.start()
        world.run(10.0)
        assert events(caplog, "probe") == []
        assert node.items[0]["answers"] is True
        assert node.items[0]["state"] == "held by another node"
        node.neighbours.answer({VIP: False})
        world.run(15.0)
        assert [(fact["address"], fact["result"]) for fact in events(caplog, "probe")] == [(VIP, "does not answer")]
        node.neighbours.answer({VIP: True})
        world.run(10.0)
        assert [fact["result"] for fact in events(caplog, "probe")] == ["does not answer", "answers"]

    def test_it_does_not_probe_what_nobody_holds(self, worlds: Worlds) -> None:
        world = worlds(settings())
        world.nodes[0].cut = True
        world.start(1)
        world.run(20.0)
        assert not world.nodes[0].neighbours.faults.named("echo")

    def test_without_net_raw_it_sees_nothing_and_goes_on(
        self, worlds: Worlds, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = worlds(settings())
        for node in world.nodes:
            node.neighbours.may_send = False
        world.start()
        world.run(30.0)
        assert world.delivered()
        assert events(caplog, "probe") == []
        assert len(events(caplog, "not announced")) == 1


class TestNode:
    """What the node does to the holder."""

    def test_netlink_errors_are_tried_again(self, worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
        world = worlds(settings())
        world.nodes[0].host.faults.fail("put_address", times=3)
        world.start(1)
        world.until(world.delivered)
        assert world.on(VIP) == ["node-1"]
        assert len(events(caplog, "failed")) == 1

    def test_a_lifetime_that_cannot_be_extended_ends_and_begins_anew(
        self, worlds: Worlds, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        world = started(worlds)
        for _ in range(2):  # said each time, because it has worked in between
            world.nodes[0].host.faults.fail("put_address", times=1)
            world.run(5.0)
        assert len(events(caplog, "failed")) == len(events(caplog, "works again")) == 2
        world.nodes[0].host.faults.fail("put_address", times=None)
        world.until(lambda: world.on(VIP) == [], 6.0)
        world.nodes[0].host.faults.clear()
        world.until(lambda: world.on(VIP) != [])

    def test_a_kernel_that_does_not_answer_makes_the_node_unfit(self, worlds: Worlds) -> None:
        world = started(worlds)
        world.nodes[0].host.faults.fail("host_interfaces", times=None)
        world.nodes[0].host.plug("dummy", mac(77))
        world.until(lambda: bool(world.store.lease.offered), 10.0)
        assert world.on(VIP) == ["node-1"]  # it cannot be sure that it is off, so it does not resign
        world.nodes[0].host.faults.clear()
        world.until(world.delivered)

    def test_an_interface_that_comes_later_than_ec2_says(self, worlds: Worlds) -> None:
        world = worlds(*MODES["eni"])
        world.plugging = 8.0
        world.start(1)
        world.run(5.0)
        assert "the kernel has no interface" in world.nodes[0].items[0]["state"]
        assert world.on(VIP) == []
        took = world.until(world.delivered)
        assert took < 6.0
        assert world.on(VIP) == ["node-1"]
        assert {route.table for route in world.nodes[0].host.routes()} == {8601}
        assert f"{VIP}/32" in {rule.source for rule in world.nodes[0].host.rules()}

    def test_discovery_without_imds(self, worlds: Worlds) -> None:
        world = worlds(settings())
        world.nodes[0].imds.faults.fail("enis", times=None)
        world.start(1)
        world.until(world.delivered)
        assert world.ec2.faults.named("enis_by_mac")

    def test_discovery_that_fails_at_first(self, worlds: Worlds) -> None:
        world = worlds(settings())
        world.nodes[0].imds.faults.fail("enis", times=3)
        world.ec2.faults.fail("enis_by_mac", times=3)
        world.start(1)
        world.run(0.05)
        assert world.nodes[0].items[0]["state"] == "not held"
        world.until(world.delivered)

    def test_a_node_that_does_not_know_itself_leaves_it_to_others(self, worlds: Worlds) -> None:
        world = worlds(settings())
        world.nodes[0].imds.faults.fail("enis", times=None)
        world.ec2.faults.fail("enis_by_mac", times=None)
        world.start(1)
        world.run(0.5)
        world.start(2)
        world.ec2.faults.clear()
        world.ec2.faults.fail("enis_by_mac", times=None, when=lambda call: mac(1) in call.arguments)
        world.until(world.delivered)
        assert world.on(VIP) == ["node-2"]

    def test_a_bug_in_a_call_ends_the_process(self, worlds: Worlds) -> None:
        world, bug = worlds(settings()), RuntimeError("a bug")
        world.ec2.faults.crash("assign", bug)
        world.start(1)
        process = world.nodes[0].process
        world.until(lambda: process.code is not None)
        assert process.error is bug
        process.error = None

    @pytest.mark.parametrize("operation", ["read", "update", "watch"])
    def test_a_bug_in_the_elector_ends_the_process(self, worlds: Worlds, operation: str) -> None:
        """Else the address would stay for ever, or never come."""
        world, bug = worlds(settings()), RuntimeError("a bug")
        process = world.nodes[0].start()
        process.lease.faults.crash(operation, bug)
        world.until(lambda: process.code is not None)
        assert process.error is bug
        process.error = None
        world.run(10.0)
        assert world.on(VIP) == []
