"""The node's network namespace: floating addresses on its interfaces, with a lifetime after which the kernel ends them.

Facts: rtnetlink(7), linux/if_addr.h, linux/if_link.h, net/ipv4/devinet.c and net/ipv6/addrconf.c of Linux.
"""

from __future__ import annotations

import errno
import math
import socket
import struct
import time
from collections.abc import Mapping
from functools import cached_property, partial
from ipaddress import IPv4Address, ip_address
from typing import Any

from vipmanager.clients import marks
from vipmanager.clients.deadline import Deadline
from vipmanager.clients.netlink import (
    FAMILIES,
    IFF_UP,
    PROTOCOL,
    RT_SCOPE_UNIVERSE,
    NetlinkClient,
    failure,
    understood,
)
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model import Address
from vipmanager.model_node import HostInterface, Mark

MADE_ON_ANOTHER = frozenset(
    ("bond", "bridge", "ipvlan", "ipvtap", "macsec", "macvlan", "macvtap", "openvswitch", "team", "vlan")
)
"""Kinds of link that may have the MAC of an ENI without being it. ipvlan, macsec and VLANs begin with their parent's,
bridges, bonds and teams with a port's; the VPC CNI gives a VLAN the MAC of a branch ENI; macvlan is given any. What the
CNI plug-ins make for a pod is seen here too, until they move it there. ENIs have no kind."""

IFA_F_SECONDARY, IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE, IFA_F_NOPREFIXROUTE = 0x01, 0x02, 0x08, 0x40, 0x200

NLMSG_ERROR, RTM_SETLINK = 2, 19
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
IFLA_AF_SPEC, IFLA_INET_CONF, PROMOTE_SECONDARIES = 26, 1, 20  # the last of enum IPV4_DEVCONF_*, linux/ip.h


class HostNetlinkClient(NetlinkClient):
    """The host port, on one socket; used from one thread."""

    @cached_property
    def _deadline(self) -> Deadline:
        return Deadline()

    def host_interfaces(self) -> tuple[HostInterface, ...]:
        """See HostPort. An address that failed duplicate address detection is shown: it is there to be taken off."""
        links, messages = self._read_links()
        return understood("read links", lambda: _host_interfaces(links, messages))

    def put_address(self, device: int, address: Address, lifetime: int, by: float = math.inf) -> None:
        """See HostPort.

        Other forms of the address (another prefix length, a peer) are removed: the kernel keeps them beside the /32 for
        ever, and the address would stay on a node that has died. Of an IPv6 address it keeps one form on an interface,
        and an extension would leave the old prefix length, so the other is removed first.

        IPv6: the preferred lifetime is 0, so that the node does not choose the address as the source of what it sends
        of itself (of equally good ones Linux takes the newest, which is this one); it serves as any other.
        """
        forms = [form for form in self._forms(device, address) if not _as_we_put(form)]
        for form in forms:
            if _is_in_the_way(form):
                self._delete(form, address)
        self._put(device, address, lifetime, by)
        for form in forms:
            if not _is_in_the_way(form):
                self._delete(form, address)

    def remove_address(self, device: int, address: Address) -> None:
        """See HostPort."""
        for form in self._forms(device, address):
            self._delete(form, address)

    def bring_up(self, device: int) -> None:
        """See HostPort."""
        self._call(f"bring up device {device}", lambda: self._ipr.link("set", index=device, state="up"))

    def marks(self) -> Mapping[str, frozenset[Mark]]:
        """See HostPort."""
        return marks.read_marks()

    def set_marks(self, table: str, wanted: frozenset[Mark]) -> None:
        """See HostPort."""
        marks.set_marks(table, wanted)

    def delete_marks(self, table: str) -> None:
        """See HostPort."""
        marks.delete_marks(table)

    def _forms(self, device: int, address: Address) -> list[Any]:
        """The kernel's messages that have the address on that interface."""
        dump = partial(self._ipr.get_addr, family=FAMILIES[address.version], index=device)
        found = self._read("read addresses", dump, fine=(errno.ENODEV,))
        return understood("read addresses", lambda: [each for each in found if ip_address(_local(each)) == address])

    def _put(self, device: int, address: Address, lifetime: int, by: float) -> None:
        # pyroute2 makes IFA_CACHEINFO of these two arguments; one that is named cacheinfo it takes and throws away
        lifetimes = {"valid_lft": lifetime, "preferred_lft": lifetime if address.version == 4 else 0}
        request = {
            "index": device,
            "family": FAMILIES[address.version],
            "address": str(address),
            "prefixlen": address.max_prefixlen,
            "flags": 0 if address.version == 4 else IFA_F_NODAD | IFA_F_NOPREFIXROUTE,  # a /32 has no prefix route
            "proto": PROTOCOL,
        }
        what = f"put address {address} device {device}"
        if time.clock_gettime(time.CLOCK_BOOTTIME) >= by:
            raise CallError(Failure(ErrorKind.LOST, f"netlink: {what}", "TooLate", "another node may hold it by now"))
        try:
            with self._deadline.by(by):
                self._call(what, lambda: self._ipr.addr("replace", **request, **lifetimes))
        except CallError as error:
            if address.version == 6 and error.failure.code == "EACCES":  # for want of NET_ADMIN it is EPERM
                raise CallError(_ipv6_is_off(what)) from error
            raise

    def _delete(self, form: Any, address: Address) -> None:
        device, length = form["index"], form["prefixlen"]
        if isinstance(address, IPv4Address) and length < 32 and not _flags(form) & IFA_F_SECONDARY:
            self._call(f"promote secondaries device {device}", lambda: _promote_secondaries(device), (errno.ENODEV,))
        request = {"index": device, "family": form["family"], "address": form.get_attr("IFA_ADDRESS")}
        if form.get_attr("IFA_LOCAL"):
            request["local"] = form.get_attr("IFA_LOCAL")
        self._call(
            f"remove address {address}/{length} device {device}",
            lambda: self._ipr.addr("del", prefixlen=length, **request),
            fine=(errno.EADDRNOTAVAIL, errno.ENODEV),
        )


def _host_interfaces(links: list[Any], messages: list[Any]) -> tuple[HostInterface, ...]:
    addresses: dict[int, set[Address]] = {}
    for message in messages:
        if message["scope"] == RT_SCOPE_UNIVERSE and _local(message):
            addresses.setdefault(message["index"], set()).add(ip_address(_local(message)))
    found = [
        HostInterface(
            index=link["index"],
            name=str(link.get_attr("IFLA_IFNAME")),
            mac=(link.get_attr("IFLA_ADDRESS") or "").lower(),
            up=bool(link["flags"] & IFF_UP),
            addresses=tuple(sorted(addresses.get(link["index"], ()), key=lambda each: (each.version, each))),
            physical=link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") not in MADE_ON_ANOTHER,
        )
        for link in links
    ]
    return tuple(sorted(found, key=lambda interface: interface.index))


def _local(message: Any) -> str:
    """The interface's own address; IFA_ADDRESS is the other end's where it has a peer."""
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") or "")


def _flags(message: Any) -> int:
    return int(message.get_attr("IFA_FLAGS") or message["flags"])


def _is_in_the_way(form: Any) -> bool:
    """Whether the kernel would change this form instead of adding ours."""
    if form["family"] == socket.AF_INET6:
        return True
    return bool(form["prefixlen"] == 32 and form.get_attr("IFA_ADDRESS") == form.get_attr("IFA_LOCAL"))


def _as_we_put(form: Any) -> bool:
    """Whether this form needs no more than a new lifetime."""
    if form["family"] == socket.AF_INET6:
        usable = not _flags(form) & (IFA_F_DADFAILED | IFA_F_TENTATIVE)
        return bool(form["prefixlen"] == 128 and not form.get_attr("IFA_LOCAL") and usable)
    return bool(_is_in_the_way(form) and form["scope"] == RT_SCOPE_UNIVERSE)


def _promote_secondaries(device: int) -> None:
    """Let the IPv4 addresses of a subnet outlive the removal of its first one (sysctl promote_secondaries).

    By default they go with it, and so would the node's own. systemd sets this everywhere, others may not have; a
    container's /proc/sys is read-only, netlink is not. pyroute2 cannot write this attribute. Raises NetlinkError and
    OSError.
    """
    from pyroute2.netlink.exceptions import NetlinkError

    conf = struct.pack("=HHI", 8, PROMOTE_SECONDARIES, 1)
    for kind in (IFLA_INET_CONF, socket.AF_INET, IFLA_AF_SPEC):
        conf = struct.pack("=HH", 4 + len(conf), kind) + conf
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, device, 0, 0) + conf
    header = struct.pack("=IHHII", 16 + len(body), RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as route:
        route.settimeout(5.0)
        route.send(header + body)
        kind, error = struct.unpack_from("=4xH10xi", route.recv(8192))
    if kind != NLMSG_ERROR or error:
        raise NetlinkError(-error or errno.EPROTO)


def _ipv6_is_off(what: str) -> Failure:
    denied = failure(what, errno.EACCES)
    return Failure(
        ErrorKind.INVALID,
        denied.call,
        denied.code,
        "IPv6 is switched off on this interface",
        "sysctl net.ipv6.conf.<interface>.disable_ipv6=0 on the node",
    )
