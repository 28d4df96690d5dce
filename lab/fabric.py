"""The wires: the VPC's data network (the router's ports) and the control network (EC2, IMDS, Kubernetes)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from lab import links
from lab.ec2.state import Eni, VpcState
from lab.netns import Namespace
from lab.router import INTERNET, Port, Router

ENDPOINT_ADDRESS = "100.64.0.1"
IMDS_ADDRESS = "169.254.169.254"
_SERVICES = ("100.64.0.0/16", f"{IMDS_ADDRESS}/32")  # what is on the control network
_GATEWAY = "169.254.1.1"  # as the VPC CNI gives it to a pod's eth0


@dataclass(frozen=True)
class LabEni:
    """An ENI as its host sees it. CIDRs and addresses are text; the IPv6 ones are None in a subnet without IPv6."""

    eni_id: str
    mac: str
    device_index: int
    subnet_id: str
    subnet_cidr: str
    subnet_cidr6: str | None
    primary_ip: str
    primary_ip6: str | None


def lab_eni(state: VpcState, eni: Eni) -> LabEni:
    """An attached ENI that EC2 knows."""
    subnet = state.subnets[eni.subnet_id]
    return LabEni(
        eni_id=eni.eni_id,
        mac=eni.mac,
        device_index=eni.device_index or 0,
        subnet_id=eni.subnet_id,
        subnet_cidr=str(subnet.cidr),
        subnet_cidr6=str(subnet.ipv6_cidrs[0][1]) if subnet.ipv6_cidrs else None,
        primary_ip=str(eni.primary_ip),
        primary_ip6=str(eni.ipv6_addresses[0]) if eni.ipv6_addresses else None,
    )


class DataNetwork:
    """The VPC's inside: a namespace that holds nothing but the router's ports. `state` is EC2's."""

    def __init__(self, ns: Namespace, state: Callable[[], VpcState]) -> None:
        self.ns = ns
        self.state = state
        self.router = Router(ns, state)
        self._numbers = itertools.count(1)

    def plug(self, eni: LabEni, ns: Namespace, name: str, *, up: bool = True, connected: bool = True) -> Port:
        """Make the ENI's interface in a host's namespace, with the ENI's MAC, and connect it to the router.

        `connected` is of the port: see `Port.up`.
        """
        return self._plug(eni.eni_id, eni.mac, ns, name, up=up, connected=connected)

    def plug_internet(self, ns: Namespace, name: str, mac: str) -> Port:
        """Make the interface of the host that stands for the internet, and connect it to the internet gateway."""
        return self._plug(INTERNET, mac, ns, name, up=True, connected=True)

    def _plug(self, eni_id: str, mac: str, ns: Namespace, name: str, *, up: bool, connected: bool) -> Port:
        """The interface comes to the host when the router is ready for its first frame."""
        port = f"port{next(self._numbers)}"
        links.make_pair(self.ns, f"{port}-host", self.ns, port, mac=mac, up=False)
        made = self.router.add_port(eni_id, port, mac)
        made.up = connected
        links.move(self.ns, f"{port}-host", ns, name, up=up)
        if up:
            links.wait_until_running(self.ns, port)
        return made

    def move(self, port: Port, ns: Namespace, name: str, to: Namespace, new_name: str) -> None:
        """Move the host's end of a port to another namespace, and set it up."""
        links.move(ns, name, to, new_name)
        links.wait_until_running(self.ns, port.name)

    def unplug(self, port: Port) -> None:
        """Remove the port and with it the interface at the host."""
        self.router.remove_port(port)
        links.delete(self.ns, port.name)


class ControlNetwork:
    """How hosts reach EC2 and IMDS: through the kernel of a namespace that has their addresses and forwards nothing."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self._numbers = itertools.count(1)
        for address in (ENDPOINT_ADDRESS, IMDS_ADDRESS, _GATEWAY):
            links.add_address(ns, "lo", f"{address}/32")

    def connect_pod(self, ns: Namespace, address: str) -> str:
        """Give a pod its eth0, with a default route, and return the name of the far end."""
        far_end = self._connect(ns, "eth0", address)
        links.add_address(ns, "eth0", f"{address}/32")
        links.add_route(ns, "eth0", f"{_GATEWAY}/32")
        links.add_route(ns, "eth0", "0.0.0.0/0", gateway=_GATEWAY)
        return far_end

    def connect_worker(self, ns: Namespace, address: str) -> str:
        """Give a worker its control0, on which it uses an address it has already; return the name of the far end."""
        far_end = self._connect(ns, "control0", address)
        for network in _SERVICES:
            links.add_route(ns, "control0", network, source=address)
        return far_end

    def _connect(self, ns: Namespace, name: str, address: str) -> str:
        far_end = f"host{next(self._numbers)}"
        links.make_pair(ns, name, self.ns, far_end)
        links.wait_until_running(ns, name)
        links.add_route(self.ns, far_end, f"{address}/32")
        return far_end

    def disconnect(self, far_end: str) -> None:
        """Remove a host's connection."""
        links.delete(self.ns, far_end)

    def set_connected(self, far_end: str, address: str, *, connected: bool) -> None:
        """Cut a host off, or let it back. The host sees its link lose its carrier."""
        links.set_link(self.ns, far_end, up=connected)
        if connected:  # the kernel has dropped the routes of a link that was down
            links.add_route(self.ns, far_end, f"{address}/32")
