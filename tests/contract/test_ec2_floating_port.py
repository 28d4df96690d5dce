"""The contract of FloatingEc2Port's ENIs, against the double and against the real client over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network

from tests.contract.ec2_fixtures import account, endpoint, make_client, module_patch, trimmed_model
from tests.contract.ec2_floating_fixtures import (
    NO_ENI,
    NO_INSTANCE,
    NO_SUBNET,
    TAGS,
    VIP,
    VIP2,
    attachment_id,
    bound,
    create,
    eni,
    fails,
    real_clients,
    status,
    world,
)
from tests.contract.ec2_floating_worlds import OUTER_CIDR, FloatingWorld
from tests.contract.ec2_worlds import CIDR_A, PRIMARY_A, ZONE_A, ZONE_B, a
from tests.doubles.clock import until
from vipmanager.errors import ErrorKind

__all__ = ["account", "endpoint", "make_client", "module_patch", "real_clients", "trimmed_model", "world"]


# Descriptions --------------------------------------------------------------------------------------------------------


def test_an_eni_tells_its_attachment_zone_groups_and_tags(world: FloatingWorld) -> None:
    made = create(world, VIP)
    world.tag_eni(made, "Name", "α = b")
    world.port.attach_eni(made, world.instances["a"], 3)
    found = eni(world, made)
    assert found.attachment is not None
    assert (found.attachment.instance_id, found.attachment.device_index) == (world.instances["a"], 3)
    assert (found.zone, set(found.groups), found.prefixes) == (ZONE_A, set(world.groups), ())
    assert found.tags == {**TAGS, "Name": "α = b"}
    assert eni(world, world.enis["b"]).zone == ZONE_B


# Finding ENIs --------------------------------------------------------------------------------------------------------


def test_an_instances_enis_are_all_of_them_whatever_they_are_doing(world: FloatingWorld) -> None:
    before = {each.id for each in world.port.enis_of_instance(world.instances["a"])}
    assert world.enis["a"] in before and len(before) == 2
    world.hold()
    made = create(world, VIP)
    world.port.attach_eni(made, world.instances["a"], 2)
    world.port.detach_eni(attachment_id(world, world.enis["a"]), force=False)
    found = {each.id: each.attachment for each in world.port.enis_of_instance(world.instances["a"])}
    assert set(found) == {*before, made}
    assert sorted(each.status for each in found.values() if each) == ["attached", "attaching", "detaching"]
    assert world.port.enis_of_instance(NO_INSTANCE) == ()


def test_enis_are_found_by_tag_attached_or_not(world: FloatingWorld) -> None:
    made = create(world, VIP)
    key, value = next(iter(TAGS.items()))
    world.tag_eni(world.enis["b"], key, value)
    world.tag_eni(world.enis["a"], key, "another value")
    world.tag_eni(world.elsewhere, key, value)
    assert {each.id for each in world.port.enis_tagged(world.vpc, key, value)} == {made, world.enis["b"]}
    assert world.port.enis_tagged(world.vpc, key, "10.*") == ()
    assert world.port.enis_tagged(world.vpc, key, "10.10.1.8?,eipalloc-1") == ()


def test_a_tag_with_signs_of_a_pattern_is_found_as_it_is(world: FloatingWorld) -> None:
    world.tag_eni(world.enis["a"], "k", "a*b?c\\d")
    world.tag_eni(world.enis["b"], "k", "aXb-c\\d")
    assert [each.id for each in world.port.enis_tagged(world.vpc, "k", "a*b?c\\d")] == [world.enis["a"]]


def test_the_enis_of_a_subnet_are_all_of_them(world: FloatingWorld) -> None:
    made = create(world, VIP)
    found = {each.id for each in world.port.enis_in_subnet(world.subnet_ids["a"])}
    assert {world.enis["a"], world.enis["a2"], made} <= found and world.enis["b"] not in found
    assert len(found) == 5  # with two primary ENIs
    assert world.port.enis_in_subnet(NO_SUBNET) == ()


# Making and deleting ENIs --------------------------------------------------------------------------------------------


def test_an_eni_is_made_with_its_addresses_groups_and_tags_in_one_call(world: FloatingWorld) -> None:
    before = world.calls_made()
    made = create(world, VIP, world.v6(80), VIP2)
    assert world.calls_made() == before + 1
    found = eni(world, made)
    assert set(found.addresses) == {VIP, VIP2, world.v6(80)} and found.primary == {VIP}
    assert (found.subnet_id, found.attachment, found.live) == (world.subnet_ids["a"], None, False)
    assert (set(found.groups), found.tags) == (set(world.groups), TAGS)


def test_without_an_ipv4_address_ec2_chooses_one(world: FloatingWorld) -> None:
    found = eni(world, create(world, world.v6(80)))
    (primary,) = found.primary
    assert primary in ip_network(CIDR_A) and set(found.addresses) == {primary, world.v6(80)}


def test_the_same_token_gives_the_same_eni_again(world: FloatingWorld) -> None:
    made = create(world, VIP)
    assert create(world, VIP) == made
    assert len(world.port.enis_tagged(world.vpc, *next(iter(TAGS.items())))) == 1
    assert create(world, VIP2, token="token-2") != made


def test_a_token_that_is_used_up_asks_for_another_look(world: FloatingWorld) -> None:
    made = create(world, VIP)
    fails(ErrorKind.RACE, create, world, VIP2)
    world.port.delete_eni(made)
    fails(ErrorKind.RACE, create, world, VIP)


def test_an_eni_with_an_address_in_use_is_not_made(world: FloatingWorld) -> None:
    world.port.assign(world.enis["a2"], [VIP2])
    world.port.assign(world.enis["a2"], [world.v6(81)])
    for number, addresses in enumerate([(VIP2,), (VIP, VIP2), (ip_address(PRIMARY_A),), (VIP, world.v6(81))]):
        fails(ErrorKind.LOST, create, world, *addresses, token=f"token-{number}")
    assert world.port.enis_tagged(world.vpc, *next(iter(TAGS.items()))) == ()


def test_an_eni_with_an_address_that_no_eni_can_have_is_invalid(world: FloatingWorld) -> None:
    for number, address in enumerate((a(1), a(255), ip_address("10.10.2.80"), ip_address("2001:db8::1"))):
        fails(ErrorKind.INVALID, create, world, address, token=f"token-{number}")


def test_in_a_subnet_that_is_not_there_yet_the_eni_is_for_later(world: FloatingWorld) -> None:
    fails(ErrorKind.RETRY, world.port.create_eni, NO_SUBNET, [VIP], world.groups, TAGS, "vipmanager", "token")


def test_deleting_an_eni_is_idempotent(world: FloatingWorld) -> None:
    made = create(world, VIP)
    for _ in range(2):
        world.port.delete_eni(made)
        assert world.port.enis([made]) == ()


def test_an_eni_that_is_attached_is_not_deleted(world: FloatingWorld) -> None:
    fails(ErrorKind.RACE, world.port.delete_eni, world.enis["a"])
    world.hold()
    world.port.detach_eni(attachment_id(world, world.enis["a"]), force=False)
    fails(ErrorKind.RACE, world.port.delete_eni, world.enis["a"])
    assert status(world, world.enis["a"]) == "detaching"


def test_a_deleted_enis_elastic_ip_is_bound_to_nothing(world: FloatingWorld) -> None:
    allocation, _ = world.allocate()
    made = create(world, VIP)
    world.port.associate(allocation, made, VIP)
    world.port.delete_eni(made)
    assert bound(world, allocation) == ("", None)


# Attaching and detaching ---------------------------------------------------------------------------------------------


def test_attaching_is_begun_and_ends_later(world: FloatingWorld) -> None:
    world.hold()
    made = create(world, VIP)
    world.port.attach_eni(made, world.instances["a"], 2)
    found = eni(world, made)
    assert found.attachment is not None
    assert (found.attachment.status, found.attachment.device_index, found.live) == ("attaching", 2, True)


def test_an_eni_is_attached_in_the_end(world: FloatingWorld) -> None:
    made = create(world, VIP)
    world.port.attach_eni(made, world.instances["a"], 2)
    until(lambda: status(world, made) == "attached")
    assert eni(world, made).device_index == 2


def test_an_eni_that_is_attached_or_not_gone_yet_is_a_race(world: FloatingWorld) -> None:
    fails(ErrorKind.RACE, world.port.attach_eni, world.enis["a"], world.instances["a2"], 2)
    world.hold()
    world.port.detach_eni(attachment_id(world, world.enis["a"]), force=False)
    fails(ErrorKind.RACE, world.port.attach_eni, world.enis["a"], world.instances["a2"], 2)


def test_a_device_index_that_is_taken_is_a_race(world: FloatingWorld) -> None:
    made = create(world, VIP)
    fails(ErrorKind.RACE, world.port.attach_eni, made, world.instances["a"], 1)
    assert status(world, made) == ""


def test_an_instance_that_is_full_is_a_limit(world: FloatingWorld) -> None:
    for index in (2, 3):
        made = create(world, a(80 + index), token=f"token-{index}")
        world.port.attach_eni(made, world.instances["a"], index)
    last = create(world, VIP, token="token-4")
    error = fails(ErrorKind.LIMIT, world.port.attach_eni, last, world.instances["a"], 4)
    assert "MAX_ENI" in error.failure.remedy and world.instances["a"] in error.failure.message


def test_an_eni_of_another_zone_or_an_unknown_instance_is_invalid(world: FloatingWorld) -> None:
    made = create(world, VIP)
    error = fails(ErrorKind.INVALID, world.port.attach_eni, made, world.instances["b"], 3)
    assert "Availability Zone" in error.failure.remedy
    fails(ErrorKind.INVALID, world.port.attach_eni, made, NO_INSTANCE, 1)


def test_an_eni_that_was_made_a_moment_ago_may_not_be_known_yet(world: FloatingWorld) -> None:
    fails(ErrorKind.RETRY, world.port.attach_eni, NO_ENI, world.instances["a"], 2)


def test_an_instance_that_ends_takes_no_eni(world: FloatingWorld) -> None:
    made = create(world, VIP)
    world.set_state(world.instances["a"], "terminated")
    fails(ErrorKind.RETRY, world.port.attach_eni, made, world.instances["a"], 2)


def test_detaching_is_begun_and_a_second_time_is_a_race(world: FloatingWorld) -> None:
    world.hold()
    attachment = attachment_id(world, world.enis["a"])
    world.port.detach_eni(attachment, force=False)
    found = eni(world, world.enis["a"])
    assert found.attachment is not None
    assert (found.attachment.status, found.attachment.instance_id) == ("detaching", world.instances["a"])
    assert not found.live
    fails(ErrorKind.RACE, world.port.detach_eni, attachment, force=False)


def test_an_eni_is_detached_in_the_end_and_can_be_attached_elsewhere(world: FloatingWorld) -> None:
    attachment = attachment_id(world, world.enis["a"])
    world.port.detach_eni(attachment, force=False)
    until(lambda: status(world, world.enis["a"]) == "")
    fails(ErrorKind.RACE, world.port.detach_eni, attachment, force=False)
    fails(ErrorKind.RACE, world.port.detach_eni, attachment, force=True)
    world.port.attach_eni(world.enis["a"], world.instances["a2"], 2)
    until(lambda: status(world, world.enis["a"]) == "attached")
    assert attachment_id(world, world.enis["a"]) != attachment


def test_force_ends_a_detachment_that_does_not_end(world: FloatingWorld) -> None:
    world.hold()
    attachment = attachment_id(world, world.enis["a"])
    world.port.detach_eni(attachment, force=False)
    world.port.detach_eni(attachment, force=True)
    until(lambda: status(world, world.enis["a"]) == "")


def test_what_is_attaching_can_be_detached(world: FloatingWorld) -> None:
    world.hold()
    made = create(world, VIP)
    world.port.attach_eni(made, world.instances["a"], 2)
    world.port.detach_eni(attachment_id(world, made), force=False)
    assert status(world, made) == "detaching"


def test_a_primary_eni_is_not_detached_and_iam_is_not_blamed(world: FloatingWorld) -> None:
    (primary,) = (each for each in world.port.enis_of_instance(world.instances["a"]) if each.device_index == 0)
    assert primary.attachment is not None
    error = fails(ErrorKind.DENIED, world.port.detach_eni, primary.attachment.id, force=True)
    assert "not a matter of IAM" in error.failure.remedy


# All of them ---------------------------------------------------------------------------------------------------------


def test_no_call_retries_or_looks_before_it_acts(world: FloatingWorld) -> None:
    """One call of the port is one request."""
    allocation, _ = world.allocate()
    attachment = attachment_id(world, world.enis["a"])
    begun = world.calls_made()
    calls: list[Callable[[], object]] = [
        lambda: world.port.elastic_ips([allocation]),
        lambda: world.port.associate(allocation, world.enis["a"], IPv4Address(PRIMARY_A)),
        lambda: world.port.enis_of_instance(world.instances["a"]),
        lambda: world.port.enis_tagged(world.vpc, "k", "v"),
        lambda: world.port.enis_in_subnet(world.subnet_ids["a"]),
        lambda: world.port.detach_eni(attachment, force=True),
        lambda: world.port.delete_eni(NO_ENI),
        lambda: world.port.delete_subnet(NO_SUBNET),
        lambda: world.port.vpc_cidrs(world.vpc),
        lambda: world.port.associate_vpc_cidr(world.vpc, OUTER_CIDR),
        lambda: world.port.subnet(world.subnet_ids["a"]),
        lambda: world.port.instance_state(world.instances["a"]),
    ]
    for number, call in enumerate(calls, begun + 1):
        call()
        assert world.calls_made() == number
