"""The contract of DiscoveryPort against the double and against the real client over HTTP; and IMDS on its bad days."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network
from typing import Protocol

import pytest

from lab import links
from lab.ec2.server import LabEc2
from lab.ec2.web import Handler, Server
from lab.imds import TOKEN_PATH, LabImds
from lab.netns import Namespace
from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.imds import FakeImds
from vipmanager.clients import imds as imds_client
from vipmanager.clients.imds import ImdsClient
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import Eni
from vipmanager.ports import DiscoveryPort

CIDR, CIDR2 = ip_network("10.10.1.0/24"), ip_network("10.10.2.0/24")
VPC_CIDRS = {ip_network("10.10.0.0/16"), ip_network("10.11.0.0/16")}


class DiscoveryWorld(Protocol):
    """A worker with two ENIs: one in a subnet of both families, one in a subnet of IPv4 only; and another worker."""

    port: DiscoveryPort
    expected: dict[str, Eni]  # by MAC


class FakeDiscovery:
    """Behind the double."""

    def __init__(self) -> None:
        ec2 = FakeEc2()
        ec2.add_vpc(VPC, "10.10.0.0/16", "10.11.0.0/16", "2600:1f14::/56")
        ec2.add_subnet("subnet-1", str(CIDR), "2600:1f14:0:1::/64")
        ec2.add_subnet("subnet-2", str(CIDR2))
        ec2.add_eni("eni-1", "02:00:00:00:00:01", 1, "subnet-1", "10.10.1.10")
        ec2.add_eni("eni-2", "02:00:00:00:00:02", 2, "subnet-2", "10.10.2.10")
        ec2.add_eni("eni-3", "02:00:00:00:00:03", 1, "subnet-2", "10.10.2.11")
        self.port: DiscoveryPort = FakeImds(ec2, "eni-1", "eni-2")
        vpc_cidrs = ec2.state.vpcs[VPC]
        self.expected = {
            eni.mac: Eni(
                eni.id,
                eni.mac,
                eni.device_index,
                eni.subnet_id,
                ec2.state.subnets[eni.subnet_id][1],
                VPC,
                vpc_cidrs,
                eni.owner_id,
            )
            for eni in (ec2.state.enis["eni-1"], ec2.state.enis["eni-2"])
        }


class LabDiscovery:
    """Behind the real client, over loopback."""

    def __init__(self, ec2: LabEc2, imds: LabImds) -> None:
        self.ec2, self.imds = ec2, imds
        admin = ec2.admin()
        vpc = admin.create_vpc(CidrBlock="10.10.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
        admin.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="10.11.0.0/16")
        cidr6 = list(ec2.state().vpcs[vpc].ipv6_cidrs[0][1].subnets(new_prefix=64))[1]
        subnets = [
            admin.create_subnet(VpcId=vpc, AvailabilityZone="us-east-2a", **cidrs)["Subnet"]["SubnetId"]
            for cidrs in ({"CidrBlock": str(CIDR), "Ipv6CidrBlock": str(cidr6)}, {"CidrBlock": str(CIDR2)})
        ]
        self.instance, _ = (
            admin.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, SubnetId=subnet)["Instances"][0][
                "InstanceId"
            ]
            for subnet in subnets
        )
        added = admin.create_network_interface(SubnetId=subnets[1])["NetworkInterface"]["NetworkInterfaceId"]
        admin.attach_network_interface(NetworkInterfaceId=added, InstanceId=self.instance, DeviceIndex=2)
        state = ec2.state()
        self.expected = {
            eni.mac: Eni(
                eni.eni_id,
                eni.mac,
                eni.device_index or 0,
                eni.subnet_id,
                state.subnets[eni.subnet_id].networks,
                vpc,
                state.vpcs[vpc].networks,
                eni.owner_id,
            )
            for eni in state.enis_of_instance(self.instance)
        }
        for source in ("127.0.0.1", "::1"):
            imds.register(source, self.instance)
        self.port: DiscoveryPort = self.client()

    def client(self, timeout: float = 5.0, **environment: str) -> ImdsClient:
        """A client of its own; the endpoint is the lab's unless it is told another."""
        endpoint = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{self.imds.port}"}
        return ImdsClient({**endpoint, **environment}, timeout)

    def asked(self, method: str = "", start: int = 0) -> list[str]:
        """The paths that were asked for."""
        return [each.path for each in self.imds.requests[start:] if method in ("", each.method)]


@pytest.fixture
def lab() -> Iterator[LabDiscovery]:
    with LabEc2() as ec2:
        imds = LabImds(ec2)
        imds.serve("127.0.0.1", 0)
        yield LabDiscovery(ec2, imds)
        imds.close()


@pytest.fixture(params=["fake", "lab"])
def world(request: pytest.FixtureRequest) -> DiscoveryWorld:
    return FakeDiscovery() if request.param == "fake" else request.getfixturevalue("lab")


def failure(call: Callable[[], object], kind: ErrorKind = ErrorKind.RETRY) -> str:
    """Expect a call to fail with CallError; returns the code."""
    with pytest.raises(CallError) as caught:
        call()
    assert caught.value.kind is kind
    assert caught.value.failure.call == "imds"
    return caught.value.failure.code


# The contract --------------------------------------------------------------------------------------------------------


def test_the_region_is_the_instances(world: DiscoveryWorld) -> None:
    assert world.port.region() == "us-east-2"


def test_enis_are_the_workers_by_mac_with_all_their_facts(world: DiscoveryWorld) -> None:
    """Both families' CIDRs of subnet and VPC; the ENI of another worker in the same subnet is none of them."""
    found = world.port.enis()
    assert dict(found) == world.expected
    assert len(found) == 2
    for mac, eni in found.items():
        assert eni.mac == mac
        assert {cidr for cidr in eni.vpc_cidrs if cidr.version == 4} == VPC_CIDRS
    families = {tuple(sorted(cidr.version for cidr in eni.subnet_cidrs)) for eni in found.values()}
    assert families == {(4, 6), (4,)}


# The real one: tokens ------------------------------------------------------------------------------------------------


def test_one_token_and_one_connection_serve_everything(lab: LabDiscovery) -> None:
    lab.port.region()
    lab.port.enis()
    lab.port.enis()
    assert lab.asked("PUT") == [TOKEN_PATH]


def test_a_token_that_has_expired_is_renewed(lab: LabDiscovery) -> None:
    lab.port.region()
    lab.imds.expire_tokens()
    assert dict(lab.port.enis()) == lab.expected
    assert lab.asked("PUT") == [TOKEN_PATH] * 2


def test_a_token_that_is_never_accepted_is_a_failure(lab: LabDiscovery, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.port.region()
    monkeypatch.setattr(imds_client.ImdsClient, "_fetch_token", lambda self: "wrong")
    lab.imds.expire_tokens()
    assert failure(lab.port.region) == "401"


def test_a_stranger_gets_404_which_is_a_failure(lab: LabDiscovery) -> None:
    lab.imds.unregister("127.0.0.1")
    assert failure(lab.port.region) == "404"
    assert failure(lab.port.enis) == "404"


def test_what_an_eni_has_none_of_is_no_failure(lab: LabDiscovery) -> None:
    """IMDS answers 404 for the IPv6 CIDRs of a subnet without any."""
    assert dict(lab.port.enis()) == lab.expected
    assert 404 in {each.status for each in lab.imds.requests if each.path.endswith("/subnet-ipv6-cidr-blocks")}


# The real one: bad days ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503, 429, 403])
def test_one_bad_answer_is_asked_again(lab: LabDiscovery, status: int) -> None:
    lab.port.region()
    lab.imds.fail_next(1, status)
    assert lab.port.region() == "us-east-2"


def test_bad_answers_that_last_are_a_failure_after_two_attempts(lab: LabDiscovery) -> None:
    lab.port.region()
    start = len(lab.imds.requests)
    lab.imds.fail_next(2, 503)
    assert failure(lab.port.region) == "503"
    assert len(lab.imds.requests) - start == 2
    assert lab.port.region() == "us-east-2"


def test_a_slow_answer_is_waited_for(lab: LabDiscovery) -> None:
    lab.imds.slow(0.05)
    assert lab.port.region() == "us-east-2"


def test_slow_answers_that_add_up_are_given_up(lab: LabDiscovery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes in time, but there are nine for each ENI, and EC2 would have told in one call."""
    client = lab.client()
    start = len(lab.imds.requests)
    client.enis()
    needed = len(lab.imds.requests) - start
    monkeypatch.setattr(imds_client, "ALL_WITHIN", 0.25)
    lab.imds.slow(0.1)
    start = len(lab.imds.requests)
    assert failure(client.enis) == "TimeoutError"
    assert failure(client.region) == "TimeoutError", "nor is it asked anything else soon"
    assert len(lab.imds.requests) - start <= 4 < needed


@pytest.mark.parametrize("methods", [("PUT",), ()], ids=["hop limit of 1", "network policy"])
def test_a_blocked_imds_is_given_up_and_not_asked_again(
    lab: LabDiscovery, methods: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(imds_client, "monotonic", lambda: now[0])
    client = lab.client(timeout=0.1)
    lab.imds.block(*methods)
    failure(client.enis)
    lab.imds.unblock()
    start = len(lab.imds.requests)
    failure(client.enis)
    failure(client.region)
    assert lab.asked(start=start) == []
    now[0] += imds_client.DOWN_FOR + 1
    assert dict(client.enis()) == lab.expected


def test_a_refused_connection_is_a_failure(lab: LabDiscovery) -> None:
    lab.imds.refuse()
    assert failure(lab.client().region) == "ConnectionRefusedError"


def test_a_connection_that_was_closed_meanwhile_is_opened_again(lab: LabDiscovery) -> None:
    lab.port.region()
    lab.imds.refuse()
    lab.imds.unblock()
    assert dict(lab.port.enis()) == lab.expected


def test_an_address_that_nobody_has_is_a_failure() -> None:
    environment = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://no-such-host.invalid"}
    failure(ImdsClient(environment, timeout=1.0).region)


@pytest.mark.parametrize(
    "endpoint", ["not a url", "http://", "http://127.0.0.1:port", "http://[::1", "http://127.0.0.1:99999"]
)
def test_an_endpoint_setting_that_is_no_url_is_a_failure(endpoint: str) -> None:
    with pytest.raises(CallError):
        ImdsClient({"AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint}, timeout=0.1).region()


class Canned:
    """An IMDS that answers what it is told, by the end of the path."""

    def __init__(self, **texts: str) -> None:
        self.texts = {"token": "t", "macs": "02:00:00:00:00:01/", **texts}
        self.server = Server(("127.0.0.1", 0), _CannedHandler, self)

    def client(self) -> ImdsClient:
        """A client for it."""
        return ImdsClient({"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{self.server.port}/"}, 5.0)


class _CannedHandler(Handler):
    def do_GET(self) -> None:
        self.body()
        text = self.owner.texts.get(self.path.rstrip("/").rsplit("/", 1)[1])
        self.answer(404 if text is None else 200, (text or "").encode(), "text/plain")

    do_PUT = do_GET


FACTS = {
    "interface-id": "eni-1",
    "device-number": "1",
    "subnet-id": "subnet-1",
    "vpc-id": "vpc-1",
    "owner-id": "1",
    "subnet-ipv4-cidr-block": "10.10.1.0/24",
    "vpc-ipv4-cidr-blocks": "10.10.0.0/16\n10.11.0.0/16\n",
}


def canned(**changes: str | None) -> Mapping[str, Eni]:
    """What the client makes of these answers."""
    texts = {**FACTS, **{name.replace("_", "-"): text for name, text in changes.items()}}
    imds = Canned(**{name: text for name, text in texts.items() if text is not None})
    try:
        return imds.client().enis()
    finally:
        imds.server.stop()


def test_macs_are_read_in_any_writing() -> None:
    assert list(canned(macs="02:00:00:00:00:AB/\n")) == ["02:00:00:00:00:ab"]


def test_a_worker_without_macs_has_no_enis() -> None:
    assert canned(macs="") == {}


@pytest.mark.parametrize("change", [{"device_number": "one"}, {"subnet_ipv4_cidr_block": "10.10.1.0/99"}])
def test_an_answer_that_cannot_be_read_is_asked_again(change: dict[str, str]) -> None:
    assert failure(lambda: canned(**change)) == "BadAnswer"


@pytest.mark.parametrize("name", ["interface_id", "device_number", "subnet_id", "vpc_id"])
def test_an_eni_of_which_a_fact_is_missing_is_a_failure(name: str) -> None:
    """As while an ENI is being attached."""
    assert failure(lambda: canned(**{name: None})) == "404"


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"])
def test_an_answer_that_is_no_http_is_a_failure(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(imds_client.ATTEMPTS):
                connection, _address = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        failure(ImdsClient({"AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint}, timeout=5.0).region)
        thread.join()


# The SDK's own settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["true", "True", "TRUE"])
def test_a_disabled_imds_is_not_asked(lab: LabDiscovery, word: str) -> None:
    client = lab.client(AWS_EC2_METADATA_DISABLED=word)
    assert failure(client.region, ErrorKind.INVALID) == "Disabled"
    assert lab.imds.requests == []


def test_the_word_false_disables_nothing(lab: LabDiscovery) -> None:
    assert lab.client(AWS_EC2_METADATA_DISABLED="false").region() == "us-east-2"


def test_the_endpoint_may_be_an_ipv6_address(lab: LabDiscovery) -> None:
    lab.imds.serve("::1", lab.imds.port)
    client = lab.client(AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://[::1]:{lab.imds.port}/")
    assert dict(client.enis()) == lab.expected
    assert {each.source for each in lab.imds.requests} == {"::1"}


@pytest.mark.namespaces
@pytest.mark.namespaces
@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "169.254.169.254"),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}, "fd00:ec2::254"),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv4"}, "169.254.169.254"),
    ],
    ids=["default", "IPv6", "IPv4"],
)
def test_the_endpoint_is_where_ec2_has_it(lab: LabDiscovery, settings: dict[str, str], address: str) -> None:
    ns = Namespace("imds")
    try:
        links.set_up_host(ns)
        links.add_address(ns, "lo", f"{address}/{128 if ':' in address else 32}")
        ns.run(lambda: lab.imds.serve(address, 80))
        lab.imds.register(address, lab.instance)
        assert ns.run(lambda: ImdsClient(settings, 5.0).region()) == "us-east-2"
    finally:
        ns.close()
