"""What EC2 is to be told: routes, addresses of ENIs, the source/dest check, and what is taken back."""

from __future__ import annotations

from vipmanager.actions import (
    AssignAddress,
    DisableSourceDestCheck,
    Need,
    UnassignAddress,
    Withdrawal,
)
from vipmanager.config import Config
from vipmanager.model import (
    Address,
    Claim,
    Observed,
    PlacementKind,
    Problem,
)
from vipmanager.plan.aggregate import WITHDRAW_ROUTES_AFTER
from vipmanager.plan.claims import SPLIT_AFTER, Holding, Standing, holdings, is_split
from vipmanager.plan.draft import Draft
from vipmanager.plan.routes import Leftovers, pursue_routes

__all__ = [
    "RETURN_AFTER",
    "UNASSIGN_AFTER",
    "WITHDRAW_ROUTES_AFTER",
    "Draft",
    "needs_holder",
    "plan_claims",
    "plan_release",
]

UNASSIGN_AFTER = 2.0
"""Seconds between an address leaving the pod and its end on the ENI. EC2 refuses when it is on that ENI no more, so
this only keeps a link that flaps from costing calls."""
RETURN_AFTER = WITHDRAW_ROUTES_AFTER + 5.0
"""Seconds after conceding until it is looked again: by then the other has taken back what it has no address for."""


def plan_claims(claims: dict[Address, Claim], observed: Observed, config: Config) -> tuple[dict[Address, Claim], Draft]:
    """The actions that the claims ask for, and the claims without those that are withdrawn for good."""
    draft = Draft()
    destinations: dict[tuple[object, ...], Claim] = {}
    routed: list[Claim] = []
    for address in sorted(claims, key=lambda address: (address.version, address)):
        claim = claims[address]
        if claim.vanished is None and not claim.conceded_to and not _conflict(claim, destinations, draft):
            if _routed(claim):
                routed.append(claim)
            else:
                _pursue(claim, observed, draft)
        elif claim.conceded_to:
            _watch_holder(claim, observed, draft)
    pursue_routes(routed, observed, draft)
    draft.actions.extend(draft.set_routes())
    wanted = {claim.destination for claim in destinations.values() if _routed(claim)}
    leftovers = Leftovers(claims.values(), wanted, observed)
    leftovers.plan(draft)
    done = [
        address
        for address, claim in claims.items()
        if claim.vanished is not None and _withdraw(claim, claim.destination in wanted, leftovers, observed, draft)
    ]
    if observed.tables == () and any(_routed(claim) for claim in destinations.values()):
        draft.problems.append(_no_table(config))
    _source_dest_checks([claim.eni_id for claim in destinations.values() if _routed(claim)], observed, config, draft)
    return {address: claim for address, claim in claims.items() if address not in done}, draft


def _no_table(config: Config) -> Problem:
    return Problem(
        f"VPCRTTag={config.route_tables}",
        "selects no route table of the VPC, so routed addresses are delivered nowhere; tag the tables, correct "
        'VPCRTTag or set it to "ALL" (tables of a shared VPC are seen only through RouteTableRole)',
    )


def _routed(claim: Claim) -> bool:
    return claim.kind is not PlacementKind.ENI_ADDRESS


def _conflict(claim: Claim, destinations: dict[tuple[object, ...], Claim], draft: Draft) -> bool:
    """True when the destination goes to another ENI already: one subnet cannot be routed to two."""
    first = destinations.setdefault((claim.kind, claim.destination), claim)
    if first.eni_id == claim.eni_id:
        return False
    draft.problems.append(
        Problem(
            str(claim.address),
            f"{claim.destination} can be routed to one ENI only and goes to {first.eni_id} for {first.address}; "
            f"put both addresses on one interface, or give {claim.address} a subnet of its own",
        )
    )
    return True


def _pursue(claim: Claim, observed: Observed, draft: Draft) -> None:
    """What brings an active `eni-address` claim to where the address is on its ENI."""
    holding = holdings(claim, observed)[claim.eni_id]
    state = observed.states.get(claim.eni_id)
    if state is None:
        draft.needs.add(Need.STATES)
        if claim.address.version == 6 and claim.address not in observed.holders:
            draft.needs.add(Need.HOLDERS)  # in the same round trip, because a take-over waits for it
    elif claim.address not in state.primary and not holding.ours_since(claim.since):
        _take_address(claim, holding, draft)


def _take_address(claim: Claim, holding: Holding, draft: Draft) -> None:
    """IPv4 is taken over in one call; IPv6 knows no reassignment, so its holder must be known and is freed first."""
    if claim.address.version == 4:
        if holding.standing is Standing.UNKNOWN and claim.eni_id in claim.held:
            draft.needs.add(Need.HOLDERS)
        else:
            draft.actions.append(AssignAddress(claim.eni_id, claim.address))
    elif holding.standing is Standing.OURS:
        draft.needs.add(Need.STATES)
    elif holding.standing is Standing.UNKNOWN:
        draft.needs.add(Need.HOLDERS)
    elif holding.holder:
        draft.actions.append(UnassignAddress(holding.holder, claim.address, "taken over"))
    else:
        draft.actions.append(AssignAddress(claim.eni_id, claim.address))


def needs_holder(claim: Claim) -> bool:
    """Whether it matters who else holds the address: not for an IPv4 one that was never ours, which is just taken."""
    return not _routed(claim) and (claim.address.version == 6 or bool(claim.held) or bool(claim.conceded_to))


def _watch_holder(claim: Claim, observed: Observed, draft: Draft) -> None:
    """What it takes to know whether a conceded address still has a live holder.

    Who took it over may have done so with a call that was on its way when the address came back to this pod. It takes
    back soon what it has no address for, and then nobody has it until the resync, unless this pod looks.
    """
    seen = holdings(claim, observed)
    facts = {Need.TABLES} if _routed(claim) else {Need.HOLDERS if claim.eni_id in observed.states else Need.STATES}
    due = claim.conceded_at + RETURN_AFTER
    if observed.at < due:
        draft.wake(due)
    elif any(each.seen < due for each in seen.values()):
        draft.needs |= facts
    if not _routed(claim) and seen[claim.eni_id].standing is Standing.UNKNOWN:
        draft.needs |= facts
    if _routed(claim) and is_split(claim, seen):
        due = claim.conceded_at + SPLIT_AFTER
        if observed.at < due:
            draft.wake(due)
        else:
            draft.needs.add(Need.TABLES)


def _withdraw(claim: Claim, wanted: bool, leftovers: Leftovers, observed: Observed, draft: Draft) -> bool:
    """Take back what a vanished address left in the VPC; True when nothing is left to do."""
    assert claim.vanished is not None
    due = claim.vanished + (WITHDRAW_ROUTES_AFTER if _routed(claim) else UNASSIGN_AFTER)
    if wanted and claim.kind is PlacementKind.SUBNET_ROUTE:
        return True
    if observed.at < due:
        draft.wake(due)
        return False
    if claim.eni_id not in observed.own:  # of a file: the interface has gone since, or somebody else wrote it
        return bool(observed.own) and not observed.pending
    if _routed(claim):
        if wanted:  # by others, so it stays; what lies inside does not, and only a claim tells that it is ours
            return observed.tables is not None and not leftovers.of(claim.address)
        if observed.tables is None or any(table.seen < due for table in observed.tables):
            draft.needs.add(Need.TABLES)
            return False
        return not leftovers.of(claim.address)
    if claim.eni_id not in observed.states:
        draft.needs.add(Need.STATES)
        return False
    held = _unassign(claim, observed)
    draft.actions.extend(held)
    return not held


def _unassign(claim: Claim, observed: Observed) -> list[UnassignAddress]:
    """Take an address off our ENI, unless it is a primary one, which an ENI keeps for life."""
    ours = holdings(claim, observed)[claim.eni_id].standing is Standing.OURS
    if not ours or claim.address in observed.states[claim.eni_id].primary:
        return []
    return [UnassignAddress(claim.eni_id, claim.address, "vanished")]


def plan_release(
    claims: dict[Address, Claim], observed: Observed, config: Config, confirmed_since: float
) -> list[Withdrawal]:
    """What a sidecar that is told to stop takes back, by ReleaseOnExit and DeleteRoutesOnExit."""
    actions: dict[tuple[str, ...], Withdrawal] = {}
    if config.delete_routes_on_exit:
        found = Leftovers(claims.values(), (), observed).withdrawals(confirmed_since)
        actions.update((action.key, action) for action in found)
    for claim in claims.values():
        own = claim.eni_id in observed.own and claim.eni_id in observed.states
        if config.release_on_exit and not claim.conceded_to and not _routed(claim) and own:
            actions.update((action.key, action) for action in _unassign(claim, observed))
    return [actions[key] for key in sorted(actions)]


def _source_dest_checks(enis: list[str], observed: Observed, config: Config, draft: Draft) -> None:
    for eni_id in sorted(set(enis)):
        state = observed.states.get(eni_id)
        if state is None:
            draft.needs.add(Need.STATES)
        elif state.source_dest_check and config.disable_source_dest_check:
            draft.actions.append(DisableSourceDestCheck(eni_id))
        elif state.source_dest_check:
            draft.problems.append(
                Problem(
                    eni_id,
                    "has its source/dest check on and drops packets for routed addresses; turn it off, or set "
                    'SourceDestCheck: "Disable"',
                    fatal=False,
                )
            )
