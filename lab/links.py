"""Interfaces, addresses and routes inside the lab's namespaces (netlink, ethtool and sysctl)."""

from __future__ import annotations

import array
import fcntl
import functools
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any, TypeVar

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.netns import Namespace

_SIOCETHTOOL = 0x8946
# ETHTOOL_S{TXCSUM,SG,TSO,GSO,GRO} of linux/ethtool.h. What a userland router reads from one interface it writes to
# another, so every frame must be complete when it leaves its host: no checksum and no segmentation left to hardware.
_OFFLOADS = (0x17, 0x19, 0x1F, 0x24, 0x2C)

_RUNNING_WITHIN = 5.0  # seconds

_IFF_UP = 1
_RT_SCOPE_UNIVERSE = 0
_RT_SCOPE_LINK = 253
_IFA_F_NODAD = 0x02
_RTNH_F_ONLINK = 4

_T = TypeVar("_T")

# A host of the lab: addresses usable at once (no duplicate address detection), IPv6 on whatever the machine's default
# is, nothing configured by router advertisements, and loose reverse path filtering (2) as EKS nodes have it.
_HOST_SYSCTLS = {
    f"net/{family}/conf/{scope}/{name}": value
    for family, name, value in (
        ("ipv6", "disable_ipv6", "0"),
        ("ipv6", "accept_dad", "0"),
        ("ipv6", "accept_ra", "0"),
        ("ipv4", "rp_filter", "2"),
    )
    for scope in ("all", "default")
}


@dataclass(frozen=True)
class Link:
    """An interface as the kernel shows it. `addresses` are those of global scope, as `address/length`."""

    name: str
    mac: str
    up: bool
    addresses: tuple[str, ...]


def netlink(ns: Namespace, action: Callable[[IPRoute], _T]) -> _T:
    """Run the action, in the namespace, with a netlink socket of it.

    The whole action must run there: pyroute2's IPRoute opens another socket in each thread that uses it, so one made
    in a namespace and used by the caller's thread would work on the caller's namespace.
    """

    def run() -> _T:
        with IPRoute() as socket_:
            return action(socket_)

    return ns.run(run)


def make_trial_pair() -> None:
    """Make and remove a veth pair in the calling thread's namespace. Raises OSError where the kernel refuses."""
    with IPRoute() as iproute:
        try:
            iproute.link("add", ifname="trial0", kind="veth", peer={"ifname": "trial1"})
            iproute.link("del", index=_index(iproute, "trial0"))
        except NetlinkError as error:
            raise OSError(error.code, f"veth: {os.strerror(error.code)}") from error


def set_up_host(ns: Namespace) -> None:
    """Give a new namespace the settings of a host of the lab: loopback up, sysctls."""
    write_sysctls(ns, _HOST_SYSCTLS)
    set_link(ns, "lo", up=True)


def set_up_router(ns: Namespace) -> None:
    """Give a new namespace the settings of one whose interfaces carry raw frames: the kernel sends nothing."""
    write_sysctls(ns, {f"net/ipv6/conf/{scope}/disable_ipv6": "1" for scope in ("all", "default")})


def write_sysctls(ns: Namespace, values: Mapping[str, str]) -> None:
    """Write network sysctls (path below /proc/sys → value) of the namespace. Raises OSError that says which."""

    def write() -> None:  # /proc/sys/net shows the namespace of the thread that opens it
        for path, value in values.items():
            try:
                with open(f"/proc/sys/{path}", "w") as file:
                    file.write(value)
            except FileNotFoundError:
                if not path.startswith("net/ipv6/"):  # a kernel without IPv6 has none of those
                    raise
            except OSError as error:
                hint = "; /proc/sys is mounted read-only: mount it read-write, or run the container privileged"
                raise OSError(error.errno, f"cannot set /proc/sys/{path} to {value}: {error.strerror}{hint}") from error

    ns.run(write)


def make_pair(
    ns: Namespace, name: str, peer_ns: Namespace, peer_name: str, *, mac: str | None = None, up: bool = True
) -> None:
    """Make a veth pair from `ns` to `peer_ns`, without offloads. `mac` and `up` are of the end in `ns`."""
    peer = {"ifname": peer_name, "net_ns_fd": peer_ns.fileno()}
    extra = {"address": mac} if mac else {}

    def make(iproute: IPRoute) -> None:
        iproute.link("add", ifname=name, kind="veth", peer=peer, **extra)
        _finish_link(iproute, name, up=up)

    netlink(ns, make)
    netlink(peer_ns, lambda iproute: _finish_link(iproute, peer_name, up=True))


def make_ipvlan(ns: Namespace, parent: str, child_ns: Namespace, name: str) -> None:
    """Make an ipvlan (L2 mode) on the parent interface, in another namespace. Raises NetlinkError."""

    def make(iproute: IPRoute) -> None:
        link = _index(iproute, parent)
        iproute.link("add", ifname=name, kind="ipvlan", link=link, ipvlan_mode=0, net_ns_fd=child_ns.fileno())

    netlink(ns, make)
    set_link(child_ns, name, up=True)


@functools.cache
def has_ipvlan() -> bool:
    """Whether this kernel has ipvlan: tried, in a namespace made for it."""

    def attempt(iproute: IPRoute) -> None:
        iproute.link("add", ifname="trial0", kind="veth", peer={"ifname": "trial1"})
        iproute.link("add", ifname="trial2", kind="ipvlan", link=_index(iproute, "trial0"), ipvlan_mode=0)

    ns = Namespace("ipvlan-trial")
    try:
        netlink(ns, attempt)
        return True
    except NetlinkError:
        return False
    finally:
        ns.close()


def move(ns: Namespace, name: str, to: Namespace, new_name: str, *, up: bool = True) -> None:
    """Move an interface to another namespace, under another name, up or down. It loses its addresses and routes."""

    def send(iproute: IPRoute) -> None:
        index = _index(iproute, name)
        iproute.link("set", index=index, state="down")
        iproute.link("set", index=index, net_ns_fd=to.fileno(), ifname=new_name)

    netlink(ns, send)
    if up:
        set_link(to, new_name, up=True)


def delete(ns: Namespace, name: str) -> None:
    """Delete an interface; the other end of a veth pair goes with it."""
    netlink(ns, lambda iproute: iproute.link("del", index=_index(iproute, name)))


def set_link(ns: Namespace, name: str, *, up: bool) -> None:
    """Set an interface up or down."""
    netlink(ns, lambda iproute: iproute.link("set", index=_index(iproute, name), state="up" if up else "down"))


def wait_until_running(ns: Namespace, name: str) -> None:
    """Wait until the kernel lets packets out of a veth whose other end has just been set up. Raises TimeoutError.

    Which is when its worker thread has seen the carrier (RFC 2863's operational state); until then they are discarded.
    """

    def wait(iproute: IPRoute) -> None:
        index, deadline = _index(iproute, name), time.monotonic() + _RUNNING_WITHIN
        while iproute.get_links(index)[0].get("IFLA_OPERSTATE") != "UP":
            if time.monotonic() > deadline:
                raise TimeoutError(f"the interface {name} has no carrier")
            time.sleep(0.001)

    netlink(ns, wait)


def add_address(ns: Namespace, name: str, cidr: str) -> None:
    """Add an address (`address/length`) to an interface. IPv6: usable at once, without DAD."""
    interface = ip_interface(cidr)
    extra = {"flags": _IFA_F_NODAD} if interface.version == 6 else {}
    netlink(ns, lambda iproute: iproute.addr("add", index=_index(iproute, name), **_address(interface), **extra))


def delete_address(ns: Namespace, name: str, cidr: str) -> None:
    """Delete an address (`address/length`) from an interface."""
    interface = ip_interface(cidr)
    netlink(ns, lambda iproute: iproute.addr("del", index=_index(iproute, name), **_address(interface)))


def add_route(
    ns: Namespace, name: str, destination: str, *, gateway: str | None = None, source: str | None = None
) -> None:
    """Add a route through an interface; a gateway need not be in any of the interface's networks (`onlink`)."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    request: dict[str, Any] = {"dst": destination, "family": family}
    if gateway:
        request |= {"gateway": gateway, "flags": _RTNH_F_ONLINK}
    elif family == socket.AF_INET:
        request |= {"scope": _RT_SCOPE_LINK}
    if source:
        request |= {"prefsrc": source}
    netlink(ns, lambda iproute: iproute.route("add", oif=_index(iproute, name), **request))


def list_links(ns: Namespace) -> list[Link]:
    """The namespace's interfaces but the loopback, by index."""
    return netlink(ns, _list_links)


def _list_links(iproute: IPRoute) -> list[Link]:
    addresses: dict[int, list[str]] = {}
    for found in iproute.get_addr():
        if found["scope"] == _RT_SCOPE_UNIVERSE:
            address = found.get("IFA_LOCAL") or found.get("IFA_ADDRESS")
            addresses.setdefault(found["index"], []).append(f"{address}/{found['prefixlen']}")
    links = [
        Link(
            name=each.get("IFLA_IFNAME"),
            mac=each.get("IFLA_ADDRESS"),
            up=bool(each["flags"] & _IFF_UP),
            addresses=tuple(addresses.get(each["index"], ())),
        )
        for each in sorted(iproute.get_links(), key=lambda each: each["index"])
    ]
    return [link for link in links if link.name != "lo"]


def _finish_link(iproute: IPRoute, name: str, *, up: bool) -> None:
    _disable_offloads(name)
    if up:
        iproute.link("set", index=_index(iproute, name), state="up")


def _index(iproute: IPRoute, name: str) -> int:
    found = iproute.link_lookup(ifname=name)
    if not found:
        raise LookupError(f"no interface {name}")
    return int(found[0])


def _address(interface: IPv4Interface | IPv6Interface) -> dict[str, Any]:
    return {"address": str(interface.ip), "prefixlen": interface.network.prefixlen}


def _disable_offloads(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _OFFLOADS:
            value = array.array("B", struct.pack("II", command, 0))  # struct ethtool_value: off
            request = struct.pack("16sP", name.encode(), value.buffer_info()[0])  # struct ifreq: name, pointer
            fcntl.ioctl(control, _SIOCETHTOOL, request)
