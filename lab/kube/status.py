"""The Status objects with which an API server refuses, as kube-apiserver 1.35 words them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GROUP = "coordination.k8s.io"
RESOURCE = f"leases.{GROUP}"


@dataclass(frozen=True)
class Resource:
    """A resource of the API: its plural, its group (empty: core) and its kind."""

    plural: str
    group: str
    kind: str

    @property
    def full(self) -> str:
        """As messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


LEASES = Resource("leases", GROUP, "Lease")


class Problem(Exception):
    """A request that is refused; `body` is the Status."""

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            **({"reason": reason} if reason else {}),
            **({} if details is None else {"details": dict(details)}),
            "code": code,
        }
        super().__init__(message)


def details(name: str, kind: str = "leases", group: str = GROUP) -> dict[str, Any]:
    """What a Status says it is about."""
    return {**({"name": name} if name else {}), **({"group": group} if group else {}), "kind": kind}


def unauthorized() -> Problem:
    """No token, or one that is not known."""
    return Problem(401, "Unauthorized", "Unauthorized")


def forbidden(user: str, verb: str, namespace: str, name: str, resource: Resource = LEASES) -> Problem:
    """The rules do not allow it."""
    what = f'{resource.full} "{name}"' if name else resource.full
    where = f'in API group "{resource.group}" in the namespace "{namespace}"'
    message = f'{what} is forbidden: User "{user}" cannot {verb} resource "{resource.plural}" {where}'
    return Problem(403, "Forbidden", message, details(name, resource.plural, resource.group))


def not_found(name: str, resource: Resource = LEASES) -> Problem:
    """There is no such object."""
    return Problem(
        404, "NotFound", f'{resource.full} "{name}" not found', details(name, resource.plural, resource.group)
    )


def no_namespace(namespace: str) -> Problem:
    """There is no such namespace to make something in."""
    return Problem(404, "NotFound", f'namespaces "{namespace}" not found', {"name": namespace, "kind": "namespaces"})


def no_resource() -> Problem:
    """A path that is not served."""
    return Problem(404, "NotFound", "the server could not find the requested resource", {})


def exists(name: str, resource: Resource = LEASES) -> Problem:
    """A create of what there is."""
    about = details(name, resource.plural, resource.group)
    return Problem(409, "AlreadyExists", f'{resource.full} "{name}" already exists', about)


def conflict(name: str, why: str = "") -> Problem:
    """An update or delete of another version than the stored one."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    return Problem(409, "Conflict", f'Operation cannot be fulfilled on {RESOURCE} "{name}": {why}', details(name))


def bad_request(message: str) -> Problem:
    """What cannot be read as a lease."""
    return Problem(400, "BadRequest", message)


def undecodable(why: str) -> Problem:
    """A body whose fields have the wrong types."""
    return bad_request(f'Lease in version "v1" cannot be handled as a Lease: {why}')


def invalid(name: str, field: str, why: str, *, cause: str = "FieldValueInvalid", kind: str = "Lease") -> Problem:
    """A field whose value is not accepted."""
    what = f"{kind}.{GROUP}"
    causes = [{"reason": cause, "message": why, "field": field}]
    message = f'{what} "{name}" is invalid: {field}: {why}'
    return Problem(422, "Invalid", message, {**details(name, kind), "causes": causes})


def invalid_fields(name: str, problems: Sequence[tuple[str, str]], resource: Resource) -> Problem:
    """Fields of an object of a core resource whose values are not accepted: each with why."""
    causes = [
        {
            "reason": "FieldValueRequired" if why.startswith("Required") else "FieldValueInvalid",
            "message": why,
            "field": field,
        }
        for field, why in problems
    ]
    said = [f"{field}: {why}" for field, why in problems]
    text = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    about = {**details(name, resource.kind, resource.group), "causes": causes}
    return Problem(422, "Invalid", f'{resource.kind} "{name}" is invalid: {text}', about)


def expired(asked: int, oldest: int) -> Problem:
    """A watch from a version that is no longer kept; it comes as an event."""
    return Problem(410, "Expired", f"too old resource version: {asked} ({oldest})")
