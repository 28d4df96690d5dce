"""The lab itself: EC2, IMDS, workers, peers and pods, made and taken down together."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import interrupts, links, privileges, topology
from lab.children import Children
from lab.ec2 import certificate
from lab.ec2.quotas import Quotas
from lab.ec2.server import LabEc2
from lab.environment import aws, without_aws
from lab.fabric import ENDPOINT_ADDRESS, IMDS_ADDRESS, ControlNetwork, DataNetwork
from lab.host import Host
from lab.hosts import Internet, Peer, Worker
from lab.hotplug import HotPlug
from lab.http_prober import HttpProber
from lab.imds import LabImds
from lab.kube.labkube import LabKube
from lab.netns import Namespace
from lab.pod import Pod
from lab.prober import Prober
from lab.router import Router
from lab.topology import Topology, WorkerSpec

_ENDPOINT_PORT = 8000
_FIRST_POD_ADDRESS = IPv4Address("100.64.1.1")


class Lab:
    """A region with one VPC, its workers and peers, as a context manager.

    Nothing of it is visible outside this process and the namespaces it holds; it ends with close(), with the process,
    and with a kill -9 of the process.
    """

    def __init__(
        self,
        *,
        route_tables: int = 4,
        latency: float = 0.0,
        workers: Sequence[WorkerSpec] | None = None,
        ipv6: bool = True,
        tls: bool = False,
        quotas: Quotas | None = None,
        internet: bool = False,
        kube: bool = False,
    ) -> None:
        """Nothing is made before __enter__().

        `route_tables` ≥ 1 counts the main one; `latency` is EC2's, in seconds; `tls`: EC2 is reached as AWS is;
        `internet`: there is a host outside, and each table but the edge's has a default route to the internet gateway;
        `kube`: there is a Kubernetes API, with an account for each worker.
        """
        if route_tables < 1:
            raise ValueError("a VPC has at least its main route table")
        self.region = topology.REGION
        self.ec2 = LabEc2(self.region, quotas=quotas or Quotas())
        self.imds = LabImds(self.ec2)
        self.workers: dict[str, Worker] = {}
        self.peers: dict[str, Peer] = {}
        self.pods: dict[str, Pod] = {}
        self._specs = topology.WORKERS if workers is None else tuple(workers)
        self._route_tables = route_tables
        self._ipv6 = ipv6
        self._tls = tls
        self._with_internet = internet
        self._internet: Internet | None = None
        self._with_kube = kube
        self._kube: LabKube | None = None
        self._authorities: Path | None = None
        self._latency = latency
        self._pod_addresses = (str(_FIRST_POD_ADDRESS + number) for number in itertools.count())
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Build it. Raises privileges.LabUnavailable where the machine does not allow it."""
        with interrupts.deferred():  # ensure() too: it forks, and its child must not act on a Ctrl-C as if it were us
            privileges.ensure()
            atexit.register(self.close)  # for the moment between here and the with statement's own protection
            try:
                self._build()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take everything down: processes, namespaces, servers, files. May be called again."""
        with interrupts.deferred():
            self._resources.close()
            self.pods.clear()
            self.workers.clear()
            self.peers.clear()
            self._internet = None
            self._kube = None
        atexit.unregister(self.close)

    @property
    def vpc_id(self) -> str:
        """The VPC's ID."""
        return self.topology.vpc_id

    @property
    def route_table_ids(self) -> list[str]:
        """The VPC's route tables, the main one first, without the internet gateway's edge table."""
        return self.topology.route_table_ids

    @property
    def floating_subnets(self) -> dict[str, str]:
        """CIDR → ID of the subnets that no ENI is in, for addresses that SubnetBasedLoopbacks moves by subnet."""
        return self.topology.floating_subnets

    @property
    def internet(self) -> Internet:
        """The host outside the VPC. Raises LookupError when the lab was made without."""
        if self._internet is None:
            raise LookupError("the lab has an internet only when made with Lab(internet=True)")
        return self._internet

    @property
    def kube(self) -> LabKube:
        """The Kubernetes API. Raises LookupError when the lab was made without."""
        if self._kube is None:
            raise LookupError("the lab has a Kubernetes API only when made with Lab(kube=True)")
        return self._kube

    def allocate_eip(self) -> tuple[str, str]:
        """Allocate an Elastic IP: its allocation ID, and the address for the world outside."""
        made = self.ec2.admin().allocate_address(Domain="vpc")
        return made["AllocationId"], made["PublicIp"]

    def env(self, worker: str) -> dict[str, str]:
        """The environment of a process on a worker. Each worker has access keys of its own."""
        return without_aws(os.environ) | self.workers[worker].env

    def pod(
        self, name: str, worker: str, addresses: Mapping[str, Sequence[str]], *, service_account: bool = False
    ) -> Pod:
        """Start a pod on a worker. `addresses`: interface → `address/length`s; netN is on the ENI of device index N.

        `service_account`: it has one of its own, as the kubelet gives it, with no rights: see LabKube.allow_events().
        """
        if self._host(name) is not None:
            raise ValueError(f"{name} exists already")
        with interrupts.deferred():
            on = self.workers[worker]
            pod = Pod(name, on, next(self._pod_addresses), self._children, self.router)
            self.pods[name] = pod
            self.imds.register(pod.address, on.instance_id)
            try:
                if service_account:
                    pod.account = self.kube.pod(name, worker)
                for interface, cidrs in addresses.items():
                    pod.add_interface(interface, cidrs, device_index=_device_index(interface))
            except BaseException:
                self.delete_pod(name)
                raise
        return pod

    def delete_pod(self, name: str) -> None:
        """End a pod, as its close() does, and forget it."""
        with interrupts.deferred():
            self.pods.pop(name).close()

    def host(self, name: str) -> Host:
        """The pod, worker or peer of this name, or "internet". Raises LookupError."""
        found = self._host(name)
        if found is None:
            raise LookupError(f"no pod, worker or peer {name}")
        return found

    def cut(self, worker: str) -> None:
        """Cut a worker and its pods off from the VPC, EC2 and IMDS; EC2 still shows the instance running."""
        self.workers[worker].set_cut(True)

    def restore(self, worker: str) -> None:
        """Undo cut(). Raises ValueError when the worker has been terminated."""
        cut = self.workers[worker]
        if self.ec2.state().instances[cut.instance_id].state == "terminated":
            raise ValueError(f"worker {worker} is terminated")
        cut.set_cut(False)

    def terminate(self, worker: str) -> None:
        """Terminate a worker's instance: its processes and its pods' die, routes to its ENIs turn into blackholes."""
        lost = self.workers[worker]
        lost.set_cut(True)
        for host in (lost, *(pod for pod in self.pods.values() if pod.worker is lost)):
            host.kill_processes()
        self.ec2.admin().terminate_instances(InstanceIds=[lost.instance_id])

    def ping(self, peer: str, address: str, *, timeout: float = 1.0, count: int = 1) -> bool:
        """Whether the address answers one of `count` pings from a peer, each within `timeout` seconds."""
        return self.peers[peer].reach(address, timeout=timeout, count=count)

    def reach(self, pod: str, address: str, *, source: str | None = None, timeout: float = 1.0, count: int = 1) -> bool:
        """Whether the address answers a ping from a pod, from the address `source` when given."""
        return self.pods[pod].reach(address, source=source, timeout=timeout, count=count)

    def prober(self, peer: str, targets: Sequence[str], interval: float = 0.005) -> Prober:
        """Start pinging the targets from a peer, each every `interval` seconds, in a process of its own."""
        return Prober(self.peers[peer], targets, interval)

    def http_prober(self, host: str, url: str, interval: float = 0.02) -> HttpProber:
        """Start asking the URL from a host, each `interval` seconds on a new connection, in a process of its own."""
        return HttpProber(self.host(host), url, interval)

    def _host(self, name: str) -> Host | None:
        internet = self._internet if name == topology.INTERNET else None
        return self.pods.get(name) or self.workers.get(name) or self.peers.get(name) or internet

    def _build(self) -> None:
        # What is closed first is registered last: the processes go before the network they use.
        self._resources.callback(self.ec2.close)
        self._resources.callback(self.imds.close)
        self.topology: Topology = topology.build(
            self.ec2.admin(),
            route_tables=self._route_tables,
            workers=self._specs,
            ipv6=self._ipv6,
            internet=self._with_internet,
        )
        vpc = self._namespace("vpc")
        links.set_up_router(vpc)
        data = DataNetwork(vpc, self.ec2.state)
        self._resources.callback(data.router.close)
        self.router: Router = data.router
        services = self._namespace("control")
        links.set_up_host(services)
        control = ControlNetwork(services)
        self._children = Children()
        self._resources.callback(self._close_hosts)
        self._resources.callback(self._children.close)
        context = None
        if self._tls:
            context, self._authorities = certificate.make(self._children.scratch, ENDPOINT_ADDRESS)
        control.ns.run(lambda: self.ec2.serve(ENDPOINT_ADDRESS, _ENDPOINT_PORT, context))
        control.ns.run(lambda: self.imds.serve(IMDS_ADDRESS, 80))
        for spec in self._specs:
            self._add_worker(spec.name, control, data)
        for spec in topology.PEERS:
            made = self.topology.machines[spec.name]
            self.peers[spec.name] = Peer(made.name, made.instance_id, made.enis[0], self._children, data)
        if self._with_internet:
            self._internet = Internet(topology.INTERNET, self._children, data)
        if self._with_kube:
            self._kube = LabKube(control.ns, self._children, self.workers)
            self._resources.callback(self._kube.close)
        self._resources.callback(HotPlug(self.ec2, self.workers).close)
        self.ec2.latency = self._latency

    def _namespace(self, name: str) -> Namespace:
        ns = Namespace(name)
        self._resources.callback(ns.close)
        return ns

    def _add_worker(self, name: str, control: ControlNetwork, data: DataNetwork) -> None:
        made = self.topology.machines[name]
        user = self.ec2.keys.add_user(f"worker-{name}")
        env = aws(self.region, self.ec2.url, user.access_key, user.secret_key, self._authorities)
        worker = Worker(name, made.availability_zone, made.instance_id, made.enis, env, self._children, control, data)
        self.workers[name] = worker
        self.imds.register(worker.address, worker.instance_id)

    def _close_hosts(self) -> None:
        internet = [self._internet] if self._internet else []
        for host in (*self.pods.values(), *self.workers.values(), *self.peers.values(), *internet):
            host.ns.close()


def _device_index(interface: str) -> int:
    prefix, digits = interface[:3], interface[3:]
    if prefix != "net" or not digits.isdecimal():
        raise ValueError(f"{interface} is not netN: use Pod.add_interface() for other names")
    return int(digits)
