"""The instance metadata service, version 2 only, from what the lab's EC2 knows.

Paths and texts follow "Instance metadata categories" and "Use IMDS" of the EC2 user guide. One server serves every
instance: who asks is told from the address a request comes from.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message

from lab.ec2.auth import Credentials
from lab.ec2.server import LabEc2
from lab.ec2.state import Eni, Instance, VpcState
from lab.ec2.web import Handler, Server

TOKEN_PATH = "/latest/api/token"
_META = "/latest/meta-data/"
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "X-aws-ec2-metadata-token"
_LONGEST_TTL = 21600  # s: six hours

_ROLE_LIFETIME = 6 * 3600.0  # s
_ROLE_RENEWAL = 300.0  # s: "new credentials available at least five minutes before the expiration of the old"


@dataclass(frozen=True)
class Request:
    """A recorded request. `status` 0: never answered. Times are `time.monotonic()`'s."""

    method: str
    path: str
    source: str
    status: int
    started: float
    finished: float


@dataclass(frozen=True)
class _Asker:
    """Whose metadata an address gets."""

    instance_id: str
    role: str | None


class _Unanswered(Exception):
    """The request is to be left without an answer."""


class LabImds:
    """IMDS for the instances of a `LabEc2`. Thread-safe. `requests` records what came in."""

    def __init__(self, ec2: LabEc2) -> None:
        self.requests: list[Request] = []
        self._ec2 = ec2
        self._lock = threading.Lock()
        self._askers: dict[str, _Asker] = {}
        self._tokens: dict[str, float] = {}  # → monotonic time of expiry
        self._role_sessions: dict[_Asker, Credentials] = {}
        self._servers: list[Server] = []
        self._refusing = False
        self._blocked: frozenset[str] = frozenset()  # methods
        self._unblocked = threading.Event()
        self._closed = threading.Event()
        self._delay = 0.0
        self._failures: list[int] = []
        self._failing = 0
        self._token_lifetime: float | None = None

    def serve(self, host: str = "169.254.169.254", port: int = 80) -> None:
        """Listen, in the network namespace of the calling thread."""
        self._servers.append(Server((host, port), _Handler, self))

    @property
    def port(self) -> int:
        """The port of the endpoint."""
        return self._servers[0].port

    def close(self) -> None:
        """Stop serving. May be called again."""
        self._closed.set()
        self._unblocked.set()
        while self._servers:
            self._servers.pop().stop()

    def register(self, source_ip: str, instance_id: str, role: str | None = None) -> None:
        """Give what asks from that address the metadata of the instance, and credentials of the IAM role if any."""
        with self._lock:
            self._askers[source_ip] = _Asker(instance_id, role)

    def unregister(self, source_ip: str) -> None:
        """Forget an address: it gets 404 from now on."""
        with self._lock:
            self._askers.pop(source_ip, None)

    # What can go wrong -----------------------------------------------------------------------------------------------

    def block(self, *methods: str) -> None:
        """Accept connections but answer no request of these methods (none given: any), until `unblock`.

        `block("PUT")` is a hop limit of 1 seen from a pod: the answer that bears the token never arrives.
        """
        self._unblocked.clear()
        self._blocked = frozenset(methods or ("GET", "PUT", "HEAD"))

    def refuse(self) -> None:
        """Refuse connections until `unblock`."""
        if not self._refusing:
            self._refusing = True
            for server in self._servers:
                server.pause()

    def unblock(self) -> None:
        """End `block` and `refuse`; requests that were waiting are dropped."""
        self._blocked = frozenset()
        self._unblocked.set()
        if self._refusing:
            self._refusing = False
            for server in self._servers:
                server.resume()

    def slow(self, seconds: float) -> None:
        """Answer each request so much later; 0 ends it."""
        self._delay = seconds

    def fail_next(self, number: int, status: int = 503) -> None:
        """Answer the next requests with this status."""
        with self._lock:
            self._failures += [status] * number

    def fail(self, status: int) -> None:
        """Answer every request with this status; 0 ends it."""
        self._failing = status

    def expire_tokens(self, after: float | None = None) -> None:
        """Let every token given out so far be invalid, and those given out from now on after so many seconds.

        `after` None: after the time that was asked for.
        """
        with self._lock:
            self._tokens.clear()
            self._token_lifetime = after

    # Answering -------------------------------------------------------------------------------------------------------

    def handle(
        self, method: str, path: str, source: str, headers: Message[str, str]
    ) -> tuple[int, str, dict[str, str]]:
        """Answer a request: status, text, extra headers. Raises `_Unanswered`."""
        started = time.monotonic()
        status = 0
        try:
            self._suffer(method)
            status, text, extra = self._answer(method, path, source, headers)
            return status, text, extra
        finally:
            self.requests.append(Request(method, path, source, status, started, time.monotonic()))

    def _suffer(self, method: str) -> None:
        if method in self._blocked:
            self._unblocked.wait()
            raise _Unanswered
        if self._delay:
            self._closed.wait(self._delay)

    def _answer(
        self, method: str, path: str, source: str, headers: Message[str, str]
    ) -> tuple[int, str, dict[str, str]]:
        with self._lock:
            if self._failures:
                return self._failures.pop(0), "", {}
        if self._failing:
            return self._failing, "", {}
        if path == TOKEN_PATH:
            return self._give_token(method, headers)
        if method != "GET":
            return 405, "", {}
        token = headers.get(_TOKEN_HEADER, "")
        with self._lock:
            left = self._tokens.get(token, 0.0) - time.monotonic()
            asker = self._askers.get(source)
        if left <= 0:  # version 1 has no token at all
            return 401, "", {}
        instance = self._ec2.state().instances.get(asker.instance_id) if asker else None
        text = self._look_up(asker, instance, path) if asker and instance else None
        if text is None:
            return 404, "", {}
        return 200, text, {_TTL_HEADER: str(int(left))}

    def _give_token(self, method: str, headers: Message[str, str]) -> tuple[int, str, dict[str, str]]:
        if method != "PUT":
            return 405, "", {}
        if headers.get("X-Forwarded-For"):
            return 403, "", {}
        ttl = headers.get(_TTL_HEADER, "")
        if not ttl.isdecimal() or not 1 <= int(ttl) <= _LONGEST_TTL:
            return 400, "", {}
        token = secrets.token_urlsafe(40)
        with self._lock:
            lifetime = float(ttl) if self._token_lifetime is None else self._token_lifetime
            self._tokens[token] = time.monotonic() + lifetime
        return 200, token, {_TTL_HEADER: ttl}

    def _look_up(self, asker: _Asker, instance: Instance, path: str) -> str | None:
        state = self._ec2.state()
        if path == "/latest/dynamic/instance-identity/document":
            return _identity_document(state, instance)
        if not path.startswith(_META):
            return None
        wanted = path.removeprefix(_META)
        if asker.role and wanted == f"iam/security-credentials/{asker.role}":
            return _credentials_document(self._role_credentials(asker))
        return _find(dict(_metadata(state, instance, asker.role)), wanted)

    def _role_credentials(self, asker: _Asker) -> Credentials:
        """The role's credentials on that instance: the same ones until they are due for renewal."""
        with self._lock:
            held = self._role_sessions.get(asker)
            if held is None or _seconds_left(held) < _ROLE_RENEWAL:
                held = self._ec2.keys.add_role_session(asker.role or "", asker.instance_id, _ROLE_LIFETIME)
                self._role_sessions[asker] = held
            return held


def _seconds_left(credentials: Credentials) -> float:
    return (credentials.expires - datetime.now(UTC)).total_seconds() if credentials.expires else float("inf")


def _find(metadata: Mapping[str, str], wanted: str) -> str | None:
    """The text at a path; of a directory the list of what is in it, its directories with a slash. None: 404."""
    if wanted in metadata:
        return metadata[wanted]
    directory = wanted.rstrip("/") + "/" if wanted else ""
    below = (path.removeprefix(directory) for path in metadata if path.startswith(directory))
    entries = {path.partition("/")[0] + ("/" if "/" in path else "") for path in below}
    return "\n".join(sorted(entries)) or None


def _metadata(state: VpcState, instance: Instance, role: str | None) -> Iterator[tuple[str, str]]:
    """Everything below /latest/meta-data/: path, text."""
    # What is being attached is not shown yet; what is being detached, still.
    enis = [eni for eni in state.enis_of_instance(instance.instance_id) if not eni.attaching]
    yield "ami-id", instance.image_id
    yield "instance-id", instance.instance_id
    yield "instance-type", instance.instance_type
    yield "placement/availability-zone", instance.availability_zone
    yield "placement/region", state.region
    yield "services/domain", "amazonaws.com"
    yield "services/partition", "aws"
    if role:
        yield f"iam/security-credentials/{role}", ""  # its text is made when it is asked for
    if enis:
        yield "local-ipv4", str(enis[0].primary_ip)
        yield "mac", enis[0].mac
        if enis[0].ipv6_addresses:
            yield "ipv6", str(enis[0].ipv6_addresses[0])
    for eni in enis:
        for name, text in _interface(state, eni):
            if text:  # what an interface has none of is not there: 404
                yield f"network/interfaces/macs/{eni.mac}/{name}", text


def _interface(state: VpcState, eni: Eni) -> Iterator[tuple[str, str]]:
    """What is below network/interfaces/macs/MAC/."""
    subnet, vpc = state.subnets[eni.subnet_id], state.vpcs[eni.vpc_id]
    yield "device-number", str(eni.device_index)
    yield "interface-id", eni.eni_id
    yield "ipv6s", _lines(eni.ipv6_addresses)
    yield "local-ipv4s", _lines(each.address for each in eni.private_addresses)
    yield "mac", eni.mac
    yield "owner-id", eni.owner_id
    yield "public-ipv4s", _lines(each.public.public_ip for each in eni.private_addresses if each.public)
    yield "security-group-ids", _lines(group for group, _ in eni.groups)
    yield "security-groups", _lines(name for _, name in eni.groups)
    yield "subnet-id", eni.subnet_id
    yield "subnet-ipv4-cidr-block", str(subnet.cidr)
    yield "subnet-ipv6-cidr-blocks", _lines(cidr for _, cidr in subnet.ipv6_cidrs)
    yield "vpc-id", eni.vpc_id
    yield "vpc-ipv4-cidr-block", str(vpc.cidr)
    yield "vpc-ipv4-cidr-blocks", _lines(cidr for _, cidr in vpc.cidrs)
    yield "vpc-ipv6-cidr-blocks", _lines(cidr for _, cidr in vpc.ipv6_cidrs)
    for each in eni.private_addresses:
        if each.public:
            yield f"ipv4-associations/{each.public.public_ip}", str(each.address)


def _lines(values: Iterable[object]) -> str:
    return "\n".join(str(value) for value in values)


def _identity_document(state: VpcState, instance: Instance) -> str:
    enis = state.enis_of_instance(instance.instance_id)
    return json.dumps(
        {
            "accountId": state.account_id,
            "architecture": "x86_64",
            "availabilityZone": instance.availability_zone,
            "imageId": instance.image_id,
            "instanceId": instance.instance_id,
            "instanceType": instance.instance_type,
            "pendingTime": _time(instance.launch_time),
            "privateIp": str(enis[0].primary_ip) if enis else None,
            "region": state.region,
            "version": "2017-09-30",
        },
        indent=2,
    )


def _credentials_document(credentials: Credentials) -> str:
    return json.dumps(
        {
            "Code": "Success",
            "LastUpdated": _time(datetime.now(UTC)),
            "Type": "AWS-HMAC",
            "AccessKeyId": credentials.access_key,
            "SecretAccessKey": credentials.secret_key,
            "Token": credentials.token,
            "Expiration": _time(credentials.expires),
        },
        indent=2,
    )


def _time(when: datetime | None) -> str | None:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ") if when else None


class _Handler(Handler):
    """HTTP to `LabImds.handle`."""

    def do_GET(self) -> None:
        """A GET."""
        self._serve()

    def do_HEAD(self) -> None:
        """A HEAD: not allowed."""
        self._serve()

    def do_PUT(self) -> None:
        """A PUT: of the token."""
        self._serve()

    def _serve(self) -> None:
        imds: LabImds = self.owner
        self.body()
        try:
            status, text, headers = imds.handle(self.command, self.path, self.client_address[0], self.headers)
        except _Unanswered:
            self.drop()
            return
        body = b"" if self.command == "HEAD" else text.encode()
        self.answer(status, body, "text/plain", {"Server": "EC2ws", **headers})
