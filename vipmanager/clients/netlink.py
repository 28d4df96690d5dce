"""The pod's network namespace, through pyroute2.

Facts: rtnetlink(7), linux/rtnetlink.h, linux/fib_rules.h.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.logs import event
from vipmanager.model import (
    Address,
    PodInterface,
    PodNetwork,
    PodRoute,
    PodRule,
    may_float,
)

log = logging.getLogger("vipmanager.netlink")

PROTOCOL = 86
"""Marks what is ours; iproute2's rt_protos gives the number no name. It is ASCII «V»."""

RULE_PRIORITY = 1000
PRIMARY = "eth0"

IFF_UP, IFF_LOOPBACK = 0x1, 0x8
IFA_F_DADFAILED = 0x08
RT_SCOPE_UNIVERSE = 0
RTNH_F_ONLINK = 0x4
FR_ACT_TO_TBL = 1
EVENT_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error)
"""What reading a message raises that is not what it should be."""
Read = TypeVar("Read")
RETRY_ERRNOS = frozenset(
    (
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOBUFS,
        errno.ENODEV,
        errno.ETIMEDOUT,
    )
)


def open_events() -> socket.socket:
    """A socket that becomes readable when a link or address changes; what it says is not needed, only that it does.

    An overrun shows as ENOBUFS on reading and means no more than a message does: read the kernel again.
    """
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    events.bind((0, EVENT_GROUPS))
    return events


class NetlinkClient:
    """The netlink port, on one socket; used from one thread."""

    def __init__(self) -> None:
        from pyroute2.iproute import IPRoute

        self._ipr: Any = IPRoute()

    def close(self) -> None:
        """Close the socket."""
        self._ipr.close()

    def interfaces(self) -> tuple[PodInterface, ...]:
        """See NetlinkPort."""
        links, addresses = self._read_links()
        return understood("read links", lambda: _interfaces(links, addresses))

    def _read_links(self) -> tuple[list[Any], list[Any]]:
        """The kernel's messages: links but loopbacks, and addresses."""
        links = self._read("read links", lambda: list(self._ipr.get_links()))
        addresses = self._read("read addresses", lambda: list(self._ipr.get_addr()))
        found = understood("read links", lambda: [link for link in links if not link["flags"] & IFF_LOOPBACK])
        return found, addresses

    def pod_network(self) -> PodNetwork:
        """See NetlinkPort."""
        routes: set[PodRoute] = set()
        rules: set[PodRule] = set()
        for family in FAMILIES.values():
            found = self._read("read routes", partial(self._ipr.get_routes, family=family))
            routes |= understood("read routes", partial(_every, _own_route, found))
            found = self._read("read rules", partial(self._ipr.get_rules, family=family))
            rules |= understood("read rules", partial(_every, _own_rule, found))
        return PodNetwork(frozenset(routes), frozenset(rules))

    def set_route(self, route: PodRoute) -> None:
        """See NetlinkPort."""
        self._call(f"set route {_text(route)}", lambda: self._ipr.route("replace", **_route_request(route)))

    def delete_route(self, route: PodRoute) -> None:
        """See NetlinkPort."""
        self._call(
            f"delete route {_text(route)}",
            lambda: self._ipr.route("del", **_route_request(route)),
            fine=(errno.ESRCH, errno.ENOENT, errno.ENODEV),
        )

    def add_rule(self, rule: PodRule) -> None:
        """See NetlinkPort."""
        self._call(f"add rule {rule}", lambda: self._ipr.rule("add", **_rule_request(rule)), fine=(errno.EEXIST,))

    def delete_rule(self, rule: PodRule) -> None:
        """See NetlinkPort."""
        self._call(
            f"delete rule {rule}",
            lambda: self._ipr.rule("del", **_rule_request(rule)),
            fine=(errno.ENOENT, errno.ESRCH),
        )

    def _read(self, what: str, run: Callable[[], Any], fine: tuple[int, ...] = ()) -> list[Any]:
        """The kernel's messages; pyroute2's own failures to read them are a CallError too."""
        return understood(what, lambda: list(self._call(what, run, fine) or ()))

    def _call(self, what: str, run: Callable[[], Any], fine: tuple[int, ...] = ()) -> Any:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            return run()
        except NetlinkError as error:
            if error.code in fine:
                return None
            number = error.code if error.code > 0 else errno.EINTR  # pyroute2's -1: the table changed as it was read
            raise CallError(failure(what, number)) from error
        except OSError as error:
            number = errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno or errno.EIO
            raise CallError(failure(what, number)) from error


def understood(what: str, read: Callable[[], Read]) -> Read:
    """What `read` makes of the kernel's messages. Raises CallError: RETRY where it cannot.

    One that cannot be read is not left out: an address that is not seen would be taken for gone.
    """
    from pyroute2.netlink.exceptions import NetlinkDecodeError

    try:
        return read()
    except (*UNREADABLE, NetlinkDecodeError) as error:
        text = f"the kernel's answer could not be understood: {type(error).__name__}: {error!s:.200}"
        raise CallError(Failure(ErrorKind.RETRY, f"netlink: {what}", "BadAnswer", text)) from error


def failure(what: str, number: int) -> Failure:
    """A kernel error, classified by its errno."""
    name, text = errno.errorcode.get(number, str(number)), os.strerror(number)
    if number in (errno.EPERM, errno.EACCES):
        return Failure(
            ErrorKind.DENIED,
            f"netlink: {what}",
            name,
            text,
            "the container needs NET_ADMIN: securityContext.capabilities.add: [NET_ADMIN]",
        )
    kind = ErrorKind.RETRY if number in RETRY_ERRNOS else ErrorKind.INVALID
    return Failure(kind, f"netlink: {what}", name, text)


def _interfaces(links: list[Any], messages: list[Any]) -> tuple[PodInterface, ...]:
    of_link: dict[int, list[Any]] = {}
    for message in messages:
        of_link.setdefault(message["index"], []).append(message)
    found = []
    for link in links:
        name = link.get_attr("IFLA_IFNAME")
        if name == PRIMARY:
            continue
        own = sorted(_every(_floating, of_link.get(link["index"], [])), key=lambda address: (address.version, address))
        mac = (link.get_attr("IFLA_ADDRESS") or "").lower()
        found.append(PodInterface(link["index"], str(name), mac, bool(link["flags"] & IFF_UP), tuple(own)))
    return tuple(sorted(found, key=lambda interface: interface.index))


def _every(parse: Callable[[Any], Iterator[Read]], messages: list[Any]) -> set[Read]:
    return {each for message in messages for each in parse(message)}


def _floating(message: Any) -> Iterator[Address]:
    """The address of a message if it is a usable one of global scope (a duplicate found by DAD is not)."""
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    if message["scope"] != RT_SCOPE_UNIVERSE or not text:
        return
    address = ip_address(text)
    if not may_float(address):  # the kernel takes 127.0.0.2 and even 0.0.0.0 for global where it is told to
        return
    if flags & IFA_F_DADFAILED:
        event(
            log, logging.WARNING, "not claimed", address=address, why="the kernel found a duplicate of it on the link"
        )
    else:
        yield address


def _own_route(message: Any) -> Iterator[PodRoute]:
    if message["proto"] != PROTOCOL:
        return
    everything, bits = ("0.0.0.0", 32) if message["family"] == socket.AF_INET else ("::", 128)
    destination = message.get_attr("RTA_DST") or everything
    yield PodRoute(
        table=message.get_attr("RTA_TABLE") or message["table"],
        destination=f"{destination}/{min(message['dst_len'], bits)}",
        gateway=message.get_attr("RTA_GATEWAY") or "",
        device=message.get_attr("RTA_OIF") or 0,
    )


def _own_rule(message: Any) -> Iterator[PodRule]:
    source, mask = message.get_attr("FRA_SRC"), message.get_attr("FRA_FWMASK") or 0
    if message.get_attr("FRA_PROTOCOL") == PROTOCOL and (source or mask):
        table = message.get_attr("FRA_TABLE") or message["table"]
        everything = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
        yield PodRule(f"{source or everything}/{message['src_len']}", table, message.get_attr("FRA_FWMARK") or 0, mask)


def _route_request(route: PodRoute) -> dict[str, Any]:
    return {
        "family": FAMILIES[ip_address(route.gateway).version],
        "dst": route.destination,
        "gateway": route.gateway,
        "oif": route.device,
        "table": route.table,
        "proto": PROTOCOL,
        "flags": RTNH_F_ONLINK,
    }


def _rule_request(rule: PodRule) -> dict[str, Any]:
    source, length = rule.source.split("/")
    matched = {"fwmark": rule.mark, "fwmask": rule.mask} if rule.mask else {"src": source, "src_len": int(length)}
    return {
        "family": FAMILIES[ip_address(source).version],
        **matched,
        "table": rule.table,
        "priority": RULE_PRIORITY,
        "protocol": PROTOCOL,
        "action": FR_ACT_TO_TBL,
    }


def _text(route: PodRoute) -> str:
    return f"{route.destination} via {route.gateway} device {route.device} table {route.table}"
