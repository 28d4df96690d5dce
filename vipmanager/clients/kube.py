"""The Kubernetes API, through the official client: one coordination.k8s.io/v1 Lease.

Objects are handled as the JSON they come in, not as the client's models: times and fields that others put there must
go back exactly as they were read. The client is imported at the first call, because that costs 0.4 s.
"""

from __future__ import annotations

import copy
import http.client
import json
import logging
import os
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.logs import event
from vipmanager.model_node import Lease

log = logging.getLogger("vipmanager.kube")

Kind = TypeVar("Kind")

OFFERED = "vipmanager/offered"
WANTED_BY = "vipmanager/wanted-by"
RESOURCE = "leases.coordination.k8s.io"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONNECT_TIMEOUT = 1.0
"""Seconds for TCP, and for TLS."""
WATCH_FOR = 300
"""Seconds after which the server ends a watch, so that it does not stay with one API server for ever."""
LONGEST = 2 << 20
"""Bytes of an object; etcd takes 1.5 MiB at most."""
UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, UnicodeDecodeError, json.JSONDecodeError)
"""What reading an answer raises that is no Lease."""
REMEMBERED = 8
"""Versions of the object that are kept, for what others wrote into it."""


class LeaseClient:
    """The lease port. Its methods may be called from several threads.

    A watch begins after the version that this client saw last, so that nothing is missed in between and nothing comes
    twice; a client that has seen none is shown the present state first.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        timeout: float,
        *,
        environment: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> None:
        """`timeout` is in seconds, for each answer. Settings are those of KUBECONFIG when it is set, else the pod's."""
        self._namespace = namespace
        self._name = name
        self._timeout = timeout
        self._environment = environment
        self._service_account = service_account
        self._lock = threading.Lock()
        self._api: Any = None
        self._objects: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._version = ""

    def read(self) -> Lease | None:
        """See LeasePort."""
        found = self._find()
        return None if found is None else _lease(found)

    def create(self, lease: Lease) -> Lease:
        """See LeasePort."""
        body: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {},
        }
        _write(body, lease, renew=True, acquire=True)
        return self._remember(self._call("create", self._namespace, body))

    def update(self, lease: Lease, *, renew: bool, acquire: bool = False) -> Lease:
        """See LeasePort. (The uid goes along: else a PUT would make a lease anew that was deleted.)"""
        with self._lock:
            stored = self._objects.get(lease.version)
        if stored is None:
            stored = self._find()
            if stored is None or _version(stored) != lease.version:
                raise self._failure("update", 409, "Conflict", f"version {lease.version} is not the stored one")
        body = copy.deepcopy(stored)
        _write(body, lease, renew=renew, acquire=acquire)
        return self._remember(self._call("update", self._name, self._namespace, body))

    def watch(self, seen: Callable[[Lease | None], None], silence: float) -> None:
        """See LeasePort."""
        with closing(self._events(silence)) as events:
            for lease in events:
                seen(lease)

    def _events(self, silence: float) -> Generator[Lease | None, None, None]:
        with self._lock:
            after = {"resource_version": self._version} if self._version else {}
        try:
            with closing(self._send("watch", silence, self._namespace, **after)) as response:
                for line in _lines(response):
                    kind, found = line["type"], line["object"]
                    if kind == "ERROR":
                        raise _Refused(found)
                    if kind == "DELETED":
                        self._forget(_version(found))
                        yield None
                    elif kind != "BOOKMARK":
                        yield self._remember(found)
        except Exception as error:
            self._forget()  # the next one begins with the present state
            failed = self._classified("watch", error)
            if not after or failed.failure.code not in ("Expired", "Gone"):  # that version is too old to begin after it
                raise failed from None

    def _find(self) -> dict[str, Any] | None:
        try:
            found = self._call("get", self._name, self._namespace)
        except CallError as error:
            if error.failure.code != "NotFound" or error.failure.kind is not ErrorKind.RACE:
                raise
            self._forget()
            return None
        self._remember(found)
        return found

    def _call(self, verb: str, *arguments: Any) -> dict[str, Any]:
        started = monotonic()
        try:
            response = self._send(verb, self._timeout, *arguments)
            answer: dict[str, Any] = json.loads(_body(response))
            _lease(answer)
        except Exception as error:
            failed = self._classified(verb, error)
            event(log, logging.DEBUG, "call", call=failed.failure.call, failed=failed.failure.code)
            raise failed from None
        event(log, logging.DEBUG, "call", call=f"{RESOURCE}:{verb}", took=monotonic() - started)
        return answer

    def _send(self, verb: str, timeout: float, *arguments: Any, **options: Any) -> Any:
        """The answer as urllib3 has it, its body not read yet."""
        api = self._connected()
        method = {
            "get": "read_namespaced_lease",
            "create": "create_namespaced_lease",
            "update": "replace_namespaced_lease",
            "watch": "list_namespaced_lease",
        }[verb]
        if verb == "watch":  # by this field selector alone the authorizer knows the name: resourceNames in a Role
            options |= {"watch": True, "field_selector": f"metadata.name={self._name}", "timeout_seconds": WATCH_FOR}
        function = getattr(type(api), method)
        function = getattr(function, "raw_function", function)  # client 37 would make models of what is sent
        return function(api, *arguments, **options, _preload_content=False, _request_timeout=(CONNECT_TIMEOUT, timeout))

    def _connected(self) -> Any:
        with self._lock:
            if self._api is None:
                self._api = self._connect()
            return self._api

    def _disconnect(self) -> None:
        """Read the settings anew at the next call: tokens and authorities in files are replaced now and then."""
        with self._lock:
            self._api = None

    def _connect(self) -> Any:
        try:
            from kubernetes import client
        except ImportError as error:
            raise _unusable("Missing", f"{error.name}: not installed", "pip install vipmanager[nodeport]") from None
        from kubernetes.config.config_exception import ConfigException

        configuration = client.Configuration()
        configuration.retries = False  # urllib3's own three would use up the time to renew
        try:
            self._configure(configuration)
        except ConfigException as error:  # its text names files and keys, never their content
            remedy = "run it in a pod with its service account's token mounted, or set KUBECONFIG"
            raise _unusable("Configuration", str(error), remedy) from None
        api = client.ApiClient(configuration)
        _be_lenient(api.rest_client.pool_manager.connection_pool_kw)
        _bound_refusals(api.rest_client.pool_manager)
        return client.CoordinationV1Api(api)

    def _configure(self, configuration: Any) -> None:
        if self._environment.get("KUBECONFIG"):
            from kubernetes.config.kube_config import load_kube_config

            load_kube_config(self._environment["KUBECONFIG"], client_configuration=configuration, persist_config=False)
            return
        from kubernetes.config.incluster_config import InClusterConfigLoader

        token, authorities = self._service_account / "token", self._service_account / "ca.crt"
        InClusterConfigLoader(str(token), str(authorities), False, self._environment).load_and_set(configuration)

        def refresh(each: Any) -> None:  # the kubelet replaces the token long before it ends
            each.api_key["BearerToken"] = f"Bearer {token.read_text().strip()}"

        configuration.refresh_api_key_hook = refresh

    def _remember(self, found: dict[str, Any]) -> Lease:
        lease = _lease(found)
        with self._lock:
            self._version = lease.version
            self._objects[lease.version] = found
            self._objects.move_to_end(lease.version)
            while len(self._objects) > REMEMBERED:
                self._objects.popitem(last=False)
        return lease

    def _forget(self, version: str = "") -> None:
        with self._lock:
            self._version = version

    def _classified(self, verb: str, error: Exception) -> CallError:
        """What any exception of the client means. None of its text can hold the token."""
        if isinstance(error, CallError):
            return error
        import urllib3
        from kubernetes.client.exceptions import ApiException

        if isinstance(error, AttributeError) and isinstance(error.__context__, ApiException):
            error = error.__context__  # client 36 fails on its own exception where there is no body: TLS errors
        if isinstance(error, ApiException) and error.status:
            error = _Refused(_status(error.status, error.reason, error.body))
        if isinstance(error, _Refused):
            if error.status == 401:
                self._disconnect()
            return self._failure(verb, error.status, error.reason, error.message)
        code, kind, text = type(error).__name__, ErrorKind.INVALID, "see its type"
        if isinstance(error, ApiException):  # status 0
            self._disconnect()
            code, kind, text = "SSLError", ErrorKind.RETRY, str(error.reason)
        elif isinstance(error, urllib3.exceptions.HTTPError | http.client.HTTPException | OSError):
            kind, text = ErrorKind.RETRY, str(error)
        elif isinstance(error, UNREADABLE):
            code, kind, text = "BadAnswer", ErrorKind.RETRY, "the answer is no Lease: is that a Kubernetes API server?"
        return CallError(Failure(kind, f"{RESOURCE}:{verb}", code, text))

    def _failure(self, verb: str, status: int, reason: str, message: str) -> CallError:
        kind, remedy = ErrorKind.INVALID, ""
        if status in (401, 403):
            kind = ErrorKind.DENIED
            known = "the API server does not accept this pod's token; " if status == 401 else ""
            allow = f"allow {verb} on {RESOURCE} {self._namespace}/{self._name}"
            remedy = f"{known}{allow}: apply samples/nodeport/rbac.yaml"
        elif status == 409 or (reason == "NotFound" and verb in ("get", "update")):
            kind = ErrorKind.RACE
        elif reason == "NotFound" and verb == "create":
            remedy = f"POD_NAMESPACE is {self._namespace}: it must name the namespace of this pod"
        elif status in (408, 410, 429) or status >= 500:
            kind = ErrorKind.RETRY
        where = "" if self._name in message else f" ({self._namespace}/{self._name})"
        return CallError(Failure(kind, f"{RESOURCE}:{verb}", reason, f"{message}{where}", remedy))


def _be_lenient(pool: dict[str, Any]) -> None:
    """Have chain and name of the server verified, but not which X.509 extensions there are.

    With Python 3.13 urllib3 became strict about those, and the CA of many an EKS cluster has none of them:
    github.com/kubernetes-client/python/issues/2394.
    """
    from urllib3.util.ssl_ import create_urllib3_context

    context = create_urllib3_context(cert_reqs=pool.get("cert_reqs"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    pool["ssl_context"] = context


class _TooLong(TypeError):
    """No Lease is as long."""


class _Refused(Exception):
    """The API server said no, with a Status."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self.status = int(status.get("code") or 500)
        self.reason = str(status.get("reason") or f"HTTP{self.status}")
        self.message = str(status.get("message") or self.reason)
        super().__init__(self.message)


def _status(code: int, reason: str, body: object) -> Mapping[str, Any]:
    """The Status object of an answer, or one made up for what a proxy answers."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        status = json.loads(text)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return {**status, "code": code}
    return {"code": code, "reason": f"HTTP{code}", "message": str(reason)}


def _unusable(code: str, text: str, remedy: str) -> CallError:
    return CallError(Failure(ErrorKind.INVALID, "kubernetes client", code, text, remedy))


def _bound_refusals(pool: Any) -> None:
    """The client puts the whole body of an answer that is no success into its exception, however long it is."""
    request = pool.request

    def bounded(*arguments: Any, **options: Any) -> Any:
        response = request(*arguments, **options)
        if not 200 <= response.status < 300:
            response._body = response.read(LONGEST, decode_content=True)  # what `data` shows once it is read
            response.close()
        return response

    pool.request = bounded


def _body(response: Any) -> bytes:
    """The whole of an answer. Raises ValueError where it is longer than any Lease."""
    body: bytes = response.read(LONGEST + 1, decode_content=True)
    if len(body) > LONGEST:
        raise _TooLong
    return body


def _lines(response: Any) -> Iterator[dict[str, Any]]:
    """The JSON lines of a stream, each as soon as it is there."""
    unfinished = b""
    for part in response.stream(amt=None, decode_content=False):
        *lines, unfinished = (unfinished + part).split(b"\n")
        if len(unfinished) > LONGEST:
            raise _TooLong
        yield from (json.loads(line) for line in lines if line.strip())


def _version(found: Mapping[str, Any]) -> str:
    return str(found["metadata"]["resourceVersion"])


def _lease(found: Mapping[str, Any]) -> Lease:
    spec, annotations = found.get("spec") or {}, found["metadata"].get("annotations") or {}
    return Lease(
        holder=_is(str, spec.get("holderIdentity") or ""),
        duration=_is(int, spec.get("leaseDurationSeconds") or 0),
        renewed=_is(str, spec.get("renewTime") or ""),
        transitions=_is(int, spec.get("leaseTransitions") or 0),
        acquired=_is(str, spec.get("acquireTime") or ""),
        offered=_is(str, annotations.get(OFFERED, "")),
        wanted_by=_is(str, annotations.get(WANTED_BY, "")),
        version=_version(found),
    )


def _is(kind: type[Kind], value: Any) -> Kind:
    """The value, where it is of the kind that the API has there. Raises TypeError."""
    if not isinstance(value, kind) or (isinstance(value, int) and not 0 <= value < 1 << 31):
        raise TypeError(f"{type(value).__name__}")
    return value


def _write(body: dict[str, Any], lease: Lease, *, renew: bool, acquire: bool) -> None:
    """Put what the lease says into the object, and leave everything else in it alone."""
    spec, metadata, now = body.setdefault("spec", {}), body["metadata"], micro_time(datetime.now(UTC))
    spec["holderIdentity"] = lease.holder
    spec["leaseDurationSeconds"] = lease.duration if lease.holder else 1  # the API wants more than 0
    spec["leaseTransitions"] = lease.transitions
    if renew:
        spec["renewTime"] = now
    if acquire:
        spec["acquireTime"] = now
    annotations = dict(metadata.get("annotations") or {})
    for key, text in ((OFFERED, lease.offered), (WANTED_BY, lease.wanted_by)):
        if text:
            annotations[key] = text
        else:
            annotations.pop(key, None)
    metadata["annotations"] = annotations


def micro_time(when: datetime) -> str:
    """A time as the API's MicroTime wants it: exactly six digits (apimachinery, meta/v1/micro_time.go)."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
