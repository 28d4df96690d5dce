"""The custom resources of network.yaml, on the lab's EC2.

Subnet CIDR reservations, and CreateTags and DeleteTags of route tables, are only moto's: the lab adds no rules to them.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from lab.ec2.auth import Credentials
from lab.ec2.server import LabEc2
from tests.contract.cfn_support import Stack, module, template
from tests.contract.ec2_fixtures import endpoint, module_patch, point_sdk_at

__all__ = ["endpoint", "module_patch"]

KEY = Credentials("AKIALABADDITIONS0000", "not-a-secret", "arn:aws:iam::123456789012:user/function", "AIDAFUNCTION")
STACK = "arn:aws:cloudformation:us-east-2:123456789012:stack/network/0b1c2d3e"
CIDR = "10.10.254.0/28"


class _Answers(http.server.BaseHTTPRequestHandler):
    """Where the stack waits: takes what is put. As S3, it refuses a content type that was not signed."""

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answers: list[dict[str, Any]] = self.server.answers  # type: ignore[attr-defined]
        answers.append(json.loads(body))
        self.send_response(403 if self.headers.get("Content-Type") else 200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@dataclass
class World:
    """A VPC with a floating subnet and two route tables, and a stack that asks for things."""

    ec2: LabEc2
    function: ModuleType
    url: str
    answers: list[dict[str, Any]]
    subnet: str
    tables: list[str]

    def ask(self, kind: str, request: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Send a request as CloudFormation would; the answer."""
        event = {
            "RequestType": request,
            "ResponseURL": self.url,
            "StackId": STACK,
            "RequestId": f"request-{len(self.answers)}",
            "LogicalResourceId": "Resource",
            "ResourceType": f"Custom::{kind}",
            "ResourceProperties": {"ServiceToken": "arn", **properties},
            **more,
        }
        self.function.handler(event, None)
        answer = self.answers[-1]
        assert {key: answer[key] for key in ("StackId", "RequestId", "LogicalResourceId")} == {
            key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")
        }
        return answer

    def reserved(self) -> list[tuple[str, str]]:
        """The subnet's reservations: CIDR and type."""
        found = self.ec2.admin().get_subnet_cidr_reservations(SubnetId=self.subnet)["SubnetIpv4CidrReservations"]
        return [(each["Cidr"], each["ReservationType"]) for each in found]

    def tagged(self, key: str = "vipmanager") -> dict[str, str]:
        """The route tables that have the tag, with its value."""
        found = self.ec2.admin().describe_route_tables(RouteTableIds=self.tables)["RouteTables"]
        return {table["RouteTableId"]: tag["Value"] for table in found for tag in table["Tags"] if tag["Key"] == key}


@pytest.fixture(scope="module")
def function(endpoint: int, module_patch: pytest.MonkeyPatch) -> ModuleType:
    point_sdk_at(module_patch, f"http://127.0.0.1:{endpoint}", KEY.access_key, KEY.secret_key)
    module_patch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    module_patch.setenv("AWS_MAX_ATTEMPTS", "1")
    return module("network_additions")


@pytest.fixture
def world(endpoint: int, function: ModuleType) -> Iterator[World]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Answers)
    server.answers = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with LabEc2("us-east-2") as ec2:
        ec2.keys.add(KEY)
        ec2.serve("127.0.0.1", endpoint)
        admin = ec2.admin()
        vpc = admin.create_vpc(CidrBlock="10.10.0.0/16")["Vpc"]["VpcId"]
        subnet = admin.create_subnet(VpcId=vpc, CidrBlock=CIDR, AvailabilityZone="us-east-2a")["Subnet"]["SubnetId"]
        tables = [admin.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"] for _ in range(2)]
        given = {
            "AWS::Partition": "aws",
            "AWS::Region": "us-east-2",
            "AWS::AccountId": ec2.account_id,
            "VpcId": vpc,
        }
        document = Stack(template("network.yaml"), given).property("AdditionsPolicy", "PolicyDocument")
        mine = [each for each in document["Statement"] if each["Sid"] in ("Reservations", "RouteTables")]
        # The lab knows no ForAllValues for DeleteTags; the tags' statement is checked by the template's test alone.
        tags = {"Effect": "Allow", "Action": ["ec2:CreateTags", "ec2:DeleteTags"], "Resource": "*"}
        ec2.policies.attach(KEY.access_key, {"Version": "2012-10-17", "Statement": [*mine, tags]})
        url = f"http://127.0.0.1:{server.server_port}/answer?signature=x"
        yield World(ec2, function, url, server.answers, subnet, tables)  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_subnet_is_reserved_once_and_given_back(world: World) -> None:
    properties = {"SubnetId": world.subnet, "Cidr": CIDR}
    first = world.ask("SubnetCidrReservation", "Create", properties)
    assert first["Status"] == "SUCCESS"
    assert world.reserved() == [(CIDR, "explicit")]
    assert world.ask("SubnetCidrReservation", "Create", properties)["PhysicalResourceId"] == first["PhysicalResourceId"]
    assert world.reserved() == [(CIDR, "explicit")]
    for _ in range(2):
        ended = world.ask("SubnetCidrReservation", "Delete", properties, PhysicalResourceId=first["PhysicalResourceId"])
        assert ended["Status"] == "SUCCESS"
        assert world.reserved() == []


def test_what_was_never_made_can_be_deleted(world: World) -> None:
    ended = world.ask(
        "SubnetCidrReservation", "Delete", {"SubnetId": world.subnet, "Cidr": CIDR}, PhysicalResourceId="none"
    )
    assert (ended["Status"], ended["PhysicalResourceId"]) == ("SUCCESS", "none")


def test_route_tables_are_tagged_as_long_as_the_stack_says(world: World) -> None:
    first, second = world.tables
    tag = {"Key": "vipmanager", "Value": "floating"}
    one, both = {"RouteTableIds": [first], **tag}, {"RouteTableIds": [first, second], **tag}
    made = world.ask("RouteTableTags", "Create", both)
    assert world.tagged() == {first: "floating", second: "floating"}
    more = {"PhysicalResourceId": made["PhysicalResourceId"]}
    again = world.ask("RouteTableTags", "Update", one, OldResourceProperties=both, **more)
    assert again["PhysicalResourceId"] == made["PhysicalResourceId"]  # else CloudFormation would delete the old one
    assert world.tagged() == {first: "floating"}
    other = {**one, "Value": "other"}
    world.ask("RouteTableTags", "Update", other, OldResourceProperties=one, **more)
    assert world.tagged() == {first: "other"}
    renamed = {**other, "Key": "routes"}
    world.ask("RouteTableTags", "Update", renamed, OldResourceProperties=other, **more)
    assert (world.tagged(), world.tagged("routes")) == ({}, {first: "other"})
    world.ask("RouteTableTags", "Delete", renamed, **more)
    assert world.tagged("routes") == {}


def test_what_is_gone_can_be_taken_away(world: World) -> None:
    """Somebody deleted the subnet and the tables: the stack must not hang on them."""
    admin, tag = world.ec2.admin(), {"Key": "vipmanager", "Value": "floating"}
    reserved = {"SubnetId": world.subnet, "Cidr": CIDR}
    made = world.ask("SubnetCidrReservation", "Create", reserved)
    first, second = world.tables
    both = {"RouteTableIds": [first, second], **tag}
    world.ask("RouteTableTags", "Create", both)
    admin.delete_subnet(SubnetId=world.subnet)
    admin.delete_route_table(RouteTableId=first)
    more = {"PhysicalResourceId": made["PhysicalResourceId"]}
    assert world.ask("SubnetCidrReservation", "Delete", reserved, **more)["Status"] == "SUCCESS"
    mark = world.ec2.mark()
    assert world.ask("RouteTableTags", "Delete", both, PhysicalResourceId="tags")["Status"] == "SUCCESS"
    untagged = [call for call in world.ec2.calls_since(mark) if call.action == "DeleteTags"]
    assert len(untagged) == 1, "only of the one that is there: IAM would deny the other"
    left = admin.describe_route_tables(RouteTableIds=[second])["RouteTables"]
    assert left[0]["Tags"] == []


@pytest.mark.parametrize(("code", "status"), [("InvalidRouteTableID.NotFound", "SUCCESS"), ("InternalError", "FAILED")])
def test_a_table_that_goes_meanwhile(world: World, code: str, status: str) -> None:
    given = {"RouteTableIds": world.tables, "Key": "vipmanager", "Value": "floating"}
    world.ask("RouteTableTags", "Create", given)
    world.ec2.faults.fail("DeleteTags", code, status=400)
    assert world.ask("RouteTableTags", "Delete", given, PhysicalResourceId="tags")["Status"] == status


def test_no_route_tables(world: World) -> None:
    answer = world.ask("RouteTableTags", "Create", {"RouteTableIds": [""], "Key": "vipmanager", "Value": "floating"})
    assert answer["Status"] == "SUCCESS"
    assert world.tagged() == {}


def test_a_failure_is_answered_with_its_reason(world: World) -> None:
    answer = world.ask("SubnetCidrReservation", "Create", {"SubnetId": "subnet-0123456789abcdef0", "Cidr": CIDR})
    assert answer["Status"] == "FAILED"
    assert "subnet-0123456789abcdef0" in answer["Reason"]
    assert answer["PhysicalResourceId"] == "none"


def test_an_unknown_kind_is_answered_too(world: World) -> None:
    assert world.ask("Something", "Create", {})["Status"] == "FAILED"
