"""Plain requests to a Kubernetes API, in the namespace where it listens."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

from lab.netns import Namespace

_TIMEOUT = 10.0  # seconds


class Api:
    """Requests with one bearer token, each on a connection of its own."""

    def __init__(self, ns: Namespace, address: tuple[str, int], authority: Path, token: str) -> None:
        """`authority` is the certificate by which the server is known."""
        self._ns = ns
        self._address = address
        self._context = ssl.create_default_context(cafile=str(authority))
        self._token = token

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
        connection = http.client.HTTPSConnection(*self._address, timeout=_TIMEOUT, context=self._context)
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            text = None if body is None else body if isinstance(body, str) else json.dumps(body)
            connection.request(method, path, text, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(content)
        except ValueError:  # readyz and a watch answer no JSON object
            return answer.status, {"message": content.decode(errors="replace")}
