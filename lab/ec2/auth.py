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

SIGNED_WITHIN = timedelta(minutes=15)
"""How far the time of a signature may be from AWS's: "more than 15 minutes after the date stamp on the request", or in
the future (Amazon EC2 API reference and STS API reference, "Common errors", RequestExpired)."""

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256\s+Credential=([^/,\s]+)/\d{8}/[^/,\s]+/([^/,\s]+)/aws4_request")
_STAMP = "%Y%m%dT%H%M%SZ"  # X-Amz-Date


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


def check_time(headers: Message[str, str], service: str) -> None:
    """Refuse a signature that is too old or of the future.

    STS says SignatureDoesNotMatch and both times (github.com/devsecops/bootcamp issue 101, with the "15 min."); EC2
    AuthFailure, as to an unknown key (github.com/aws/aws-sdk-java issue 519), and not RequestExpired as documented.
    """
    text = headers.get("X-Amz-Date", "")
    try:
        signed = datetime.strptime(text, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        raise auth_failure() from None
    now = datetime.now(UTC)
    if abs(now - signed) <= SIGNED_WITHIN:
        return
    if service != "sts":
        raise auth_failure()
    late = signed < now
    limit = now - SIGNED_WITHIN if late else now + SIGNED_WITHIN
    why = "Signature expired: {} is now earlier than {} ({} - 15 min.)"
    why = why if late else "Signature not yet current: {} is still later than {} ({} + 15 min.)"
    stamps = (each.strftime(_STAMP) for each in (signed, limit, now))
    raise Ec2Error("SignatureDoesNotMatch", why.format(*stamps), 403)


def auth_failure() -> Ec2Error:
    """What EC2 says to an unknown key."""
    return Ec2Error("AuthFailure", "AWS was not able to validate the provided access credentials", 401)


class Keys:
    """The known credentials of one account. Thread-safe."""

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self.session_lifetime: float | None = None  # s, of the sessions that STS makes; None: what was asked for
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

    def expire_sessions(self, role: str) -> None:
        """Let all credentials of a role that were given out so far expire now."""
        with self._lock:
            for key, held in list(self._keys.items()):
                if f":assumed-role/{role}/" in held.principal:
                    self._keys[key] = replace(held, expires=datetime.now(UTC))

    def principal(self, access_key: str) -> str:
        """The ARN that a key belongs to, or belonged to until it expired. Raises LookupError for an unknown one."""
        with self._lock:
            return self._keys[access_key].principal

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
