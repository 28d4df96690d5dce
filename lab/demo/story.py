"""The demo's story: four acts on one lab, each of which leaves it as it found it but for EC2's route tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from ipaddress import ip_interface, ip_network
from itertools import islice
from pathlib import Path

from lab import links, topology
from lab.demo import summary
from lab.demo.changes import eni_names, table_name
from lab.demo.stage import Addresses, Settings, Stage
from lab.demo.timeline import Timeline
from lab.demo.traffic import INTERVAL, Failed, Traffic
from lab.lab import Lab
from lab.privileges import LabUnavailable

LATENCY = 0.06  # seconds that each EC2 call takes
_WORKER_C = topology.WorkerSpec("c", "us-east-2a", "nodes-a", ("multus1-a", "multus2-a"))
_POD_STARTED = "the pod was started again (here at once)"
_FIRST_FREE = 50  # the host number from which the last act takes addresses of a subnet

Act = Callable[[Stage], None]


def pattern_1(stage: Stage) -> None:
    """Addresses outside the VPC; vipmanager as init container; a failover to another zone."""
    settings = {"Intf1Peers": "10.10.31.0/24,10.10.32.0/24"}
    text = "Two addresses outside the VPC: a /32 route in every route table leads to the ENI. An init container's job."
    stage.begin("1 pattern 1, init", "1  Pattern 1: addresses outside the VPC, vipmanager init", text, settings)
    _init_and_fail_over(stage, {"net1": ["192.168.0.2/32"], "net2": ["192.168.1.2/32"]}, settings, "a", "b")


def sidecar(stage: Stage) -> None:
    """An address added by hand, moved to the standby pod, and back."""
    settings: Settings = {"RunAsSidecar": "True"}
    text = "An active and a standby pod with a sidecar each, which the kernel wakes; an address is moved by hand."
    stage.begin("2 sidecar", "2  Active and standby: vipmanager sidecar", text, settings)
    cidr, target = "192.168.0.10/32", "192.168.0.10"
    stage.begin_move("start on a and b")
    pods = [stage.start_pod(worker, {"net1": []}) for worker in ("a", "b")]
    active, standby = (stage.vipmanager(pod, "sidecar", settings) for pod in pods)
    stage.wait_ready([active, standby])
    for move, source, destination in (
        ("added on a", None, active),
        ("a → b", active, standby),
        ("b → a", standby, active),
    ):
        stage.begin_move(move)
        stage.timeline.line()
        with Traffic(stage.lab, [target]) as traffic:
            if source is None:
                stage.show_unreachable(traffic)
            else:
                stage.show_flowing(traffic)
                stage.delete_by_hand(source, "net1", cidr)
            run = stage.add_by_hand(destination, "net1", cidr)
            stage.show_routed(run, traffic, cidr, run.pod.worker.eni(1).eni_id)
            stage.show_gap(run, traffic, "the address was added there")
    stage.begin_move("stop")
    stage.stop([active, standby])


def pattern_2(stage: Stage) -> None:
    """Addresses of two floating subnets; vipmanager as init container; a failover to another zone."""
    settings = {"SubnetBasedLoopbacks": "True"}
    text = "Each address has a subnet of the VPC to itself: a route for the whole of its CIDR leads to the ENI."
    stage.begin("3 pattern 2, init", "3  Pattern 2: addresses in subnets of their own, vipmanager init", text, settings)
    first, second = (f"{ip_network(cidr)[2]}/32" for cidr in stage.lab.floating_subnets)
    _init_and_fail_over(stage, {"net1": [first], "net2": [second]}, settings, "a", "b")


def eni_addresses(stage: Stage) -> None:
    """Addresses of the ENI's own subnet; a failover to another worker of the zone, as a subnet has but one."""
    text = (
        "Addresses of the ENI's own subnet become secondary addresses of the ENI; no route is needed. A subnet is "
        "in one zone, so they move between workers a and c: IPv4 with one call of EC2, IPv6 with two."
    )
    stage.begin("4 ENI addresses, init", "4  Addresses in the ENI's own subnet, vipmanager init", text, {})
    eni = stage.lab.workers["a"].eni(1)
    held = {address for each in stage.lab.ec2.state().enis.values() for address in each.addresses}
    addresses = []
    for cidr in filter(None, (eni.subnet_cidr, eni.subnet_cidr6)):
        network = ip_network(cidr)
        free = next(host for host in islice(network.hosts(), _FIRST_FREE, None) if host not in held)
        addresses.append(f"{free}/{network.prefixlen}")
    _init_and_fail_over(stage, {"net1": addresses}, {}, "a", "c")


ACTS: tuple[Act, ...] = (pattern_1, sidecar, pattern_2, eni_addresses)


def _init_and_fail_over(stage: Stage, addresses: Addresses, settings: Settings, worker: str, other: str) -> None:
    targets = [str(ip_interface(cidr).ip) for cidrs in addresses.values() for cidr in cidrs]
    stage.begin_move(f"start on {worker}")
    with Traffic(stage.lab, targets) as traffic:
        stage.show_unreachable(traffic)
        run = stage.vipmanager(stage.start_pod(worker, addresses), "init", settings)
        stage.show_init(run, traffic)
        stage.show_gap(run, traffic)
    stage.timeline.line()
    stage.begin_move(f"failover {worker} → {other}")
    with Traffic(stage.lab, targets) as traffic:
        stage.show_flowing(traffic)
        stage.cut(worker)
        run = stage.vipmanager(stage.start_pod(other, addresses), "init", settings)
        stage.show_init(run, traffic)
        stage.show_gap(run, traffic, _POD_STARTED)


def run(timeline: Timeline, acts: Sequence[Act] = ACTS, prepare: Callable[[Lab], None] | None = None) -> int:
    """Build the lab and play the acts; the exit status. `prepare` may make the lab misbehave first.

    Raises LabUnavailable where the lab cannot be built.
    """
    ipv6 = Path("/proc/sys/net/ipv6").is_dir()  # a kernel may do without
    with ExitStack() as stack:
        try:
            lab = stack.enter_context(Lab(latency=LATENCY, workers=(*topology.WORKERS, _WORKER_C), ipv6=ipv6))
        except OSError as error:
            raise LabUnavailable(f"The lab could not be built: {error}") from error
        if prepare is not None:
            prepare(lab)
        _introduce(lab, timeline)
        stage = Stage(lab, timeline)
        for act in acts:
            try:
                act(stage)
            except Failed as failure:
                stage.fail(failure)
            stage.clear()
    summary.show(timeline, stage.rows)
    timeline.note(
        f"EC2's latency of {LATENCY * 1000:.0f} ms a call is simulated. A pod is started again at once here; in a "
        "cluster, add what Kubernetes takes to notice a dead worker and to start the pod elsewhere."
    )
    timeline.note(f"Took {timeline.seconds:.0f} s. The lab is gone, with its processes, namespaces and files.")
    return 1 if any(row.failure for row in stage.rows) else 0


def _introduce(lab: Lab, timeline: Timeline) -> None:
    """Say what there is, what is real and what is not."""
    names, state = eni_names(lab), lab.ec2.state()
    timeline.line()
    for worker in lab.workers.values():
        shown = "   ".join(f"{names[eni.eni_id]} {eni.eni_id} {eni.primary_ip}" for eni in worker.enis[1:])
        timeline.line(f"  worker {worker.name}  {worker.availability_zone}  {shown}")
    for peer in lab.peers.values():
        zone = state.enis[peer.eni.eni_id].availability_zone
        timeline.line(f"  {peer.name:<8}  {zone}  {peer.address}")
    enis = [eni for worker in lab.workers.values() for eni in worker.enis[1:]] + [
        peer.eni for peer in lab.peers.values()
    ]
    for table_id in lab.route_table_ids:
        users = [
            names[eni.eni_id] for eni in enis if state.table_of_subnet(eni.subnet_id) is state.route_tables[table_id]
        ]
        timeline.line(f"  {table_name(state.route_tables[table_id]):<8}  {table_id}  for {' '.join(users)}")
    timeline.line()
    how = "ipvlan on the ENI" if links.has_ipvlan() else "the ENI itself, for want of ipvlan in this kernel"
    timeline.note(
        f"Simulated: EC2, which takes {LATENCY * 1000:.0f} ms for each call, and the VPC's router, which forwards by "
        "EC2's current route tables and addresses. Real: vipmanager, a process for each run with Python's start in "
        f"its times; the pods' interfaces ({how}), routes and rules; and every packet."
    )
    timeline.note(
        f"peer1 sends a packet to each address every {INTERVAL * 1000:.0f} ms; before and after a move, each must be "
        "answered. The times on the left are seconds since the demo's start."
    )
    if not state.vpcs[lab.vpc_id].ipv6_cidrs:
        timeline.note("This kernel has no IPv6, so no IPv6 address is shown.")
