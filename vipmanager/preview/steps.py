"""What `vipmanager plan` shows, as values: each change with what is there now, grouped by what floats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vipmanager.actions import (
    AddPodRule,
    AssignAddress,
    AssociateEip,
    Change,
    DeletePodRoute,
    DeletePodRule,
    DeleteRoute,
    DisableSourceDestCheck,
    SetPodRoute,
    SetRoute,
    UnassignAddress,
)
from vipmanager.actions_node import BringUp, DeleteMarks, PutAddress, RemoveAddress, SetMarks
from vipmanager.errors import Failure
from vipmanager.model import (
    MAIN_TABLE,
    Address,
    ElasticIp,
    Holder,
    Network,
    PodNetwork,
    PodRoute,
    PodRule,
    Problem,
    Route,
    RouteTable,
)
from vipmanager.ports import Permission

NOTHING, ERROR, CHANGES = 0, 1, 2
"""Exit codes."""

ADD, CHANGE, REMOVE, KEEP = "+", "~", "-", " "


@dataclass(frozen=True)
class Step:
    """One change, or with the sign KEEP one thing that is in place already and has no `action`.

    `kind` is the first word of the action's key; `facts` are those of the JSON.
    """

    sign: str
    kind: str
    text: str
    facts: Mapping[str, Any]
    action: Change | None = None


@dataclass(frozen=True)
class Shown:
    """What floats, where, and what is done for it. `state` is a word of the status file."""

    name: str
    state: str
    interface: str = ""
    eni_id: str = ""
    device_index: int | None = None
    placement: str = ""
    destination: str = ""
    conceded_to: str = ""
    why: str = ""
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A permission that some changes need, and why EC2 would refuse them."""

    permission: Permission
    failure: Failure
    changes: int


@dataclass(frozen=True)
class Preview:
    """What a run would do now. `here` is what it does to the pod's or the node's kernel, `shared` serves all that
    floats. `denied` is IAM's answer, `unclear` any other than yes or no. `not_asked`: changes by IAM action."""

    mode: str
    shown: tuple[Shown, ...] = ()
    shared: tuple[Step, ...] = ()
    here: tuple[Step, ...] = ()
    denied: tuple[Refused, ...] = ()
    unclear: tuple[Refused, ...] = ()
    not_asked: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    holder: str = ""

    @property
    def changes(self) -> tuple[Change, ...]:
        """Everything that would be done, in the order shown."""
        steps = [*(step for shown in self.shown for step in shown.steps), *self.shared, *self.here]
        return tuple(step.action for step in steps if step.action is not None)

    @property
    def exit_code(self) -> int:
        """ERROR also where some of it cannot be done: denied, not known to be allowed, or a fatal problem."""
        if self.denied or self.unclear or any(problem.fatal for problem in self.problems):
            return ERROR
        return CHANGES if self.changes else NOTHING


@dataclass(frozen=True)
class Present:
    """What is there now, as far as a change is described by it. `devices` names interfaces by index."""

    tables: Iterable[RouteTable] = ()
    holders: Mapping[Address, Holder] = field(default_factory=dict)
    eips: Mapping[str, ElasticIp | None] = field(default_factory=dict)
    pod: PodNetwork = field(default_factory=PodNetwork)
    devices: Mapping[int, str] = field(default_factory=dict)

    def route(self, table_id: str, destination: Network) -> Route | None:
        """The route to exactly this destination in a route table of the VPC."""
        return next((table.routes.get(destination) for table in self.tables if table.id == table_id), None)

    def public(self, allocation_id: str) -> str:
        """The public address of an Elastic IP."""
        eip = self.eips.get(allocation_id)
        return eip.public_ip if eip else ""


def describe(action: Change, now: Present) -> Step:
    """A change beside what is there now."""
    maker = _MAKERS.get(type(action))
    sign, text, facts = maker(action, now) if maker else (CHANGE, str(action), {"change": str(action)})
    return Step(sign, action.key[0], text, facts, action)


def route_in_place(table_id: str, destination: Network, eni_id: str) -> Step:
    """A route that is as it should be."""
    facts = {"table": table_id, "destination": str(destination), "from": eni_id, "to": eni_id}
    return Step(KEEP, "route", f"{table_id}  {destination}  {eni_id} (in place)", facts)


def address_in_place(address: Address, eni_id: str) -> Step:
    """An address that is assigned."""
    return Step(KEEP, "address", f"{address} on {eni_id} (in place)", {"address": str(address), "eni": eni_id})


def eip_in_place(eip: ElasticIp) -> Step:
    """An Elastic IP that is bound."""
    facts = {"eip": eip.allocation_id, "public": eip.public_ip, "address": str(eip.address), "eni": eip.eni_id}
    return Step(KEEP, "eip", f"{eip.allocation_id} ({eip.public_ip}) bound to {eip.address} (in place)", facts)


Described = tuple[str, str, dict[str, Any]]


def _set_route(action: SetRoute, now: Present) -> Described:
    old = now.route(action.table_id, action.destination)
    facts: dict[str, Any] = {
        "table": action.table_id,
        "destination": str(action.destination),
        "to": action.eni_id,
    }
    if old is None:
        return ADD, f"{action.table_id}  {action.destination}  -> {action.eni_id}", facts
    gone = "" if old.live else " (blackhole)"
    facts |= {"from": old.target, "blackhole": not old.live}
    return CHANGE, f"{action.table_id}  {action.destination}  {old.target}{gone} -> {action.eni_id}", facts


def _delete_route(action: DeleteRoute, _: Present) -> Described:
    facts = {"table": action.table_id, "destination": str(action.destination), "from": action.eni_id}
    return REMOVE, f"{action.table_id}  {action.destination}  {action.eni_id}", facts


def _assign(action: AssignAddress, now: Present) -> Described:
    holder = now.holders.get(action.address)
    facts = {"address": str(action.address), "to": action.eni_id}
    moves = ""
    if holder is not None and holder.eni_id and holder.eni_id != action.eni_id:
        facts["from"] = holder.eni_id
        moves = f" (moves it from {holder.eni_id})" if action.address.version == 4 else ""
    return ADD, f"assign {action.address} to {action.eni_id}{moves}", facts


def _unassign(action: UnassignAddress, _: Present) -> Described:
    facts = {"address": str(action.address), "from": action.eni_id, "why": action.why}
    return REMOVE, f"unassign {action.address} from {action.eni_id} ({action.why})", facts


def _check(action: DisableSourceDestCheck, _: Present) -> Described:
    return CHANGE, f"{action.eni_id} source/dest check on -> off", {"eni": action.eni_id, "from": "on", "to": "off"}


def _associate(action: AssociateEip, now: Present) -> Described:
    eip = now.eips.get(action.allocation_id)
    public = f" ({eip.public_ip})" if eip and eip.public_ip else ""
    facts = {
        "eip": action.allocation_id,
        "public": eip.public_ip if eip else "",
        "address": str(action.address),
        "to": action.eni_id,
    }
    if eip is None or not eip.eni_id:
        return ADD, f"bind {action.allocation_id}{public} to {action.address}", facts
    facts |= {"from": eip.eni_id, "from_address": str(eip.address)}
    return CHANGE, f"bind {action.allocation_id}{public}: {eip.address} of {eip.eni_id} -> {action.address}", facts


def _via(route: PodRoute, now: Present) -> str:
    return f"via {route.gateway} dev {now.devices.get(route.device, route.device)}"


def _in_table(number: int) -> str:
    return "" if number == MAIN_TABLE else f" table {number}"


def _route_facts(route: PodRoute, now: Present) -> dict[str, Any]:
    device = str(now.devices.get(route.device, route.device))
    return {"destination": route.destination, "via": route.gateway, "device": device, "table": route.table}


def _set_pod_route(action: SetPodRoute, now: Present) -> Described:
    new = action.route
    place = (new.table, new.destination)
    old = next((route for route in now.pod.routes if (route.table, route.destination) == place), None)
    facts, table = _route_facts(new, now), _in_table(new.table)
    if old is None:
        return ADD, f"route {new.destination} {_via(new, now)}{table}", facts
    facts |= {"old_via": old.gateway, "old_device": str(now.devices.get(old.device, old.device))}
    return CHANGE, f"route {new.destination} {_via(old, now)} -> {_via(new, now)}{table}", facts


def _delete_pod_route(action: DeletePodRoute, now: Present) -> Described:
    old = action.route
    return REMOVE, f"route {old.destination} {_via(old, now)}{_in_table(old.table)}", _route_facts(old, now)


def _rule(rule: PodRule) -> tuple[str, dict[str, Any]]:
    facts: dict[str, Any] = {"source": rule.source, "table": rule.table}
    if not rule.mask:
        return f"rule from {rule.source} table {rule.table}", facts
    mark = f"{rule.mark:#x}/{rule.mask:#x}"
    return f"rule from {rule.source} fwmark {mark} table {rule.table}", facts | {"mark": mark}


def _add_pod_rule(action: AddPodRule, _: Present) -> Described:
    return ADD, *_rule(action.rule)


def _delete_pod_rule(action: DeletePodRule, _: Present) -> Described:
    return REMOVE, *_rule(action.rule)


def _put_address(action: PutAddress, _: Present) -> Described:
    facts = {"address": str(action.address), "device": action.interface}
    return ADD, f"address {action.address} dev {action.interface}", facts


def _remove_address(action: RemoveAddress, _: Present) -> Described:
    facts = {"address": str(action.address), "device": action.interface}
    return REMOVE, f"address {action.address} dev {action.interface}", facts


def _bring_up(action: BringUp, _: Present) -> Described:
    return CHANGE, f"link {action.interface} down -> up", {"device": action.interface}


def _set_marks(action: SetMarks, _: Present) -> Described:
    marks = sorted(map(str, action.marks))
    return CHANGE, f"marks in nftables {action.table}: {', '.join(marks)}", {"table": action.table, "marks": marks}


def _delete_marks(action: DeleteMarks, _: Present) -> Described:
    return REMOVE, f"marks in nftables {action.table}", {"table": action.table}


_MAKERS: Mapping[type, Callable[[Any, Present], Described]] = {
    SetRoute: _set_route,
    DeleteRoute: _delete_route,
    AssignAddress: _assign,
    UnassignAddress: _unassign,
    DisableSourceDestCheck: _check,
    AssociateEip: _associate,
    SetPodRoute: _set_pod_route,
    DeletePodRoute: _delete_pod_route,
    AddPodRule: _add_pod_rule,
    DeletePodRule: _delete_pod_rule,
    PutAddress: _put_address,
    RemoveAddress: _remove_address,
    BringUp: _bring_up,
    SetMarks: _set_marks,
    DeleteMarks: _delete_marks,
}
"""What is not in here, as the making of an ENI, is said in its own words."""
