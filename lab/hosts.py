"""The machines of the lab: workers, peers, and what they share with pods."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from lab import links
from lab.children import Children
from lab.containers import ContainerHost
from lab.ec2.state import VpcState
from lab.fabric import ControlNetwork, DataNetwork, LabEni, lab_eni
from lab.host import Host
from lab.netns import Namespace
from lab.router import GATEWAY6, Port

_FIRST_HOT_PLUG_NAME = 6  # ens6: what is attached to a running instance gets no name that could be foreseen
_INTERNET_NETWORK = ip_network("198.51.100.0/24")  # for documentation (RFC 5737)
_INTERNET_MAC = "06:00:00:ec:20:02"


@dataclass
class _Plugged:
    """An ENI's interface: what it is called at the worker, and which of the ENI's attachments made it."""

    eni: LabEni
    attachment_id: str
    name: str
    port: Port


class Worker(ContainerHost):
    """An EC2 instance that is an EKS worker: ethN is ENI N's, control0 leads to EC2, IMDS and Kubernetes.

    `enis` are those it was made with; what EC2 attaches and detaches later comes and goes: see `plugged`.
    """

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
        self.address6 = enis[0].primary_ip6
        self.is_cut = False
        self._control = control
        self._data = data
        self._lock = threading.RLock()  # EC2's changes come from a thread of their own: `follow`
        self._names = (f"ens{number}" for number in itertools.count(_FIRST_HOT_PLUG_NAME))
        self._ports: list[Port] = []
        self._plugged: dict[str, _Plugged] = {}  # by ENI
        self._lent: set[str] = set()  # the ENIs whose interface is in a pod
        state = data.state()
        for eni in self.enis:
            self._plug_in(state, eni, f"eth{eni.device_index}", up=True)
        _configure_primary(self.ns, self.enis[0])
        self._far_ends = {control.connect_worker(self.ns, self.address): self.address}

    def plugged(self) -> list[tuple[str, LabEni]]:
        """The interfaces on ENIs that the worker has now: name, ENI; by device index."""
        with self._lock:
            found = sorted(self._plugged.values(), key=lambda each: each.eni.device_index)
            return [(each.name, each.eni) for each in found]

    def eni(self, device_index: int) -> LabEni:
        """The ENI that has this device index now, else the one that had it at first. Raises LookupError."""
        for eni in (*(eni for _, eni in self.plugged()), *self.enis):
            if eni.device_index == device_index:
                return eni
        raise LookupError(f"worker {self.name} has no ENI with device index {device_index}")

    def attach(self, eni: LabEni, pod: Namespace, name: str) -> tuple[Port, Callable[[], None]]:
        """Give a pod an interface on the ENI; what is returned last takes it back.

        An ipvlan where the kernel has it; else the ENI's own interface; and where a pod has that already, one more
        interface with the same MAC. An ENI that is detached takes all of them along. Raises LookupError.
        """
        with self._lock:
            if eni.eni_id not in self._plugged:
                raise LookupError(f"{eni.eni_id} is not attached to worker {self.name}")
            own, port = self._plugged[eni.eni_id].name, self._plugged[eni.eni_id].port
            if links.has_ipvlan():
                links.make_ipvlan(self.ns, own, pod, name)
                return port, self._while_plugged(port, lambda: links.delete(pod, name))
            if eni.eni_id in self._lent:
                extra = self._plug(eni, pod, name)
                return extra, self._while_plugged(extra, lambda: self._unplug(extra))
            self._data.move(port, self.ns, own, pod, name)
            self._lent.add(eni.eni_id)

            def give_back() -> None:
                self._data.move(port, pod, name, self.ns, own)
                self._lent.remove(eni.eni_id)

            return port, self._while_plugged(port, give_back)

    def connect_pod(self, pod: Namespace, address: str) -> Callable[[], None]:
        """Give a pod its eth0; what is returned removes it."""
        far_end = self._control.connect_pod(pod, address)
        self._far_ends[far_end] = address
        if self.is_cut:
            self._control.set_connected(far_end, address, connected=False)

        def disconnect() -> None:
            del self._far_ends[far_end]
            self._control.disconnect(far_end)

        return disconnect

    def set_cut(self, cut: bool) -> None:
        """Cut the worker and its pods off from everything, or let them back."""
        with self._lock:
            if cut == self.is_cut:
                return
            self.is_cut = cut
            for port in self._ports:
                port.up = not cut
        for far_end, address in self._far_ends.items():
            self._control.set_connected(far_end, address, connected=not cut)

    def follow(self, state: VpcState) -> None:
        """Let interfaces appear for what EC2 has attached, and vanish for what it has not any more.

        A new one is down and has no address, as on an instance without an agent that configures it. It is there until
        the detachment is done, for as long as a guest does not let go.
        """
        attached = {
            eni.attachment.attachment_id: eni
            for eni in state.enis_of_instance(self.instance_id)
            if eni.attachment and not eni.attaching
        }
        with self._lock:
            for gone in [each for each in self._plugged.values() if each.attachment_id not in attached]:
                self._pull_out(gone)
            for eni in attached.values():
                if eni.eni_id not in self._plugged:
                    self._plug_in(state, lab_eni(state, eni), next(self._names), up=False)

    def _plug_in(self, state: VpcState, eni: LabEni, name: str, *, up: bool) -> None:
        attachment = state.enis[eni.eni_id].attachment
        assert attachment is not None
        port = self._plug(eni, self.ns, name, up=up)
        self._plugged[eni.eni_id] = _Plugged(eni, attachment.attachment_id, name, port)

    def _pull_out(self, gone: _Plugged) -> None:
        for port in [each for each in self._ports if each.eni_id == gone.eni.eni_id]:  # wherever the other end is
            self._unplug(port)
        del self._plugged[gone.eni.eni_id]
        self._lent.discard(gone.eni.eni_id)

    def _while_plugged(self, port: Port, action: Callable[[], None]) -> Callable[[], None]:
        """The action, or nothing once the port is gone."""

        def guarded() -> None:
            with self._lock:
                if port in self._ports:
                    action()

        return guarded

    def _plug(self, eni: LabEni, ns: Namespace, name: str, *, up: bool = True) -> Port:
        port = self._data.plug(eni, ns, name, up=up, connected=not self.is_cut)
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
        _configure_primary(self.ns, eni)


class Internet(Host):
    """A host somewhere outside of the VPC, which reaches Elastic IPs. No control network."""

    def __init__(self, name: str, children: Children, data: DataNetwork) -> None:
        super().__init__(name, children)
        self.address = str(_INTERNET_NETWORK[10])
        data.plug_internet(self.ns, "eth0", _INTERNET_MAC)
        links.add_address(self.ns, "eth0", f"{self.address}/{_INTERNET_NETWORK.prefixlen}")
        links.add_route(self.ns, "eth0", "0.0.0.0/0", gateway=str(_INTERNET_NETWORK[1]))


def _configure_primary(ns: Namespace, eni: LabEni) -> None:
    """Give eth0 the addresses and default routes that DHCP and router advertisements give an instance's first ENI."""
    subnet = ip_network(eni.subnet_cidr)
    links.add_address(ns, "eth0", f"{eni.primary_ip}/{subnet.prefixlen}")
    links.add_route(ns, "eth0", "0.0.0.0/0", gateway=str(subnet[1]))
    if eni.primary_ip6 and eni.subnet_cidr6:
        links.add_address(ns, "eth0", f"{eni.primary_ip6}/{eni.subnet_cidr6.partition('/')[2]}")
        links.add_route(ns, "eth0", "::/0", gateway=str(GATEWAY6))
