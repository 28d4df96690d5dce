"""The wires: the VPC's data network (the router's ports) and the control network (EC2, IMDS)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from lab import links
from lab.ec2.state import VpcState
from lab.netns import Namespace
from lab.router import Port, Router

ENDPOINT_ADDRESS = "100.64.0.1"
IMDS_ADDRESS = "169.254.169.254"
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


class DataNetwork:
    """The VPC's inside: a namespace that holds nothing but the router's ports."""

    def __init__(self, ns: Namespace, state: Callable[[], VpcState]) -> None:
        self.ns = ns
        self.router = Router(ns, state)
        self._numbers = itertools.count(1)

    def plug(self, eni: LabEni, ns: Namespace, name: str) -> Port:
        """Make the ENI's interface in a host's namespace, with the ENI's MAC, and connect it to the router."""
        port = f"port{next(self._numbers)}"
        links.make_pair(ns, name, self.ns, port, mac=eni.mac)
        return self.router.add_port(eni.eni_id, port, eni.mac)

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

    def connect(self, ns: Namespace, address: str, mac: str | None = None) -> str:
        """Give a host its eth0, with a default route, and return the name of the far end."""
        far_end = f"host{next(self._numbers)}"
        links.make_pair(ns, "eth0", self.ns, far_end, mac=mac)
        links.add_address(ns, "eth0", f"{address}/32")
        links.add_route(ns, "eth0", f"{_GATEWAY}/32")
        links.add_route(ns, "eth0", "0.0.0.0/0", gateway=_GATEWAY)
        links.add_route(self.ns, far_end, f"{address}/32")
        return far_end

    def disconnect(self, far_end: str) -> None:
        """Remove a host's eth0."""
        links.delete(self.ns, far_end)

    def set_connected(self, far_end: str, address: str, *, connected: bool) -> None:
        """Cut a host off, or let it back. The host sees its link lose its carrier."""
        links.set_link(self.ns, far_end, up=connected)
        if connected:  # the kernel has dropped the routes of a link that was down
            links.add_route(self.ns, far_end, f"{address}/32")
