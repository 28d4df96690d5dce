"""What a Lease must look like: the API server's decoding and validation, as far as leases go."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from lab.kube import status

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_BAD_NAME = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_BAD_KEY = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_LAYOUT = "2006-01-02T15:04:05.000000Z07:00"  # Go's way to write a format
_KEPT_METADATA = ("name", "namespace", "uid", "resourceVersion", "labels", "annotations", "ownerReferences")


def decode(text: bytes) -> dict[str, Any]:
    """A Lease of a request: unknown fields left out, times in UTC. Raises Problem."""
    try:
        body = json.loads(text)
    except ValueError as error:
        shown = text.decode(errors="replace")
        raise status.bad_request(
            "the object provided is unrecognized (must be of type Lease): couldn't get version/kind; "
            f"json parse error: {error} ({shown[:80]})"
        ) from None
    if not isinstance(body, dict):
        raise status.undecodable("json: cannot unmarshal into Go value of type v1.Lease")
    kind = body.get("kind") or "Lease"
    if kind != "Lease":
        raise status.bad_request(
            f'{kind} in version "{body.get("apiVersion")}" cannot be handled as a Lease: '
            f"converting ({body.get('apiVersion')}.{kind}) to (coordination.Lease): unknown conversion"
        )
    metadata, spec = body.get("metadata") or {}, body.get("spec") or {}
    for field in ("labels", "annotations"):
        for value in (metadata.get(field) or {}).values():
            _typed(value, str, f"ObjectMeta.metadata.{field}", "string")
    return {
        "metadata": {key: metadata[key] for key in _KEPT_METADATA if metadata.get(key)},
        "spec": {key: read(spec[key]) for key, read in _SPEC.items() if spec.get(key) is not None},
    }


def check(lease: Mapping[str, Any]) -> None:
    """Raises Problem where a value is not accepted."""
    metadata, spec = lease["metadata"], lease["spec"]
    name = metadata.get("name", "")
    if not name:
        required = "Required value: name or generateName is required"
        raise status.invalid(name, "metadata.name", required, cause="FieldValueRequired")
    if not re.fullmatch(_SUBDOMAIN, name):
        raise status.invalid(name, "metadata.name", f'Invalid value: "{name}": {_BAD_NAME}')
    for key in metadata.get("annotations", {}):
        if not re.fullmatch(_QUALIFIED, key.rpartition("/")[2]):
            raise status.invalid(name, "metadata.annotations", f'Invalid value: "{key}": {_BAD_KEY}')
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration is not None and duration <= 0:
        raise status.invalid(name, "spec.leaseDurationSeconds", f"Invalid value: {duration}: must be greater than 0")
    if transitions is not None and transitions < 0:
        why = f"Invalid value: {transitions}: must be greater than or equal to 0"
        raise status.invalid(name, "spec.leaseTransitions", why)


def _typed(value: object, wanted: type, field: str, go: str) -> Any:
    if not isinstance(value, wanted) or isinstance(value, bool):
        given = {str: "string", bool: "bool", dict: "object", list: "array"}.get(type(value), "number")
        raise status.undecodable(f"json: cannot unmarshal {given} into Go struct field {field} of type {go}")
    return value


def _string(field: str) -> Callable[[object], Any]:
    return lambda value: _typed(value, str, f"LeaseSpec.spec.{field}", "string")


def _int32(field: str) -> Callable[[object], Any]:
    return lambda value: _typed(value, int, f"LeaseSpec.spec.{field}", "int32")


def _micro_time(value: object) -> str:
    if not isinstance(value, str) or not _MICRO_TIME.fullmatch(value):
        tail = value[19:] if isinstance(value, str) else value
        raise status.undecodable(f'parsing time "{value}" as "{_LAYOUT}": cannot parse "{tail}" as ".000000"')
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_SPEC: dict[str, Callable[[object], Any]] = {
    "holderIdentity": _string("holderIdentity"),
    "leaseDurationSeconds": _int32("leaseDurationSeconds"),
    "acquireTime": _micro_time,
    "renewTime": _micro_time,
    "leaseTransitions": _int32("leaseTransitions"),
}
