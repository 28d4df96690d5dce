"""The core/v1 Events of the small test server: what kube-apiserver 1.35 accepts and keeps of them."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from lab.kube import status

Event = dict[str, Any]

RESOURCE = status.Resource("events", "", "Event")
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_BAD_COMPONENT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
_LIMITS = {"reportingInstance": 128, "action": 128, "reason": 128, "message": 1024}
_MAY_BE_EMPTY = "message"
_FIELDS = ("reason", "message", "type", "action", "reportingComponent", "reportingInstance")
_REFERENCE = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


class Events:
    """The Events of one namespace. Methods raise Problem."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._lock = threading.Lock()
        self._stored: dict[str, Event] = {}

    def create(self, event: Event) -> Event:
        """Make one."""
        metadata = event["metadata"]
        if metadata.get("namespace", self.namespace) != self.namespace:
            raise status.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        check(event, self.namespace)
        with self._lock:
            name = metadata["name"]
            if name in self._stored:
                raise status.exists(name, RESOURCE)
            made = {
                "name": name,
                "namespace": self.namespace,
                "uid": str(uuid.uuid4()),
                "resourceVersion": str(200 + len(self._stored)),
                "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            self._stored[name] = {"kind": "Event", "apiVersion": "v1", **event, "metadata": made}
            return self._stored[name]

    def find(self, selector: str) -> dict[str, Any]:
        """The list of those that a field selector of involvedObject selects; empty: all."""
        wanted = [each.partition("=")[::2] for each in selector.split(",") if each]
        for field, _ in wanted:
            if field.partition(".")[0] != "involvedObject" or field.partition(".")[2] not in _REFERENCE:
                raise status.bad_request(f'field label not supported: "{field}"')
        with self._lock:
            items = [
                event
                for event in self._stored.values()
                if all(event["involvedObject"].get(field.partition(".")[2], "") == value for field, value in wanted)
            ]
            version = str(199 + len(self._stored))
        return {"kind": "EventList", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}

    def clear(self) -> None:
        """Forget all, as the API does after an hour."""
        with self._lock:
            self._stored.clear()


def decode(text: bytes) -> Event:
    """An Event of a request: unknown fields left out, times in UTC. Raises Problem."""
    try:
        body = json.loads(text)
    except ValueError as error:
        raise status.bad_request(
            "the object provided is unrecognized (must be of type Event): couldn't get version/kind; "
            f"json parse error: {error}"
        ) from None
    if not isinstance(body, dict):
        raise _undecodable("json: cannot unmarshal into Go value of type v1.Event")
    if (body.get("kind") or "Event") != "Event":
        raise status.bad_request(
            f'{body["kind"]} in version "v1" cannot be handled as a Event: no kind "{body["kind"]}" is registered'
        )
    if (body.get("metadata") or {}).get("resourceVersion"):
        raise status.Problem(500, "", "resourceVersion should not be set on objects to be created")
    about, source = body.get("involvedObject") or {}, body.get("source") or {}
    return {
        "metadata": {key: text for key, text in (body.get("metadata") or {}).items() if key in ("name", "namespace")},
        "involvedObject": {key: _text(about[key], f"involvedObject.{key}") for key in _REFERENCE if about.get(key)},
        "source": {key: _text(source[key], f"source.{key}") for key in ("component", "host") if source.get(key)},
        "reportingComponent": "",
        "reportingInstance": "",
        **{key: _text(body[key], key) for key in _FIELDS if body.get(key)},
        **({"count": _number(body["count"])} if body.get("count") else {}),
        "firstTimestamp": _time(body.get("firstTimestamp"), _SECONDS),
        "lastTimestamp": _time(body.get("lastTimestamp"), _SECONDS),
        "eventTime": _time(body.get("eventTime"), _MICROSECONDS),
    }


def check(event: Mapping[str, Any], namespace: str) -> None:
    """Raises Problem where a value is not accepted (pkg/apis/core/validation/events.go). Names are not looked at."""
    name, about = event["metadata"].get("name", ""), event["involvedObject"].get("namespace", "")
    problems: list[tuple[str, str]] = []
    if not name:
        problems.append(("metadata.name", "Required value: name or generateName is required"))
    elif event["eventTime"] is None:
        if about != namespace:
            problems.append(("involvedObject.namespace", f'Invalid value: "{about}": does not match event.namespace'))
    else:
        if not about:
            problems.append(("involvedObject.namespace", 'Invalid value: "": does not match event.namespace'))
        problems += _series(event)
    if problems:
        raise status.invalid_fields(name, problems, RESOURCE)


def _series(event: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is asked of an Event with a time in microseconds."""
    component, problems = event["reportingComponent"], []
    if not component:
        problems.append(("reportingComponent", "Required value"))
        problems.append(("reportingComponent", 'Invalid value: "": name part must be non-empty'))
    if not re.fullmatch(_QUALIFIED, component.rpartition("/")[2]):
        problems.append(("reportingComponent", f'Invalid value: "{component}": {_BAD_COMPONENT}'))
    for field, limit in _LIMITS.items():
        given = event.get(field, "")
        if not given and field != _MAY_BE_EMPTY:
            problems.append((field, "Required value"))
        if len(given.encode()) > limit:
            problems.append((field, f'Invalid value: "": can have at most {limit} characters'))
    return problems


_SECONDS = (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", "%Y-%m-%dT%H:%M:%SZ", "2006-01-02T15:04:05Z07:00")
_MICROSECONDS = (
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)",
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "2006-01-02T15:04:05.000000Z07:00",
)


def _time(value: object, form: tuple[str, str, str]) -> str | None:
    if value is None:
        return None
    pattern, written, layout = form
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise _undecodable(f'parsing time "{value}" as "{layout}": cannot parse "{value}" as "2006"')
    return datetime.fromisoformat(value).astimezone(UTC).strftime(written)


def _typed(wanted: type, go: str) -> Callable[[object, str], Any]:
    def read(value: object, field: str) -> Any:
        if not isinstance(value, wanted) or isinstance(value, bool):
            given = {str: "string", bool: "bool", dict: "object", list: "array"}.get(type(value), "number")
            raise _undecodable(f"json: cannot unmarshal {given} into Go struct field Event.{field} of type {go}")
        return value

    return read


_text = _typed(str, "string")


def _number(value: object) -> Any:
    return _typed(int, "int32")(value, "count")


def _undecodable(why: str) -> status.Problem:
    return status.bad_request(f'Event in version "v1" cannot be handled as a Event: {why}')
