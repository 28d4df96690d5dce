"""What a sidecar's process holds, and whether that grows."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.chaos.stage import Stage

CALLS_AT_ONCE = 16
"""vipmanager's threads for calls, and so the connections that a client keeps (vipmanager.apply.WORKERS)."""
BESIDES = 6
"""Other TCP sockets: two that listen at the health port and one that is asked there, STS's, IMDS's."""

_WORKER = re.compile(r"vipmanager-\d+")
WORKER = "worker"


@dataclass(frozen=True)
class Census:
    """What a process holds: threads by name (those for calls are `WORKER`s), TCP sockets, and other descriptors."""

    threads: Counter[str]
    tcp: int
    other: int


def census(pid: int) -> Census:
    """Count it. Raises OSError when the process has ended."""
    process = Path(f"/proc/{pid}")
    tcp = other = 0
    for descriptor in (process / "fd").iterdir():
        try:
            is_tcp = is_tcp_socket(descriptor)
        except FileNotFoundError:  # closed meanwhile
            continue
        tcp, other = tcp + is_tcp, other + (not is_tcp)
    threads: Counter[str] = Counter()
    for task in (process / "task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        threads[WORKER if _WORKER.fullmatch(name) else name] += 1
    return Census(threads, tcp, other)


def is_tcp_socket(descriptor: Path) -> bool:
    """Whether it is a TCP socket, in whatever state: after a reset /proc/net/tcp does not list it any more.

    The name of a socket's protocol is an extended attribute of it (Linux, net/socket.c, `system.sockprotoname`). Raises
    FileNotFoundError when the descriptor is closed.
    """
    if not str(descriptor.readlink()).startswith("socket:"):
        return False
    return os.getxattr(descriptor, "system.sockprotoname").rstrip(b"\0") in (b"TCP", b"TCPv6")


def leaks(stage: Stage, before: Mapping[str, Census]) -> Iterator[str]:
    """Of threads for calls and of connections there are no more than calls at once; of all else as many as at first."""
    clients = 2 if stage.world.settings.table_role else 1
    for name, sidecar in stage.sidecars.items():
        if sidecar.container is None or sidecar.container.poll() is not None:
            continue
        for complaint in growth(before[name], census(sidecar.container.pid), clients):
            yield f"{name} {complaint}"


def growth(then: Census, now: Census, clients: int = 1) -> Iterator[str]:
    """What is more than it may be, with so many clients for EC2."""
    if now.other > then.other:
        yield f"has {now.other} descriptors besides its connections, and had {then.other}"
    if now.tcp > clients * CALLS_AT_ONCE + BESIDES:
        yield f"has {now.tcp} connections, and had {then.tcp}"
    if now.threads[WORKER] > CALLS_AT_ONCE:
        yield f"has {now.threads[WORKER]} threads for calls"
    for kind, number in now.threads.items():
        if kind != WORKER and number > then.threads[kind]:
            yield f"has {number} threads {kind}, and had {then.threads[kind]}"
