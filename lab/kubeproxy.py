"""Pods and NodePorts of a worker as the VPC CNI and kube-proxy make them, for what happens to replies on their way.

kube-proxy in mode iptables, that is: NodePorts on all addresses of the node, by DNAT, with a mark for what has to be
masqueraded. Here nftables does it, over netlink, as the lab has no other program; the hooks are the same ones.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address
from typing import Any

from lab import links
from lab.host import Host
from lab.hosts import Worker
from lab.lab import Lab

_GATEWAY = "169.254.1.1"  # of every pod of the VPC CNI
_PERMANENT = 0x80  # NUD_PERMANENT

_TABLE = b"kube-proxy\0"
_MARK = 0x4000  # kube-proxy's own: masquerade this
_TCP, _RTN_LOCAL = 6, 2

# linux/netfilter/nf_tables.h
_NEWTABLE, _NEWCHAIN, _NEWRULE = 0xA00, 0xA03, 0xA06
_CHAINS = {b"prerouting\0": (0, -100), b"postrouting\0": (4, 100)}  # name → hook, priority

Expression = tuple[str, dict[int, "int | bytes"]]  # name, attributes: numbers, or data


class ServicePod(Host):
    """A pod on a worker's own network: its address is a secondary one of the worker's primary ENI."""

    def __init__(self, lab: Lab, worker: Worker, name: str, address: str) -> None:
        super().__init__(name, worker._children)
        self.address = address
        lab.ec2.admin().assign_private_ip_addresses(
            NetworkInterfaceId=worker.eni(0).eni_id, PrivateIpAddresses=[address]
        )
        far = f"eni{name}"
        links.make_pair(self.ns, "eth0", worker.ns, far)
        links.add_route(worker.ns, far, f"{address}/32")
        links.add_address(self.ns, "eth0", f"{address}/32")
        links.add_route(self.ns, "eth0", f"{_GATEWAY}/32")
        links.add_route(self.ns, "eth0", "0.0.0.0/0", gateway=_GATEWAY)
        (mac,) = (link.mac for link in links.list_links(worker.ns) if link.name == far)
        links.netlink(self.ns, lambda iproute: _add_neighbour(iproute, mac))
        for end, name_there in ((self.ns, "eth0"), (worker.ns, far)):
            links.wait_until_running(end, name_there)


class KubeProxy:
    """Serves NodePorts on a worker."""

    def __init__(self, worker: Worker) -> None:
        """The worker forwards from now on."""
        self._worker = worker
        links.write_sysctls(worker.ns, {"net/ipv4/ip_forward": "1"})
        chains = [_chain(name, hook, priority) for name, (hook, priority) in _CHAINS.items()]
        masquerade: list[Expression] = [("meta", {1: 1, 2: 3}), _masked(_MARK, 0), _is(_word(_MARK)), ("masq", {})]
        self._send((_NEWTABLE, _attribute(1, _TABLE)), *chains, _rule(b"postrouting\0", masquerade))

    def node_port(self, port: int, backend: str, backend_port: int, *, local: bool = False) -> None:
        """Serve a Service of one backend; `local`: externalTrafficPolicy Local, which keeps the client's address."""
        to = ip_address(backend)
        family = 2 if to.version == 4 else 10
        ours: list[Expression] = [
            ("meta", {1: 1, 2: 15}),  # nfproto
            _is(bytes((family,))),
            ("fib", {1: 1, 2: 3, 3: 2}),  # the type of the destination address
            _is(_word(_RTN_LOCAL)),
            ("meta", {1: 1, 2: 16}),  # l4proto
            _is(bytes((_TCP,))),
            ("payload", {1: 1, 2: 2, 3: 2, 4: 2}),  # transport header: the destination port
            _is(struct.pack("!H", port)),
        ]
        mark: list[Expression] = [("meta", {1: 1, 2: 3}), _masked(~_MARK, _MARK), ("meta", {2: 3, 3: 1})]
        translate: list[Expression] = [
            ("immediate", {1: 1, 2: to.packed}),
            ("immediate", {1: 2, 2: struct.pack("!H", backend_port)}),
            ("nat", {1: 1, 2: family, 3: 1, 5: 2}),  # DNAT to what was loaded
        ]
        self._send(_rule(b"prerouting\0", [*ours, *([] if local else mark), *translate]))

    def _send(self, *messages: tuple[int, bytes]) -> None:
        self._worker.ns.run(lambda: _transact(messages))


def _add_neighbour(iproute: Any, mac: str) -> None:
    (index,) = iproute.link_lookup(ifname="eth0")
    iproute.neigh("add", dst=_GATEWAY, lladdr=mac, ifindex=index, state=_PERMANENT)


def _is(value: bytes) -> Expression:
    return "cmp", {1: 1, 2: 0, 3: value}


def _masked(kept: int, added: int) -> Expression:
    return "bitwise", {1: 1, 2: 1, 3: 4, 4: _word(kept), 5: _word(added)}


def _chain(name: bytes, hook: int, priority: int) -> tuple[int, bytes]:
    where = _attribute(1, struct.pack("!i", hook)) + _attribute(2, struct.pack("!i", priority))
    return _NEWCHAIN, _attribute(1, _TABLE) + _attribute(3, name) + _attribute(4, where) + _attribute(7, b"nat\0")


def _rule(chain: bytes, expressions: list[Expression]) -> tuple[int, bytes]:
    listed = b"".join(_attribute(1, _expression(*each)) for each in expressions)
    return _NEWRULE, _attribute(1, _TABLE) + _attribute(2, chain) + _attribute(4, listed)


def _expression(name: str, attributes: dict[int, int | bytes]) -> bytes:
    encoded = (
        _attribute(kind, struct.pack("!i", value) if isinstance(value, int) else _attribute(1, value))
        for kind, value in attributes.items()
    )
    return _attribute(1, name.encode() + b"\0") + _attribute(2, b"".join(encoded))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _word(value: int) -> bytes:
    return struct.pack("=I", value & 0xFFFFFFFF)


def _transact(messages: tuple[tuple[int, bytes], ...]) -> None:
    """Send it all in one batch to nf_tables, family inet. Raises OSError."""
    wanted = 0x400 | 0x800 | 0x1 | 0x4  # create, append, request, acknowledge
    parts = [(0x10, 0x1, b"", 0, 10), *((kind, wanted, body, 1, 0) for kind, body in messages), (0x11, 0x1, b"", 0, 10)]
    batch = b"".join(
        struct.pack("=IHHII", 20 + len(body), kind, flags, 0, 0) + struct.pack("!BBH", family, 0, subsystem) + body
        for kind, flags, body, family, subsystem in parts
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:
        netfilter.settimeout(5.0)
        netfilter.send(batch)
        for _ in messages:
            (error,) = struct.unpack_from("=i", netfilter.recv(1 << 16), 16)
            if error:
                raise OSError(-error, os.strerror(-error))
