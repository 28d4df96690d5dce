"""The right to make network namespaces: as root, or as an ordinary user in a user namespace of our own."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from lab import netns

_ADVICE = """\
The lab needs Linux network namespaces. One of these helps:
  - run it as root, or
  - allow unprivileged user namespaces: sysctl user.max_user_namespaces (must not be 0); on Ubuntu 23.10 and later
    sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; on older Debian kernel.unprivileged_userns_clone=1, or
  - in a container: --cap-add NET_ADMIN --cap-add SYS_ADMIN --security-opt seccomp=unconfined \
--security-opt apparmor=unconfined (or --privileged)."""

_THREAD_GONE_WITHIN = 1.0  # seconds
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


class LabUnavailable(RuntimeError):
    """The lab cannot run here; the text says what was tried and what would help."""


def ensure() -> None:
    """Make this process able to make network namespaces, entering a user namespace when it is not able to already.

    A user namespace can be entered by a process with one thread only, so call this before any thread is started.
    Raises LabUnavailable, and changes nothing, where neither way works.
    """
    as_we_are, in_user_namespace = _obstacles()
    if as_we_are is None:
        return
    if in_user_namespace is not None:
        raise LabUnavailable(_reason(as_we_are, in_user_namespace))
    _enter_user_namespace()


def available() -> str | None:
    """Why the lab cannot run here, or None when it can. Nothing of this process changes."""
    as_we_are, in_user_namespace = _obstacles()
    if as_we_are is None or in_user_namespace is None:
        return None
    return _reason(as_we_are, in_user_namespace)


def _reason(as_we_are: str, in_user_namespace: str) -> str:
    return (
        f"no network namespaces for uid {os.geteuid()}: as it is: {as_we_are}; "
        f"in a user namespace: {in_user_namespace}.\n{_ADVICE}"
    )


def _obstacles() -> tuple[str | None, str | None]:
    """What keeps this process from making network namespaces as it is, and in a user namespace; None: nothing.

    The first is tried in a thread, which may have a network namespace of its own. The second has to be tried in a
    child process, and that only when it matters and there is but one thread: it would be of no use otherwise, and
    forking a process with more is not safe.
    """
    as_we_are = _failure(lambda: netns.in_thread(_use_network_namespace))
    if as_we_are is None:
        return None, None
    if not _is_alone():
        return as_we_are, "this process has several threads already (call lab.privileges.ensure() before there are any)"
    return as_we_are, _in_child(_use_user_namespace)


def _is_alone() -> bool:
    """Whether this process has one thread. One that was joined a moment ago may take a little to be gone."""
    deadline = time.monotonic() + _THREAD_GONE_WITHIN
    while len(list(Path("/proc/self/task").iterdir())) > 1:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _use_network_namespace() -> None:
    """Do once each thing that the lab does all the time. Raises OSError."""
    netns.unshare(netns.CLONE_NEWNET)
    from lab import links  # pyroute2 takes a while to import: not before it is needed

    links.make_trial_pair()
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def _use_user_namespace() -> None:
    _enter_user_namespace()
    _use_network_namespace()


def _enter_user_namespace() -> None:
    """Become root of a new user namespace, with a new network namespace. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    netns.unshare(netns.CLONE_NEWUSER | netns.CLONE_NEWNET)
    # A group map may only be written once setgroups is denied: user_namespaces(7).
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _set_loopback_up()


def _set_loopback_up() -> None:
    """A new network namespace's loopback is down, and this process had one that was up: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _in_child(action: Callable[[], None]) -> str | None:
    """Run the action in a forked child; what it failed with, or None."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, (_failure(action) or "").encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return said or (None if status == 0 else "the child process that tried it died")


def _failure(action: Callable[[], None]) -> str | None:
    """Run the action; what it failed with, or None."""
    try:
        action()
    except OSError as error:
        return f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'error')})"
    return None
