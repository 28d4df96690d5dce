"""EC2's and STS's errors and answers, as they are on the wire.

Codes and HTTP statuses are those of "Error codes for the Amazon EC2 API" (errors-overview) and "Common errors" (STS).
"""

from __future__ import annotations

from xml.sax.saxutils import escape

EC2_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


class Ec2Error(Exception):
    """A refusal, as the API answers it: code, message and HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def invalid_value(message: str) -> Ec2Error:
    """The commonest refusal: InvalidParameterValue."""
    return Ec2Error("InvalidParameterValue", message)


def missing(parameter: str) -> Ec2Error:
    """A required parameter was not given."""
    return Ec2Error("MissingParameter", f"The request must contain the parameter {parameter}")


def unauthorized(
    service: str, wanted: str, principal: str, resource: str | None, *, explicit: bool = False
) -> Ec2Error:
    """The refusal of an IAM action (`ec2:CreateRoute`), in the words of AWS; describes name no resource.

    IAM User Guide, "Access denied error messages".
    """
    why = f"User: {principal} is not authorized to perform: {wanted}"
    why += f" on resource: {resource}" if resource else ""
    if explicit:
        why += " with an explicit deny in an identity-based policy"
    else:
        why += f" because no identity-based policy allows the {wanted} action"
    if service == "sts":
        return Ec2Error("AccessDenied", why, 403)
    return Ec2Error("UnauthorizedOperation", f"You are not authorized to perform this operation. {why}", 403)


def ec2_error(error: Ec2Error, request_id: str) -> bytes:
    """EC2's error body."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Response><Errors><Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    ).encode()


def sts_error(error: Ec2Error, request_id: str) -> bytes:
    """STS's error body (the `query` protocol's)."""
    return (
        f'<ErrorResponse xmlns="{STS_NAMESPACE}"><Error><Type>{"Sender" if error.status < 500 else "Receiver"}</Type>'
        f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
        f"<RequestId>{request_id}</RequestId></ErrorResponse>"
    ).encode()


def ec2_answer(action: str, body: str, request_id: str) -> bytes:
    """EC2's answer: `body` is XML."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{EC2_NAMESPACE}">'
        f"<requestId>{request_id}</requestId>{body}</{action}Response>"
    ).encode()


def sts_answer(action: str, body: str, request_id: str) -> bytes:
    """STS's answer: `body` is the XML of the result."""
    return (
        f'<{action}Response xmlns="{STS_NAMESPACE}"><{action}Result>{body}</{action}Result>'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    ).encode()
