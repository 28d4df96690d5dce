"""`LabEc2`: the EC2 and STS of the lab, as an HTTP endpoint and as an object."""

from __future__ import annotations

import io
import ssl
import threading
from collections.abc import Callable
from email.utils import formatdate
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from lab.ec2.auth import Keys
from lab.ec2.faults import ConnectionLost, Faults
from lab.ec2.layer import Call, Layer, UnderWay
from lab.ec2.policies import Policies
from lab.ec2.quotas import Quotas
from lab.ec2.state import VpcState
from lab.ec2.web import Handler, Server


class LabEc2:
    """EC2 and STS of one account in one region; each instance has an account, and so a world, of its own.

    `calls` records what came in over HTTP (not what `admin()` clients did), `faults` makes it fail, `latency` (s) is
    spent half before a call is applied and half after, `lag` (s) is how far reads are behind; `attach_delay`,
    `detach_delay` and `cidr_delay` (s) are what these changes take after the call was answered. `keys.base` are
    credentials that work.
    """

    def __init__(self, region: str = "us-east-2", *, quotas: Quotas = Quotas()) -> None:  # noqa: B008 - it is frozen
        self.region = region
        self._layer = Layer(region, quotas)
        self._servers: list[Server] = []
        self._clients: dict[str, Any] = {}

    @property
    def url(self) -> str:
        """The endpoint's URL, from inside the namespace it was first served in."""
        server = self._servers[0]
        host = str(server.server_address[0])
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        scheme = "https" if server.tls else "http"
        return f"{scheme}://[{host}]:{server.port}" if ":" in host else f"{scheme}://{host}:{server.port}"

    @property
    def port(self) -> int:
        """The port of the endpoint."""
        return self._servers[0].port

    def serve(self, host: str = "0.0.0.0", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """Listen, in the network namespace of the calling thread. May be called for several addresses."""
        self._servers.append(Server((host, port), _Handler, self._layer, tls))

    def close(self) -> None:
        """Stop serving, and forget the account. May be called again."""
        self._layer.close()
        while self._servers:
            self._servers.pop().stop()

    def __enter__(self) -> LabEc2:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def admin(self, service: str = "ec2") -> Any:
        """A boto3 client that calls the lab directly: no network, latency, faults, throttle, lag or record.

        It works in any thread and network namespace. EC2's rules hold for it too.
        """
        if service not in self._clients:
            self._clients[service] = _direct_client(self._layer, service, self.region)
        return self._clients[service]

    # What happened ---------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> list[Call]:
        """Every call so far, in the order they were finished."""
        return list(self._layer.calls)

    def mark(self) -> int:
        """For `calls_since`."""
        return len(self._layer.calls)

    def calls_since(self, mark: int, *actions: str) -> list[Call]:
        """The calls since `mark()`, all or those actions."""
        return [call for call in self._layer.calls[mark:] if not actions or call.action in actions]

    def state(self) -> VpcState:
        """The network as it is now. Immutable; reading it takes no lock."""
        return self._layer.state

    @property
    def under_way(self) -> UnderWay | None:
        """The call that this thread answers; for callbacks of `on_change`. None: an `admin()` client's, or none."""
        return self._layer.under_way

    def on_change(self, callback: Callable[[VpcState], None]) -> None:
        """Call `callback(state)` after each change, in order, before the call that made it is answered.

        It runs in the thread of that call with the layer's lock held: it must be quick.
        """
        self._layer.on_change(callback)

    # How it behaves --------------------------------------------------------------------------------------------------

    @property
    def account_id(self) -> str:
        """The account."""
        return self._layer.moto.account_id

    @property
    def keys(self) -> Keys:
        """The known credentials: `base`, and those made by `add_user`, `add_role_session` and AssumeRole."""
        return self._layer.keys

    @property
    def policies(self) -> Policies:
        """What IAM allows."""
        return self._layer.policies

    @property
    def faults(self) -> Faults:
        """What is to go wrong."""
        return self._layer.faults

    @property
    def latency(self) -> float:
        """Seconds added to each call."""
        return self._layer.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        self._layer.latency = seconds

    @property
    def lag(self) -> float:
        """Seconds that describes are behind the writes."""
        return self._layer.lag

    @lag.setter
    def lag(self, seconds: float) -> None:
        self._layer.lag = seconds

    @property
    def attach_delay(self) -> float:
        """Seconds that an ENI is `attaching`."""
        return self._layer.delays.attach

    @attach_delay.setter
    def attach_delay(self, seconds: float) -> None:
        self._layer.delays.attach = seconds

    @property
    def detach_delay(self) -> float:
        """Seconds that an ENI is `detaching`; by force one at most."""
        return self._layer.delays.detach

    @detach_delay.setter
    def detach_delay(self, seconds: float) -> None:
        self._layer.delays.detach = seconds

    @property
    def stuck_detach(self) -> bool:
        """Whether running instances do not let go: what is detached is `detaching` until it is forced."""
        return self._layer.delays.stuck_detach

    @stuck_detach.setter
    def stuck_detach(self, stuck: bool) -> None:
        self._layer.delays.stuck_detach = stuck

    @property
    def cidr_delay(self) -> float:
        """Seconds that a CIDR of a VPC is `associating`."""
        return self._layer.delays.cidr

    @cidr_delay.setter
    def cidr_delay(self, seconds: float) -> None:
        self._layer.delays.cidr = seconds

    def hurry(self) -> None:
        """Let what is attaching, detaching or associating now be done at once, whatever the delays."""
        self._layer.hurry()

    @property
    def page_size(self) -> int | None:
        """The most items a describe gives at once, if fewer than EC2 would."""
        return self._layer.reads.page_size

    @page_size.setter
    def page_size(self, items: int | None) -> None:
        self._layer.reads.page_size = items


class _Handler(Handler):
    """HTTP to `Layer.handle`."""

    def do_POST(self) -> None:
        """EC2's and STS's query protocol: everything is in the form."""
        self._call(self.body().decode())

    def do_GET(self) -> None:
        """The same, in the URL."""
        self._call(urlsplit(self.path).query)

    def _call(self, form: str) -> None:
        layer: Layer = self.owner
        try:
            status, body = layer.handle(self.headers, dict(parse_qsl(form, keep_blank_values=True)))
        except ConnectionLost:
            self.drop()
            return
        headers = {"Server": "AmazonEC2", "Date": formatdate(usegmt=True)}
        self.answer(status, body, "text/xml;charset=UTF-8", headers)


class _Raw(io.BytesIO):
    """A body as botocore wants it of urllib3."""

    def stream(self, amt: int = 65536, decode_content: bool | None = None) -> Any:
        """The body in chunks."""
        while chunk := self.read(amt):
            yield chunk


@cache
def _session() -> Any:
    """One session for all labs of the process: each would read the whole EC2 model again (0.2 s)."""
    return boto3.session.Session()


_making_clients = threading.Lock()  # a session is not thread-safe


def _direct_client(layer: Layer, service: str, region: str) -> Any:
    """A boto3 client whose requests go to the layer instead of a socket (botocore's `before-send` event)."""
    base = layer.keys.base
    with _making_clients:
        client = _session().client(
            service,
            region_name=region,
            aws_access_key_id=base.access_key,
            aws_secret_access_key=base.secret_key,
            endpoint_url=f"https://{service}.{region}.amazonaws.com",  # whatever AWS_ENDPOINT_URL says
            config=Config(retries={"total_max_attempts": 1}),
        )

    def send(request: Any, **_: Any) -> AWSResponse:
        form = request.body.decode() if isinstance(request.body, bytes) else request.body
        status, body = layer.handle_admin(service, dict(parse_qsl(form, keep_blank_values=True)))
        return AWSResponse(request.url, status, {"Content-Type": "text/xml"}, _Raw(body))

    client.meta.events.register(f"before-send.{service}", send)
    return client
