"""`vipmanager free-ips` as a process, against the lab's EC2."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from lab.lab import Lab
from tests.scenario.support import BOUND

pytestmark = pytest.mark.namespaces


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def free_ips(lab: Lab, *arguments: str) -> tuple[int, list[str]]:
    """The exit code and the lines."""
    run = lab.workers["a"].vipmanager(["free-ips", *arguments], {})
    return run.wait(BOUND), run.output().splitlines()


def test_what_it_prints_nobody_holds_and_ec2_assigns(lab: Lab) -> None:
    eni = lab.workers["a"].eni(1)
    state = lab.ec2.state()
    subnet = state.enis[eni.eni_id].subnet_id
    code, lines = free_ips(lab, subnet, "--count", "3")
    assert code == 0
    assert len(set(lines)) == 3
    held = {str(one.address) for each in state.enis.values() for one in each.private_addresses}
    assert not held & set(lines)
    assert all(ip_address(line) in ip_network(eni.subnet_cidr) for line in lines)
    lab.ec2.admin().assign_private_ip_addresses(NetworkInterfaceId=eni.eni_id, PrivateIpAddresses=lines)
    assert not set(free_ips(lab, subnet, "--count", "3")[1]) & set(lines)


def test_a_subnet_that_is_not_there(lab: Lab) -> None:
    code, lines = free_ips(lab, "subnet-0123456789abcdef0")
    assert code == 1
    assert lines == ["vipmanager: there is no subnet subnet-0123456789abcdef0 in this account and region"]
