"""The pure half: a snapshot, the claims and the settings become a plan. No I/O, no clock, no mutation of inputs."""

from __future__ import annotations

from vipmanager.actions import Action, Need, Plan, Withdrawal
from vipmanager.config import Config
from vipmanager.model import Address, Claims, Observed, Problem
from vipmanager.plan.aggregate import aims, pool_problems
from vipmanager.plan.claims import update
from vipmanager.plan.eips import plan_eips
from vipmanager.plan.placement import Placement, place
from vipmanager.plan.pod import attachments, plan_pod
from vipmanager.plan.vpc import needs_holder, plan_claims, plan_release

__all__ = ["make_plan", "make_release", "needs_holder"]


def make_plan(observed: Observed, claims: Claims, config: Config) -> Plan:
    """Everything that separates what is observed from what is configured.

    Running it again on its own outcome gives an empty plan; applying any part of it and looking again converges.
    """
    placements: list[Placement] = []
    problems: list[Problem] = []
    unplaced: set[Address] = set()
    needs: set[Need] = set()
    for interface in observed.interfaces:
        if interface.mac in observed.pending:
            unplaced.update(interface.addresses)
    for attachment in attachments(observed):
        if not attachment.interface.up:
            continue
        for address in attachment.interface.addresses:
            result = place(address, attachment.interface.name, attachment.eni, config, observed.subnets)
            if isinstance(result, Placement):
                placements.append(result)
            elif result is None:
                unplaced.add(address)
                needs.add(Need.SUBNETS)
            else:
                problems.append(result)
    unplaced -= {placement.address for placement in placements}
    delivered = _one_each(placements, problems)
    looked = update(claims, delivered, unplaced, observed, lambda found: aims(found, observed, config))
    updated, draft = plan_claims(looked, observed, config)
    problems.extend(pool_problems(observed, config))
    updated = plan_eips(updated, delivered, observed, config, draft)
    pod_actions, pod_problems = plan_pod(observed, config)
    actions: dict[tuple[str, ...], Action] = {}
    for action in [*pod_actions, *draft.actions]:
        actions.setdefault(action.key, action)
    return Plan(
        actions=tuple(sorted(actions.values(), key=_order)),
        problems=tuple(problems + draft.problems + pod_problems),
        claims=updated,
        needs=frozenset(needs | draft.needs),
        wake_at=draft.wake_at,
    )


def make_release(observed: Observed, claims: Claims, config: Config, confirmed_since: float) -> tuple[Withdrawal, ...]:
    """What a stopping sidecar takes back; routes only if EC2 showed them as ours since `confirmed_since`."""
    return tuple(plan_release(dict(claims), observed, config, confirmed_since))


def _one_each(placements: list[Placement], problems: list[Problem]) -> list[Placement]:
    """An address on two interfaces is delivered to the first; the second is named."""
    first: dict[Address, Placement] = {}
    for placement in placements:
        kept = first.setdefault(placement.address, placement)
        if kept is not placement:
            problems.append(
                Problem(
                    f"{placement.address} on {placement.interface}",
                    f"is on {kept.interface} too, which has it; an address can be delivered to one interface only",
                )
            )
    return list(first.values())


ORDER = ("pod-route", "pod-rule", "address", "check", "route", "eip")


def _order(action: Action) -> tuple[int, tuple[str, ...]]:
    return ORDER.index(action.key[0]), action.key
