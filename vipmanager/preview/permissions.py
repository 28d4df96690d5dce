"""EC2's word on the changes of a preview."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from vipmanager.actions_node import CloudAction
from vipmanager.asking import Asker
from vipmanager.errors import ErrorKind, Failure
from vipmanager.ports import Permission, PermissionPort
from vipmanager.preview.steps import Preview, Refused


def with_permissions(
    preview: Preview, changes: Sequence[CloudAction], permissions: PermissionPort, asker: Asker
) -> Preview:
    """The preview with EC2's word on each change; one question for those that IAM cannot tell apart."""
    counts: Counter[Permission] = Counter()
    first: dict[Permission, CloudAction] = {}
    for action in changes:
        permission = permissions.needed(action)
        counts[permission] += 1
        first.setdefault(permission, action)
    asked = sorted(permission for permission in first if permission.asked)
    answers = asker.each([partial(_check, permissions, first[permission]) for permission in asked])
    refused = [
        Refused(permission, answer, counts[permission])
        for permission, answer in zip(asked, answers, strict=True)
        if isinstance(answer, Failure)
    ]
    not_asked: Counter[str] = Counter()
    for permission, number in counts.items():
        not_asked[permission.action] += 0 if permission.asked else number
    return replace(
        preview,
        denied=tuple(each for each in refused if each.failure.kind is ErrorKind.DENIED),
        unclear=tuple(each for each in refused if each.failure.kind is not ErrorKind.DENIED),
        not_asked={action: number for action, number in sorted(not_asked.items()) if number},
    )


def _check(permissions: PermissionPort, action: CloudAction) -> Failure | None:
    return permissions.check(action)
