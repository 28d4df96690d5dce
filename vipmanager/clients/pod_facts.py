"""What the kernel says of this process and its network namespace, in /proc. Nothing here raises."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13}
"""Bits of capabilities(7)."""


def capabilities(status: str = "/proc/self/status") -> frozenset[str]:
    """Which of NET_ADMIN and NET_RAW are in the effective set (proc_pid_status(5), CapEff)."""
    for line in _read(status).splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return frozenset(each for each, bit in CAPABILITIES.items() if int(value, 16) >> bit & 1)
    return frozenset()


def rp_filter(interfaces: Iterable[str], root: str = "/proc/sys/net/ipv4/conf") -> dict[str, int]:
    """What is in force for each interface: the larger of its own setting and that of `all` (kernel, ip-sysctl)."""
    values = {name: _read(f"{root}/{name}/rp_filter").strip() for name in ("all", *interfaces) if "/" not in name}
    numbers = {name: int(text) for name, text in values.items() if text.isdecimal()}
    every = numbers.pop("all", 0)
    return {name: max(number, every) for name, number in numbers.items()}


def why_unwritable(directory: str) -> str:
    """Why a file cannot be made in the state directory; empty where it can."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            os.write(file.fileno(), b"x")
    except OSError as error:
        return f"{directory}: {error.strerror}"
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
