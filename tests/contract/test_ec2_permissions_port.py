"""The permission port on the real client: asked with DryRun, with the parameters that the call itself would have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import botocore
import pytest

from lab.ec2.server import LabEc2
from tests.contract.ec2_fixtures import MakeClient, account, endpoint, make_client, module_patch, trimmed_model
from tests.contract.ec2_floating_worlds import FREE_CIDR, OUTER_CIDR, LabFloatingWorld
from tests.contract.ec2_worlds import ZONE_A, a
from vipmanager.actions import (
    AssignAddress,
    AssociateEip,
    DeleteRoute,
    DisableSourceDestCheck,
    SetRoute,
    UnassignAddress,
)
from vipmanager.actions_node import (
    AssociateVpcCidr,
    AttachEni,
    CloudAction,
    CreateEni,
    CreateSubnet,
    DeleteEni,
    DeleteSubnet,
    DetachEni,
)
from vipmanager.apply_node import apply_cloud, carry_out
from vipmanager.clients.ec2 import Ec2Client
from vipmanager.clients.ec2_floating import FloatingEc2Client
from vipmanager.clients.ec2_operations import OPERATIONS
from vipmanager.clients.ec2_permissions import NO_DRY_RUN, Ec2Permissions, request_of
from vipmanager.errors import CallError, ErrorKind

__all__ = ["account", "endpoint", "make_client", "module_patch", "trimmed_model"]

OUTSIDE = ip_network("192.168.0.1/32")
HOST = ip_address("192.168.0.1")

ACTIONS: Mapping[str, Callable[[LabFloatingWorld], CloudAction]] = {
    "CreateRoute": lambda w: SetRoute(w.tables[0], OUTSIDE, w.enis["a"], "", HOST),
    "CreateRoute of IPv6": lambda w: SetRoute(
        w.tables[0], ip_network("fd12::1"), w.enis["a"], "", ip_address("fd12::1")
    ),
    "ReplaceRoute": lambda w: SetRoute(w.tables[0], OUTSIDE, w.enis["a"], w.enis["b"], HOST),
    "DeleteRoute": lambda w: DeleteRoute(w.tables[0], OUTSIDE, w.enis["a"], HOST),
    "ModifyNetworkInterfaceAttribute": lambda w: DisableSourceDestCheck(w.enis["a"]),
    "AssociateAddress": lambda w: AssociateEip(w.allocate()[0], w.enis["a"], ip_address("10.10.1.10")),
    "CreateNetworkInterface": lambda w: CreateEni(w.subnet_ids["a"], (a(80), w.v6(80)), tuple(w.groups), "10.10.1.80"),
    "AttachNetworkInterface": lambda w: AttachEni(w.enis["a"], w.instances["a2"], 3),
    "DetachNetworkInterface": lambda w: DetachEni(w.enis["a"], _attachment(w), w.instances["a"], True),
    "DeleteNetworkInterface": lambda w: DeleteEni(w.enis["a"]),
    "CreateSubnet": lambda w: CreateSubnet(w.vpc, FREE_CIDR, ZONE_A, "10.10.3.5"),
    "DeleteSubnet": lambda w: DeleteSubnet(w.subnet_ids["b"], ip_network("10.10.2.0/24")),
    "AssignPrivateIpAddresses": lambda w: AssignAddress(w.enis["a"], a(50)),
    "AssignIpv6Addresses": lambda w: AssignAddress(w.enis["a"], w.v6(80)),
    "UnassignPrivateIpAddresses": lambda w: UnassignAddress(w.enis["a"], a(50), "vanished"),
    "UnassignIpv6Addresses": lambda w: UnassignAddress(w.enis["a"], w.v6(80), "vanished"),
    "AssociateVpcCidrBlock": lambda w: AssociateVpcCidr(w.vpc, OUTER_CIDR),
}
every_action = pytest.mark.parametrize("name", ACTIONS)
askable = pytest.mark.parametrize("name", [name for name in ACTIONS if name.split()[0] not in NO_DRY_RUN])


def _attachment(world: LabFloatingWorld) -> str:
    attachment = world.ec2.state().enis[world.enis["a"]].attachment
    assert attachment is not None
    return attachment.attachment_id


@pytest.fixture(scope="module")
def client(make_client: MakeClient) -> FloatingEc2Client:
    made: FloatingEc2Client = make_client(kind=FloatingEc2Client)
    return made


@pytest.fixture
def world(account: LabEc2, client: FloatingEc2Client) -> LabFloatingWorld:
    return LabFloatingWorld(account, client)


@pytest.fixture
def permissions(client: FloatingEc2Client) -> Ec2Permissions:
    return Ec2Permissions(client, carry_out)


@every_action
def test_what_a_change_needs_is_told_without_a_call(
    world: LabFloatingWorld, permissions: Ec2Permissions, name: str
) -> None:
    operation = name.split()[0]
    action = ACTIONS[name](world)
    mark = world.ec2.mark()
    needed = permissions.needed(action)
    assert (needed.action, needed.asked) == (f"ec2:{operation}", operation not in NO_DRY_RUN)
    assert needed.resource == "*" or needed.ids in needed.resource
    assert world.ec2.calls_since(mark) == []


@askable
def test_what_is_allowed_is_asked_in_one_call_and_not_done(
    world: LabFloatingWorld, permissions: Ec2Permissions, name: str
) -> None:
    action = ACTIONS[name](world)
    mark, before = world.ec2.mark(), world.ec2.state()
    assert permissions.check(action) is None
    (call,) = world.ec2.calls_since(mark)
    assert (call.action, call.params["DryRun"], call.error) == (name.split()[0], "true", "DryRunOperation")
    assert world.ec2.state() is before


@askable
def test_the_question_has_the_parameters_of_the_call(
    world: LabFloatingWorld, permissions: Ec2Permissions, client: FloatingEc2Client, name: str
) -> None:
    """Resource, tags and conditions of a policy are then judged alike; a token that makes a retry safe is no part."""
    action = ACTIONS[name](world)
    mark = world.ec2.mark()
    permissions.check(action)
    world.ec2.faults.fail(name.split()[0], "Unavailable")
    with pytest.raises(CallError):
        apply_cloud(client, [action], "token")
    asked, made = ({**call.params} for call in world.ec2.calls_since(mark))
    assert asked.pop("DryRun") == "true"
    assert asked.pop("ClientToken", "") != "token"
    made.pop("ClientToken", None)
    assert asked == made


@askable
def test_what_is_denied_has_the_remedy_of_the_call_itself(
    world: LabFloatingWorld, permissions: Ec2Permissions, client: FloatingEc2Client, name: str
) -> None:
    action = ACTIONS[name](world)
    world.ec2.faults.deny(f"ec2:{name.split()[0]}")
    failure = permissions.check(action)
    with pytest.raises(CallError) as caught:
        apply_cloud(client, [action], "token")
    assert failure == caught.value.failure
    assert failure.kind is ErrorKind.DENIED


@pytest.mark.parametrize("name", [name for name in ACTIONS if name.split()[0] in NO_DRY_RUN])
def test_what_takes_no_dry_run_is_not_called(world: LabFloatingWorld, permissions: Ec2Permissions, name: str) -> None:
    mark = world.ec2.mark()
    assert permissions.check(ACTIONS[name](world)) is None
    assert world.ec2.calls_since(mark) == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RequestLimitExceeded", ErrorKind.RETRY),
        ("RouteAlreadyExists", ErrorKind.RACE),
        ("RouteLimitExceeded", ErrorKind.LIMIT),
        ("InvalidRouteTableID.NotFound", ErrorKind.INVALID),
    ],
)
def test_any_other_answer_is_the_failure_that_it_is(
    world: LabFloatingWorld, permissions: Ec2Permissions, code: str, kind: ErrorKind
) -> None:
    world.ec2.faults.fail("CreateRoute", code, status=503 if kind is ErrorKind.RETRY else 400)
    failure = permissions.check(ACTIONS["CreateRoute"](world))
    assert failure is not None
    assert (failure.code, failure.kind) == (code, kind)


def test_a_route_that_is_there_or_is_not_makes_no_difference(
    world: LabFloatingWorld, permissions: Ec2Permissions
) -> None:
    """As far as the lab goes: see the module's own words on what is known of EC2."""
    world.port.create_route(world.tables[0], OUTSIDE, world.enis["b"])
    assert permissions.check(ACTIONS["CreateRoute"](world)) is None
    world.port.delete_route(world.tables[0], OUTSIDE)
    assert permissions.check(ACTIONS["ReplaceRoute"](world)) is None


def test_an_endpoint_that_ignores_dry_run_is_told_of() -> None:
    """It has made the change then: no plan may go on asking it."""

    class Ignorant(Ec2Client):
        def _call(self, operation: str, resource: str, **params: Any) -> Mapping[str, Any]:
            return {}

    failure = Ec2Permissions(Ignorant(str), carry_out).check(SetRoute("rtb-1", OUTSIDE, "eni-1", "", HOST))
    assert failure is not None
    assert (failure.kind, failure.call) == (ErrorKind.INVALID, "ec2:CreateRoute")


def test_every_write_is_known_and_those_without_dry_run_are_the_sdk_s() -> None:
    """Of the operations that are called: the installed botocore's model says which take DryRun."""
    writes = {operation for operation in OPERATIONS if not operation.startswith("Describe")}
    folder = Path(botocore.__file__).parent / "data/ec2/2016-11-15"
    model = json.loads(gzip.decompress((folder / "service-2.json.gz").read_bytes()))
    inputs = {name: model["operations"][name]["input"]["shape"] for name in writes}
    without = {name for name, shape in inputs.items() if "DryRun" not in model["shapes"][shape]["members"]}
    assert {name.split()[0] for name in ACTIONS} == writes
    assert without == NO_DRY_RUN


def test_a_request_is_built_and_not_sent() -> None:
    request = request_of(SetRoute("rtb-1", OUTSIDE, "eni-1", "eni-2", HOST), carry_out)
    assert request.operation == "replace_route"
    assert request.params == {
        "RouteTableId": "rtb-1",
        "DestinationCidrBlock": "192.168.0.1/32",
        "NetworkInterfaceId": "eni-1",
    }
