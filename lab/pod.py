"""A pod with interfaces on its worker's ENIs, as Multus makes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface

from lab import links
from lab.children import Children
from lab.containers import Container, ContainerHost
from lab.fabric import LabEni
from lab.hosts import Worker
from lab.router import Port, Router

__all__ = ["Container", "Pod", "PodInterface"]


@dataclass
class PodInterface:
    """An interface other than eth0. `addresses` (`address/length`) are those the lab gave it."""

    name: str
    eni: LabEni
    port: Port
    release: Callable[[], None]
    addresses: list[str] = field(default_factory=list)


class Pod(ContainerHost):
    """A pod: eth0 for EC2 and IMDS, and other interfaces on the ENIs of its worker."""

    def __init__(self, name: str, worker: Worker, address: str, children: Children, router: Router) -> None:
        """Made by Lab.pod(). `address` is that of eth0."""
        super().__init__(name, children)
        self.worker = worker
        self.address = address
        self.env = {**worker.env, **self.env}
        self._router = router
        self._interfaces: dict[str, PodInterface] = {}
        self._releases = contextlib.ExitStack()
        self._releases.callback(worker.connect_pod(self.ns, address))

    def add_interface(self, name: str, addresses: Sequence[str] = (), *, device_index: int) -> PodInterface:
        """Add an interface on the worker's ENI with this device index; several may be on one ENI, with one MAC."""
        if name in self._interfaces or name == "eth0":
            raise ValueError(f"pod {self.name} has an interface {name} already")
        eni = self.worker.eni(device_index)
        port, release = self.worker.attach(eni, self.ns, name)
        self._interfaces[name] = PodInterface(name, eni, port, release)
        for address in addresses:
            self.add_address(name, address)
        return self._interfaces[name]

    def add_address(self, name: str, cidr: str) -> None:
        """Add an address (`address/length`) to an interface."""
        interface = self._interface(name)
        links.add_address(self.ns, name, cidr)
        interface.addresses.append(cidr)
        self._tell_router(interface)

    def del_address(self, name: str, cidr: str) -> None:
        """Delete an address (`address/length`) from an interface."""
        interface = self._interface(name)
        links.delete_address(self.ns, name, cidr)
        interface.addresses.remove(cidr)
        self._tell_router(interface)

    def lost_interface(self, name: str) -> list[str]:
        """Forget an interface that its ENI took along when it was detached; the addresses (`…/length`) it had."""
        return self._interfaces.pop(name).addresses

    def set_link(self, name: str, *, up: bool) -> None:
        """Set an interface up or down. Down, it loses its routes and IPv6 addresses, as anywhere in Linux."""
        links.set_link(self.ns, name, up=up)

    def pod_interfaces(self) -> list[PodInterface]:
        """The interfaces the lab gave the pod, without eth0."""
        return list(self._interfaces.values())

    def close(self) -> None:
        """End the pod: kill its processes, give the ENIs' own interfaces back to the worker. May be called again."""
        self.kill_processes()
        interfaces, self._interfaces = self._interfaces, {}
        for interface in interfaces.values():
            self._router.set_addresses(interface.port, set())
            interface.release()
        self._releases.close()
        super().close()

    def _interface(self, name: str) -> PodInterface:
        if name not in self._interfaces:
            raise LookupError(f"pod {self.name} has no interface {name}")
        return self._interfaces[name]

    def _tell_router(self, interface: PodInterface) -> None:
        self._router.set_addresses(interface.port, {ip_interface(cidr).ip for cidr in interface.addresses})
