"""What the real floating EC2 client adds to the contract: the guard, the clock, faults on the wire, remedies."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, ip_network

import pytest

from lab.ec2.server import LabEc2
from tests.contract.ec2_fixtures import (
    Canned,
    MakeClient,
    account,
    canned,
    endpoint,
    make_client,
    module_patch,
    trimmed_model,
)
from tests.contract.ec2_floating_worlds import FREE_CIDR, OUTER_CIDR, FakeFloatingWorld, LabFloatingWorld
from tests.contract.ec2_worlds import PRIMARY_A, ZONE_A, a
from vipmanager.clients.ec2_floating import FloatingEc2Client
from vipmanager.clients.ec2_operations import OPERATIONS
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.model import Attachment
from vipmanager.model_node import VpcCidr

__all__ = ["account", "canned", "endpoint", "make_client", "module_patch", "trimmed_model"]

OUTSIDE = ip_network("192.168.0.1/32")
ADDRESS = IPv4Address(PRIMARY_A)
TAGS = {"vipmanager/floating": "10.10.1.80"}
READS: dict[str, Callable[[LabFloatingWorld], object]] = {
    "DescribeAddresses": lambda w: w.port.elastic_ips(["eipalloc-1"]),
    "DescribeNetworkInterfaces of an instance": lambda w: w.port.enis_of_instance(w.instances["a"]),
    "DescribeNetworkInterfaces by tag": lambda w: w.port.enis_tagged(w.vpc, "k", "v"),
    "DescribeNetworkInterfaces of a subnet": lambda w: w.port.enis_in_subnet(w.subnet_ids["a"]),
    "DescribeSubnets": lambda w: w.port.subnet(w.subnet_ids["a"]),
    "DescribeVpcs": lambda w: w.port.vpc_cidrs(w.vpc),
    "DescribeInstances": lambda w: w.port.instance_state(w.instances["a"]),
}
WRITES: dict[str, Callable[[LabFloatingWorld], object]] = {
    "AssociateAddress": lambda w: w.port.associate("eipalloc-1", w.enis["a"], ADDRESS),
    "CreateNetworkInterface": lambda w: w.port.create_eni(w.subnet_ids["a"], [], w.groups, TAGS, "vipmanager", "t"),
    "AttachNetworkInterface": lambda w: w.port.attach_eni(w.enis["a"], w.instances["a"], 2),
    "DetachNetworkInterface": lambda w: w.port.detach_eni("eni-attach-1", force=False),
    "DeleteNetworkInterface": lambda w: w.port.delete_eni(w.enis["a"]),
    "CreateSubnet": lambda w: w.port.create_subnet(w.vpc, FREE_CIDR, ZONE_A, TAGS),
    "DeleteSubnet": lambda w: w.port.delete_subnet(w.subnet_ids["a"]),
    "AssociateVpcCidrBlock": lambda w: w.port.associate_vpc_cidr(w.vpc, OUTER_CIDR),
    "CreateRoute": lambda w: w.port.create_route(w.tables[0], OUTSIDE, w.enis["a"]),
    "ReplaceRoute": lambda w: w.port.replace_route(w.tables[0], OUTSIDE, w.enis["a"]),
    "DeleteRoute": lambda w: w.port.delete_route(w.tables[0], OUTSIDE),
    "AssignPrivateIpAddresses": lambda w: w.port.assign(w.enis["a"], [a(50)]),
    "AssignIpv6Addresses": lambda w: w.port.assign(w.enis["a"], [w.v6(80)]),
    "UnassignPrivateIpAddresses": lambda w: w.port.unassign(w.enis["a"], [a(50)]),
    "UnassignIpv6Addresses": lambda w: w.port.unassign(w.enis["a"], [w.v6(80)]),
    "ModifyNetworkInterfaceAttribute": lambda w: w.port.disable_source_dest_check(w.enis["a"]),
}
CALLS = {**READS, **WRITES}
ON_ONE = {"DeleteNetworkInterface": "network-interface/eni-", "DeleteSubnet": "subnet/subnet-"}
every_call = pytest.mark.parametrize("name", CALLS)


class Gate:
    """A guard that a test shuts; it counts how often it was asked."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1
        if self.failure is not None:
            raise CallError(self.failure)


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def clock() -> list[float]:
    """The present time, in a list of one."""
    return [1000.0]


@pytest.fixture(scope="module")
def client(make_client: MakeClient, gate: Gate, clock: list[float]) -> FloatingEc2Client:
    made: FloatingEc2Client = make_client(kind=FloatingEc2Client, guard=gate, clock=lambda: clock[0])
    return made


@pytest.fixture
def world(account: LabEc2, client: FloatingEc2Client, gate: Gate) -> LabFloatingWorld:
    gate.failure, gate.asked = None, 0
    return LabFloatingWorld(account, client)


def failure_of(call: Callable[[], object]) -> Failure:
    """The failure of a call that must fail, with CallError and nothing else."""
    with pytest.raises(CallError) as caught:
        call()
    return caught.value.failure


# The guard -----------------------------------------------------------------------------------------------------------

LATE = Failure(ErrorKind.RETRY, "lease", "Expired", "the lease ended before this could be sent")


@pytest.mark.parametrize("name", WRITES)
def test_what_the_guard_stops_is_not_sent_and_fails_as_the_guard_says(
    world: LabFloatingWorld, gate: Gate, name: str
) -> None:
    gate.failure = LATE
    assert failure_of(lambda: WRITES[name](world)) is LATE
    assert (world.calls_made(), gate.asked) == (0, 1)
    READS["DescribeSubnets"](world)  # a later request that arrives, so that the one before did not
    assert world.calls_made() == 1


@pytest.mark.parametrize("name", READS)
def test_the_guard_is_not_asked_before_a_read(world: LabFloatingWorld, gate: Gate, name: str) -> None:
    gate.failure = LATE
    READS[name](world)
    assert (world.calls_made(), gate.asked) == (1, 0)


def test_what_the_guard_lets_through_is_sent(world: LabFloatingWorld, gate: Gate) -> None:
    world.port.assign(world.enis["a"], [a(50)])
    assert (world.calls_made(), gate.asked) == (1, 1)
    assert a(50) in world.addresses(world.enis["a"])


def test_the_guard_is_asked_when_all_else_is_done(account: LabEc2, make_client: MakeClient) -> None:
    """Not before the call: the lease may end while credentials are fetched."""
    done: list[list[str]] = []
    made = make_client(
        "arn:aws:iam::123456789012:role/tables",
        kind=FloatingEc2Client,
        guard=lambda: done.append([call.action for call in account.calls]),
    )
    world = LabFloatingWorld(account, made)
    world.port.create_route(world.tables[0], OUTSIDE, world.enis["a"])
    assert done == [["AssumeRole"]]
    assert [call.action for call in account.calls] == ["AssumeRole", "CreateRoute"]


def test_the_guard_covers_the_client_of_the_route_table_role(
    account: LabEc2, make_client: MakeClient, gate: Gate
) -> None:
    made = make_client("arn:aws:iam::123456789012:role/tables", kind=FloatingEc2Client, guard=gate)
    world = LabFloatingWorld(account, made)
    gate.failure = LATE
    assert failure_of(lambda: world.port.create_route(world.tables[0], OUTSIDE, world.enis["a"])) is LATE
    assert [call.action for call in account.calls] == ["AssumeRole"]


def test_the_doubles_guard_does_the_same(gate: Gate) -> None:
    world = FakeFloatingWorld()
    gate.failure, gate.asked = LATE, 0
    world.ec2.guard = gate
    for name, call in WRITES.items():
        assert failure_of(lambda call=call: call(world)) is LATE, name  # type: ignore[misc]
    gate.failure = None
    for read in READS.values():
        read(world)  # type: ignore[arg-type]
    assert gate.asked == len(WRITES)


# The clock -----------------------------------------------------------------------------------------------------------


def test_what_is_seen_carries_the_time_of_the_clock_that_was_given(world: LabFloatingWorld, clock: list[float]) -> None:
    allocation, _ = world.allocate()
    clock[0] = 4321.0
    assert {table.seen for table in world.port.route_tables(world.vpc)} == {4321.0}
    assert [eip.seen for eip in world.port.elastic_ips([allocation])] == [4321.0]


# Faults on the wire --------------------------------------------------------------------------------------------------


@every_call
def test_a_server_error_is_to_be_retried_by_the_caller_only(world: LabFloatingWorld, name: str) -> None:
    world.ec2.faults.fail("*", status=503)
    assert failure_of(lambda: CALLS[name](world)).kind is ErrorKind.RETRY
    assert world.calls_made() == 1


@every_call
def test_a_lost_connection_is_to_be_retried_by_the_caller_only(world: LabFloatingWorld, name: str) -> None:
    world.ec2.faults.reset("*")
    failure = failure_of(lambda: CALLS[name](world))
    assert (failure.kind, failure.call) == (ErrorKind.RETRY, f"ec2:{name.split()[0]}")
    assert world.calls_made() == 1


@every_call
def test_a_denied_call_names_the_iam_action(world: LabFloatingWorld, name: str) -> None:
    action = f"ec2:{name.split()[0]}"
    world.ec2.faults.deny(action)
    failure = failure_of(lambda: CALLS[name](world))
    assert (failure.kind, failure.call, failure.code) == (ErrorKind.DENIED, action, "UnauthorizedOperation")
    assert action in failure.remedy and ON_ONE.get(name, "") in failure.remedy
    assert ("ec2:CreateTags" in failure.remedy) is (name in ("CreateNetworkInterface", "CreateSubnet"))


def test_lists_that_come_in_pages_are_read_to_the_end(world: LabFloatingWorld) -> None:
    for number in range(8):
        world.port.create_eni(world.subnet_ids["a"], [], world.groups, TAGS, "vipmanager", f"token-{number}")
    world.ec2.page_size = 5
    assert len(world.port.enis_tagged(world.vpc, *next(iter(TAGS.items())))) == 8
    assert len(world.port.enis_in_subnet(world.subnet_ids["a"])) == 12


def test_every_operation_is_one_that_some_mode_may_call(world: LabFloatingWorld) -> None:
    """Each action is in the cut-down model; doctor has one of its own."""
    actions = {name.split()[0] for name in CALLS} | {"DescribeRouteTables"}
    assert actions == {*OPERATIONS} - {"DescribeInstanceTypes"}


# Answers that a mock does not give -----------------------------------------------------------------------------------

ENIS = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeNetworkInterfacesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>x</requestId>
<networkInterfaceSet>
<item><networkInterfaceId>eni-1</networkInterfaceId><availabilityZone>us-east-2c</availabilityZone>
 <attachment><attachmentId>eni-attach-1</attachmentId><instanceId>i-1</instanceId><deviceIndex>2</deviceIndex>
  <networkCardIndex>1</networkCardIndex><status>detaching</status></attachment>
 <groupSet><item><groupId>sg-1</groupId><groupName>one</groupName></item></groupSet>
 <ipv4PrefixSet><item><ipv4Prefix>10.0.0.16/28</ipv4Prefix></item></ipv4PrefixSet>
 <ipv6PrefixSet><item><ipv6Prefix>2001:db8:0:1:1::/80</ipv6Prefix></item></ipv6PrefixSet></item>
<item><networkInterfaceId>eni-2</networkInterfaceId>
 <attachment><attachmentId>ela-attach-1</attachmentId><deviceIndex>1</deviceIndex><status>attached</status>
  <instanceOwnerId>amazon-elb</instanceOwnerId></attachment></item>
<item><networkInterfaceId>eni-3</networkInterfaceId>
 <attachment><attachmentId>eni-attach-3</attachmentId><status>detached</status></attachment></item>
</networkInterfaceSet></DescribeNetworkInterfacesResponse>"""

VPCS = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeVpcsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>x</requestId><vpcSet><item>
<vpcId>vpc-1</vpcId><cidrBlock>10.0.0.0/16</cidrBlock><cidrBlockAssociationSet>
 <item><cidrBlock>10.0.0.0/16</cidrBlock><cidrBlockState><state>associated</state></cidrBlockState></item>
 <item><cidrBlock>10.1.0.0/16</cidrBlock><cidrBlockState><state>failed</state></cidrBlockState></item>
 <item><cidrBlock>10.2.0.0/16</cidrBlock><cidrBlockState><state>disassociated</state></cidrBlockState></item>
</cidrBlockAssociationSet></item></vpcSet></DescribeVpcsResponse>"""

INSTANCES = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>x</requestId>
<reservationSet/></DescribeInstancesResponse>"""


def test_prefixes_and_attachments_of_all_kinds_are_read(canned: Canned, make_client: MakeClient) -> None:
    canned.text = ENIS
    first, elb, gone = make_client(kind=FloatingEc2Client).enis_in_subnet("subnet-1")
    assert first.attachment == Attachment("eni-attach-1", "i-1", 2, "detaching")
    assert (first.live, first.zone, first.groups) == (False, "us-east-2c", ("sg-1",))
    assert first.prefixes == (ip_network("10.0.0.16/28"), ip_network("2001:db8:0:1:1::/80"))
    assert elb.attachment == Attachment("ela-attach-1", "", 1, "attached")
    assert (gone.attachment, gone.live, gone.device_index) == (None, False, -1)


def test_a_vpc_shows_the_cidrs_that_are_there_or_coming(canned: Canned, make_client: MakeClient) -> None:
    canned.text = VPCS
    assert make_client(kind=FloatingEc2Client).vpc_cidrs("vpc-1") == (
        VpcCidr(ip_network("10.0.0.0/16"), "associated"),
        VpcCidr(ip_network("10.1.0.0/16"), "failed"),
    )


def test_an_instance_that_is_not_among_the_answers_has_ended(canned: Canned, make_client: MakeClient) -> None:
    canned.text = INSTANCES
    assert make_client(kind=FloatingEc2Client).instance_state("i-1") == "terminated"
