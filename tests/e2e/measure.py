"""Start-up in the image and outside it: `vipmanager init`, 2 addresses in 4 route tables, EC2 taking 60 ms a call."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import bench
from bench import process
from bench.process import Run
from lab.lab import Lab
from lab.pod import Pod
from tests.e2e.image import Images
from tests.e2e.podman import environment, run_command, run_options

ADDRESSES = ("192.168.0.1", "192.168.0.2")
LATENCY = 0.060
RUNS = 5
CPU_AT_MOST = 0.50
MEMORY_AT_MOST = 50.0
LAUNCHER = Path(bench.__file__).with_name("launcher.py")

Say = Callable[[str], None]


def compare(images: Images, say: Say) -> None:
    """Measure both in turn. Raises AssertionError where the image uses more memory or CPU than it may."""
    inside: list[Run] = []
    outside: list[Run] = []
    with Lab(latency=LATENCY) as lab:
        for number in range(RUNS + 1):
            for runs, measure in ((inside, lambda pod: _inside(pod, images)), (outside, _outside(lab))):
                process.reset(lab)
                pod = lab.pod("pod", "a", process.spread(ADDRESSES))
                run = measure(pod)
                process.check_routes(lab, pod)
                lab.delete_pod("pod")
                if number:  # after the first, files are in memory and bytecode is compiled
                    runs.append(run)
    say(f"  in the image: {_told(inside)}")
    say(f"  outside it:   {_told(outside)}")
    cpu, memory = (_median(getattr(run, what) for run in inside) for what in ("cpu", "memory"))
    assert memory <= MEMORY_AT_MOST, f"{memory:.1f} MB"
    assert cpu <= CPU_AT_MOST, f"{cpu:.2f} CPU s"


def _told(runs: list[Run]) -> str:
    wall, cpu, memory = (_median(getattr(run, what) for run in runs) for what in ("wall", "cpu", "memory"))
    return f"{wall:.2f} s, {cpu:.2f} CPU s, {memory:.1f} MB at its peak (medians of {len(runs)})"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _outside(lab: Lab) -> Callable[[Pod], Run]:
    return lambda pod: process.init(lab, pod)


def _inside(pod: Pod, images: Images) -> Run:
    """The same process in a container, started by the same launcher: the container runtime's time is not counted."""
    variables = [f"--env={name}={value}" for name, value in pod.env.items() if name.startswith("AWS_")]
    options = [*run_options(images.base), "--rm", "--network=host", "--no-hosts", "--cap-drop=all"]
    options += ["--cap-add=NET_ADMIN", "--read-only", f"--volume={LAUNCHER}:/launcher.py:ro", *variables]
    options.append('--entrypoint=["python3","-I","-S","/launcher.py","/tmp/log"]')
    done = pod.popen(
        ["podman", *run_command(options), images.name, "vipmanager", "init"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = str(done.communicate(timeout=process.ENDS_WITHIN)[0])
    started, ended, code, cpu, memory = said.split()
    if code != "0":
        raise process.BenchError(f"vipmanager init in the image ended with {code}")
    return Run(float(ended) - float(started), float(cpu), float(memory) * process.KIB_PER_MB, ())
