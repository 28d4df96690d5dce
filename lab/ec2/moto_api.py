"""moto's EC2 and STS, in process: an account of its own for each user, and calls without a server."""

from __future__ import annotations

import itertools
import os
from typing import Any
from urllib.parse import urlencode

from moto.core.exceptions import ServiceException
from moto.core.request import Request
from moto.ec2.models import ec2_backends
from moto.ec2.responses import EC2Response
from moto.sts.models import sts_backends
from moto.sts.responses import TokenResponse

from lab.ec2.errors import Ec2Error
from lab.ec2.params import Params

# moto's backends are the process's. An account for each lab keeps labs apart; the first gets AWS's example account.
_accounts = itertools.count(123456789012)

# moto would make its 1,288 images for each account, and keeps every object it ever made.
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")

_RESPONSES = {"ec2": EC2Response, "sts": TokenResponse}


class Moto:
    """One account of moto's, in one region. Not thread-safe: the layer's lock guards it."""

    def __init__(self, region: str) -> None:
        self.account_id = str(next(_accounts))
        self.region = region
        self.ec2: Any = ec2_backends[self.account_id][region]

    def call(self, service: str, action: str, request: Params) -> tuple[int, bytes]:
        """Make a call of moto's API: HTTP status, body. Raises `Ec2Error` InvalidAction for what moto has not."""
        url = f"https://{service}.{self.region}.amazonaws.com/"
        headers = {
            "Host": f"{service}.{self.region}.amazonaws.com",
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            "x-moto-account-id": self.account_id,
        }
        form = urlencode({"Action": action, "Version": "2016-11-15", **request})
        try:
            status, _, body = _RESPONSES[service].dispatch(Request.from_primitives("POST", url, headers, form))
        except (NotImplementedError, ServiceException) as error:
            raise translated(error, action) from error
        except Exception as error:
            if type(error).__name__ == "OperationNotFoundError":  # botocore's: no such action in the API
                raise translated(NotImplementedError(), action) from error
            raise
        return int(status), body if isinstance(body, bytes) else str(body).encode()

    def assume_role(self, role_arn: str, session: str, seconds: int) -> Any:
        """moto's AssumedRole: the temporary credentials."""
        return sts_backends[self.account_id]["aws"].assume_role(
            region_name=self.region,
            role_session_name=session,
            role_arn=role_arn,
            policy="",
            duration=seconds,
            external_id="",
        )

    def forget(self) -> None:
        """Drop the account and all that is in it."""
        for backends in (ec2_backends, sts_backends):
            if self.account_id in backends:
                del backends[self.account_id]


def translated(error: Exception, action: str) -> Ec2Error:
    """A moto exception as the API's error."""
    if isinstance(error, ServiceException):
        return Ec2Error(error.code, error.message)
    return Ec2Error("InvalidAction", f"The action {action} is not valid for this web service.")
