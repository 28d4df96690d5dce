"""The lab's instance metadata service, over HTTP: version 2 only, and one server for every instance."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from lab.ec2.server import LabEc2
from lab.imds import LabImds

META = "/latest/meta-data/"
MACS = f"{META}network/interfaces/macs/"


@dataclass
class Node:
    """An instance with one ENI in a dual-stack subnet and one in an IPv4-only one, and its metadata service."""

    ec2: LabEc2
    imds: LabImds
    vpc: str
    instance: str
    macs: list[str]

    def request(
        self, method: str, path: str, *, source: str = "127.0.0.1", timeout: float = 5.0, **headers: str
    ) -> tuple[int, str]:
        """One request from that address: status, text. In header names `_` stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.imds.port, timeout, source_address=(source, 0))
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def token(self, ttl: str = "60", **more: str) -> str:
        """A session token."""
        status, token = self.request("PUT", "/latest/api/token", X_aws_ec2_metadata_token_ttl_seconds=ttl, **more)
        assert status == 200
        return token

    def get(self, path: str, *, source: str = "127.0.0.1", timeout: float = 5.0) -> tuple[int, str]:
        """A GET with a token."""
        return self.request("GET", path, source=source, timeout=timeout, X_aws_ec2_metadata_token=self.token())

    def text(self, path: str) -> str:
        """The text at a path that is there."""
        status, text = self.get(path)
        assert status == 200, path
        return text


@pytest.fixture
def node() -> Iterator[Node]:
    with LabEc2() as ec2:
        admin = ec2.admin()
        vpc = admin.create_vpc(CidrBlock="10.10.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
        (_, ipv6), *_ = ec2.state().vpcs[vpc].ipv6_cidrs
        zone = {"VpcId": vpc, "AvailabilityZone": "us-east-2b"}
        both = admin.create_subnet(
            CidrBlock="10.10.1.0/24", Ipv6CidrBlock=str(next(ipv6.subnets(new_prefix=64))), **zone
        )
        ipv4 = admin.create_subnet(CidrBlock="10.10.2.0/24", **zone)
        run = admin.run_instances(
            ImageId="ami-12345678",
            InstanceType="m5.xlarge",
            MinCount=1,
            MaxCount=1,
            SubnetId=both["Subnet"]["SubnetId"],
            Ipv6AddressCount=1,
        )
        instance = run["Instances"][0]["InstanceId"]
        eni = admin.create_network_interface(SubnetId=ipv4["Subnet"]["SubnetId"], SecondaryPrivateIpAddressCount=1)
        admin.attach_network_interface(
            NetworkInterfaceId=eni["NetworkInterface"]["NetworkInterfaceId"], InstanceId=instance, DeviceIndex=1
        )
        imds = LabImds(ec2)
        imds.register("127.0.0.1", instance, role="node-role")
        imds.serve("127.0.0.1", 0)
        try:
            yield Node(ec2, imds, vpc, instance, [each.mac for each in ec2.state().enis_of_instance(instance)])
        finally:
            imds.close()


def until(condition: Callable[[], bool], bound: float = 5.0) -> None:
    """Wait for the condition, at most `bound` seconds."""
    end = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


# Tokens --------------------------------------------------------------------------------------------------------------


def test_version_1_and_bad_tokens_are_refused(node: Node) -> None:
    assert node.request("GET", f"{META}instance-id")[0] == 401
    assert node.request("GET", f"{META}instance-id", X_aws_ec2_metadata_token="nonsense")[0] == 401
    assert node.text(f"{META}instance-id") == node.instance


@pytest.mark.parametrize("ttl", ["", "0", "21601", "x"])
def test_a_token_needs_a_time_to_live(node: Node, ttl: str) -> None:
    assert node.request("PUT", "/latest/api/token", X_aws_ec2_metadata_token_ttl_seconds=ttl)[0] == 400
    assert node.request("PUT", "/latest/api/token")[0] == 400


def test_a_forwarded_request_gets_no_token(node: Node) -> None:
    headers = {"X_aws_ec2_metadata_token_ttl_seconds": "60", "X_Forwarded_For": "10.0.0.1"}
    assert node.request("PUT", "/latest/api/token", **headers)[0] == 403


def test_tokens_expire(node: Node) -> None:
    token = node.token()
    assert node.request("GET", META, X_aws_ec2_metadata_token=token)[0] == 200
    node.imds.expire_tokens()
    assert node.request("GET", META, X_aws_ec2_metadata_token=token)[0] == 401
    short = node.token("1")
    until(lambda: node.request("GET", META, X_aws_ec2_metadata_token=short)[0] == 401)


def test_tokens_can_be_short_lived_whatever_was_asked_for(node: Node) -> None:
    node.imds.expire_tokens(after=0.0)
    assert node.request("GET", META, X_aws_ec2_metadata_token=node.token("60"))[0] == 401
    node.imds.expire_tokens()
    assert node.request("GET", META, X_aws_ec2_metadata_token=node.token("60"))[0] == 200


# Data ----------------------------------------------------------------------------------------------------------------


def test_the_instances_own_categories(node: Node) -> None:
    state = node.ec2.state()
    primary = state.enis_of_instance(node.instance)[0]
    expected = {
        "instance-id": node.instance,
        "instance-type": "m5.xlarge",
        "mac": primary.mac,
        "local-ipv4": str(primary.primary_ip),
        "ipv6": str(primary.ipv6_addresses[0]),
        "placement/region": "us-east-2",
        "placement/availability-zone": "us-east-2b",
        "services/domain": "amazonaws.com",
    }
    assert {path: node.text(META + path) for path in expected} == expected
    listed = node.text(META).splitlines()
    assert {"mac", "placement/", "network/", "iam/", "instance-id"} <= set(listed)


def test_the_list_of_macs_has_a_slash_after_each(node: Node) -> None:
    assert sorted(node.text(MACS).splitlines()) == sorted(f"{mac}/" for mac in node.macs)


def test_an_interface_in_a_dual_stack_subnet(node: Node) -> None:
    state = node.ec2.state()
    eni = state.eni_by_mac(node.macs[0])
    assert eni is not None
    subnet, vpc = state.subnets[eni.subnet_id], state.vpcs[node.vpc]
    expected = {
        "device-number": "0",
        "interface-id": eni.eni_id,
        "owner-id": node.ec2.account_id,
        "vpc-id": node.vpc,
        "vpc-ipv4-cidr-block": "10.10.0.0/16",
        "vpc-ipv4-cidr-blocks": "10.10.0.0/16",
        "vpc-ipv6-cidr-blocks": str(vpc.ipv6_cidrs[0][1]),
        "subnet-id": eni.subnet_id,
        "subnet-ipv4-cidr-block": "10.10.1.0/24",
        "subnet-ipv6-cidr-blocks": str(subnet.ipv6_cidrs[0][1]),
        "local-ipv4s": str(eni.primary_ip),
        "ipv6s": str(eni.ipv6_addresses[0]),
        "security-group-ids": eni.groups[0][0],
    }
    below = f"{MACS}{eni.mac}/"
    assert {path: node.text(below + path) for path in expected} == expected
    assert set(expected) <= set(node.text(below).splitlines())


def test_an_interface_without_ipv6_has_no_ipv6_categories(node: Node) -> None:
    below = f"{MACS}{node.macs[1]}/"
    eni = node.ec2.state().eni_by_mac(node.macs[1])
    assert eni is not None
    assert node.get(f"{below}ipv6s")[0] == 404
    assert node.get(f"{below}subnet-ipv6-cidr-blocks")[0] == 404
    assert node.text(f"{below}device-number") == "1"
    assert node.text(f"{below}local-ipv4s").splitlines() == [str(each.address) for each in eni.private_addresses]


def test_data_follow_ec2(node: Node) -> None:
    eni = node.ec2.state().eni_by_mac(node.macs[1])
    assert eni is not None and eni.attachment is not None
    node.ec2.admin().assign_private_ip_addresses(NetworkInterfaceId=eni.eni_id, PrivateIpAddresses=["10.10.2.200"])
    assert "10.10.2.200" in node.text(f"{MACS}{eni.mac}/local-ipv4s").splitlines()
    node.ec2.admin().detach_network_interface(AttachmentId=eni.attachment.attachment_id)
    assert node.get(f"{MACS}{eni.mac}/interface-id")[0] == 404
    assert node.text(MACS) == f"{node.macs[0]}/"


def test_what_is_not_there_is_not_found(node: Node) -> None:
    for path in ("/", "/latest/nothing", f"{META}nothing", f"{MACS}02:00:00:00:00:00/interface-id"):
        assert node.get(path)[0] == 404, path


def test_the_identity_document(node: Node) -> None:
    document = json.loads(node.text("/latest/dynamic/instance-identity/document"))
    assert {
        key: document[key] for key in ("accountId", "region", "instanceId", "availabilityZone", "instanceType")
    } == {
        "accountId": node.ec2.account_id,
        "region": "us-east-2",
        "instanceId": node.instance,
        "availabilityZone": "us-east-2b",
        "instanceType": "m5.xlarge",
    }


def test_who_asks_is_told_from_the_source_address(node: Node) -> None:
    admin = node.ec2.admin()
    subnet = next(each.subnet_id for each in node.ec2.state().subnets.values() if each.vpc_id == node.vpc)
    run = admin.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1, SubnetId=subnet)
    other = run["Instances"][0]["InstanceId"]
    assert node.get(f"{META}instance-id", source="127.0.0.2")[0] == 404
    node.imds.register("127.0.0.2", other)
    assert node.get(f"{META}instance-id", source="127.0.0.2") == (200, other)
    assert node.text(f"{META}instance-id") == node.instance
    assert node.get(f"{META}iam/security-credentials/", source="127.0.0.2")[0] == 404  # it has no role
    node.imds.unregister("127.0.0.2")
    assert node.get(f"{META}instance-id", source="127.0.0.2")[0] == 404


def test_role_credentials_are_good_for_ec2(node: Node) -> None:
    role = node.text(f"{META}iam/security-credentials/")
    assert role == "node-role"
    document = json.loads(node.text(f"{META}iam/security-credentials/{role}"))
    assert document["Code"] == "Success"
    assert datetime.strptime(document["Expiration"], "%Y-%m-%dT%H:%M:%S%z") > datetime.now(UTC) + timedelta(hours=1)
    assert json.loads(node.text(f"{META}iam/security-credentials/{role}"))["AccessKeyId"] == document["AccessKeyId"]
    node.ec2.serve("127.0.0.1")
    sts = boto3.client(
        "sts",
        region_name="us-east-2",
        endpoint_url=node.ec2.url,
        aws_access_key_id=document["AccessKeyId"],
        aws_secret_access_key=document["SecretAccessKey"],
        aws_session_token=document["Token"],
    )
    arn = f"arn:aws:sts::{node.ec2.account_id}:assumed-role/node-role/{node.instance}"
    assert sts.get_caller_identity()["Arn"] == arn


def test_botocore_finds_its_way(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own fetcher of instance credentials takes what is served."""
    from botocore.utils import InstanceMetadataFetcher

    fetcher = InstanceMetadataFetcher(base_url=f"http://127.0.0.1:{node.imds.port}", num_attempts=1)
    assert fetcher.retrieve_iam_role_credentials()["role_name"] == "node-role"


# Faults --------------------------------------------------------------------------------------------------------------


def test_a_blocked_service_accepts_and_never_answers(node: Node) -> None:
    node.imds.block()
    with pytest.raises(TimeoutError):
        node.request("PUT", "/latest/api/token", timeout=0.2)
    node.imds.unblock()
    assert node.text(f"{META}instance-id") == node.instance


def test_with_a_hop_limit_of_one_only_the_token_never_arrives(node: Node) -> None:
    node.imds.block("PUT")
    with pytest.raises(TimeoutError):
        node.request("PUT", "/latest/api/token", timeout=0.2)
    assert node.request("GET", f"{META}instance-id")[0] == 401


def test_a_refusing_service_refuses_connections_until_it_is_unblocked(node: Node) -> None:
    node.imds.refuse()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            node.request("PUT", "/latest/api/token")
    node.imds.unblock()
    assert node.text(f"{META}instance-id") == node.instance


def test_a_slow_service(node: Node) -> None:
    node.imds.slow(0.15)
    started = time.monotonic()
    node.token()
    assert time.monotonic() - started >= 0.15
    node.imds.slow(0)


def test_the_next_requests_can_fail(node: Node) -> None:
    node.imds.fail_next(2, 503)
    node.imds.fail_next(1, 500)
    assert [node.request("PUT", "/latest/api/token")[0] for _ in range(4)] == [503, 503, 500, 400]


def test_all_requests_can_fail_for_a_while(node: Node) -> None:
    node.imds.fail(503)
    assert [node.request("PUT", "/latest/api/token")[0] for _ in range(2)] == [503, 503]
    node.imds.fail(0)
    assert node.text(f"{META}instance-id") == node.instance


def test_requests_are_recorded(node: Node) -> None:
    node.text(f"{META}instance-id")
    put, get = node.imds.requests
    assert (put.method, put.path, put.status, put.source) == ("PUT", "/latest/api/token", 200, "127.0.0.1")
    assert (get.method, get.path, get.status) == ("GET", f"{META}instance-id", 200)
    assert put.started <= put.finished <= get.finished


def test_a_connection_is_kept_alive(node: Node) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", node.imds.port, 5)
    connection.connect()
    opened = connection.sock
    for _ in range(3):
        connection.request("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        answer = connection.getresponse()
        assert answer.read()
        assert connection.sock is opened
    connection.close()


def test_closing_ends_what_waits(node: Node) -> None:
    node.imds.block()
    ended = threading.Event()

    def ask() -> None:
        try:
            node.request("PUT", "/latest/api/token")
        except (ConnectionError, http.client.HTTPException):
            ended.set()

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: bool(node.imds._servers[0]._open))
    node.imds.close()
    node.imds.close()
    asking.join(5)
    assert ended.is_set()
