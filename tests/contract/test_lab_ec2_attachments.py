"""The lab's EC2: ENIs that are made, attached and detached, with the time that takes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lab.ec2.delivery import Delivered, Dropped, deliver
from lab.ec2.quotas import Quotas
from lab.ec2.server import LabEc2
from tests.contract.lab_world import OUTSIDE, World, build, elastic_ip, found, refused, until

LONG = 60.0  # seconds that are not over during a test
SHORT = 0.05


def make(world: World, subnet: int = 0, **more: Any) -> str:
    """Make an ENI; its ID."""
    made = world.api.create_network_interface(SubnetId=world.subnets[subnet], **more)
    return str(made["NetworkInterface"]["NetworkInterfaceId"])


def attach(world: World, eni: str, instance: int = 0, index: int = 2) -> str:
    """Attach it; the attachment's ID."""
    answer = world.api.attach_network_interface(
        NetworkInterfaceId=eni, InstanceId=world.instances[instance], DeviceIndex=index
    )
    return str(answer["AttachmentId"])


def detach(world: World, attachment: str, **more: Any) -> None:
    world.api.detach_network_interface(AttachmentId=attachment, **more)


def described(world: World, eni: str) -> dict[str, Any]:
    return world.api.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]


def status(world: World, eni: str) -> tuple[str, str | None]:
    """The ENI's status, and its attachment's."""
    eni_as_described = described(world, eni)
    return eni_as_described["Status"], eni_as_described.get("Attachment", {}).get("Status")


def of_first(world: World) -> str:
    """The attachment of the first worker's ENI at index 1."""
    return str(world.eni(0)["Attachment"]["AttachmentId"])


# AttachNetworkInterface -----------------------------------------------------------------------------------------------


def test_attaching_takes_its_time(world: World) -> None:
    eni = make(world)
    assert status(world, eni) == ("available", None)
    world.ec2.attach_delay = LONG
    attachment = attach(world, eni)
    assert status(world, eni) == ("in-use", "attaching")
    world.ec2.hurry()
    until(lambda: status(world, eni) == ("in-use", "attached"))
    shown = described(world, eni)["Attachment"]
    assert (shown["AttachmentId"], shown["InstanceId"], shown["DeviceIndex"]) == (attachment, world.instances[0], 2)


def test_without_a_delay_an_eni_is_attached_and_detached_at_once(world: World) -> None:
    eni = make(world)
    attachment = attach(world, eni)
    assert status(world, eni) == ("in-use", "attached")
    detach(world, attachment)
    assert status(world, eni) == ("available", None)


def test_what_ends_later_is_told_to_who_follows_changes(world: World) -> None:
    eni = make(world)
    told: list[str | None] = []

    def note(state: Any) -> None:
        attachment = state.enis[eni].attachment
        told.append(attachment.status if attachment else None)

    world.ec2.on_change(note)
    world.ec2.attach_delay = world.ec2.detach_delay = SHORT
    attachment = attach(world, eni)
    until(lambda: told == ["attaching", "attached"])
    detach(world, attachment)
    until(lambda: told == ["attaching", "attached", "detaching", None])


def test_an_eni_in_use_is_not_attached(world: World) -> None:
    refused(lambda: attach(world, world.enis[0]), "InvalidNetworkInterface.InUse")
    world.ec2.detach_delay = LONG
    detach(world, of_first(world))
    refused(lambda: attach(world, world.enis[0]), "InvalidNetworkInterface.InUse")
    world.ec2.attach_delay = LONG
    eni = make(world)
    attach(world, eni)
    refused(lambda: attach(world, eni, index=3), "InvalidNetworkInterface.InUse")


def test_a_device_index_in_use_is_refused(world: World) -> None:
    eni = make(world)
    message = refused(lambda: attach(world, eni, index=1), "InvalidParameterValue")
    assert message == (f"Instance '{world.instances[0]}' already has an interface attached at device index '1'.")
    world.ec2.detach_delay = LONG
    detach(world, of_first(world))
    refused(lambda: attach(world, eni, index=1), "InvalidParameterValue")  # until it is gone


def test_an_instance_type_has_so_many_enis(world: World) -> None:
    attach(world, make(world), index=2)
    attach(world, make(world), index=3)
    eni = make(world)
    message = refused(lambda: attach(world, eni, index=4), "AttachmentLimitExceeded")
    assert message == "Interface count 5 exceeds the limit for m5.xlarge"


def test_a_type_without_an_entry_has_the_general_limit() -> None:
    quotas = Quotas(enis=2, enis_by_type={})
    with LabEc2(quotas=quotas) as ec2:
        ec2.serve("127.0.0.1")
        world = build(ec2)
        eni = make(world)
        refused(lambda: attach(world, eni), "AttachmentLimitExceeded")


def test_eni_and_instance_are_in_one_availability_zone(world: World) -> None:
    eni = make(world, subnet=1)
    refused(lambda: attach(world, eni, instance=0), "InvalidParameterCombination")


def test_attaching_what_does_not_exist(world: World) -> None:
    refused(lambda: attach(world, "eni-0123456789abcdef0"), "InvalidNetworkInterfaceID.NotFound")
    eni, world.instances[0] = make(world), "i-0123456789abcdef0"
    refused(lambda: attach(world, eni), "InvalidInstanceID.NotFound")


def test_a_terminated_instance_takes_none(world: World) -> None:
    world.ec2.admin().terminate_instances(InstanceIds=[world.instances[0]])
    eni = make(world)
    refused(lambda: attach(world, eni), "IncorrectInstanceState")


# DetachNetworkInterface -----------------------------------------------------------------------------------------------


def test_detaching_takes_its_time(world: World) -> None:
    world.ec2.detach_delay = LONG
    detach(world, of_first(world))
    assert status(world, world.enis[0]) == ("in-use", "detaching")
    world.ec2.hurry()
    until(lambda: status(world, world.enis[0]) == ("available", None))


def test_detaching_twice_is_refused_unless_forced(world: World) -> None:
    world.ec2.detach_delay = LONG
    attachment = of_first(world)
    detach(world, attachment)
    refused(lambda: detach(world, attachment), "IncorrectState")
    detach(world, attachment, Force=True)  # at most a second, whatever the delay
    until(lambda: status(world, world.enis[0]) == ("available", None))


def test_a_guest_that_does_not_let_go_must_be_forced(world: World) -> None:
    world.ec2.stuck_detach = True
    attachment, other = of_first(world), make(world)
    detach(world, attachment)
    second = attach(world, other)
    detach(world, second, Force=True)
    until(lambda: status(world, other) == ("available", None))  # had the first one ended, it would have before
    assert status(world, world.enis[0]) == ("in-use", "detaching")
    detach(world, attachment, Force=True)
    assert status(world, world.enis[0]) == ("available", None)


def test_an_instance_that_does_not_run_holds_on_to_nothing(world: World) -> None:
    world.ec2.stuck_detach = True
    admin = world.ec2.admin()
    detach(world, of_first(world))
    assert status(world, world.enis[0]) == ("in-use", "detaching")
    admin.stop_instances(InstanceIds=[world.instances[0]])
    assert status(world, world.enis[0]) == ("available", None)
    admin.stop_instances(InstanceIds=[world.instances[1]])
    detach(world, str(world.eni(1)["Attachment"]["AttachmentId"]))
    assert status(world, world.enis[1]) == ("available", None)


def test_an_eni_is_free_as_soon_as_its_instance_is_terminated(world: World) -> None:
    world.ec2.detach_delay = LONG
    detach(world, of_first(world))
    world.ec2.admin().terminate_instances(InstanceIds=[world.instances[0]])
    assert status(world, world.enis[0]) == ("available", None)


def test_detaching_what_does_not_exist_or_is_the_first(world: World) -> None:
    refused(lambda: detach(world, "eni-attach-0123456789abcdef0"), "InvalidAttachmentID.NotFound")
    first = world.ec2.state().enis_of_instance(world.instances[0])[0].attachment
    assert first is not None
    refused(lambda: detach(world, first.attachment_id, Force=True), "OperationNotPermitted")


def test_a_detachment_that_ends_later_leaves_a_new_attachment_alone(world: World) -> None:
    world.ec2.detach_delay = LONG
    old = of_first(world)
    detach(world, old)
    world.ec2.detach_delay = 0.0
    detach(world, old, Force=True)
    new = attach(world, world.enis[0])
    late = make(world)
    world.ec2.detach_delay = LONG
    detach(world, attach(world, late, index=3))
    world.ec2.hurry()
    until(lambda: status(world, late) == ("available", None))  # which comes after what was the first one's end
    assert described(world, world.enis[0])["Attachment"]["AttachmentId"] == new


def test_an_eni_is_deleted_only_when_it_is_free(world: World) -> None:
    world.ec2.detach_delay = LONG
    eni = world.enis[0]
    refused(lambda: world.api.delete_network_interface(NetworkInterfaceId=eni), "InvalidParameterValue")
    detach(world, of_first(world))
    refused(lambda: world.api.delete_network_interface(NetworkInterfaceId=eni), "InvalidParameterValue")
    world.ec2.hurry()
    until(lambda: status(world, eni) == ("available", None))
    world.api.delete_network_interface(NetworkInterfaceId=eni)
    refused(lambda: described(world, eni), "InvalidNetworkInterfaceID.NotFound")


# What it means for packets and for describes --------------------------------------------------------------------------


def test_only_an_attached_eni_is_live(world: World) -> None:
    sender, receiver = (world.ec2.state().enis[each] for each in world.enis)
    world.create()

    def arrives() -> bool:
        outcome = deliver(world.ec2.state(), receiver.eni_id, receiver.primary_ip, sender.primary_ip)
        assert outcome in (Delivered(sender.eni_id), Dropped("eni-detached"))
        return outcome == Delivered(sender.eni_id)

    def active() -> bool:
        shown = world.route(OUTSIDE)
        assert shown is not None
        return bool(shown["State"] == "active")

    assert arrives() and active()
    world.ec2.detach_delay = world.ec2.attach_delay = LONG
    detach(world, of_first(world))
    assert not arrives() and not active()
    world.ec2.hurry()
    until(lambda: status(world, sender.eni_id) == ("available", None))
    assert not arrives() and not active()
    attach(world, sender.eni_id, index=1)
    assert not arrives() and not active()
    world.ec2.hurry()
    until(lambda: arrives() and active())


def test_filters_on_attachments_tags_and_places(world: World) -> None:
    tags = [{"Key": "vipmanager/floating", "Value": "10.10.1.77"}]
    eni = make(world, TagSpecifications=[{"ResourceType": "network-interface", "Tags": tags}])
    assert found(world, attachment__status="attached", vpc_id=world.vpc) >= {*world.enis}
    world.ec2.attach_delay = world.ec2.detach_delay = LONG
    attach(world, eni)
    detach(world, of_first(world))
    assert found(world, attachment__status="attaching") == {eni}
    assert found(world, attachment__status="detaching") == {world.enis[0]}
    assert found(world, attachment__instance_id=world.instances[0]) >= {eni, world.enis[0]}
    assert found(world, **{"tag:vipmanager/floating": "10.10.1.77"}) == {eni}
    assert found(world, **{"tag:vipmanager/floating": "10.10.1.78"}) == set()
    assert found(world, tag_key="vipmanager/floating") == {eni}
    assert eni not in found(world, subnet_id=world.subnets[1])
    assert found(world, availability_zone="us-east-2b") == found(world, subnet_id=world.subnets[1])


def test_instances_are_described_with_state_and_place(world: World) -> None:
    by_filter = {"Name": "instance-id", "Values": world.instances}
    found = [
        each
        for reservation in world.api.describe_instances(Filters=[by_filter])["Reservations"]
        for each in reservation["Instances"]
    ]
    assert {each["InstanceId"]: each["Placement"]["AvailabilityZone"] for each in found} == {
        world.instances[0]: "us-east-2a",
        world.instances[1]: "us-east-2b",
    }
    assert {each["State"]["Name"] for each in found} == {"running"}
    unknown = "i-0123456789abcdef0"
    refused(lambda: world.api.describe_instances(InstanceIds=[unknown]), "InvalidInstanceID.NotFound")


# CreateNetworkInterface -----------------------------------------------------------------------------------------------


def test_a_client_token_makes_one_eni(world: World) -> None:
    before = len(found(world))
    first, again = (make(world, ClientToken="once", Description="floating") for _ in range(2))
    assert first == again
    assert len(found(world)) == before + 1
    refused(lambda: make(world, ClientToken="once", Description="other"), "IdempotentParameterMismatch")
    assert make(world, ClientToken="twice", Description="floating") != first


def test_an_eni_is_made_with_addresses_groups_and_description(world: World) -> None:
    group = world.ec2.admin().create_security_group(GroupName="nodes", Description="-", VpcId=world.vpc)["GroupId"]
    eni = make(
        world,
        Groups=[group],
        Description="floating",
        PrivateIpAddresses=[
            {"PrivateIpAddress": "10.10.1.70", "Primary": False},
            {"PrivateIpAddress": "10.10.1.71", "Primary": True},
        ],
        Ipv6Addresses=[{"Ipv6Address": world.ipv6_address(70)}],
    )
    shown = described(world, eni)
    assert (shown["PrivateIpAddress"], shown["Description"]) == ("10.10.1.71", "floating")
    assert [each["PrivateIpAddress"] for each in shown["PrivateIpAddresses"]] == ["10.10.1.71", "10.10.1.70"]
    assert [each["Ipv6Address"] for each in shown["Ipv6Addresses"]] == [world.ipv6_address(70)]
    assert [each["GroupId"] for each in shown["Groups"]] == [group]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        pytest.param({"PrivateIpAddress": "10.10.2.70"}, "InvalidParameterValue", id="in another subnet"),
        pytest.param({"PrivateIpAddress": "10.10.1.1"}, "InvalidParameterValue", id="reserved"),
        pytest.param({"Groups": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound", id="unknown group"),
        pytest.param(
            {
                "PrivateIpAddress": "10.10.1.70",
                "PrivateIpAddresses": [{"PrivateIpAddress": "10.10.1.71", "Primary": True}],
            },
            "InvalidParameterCombination",
            id="two primary addresses",
        ),
    ],
)
def test_an_eni_that_cannot_be_is_not_made(world: World, more: dict[str, Any], code: str) -> None:
    before = found(world)
    refused(lambda: make(world, **more), code)
    assert found(world) == before


def test_an_eni_takes_no_group_of_another_vpc(world: World) -> None:
    admin = world.ec2.admin()
    other = admin.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    group = admin.create_security_group(GroupName="nodes", Description="-", VpcId=other)["GroupId"]
    refused(lambda: make(world, Groups=[group]), "InvalidParameter")


# Elastic IPs ----------------------------------------------------------------------------------------------------------


def test_elastic_ips_are_addresses_that_packets_can_be_sent_to(world: World) -> None:
    made = [elastic_ip(world) for _ in range(3)]
    shown = world.api.describe_addresses(AllocationIds=made)["Addresses"]
    assert {each["PublicIp"] for each in shown} == {"203.0.113.1", "203.0.113.2", "203.0.113.3"}


def test_an_eni_keeps_its_elastic_ip_when_it_changes_hands(world: World) -> None:
    allocation, eni = elastic_ip(world), world.enis[0]
    world.api.associate_address(AllocationId=allocation, NetworkInterfaceId=eni)

    def bound() -> tuple[str | None, str | None]:
        (shown,) = world.api.describe_addresses(AllocationIds=[allocation])["Addresses"]
        return shown.get("NetworkInterfaceId"), shown.get("InstanceId")

    assert bound() == (eni, world.instances[0])
    world.ec2.admin().terminate_instances(InstanceIds=[world.instances[0]])
    assert bound() == (eni, None)
    admin = world.ec2.admin()
    run = admin.run_instances(
        ImageId="ami-12345678", InstanceType="m5.xlarge", MinCount=1, MaxCount=1, SubnetId=world.subnets[0]
    )
    world.instances[0] = run["Instances"][0]["InstanceId"]
    attach(world, eni)
    assert bound() == (eni, world.instances[0])


def test_closing_ends_what_is_yet_to_come() -> None:
    with LabEc2() as ec2:
        ec2.serve("127.0.0.1")
        world = build(ec2)
        ec2.detach_delay = LONG
        detach(world, of_first(world))
        before = time.monotonic()
    assert time.monotonic() - before < LONG / 2
