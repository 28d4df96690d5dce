"""The contract of HostPort's marks, and of rules for them, against the double and against the kernel."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lab.hosts import Worker
from lab.kubeproxy import KubeProxy
from tests.contract.netlink_worlds import KernelPod
from tests.doubles.clock import StillClock
from tests.doubles.host import FakeHost
from vipmanager.clients import marks
from vipmanager.clients.host import HostNetlinkClient
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import PodRule
from vipmanager.model_node import MARK_MASK, Mark
from vipmanager.ports import HostPort

TABLE, OTHER = "vipmanager_1a2b3c4d", "vipmanager_00000000"
ONE = Mark(ip_address("10.0.1.80"), 3, 0x1000000)
SIX = Mark(ip_address("2001:db8::80"), 3, 0x1000000)
TWO = Mark(ip_address("10.0.2.80"), 4711, 0x2000000)
DELRULE = marks.NFNL_SUBSYS_NFTABLES << 8 | 8


@pytest.fixture
def kernel() -> Iterator[KernelPod]:
    made = KernelPod(HostNetlinkClient)
    yield made
    made.close()


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.namespaces)])
def port(request: pytest.FixtureRequest) -> Iterator[HostPort]:
    if request.param == "kernel":
        yield cast(HostPort, request.getfixturevalue("kernel").port)
    else:
        host = FakeHost(StillClock())
        yield host
        host.close()


def test_what_is_set_is_read_back(port: HostPort) -> None:
    assert port.marks() == {}
    port.set_marks(TABLE, frozenset({ONE, SIX}))
    port.set_marks(OTHER, frozenset({TWO}))
    assert port.marks() == {TABLE: {ONE, SIX}, OTHER: {TWO}}


def test_setting_replaces_all_of_the_table_and_nothing_else(port: HostPort) -> None:
    port.set_marks(OTHER, frozenset({ONE}))
    port.set_marks(TABLE, frozenset({ONE, SIX}))
    port.set_marks(TABLE, frozenset({TWO}))
    port.set_marks(TABLE, frozenset({TWO}))
    assert port.marks() == {TABLE: {TWO}, OTHER: {ONE}}


def test_deleting_twice_is_no_error(port: HostPort) -> None:
    port.set_marks(TABLE, frozenset({ONE}))
    port.set_marks(OTHER, frozenset({TWO}))
    port.delete_marks(TABLE)
    port.delete_marks(TABLE)
    assert port.marks() == {OTHER: {TWO}}


@pytest.mark.parametrize("everything", ["0.0.0.0/0", "::/0"])
def test_a_rule_for_a_mark(port: HostPort, everything: str) -> None:
    """It comes and goes beside a rule for a source that leads to the same table, and one for another mark."""
    source = PodRule("10.0.1.80/32", 8601)
    rule, another = (PodRule(everything, 8601, value, MARK_MASK) for value in (0x1000000, 0x2000000))
    for each in (source, rule, rule, another):
        port.add_rule(each)
    assert port.pod_network().rules == {source, rule, another}
    port.delete_rule(rule)
    port.delete_rule(rule)
    assert port.pod_network().rules == {source, another}


# The kernel alone -----------------------------------------------------------------------------------------------------


@pytest.mark.namespaces
def test_tables_of_others_are_neither_shown_nor_touched(kernel: KernelPod) -> None:
    KubeProxy(cast(Worker, SimpleNamespace(ns=kernel.ns))).node_port(30007, "10.0.1.60", 8080)
    before = rules_of(kernel, "kube-proxy")
    assert kernel.inside.marks() == {}
    kernel.inside.set_marks(TABLE, frozenset({ONE}))
    kernel.inside.set_marks(TABLE, frozenset({TWO}))
    kernel.inside.delete_marks(TABLE)
    assert rules_of(kernel, "kube-proxy") == before != []


@pytest.mark.namespaces
def test_a_table_that_is_not_as_we_make_it_has_no_marks(kernel: KernelPod) -> None:
    """Somebody has flushed a chain of it."""
    for chain in marks.CHAINS:
        kernel.inside.set_marks(TABLE, frozenset({ONE}))
        flush = marks._attribute(marks.RULE_TABLE, TABLE) + marks._attribute(marks.RULE_CHAIN, chain)
        kernel.inside.run(lambda flush=flush: marks._transact([(DELRULE, 0, flush)]))
        assert kernel.inside.marks() == {TABLE: frozenset()}


@pytest.mark.namespaces
def test_a_table_is_replaced_as_a_whole_or_not_at_all(kernel: KernelPod, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.inside.set_marks(TABLE, frozenset({ONE}))
    whole = marks._rules
    with monkeypatch.context() as patch:
        patch.setattr(marks, "_rules", lambda found: [*whole(found), ("no such chain", "", b"")])
        with pytest.raises(CallError) as caught:
            kernel.inside.set_marks(TABLE, frozenset({TWO}))
    assert caught.value.kind is ErrorKind.INVALID
    assert kernel.inside.marks() == {TABLE: {ONE}}


@pytest.mark.namespaces
def test_bits_of_others_are_kept(kernel: KernelPod) -> None:
    """Of the packet's mark and of the connection's; the kernel says what it does with them."""
    kernel.inside.set_marks(TABLE, frozenset({ONE, TWO}))
    expressions = [each for rule in rules_of(kernel, TABLE) for each in rule]
    masks = [(word(data[4]), word(data[5])) for name, data in expressions if name == "bitwise"]
    assert set(masks) == {(MARK_MASK, 0), *((0xFFFFFFFF ^ MARK_MASK, each.value) for each in (ONE, TWO))}
    stores = [name for name, data in expressions if name in ("ct", "meta") and marks.STORE_FROM in data]
    assert len(masks) == 2 + 2 * 4 and stores.count("ct") == 2


def rules_of(kernel: KernelPod, table: str) -> list[list[tuple[str, dict[int, bytes]]]]:
    """The expressions of each rule, as the kernel shows them: name and attributes."""
    found = kernel.inside.run(lambda: marks._dump(marks.GETRULE, marks._attribute(marks.RULE_TABLE, table)))
    return [[_expression(each) for each in _elements(rule[marks.RULE_EXPRESSIONS])] for rule in found]


def word(data: bytes) -> int:
    """A number of 32 bits in an NFTA_*_DATA attribute."""
    return cast(int, struct.unpack("=I", marks._attributes(data)[1])[0])


def _elements(listed: bytes) -> Iterator[bytes]:
    while listed:
        (length,) = struct.unpack_from("=H", listed)
        yield listed[4:length]
        listed = listed[length + -length % 4 :]


def _expression(element: bytes) -> tuple[str, dict[int, bytes]]:
    attributes = marks._attributes(element)
    return marks._text(attributes[1]), marks._attributes(attributes.get(2, b""))


# What is refused ------------------------------------------------------------------------------------------------------


class _Refusing:
    """A socket on which the kernel answers everything with one error, as it does before it looks into a batch."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> _Refusing:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def send(self, _: bytes) -> None:
        pass

    def recv(self, _: int) -> bytes:
        return struct.pack("=IHHIIi", 20, marks.NLMSG_ERROR, 0, 0, 0, -self._number)


CALLS: dict[str, Any] = {
    "marks": lambda port: port.marks(),
    "set_marks": lambda port: port.set_marks(TABLE, frozenset({ONE})),
    "delete_marks": lambda port: port.delete_marks(TABLE),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.EPERM, ErrorKind.DENIED, "NET_ADMIN"),
        (errno.EOPNOTSUPP, ErrorKind.INVALID, "modprobe"),
        (errno.EPROTONOSUPPORT, ErrorKind.INVALID, "modprobe"),
        (errno.EBUSY, ErrorKind.RETRY, ""),
    ],
    ids=["EPERM", "EOPNOTSUPP", "EPROTONOSUPPORT", "EBUSY"],
)
def test_a_kernel_that_refuses(
    name: str, number: int, kind: ErrorKind, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_open", lambda: _Refusing(number))
    with pytest.raises(CallError) as caught:
        CALLS[name](HostNetlinkClient.__new__(HostNetlinkClient))
    assert (caught.value.kind, caught.value.failure.code) == (kind, errno.errorcode[number])
    assert remedy in caught.value.failure.remedy


def test_a_kernel_without_netfilter(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no such sockets."""

    def refuse(*_: object) -> object:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    monkeypatch.setattr(marks.socket, "socket", refuse)
    with pytest.raises(CallError) as caught:
        marks.read_marks()
    assert caught.value.kind is ErrorKind.INVALID
