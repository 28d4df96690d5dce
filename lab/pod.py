"""A pod with interfaces on its worker's ENIs, as Multus makes it."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path

from lab import links
from lab.children import Children
from lab.environment import without_aws
from lab.fabric import LabEni
from lab.hosts import Host, Worker
from lab.router import Port, Router


@dataclass
class PodInterface:
    """An interface other than eth0. `addresses` (`address/length`) are those the lab gave it."""

    name: str
    eni: LabEni
    port: Port
    release: Callable[[], None]
    addresses: list[str] = field(default_factory=list)


class Container:
    """A process in a pod whose output, both streams, goes to a file, as a container runtime keeps it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs (or nobody has called poll() or wait() since)."""
        return self.process.returncode

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self.process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit status. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM), as Kubernetes does first."""
        self.process.terminate()

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self.process.kill()

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")


class Pod(Host):
    """A pod: eth0 for EC2 and IMDS, and other interfaces on the ENIs of its worker."""

    def __init__(self, name: str, worker: Worker, address: str, children: Children, router: Router) -> None:
        """Made by Lab.pod(). `address` is that of eth0."""
        super().__init__(name, children)
        self.worker = worker
        self.address = address
        # New for each pod, like an emptyDir, but kept until the lab ends: for the logs.
        self.directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=children.scratch))
        self.env = {**worker.env, "StateDir": str(self.directory / "state")}
        self._router = router
        self._runs = itertools.count(1)
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

    def set_link(self, name: str, *, up: bool) -> None:
        """Set an interface up or down. Down, it loses its routes and IPv6 addresses, as anywhere in Linux."""
        links.set_link(self.ns, name, up=up)

    def pod_interfaces(self) -> list[PodInterface]:
        """The interfaces the lab gave the pod, without eth0."""
        return list(self._interfaces.values())

    def vipmanager(
        self, arguments: Sequence[str], config: Mapping[str, object], extra_env: Mapping[str, str] | None = None
    ) -> Container:
        """Start `python -m vipmanager ARGUMENTS` here with the configuration in its environment, as envFrom puts it."""
        given = {key: str(value) for key, value in config.items()}
        log = self.directory / f"vipmanager-{next(self._runs)}.log"
        with open(log, "wb") as output:
            process = self.popen(
                [sys.executable, "-m", "vipmanager", *arguments],
                env={**without_aws(os.environ), **self.env, **given, **(extra_env or {})},
                cwd=self.directory,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return Container(process, log)

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
