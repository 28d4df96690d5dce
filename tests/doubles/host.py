"""`FakeHost` and `FakeNeighbours`: the node's own side, with lifetimes on a clock that is passed in."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from tests.doubles.clock import Bell
from tests.doubles.faults import Faults
from tests.doubles.netlink import FakeNetlink, _error
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model import Address
from vipmanager.model_node import HostInterface, Mark


class FakeHost(FakeNetlink):
    """The host port. An address whose lifetime has ended is gone at the next look, or when `expire` is called."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._ends: dict[tuple[int, Address], float] = {}
        self._made_on_another: set[int] = set()
        self._marks: dict[str, frozenset[Mark]] = {}

    # building and looking, for tests

    def plug(self, name: str, mac: str, *addresses: str, up: bool = True, physical: bool = True) -> int:
        """Add an interface, as when an ENI is attached; returns its number. Its addresses stay for ever."""
        self.add(name, mac, *addresses, up=up)
        if not physical:
            self._made_on_another.add(self.index(name))
        return self.index(name)

    def unplug(self, name: str) -> None:
        """Remove an interface with its addresses and routes, as when an ENI is detached."""
        self.remove(name)

    def remove(self, name: str) -> None:
        """See FakeNetlink."""
        index = self.index(name)
        self._ends = {key: end for key, end in self._ends.items() if key[0] != index}
        super().remove(name)

    def expire(self) -> None:
        """Do what the kernel does by itself: remove each address whose lifetime has ended, with an event."""
        with self._lock:
            ended = [key for key, end in self._ends.items() if self._clock() >= end]
            for device, address in ended:
                self._drop(device, address)
        if ended:
            self._event()

    def remaining(self, name: str, address: str) -> float | None:
        """Seconds that are left of an address's lifetime; None where it has none, KeyError where it is not there."""
        self.expire()
        with self._lock:
            interface = self._interfaces[self.index(name)]
            if ip_address(address) not in interface.addresses:
                raise KeyError(address)
            end = self._ends.get((interface.index, ip_address(address)))
        return None if end is None else end - self._clock()

    # the port

    def host_interfaces(self) -> tuple[HostInterface, ...]:
        """See HostPort."""
        self.faults.begin("host_interfaces")
        self.expire()
        with self._lock:
            shown = sorted(self._interfaces.values(), key=lambda each: each.index)
            return tuple(
                HostInterface(
                    each.index, each.name, each.mac, each.up, each.addresses, each.index not in self._made_on_another
                )
                for each in shown
                if each.name != "lo"
            )

    def put_address(self, device: int, address: Address, lifetime: int, by: float = math.inf) -> None:
        """See HostPort."""
        self._write("put_address", (device, address, lifetime))
        self.expire()
        with self._lock:
            interface = self._interfaces.get(device)
            if interface is None:
                raise _error("put address", errno.ENODEV)
            if self._clock() >= by:
                raise CallError(Failure(ErrorKind.LOST, "put address", "TooLate", "another node may hold it by now"))
            if lifetime <= 0:
                raise _error("put address", errno.EINVAL)
            self._ends[device, address] = self._clock() + lifetime
            addresses = {*interface.addresses, address}
        self.set_addresses(interface.name, *map(str, addresses))

    def remove_address(self, device: int, address: Address) -> None:
        """See HostPort."""
        self._write("remove_address", (device, address))
        self.expire()
        with self._lock:
            is_there = device in self._interfaces and address in self._interfaces[device].addresses
            if is_there:
                self._drop(device, address)
        if is_there:
            self._event()

    def bring_up(self, device: int) -> None:
        """See HostPort."""
        self._write("bring_up", device)
        with self._lock:
            interface = self._interfaces.get(device)
        if interface is None:
            raise _error("bring up", errno.ENODEV)
        self.set_up(interface.name, True)

    def marks(self) -> Mapping[str, frozenset[Mark]]:
        """See HostPort."""
        self.faults.begin("marks")
        with self._lock:
            return dict(self._marks)

    def set_marks(self, table: str, marks: frozenset[Mark]) -> None:
        """See HostPort."""
        self._write("set_marks", (table, marks))
        with self._lock:
            self._marks[table] = frozenset(marks)

    def delete_marks(self, table: str) -> None:
        """See HostPort."""
        self._write("delete_marks", table)
        with self._lock:
            self._marks.pop(table, None)

    def _drop(self, device: int, address: Address) -> None:
        self._ends.pop((device, address), None)
        interface = self._interfaces[device]
        kept = [str(each) for each in interface.addresses if each != address]
        self.set_addresses(interface.name, *kept)


class FakeNeighbours:
    """The neighbour port: records what is announced, and answers for the addresses it is told."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.may_send = True  # NET_RAW
        self.answering: dict[Address, bool] = {}
        self._announced: list[tuple[str, str, Address]] = []
        self._lock = threading.Lock()

    @property
    def bell(self) -> Bell:
        """Rings at each call."""
        return self.faults.bell

    @property
    def announced(self) -> list[tuple[str, str, Address]]:
        """Device, MAC and address of each announcement that went out."""
        with self._lock:
            return list(self._announced)

    def answer(self, answers: Mapping[str, bool]) -> None:
        """Which addresses answer from now on."""
        self.answering.update({ip_address(text): yes for text, yes in answers.items()})

    def announce(self, device: str, mac: str, address: Address) -> None:
        """See NeighbourPort."""
        call = self.faults.begin("announce", device, mac, address)
        self._check("announce")
        with self._lock:
            self._announced.append((device, mac, address))
        self.faults.end(call)

    def echo(self, address: Address, timeout: float) -> bool:
        """See NeighbourPort."""
        self.faults.begin("echo", address, timeout)
        self._check("echo")
        return self.answering.get(address, False)

    def _check(self, what: str) -> None:
        if not self.may_send:
            raise CallError(Failure(ErrorKind.DENIED, what, "EPERM", "Operation not permitted", "NET_RAW"))
