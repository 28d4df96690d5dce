"""Asks EC2 whether it would let a mode do what it does, everything at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from vipmanager.actions_node import CloudAction
from vipmanager.asking import Asker
from vipmanager.doctor.model import Asked
from vipmanager.doctor.questions import Assigning, Ground, questions, unread
from vipmanager.errors import Failure
from vipmanager.iam import PERMISSION_ONLY, operations
from vipmanager.ports import FactsPort, PermissionPort

Probe = Callable[[], Failure | None]


def ask(
    ground: Ground,
    reads: Mapping[str, Failure | None],
    ec2: FactsPort,
    permissions: PermissionPort,
    asker: Asker,
    *others: Callable[[], Any],
) -> tuple[tuple[Asked, ...], list[Any]]:
    """What each operation of the settings was answered, and what the `others` were, which are called meanwhile.

    `reads` are the answers of the describes that were made already.
    """
    names = [name for name in operations(ground.config, ground.mode) if name not in PERMISSION_ONLY]
    wanted = {name: _probes(name, ground, ec2, permissions) for name in names if name not in reads}
    probes = [(name, *each) for name, asked in wanted.items() if not isinstance(asked, str) for each in asked]
    answers: list[Any] = asker.each([*(probe for _, _, probe in probes), *others])
    found: dict[str, dict[str, Failure | None]] = {name: {"": answer} for name, answer in reads.items()}
    for (name, on, _), answer in zip(probes, answers, strict=False):
        found.setdefault(name, {})[on] = answer
    why_not = {name: asked for name, asked in wanted.items() if isinstance(asked, str)}
    told = tuple(Asked(name, found.get(name, {}), why_not.get(name, "")) for name in names)
    return told, answers[len(probes) :]


def _probes(
    operation: str, ground: Ground, ec2: FactsPort, permissions: PermissionPort
) -> Sequence[tuple[str, Probe]] | str:
    """What to call, for each resource; a text says why nothing. A describe is really made, as it changes nothing."""
    if operation == "DescribeInstances":
        call = partial(_tried, partial(ec2.instance_state, ground.instance))
        return [("", call)] if ground.instance else unread("DescribeNetworkInterfaces")
    asked = questions(operation, ground)
    return asked if isinstance(asked, str) else [(on, _probe(what, ec2, permissions)) for on, what in asked]


def _probe(what: CloudAction | Assigning, ec2: FactsPort, permissions: PermissionPort) -> Probe:
    if isinstance(what, Assigning):
        eni_id, cidrs, version, release = what
        return partial(_tried, partial(ec2.may_assign, eni_id, cidrs, version, release=release))
    return partial(permissions.check, what)


def _tried(call: Callable[[], object]) -> Failure | None:
    """A CallError goes to the asker, which knows what is worth a second attempt."""
    call()
    return None
