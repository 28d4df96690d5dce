"""What the lab does to a pod: a state directory that is full or read-only, address changes by the thousand."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator

import pytest

from lab import burst
from lab.lab import Lab
from lab.pod import Pod
from lab.volume import SIZE, Volume

pytestmark = pytest.mark.namespaces


@pytest.fixture
def pod() -> Iterator[Pod]:
    with Lab() as lab:
        yield lab.pod("pod", "a", {"net1": ["192.168.0.1/32"]})


def written(pod: Pod, volume: Volume, name: str) -> bool:
    """Whether a container of the pod can write a file of some length in the volume."""
    command = [*volume.command, "/bin/sh", "-c", f"echo some text >{volume.path}/{name}"]
    return pod.popen(command, stderr=subprocess.DEVNULL).wait(10.0) == 0 and volume.read(name) == "some text\n"


def test_a_volume_outlives_a_container_and_shows_outside_only_where_it_is_asked_for(pod: Pod) -> None:
    volume = Volume(pod)
    assert written(pod, volume, "one")
    assert list(volume.path.iterdir()) == [], "the mount is not this process's"
    assert volume.read("one") == "some text\n"


def test_a_full_volume_takes_nothing_until_it_is_freed(pod: Pod) -> None:
    volume = Volume(pod)
    volume.fill()
    assert not written(pod, volume, "one")
    assert sum(each.stat().st_size for each in volume.seen_from_outside.iterdir()) <= SIZE
    volume.free()
    assert written(pod, volume, "two")


def test_a_read_only_volume_takes_nothing_until_it_is_writable(pod: Pod) -> None:
    volume = Volume(pod)
    volume.set_read_only(True)
    assert not written(pod, volume, "one")
    volume.set_read_only(False)
    assert written(pod, volume, "two")


def test_a_burst_overruns_who_does_not_read_and_leaves_nothing(pod: Pod) -> None:
    def listen() -> socket.socket:
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        events.bind((0, 0x10))  # RTMGRP_IPV4_IFADDR
        return events

    before = pod.interfaces()
    with pod.ns.run(listen) as events:
        burst.flap(pod.ns, "net1", "192.168.9.9", 10_000)
        with pytest.raises(OSError) as overrun:
            while True:
                events.recv(1)
        assert overrun.value.errno == errno.ENOBUFS
    assert pod.interfaces() == before


def test_a_burst_that_the_kernel_refuses_says_so(pod: Pod) -> None:
    with pytest.raises(OSError, match="EEXIST"):
        burst.flap(pod.ns, "net1", "192.168.0.1", 4)
