"""Who may call: the access keys the lab knows, and whose they are.

A signature is looked at, not verified: the lab tests that a client signs with the right key, not SigV4 itself.
"""

from __future__ import annotations

import re
import secrets
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.message import Message

from lab.ec2.errors import Ec2Error

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256\s+Credential=([^/,\s]+)/\d{8}/[^/,\s]+/([^/,\s]+)/aws4_request")


@dataclass(frozen=True)
class Credentials:
    """A key pair, with the principal it belongs to. Temporary ones have a session token and expire."""

    access_key: str
    secret_key: str
    principal: str  # ARN
    user_id: str
    token: str | None = None
    expires: datetime | None = None

    @property
    def expired(self) -> bool:
        """Whether they are past their expiry."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


def signed_by(headers: Message[str, str]) -> tuple[str, str]:
    """The access key and the service of a request's signature; raises MissingAuthenticationToken, AuthFailure."""
    authorization = headers.get("Authorization")
    if not authorization:
        raise Ec2Error("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
    match = _CREDENTIAL.match(authorization)
    if not match:
        raise auth_failure()
    return match[1], match[2]


def auth_failure() -> Ec2Error:
    """What EC2 says to an unknown key."""
    return Ec2Error("AuthFailure", "AWS was not able to validate the provided access credentials", 401)


class Keys:
    """The known credentials of one account. Thread-safe."""

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self._keys: dict[str, Credentials] = {}
        self._lock = threading.Lock()
        self.base = self.add_user("lab")

    def add(self, credentials: Credentials) -> Credentials:
        """Make credentials known."""
        with self._lock:
            self._keys[credentials.access_key] = credentials
        return credentials

    def add_user(self, name: str) -> Credentials:
        """Long-lived credentials of an IAM user."""
        key = _access_key("AKIA")
        principal = f"arn:aws:iam::{self.account_id}:user/{name}"
        return self.add(Credentials(key, secrets.token_urlsafe(30), principal, f"AIDA{key[4:]}"))

    def add_role_session(self, role: str, session: str, lifetime: float) -> Credentials:
        """Temporary credentials of a role's session, as an instance profile's; `lifetime` in seconds."""
        key = _access_key("ASIA")
        return self.add(
            Credentials(
                key,
                secrets.token_urlsafe(30),
                f"arn:aws:sts::{self.account_id}:assumed-role/{role}/{session}",
                f"AROALAB{role.upper()[:13]}:{session}",
                token=secrets.token_urlsafe(120),
                expires=datetime.now(UTC) + timedelta(seconds=lifetime),
            )
        )

    def expire(self, access_key: str) -> None:
        """Let credentials expire now."""
        with self._lock:
            self._keys[access_key] = replace(self._keys[access_key], expires=datetime.now(UTC))

    def forget(self, access_key: str) -> None:
        """Delete credentials: AuthFailure from now on."""
        with self._lock:
            self._keys.pop(access_key, None)

    def check(self, access_key: str, token: str | None) -> Credentials:
        """The credentials of a request; raises AuthFailure, RequestExpired."""
        with self._lock:
            credentials = self._keys.get(access_key)
        if credentials is None or credentials.token != token:
            raise auth_failure()
        if credentials.expired:
            raise Ec2Error("RequestExpired", "Request has expired.")
        return credentials


def _access_key(prefix: str) -> str:
    return prefix + "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16))
