"""The same pod, twice: behind the double, and behind the real client in a network namespace."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface
from typing import Any, Protocol, TypeVar

from pyroute2.iproute.linux import IPRoute

from lab import links, netns
from lab.netns import Namespace
from tests.doubles.clock import until
from tests.doubles.netlink import FakeNetlink
from vipmanager.clients.netlink import NetlinkClient
from vipmanager.model import PodRoute, PodRule
from vipmanager.ports import NetlinkPort

MAC1, MAC2 = "02:00:00:00:00:01", "02:00:00:00:00:02"
STATIC = 4  # RTPROT_STATIC, somebody else's
_T = TypeVar("_T")


class NetlinkWorld(Protocol):
    """A pod without interfaces; those that are added are up."""

    port: NetlinkPort

    def add(self, name: str, mac: str) -> None:
        """Add an interface."""
        ...

    def add_address(self, name: str, cidr: str) -> None:
        """Add an address."""
        ...

    def delete_address(self, name: str, cidr: str) -> None:
        """Delete an address."""
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

    def add_foreign(self, route: PodRoute, rule: PodRule) -> None:
        """Somebody else's route and rule."""
        ...

    def foreign(self) -> tuple[int, int]:
        """How many routes and rules somebody else still has."""
        ...


def until_local(ns: Namespace, text: str) -> None:
    """Wait until an IPv6 address that was just added can be reached.

    Without DAD too, Linux gives it its route in the local table a moment later, from a work queue; until then it can be
    bound, and packets to it leave by the link's prefix route.
    """

    def is_local(iproute: IPRoute) -> bool:
        return any(each.get_attr("RTA_DST") == text for each in iproute.get_routes(family=10, table=255))

    until(lambda: links.netlink(ns, is_local))


class FakePod:
    """Behind the double."""

    def __init__(self) -> None:
        self.kernel = FakeNetlink()
        self.port: NetlinkPort = self.kernel
        self._addresses: dict[str, list[str]] = {}
        self._foreign: tuple[set[PodRoute], set[PodRule]] = (set(), set())

    def close(self) -> None:
        self.kernel.close()

    def add(self, name: str, mac: str) -> None:
        self.kernel.add(name, mac)
        self._addresses[name] = []

    def add_address(self, name: str, cidr: str) -> None:
        self._addresses[name].append(str(ip_interface(cidr).ip))
        self.kernel.set_addresses(name, *self._addresses[name])

    def delete_address(self, name: str, cidr: str) -> None:
        self._addresses[name].remove(str(ip_interface(cidr).ip))
        self.kernel.set_addresses(name, *self._addresses[name])

    def set_up(self, name: str, up: bool) -> None:
        self.kernel.set_up(name, up)

    def remove(self, name: str) -> None:
        self.kernel.remove(name)

    def index(self, name: str) -> int:
        return self.kernel.index(name)

    def add_foreign(self, route: PodRoute, rule: PodRule) -> None:
        self._foreign[0].add(route)
        self._foreign[1].add(rule)

    def foreign(self) -> tuple[int, int]:
        return len(self._foreign[0]), len(self._foreign[1])


class InNamespace:
    """A port whose methods run on one thread, which has entered a namespace as the agent's has its pod's."""

    def __init__(self, ns: Namespace, client: Callable[[], NetlinkClient] = NetlinkClient) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=netns.setns, initargs=(ns.fileno(), netns.CLONE_NEWNET))
        self._client: NetlinkClient = self.run(client)

    def run(self, action: Callable[[], _T]) -> _T:
        """Run something there."""
        return self._thread.submit(action).result()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments: self.run(lambda: method(*arguments))

    def end(self) -> None:
        """Close the client and end the thread."""
        self.run(self._client.close)
        self._thread.shutdown()


class KernelPod:
    """Behind the real client."""

    def __init__(self, client: Callable[[], NetlinkClient] = NetlinkClient) -> None:
        self.ns, self._elsewhere = Namespace("pod"), Namespace("elsewhere")
        links.set_up_host(self.ns)
        self.inside = InNamespace(self.ns, client)
        self.port: NetlinkPort = self.inside  # type: ignore[assignment]

    def close(self) -> None:
        self.inside.end()
        self.ns.close()
        self._elsewhere.close()

    def add(self, name: str, mac: str) -> None:
        links.make_pair(self.ns, name, self._elsewhere, f"to-{name}", mac=mac)

    def add_address(self, name: str, cidr: str) -> None:
        links.add_address(self.ns, name, cidr)

    def delete_address(self, name: str, cidr: str) -> None:
        links.delete_address(self.ns, name, cidr)

    def set_up(self, name: str, up: bool) -> None:
        links.set_link(self.ns, name, up=up)

    def remove(self, name: str) -> None:
        links.delete(self.ns, name)

    def index(self, name: str) -> int:
        return self.iproute(lambda iproute: int(iproute.link_lookup(ifname=name)[0]))

    def add_foreign(self, route: PodRoute, rule: PodRule) -> None:
        source, length = rule.source.split("/")

        def add(iproute: IPRoute) -> None:
            onlink = {"gateway": route.gateway, "oif": route.device, "flags": 4}
            iproute.route("add", dst=route.destination, table=route.table, proto=STATIC, **onlink)
            iproute.rule("add", src=source, src_len=int(length), table=rule.table, priority=2000, action=1)

        self.iproute(add)

    def foreign(self) -> tuple[int, int]:
        def count(iproute: IPRoute) -> tuple[int, int]:
            rules = [rule for rule in iproute.get_rules(family=2) if rule.get_attr("FRA_PRIORITY") == 2000]
            return len([route for route in iproute.get_routes(family=2) if route["proto"] == STATIC]), len(rules)

        return self.iproute(count)

    def iproute(self, action: Callable[[IPRoute], _T]) -> _T:
        """Run something with a netlink socket of the pod's."""
        return links.netlink(self.ns, action)
