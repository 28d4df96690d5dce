"""Which questions tell whether EC2 would let a mode do what it does: about what, and where there is none, why. Pure.

They are about the very resources that a run would change, because a policy may allow some and not others: that of
`vipmanager iam-policy` allows the modes `eni` and `subnet` only what carries the floating tag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from typing import NamedTuple

from vipmanager.actions import AssociateEip, DeleteRoute, DisableSourceDestCheck, SetRoute
from vipmanager.actions_node import AttachEni, CloudAction, CreateEni, CreateSubnet, DeleteEni, DeleteSubnet, DetachEni
from vipmanager.config import Config
from vipmanager.floating import FloatingMode
from vipmanager.model import Attachment, Eni, EniDescription, Network, RouteTable, Subnet
from vipmanager.model_node import FLOATING_TAG
from vipmanager.plan.placement import containing, host_network

TEST_ADDRESS = IPv4Address("192.0.2.1")
"""For documentation (RFC 5737): nothing is routed or bound, DryRun asks whether it might be."""
TEST_CIDR = ip_network("192.0.2.0/28")

NO_DRY_RUN = "EC2 takes no DryRun for it"


class Assigning(NamedTuple):
    """Whether addresses of a family may be assigned to an ENI or taken from it; `cidrs` are its subnet's."""

    eni_id: str
    cidrs: tuple[Network, ...]
    version: int
    release: bool


class Question(NamedTuple):
    """What is asked of EC2, and about which resource."""

    on: str
    what: CloudAction | Assigning


Questions = Sequence[Question] | str
"""What is asked about an operation; a text says why nothing is."""


@dataclass(frozen=True)
class Ground:
    """What the questions are about. `enis` are those behind the interfaces; None is what could not be read.

    `tables` are those that the settings select, `floating` the ENIs that carry the floating tag.
    """

    config: Config
    mode: str
    enis: Sequence[Eni]
    described: Sequence[EniDescription] | None
    tables: Sequence[RouteTable] | None
    subnets: Sequence[Subnet] | None
    floating: Sequence[EniDescription] | None = ()

    @property
    def moves_eni(self) -> bool:
        """Whether what is changed is the floating ENI, and none of the node's own."""
        return self.mode == "nodeport" and self.config.floating_mode.moves_eni

    @property
    def own(self) -> EniDescription | None:
        """The first of the worker's ENIs, for the instance, the zone and the security groups."""
        known = {each.id: each for each in self.described or ()}
        ordered = sorted(self.enis, key=lambda eni: eni.device_index)
        return next((known[eni.id] for eni in ordered if eni.id in known), None)

    @property
    def instance(self) -> str:
        """The worker; empty where it is not known."""
        return self.own.attachment.instance_id if self.own and self.own.attachment else ""


class Target(NamedTuple):
    """An ENI that a run may change. `cidrs` is None where its subnet could not be read."""

    id: str
    cidrs: tuple[Network, ...] | None
    attachment: Attachment | None = None


def questions(operation: str, ground: Ground) -> Questions:
    """What is asked about an operation other than a describe."""
    makers: Mapping[str, Callable[[Ground], Questions]] = {
        "AssignIpv6Addresses": lambda ground: _assigning(ground, 6, release=False),
        "AssignPrivateIpAddresses": lambda ground: _assigning(ground, 4, release=False),
        "AssociateAddress": _binding,
        "AttachNetworkInterface": _attaching,
        "CreateNetworkInterface": _making,
        "CreateRoute": lambda ground: _routing(ground, lambda table, eni: SetRoute(table, TO, eni, "", TEST_ADDRESS)),
        "CreateSubnet": _making_subnet,
        "DeleteNetworkInterface": lambda ground: _each(ground, DeleteEni),
        "DeleteRoute": lambda ground: _routing(ground, lambda table, eni: DeleteRoute(table, TO, eni, TEST_ADDRESS)),
        "DeleteSubnet": _deleting_subnet,
        "DetachNetworkInterface": _detaching,
        "ModifyNetworkInterfaceAttribute": lambda ground: _each(ground, DisableSourceDestCheck),
        "ReplaceRoute": lambda ground: _routing(ground, lambda table, eni: SetRoute(table, TO, eni, eni, TEST_ADDRESS)),
        "UnassignIpv6Addresses": lambda ground: _assigning(ground, 6, release=True),
        "UnassignPrivateIpAddresses": lambda ground: _assigning(ground, 4, release=True),
    }
    maker = makers.get(operation)
    return maker(ground) if maker else NO_DRY_RUN


TO = host_network(TEST_ADDRESS)


def _targets(ground: Ground) -> Sequence[Target] | str:
    """The ENIs that a run may change; why there are none."""
    if not ground.moves_eni:
        return [Target(eni.id, eni.subnet_cidrs) for eni in _own_targets(ground)]
    if ground.floating is None:
        return unread("DescribeNetworkInterfaces")
    cidrs = {subnet.id: subnet.cidrs for subnet in ground.subnets or ()}
    found = [Target(eni.id, cidrs.get(eni.subnet_id), eni.attachment) for eni in ground.floating]
    return found or _untagged(ground, "network interface")


def _own_targets(ground: Ground) -> Sequence[Eni]:
    """All of a pod's; of a node those in whose subnets the addresses lie, or where these are routed, its first."""
    if ground.mode != "nodeport":
        return ground.enis
    floating = ground.config.floating.addresses
    by_subnet = ground.config.floating_mode is FloatingMode.ADDRESS
    holding = [e for e in ground.enis if by_subnet and any(containing(a, e.subnet_cidrs) for a in floating)]
    return holding or sorted(ground.enis, key=lambda eni: eni.device_index)[:1]


def unread(operation: str) -> str:
    """Why nothing is asked, where a describe fails."""
    return f"what it would be asked about is not known, because {operation} fails"


def _untagged(ground: Ground, kind: str) -> str:
    return f"no {kind} carries the tag {FLOATING_TAG}={ground.config.floating} yet"


def _each(ground: Ground, make: Callable[[str], CloudAction]) -> Questions:
    targets = _targets(ground)
    return targets if isinstance(targets, str) else [Question(each.id, make(each.id)) for each in targets]


def _assigning(ground: Ground, version: int, *, release: bool) -> Questions:
    targets = _targets(ground)
    if isinstance(targets, str):
        return targets
    known = [(each.id, each.cidrs) for each in targets if each.cidrs is not None]
    asked = [Question(eni_id, Assigning(eni_id, cidrs, version, release)) for eni_id, cidrs in known]
    return asked or unread("DescribeSubnets")


def _routing(ground: Ground, make: Callable[[str, str], CloudAction]) -> Questions:
    if ground.tables is None:
        return unread("DescribeRouteTables")
    eni = _own_targets(ground)[0].id
    asked = [Question(table.id, make(table.id, eni)) for table in ground.tables]
    return asked or f"VPCRTTag={ground.config.route_tables} selects no route table"


def _binding(ground: Ground) -> Questions:
    """Each Elastic IP, where it would be bound to; IAM asks about both."""
    if ground.mode == "nodeport":
        targets = _targets(ground)
        if isinstance(targets, str):
            return targets
        eips = ground.config.floating.eips
        return [Question(eip, AssociateEip(eip, each.id, TEST_ADDRESS)) for eip in eips for each in targets]
    asked = [
        Question(eip, AssociateEip(eip, eni.id, address))
        for eni in ground.enis
        for address, eip in ground.config.eips.get(eni.device_index, {}).items()
    ]
    return asked or "no interface of this pod is on an ENI that the settings bind one to"


def _attaching(ground: Ground) -> Questions:
    if not ground.instance:
        return unread("DescribeNetworkInterfaces")
    return _each(ground, lambda eni_id: AttachEni(eni_id, ground.instance, 1))


def _detaching(ground: Ground) -> Questions:
    targets = _targets(ground)
    if isinstance(targets, str):
        return targets
    attached = [(each.id, each.attachment) for each in targets if each.attachment is not None]
    asked = [Question(eni_id, DetachEni(eni_id, at.id, at.instance_id, False)) for eni_id, at in attached]
    return asked or "the floating ENI is attached nowhere"


def _making(ground: Ground) -> Questions:
    own, config = ground.own, ground.config
    if own is None:
        return unread("DescribeNetworkInterfaces")
    subnets = [own.subnet_id]
    if config.floating_mode is FloatingMode.SUBNET:
        tagged = _tagged_subnets(ground)
        if isinstance(tagged, str):
            return tagged
        subnets = [subnet.id for subnet in tagged]
    return [Question(name, CreateEni(name, (), own.groups, str(config.floating))) for name in subnets]


def _tagged_subnets(ground: Ground) -> Sequence[Subnet] | str:
    if ground.subnets is None:
        return unread("DescribeSubnets")
    wanted = str(ground.config.floating)
    found = [subnet for subnet in ground.subnets if subnet.tags.get(FLOATING_TAG) == wanted]
    return found or _untagged(ground, "subnet")


def _making_subnet(ground: Ground) -> Questions:
    own, config = ground.own, ground.config
    if own is None:
        return unread("DescribeNetworkInterfaces")
    cidr = config.floating_subnet or TEST_CIDR
    return [Question(own.vpc_id, CreateSubnet(own.vpc_id, cidr, own.zone, str(config.floating)))]


def _deleting_subnet(ground: Ground) -> Questions:
    tagged = _tagged_subnets(ground)
    if isinstance(tagged, str):
        return tagged
    cidr = ground.config.floating_subnet or TEST_CIDR
    return [Question(subnet.id, DeleteSubnet(subnet.id, cidr)) for subnet in tagged]
