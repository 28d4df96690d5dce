"""The lab's observer of addresses: what two namespaces have at once, it sees; what follows closely, it keeps apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import links
from lab.holders import Holders, longest_gap
from lab.netns import Namespace
from tests.scenario.support import until

pytestmark = pytest.mark.namespaces

ADDRESSES = ("192.0.2.1/32", "2001:db8::1/128")


@pytest.fixture
def nodes() -> Iterator[dict[str, Namespace]]:
    """Two namespaces."""
    made = {name: Namespace(name) for name in "ab"}
    for ns in made.values():
        links.set_up_host(ns)
    yield made
    for ns in made.values():
        ns.close()


def bare(cidr: str) -> str:
    """The address alone."""
    return cidr.partition("/")[0]


@pytest.mark.parametrize("cidr", ADDRESSES)
def test_overlap_of_a_moment_is_seen(nodes: dict[str, Namespace], cidr: str) -> None:
    """One node gets the address a moment before the other one loses it."""
    links.add_address(nodes["a"], "lo", cidr)  # before anybody listens
    with Holders(nodes) as holders:
        links.add_address(nodes["b"], "lo", cidr)
        until(lambda: holders.holders(bare(cidr)) == {"a", "b"}, "announced")
        links.delete_address(nodes["a"], "lo", cidr)
        ((first, second),) = holders.overlaps(bare(cidr))
        assert (first.node, second.node) == ("a", "b")
        assert first.end is not None
        assert holders.holders(bare(cidr)) == {"b"}


@pytest.mark.parametrize("cidr", ADDRESSES)
def test_what_follows_at_once_is_no_overlap(nodes: dict[str, Namespace], cidr: str) -> None:
    """To and fro without a pause: the kernel's order counts, not when something was read."""
    with Holders(nodes) as holders:
        for _ in range(50):
            for name in "ab":
                links.add_address(nodes[name], "lo", cidr)
                until(lambda node=name: holders.holders(bare(cidr)) == {node}, "announced")  # IPv6: a moment later
                links.delete_address(nodes[name], "lo", cidr)
        assert [each.node for each in holders.tenures(bare(cidr))] == ["a", "b"] * 50
        assert holders.overlaps(bare(cidr)) == []


def test_two_forms_on_one_node_are_one_tenure(nodes: dict[str, Namespace]) -> None:
    """An address with two prefix lengths is gone when both are."""
    with Holders(nodes) as holders:
        links.add_address(nodes["a"], "lo", "192.0.2.1/32")
        links.add_address(nodes["a"], "lo", "192.0.2.1/24")
        links.delete_address(nodes["a"], "lo", "192.0.2.1/32")
        (tenure,) = holders.tenures("192.0.2.1")
        assert tenure.end is None
        links.delete_address(nodes["a"], "lo", "192.0.2.1/24")
        (tenure,) = holders.tenures("192.0.2.1")
        assert tenure.end is not None


def test_longest_gap(nodes: dict[str, Namespace]) -> None:
    """What belongs to no tenure between two moments."""
    with Holders(nodes) as holders:
        for name in "ab":
            links.add_address(nodes[name], "lo", "192.0.2.1/32")
            links.delete_address(nodes[name], "lo", "192.0.2.1/32")
        tenures = holders.tenures("192.0.2.1")
    for number, each in enumerate(tenures):
        each.start, each.end = 10.0 + 5 * number, 12.0 + 5 * number  # 10–12, 15–17
    assert longest_gap(tenures, 10.0, 17.0) == 3.0
    assert longest_gap(tenures, 4.0, 17.0) == 6.0
    assert longest_gap(tenures, 11.0, 21.0) == 4.0
    assert longest_gap(tenures, 10.5, 11.5) == 0.0
    assert longest_gap([], 1.0, 3.0) == 2.0
