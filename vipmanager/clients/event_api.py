"""One core/v1 Event, by one HTTPS POST with what the kubelet puts into every pod. No Kubernetes client (decision 0007).

core/v1 and not events.k8s.io/v1: both make the same object, but the Role that people have is for the former, and only
there may an Event say how often something happened. `kubectl describe pod` selects the Pod's Events by
involvedObject.uid (kubectl, pkg/describe/describe.go: searchEvents).
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vipmanager import __version__
from vipmanager.clients.event_queue import PodEvent
from vipmanager.errors import CallError, ErrorKind, Failure

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONNECT_TIMEOUT = 2.0
"""Seconds for TCP, and for each step of the TLS handshake."""
ANSWER_TIMEOUT = 5.0
"""Seconds for the answer."""
COMPONENT = "vipmanager"
MESSAGE_LIMIT = 1024
REASON_LIMIT = 128
INSTANCE_LIMIT = 128
"""Bytes (kubernetes, pkg/apis/core/validation/events.go)."""
_CALL = "events:create"
_TOKEN_LIMIT = 65536
_ANSWER_LIMIT = 65536
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_UID = re.compile(r"[-A-Za-z0-9]{1,64}")
_TOKEN = re.compile(r"[-A-Za-z0-9._~+/=]+")  # RFC 6750; a line break in a header would be shown in an exception


@dataclass(frozen=True)
class PodRef:
    """The own Pod. Without `uid` its events are in `kubectl get events`, but not in `kubectl describe pod`."""

    namespace: str
    name: str
    uid: str = ""


class EventApi:
    """Makes Events. Everything is read anew for each: the kubelet replaces token and authorities while the pod runs."""

    def __init__(self, environment: Mapping[str, str] = os.environ, service_account: Path = SERVICE_ACCOUNT) -> None:
        self._environment = environment
        self._directory = service_account

    def create(self, event: PodEvent, unique: str) -> None:
        """Send one; `unique` (lowercase letters and digits) ends its name, so that trying again makes no second one.

        Raises CallError: DENIED where none will be accepted, INVALID where this one is not, else RETRY.
        """
        host, port = self._server()
        token = self._read("token")
        if not _TOKEN.fullmatch(token):
            raise _off("Token", f"{self._directory}/token holds no bearer token")
        pod = own_pod(self._environment, token, self._read("namespace"))
        if pod is None:
            raise _off("NoPod", "neither the token nor POD_NAME and POD_NAMESPACE say which Pod this is")
        status, answer = self._post(host, port, token, pod, event_object(pod, event, unique))
        if not (200 <= status < 300 or status == 409):  # 409: it exists, the answer to the first attempt was lost
            raise _refused(status, answer)

    def _server(self) -> tuple[str, int]:
        host = self._environment.get("KUBERNETES_SERVICE_HOST", "")
        port = self._environment.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not re.fullmatch(r"[1-9][0-9]{0,4}", port):
            raise _off("NoCluster", "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT name no API server")
        return host.strip("[]"), int(port)

    def _read(self, name: str) -> str:
        try:
            with open(self._directory / name, encoding="ascii") as file:
                return file.read(_TOKEN_LIMIT).strip()
        except (OSError, UnicodeError) as error:
            raise _off("NoServiceAccount", f"{self._directory}/{name}: {_text(error)}") from None

    def _post(self, host: str, port: int, token: str, pod: PodRef, body: Mapping[str, Any]) -> tuple[int, bytes]:
        # Not create_default_context(): since Python 3.13 that is strict about X.509 extensions which the CA of many an
        # EKS cluster lacks (github.com/kubernetes-client/python/issues/2394). Chain and name are verified here too.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self._directory / "ca.crt")
        except OSError as error:
            raise _off("NoServiceAccount", f"{self._directory}/ca.crt: {_text(error)}") from None
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "User-Agent": f"vipmanager/{__version__}",
            "Connection": "close",
        }
        path = f"/api/v1/namespaces/{pod.namespace}/events"
        try:
            with closing(
                http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT, context=context)
            ) as connection:
                connection.connect()
                connection.sock.settimeout(ANSWER_TIMEOUT)
                connection.request("POST", path, json.dumps(body), headers)
                answer = connection.getresponse()
                return answer.status, answer.read(_ANSWER_LIMIT)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise CallError(Failure(ErrorKind.RETRY, _CALL, type(error).__name__, _text(error))) from None


def own_pod(environment: Mapping[str, str], token: str, namespace: str) -> PodRef | None:
    """Which Pod this is: POD_NAME, POD_NAMESPACE and POD_UID where they are set, else what its token is bound to.

    `namespace` is the service account's, which is the pod's. None where the name is not known or not one.
    """
    bound = bound_pod(token)
    name = environment.get("POD_NAME") or (bound.name if bound else "")
    where = environment.get("POD_NAMESPACE") or (bound.namespace if bound else "") or namespace
    uid = environment.get("POD_UID", "")
    if not uid and bound is not None and (bound.namespace, bound.name) == (where, name):
        uid = bound.uid
    if not _SUBDOMAIN.fullmatch(name) or not _LABEL.fullmatch(where):
        return None
    return PodRef(where, name, uid if _UID.fullmatch(uid) else "")


def bound_pod(token: str) -> PodRef | None:
    """The Pod that a service account token is bound to, by its claims; None where it is bound to none.

    (Kubernetes, "Managing Service Accounts": `kubernetes.io` → namespace, pod → name and uid.) The signature is for
    the API server to verify: a wrong claim gets us an Event on another Pod, which the token allows anyway.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["kubernetes.io"]
        found = (claims["namespace"], claims["pod"]["name"], claims["pod"]["uid"])
    except (LookupError, TypeError, ValueError, RecursionError):
        return None
    return PodRef(*found) if all(isinstance(each, str) for each in found) else None


def event_object(pod: PodRef, event: PodEvent, unique: str) -> dict[str, Any]:
    """The Event as the API takes it; `unique` ends its name."""
    reason = _cut(event.reason, REASON_LIMIT)
    about = {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": pod.namespace, "name": f"{pod.name[:200].rstrip('-.')}.{unique}"},
        "involvedObject": {**about, **({"uid": pod.uid} if pod.uid else {})},
        "type": "Warning" if event.warning else "Normal",
        "reason": reason,
        "action": reason,  # eventTime demands one, and the two that follow
        "reportingComponent": COMPONENT,
        "reportingInstance": _cut(pod.name, INSTANCE_LIMIT),
        "source": {"component": COMPONENT},
        "message": _cut(event.message, MESSAGE_LIMIT),
        "eventTime": _time(event.first, "%Y-%m-%dT%H:%M:%S.%fZ"),
        "firstTimestamp": _time(event.first, "%Y-%m-%dT%H:%M:%SZ"),
        "lastTimestamp": _time(event.last, "%Y-%m-%dT%H:%M:%SZ"),
        "count": event.times,
    }


def _time(seconds: float, form: str) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def _cut(text: str, limit: int) -> str:
    """At most so many bytes of UTF-8."""
    data = text.encode(errors="replace")
    return data[:limit].decode(errors="ignore") if len(data) > limit else data.decode()


def _refused(status: int, answer: bytes) -> CallError:
    """What an answer without success means. A 401 is tried again: the token may just have been replaced."""
    try:
        found = json.loads(answer)
        code, message = str(found["reason"]), str(found["message"])[:MESSAGE_LIMIT]
    except (LookupError, TypeError, ValueError, RecursionError):
        code, message = f"HTTP{status}", http.client.responses.get(status, "no Status object")
    remedy = ""
    if status in (403, 404, 405):
        kind, remedy = ErrorKind.DENIED, "allow create on events: apply samples/rbac-events.yaml"
    elif status in (401, 408, 429) or status >= 500:
        kind = ErrorKind.RETRY
    else:
        kind = ErrorKind.INVALID
    return CallError(Failure(kind, _CALL, code, message, remedy))


def _off(code: str, text: str) -> CallError:
    return CallError(Failure(ErrorKind.DENIED, _CALL, code, text))


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
