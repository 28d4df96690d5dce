"""Init and sidecar: the loop. One thread decides; calls to AWS run on others and wake it when they are done."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from vipmanager.actions import (
    AssociateEip,
    Need,
    Plan,
    PodAction,
    SetRoute,
    VpcAction,
)
from vipmanager.apply import Done, Jobs, Key, RetryBook, apply_pod, apply_vpc, batches
from vipmanager.claims import ClaimStore
from vipmanager.config import Config
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.logs import event
from vipmanager.model import Address, Claim, Observed, PlacementKind
from vipmanager.observe import SETTLE, View, discover, known_to_imds
from vipmanager.plan import make_plan, make_release, needs_holder
from vipmanager.ports import DiscoveryPort, Ec2Port, NetlinkPort
from vipmanager.report import OK, Report
from vipmanager.watch import Watch

log = logging.getLogger("vipmanager")

EXIT_STOPPED = 143
STOP_WITHIN = 1.5
"""Seconds that a stopping sidecar gives its last calls; a pod's stop must not wait for AWS."""
REDISCOVER = 5.0
"""Seconds between questions to IMDS while an init run has not found any interface's ENI."""
RESYNC_JITTER = 0.2

ENIS: Key = ("fact", "discovery")
WARM_UP: Key = ("warm-up",)
KERNEL: Key = ("kernel",)
LAST_LOOK: Key = ("fact", "last")


@dataclass(frozen=True)
class Outside:
    """The ports, and what else the agent takes from outside: the clock and chance."""

    netlink: NetlinkPort
    imds: DiscoveryPort
    ec2: Ec2Port
    clock: Callable[[], float]
    random: Callable[[], float] = random.random
    settled: Callable[[], None] = lambda: None  # told once, when the start-up's work is done


class Agent:
    """Delivers the pod's floating addresses: once (init) or for as long as the pod lives (sidecar)."""

    def __init__(self, config: Config, outside: Outside, watch: Watch, store: ClaimStore, *, sidecar: bool) -> None:
        self._config, self._outside, self._watch, self._store = config, outside, watch, store
        self._sidecar = sidecar
        self._started = outside.clock()
        self._view = View(config.route_tables)
        self._claims: dict[Address, Claim] = store.load() if sidecar else {}
        self._jobs = Jobs(watch.wake)
        self._retries = RetryBook(outside.random)
        self._report = Report(config)
        self._observed, self._plan = Observed(), Plan()
        # A standby's sidecar reads EC2 before it is due, so that no describe is in the way when it is.
        self._refresh: set[Need] = {Need.TABLES, Need.STATES} if sidecar else set()
        self._verify_at: float | None = None
        self._resync_at = self._next_resync() if sidecar else None
        self._rediscover_at: float | None = None
        self._answered: set[Key] = set()
        self._kernel_changed = True
        self._due: float | None = None
        self._settled = False
        self._stopping = False

    def stop(self) -> None:
        """Ask the loop to end; may be called from a signal handler."""
        self._stopping = True
        self._watch.wake()

    def run(self) -> int:
        """The loop: observe, plan, apply, wait. Returns the exit code."""
        self._warm_up()
        while not self._stopping:
            if self._collect():
                self._observe()
                self._decide()
                self._act()
                code = self._finished()
                if code is not None:
                    return code
            self._wait()
        return self._stop()

    def _warm_up(self) -> None:
        """Let IMDS answer and the SDK load while this thread loads what the kernel needs."""
        self._jobs.submit((WARM_UP,), None, self._outside.ec2.warm_up)
        self._start(ENIS, lambda: known_to_imds(self._outside.imds), lambda enis: self._view.learn_enis(enis, ()))

    # observe

    def _collect(self) -> bool:
        """Fold finished calls into the view; whether there may be something to decide.

        There is not while route writes come back as expected and others are under way: a round for each of a hundred
        would cost more than the writes.
        """
        now = self._outside.clock()
        finished = self._jobs.collect()
        for done in finished:
            if done.crash is not None:
                raise done.crash
            if isinstance(done.subject, tuple):
                self._collect_actions(done, now)
            elif done.subject is not None:
                self._collect_fact(done, now)
        expected = finished and all(done.failure is None and _writes_route(done.subject) for done in finished)
        due = self._kernel_changed or (self._due is not None and now >= self._due)
        return due or not (expected and self._jobs.running)

    def _collect_fact(self, done: Done, now: float) -> None:
        key = done.keys[0]
        if done.failure is not None:
            self._report.failed(key, self._retries.failed(key, done.failure, now))
            if self._sidecar:
                self._refresh |= {need for need in Need if key == ("fact", need.name)}
            return
        done.subject(done.value)
        self._answered.add(key)

    def _collect_actions(self, done: Done, now: float) -> None:
        for action in done.subject:
            if done.failure is None:
                self._retries.succeeded(action.key)
                self._report.applied(action)
                self._view.wrote(action, now)
                self._verify_at = now + SETTLE
                continue
            if len(done.subject) > 1 and done.failure.kind is not ErrorKind.RETRY:  # one of them spoils it for all
                self._retries.alone(action.key, done.failure, now)
                continue
            retry = self._retries.failed(action.key, done.failure, now)
            self._report.failed(action.key, retry, action, self._view.fullness(action))
            if done.failure.kind is ErrorKind.RACE:
                self._refresh.add(Need.TABLES)
            elif done.failure.kind is not ErrorKind.RETRY:
                self._view.doubt(action)
                if isinstance(action, AssociateEip) and done.failure.kind is not ErrorKind.DENIED:
                    self._refresh |= {Need.EIPS, Need.STATES}  # it, or the private address, is no longer ours to bind

    def _observe(self) -> None:
        """Read the kernel if it may have changed, and see which timers have run out."""
        now = self._outside.clock()
        self._view.at = now if self._view.at else self._started
        if self._resync_at is not None and now >= self._resync_at:
            self._resync_at = self._next_resync()
            self._kernel_changed = True
            self._refresh |= {Need.TABLES, Need.STATES} | ({Need.SUBNETS} if self._view.subnets is not None else set())
            self._refresh |= {Need.EIPS} if self._view.eips else set()
            self._view.foreign = frozenset()
        verify = [at for at in (self._verify_at, self._view.recheck_at) if at is not None and at <= now]
        if verify:
            self._verify_at = self._view.recheck_at = None
            if self._sidecar:
                self._refresh |= self._kinds_to_verify()
        if self._rediscover_at is not None and now >= self._rediscover_at:
            self._rediscover_at = None
            self._view.foreign = frozenset()
        if self._kernel_changed and self._retries.due(KERNEL, now):
            self._look(now)

    def _look(self, now: float) -> None:
        try:
            self._view.look(self._outside.netlink)
        except CallError as error:
            self._report.failed(KERNEL, self._retries.failed(KERNEL, error.failure, now))
        else:
            self._kernel_changed = False
            self._retries.succeeded(KERNEL)
            self._report.recovered(KERNEL)

    def _kinds_to_verify(self) -> set[Need]:
        kinds = {claim.kind for claim in self._claims.values()}
        needs = {Need.STATES if kind is PlacementKind.ENI_ADDRESS else Need.TABLES for kind in kinds}
        return needs | ({Need.EIPS} if Need.STATES in needs and self._view.eips else set())

    def _next_resync(self) -> float | None:
        interval = self._config.resync_interval
        jitter = 1.0 + RESYNC_JITTER * (2.0 * self._outside.random() - 1.0)
        return self._outside.clock() + interval * jitter if interval else None

    # decide

    def _decide(self) -> None:
        """Plan, and keep what it says of the claims."""
        observed = self._observed = self._view.observed()
        self._plan = make_plan(observed, self._claims, self._config)
        self._report.discovered(observed)
        self._report.decided(self._plan, self._claims, observed)
        self._claims = dict(self._plan.claims)
        self._store.save(self._claims)
        self._weigh_answers(observed)

    def _weigh_answers(self, observed: Observed) -> None:
        """An answer that leaves the plan asking for the same is a failure: it is asked again later, not at once."""
        for key in self._answered:
            need = next((need for need in self._plan.needs if ("fact", need.name) == key), None)
            if need is None:
                self._retries.succeeded(key)
                self._report.recovered(key)
            else:
                missing = Failure(
                    ErrorKind.RETRY, "ec2:Describe…", "NotShown", f"EC2 does not show {need.value} in full"
                )
                self._report.failed(key, self._retries.failed(key, missing, self._outside.clock()))
        self._answered.clear()
        if not self._sidecar and observed.foreign and not self._plan.claims and self._rediscover_at is None:
            self._rediscover_at = self._outside.clock() + REDISCOVER

    # act

    def _act(self) -> None:
        """Start what is due and not under way: the pod's side here and now, AWS's on other threads."""
        now = self._outside.clock()
        self._ask(now)
        ready = [action for action in self._plan.actions if self._ready(action.key, now)]
        for action in ready:
            if isinstance(action, PodAction):
                self._apply_pod(action, now)
        calls = [action for action in ready if not isinstance(action, PodAction)]
        self._call(batches(calls, alone=lambda key: self._retries.get(key) is not None))
        self._retries.keep({action.key for action in self._plan.actions} | self._fact_keys() | self._jobs.running)
        self._report.flush()

    def _call(self, batched: list[tuple[VpcAction, ...]]) -> None:
        for batch in batched:
            self._jobs.submit(tuple(a.key for a in batch), batch, partial(apply_vpc, self._outside.ec2, batch))

    def _ready(self, key: Key, now: float) -> bool:
        return key not in self._jobs.running and self._retries.due(key, now)

    def _apply_pod(self, action: PodAction, now: float) -> None:
        try:
            apply_pod(self._outside.netlink, action)
        except CallError as error:
            self._report.failed(action.key, self._retries.failed(action.key, error.failure, now), action)
        else:
            self._retries.succeeded(action.key)
            self._report.applied(action)
            self._kernel_changed = True  # the pod's side is done when the kernel says so
            self._watch.wake()

    def _ask(self, now: float) -> None:
        """Ask for the facts that the plan lacks or that are to be read again."""
        pending = sorted(self._observed.pending)
        if pending and self._ready(ENIS, now):
            self._start(
                ENIS,
                lambda: discover(pending, self._outside.imds, self._outside.ec2),
                lambda enis: self._view.learn_enis(enis, pending),
            )
        for need in sorted(self._plan.needs | self._refresh, key=lambda need: need.name):
            key = ("fact", need.name)
            if not self._ready(key, now) or not self._eni_ids():
                continue
            self._refresh.discard(need)
            self._start(key, *self._question(need, now))

    def _eni_ids(self) -> list[str]:
        """The known ENIs behind the pod and its claims; while there are none, there is nothing to ask EC2 about."""
        macs = {interface.mac for interface in self._view.interfaces}
        claimed = {claim.eni_id for claim in self._claims.values()}
        return sorted(eni.id for mac, eni in self._view.enis.items() if mac in macs or eni.id in claimed)

    def _start(self, key: Key, call: Callable[[], Any], learn: Callable[[Any], None]) -> None:
        self._jobs.submit((key,), learn, call)

    def _question(self, need: Need, now: float) -> tuple[Callable[[], Any], Callable[[Any], None]]:
        """What to call for a fact, and who learns the answer. A fact is as old as the question."""
        view, ec2 = self._view, self._outside.ec2
        ids = self._eni_ids()
        vpc_id = next(eni.vpc_id for eni in view.enis.values() if eni.id in ids)
        if need is Need.TABLES:
            return lambda: ec2.route_tables(vpc_id), view.learn_tables
        if need is Need.SUBNETS:
            return lambda: ec2.subnets(vpc_id), lambda subnets: setattr(view, "subnets", subnets)
        if need is Need.STATES:
            return lambda: ec2.enis(ids), lambda found: view.learn_states(found, ids, now)
        if need is Need.EIPS:
            eips = sorted(eip for bound in self._config.eips.values() for eip in bound.values())
            return lambda: ec2.elastic_ips(eips), lambda found: view.learn_eips(found, eips, now)
        addresses = [address for address, claim in self._claims.items() if needs_holder(claim)]
        return lambda: ec2.enis_holding(vpc_id, addresses), lambda found: view.learn_holders(found, addresses, now)

    def _fact_keys(self) -> set[Key]:
        """The facts that are asked for; a failure to get another one is forgotten, and nobody waits for its turn."""
        pending = {ENIS} if self._observed.pending else set()
        needs = self._plan.needs | self._refresh if self._eni_ids() else ()
        return {KERNEL, *pending, *(("fact", need.name) for need in needs)}

    # wait, end

    def _wait(self) -> None:
        """Sleep until the kernel, a finished call, a timer or a signal says that there may be something to do."""
        if not self._settled and not self._jobs.running:
            self._settled = True
            self._outside.settled()
        self._due = self._wake_at()
        self._kernel_changed |= self._watch.wait(self._due)

    def _wake_at(self) -> float | None:
        keys = {action.key for action in self._plan.actions} | self._fact_keys()
        times = [
            self._plan.wake_at,
            self._retries.next_due(keys - self._jobs.running),
            self._resync_at,
            self._verify_at if self._sidecar else None,
            self._view.recheck_at if self._sidecar else None,
            self._rediscover_at,
            None if self._sidecar else self._started + self._config.init_timeout,
        ]
        return min((at for at in times if at is not None), default=None)

    def _finished(self) -> int | None:
        """An init run's exit code when nothing is left to do or to hope for; None while there is."""
        late = self._outside.clock() >= self._started + self._config.init_timeout
        if self._sidecar or (self._jobs.running - {WARM_UP} and not late):
            return None
        return self._report.verdict(self._plan, self._observed, self._retries.standing(), late)

    def _stop(self) -> int:
        """A sidecar releases what its settings say, in bounded time; an init run that is stopped has not succeeded."""
        if not self._sidecar:
            event(log, logging.WARNING, "stopped", why="told to stop before it was done")
            return EXIT_STOPPED
        told = self._outside.clock()
        deadline = told + STOP_WITHIN
        if self._config.delete_routes_on_exit and self._eni_ids():
            self._start(LAST_LOOK, *self._question(Need.TABLES, self._outside.clock()))
            self._drain(deadline, {LAST_LOOK})
        released = make_release(self._view.observed(), self._claims, self._config, told)
        # Each alone: there is no time for a second attempt at what was refused together.
        self._call(batches(released, alone=lambda _: True))
        self._drain(deadline, self._jobs.running)
        failed = self._jobs.running | set(self._retries.standing())
        gone = {action.address for action in released if action.key not in failed}
        self._store.save({address: claim for address, claim in self._claims.items() if address not in gone})
        self._report.flush()
        event(log, logging.INFO, "stopped", released=",".join(sorted(map(str, gone))) or "none")
        return OK

    def _drain(self, deadline: float, keys: set[Key]) -> None:
        """Wait for these of the calls under way, until the deadline."""
        self._collect()
        while self._jobs.running & keys and self._outside.clock() < deadline:
            self._watch.wait(deadline)
            self._collect()


def _writes_route(subject: Any) -> bool:
    return isinstance(subject, tuple) and all(isinstance(action, SetRoute) for action in subject)
