"""What the scenarios share: waiting with a bound, runs of vipmanager and their events, packets, and what EC2 shows."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

from lab import links
from lab.ec2.layer import Call
from lab.ec2.state import Eni
from lab.lab import Lab
from lab.pod import Container, Pod
from lab.topology import WORKER_A, WORKER_B, WorkerSpec

BOUND = 30.0
"""Seconds for what must happen. Nothing takes a tenth of it on an idle machine, but a busy one must not fail."""
SILENCE = 0.3
"""Seconds to wait for an answer that must not come; a ping in the lab takes a few milliseconds."""

WORKER_C = WorkerSpec("c", "us-east-2a", "nodes-a", ("multus1-a", "multus2-a"))
"""A second worker in the AZ, and so in the subnets, of worker a: between them a subnet's own address can move."""
ONE_AZ = (WORKER_A, WORKER_B, WORKER_C)

PEERS = ("peer1", "peer2")
PEER1_NET, PEER2_NET = "10.10.31.0/24", "10.10.32.0/24"

FAMILIES = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}

T = TypeVar("T")


def until(condition: Callable[[], T], what: Callable[[], str] | str, within: float = BOUND) -> T:
    """Wait until the condition holds and return what it returned. Fails with `what` when it does not in time."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.01)
    return found


class Run:
    """A vipmanager in a pod, with the events it has logged."""

    def __init__(self, container: Container) -> None:
        self.container = container

    @property
    def text(self) -> str:
        """Everything it has written."""
        return self.container.output()

    def events(self, name: str = "", /, **facts: object) -> list[dict[str, Any]]:
        """The events of that name (none given: any) with all these facts, in the order they were logged."""
        lines = self.text.splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]
        return [
            event
            for event in events
            if (not name or event["event"] == name)
            and all(str(event.get(key)) == str(value) for key, value in facts.items())
        ]

    def mentions(self, *texts: str) -> list[dict[str, Any]]:
        """The events among whose facts all these texts are."""
        return [event for event in self.events() if all(text in json.dumps(event) for text in texts)]

    def wait(self, name: str, /, *, count: int = 1, **facts: object) -> dict[str, Any]:
        """Wait for an event, or for the count-th such event."""
        return self._wait(lambda: self.events(name, **facts), count, f"{name} {facts}")

    def wait_mention(self, *texts: str) -> dict[str, Any]:
        """Wait for an event among whose facts all these texts are."""
        return self._wait(lambda: self.mentions(*texts), 1, f"an event with {texts}")

    def ends(self) -> int:
        """Wait for its end; the exit code."""
        try:
            return self.container.wait(BOUND)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {BOUND:g} s:\n{self.text}") from None

    def stop(self) -> int:
        """Ask it to stop as Kubernetes does, and wait for its end; the exit code."""
        self.container.terminate()
        return self.ends()

    def _wait(self, find: Callable[[], list[dict[str, Any]]], count: int, what: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            ended = self.container.poll() is not None  # asked first: what it logged before its end is read after
            events = find()
            assert len(events) >= count or not ended, f"ended without {what}:\n{self.text}"
            return events[count - 1] if len(events) >= count else None

        event = until(found, lambda: f"{what}:\n{self.text}")
        assert event is not None
        return event


def start(pod: Pod, *arguments: str, env: Mapping[str, str] | None = None, **settings: object) -> Run:
    """Start vipmanager in a pod with these settings; it logs JSON, so that facts are read and not prose."""
    return Run(pod.vipmanager(arguments, {"LogFormat": "json", **settings}, env))


def start_by(lab: Lab, pod: Pod, *argv: str, **settings: object) -> Run:
    """The same with a command line of one's own, e.g. one that drops a capability first."""
    log = pod.directory / f"own-{len(list(pod.directory.iterdir()))}.log"
    given = {key: str(value) for key, value in settings.items()}
    state = {"StateDir": str(pod.directory / "state"), "LogFormat": "json"}
    with open(log, "wb") as output:
        process = pod.popen(
            argv,
            env={**lab.env(pod.worker.name), **state, **given},
            cwd=pod.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Run(Container(process, log))


def init(pod: Pod, *, env: Mapping[str, str] | None = None, **settings: object) -> Run:
    """Run vipmanager as init, to its end, with success."""
    run = start(pod, "init", env=env, **settings)
    assert run.ends() == 0, run.text
    return run


def sidecar(pod: Pod, *claimed: str, env: Mapping[str, str] | None = None, **settings: object) -> Run:
    """Start vipmanager as sidecar, and wait until it has claimed these addresses."""
    run = start(pod, "sidecar", env=env, **settings)
    for address in claimed:
        run.wait("claimed", address=address)
    return run


def names_in(directory: Path) -> list[str]:
    """The names of a directory's files, sorted: only names, because a process may be writing there."""
    return sorted(each.name for each in directory.iterdir())


def wake_ups(run: Run) -> int:
    """How often its main thread has waited for something and gone on."""
    status = Path(f"/proc/{run.container.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")).split()[1])


def eni(lab: Lab, worker: str, device_index: int) -> str:
    """The ID of a worker's ENI."""
    return lab.workers[worker].eni(device_index).eni_id


def eni_state(lab: Lab, eni_id: str) -> Eni:
    """An ENI as EC2 has it."""
    return lab.ec2.state().enis[eni_id]


def own_address6(lab: Lab, worker: str, device_index: int, number: int) -> str:
    """An IPv6 address of the subnet that a worker's ENI is in."""
    cidr = lab.workers[worker].eni(device_index).subnet_cidr6
    assert cidr is not None
    return str(ip_network(cidr)[number])


def targets(lab: Lab, destination: str) -> dict[str, str]:
    """Table → target of the route to exactly this destination, in the tables that subnets use."""
    tables = lab.ec2.state().route_tables
    routes = {each: tables[each].by_destination.get(ip_network(destination)) for each in lab.route_table_ids}
    return {table: route.target for table, route in routes.items() if route is not None}


def everywhere(lab: Lab, eni_id: str) -> dict[str, str]:
    """What targets() gives for a route that is right in every table."""
    return dict.fromkeys(lab.route_table_ids, eni_id)


def wait_routed(lab: Lab, destination: str, eni_id: str) -> None:
    """Wait until every table routes the destination to the ENI."""
    until(
        lambda: targets(lab, destination) == everywhere(lab, eni_id),
        lambda: f"{destination} → {eni_id}, but {targets(lab, destination)}",
    )


def point(lab: Lab, destination: str, eni_id: str, tables: Iterable[str] | None = None) -> None:
    """Route a destination to an ENI as somebody else would, whether there is such a route already or not."""
    key = "DestinationIpv6CidrBlock" if ":" in destination else "DestinationCidrBlock"
    for table in lab.route_table_ids if tables is None else tables:
        there = ip_network(destination) in lab.ec2.state().route_tables[table].by_destination
        call = lab.ec2.admin().replace_route if there else lab.ec2.admin().create_route
        call(RouteTableId=table, NetworkInterfaceId=eni_id, **{key: destination})


def remove_route(lab: Lab, destination: str, table: str) -> None:
    """Delete a route as somebody else would."""
    lab.ec2.admin().delete_route(RouteTableId=table, DestinationCidrBlock=destination)


def holder(lab: Lab, address: str) -> str | None:
    """The ENI that holds an address as its own."""
    found = lab.ec2.state().owner_of(lab.vpc_id, ip_address(address))
    return found.eni_id if found else None


def set_check(lab: Lab, eni_id: str, on: bool) -> None:
    """Turn an ENI's source/dest check on or off as somebody else would."""
    lab.ec2.admin().modify_network_interface_attribute(NetworkInterfaceId=eni_id, SourceDestCheck={"Value": on})


def assert_answers(lab: Lab, *addresses: str, peers: Sequence[str] = PEERS) -> None:
    """Each address answers each of the peers' packets."""
    for peer in peers:
        for address in addresses:
            assert lab.ping(peer, address, count=5), f"{address} does not answer {peer}; {list(lab.router.last_drops)}"


def assert_silent(lab: Lab, *addresses: str, peers: Sequence[str] = PEERS) -> None:
    """No address answers any of the peers."""
    for peer in peers:
        for address in addresses:
            assert not lab.ping(peer, address, timeout=SILENCE), f"{address} answers {peer}"


def writes(calls: Iterable[Call]) -> list[Call]:
    """The calls that would change something."""
    return [call for call in calls if not call.action.startswith("Describe") and call.service == "ec2"]


def destinations(calls: Iterable[Call]) -> list[tuple[str, str, str]]:
    """(action, table, destination) of route writes."""
    return [
        (
            call.action,
            call.params["RouteTableId"],
            call.params.get("DestinationCidrBlock") or call.params["DestinationIpv6CidrBlock"],
        )
        for call in calls
        if call.action.endswith("Route")
    ]


def pod_rules(pod: Pod) -> dict[str, int]:
    """The pod's source rules: source → table."""
    rules = [rule for family in FAMILIES for rule in _dump(pod, "get_rules", family=family)]
    return {rule.get("FRA_SRC"): rule.get("FRA_TABLE") for rule in rules if rule.get("FRA_SRC")}


def pod_routes(pod: Pod) -> dict[tuple[int, str], tuple[str, str]]:
    """The pod's routes with a gateway: (table, destination) → (gateway, interface)."""
    names = {link["index"]: link.get("IFLA_IFNAME") for link in _dump(pod, "get_links")}
    return {
        (route.get("RTA_TABLE"), f"{route.get('RTA_DST') or everything}/{route['dst_len']}"): (
            route.get("RTA_GATEWAY"),
            names[route.get("RTA_OIF")],
        )
        for family, everything in FAMILIES.items()
        for route in _dump(pod, "get_routes", family=family)
        if route.get("RTA_GATEWAY") and route.get("RTA_OIF") in names
    }


def _dump(pod: Pod, what: str, **options: int) -> list[Any]:
    return links.netlink(pod.ns, lambda iproute: list(getattr(iproute, what)(**options)))


def add_bridge(pod: Pod, name: str, *cidrs: str) -> None:
    """Give a pod an interface whose MAC is no ENI's."""
    links.netlink(pod.ns, lambda iproute: iproute.link("add", ifname=name, kind="bridge"))
    links.set_link(pod.ns, name, up=True)
    for cidr in cidrs:
        links.add_address(pod.ns, name, cidr)


WITHOUT_NET_ADMIN = (
    sys.executable,
    "-c",
    "import ctypes, os, sys\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "assert libc.prctl(24, 12, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())\n"  # PR_CAPBSET_DROP, CAP_NET_ADMIN
    "os.execv(sys.executable, [sys.executable, '-m', 'vipmanager', *sys.argv[1:]])\n",
)
"""A command line that runs vipmanager without the capability NET_ADMIN, as a container that was not given it."""
