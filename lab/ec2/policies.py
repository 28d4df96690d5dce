"""What IAM lets each principal do: policy documents, evaluated against the lab's state.

Sources: IAM User Guide, "Policy evaluation logic", "IAM JSON policy elements"; the resources and condition keys of each
action: Service Authorization Reference, "Actions, resources, and condition keys for Amazon EC2" (October 2026). What a
document says and is not known here raises when it is attached, so that no test passes because a rule was ignored.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.ec2.auth import Credentials
from lab.ec2.errors import unauthorized
from lab.ec2.params import Params
from lab.ec2.resources import Resource, requests
from lab.ec2.state import VpcState

MAX_SIZE = 6144  # characters of a managed policy without white space (IAM User Guide, "IAM and AWS STS quotas")
_ELEMENTS = {"Sid", "Effect", "Action", "Resource", "Condition"}
_KEYS = re.compile(r"ec2:Vpc|ec2:CreateAction|ec2:Region|aws:TagKeys|(aws:(Resource|Request)|ec2:Resource)Tag/.+")
_OPERATORS = re.compile(r"(ForAllValues:|ForAnyValue:)?(StringEquals|StringLike|ArnEquals|ArnLike)|Null")


@dataclass(frozen=True)
class _Statement:
    """A statement of a document that was found to be good."""

    allow: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...]  # (operator, key, values)

    def covers(self, action: str, resource: Resource) -> bool:
        """Whether it speaks of this action on this resource."""
        return (
            any(_like(action.lower(), each.lower()) for each in self.actions)
            and any(each == "*" or _like_arn(resource.arn, each) for each in self.resources)
            and all(_holds(*condition, resource.context) for condition in self.conditions)
        )


class Policies:
    """The policies of the account. Thread-safe. Who has none attached may do everything: few tests are about IAM."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attached: dict[str, tuple[_Statement, ...]] = {}

    def attach(self, principal: str, document: Mapping[str, Any]) -> None:
        """Let an access key, or every session of a role (its ARN), do what its documents allow and no more.

        Raises ValueError for a document that IAM would refuse, or that says what the lab does not know.
        """
        statements = tuple(_statements(document))
        with self._lock:
            self._attached[principal] = (*self._attached.get(principal, ()), *statements)

    def detach_all(self, principal: str) -> None:
        """Take its documents away: it may do everything again."""
        with self._lock:
            self._attached.pop(principal, None)

    def check(self, caller: Credentials, service: str, action: str, request: Params, state: VpcState) -> None:
        """Raises UnauthorizedOperation (EC2) or AccessDenied (STS) for the first resource that is not allowed."""
        with self._lock:
            mine = [self._attached[each] for each in (caller.access_key, _role(caller)) if each in self._attached]
        if not mine or action == "GetCallerIdentity":  # "No permissions are required" (STS API reference)
            return
        statements = [statement for document in mine for statement in document]
        for wanted, resource in requests(service, action, request, state):
            covering = [each for each in statements if each.covers(wanted, resource)]
            denied = any(not each.allow for each in covering)
            if denied or not covering:
                named = None if resource.arn == "*" else resource.arn
                raise unauthorized(service, wanted, caller.principal, named, explicit=denied)


def _role(caller: Credentials) -> str:
    """The ARN of the role whose session the caller is; empty for a user."""
    match = re.fullmatch(r"arn:([\w-]+):sts::(\d+):assumed-role/([^/]+)/.+", caller.principal)
    return f"arn:{match[1]}:iam::{match[2]}:role/{match[3]}" if match else ""


# Documents ---------------------------------------------------------------------------------------------------------


def _statements(document: Mapping[str, Any]) -> Iterator[_Statement]:
    """Raises ValueError."""
    _insist(set(document) <= {"Version", "Id", "Statement"}, f"unknown elements in {sorted(document)}")
    _insist(document.get("Version") == "2012-10-17", 'Version must be "2012-10-17"')
    size = len(json.dumps(document, separators=(",", ":")))
    _insist(size <= MAX_SIZE, f"{size} characters are more than {MAX_SIZE}")
    listed = [document["Statement"]] if isinstance(document["Statement"], Mapping) else list(document["Statement"])
    _insist(bool(listed), "no statement")
    sids = [each["Sid"] for each in listed if "Sid" in each]
    _insist(len(set(sids)) == len(sids), "a Sid is repeated")
    _insist(all(re.fullmatch(r"[0-9A-Za-z]+", sid) for sid in sids), f"a Sid has letters and digits: {sids}")
    for each in listed:
        yield _statement(each)


def _statement(written: Mapping[str, Any]) -> _Statement:
    _insist(set(written) <= _ELEMENTS, f"unknown elements in {sorted(written)}")
    _insist({"Effect", "Action", "Resource"} <= set(written), f"an element is missing in {sorted(written)}")
    _insist(written["Effect"] in ("Allow", "Deny"), f"Effect {written['Effect']}")
    actions, resources = _many(written["Action"]), _many(written["Resource"])
    _insist(bool(actions) and bool(resources), f"nothing named in {written}")
    for action in actions:
        _insist(action == "*" or re.fullmatch(r"[a-z0-9-]+:[\w*?]+", action) is not None, f"Action {action}")
    for resource in resources:
        _insist(resource == "*" or re.fullmatch(r"arn(:[^:]*){4}:.+", resource) is not None, f"Resource {resource}")
        _insist("${" not in resource, f"policy variable in {resource}")
    return _Statement(written["Effect"] == "Allow", actions, resources, tuple(_conditions(written)))


def _conditions(written: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for operator, wanted in written.get("Condition", {}).items():
        _insist(_OPERATORS.fullmatch(operator) is not None, f"operator {operator}")
        for key, value in wanted.items():
            values = _many(value)
            _insist(_KEYS.fullmatch(key) is not None, f"condition key {key}")
            _insist("Arn" not in operator or key == "ec2:Vpc", f"{key} is no ARN, but compared by {operator}")
            _insist("String" not in operator or key != "ec2:Vpc", f"{key} is an ARN, but compared by {operator}")
            _insist(operator != "Null" or values in (("true",), ("false",)), f"Null {values}")
            _insist(bool(values) and not any("${" in each for each in values), f"values {values}")
            yield operator, key, values


def _many(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _insist(good: bool, why: str) -> None:
    if not good:
        raise ValueError(f"malformed policy document: {why}")


# Evaluation --------------------------------------------------------------------------------------------------------


def _holds(operator: str, key: str, values: Sequence[str], context: Mapping[str, Sequence[str]]) -> bool:
    """Whether a condition holds. A key that is not in the context fails, but for Null and ForAllValues."""
    found = context.get(key)
    if operator == "Null":
        return (found is None) == (values[0] == "true")
    kind, _, compared = operator.rpartition(":")
    matching = [any(_compare(compared, each, value) for value in values) for each in found or ()]
    return all(matching) if kind == "ForAllValues" else any(matching)


def _compare(operator: str, found: str, wanted: str) -> bool:
    if operator == "StringEquals":
        return found == wanted
    return _like(found, wanted) if operator == "StringLike" else _like_arn(found, wanted)


def _like(text: str, pattern: str) -> bool:
    """IAM's wildcards: * and ?, nothing else."""
    parts = ({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern)
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def _like_arn(arn: str, pattern: str) -> bool:
    """Each part for itself, as for ArnEquals and ArnLike, which are the same ("ARN condition operators")."""
    ours, theirs = arn.split(":", 5), pattern.split(":", 5)
    return len(ours) == len(theirs) and all(map(_like, ours, theirs))
