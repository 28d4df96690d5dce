"""The lab's EC2 over HTTP: the rows of EC2-SEMANTICS.md on addresses of ENIs and on Elastic IPs."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address

import pytest

from tests.contract.lab_world import World, assign, elastic_ip, refused, second_eni


@pytest.mark.parametrize("address", ["10.10.2.50", "192.168.0.2", "10.10.1.0", "10.10.1.3", "10.10.1.255"])
def test_an_address_outside_the_subnet_or_reserved_is_refused(world: World, address: str) -> None:
    """Row "AssignPrivateIpAddresses, address outside the subnet, or reserved"."""
    refused(lambda: assign(world, 0, address), "InvalidParameterValue")
    assert address not in world.ipv4(0)


def test_an_address_on_another_eni_is_refused_without_reassignment(world: World) -> None:
    """Row "…, address on another ENI, without AllowReassignment"; for its code see `strict.may_move`."""
    other = second_eni(world)
    assign(world, 0, "10.10.1.50")
    message = refused(lambda: assign(world, other, "10.10.1.50"), "InvalidParameterValue")
    assert message == "[10.10.1.50] assigned, but move is not allowed."
    assert "10.10.1.50" in world.ipv4(0)


def test_reassignment_moves_the_address_away_from_the_other_eni(world: World) -> None:
    """Row "…, with AllowReassignment"."""
    other = second_eni(world)
    assign(world, 0, "10.10.1.50")
    answer = assign(world, other, "10.10.1.50", AllowReassignment=True)
    assert answer["AssignedPrivateIpAddresses"] == [{"PrivateIpAddress": "10.10.1.50"}]
    assert "10.10.1.50" in world.ipv4(other)
    assert "10.10.1.50" not in world.ipv4(0)


def test_a_primary_address_is_never_moved(world: World) -> None:
    """Row "…, with AllowReassignment": a primary address."""
    other = second_eni(world)
    primary = world.ipv4(0)[0]
    refused(lambda: assign(world, other, primary, AllowReassignment=True), "InvalidParameterValue")
    assert primary in world.ipv4(0)


def test_assigning_what_the_eni_has_changes_nothing(world: World) -> None:
    assign(world, 0, "10.10.1.50")
    before = world.ipv4(0)
    assign(world, 0, "10.10.1.50")
    assert world.ipv4(0) == before


def test_more_addresses_than_the_instance_type_allows_are_refused(world: World) -> None:
    """Row "…, more addresses than the instance type allows per ENI": the primary one counts."""
    assign(world, 0, "10.10.1.50", "10.10.1.51", "10.10.1.52")
    refused(lambda: assign(world, 0, "10.10.1.53"), "PrivateIpAddressLimitExceeded")
    addresses = [world.ipv6_address(number) for number in (50, 51, 52, 53)]
    world.api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[0], Ipv6Addresses=addresses[:3])
    refused(
        lambda: world.api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[0], Ipv6Addresses=addresses[3:]),
        "PrivateIpAddressLimitExceeded",
    )


def test_addresses_by_count_are_free_ones(world: World) -> None:
    answer = world.api.assign_private_ip_addresses(NetworkInterfaceId=world.enis[0], SecondaryPrivateIpAddressCount=2)
    given = [each["PrivateIpAddress"] for each in answer["AssignedPrivateIpAddresses"]]
    assert world.ipv4(0)[1:] == given
    assert all(ip_address(each) in IPv4Network("10.10.1.0/24") for each in given)
    held = [address for eni in world.ec2.state().enis.values() for address in eni.addresses if eni.vpc_id == world.vpc]
    assert len(held) == len(set(held))


def test_unassigning_an_address_that_is_not_on_the_eni_is_refused(world: World) -> None:
    """Row "UnassignPrivateIpAddresses of an address not on that ENI"."""
    assign(world, 0, "10.10.1.50")

    def unassign(*addresses: str) -> None:
        world.api.unassign_private_ip_addresses(NetworkInterfaceId=world.enis[0], PrivateIpAddresses=list(addresses))

    refused(lambda: unassign("10.10.1.50", "10.10.1.51"), "InvalidParameterValue")
    assert "10.10.1.50" in world.ipv4(0)  # all or nothing
    refused(lambda: unassign(world.ipv4(0)[0]), "InvalidParameterValue")  # nor the primary
    unassign("10.10.1.50")
    assert "10.10.1.50" not in world.ipv4(0)


def test_an_ipv6_address_held_elsewhere_must_be_unassigned_first(world: World) -> None:
    """Row "AssignIpv6Addresses of an address held elsewhere"."""
    other = second_eni(world)
    address = world.ipv6_address(50)
    api = world.api
    answer = api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[0], Ipv6Addresses=[address])
    assert answer["AssignedIpv6Addresses"] == [address]
    refused(
        lambda: api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[other], Ipv6Addresses=[address]),
        "InvalidIPAddress.InUse",
    )
    answer = api.unassign_ipv6_addresses(NetworkInterfaceId=world.enis[0], Ipv6Addresses=[address])
    assert answer["UnassignedIpv6Addresses"] == [address]
    api.assign_ipv6_addresses(NetworkInterfaceId=world.enis[other], Ipv6Addresses=[address])
    assert (world.ipv6(0), world.ipv6(other)) == ([], [address])


def test_unassigning_an_ipv6_address_that_is_not_on_the_eni_is_refused(world: World) -> None:
    refused(
        lambda: world.api.unassign_ipv6_addresses(
            NetworkInterfaceId=world.enis[0], Ipv6Addresses=[world.ipv6_address(50)]
        ),
        "InvalidParameterValue",
    )


def test_an_ipv6_address_outside_the_subnet_is_refused(world: World) -> None:
    for address in ("2001:db8::2", world.ipv6_address(1)):
        refused(
            lambda address=address: world.api.assign_ipv6_addresses(
                NetworkInterfaceId=world.enis[0], Ipv6Addresses=[address]
            ),
            "InvalidParameterValue",
        )


def test_associate_address_binds_to_the_private_address(world: World) -> None:
    """Row "AssociateAddress with PrivateIpAddress"."""
    allocation = elastic_ip(world)
    assign(world, 0, "10.10.1.50")
    binding = {"AllocationId": allocation, "NetworkInterfaceId": world.enis[0], "PrivateIpAddress": "10.10.1.50"}
    association = world.api.associate_address(**binding)["AssociationId"]
    (described,) = world.api.describe_addresses(AllocationIds=[allocation])["Addresses"]
    assert (described["PrivateIpAddress"], described["AssociationId"]) == ("10.10.1.50", association)
    primary, secondary = world.eni(0)["PrivateIpAddresses"]
    assert "Association" not in primary
    assert secondary["Association"]["AllocationId"] == allocation


def test_associate_address_of_an_address_that_is_not_on_the_eni_is_refused(world: World) -> None:
    """Row "AssociateAddress with PrivateIpAddress": it must be on the ENI."""
    refused(
        lambda: world.api.associate_address(
            AllocationId=elastic_ip(world), NetworkInterfaceId=world.enis[0], PrivateIpAddress="10.10.1.99"
        ),
        "InvalidParameterValue",
    )


def test_an_associated_elastic_ip_moves_only_with_reassociation(world: World) -> None:
    """Row "AssociateAddress without AllowReassociation on an associated EIP"."""
    allocation = elastic_ip(world)
    world.api.associate_address(AllocationId=allocation, NetworkInterfaceId=world.enis[0])
    move = {"AllocationId": allocation, "NetworkInterfaceId": world.enis[1]}
    refused(lambda: world.api.associate_address(**move, AllowReassociation=False), "Resource.AlreadyAssociated")
    assert world.eni(0)["Association"]["AllocationId"] == allocation
    world.api.associate_address(**move, AllowReassociation=True)
    assert "Association" not in world.eni(0)
    assert world.eni(1)["Association"]["AllocationId"] == allocation


def test_a_moved_address_takes_its_elastic_ip_along_and_an_unassigned_one_loses_it(world: World) -> None:
    """AssignPrivateIpAddresses: "any Elastic IP address that is associated … is also moved"."""
    other = second_eni(world)
    allocation = elastic_ip(world)
    assign(world, 0, "10.10.1.50")
    world.api.associate_address(
        AllocationId=allocation, NetworkInterfaceId=world.enis[0], PrivateIpAddress="10.10.1.50"
    )
    assign(world, other, "10.10.1.50", AllowReassignment=True)
    (described,) = world.api.describe_addresses(AllocationIds=[allocation])["Addresses"]
    assert (described["NetworkInterfaceId"], described["PrivateIpAddress"]) == (world.enis[other], "10.10.1.50")
    world.api.unassign_private_ip_addresses(NetworkInterfaceId=world.enis[other], PrivateIpAddresses=["10.10.1.50"])
    (described,) = world.api.describe_addresses(AllocationIds=[allocation])["Addresses"]
    assert "AssociationId" not in described


def test_source_dest_check_is_on_until_it_is_turned_off(world: World) -> None:
    """Row "source/dest check on (the default)": the flag; what it does is the router's."""
    assert world.eni(0)["SourceDestCheck"] is True
    world.api.modify_network_interface_attribute(NetworkInterfaceId=world.enis[0], SourceDestCheck={"Value": False})
    assert world.eni(0)["SourceDestCheck"] is False
    assert world.ec2.state().enis[world.enis[0]].source_dest_check is False
