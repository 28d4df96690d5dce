"""Errors whose type says what happens next.

Everything that leaves `clients/` is one of these, so nothing above that layer knows an SDK's exceptions and nothing
decides by message text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ConfigError(Exception):
    """The settings are wrong; `problems` holds every one of them, each with its key, value and what is accepted."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


THROTTLES = frozenset(
    (
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "EC2ThrottledException",
        "TooManyRequestsException",
        "BandwidthLimitExceeded",
    )
)
"""Too many calls are made: EC2's own code, and those that botocore knows of others (retries/standard.py)."""


CREDENTIAL_CODES = frozenset(
    (
        "AuthFailure",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    )
)
"""AWS does not accept the credentials themselves. It is the same where a clock is off, and over as soon as that is."""


LONGEST = 300
"""Characters of a message that is shown in one line: a denial of AWS carries a thousand of encoded detail."""


class ErrorKind(Enum):
    """What a failed call means for the caller."""

    RETRY = "retry"  # throttling, 5xx, a lost connection, credentials not there yet: the same call again, later
    RACE = "race"  # the route appeared or vanished under us: the other verb, at once
    LOST = "lost"  # somebody else has what we wanted, or took it away: look again before doing anything
    DENIED = "denied"  # IAM or the kernel forbids it
    LIMIT = "limit"  # a quota is reached
    INVALID = "invalid"  # refused for another reason that a repetition will not change


@dataclass(frozen=True)
class Failure:
    """A classified failure, readable at 3 a.m.: what was tried on what, why it failed, and what to do.

    `code` is the service's error code (or errno name), `call` the IAM action or kernel operation, `remedy` the setting,
    permission or quota that changes the outcome.
    """

    kind: ErrorKind
    call: str
    code: str
    message: str
    remedy: str = ""

    @property
    def throttled(self) -> bool:
        """Whether it is about how many calls are made, and not about this one."""
        return self.code in THROTTLES

    @property
    def of_credentials(self) -> bool:
        """Whether it is about who calls, and not about what is asked."""
        return self.code in CREDENTIAL_CODES

    def __str__(self) -> str:
        text = f"{self.call} failed ({self.kind.value}, {self.code}): {self.message}"
        return f"{text}; {self.remedy}" if self.remedy else text

    @property
    def brief(self) -> str:
        """The call, the code, the service's words as far as they fit a line, and the remedy."""
        message = self.message if len(self.message) <= LONGEST else f"{self.message[:LONGEST]}…"
        text = f"{self.call}: {self.code}: {message}"
        return f"{text}; {self.remedy}" if self.remedy else text


class CallError(Exception):
    """A call to EC2, IMDS or the kernel failed, as its `failure` says."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(str(failure))

    @property
    def kind(self) -> ErrorKind:
        """What happens next."""
        return self.failure.kind
