"""Plain requests to a Kubernetes API, in the namespace from which it is reached."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any

from lab.netns import Namespace

_TIMEOUT = 10.0  # seconds


def trusting(authority: Path) -> ssl.SSLContext:
    """TLS with servers whose certificate is, or is signed by, one in the file."""
    return ssl.create_default_context(cafile=str(authority))


class Api:
    """Requests with one authorization, each on a connection of its own."""

    def __init__(
        self,
        ns: Namespace,
        address: tuple[str, int],
        context: ssl.SSLContext,
        authorization: str,
        *,
        name: str = "",
        base: str = "",
    ) -> None:
        """`authorization`: the header, if any; `name` is the server's where its address is not; `base` begins paths."""
        self._ns = ns
        self._address = address
        self._context = context
        self._headers = {"Authorization": authorization} if authorization else {}
        self._name = name or address[0]
        self._base = base

    def request(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of the answer; a text is sent as it is. Raises OSError."""
        return self._ns.run(lambda: self._request(method, path, body))

    def expect(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The answer, which must be one of success. Raises RuntimeError."""
        status, answer = self.request(method, path, body)
        if not 200 <= status < 300:
            raise RuntimeError(f"{method} {path}: {status} {answer.get('message')}")
        return answer

    def _request(self, method: str, path: str, body: object) -> tuple[int, dict[str, Any]]:
        connection = _Connection(self._address, self._name, self._context)
        try:
            headers = {**self._headers, "Content-Type": "application/json"}
            text = None if body is None else body if isinstance(body, str) else json.dumps(body)
            connection.request(method, self._base + path, text, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(content)
        except ValueError:  # readyz and a watch answer no JSON object
            return answer.status, {"message": content.decode(errors="replace")}


class _Connection(http.client.HTTPConnection):
    """HTTPS, where the server's certificate may be for another name than what is dialled."""

    default_port = 443  # else the Host header would not have the port where it is 80

    def __init__(self, address: tuple[str, int], name: str, context: ssl.SSLContext) -> None:
        super().__init__(*address, timeout=_TIMEOUT)
        self._name = name
        self._context = context

    def connect(self) -> None:
        """Connect, and greet the server by its name."""
        plain = socket.create_connection((self.host, self.port), _TIMEOUT)
        try:
            self.sock = self._context.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise
