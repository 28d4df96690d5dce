"""What `make chaos` and `make soak` count of a process."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.chaos.processes import BESIDES, CALLS_AT_ONCE, WORKER, Census, census, growth, is_tcp_socket
from lab.chaos.sidecar import named_threads

HELD = Census(Counter({"python": 1, "http": 1, WORKER: 2}), tcp=3, other=9)


@pytest.fixture
def reset() -> Iterator[socket.socket]:
    """A TCP socket whose peer has reset the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as held:
        peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends a RST
        peer.close()
        with pytest.raises(ConnectionResetError):
            held.recv(1)
        yield held


def test_a_socket_that_was_reset_is_a_tcp_socket_still(reset: socket.socket) -> None:
    """/proc/net/tcp does not list it."""
    descriptor = Path(f"/proc/self/fd/{reset.fileno()}")
    inode = str(descriptor.readlink()).removeprefix("socket:[").rstrip("]")
    listed = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    assert inode not in {line.split()[9] for line in listed}
    assert is_tcp_socket(descriptor)


def test_other_descriptors_are_none() -> None:
    """Sockets of other kinds, pipes."""
    left, right = socket.socketpair()
    read, write = os.pipe()
    try:
        for number in (left.fileno(), right.fileno(), read, write):
            assert not is_tcp_socket(Path(f"/proc/self/fd/{number}"))
    finally:
        for each in (left, right):
            each.close()
        os.close(read)
        os.close(write)


def test_threads_are_counted_by_name() -> None:
    """By the names that their program gave them, which Python does not tell the kernel before 3.14."""
    script = textwrap.dedent("""
        import threading
        end = threading.Event()
        for name in ("vipmanager-1", "vipmanager-2", "http"):
            started = threading.Event()
            threading.Thread(target=lambda: (started.set(), end.wait()), name=name, daemon=True).start()
            started.wait()
        print("ready", flush=True)
        input()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **named_threads(dict(os.environ))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        threads = census(process.pid).threads
        process.communicate(b"\n")
    assert (threads[WORKER], threads["http"], threads.total()) == (2, 1, 4)


@pytest.mark.parametrize(
    "now",
    [
        Census(HELD.threads + Counter({"http": 1}), HELD.tcp, HELD.other),
        Census(HELD.threads + Counter({"unknown": 1}), HELD.tcp, HELD.other),
        Census(HELD.threads + Counter({WORKER: CALLS_AT_ONCE - 1}), HELD.tcp, HELD.other),
        Census(HELD.threads, HELD.tcp, HELD.other + 1),
        Census(HELD.threads, CALLS_AT_ONCE + BESIDES + 1, HELD.other),
    ],
)
def test_one_more_than_there_may_be_is_a_leak(now: Census) -> None:
    """Of threads by name, of descriptors, and of connections."""
    assert len(list(growth(HELD, now))) == 1


def test_as_many_threads_and_connections_as_calls_at_once_are_none() -> None:
    """They are kept."""
    assert not list(
        growth(HELD, Census(HELD.threads + Counter({WORKER: CALLS_AT_ONCE - 2}), CALLS_AT_ONCE, HELD.other))
    )
