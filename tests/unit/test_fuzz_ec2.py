"""Whatever EC2 answers is a value or a CallError: never another exception, and never a list without an end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.ec2_fixtures import Canned, point_sdk_at
from vipmanager.clients import ec2, ec2_parse
from vipmanager.clients.ec2_facts import FactsClient, _identity
from vipmanager.errors import CallError, ErrorKind
from vipmanager.ports import Identity

HEAD = '<?xml version="1.0" encoding="UTF-8"?><Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
TABLES = (
    HEAD
    + "<requestId>x</requestId><routeTableSet><item><routeTableId>rtb-1</routeTableId><vpcId>vpc-1</vpcId><routeSet>"
    "<item><destinationCidrBlock>10.0.0.0/16</destinationCidrBlock><gatewayId>local</gatewayId><state>active</state>"
    "<origin>CreateRouteTable</origin></item><item><destinationIpv6CidrBlock>2001:db8::1/128"
    "</destinationIpv6CidrBlock><networkInterfaceId>eni-1</networkInterfaceId><state>blackhole</state>"
    "<origin>CreateRoute</origin></item></routeSet><associationSet><item><gatewayId>igw-1</gatewayId>"
    "<main>true</main></item></associationSet><tagSet><item><key>a</key><value>b</value></item></tagSet></item>"
    "</routeTableSet></Response>"
)
ENIS = (
    HEAD + "<requestId>x</requestId><networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId>"
    "<macAddress>02:00:00:00:00:01</macAddress><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId><ownerId>1</ownerId>"
    "<sourceDestCheck>true</sourceDestCheck><attachment><attachmentId>eni-attach-1</attachmentId><deviceIndex>1"
    "</deviceIndex><instanceId>i-1</instanceId><status>attached</status><attachTime>2026-01-01T00:00:00.000Z"
    "</attachTime></attachment><privateIpAddressesSet><item><privateIpAddress>10.0.1.10</privateIpAddress>"
    "<primary>true</primary></item></privateIpAddressesSet><ipv6AddressesSet><item><ipv6Address>2001:db8::10"
    "</ipv6Address></item></ipv6AddressesSet><ipv4PrefixSet><item><ipv4Prefix>10.0.1.16/28</ipv4Prefix></item>"
    "</ipv4PrefixSet><groupSet><item><groupId>sg-1</groupId></item></groupSet><tagSet><item><key>a</key></item>"
    "</tagSet></item></networkInterfaceSet></Response>"
)
SUBNETS = (
    HEAD + "<requestId>x</requestId><subnetSet><item><subnetId>subnet-1</subnetId><cidrBlock>10.0.1.0/24</cidrBlock>"
    "<availabilityZone>us-east-2a</availabilityZone><ipv6CidrBlockAssociationSet><item><ipv6CidrBlock>2001:db8::/64"
    "</ipv6CidrBlock><ipv6CidrBlockState><state>associated</state></ipv6CidrBlockState></item>"
    "</ipv6CidrBlockAssociationSet></item></subnetSet></Response>"
)
ADDRESSES = (
    HEAD + "<requestId>x</requestId><addressesSet><item><allocationId>eipalloc-1</allocationId><publicIp>192.0.2.1"
    "</publicIp><networkInterfaceId>eni-1</networkInterfaceId><privateIpAddress>10.0.1.10</privateIpAddress></item>"
    "</addressesSet></Response>"
)
VPCS = (
    HEAD + "<requestId>x</requestId><vpcSet><item><vpcId>vpc-1</vpcId><cidrBlockAssociationSet><item><cidrBlock>"
    "10.0.0.0/16</cidrBlock><cidrBlockState><state>associated</state></cidrBlockState></item>"
    "</cidrBlockAssociationSet></item></vpcSet></Response>"
)
INSTANCES = (
    HEAD + "<requestId>x</requestId><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>"
    "<instanceType>m5.large</instanceType><instanceState><name>running</name></instanceState><metadataOptions>"
    "<httpPutResponseHopLimit>2</httpPutResponseHopLimit></metadataOptions></item></instancesSet></item>"
    "</reservationSet></Response>"
)
MADE = (
    HEAD + "<requestId>x</requestId><networkInterface><networkInterfaceId>eni-1</networkInterfaceId></networkInterface>"
    "<subnet><subnetId>subnet-1</subnetId></subnet></Response>"
)

Ask = Callable[[FactsClient], object]
QUESTIONS: dict[str, tuple[str, Ask]] = {
    "tables": (TABLES, lambda client: client.route_tables("vpc-1")),
    "enis": (ENIS, lambda client: client.enis(["eni-1"])),
    "subnets": (SUBNETS, lambda client: client.subnets("vpc-1")),
    "Elastic IPs": (ADDRESSES, lambda client: client.elastic_ips(["eipalloc-1"])),
    "VPC CIDRs": (VPCS, lambda client: client.vpc_cidrs("vpc-1")),
    "instance": (INSTANCES, lambda client: client.instance_state("i-1")),
    "worker": (INSTANCES, lambda client: client.worker("i-1")),
    "new ENI": (MADE, lambda client: client.create_eni("subnet-1", (), (), {}, "", "token")),
    "write": (MADE, lambda client: client.assign("eni-1", [ip_address("10.0.1.11")])),
}

junk_texts = st.sampled_from(
    ["", "None", "-1", "99999999999999999999", "1e999", "10.0.0.1/8", "10.0.0.0/33", "::ffff:10.0.0.1", "fe80::1%eth0",
     "256.1.1.1", "٣", "\u2028\x85", "<i/>", "&lt;b>", "&#x10FFFF;", "true", "unheard-of", "local", "A" * 5000]
) | st.text(st.characters(exclude_characters="<&", exclude_categories=("Cs", "Cc")), max_size=20)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """A good answer that somebody has changed: texts, elements that are gone or there twice, an end too early."""
    for _ in range(draw(st.integers(1, 3))):
        leaves = list(re.finditer(r"<(\w+)>([^<>]*)</\1>", text))
        elements = list(re.finditer(r"<(\w+)>((?!<\1>).)*?</\1>", text))
        kind = draw(st.sampled_from(["text", "gone", "twice", "cut", "renamed"]))
        if kind == "cut" or not leaves:
            text = text[: draw(st.integers(0, len(text)))]
        elif kind == "text":
            leaf = draw(st.sampled_from(leaves))
            text = text[: leaf.start(2)] + draw(junk_texts) + text[leaf.end(2) :]
        elif kind == "renamed":
            leaf = draw(st.sampled_from(leaves))
            text = f"{text[: leaf.start()]}<item>{leaf[0]}</item>{text[leaf.end() :]}"
        else:
            part = draw(st.sampled_from(elements))
            text = text[: part.start()] + part[0] * (2 if kind == "twice" else 0) + text[part.end() :]
    return text


@pytest.fixture(scope="module")
def canned() -> Iterator[Canned]:
    made = Canned()
    with pytest.MonkeyPatch.context() as patch:
        point_sdk_at(patch, f"http://127.0.0.1:{made.server.port}", "AKIA", "secret")
        yield made
    made.server.stop()


@pytest.mark.parametrize("date", ["", "yesterday", "Sun, 99 Nov 2026 21:00:00 GMT", "0"])
def test_a_date_that_cannot_be_understood_is_not_taken_for_ours(date: str) -> None:
    headers = {"date": date} if date else {}
    answer = {"Arn": "arn:aws:iam::1:user/x", "ResponseMetadata": {"HTTPHeaders": headers}}
    assert _identity(answer, 0.0) == Identity("arn:aws:iam::1:user/x", None)


@pytest.fixture(scope="module")
def client(canned: Canned) -> FactsClient:
    return FactsClient(lambda: "us-east-2")


def ask(client: FactsClient, question: Ask) -> object:
    """The value, or the failure."""
    try:
        return question(client)
    except CallError as error:
        assert len(str(error)) < 6000
        return error.failure


@pytest.mark.parametrize("name", QUESTIONS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_an_answer_that_somebody_has_changed(
    canned: Canned, client: FactsClient, name: str, data: st.DataObject
) -> None:
    text, question = QUESTIONS[name]
    canned.status, canned.text = data.draw(st.sampled_from([200, 200, 200, 400, 503])), data.draw(mutated(text))
    ask(client, question)


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_answer_that_nobody_has_changed_is_a_value(canned: Canned, client: FactsClient, name: str) -> None:
    """Else the test above would show nothing."""
    text, question = QUESTIONS[name]
    canned.status, canned.text = 200, text
    assert not isinstance(ask(client, question), ec2.Failure)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    text=st.text(st.characters(exclude_categories=("Cs",)), max_size=200), status=st.sampled_from([200, 302, 400, 500])
)
def test_an_answer_of_any_text(canned: Canned, client: FactsClient, text: str, status: int) -> None:
    canned.status, canned.text = status, text
    assert isinstance(ask(client, QUESTIONS["tables"][1]), ec2.Failure)


BAD_FIELDS = [
    ("tables", "10.0.0.0/16", "10.0.0.0/99"),
    ("tables", "2001:db8::1/128", "nowhere"),
    ("tables", "<routeTableId>rtb-1</routeTableId>", ""),
    ("enis", "<deviceIndex>1", "<deviceIndex>one"),
    ("enis", "2026-01-01T00:00:00.000Z", "yesterday"),
    ("enis", "10.0.1.10", "10.0.1.1000"),
    ("enis", "<groupId>sg-1</groupId>", ""),
    ("subnets", "10.0.1.0/24", "10.0.1.1/24"),
    ("Elastic IPs", "10.0.1.10", "2001:db8::1"),
    ("VPC CIDRs", "10.0.0.0/16", ""),
    ("instance", "<name>running</name>", ""),
    ("worker", "<httpPutResponseHopLimit>2", "<httpPutResponseHopLimit>two"),
    ("new ENI", "<networkInterfaceId>eni-1</networkInterfaceId>", ""),
]


@pytest.mark.parametrize(("name", "good", "bad"), BAD_FIELDS)
def test_one_bad_item_spoils_the_answer_and_is_asked_again(
    canned: Canned, client: FactsClient, name: str, good: str, bad: str
) -> None:
    """Left out, it would be taken for gone: a route for deleted, an address for free."""
    text, question = QUESTIONS[name]
    assert good in text
    canned.status, canned.text = 200, text.replace(good, bad, 1)
    failure = ask(client, question)
    assert isinstance(failure, ec2.Failure)
    assert (failure.kind, failure.code) == (ErrorKind.RETRY, "BadAnswer")
    assert "could not be understood" in failure.message


def test_a_tag_without_a_key_and_a_state_never_heard_of_spoil_nothing(canned: Canned, client: FactsClient) -> None:
    text = TABLES.replace("<key>a</key>", "").replace("<state>active</state>", "<state>unheard-of</state>")
    canned.status, canned.text = 200, text
    (table,) = client.route_tables("vpc-1")
    assert table.tags == {} and len(table.routes) == 1


def test_pages_without_end_have_one(canned: Canned, client: FactsClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ec2, "MAX_PAGES", 5)
    canned.status, canned.text = 200, TABLES.replace("<routeTableSet>", "<nextToken>more</nextToken><routeTableSet>")
    failure = ask(client, QUESTIONS["tables"][1])
    assert isinstance(failure, ec2.Failure) and failure.code == "BadAnswer"


def test_a_mistake_of_ours_is_none_of_ec2s(client: FactsClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised elsewhere than in the SDK's parsers must show."""

    class Broken:
        def describe_addresses(self, **_: object) -> object:
            raise KeyError("ours")

    monkeypatch.setattr(client, "_client", lambda _: Broken())
    with pytest.raises(KeyError):
        client.elastic_ips(["eipalloc-1"])


# Of any types: no SDK gives these, but nothing below relies on that

FIELDS = (
    "Routes", "DestinationCidrBlock", "DestinationIpv6CidrBlock", "GatewayId", "Origin", "State", "Associations",
    "RouteTableId", "Tags", "TagSet", "Key", "Value", "Attachment", "PrivateIpAddresses", "PrivateIpAddress", "Primary",
    "Ipv6Addresses", "Ipv6Address", "NetworkInterfaceId", "MacAddress", "Groups", "GroupId", "Ipv4Prefixes",
    "Ipv4Prefix", "DeviceIndex", "Status", "SubnetId", "CidrBlock", "Ipv6CidrBlockAssociationSet", "Ipv6CidrBlockState",
    "AllocationId", "PublicIp", "InstanceId",
)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
anything: st.SearchStrategy[Any] = st.recursive(
    scalars | st.sampled_from(["10.0.0.0/16", "10.0.0.1", "2001:db8::1", "attached", "eni-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=12,
)
PARSERS: dict[str, Callable[[Any], object]] = {
    "route table": lambda item: ec2_parse.route_table(item, 0.0),
    "ENI": ec2_parse.eni,
    "subnet": ec2_parse.subnet,
    "Elastic IP": lambda item: ec2_parse.elastic_ip(item, 0.0),
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(item=st.dictionaries(st.sampled_from(FIELDS), anything, max_size=8) | anything)
def test_an_item_of_any_types(name: str, item: Any) -> None:
    try:
        ec2_parse.understood("Describe", "x", lambda: PARSERS[name](item))
    except CallError as error:
        assert error.failure.code == "BadAnswer"
