"""What a round collects while it walks the claims."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vipmanager.actions import Action, Need, SetRoute
from vipmanager.model import Problem


@dataclass
class Draft:
    """What a round collects while it walks the claims."""

    actions: list[Action] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    needs: set[Need] = field(default_factory=set)
    wake_at: float | None = None
    routes: dict[tuple[str, ...], SetRoute] = field(default_factory=dict)
    held_back: set[tuple[str, ...]] = field(default_factory=set)

    def wake(self, at: float) -> None:
        """Ask for a round at the earliest of all such times."""
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)

    def route(self, action: SetRoute) -> None:
        """Set a route, once for all the addresses that share it; carefully if one of them asks for that."""
        known = self.routes.get(action.key)
        if known is None:
            self.routes[action.key] = action
        elif action.unless_there and not known.unless_there:
            self.routes[action.key] = replace(known, unless_there=True)

    def hold_back(self, action: SetRoute) -> None:
        """Do not set a route in this round, whoever else wants it."""
        self.held_back.add(action.key)

    def set_routes(self) -> list[SetRoute]:
        """The routes to be set in this round."""
        return [action for key, action in self.routes.items() if key not in self.held_back]
