"""Whether EC2 would allow a change, asked without making it: `DryRun`.

DryRun "checks whether you have the required permissions for the action, without actually making the request" (EC2 API
reference, of each such action): DryRunOperation says yes, UnauthorizedOperation no. Nothing documents when in that
check EC2 looks whether a route, say, exists. What is known speaks for authorization alone: aws/karpenter-provider-aws
(pkg/controllers/nodeclass/validation.go) asks for CreateFleet with a launch template and a subnet that do not exist,
takes any answer but these two for an unexpected state, and had to allow for throttling and, of RunInstances, for an
instance profile that is not found. So any other code is handed on as the failure that it is.

A DryRun takes a token of EC2's buckets as the call itself would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from vipmanager.actions_node import CloudAction
from vipmanager.clients.ec2 import Ec2Client, api_name
from vipmanager.clients.ec2_errors import ON_ONE_RESOURCE, resource_arn
from vipmanager.clients.ec2_floating import FloatingEc2Client
from vipmanager.errors import Failure
from vipmanager.ports import FloatingEc2Port, Permission

NO_DRY_RUN = frozenset(
    (
        "AssignIpv6Addresses",
        "AssignPrivateIpAddresses",
        "AssociateVpcCidrBlock",
        "UnassignIpv6Addresses",
        "UnassignPrivateIpAddresses",
    )
)
"""Of the calls made here, the writes that know no DryRun (EC2 API reference; a test compares the SDK's model)."""

CarryOut = Callable[[FloatingEc2Port, CloudAction], None]
"""What makes the calls for a change: apply_node.carry_out."""


class Request(NamedTuple):
    """A request as it would be sent: botocore's name of the operation, the id that it is about, its parameters."""

    operation: str
    resource: str
    params: Mapping[str, Any]


class Ec2Permissions:
    """The permission port, on a client's credentials, region and route table role."""

    def __init__(self, client: Ec2Client, carry_out: CarryOut) -> None:
        self._client, self._carry_out = client, carry_out

    def needed(self, action: CloudAction) -> Permission:
        """See PermissionPort. A resource of `*` is where IAM asks about several, or EC2 names it in its answer."""
        request = request_of(action, self._carry_out)
        name = api_name(request.operation)
        resource = resource_arn(request.resource) if name in ON_ONE_RESOURCE else "*"
        return Permission(f"ec2:{name}", resource, request.resource, name not in NO_DRY_RUN)

    def check(self, action: CloudAction) -> Failure | None:
        """See PermissionPort."""
        request = request_of(action, self._carry_out)
        if api_name(request.operation) in NO_DRY_RUN:
            return None
        return self._client.dry_run(request.operation, request.resource, request.params)


def request_of(action: CloudAction, carry_out: CarryOut) -> Request:
    """The request that carries out a change, built by the very code that sends it."""
    try:
        carry_out(_Builder(), action)
    except _Built as built:
        return built.request
    raise AssertionError(f"{action} makes no call")


class _Built(Exception):
    """A request was built."""

    def __init__(self, request: Request) -> None:
        self.request = request


class _Builder(FloatingEc2Client):
    """Builds requests and sends none."""

    def __init__(self) -> None:
        super().__init__(str)

    def _call(self, operation: str, resource: str, **params: Any) -> NoReturn:
        raise _Built(Request(operation, resource, params))
