"""Init and sidecar: the loop. One thread decides; calls to AWS run on others and wake it when they are done."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vipmanager.actions import AssociateEip, DeleteRoute, Need, Plan, PodAction, SetRoute, VpcAction
from vipmanager.apply import UNWANTED, Done, Jobs, Key, RetryBook, Wants, always, apply_pod, apply_vpc, batches
from vipmanager.claims import ClaimStore
from vipmanager.config import Config
from vipmanager.crowd import Look, look
from vipmanager.errors import CallError, ErrorKind, Failure
from vipmanager.facts import Question, eni_ids, question
from vipmanager.logs import event
from vipmanager.model import Address, Claim, Observed, PlacementKind
from vipmanager.monitor import Monitor
from vipmanager.observe import SETTLE, View, discover, known_to_imds
from vipmanager.pacer import Pacer
from vipmanager.plan import make_plan, make_release
from vipmanager.plan.release import released
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
TABLES: Key = ("fact", Need.TABLES.name)
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
    monitor: Monitor = field(default_factory=lambda: Monitor(""))


class Agent:
    """Delivers the pod's floating addresses: once (init) or for as long as the pod lives (sidecar)."""

    def __init__(self, config: Config, outside: Outside, watch: Watch, store: ClaimStore, *, sidecar: bool) -> None:
        self._config, self._outside, self._watch, self._store = config, outside, watch, store
        self._sidecar = sidecar
        self._started = outside.clock()
        self._view = View(config.route_tables)
        self._claims: dict[Address, Claim] = store.load(self._started) if sidecar else {}
        self._jobs = Jobs(watch.wake)
        self._retries = RetryBook(outside.random)
        self._pacer = Pacer(outside.random)
        self._report = Report(config, outside.monitor)
        self._observed, self._plan = Observed(), Plan()
        # A standby's sidecar reads EC2 before it is due, so that no describe is in the way when it is.
        self._refresh: set[Need] = {Need.TABLES, Need.STATES} if sidecar else set()
        self._verify_at: float | None = None
        self._resync_at = self._next_resync() if sidecar else None
        self._rediscover_at: float | None = None
        self._answered: set[Key] = set()
        self._lacked: set[Key] = set()  # facts that were asked for because the plan lacked them
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
            self._outside.monitor.beat()
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
        would cost more than the writes. Nor is there when this thread was only asked whether it lives.
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
        return due or bool(finished and (self._pacer.ready or not (expected and self._jobs.running)))

    def _collect_fact(self, done: Done, now: float) -> None:
        key = done.keys[0]
        if done.failure is not None:
            self._report.failed(key, self._retries.failed(key, done.failure, now))
            if self._sidecar:
                self._refresh |= {need for need in Need if key == ("fact", need.name)}
            return
        done.subject(done.value)
        self._answered.add(key)
        self._report.answered(key)

    def _collect_actions(self, done: Done, now: float) -> None:
        self._pacer.answered(done.subject, done.failure, now)
        for action in done.subject if done.failure is not UNWANTED else ():
            if done.failure is None:
                self._retries.succeeded(action.key)
                self._report.applied(action)
                self._view.wrote(action, now, raced=done.value is True)
                self._verify_at = now + SETTLE
                continue
            if done.failure.throttled:
                self._report.failed(action.key, self._retries.throttled(action.key, done.failure, now), action)
                continue
            if len(done.subject) > 1 and done.failure.kind is not ErrorKind.RETRY:  # one of them spoils it for all
                self._retries.alone(action.key, done.failure, now)
                continue
            retry = self._retries.failed(action.key, done.failure, now)
            self._report.failed(action.key, retry, action, self._view.fullness(action))
            if done.failure.kind is ErrorKind.RACE:
                self._refresh.add(Need.TABLES)
            elif done.failure.kind not in (ErrorKind.RETRY, ErrorKind.DENIED, ErrorKind.LIMIT):
                self._view.doubt(action)
                if isinstance(action, AssociateEip):
                    self._refresh |= {Need.EIPS, Need.STATES}  # it, or the private address, is no longer ours to bind

    def _observe(self) -> None:
        """Read the kernel if it may have changed, and see which timers have run out."""
        now = self._outside.clock()
        self._view.at = now if self._view.at else self._started
        if self._resync_at is not None and now >= self._resync_at:
            self._resync_at = self._next_resync()
            self._report.compares()
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
        before = self._claims
        if self._sidecar:
            self._view.claimed(before, self._plan.claims)
        self._claims = dict(self._plan.claims)
        if not self._sidecar:  # an init run takes nothing back: it will be gone when its policy's time has come
            self._claims = {address: claim for address, claim in self._claims.items() if claim.vanished is None}
        self._store.save(self._claims)  # before it is said: who is killed in between must not claim it anew
        self._report.discovered(observed)
        self._report.decided(self._plan, before, observed)
        self._weigh_answers(observed)

    def _weigh_answers(self, observed: Observed) -> None:
        """An answer that leaves the plan asking for the same is a failure: it is asked again later, not at once."""
        for key in self._answered:
            need = next((need for need in self._plan.needs if ("fact", need.name) == key), None)
            if need is None:
                self._retries.succeeded(key)
                self._report.recovered(key)
            elif key in self._lacked:
                missing = Failure(
                    ErrorKind.RETRY, "ec2:Describe…", "NotShown", f"EC2 does not show {need.value} in full"
                )
                self._report.failed(key, self._retries.failed(key, missing, self._outside.clock()))
        self._lacked -= self._answered
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
        self._call_paced(calls, now)
        wanted = {action.key for action in self._plan.actions} | self._fact_keys() | self._jobs.running
        if Need.HOLDERS in self._plan.needs:  # an address that was refused is not planned while its holder is read
            wanted |= {key for key in self._retries.standing() if key[0] == "address"}
        self._retries.keep(wanted)
        self._report.keep(wanted)
        failures = self._retries.standing(self._pacer.next_at())
        self._report.round(self._plan, failures, looked=not self._kernel_changed)

    def _call_paced(self, due: list[VpcAction], now: float) -> None:
        """Call as EC2's throttle has room; the pacer may want to see the tables before it lets more go."""

        def tables() -> Look:
            enis = {eni.id for eni in self._observed.enis.values()}
            return look(self._observed.tables, {action.key for action in self._plan.actions}, enis)

        start = not (self._sidecar and self._settled)  # others may start with it; a move while it runs must not wait
        self._call(self._pacer.admit(batches(due, self._retries.sole), now, tables, start), self._wants)
        since = self._pacer.look_since
        if since is not None and TABLES not in self._jobs.running and tables().seen < since:
            self._refresh.add(Need.TABLES)
            self._ask(now)

    def _wants(self, action: VpcAction) -> bool:
        return self._plan.wants(action)

    def _call(self, batched: list[tuple[VpcAction, ...]], wants: Wants) -> None:
        for batch in batched:
            self._jobs.submit(tuple(a.key for a in batch), batch, partial(apply_vpc, self._outside.ec2, batch, wants))

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
            self._lacked |= {key} if need in self._plan.needs else set()
            self._start(key, *self._question(need, now))

    def _eni_ids(self) -> list[str]:
        return eni_ids(self._view, self._claims)

    def _start(self, key: Key, call: Callable[[], Any], learn: Callable[[Any], None]) -> None:
        self._jobs.submit((key,), learn, call)

    def _question(self, need: Need, now: float) -> Question:
        return question(need, self._view, self._claims, self._config, self._outside.ec2, now)

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
        self._outside.monitor.rest()
        self._kernel_changed |= self._watch.wait(self._due)

    def _wake_at(self) -> float | None:
        keys = {action.key for action in self._plan.actions} | self._fact_keys()
        times = [
            self._plan.wake_at,
            self._retries.next_due(keys - self._jobs.running - self._pacer.held),
            self._pacer.next_at(),
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
        code = self._report.verdict(self._plan, self._observed, self._retries.standing(), late)
        if code is not None:
            self._outside.monitor.ended("failed" if code else "ok")
        return code

    def _stop(self) -> int:
        """A sidecar releases what its settings say, in bounded time; an init run that is stopped has not succeeded."""
        if not self._sidecar:
            event(log, logging.WARNING, "stopped", why="told to stop before it was done")
            self._outside.monitor.ended("stopped")
            return EXIT_STOPPED
        told = self._outside.clock()
        deadline = told + STOP_WITHIN
        self._plan = Plan()  # what waits for its turn is not done any more; what EC2 has been told is waited for
        writes = {key for key in self._jobs.running if key[0] != "fact" and key != WARM_UP}
        self._drain(told + STOP_WITHIN / 2, writes)
        if self._config.delete_routes_on_exit and self._eni_ids():
            self._start(LAST_LOOK, *self._question(Need.TABLES, self._outside.clock()))
            self._drain(deadline, {LAST_LOOK})
        wanted = make_release(self._view.observed(), self._claims, self._config, told)
        # Each alone: there is no time for a second attempt at what was refused together.
        self._call(batches(wanted, alone=lambda _: True), always)
        self._drain(deadline, self._jobs.running)
        failed = {key for key, retry in self._retries.standing().items() if retry.failure.kind is not ErrorKind.RACE}
        outcome = released(self._claims, wanted, failed | self._jobs.running)
        self._store.save(outcome.claims)
        self._report.stopped(outcome, self._retries.standing())
        self._outside.monitor.ended("stopped")
        return OK

    def _drain(self, deadline: float, keys: set[Key]) -> None:
        """Wait for these of the calls under way, until the deadline."""
        self._collect()
        while self._jobs.running & keys and self._outside.clock() < deadline:
            self._watch.wait(deadline)
            self._collect()


def _writes_route(subject: Any) -> bool:
    return isinstance(subject, tuple) and all(isinstance(action, SetRoute | DeleteRoute) for action in subject)
