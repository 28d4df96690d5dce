"""/healthz, /readyz and /metrics on real sockets: what each answers, and what a client cannot do to it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doubles.clock import BOUND, until
from vipmanager import serve
from vipmanager.http_messages import METRICS_TEXT, Answer, Request, read_head
from vipmanager.model import Address
from vipmanager.serve import CONNECTIONS, HEAD, Server

IPV4, IPV6 = socket.AF_INET, socket.AF_INET6
LOOPBACK = {IPV4: "127.0.0.1", IPV6: "::1"}
METRICS = b"# TYPE one gauge\none 1.0\n"


@dataclass
class Watched:
    """A monitor that says what a test wants."""

    lives: bool = True
    reasons: str = ""
    floating: frozenset[Address] = frozenset()
    waits: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waits.set()

    def alive(self, within: float) -> bool:
        """After `waits`."""
        assert within < 1.0, "the kubelet waits for a second"
        self.asked.append("alive")
        assert self.waits.wait(BOUND)
        return self.lives

    def ready(self) -> tuple[bool, str]:
        """As `reasons` says."""
        return not self.reasons, self.reasons

    def hidden(self) -> frozenset[Address]:
        """`floating`."""
        return self.floating

    def serves(self, at: str) -> None:
        """Remember it."""
        self.served.append(at)


@dataclass
class Serving:
    """A server that runs, and what it is asked about."""

    server: Server
    watched: Watched

    def connect(self, family: int = IPV4, host: str = "") -> socket.socket:
        """A connection to it."""
        port = self.server.ports[socket.AddressFamily(family)]
        return socket.create_connection((host or LOOPBACK[socket.AddressFamily(family)], port), BOUND)

    def send(self, data: bytes, family: int = IPV4) -> bytes:
        """All that comes back when these bytes are sent, and then nothing more."""
        with self.connect(family) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(data)
            return received(connection)
        return b""

    def get(self, path: str, family: int = IPV4, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Status, header and body."""
        return parsed(self.send(f"{method} {path} HTTP/1.1\r\nHost: pod\r\n\r\n".encode(), family))

    def assert_serves(self) -> None:
        """A probe gets its answer."""
        assert self.get("/healthz")[0] == 200


def received(connection: socket.socket) -> bytes:
    """All until the other side ends it."""
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


def parsed(response: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, header and body."""
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    version, status, _ = first.split(" ", 2)
    assert version == "HTTP/1.1"
    return int(status), dict(line.split(": ", 1) for line in lines), body


@contextlib.contextmanager
def running(make: Callable[[Watched], Server]) -> Iterator[Serving]:
    """Runs until the test ends, and has ended by then."""
    watched = Watched()
    server = make(watched)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield Serving(server, watched)
    finally:
        watched.waits.set()
        server.close()
        thread.join(BOUND)
        assert not thread.is_alive()


@pytest.fixture
def serving() -> Iterator[Serving]:
    with running(lambda watched: Server(0, watched, lambda: METRICS)) as found:
        yield found


# what it answers


@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_healthz(serving: Serving, family: int) -> None:
    status, header, body = serving.get("/healthz", family)
    assert (status, body) == (200, b"ok\n")
    assert header["Content-Length"] == "3"
    assert header["Connection"] == "close"
    serving.watched.lives = False
    status, _, body = serving.get("/healthz", family)
    assert status == 503
    assert b"the loop" in body


def test_readyz_names_the_reasons_one_a_line(serving: Serving) -> None:
    assert serving.get("/readyz")[::2] == (200, b"ok\n")
    serving.watched.reasons = "10.0.0.1 pending\n10.0.0.2 refused"
    assert serving.get("/readyz")[::2] == (503, b"10.0.0.1 pending\n10.0.0.2 refused\n")


def test_a_loop_that_hangs_is_not_ready_whatever_it_said_last(serving: Serving) -> None:
    serving.watched.lives = False
    status, _, body = serving.get("/readyz")
    assert status == 503 and b"the loop has not come round" in body


def test_it_tells_where_it_can_be_asked_from_within(serving: Serving) -> None:
    assert serving.watched.served[-1] == f"127.0.0.1:{serving.server.ports[IPV4]}"


def test_metrics(serving: Serving) -> None:
    status, header, body = serving.get("/metrics?name=one")
    assert (status, header["Content-Type"], body) == (200, METRICS_TEXT, METRICS)


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_head_is_get_without_a_body(serving: Serving, path: str) -> None:
    of_get, of_head = serving.get(path), serving.get(path, method="HEAD")
    assert of_head[2] == b""
    assert of_head[0] == of_get[0] == 200
    assert of_head[1] | {"Date": ""} == of_get[1] | {"Date": ""}


@pytest.mark.parametrize("path", ["/", "/healthz/", "/HEALTHZ", "/../etc/passwd", "*", "http://pod/healthz"])
def test_anything_else_is_not_found(serving: Serving, path: str) -> None:
    assert serving.get(path)[0] == 404
    assert serving.get(path, method="DELETE")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "TRACE", "get", "X"])
def test_only_reading_is_allowed(serving: Serving, method: str) -> None:
    status, header, _ = serving.get("/metrics", method=method)
    assert (status, header["Allow"]) == (405, "GET, HEAD")


def test_the_header_names_no_version(serving: Serving) -> None:
    for path in ("/healthz", "/metrics", "/nothing"):
        response = serving.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert parsed(response)[1]["Server"] == "vipmanager"
        assert b"ython" not in response


def test_a_mistake_of_ours_is_an_answer_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bytes:
        raise RuntimeError("broken")

    with running(lambda watched: Server(0, watched, broken)) as serving:
        assert [serving.get("/metrics")[0] for _ in range(3)] == [500] * 3
        serving.assert_serves()
    (record,) = [each for each in caplog.records if each.getMessage() == "not answered"]
    assert record.__dict__["facts"] == {"path": "/metrics", "why": "RuntimeError('broken')"}
    assert record.exc_info is None


# what it is sent


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /healthz HTTP/1.1\n\n", 200),  # RFC 9112, 2.2: a lone LF may be taken for an end of line
        (b"GET /healthz HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /healthz HTTP/2.0\r\n\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost : pod\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: pod\r\n folded\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * HEAD, 431),
        (b"G" * (HEAD + 1), 431),
    ],
)
def test_requests_that_are_none(serving: Serving, request_: bytes, status: int) -> None:
    assert parsed(serving.send(request_))[0] == status


def test_a_head_of_just_under_the_limit_is_read(serving: Serving) -> None:
    request = b"GET /healthz HTTP/1.1\r\nX: "
    assert parsed(serving.send(request + b"x" * (HEAD - len(request) - 4) + b"\r\n\r\n"))[0] == 200


def test_a_request_in_pieces(serving: Serving) -> None:
    with serving.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /readyz HTTP/1.1\r\n\r\n":
            connection.send(bytes([byte]))
        assert parsed(received(connection))[0] == 200


def test_what_is_sent_after_a_request_is_not_read(serving: Serving) -> None:
    """One answer, whole, and an end: pipelined requests are to be sent again on another connection (RFC 9112, 9.3)."""
    one = b"GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n"
    assert serving.send(one * 3).count(b"HTTP/1.1 ") == 1
    assert parsed(serving.send(one + b"x" * 3000))[::2] == (200, METRICS)


def test_a_client_that_has_nothing_more_to_say_gets_its_answer(serving: Serving) -> None:
    with serving.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert parsed(received(connection))[0] == 200


def test_a_client_that_goes_away_does_no_harm(serving: Serving) -> None:
    serving.watched.waits.clear()
    for data in (b"", b"GET /hea", b"GET /metrics HTTP/1.1\r\n\r\n", b"GET /healthz HTTP/1.1\r\n\r\n"):
        with serving.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, serve.RESET)
            connection.sendall(data)
    serving.watched.waits.set()
    serving.assert_serves()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=100).map(lambda tail: b"GET /metrics HTTP/1.1\r\n" + tail + b"\r\n\r\n"),
        st.tuples(st.binary(max_size=20), st.binary(max_size=20)).map(lambda two: b"%s %s HTTP/1.1\n\n" % two),
    )
)
def test_no_bytes_harm_it(serving: Serving, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    """Each gets an answer or an end; the next probe is answered; nobody's bytes get into the log."""
    with serving.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        response = received(connection)
        assert not response or parsed(response)[0] in (200, 400, 404, 405, 413)
    serving.assert_serves()
    assert [each for each in caplog.records if each.levelno > logging.DEBUG] == []


@given(st.binary(max_size=200))
def test_any_head_is_a_request_or_has_an_answer(head: bytes) -> None:
    found = read_head(head)
    assert isinstance(found, Request) or (isinstance(found, Answer) and found.status in (400, 413))


# limits


def test_a_probe_gets_through_beside_a_hundred_that_say_nothing(serving: Serving) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(serving.connect()) for _ in range(100)]
        serving.assert_serves()
        for connection in idle[: 100 - CONNECTIONS]:  # the oldest were ended
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        serving.assert_serves()


def test_a_probe_gets_through_beside_those_that_wait_for_an_answer(serving: Serving) -> None:
    """While the loop does not come round, whoever asks for health waits; /metrics and new connections do not."""
    serving.watched.waits.clear()
    with contextlib.ExitStack() as stack:
        for _ in range(2 * CONNECTIONS):
            stack.enter_context(serving.connect()).sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert serving.get("/metrics")[0] == 200
        assert len(serving.watched.asked) == 1
        until(lambda: sum(each.name.startswith("http ") for each in threading.enumerate()) == 1)  # /metrics' ends
    serving.watched.waits.set()
    serving.assert_serves()


def test_a_busy_client_does_not_take_the_place_of_a_probe_from_elsewhere(serving: Serving) -> None:
    """The kubelet asks from the node's address."""
    serving.watched.waits.clear()
    address = (LOOPBACK[socket.AddressFamily(IPV4)], serving.server.ports[socket.AddressFamily(IPV4)])
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(socket.create_connection(address, BOUND, source_address=("127.0.0.2", 0)))
        probe.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        for _ in range(3 * CONNECTIONS):
            stack.enter_context(serving.connect()).sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert serving.get("/metrics")[0] == 200  # so all of them have been read
        serving.watched.waits.set()
        assert parsed(received(probe))[0] == 200


def test_those_who_ask_at_once_share_an_answer(serving: Serving) -> None:
    serving.watched.waits.clear()
    with contextlib.ExitStack() as stack:
        asking = [stack.enter_context(serving.connect()) for _ in range(10)]
        for connection in asking:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert serving.get("/metrics")[0] == 200  # so the ten have been read
        serving.watched.waits.set()
        assert [parsed(received(connection))[0] for connection in asking] == [200] * 10
    assert len(serving.watched.asked) <= 2 < 10


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\n"])
def test_a_request_has_an_end(sent: bytes) -> None:
    """Slow loris: a byte now and then does not put it off."""
    clock = Hand()
    with (
        running(lambda watched: Server(0, watched, lambda: METRICS, clock)) as serving,
        serving.connect() as connection,
    ):
        connection.sendall(sent)
        serving.assert_serves()  # so it has been accepted before the time passes
        clock.now += serve.REQUEST_WITHIN / 2
        connection.sendall(b"X")
        serving.assert_serves()
        clock.now += serve.REQUEST_WITHIN / 2
        serving.assert_serves()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_who_does_not_take_a_long_answer_is_cut_off() -> None:
    clock, answer = Hand(), b"x" * 50_000_000
    with running(lambda watched: Server(0, watched, lambda: answer, clock)) as serving, serving.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert connection.recv(1) == b"H"
        clock.now += serve.REQUEST_WITHIN
        serving.assert_serves()
        assert len(received(connection)) < len(answer)


def test_who_sends_for_ever_is_cut_off(serving: Serving) -> None:
    with serving.connect() as connection, pytest.raises(ConnectionError):
        connection.sendall(b"GET /nothing HTTP/1.1\r\n\r\n")
        while True:
            connection.sendall(b"x" * 4096)


# where it listens


def test_a_floating_address_is_not_answered_at(serving: Serving) -> None:
    serving.watched.floating = frozenset({ip_address("127.0.0.2"), ip_address("::1")})
    for family, host in ((IPV4, "127.0.0.2"), (IPV6, "::1")):
        with contextlib.suppress(ConnectionResetError), serving.connect(family, host) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert connection.recv(1) == b""
    serving.assert_serves()


def test_a_port_that_is_taken_is_said_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vipmanager")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = Server(port, Watched(), lambda: METRICS, listen_again=0.05)
        assert IPV4 not in server.ports
        assert server.ports.get(IPV6, port) == port
        thread = threading.Thread(target=server.run)
        thread.start()
    deadline = time.monotonic() + BOUND
    while IPV4 not in server.ports and time.monotonic() < deadline:
        time.sleep(0.01)
    Serving(server, Watched()).assert_serves()
    server.close()
    thread.join(BOUND)
    facts = [(each.getMessage(), each.__dict__["facts"]) for each in caplog.records]
    (refused,) = [fact for name, fact in facts if name == "not serving"]
    assert (refused["port"], refused["of"]) == (port, "IPv4")
    assert "HealthPort" in refused["remedy"]
    assert [fact["of"] for name, fact in facts if name == "serving"] == ["IPv4"]


def test_where_a_family_is_missing_the_other_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    real = serve._listener

    def without_ipv6(family: socket.AddressFamily, port: int) -> socket.socket:
        if family is IPV6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, port)

    monkeypatch.setattr(serve, "_listener", without_ipv6)
    with running(lambda watched: Server(0, watched, lambda: METRICS)) as serving:
        assert list(serving.server.ports) == [IPV4]
        serving.assert_serves()


def test_no_descriptor_is_left_to_children(serving: Serving) -> None:
    with serving.connect():
        serving.assert_serves()
        held = [*serving.server._listeners.values(), *(each.sock for each in serving.server._connections)]
        assert len(held) >= 3
        for each in [*(one.fileno() for one in held), serving.server._woken, serving.server._wake_end]:
            assert fcntl.fcntl(each, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_it_sleeps_while_nobody_asks(serving: Serving) -> None:
    with serving.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert received(connection)
        assert serving.server._timeout(0.0) is not None
    deadline = time.monotonic() + BOUND
    while serving.server._connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert serving.server._timeout(0.0) is None
