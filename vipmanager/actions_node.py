"""What the nodeport mode does besides: addresses of the node, and ENIs and subnets that follow the holder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vipmanager.actions import Change, PodAction, VpcAction
from vipmanager.model import Address, Network
from vipmanager.model_node import FLOATING_TAG, NO_MANAGE_TAG, Mark


@dataclass(frozen=True)
class PutAddress(Change):
    """Have a floating address on an interface of the node."""

    device: int
    interface: str
    address: Address

    @property
    def key(self) -> tuple[str, ...]:
        return ("host-address", str(self.device), str(self.address))

    def __str__(self) -> str:
        return f"put address={self.address} interface={self.interface}"


@dataclass(frozen=True)
class RemoveAddress(Change):
    """Take a floating address off an interface of the node."""

    device: int
    interface: str
    address: Address

    @property
    def key(self) -> tuple[str, ...]:
        return ("host-address", str(self.device), str(self.address))

    def __str__(self) -> str:
        return f"remove address={self.address} interface={self.interface}"


@dataclass(frozen=True)
class BringUp(Change):
    """Set the interface of the floating ENI up."""

    device: int
    interface: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("host-link", str(self.device))

    def __str__(self) -> str:
        return f"bring up interface={self.interface}"


@dataclass(frozen=True)
class SetMarks(Change):
    """Have these marks, and no others, in our nftables table."""

    table: str
    marks: frozenset[Mark]

    @property
    def key(self) -> tuple[str, ...]:
        return ("marks", self.table)

    def __str__(self) -> str:
        return f"set marks table={self.table} marks={', '.join(sorted(map(str, self.marks)))}"


@dataclass(frozen=True)
class DeleteMarks(Change):
    """Delete our nftables table."""

    table: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("marks", self.table)

    def __str__(self) -> str:
        return f"delete marks table={self.table}"


@dataclass(frozen=True)
class CreateEni(Change):
    """Make the floating ENI."""

    subnet_id: str
    addresses: tuple[Address, ...]
    groups: tuple[str, ...]
    floating: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("eni", self.floating)

    @property
    def tags(self) -> Mapping[str, str]:
        """What it is made with, so that no crash leaves it without."""
        return {"Name": f"vipmanager {self.floating}", FLOATING_TAG: self.floating, NO_MANAGE_TAG: "true"}

    @property
    def description(self) -> str:
        """Its description in EC2."""
        return f"vipmanager: {self.floating}"

    def __str__(self) -> str:
        return f"create eni subnet={self.subnet_id} addresses={','.join(map(str, self.addresses)) or 'any'}"


@dataclass(frozen=True)
class AttachEni(Change):
    """Attach the floating ENI to this node."""

    eni_id: str
    instance_id: str
    device_index: int

    @property
    def key(self) -> tuple[str, ...]:
        return ("eni", self.eni_id)

    def __str__(self) -> str:
        return f"attach eni={self.eni_id} instance={self.instance_id} index={self.device_index}"


@dataclass(frozen=True)
class DetachEni(Change):
    """Detach the floating ENI from the node that had it; forced where that does not let go."""

    eni_id: str
    attachment_id: str
    instance_id: str
    force: bool

    @property
    def key(self) -> tuple[str, ...]:
        return ("eni", self.eni_id)

    def __str__(self) -> str:
        return f"detach eni={self.eni_id} instance={self.instance_id} force={self.force}"


@dataclass(frozen=True)
class DeleteEni(Change):
    """Delete the floating ENI, because it is in another Availability Zone."""

    eni_id: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("eni", self.eni_id)

    def __str__(self) -> str:
        return f"delete eni={self.eni_id}"


@dataclass(frozen=True)
class CreateSubnet(Change):
    """Make the floating subnet in this node's Availability Zone."""

    vpc_id: str
    cidr: Network
    zone: str
    floating: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("subnet", str(self.cidr))

    @property
    def tags(self) -> Mapping[str, str]:
        """What it is made with."""
        return {"Name": f"vipmanager {self.floating}", FLOATING_TAG: self.floating}

    def __str__(self) -> str:
        return f"create subnet cidr={self.cidr} zone={self.zone}"


@dataclass(frozen=True)
class DeleteSubnet(Change):
    """Delete the floating subnet, because it is in another Availability Zone."""

    subnet_id: str
    cidr: Network

    @property
    def key(self) -> tuple[str, ...]:
        return ("subnet", str(self.cidr))

    def __str__(self) -> str:
        return f"delete subnet={self.subnet_id} cidr={self.cidr}"


@dataclass(frozen=True)
class AssociateVpcCidr(Change):
    """Add the floating subnet's CIDR to the VPC."""

    vpc_id: str
    cidr: Network

    @property
    def key(self) -> tuple[str, ...]:
        return ("subnet", str(self.cidr))

    def __str__(self) -> str:
        return f"associate cidr={self.cidr} vpc={self.vpc_id}"


HostAction = PutAddress | RemoveAddress | BringUp | SetMarks | DeleteMarks | PodAction
EniAction = CreateEni | AttachEni | DetachEni | DeleteEni | CreateSubnet | DeleteSubnet | AssociateVpcCidr
CloudAction = VpcAction | EniAction
NodeAction = HostAction | CloudAction
