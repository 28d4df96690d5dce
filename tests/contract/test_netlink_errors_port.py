"""Every error of the kernel, and of pyroute2, is a CallError that says what happens next."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from vipmanager.clients.netlink import NetlinkClient, failure
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import MAIN_TABLE, PodRoute, PodRule


class _BrokenSocket:
    """An IPRoute whose every call fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> Any:
            raise self._error

        return fail


RULE = PodRule("192.168.0.1/32", 101)
ROUTE = PodRoute(MAIN_TABLE, "10.0.0.0/8", "10.10.1.1", 2)
CALLS: dict[str, Callable[[NetlinkClient], object]] = {
    "interfaces": lambda port: port.interfaces(),
    "pod_network": lambda port: port.pod_network(),
    "set_route": lambda port: port.set_route(ROUTE),
    "delete_route": lambda port: port.delete_route(ROUTE),
    "add_rule": lambda port: port.add_rule(RULE),
    "delete_rule": lambda port: port.delete_rule(RULE),
}


def broken(error: Exception) -> NetlinkClient:
    """A client whose socket fails."""
    client = NetlinkClient.__new__(NetlinkClient)
    client._ipr = _BrokenSocket(error)
    return client


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NetlinkError(errno.EPERM), ErrorKind.DENIED),
        (PermissionError(errno.EACCES, "no"), ErrorKind.DENIED),
        (NetlinkError(errno.EINVAL), ErrorKind.INVALID),
        (NetlinkError(errno.EBUSY), ErrorKind.RETRY),
        (OSError(errno.ENOBUFS, "overrun"), ErrorKind.RETRY),
        (NetlinkDumpInterrupted(), ErrorKind.RETRY),
        (TimeoutError("no answer"), ErrorKind.RETRY),
    ],
    ids=["EPERM", "EACCES", "EINVAL", "EBUSY", "ENOBUFS", "dump interrupted", "timeout"],
)
def test_every_error_of_the_kernel_is_a_call_error(name: str, error: Exception, kind: ErrorKind) -> None:
    with pytest.raises(CallError) as caught:
        CALLS[name](broken(error))
    assert caught.value.kind is kind


@pytest.mark.parametrize("name", ["set_route", "delete_route", "add_rule", "delete_rule"])
def test_a_missing_capability_is_named(name: str) -> None:
    with pytest.raises(CallError) as caught:
        CALLS[name](broken(NetlinkError(errno.EPERM)))
    assert "NET_ADMIN" in caught.value.failure.remedy


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_is_classified(number: int) -> None:
    found = failure("read links", number)
    assert found.code == errno.errorcode[number] and found.message
    assert (found.kind is ErrorKind.DENIED) == (number in (errno.EPERM, errno.EACCES))
