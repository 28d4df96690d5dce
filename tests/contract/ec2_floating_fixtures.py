"""Fixtures and short ways for the suites of the floating EC2 port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest

from tests.contract.ec2_fixtures import MakeClient
from tests.contract.ec2_floating_worlds import FakeFloatingWorld, FloatingWorld, LabFloatingWorld
from vipmanager.clients.ec2_floating import FloatingEc2Client
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import EniDescription

NO_ENI, NO_SUBNET, NO_INSTANCE = "eni-0123456789abcdef0", "subnet-0123456789abcdef0", "i-0123456789abcdef0"
NO_EIP, NO_VPC = "eipalloc-0123456789abcdef0", "vpc-0123456789abcdef0"
TAGS = {"vipmanager/floating": "10.10.1.80,eipalloc-1", "node.k8s.amazonaws.com/no_manage": "true"}
VIP, VIP2 = IPv4Address("10.10.1.80"), IPv4Address("10.10.1.81")


@pytest.fixture(scope="module")
def real_clients(make_client: MakeClient) -> Callable[[str], FloatingEc2Client]:
    """One client for each of botocore's models; making one takes half a second."""
    made: dict[str, FloatingEc2Client] = {}

    def get(model: str) -> FloatingEc2Client:
        if model not in made:
            made[model] = make_client(trimmed=model == "trimmed", kind=FloatingEc2Client)
        return made[model]

    return get


@pytest.fixture(params=["fake", "trimmed", "full"])
def world(request: pytest.FixtureRequest) -> Iterator[FloatingWorld]:
    if request.param == "fake":
        yield FakeFloatingWorld()
        return
    clients = request.getfixturevalue("real_clients")
    yield LabFloatingWorld(request.getfixturevalue("account"), clients(request.param))


def fails(kind: ErrorKind, call: Callable[..., object], *arguments: Any, **more: Any) -> CallError:
    """Expect a call to fail as this kind."""
    with pytest.raises(CallError) as caught:
        call(*arguments, **more)
    assert caught.value.kind is kind, caught.value
    return caught.value


def eni(world: FloatingWorld, eni_id: str) -> EniDescription:
    """An ENI as the port describes it."""
    (found,) = world.port.enis([eni_id])
    return found


def status(world: FloatingWorld, eni_id: str) -> str:
    """The status of its attachment; empty when it has none."""
    attachment = eni(world, eni_id).attachment
    return attachment.status if attachment else ""


def attachment_id(world: FloatingWorld, eni_id: str) -> str:
    """The id of its attachment, which it must have."""
    attachment = eni(world, eni_id).attachment
    assert attachment is not None
    return attachment.id


def create(world: FloatingWorld, *addresses: Any, subnet: str = "a", token: str = "token-1") -> str:
    """An ENI with our tags."""
    return world.port.create_eni(world.subnet_ids[subnet], addresses, world.groups, TAGS, "vipmanager", token)


def bound(world: FloatingWorld, allocation: str) -> tuple[str, IPv4Address | None]:
    """What an Elastic IP is bound to."""
    (eip,) = world.port.elastic_ips([allocation])
    return eip.eni_id, eip.address
