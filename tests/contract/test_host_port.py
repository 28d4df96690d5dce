"""The contract of HostPort, sentence by sentence, against the double and against the kernel."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_interface
from typing import Any, Protocol

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from lab import links
from tests.contract.netlink_worlds import MAC1, MAC2, KernelPod
from tests.doubles.clock import StillClock
from tests.doubles.host import FakeHost
from vipmanager.clients.host import MADE_ON_ANOTHER, HostNetlinkClient
from vipmanager.clients.netlink import PROTOCOL, open_events
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import MAIN_TABLE, Address, PodNetwork, PodRoute, PodRule
from vipmanager.ports import HostPort

FLOATING = [ip_address("192.168.0.1"), ip_address("2001:db8::1")]
LATER = {4: ip_address("192.168.0.99"), 6: ip_address("2001:db8::99")}
LONG = 600
NOT_THERE = 4711


class HostWorld(Protocol):
    """A node whose only interface is `ens5`, up."""

    port: HostPort

    def add(self, name: str, mac: str) -> None:
        """Add an interface."""
        ...

    def add_address(self, name: str, cidr: str) -> None:
        """Somebody else adds an address, for ever."""
        ...

    def set_up(self, name: str, up: bool) -> None:
        """Set an interface up or down."""
        ...

    def remove(self, name: str) -> None:
        """Remove an interface."""
        ...

    def index(self, name: str) -> int:
        """The number of an interface."""
        ...

    def await_end(self, address: Address) -> None:
        """Return when the kernel has taken the address off; fail when it does not."""
        ...


class FakeNode:
    """Behind the double."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.host = FakeHost(self.clock)
        self.port: HostPort = self.host
        self.host.plug("ens5", MAC1)

    def close(self) -> None:
        self.host.close()

    def add(self, name: str, mac: str) -> None:
        self.host.plug(name, mac)

    def add_address(self, name: str, cidr: str) -> None:
        interface = next(each for each in self.host.host_interfaces() if each.name == name)
        self.host.set_addresses(name, *map(str, interface.addresses), str(ip_interface(cidr).ip))

    def set_up(self, name: str, up: bool) -> None:
        self.host.set_up(name, up)

    def remove(self, name: str) -> None:
        self.host.unplug(name)

    def index(self, name: str) -> int:
        return self.host.index(name)

    def await_end(self, address: Address) -> None:
        with suppress(BlockingIOError):
            while self.host.events.recv(4096):  # what came before
                pass
        self.clock.advance(self.host.remaining("ens5", str(address)) or 0.0)
        self.host.expire()
        assert self.host.events.recv(4096), "no event"


class KernelNode(KernelPod):
    """Behind the real client."""

    def __init__(self) -> None:
        super().__init__(HostNetlinkClient)
        self.add("ens5", MAC1)
        self.events = self.inside.run(open_events)

    def close(self) -> None:
        self.events.close()
        super().close()

    def await_end(self, address: Address) -> None:
        while self.forms(str(address)):
            readable, _, _ = select.select([self.events], [], [], 20.0)
            assert readable, f"the kernel keeps {address}"
            self.events.recv(65536)

    def forms(self, text: str) -> list[tuple[int, int, int]]:
        """Prefix length, flags and lifetime of each form of an address, as another program sees them."""

        def read(iproute: Any) -> list[tuple[int, int, int]]:
            return [
                (each["prefixlen"], int(each.get_attr("IFA_FLAGS")), each.get_attr("IFA_CACHEINFO")["ifa_valid"])
                for each in iproute.get_addr()
                if (each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")) == text
            ]

        return self.iproute(read)


@pytest.fixture
def kernel() -> Iterator[KernelNode]:
    made = KernelNode()
    yield made
    made.close()


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.namespaces)])
def node(request: pytest.FixtureRequest) -> Iterator[HostWorld]:
    if request.param == "kernel":
        yield request.getfixturevalue("kernel")
        return
    made = FakeNode()
    yield made
    made.close()


def shown(node: HostWorld, name: str = "ens5") -> tuple[Address, ...]:
    """The addresses of an interface."""
    return next(each.addresses for each in node.port.host_interfaces() if each.name == name)


# Interfaces ----------------------------------------------------------------------------------------------------------


def test_every_interface_but_the_loopback_is_shown_in_the_kernels_order(node: HostWorld) -> None:
    node.add("eth0", MAC2)
    first, second = node.port.host_interfaces()
    assert (first.name, first.mac, first.up, first.physical) == ("ens5", MAC1, True, True)
    assert (second.name, second.mac, second.index) == ("eth0", MAC2, node.index("eth0"))


def test_addresses_of_both_families_are_shown_whatever_their_length(node: HostWorld) -> None:
    for cidr in ("192.168.0.9/32", "10.10.1.50/24", "2001:db8::1/128", "fd00:1::5/64"):
        node.add_address("ens5", cidr)
    expected = ("10.10.1.50", "192.168.0.9", "2001:db8::1", "fd00:1::5")  # and no link-local one
    assert shown(node) == tuple(map(ip_address, expected))


def test_an_interface_that_is_plugged_and_unplugged_comes_and_goes(node: HostWorld) -> None:
    node.add("ens6", MAC2)
    node.port.put_address(node.index("ens6"), FLOATING[0], LONG)
    assert shown(node, "ens6") == (FLOATING[0],)
    node.remove("ens6")
    assert [each.name for each in node.port.host_interfaces()] == ["ens5"]


def test_bringing_up_is_idempotent(node: HostWorld) -> None:
    node.set_up("ens5", False)
    assert not node.port.host_interfaces()[0].up
    for _ in range(2):
        node.port.bring_up(node.index("ens5"))
        assert node.port.host_interfaces()[0].up


# Addresses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", FLOATING, ids=str)
def test_the_kernel_takes_an_address_off_when_its_lifetime_ends(node: HostWorld, address: Address) -> None:
    node.port.put_address(node.index("ens5"), address, 1)
    assert shown(node) == (address,)
    node.await_end(address)
    assert shown(node) == ()


@pytest.mark.parametrize("address", FLOATING, ids=str)
def test_each_put_begins_the_lifetime_anew(node: HostWorld, address: Address) -> None:
    """Shown by another address whose end comes after the end that was put off."""
    ens5, later = node.index("ens5"), LATER[address.version]
    node.port.put_address(ens5, address, 1)
    node.port.put_address(ens5, address, LONG)
    node.port.put_address(ens5, later, 2)
    node.await_end(later)
    assert shown(node) == (address,)


@pytest.mark.parametrize("address", FLOATING, ids=str)
def test_a_lifetime_can_be_cut_short(node: HostWorld, address: Address) -> None:
    node.port.put_address(node.index("ens5"), address, LONG)
    node.port.put_address(node.index("ens5"), address, 1)
    node.await_end(address)
    assert shown(node) == ()


@pytest.mark.parametrize(
    "cidr", ["192.168.0.1/32", "192.168.0.1/24", "2001:db8::1/128", "2001:db8::1/64"], ids=lambda cidr: cidr
)
def test_an_address_that_somebody_added_for_ever_gets_a_lifetime(node: HostWorld, cidr: str) -> None:
    address = ip_interface(cidr).ip
    node.add_address("ens5", cidr)
    node.port.put_address(node.index("ens5"), address, 1)
    node.await_end(address)
    assert shown(node) == ()


@pytest.mark.parametrize(
    "cidr", ["192.168.0.1/32", "192.168.0.1/24", "2001:db8::1/128", "2001:db8::1/64"], ids=lambda cidr: cidr
)
def test_an_address_is_removed_whatever_its_length(node: HostWorld, cidr: str) -> None:
    node.add_address("ens5", cidr)
    node.port.remove_address(node.index("ens5"), ip_interface(cidr).ip)
    assert shown(node) == ()


def test_several_addresses_are_put_and_removed_one_by_one(node: HostWorld) -> None:
    ens5 = node.index("ens5")
    addresses = [*FLOATING, *LATER.values()]
    for address in addresses:
        node.port.put_address(ens5, address, LONG)
    assert set(shown(node)) == set(addresses)
    node.port.remove_address(ens5, FLOATING[0])
    node.port.remove_address(ens5, LATER[6])
    assert set(shown(node)) == {FLOATING[1], LATER[4]}


def test_other_addresses_and_interfaces_are_left_alone(node: HostWorld) -> None:
    node.add("ens6", MAC2)
    for cidr in ("10.10.1.50/24", "192.168.0.10/24", "fd00:1::5/64", "2001:db8::10/64"):
        node.add_address("ens5", cidr)
    node.add_address("ens6", "192.168.0.1/24")
    before = shown(node)
    for address in FLOATING:
        node.port.put_address(node.index("ens5"), address, LONG)
    for address in FLOATING:
        node.port.remove_address(node.index("ens5"), address)
    assert (shown(node), shown(node, "ens6")) == (before, (FLOATING[0],))


def test_removing_an_address_that_is_not_there_is_no_error(node: HostWorld) -> None:
    for address in FLOATING:
        node.port.remove_address(node.index("ens5"), address)
        node.port.remove_address(NOT_THERE, address)
    assert shown(node) == ()


@pytest.mark.parametrize("address", FLOATING, ids=str)
def test_an_address_can_be_put_on_an_interface_that_is_down(node: HostWorld, address: Address) -> None:
    node.set_up("ens5", False)
    node.port.put_address(node.index("ens5"), address, LONG)
    node.port.bring_up(node.index("ens5"))
    assert shown(node) == (address,)


def test_what_is_asked_of_an_interface_that_went_away_is_to_be_retried(node: HostWorld) -> None:
    calls: list[Callable[[], None]] = [
        lambda: node.port.put_address(NOT_THERE, FLOATING[0], 1),
        lambda: node.port.put_address(NOT_THERE, FLOATING[1], 1),
        lambda: node.port.bring_up(NOT_THERE),
    ]
    for call in calls:
        with pytest.raises(CallError) as caught:
            call()
        assert caught.value.kind is ErrorKind.RETRY


@pytest.mark.parametrize("address", FLOATING, ids=str)
def test_a_lifetime_of_nothing_is_refused(node: HostWorld, address: Address) -> None:
    with pytest.raises(CallError) as caught:
        node.port.put_address(node.index("ens5"), address, 0)
    assert (caught.value.kind, shown(node)) == (ErrorKind.INVALID, ())


def test_routes_and_rules_are_as_in_the_pod_mode(node: HostWorld) -> None:
    routes = [
        PodRoute(101, "0.0.0.0/0", "10.10.1.1", node.index("ens5")),
        PodRoute(MAIN_TABLE, "10.10.31.0/24", "10.10.1.1", node.index("ens5")),
    ]
    rule = PodRule("192.168.0.1/32", 101)
    for route in routes:
        node.port.set_route(route)
    node.port.add_rule(rule)
    assert node.port.pod_network() == PodNetwork(frozenset(routes), frozenset((rule,)))
    node.port.delete_route(routes[1])
    node.port.delete_rule(rule)
    assert node.port.pod_network() == PodNetwork(frozenset(routes[:1]))


# The real one only ---------------------------------------------------------------------------------------------------


@pytest.mark.namespaces
@pytest.mark.parametrize("address", FLOATING, ids=str)
def test_the_address_is_a_host_address_of_ours_that_is_usable_at_once(kernel: KernelNode, address: Address) -> None:
    links.write_sysctls(kernel.ns, {"net/ipv6/conf/ens5/accept_dad": "1"})
    kernel.port.put_address(kernel.index("ens5"), address, LONG)
    ((length, flags, valid),) = kernel.forms(str(address))
    assert (length, flags & (0x80 | 0x40)) == (address.max_prefixlen, 0)  # neither permanent nor tentative
    assert 0 < valid <= LONG
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6

    def bind() -> int:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((str(address), 0))  # a tentative address cannot be bound
            return int(sock.getsockname()[1])

    assert kernel.ns.run(bind) > 0
    protocols = kernel.iproute(
        lambda iproute: [each.get_attr("IFA_PROTO") for each in iproute.get_addr() if each["scope"] == 0]
    )
    assert protocols == [PROTOCOL]


@pytest.mark.namespaces
@pytest.mark.parametrize("text", ["192.168.0.1", "2001:db8::1"])
def test_only_the_form_that_ends_stays(kernel: KernelNode, text: str) -> None:
    length = 24 if "." in text else 64
    kernel.add_address("ens5", f"{text}/{length}")
    kernel.port.put_address(kernel.index("ens5"), ip_address(text), LONG)
    ((left, _, valid),) = kernel.forms(text)
    assert (left, 0 < valid <= LONG) == (ip_address(text).max_prefixlen, True)


@pytest.mark.namespaces
def test_a_form_that_has_a_peer_goes_too(kernel: KernelNode) -> None:
    ens5 = kernel.index("ens5")
    for local, peer in (("192.168.0.1", "192.168.0.2"), ("2001:db8::1", "2001:db8::2")):
        length = ip_address(local).max_prefixlen
        kernel.iproute(
            lambda iproute, it=(local, peer, length): iproute.addr(
                "add", index=ens5, local=it[0], address=it[1], prefixlen=it[2]
            )
        )
        kernel.port.put_address(ens5, ip_address(local), LONG)
        ((_, _, valid),) = kernel.forms(local)
        assert 0 < valid <= LONG
        kernel.port.remove_address(ens5, ip_address(local))
        assert kernel.forms(local) == []


@pytest.mark.namespaces
def test_a_form_of_another_scope_is_replaced(kernel: KernelNode) -> None:
    ens5 = kernel.index("ens5")
    kernel.iproute(lambda iproute: iproute.addr("add", index=ens5, address="192.168.0.1", prefixlen=32, scope=253))
    assert shown(kernel) == ()
    kernel.port.put_address(ens5, FLOATING[0], LONG)
    assert shown(kernel) == (FLOATING[0],)


@pytest.mark.namespaces
@pytest.mark.parametrize("put_first", [True, False])
def test_the_nodes_own_address_outlives_a_floating_one_that_came_before_it(kernel: KernelNode, put_first: bool) -> None:
    """Linux takes the secondary addresses of a subnet off with its first, unless it is told to promote them."""
    ens5 = kernel.index("ens5")
    links.write_sysctls(kernel.ns, {f"net/ipv4/conf/{each}/promote_secondaries": "0" for each in ("all", "ens5")})
    for cidr in ("192.168.0.1/24", "192.168.0.50/24"):
        kernel.add_address("ens5", cidr)
    links.add_route(kernel.ns, "ens5", "0.0.0.0/0", gateway="192.168.0.254", source="192.168.0.50")
    if put_first:
        kernel.port.put_address(ens5, FLOATING[0], LONG)
    kernel.port.remove_address(ens5, FLOATING[0])
    assert shown(kernel) == (ip_address("192.168.0.50"),)
    default = kernel.iproute(
        lambda iproute: [each.get_attr("RTA_PREFSRC") for each in iproute.get_default_routes(family=2)]
    )
    assert default == ["192.168.0.50"]


@pytest.mark.namespaces
@pytest.mark.parametrize(
    ("own", "floating", "elsewhere"),
    [("10.10.1.50/24", "10.10.1.80", "192.0.2.1"), ("2001:db8::50/64", "2001:db8::80", "2001:db9::1")],
    ids=["IPv4", "IPv6"],
)
def test_the_node_does_not_take_it_for_its_own_source(
    kernel: KernelNode, own: str, floating: str, elsewhere: str
) -> None:
    """What the node opens through it would break when it moves on."""
    kernel.add_address("ens5", own)
    version = ip_address(floating).version
    links.add_route(
        kernel.ns,
        "ens5",
        "0.0.0.0/0" if version == 4 else "::/0",
        gateway="10.10.1.1" if version == 4 else "fe80::1",
    )
    kernel.port.put_address(kernel.index("ens5"), ip_address(floating), LONG)

    def source() -> str:
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect((elsewhere, 9))
            return str(sock.getsockname()[0])

    assert kernel.ns.run(source) == str(ip_interface(own).ip)


@pytest.mark.namespaces
def test_an_address_that_failed_duplicate_detection_is_shown_and_put_right(kernel: KernelNode) -> None:
    """Somebody on the link had it and another program added it here: it is unusable until it is added anew."""
    links.write_sysctls(kernel.ns, {"net/ipv6/conf/ens5/accept_dad": "1"})
    links.add_address(kernel._elsewhere, "to-ens5", "2001:db8::1/64")
    kernel.iproute(
        lambda iproute: iproute.addr("add", index=kernel.index("ens5"), address="2001:db8::1", prefixlen=128)
    )
    while not kernel.forms("2001:db8::1")[0][1] & 0x08:
        readable, _, _ = select.select([kernel.events], [], [], 20.0)
        assert readable, "the kernel has found no duplicate"
        kernel.events.recv(65536)
    assert shown(kernel) == (FLOATING[1],)
    kernel.port.put_address(kernel.index("ens5"), FLOATING[1], LONG)
    ((_, flags, _),) = kernel.forms("2001:db8::1")
    assert not flags & (0x08 | 0x40)


@pytest.mark.namespaces
@pytest.mark.parametrize("cidr", ["192.168.0.1/32", "192.168.0.1/24", "2001:db8::1/128"])
@pytest.mark.parametrize("interface_too", [False, True])
def test_an_address_that_goes_while_it_is_being_removed_is_no_error(
    kernel: KernelNode, cidr: str, interface_too: bool
) -> None:
    """Its lifetime ends, or its ENI is detached, between the look and the removal."""
    kernel.add_address("ens5", cidr)
    (form,) = kernel.inside._forms(kernel.index("ens5"), ip_interface(cidr).ip)
    if interface_too:
        kernel.remove("ens5")
    else:
        kernel.delete_address("ens5", cidr)
    kernel.inside._delete(form, ip_interface(cidr).ip)
    assert kernel.forms(str(ip_interface(cidr).ip)) == []


@pytest.mark.namespaces
def test_ipv6_that_is_switched_off_is_said_so(kernel: KernelNode) -> None:
    """The kernel's EACCES would be taken for a missing capability."""
    links.write_sysctls(kernel.ns, {"net/ipv6/conf/ens5/disable_ipv6": "1"})
    with pytest.raises(CallError) as caught:
        kernel.port.put_address(kernel.index("ens5"), FLOATING[1], LONG)
    assert caught.value.kind is ErrorKind.INVALID
    assert "disable_ipv6" in caught.value.failure.remedy


def make_link(kernel: KernelNode, kind: str, **options: Any) -> None:
    """Make a link on `ens5`; skip where this kernel has no such kind."""
    try:
        kernel.iproute(lambda iproute: iproute.link("add", ifname="child", kind=kind, **options))
    except NetlinkError as error:
        if error.code == errno.EOPNOTSUPP:
            pytest.skip(f"this kernel has no {kind}")
        raise


@pytest.mark.namespaces
@pytest.mark.parametrize("kind", ["vlan", "macvlan", "ipvlan", "bridge"])
def test_a_link_that_is_made_on_another_is_no_eni(kernel: KernelNode, kind: str) -> None:
    assert kind in MADE_ON_ANOTHER
    options: dict[str, dict[str, Any]] = {"vlan": {"vlan_id": 5}, "ipvlan": {"ipvlan_mode": 0}, "bridge": {}}
    parent = {} if kind == "bridge" else {"link": kernel.index("ens5")}
    make_link(kernel, kind, **options.get(kind, {}), **parent)
    assert [(each.name, each.physical) for each in kernel.port.host_interfaces()] == [("ens5", True), ("child", False)]


# Errors --------------------------------------------------------------------------------------------------------------


class _BrokenSocket:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> Any:
            raise self._error

        return fail


CALLS: dict[str, Callable[[HostNetlinkClient], object]] = {
    "host_interfaces": lambda port: port.host_interfaces(),
    "put_address": lambda port: port.put_address(2, FLOATING[0], 1),
    "remove_address": lambda port: port.remove_address(2, FLOATING[0]),
    "bring_up": lambda port: port.bring_up(2),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NetlinkError(errno.EPERM), ErrorKind.DENIED),
        (NetlinkError(errno.EINVAL), ErrorKind.INVALID),
        (NetlinkError(errno.EBUSY), ErrorKind.RETRY),
        (TimeoutError("no answer"), ErrorKind.RETRY),
    ],
    ids=["EPERM", "EINVAL", "EBUSY", "timeout"],
)
def test_every_error_of_the_kernel_is_a_call_error(name: str, error: Exception, kind: ErrorKind) -> None:
    client = HostNetlinkClient.__new__(HostNetlinkClient)
    client._ipr = _BrokenSocket(error)
    with pytest.raises(CallError) as caught:
        CALLS[name](client)
    assert caught.value.kind is kind
    assert ("NET_ADMIN" in caught.value.failure.remedy) == (kind is ErrorKind.DENIED)
