"""Answers of EC2 that would not end: too long, too slow; and those that are only long."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from lab.ec2.web import Handler, Server
from tests.contract.ec2_fixtures import MakeClient, endpoint, make_client, module_patch, point_sdk_at, trimmed_model
from vipmanager.clients import answers
from vipmanager.clients.ec2_facts import FactsClient
from vipmanager.errors import CallError, ErrorKind, Failure

__all__ = ["endpoint", "make_client", "module_patch", "trimmed_model"]

REGION = "us-east-2"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n"
SUBNETS = b"<DescribeSubnetsResponse><subnetSet/>%b</DescribeSubnetsResponse>"
BLANK = b" " * 8192


class Endpoint:
    """Answers each request with the parts of `body`, in chunks; `sent` are the bytes it could get rid of.

    With `raw` it sends those instead, one after another.
    """

    def __init__(self) -> None:
        self.body: Callable[[], Iterable[bytes]] = lambda: ()
        self.raw: Callable[[], Iterable[bytes]] | None = None
        self.sent = 0
        self.stop = threading.Event()
        self.connections: set[object] = set()
        self.server = Server(("127.0.0.1", 0), _Chunks, self)


class _Chunks(Handler):
    def do_POST(self) -> None:
        endpoint: Endpoint = self.owner
        endpoint.connections.add(self.client_address)
        self.body()
        if endpoint.raw is not None:
            for part in endpoint.raw():
                if endpoint.stop.wait(0.01):
                    return
                self.wfile.write(part)
        self.wfile.write(HEAD)
        for part in endpoint.body():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            endpoint.sent += len(part)
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An EC2 that the SDK is pointed at, and that has no end."""
    made = Endpoint()
    point_sdk_at(monkeypatch, f"http://127.0.0.1:{made.server.port}", "AKIA", "secret")
    yield made
    made.stop.set()
    made.server.stop()


def failure_of(call: Callable[[], object]) -> Failure:
    with pytest.raises(CallError) as caught:
        call()
    return caught.value.failure


@pytest.mark.parametrize("which", ["ec2", "sts"])
def test_an_answer_without_end_is_given_up(
    slow: Endpoint, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(answers, "LONGEST", 1 << 20)
    slow.body = lambda: iter(lambda: BLANK if not slow.stop.is_set() else b"", b"")
    client = make_client()
    ask = (lambda: client.subnets("vpc-1")) if which == "ec2" else FactsClient(lambda: REGION).identity
    failure = failure_of(ask)
    assert (failure.kind, failure.code) == (ErrorKind.RETRY, "HTTPClientError")
    assert "more than 1048576 bytes" in failure.message
    assert slow.sent < 64 << 20, "the connection is closed, nobody reads on"


@pytest.mark.parametrize("what", ["head", "chunk's length", "body"])
def test_an_answer_that_trickles_is_given_up(
    slow: Endpoint, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Each byte comes in time, the answer does not."""
    monkeypatch.setattr(answers, "WITHIN", 0.3)
    start, part = {
        "head": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        "chunk's length": (HEAD + b"1;x=", b"x"),
        "body": (HEAD, b"1\r\nx\r\n"),
    }[what]
    slow.raw = lambda: itertools.chain([start], itertools.repeat(part))
    failure = failure_of(lambda: make_client().subnets("vpc-1"))
    assert (failure.kind, failure.code) == (ErrorKind.RETRY, "ReadTimeoutError")


def test_a_long_answer_is_read_and_its_connection_used_again(slow: Endpoint, make_client: MakeClient) -> None:
    before, after = SUBNETS.split(b"%b")
    slow.body = lambda: itertools.chain([before], itertools.repeat(BLANK, 1000), [after])
    client = make_client()
    assert client.subnets("vpc-1") == ()
    assert client.subnets("vpc-1") == ()
    assert slow.sent == 2 * (1000 * len(BLANK) + len(before) + len(after))
    assert len(slow.connections) == 1
