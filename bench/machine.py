"""Where a measurement was made."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("botocore", "boto3", "pyroute2.minimal", "moto")


def describe() -> dict[str, Any]:
    """The machine, the versions and the date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cut_down_ec2_model": _has_cut_down_model(),
        "commit": _commit(),
    }


def heading(machine: dict[str, Any], latency: float) -> str:
    """The table's first lines."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    model = "cut down" if machine["cut_down_ec2_model"] else "the full one (python -m vipmanager.clients.ec2_model)"
    return (
        f"{machine['date']}, {machine['cores']} cores, load {machine['load_before']:.1f}, Linux {machine['kernel']}, "
        f"Python {machine['python']}\n"
        f"{packages}; EC2 model: {model}; commit {machine['commit'] or 'unknown'}\n"
        "Real processes and real packets in network namespaces; EC2 is the lab's, and each of its calls is made to\n"
        f"take {latency * 1000:.0f} ms, half before it is applied and half after. Times to a write are to its answer: "
        f"it is in effect\n{latency * 500:.0f} ms earlier. Programs run with their files in memory.\n"
        "floor: the shortest boto3 script that makes the same EC2 calls one after the other with one client,\n"
        "run in turns with vipmanager."
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _has_cut_down_model() -> bool:
    from vipmanager.clients.ec2_model import trimmed_model_path

    return trimmed_model_path() is not None


def _commit() -> str | None:
    """The commit that is checked out, marked when files differ from it; None outside a repository."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    try:
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{found[:12]}{' with changes' if changed else ''}"
