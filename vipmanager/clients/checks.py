"""Health checks of the node, as the kubelet's probes do them: a TCP connection, or an HTTP GET.

2xx and 3xx are healthy, a redirect is not followed and a certificate is not verified: what is asked is whether
something serves, not who it is (Kubernetes, "Configure Liveness, Readiness and Startup Probes").
"""

from __future__ import annotations

import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from vipmanager.clients.wire import TooLong, Wire, left
from vipmanager.floating import HealthCheck

if TYPE_CHECKING:
    import http.client

BODY_LIMIT = 10 * 1024
"""Bytes of the body that are read, as the kubelet does: a server that cannot send its answer is not healthy."""
ANSWER_LIMIT = 64 * 1024
PATH_SAFE = "%/?:@!$&'()*+,;=-._~[]"
"""What a request line may hold (RFC 3986); other characters of the setting are sent percent-encoded."""


class _BadAnswer(Exception):
    """The answer is none; the message says why in our words, never in the server's."""


def run_check(check: HealthCheck, default_host: str, timeout: float) -> str:
    """Run it within `timeout` seconds all in all. "" when healthy, else a short reason for the log. Raises nothing."""
    host = check.host or default_host
    where = f"{check.kind} {f'[{host}]' if ':' in host else host}:{check.port}{check.path}"
    if not host:
        return f"{where}: the node's primary address is not known"
    deadline = monotonic() + timeout
    try:
        with _connect(host, check.port, deadline) as plain:
            if check.kind == "tcp":
                return ""
            status = _get(plain, check, host, deadline)
    except TimeoutError:
        return f"{where}: no answer within {timeout:g} s"
    except (OSError, UnicodeError, TooLong, _BadAnswer) as error:  # UnicodeError: what cannot be a host name
        return f"{where}: {_reason(error)}"
    return "" if 200 <= status < 400 else f"{where}: answered {status}"


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that accepts. Raises OSError."""
    last: OSError = OSError("the name has no address")
    for family, kind, protocol, _, address in _resolve(host, port, deadline):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            last = error
            continue
        try:
            sock.settimeout(left(deadline))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            last = error
    raise last


def _resolve(host: str, port: int, deadline: float) -> list[Any]:
    """getaddrinfo knows no deadline, so a name is looked up in a thread that may be left behind. Raises OSError."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    found: list[Any] = []
    errors: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            errors.append(error)

    thread = threading.Thread(target=look_up, name="look-up", daemon=True)
    thread.start()
    thread.join(left(deadline))
    if errors:
        raise errors[0]
    if thread.is_alive():
        raise TimeoutError
    return found


def _get(plain: socket.socket, check: HealthCheck, host: str, deadline: float) -> int:
    """The status of the answer, all of which came. Raises OSError, TooLong, _BadAnswer."""
    import http.client
    from urllib.parse import quote

    sock = _encrypt(plain, deadline) if check.kind == "https" else plain
    connection = http.client.HTTPConnection(host, check.port)
    connection.sock = Wire(sock, deadline, ANSWER_LIMIT)
    headers = {"User-Agent": "vipmanager", "Accept": "*/*", "Connection": "close"}
    try:
        connection.request("GET", quote(check.path or "/", safe=PATH_SAFE), headers=headers)
        response = connection.getresponse()
        _read_body(response)
        return response.status
    except (http.client.HTTPException, ValueError, ArithmeticError) as error:
        raise _BadAnswer(f"no proper HTTP answer ({type(error).__name__})") from error
    finally:
        sock.close()


def _read_body(response: http.client.HTTPResponse) -> None:
    room = BODY_LIMIT
    while room > 0 and (part := response.read(room)):
        room -= len(part)


def _encrypt(plain: socket.socket, deadline: float) -> socket.socket:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain.settimeout(left(deadline))
    return context.wrap_socket(plain)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "not a host name"
    if isinstance(error, OSError):
        if reason := getattr(error, "reason", ""):  # ssl.SSLError
            return f"TLS: {reason.lower().replace('_', ' ')}"
        text = error.strerror or str(error) or type(error).__name__
        return text[:1].lower() + text[1:]
    return str(error)
