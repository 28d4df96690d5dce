"""What the nodeport mode asks of EC2 besides: ENIs and subnets that follow the holder. No other mode loads this."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from vipmanager.clients.ec2 import Ec2Client, filters
from vipmanager.clients.ec2_parse import understood
from vipmanager.errors import CallError
from vipmanager.model import Address, EniDescription, Network, Subnet
from vipmanager.model_node import VpcCidr

TERMINATED = "terminated"


class FloatingEc2Client(Ec2Client):
    """The floating EC2 port."""

    def enis_of_instance(self, instance_id: str) -> tuple[EniDescription, ...]:
        """See FloatingEc2Port."""
        return self._describe_enis(filters("attachment.instance-id", [instance_id]), instance_id)

    def enis_tagged(self, vpc_id: str, key: str, value: str) -> tuple[EniDescription, ...]:
        """See FloatingEc2Port."""
        wanted = filters("vpc-id", [vpc_id]) + filters(f"tag:{key}", [_literal(value)])
        return self._describe_enis(wanted, f"{key}={value}")

    def enis_in_subnet(self, subnet_id: str) -> tuple[EniDescription, ...]:
        """See FloatingEc2Port."""
        return self._describe_enis(filters("subnet-id", [subnet_id]), subnet_id)

    def create_eni(
        self,
        subnet_id: str,
        addresses: Sequence[Address],
        groups: Sequence[str],
        tags: Mapping[str, str],
        description: str,
        token: str,
    ) -> str:
        """See FloatingEc2Port."""
        ipv4 = [str(address) for address in addresses if address.version == 4]
        ipv6 = [str(address) for address in addresses if address.version == 6]
        params: dict[str, Any] = {
            "SubnetId": subnet_id,
            "Description": description,
            "ClientToken": token,
            "TagSpecifications": _tagged("network-interface", tags),
        }
        if groups:  # without any EC2 would take the VPC's default one
            params["Groups"] = list(groups)
        if ipv4:
            params["PrivateIpAddresses"] = [
                {"PrivateIpAddress": text, "Primary": number == 0} for number, text in enumerate(ipv4)
            ]
        if ipv6:
            params["Ipv6Addresses"] = [{"Ipv6Address": text} for text in ipv6]
        answer = self._call("create_network_interface", subnet_id, **params)
        return understood(
            "CreateNetworkInterface", subnet_id, lambda: str(answer["NetworkInterface"]["NetworkInterfaceId"])
        )

    def attach_eni(self, eni_id: str, instance_id: str, device_index: int) -> None:
        """See FloatingEc2Port.

        The network card is named although 0 is its default: left out, an instance with several cards was refused an
        index that was taken on another card only (cilium/cilium pull request 42512).
        """
        self._call(
            "attach_network_interface",
            f"{eni_id},{instance_id}",
            NetworkInterfaceId=eni_id,
            InstanceId=instance_id,
            DeviceIndex=device_index,
            NetworkCardIndex=0,
        )

    def detach_eni(self, attachment_id: str, *, force: bool) -> None:
        """See FloatingEc2Port."""
        forced = {"Force": True} if force else {}
        self._call("detach_network_interface", attachment_id, AttachmentId=attachment_id, **forced)

    def delete_eni(self, eni_id: str) -> None:
        """See FloatingEc2Port."""
        try:
            self._call("delete_network_interface", eni_id, NetworkInterfaceId=eni_id)
        except CallError as error:
            if error.failure.code != "InvalidNetworkInterfaceID.NotFound":
                raise

    def create_subnet(self, vpc_id: str, cidr: Network, zone: str, tags: Mapping[str, str]) -> str:
        """See FloatingEc2Port. CreateSubnet knows no ClientToken; a second one of the same CIDR is refused anyway."""
        answer = self._call(
            "create_subnet",
            f"{vpc_id},{cidr}",
            VpcId=vpc_id,
            CidrBlock=str(cidr),
            AvailabilityZone=zone,
            TagSpecifications=_tagged("subnet", tags),
        )
        return understood("CreateSubnet", vpc_id, lambda: str(answer["Subnet"]["SubnetId"]))

    def delete_subnet(self, subnet_id: str) -> None:
        """See FloatingEc2Port."""
        try:
            self._call("delete_subnet", subnet_id, SubnetId=subnet_id)
        except CallError as error:
            if error.failure.code != "InvalidSubnetID.NotFound":
                raise

    def vpc_cidrs(self, vpc_id: str) -> tuple[VpcCidr, ...]:
        """See FloatingEc2Port."""
        pages = self._pages("describe_vpcs", "Vpcs", vpc_id, Filters=filters("vpc-id", [vpc_id]))
        found = self._read(pages, lambda item: tuple(_vpc_cidrs(item)), "describe_vpcs", vpc_id)
        return tuple(cidr for each in found for cidr in each)

    def associate_vpc_cidr(self, vpc_id: str, cidr: Network) -> None:
        """See FloatingEc2Port."""
        self._call("associate_vpc_cidr_block", f"{vpc_id},{cidr}", VpcId=vpc_id, CidrBlock=str(cidr))

    def subnet(self, subnet_id: str) -> Subnet | None:
        """See FloatingEc2Port. By filter: an id that is not there is an answer, not an error."""
        return next(iter(self._describe_subnets(filters("subnet-id", [subnet_id]), subnet_id)), None)

    def instance_state(self, instance_id: str) -> str:
        """See FloatingEc2Port."""
        try:
            answer = self._call("describe_instances", instance_id, InstanceIds=[instance_id])
        except CallError as error:
            if error.failure.code != "InvalidInstanceID.NotFound":
                raise
            return TERMINATED
        return understood("DescribeInstances", instance_id, lambda: _instance_state(answer))


def _instance_state(answer: Mapping[str, Any]) -> str:
    found = (item for reservation in answer.get("Reservations", ()) for item in reservation.get("Instances", ()))
    return next((str(item["State"]["Name"]) for item in found), TERMINATED)


def _vpc_cidrs(item: Mapping[str, Any]) -> Iterator[VpcCidr]:
    """The IPv4 CIDRs of a Vpc that are there or coming."""
    for link in item.get("CidrBlockAssociationSet", ()):
        state = link.get("CidrBlockState", {}).get("State", "associated")
        if state not in ("disassociating", "disassociated"):
            yield VpcCidr(ip_network(str(link["CidrBlock"])), state)


def _tagged(kind: str, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """A TagSpecifications parameter: tags that are there from the start, so that no crash leaves one without."""
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": kind, "Tags": listed}] if listed else []


def _literal(value: str) -> str:
    """A filter's value in which nothing is a wildcard (EC2 user guide, "Filter resources")."""
    return re.sub(r"[\\*?]", r"\\\g<0>", value)
