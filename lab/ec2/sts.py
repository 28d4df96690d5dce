"""STS: temporary credentials by role, and who one is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lab.ec2 import params
from lab.ec2.auth import Credentials, Keys
from lab.ec2.errors import Ec2Error, sts_answer
from lab.ec2.moto_api import Moto
from lab.ec2.params import Params, required
from lab.ec2.render import element

UNSIGNED = frozenset({"AssumeRoleWithWebIdentity"})  # the token in the request says who calls

_ASSUME = frozenset({"AssumeRole", *UNSIGNED})
_HOUR = 3600


def service_of(action: str) -> str:
    """The service an action belongs to, where no signature tells it."""
    return "sts" if action in (*_ASSUME, "GetCallerIdentity") else "ec2"


def answer(moto: Moto, keys: Keys, action: str, request: Params, caller: Credentials | None, request_id: str) -> bytes:
    """The answer to an STS call; raises InvalidAction."""
    if action in _ASSUME:
        return sts_answer(action, _assume_role(moto, keys, request), request_id)
    if action == "GetCallerIdentity" and caller:
        body = element("Arn", caller.principal) + element("UserId", caller.user_id)
        return sts_answer(action, body + element("Account", caller.principal.split(":")[4]), request_id)
    raise Ec2Error("InvalidAction", f"Could not find operation {action} for version 2011-06-15")


def _assume_role(moto: Moto, keys: Keys, request: Params) -> str:
    """Make credentials of the role and let the layer know them. The role need not exist."""
    role_arn = required(request, "RoleArn")
    session = required(request, "RoleSessionName")
    if role_arn.count(":") != 5 or ":role/" not in role_arn:
        raise Ec2Error("ValidationError", f"{role_arn} is invalid")
    role = moto.assume_role(role_arn, session, params.count(request, "DurationSeconds") or _HOUR)
    lifetime = None if keys.session_lifetime is None else timedelta(seconds=keys.session_lifetime)
    made = keys.add(
        Credentials(
            access_key=role.access_key_id,
            secret_key=role.secret_access_key,
            principal=role.arn,
            user_id=role.user_id,
            token=role.session_token,
            expires=role.expiration.replace(tzinfo=UTC) if lifetime is None else datetime.now(UTC) + lifetime,
        )
    )
    return (
        "<Credentials>"
        + element("AccessKeyId", made.access_key)
        + element("SecretAccessKey", made.secret_key)
        + element("SessionToken", made.token)
        + element("Expiration", made.expires)
        + "</Credentials><AssumedRoleUser>"
        + element("AssumedRoleId", made.user_id)
        + element("Arn", made.principal)
        + "</AssumedRoleUser>"
        + element("PackedPolicySize", 6)
    )
