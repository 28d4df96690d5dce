"""What the real EC2 client adds to the contract: faults on the wire, the route table role, remedies."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network

import pytest

from lab.ec2.moto_api import Moto
from lab.ec2.server import LabEc2
from tests.contract.ec2_fixtures import (
    KEY,
    Canned,
    MakeClient,
    account,
    canned,
    endpoint,
    make_client,
    module_patch,
    trimmed_model,
)
from tests.contract.ec2_worlds import LabWorld, a
from vipmanager.clients import ec2 as ec2_client
from vipmanager.clients.ec2 import Ec2Client
from vipmanager.errors import CallError, ErrorKind, Failure

__all__ = ["account", "canned", "endpoint", "make_client", "module_patch", "trimmed_model"]

OUTSIDE = ip_network("192.168.0.1/32")
CALLS: dict[str, Callable[[LabWorld], object]] = {
    "DescribeRouteTables": lambda w: w.port.route_tables(w.vpc),
    "DescribeNetworkInterfaces": lambda w: w.port.enis([w.enis["a"]]),
    "DescribeNetworkInterfaces by MAC": lambda w: w.port.enis_by_mac([w.macs["a"]]),
    "DescribeNetworkInterfaces by address": lambda w: w.port.enis_holding(w.vpc, [a(50)]),
    "DescribeSubnets": lambda w: w.port.subnets(w.vpc),
    "CreateRoute": lambda w: w.port.create_route(w.tables[0], OUTSIDE, w.enis["a"]),
    "ReplaceRoute": lambda w: w.port.replace_route(w.tables[0], OUTSIDE, w.enis["a"]),
    "DeleteRoute": lambda w: w.port.delete_route(w.tables[0], OUTSIDE),
    "AssignPrivateIpAddresses": lambda w: w.port.assign(w.enis["a"], [a(50)]),
    "AssignIpv6Addresses": lambda w: w.port.assign(w.enis["a"], [w.v6(80)]),
    "UnassignPrivateIpAddresses": lambda w: w.port.unassign(w.enis["a"], [a(50)]),
    "UnassignIpv6Addresses": lambda w: w.port.unassign(w.enis["a"], [w.v6(80)]),
    "ModifyNetworkInterfaceAttribute": lambda w: w.port.disable_source_dest_check(w.enis["a"]),
}
every_call = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(scope="module")
def client(make_client: MakeClient) -> Ec2Client:
    return make_client()


@pytest.fixture
def world(account: LabEc2, client: Ec2Client) -> LabWorld:
    return LabWorld(account, client)


def failure_of(call: Callable[[], object]) -> Failure:
    """The failure of a call that must fail, with CallError and nothing else."""
    with pytest.raises(CallError) as caught:
        call()
    return caught.value.failure


def test_an_observer_is_told_of_every_request(account: LabEc2, make_client: MakeClient) -> None:
    """Operations as EC2 names them; ok or the code; a page is a request; one that cannot be sent is one, too."""
    told: list[tuple[str, str, float]] = []
    world = LabWorld(account, make_client(observer=lambda *call: told.append(call)))
    world.ec2.faults.fail("CreateRoute", "RequestLimitExceeded")
    failure_of(lambda: CALLS["CreateRoute"](world))
    CALLS["CreateRoute"](world)
    CALLS["AssignIpv6Addresses"](world)
    world.ec2.faults.reset("DescribeSubnets")
    failure_of(lambda: CALLS["DescribeSubnets"](world))
    assert [(operation, code) for operation, code, _ in told] == [
        ("CreateRoute", "RequestLimitExceeded"),
        ("CreateRoute", "ok"),
        ("AssignIpv6Addresses", "ok"),
        ("DescribeSubnets", "ConnectionClosedError"),
    ]
    assert all(seconds > 0 for _, _, seconds in told)


# Faults on the wire --------------------------------------------------------------------------------------------------


@every_call
@pytest.mark.parametrize("status", [500, 503])
def test_a_server_error_is_to_be_retried_by_the_caller_only(world: LabWorld, name: str, status: int) -> None:
    world.ec2.faults.fail("*", status=status)
    assert failure_of(lambda: CALLS[name](world)).kind is ErrorKind.RETRY
    assert world.calls_made() == 1


@every_call
def test_a_lost_connection_is_to_be_retried_by_the_caller_only(world: LabWorld, name: str) -> None:
    world.ec2.faults.reset("*")
    failure = failure_of(lambda: CALLS[name](world))
    assert failure.kind is ErrorKind.RETRY
    assert failure.call == f"ec2:{name.split()[0]}"
    assert world.calls_made() == 1


@every_call
def test_a_denied_call_names_the_iam_action_and_the_resource(world: LabWorld, name: str) -> None:
    action = f"ec2:{name.split()[0]}"
    world.ec2.faults.deny(action)
    failure = failure_of(lambda: CALLS[name](world))
    assert (failure.kind, failure.call, failure.code) == (ErrorKind.DENIED, action, "UnauthorizedOperation")
    resource = world.tables[0] if name.endswith("Route") else world.enis["a"]
    assert action in failure.remedy
    assert name.startswith("Describe") or resource in failure.remedy


def test_throttling_is_to_be_retried(world: LabWorld) -> None:
    world.ec2.faults.throttle("DescribeSubnets", bucket=1, refill=0.0)
    CALLS["DescribeSubnets"](world)
    failure = failure_of(lambda: CALLS["DescribeSubnets"](world))
    assert (failure.kind, failure.code) == (ErrorKind.RETRY, "RequestLimitExceeded")


def test_a_fault_on_a_later_page_is_not_swallowed(world: LabWorld) -> None:
    world.add_tables(3)
    world.ec2.page_size = 2
    assert len(world.port.route_tables(world.vpc)) == 6
    world.ec2.faults.fail("DescribeRouteTables", when=lambda params: "NextToken" in params)
    assert failure_of(lambda: world.port.route_tables(world.vpc)).kind is ErrorKind.RETRY


def test_an_endpoint_that_does_not_answer_is_given_up(
    account: LabEc2, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2_client, "READ_TIMEOUT", 0.2)
    world = LabWorld(account, make_client())
    account.faults.block()
    failure = failure_of(lambda: world.port.subnets(world.vpc))
    assert (failure.kind, failure.code) == (ErrorKind.RETRY, "ReadTimeoutError")


def test_an_endpoint_that_refuses_connections_is_to_be_retried(account: LabEc2, client: Ec2Client) -> None:
    account.close()
    assert failure_of(lambda: client.subnets("vpc-1")).kind is ErrorKind.RETRY


# Credentials and settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["forget", "expire"])
def test_credentials_that_aws_does_not_accept_are_named(world: LabWorld, change: str) -> None:
    getattr(world.ec2.keys, change)(KEY.access_key)
    failure = failure_of(lambda: world.port.subnets(world.vpc))
    expected = ErrorKind.DENIED if change == "forget" else ErrorKind.RETRY  # expired ones are renewed by the SDK
    assert failure.kind is expected
    assert change == "expire" or "credentials" in failure.remedy
    assert KEY.secret_key not in str(failure)


@pytest.mark.parametrize("role", ["", "arn:aws:iam::123456789012:role/tables"])
def test_without_credentials_the_remedy_is_a_role_for_the_service_account(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    failure = failure_of(lambda: make_client(role).route_tables("vpc-1"))
    assert (failure.kind, failure.code) == (ErrorKind.RETRY, "NoCredentialsError")
    assert "service account" in failure.remedy


def test_credentials_that_come_later_are_used(
    account: LabEc2, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ErrorKind.RETRY says "credentials not there yet": a client made without any must not be kept."""
    world = LabWorld(account, make_client())
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        assert failure_of(lambda: world.port.subnets(world.vpc)).code == "NoCredentialsError"
    assert len(world.port.subnets(world.vpc)) == 2


def test_half_the_credentials_are_a_failure_as_well(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert failure_of(lambda: make_client().subnets("vpc-1")).code == "PartialCredentialsError"


@pytest.mark.parametrize("role", ["", "arn:aws:iam::123456789012:role/tables"])
@pytest.mark.parametrize("url", ["http://", "not a url", "http://127.0.0.1:port", "ftp://127.0.0.1"])
def test_an_endpoint_setting_that_is_no_url_is_a_failure_too(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, url: str, role: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    failure = failure_of(lambda: make_client(role).route_tables("vpc-1"))
    assert failure.kind in (ErrorKind.INVALID, ErrorKind.RETRY)


def test_a_region_that_cannot_be_had_is_the_failure_of_the_call() -> None:
    unreachable = Failure(ErrorKind.RETRY, "imds", "timeout", "no answer")

    def region() -> str:
        raise CallError(unreachable)

    assert failure_of(lambda: Ec2Client(region).subnets("vpc-1")) is unreachable


def test_a_role_that_cannot_be_assumed_is_named(account: LabEc2, make_client: MakeClient) -> None:
    account.faults.deny("sts:AssumeRole")
    world = LabWorld(account, make_client("arn:aws:iam::123456789012:role/tables"))
    failure = failure_of(lambda: world.port.route_tables(world.vpc))
    assert (failure.kind, failure.call) == (ErrorKind.DENIED, "sts:AssumeRole")
    assert "sts:AssumeRole" in failure.remedy


def test_a_role_that_sts_does_not_give_is_not_waited_for_long(
    account: LabEc2, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call behind it would be sent long after its address has left again; and it is asked for once."""
    monkeypatch.setattr(ec2_client, "READ_TIMEOUT", 0.2)
    world = LabWorld(account, make_client("arn:aws:iam::123456789012:role/tables"))
    account.faults.hang("AssumeRole", 20.0, None)
    failure = failure_of(lambda: world.port.create_route(world.tables[0], OUTSIDE, world.enis["a"]))
    assert (failure.kind, failure.code) == (ErrorKind.RETRY, "ReadTimeoutError")
    account.faults.clear()
    assert not [call for call in account.calls if call.action == "CreateRoute"]


def test_the_role_is_used_for_route_table_calls_only_and_assumed_once(account: LabEc2, make_client: MakeClient) -> None:
    world = LabWorld(account, make_client("arn:aws:iam::123456789012:role/tables"))
    for _ in range(2):
        world.port.create_route(world.tables[0], OUTSIDE, world.enis["a"])
        world.port.replace_route(world.tables[0], OUTSIDE, world.enis["b"])
        world.port.delete_route(world.tables[0], OUTSIDE)
        world.port.route_tables(world.vpc)
        world.port.subnets(world.vpc)
        world.port.enis(list(world.enis.values()))
        world.port.enis_by_mac(list(world.macs.values()))
        world.port.enis_holding(world.vpc, [a(50), world.v6(50)])
        world.port.assign(world.enis["a"], [a(50)])
        world.port.unassign(world.enis["a"], [a(50)])
        world.port.disable_source_dest_check(world.enis["a"])
    calls = account.calls
    assert [call.access_key for call in calls if call.action == "AssumeRole"] == [KEY.access_key]
    by_role = {call.action for call in calls if call.access_key not in (KEY.access_key, None)}
    assert by_role == {"DescribeRouteTables", "CreateRoute", "ReplaceRoute", "DeleteRoute"}
    assert not by_role & {call.action for call in calls if call.access_key == KEY.access_key}


@pytest.fixture
def lifetime(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Seconds for which AssumeRole's credentials are good: STS would give no less than 900."""
    seconds = {"role": 3600}
    assume = Moto.assume_role
    monkeypatch.setattr(Moto, "assume_role", lambda self, arn, name, _: assume(self, arn, name, seconds["role"]))
    return seconds


def test_the_roles_credentials_are_renewed_before_they_expire(
    account: LabEc2, make_client: MakeClient, lifetime: dict[str, int]
) -> None:
    world = LabWorld(account, make_client("arn:aws:iam::123456789012:role/tables"))
    lifetime["role"] = 60
    world.port.route_tables(world.vpc)
    lifetime["role"] = 3600
    world.port.route_tables(world.vpc)
    world.port.route_tables(world.vpc)
    assert [call.action for call in account.calls].count("AssumeRole") == 2


def test_credentials_that_are_expired_already_are_a_failure(
    account: LabEc2, make_client: MakeClient, lifetime: dict[str, int]
) -> None:
    """As a node whose clock is far ahead sees them."""
    world = LabWorld(account, make_client("arn:aws:iam::123456789012:role/tables"))
    lifetime["role"] = -60
    assert failure_of(lambda: world.port.route_tables(world.vpc)).kind is ErrorKind.RETRY
    lifetime["role"] = 3600
    assert world.port.route_tables(world.vpc)


def test_one_client_is_made_however_many_threads_come_first(account: LabEc2, make_client: MakeClient) -> None:
    world = LabWorld(account, make_client("arn:aws:iam::123456789012:role/tables"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: world.port.route_tables(world.vpc), range(8)))
    assert [call.action for call in account.calls].count("AssumeRole") == 1


def test_no_credentials_are_in_the_log(
    account: LabEc2, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "vipmanager")
    world = LabWorld(account, make_client("arn:aws:iam::123456789012:role/tables"))
    account.faults.deny("ec2:DescribeSubnets")
    world.port.route_tables(world.vpc)
    failure_of(lambda: world.port.subnets(world.vpc))
    told = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "describe_route_tables" in told and "describe_subnets" in told
    assert KEY.secret_key not in told and KEY.access_key not in told


# Answers that a mock does not give -----------------------------------------------------------------------------------

TABLES = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeRouteTablesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>x</requestId><routeTableSet>
<item><routeTableId>rtb-1</routeTableId><vpcId>vpc-1</vpcId><routeSet>
 <item><destinationCidrBlock>10.0.0.0/16</destinationCidrBlock><gatewayId>local</gatewayId><state>active</state>
  <origin>CreateRouteTable</origin></item>
 <item><destinationCidrBlock>192.168.7.0/24</destinationCidrBlock><gatewayId>vgw-1</gatewayId><state>active</state>
  <origin>EnableVgwRoutePropagation</origin></item>
 <item><destinationCidrBlock>192.168.0.1/32</destinationCidrBlock><networkInterfaceId>eni-1</networkInterfaceId>
  <instanceId>i-1</instanceId><instanceOwnerId>1</instanceOwnerId><state>blackhole</state><origin>CreateRoute</origin>
 </item>
 <item><destinationIpv6CidrBlock>2001:db8::1/128</destinationIpv6CidrBlock>
  <networkInterfaceId>eni-2</networkInterfaceId><state>active</state><origin>CreateRoute</origin></item>
 <item><destinationPrefixListId>pl-1</destinationPrefixListId><gatewayId>vpce-1</gatewayId><state>active</state>
  <origin>CreateRoute</origin></item>
 <item><destinationCidrBlock>172.16.0.0/12</destinationCidrBlock><transitGatewayId>tgw-1</transitGatewayId>
  <state>active</state><origin>CreateRoute</origin></item>
 <item><destinationCidrBlock>172.15.0.0/16</destinationCidrBlock><state>blackhole</state><origin>CreateRoute</origin>
 </item></routeSet>
 <associationSet><item><routeTableAssociationId>rtbassoc-1</routeTableAssociationId><main>true</main></item>
 </associationSet></item></routeTableSet></DescribeRouteTablesResponse>"""

SUBNETS = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeSubnetsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>x</requestId><subnetSet>
<item><subnetId>subnet-1</subnetId><ipv6CidrBlockAssociationSet>
 <item><ipv6CidrBlock>2001:db8:0:1::/64</ipv6CidrBlock><ipv6CidrBlockState><state>associated</state>
  </ipv6CidrBlockState></item>
 <item><ipv6CidrBlock>2001:db8:0:2::/64</ipv6CidrBlock><ipv6CidrBlockState><state>disassociated</state>
  </ipv6CidrBlockState></item></ipv6CidrBlockAssociationSet></item></subnetSet></DescribeSubnetsResponse>"""

NOTHING = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeNetworkInterfacesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>x</requestId>
<networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId></item></networkInterfaceSet>
</DescribeNetworkInterfacesResponse>"""


def test_propagated_and_prefix_list_routes_are_left_out(canned: Canned, make_client: MakeClient) -> None:
    """A static route beside a propagated one wins, and can be created: so it is as if it were not there."""
    canned.text = TABLES
    (table,) = make_client().route_tables("vpc-1")
    assert {str(to): (route.target, route.live) for to, route in table.routes.items()} == {
        "192.168.0.1/32": ("eni-1", False),
        "2001:db8::1/128": ("eni-2", True),
        "172.16.0.0/12": ("tgw-1", True),
        "172.15.0.0/16": ("unknown", False),
    }
    assert (table.local, table.tags, table.edge) == ((ip_network("10.0.0.0/16"),), {}, False)


def test_a_subnet_shows_its_associated_cidrs_only(canned: Canned, make_client: MakeClient) -> None:
    canned.text = SUBNETS  # of a subnet that is IPv6-only, too
    (subnet,) = make_client().subnets("vpc-1")
    assert subnet.cidrs == (ip_network("2001:db8:0:1::/64"),)


def test_an_eni_of_which_little_is_told_is_read_cautiously(canned: Canned, make_client: MakeClient) -> None:
    canned.text = NOTHING
    (eni,) = make_client().enis_holding("vpc-1", [ip_address("10.0.0.1")])
    assert (eni.id, eni.addresses, eni.live, eni.source_dest_check) == ("eni-1", (), False, True)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, ""),
        (200, "<html>a proxy's login page"),
        (200, TABLES[: len(TABLES) // 2]),
        (502, "<html><body>Bad Gateway</body></html>"),
        (503, ""),
        (403, "blocked by a proxy"),
        (301, ""),
        (404, "<Response/>"),
    ],
    ids=["empty", "no XML", "cut off", "502 of a proxy", "503 empty", "403 of a proxy", "moved", "404"],
)
def test_answers_that_are_not_ec2s_are_failures(
    canned: Canned, make_client: MakeClient, status: int, text: str
) -> None:
    canned.status, canned.text = status, text
    failure = failure_of(lambda: make_client().route_tables("vpc-1"))
    assert status < 500 or failure.kind is ErrorKind.RETRY
