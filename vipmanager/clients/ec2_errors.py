"""EC2's error codes, classified once (source: EC2 API reference, "Error codes for the Amazon EC2 API")."""

from __future__ import annotations

from vipmanager.errors import CREDENTIAL_CODES, THROTTLES, ErrorKind, Failure

LONGEST_MESSAGE = 4096
"""Characters; a denial with its encoded detail has 1,500."""

RETRY_CODES = THROTTLES | frozenset(
    (
        "PriorRequestNotComplete",
        "ConcurrentTagAccess",
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
        # Something is on its way to another state, and nobody else's doing: an instance that starts, a new VPC CIDR.
        "DependencyViolation",
        "IncorrectInstanceState",
        "IncorrectState",
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
    # "The address … is not assigned to interface …": it was taken away since.
    ("AssociateAddress", "InvalidParameterValue"): ErrorKind.LOST,
    ("AssociateAddress", "InvalidNetworkInterfaceID.NotFound"): ErrorKind.LOST,
    ("AssociateAddress", "Resource.AlreadyAssociated"): ErrorKind.RACE,
    ("CreateNetworkInterface", "InvalidIPAddress.InUse"): ErrorKind.LOST,
    ("CreateNetworkInterface", "Resource.AlreadyAssigned"): ErrorKind.LOST,
    ("CreateNetworkInterface", "InsufficientFreeAddressesInSubnet"): ErrorKind.LIMIT,
    # What was made a moment ago may not be known everywhere yet ("Eventual consistency in the Amazon EC2 API").
    ("CreateNetworkInterface", "InvalidSubnetID.NotFound"): ErrorKind.RETRY,
    # Of a token whose ENI has been deleted since, or which is used with other parameters: look again, with a new one.
    ("CreateNetworkInterface", "InvalidNetworkInterfaceID.NotFound"): ErrorKind.RACE,
    ("CreateNetworkInterface", "IdempotentParameterMismatch"): ErrorKind.RACE,
    ("AttachNetworkInterface", "InvalidNetworkInterfaceID.NotFound"): ErrorKind.RETRY,
    ("AttachNetworkInterface", "InvalidNetworkInterface.InUse"): ErrorKind.RACE,
    # "Instance '…' already has an interface attached at device index '…'."
    ("AttachNetworkInterface", "InvalidParameterValue"): ErrorKind.RACE,
    ("DetachNetworkInterface", "InvalidAttachmentID.NotFound"): ErrorKind.RACE,
    ("DetachNetworkInterface", "InvalidAttachment.NotFound"): ErrorKind.RACE,
    ("DetachNetworkInterface", "IncorrectState"): ErrorKind.RACE,
    # "Network interface '…' is currently in use.": EC2 uses both codes (see InvalidNetworkInterface.InUse in its list).
    ("DeleteNetworkInterface", "InvalidNetworkInterface.InUse"): ErrorKind.RACE,
    ("DeleteNetworkInterface", "InvalidParameterValue"): ErrorKind.RACE,
    ("CreateSubnet", "InvalidSubnet.Conflict"): ErrorKind.RACE,
}

QUOTAS = {
    "RouteLimitExceeded": "raise the quota «Routes per route table» (Service Quotas, L-93826ACB) or free routes in it",
    "PrivateIpAddressLimitExceeded": "the instance type's limit of addresses per network interface is reached; use "
    "another ENI, a larger instance type, or routed addresses outside the subnet",
    "AttachmentLimitExceeded": "the instance type's limit of network interfaces is reached: all its slots are taken, "
    "perhaps by the VPC CNI; set the CNI's MAX_ENI one lower, use a larger instance type, or FloatingMode address",
    "NetworkInterfaceLimitExceeded": "raise the quota «Network interfaces per Region» (Service Quotas, L-DF5E4CA3) or "
    "delete ENIs that are not attached",
    "SecurityGroupsPerInterfaceLimitExceeded": "raise the quota «Security groups per network interface» (Service "
    "Quotas, L-2AFB9258)",
    "SubnetLimitExceeded": "raise the quota «Subnets per VPC» (Service Quotas, L-407747CB) or delete unused subnets",
    "CidrLimitExceeded": "raise the quota «IPv4 CIDR blocks per VPC» (Service Quotas, L-83CA0A9D), or choose a "
    "FloatingSubnetCidr inside a CIDR that the VPC has",
    "InsufficientFreeAddressesInSubnet": "the limit is the subnet's size: no address in it is free; vipmanager "
    "free-ips shows it",
    "TagLimitExceeded": "the limit of 50 tags a resource is reached; remove tags from it",
}

_EIP = "correct the eipalloc-… in the settings; it must be allocated in this account and region"

REMEDIES = {
    "DependencyViolation": "if this lasts, something that is not vipmanager's is in it: look at its network interfaces",
    "OperationNotPermitted": "this is not a matter of IAM: EC2 does it on no such resource, as the primary network "
    "interface, one that an AWS service manages, or one that another account owns",
    "Gateway.NotAttached": "an Elastic IP needs an internet gateway attached to the VPC",
    "InvalidAllocationID.NotFound": _EIP,
    "InvalidAddress.NotFound": _EIP,
    "InvalidGroup.NotFound": "the security groups come from the node's primary ENI; check that they exist in this VPC",
    "InvalidSubnet.Conflict": "choose a FloatingSubnetCidr that overlaps no other subnet",
    "InvalidSubnet.Range": "FloatingSubnetCidr must be a /16 to /28 inside a CIDR of the VPC",
    "InvalidVpc.Range": "FloatingSubnetCidr must be a /16 to /28 that may be added to this VPC (VPC user guide, «IPv4 "
    "CIDR block association restrictions»)",
    "InvalidVpcRange": "FloatingSubnetCidr must be a /16 to /28",
    "CidrConflict": "choose a FloatingSubnetCidr that overlaps no CIDR, route or peer of this VPC",
}
"""What to do about a code, whatever its kind."""

BY_OPERATION_REMEDIES = {
    ("AssociateAddress", "AuthFailure"): "the Elastic IP is another account's, or AWS does not accept the credentials; "
    "check the eipalloc-… in the settings and the role of the service account",
    ("AttachNetworkInterface", "InvalidParameterCombination"): "an ENI stays in its Availability Zone; run the pods on "
    "nodes of that zone, or set FloatingMode to subnet",
}

TAGGING = frozenset(("CreateNetworkInterface", "CreateSubnet"))
"""Sent with tags, which needs ec2:CreateTags as well."""

ON_ONE_RESOURCE = frozenset(
    (
        "AssignIpv6Addresses",
        "AssignPrivateIpAddresses",
        "CreateRoute",
        "DeleteNetworkInterface",
        "DeleteRoute",
        "DeleteSubnet",
        "ModifyNetworkInterfaceAttribute",
        "ReplaceRoute",
        "UnassignIpv6Addresses",
        "UnassignPrivateIpAddresses",
    )
)
"""For these IAM asks of one resource only (service authorization reference, Amazon EC2); the message names others'."""


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


def remedy(kind: ErrorKind, operation: str, code: str, service: str, resource: str, role: str = "") -> str:
    """What an engineer does about it; empty where time alone helps. `role`: who called, where it was not the pod's."""
    known = BY_OPERATION_REMEDIES.get((operation, code)) or REMEDIES.get(code)
    if known:
        return known
    if code in CREDENTIAL_CODES:
        return "AWS does not accept the credentials themselves; check the role of the service account and the clock"
    if kind is ErrorKind.DENIED:
        one = service == "sts" or operation in ON_ONE_RESOURCE
        also = f" and {service}:CreateTags" if operation in TAGGING else ""
        on = resource_arn(resource) if one else "*"
        whose = role or "the role that this pod uses"
        return f"allow {service}:{operation}{also} on {on} in the IAM policy of {whose}"
    if kind is ErrorKind.LIMIT:
        return QUOTAS.get(code, "raise that quota in Service Quotas")
    return ""


def resource_arn(resource: str) -> str:
    """The Resource of an IAM statement for an id; `*` for what has none."""
    if resource.startswith("arn:"):
        return resource
    kinds = {"rtb": "route-table", "eni": "network-interface", "subnet": "subnet"}
    prefix, _, rest = resource.partition("-")
    kind = kinds.get(prefix)
    return f"arn:aws:ec2:*:*:{kind}/{resource}" if kind and not {",", "-"} & set(rest) else "*"


def failure(
    operation: str, code: str, message: str, status: int, *, service: str, resource: str, role: str = ""
) -> Failure:
    """A classified failure of one API call; `resource` is the id it was about, `role` that of `remedy`."""
    message = message[:LONGEST_MESSAGE]
    kind = classify(operation, code, status)
    where = f" ({resource})" if resource and resource not in message else ""
    return Failure(
        kind,
        f"{service}:{operation}",
        code,
        message.rstrip(".") + where,
        remedy(kind, operation, code, service, resource, role),
    )
