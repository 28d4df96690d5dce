"""The machines of the lab: workers, peers, and what they share with pods."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from lab import echo, environment, links
from lab.children import Children
from lab.fabric import ControlNetwork, DataNetwork, LabEni
from lab.links import Link
from lab.netns import Namespace
from lab.router import GATEWAY6, Port


class Host:
    """A network namespace with a name and processes."""

    def __init__(self, name: str, children: Children) -> None:
        self.name = name
        self.env = environment.paths()  # what processes here have in their environment, besides what the lab has
        self.ns = Namespace(name)
        links.set_up_host(self.ns)
        self._children = children

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process here; `options` are subprocess.Popen's. It is killed with the host and with the lab.

        Unless they say otherwise, it has the host's `env` on top of the lab's environment, and no standard input.
        """
        options.setdefault("env", environment.without_aws(os.environ) | self.env)
        options.setdefault("stdin", subprocess.DEVNULL)
        return self._children.popen(self.ns, argv, **options)

    def processes(self) -> list[subprocess.Popen[Any]]:
        """The processes started here that are still running."""
        return self._children.running(self.ns)

    def kill_processes(self) -> None:
        """Kill what was started here, as a power failure would."""
        self._children.kill(self.ns)

    def interfaces(self) -> list[Link]:
        """The interfaces as the kernel has them now, without the loopback."""
        return links.list_links(self.ns)

    def reach(self, address: str, *, source: str | None = None, timeout: float = 1.0, count: int = 1) -> bool:
        """Whether the address answers one of `count` pings from here, each within `timeout` seconds."""
        identifier = self.ns.inode
        return self.ns.run(
            lambda: echo.ping(address, source=source, timeout=timeout, count=count, identifier=identifier)
        )

    def close(self) -> None:
        """Kill the processes and let go of the namespace, with its interfaces. May be called again."""
        self._children.kill(self.ns)
        self.ns.close()


class Worker(Host):
    """An EC2 instance that is an EKS worker: eth0 (device 0) on the control network, ethN with ENI N on the VPC's."""

    def __init__(
        self,
        name: str,
        availability_zone: str,
        instance_id: str,
        enis: Sequence[LabEni],
        env: Mapping[str, str],
        children: Children,
        control: ControlNetwork,
        data: DataNetwork,
    ) -> None:
        super().__init__(name, children)
        self.availability_zone = availability_zone
        self.instance_id = instance_id
        self.enis = list(enis)
        self.env |= env
        self.address = enis[0].primary_ip
        self.is_cut = False
        self._control = control
        self._data = data
        self._ports: list[Port] = []
        self._port_of_eni: dict[str, Port] = {}
        self._lent: set[str] = set()  # the ENIs whose interface is in a pod
        self._far_ends = {control.connect(self.ns, self.address, mac=enis[0].mac): self.address}
        for eni in self.enis[1:]:
            self._port_of_eni[eni.eni_id] = self._plug(eni, self.ns, f"eth{eni.device_index}")

    def eni(self, device_index: int) -> LabEni:
        """The ENI with this device index. Raises LookupError."""
        for eni in self.enis:
            if eni.device_index == device_index:
                return eni
        raise LookupError(f"worker {self.name} has no ENI with device index {device_index}")

    def attach(self, eni: LabEni, pod: Namespace, name: str) -> tuple[Port, Callable[[], None]]:
        """Give a pod an interface on the ENI; what is returned last takes it back.

        An ipvlan where the kernel has it; else the ENI's own interface; and where a pod has that already, one more
        interface with the same MAC.
        """
        own = f"eth{eni.device_index}"
        port = self._port_of_eni[eni.eni_id]
        if links.has_ipvlan():
            links.make_ipvlan(self.ns, own, pod, name)
            return port, lambda: links.delete(pod, name)
        if eni.eni_id in self._lent:
            extra = self._plug(eni, pod, name)
            return extra, lambda: self._unplug(extra)
        links.move(self.ns, own, pod, name)
        self._lent.add(eni.eni_id)

        def give_back() -> None:
            links.move(pod, name, self.ns, own)
            self._lent.remove(eni.eni_id)

        return port, give_back

    def connect_pod(self, pod: Namespace, address: str) -> Callable[[], None]:
        """Give a pod its eth0; what is returned removes it."""
        far_end = self._control.connect(pod, address)
        self._far_ends[far_end] = address
        if self.is_cut:
            self._control.set_connected(far_end, address, connected=False)

        def disconnect() -> None:
            del self._far_ends[far_end]
            self._control.disconnect(far_end)

        return disconnect

    def set_cut(self, cut: bool) -> None:
        """Cut the worker and its pods off from everything, or let them back."""
        if cut == self.is_cut:
            return
        self.is_cut = cut
        for port in self._ports:
            port.up = not cut
        for far_end, address in self._far_ends.items():
            self._control.set_connected(far_end, address, connected=not cut)

    def _plug(self, eni: LabEni, ns: Namespace, name: str) -> Port:
        port = self._data.plug(eni, ns, name)
        port.up = not self.is_cut
        self._ports.append(port)
        return port

    def _unplug(self, port: Port) -> None:
        self._ports.remove(port)
        self._data.unplug(port)


class Peer(Host):
    """An EC2 instance in a subnet of its own, that sends its traffic through the VPC's router. No control network."""

    def __init__(self, name: str, instance_id: str, eni: LabEni, children: Children, data: DataNetwork) -> None:
        super().__init__(name, children)
        self.instance_id = instance_id
        self.eni = eni
        self.address = eni.primary_ip
        self.address6 = eni.primary_ip6
        data.plug(eni, self.ns, "eth0")
        subnet = ip_network(eni.subnet_cidr)
        links.add_address(self.ns, "eth0", f"{eni.primary_ip}/{subnet.prefixlen}")
        links.add_route(self.ns, "eth0", "0.0.0.0/0", gateway=str(subnet[1]))
        if eni.primary_ip6 and eni.subnet_cidr6:
            links.add_address(self.ns, "eth0", f"{eni.primary_ip6}/{eni.subnet_cidr6.partition('/')[2]}")
            links.add_route(self.ns, "eth0", "::/0", gateway=str(GATEWAY6))
