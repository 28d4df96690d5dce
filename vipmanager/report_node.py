"""What an operator is told of the nodeport mode: a failover in a few events, nothing twice, and the status file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vipmanager.actions import Change
from vipmanager.actions_node import CloudAction, HostAction
from vipmanager.apply import Key, Retry
from vipmanager.config import Config
from vipmanager.errors import ErrorKind
from vipmanager.failing import Failing
from vipmanager.logs import event
from vipmanager.model import Problem
from vipmanager.model_node import Tenure
from vipmanager.monitor import Monitor
from vipmanager.plan.node_draft import Item, NodePlan

log = logging.getLogger("vipmanager")

MASTER, BACKUP = "MASTER", "BACKUP"
OWN: Key = ("fact", "OWN")
"""What every check of EC2 reads, in each FloatingMode."""

LEASE = "lease"
"""What Events about who holds are about."""

TICK = 0.001
"""Seconds: sums and differences of the same times may differ by less."""


class NodeReport:
    """Remembers what was said, and tells the monitor. Used from the main thread only."""

    def __init__(self, config: Config, identity: str, node: str, lease: str, monitor: Monitor) -> None:
        self._config, self._monitor = config, monitor
        self._self = {"identity": identity, "node": node, "lease": lease}
        self._lease = lease
        self._late = (config.retry_period + config.renew_deadline) / 2
        self._tenure = Tenure()
        self._holds: bool | None = None
        self._problems: frozenset[Problem] = frozenset()
        self._failing = Failing(monitor)
        self._said: set[str] = set()
        self._delivered: set[str] = set()
        self._probes: dict[str, bool] = {}
        self._began: float | None = None  # of a tenure in which no round has ended yet
        monitor.compare((OWN[-1],))
        monitor.compute("vipmanager_lease_renewal_age_seconds", self._renewal_age, lease=lease)
        for result in ("ok", "late", "missed"):
            monitor.begin("vipmanager_lease_renewals_total", lease=lease, result=result)

    def tenure(self, tenure: Tenure, holds: bool) -> None:
        """A round begins: say when this node begins or ceases to hold."""
        self._monitor.beat()
        self._monitor.set("vipmanager_holds", int(holds), lease=self._lease)
        if tenure.known:  # a 0 of one who has not read it would make an increase of all that went before
            self._monitor.set("vipmanager_lease_transitions_total", tenure.transitions, lease=self._lease)
        self._count_renewal(tenure)
        before, self._tenure = self._holds, tenure
        if holds == before:
            return
        self._holds = holds
        self._failing.keep(lambda key: key[0] == "fact")  # what is refused to a new holder is said again
        self._failing.tell_ended()
        if not holds:
            self._delivered.clear()
        if before is not None or holds:
            role = MASTER if holds else BACKUP
            event(log, logging.INFO, "role", role=role, holder=self._holder(holds), why=self._why(holds))
            self._emit_role(holds)

    def _emit_role(self, holds: bool) -> None:
        why = self._why(holds) or "no reason known"
        if holds:
            self._began = self._tenure.began
            self._monitor.emit("Holding", f"this node holds {self._config.floating}: {why}", about=LEASE)
        elif self._tenure.yielding_to:
            self._monitor.emit("Released", f"this node no longer holds {self._config.floating}: {why}", about=LEASE)
        else:
            text = f"this node has lost {self._config.floating}: {why}"
            self._monitor.emit("LostLease", text, warning=True, about=LEASE)

    def _count_renewal(self, tenure: Tenure) -> None:
        """A holder's renewal has come, in time or late, or its time is over without one."""
        before = self._tenure
        if not before.leading or tenure.renewed_at == before.renewed_at:
            return
        age = self._monitor.age(before.renewed_at) or 0.0
        if age >= self._config.renew_deadline - TICK:
            result = "missed"
        elif not tenure.leading or tenure.began != before.began:  # given back, or lost in another way
            return
        else:
            result = "late" if age > self._late else "ok"
        self._monitor.add("vipmanager_lease_renewals_total", lease=self._lease, result=result)

    def _renewal_age(self) -> float | None:
        """Since the holder's last renewal; called from another thread, as is all that computes a metric."""
        tenure = self._tenure
        return self._monitor.age(tenure.renewed_at) if tenure.leading else None

    def _holder(self, holds: bool) -> str:
        vacated = self._tenure.leading and not holds
        return "unknown" if vacated else self._tenure.holder or "nobody"

    def _why(self, holds: bool) -> str:
        tenure = self._tenure
        if tenure.leading and not holds:
            lapsed = f"no renewal for {self._config.renew_deadline:g} s"
            return f"makes way for {tenure.yielding_to}" if tenure.yielding_to else lapsed
        return tenure.why

    def applied(self, action: Change, took: float | None) -> None:
        """A change was made; `took` is since this node's tenure began, if it holds."""
        level = logging.INFO if isinstance(action, CloudAction | HostAction) else logging.DEBUG
        event(log, level, "done", what=action, took=took)
        self._monitor.add("vipmanager_actions_total", kind=action.key[0], result="ok")
        self.succeeded(action.key)

    def succeeded(self, key: Key) -> None:
        """What failed before works again."""
        if self._failing.succeeded(key):
            event(log, logging.INFO, "works again", what=" ".join(key))
            self._failing.tell_ended()
        if key == OWN:
            self._monitor.compared(OWN[-1])
            self._monitor.compare((OWN[-1],))

    def failed(self, key: Key, retry: Retry, action: Change | None = None) -> None:
        """A call failed; the same reason is said once."""
        failure = retry.failure
        if action is not None:
            self._monitor.add("vipmanager_actions_total", kind=action.key[0], result=failure.kind.value)
        what = action or " ".join(key)
        if self._failing.failed(key, failure, what):
            level = logging.WARNING if failure.kind in (ErrorKind.RETRY, ErrorKind.RACE) else logging.ERROR
            event(log, level, "failed", what=what, why=failure)

    def once(self, name: str, **facts: Any) -> None:
        """A warning that is given once in this process's life."""
        if name not in self._said:
            self._said.add(name)
            event(log, logging.WARNING, name, **facts)

    def probes(self, seen: Mapping[str, bool]) -> None:
        """What a standby saw of the floating addresses."""
        for name, answers in seen.items():
            if self._probes.get(name, True) != answers:
                level, text = (logging.INFO, "answers") if answers else (logging.WARNING, "does not answer")
                event(log, level, "probe", address=name, result=text, holder=self._tenure.holder or "nobody")
        self._probes = dict(seen)

    def plan(self, plan: NodePlan, holds: bool, health: str) -> tuple[Item, ...]:
        """Problems that came and went, what was delivered, and the status file. Returns what is newly delivered."""
        problems = frozenset(plan.problems)
        for problem in sorted(problems - self._problems, key=str):
            level = logging.ERROR if problem.fatal else logging.WARNING
            event(log, level, "problem", of=problem.subject, what=problem.text)
            if problem.fatal:
                self._monitor.emit("Failing", str(problem), warning=True, about=problem.subject)
        for problem in sorted(self._problems - problems, key=str):
            event(log, logging.INFO, "solved", of=problem.subject, what=problem.text)
        self._problems = problems
        self._forget_unwanted(plan)
        new = self._newly_delivered(plan) if holds else ()
        self._publish(plan, holds, health)
        return new

    def _forget_unwanted(self, plan: NodePlan) -> None:
        """Once everything is in place, what failed on the way there does so no more."""
        if plan.needs or not plan.items or any(item.waits for item in plan.items):
            return
        wanted = {action.key for action in plan.actions}
        wanted |= {("host-address", str(device), str(address)) for device, address in plan.keep}
        self._failing.keep(lambda key: key[0] in ("fact", "kernel") or key in wanted)
        self._failing.tell_ended()

    def _publish(self, plan: NodePlan, holds: bool, health: str) -> None:
        """The end of a round."""
        monitor, waits = self._monitor, any(item.waits for item in plan.items)
        monitor.publish(
            self._status(plan, holds, health), self._not_ready(plan, holds, health), self._config.floating.addresses
        )
        states = Counter(self._state(item, holds) for item in plan.items)
        placement = self._config.floating_mode.value
        monitor.replace("vipmanager_addresses", {(state, placement): count for state, count in states.items()})
        fatal = sum(problem.fatal for problem in plan.problems)
        monitor.replace("vipmanager_problems", {("true",): fatal, ("false",): len(plan.problems) - fatal})
        monitor.progress(under_way=holds and waits, began=self._began)
        self._began = None
        monitor.rest()

    def _not_ready(self, plan: NodePlan, holds: bool, health: str) -> str:
        """A holder lacks what it does not deliver, another node what it would need to take over."""
        if holds:
            waiting = (f"{item.name}: {item.waits}" for item in plan.items if item.waits)
            return next(waiting, "" if plan.items else "nothing has been looked at yet")
        if not self._tenure.known:
            why = str(self._tenure.failure) if self._tenure.failure else "not yet"
            return f"the lease has not been read: {why}"
        if self._tenure.failure is not None:
            return f"lease calls fail: {self._tenure.failure}"
        return health

    @staticmethod
    def _state(item: Item, holds: bool) -> str:
        """For the metric: few words that stay the same."""
        return "standby" if not holds else "pending" if item.waits else "delivered"

    def _newly_delivered(self, plan: NodePlan) -> tuple[Item, ...]:
        done = tuple(item for item in plan.items if not item.waits)
        new = tuple(item for item in done if item.name not in self._delivered)
        lost = self._delivered & {item.name for item in plan.items if item.waits}
        self._monitor.add("vipmanager_drift_total", len(lost))
        for item in new:
            event(log, logging.INFO, "delivered", item=item.name, eni=item.eni_id, interface=item.interface)
        self._delivered = {item.name for item in done}
        return new

    def _status(self, plan: NodePlan, holds: bool, health: str) -> dict[str, Any]:
        tenure = self._tenure
        return {
            "mode": "nodeport",
            "role": MASTER if holds else BACKUP,
            **self._self,
            "holder": tenure.holder,
            "since": tenure.since,
            "transitions": tenure.transitions,
            "why": tenure.why,
            "lease_problem": str(tenure.failure) if tenure.failure else "",
            "floating_mode": self._config.floating_mode.value,
            "health": health,
            "floating": [self._item(item, holds) for item in plan.items],
            "problems": sorted(map(str, plan.problems)),
        }

    def _item(self, item: Item, holds: bool) -> dict[str, Any]:
        state = (item.waits or "delivered") if holds else "held by another node" if self._tenure.holder else "not held"
        data = {"name": item.name, "state": state, "eni": item.eni_id, "interface": item.interface}
        return {**data, "answers": self._probes.get(item.name)} if not holds else data

    def stopped(self, *, released: bool) -> None:
        """The end."""
        why = "lease released" if released else "lease not released: others wait for it to expire"
        event(log, logging.INFO if released else logging.WARNING, "stopped", what=why)
        if self._holds:
            told = f"this node gives up {self._config.floating}: told to stop; {why}"
            self._monitor.emit("Released" if released else "LostLease", told, warning=not released, about=LEASE)
        self._monitor.ended("stopped")
