"""The nodeport mode's decisions: what a node that holds the lease does, and what one that does not takes away.

Whoever holds the lease is entitled to the floating addresses, so nothing is conceded here; but it believes only what
was observed since its tenure began: before that, somebody else may have been at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from vipmanager.actions import AssignAddress, AssociateEip, DisableSourceDestCheck, SetRoute, UnassignAddress
from vipmanager.actions_node import BringUp, PutAddress
from vipmanager.config import Config
from vipmanager.floating import FloatingMode
from vipmanager.model import Address, Eni, EniDescription, Problem
from vipmanager.model_node import FLOATING_TAG, NO_MANAGE_TAG, NodeObserved
from vipmanager.plan.node_draft import EVER, Draft, Item, NodeNeed, NodePlan, Target, interface_of
from vipmanager.plan.node_eni import pursue_eni
from vipmanager.plan.node_host import host_difference
from vipmanager.plan.placement import containing, host_network, reserved


def plan_node(observed: NodeObserved, config: Config, began: float | None) -> NodePlan:
    """What separates the node and EC2 from what they should be.

    `began` is when this node's tenure began, None while another node holds: then only what that takes is planned, that
    is removing floating addresses from interfaces, the facts to have ready, and the problems that would keep this node
    from holding. Until it is known which addresses are the node's own for good, none is touched: a slip of the pen in
    FLOATING_IP must not cost a node its network.
    """
    draft = Draft(EVER if began is None else began)
    targets = None
    if observed.own:
        targets = _targets(observed, config, draft)
    else:
        draft.need(config.floating, NodeNeed.OWN)
    if targets is not None:
        _pursue(targets, observed, config, draft)
        _check_marks(targets, observed, draft)
    names = floating_addresses(observed, config)
    if began is None:
        return NodePlan(
            tuple(host_difference({}, observed, names, config.floating)),
            tuple(draft.problems),
            frozenset(draft.needs - {NodeNeed.INSTANCES}),
            items=_items(draft, {}, observed, config),
        )
    # Where the targets are not known for a moment, what is on the interfaces stays: it is ours to hold.
    host = [] if targets is None else host_difference(targets, observed, names, config.floating)
    for action in host:
        if isinstance(action, PutAddress):
            draft.wait(action.address, str(action))
    up = [action for action in draft.actions if isinstance(action, BringUp)]  # what is down takes no route
    once = dict.fromkeys(draft.actions)  # two routed addresses ask for one source/dest check
    rest = sorted((action for action in once if action not in up), key=lambda action: action.key)
    return NodePlan(
        (*up, *host, *rest),
        tuple(draft.problems),
        frozenset(draft.needs),
        _in_place(targets, observed, names),
        _items(draft, targets or {}, observed, config),
        frozenset(draft.poll),
    )


def _in_place(
    targets: Mapping[Address, Target] | None, observed: NodeObserved, names: frozenset[Address]
) -> tuple[tuple[int, Address], ...]:
    """The addresses that are on the interface where they belong, as (interface index, address)."""
    if targets is None:
        return tuple(
            (each.index, address) for each in observed.interfaces for address in each.addresses if address in names
        )
    return tuple(
        (interface.index, address)
        for address, target in targets.items()
        if (interface := interface_of(target, observed)) is not None and address in interface.addresses
    )


def floating_addresses(observed: NodeObserved, config: Config) -> frozenset[Address]:
    """Every address that only the holder may have on an interface.

    Those of FLOATING_IP, but for primary addresses of the node, which never leave it; where it names Elastic IPs alone
    and they have an ENI of their own, that ENI's address. None until the node's ENIs are known.
    """
    if not observed.own:
        return frozenset()
    if config.floating.addresses or not config.floating_mode.moves_eni:
        return frozenset(config.floating.addresses) - frozenset(_primaries(observed))
    found = observed.floating.enis if observed.floating else ()
    return frozenset(address for eni in found for address in eni.primary if address.version == 4)


def _primaries(observed: NodeObserved) -> Mapping[Address, str]:
    """The primary addresses of the node's ENIs, the floating one left out, and whose each is."""
    fixed = (eni for eni in observed.own.values() if FLOATING_TAG not in eni.tags)
    return {address: eni.id for eni in fixed for address in eni.primary}


def _targets(observed: NodeObserved, config: Config, draft: Draft) -> dict[Address, Target] | None:
    """Which ENI of this node delivers each floating address; None while it is not known."""
    if not observed.enis:
        draft.wait(config.floating, "looking for this node's ENIs")
        return None
    if config.floating_mode.moves_eni:
        return pursue_eni(observed, config, draft)
    choose = _by_subnet if config.floating_mode is FloatingMode.ADDRESS else _by_route
    targets: dict[Address, Target] = {}
    primaries = _primaries(observed)
    for address in config.floating.addresses:
        if address in primaries:
            whose = primaries[address]
            draft.problem(address, f"is the primary address of {whose}, which never leaves it; choose another to float")
            continue
        eni = choose(address, observed, draft)
        if eni is None:
            continue
        target = Target(eni.id, eni.mac, eni.device_index, eni.subnet_cidrs)
        targets[address] = target
        if interface_of(target, observed) is None:
            draft.problem(address, f"no interface of this node has {eni.mac}, the MAC of {eni.id}; is it in a pod?")
    return targets


def _by_subnet(address: Address, observed: NodeObserved, draft: Draft) -> Eni | None:
    """An ENI whose subnet has the address: before others one that the VPC CNI leaves alone, where that is known."""
    enis = sorted(observed.enis.values(), key=lambda eni: eni.device_index)
    around = ((eni, containing(address, eni.subnet_cidrs)) for eni in enis)
    fitting = [(eni, cidr) for eni, cidr in around if cidr is not None]
    if fitting:
        eni, cidr = min(fitting, key=lambda each: not _unmanaged(each[0].device_index, observed.own.get(each[0].id)))
        if reserved(address, cidr):
            draft.problem(
                address, f"is reserved by AWS in {cidr} ({eni.subnet_id}): the first four and the last address"
            )
            return None
        return eni
    seen = "; ".join(f"{eni.id} in {eni.subnet_id}: {', '.join(map(str, eni.subnet_cidrs))}" for eni in enis)
    draft.problem(
        address,
        f"lies in no subnet of this node's ENIs ({seen}); choose an address of one of these subnets, run the pods on "
        'nodes that have an ENI in its subnet, or set FloatingMode to "route" or "subnet"',
    )
    return None


def _unmanaged(device_index: int, own: EniDescription | None) -> bool:
    """Whether the VPC CNI leaves an ENI alone for certain; the primary one it manages whatever its tags say."""
    return device_index > 0 and own is not None and own.tags.get(NO_MANAGE_TAG) == "true"


def _check_manager(address: Address, target: Target, own: EniDescription, draft: Draft) -> None:
    """The VPC CNI takes the secondary IPv4 addresses of the ENIs that it manages for its own."""
    if address.version == 4 and not _unmanaged(target.device_index, own):
        what = "is the primary ENI" if target.device_index == 0 else f"has no tag {NO_MANAGE_TAG}=true"
        text = (
            f"the VPC CNI, where it is used, may give this address to a pod, because {own.id} {what} "
            f"(amazon-vpc-cni-k8s issue 1466); use another ENI, with the tag {NO_MANAGE_TAG}=true, or set "
            'FloatingMode to "eni"'
        )
        draft.problems.append(Problem(str(address), text, fatal=False))


def _check_marks(targets: Mapping[Address, Target], observed: NodeObserved, draft: Draft) -> None:
    """Without marks only what answers on the node itself, from the floating address, is routed to its ENI."""
    aside = {target.eni_id for target in targets.values() if target.table}
    for eni_id in sorted(aside) if observed.marks is None else ():
        text = (
            f"replies of NodePorts do not leave by it but by the primary ENI, whose source/dest check drops them: "
            f"{observed.no_marks}"
        )
        draft.problems.append(Problem(eni_id, text, fatal=False))


def _by_route(address: Address, observed: NodeObserved, draft: Draft) -> Eni | None:
    eni = observed.primary
    if eni is None:
        draft.problem(address, "the node's primary ENI is not known; let the pod reach IMDS (hop limit 2)")
        return None
    cidr = containing(address, eni.vpc_cidrs)
    if cidr is not None:
        draft.problem(
            address,
            f"lies in the VPC's {cidr}, where EC2 routes whole subnets only; choose an address outside the VPC, or set "
            'FloatingMode to "address"',
        )
        return None
    return eni


def _pursue(targets: Mapping[Address, Target], observed: NodeObserved, config: Config, draft: Draft) -> None:
    """What EC2 is to be told of the addresses and the Elastic IPs."""
    for address, target in targets.items():
        if config.floating_mode is FloatingMode.ROUTE:
            _route(address, target, observed, config, draft)
        elif config.floating_mode is FloatingMode.ADDRESS:
            _assign(address, target, observed, draft)
    for allocation_id, partner in config.floating.partners(config.floating_mode).items():
        _bind(allocation_id, partner, targets, observed, config, draft)


def placed(address: Address, eni_id: str, observed: NodeObserved, began: float) -> bool:
    """Whether EC2 has shown an address on an ENI since the tenure began."""
    return observed.held.get((eni_id, address), EVER) >= began and (eni_id, address) in observed.held


def _assign(address: Address, target: Target, observed: NodeObserved, draft: Draft) -> None:
    own = observed.own.get(target.eni_id)
    if own is None:
        draft.needs.add(NodeNeed.OWN)
    else:
        _check_manager(address, target, own, draft)
    if placed(address, target.eni_id, observed, draft.began):
        return
    if address.version == 4:
        draft.act(address, AssignAddress(target.eni_id, address))
        return
    holder = observed.holders.get(address)  # IPv6 knows no reassignment: it is freed first, so its holder must be known
    if holder is None or holder.seen < draft.began:
        draft.need(address, NodeNeed.HOLDERS)
    elif holder.eni_id and holder.eni_id != target.eni_id:
        draft.act(address, UnassignAddress(holder.eni_id, address, "taken over"))
    else:
        draft.act(address, AssignAddress(target.eni_id, address))


def _route(address: Address, target: Target, observed: NodeObserved, config: Config, draft: Draft) -> None:
    if observed.tables is None:
        draft.need(address, NodeNeed.TABLES)
    elif not observed.tables:
        draft.problem(
            address,
            f"VPCRTTag={config.route_tables} selects no route table of the VPC; tag the tables, correct VPCRTTag or "
            'set it to "ALL"',
        )
    for table in observed.tables or ():
        route = table.routes.get(host_network(address))
        if route is None or route.target != target.eni_id or route.seen < draft.began:
            draft.act(
                address,
                SetRoute(table.id, host_network(address), target.eni_id, route.target if route else "", address),
            )
    _check_source_dest(target.eni_id, address, observed, config, draft)


def _check_source_dest(eni_id: str, item: object, observed: NodeObserved, config: Config, draft: Draft) -> None:
    """Routed placements need the source/dest check off."""
    if eni_id not in observed.own:
        draft.need(item, NodeNeed.OWN)
    elif eni_id in observed.checks_on and config.disable_source_dest_check:
        draft.act(item, DisableSourceDestCheck(eni_id))
    elif eni_id in observed.checks_on:
        text = 'has its source/dest check on and drops packets for others; set SourceDestCheck: "Disable"'
        draft.problems.append(Problem(eni_id, text, fatal=False))


def _bind(
    allocation_id: str,
    partner: IPv4Address | None,
    targets: Mapping[Address, Target],
    observed: NodeObserved,
    config: Config,
    draft: Draft,
) -> None:
    """An Elastic IP to its private address, in one call from wherever it was."""
    if allocation_id not in observed.eips:
        draft.need(allocation_id, NodeNeed.EIPS)
        return
    eip = observed.eips[allocation_id]
    if eip is None:
        draft.problem(
            allocation_id,
            "does not exist in this account and region; correct FLOATING_IP, or allocate it: aws ec2 allocate-address",
        )
        return
    place = _binding(partner, targets, observed, config, draft)
    if place is None:
        draft.wait(allocation_id, "waits for its private address")
    elif (eip.eni_id, eip.address) != place or eip.seen < draft.began:
        draft.act(allocation_id, AssociateEip(allocation_id, place[0], place[1]))


def _binding(
    partner: IPv4Address | None,
    targets: Mapping[Address, Target],
    observed: NodeObserved,
    config: Config,
    draft: Draft,
) -> tuple[str, IPv4Address] | None:
    """The ENI and private address for an Elastic IP, once the address is there."""
    if partner is not None:
        target = targets.get(partner)
        return (target.eni_id, partner) if target and _is_there(partner, target, observed, config, draft) else None
    if config.floating_mode.moves_eni:
        return next(((t.eni_id, a) for a, t in targets.items() if isinstance(a, IPv4Address)), None)
    primary = observed.primary
    own = observed.own.get(primary.id) if primary else None
    if own is None:
        draft.needs.add(NodeNeed.OWN)
        return None
    return next(((own.id, address) for address in own.primary if isinstance(address, IPv4Address)), None)


def _is_there(address: Address, target: Target, observed: NodeObserved, config: Config, draft: Draft) -> bool:
    """Whether a private address is on its ENI, so that an Elastic IP can be bound to it."""
    if config.floating_mode.moves_eni:
        found = observed.floating.enis if observed.floating else ()
        return any(eni.id == target.eni_id and address in eni.addresses for eni in found)
    return placed(address, target.eni_id, observed, draft.began)


def _items(draft: Draft, targets: Mapping[Address, Target], observed: NodeObserved, config: Config) -> tuple[Item, ...]:
    """Everything that floats, with where it is and what it waits for."""
    shared = draft.waits.get(str(config.floating), "")  # what concerns all of them, the floating ENI say
    items = []
    for address in config.floating.addresses:
        target = targets.get(address)
        interface = interface_of(target, observed) if target else None
        items.append(
            Item(
                str(address),
                target.eni_id if target else "",
                interface.name if interface else "",
                draft.waits.get(str(address), shared),
            )
        )
    for allocation_id in config.floating.eips:
        eip = observed.eips.get(allocation_id)
        bound = eip.eni_id if eip else ""
        items.append(Item(allocation_id, bound, "", draft.waits.get(allocation_id, shared)))
    return tuple(items)
