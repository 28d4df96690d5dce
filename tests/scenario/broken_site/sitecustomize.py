"""Makes a vipmanager that is wrong in three ways, for tests of the judge: see test_chaos.py.

It never takes a route from another pod, never removes its own rules and routes from its pod, and deletes a route of
somebody else's when it is told to stop.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from vipmanager import agent, apply
from vipmanager.actions import DeletePodRoute, DeletePodRule, SetRoute
from vipmanager.model import Observed

_make_plan, _stop = agent.make_plan, agent.Agent._stop


def _timid(*arguments: Any) -> Any:
    plan = _make_plan(*arguments)
    observed = next(each for each in arguments if isinstance(each, Observed))
    ours = {eni.id for eni in observed.enis.values()}
    unwanted = (DeletePodRoute, DeletePodRule)
    kept = [
        action
        for action in plan.actions
        if not isinstance(action, unwanted)
        and not (isinstance(action, SetRoute) and action.replaces not in ("", *ours))
    ]
    return replace(plan, actions=type(plan.actions)(kept))


def _destructive(self: Any) -> int:
    for table in self._observed.tables or ():
        self._outside.ec2.delete_route(table.id, ip_network("192.168.0.0/16"))
    return _stop(self)


def _only_create(ec2: Any, action: SetRoute, _: Any) -> bool:
    """What was not seen in time is not taken over by the other verb, either."""
    ec2.create_route(action.table_id, action.destination, action.eni_id)
    return False


agent.make_plan = _timid
apply._set_route = _only_create
agent.Agent._stop = _destructive  # type: ignore[method-assign]
