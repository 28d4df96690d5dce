"""The nodeport mode: one node at a time, the holder of a Lease, has what floats.

One thread decides. The elector has its own, calls to EC2 and checks run on others, and all of them wake this one. It
acts as holder only while the tenure says so; the kernel takes an address off by itself when nobody renews it.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from vipmanager.actions import Change
from vipmanager.actions_node import (
    CloudAction,
    CreateEni,
    DeleteMarks,
    EniAction,
    HostAction,
    PutAddress,
    RemoveAddress,
    SetMarks,
)
from vipmanager.apply import Done, Jobs, Key, RetryBook, batches
from vipmanager.apply_node import EC2_WRITES, Batch, apply_cloud, apply_host, telling
from vipmanager.config import Config
from vipmanager.elector import Elector
from vipmanager.errors import CallError, ErrorKind
from vipmanager.fence import FENCED, Fence
from vipmanager.health import Health
from vipmanager.model import Address
from vipmanager.model_node import HostInterface, Tenure
from vipmanager.observe import SETTLE
from vipmanager.observe_node import NodeView
from vipmanager.plan.election import lifetime, put_by
from vipmanager.plan.node import floating_addresses, plan_node
from vipmanager.plan.node_draft import NodePlan
from vipmanager.ports import DiscoveryPort, FloatingEc2Port, HostPort, NeighbourPort
from vipmanager.read_node import Reader
from vipmanager.report_node import NodeReport
from vipmanager.watch import Watch

log = logging.getLogger("vipmanager")

OK = 0
WRITE_WITHIN = 1.0
"""Seconds that a stopping holder waits for a write to EC2 that is under way, so that the next holder's comes later."""
STOP_WITHIN = 2.0
"""Seconds that a stopping holder gives the release of its lease."""
CHECK: Key = ("health",)
PROBE: Key = ("probe",)
KERNEL: Key = ("kernel",)
LOOK_AGAIN = 1.0
"""Seconds before the kernel is asked again when it has not answered."""


@dataclass(frozen=True)
class NodeOutside:
    """The ports, and what else is taken from outside."""

    host: HostPort
    neighbours: NeighbourPort
    imds: DiscoveryPort
    ec2: FloatingEc2Port
    clock: Callable[[], float]
    fence: Fence
    check: Callable[[str], str]  # run HealthCheck; the default host → why it failed, or nothing
    random: Callable[[], float] = random.random


class Nodeport:
    """Holds what floats while this node has the lease, and nothing of it while it has not."""

    def __init__(
        self, config: Config, outside: NodeOutside, watch: Watch, elector: Elector, report: NodeReport
    ) -> None:
        self._config, self._outside, self._watch, self._elector = config, outside, watch, elector
        self._report = report
        self._view = NodeView(config)
        self._jobs = Jobs(watch.wake)
        ports = (outside.host, outside.imds, outside.ec2)
        self._reader = Reader(config, ports, self._view, self._jobs, report, outside.random)
        self._retries = RetryBook(outside.random)
        self._health = Health(config, outside.clock)
        self._tenure = Tenure()
        self._began: float | None = None
        self._plan = NodePlan()
        self._done: dict[Change, float] = {}
        self._vacated: float | None = None
        self._token = uuid.uuid4().hex
        self._kept = 0.0
        self._known = False
        self._kernel_changed = True
        self._stopping = False
        # A container that is restarted leaves the address that it finds until it knows whether the lease is its own.
        # It was put there with a lifetime; one that was not stays no longer than this.
        self._look_until = outside.clock() + config.lease_duration

    def stop(self) -> None:
        """Ask the loop to end; may be called from a signal handler."""
        self._stopping = True
        self._watch.wake()

    def run(self) -> int:
        """The loop: who holds, what is there, what is missing, do it, wait. Returns the exit code."""
        self._elector.set_health(False, self._health.why)
        self._elector.start()
        while not self._stopping:
            self._collect()
            self._learn_tenure()
            self._decide()
            self._act_on_node()
            self._reader.ask(self._plan, self._outside.clock())
            self._act_on_ec2()
            self._check_health()
            self._tell()
            self._wait()
        return self._stop()

    # who holds

    def _learn_tenure(self) -> None:
        """Begin or end acting as holder, as the lease says."""
        before, self._tenure, now = self._tenure, self._elector.tenure(), self._outside.clock()
        holds = self._tenure.leading and not self._tenure.yielding_to and lifetime(self._tenure, now) > 0
        if self._tenure.holder != before.holder and not holds:  # the new one writes: know it before it is our turn
            self._reader.verify(now)
        if holds and self._began != self._tenure.began:
            self._began = self._tenure.began
            self._retries, self._done = RetryBook(self._outside.random), {}
        elif not holds:
            self._began = None
        self._outside.fence.open = holds
        self._report.tenure(self._tenure, holds)

    # observe and decide

    def _collect(self) -> None:
        """Fold finished calls into the view."""
        now = self._outside.clock()
        for done in self._jobs.collect():
            if done.crash is not None:
                raise done.crash
            if isinstance(done.subject, Batch):
                self._collect_actions(done, done.subject, now)
            else:
                self._reader.collect(done, now)

    def _collect_actions(self, done: Done, batch: Batch, now: float) -> None:
        retry = done.failure is not None and done.failure.kind is ErrorKind.RETRY
        if any(isinstance(action, CreateEni) for action in batch.actions) and not retry:
            self._token = uuid.uuid4().hex
        if batch.began != self._began:  # others may have been at work since: what it did is not known
            self._reader.look_again(eni=True)
            return
        for action in batch.actions:
            if done.failure is None:
                self._retries.succeeded(action.key)
                self._report.applied(action, self._took(now))
                self._view.wrote(action, now)
                self._reader.verify(now)
                self._note_done(action, now)
            elif len(batch.actions) > 1 and not retry:
                self._retries.alone(action.key, done.failure, now)
            elif done.failure is not FENCED:
                self._report.failed(action.key, self._retries.failed(action.key, done.failure, now), action)
                if done.failure.kind in (ErrorKind.LOST, ErrorKind.RACE):
                    self._view.doubt(action)
                    self._reader.look_again(eni=isinstance(action, EniAction))
                elif isinstance(action, EniAction):  # the answer may have been lost, not the call
                    self._reader.changed(action)

    def _note_done(self, action: CloudAction, now: float) -> None:
        """EC2 takes its time for what concerns an ENI or a subnet, and may not show it at once: look, do not repeat."""
        if isinstance(action, EniAction) or self._config.floating_mode.moves_eni:
            self._done[action] = now
            self._reader.changed(action)

    def _decide(self) -> None:
        """Look at the kernel where it has changed, and plan."""
        if self._kernel_changed:
            self._look()
        self._plan = plan_node(self._view.observed(self._outside.clock()), self._config, self._began)

    def _look(self) -> None:
        try:
            self._view.look(self._outside.host)
        except CallError as error:
            self._failed(KERNEL, error)
        else:
            self._kernel_changed = False
            self._succeeded(KERNEL)

    def _failed(self, key: Key, error: CallError, action: Change | None = None) -> None:
        self._report.failed(key, self._retries.failed(key, error.failure, self._outside.clock()), action)

    def _succeeded(self, key: Key) -> None:
        self._retries.succeeded(key)
        self._report.succeeded(key)

    # act

    def _act_on_node(self) -> None:
        """The node's own side, at once and in this thread: the kernel answers in microseconds."""
        now = self._outside.clock()
        for action in self._plan.actions:
            if isinstance(action, RemoveAddress) and not self._tenure.known and now < self._look_until:
                continue
            if isinstance(action, HostAction) and self._retries.due(action.key, now):
                self._apply_host(action)
        if self._began is not None and self._kept != self._tenure.renewed_at:
            self._keep()
        self._hand_over(now)

    def _lifetime(self) -> int:
        """Computed just before it is used: this process may have been stopped meanwhile."""
        return lifetime(self._tenure, self._outside.clock()) if self._began is not None else 0

    def _apply_host(self, action: HostAction) -> None:
        seconds = self._lifetime()
        if isinstance(action, PutAddress) and seconds <= 0:
            return
        try:
            apply_host(self._outside.host, action, seconds, put_by(self._tenure, seconds))
        except CallError as error:
            self._failed(action.key, error, action)
            return
        self._kernel_changed = True
        self._retries.succeeded(action.key)
        self._report.applied(action, self._took(self._outside.clock()))

    def _keep(self) -> None:
        """The lease was renewed: so are the lifetimes of the addresses."""
        self._kept = self._tenure.renewed_at
        for device, address in self._plan.keep:
            key, seconds = ("host-address", str(device), str(address)), self._lifetime()
            try:
                if seconds > 0:
                    self._outside.host.put_address(device, address, seconds, put_by(self._tenure, seconds))
                    self._succeeded(key)
            except CallError as error:
                self._failed(key, error)

    def _hand_over(self, now: float) -> None:
        """Another node shall have it: once the addresses are off, and no write to EC2 is under way, it gets the lease.

        A write that hangs is not waited for long, because nobody has the addresses meanwhile.
        """
        if self._began is not None or not self._tenure.yielding_to:
            self._vacated = None
            return
        self._vacated = now if self._vacated is None else self._vacated
        if (not self._writing() or now >= self._vacated + WRITE_WITHIN) and not self._left_over():
            self._health.made_way()
            self._elector.resign(f"yielded to {self._tenure.yielding_to}")

    def _writing(self) -> bool:
        """Whether a write to EC2 is under way; it must not come after the next holder's."""
        return any(key[0] in EC2_WRITES for key in self._jobs.running)

    def _left_over(self) -> bool:
        """Whether a floating address is still on an interface, by a fresh look.

        While the node's own addresses are not known, nothing has been removed: an earlier process may have left any.
        """
        self._look()
        observed = self._view.observed(self._outside.clock())
        names = floating_addresses(observed, self._config) if observed.own else set(self._config.floating.addresses)
        return self._kernel_changed or any(names & set(interface.addresses) for interface in observed.interfaces)

    def _took(self, now: float) -> float | None:
        return None if self._began is None else now - self._began

    def _announce(self, interface: HostInterface, address: Address) -> None:
        """Tell the link; the VPC's router does not need it, neighbours with a stale entry do."""
        try:
            self._outside.neighbours.announce(interface.name, interface.mac, address)
        except CallError as error:
            self._report.once("not announced", address=address, why=error.failure)

    def _act_on_ec2(self) -> None:
        """What is due and not under way; one call for addresses of one ENI."""
        if self._began is None:
            return
        now = self._outside.clock()
        due: list[CloudAction] = []
        for action in self._plan.actions:
            if isinstance(action, HostAction) or action.key in self._jobs.running:
                continue
            if self._just_done(action, now):
                self._reader.poll(self._reader.shown_by(action), now)
            elif self._retries.due(action.key, now):
                due.append(action)
        eni = [action for action in due if isinstance(action, EniAction)]
        vpc = [action for action in due if not isinstance(action, EniAction)]
        alone = self._retries.standing()
        for batch in [*((action,) for action in eni), *batches(vpc, alone.__contains__)]:
            self._submit_batch(Batch(tuple(batch), self._began))

    def _just_done(self, action: Change, now: float) -> bool:
        return now < self._done.get(action, float("-inf")) + SETTLE

    def _submit_batch(self, batch: Batch) -> None:
        ec2, token = self._outside.ec2, self._token
        keys = tuple(action.key for action in batch.actions)
        self._jobs.submit(keys, batch, lambda: apply_cloud(ec2, batch.actions, token))

    # health, status

    def _check_health(self) -> None:
        """Whether this node is fit to hold, judged once a RetryPeriod."""
        now = self._outside.clock()
        address = self._view.node_address(self._config.floating.addresses)
        if self._view.enis and not self._known:  # a node that has just learnt who it is should not wait for its turn
            self._known, self._health.next_check = True, now
        if self._health.check_due(now) and CHECK not in self._jobs.running:
            if self._config.health_check is not None and address:
                self._jobs.submit((CHECK,), lambda why: self._judge(str(why)), lambda: self._outside.check(address))
            else:
                self._judge("")
            self._health.checked(now)
        if self._began is None and self._health.probe_due(now) and PROBE not in self._jobs.running:
            self._health.probed(now)
            if self._tenure.holder and not self._tenure.leading:
                self._jobs.submit((PROBE,), self._report.probes, self._probe)

    def _judge(self, check: str) -> None:
        """Count a failure or forget them all, and let the elector know."""
        fatal = next((str(problem) for problem in self._plan.problems if problem.fatal), "")
        if not self._view.enis:
            fatal = "this node's ENIs are not known yet"
        # a kernel without nftables makes no node unfit: what does not need marks works, and the next node is like it
        wanted = {a.key for a in self._plan.actions if not isinstance(a, SetMarks | DeleteMarks)} | {KERNEL}
        standing, holds = telling(self._retries, wanted), self._began is not None
        if not holds or any(item.waits for item in self._plan.items):  # what is delivered needs no more reading
            standing = standing or self._reader.failing()
        self._elector.set_health(*self._health.judge(check, fatal, standing, holds=holds))

    def _probe(self) -> dict[str, bool]:
        """What a standby sees of the floating addresses; without NET_RAW, nothing."""
        seen = {}
        for address in self._config.floating.addresses:
            try:
                seen[str(address)] = self._outside.neighbours.echo(address, 1.0)
            except CallError:
                return {}
        return seen

    def _tell(self) -> None:
        """Logs and the status file; and the link, of what has just come to be delivered here."""
        new = {item.name for item in self._report.plan(self._plan, self._began is not None, self._health.why)}
        by_index = {each.index: each for each in self._view.interfaces}
        for device, address in self._plan.keep:
            if str(address) in new:
                self._announce(by_index[device], address)

    # wait, end

    def _wait(self) -> None:
        """Sleep until the kernel, the elector, a finished call, a timer or a signal wakes this thread."""
        now = self._outside.clock()
        keys = {action.key for action in self._plan.actions if not self._just_done(action, now)}
        vacated = self._vacated + WRITE_WITHIN if self._vacated is not None else now
        times = [
            self._retries.next_due(keys - self._jobs.running),
            self._reader.wake_at(),
            self._health.next_check if CHECK not in self._jobs.running else None,
            self._health.next_probe if self._began is None and PROBE not in self._jobs.running else None,
            self._tenure.until if self._began is not None else None,
            self._look_until if not self._tenure.known and now < self._look_until else None,
            now + LOOK_AGAIN if self._kernel_changed and self._retries.get(KERNEL) else None,
            vacated if vacated > now else None,
        ]
        until = min((at for at in times if at is not None), default=None)
        self._kernel_changed |= self._watch.wait(until)

    def _stop(self) -> int:
        """Hand over: the addresses go first, then the lease. It is kept where an address stays, until both run out."""
        self._tenure, self._began, self._outside.fence.open = self._elector.tenure(), None, False
        self._decide()
        for action in self._plan.actions:
            if isinstance(action, HostAction):
                self._apply_host(action)
        if self._tenure.leading:
            self._wait_for(lambda: not self._writing(), WRITE_WITHIN)
        if not self._left_over():
            if self._tenure.leading or not self._elector.released():
                self._elector.resign("told to stop", for_good=True)
            self._wait_for(self._elector.released, STOP_WITHIN)
        self._elector.stop()
        self._report.stopped(released=self._elector.released())
        return OK

    def _wait_for(self, done: Callable[[], bool], within: float) -> None:
        deadline = self._outside.clock() + within
        while not done() and self._outside.clock() < deadline:
            self._watch.wait(deadline)
            self._jobs.collect()
