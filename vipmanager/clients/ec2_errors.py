"""EC2's error codes, classified once (source: EC2 API reference, "Error codes for the Amazon EC2 API")."""

from __future__ import annotations

from vipmanager.errors import ErrorKind, Failure

RETRY_CODES = frozenset(
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
        "PriorRequestNotComplete",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "Unavailable",
        "ServiceUnavailable",
        "RequestTimeout",
        "RequestTimeoutException",
        "RequestExpired",
        "ExpiredToken",
        "ExpiredTokenException",
    )
)

DENIED_CODES = frozenset(
    (
        "UnauthorizedOperation",
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "Blocked",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "OperationNotPermitted",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    )
)

CREDENTIAL_CODES = frozenset(
    (
        "AuthFailure",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    )
)

BY_OPERATION: dict[tuple[str, str], ErrorKind] = {
    ("CreateRoute", "RouteAlreadyExists"): ErrorKind.RACE,
    # EC2 says "There is no route defined for …" with this code and others with it too; the other verb tells them apart.
    ("ReplaceRoute", "InvalidParameterValue"): ErrorKind.RACE,
    ("ReplaceRoute", "InvalidRoute.NotFound"): ErrorKind.RACE,
    ("DeleteRoute", "InvalidRoute.NotFound"): ErrorKind.RACE,
    ("AssignPrivateIpAddresses", "InvalidIPAddress.InUse"): ErrorKind.LOST,
    ("AssignIpv6Addresses", "InvalidIPAddress.InUse"): ErrorKind.LOST,
    ("UnassignPrivateIpAddresses", "InvalidParameterValue"): ErrorKind.LOST,
    ("UnassignIpv6Addresses", "InvalidParameterValue"): ErrorKind.LOST,
}

QUOTAS = {
    "RouteLimitExceeded": "raise the quota «Routes per route table» (Service Quotas, L-93826ACB) or free routes in it",
    "PrivateIpAddressLimitExceeded": "the instance type's limit of addresses per network interface is reached; use "
    "another ENI, a larger instance type, or routed addresses outside the subnet",
}


def classify(operation: str, code: str, status: int) -> ErrorKind:
    """What a failed operation means, by its code, then by its HTTP status."""
    kind = BY_OPERATION.get((operation, code))
    if kind is not None:
        return kind
    if code in RETRY_CODES or status >= 500 or status == 429:
        return ErrorKind.RETRY
    if code in DENIED_CODES:
        return ErrorKind.DENIED
    if code.endswith(("LimitExceeded", "Limit.Exceeded")):
        return ErrorKind.LIMIT
    return ErrorKind.INVALID


def remedy(kind: ErrorKind, operation: str, code: str, service: str, resource: str) -> str:
    """What an engineer does about it; empty where time alone helps."""
    if code in CREDENTIAL_CODES:
        return "AWS does not accept the credentials themselves; check the role of the service account and the clock"
    if kind is ErrorKind.DENIED:
        on = "*" if operation.startswith("Describe") else resource_arn(resource)
        return f"allow {service}:{operation} on {on} in the IAM policy of the role that this pod uses"
    if kind is ErrorKind.LIMIT:
        return QUOTAS.get(code, "raise that quota in Service Quotas")
    return ""


def resource_arn(resource: str) -> str:
    """The Resource of an IAM statement for an id; `*` for what has none."""
    if resource.startswith("arn:"):
        return resource
    kind = {"rtb": "route-table", "eni": "network-interface"}.get(resource.partition("-")[0])
    return f"arn:aws:ec2:*:*:{kind}/{resource}" if kind and "," not in resource else "*"


def failure(operation: str, code: str, message: str, status: int, *, service: str, resource: str) -> Failure:
    """A classified failure of one API call; `resource` is the id it was about."""
    kind = classify(operation, code, status)
    where = f" ({resource})" if resource and resource not in message else ""
    return Failure(
        kind,
        f"{service}:{operation}",
        code,
        message.rstrip(".") + where,
        remedy(kind, operation, code, service, resource),
    )
