"""What a worker may do: the rules of the project's own manifest, so that they are what is tested."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

MANIFEST = Path(__file__).resolve().parents[2] / "samples" / "nodeport" / "rbac.yaml"
EVENTS_MANIFEST = MANIFEST.parents[1] / "rbac-events.yaml"
Rules = Sequence[Mapping[str, Any]]


def rules(manifest: Path = MANIFEST) -> Rules:
    """The rules of the Role in the manifest. Raises LookupError when it has not exactly one."""
    documents = list(yaml.safe_load_all(manifest.read_text()))
    roles = [each for each in documents if each and each["kind"] == "Role"]
    if len(roles) != 1:
        raise LookupError(f"{manifest} has {len(roles)} Roles")
    found: Rules = roles[0]["rules"]
    return found


def without(given: Rules, verbs: Collection[str]) -> Rules:
    """The rules, but for some verbs."""
    kept = [{**rule, "verbs": [verb for verb in rule["verbs"] if verb not in verbs]} for rule in given]
    return [rule for rule in kept if rule["verbs"]]


def for_leases(given: Rules, names: Collection[str]) -> Rules:
    """The rules, for Leases of these names: each Deployment has one of its own."""
    return [{**rule, "resourceNames": list(names)} if rule.get("resourceNames") else rule for rule in given]


def allows(given: Rules, verb: str, name: str, *, group: str = "coordination.k8s.io", resource: str = "leases") -> bool:
    """Whether the rules allow it, as the RBAC authorizer decides; `name` is empty for a create."""
    return any(
        _matches(rule["verbs"], verb)
        and _matches(rule["apiGroups"], group)
        and _matches(rule["resources"], resource)
        and (not rule.get("resourceNames") or name in rule["resourceNames"])
        for rule in given
    )


def _matches(listed: Sequence[str], wanted: str) -> bool:
    return "*" in listed or wanted in listed
