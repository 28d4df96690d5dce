"""A preview as text that reads like a diff, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from vipmanager.logs import printable
from vipmanager.preview.steps import ADD, CHANGE, CHANGES, ERROR, KEEP, NOTHING, REMOVE, Preview, Refused, Shown, Step

VERSION = 1
"""Of the JSON's shape; it changes when a key changes its meaning or goes."""

COLOURS = {ADD: "\033[32m", CHANGE: "\033[33m", REMOVE: "\033[31m"}
RESET = "\033[0m"
RESULTS = {NOTHING: "nothing to do", CHANGES: "changes", ERROR: "error"}
OPERATIONS = {ADD: "add", CHANGE: "change", REMOVE: "remove", KEEP: "keep"}


def as_text(preview: Preview, *, colour: bool = False) -> str:
    """Lines as of a diff: + is added, ~ changed, - removed, and what has no sign is in place."""
    lines = [f"if this node had the lease now; {preview.holder}"] if preview.mode == "nodeport" else []
    for shown in preview.shown:
        lines += [_heading(shown), *_steps(shown.steps, colour)]
    if preview.shared:
        lines += ["for all of them", *_steps(preview.shared, colour)]
    if preview.here:
        lines += ["node" if preview.mode == "nodeport" else "pod", *_steps(preview.here, colour)]
    lines += [printable(_refused("denied", each)) for each in preview.denied]
    lines += [printable(_refused("unclear", each)) for each in preview.unclear]
    lines += [
        f"not asked: {action} takes no DryRun ({_count(number, 'change')})"
        for action, number in sorted(preview.not_asked.items())
    ]
    lines += [printable(f"{'problem' if each.fatal else 'warning'}: {each}") for each in preview.problems]
    lines += [printable(f"note: {note}") for note in preview.notes]
    return "\n".join([*lines, _summary(preview)])


def _summary(preview: Preview) -> str:
    """How many changes, and how many of what the exit code follows from; warnings do not count for that."""
    unclear = sum(each.changes for each in preview.unclear)
    fatal = sum(problem.fatal for problem in preview.problems)
    warnings = len(preview.problems) - fatal
    return ", ".join(
        [
            _count(len(preview.changes), "change"),
            f"{sum(each.changes for each in preview.denied)} denied",
            *([f"{unclear} unclear"] if unclear else []),
            _count(fatal, "problem"),
            *([_count(warnings, "warning")] if warnings else []),
        ]
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _heading(shown: Shown) -> str:
    place = f" on {shown.interface}" if shown.interface else ""
    if shown.eni_id:
        index = f" index {shown.device_index}" if shown.device_index is not None else ""
        place += f" ({shown.eni_id}{index})"
    state = f"{shown.state} to {shown.conceded_to}" if shown.conceded_to else shown.state
    told = ", ".join(filter(None, (shown.placement, state)))
    why = f": {shown.why}" if shown.why and shown.state != "refused" else ""  # that is among the problems
    return f"{shown.name}{place}: {told}{why}"


def _steps(steps: Iterable[Step], colour: bool) -> Iterator[str]:
    for step in steps:
        line = f"{step.sign} {step.text}"
        yield f"    {COLOURS[step.sign]}{line}{RESET}" if colour and step.sign in COLOURS else f"    {line}"


def _refused(what: str, refused: Refused) -> str:
    permission, failure = refused.permission, refused.failure
    on = permission.resource if permission.resource != "*" else f"* ({permission.ids})"
    why = failure.remedy if what == "denied" else str(failure)
    return f"{what}: {permission.action} on {on} ({_count(refused.changes, 'change')}): {why or failure.message}"


def as_json(preview: Preview) -> str:
    """One object; docs/operations.md tells its keys. The same world gives the same text."""
    data: dict[str, Any] = {
        "version": VERSION,
        "mode": preview.mode,
        "result": RESULTS[preview.exit_code],
        "addresses": [_shown(each) for each in preview.shown],
        "shared": [_step(step) for step in preview.shared],
        "here": [_step(step) for step in preview.here],
        "denied": [_refusal(each) for each in preview.denied],
        "unclear": [_refusal(each) for each in preview.unclear],
        "not_asked": [{"action": key, "changes": number} for key, number in sorted(preview.not_asked.items())],
        "problems": [{"of": each.subject, "text": each.text, "fatal": each.fatal} for each in preview.problems],
        "notes": list(preview.notes),
        "changes": len(preview.changes),
    }
    if preview.mode == "nodeport":
        data["holder"] = preview.holder
    return json.dumps(data, indent=2, ensure_ascii=False)


def error_as_json(mode: str, why: str) -> str:
    """The object where nothing could be seen."""
    return json.dumps({"version": VERSION, "mode": mode, "result": RESULTS[ERROR], "error": why}, indent=2)


def _shown(shown: Shown) -> dict[str, Any]:
    return {
        "name": shown.name,
        "state": shown.state,
        "interface": shown.interface,
        "eni": shown.eni_id,
        "index": shown.device_index,
        "placement": shown.placement,
        "destination": shown.destination,
        "conceded_to": shown.conceded_to,
        "why": shown.why,
        "steps": [_step(step) for step in shown.steps],
    }


def _step(step: Step) -> dict[str, Any]:
    return {"do": OPERATIONS[step.sign], "kind": step.kind, **step.facts}


def _refusal(refused: Refused) -> dict[str, Any]:
    return {
        "action": refused.permission.action,
        "resource": refused.permission.resource,
        "ids": refused.permission.ids,
        "changes": refused.changes,
        "code": refused.failure.code,
        "why": refused.failure.message,
        "remedy": refused.failure.remedy,
    }
