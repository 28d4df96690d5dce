"""RouteAggregation converges: whatever comes and goes, on one pod or on several, interrupted anywhere.

Each story is a list of steps: a pod's addresses or settings change, a part of its plan is applied, time passes, its
process is restarted. At the end everybody settles, and the route tables must say what the pods have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import collapse_addresses, ip_address, ip_network

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.doubles.clock import StillClock
from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.imds import FakeImds
from tests.doubles.netlink import FakeNetlink
from tests.unit.builders import config, mac
from tests.unit.driver import Driver
from vipmanager.config import Config
from vipmanager.model import Network

POOL = "192.168.0.0/29"
V4 = [f"192.168.0.{number}" for number in range(16)]
V6 = [f"fd00::{number}" for number in range(4)]
TABLES = ("rtb-0", "rtb-1")
UNRELATED = {
    "0.0.0.0/0": "igw-1",
    "192.168.0.0/16": "tgw-1",
    "192.168.0.77/32": "eni-1",  # of another pod on this worker
    "192.168.0.76/32": "eni-9",
    "fd00::77/128": "eni-8",
}
FOUND = [*(f"{text}/32" for text in V4[:6]), "192.168.0.0/31", "192.168.0.0/30", "192.168.0.4/30", "192.168.0.8/29"]
SETTINGS = {
    "together": config(RouteAggregation="True", VPCRTTag="use", UseSBR="False"),
    "apart": config(VPCRTTag="use", UseSBR="False"),
    "pool": config(Intf1Pools=POOL, VPCRTTag="use", UseSBR="False"),
    "both": config(RouteAggregation="True", Intf1Pools=POOL, VPCRTTag="use", UseSBR="False"),
}
EXACT = ("together", "apart")
PODS = {"a": 1, "b": 2, "c": 1}
"""Pods and their ENIs: two share one, as ipvlan pods on one worker do."""


@dataclass(frozen=True)
class Step:
    """One thing that happens to a pod: then some of its actions are applied, and time passes."""

    pod: str
    addresses: frozenset[str]
    settings: str
    applied: int
    passes: float
    restart: bool


ADDRESSES = st.one_of(
    st.frozensets(st.sampled_from([*V4, *V6]), max_size=10),
    st.integers(0, 15).flatmap(
        lambda first: st.integers(first, 16).map(lambda last: frozenset(V4[first:last]))  # contiguous
    ),
)


def stories(pods: Sequence[str], modes: Sequence[str]) -> st.SearchStrategy[list[Step]]:
    """What happens, in order."""
    step = st.builds(
        Step,
        st.sampled_from(pods),
        ADDRESSES,
        st.sampled_from(modes),
        st.integers(0, 12),
        st.sampled_from([0.0, 3.0, 12.0, 30.0]),
        st.booleans(),
    )
    return st.lists(step, min_size=1, max_size=6)


LEFT_THERE = st.dictionaries(
    st.tuples(st.sampled_from(TABLES), st.sampled_from(FOUND)), st.sampled_from(["eni-8", "eni-9", "tgw-1"]), max_size=5
)
thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def build_ec2(clock: StillClock, routes: dict[tuple[str, str], str]) -> FakeEc2:
    """ENIs 1 and 2 are the workers', 8 is another's, 9 is dead."""
    ec2 = FakeEc2(clock)
    ec2.add_vpc(VPC, "10.10.0.0/16", "2600:1f14::/56")
    for number in (1, 2, 8, 9):
        ec2.add_subnet(f"subnet-{number}", f"10.10.{number}.0/24", f"2600:1f14:0:{number}::/64")
        ec2.add_eni(f"eni-{number}", mac(number), 1, f"subnet-{number}", f"10.10.{number}.10")
    ec2.detach("eni-9")
    for table in (*TABLES, "rtb-untagged"):
        ec2.add_table(table, **({"use": "yes"} if table in TABLES else {}))
        for destination, target in UNRELATED.items():
            ec2.put_route(table, destination, target)
    for (table, destination), target in routes.items():
        ec2.put_route(table, destination, target)
    return ec2


class Pod:
    """A pod with one interface; its addresses and settings change."""

    def __init__(self, number: int, ec2: FakeEc2, clock: StillClock) -> None:
        self.number, self.netlink = number, FakeNetlink()
        self.addresses: frozenset[str] = frozenset()
        self.driver = Driver(ec2, self.netlink, FakeImds(ec2, f"eni-{number}"), SETTINGS["together"], clock)

    @property
    def eni_id(self) -> str:
        """The ENI behind it."""
        return f"eni-{self.number}"

    @property
    def settings(self) -> Config:
        """What it is set to now."""
        return self.driver.config

    def take(self, step: Step) -> None:
        """Let a step happen to it."""
        if self.netlink.interfaces():
            self.netlink.remove("net1")
        self.addresses = step.addresses
        self.netlink.add("net1", mac(self.number), *sorted(step.addresses))
        self.driver.config = SETTINGS[step.settings]
        self.driver.apply(self.driver.plan().actions[: step.applied])
        if step.restart:
            self.driver.restart()
        self.driver.clock.advance(step.passes)


@contextmanager
def world(routes: dict[tuple[str, str], str], *names: str) -> Iterator[tuple[FakeEc2, dict[str, Pod]]]:
    """The VPC and some pods."""
    clock = StillClock()
    ec2 = build_ec2(clock, routes)
    pods = {name: Pod(PODS[name], ec2, clock) for name in names}
    yield ec2, pods
    for pod in pods.values():
        pod.netlink.close()


def settle(ec2: FakeEc2, pods: dict[str, Pod], *, shared: bool = False) -> None:
    """Everybody in turn, until nobody has anything to do.

    `shared`: two pods of one ENI have the same address. They cannot tell their routes apart, so at each look one may
    set its /32 and the other delete it below its own prefix. That is settled when turns end as they began.
    """
    alike = 0
    for _ in range(12):
        first, changed = ec2.state.tables, False
        for pod in pods.values():
            before = ec2.state.tables
            pod.driver.settle()
            changed |= ec2.state.tables != before
        alike = alike + 1 if ec2.state.tables == first else 0
        if not changed or (shared and alike == 2):
            return
    raise AssertionError("they do not come to rest")


def routes_to(ec2: FakeEc2, table: str, eni_id: str) -> set[str]:
    """The routes of a table to an ENI, apart from unrelated ones."""
    return {
        str(to)
        for to, target in ec2.state.tables[table].routes.items()
        if target == eni_id and str(to) not in UNRELATED
    }


def delivered_to(ec2: FakeEc2, table: str, text: str) -> str:
    """Where a table sends an address: by the longest route that contains it."""
    address = ip_address(text)
    routes = ec2.state.tables[table].routes
    found: list[Network] = [to for to in routes if to.version == address.version and address in to]
    return routes[max(found, key=lambda to: to.prefixlen)] if found else ""


def unrelated_stay(ec2: FakeEc2, before: dict[str, dict[Network, str]]) -> None:
    """Nothing was touched that is not about the addresses."""
    for table in TABLES:
        assert UNRELATED.items() <= {str(to): target for to, target in ec2.state.tables[table].routes.items()}.items()
    assert ec2.state.tables["rtb-untagged"].routes == before["rtb-untagged"]
    for table in TABLES:
        for to, target in before[table].items():
            if not any(ip_network(text).subnet_of(to) for text in [*V4, *V6] if ip_network(text).version == to.version):
                assert ec2.state.tables[table].routes[to] == target


def fewest(addresses: frozenset[str], mode: str) -> set[str]:
    """The routes that a pod is to have, told independently of the code."""
    given = [ip_network(text) for text in addresses]
    families = [[each for each in given if each.version == version] for version in (4, 6)]
    if mode == "apart":
        return set(map(str, given))
    return {str(prefix) for family in families for prefix in collapse_addresses(family)}  # type: ignore[type-var]


def inside(to: str, prefixes: set[str]) -> bool:
    """Whether a route is narrower than one of these.

    Where another has the very prefix, or a route within it, that is not fought over, or not looked for where it is
    dead, as long as our own longer routes deliver: so these stay.
    """
    route = ip_network(to)
    broader = [prefix for text in prefixes if (prefix := ip_network(text)).version == route.version]
    return any(route != prefix and route.subnet_of(prefix) for prefix in broader)  # type: ignore[arg-type]


@thorough
@given(stories("a", EXACT), LEFT_THERE)
@example(
    [Step("a", frozenset(V4[:last]), "together", applied, 0.0, False) for last, applied in ((8, 4), (5, 0), (1, 0))],
    {("rtb-0", "192.168.0.0/32"): "eni-8", ("rtb-0", "192.168.0.4/30"): "eni-8"},
)
@example(
    [Step("a", frozenset(V4[:1]), "together", 3, 0.0, False), Step("a", frozenset(V4[:4]), "together", 0, 0.0, False)],
    {("rtb-1", "192.168.0.1/32"): "eni-8", ("rtb-1", "192.168.0.0/31"): "eni-9"},
)
def test_one_pod_ends_with_exactly_the_routes_of_its_addresses(
    story: list[Step], found: dict[tuple[str, str], str]
) -> None:
    with world(found, "a") as (ec2, pods):
        before = {name: dict(table.routes) for name, table in ec2.state.tables.items()}
        for step in story:
            pods["a"].take(step)
        settle(ec2, pods)
        for table in TABLES:
            wanted = fewest(story[-1].addresses, story[-1].settings)
            found_there = set().union(*(routes_to(ec2, table, target) for target in ("eni-8", "eni-9", "tgw-1")))
            others = {to for to in found_there if to in wanted or inside(to, wanted)}
            ours = routes_to(ec2, table, "eni-1")
            assert {to for to in ours if to in wanted or not inside(to, others)} == wanted - others
            assert {delivered_to(ec2, table, text) for text in story[-1].addresses} <= {"eni-1"}
        unrelated_stay(ec2, before)


@thorough
@given(stories("a", list(SETTINGS)), LEFT_THERE)
@example(
    [
        Step("a", frozenset(V4[:5]), "together", 3, 0.0, False),
        Step("a", frozenset(V4[:5]), "together", 0, 0.0, False),
        Step("a", frozenset(V4[4:5]), "pool", 0, 0.0, False),
    ],
    {("rtb-0", "192.168.0.4/30"): "eni-8"},
)
def test_pools_come_and_go_and_every_address_is_delivered(story: list[Step], found: dict[tuple[str, str], str]) -> None:
    with world(found, "a") as (ec2, pods):
        before = {name: dict(table.routes) for name, table in ec2.state.tables.items()}
        for step in story:
            pods["a"].take(step)
        settle(ec2, pods)
        for table in TABLES:
            assert {delivered_to(ec2, table, text) for text in story[-1].addresses} <= {"eni-1"}
            if story[-1].settings in ("pool", "both") and story[-1].addresses & set(V4[:8]):
                assert POOL in routes_to(ec2, table, "eni-1")
        unrelated_stay(ec2, before)


@thorough
@given(stories("abc", EXACT), LEFT_THERE)
@example(
    [
        Step("a", frozenset(V4[:2]), "together", 0, 0.0, False),
        Step("c", frozenset(V4[:2]), "apart", 3, 0.0, False),
        Step("c", frozenset(V4[:1]), "together", 0, 0.0, False),
    ],
    {("rtb-0", "192.168.0.0/31"): "eni-8"},
)
@example(  # c takes back what a has set on their ENI meanwhile; a sees it and sets it anew
    [
        Step("c", frozenset(V4[8:9]), "together", 0, 0.0, False),
        Step("c", frozenset(), "together", 0, 12.0, False),
        Step("a", frozenset(V4[6:9]), "together", 4, 0.0, False),
        Step("c", frozenset(), "together", 1, 0.0, False),
    ],
    {},
)
def test_several_pods_end_with_each_address_where_it_is(story: list[Step], found: dict[tuple[str, str], str]) -> None:
    with world(found, *PODS) as (ec2, pods):
        before = {name: dict(table.routes) for name, table in ec2.state.tables.items()}
        for step in story:
            pods[step.pod].take(step)
        settle(ec2, pods, shared=bool(pods["a"].addresses & pods["c"].addresses))
        places = {text: {pod.eni_id for pod in pods.values() if text in pod.addresses} for text in [*V4, *V6]}
        for table in TABLES:
            for text, enis in places.items():
                target = delivered_to(ec2, table, text)
                if enis:
                    assert target in enis, text
                else:
                    assert target not in ("eni-1", "eni-2"), text
        unrelated_stay(ec2, before)


@thorough
@given(stories("a", EXACT), LEFT_THERE)
def test_no_packet_would_be_lost_at_any_step_for_an_address_that_stays(
    story: list[Step], found: dict[tuple[str, str], str]
) -> None:
    """Make before break: what is delivered and stays on the pod is delivered after every single call."""
    with world(found, "a") as (ec2, pods):
        pod = pods["a"]
        delivered: set[tuple[str, str]] = set()
        for step in story:
            delivered = {item for item in delivered if item[1] in step.addresses}
            pod.take(step)
            for _ in range(25):
                made = pod.driver.plan()
                for action in made.actions:
                    pod.driver.apply([action])
                    now = {(table, text) for table in TABLES for text in pod.addresses
                           if delivered_to(ec2, table, text) == "eni-1"}  # fmt: skip
                    assert delivered <= now, action
                    delivered = now
                if not made.actions and made.wake_at is None:
                    break
                if not made.actions:
                    pod.driver.clock.now = max(pod.driver.clock.now, made.wake_at or 0.0)
