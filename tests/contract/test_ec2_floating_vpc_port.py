"""The contract of Ec2Port's Elastic IPs and of FloatingEc2Port's subnets, CIDRs and instances, as of its ENIs."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from tests.contract.ec2_fixtures import account, endpoint, make_client, module_patch, trimmed_model
from tests.contract.ec2_floating_fixtures import (
    NO_EIP,
    NO_ENI,
    NO_INSTANCE,
    NO_SUBNET,
    NO_VPC,
    TAGS,
    VIP,
    bound,
    create,
    fails,
    real_clients,
    status,
    world,
)
from tests.contract.ec2_floating_worlds import FREE_CIDR, OUTER_CIDR, FloatingWorld
from tests.contract.ec2_worlds import CIDR_A, PRIMARY_A, PRIMARY_A2, ZONE_A, ZONE_B
from tests.doubles.clock import until
from vipmanager.errors import ErrorKind

__all__ = ["account", "endpoint", "make_client", "module_patch", "real_clients", "trimmed_model", "world"]


# Elastic IPs ---------------------------------------------------------------------------------------------------------


def test_an_elastic_ip_that_does_not_exist_is_left_out(world: FloatingWorld) -> None:
    first, public = world.allocate()
    second, _ = world.allocate()
    world.allocate()
    found = {eip.allocation_id: eip for eip in world.port.elastic_ips([first, second, NO_EIP])}
    assert set(found) == {first, second}
    assert (found[first].public_ip, found[first].eni_id, found[first].address) == (public, "", None)
    assert found[first].seen > 0
    assert world.port.elastic_ips([NO_EIP]) == ()


def test_an_elastic_ip_is_bound_to_the_address_that_is_named(world: FloatingWorld) -> None:
    allocation, _ = world.allocate()
    world.port.assign(world.enis["a"], [VIP])
    world.port.associate(allocation, world.enis["a"], VIP)
    assert bound(world, allocation) == (world.enis["a"], VIP)
    world.port.associate(allocation, world.enis["a"], VIP)  # again
    assert bound(world, allocation) == (world.enis["a"], VIP)


def test_an_elastic_ip_moves_from_wherever_it_was_bound_in_one_call(world: FloatingWorld) -> None:
    allocation, _ = world.allocate()
    world.port.associate(allocation, world.enis["a"], IPv4Address(PRIMARY_A))
    before = world.calls_made()
    world.port.associate(allocation, world.enis["a2"], IPv4Address(PRIMARY_A2))
    assert world.calls_made() == before + 1
    assert bound(world, allocation) == (world.enis["a2"], ip_address(PRIMARY_A2))


def test_an_elastic_ip_takes_the_place_of_another_on_that_address(world: FloatingWorld) -> None:
    first, second = world.allocate()[0], world.allocate()[0]
    world.port.associate(first, world.enis["a"], IPv4Address(PRIMARY_A))
    world.port.associate(second, world.enis["a"], IPv4Address(PRIMARY_A))
    assert bound(world, first) == ("", None)
    assert bound(world, second) == (world.enis["a"], ip_address(PRIMARY_A))


def test_an_elastic_ip_moves_with_its_address_and_is_lost_without_it(world: FloatingWorld) -> None:
    allocation, _ = world.allocate()
    world.port.assign(world.enis["a"], [VIP])
    world.port.associate(allocation, world.enis["a"], VIP)
    world.port.assign(world.enis["a2"], [VIP])
    assert bound(world, allocation) == (world.enis["a2"], VIP)
    world.port.unassign(world.enis["a2"], [VIP])
    assert bound(world, allocation) == ("", None)


def test_an_elastic_ip_that_does_not_exist_cannot_be_bound(world: FloatingWorld) -> None:
    error = fails(ErrorKind.INVALID, world.port.associate, NO_EIP, world.enis["a"], IPv4Address(PRIMARY_A))
    assert "eipalloc-" in error.failure.remedy


def test_an_elastic_ip_is_bound_to_no_address_that_the_eni_lacks(world: FloatingWorld) -> None:
    allocation, _ = world.allocate()
    fails(ErrorKind.LOST, world.port.associate, allocation, world.enis["a"], VIP)
    fails(ErrorKind.LOST, world.port.associate, allocation, NO_ENI, VIP)
    assert bound(world, allocation) == ("", None)


# Subnets and CIDRs ---------------------------------------------------------------------------------------------------


def test_subnets_tell_their_zone_and_tags(world: FloatingWorld) -> None:
    world.tag_subnet(world.subnet_ids["b"], "Name", "second")
    found = {subnet.id: (subnet.zone, subnet.tags) for subnet in world.port.subnets(world.vpc)}
    assert found == {world.subnet_ids["a"]: (ZONE_A, {}), world.subnet_ids["b"]: (ZONE_B, {"Name": "second"})}


def test_one_subnet_is_described_as_among_the_others_or_is_none(world: FloatingWorld) -> None:
    found = world.port.subnet(world.subnet_ids["a"])
    assert found is not None
    assert found in world.port.subnets(world.vpc)
    assert found.cidrs == (ip_network(CIDR_A), world.cidr6)
    assert world.port.subnet(NO_SUBNET) is None


def test_a_subnet_is_made_in_its_zone_with_its_tags_in_one_call(world: FloatingWorld) -> None:
    before = world.calls_made()
    made = world.port.create_subnet(world.vpc, FREE_CIDR, ZONE_B, TAGS)
    assert world.calls_made() == before + 1
    found = world.port.subnet(made)
    assert found is not None
    assert (found.cidrs, found.zone, found.tags) == ((FREE_CIDR,), ZONE_B, TAGS)


@pytest.mark.parametrize("cidr", [CIDR_A, "10.10.1.128/25", "10.10.0.0/22"])
def test_a_subnet_that_overlaps_another_is_a_race(world: FloatingWorld, cidr: str) -> None:
    error = fails(ErrorKind.RACE, world.port.create_subnet, world.vpc, ip_network(cidr), ZONE_B, TAGS)
    assert "FloatingSubnetCidr" in error.failure.remedy
    assert len(world.port.subnets(world.vpc)) == 2


def test_a_subnet_outside_the_vpcs_cidrs_is_invalid(world: FloatingWorld) -> None:
    error = fails(ErrorKind.INVALID, world.port.create_subnet, world.vpc, OUTER_CIDR, ZONE_B, TAGS)
    assert "FloatingSubnetCidr" in error.failure.remedy


def test_deleting_a_subnet_is_idempotent(world: FloatingWorld) -> None:
    made = world.port.create_subnet(world.vpc, FREE_CIDR, ZONE_A, TAGS)
    for _ in range(2):
        world.port.delete_subnet(made)
        assert world.port.subnet(made) is None
    again = world.port.create_subnet(world.vpc, FREE_CIDR, ZONE_B, TAGS)
    assert again != made


def test_a_subnet_with_something_in_it_stays(world: FloatingWorld) -> None:
    made = world.port.create_subnet(world.vpc, FREE_CIDR, ZONE_A, TAGS)
    eni_id = world.port.create_eni(made, [FREE_CIDR[9]], world.groups, TAGS, "vipmanager", "token")
    fails(ErrorKind.RETRY, world.port.delete_subnet, made)
    assert world.port.subnet(made) is not None
    world.port.delete_eni(eni_id)
    world.port.delete_subnet(made)


def cidrs(world: FloatingWorld) -> dict[str, str]:
    """The VPC's CIDRs and their states."""
    return {str(each.cidr): each.state for each in world.port.vpc_cidrs(world.vpc)}


def test_the_vpcs_ipv4_cidrs_have_a_state(world: FloatingWorld) -> None:
    assert cidrs(world) == {"10.10.0.0/16": "associated"}
    assert world.port.vpc_cidrs(NO_VPC) == ()


def test_a_cidr_can_be_used_when_it_is_associated(world: FloatingWorld) -> None:
    world.port.associate_vpc_cidr(world.vpc, OUTER_CIDR)
    until(lambda: cidrs(world) == {"10.10.0.0/16": "associated", str(OUTER_CIDR): "associated"})
    made = world.port.create_subnet(world.vpc, OUTER_CIDR, ZONE_B, TAGS)
    assert world.port.subnet(made) is not None


def test_a_cidr_that_is_being_associated_cannot_be_used_yet(world: FloatingWorld) -> None:
    world.hold()
    world.port.associate_vpc_cidr(world.vpc, OUTER_CIDR)
    assert cidrs(world) == {"10.10.0.0/16": "associated", str(OUTER_CIDR): "associating"}
    fails(ErrorKind.INVALID, world.port.create_subnet, world.vpc, OUTER_CIDR, ZONE_B, TAGS)


def test_a_cidr_that_overlaps_the_vpcs_is_invalid(world: FloatingWorld) -> None:
    for cidr in ("10.10.9.0/24", "10.10.0.0/16"):
        error = fails(ErrorKind.INVALID, world.port.associate_vpc_cidr, world.vpc, ip_network(cidr))
        assert "FloatingSubnetCidr" in error.failure.remedy


# Instances -----------------------------------------------------------------------------------------------------------


def test_the_state_of_an_instance(world: FloatingWorld) -> None:
    assert world.port.instance_state(world.instances["a"]) == "running"
    for state in ("stopped", "terminated"):
        world.set_state(world.instances["a"], state)
        assert world.port.instance_state(world.instances["a"]) == state


def test_an_instance_that_ec2_does_not_know_has_ended(world: FloatingWorld) -> None:
    assert world.port.instance_state(NO_INSTANCE) == "terminated"


def test_the_end_of_an_instance_sets_its_enis_free(world: FloatingWorld) -> None:
    made = create(world, VIP)
    world.port.attach_eni(made, world.instances["a"], 2)
    world.set_state(world.instances["a"], "terminated")
    until(lambda: status(world, made) == "")
