"""Whatever comes from netlink is a value or a CallError; messages are built as bytes and read by pyroute2's parsers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.exceptions import NetlinkDecodeError
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from vipmanager.clients import marks
from vipmanager.clients.host import HostNetlinkClient
from vipmanager.clients.netlink import NetlinkClient
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model_node import Mark

LINK, ADDRESS, ROUTE, RULE = 16, 20, 24, 32  # RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWRULE
HEADS = {
    LINK: lambda index: struct.pack("=BxHiII", 0, 1, index, 1, 0),
    ADDRESS: lambda index: struct.pack("=BBBBi", 2, 32, 0, 0, index),
    ROUTE: lambda index: struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 86, 0, 1, 0),
    RULE: lambda index: struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, 1, 0),
}
NAMED = {LINK: (1, 3, 18, 26), ADDRESS: (1, 2, 3, 6, 8), ROUTE: (1, 4, 5, 15), RULE: (1, 2, 10, 16, 21)}
"""The attributes that are read here: name, MAC, kind; address, local, flags; destination, device, gateway, table; …"""

payloads = st.binary(max_size=40) | st.sampled_from(
    [
        b"",
        b"net1\0",
        b"\xff\xfe\0",
        b"\x1b[2J\0",
        b"\0",
        b"\x0a\0\0\x01",
        bytes(10) + b"\xff\xff\x0a\0\0\x01",
        b"x" * 200,
    ]
)


def attribute(kind: int, payload: bytes, wrong: int = 0) -> bytes:
    """One attribute, whose length may be a lie."""
    length = max(0, 4 + len(payload) + wrong)
    return struct.pack("=HH", length, kind) + payload + bytes(-len(payload) % 4)


@st.composite
def messages(draw: st.DrawFn, kind: int) -> bytes:
    """A message of the kernel's with any attributes; now and then cut off."""
    body = HEADS[kind](draw(st.integers(-1, 3)))
    for _ in range(draw(st.integers(0, 5))):
        which = draw(st.sampled_from(NAMED[kind]) | st.integers(0, 70))
        body += attribute(which, draw(payloads), draw(st.sampled_from([0, 0, 0, 0, 1, 40, -3])))
    body = body[: draw(st.sampled_from([len(body)] * 4 + [len(body) // 2]))]
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


class Fake:
    """pyroute2's side: parses when it is asked, as the real one does."""

    def __init__(self, **found: list[bytes]) -> None:
        self.found = found

    def __getattr__(self, name: str) -> Callable[..., Any]:
        data = self.found.get(name.removeprefix("get_"), [])
        return lambda **_: (message for each in data for message in MarshalRtnl().parse(each))


def client(fake: Fake, kind: type[NetlinkClient] = NetlinkClient) -> Any:
    """A real client on it."""
    made = kind.__new__(kind)
    made._ipr = fake
    return made


def ask(call: Callable[[], object]) -> object:
    """The value, or the failure."""
    try:
        return call()
    except CallError as error:
        assert error.kind is ErrorKind.RETRY and len(str(error)) < 1000
        return error.failure


@settings(max_examples=80, deadline=None, derandomize=True)
@given(links=st.lists(messages(LINK), max_size=3), addresses=st.lists(messages(ADDRESS), max_size=3))
def test_links_and_addresses(links: list[bytes], addresses: list[bytes]) -> None:
    fake = Fake(links=links, addr=addresses)
    ask(client(fake).interfaces)
    ask(client(fake, HostNetlinkClient).host_interfaces)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(routes=st.lists(messages(ROUTE), max_size=3), rules=st.lists(messages(RULE), max_size=3))
def test_routes_and_rules(routes: list[bytes], rules: list[bytes]) -> None:
    ask(client(Fake(routes=routes, rules=rules)).pod_network)


def message(kind: int, index: int, *attributes: bytes) -> bytes:
    """One that is as the kernel's are."""
    body = HEADS[kind](index) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def test_good_ones_are_read() -> None:
    """Else the tests above would show nothing."""
    net1 = message(LINK, 2, attribute(3, b"net1\0"), attribute(1, bytes.fromhex("0200000000ab")))
    one = message(ADDRESS, 2, attribute(2, bytes((192, 168, 0, 1))))
    (interface,) = client(Fake(links=[net1], addr=[one])).interfaces()
    assert (interface.name, interface.mac, [str(each) for each in interface.addresses]) == (
        "net1", "02:00:00:00:00:ab", ["192.168.0.1"],
    )  # fmt: skip
    assert len(client(Fake(routes=[message(ROUTE, 0, attribute(4, struct.pack("=I", 2)))])).pod_network().routes) == 1


def test_a_link_without_a_name_is_still_one() -> None:
    (interface,) = client(Fake(links=[message(LINK, 2)])).interfaces()
    assert interface.index == 2 and interface.mac == ""


@pytest.mark.parametrize(
    "error", [NetlinkDecodeError("bad"), struct.error("short"), KeyError("index"), ValueError("x")]
)
def test_what_pyroute2_cannot_read_is_a_failure(error: Exception) -> None:
    """Not left out: an address that is not seen would be taken for gone, and its route be deleted."""

    class Failing:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def fail(**_: object) -> Any:
                raise error

            return fail

    for call in (client(Failing()).interfaces, client(Failing()).pod_network):  # type: ignore[arg-type]
        failure = ask(call)
        assert isinstance(failure, Failure) and failure.code == "BadAnswer"


# nftables, whose messages are read here


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.binary(max_size=120))
def test_attributes_and_comments_of_any_bytes(data: bytes) -> None:
    assert all(isinstance(value, bytes) for value in marks._attributes(data).values())
    assert isinstance(marks._comment(data), str)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    comment=st.text(max_size=60)
    | st.from_regex(r"[0-9.]{7,12} iif=-?[0-9]{1,12} mark=-?0x[0-9a-f]{1,12}", fullmatch=True)
)
def test_a_mark_of_somebody_elses_can_be_written_or_is_none(comment: str) -> None:
    """Whoever may change the node's tables can have put any comment there."""
    for mark in marks._parse(comment):
        assert marks._rules([mark])


def test_a_good_comment_is_a_mark() -> None:
    (mark,) = marks._parse("10.0.1.80 iif=3 mark=0x1000000")
    assert isinstance(mark, Mark) and mark.device == 3


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rules=st.lists(st.dictionaries(st.sampled_from([1, 2, 7]), st.binary(max_size=20), max_size=3), max_size=3))
def test_tables_with_any_rules(rules: list[dict[int, bytes]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        names = [{1: b"vipmanager_1a2b3c4d\0"}, {2: b"x"}]
        patch.setattr(marks, "_dump", lambda kind, _: rules if kind == marks.GETRULE else names[: len(rules)])
        ask(marks.read_marks)
