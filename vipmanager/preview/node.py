"""`vipmanager plan nodeport`: what this node would do if it had the lease now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vipmanager.actions import Change, VpcAction
from vipmanager.actions_node import EniAction, HostAction
from vipmanager.asking import Asker
from vipmanager.config import Config
from vipmanager.errors import CallError
from vipmanager.floating import FloatingMode
from vipmanager.model import Problem
from vipmanager.model_node import Lease, NodeObserved
from vipmanager.observe import discover
from vipmanager.observe_node import NodeView
from vipmanager.plan.node import plan_node
from vipmanager.plan.node_draft import NodeNeed, NodePlan
from vipmanager.ports import DiscoveryPort, FloatingEc2Port, HostPort, PermissionPort
from vipmanager.preview.permissions import with_permissions
from vipmanager.preview.steps import Present, Preview, Shown, Step, address_in_place, describe
from vipmanager.read_node import Question, facts, question

LOOKS = 6
"""How often facts are asked for at most."""


@dataclass(frozen=True)
class NodeSources:
    """What a preview is made of. `lease` reads the Lease; it is None where `no_lease` says why it cannot be read."""

    host: HostPort
    imds: DiscoveryPort
    ec2: FloatingEc2Port
    permissions: PermissionPort
    asker: Asker
    lease: Callable[[], Lease | None] | None = None
    no_lease: str = ""


def preview_node(config: Config, sources: NodeSources) -> Preview:
    """What would be done with the lease, whoever has it now. Raises CallError."""
    asker = sources.asker
    view, began = NodeView(config), asker.clock()
    view.look(sources.host)
    macs = sorted({each.mac for each in view.interfaces if each.physical and each.mac})
    calls: list[Callable[[], Any]] = [lambda: discover(macs, sources.imds, sources.ec2), lambda: _holder(sources)]
    enis, holder = asker.all(calls)
    view.enis.update(enis)
    unanswered = _answer(config, sources, view, began)
    observed = view.observed(asker.clock())
    first = plan_node(observed, config, began)
    changes = _foresee(first, view, config, began, asker.clock())
    devices = {each.index: each.name for each in observed.interfaces}
    now = Present(observed.tables or (), observed.holders, observed.eips, observed.network, devices)
    names = {item.name for item in first.items}
    steps = [(change, describe(change, now)) for change in changes]
    cloud = [change for change in changes if isinstance(change, VpcAction | EniAction)]
    preview = Preview(
        "nodeport",
        tuple(_shown(first, steps, observed, config)),
        tuple(step for change, step in steps if not isinstance(change, HostAction) and _of(change) not in names),
        tuple(step for change, step in steps if isinstance(change, HostAction)),
        problems=(*first.problems, *unanswered),
        notes=_notes(first, cloud),
        holder=holder,
    )
    return with_permissions(preview, cloud, sources.permissions, asker)


def _holder(sources: NodeSources) -> str:
    if sources.lease is None:
        return f"who has it is not known: {sources.no_lease}"
    try:
        lease = sources.lease()
    except CallError as error:
        return f"who has it is not known: {error}"
    if lease is None:
        return "there is no such lease yet"
    return f"{lease.holder} has it" if lease.holder else "nobody has it"


def _answer(config: Config, sources: NodeSources, view: NodeView, began: float) -> list[Problem]:
    """Ask for what the mode reads, and then for what the plan lacks, until it lacks nothing."""
    needs = frozenset(facts(config, eni=True))
    extra = [_holders(config, sources, view)] if config.floating_mode is FloatingMode.ADDRESS else []
    for _ in range(LOOKS):
        now = sources.asker.clock()
        ordered = sorted(needs, key=lambda need: need.name)
        questions = [*(question(need, view, config, sources.ec2, now) for need in ordered), *extra]
        for (_, learn), answer in zip(questions, sources.asker.all([ask for ask, _ in questions]), strict=True):
            learn(answer)
        needs, extra = plan_node(view.observed(sources.asker.clock()), config, began).needs, []
        if not needs:
            return []
    lacking = sorted(need.value for need in needs)
    return [Problem("EC2", f"does not show {each} in full; not all changes are known") for each in lacking]


def _holders(config: Config, sources: NodeSources, view: NodeView) -> Question:
    """Who has the addresses is shown, though for IPv4 it does not matter."""
    held, vpc_id, now = config.floating.addresses, view.vpc_id, sources.asker.clock()
    return lambda: sources.ec2.enis_holding(vpc_id, held), lambda found: view.learn_holders(found, held, now)


def _foresee(plan: NodePlan, view: NodeView, config: Config, began: float, now: float) -> list[Change]:
    """Every round's changes, each once. What follows the making or moving of an ENI is EC2's to show, not foreseen."""
    changes: dict[Change, None] = {}
    while new := [action for action in plan.actions if action not in changes]:
        changes.update(dict.fromkeys(new))
        for action in new:
            if isinstance(action, VpcAction):
                view.wrote(action, now)
        plan = plan_node(view.observed(now), config, began)
    return list(changes)


def _notes(plan: NodePlan, cloud: Sequence[Change]) -> tuple[str, ...]:
    notes = []
    if any(isinstance(change, EniAction) for change in cloud):
        notes.append("what comes after depends on what EC2 makes of this; run plan again then")
    if plan.needs or plan.poll:
        waiting = sorted(need.value for need in plan.needs | plan.poll if isinstance(need, NodeNeed))
        notes.append(f"EC2 is still at work on {', '.join(waiting)}")
    return tuple(notes)


def _of(change: Change) -> str:
    """The name of what a change is for, where it is for one thing only."""
    return str(getattr(change, "allocation_id", getattr(change, "address", "")))


def _shown(plan: NodePlan, steps: Sequence[tuple[Change, Step]], observed: NodeObserved, config: Config) -> list[Shown]:
    indexes: Mapping[str, int] = {eni.id: eni.device_index for eni in observed.enis.values()}
    problems = {problem.subject: problem.text for problem in plan.problems if problem.fatal}
    shown = []
    for item in plan.items:
        mine = [step for change, step in steps if not isinstance(change, HostAction) and _of(change) == item.name]
        state = "refused" if item.name in problems else "pending" if item.waits else "claimed"
        placement = "elastic-ip" if item.name in config.floating.eips else config.floating_mode.value
        shown.append(
            Shown(
                item.name,
                state,
                item.interface,
                item.eni_id,
                indexes.get(item.eni_id),
                placement,
                why=problems.get(item.name, ""),
                steps=(*mine, *_in_place(item.name, item.eni_id, mine, observed)),
            )
        )
    return shown


def _in_place(name: str, eni_id: str, steps: Sequence[Step], observed: NodeObserved) -> list[Step]:
    held = next((address for eni, address in observed.held if eni == eni_id and str(address) == name), None)
    return [address_in_place(held, eni_id)] if held is not None and not steps else []
