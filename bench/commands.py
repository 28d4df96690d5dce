"""The commands beside the modes: how long an operator waits, and how many API calls that takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from bench import process
from bench.figures import Figure
from bench.process import BenchError, Run
from bench.sizes import Sizes
from lab.ec2.layer import Call
from lab.lab import Lab

WITHIN = 2.0  # s
CHANGES = 2
"""The exit code of a plan that has changes."""


def measure(sizes: Sizes) -> Iterator[Figure]:
    """`plan` and `doctor` in a new pod with one address, nothing of which is in the VPC yet."""
    tables = max(sizes.tables)
    with Lab(route_tables=tables, latency=sizes.latency) as lab:
        pod = lab.pod("pod", "a", {"net1": ["192.168.0.1/32"]})
        for command in (_plan, _doctor):
            command(lab, tables)  # files are in memory from here on, bytecode is compiled
            runs = [command(lab, tables) for _ in range(sizes.runs)]
            name = command.__name__.strip("_")
            yield from _figures(f"{name}, 1 address × {tables} route tables", runs, WITHIN)
        lab.delete_pod(pod.name)


def _plan(lab: Lab, tables: int) -> Run:
    argv = [sys.executable, "-m", "vipmanager", "plan", "init"]
    run = process.run(lab, lab.pods["pod"], argv, code=CHANGES)
    asked = sum("DryRun" in call.params for call in run.calls)
    if asked != tables + 1 or any("DryRun" not in call.params and call.status == 200 for call in _writes(run)):
        raise BenchError(f"plan asked {asked} times for {tables} tables and a source/dest check: {dict(run.actions)}")
    return run


def _doctor(lab: Lab, _: int) -> Run:
    run = process.run(lab, lab.pods["pod"], [sys.executable, "-m", "vipmanager", "doctor", "sidecar"])
    if any("DryRun" not in call.params and call.status == 200 for call in _writes(run)):
        raise BenchError(f"doctor has changed something: {dict(run.actions)}")
    return run


def _writes(run: Run) -> Iterator[Call]:
    return (call for call in run.calls if call.service == "ec2" and not call.action.startswith("Describe"))


def _figures(case: str, runs: list[Run], within: float) -> Iterator[Figure]:
    yield Figure(case, "wall clock", "s", tuple(run.wall for run in runs), reach=within)
    yield Figure(case, "CPU", "CPU s", tuple(run.cpu for run in runs))
    yield Figure(case, "API calls", "calls", tuple(float(len(run.calls)) for run in runs))
    dry = tuple(float(sum("DryRun" in call.params for call in run.calls)) for run in runs)
    yield Figure(case, "of them questions (DryRun)", "calls", dry)
