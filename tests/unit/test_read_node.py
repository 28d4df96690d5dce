"""What is read of EC2 in the nodeport mode, and when: what the plan lacks, what is due, and nothing more often."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.doubles.clock import StillClock
from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.host import FakeHost
from tests.doubles.imds import FakeImds
from tests.unit.builders import mac
from tests.unit.node_builders import CIDR, EIP, OUTSIDE, SUBNET_VIP, VIP, VIP6, settings
from vipmanager.apply import Done, Key
from vipmanager.config import Config
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import Problem
from vipmanager.monitor import Monitor
from vipmanager.observe import SETTLE
from vipmanager.observe_node import NodeView
from vipmanager.plan.node_draft import NodeNeed, NodePlan
from vipmanager.read_node import POLL, RESYNC, Reader
from vipmanager.report_node import NodeReport

NOTHING = NodePlan()
OWN = NodePlan(needs=frozenset({NodeNeed.OWN}))


class Jobs:
    """Calls that are made when `finish` says so."""

    def __init__(self) -> None:
        self.running: set[Key] = set()
        self.asked: list[str] = []
        self._calls: list[tuple[Key, Callable[[Any], None], Callable[[], Any]]] = []

    def submit(self, keys: tuple[Key, ...], subject: Any, call: Callable[[], Any]) -> None:
        """See vipmanager.apply.Jobs."""
        self.running.update(keys)
        self.asked.append(keys[0][1])
        self._calls.append((keys[0], subject, call))

    def finish(self) -> list[Done]:
        """Make them."""
        calls, self._calls, done = self._calls, [], []
        for key, subject, call in calls:
            self.running.discard(key)
            try:
                done.append(Done((key,), subject, value=call()))
            except CallError as error:
                done.append(Done((key,), subject, failure=error.failure))
        return done


class Desk:
    """A reader on a small region. `draw` is chance."""

    def __init__(self, config: Config) -> None:
        self.clock = StillClock()
        self.ec2 = FakeEc2(self.clock)
        self.ec2.add_vpc(VPC, "10.10.0.0/16", "2600:1f14::/56")
        self.ec2.add_subnet("subnet-1", "10.10.1.0/24", "2600:1f14:0:1::/64")
        self.ec2.add_eni("eni-1", mac(1), 0, "subnet-1", "10.10.1.11", instance="i-1")
        self.ec2.add_table("rtb-1")
        self.ec2.add_eip(EIP, "198.51.100.1")
        self.imds, self.host = FakeImds(self.ec2, "eni-1"), FakeHost(self.clock)
        self.host.plug("eth0", mac(1), "10.10.1.11")
        self.view, self.jobs, self.draw = NodeView(config), Jobs(), 0.5
        report = NodeReport(config, "pod", "node", "lease", Monitor("nodeport"))
        ports = (self.host, self.imds, self.ec2)
        self.reader = Reader(config, ports, self.view, self.jobs, report, lambda: self.draw)  # type: ignore[arg-type]
        self.view.look(self.host)

    def ask(self, plan: NodePlan = NOTHING, *, after: float = 0.0) -> list[str]:
        """What is asked some time later, and answered."""
        self.clock.advance(after)
        self.jobs.asked.clear()
        self.reader.ask(plan, self.clock())
        asked = list(self.jobs.asked)
        self.answer()
        return asked

    def answer(self) -> None:
        """Let the answers come."""
        for done in self.jobs.finish():
            self.reader.collect(done, self.clock())

    @property
    def wait(self) -> float:
        """Seconds until there is something to ask."""
        at = self.reader.wake_at()
        assert at is not None
        return at - self.clock()


@pytest.fixture
def desks() -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(config: Config | None = None) -> Desk:
        made.append(Desk(config or settings()))
        return made[-1]

    yield make
    for desk in made:
        desk.host.close()


class TestDiscovery:
    """Which ENIs this node has."""

    def test_first_of_all(self, desks: Callable[..., Desk]) -> None:
        desk = desks()
        assert desk.ask(OWN) == ["discovery"]
        assert [eni.id for eni in desk.view.enis.values()] == ["eni-1"]
        assert desk.ask(OWN) == ["OWN"]

    def test_it_is_repeated_with_growing_pauses(self, desks: Callable[..., Desk]) -> None:
        desk = desks()
        desk.imds.faults.fail("enis", times=None)
        desk.ec2.faults.fail("enis_by_mac", times=None)
        waits = []
        for _ in range(6):
            assert desk.ask() == ["discovery"]
            assert desk.ask() == []
            waits.append(desk.wait)
            desk.clock.advance(desk.wait)
        assert all(later == pytest.approx(2 * sooner) for sooner, later in itertools.pairwise(waits))
        desk.imds.faults.clear()
        assert desk.ask() == ["discovery"]
        assert set(desk.view.enis) == {mac(1)}

    def test_again_while_the_node_lacks_an_eni(self, desks: Callable[..., Desk]) -> None:
        """Somebody may have attached one."""
        desk = desks()
        desk.ask()
        lacking = NodePlan(problems=(Problem(VIP, "lies in no subnet"),))
        desk.ec2.add_eni("eni-2", mac(2), 1, "subnet-1", "10.10.1.12", instance="i-1")
        desk.imds.eni_ids.append("eni-2")
        assert desk.ask(lacking, after=1.0) == []
        assert "discovery" in desk.ask(lacking, after=RESYNC)
        assert len(desk.view.enis) == 2


class TestFacts:
    """What each need is answered with."""

    @pytest.mark.parametrize("need", NodeNeed)
    def test_each_is_asked_of_ec2_and_learnt(self, desks: Callable[..., Desk], need: NodeNeed) -> None:
        desk = desks(settings(f"{SUBNET_VIP},{EIP}", "subnet", FloatingSubnetCidr=CIDR))
        desk.ask()
        blank = desk.view.observed(desk.clock())
        calls = len(desk.ec2.faults.named())
        assert desk.ask(NodePlan(needs=frozenset({need}))) == [need.name]
        if need is NodeNeed.INSTANCES:  # nobody has the floating ENI
            return
        assert len(desk.ec2.faults.named()) > calls
        if need is not NodeNeed.HOLDERS:  # nothing of IPv6 floats here
            assert desk.view.observed(desk.clock()) != blank

    def test_holders_are_asked_of_ipv6_addresses_alone(self, desks: Callable[..., Desk]) -> None:
        desk = desks(settings(f"{VIP},{VIP6}"))
        desk.ask()
        desk.ask(NodePlan(needs=frozenset({NodeNeed.HOLDERS})))
        assert [str(address) for address in desk.view.observed(0.0).holders] == [VIP6]

    def test_none_is_asked_twice_at_once_or_within_a_moment(self, desks: Callable[..., Desk]) -> None:
        desk = desks()
        desk.ask()
        desk.reader.ask(OWN, desk.clock())
        assert desk.jobs.running == {("fact", "OWN")}
        assert desk.ask(OWN) == []
        assert desk.ask(OWN, after=POLL / 2) == []
        assert desk.wait == pytest.approx(POLL)
        assert desk.ask(OWN, after=POLL) == ["OWN"]

    def test_one_that_fails_waits_alone(self, desks: Callable[..., Desk]) -> None:
        desk = desks(settings(f"{OUTSIDE},{EIP}", "route"))
        desk.ask()
        desk.ec2.faults.fail("route_tables", ErrorKind.DENIED, times=None)
        desk.ec2.faults.fail("elastic_ips", times=1)  # throttled, say, which tells nothing of the node
        plan = NodePlan(needs=frozenset({NodeNeed.TABLES, NodeNeed.EIPS}))
        assert desk.ask(plan) == ["EIPS", "TABLES"]
        assert "fake:route_tables" in desk.reader.failing()
        assert desk.ask(plan, after=POLL) == ["EIPS"]
        assert "TABLES" in desk.ask(plan, after=2.0)
        desk.ask(NOTHING, after=0.1)
        assert desk.reader.failing() == ""  # it is wanted no more


class TestTimers:
    """When there is something to read although the plan lacks nothing."""

    FACTS = (
        (settings(), {"OWN"}),
        (settings(f"{VIP},{VIP6},{EIP}"), {"OWN", "HOLDERS", "EIPS"}),
        (settings(OUTSIDE, "route"), {"OWN", "TABLES"}),
        (settings(VIP, "eni"), {"OWN", "FLOATING", "SUBNETS"}),
        (settings(SUBNET_VIP, "subnet", FloatingSubnetCidr=CIDR), {"OWN", "FLOATING", "SUBNETS", "VPC_CIDRS"}),
    )

    @pytest.mark.parametrize(("config", "facts"), FACTS)
    def test_the_resync_reads_everything(self, desks: Callable[..., Desk], config: Config, facts: set[str]) -> None:
        desk = desks(config)
        desk.ask()
        assert desk.ask() == []
        assert 0 < desk.wait <= 1.2 * RESYNC
        assert set(desk.ask(after=desk.wait)) == facts

    @pytest.mark.parametrize(("setting", "interval"), [("10", 10.0), ("0", RESYNC), ("300", RESYNC)])
    @pytest.mark.parametrize(("draw", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
    def test_its_interval(
        self, desks: Callable[..., Desk], setting: str, interval: float, draw: float, factor: float
    ) -> None:
        desk = desks(settings(ResyncInterval=setting))
        desk.draw = draw
        desk.ask()
        assert desk.wait == pytest.approx(factor * interval)

    def test_a_write_is_looked_at_once_describes_can_show_it(self, desks: Callable[..., Desk]) -> None:
        desk = desks()
        desk.ask()
        desk.reader.verify(desk.clock())
        assert desk.ask(after=SETTLE - 0.1) == []
        assert desk.wait == pytest.approx(0.1)
        assert desk.ask(after=0.1) == ["OWN"]
        assert desk.wait > 1.0

    def test_while_ec2_is_at_work_it_is_asked_again_and_again(self, desks: Callable[..., Desk]) -> None:
        desk = desks(settings(VIP, "eni"))
        desk.ask()
        at_work = NodePlan(poll=frozenset({NodeNeed.FLOATING}))
        assert desk.ask(at_work) == []
        assert desk.wait == pytest.approx(POLL)
        for _ in range(4):
            assert desk.ask(at_work, after=POLL) == ["FLOATING"]
        desk.ask(NOTHING, after=POLL)
        assert desk.ask(NOTHING) == []
        assert desk.wait > 1.0

    def test_what_was_refused_is_looked_at_again(self, desks: Callable[..., Desk]) -> None:
        desk = desks(settings(VIP, "eni"))
        desk.ask()
        desk.reader.look_again(eni=False)
        assert desk.ask() == ["OWN"]
        desk.reader.look_again(eni=True)
        assert set(desk.ask(after=POLL)) == {"FLOATING", "OWN", "SUBNETS"}
