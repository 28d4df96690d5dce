"""What doctor says of each operation of EC2: no more than was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from vipmanager.doctor.model import Asked, Facts, Finding, Verdict
from vipmanager.errors import ErrorKind, Failure

KINDS = {"rtb": "route tables", "eni": "network interfaces", "eipalloc": "Elastic IPs", "subnet": "subnets"}
NAMED = 5
"""Resources that are named one by one."""


def said(failure: Failure) -> str:
    """What went wrong; how to mend it stands beside it."""
    return f"{failure.call}: {failure.code}: {failure.message}"


def granted(facts: Facts) -> Iterator[Finding]:
    """A line for each operation, in the order of their names."""
    for asked in facts.permissions:
        check, refused = f"IAM ec2:{asked.operation}", asked.refused
        if asked.why_not:
            yield Finding(check, Verdict.OK, f"not asked: {asked.why_not}")
        elif not refused:
            yield Finding(check, Verdict.OK, f"allowed{_on(asked)}")
        else:
            denied = {on: each for on, each in refused.items() if each.kind is ErrorKind.DENIED}
            yield _refused(check, asked, denied or refused, Verdict.FAIL if denied else Verdict.WARN)


def _on(asked: Asked) -> str:
    ids = [on for on in asked.answers if on]
    if len(ids) < 2:
        return f" on {ids[0]}" if ids else ""
    return f" on all {len(ids)} {KINDS.get(ids[0].partition('-')[0], 'resources')}"


def _refused(check: str, asked: Asked, refused: Mapping[str, Failure], verdict: Verdict) -> Finding:
    """In the words of the first, and which others there are."""
    first, *others = refused.items()
    _, failure = first
    if len(asked.answers) == 1:
        return Finding(check, verdict, said(failure), failure.remedy)
    word = "denied" if verdict is Verdict.FAIL else "unclear"
    names = _named(refused)
    also = f"; the same for {_named(dict(others))}" if others and failure.remedy else ""
    seen = f"{word} on {len(refused)} of {len(asked.answers)} ({names}): {said(failure)}"
    return Finding(check, verdict, seen, f"{failure.remedy}{also}")


def _named(refused: Mapping[str, Failure]) -> str:
    more = len(refused) - NAMED
    return ", ".join([*islice(refused, NAMED), *([f"{more} more"] if more > 0 else [])])
