"""Reading EC2 for the nodeport mode: what the plan lacks and what is due to be looked at again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vipmanager.actions_node import AssociateVpcCidr, CloudAction, CreateSubnet, DeleteSubnet, EniAction
from vipmanager.apply import Done, Jobs, Key, Retry, RetryBook
from vipmanager.apply_node import telling
from vipmanager.config import Config
from vipmanager.errors import Failure
from vipmanager.floating import FloatingMode
from vipmanager.model import Address
from vipmanager.model_node import FLOATING_TAG
from vipmanager.observe import SETTLE, discover
from vipmanager.observe_node import NodeView, instance_states, own_enis
from vipmanager.plan.node_draft import NodeNeed, NodePlan
from vipmanager.ports import DiscoveryPort, FloatingEc2Port, HostPort
from vipmanager.report_node import NodeReport

POLL = 0.25
"""Seconds between looks at what EC2 is still doing, and at least between two readings of one fact."""
RESYNC = 30.0
"""Seconds between checks of EC2, at most: a floating address has one holder, so that this costs few calls."""

DISCOVERY: Key = ("fact", "discovery")
INSTANCES: Key = ("fact", NodeNeed.INSTANCES.name)

Question = tuple[Callable[[], Any], Callable[[Any], None]]
"""What to call for a fact, and who learns the answer."""


class Reader:
    """Keeps a NodeView up to date. Used from the main thread only; the calls run as jobs."""

    def __init__(
        self,
        config: Config,
        ports: tuple[HostPort, DiscoveryPort, FloatingEc2Port],
        view: NodeView,
        jobs: Jobs,
        report: NodeReport,
        draw: Callable[[], float],
    ) -> None:
        self._config, self._view, self._jobs, self._report, self._draw = config, view, jobs, report, draw
        self._host, self._imds, self._ec2 = ports
        self._retries = RetryBook(draw)
        self._refresh: set[NodeNeed] = set()
        self._answered: dict[Key, float] = {}
        self._verify_at: float | None = None
        self._poll_at: float | None = None
        self._polled: set[NodeNeed] = set()
        self._resync_at = float("-inf")
        self._wanted: set[Key] = set()

    def collect(self, done: Done, now: float) -> None:
        """An answer, or why there is none."""
        key = done.keys[0]
        if done.failure is not None:
            self._report.failed(key, self._retries.failed(key, done.failure, now))
            return
        self._retries.succeeded(key)
        unread = [state for state in done.value.values() if isinstance(state, Failure)] if key == INSTANCES else []
        if unread:  # said, though the node is no less fit: it detaches patiently
            self._report.failed(key, Retry(1, now, unread[0]))
        else:
            self._report.succeeded(key)
        self._answered[key] = now
        done.subject(done.value)

    def look_again(self, *, eni: bool) -> None:
        """Something is other than it was thought to be, or has been changed: read it again."""
        self._refresh |= facts(self._config, eni=eni)

    def changed(self, action: CloudAction) -> None:
        """EC2 has accepted a change, and may take a while to show it."""
        self._refresh |= self.shown_by(action)

    def shown_by(self, action: CloudAction) -> frozenset[NodeNeed]:
        """Which facts show whether a change is there."""
        if isinstance(action, CreateSubnet | DeleteSubnet):
            return frozenset({NodeNeed.SUBNETS})
        if isinstance(action, AssociateVpcCidr):
            return frozenset({NodeNeed.VPC_CIDRS})
        if isinstance(action, EniAction):
            return frozenset({NodeNeed.FLOATING})
        return frozenset(facts(self._config, eni=True) - {NodeNeed.SUBNETS, NodeNeed.VPC_CIDRS})

    def verify(self, now: float) -> None:
        """Something was written: look whether it stands, once describes no longer lag."""
        self._verify_at = now + SETTLE

    def poll(self, needs: frozenset[NodeNeed], now: float) -> None:
        """EC2 is at work on something: look at these again soon."""
        self._polled |= needs
        if self._poll_at is None:
            self._poll_at = now + POLL

    def failing(self) -> str:
        """Why a fact that is wanted cannot be read, as far as that tells of this node; empty when all can."""
        return telling(self._retries, self._wanted)

    def ask(self, plan: NodePlan, now: float) -> None:
        """Read what the plan lacks and what is due."""
        self._timers(plan, now)
        self._wanted = set() if self._view.enis else {DISCOVERY}
        if not self._view.enis:
            self._discover(now)
            return
        for need in sorted(plan.needs | self._refresh, key=lambda need: need.name):
            key: Key = ("fact", need.name)
            self._wanted.add(key)
            if key in self._jobs.running or not self._retries.due(key, now):
                continue
            if now < self._answered.get(key, float("-inf")) + POLL:
                self.poll(frozenset(), now)
                continue
            self._refresh.discard(need)
            ask, learn = question(need, self._view, self._config, self._ec2, now)
            self._jobs.submit((key,), learn, ask)

    def wake_at(self) -> float | None:
        """When there is something to ask by time alone."""
        times = [
            self._retries.next_due(self._wanted - self._jobs.running),
            self._resync_at,
            self._verify_at,
            self._poll_at,
            self._view.recheck_at,
        ]
        return min((at for at in times if at is not None), default=None)

    def _timers(self, plan: NodePlan, now: float) -> None:
        """What EC2 is doing, our own writes, and now and then everything."""
        if self._poll_at is not None and now >= self._poll_at:
            self._poll_at = None
            self._refresh |= self._polled
            self._polled = set()
        if plan.poll:
            self.poll(plan.poll, now)
        if self._verify_at is not None and now >= self._verify_at:
            self._verify_at = None
            self._refresh |= facts(self._config, eni=True)
        if self._view.recheck_at is not None and now >= self._view.recheck_at:
            self._view.rechecked()
            self._refresh |= facts(self._config, eni=True)
        if now >= self._resync_at:
            first = self._resync_at == float("-inf")
            interval = min(RESYNC, self._config.resync_interval or RESYNC)
            self._resync_at = now + interval * (0.8 + 0.4 * self._draw())
            self._refresh |= set() if first else facts(self._config, eni=True)
            if any(problem.fatal for problem in plan.problems):  # an ENI may have come since
                self._discover(now)

    def _discover(self, now: float) -> None:
        if DISCOVERY in self._jobs.running or not self._retries.due(DISCOVERY, now):
            return
        macs = sorted(each.mac for each in self._view.interfaces if each.physical and each.mac)
        imds, ec2 = self._imds, self._ec2
        self._jobs.submit((DISCOVERY,), self._view.enis.update, lambda: discover(macs, imds, ec2))


def question(need: NodeNeed, view: NodeView, config: Config, ec2: FloatingEc2Port, now: float) -> Question:
    """How a fact is read, and what is done with the answer."""
    vpc_id = view.vpc_id
    if need is NodeNeed.OWN:
        macs, instance_id = sorted(view.enis), view.instance_id
        return lambda: own_enis(ec2, macs, instance_id), lambda found: view.learn_own(found, now)
    if need is NodeNeed.TABLES:
        return lambda: ec2.route_tables(vpc_id), view.learn_tables
    if need is NodeNeed.HOLDERS:
        addresses = addresses6(config)
        return lambda: ec2.enis_holding(vpc_id, addresses), lambda got: view.learn_holders(got, addresses, now)
    if need is NodeNeed.EIPS:
        eips = config.floating.eips
        return lambda: ec2.elastic_ips(eips), lambda found: view.learn_eips(found, eips, now)
    if need is NodeNeed.FLOATING:
        value = str(config.floating)
        return lambda: ec2.enis_tagged(vpc_id, FLOATING_TAG, value), lambda got: view.learn_floating(got, now)
    if need is NodeNeed.SUBNETS:
        return lambda: ec2.subnets(vpc_id), lambda found: view.learn_subnets(found, now)
    if need is NodeNeed.VPC_CIDRS:
        return lambda: ec2.vpc_cidrs(vpc_id), lambda found: view.learn_vpc_cidrs(found, now)
    others = view.others
    return lambda: instance_states(ec2, others), lambda found: view.learn_instances(found, now)


def facts(config: Config, *, eni: bool) -> set[NodeNeed]:
    """What a check of EC2 reads in this mode; `eni`: what concerns ENIs and subnets too."""
    needs, mode = {NodeNeed.OWN}, config.floating_mode
    if config.floating.eips:
        needs.add(NodeNeed.EIPS)
    if mode is FloatingMode.ROUTE:
        needs.add(NodeNeed.TABLES)
    elif mode is FloatingMode.ADDRESS and addresses6(config):
        needs.add(NodeNeed.HOLDERS)
    elif eni and mode.moves_eni:
        needs |= {NodeNeed.FLOATING, NodeNeed.SUBNETS}
    if eni and mode is FloatingMode.SUBNET:
        needs.add(NodeNeed.VPC_CIDRS)
    return needs


def addresses6(config: Config) -> list[Address]:
    """The IPv6 addresses that float: who holds one matters, because it has to be freed first."""
    return [address for address in config.floating.addresses if address.version == 6]
