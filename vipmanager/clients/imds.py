"""The instance metadata service, version 2 only (Amazon EC2 User Guide, "Use the Instance Metadata Service").

Plain http.client on one kept connection: what a fresh pod waits for here is added to every failover.
"""

from __future__ import annotations

import http.client
import logging
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_network
from math import inf
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from vipmanager.clients.wire import TooLong, Wire, after
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.logs import event
from vipmanager.model import Eni, Network
from vipmanager.ports import DiscoveryPort

log = logging.getLogger("vipmanager.imds")

DEFAULT_ENDPOINT = "http://169.254.169.254"
IPV6_ENDPOINT = "http://[fd00:ec2::254]"
TIMEOUT = 1.0
"""Seconds for connecting and for each answer; with a hop limit of 1 the token's answer never comes."""
ALL_WITHIN = 5.0
"""Seconds for everything about the ENIs, nine requests for each: after that EC2 is asked, which is one or two calls."""
ATTEMPTS = 2
TOKEN_TTL = 21600
DOWN_FOR = 30.0
"""Seconds for which an IMDS that did not answer is not asked again: EC2 knows the same, and waiting is outage."""
ANSWER_LIMIT = 256 * 1024
"""Bytes of an answer with its head; no fact has a tenth of it."""
MOST_ENIS = 512
"""More than any instance type has, over all its network cards; each is asked for in nine requests."""
_TOKEN = re.compile(r"[!-~]{1,4096}")  # what a header can carry; else http.client's exception would show it
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,4}")
MACS = "/latest/meta-data/network/interfaces/macs/"


class ImdsClient:
    """The discovery port. Reads the SDK's own settings for where IMDS is and whether it may be used."""

    def __init__(self, environment: Mapping[str, str], timeout: float = TIMEOUT) -> None:
        endpoint = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "").strip()
        ipv6 = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower() == "ipv6"
        self._endpoint = endpoint or (IPV6_ENDPOINT if ipv6 else DEFAULT_ENDPOINT)
        self._disabled = environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._token = ""
        self._until = inf
        self._down: tuple[float, CallError] | None = None

    def region(self) -> str:
        """See DiscoveryPort."""
        with self._lock:
            return self._name("/latest/meta-data/placement/region")

    def enis(self) -> Mapping[str, Eni]:
        """See DiscoveryPort."""
        with self._lock, self._all_within(ALL_WITHIN):
            macs = [line.strip().strip("/").lower() for line in self._get(MACS).splitlines()]
            if len(macs) > MOST_ENIS or not all(_MAC.fullmatch(mac) for mac in macs if mac):
                raise _bad_answer(MACS, f"{len(macs)} lines that are no list of MACs")
            return {mac: self._eni(mac) for mac in macs if mac}

    @contextmanager
    def _all_within(self, seconds: float) -> Iterator[None]:
        """Slow answers, each of them in time, are not to add up."""
        self._until = after(seconds)
        try:
            yield
        finally:
            self._until = inf

    def _eni(self, mac: str) -> Eni:
        def fact(name: str) -> str:
            return self._name(f"{MACS}{mac}/{name}")

        def networks(*names: str) -> Iterator[Network]:
            for name in names:
                for line in (self._find(f"{MACS}{mac}/{name}") or "").split():
                    yield ip_network(line)

        try:
            return Eni(
                id=fact("interface-id"),
                mac=mac,
                device_index=_number(fact("device-number")),
                subnet_id=fact("subnet-id"),
                subnet_cidrs=tuple(networks("subnet-ipv4-cidr-block", "subnet-ipv6-cidr-blocks")),
                vpc_id=fact("vpc-id"),
                vpc_cidrs=tuple(networks("vpc-ipv4-cidr-blocks", "vpc-ipv6-cidr-blocks")),
                owner_id=fact("owner-id"),
            )
        except ValueError as error:
            raise _bad_answer(f"{MACS}{mac}/", error) from error

    def _name(self, path: str) -> str:
        """A fact that is an id, a number or a region: it goes into requests and logs."""
        text = self._get(path).strip()
        if not _NAME.fullmatch(text):
            raise _bad_answer(path, repr(text[:80]))
        return text

    def _get(self, path: str) -> str:
        text = self._find(path)
        if text is None:
            raise _failure(ErrorKind.RETRY, "404", f"{path} is not there")
        return text

    def _find(self, path: str) -> str | None:
        """The text at a path, or None for 404. A refused token and a broken connection are renewed once."""
        if self._disabled:
            raise _failure(ErrorKind.INVALID, "Disabled", "AWS_EC2_METADATA_DISABLED is true")
        if self._down is not None and monotonic() < self._down[0]:
            raise self._down[1]
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                if not self._token:
                    self._token = self._fetch_token()
                status, text = self._request("GET", path, {"X-aws-ec2-metadata-token": self._token})
            except (OSError, TooLong, http.client.HTTPException, ValueError) as error:  # the last: no URL
                self._close()
                if last or monotonic() >= self._until:
                    unreachable = _failure(ErrorKind.RETRY, type(error).__name__, f"{path}: {str(error)[:200]}")
                    self._down = (monotonic() + DOWN_FOR, unreachable)
                    raise unreachable from error
                continue
            if status == 200:
                return text
            if status == 404:
                return None
            if status == 401:
                self._token = ""
            if last:
                raise _failure(ErrorKind.RETRY, str(status), path)
        return None

    def _fetch_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL), "Content-Length": "0"}
        status, text = self._request("PUT", "/latest/api/token", headers)
        if status != 200:
            raise http.client.HTTPException(f"token refused with {status}")
        if not _TOKEN.fullmatch(text):
            raise http.client.HTTPException("what came is no token")
        return text

    def _request(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        started = monotonic()
        endpoint = urlsplit(self._endpoint)
        connection = self._connected(endpoint.hostname or "", endpoint.port or 80)
        connection.request(method, endpoint.path.rstrip("/") + path, headers=dict(headers))
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        if response.will_close:
            self._close()
        event(log, logging.DEBUG, "imds", method=method, path=path, status=response.status, took=monotonic() - started)
        return response.status, text

    def _connected(self, host: str, port: int) -> http.client.HTTPConnection:
        """A connection for one more request, which has an end."""
        if self._connection is None or self._socket is None:
            self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
            self._connection.connect()
            self._socket = self._connection.sock
        wire: Any = Wire(self._socket, min(after(self._timeout), self._until), ANSWER_LIMIT)
        self._connection.sock = wire
        return self._connection

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._connection = self._socket = None


def region(environment: Mapping[str, str], imds: DiscoveryPort) -> str:
    """The SDK's own setting, else the instance's. Raises CallError."""
    for key in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if environment.get(key):
            return environment[key]
    return imds.region()


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is no number")
    return int(text)


def _bad_answer(path: str, why: object) -> CallError:
    return _failure(ErrorKind.RETRY, "BadAnswer", f"{path}: the answer of IMDS could not be understood: {why!s:.200}")


def _failure(kind: ErrorKind, code: str, message: str) -> CallError:
    return CallError(
        Failure(
            kind,
            "imds",
            code,
            message,
            "raise the IMDS hop limit to 2 and allow 169.254.169.254, or set AWS_REGION so that EC2 can be asked",
        )
    )
