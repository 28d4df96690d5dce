"""What the scenarios of the nodeport mode share: pods of its Deployment on the lab's workers, and who holds what."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from lab import links
from lab.containers import Container
from lab.ec2.state import LOCAL, Eni, Subnet
from lab.environment import without_aws
from lab.lab import Lab
from lab.topology import WorkerSpec
from tests.scenario.support import BOUND, Run, until, writes

PORT = 30007
WORKERS = (
    WorkerSpec("a", "us-east-2a", "nodes-a", ("multus1-a",)),
    WorkerSpec("b", "us-east-2b", "nodes-b", ()),
    WorkerSpec("c", "us-east-2a", "nodes-a", ("multus1-a",)),
)
"""a and c share an Availability Zone, and so the subnets of both their ENIs; b is in another zone."""
SHORT = {"LeaseDuration": 3, "RenewDeadline": 1.5, "RetryPeriod": 0.3}
"""A lease that runs out soon; what is shown does not depend on how soon."""
LEASE = "vipmanager"
TAG = "vipmanager/floating"
MASTER, BACKUP = "MASTER", "BACKUP"
DELIVERED = "delivered"


class Nodes:
    """A Deployment of `vipmanager nodeport`: a pod np-WORKER on each worker where start() was called.

    In the settings, `{eip}` stands for an Elastic IP that is allocated for it, `{address6}` for an IPv6 address in the
    node subnet of a and c. A process on each worker answers HTTP with the worker's name.
    """

    def __init__(self, lab: Lab, workers: str, **settings: object) -> None:
        self.lab, self.workers = lab, workers
        self.eips = [lab.allocate_eip()[0] for _ in range(str(settings.get("FLOATING_IP")).count("{eip}"))]
        self.settings = {**SHORT, "LogFormat": "json", **{key: self._filled(text) for key, text in settings.items()}}
        self.names = str(self.settings.get("FLOATING_IP", "")).replace(",", " ").split()
        self.pods = {worker: f"np-{worker}" for worker in workers}
        self.runs: dict[str, Run] = {}
        self.ended: list[Run] = []
        self.responders = {worker: lab.workers[worker].serve_http(PORT) for worker in workers}
        self._routes_of_others = self._other_routes()

    @property
    def addresses(self) -> list[str]:
        """The private addresses that float."""
        return [name for name in self.names if not name.startswith("eipalloc-")]

    @property
    def mode(self) -> str:
        """FloatingMode."""
        return str(self.settings.get("FloatingMode", "address"))

    def start(self, *workers: str, pod: str = "", env: Mapping[str, str] | None = None, **settings: object) -> None:
        """Start the pod of each of these workers (none given: of all), with the name it had, or a new one: `pod`."""
        for worker in workers or self.workers:
            self.pods[worker] = pod or self.pods[worker]
            if worker in self.runs:
                self.ended.append(self.runs[worker])
            self.runs[worker] = self.launch("nodeport", worker=worker, env=env, **settings)

    def launch(self, *arguments: str, worker: str, env: Mapping[str, str] | None = None, **settings: object) -> Run:
        """Run vipmanager in a worker's pod."""
        extra = {**self._identity(worker), **(env or {})}
        return Run(self.lab.workers[worker].vipmanager(arguments, {**self.settings, **settings}, extra))

    def start_by(self, worker: str, *argv: str) -> None:
        """Start the worker's pod with a command line of one's own, e.g. one that drops a capability first."""
        on = self.lab.workers[worker]
        log = on.directory / "own.log"
        settings = {key: str(value) for key, value in self.settings.items()}
        env = {**without_aws(os.environ), **on.env, **settings, **self._identity(worker)}
        with open(log, "wb") as output:
            process = on.popen(argv, env=env, cwd=on.directory, stdout=output, stderr=subprocess.STDOUT)
        self.runs[worker] = Run(Container(process, log))

    def _identity(self, worker: str) -> dict[str, str]:
        """What the downward API and the service account give the pod."""
        return {**self.lab.kube.env(worker), "POD_NAME": self.pods[worker], "NODE_NAME": f"node-{worker}"}

    def stop(self, worker: str) -> None:
        """Delete the pod: SIGTERM, and it ends well."""
        assert self.runs[worker].stop() == 0, self.runs[worker].text

    def kill(self, worker: str) -> None:
        """kill -9."""
        self.runs[worker].container.kill()
        self.runs[worker].container.wait(BOUND)

    def close(self) -> None:
        """End everything, and leave the lab as it was."""
        lab = self.lab
        lab.kube.restore_all()
        for worker in self.workers:
            lab.restore(worker)
            lab.kube.grant(worker)
        lab.ec2.faults.clear()
        lab.ec2.attach_delay = lab.ec2.detach_delay = lab.ec2.cidr_delay = lab.ec2.latency = lab.ec2.lag = 0.0
        lab.ec2.stuck_detach = False
        lab.imds.unblock()
        for run in self.runs.values():
            run.container.terminate()
        for run in self.runs.values():
            with contextlib.suppress(AssertionError):
                run.ends()
            run.container.kill()
        for responder in self.responders.values():
            responder.close()
        lab.kube.delete_lease(LEASE)
        self._tidy_ec2()
        for worker in lab.workers.values():
            _tidy_interfaces(lab, worker.name)

    # What they say

    def status(self, worker: str) -> dict[str, Any]:
        """The status file of the worker's pod; empty while that has written none."""
        run = self.runs.get(worker)
        if run is None or run.container.poll() is not None:
            return {}
        path = Path(self.lab.workers[worker].env["StateDir"]) / "status.json"
        status: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return status if status.get("pid") == run.container.pid else {}

    def has_all(self, worker: str) -> bool:
        """Whether a node says that it holds, and that all is delivered."""
        status = self.status(worker)
        states = {item["state"] for item in status.get("floating", ())}
        return status.get("role") == MASTER and states == {DELIVERED}

    def wait_holder(self, worker: str = "") -> str:
        """Wait until a node, this one if named, has everything, and no other node says that it holds; its worker."""

        def found() -> str:
            masters = [each for each in self.runs if self.status(each).get("role") == MASTER]
            ready = len(masters) == 1 and worker in ("", *masters) and self.has_all(masters[0])
            return masters[0] if ready else ""

        return until(found, lambda: f"{worker or 'a node'} holds everything\n{self.logs()}")

    def wait_standby(self, worker: str, holder: str = "") -> None:
        """Wait until a node stands by, knows who holds, and could take over."""

        def stands_by() -> bool:
            status = self.status(worker)
            knows = status.get("holder", "").startswith(f"np-{holder}")
            return status.get("role") == BACKUP and knows and bool(status["holder"]) and not status["health"]

        until(stands_by, lambda: f"{worker} stands by\n{self.logs()}")

    def settle(self) -> tuple[str, str]:
        """Start what does not run; the holder and the standby of two workers, both in good order."""
        for worker in self.workers:
            if worker not in self.runs or self.runs[worker].container.poll() is not None:
                self.start(worker)
        holder = self.wait_holder()
        other = self.other(holder)
        self.wait_standby(other, holder)
        return holder, other

    def other(self, worker: str) -> str:
        """The other one of two workers."""
        (found,) = set(self.workers) - {worker}
        return found

    def logs(self) -> str:
        """What all of them have logged."""
        ended = [f"--- before\n{run.text}" for run in self.ended]
        return "\n".join([*ended, *(f"--- {worker}\n{run.text}" for worker, run in self.runs.items())])

    # What there is

    def on_interfaces(self, address: str) -> list[str]:
        """The workers that have the address on an interface."""
        return [worker.name for worker in self.lab.workers.values() if address in addresses_on(self.lab, worker.name)]

    def answering(self, name: str) -> str:
        """The worker that answers HTTP at a private address, asked by a peer, or an Elastic IP, asked from outside."""
        if name.startswith("eipalloc-"):
            return ask(self.lab, "internet", self.lab.ec2.state().elastic_ips[name].public_ip)
        return ask(self.lab, "peer1", name)

    def assert_only(self, worker: str) -> None:
        """The worker, and nothing else, has all that floats; clients get there; nobody else's routes have changed."""
        for address in self.addresses:
            assert self.on_interfaces(address) == [worker], self.logs()
            assert self.lab.ping("peer2", address, count=5)
        if self.mode == "route":
            self._assert_routed(worker)
        else:
            self._assert_on_eni(worker)
        if self.mode in ("eni", "subnet"):
            self._assert_one_eni(worker)
        partners = self._ipv4() if self.mode != "route" else []
        for name, partner in zip(self.eips, [*partners, None], strict=False):
            eip = self.lab.ec2.state().elastic_ips[name]
            assert eip.instance_id == self.lab.workers[worker].instance_id
            assert partner is None or str(eip.private_ip) == partner
        for name in self.names:
            assert self.answering(name) == worker
        assert self._other_routes() == self._routes_of_others

    def writes(self, mark: int) -> list[str]:
        """The changes asked of EC2 since lab.ec2.mark()."""
        return [call.action for call in writes(self.lab.ec2.calls_since(mark))]

    def enis(self) -> list[Eni]:
        """The ENIs with the tag of the mode."""
        return [eni for eni in self.lab.ec2.state().enis.values() if self._ours(eni.tags)]

    def subnets(self) -> list[Subnet]:
        """The subnets with the tag of the mode."""
        return [subnet for subnet in self.lab.ec2.state().subnets.values() if self._ours(subnet.tags)]

    def _ours(self, tags: tuple[tuple[str, str], ...]) -> bool:
        return dict(tags).get(TAG) == ",".join(self.names)

    def _ipv4(self) -> list[str]:
        return [each for each in self.addresses if ":" not in each]

    def _assert_routed(self, worker: str) -> None:
        state, primary = self.lab.ec2.state(), self.lab.workers[worker].eni(0).eni_id
        for address in self.addresses:
            network = ip_network(address)
            routes = [state.route_tables[each].by_destination.get(network) for each in self.lab.route_table_ids]
            assert [route and route.target for route in routes] == [primary] * len(routes)

    def _assert_on_eni(self, worker: str) -> None:
        state, instance = self.lab.ec2.state(), self.lab.workers[worker].instance_id
        for address in self.addresses:
            eni = state.owner_of(self.lab.vpc_id, ip_address(address))
            assert eni is not None
            assert eni.instance_id == instance

    def _assert_one_eni(self, worker: str) -> None:
        on = self.lab.workers[worker]
        (eni,) = self.enis()
        assert (eni.instance_id, eni.attached) == (on.instance_id, True)
        assert dict(eni.tags)["node.k8s.amazonaws.com/no_manage"] == "true"
        if self.mode == "subnet":
            (subnet,) = self.subnets()
            assert (subnet.subnet_id, subnet.availability_zone) == (eni.subnet_id, on.availability_zone)
            assert not eni.source_dest_check

    def _other_routes(self) -> set[tuple[str, str, str]]:
        """All routes but those of the VPC's own CIDRs and of what floats."""
        floating = {str(ip_network(address)) for address in self.addresses}
        tables = self.lab.ec2.state().route_tables.values()
        return {
            (table.route_table_id, str(route.destination), route.target)
            for table in tables
            for route in table.routes
            if str(route.destination) not in floating and route.target != LOCAL
        }

    def _filled(self, text: object) -> object:
        if not isinstance(text, str):
            return text
        network = ip_network(str(self.lab.workers["a"].eni(0).subnet_cidr6))
        filled = text.replace("{address6}", str(network[0x80]))
        for eip in self.eips:
            filled = filled.replace("{eip}", eip, 1)
        return filled

    def _tidy_ec2(self) -> None:
        admin, state = self.lab.ec2.admin(), self.lab.ec2.state()
        for eip in self.eips:
            if bound := state.elastic_ips[eip].association_id:
                admin.disassociate_address(AssociationId=bound)
            admin.release_address(AllocationId=eip)
        for eni in self.enis():
            if eni.attachment:
                admin.detach_network_interface(AttachmentId=eni.attachment.attachment_id, Force=True)
            until(lambda eni=eni: self.lab.ec2.state().enis[eni.eni_id].attachment is None, "the ENI is detached")  # type: ignore[misc]
            admin.delete_network_interface(NetworkInterfaceId=eni.eni_id)
        for subnet in self.subnets():
            admin.delete_subnet(SubnetId=subnet.subnet_id)
        for table in self.lab.route_table_ids:
            for address in self.addresses:
                if ip_network(address) in self.lab.ec2.state().route_tables[table].by_destination:
                    key = "DestinationIpv6CidrBlock" if ":" in address else "DestinationCidrBlock"
                    admin.delete_route(RouteTableId=table, **{key: str(ip_network(address))})
        for address in self.addresses:
            release(self.lab, address)


def addresses_on(lab: Lab, worker: str) -> set[str]:
    """All addresses on a worker's interfaces."""
    return {cidr.partition("/")[0] for link in lab.workers[worker].interfaces() for cidr in link.addresses}


def interface_with(lab: Lab, worker: str, address: str) -> tuple[str, str]:
    """The interface that has an address, and the address with its length."""
    found = [
        (link.name, cidr)
        for link in lab.workers[worker].interfaces()
        for cidr in link.addresses
        if cidr.partition("/")[0] == address
    ]
    (only,) = found
    return only


def ask(lab: Lab, host: str, address: str, port: int = PORT) -> str:
    """What answers HTTP there, asked from a host of the lab. Raises OSError."""

    def get() -> str:
        with contextlib.closing(http.client.HTTPConnection(address, port, timeout=BOUND)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()

    return lab.host(host).ns.run(get)


def take(lab: Lab, worker: str, address: str, device_index: int = 0) -> None:
    """Somebody assigns an address to a worker's ENI by hand."""
    release(lab, address) if ":" in address else None
    eni = lab.workers[worker].eni(device_index).eni_id
    admin = lab.ec2.admin()
    if ":" in address:
        admin.assign_ipv6_addresses(NetworkInterfaceId=eni, Ipv6Addresses=[address])
    else:
        admin.assign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=[address], AllowReassignment=True)


def release(lab: Lab, address: str) -> None:
    """Take a secondary address off the ENI that has it, if one has it."""
    eni, admin = lab.ec2.state().owner_of(lab.vpc_id, ip_address(address)), lab.ec2.admin()
    if eni is None or str(eni.primary_ip) == address:
        return
    if ":" in address:
        admin.unassign_ipv6_addresses(NetworkInterfaceId=eni.eni_id, Ipv6Addresses=[address])
    else:
        admin.unassign_private_ip_addresses(NetworkInterfaceId=eni.eni_id, PrivateIpAddresses=[address])


def renewals(lab: Lab, holder: str, count: int) -> None:
    """Wait until a pod has renewed the lease so many times, without ever losing it."""
    seen: set[str] = set()

    def enough() -> bool:
        lease = lab.kube.lease(LEASE)
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == holder
        seen.add(lease["spec"]["renewTime"])
        return len(seen) > count

    until(enough, f"{count} renewals by {holder}")


def annotation(lab: Lab, name: str) -> str:
    """An annotation vipmanager/NAME of the Lease; empty when it has none."""
    lease = lab.kube.lease(LEASE) or {"metadata": {}}
    return str((lease["metadata"].get("annotations") or {}).get(f"vipmanager/{name}", ""))


@contextlib.contextmanager
def running(lab: Lab, workers: str, **settings: object) -> Iterator[Nodes]:
    """A Deployment for one test. What it has logged is shown when the test fails."""
    nodes = Nodes(lab, workers, **settings)
    try:
        yield nodes
    finally:
        nodes.close()
        print(nodes.logs())


def _tidy_interfaces(lab: Lab, worker: str) -> None:
    """Take off what killed processes have left: addresses that EC2 does not show as the ENI's first ones."""
    on = lab.workers[worker]
    own = {address for eni in on.enis for address in (eni.primary_ip, eni.primary_ip6)}
    for link in on.interfaces():
        for cidr in link.addresses:
            if cidr.partition("/")[0] not in own:
                with contextlib.suppress(Exception):  # the kernel may have been quicker: it had a lifetime
                    links.delete_address(on.ns, link.name, cidr)
    links.netlink(on.ns, _flush_rules)


def _flush_rules(iproute: Any) -> None:
    for rule in iproute.get_rules():
        if rule.get("FRA_PRIORITY") == 1000:
            iproute.rule("del", priority=1000, family=rule["family"])
