"""Health checks against servers that are well, ill and hostile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck as Exempt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab import links
from lab.ec2 import certificate
from lab.netns import Namespace
from tests.contract.netlink_worlds import until_local
from tests.doubles.clock import BOUND
from vipmanager.clients import checks
from vipmanager.clients.checks import run_check
from vipmanager.floating import HealthCheck

HERE = "127.0.0.1"
SOON = 0.4  # seconds until a check gives up on a server that keeps it waiting
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Handler = Callable[[socket.socket], None]


class Server:
    """Gives each connection to a handler, in a thread; `served` counts those that were handled to the end."""

    def __init__(self, handler: Handler, host: str = HERE) -> None:
        self._handler = handler
        self.seen: list[bytes] = []
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port: int = self._listener.getsockname()[1]
        self._served = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(BOUND)
                    self._handler(connection)
                self._served.release()

    def await_served(self) -> None:
        """Return when one more connection has been handled."""
        assert self._served.acquire(timeout=BOUND), "no connection was handled"

    def close(self) -> None:
        """Accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(BOUND)
        assert not self._thread.is_alive()


@contextmanager
def serving(handler: Handler, host: str = HERE) -> Iterator[Server]:
    """A server for the time of a block."""
    with closing(Server(handler, host)) as server:
        yield server


def reads_and_sends(answer: bytes, requests: list[bytes] | None = None) -> Handler:
    """Read a request, answer it, and wait for the other side to close."""

    def handle(connection: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n") and (part := connection.recv(4096)):
            request += part
        if requests is not None:
            requests.append(request)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass

    return handle


def http(port: int, path: str = "/healthz", kind: str = "http", host: str = "") -> HealthCheck:
    """A check of this server."""
    return HealthCheck(kind, host, port, path)


# TCP -----------------------------------------------------------------------------------------------------------------


def test_a_port_that_accepts_is_healthy() -> None:
    with serving(lambda _: None) as server:
        assert run_check(HealthCheck("tcp", "", server.port), HERE, BOUND) == ""
        server.await_served()


def test_a_port_that_refuses_is_not() -> None:
    with socket.socket() as bound:  # nobody else gets the port, and nobody listens
        bound.bind((HERE, 0))
        port = bound.getsockname()[1]
        assert run_check(HealthCheck("tcp", "", port), HERE, BOUND) == f"tcp {HERE}:{port}: connection refused"


def test_the_checks_host_comes_before_the_nodes() -> None:
    with serving(lambda _: None) as server:
        assert run_check(HealthCheck("tcp", HERE, server.port), "192.0.2.1", BOUND) == ""


def test_a_node_whose_address_is_not_known_is_not_healthy() -> None:
    assert run_check(HealthCheck("tcp", "", 30007), "", BOUND) == "tcp :30007: the node's primary address is not known"


@pytest.fixture
def ns() -> Iterator[Namespace]:
    made, elsewhere = Namespace("node"), Namespace("elsewhere")
    links.set_up_host(made)
    links.make_pair(made, "ens5", elsewhere, "silent")
    links.add_address(made, "ens5", "10.0.0.1/24")
    links.add_address(made, "ens5", "fd00::1/64")
    until_local(made, "fd00::1")
    yield made
    made.close()
    elsewhere.close()


@pytest.mark.namespaces
@pytest.mark.parametrize("host", ["10.0.0.9", "fd00::9"])
@pytest.mark.parametrize("kind", ["tcp", "http", "https"])
def test_a_host_that_does_not_answer_is_given_up(ns: Namespace, kind: str, host: str) -> None:
    shown = f"[{host}]" if ":" in host else host
    said = ns.run(lambda: run_check(HealthCheck(kind, host, 30007), "", SOON))
    assert said == f"{kind} {shown}:30007: no answer within {SOON} s"


@pytest.mark.namespaces
def test_a_network_that_cannot_be_reached_is_a_reason(ns: Namespace) -> None:
    assert ns.run(lambda: run_check(HealthCheck("tcp", "192.0.2.1", 30007), "", BOUND)) == (
        "tcp 192.0.2.1:30007: network is unreachable"
    )


@pytest.mark.namespaces
def test_ipv6(ns: Namespace) -> None:
    requests: list[bytes] = []
    with ExitStack() as stack:
        server = ns.run(lambda: stack.enter_context(serving(reads_and_sends(OK, requests), "fd00::1")))
        assert ns.run(lambda: run_check(HealthCheck("tcp", "", server.port), "fd00::1", BOUND)) == ""
        assert ns.run(lambda: run_check(http(server.port), "fd00::1", BOUND)) == ""
    assert f"Host: [fd00::1]:{server.port}\r\n".encode() in requests[-1]


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.namespaces
@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 70, "a..b", "xn--" + "ü" * 70, "."])
def test_a_name_that_means_nothing_is_a_reason(ns: Namespace, name: str) -> None:
    said = ns.run(lambda: run_check(HealthCheck("tcp", name, 30007), "", BOUND))
    assert said.startswith(f"tcp {name}:30007: ")


def test_a_name_is_looked_up() -> None:
    with serving(lambda _: None) as server:
        assert run_check(HealthCheck("tcp", "localhost", server.port), "", BOUND) == ""


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, look_up = threading.Event(), socket.getaddrinfo
    answered: list[str] = []

    def hang(*arguments: Any, **more: Any) -> Any:
        if not more.get("flags"):
            answer.wait(BOUND)
            answered.append(arguments[0])
        return look_up(*arguments, **more)

    monkeypatch.setattr(checks.socket, "getaddrinfo", hang)
    assert run_check(HealthCheck("tcp", "localhost", 30007), "", SOON).endswith(f"no answer within {SOON} s")
    assert not answered
    answer.set()


# HTTP ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "healthy"),
    [(200, True), (204, True), (301, True), (307, True), (399, True)]
    + [(status, False) for status in (101, 400, 401, 404, 500, 503, 599, 600)],
)
def test_2xx_and_3xx_are_healthy(status: int, healthy: bool) -> None:
    with serving(reads_and_sends(b"HTTP/1.1 %d Some Words\r\nContent-Length: 0\r\n\r\n" % status)) as server:
        expected = "" if healthy else f"http {HERE}:{server.port}/healthz: answered {status}"
        assert run_check(http(server.port), HERE, BOUND) == expected


def test_what_is_asked_for() -> None:
    requests: list[bytes] = []
    with serving(reads_and_sends(OK, requests)) as server:
        for path in ("/healthz?full=1&x=%20y", "/gesünder", ""):
            assert run_check(http(server.port, path), HERE, BOUND) == ""
    lines = [request.split(b"\r\n")[0] for request in requests]
    assert lines == [
        b"GET /healthz?full=1&x=%20y HTTP/1.1",
        b"GET /ges%C3%BCnder HTTP/1.1",
        b"GET / HTTP/1.1",
    ]
    assert f"\r\nHost: {HERE}:{server.port}\r\n".encode() in requests[0]


def test_a_redirect_is_not_followed() -> None:
    requests: list[bytes] = []
    with serving(lambda connection: redirect(connection)) as server:

        def redirect(connection: socket.socket) -> None:
            where = f"HTTP/1.1 302 Found\r\nLocation: http://{HERE}:{server.port}/next\r\nContent-Length: 0\r\n\r\n"
            reads_and_sends(where.encode(), requests)(connection)

        assert run_check(http(server.port), HERE, BOUND) == ""
    assert len(requests) == 1


def test_a_server_that_keeps_the_connection_open_is_healthy_once_it_has_answered() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(OK)
        while connection.recv(4096):  # until the other side closes
            pass

    with serving(handle) as server:
        assert run_check(http(server.port), HERE, BOUND) == ""
        server.await_served()


def test_no_more_of_a_body_is_read_than_is_bounded() -> None:
    """A page without end is a healthy one; the server sees that nobody wants more."""

    def handle(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(65536))

    with serving(handle) as server:
        assert run_check(http(server.port), HERE, BOUND) == ""
        server.await_served()


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
    ],
    ids=["nothing", "status", "header", "body"],
)
@pytest.mark.parametrize("dribble", [b"", b"0"], ids=["silent", "dribbling"])
def test_a_server_that_never_gets_done_is_given_up(begin: bytes, dribble: bytes) -> None:
    """Each byte comes before a timeout of a single read would end."""
    over = threading.Event()

    def handle(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(begin)
        while dribble and not over.wait(SOON / 10):
            connection.sendall(dribble)
        while connection.recv(4096):
            pass

    with serving(handle) as server:
        assert (
            run_check(http(server.port), HERE, SOON) == f"http {HERE}:{server.port}/healthz: no answer within {SOON} s"
        )
        server.await_served()  # the connection was closed
        over.set()


@pytest.mark.parametrize(
    "endless", [b"HTTP/1.1 100 Continue\r\n\r\n", b"X: y\r\n", b"X" * 1000], ids=["continue", "headers", "header"]
)
def test_headers_without_end_are_no_answer(endless: bytes) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(endless * 100)

    with serving(handle) as server:
        said = run_check(http(server.port), HERE, BOUND)
        assert said.startswith(f"http {HERE}:{server.port}/healthz: ") and "no answer within" not in said


def test_what_the_server_says_does_not_get_into_the_log() -> None:
    with serving(reads_and_sends(b"evil\nlevel=ERROR event=forged\r\n\r\n")) as server:
        said = run_check(http(server.port), HERE, BOUND)
    assert said and "evil" not in said and "forged" not in said and "\n" not in said


CHUNK_SIZES = [b"-1", b"-5", b"0x2", b"ffffffffffffffffffff", b"+", b"", b"2;" + b"x" * 100]
PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 ",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"\r\n",
        b"\n",
        b"2\r\nok\r\n",
        b"0\r\n\r\n",
        *(size + b"\r\n" for size in CHUNK_SIZES),
    ]
)
ANSWERS = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(PIECES, st.binary(max_size=8)), max_size=8).map(b"".join),
    st.lists(PIECES, max_size=8).map(
        lambda pieces: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(pieces)
    ),
)


@pytest.fixture(scope="module")
def mouthpiece() -> Iterator[tuple[Server, list[bytes]]]:
    """A server that says what is in the list."""
    words: list[bytes] = []
    with serving(lambda connection: reads_and_sends(words[0])(connection)) as server:
        yield server, words


@settings(max_examples=150, deadline=None, suppress_health_check=[Exempt.function_scoped_fixture])
@given(answer=ANSWERS)
@example(answer=OK)
@example(answer=b"HTTP/1.1 999999999999999999999 OK\r\n\r\n")
@example(answer=b"HTTP/1.1 200 \xff\xfe\r\n\xff: \x00\r\n\r\n")
def test_no_answer_makes_it_raise(mouthpiece: tuple[Server, list[bytes]], answer: bytes) -> None:
    server, words = mouthpiece
    words[:] = [answer]
    said = run_check(http(server.port), HERE, BOUND)
    assert (said == "") <= (answer.lstrip(b"\r\n")[:5] == b"HTTP/"), "healthy without an HTTP answer"
    assert said.isprintable() and len(said) < 200
    assert (said == "") or answer != OK


# HTTPS ---------------------------------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_good_enough(tmp_path: Path) -> None:
    context, _ = certificate.make(tmp_path, "192.0.2.1")

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(4096)
            encrypted.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n" if ill else OK)

    with serving(handle) as server:
        ill = False
        assert run_check(http(server.port, kind="https"), HERE, BOUND) == ""
        ill = True
        assert run_check(http(server.port, kind="https"), HERE, BOUND) == (
            f"https {HERE}:{server.port}/healthz: answered 503"
        )


def test_https_of_a_server_without_tls_and_http_of_one_with_it(tmp_path: Path) -> None:
    context, _ = certificate.make(tmp_path, HERE)
    with serving(lambda connection: connection.sendall(OK)) as server:
        assert "TLS" in run_check(http(server.port, kind="https"), HERE, BOUND)
    with serving(lambda connection: context.wrap_socket(connection, server_side=True).close()) as server:
        assert run_check(http(server.port), HERE, BOUND) != ""


def test_a_handshake_that_never_gets_done_is_given_up() -> None:
    over = threading.Event()

    def handle(connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00")  # a long handshake record begins
        while not over.wait(SOON / 10):
            connection.sendall(b"\x02")

    with serving(handle) as server:
        said = run_check(http(server.port, kind="https"), HERE, SOON)
        assert said.endswith(f"no answer within {SOON} s")
        server.await_served()
        over.set()
