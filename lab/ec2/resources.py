"""Which resources IAM is asked about for a request, each with what its condition keys say.

Service Authorization Reference, "Actions, resources, and condition keys for Amazon EC2". A request must be allowed for
each resource that it names. What is to be made has no id yet: its ARN ends with `*`, and it has the request's tags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lab.ec2 import params
from lab.ec2.params import Params
from lab.ec2.state import Tags, VpcState

Context = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Resource:
    """A resource of a request, and its condition keys with their values."""

    arn: str
    context: Context


EVERYTHING = Resource("*", {})
"""For actions without resources: only a statement for `*` allows them."""

Find = Callable[[Params, VpcState], Iterator[Resource]]


def requests(service: str, action: str, request: Params, state: VpcState) -> Iterator[tuple[str, Resource]]:
    """What must be allowed: pairs of an IAM action and a resource. EC2's own errors come first for what is not there.

    The lab lets nobody be refused because of an id that does not exist; EC2 may do either.
    """
    if service == "sts":
        yield f"sts:{action}", Resource(request.get("RoleArn", "*"), {})
        return
    find = _FIND.get(action)
    region = {"ec2:Region": (state.region,)}
    for resource in find(request, state) if find else (EVERYTHING,):
        yield f"ec2:{action}", Resource(resource.arn, {**resource.context, **region})
    kind = _MADE.get(action)
    if kind and params.tags(request, kind):
        made = _made(kind, request, state)
        yield "ec2:CreateTags", Resource(made.arn, {**made.context, "ec2:CreateAction": (action,), **region})


# Kinds of resources ------------------------------------------------------------------------------------------------


def _arn(state: VpcState, kind: str, name: str, owner: str = "") -> str:
    return f"arn:aws:ec2:{state.region}:{owner or state.account_id}:{kind}/{name}"


def _tags(kind: str, tags: Tags) -> dict[str, tuple[str, ...]]:
    return {f"{kind}Tag/{key}": (value,) for key, value in tags}


def _there(state: VpcState, kind: str, name: str, tags: Tags, *, owner: str = "", vpc: str = "") -> Resource:
    context = {**_tags("aws:Resource", tags), **_tags("ec2:Resource", tags)}
    if vpc:
        context["ec2:Vpc"] = (_arn(state, "vpc", vpc, state.vpcs[vpc].owner_id if vpc in state.vpcs else ""),)
    return Resource(_arn(state, kind, name, owner), context)


def _made(kind: str, request: Params, state: VpcState) -> Resource:
    tags = tuple(params.tags(request, kind).items())
    context = _tags("aws:Request", tags)
    if tags:
        context["aws:TagKeys"] = tuple(key for key, _ in tags)
    return Resource(_arn(state, kind, "*"), context)


def _eni(eni_id: str, state: VpcState) -> Iterator[Resource]:
    if eni := state.enis.get(eni_id):
        yield _there(state, "network-interface", eni_id, eni.tags, owner=eni.owner_id, vpc=eni.vpc_id)


def _table(table_id: str, state: VpcState) -> Iterator[Resource]:
    if table := state.route_tables.get(table_id):
        yield _there(state, "route-table", table_id, table.tags, owner=table.owner_id, vpc=table.vpc_id)


def _subnet(subnet_id: str, state: VpcState) -> Iterator[Resource]:
    if subnet := state.subnets.get(subnet_id):
        yield _there(state, "subnet", subnet_id, subnet.tags, owner=subnet.owner_id, vpc=subnet.vpc_id)


def _vpc(vpc_id: str, state: VpcState) -> Iterator[Resource]:
    if vpc := state.vpcs.get(vpc_id):
        yield _there(state, "vpc", vpc_id, vpc.tags, owner=vpc.owner_id)


def _instance(instance_id: str, state: VpcState) -> Iterator[Resource]:
    if instance := state.instances.get(instance_id):
        yield _there(state, "instance", instance_id, instance.tags)


def _eip(allocation_id: str, state: VpcState) -> Iterator[Resource]:
    if eip := state.elastic_ips.get(allocation_id):
        yield _there(state, "elastic-ip", allocation_id, eip.tags)


def _groups(request: Params, state: VpcState) -> Iterator[Resource]:
    """The state has no security groups, but ENIs that are in one; of a group without any the VPC is not known."""
    for group in params.items(request, "SecurityGroupId"):
        of = next((eni.vpc_id for eni in state.enis.values() if group in dict(eni.groups)), "")
        yield _there(state, "security-group", group, (), vpc=of)


# Actions -----------------------------------------------------------------------------------------------------------


def _of_table(request: Params, state: VpcState) -> Iterator[Resource]:
    yield from _table(request.get("RouteTableId", ""), state)


def _of_eni(request: Params, state: VpcState) -> Iterator[Resource]:
    yield from _eni(request.get("NetworkInterfaceId", ""), state)


def _modify_eni(request: Params, state: VpcState) -> Iterator[Resource]:
    yield from _of_eni(request, state)
    yield from _groups(request, state)


def _associate(request: Params, state: VpcState) -> Iterator[Resource]:
    yield from _eip(request.get("AllocationId", ""), state)
    yield from _instance(request.get("InstanceId", ""), state)
    yield from _of_eni(request, state)


def _attach(request: Params, state: VpcState) -> Iterator[Resource]:
    yield from _instance(request.get("InstanceId", ""), state)
    yield from _of_eni(request, state)


def _detach(request: Params, state: VpcState) -> Iterator[Resource]:
    wanted = request.get("AttachmentId", "")
    for eni in state.enis.values():
        if eni.attachment and eni.attachment.attachment_id == wanted:
            yield from _instance(eni.attachment.instance_id, state)
            yield from _eni(eni.eni_id, state)


def _create_eni(request: Params, state: VpcState) -> Iterator[Resource]:
    yield _made("network-interface", request, state)
    yield from _subnet(request.get("SubnetId", ""), state)
    yield from _groups(request, state)


def _create_subnet(request: Params, state: VpcState) -> Iterator[Resource]:
    yield _made("subnet", request, state)
    yield from _of_vpc(request, state)


def _of_subnet(request: Params, state: VpcState) -> Iterator[Resource]:
    yield from _subnet(request.get("SubnetId", ""), state)


def _of_vpc(request: Params, state: VpcState) -> Iterator[Resource]:
    yield from _vpc(request.get("VpcId", ""), state)


def _tag(request: Params, state: VpcState) -> Iterator[Resource]:
    """CreateTags on what is there: no ec2:CreateAction, which only a call that makes something has."""
    keys, values = params.items_of(request, "Tag", "Key"), params.items_of(request, "Tag", "Value")
    asked = {**_tags("aws:Request", tuple(zip(keys, values, strict=True))), "aws:TagKeys": tuple(keys)}
    finders = {"eni": _eni, "rtb": _table, "subnet": _subnet, "vpc": _vpc, "i": _instance, "eipalloc": _eip}
    for name in params.items(request, "ResourceId"):
        find = finders.get(name.partition("-")[0])
        for resource in find(name, state) if find else (EVERYTHING,):
            yield Resource(resource.arn, {**resource.context, **asked})


_FIND: Mapping[str, Find] = {
    "AssignIpv6Addresses": _of_eni,
    "AssignPrivateIpAddresses": _of_eni,
    "AssociateAddress": _associate,
    "AssociateVpcCidrBlock": _of_vpc,
    "AttachNetworkInterface": _attach,
    "CreateNetworkInterface": _create_eni,
    "CreateRoute": _of_table,
    "CreateSubnet": _create_subnet,
    "CreateTags": _tag,
    "DeleteNetworkInterface": _of_eni,
    "DeleteRoute": _of_table,
    "DeleteSubnet": _of_subnet,
    "DetachNetworkInterface": _detach,
    "ModifyNetworkInterfaceAttribute": _modify_eni,
    "ReplaceRoute": _of_table,
    "UnassignIpv6Addresses": _of_eni,
    "UnassignPrivateIpAddresses": _of_eni,
}
_MADE = {"CreateNetworkInterface": "network-interface", "CreateSubnet": "subnet"}
"""What an action makes, which it may give tags."""
