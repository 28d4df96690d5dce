"""`python -m bench.scale_processes`: what bench.scale simulates, with real processes, fewer of them, in real time.

A worker of the lab is terminated; so many pods with its addresses start on another, at once, against EC2's throttle.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from bench.process import BenchError
from bench.sizes import Sizes
from lab.ec2.quotas import Quotas
from lab.lab import Lab
from lab.pod import Pod
from vipmanager.crowd import BUCKET, REFILL

ENDS_WITHIN = 600.0
DEVNULL = subprocess.DEVNULL


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one line. Raises BenchError when an init run fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale_processes", description=__doc__)
    parser.add_argument("--pods", type=int, default=30, metavar="N", help="default 30; each takes 48 MB and 0.4 CPU s")
    parser.add_argument("--each", type=int, default=2, metavar="N", help="addresses of each, default 2")
    parsed = parser.parse_args(arguments)
    with Lab(latency=Sizes().latency, quotas=Quotas(routes_per_table=500)) as lab:
        pods = _prepare(lab, parsed.pods, parsed.each)
        lab.ec2.faults.throttle("*Route", BUCKET, REFILL)
        mark, began = len(lab.ec2.calls), time.monotonic()
        argv = [sys.executable, "-m", "vipmanager", "init"]
        runs = [pod.popen(argv, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) for pod in pods]
        codes = [run.wait(timeout=ENDS_WITHIN) for run in runs]
        if any(codes):
            raise BenchError(f"init runs ended with {codes}")
        _print(lab, mark, began, parsed.pods * parsed.each)
    return 0


def _prepare(lab: Lab, count: int, each: int) -> list[Pod]:
    """Routes of all addresses to a worker that is terminated then, and pods on another that have the addresses."""
    wanted = [str(ip_network(ip_address("192.168.0.1") + number)) for number in range(count * each)]
    old, admin = lab.workers["b"].eni(1).eni_id, lab.ec2.admin()
    for table in lab.route_table_ids:
        for cidr in wanted:
            admin.create_route(RouteTableId=table, NetworkInterfaceId=old, DestinationCidrBlock=cidr)
    lab.terminate("b")
    return [
        lab.pod(f"pod-{number}", "a", {"net1": wanted[number * each : (number + 1) * each]}) for number in range(count)
    ]


def _print(lab: Lab, mark: int, began: float, addresses: int) -> None:
    calls = [call for call in lab.ec2.calls[mark:] if call.action in ("CreateRoute", "ReplaceRoute")]
    refused = sum(call.error is not None for call in calls)
    necessary = addresses * len(lab.route_table_ids)
    bound = max(0.0, (necessary - BUCKET) / REFILL)
    first = min(call.started for call in calls)
    took = max(call.finished for call in calls) - first
    print(
        f"{addresses} addresses × {len(lab.route_table_ids)} tables: {necessary} necessary calls, {len(calls)} sent "
        f"({len(calls) / necessary:.2f} ×), {refused} refused; first call after {first - began:.1f} s, all done "
        f"{took:.1f} s later; token bound {bound:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
