"""The words of the election: its settings, all that it knows, and the steps it can take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vipmanager.config import Config
from vipmanager.errors import Failure
from vipmanager.model_node import Lease


@dataclass(frozen=True)
class Terms:
    """Who we are, and the settings of the election in seconds."""

    identity: str
    duration: int
    deadline: float
    retry: float

    @classmethod
    def of(cls, identity: str, config: Config) -> Terms:
        """From the settings."""
        return cls(identity, config.lease_duration, config.renew_deadline, config.retry_period)


@dataclass(frozen=True)
class Read:
    """Read the lease."""


@dataclass(frozen=True)
class Create:
    """There is none: make it."""

    lease: Lease
    why: str


@dataclass(frozen=True)
class Renew:
    """It is ours: renew it, with or without the offer. `why` it is ours, for when it was not known to be."""

    lease: Lease
    why: str


@dataclass(frozen=True)
class Acquire:
    """It is free: take it."""

    lease: Lease
    why: str


@dataclass(frozen=True)
class Request:
    """It is offered: ask for it, leaving its renewal as it is."""

    lease: Lease


@dataclass(frozen=True)
class Release:
    """We have vacated: give it back."""

    lease: Lease


@dataclass(frozen=True)
class Wait:
    """Nothing to do before `until`, or before something is learned (None)."""

    until: float | None


Step = Read | Create | Renew | Acquire | Request | Release | Wait


@dataclass(frozen=True)
class Facts:
    """All that the next step depends on. Times are of our own clock.

    `seen_at`: when its holder last showed life to us; `learned_at`: when anything of the record changed; `heard_at`:
    when the API last said anything of it; `void`: for how long a deleted lease is still its holder's; `renewed_at`:
    when our last successful renewal was sent; `stale`: read before the next write; `due`: no call before; `resigning`:
    vacated and not yet released; `left`: for good; `not_before`: do not take it before; `attempt`: why we tried to take
    it, when it is not known whether that was stored.
    """

    terms: Terms
    known: bool = False
    record: Lease | None = None
    seen_at: float = 0.0
    learned_at: float = 0.0
    heard_at: float = 0.0
    void: float = 0.0
    renewed_at: float | None = None
    began: float = 0.0
    last_holder: str = ""
    why: str = ""
    healthy: bool = True
    ailment: str = ""
    resigning: bool = False
    left: bool = False
    not_before: float = -math.inf
    stale: bool = False
    due: float = -math.inf
    attempt: str = ""
    races: int = 0
    failures: int = 0
    failure: Failure | None = None

    @property
    def ours(self) -> bool:
        """The record names us; whether we may act is another question."""
        return self.record is not None and self.record.holder == self.terms.identity

    @property
    def until(self) -> float:
        """Until when our last renewal allows to act."""
        return -math.inf if self.renewed_at is None else self.renewed_at + self.terms.deadline

    def leading(self, now: float) -> bool:
        """It is ours, renewed in time, and we have not vacated."""
        return self.ours and now < self.until and not self.resigning and not self.left
