"""Whatever IMDS answers is a value or a CallError, within bounds of time and memory; and its token stays a secret."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.test_imds_port import FACTS, Canned
from vipmanager.clients import imds as imds_client
from vipmanager.clients.imds import ImdsClient
from vipmanager.errors import CallError, ErrorKind, Failure

TIMEOUT = 0.2
BOUND = 20.0
"""Seconds that two attempts may take on a busy machine; without a deadline they would never end."""

junk = st.sampled_from(
    ["", "\r\n", "-1", "99999999999999999999", "٣", "10.0.0.1/8", "10.0.0.0/33", "::/0 ::/0", "02:00:00:00:00:01/\nx",
     "\x1b[2J", "a b", "<html>", "../../..", "A" * 100_000, "\x00", "ü"]
) | st.text(st.characters(exclude_categories=("Cs",)), max_size=30)  # fmt: skip


@pytest.fixture(scope="module")
def canned() -> Iterator[Canned]:
    made = Canned()
    yield made
    made.server.stop()


def ask(call: Callable[[], object]) -> object:
    """The value, or the failure."""
    try:
        return call()
    except CallError as error:
        assert error.kind is ErrorKind.RETRY
        assert len(str(error)) < 2000
        return error.failure


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    changes=st.dictionaries(
        st.sampled_from([*FACTS, "macs", "token", "region", "subnet-ipv6-cidr-blocks"]), junk, min_size=1, max_size=3
    )
)
def test_facts_of_any_text(canned: Canned, changes: dict[str, str]) -> None:
    canned.texts = {"token": "t", "macs": "02:00:00:00:00:01/", "region": "us-east-2", **FACTS, **changes}
    client = canned.client()
    ask(client.region)
    found = ask(client.enis)
    if not isinstance(found, Failure):
        assert all(eni.id.isascii() and eni.id.isprintable() for eni in found.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("region", ["", "two words", "evil.example/", "a" * 65, "us-east-2\r\nX: y"])
def test_a_region_that_is_none_does_not_become_a_host_name(canned: Canned, region: str) -> None:
    canned.texts = {"token": "t", "region": region}
    failure = ask(canned.client().region)
    assert isinstance(failure, Failure) and failure.code in ("BadAnswer", "404")


def test_more_interfaces_than_any_worker_has_are_not_asked_for(canned: Canned) -> None:
    macs = "\n".join(f"02:00:00:00:{number // 256:02x}:{number % 256:02x}/" for number in range(600))
    canned.texts = {"token": "t", "macs": macs, **FACTS}
    failure = ask(canned.client().enis)
    assert isinstance(failure, Failure) and failure.code == "BadAnswer"


@pytest.mark.parametrize(
    "token", ["secret-token\r\nX: y", "secret-token\nmore", "secret-token\u20ac", "secret-token " * 2]
)
def test_a_token_that_no_header_can_carry_is_not_shown(canned: Canned, token: str) -> None:
    """http.client's exception would hold it, and so would the log."""
    canned.texts = {"token": token, "region": "us-east-2"}
    failure = ask(canned.client().region)
    assert isinstance(failure, Failure)
    assert "secret-token" not in str(failure)


# Below HTTP


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[ImdsClient]:
    """A client for a server that answers each connection so."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.recv(65536)
                        answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield ImdsClient({"AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint}, TIMEOUT)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(BOUND)
    assert not thread.is_alive()


def for_ever(head: bytes, part: bytes, pause: float) -> Callable[[socket.socket], None]:
    """Send the head, then the part again and again until the client goes away."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        waiting = threading.Event()
        while True:
            connection.sendall(part)
            waiting.wait(pause)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = {
    "a body without end": for_ever(OK + b"\r\n", b"x" * 65536, 0.0),
    "a chunked body without end": for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000, 0.0),
    "headers without end": for_ever(OK, b"X: y\r\n" * 1000, 0.0),
    "100 Continue without end": for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.0),
    "a byte now and then": for_ever(OK + b"Content-Length: 1000000\r\n\r\n", b"x", TIMEOUT / 10),
    "a header byte now and then": for_ever(OK, b"X", TIMEOUT / 10),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_given_up(name: str) -> None:
    with serving(ENDLESS[name]) as client:
        started = monotonic()
        failure = ask(client.region)
        assert isinstance(failure, Failure)
        assert monotonic() - started < BOUND


@pytest.mark.parametrize("name", ["a body without end", "a chunked body without end"])
def test_no_more_is_read_than_the_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imds_client, "ANSWER_LIMIT", 1000)
    with serving(ENDLESS[name]) as client:
        failure = ask(client.region)
    assert isinstance(failure, Failure)
    assert "1000 bytes" in failure.message


def test_a_redirect_is_not_followed() -> None:
    """Where to, the server does not decide."""
    followed = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:

        def serve() -> None:
            with suppress(OSError):
                elsewhere.accept()
                followed.set()

        threading.Thread(target=serve, daemon=True).start()
        location = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/latest/api/token"

        def answer(connection: socket.socket) -> None:
            connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

        with serving(answer) as client:
            assert isinstance(ask(client.region), Failure)
        assert not followed.is_set()
        elsewhere.shutdown(socket.SHUT_RDWR)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: OK + tail))
def test_any_bytes(data: bytes) -> None:
    with serving(lambda connection: connection.sendall(data)) as client:
        ask(client.region)
