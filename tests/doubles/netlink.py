"""`FakeNetlink`: the netlink port with a kernel behind it, and an event socket as the kernel's own."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from dataclasses import replace
from ipaddress import ip_address, ip_network

from tests.doubles.clock import Bell
from tests.doubles.faults import Faults
from vipmanager.clients.netlink import failure
from vipmanager.errors import CallError
from vipmanager.model import (
    Address,
    PodInterface,
    PodNetwork,
    PodRoute,
    PodRule,
    may_float,
)


class FakeNetlink:
    """The netlink port. `events` becomes readable when a link or an address changes, as the kernel's socket does."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.may_write = True  # NET_ADMIN
        self.foreign: set[PodRoute] = set()  # routes that carry another protocol number
        self.events, self._kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.events, self._kernel):
            end.setblocking(False)
        self._lock = threading.RLock()
        self._interfaces: dict[int, PodInterface] = {}
        self._routes: dict[tuple[int, str], PodRoute] = {}
        self._rules: set[PodRule] = set()

    # building and looking, for tests

    @property
    def bell(self) -> Bell:
        """Rings at each call."""
        return self.faults.bell

    def close(self) -> None:
        """Give the sockets back."""
        self.events.close()
        self._kernel.close()

    def add(self, name: str, mac: str, *addresses: str, up: bool = True) -> None:
        """Add an interface."""
        with self._lock:
            index = max(self._interfaces, default=1) + 1
            self._interfaces[index] = PodInterface(index, name, mac, up, _sorted(addresses))
        self._event()

    def remove(self, name: str) -> None:
        """Remove an interface; its routes go with it."""
        with self._lock:
            del self._interfaces[self.index(name)]
            self._flush()
        self._event()

    def set_addresses(self, name: str, *addresses: str) -> None:
        """Give an interface these addresses instead of those it has."""
        self._change(name, addresses=_sorted(addresses))

    def set_up(self, name: str, up: bool) -> None:
        """Set an interface up or down; its routes go when it goes down."""
        self._change(name, up=up)

    def index(self, name: str) -> int:
        """The number of an interface."""
        return next(each.index for each in self._interfaces.values() if each.name == name)

    def routes(self) -> set[PodRoute]:
        """Our routes."""
        with self._lock:
            return set(self._routes.values())

    def rules(self) -> set[PodRule]:
        """Our rules."""
        with self._lock:
            return set(self._rules)

    # the port

    def interfaces(self) -> tuple[PodInterface, ...]:
        """See NetlinkPort."""
        self.faults.begin("interfaces")
        with self._lock:
            shown = (each for each in self._interfaces.values() if each.name not in ("lo", "eth0"))
            usable = (replace(each, addresses=tuple(filter(may_float, each.addresses))) for each in shown)
            return tuple(sorted(usable, key=lambda each: each.index))

    def pod_network(self) -> PodNetwork:
        """See NetlinkPort."""
        self.faults.begin("pod_network")
        with self._lock:
            return PodNetwork(frozenset(self._routes.values()), frozenset(self._rules))

    def set_route(self, route: PodRoute) -> None:
        """See NetlinkPort."""
        self._write("set_route", route)
        with self._lock:
            interface = self._interfaces.get(route.device)
            if interface is None:
                raise _error("set route", errno.ENODEV)
            if not interface.up:
                raise _error("set route", errno.ENETDOWN)
            if ip_address(route.gateway).version != ip_network(route.destination).version:
                raise _error("set route", errno.EINVAL)
            self._routes[route.table, route.destination] = route

    def delete_route(self, route: PodRoute) -> None:
        """See NetlinkPort."""
        self._write("delete_route", route)
        with self._lock:
            if self._routes.get((route.table, route.destination)) == route:
                del self._routes[route.table, route.destination]

    def add_rule(self, rule: PodRule) -> None:
        """See NetlinkPort."""
        self._write("add_rule", rule)
        with self._lock:
            self._rules.add(rule)

    def delete_rule(self, rule: PodRule) -> None:
        """See NetlinkPort."""
        self._write("delete_rule", rule)
        with self._lock:
            self._rules.discard(rule)

    def _write(self, operation: str, item: object) -> None:
        self.faults.begin(operation, item)
        if not self.may_write:
            raise _error(operation, errno.EPERM)

    def _change(self, name: str, **change: object) -> None:
        with self._lock:
            index = self.index(name)
            self._interfaces[index] = replace(self._interfaces[index], **change)  # type: ignore[arg-type]
            self._flush()
        self._event()

    def _flush(self) -> None:
        """The kernel drops the routes of a device that is down or gone; rules stay."""
        up = {index for index, interface in self._interfaces.items() if interface.up}
        self._routes = {key: route for key, route in self._routes.items() if route.device in up}

    def _event(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full socket is readable too
            self._kernel.send(b"changed")


def _sorted(addresses: tuple[str, ...]) -> tuple[Address, ...]:
    parsed = (ip_address(address) for address in addresses)
    return tuple(sorted(parsed, key=lambda address: (address.version, address)))


def _error(what: str, number: int) -> CallError:
    return CallError(failure(what, number))
