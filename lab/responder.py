"""A small HTTP server that says who answers: it stands for a Service behind kube-proxy's NodePort.

Run as `python -m lab.responder --port 30007 --text a` in a worker's namespace: each node answers on all its addresses.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Responder:
    """A running one, started by `Host.serve_http`."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        """Wait until it listens. Raises RuntimeError when it does not."""
        self.process = process
        self.port = port
        assert process.stdout is not None
        with process.stdout as output:
            if not output.readline():
                raise RuntimeError(f"nothing listens on port {port}: status {process.wait()}")

    def close(self) -> None:
        """Stop answering. May be called again."""
        self.process.kill()
        self.process.wait()


class _Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 256
    daemon_threads = True
    text = ""

    def server_bind(self) -> None:
        """On all addresses of both families, without asking for the host's name as HTTPServer does."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Say it, whatever was asked; and close, as the protocol HTTP/1.0 means."""
        assert isinstance(self.server, _Server)
        body = self.server.text.encode()
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: who asks keeps a record."""


def main() -> None:
    """Answer until killed; a line on standard output says when."""
    parser = argparse.ArgumentParser(prog="python -m lab.responder", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--text", required=True)
    arguments = parser.parse_args()
    _Server.text = arguments.text
    server = _Server(("::", arguments.port), _Handler)
    print("listening", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
