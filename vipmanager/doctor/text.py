"""Findings as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vipmanager.doctor.model import Finding, Verdict
from vipmanager.logs import printable


def worst(found: Sequence[Finding]) -> Verdict:
    """The worst verdict of all."""
    order = list(Verdict)
    return max((finding.verdict for finding in found), key=order.index, default=Verdict.OK)


def as_text(mode: str, found: Sequence[Finding]) -> str:
    """A line for each check, below it how to mend it, and at the end the mode and how many there are of each."""
    width = max((len(finding.check) for finding in found), default=0)
    lines = []
    for finding in found:
        lines.append(f"{finding.verdict.value:<5}{finding.check:<{width}}  {printable(finding.seen)}")
        if finding.mend and finding.mend not in finding.seen:
            lines.append(f"{'':<5}{'':<{width}}  → {printable(finding.mend)}")
    counts = {verdict: sum(finding.verdict is verdict for finding in found) for verdict in Verdict}
    verdict = ", ".join(f"{number} {verdict.value}" for verdict, number in counts.items())
    return "\n".join([*lines, f"{mode}: {verdict}"])


def as_json(mode: str, found: Sequence[Finding]) -> str:
    """One object."""
    findings = [
        {"check": each.check, "verdict": each.verdict.value, "seen": each.seen, "mend": each.mend} for each in found
    ]
    return json.dumps({"mode": mode, "verdict": worst(found).value, "findings": findings}, indent=2)
