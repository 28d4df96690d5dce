"""The instance metadata service, version 2 only (Amazon EC2 User Guide, "Use the Instance Metadata Service").

Plain http.client on one kept connection: what a fresh pod waits for here is added to every failover.
"""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from time import monotonic
from urllib.parse import urlsplit

from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.logs import event
from vipmanager.model import Eni, Network
from vipmanager.ports import DiscoveryPort

log = logging.getLogger("vipmanager.imds")

DEFAULT_ENDPOINT = "http://169.254.169.254"
IPV6_ENDPOINT = "http://[fd00:ec2::254]"
TIMEOUT = 1.0
"""Seconds for connecting and for each answer; with a hop limit of 1 the token's answer never comes."""
ATTEMPTS = 2
TOKEN_TTL = 21600
DOWN_FOR = 30.0
"""Seconds for which an IMDS that did not answer is not asked again: EC2 knows the same, and waiting is outage."""
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
        self._token = ""
        self._down: tuple[float, CallError] | None = None

    def region(self) -> str:
        """See DiscoveryPort."""
        with self._lock:
            return self._get("/latest/meta-data/placement/region")

    def enis(self) -> Mapping[str, Eni]:
        """See DiscoveryPort."""
        with self._lock:
            macs = [line.strip().strip("/").lower() for line in self._get(MACS).splitlines()]
            return {mac: self._eni(mac) for mac in macs if mac}

    def _eni(self, mac: str) -> Eni:
        def fact(name: str) -> str:
            return self._get(f"{MACS}{mac}/{name}")

        def networks(*names: str) -> Iterator[Network]:
            for name in names:
                for line in (self._find(f"{MACS}{mac}/{name}") or "").split():
                    yield ip_network(line)

        try:
            return Eni(
                id=fact("interface-id"),
                mac=mac,
                device_index=int(fact("device-number")),
                subnet_id=fact("subnet-id"),
                subnet_cidrs=tuple(networks("subnet-ipv4-cidr-block", "subnet-ipv6-cidr-blocks")),
                vpc_id=fact("vpc-id"),
                vpc_cidrs=tuple(networks("vpc-ipv4-cidr-blocks", "vpc-ipv6-cidr-blocks")),
                owner_id=fact("owner-id"),
            )
        except ValueError as error:
            raise _failure(ErrorKind.INVALID, "BadAnswer", f"{MACS}{mac}/: {error}") from error

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
            except (OSError, http.client.HTTPException, ValueError) as error:  # the last: the endpoint is no URL
                self._close()
                if last:
                    unreachable = _failure(ErrorKind.RETRY, type(error).__name__, f"{path}: {error}")
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
        return text

    def _request(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        started = monotonic()
        endpoint = urlsplit(self._endpoint)
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                endpoint.hostname or "", endpoint.port or 80, timeout=self._timeout
            )
        self._connection.request(method, endpoint.path.rstrip("/") + path, headers=dict(headers))
        response = self._connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        event(log, logging.DEBUG, "imds", method=method, path=path, status=response.status, took=monotonic() - started)
        return response.status, text

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def region(environment: Mapping[str, str], imds: DiscoveryPort) -> str:
    """The SDK's own setting, else the instance's. Raises CallError."""
    for key in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if environment.get(key):
            return environment[key]
    return imds.region()


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
