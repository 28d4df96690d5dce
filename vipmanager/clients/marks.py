"""Connection marks, by nftables: replies leave by the interface that their connection came in on.

The source of a NodePort's reply is turned back into the floating address only after the reply has been routed, so that
no rule on the source can send it to the right ENI. Its connection is known before. One table for each Deployment:

    table inet vipmanager_1a2b3c4d {
        chain prerouting {
            type filter hook prerouting priority mangle;
            iif 3 ip daddr 10.0.1.80 ct direction original ct mark set ct mark & 0x00ffffff | 0x01000000
            ct direction reply ct mark & 0xff000000 == 0x01000000 meta mark set meta mark & 0x00ffffff | 0x01000000
        }
        chain output { type route hook output priority mangle; … the second rule again, for replies of the node's own }
    }

Each rule has a comment that says what it is for, and those are what is read back.

Facts: netlink(7), linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h, nft(8); chains of type route in family inet
since Linux 5.2. The kernel loads the modules that it needs by itself.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address

from vipmanager.clients.netlink import failure
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model_node import MARK_MASK, MARK_TABLE_PREFIX, Mark

NETLINK_NETFILTER = 12
NLMSG_ERROR, NLMSG_DONE, BATCH_BEGIN, BATCH_END = 2, 3, 0x10, 0x11
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP, NLM_F_CREATE, NLM_F_APPEND = 0x1, 0x4, 0x10, 0x300, 0x400, 0x800
NLA_F_NESTED = 0x8000
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10

NFNL_SUBSYS_NFTABLES = 10
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, NEWRULE, GETRULE = (
    NFNL_SUBSYS_NFTABLES << 8 | each for each in (0, 1, 2, 3, 6, 7)
)
TABLE_NAME, CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_TYPE, HOOK_NUMBER, HOOK_PRIORITY = 1, 1, 3, 4, 7, 1, 2
RULE_TABLE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_USERDATA, UDATA_COMMENT = 1, 2, 4, 7, 0

REGISTER, EQUAL, LOAD_TO, STORE_FROM = 1, 0, 1, 4
META_KEY, META_SOURCE, META_MARK, META_IIF, META_NFPROTO = 2, 3, 3, 4, 15
CT_KEY, CT_DIRECTION, CT_MARK, ORIGINAL, REPLY = 2, 1, 3, b"\0", b"\1"

MANGLE = -150  # after conntrack (-200), before kube-proxy's NAT (-100)
CHAINS = {"prerouting": ("filter", 0), "output": ("route", 3)}  # name → type, hook

NOT_THERE = frozenset((errno.EAFNOSUPPORT, errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT))
"""What a kernel says that lacks nf_tables, or one of its expressions."""
TRIES = 3

Rule = tuple[str, str, bytes]  # chain, comment, expressions
Message = tuple[int, int, bytes]  # type, flags, attributes


def read_marks() -> Mapping[str, frozenset[Mark]]:
    """See HostPort."""
    try:
        names = [_text(each[TABLE_NAME]) for each in _dump(GETTABLE, b"")]
        return {name: _marks(name) for name in names if name.startswith(MARK_TABLE_PREFIX)}
    except OSError as error:
        raise CallError(_failure("read marks", error)) from error
    except (LookupError, ValueError, struct.error) as error:
        text = f"the kernel's answer could not be understood: {type(error).__name__}: {error}"
        raise CallError(Failure(ErrorKind.RETRY, "netlink: read marks", "BadAnswer", text)) from error


def set_marks(table: str, marks: Iterable[Mark]) -> None:
    """See HostPort. In one transaction: no packet sees half of it."""
    name = _attribute(TABLE_NAME, table)
    anew = [(NEWTABLE, NLM_F_CREATE, name), (DELTABLE, 0, name), (NEWTABLE, NLM_F_CREATE, name)]
    chains = [(NEWCHAIN, NLM_F_CREATE, _chain(table, each)) for each in CHAINS]
    rules = [(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, _rule(table, each)) for each in _rules(marks)]
    try:
        _transact([*anew, *chains, *rules])
    except OSError as error:
        raise CallError(_failure(f"set marks table {table}", error)) from error


def delete_marks(table: str) -> None:
    """See HostPort."""
    try:
        _transact([(DELTABLE, 0, _attribute(TABLE_NAME, table))])
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise CallError(_failure(f"delete marks table {table}", error)) from error


def _failure(what: str, error: OSError) -> Failure:
    number = errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno or errno.EIO
    if number not in NOT_THERE:
        return failure(what, number)
    text = "the kernel has no nf_tables, or no ct and meta expressions for it"
    remedy = "on the node: modprobe nf_tables nft_ct"
    return Failure(ErrorKind.INVALID, f"netlink: {what}", errno.errorcode[number], text, remedy)


# what the table holds


def _rules(marks: Iterable[Mark]) -> list[Rule]:
    ordered = sorted(marks, key=str)
    setting = [("prerouting", str(mark), _remember(mark)) for mark in ordered]
    values = sorted({mark.value for mark in ordered})
    return setting + [(chain, f"restore {value:#x}", _restore(value)) for chain in CHAINS for value in values]


def _remember(mark: Mark) -> bytes:
    """Mark the connections that others open to the address, through the interface."""
    protocol, offset = (NFPROTO_IPV4, 16) if mark.address.version == 4 else (NFPROTO_IPV6, 24)
    return b"".join(
        (
            _meta(META_IIF),
            _is(struct.pack("=I", mark.device)),
            _meta(META_NFPROTO),
            _is(bytes((protocol,))),
            _network_header(offset, mark.address.packed),
            _ct(CT_DIRECTION),
            _is(ORIGINAL),
            _ct(CT_MARK),
            _bits(~MARK_MASK, mark.value),
            _ct(CT_MARK, STORE_FROM),
        )
    )


def _restore(value: int) -> bytes:
    """Give the replies the mark of their connection, before they are routed."""
    return b"".join(
        (
            _ct(CT_DIRECTION),
            _is(REPLY),
            _ct(CT_MARK),
            _bits(MARK_MASK, 0),
            _is(struct.pack("=I", value)),
            _meta(META_MARK),
            _bits(~MARK_MASK, value),
            _meta(META_MARK, META_SOURCE),
        )
    )


def _marks(table: str) -> frozenset[Mark]:
    """The marks of a table of ours; none where its rules are not those that these marks would have."""
    rules = _dump(GETRULE, _attribute(RULE_TABLE, table))
    found = [
        (_text(rule[RULE_CHAIN]), _comment(rule.get(RULE_USERDATA, b"")))
        for rule in rules
        if _text(rule[RULE_TABLE]) == table  # a kernel that does not know the filter sends all
    ]
    marks = frozenset(mark for _, comment in found for mark in _parse(comment))
    return marks if found == [(chain, comment) for chain, comment, _ in _rules(marks)] else frozenset()


def _parse(comment: str) -> Iterator[Mark]:
    """The mark that str(Mark) says."""
    with suppress(ValueError):
        address, device, value = comment.split()
        mark = Mark(ip_address(address), int(device.removeprefix("iif=")), int(value.removeprefix("mark="), 16))
        if 0 <= mark.device < 1 << 31 and 0 <= mark.value < 1 << 32:
            yield mark


def _comment(userdata: bytes) -> str:
    """The first comment of a rule's user data: type, length, value and so on (libnftnl)."""
    while len(userdata) >= 2:
        kind, value = userdata[0], userdata[2 : 2 + userdata[1]]
        if kind == UDATA_COMMENT:
            return _text(value)
        userdata = userdata[2 + userdata[1] :]
    return ""


# messages


def _chain(table: str, name: str) -> bytes:
    kind, hook = CHAINS[name]
    where = _attribute(HOOK_NUMBER, hook) + _attribute(HOOK_PRIORITY, MANGLE)
    named = _attribute(CHAIN_TABLE, table) + _attribute(CHAIN_NAME, name)
    return named + _nested(CHAIN_HOOK, where) + _attribute(CHAIN_TYPE, kind)


def _rule(table: str, rule: Rule) -> bytes:
    chain, comment, expressions = rule
    text = comment.encode() + b"\0"
    where = _attribute(RULE_TABLE, table) + _attribute(RULE_CHAIN, chain)
    userdata = bytes((UDATA_COMMENT, len(text))) + text
    return where + _nested(RULE_EXPRESSIONS, expressions) + _attribute(RULE_USERDATA, userdata)


def _meta(key: int, register: int = LOAD_TO) -> bytes:
    return _expression("meta", _attribute(META_KEY, key) + _attribute(register, REGISTER))


def _ct(key: int, register: int = LOAD_TO) -> bytes:
    return _expression("ct", _attribute(CT_KEY, key) + _attribute(register, REGISTER))


def _is(value: bytes) -> bytes:
    """What was loaded equals this, or the rule ends here."""
    return _expression("cmp", _attribute(1, REGISTER) + _attribute(2, EQUAL) + _data(3, value))


def _network_header(offset: int, value: bytes) -> bytes:
    numbers = enumerate((REGISTER, 1, offset, len(value)), 1)  # register, base: network header, offset, length
    return _expression("payload", b"".join(_attribute(kind, number) for kind, number in numbers)) + _is(value)


def _bits(kept: int, added: int) -> bytes:
    """What was loaded, with some bits kept and some added."""
    numbers = enumerate((REGISTER, REGISTER, 4), 1)  # from, to, length
    words = _data(4, struct.pack("=I", kept & 0xFFFFFFFF)) + _data(5, struct.pack("=I", added))
    return _expression("bitwise", b"".join(_attribute(kind, number) for kind, number in numbers) + words)


def _expression(name: str, attributes: bytes) -> bytes:
    return _nested(1, _attribute(1, name) + _nested(2, attributes))


def _data(kind: int, value: bytes) -> bytes:
    return _nested(kind, _attribute(1, value))


def _nested(kind: int, attributes: bytes) -> bytes:
    return _attribute(kind | NLA_F_NESTED, attributes)


def _attribute(kind: int, value: bytes | str | int) -> bytes:
    """An attribute; numbers are 32 bits in network order, strings end with a zero."""
    if isinstance(value, int):
        value = struct.pack("!i", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(payload: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, at)
        found[kind & ~NLA_F_NESTED] = payload[at + 4 : at + length]
        at += max(4, length + -length % 4)
    return found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


# the socket


def _transact(messages: Sequence[Message]) -> None:
    """Have all of it done or nothing. Raises OSError."""
    begin = _message(BATCH_BEGIN, 0, b"", resource=NFNL_SUBSYS_NFTABLES)
    end = _message(BATCH_END, 0, b"", resource=NFNL_SUBSYS_NFTABLES)
    parts = [_message(kind, flags | NLM_F_ACK, body) for kind, flags, body in messages]
    with _open() as netfilter:
        netfilter.send(b"".join((begin, *parts, end)))
        left = len(parts)
        while left:
            for kind, _, payload in _received(netfilter):
                if kind == NLMSG_ERROR:
                    _check(payload)
                    left -= 1


def _dump(kind: int, body: bytes) -> list[dict[int, bytes]]:
    """Everything of a kind in family inet. Raises OSError."""
    for _ in range(TRIES):
        with _open() as netfilter:
            netfilter.send(_message(kind, NLM_F_DUMP, body))
            found, whole = [], True
            while True:
                received = list(_received(netfilter))
                whole = whole and not any(flags & NLM_F_DUMP_INTR for _, flags, _ in received)
                found += [_attributes(payload[4:]) for each, _, payload in received if each >> 8]
                for payload in (payload for each, _, payload in received if each == NLMSG_ERROR):
                    _check(payload)
                if any(each == NLMSG_DONE for each, _, _ in received):
                    break
        if whole:
            return found
    raise OSError(errno.EINTR, os.strerror(errno.EINTR))  # somebody else kept changing tables


def _open() -> socket.socket:
    netfilter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    netfilter.settimeout(5.0)
    return netfilter


def _message(kind: int, flags: int, body: bytes, resource: int = 0) -> bytes:
    family = 0 if resource else NFPROTO_INET
    header = struct.pack("=IHHII", 20 + len(body), kind, flags | NLM_F_REQUEST, 0, 0)
    return header + struct.pack("!BBH", family, 0, resource) + body


def _received(netfilter: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """The messages of one datagram: type, flags, payload."""
    datagram, at = netfilter.recv(1 << 17), 0
    while at + 16 <= len(datagram):
        length, kind, flags = struct.unpack_from("=IHH", datagram, at)
        yield kind, flags, datagram[at + 16 : at + length]
        at += max(16, length + -length % 4)


def _check(payload: bytes) -> None:
    (number,) = struct.unpack_from("=i", payload)
    if number:
        raise OSError(-number, os.strerror(-number))
