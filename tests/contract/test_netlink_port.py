"""The contract of NetlinkPort, sentence by sentence, against the double and against the kernel."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from lab import links
from tests.contract.netlink_worlds import MAC1, MAC2, FakePod, KernelPod, NetlinkWorld
from vipmanager.clients.netlink import PROTOCOL, open_events
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import MAIN_TABLE, PodNetwork, PodRoute, PodRule

GATEWAY, GATEWAY6 = "10.10.1.1", "fe80:ec2::1"


@pytest.fixture
def kernel() -> Iterator[KernelPod]:
    pod = KernelPod()
    yield pod
    pod.close()


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.namespaces)])
def pod(request: pytest.FixtureRequest) -> Iterator[NetlinkWorld]:
    if request.param == "kernel":
        yield request.getfixturevalue("kernel")
        return
    made = FakePod()
    yield made
    made.close()


def net1(pod: NetlinkWorld) -> int:
    """Add the interface that most tests need; returns its number."""
    pod.add("net1", MAC1)
    return pod.index("net1")


def routes_of(index: int) -> list[PodRoute]:
    """A route of each kind that vipmanager sets."""
    return [
        PodRoute(MAIN_TABLE, "10.10.31.0/24", GATEWAY, index),
        PodRoute(MAIN_TABLE, "10.10.32.7/32", GATEWAY, index),
        PodRoute(101, "0.0.0.0/0", GATEWAY, index),
        PodRoute(MAIN_TABLE, "2001:db8:5::/48", GATEWAY6, index),
        PodRoute(MAIN_TABLE, "2001:db8::7/128", GATEWAY6, index),
        PodRoute(101, "::/0", GATEWAY6, index),
        PodRoute(301, "0.0.0.0/0", GATEWAY, index),  # a table that needs more than eight bits
        PodRoute(301, "::/0", GATEWAY6, index),
    ]


RULES = [PodRule("192.168.0.1/32", 101), PodRule("2001:db8::1/128", 101), PodRule("192.168.0.2/32", 301)]


# Interfaces ----------------------------------------------------------------------------------------------------------


def test_a_pod_without_multus_has_no_interfaces(pod: NetlinkWorld) -> None:
    """Its loopback is never one."""
    assert pod.port.interfaces() == ()


@pytest.mark.parametrize("name", ["ens5", "lo1", "eth01", "myeth0", "eth1", "net1"])
def test_only_lo_and_eth0_are_left_out_by_their_whole_name(pod: NetlinkWorld, name: str) -> None:
    pod.add("eth0", MAC2)
    pod.add(name, MAC1)
    (interface,) = pod.port.interfaces()
    assert (interface.name, interface.mac, interface.up) == (name, MAC1, True)
    assert interface.index == pod.index(name)


def test_interfaces_come_in_the_kernels_order(pod: NetlinkWorld) -> None:
    for number, name in enumerate(("net9", "net1", "net5"), 1):
        pod.add(name, f"02:00:00:00:00:0{number}")
    assert [interface.name for interface in pod.port.interfaces()] == ["net9", "net1", "net5"]


def test_two_interfaces_may_share_a_mac(pod: NetlinkWorld) -> None:
    pod.add("net1", MAC1)
    pod.add("net2", MAC1)
    assert [(each.name, each.mac) for each in pod.port.interfaces()] == [("net1", MAC1), ("net2", MAC1)]


def test_global_addresses_of_both_families_are_shown_whatever_their_length(pod: NetlinkWorld) -> None:
    net1(pod)
    for cidr in ("192.168.0.9/32", "10.10.1.50/24", "2001:db8::1/128", "fd00:1::5/64"):
        pod.add_address("net1", cidr)
    (interface,) = pod.port.interfaces()
    expected = ("10.10.1.50", "192.168.0.9", "2001:db8::1", "fd00:1::5")  # and no link-local one
    assert interface.addresses == tuple(ip_address(text) for text in expected)


def test_an_address_that_cannot_float_is_not_shown(pod: NetlinkWorld) -> None:
    """Though the kernel takes them with global scope, where it is not told another."""
    net1(pod)
    for cidr in ("192.168.0.9/32", "127.0.0.2/32", "169.254.7.7/32"):
        pod.add_address("net1", cidr)
    (interface,) = pod.port.interfaces()
    assert interface.addresses == (ip_address("192.168.0.9"),)


def test_an_address_that_is_removed_is_gone(pod: NetlinkWorld) -> None:
    net1(pod)
    for cidr in ("192.168.0.1/32", "192.168.0.2/32", "2001:db8::1/128"):
        pod.add_address("net1", cidr)
    pod.delete_address("net1", "192.168.0.1/32")
    pod.delete_address("net1", "2001:db8::1/128")
    assert pod.port.interfaces()[0].addresses == (ip_address("192.168.0.2"),)


def test_an_interface_that_is_down_is_shown_as_down_with_its_addresses(pod: NetlinkWorld) -> None:
    net1(pod)
    pod.add_address("net1", "192.168.0.1/32")
    pod.set_up("net1", False)
    (interface,) = pod.port.interfaces()
    assert (interface.up, interface.addresses) == (False, (ip_address("192.168.0.1"),))


def test_an_interface_that_is_removed_is_gone(pod: NetlinkWorld) -> None:
    net1(pod)
    pod.add("net2", MAC2)
    pod.remove("net1")
    assert [interface.name for interface in pod.port.interfaces()] == ["net2"]


# Routes and rules ----------------------------------------------------------------------------------------------------


def test_routes_and_rules_are_read_back_as_they_were_set(pod: NetlinkWorld) -> None:
    routes = routes_of(net1(pod))
    for route in routes:
        pod.port.set_route(route)
    for rule in RULES:
        pod.port.add_rule(rule)
    assert pod.port.pod_network() == PodNetwork(frozenset(routes), frozenset(RULES))


def test_setting_a_route_twice_leaves_one(pod: NetlinkWorld) -> None:
    routes = routes_of(net1(pod))
    for route in routes * 2:
        pod.port.set_route(route)
    assert pod.port.pod_network().routes == set(routes)


def test_a_route_is_replaced_by_its_destination_and_table(pod: NetlinkWorld) -> None:
    first = net1(pod)
    pod.add("net2", MAC2)
    second = pod.index("net2")
    for route in routes_of(first):
        pod.port.set_route(route)
    for route in routes_of(second):
        pod.port.set_route(route)
    assert pod.port.pod_network().routes == set(routes_of(second))


def test_a_new_gateway_replaces_the_old_one(pod: NetlinkWorld) -> None:
    index = net1(pod)
    for route in routes_of(index):
        pod.port.set_route(route)
    moved = [
        PodRoute(route.table, route.destination, "fe80::9" if ":" in route.gateway else "10.10.1.9", index)
        for route in routes_of(index)
    ]
    for route in moved:
        pod.port.set_route(route)
    assert pod.port.pod_network().routes == set(moved)


def test_a_gateway_need_not_be_in_any_network_of_the_interface(pod: NetlinkWorld) -> None:
    """The interface has no address of the subnet, as with a /32 only: the routes are on-link."""
    index = net1(pod)
    pod.add_address("net1", "192.168.0.1/32")
    pod.port.set_route(PodRoute(MAIN_TABLE, "10.10.31.0/24", GATEWAY, index))
    pod.port.set_route(PodRoute(MAIN_TABLE, "2001:db8:5::/48", GATEWAY6, index))
    assert len(pod.port.pod_network().routes) == 2


def test_deleting_leaves_the_others(pod: NetlinkWorld) -> None:
    routes = routes_of(net1(pod))
    for route in routes:
        pod.port.set_route(route)
    for rule in RULES:
        pod.port.add_rule(rule)
    for number in range(0, len(routes), 2):
        pod.port.delete_route(routes[number])
    pod.port.delete_rule(RULES[0])
    assert pod.port.pod_network() == PodNetwork(frozenset(routes[1::2]), frozenset(RULES[1:]))


def test_deleting_a_route_that_is_not_there_is_no_error(pod: NetlinkWorld) -> None:
    routes = routes_of(net1(pod))
    for route in routes:
        pod.port.delete_route(route)
    pod.remove("net1")
    for route in routes:
        pod.port.delete_route(route)
    assert pod.port.pod_network() == PodNetwork()


def test_deleting_a_route_that_has_changed_leaves_the_new_one(pod: NetlinkWorld) -> None:
    index = net1(pod)
    old, new = (PodRoute(MAIN_TABLE, "10.10.31.0/24", gateway, index) for gateway in (GATEWAY, "10.10.1.9"))
    pod.port.set_route(new)
    pod.port.delete_route(old)
    assert pod.port.pod_network().routes == {new}


def test_adding_a_rule_twice_is_no_error_and_leaves_one(pod: NetlinkWorld) -> None:
    for rule in RULES * 2:
        pod.port.add_rule(rule)
    for rule in RULES:
        pod.port.delete_rule(rule)
    assert pod.port.pod_network().rules == frozenset()


def test_deleting_a_rule_that_is_not_there_is_no_error(pod: NetlinkWorld) -> None:
    pod.port.add_rule(RULES[1])
    for rule in (RULES[0], RULES[2]):
        pod.port.delete_rule(rule)
    assert pod.port.pod_network().rules == {RULES[1]}


def test_rules_of_one_source_and_two_tables_are_two(pod: NetlinkWorld) -> None:
    """10.10.1.1 is a beginning of 10.10.1.10 as text, and no more than that."""
    rules = [PodRule("10.10.1.1/32", 101), PodRule("10.10.1.10/32", 101), PodRule("10.10.1.1/32", 102)]
    for rule in rules:
        pod.port.add_rule(rule)
    pod.port.delete_rule(rules[0])
    assert pod.port.pod_network().rules == set(rules[1:])


def test_what_does_not_carry_our_protocol_number_is_neither_shown_nor_deleted(pod: NetlinkWorld) -> None:
    route, rule = PodRoute(MAIN_TABLE, "10.10.40.0/24", GATEWAY, net1(pod)), PodRule("192.168.0.9/32", 102)
    pod.add_foreign(route, rule)
    assert pod.port.pod_network() == PodNetwork()
    pod.port.delete_route(route)
    pod.port.delete_rule(rule)
    assert pod.foreign() == (1, 1)


def test_the_routes_of_an_interface_go_with_it_and_rules_stay(pod: NetlinkWorld) -> None:
    for route in routes_of(net1(pod)):
        pod.port.set_route(route)
    for rule in RULES:
        pod.port.add_rule(rule)
    pod.remove("net1")
    assert pod.port.pod_network() == PodNetwork(frozenset(), frozenset(RULES))


def test_a_route_through_a_device_that_is_gone_or_down_is_to_be_retried(pod: NetlinkWorld) -> None:
    index = net1(pod)
    pod.set_up("net1", False)
    for route in (*routes_of(index), *routes_of(4711)):
        with pytest.raises(CallError) as caught:
            pod.port.set_route(route)
        assert caught.value.kind is ErrorKind.RETRY


def test_a_gateway_of_the_wrong_family_is_invalid(pod: NetlinkWorld) -> None:
    with pytest.raises(CallError) as caught:
        pod.port.set_route(PodRoute(MAIN_TABLE, "2001:db8:5::/48", GATEWAY, net1(pod)))
    assert caught.value.kind is ErrorKind.INVALID


# The real one only ---------------------------------------------------------------------------------------------------


@pytest.mark.namespaces
def test_a_duplicate_address_is_not_usable(kernel: KernelPod) -> None:
    """IPv6 duplicate address detection (RFC 4862) failed: somebody on the link has it."""
    net1(kernel)
    links.write_sysctls(kernel.ns, {"net/ipv6/conf/net1/accept_dad": "1"})
    links.add_address(kernel._elsewhere, "to-net1", "2001:db8::7/64")
    with kernel.inside.run(open_events) as events:
        kernel.iproute(
            lambda iproute: iproute.addr("add", index=kernel.index("net1"), address="2001:db8::7", prefixlen=64)
        )
        _until_flag(kernel, events, "2001:db8::7", 0x08)
    assert kernel.port.interfaces()[0].addresses == ()


def _until_flag(kernel: KernelPod, events: Any, text: str, flag: int) -> None:
    """Wait for the kernel to give an address a flag; each step by an event of the kernel's."""

    def flags(iproute: Any) -> int:
        found = [each for each in iproute.get_addr() if each.get_attr("IFA_ADDRESS") == text]
        return int(found[0].get_attr("IFA_FLAGS") or 0) if found else 0

    while not kernel.iproute(flags) & flag:
        readable, _, _ = select.select([events], [], [], 10.0)
        assert readable, "the kernel has found no duplicate"
        events.recv(65536)


NEWLINK, DELLINK, NEWADDR, DELADDR = 16, 17, 20, 21  # rtnetlink(7)


@pytest.mark.namespaces
def test_events_come_for_links_and_addresses_of_both_families(kernel: KernelPod) -> None:
    changes: list[tuple[Callable[[], None], int, int]] = [
        (lambda: kernel.add("net1", MAC1), NEWLINK, socket.AF_UNSPEC),
        (lambda: kernel.add_address("net1", "192.168.0.1/32"), NEWADDR, socket.AF_INET),
        (lambda: kernel.add_address("net1", "2001:db8::1/128"), NEWADDR, socket.AF_INET6),
        (lambda: kernel.delete_address("net1", "192.168.0.1/32"), DELADDR, socket.AF_INET),
        (lambda: kernel.delete_address("net1", "2001:db8::1/128"), DELADDR, socket.AF_INET6),
        (lambda: kernel.set_up("net1", False), NEWLINK, socket.AF_UNSPEC),
        (lambda: kernel.remove("net1"), DELLINK, socket.AF_UNSPEC),
    ]
    with kernel.inside.run(open_events) as events:
        for change, kind, family in changes:
            change()
            _expect(events, kind, family)


def _expect(events: socket.socket, kind: int, family: int) -> None:
    """Read messages until one of this kind comes; of addresses one of global scope."""
    while True:
        readable, _, _ = select.select([events], [], [], 10.0)
        assert readable, f"no message {kind} of family {family}"
        message = events.recv(65536)  # nlmsghdr, then ifinfomsg or ifaddrmsg: family, length, flags, scope
        seen_kind, seen_family, scope = struct.unpack_from("4xH10xB2xB", message)
        if (seen_kind, seen_family) == (kind, family) and (kind in (NEWLINK, DELLINK) or scope == 0):
            return


@pytest.mark.namespaces
def test_our_routes_carry_our_protocol_number_and_are_on_link(kernel: KernelPod) -> None:
    kernel.port.set_route(PodRoute(MAIN_TABLE, "10.10.31.0/24", GATEWAY, net1(kernel)))

    def shown(iproute: Any) -> list[tuple[int, int]]:
        found = iproute.get_routes(family=2, table=MAIN_TABLE)
        return [(each["proto"], each["flags"] & 4) for each in found if each.get_attr("RTA_DST") == "10.10.31.0"]

    assert kernel.iproute(shown) == [(PROTOCOL, 4)]
