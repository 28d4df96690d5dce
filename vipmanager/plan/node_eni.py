"""An ENI of its own for what floats, in a fixed subnet (`eni`) or in one that follows the holder (`subnet`).

Each round looks at what EC2 shows and takes the next step from there, so whoever holds the lease can go on from
wherever the last holder stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from vipmanager.actions import AssignAddress, DisableSourceDestCheck
from vipmanager.actions_node import (
    AssociateVpcCidr,
    AttachEni,
    BringUp,
    CreateEni,
    CreateSubnet,
    DeleteEni,
    DeleteSubnet,
    DetachEni,
)
from vipmanager.config import Config
from vipmanager.floating import FloatingMode
from vipmanager.model import Address, Attachment, EniDescription, Problem, Subnet
from vipmanager.model_node import FLOATING_TAG, NodeObserved
from vipmanager.plan.node_draft import Draft, NodeNeed, Target, interface_of
from vipmanager.plan.placement import containing

PATIENCE = 10.0
"""Seconds for which an ENI may be detaching before it is detached by force. EC2 advises force as a last resort, where
an instance has failed or does not let go (DetachNetworkInterface, API reference)."""

GONE = frozenset(("shutting-down", "terminated", "stopping", "stopped"))


def pursue_eni(observed: NodeObserved, config: Config, draft: Draft) -> dict[Address, Target] | None:
    """The next step towards a floating ENI on this node; the addresses and their target once it is attached."""
    item = config.floating
    me = _self(observed, draft, item)
    if observed.floating is None or observed.floating.seen < draft.began:
        draft.need(item, NodeNeed.FLOATING)
    if observed.subnets is None or (
        config.floating_mode is FloatingMode.SUBNET and observed.subnets_seen < draft.began
    ):
        draft.need(item, NodeNeed.SUBNETS)
    if me is None or draft.needs & {NodeNeed.FLOATING, NodeNeed.SUBNETS}:
        return None
    assert observed.floating is not None
    assert observed.subnets is not None
    eni = _one(observed.floating.enis, me, config, draft)
    home = _home(me, eni, observed, observed.subnets, config, draft)
    if home is None:
        return None
    if eni is None:
        addresses = config.floating.addresses
        draft.act(item, CreateEni(home.id, addresses, me.groups, str(item)))
        return None
    attachment = _attach(eni, me, observed, config, draft)
    if attachment is None:
        return None
    target = Target(eni.id, eni.mac, attachment.device_index, home.cidrs)
    _finish(eni, target, observed, config, draft)
    named = config.floating.addresses or tuple(address for address in eni.primary if address.version == 4)
    return dict.fromkeys(named, target)


def _self(observed: NodeObserved, draft: Draft, item: object) -> EniDescription | None:
    """The node's primary ENI, for the instance, its zone and its security groups."""
    primary = observed.primary
    me = observed.own.get(primary.id) if primary else None
    if me is None or me.attachment is None or observed.own_seen < draft.began:
        draft.need(item, NodeNeed.OWN)
        return None
    return me


def _one(found: Sequence[EniDescription], me: EniDescription, config: Config, draft: Draft) -> EniDescription | None:
    """The floating ENI; should there be several, the one that is nearest, and a word on it."""
    ordered = sorted(found, key=lambda eni: (not _is_here(eni, me), eni.attachment is None, eni.id))
    if len(ordered) > 1:
        others = ", ".join(eni.id for eni in ordered[1:])
        draft.problems.append(_spare(config, ordered[0].id, others))
    return ordered[0] if ordered else None


def _spare(config: Config, kept: str, others: str) -> Problem:
    return Problem(
        str(config.floating),
        f"{others} carries the tag {FLOATING_TAG} too and is not used, {kept} is; delete what is left over",
        fatal=False,
    )


def _is_here(eni: EniDescription, me: EniDescription) -> bool:
    return bool(eni.attachment and me.attachment and eni.attachment.instance_id == me.attachment.instance_id)


def _home(
    me: EniDescription,
    eni: EniDescription | None,
    observed: NodeObserved,
    subnets: Sequence[Subnet],
    config: Config,
    draft: Draft,
) -> Subnet | None:
    """The subnet of the floating ENI, in this node's Availability Zone; None while it has to be made, or cannot be."""
    if config.floating_mode is FloatingMode.SUBNET:
        return _floating_subnet(me, eni, observed, subnets, config, draft)
    home = _fixed_subnet(me, eni, subnets, config, draft)
    if home is not None and home.zone != me.zone:
        draft.problem(
            config.floating,
            f"lies in {home.id} in {home.zone}, but this node is in {me.zone}, and an ENI stays in its zone; run the "
            'pods on nodes of that zone, or set FloatingMode to "subnet"',
        )
        return None
    return home


def _fixed_subnet(
    me: EniDescription, eni: EniDescription | None, subnets: Sequence[Subnet], config: Config, draft: Draft
) -> Subnet | None:
    """Mode `eni`: the subnet that holds the addresses; where Elastic IPs alone float, the node's own."""
    by_id = {subnet.id: subnet for subnet in subnets}
    if not config.floating.addresses:
        return by_id.get(eni.subnet_id if eni else me.subnet_id)
    homes = {address: _holding(address, subnets) for address in config.floating.addresses}
    first = homes[config.floating.addresses[0]]
    for address, home in homes.items():
        if home is None:
            draft.problem(address, "lies in no subnet of the VPC; choose an address of a subnet in the nodes' zone")
        elif first is not None and home.id != first.id:
            draft.problem(
                address, f"lies in {home.id}, the first floating address in {first.id}; one ENI has one subnet"
            )
    return (
        first
        if all(home is not None and first is not None and home.id == first.id for home in homes.values())
        else None
    )


def _holding(address: Address, subnets: Sequence[Subnet]) -> Subnet | None:
    return next((subnet for subnet in subnets if containing(address, subnet.cidrs)), None)


# the subnet that follows the holder


def _floating_subnet(
    me: EniDescription,
    eni: EniDescription | None,
    observed: NodeObserved,
    subnets: Sequence[Subnet],
    config: Config,
    draft: Draft,
) -> Subnet | None:
    cidr = config.floating_subnet
    assert cidr is not None
    item = config.floating
    there = next((subnet for subnet in subnets if cidr in subnet.cidrs), None)
    if there is None:
        _make_subnet(cidr, me, observed, subnets, config, draft)
    elif there.tags.get(FLOATING_TAG) != str(item):
        draft.problem(
            item,
            f"FloatingSubnetCidr {cidr} is {there.id}, which is not ours (no tag {FLOATING_TAG}={item}); choose a CIDR "
            "that is in no other subnet, or delete that one",
        )
    elif there.zone == me.zone:
        return there
    elif eni is None:
        draft.act(item, DeleteSubnet(there.id, cidr))
    elif eni.attachment is None:
        draft.act(item, DeleteEni(eni.id))
    else:
        _detach(eni, eni.attachment, observed, config, draft)
    return None


def _make_subnet(
    cidr: IPv4Network,
    me: EniDescription,
    observed: NodeObserved,
    subnets: Sequence[Subnet],
    config: Config,
    draft: Draft,
) -> None:
    item = config.floating
    over = [subnet for subnet in subnets if any(c.version == 4 and c.overlaps(cidr) for c in subnet.cidrs)]
    if over:
        named = ", ".join(f"{subnet.id} ({', '.join(map(str, subnet.cidrs))})" for subnet in over)
        draft.problem(item, f"FloatingSubnetCidr {cidr} overlaps {named}; choose a CIDR that is in no other subnet")
        return
    if observed.vpc_cidrs is None or observed.vpc_cidrs_seen < draft.began:
        draft.need(item, NodeNeed.VPC_CIDRS)
        return
    around = [each for each in observed.vpc_cidrs if isinstance(each.cidr, IPv4Network) and cidr.subnet_of(each.cidr)]
    if any(each.state == "associated" for each in around):
        draft.act(item, CreateSubnet(me.vpc_id, cidr, me.zone, str(item)))
    elif any(each.state == "associating" for each in around):
        draft.wait(item, f"EC2 is adding {cidr} to the VPC")
        draft.poll.add(NodeNeed.VPC_CIDRS)
    elif any(each.cidr.overlaps(cidr) for each in observed.vpc_cidrs if each.cidr.version == 4):
        draft.problem(
            item, f"FloatingSubnetCidr {cidr} is only partly in the VPC's CIDRs; choose one inside or outside"
        )
    else:
        draft.act(item, AssociateVpcCidr(me.vpc_id, cidr))


# attaching and detaching


def _attach(
    eni: EniDescription, me: EniDescription, observed: NodeObserved, config: Config, draft: Draft
) -> Attachment | None:
    """Its attachment to this node, once it is attached."""
    item, attachment = config.floating, eni.attachment
    assert me.attachment is not None
    if attachment is None:
        # The ENI itself may be among the node's own already: the two facts are read one after the other.
        others = (own for own in observed.own.values() if own.id != eni.id)
        taken = {own.attachment.device_index for own in others if own.attachment}
        index = next(index for index in range(1, len(taken) + 2) if index not in taken)
        draft.act(item, AttachEni(eni.id, me.attachment.instance_id, index))
    elif not _is_here(eni, me):
        _detach(eni, attachment, observed, config, draft)
    elif attachment.status == "attached":
        return attachment
    else:
        draft.wait(item, f"{eni.id} is {attachment.status}")
        draft.poll.add(NodeNeed.FLOATING)
    return None


def _detach(eni: EniDescription, attachment: Attachment, observed: NodeObserved, config: Config, draft: Draft) -> None:
    """From the node that had it; by force only where that is not running or does not let go."""
    item, instance = config.floating, attachment.instance_id
    state, seen = observed.instances.get(instance, ("", float("-inf")))
    gone = seen >= draft.began and state in GONE
    draft.poll.add(NodeNeed.FLOATING)
    if seen < draft.began:
        draft.needs.add(NodeNeed.INSTANCES)
    if attachment.status in ("attached", "attaching"):
        draft.act(item, DetachEni(eni.id, attachment.id, instance, force=gone))
        return
    late = observed.at >= observed.detaching.get(attachment.id, observed.at) + PATIENCE
    if gone or late:
        draft.act(item, DetachEni(eni.id, attachment.id, instance, force=True))
    draft.wait(item, f"{eni.id} is {attachment.status} from {instance}")


def _finish(eni: EniDescription, target: Target, observed: NodeObserved, config: Config, draft: Draft) -> None:
    """What an attached floating ENI still lacks."""
    interface = interface_of(target, observed)
    if interface is None:
        draft.wait(config.floating, f"the kernel has no interface with {eni.mac}, the MAC of {eni.id}, yet")
    elif not interface.up:
        draft.act(config.floating, BringUp(interface.index, interface.name))
    for address in config.floating.addresses:
        if address not in eni.addresses:
            draft.act(address, AssignAddress(eni.id, address))
    if config.floating_mode is FloatingMode.SUBNET and eni.source_dest_check:
        draft.act(config.floating, DisableSourceDestCheck(eni.id))
