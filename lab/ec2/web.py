"""A small HTTP/1.1 server for the lab's endpoints: keep-alive, a daemon thread a connection, no delays of its own."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import struct
import sys
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Server(socketserver.ThreadingTCPServer):
    """Listens as soon as it is made, in the network namespace of the thread that makes it."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, address: tuple[str, int], handler: type[Handler], owner: Any, tls: ssl.SSLContext | None = None
    ) -> None:
        """With `tls`, every connection begins with a handshake."""
        self.tls = tls
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._dropped: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((address[0], address[1] or _free_port(self.address_family, address[0])), handler)
        self._start_accepting()

    def _start_accepting(self) -> None:
        # Not serve_forever: it polls, and nothing in the lab is to run while nothing happens.
        self._accepting = threading.Thread(target=self._accept, daemon=True, name=f"http-{self.port}")
        self._accepting.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def _accept(self) -> None:
        while True:
            try:
                connection, client = self.socket.accept()
            except OSError:  # `stop` has shut the listening socket
                return
            with self._lock:
                self._open.add(connection)
            self.process_request(connection, client)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer what comes on a connection, in its own thread; the TLS handshake is made there too."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection: with a FIN, or for one that is to be dropped with a RST."""
        with self._lock:
            self._open.discard(request)
            dropped = request in self._dropped
            self._dropped.discard(request)
        if dropped:
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the lab's; anything else is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def drop(self, connection: socket.socket) -> None:
        """Let the connection be reset as soon as its handler returns."""
        with self._lock:
            self._dropped.add(connection)

    def pause(self) -> None:
        """Refuse connections (the kernel answers a RST) and end those there are, until `resume`."""
        with self._lock:
            held = [self.socket, *self._open]
        for each in held:
            with contextlib.suppress(OSError):  # its own thread was faster
                each.shutdown(socket.SHUT_RDWR)  # of a listening socket: it stays bound, and can listen again
        self._accepting.join()

    def resume(self) -> None:
        """Listen again, in the namespace and on the port of before."""
        self.server_activate()
        self._start_accepting()

    def stop(self) -> None:
        """Stop listening, and end every connection."""
        self.pause()
        self.server_close()


def _free_port(family: int, host: str) -> int:
    """A port that can be bound by number: one the kernel chose is lost when a socket stops listening (`pause`)."""
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Handler(BaseHTTPRequestHandler):
    """What both endpoints' handlers have in common."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # sets TCP_NODELAY

    @property
    def owner(self) -> Any:
        """What the server was made for."""
        return cast(Server, self.server).owner

    def answer(self, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        """Send headers and body at once: apart, they would be two packets."""
        lines = [
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        self.wfile.write("\r\n".join((*lines, "", "")).encode("latin-1") + body)

    def body(self) -> bytes:
        """The request's body. Raises ConnectionAbortedError when the client ended before it had sent it."""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionAbortedError(f"{len(body)} of {length} bytes")
        return body

    def drop(self) -> None:
        """Reset the connection without an answer."""
        self.close_connection = True
        cast(Server, self.server).drop(self.connection)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the lab records calls itself."""
