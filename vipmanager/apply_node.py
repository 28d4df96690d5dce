"""The nodeport mode's actions, carried out: on the node, and in EC2."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from vipmanager.actions import VpcAction
from vipmanager.actions_node import (
    AssociateVpcCidr,
    AttachEni,
    BringUp,
    CloudAction,
    CreateEni,
    CreateSubnet,
    DeleteEni,
    DeleteMarks,
    DeleteSubnet,
    DetachEni,
    EniAction,
    HostAction,
    PutAddress,
    RemoveAddress,
    SetMarks,
)
from vipmanager.apply import Key, RetryBook, apply_pod, apply_vpc
from vipmanager.ports import FloatingEc2Port, HostPort

STUBBORN = 20
"""Attempts (about two minutes) after which a call to EC2 that fails for a passing reason tells of the node.
Throttling and outages meet every node: to hand over because of them would make things worse, and not only once."""

EC2_WRITES = frozenset(("route", "address", "check", "eip", "eni", "subnet"))
OF_EC2 = EC2_WRITES | {"fact"}
"""What the keys of calls to EC2 begin with."""


def telling(retries: RetryBook, keys: Collection[Key]) -> str:
    """The first failure among some items that says something of this node's fitness; empty when there is none."""
    failed = ((key, retry) for key, retry in sorted(retries.standing().items()) if key in keys)
    count = (retry for key, retry in failed if retry.standing or retry.attempts >= STUBBORN or key[0] not in OF_EC2)
    return next((str(retry.failure) for retry in count), "")


@dataclass(frozen=True)
class Batch:
    """One call to EC2, and when the tenure began in which it was made."""

    actions: tuple[CloudAction, ...]
    began: float


def apply_host(host: HostPort, action: HostAction, lifetime: int, by: float) -> None:
    """One change of the node; `lifetime` and `by` are those of put_address. Raises CallError."""
    if isinstance(action, PutAddress):
        host.put_address(action.device, action.address, lifetime, by)
    elif isinstance(action, RemoveAddress):
        host.remove_address(action.device, action.address)
    elif isinstance(action, BringUp):
        host.bring_up(action.device)
    elif isinstance(action, SetMarks):
        host.set_marks(action.table, action.marks)
    elif isinstance(action, DeleteMarks):
        host.delete_marks(action.table)
    else:
        apply_pod(host, action)


def apply_cloud(ec2: FloatingEc2Port, batch: Sequence[CloudAction], token: str) -> None:
    """One call to EC2; a batch of more than one holds actions that go in one. Raises CallError."""
    first = batch[0]
    if isinstance(first, EniAction):
        _apply_eni(ec2, first, token)
    else:
        apply_vpc(ec2, cast(Sequence[VpcAction], batch))


def carry_out(ec2: FloatingEc2Port, action: CloudAction) -> None:
    """One change alone, for whoever wants to know what it would send. Raises CallError."""
    apply_cloud(ec2, (action,), "dry-run")  # a ClientToken says nothing where nothing is made


def _apply_eni(ec2: FloatingEc2Port, action: EniAction, token: str) -> None:
    if isinstance(action, CreateEni):
        ec2.create_eni(action.subnet_id, action.addresses, action.groups, action.tags, action.description, token)
    elif isinstance(action, AttachEni):
        ec2.attach_eni(action.eni_id, action.instance_id, action.device_index)
    elif isinstance(action, DetachEni):
        ec2.detach_eni(action.attachment_id, force=action.force)
    elif isinstance(action, DeleteEni):
        ec2.delete_eni(action.eni_id)
    elif isinstance(action, CreateSubnet):
        ec2.create_subnet(action.vpc_id, action.cidr, action.zone, action.tags)
    elif isinstance(action, DeleteSubnet):
        ec2.delete_subnet(action.subnet_id)
    elif isinstance(action, AssociateVpcCidr):
        ec2.associate_vpc_cidr(action.vpc_id, action.cidr)
