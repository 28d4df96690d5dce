"""Which Elastic IPs are to be bound to this pod's addresses, and when one is left to whoever took it over.

An Elastic IP follows its private address: it is bound once that is on our ENI, and never for an address that is
conceded. AssignPrivateIpAddresses takes along the Elastic IP of an address that it moves (EC2 API reference). Whether
it did is not asked: AssociateAddress is idempotent and takes one call as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from ipaddress import IPv4Address

from vipmanager.actions import AssociateEip, Need
from vipmanager.config import Config
from vipmanager.model import Address, Claim, ElasticIp, Observed, PlacementKind, Problem
from vipmanager.plan.draft import Draft
from vipmanager.plan.holdings import holdings
from vipmanager.plan.placement import Placement, containing
from vipmanager.plan.pod import Attachment, attachments


def plan_eips(
    claims: dict[Address, Claim],
    placements: Collection[Placement],
    observed: Observed,
    config: Config,
    draft: Draft,
) -> dict[Address, Claim]:
    """Adds what binds the wanted Elastic IPs to the draft; returns the claims with those noted that are bound."""
    if not config.eips:
        return claims
    draft.problems.extend(_misplaced(placements, observed, config))
    indexes = {eni.id: eni.device_index for eni in observed.enis.values()}
    updated = dict(claims)
    for address in sorted(address for address in claims if isinstance(address, IPv4Address)):
        claim = claims[address]
        index = indexes.get(claim.eni_id, 0)
        allocation_id = config.eips.get(index, {}).get(address)
        active = claim.vanished is None and not claim.conceded_to
        if allocation_id is None or not active or claim.kind is not PlacementKind.ENI_ADDRESS:
            continue
        if allocation_id not in observed.eips:
            draft.needs.add(Need.EIPS)
            continue
        eip = observed.eips[allocation_id]
        if eip is None:
            draft.problems.append(_unknown(index, address, allocation_id))
        elif _arrived(claim, observed):
            updated[address] = _pursue(claim, address, eip, index, observed, draft)
    return updated


def _arrived(claim: Claim, observed: Observed) -> bool:
    """Whether the private address is on our ENI, as seen since the claim began; a primary one always is."""
    state = observed.states.get(claim.eni_id)
    if state is None:
        return False
    return claim.address in state.primary or holdings(claim, observed)[claim.eni_id].ours_since(claim.since)


def _pursue(claim: Claim, address: IPv4Address, eip: ElasticIp, index: int, observed: Observed, draft: Draft) -> Claim:
    """Bind it, unless it is bound already, or was ours and another live ENI has it since: "Claims do not flap".

    That it is bound is believed the first time only if it was seen no earlier than the address on our ENI: before, the
    describes contradict each other.
    """
    known = eip.allocation_id in claim.held
    if (eip.eni_id, eip.address) == (claim.eni_id, address):
        if known or eip.seen >= max(claim.since, holdings(claim, observed)[claim.eni_id].seen):
            return replace(claim, held={**claim.held, eip.allocation_id: eip.seen})
    elif known and eip.eni_id and eip.live:
        draft.problems.append(
            Problem(
                f"Intf{index}EIPs",
                f"{eip.allocation_id} ({eip.public_ip}) of {address} was taken over by {eip.address} of {eip.eni_id} "
                f"and is left there, until it is bound to nothing live or {address} comes to the pod anew",
                fatal=False,
            )
        )
        return claim
    draft.actions.append(AssociateEip(eip.allocation_id, claim.eni_id, address))
    return claim


def _unknown(index: int, address: IPv4Address, allocation_id: str) -> Problem:
    return Problem(
        f"Intf{index}EIPs",
        f"{address}={allocation_id}: this account has no such Elastic IP in this region; correct the allocation id "
        "(aws ec2 describe-addresses lists them)",
    )


def _misplaced(placements: Collection[Placement], observed: Observed, config: Config) -> Iterator[Problem]:
    """Addresses on the pod that an `IntfNEIPs` names, and that no Elastic IP can be bound to."""
    placed = {placement.address: placement for placement in placements}
    for attachment in attachments(observed):
        for address in attachment.interface.addresses if attachment.interface.up else ():
            named = [index for index in sorted(config.eips) if address in config.eips[index]]
            if attachment.eni.device_index in named:
                yield from _not_of_eni(attachment, address, placed.get(address), config)
            elif named:
                yield _elsewhere(attachment, address, named[0])


def _elsewhere(attachment: Attachment, address: Address, named: int) -> Problem:
    index = attachment.eni.device_index
    return Problem(
        f"Intf{named}EIPs",
        f"{address} is on {attachment.interface.name}, whose ENI has device index {index}, so it gets no Elastic IP; "
        f"name it in Intf{index}EIPs",
        fatal=False,
    )


def _not_of_eni(
    attachment: Attachment, address: Address, placement: Placement | None, config: Config
) -> Iterator[Problem]:
    """An address without placement has a problem of its own, unless it is left alone because the settings say so."""
    eni = attachment.eni
    own = containing(address, eni.subnet_cidrs)
    if placement is not None and placement.eni.id == eni.id and placement.kind is not PlacementKind.ENI_ADDRESS:
        why = f"its placement is {placement.kind.value}; an Elastic IP is bound to an address in the ENI's own subnet"
        why += f" ({', '.join(str(cidr) for cidr in eni.subnet_cidrs if cidr.version == 4)})"
    elif placement is None and own is not None and config.assign is False:
        why = 'AssignIPs: "False" leaves it alone; an Elastic IP is bound to an address that is assigned to the ENI'
    else:
        return
    yield Problem(f"Intf{eni.device_index}EIPs", f"{address} on {attachment.interface.name} gets none, because {why}")
