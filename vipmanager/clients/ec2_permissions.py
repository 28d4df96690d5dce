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

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from vipmanager.actions import (
    AssignAddress,
    AssociateEip,
    DeleteRoute,
    DisableSourceDestCheck,
    SetRoute,
    UnassignAddress,
)
from vipmanager.actions_node import (
    AttachEni,
    CloudAction,
    CreateEni,
    CreateSubnet,
    DeleteEni,
    DeleteSubnet,
    DetachEni,
)
from vipmanager.clients.ec2 import Ec2Client, api_name
from vipmanager.clients.ec2_errors import ON_ONE_RESOURCE, resource_arn
from vipmanager.clients.ec2_floating import FloatingEc2Client
from vipmanager.errors import Failure
from vipmanager.ports import Permission

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

_TOKEN = "dry-run"  # a ClientToken says nothing where nothing is made


class Request(NamedTuple):
    """A request as it would be sent: botocore's name of the operation, the id that it is about, its parameters."""

    operation: str
    resource: str
    params: Mapping[str, Any]


class Ec2Permissions:
    """The permission port, on a client's credentials, region and route table role."""

    def __init__(self, client: Ec2Client) -> None:
        self._client = client

    def needed(self, action: CloudAction) -> Permission:
        """See PermissionPort. A resource of `*` is where IAM asks about several, or EC2 names it in its answer."""
        request = request_of(action)
        name = api_name(request.operation)
        resource = resource_arn(request.resource) if name in ON_ONE_RESOURCE else "*"
        return Permission(f"ec2:{name}", resource, request.resource, name not in NO_DRY_RUN)

    def check(self, action: CloudAction) -> Failure | None:
        """See PermissionPort."""
        request = request_of(action)
        if api_name(request.operation) in NO_DRY_RUN:
            return None
        return self._client.dry_run(request.operation, request.resource, request.params)


def request_of(action: CloudAction) -> Request:
    """The request that carries out a change, built by the very code that sends it."""
    try:
        _call(_Builder(), action)
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


def _call(ec2: FloatingEc2Client, action: CloudAction) -> None:
    if isinstance(action, SetRoute):
        verb = ec2.replace_route if action.replaces else ec2.create_route
        verb(action.table_id, action.destination, action.eni_id)
    elif isinstance(action, DeleteRoute):
        ec2.delete_route(action.table_id, action.destination)
    elif isinstance(action, AssignAddress):
        ec2.assign(action.eni_id, [action.address])
    elif isinstance(action, UnassignAddress):
        ec2.unassign(action.eni_id, [action.address])
    elif isinstance(action, DisableSourceDestCheck):
        ec2.disable_source_dest_check(action.eni_id)
    elif isinstance(action, AssociateEip):
        ec2.associate(action.allocation_id, action.eni_id, action.address)
    else:
        _call_eni(ec2, action)


def _call_eni(ec2: FloatingEc2Client, action: CloudAction) -> None:
    if isinstance(action, CreateEni):
        ec2.create_eni(action.subnet_id, action.addresses, action.groups, action.tags, action.description, _TOKEN)
    elif isinstance(action, AttachEni):
        ec2.attach_eni(action.eni_id, action.instance_id, action.device_index)
    elif isinstance(action, DetachEni):
        ec2.detach_eni(action.attachment_id, force=action.force)
    elif isinstance(action, DeleteEni):
        ec2.delete_eni(action.eni_id)
    elif isinstance(action, CreateSubnet):
        ec2.create_subnet(action.vpc_id, action.cidr, action.zone, action.tags)
    elif isinstance(action, DeleteSubnet):
        ec2.delete_subnet(action.subnet_id)
    else:
        ec2.associate_vpc_cidr(action.vpc_id, action.cidr)  # type: ignore[union-attr]
