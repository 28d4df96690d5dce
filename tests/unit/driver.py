"""One pod's side without threads or time of its own: looks, plans, and applies as much of a plan as it is told."""

from __future__ import annotations

from collections.abc import Sequence

from tests.doubles.clock import StillClock
from tests.doubles.ec2 import VPC, FakeEc2
from tests.doubles.imds import FakeImds
from tests.doubles.netlink import FakeNetlink
from vipmanager.actions import Action, Need, Plan, PodAction
from vipmanager.apply import apply_pod, apply_vpc
from vipmanager.config import Config
from vipmanager.errors import CallError, ErrorKind
from vipmanager.model import Claims, PlacementKind
from vipmanager.observe import View
from vipmanager.plan import make_plan

MANY = 25
"""Rounds within which anything must have settled."""


class Driver:
    """What the agent does, one step at a time."""

    def __init__(self, ec2: FakeEc2, netlink: FakeNetlink, imds: FakeImds, config: Config, clock: StillClock) -> None:
        self.ec2, self.netlink, self.imds, self.config, self.clock = ec2, netlink, imds, config, clock
        self.claims: Claims = {}
        self.restart()

    def restart(self) -> None:
        """Forget all that was seen, as a new process has; the claims are kept in a file."""
        self.view = View(self.config.route_tables)

    def plan(self) -> Plan:
        """Look at both sides as far as the plan asks for it, and plan."""
        self.clock.advance(1.0)
        self.view.at = self.clock()
        self.view.look(self.netlink)
        self.view.learn_enis(self.imds.enis(), sorted(self.view.observed().pending))
        self._learn({Need.TABLES, Need.STATES} | ({Need.EIPS} if self.config.eips else set()))
        for _ in range(MANY):
            made = make_plan(self.view.observed(), self.claims, self.config)
            self.claims = made.claims
            if not made.needs:
                return made
            self.clock.advance(0.1)
            self._learn(set(made.needs))
        raise AssertionError(f"the same is asked for ever: {made.needs}")

    def apply(self, actions: Sequence[Action]) -> None:
        """Apply them in order; what fails is looked at again, as the agent does."""
        for action in actions:
            try:
                if isinstance(action, PodAction):
                    apply_pod(self.netlink, action)  # type: ignore[arg-type]
                    continue
                apply_vpc(self.ec2, [action])  # type: ignore[list-item]
            except CallError as error:
                assert error.kind in (ErrorKind.LOST, ErrorKind.RACE), error
                self.view.doubt(action)
            else:
                self.view.wrote(action, self.clock())

    def settle(self) -> Plan:
        """Go on until there is nothing left to do, now or by time passing; returns that last plan."""
        for _ in range(MANY):
            made = self.plan()
            if not made.actions and made.wake_at is None:
                return made
            self.apply(made.actions)
            if not made.actions and made.wake_at is not None:
                self.clock.now = max(self.clock.now, made.wake_at)
        raise AssertionError(f"it does not settle: {[str(action) for action in made.actions]}")

    def _learn(self, needs: set[Need]) -> None:
        now, enis = self.clock(), [eni.id for eni in self.view.enis.values()]
        if Need.TABLES in needs:
            self.view.learn_tables(self.ec2.route_tables(VPC))
        if Need.SUBNETS in needs:
            self.view.subnets = self.ec2.subnets(VPC)
        if Need.STATES in needs:
            self.view.learn_states(self.ec2.enis(enis), enis, now)
        if Need.HOLDERS in needs:
            asked = [each for each, claim in self.claims.items() if claim.kind is PlacementKind.ENI_ADDRESS]
            self.view.learn_holders(self.ec2.enis_holding(VPC, asked), asked, now)
        if Need.EIPS in needs:
            eips = [eip for bound in self.config.eips.values() for eip in bound.values()]
            self.view.learn_eips(self.ec2.elastic_ips(eips), eips, now)
