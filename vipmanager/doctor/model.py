"""What doctor saw and what it says of it, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from vipmanager.errors import Failure
from vipmanager.model import Claims, EniDescription, Observed, PodInterface, Problem


class Verdict(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One check: what was seen, and how to mend it where it is not ok."""

    check: str
    verdict: Verdict
    seen: str
    mend: str = ""


@dataclass(frozen=True)
class Answer:
    """What a service said: its text, or why there was none; `took` is in seconds."""

    text: str = ""
    failure: Failure | None = None
    took: float = 0.0


@dataclass(frozen=True)
class Asked:
    """An operation of EC2, and what was answered for each resource that it was asked about.

    The resource is empty where IAM knows none. `why_not`: why it was not asked at all.
    """

    operation: str
    answers: Mapping[str, Failure | None] = field(default_factory=dict)
    why_not: str = ""

    @property
    def refused(self) -> Mapping[str, Failure]:
        """The resources for which there was no yes."""
        return {on: failure for on, failure in self.answers.items() if failure is not None}


@dataclass(frozen=True)
class Instance:
    """The worker. `hop_limit` is IMDS's, `ipv4` and `ipv6` the most addresses that an ENI of its type may have."""

    id: str = ""
    type: str = ""
    hop_limit: int | None = None
    ipv4: int | None = None
    ipv6: int | None = None
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Facts:
    """All that was looked at. What could not be read is empty, and its failure says why.

    `claims` are those that a run would have now; `tables` counts the VPC's route tables, edge tables left out;
    `looked` is why not all could be looked at, where it is no matter of IAM.
    """

    mode: str
    capabilities: frozenset[str] = frozenset()
    interfaces: tuple[PodInterface, ...] = ()
    observed: Observed = field(default_factory=Observed)
    claims: Claims = field(default_factory=dict)
    looked: Failure | None = None
    problems: tuple[Problem, ...] = ()
    actions: tuple[object, ...] = ()
    enis: tuple[EniDescription, ...] = ()
    tables: int = 0
    imds: Answer = Answer()
    identity: Answer = Answer()
    skew: float | None = None
    instance: Instance = Instance()
    permissions: tuple[Asked, ...] = ()
    rp_filter: Mapping[str, int] = field(default_factory=dict)
    state_dir: str = ""
    lease: Answer | None = None
    health: Answer | None = None
    marks: Answer | None = None
