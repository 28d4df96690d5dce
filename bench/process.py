"""Processes in a pod, and what they cost."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.ec2.layer import Call
from lab.lab import Lab
from lab.pod import Pod

HERE = Path(__file__).resolve().parent
ENDS_WITHIN = 120.0  # seconds
KIB_PER_MB = 1024 / 1e6

_ROUTE_WRITES = frozenset(("CreateRoute", "ReplaceRoute"))


class BenchError(RuntimeError):
    """What was to be measured did not work."""


@dataclass(frozen=True)
class Run:
    """One finished process: seconds of wall clock and CPU, peak resident memory (MB), and its API calls."""

    wall: float
    cpu: float
    memory: float
    calls: tuple[Call, ...]

    @property
    def actions(self) -> Counter[str]:
        """How often it called each action."""
        return Counter(call.action for call in self.calls)

    @property
    def writes(self) -> int:
        """How many of its calls were not describes."""
        return sum(not call.action.startswith("Describe") for call in self.calls)


def init(lab: Lab, pod: Pod) -> Run:
    """`vipmanager init` in a pod, with the default settings."""
    return run(lab, pod, [sys.executable, "-m", "vipmanager", "init"])


def floor(lab: Lab, pod: Pod) -> Run:
    """The floor script's init in a pod, for the pod's addresses."""
    return run(lab, pod, floor_argv(lab, pod), floor_env(pod))


def floor_env(pod: Pod) -> dict[str, str]:
    """The floor script's environment: boto3 knows the region by its other name only."""
    return {**pod.env, "AWS_DEFAULT_REGION": pod.env["AWS_REGION"]}


def floor_argv(lab: Lab, pod: Pod) -> list[str]:
    """The floor script's command line for the pod's addresses."""
    wanted = [f"{eni_id}={','.join(each)}" for eni_id, each in addresses_by_eni(pod).items()]
    return [sys.executable, str(HERE / "floor.py"), lab.vpc_id, *wanted]


def addresses_by_eni(pod: Pod) -> dict[str, list[str]]:
    """The pod's floating addresses by the ENI they are on."""
    return {
        each.eni.eni_id: [cidr.partition("/")[0] for cidr in each.addresses]
        for each in pod.pod_interfaces()
        if each.addresses
    }


def run(lab: Lab, pod: Pod, argv: Sequence[str], env: Mapping[str, str] | None = None, *, code: int = 0) -> Run:
    """A command in a pod's namespace, to its end. Raises BenchError with its output when it ends with another code."""
    log = pod.directory / "measured.log"
    mark = lab.ec2.mark()
    launched = [sys.executable, "-I", "-S", str(HERE / "launcher.py"), str(log), *argv]
    process = pod.popen(
        launched, env=env or pod.env, cwd=pod.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        said = process.communicate(timeout=ENDS_WITHIN)[0].split()
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise BenchError(f"{argv[1:]} has not ended within {ENDS_WITHIN} s:\n{_end_of(log)}") from error
    if process.returncode != 0 or int(said[2]) != code:
        raise BenchError(f"{argv[1:]} ended with {said[2:3]}:\n{_end_of(log)}")
    started, ended, cpu, memory = float(said[0]), float(said[1]), float(said[3]), float(said[4])
    return Run(ended - started, cpu, memory * KIB_PER_MB, tuple(lab.ec2.calls_since(mark)))


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def route_calls(calls: Iterable[Call], address: str) -> list[Call]:
    """The successful writes of an address's routes."""
    return [
        call
        for call in calls
        if call.action in _ROUTE_WRITES
        and call.status == 200
        and call.params.get("DestinationCidrBlock") == f"{address}/32"
    ]


def check_routes(lab: Lab, pod: Pod) -> None:
    """Raises BenchError unless each address of the pod is routed to its ENI in every table, and the ENI passes it."""
    state = lab.ec2.state()
    for eni_id, addresses in addresses_by_eni(pod).items():
        if state.enis[eni_id].source_dest_check:
            raise BenchError(f"{eni_id} has its source/dest check on")
        for table_id in lab.route_table_ids:
            targets = {str(route.destination): route.target for route in state.route_tables[table_id].routes}
            wrong = [each for each in addresses if targets.get(f"{each}/32") != eni_id]
            if wrong:
                raise BenchError(f"{table_id} does not route {wrong} to {eni_id}")


def reset(lab: Lab) -> None:
    """Delete the floating addresses' routes and switch every source/dest check on, as before the first run."""
    admin = lab.ec2.admin()
    state = lab.ec2.state()
    for table_id in lab.route_table_ids:
        for route in state.route_tables[table_id].routes:
            if route.eni_id is not None:
                admin.delete_route(RouteTableId=table_id, DestinationCidrBlock=str(route.destination))
    for eni in state.enis.values():
        if not eni.source_dest_check:
            admin.modify_network_interface_attribute(NetworkInterfaceId=eni.eni_id, SourceDestCheck={"Value": True})


def spread(addresses: Sequence[str]) -> Mapping[str, list[str]]:
    """Addresses for a pod, half of them on net1 and half on net2."""
    halves = {"net1": addresses[0::2], "net2": addresses[1::2]}
    return {interface: [f"{each}/32" for each in half] for interface, half in halves.items()}


def until(what: str, condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait for a condition. Raises BenchError that says what did not happen."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {timeout} s: {what}")
        time.sleep(0.01)
