"""A small test server for Leases and Events: what kube-apiserver 1.35 answers, with tokens and RBAC."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lab.ec2.web import Handler, Server
from lab.kube import events, keys, rbac, reviews, status, validation
from lab.kube.api import Api, trusting
from lab.kube.backend import NAMESPACE, SERVER_ADDRESS, account_of, cluster_at, user_of
from lab.kube.events import Events
from lab.kube.leases import Leases
from lab.netns import Namespace

_EVERYTHING: rbac.Rules = ({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},)
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "DELETE": "delete"}
_WATCH_FOR = 1800.0  # seconds, where the request does not say


class LeaseServer:
    """Serves the leases and events of one namespace on the loopback of a network namespace. See Backend."""

    version = "test server for leases"
    namespace = NAMESPACE

    def __init__(self, ns: Namespace, directory: Path) -> None:
        """Listen. The certificate is made in `directory`."""
        self.ns = ns
        self.leases = Leases(self.namespace)
        self.events = Events(self.namespace)
        self.authority, key = keys.make_certificate(directory, [SERVER_ADDRESS, "127.0.0.1"])
        token = secrets.token_urlsafe(24)
        self._users = {token: "admin"}
        self._rules: dict[str, rbac.Rules] = {"admin": _EVERYTHING}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority, key)
        self._server = ns.run(lambda: Server(("127.0.0.1", 0), _Handler, self, context))
        self.address = ("127.0.0.1", self._server.port)
        self.admin = Api(ns, self.address, trusting(self.authority), f"Bearer {token}")

    def cluster(self, address: tuple[str, int]) -> Mapping[str, object]:
        """See Backend."""
        return cluster_at(address, self.authority)

    def token(self, worker: str) -> str:
        """See Backend."""
        token = secrets.token_urlsafe(24)
        self._users[token] = user_of(self.namespace, worker)
        return token

    def make_pod(self, name: str, owner: str) -> str:
        """See Backend. Nobody asks for the Pod."""
        return str(uuid.uuid4())

    def pod_token(self, owner: str, pod: str, uid: str) -> str:
        """See Backend: the claims are the real one's, the signature is of nobody."""
        claims = {
            "iss": "https://kubernetes.default.svc",
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": self.namespace,
                "pod": {"name": pod, "uid": uid},
                "serviceaccount": {"name": account_of(owner), "uid": str(uuid.uuid4())},
            },
            "sub": user_of(self.namespace, owner),
        }
        parts = (json.dumps({"alg": "none"}), json.dumps(claims), secrets.token_urlsafe(24))
        token = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
        self._users[token] = user_of(self.namespace, owner)
        return token

    def allow(self, worker: str, rules: rbac.Rules) -> None:
        """See Backend."""
        self._rules[user_of(self.namespace, worker)] = rules

    def close(self) -> None:
        """See Backend."""
        self.leases.close()
        self._server.stop()

    def review(self, authorization: str, body: bytes) -> dict[str, Any]:
        """Whether the owner of a token may do something. Raises Problem where the token is not known."""
        return reviews.answer(self._rules.get(self._user(authorization), ()), body, self.namespace)

    def authorize(self, authorization: str, request: Request) -> None:
        """Raises Problem where the token is not known or the rules do not allow the request."""
        user = self._user(authorization)
        resource, rules = request.resource, self._rules.get(user, ())
        if not rbac.allows(rules, request.verb, request.name, group=resource.group, resource=resource.plural):
            raise status.forbidden(user, request.verb, request.namespace, request.name, resource)

    def _user(self, authorization: str) -> str:
        kind, _, token = authorization.partition(" ")
        user = self._users.get(token.strip()) if kind.lower() == "bearer" else None
        if user is None:
            raise status.unauthorized()
        return user


@dataclass(frozen=True)
class Request:
    """A request about leases or events. `name` may come from the field selector of a list or watch: `selected`."""

    verb: str
    namespace: str
    name: str
    query: Mapping[str, str]
    resource: status.Resource = status.LEASES

    @classmethod
    def parse(cls, method: str, url: str) -> Request:
        """Read method and URL. Raises Problem."""
        parts = urlsplit(url)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        match parts.path.strip("/").split("/"):
            case ["apis", status.GROUP, "v1", "namespaces", namespace, "leases", *rest] if len(rest) < 2:
                name, verb = "".join(rest), _VERBS[method]
            case ["api", "v1", "namespaces", namespace, "events"] if method in ("GET", "POST"):
                return cls("list" if method == "GET" else "create", namespace, "", query, events.RESOURCE)
            case _:
                raise status.no_resource()
        if verb == "get" and not name:
            verb = "watch" if query.get("watch", "").lower() in ("1", "true") else "list"
            name = _selected(query.get("fieldSelector", ""))
        elif bool(name) == (verb == "create"):
            message = "the server does not allow this method on the requested resource"
            raise status.Problem(405, "MethodNotAllowed", message, {})
        return cls(verb, namespace, name, query)


class _Handler(Handler):
    """HTTP to `Leases`."""

    def do_GET(self) -> None:
        """Get, list, watch."""
        self._serve()

    def do_POST(self) -> None:
        """Create."""
        self._serve()

    def do_PUT(self) -> None:
        """Update."""
        self._serve()

    def do_DELETE(self) -> None:
        """Delete."""
        self._serve()

    def _serve(self) -> None:
        server: LeaseServer = self.owner
        body = self.body()
        authorization = self.headers.get("Authorization", "")
        try:
            if (self.command, self.path) == ("POST", reviews.PATH):
                self.answer(201, json.dumps(server.review(authorization, body)).encode(), "application/json")
                return
            request = Request.parse(self.command, self.path)
            server.authorize(authorization, request)
            if request.verb == "watch":
                self._watch(server.leases, request)
                return
            if request.resource is events.RESOURCE:
                code, answer = _do_event(server.events, request, body)
            else:
                code, answer = _do(server.leases, request, body)
        except status.Problem as problem:
            code, answer = problem.code, problem.body
        self.answer(code, json.dumps(answer).encode(), "application/json")

    def _watch(self, leases: Leases, request: Request) -> None:
        version = request.query.get("resourceVersion", "")
        if version and not version.isdecimal():
            why = f'strconv.ParseUint: parsing "{version}": invalid syntax'
            raise status.Problem(500, "", f'resourceVersion: Invalid value: "{version}": {why}')
        seconds = float(request.query.get("timeoutSeconds", _WATCH_FOR))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        if request.namespace == leases.namespace:
            for event in leases.watch(request.name, version, seconds):
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")


def _do(leases: Leases, request: Request, body: bytes) -> tuple[int, dict[str, Any]]:
    if request.namespace != leases.namespace:
        if request.verb in ("create", "update"):
            raise status.no_namespace(request.namespace)
        raise status.not_found(request.name)
    match request.verb:
        case "get":
            return 200, leases.get(request.name)
        case "list":
            return 200, leases.find(request.name)
        case "create":
            return 201, leases.create(validation.decode(body))
        case "update":
            stored, made = leases.replace(request.name, validation.decode(body))
            return 201 if made else 200, stored
        case _:
            gone = leases.delete(request.name)
            about = {**status.details(request.name), "uid": gone["metadata"]["uid"]}
            done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": about}
            return 200, done


def _do_event(stored: Events, request: Request, body: bytes) -> tuple[int, dict[str, Any]]:
    if request.verb == "list":
        return 200, stored.find(request.query.get("fieldSelector", ""))
    if request.namespace != stored.namespace:
        raise status.no_namespace(request.namespace)
    return 201, stored.create(events.decode(body))


def _selected(selector: str) -> str:
    """The name that a field selector asks for."""
    if not selector:
        return ""
    field, _, value = selector.partition("=")
    if field != "metadata.name":
        known = 'only "metadata.name", "metadata.namespace"'
        raise status.bad_request(f'"{field}" is not a known field selector: {known}')
    return value.removeprefix("=")
