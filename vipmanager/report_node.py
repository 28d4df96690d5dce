"""What an operator is told of the nodeport mode: a failover in a few events, nothing twice, and the status file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from vipmanager.actions import Change
from vipmanager.actions_node import CloudAction, HostAction
from vipmanager.apply import Key, Retry
from vipmanager.config import Config
from vipmanager.errors import ErrorKind
from vipmanager.logs import event
from vipmanager.model import Problem
from vipmanager.model_node import Tenure
from vipmanager.plan.node_draft import Item, NodePlan
from vipmanager.status import StatusFile

log = logging.getLogger("vipmanager")

MASTER, BACKUP = "MASTER", "BACKUP"


class NodeReport:
    """Remembers what was said. Used from the main thread only."""

    def __init__(self, config: Config, identity: str, node: str, lease: str, file: StatusFile) -> None:
        self._config, self._file = config, file
        self._self = {"identity": identity, "node": node, "lease": lease}
        self._tenure = Tenure()
        self._holds: bool | None = None
        self._problems: frozenset[Problem] = frozenset()
        self._failures: dict[Key, tuple[str, str]] = {}
        self._said: set[str] = set()
        self._delivered: set[str] = set()
        self._probes: dict[str, bool] = {}
        self._unwritable = ""

    def tenure(self, tenure: Tenure, holds: bool) -> None:
        """Say when this node begins or ceases to hold."""
        before, self._tenure = self._holds, tenure
        if holds == before:
            return
        self._holds = holds
        if holds:  # what is refused to a new holder is said again
            self._failures = {key: reason for key, reason in self._failures.items() if key[0] == "fact"}
        if not holds:
            self._delivered.clear()
        if before is not None or holds:
            role = MASTER if holds else BACKUP
            event(log, logging.INFO, "role", role=role, holder=self._holder(holds), why=self._why(holds))

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
        self.succeeded(action.key)

    def succeeded(self, key: Key) -> None:
        """What failed before works again."""
        if self._failures.pop(key, None):
            event(log, logging.INFO, "works again", what=" ".join(key))

    def failed(self, key: Key, retry: Retry, action: Change | None = None) -> None:
        """A call failed; the same reason is said once."""
        failure = retry.failure
        reason = (failure.call, failure.code)  # a message may hold what differs each time
        if self._failures.get(key) == reason:
            return
        self._failures[key] = reason
        level = logging.WARNING if failure.kind in (ErrorKind.RETRY, ErrorKind.RACE) else logging.ERROR
        event(log, level, "failed", what=action or " ".join(key), why=failure)

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
        for problem in sorted(self._problems - problems, key=str):
            event(log, logging.INFO, "solved", of=problem.subject, what=problem.text)
        self._problems = problems
        new = self._newly_delivered(plan) if holds else ()
        why = self._file.write(self._status(plan, holds, health))
        if why and why != self._unwritable:
            event(log, logging.WARNING, "status not written", why=why)
        self._unwritable = why
        return new

    def _newly_delivered(self, plan: NodePlan) -> tuple[Item, ...]:
        done = tuple(item for item in plan.items if not item.waits)
        new = tuple(item for item in done if item.name not in self._delivered)
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
