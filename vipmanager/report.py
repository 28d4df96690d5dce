"""What an operator is told: events when something changes, never the same line twice; and an init run's verdict."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from ipaddress import ip_network

from vipmanager.actions import Action, AssignAddress, Need, Plan, SetRoute, UnassignAddress
from vipmanager.apply import Key, Retry
from vipmanager.config import Config
from vipmanager.errors import ErrorKind, Failure
from vipmanager.failing import Failing, Reason
from vipmanager.lines import Lines, listed
from vipmanager.logs import event
from vipmanager.model import (
    Address,
    Claim,
    Claims,
    Network,
    Observed,
    PlacementKind,
    Problem,
)
from vipmanager.monitor import Monitor
from vipmanager.plan.holdings import Holding, Standing, holdings
from vipmanager.plan.pod import lacking
from vipmanager.plan.release import Released, place

log = logging.getLogger("vipmanager")

OK, FAILED = 0, 1
LASTING = 3
"""Attempts after which a failure that may pass is told to Kubernetes; the log has it from the first."""


FULL = frozenset((Need.TABLES.name, Need.STATES.name))
"""The facts that compare EC2 in full."""


class Report:
    """Remembers what was said, and tells the monitor. Used from the agent's thread only."""

    def __init__(self, config: Config, monitor: Monitor | None = None) -> None:
        self._config = config
        self._monitor = monitor or Monitor("")
        self._compares = False
        self._problems: frozenset[Problem] = frozenset()
        self._foreign: set[tuple[str, str]] = set()
        self._known: set[str] = set()
        self._failing = Failing(self._monitor)
        self._unsaid: defaultdict[Reason, list[tuple[str, Failure, int | None]]] = defaultdict(list)
        self._again: list[str] = []
        self._complete: dict[Address, Claim] = {}
        self._moved_from: dict[Network, set[str]] = {}
        self._lines = Lines()
        self._drifted: set[tuple[Address, str]] = set()
        self._lacking = False
        self._observed = Observed()
        self._standings: dict[Address, Mapping[str, Holding]] = {}

    # the pod's interfaces

    def discovered(self, observed: Observed) -> None:
        """Name each pod interface and its ENI once; interfaces that are no ENI's once, too."""
        for interface in observed.interfaces:
            eni = observed.enis.get(interface.mac)
            if eni is not None and interface.name not in self._known:
                self._known.add(interface.name)
                addresses = listed(interface.addresses) or "none"
                event(
                    log,
                    logging.INFO,
                    "interface",
                    name=interface.name,
                    eni=eni.id,
                    index=eni.device_index,
                    addresses=addresses,
                )
            elif interface.mac in observed.foreign and (interface.name, interface.mac) not in self._foreign:
                self._foreign.add((interface.name, interface.mac))
                event(
                    log,
                    logging.WARNING,
                    "ignored",
                    interface=interface.name,
                    mac=interface.mac or "none",
                    why="no ENI of this worker has its MAC",
                )

    # claims and problems

    def decided(self, plan: Plan, before: Claims, observed: Observed) -> None:
        """Say which claims were completed, conceded or given up, and which problems came or went."""
        self._observed, self._standings = (
            observed,
            {address: holdings(claim, observed) for address, claim in plan.claims.items()},
        )
        for address, claim in plan.claims.items():
            self._claim(address, claim, before.get(address), self._standings[address])
        for address in [address for address in before if address not in plan.claims]:
            self._complete.pop(address, None)
            self._moved_from.pop(ip_network(address), None)
            eni = before[address].eni_id
            text = f"{{}} left the pod and is no longer delivered to {eni}"
            self._lines.add(logging.INFO, "withdrawn", before[address], reason="Withdrawn", text=text, eni=eni)
        self._lines.say(log, self._monitor.emit)
        for address, claim in self._complete.items() if self._moved_from else ():
            for destination in (claim.destination, ip_network(address)):
                self._moved_from.pop(destination, None)
        for address, claim in plan.claims.items():
            self._bound(claim, before.get(address), observed)
        problems = frozenset(plan.problems)
        for problem in sorted(problems - self._problems, key=str):
            event(
                log,
                logging.ERROR if problem.fatal else logging.WARNING,
                "problem",
                of=problem.subject,
                why=problem.text,
            )
            if problem.fatal:
                self._monitor.emit("Failing", str(problem), warning=True, about=problem.subject)
        self._problems = problems

    def _claim(self, address: Address, claim: Claim, old: Claim | None, standing: Mapping[str, Holding]) -> None:
        if claim.conceded_to:
            self._complete.pop(address, None)
            if old is None or old.conceded_to != claim.conceded_to:
                to, text = claim.conceded_to, f"{{}} was taken over by {claim.conceded_to}"
                self._lines.add(
                    logging.WARNING, "conceded", claim, reason="Conceded", text=text, eni=claim.eni_id, to=to
                )
                self._monitor.add("vipmanager_concessions_total")
            return
        if claim.vanished is not None:
            self._complete.pop(address, None)
            if old is not None and old.vanished is None:
                self._lines.add(logging.INFO, "address gone", claim, eni=claim.eni_id)
            return
        known = self._complete.get(address)
        if known is not None and known.since == claim.since:
            self._drift(claim, standing)
        if not standing or not all(holding.ours_since(claim.since) for holding in standing.values()):
            return
        self._complete[address] = claim
        if known is not None and known.since == claim.since:
            return
        self._complete_anew(claim, standing)

    def _complete_anew(self, claim: Claim, standing: Mapping[str, Holding]) -> None:
        """Say that a claim has been completed."""
        routed = claim.kind is not PlacementKind.ENI_ADDRESS
        before = (self._moved_from.get(to, set()) for to in (claim.destination, ip_network(claim.address)))
        moved_from = ",".join(sorted(set().union(*before) - {claim.eni_id}))
        how = f"{claim.kind.value} in {len(standing)} route tables" if routed else claim.kind.value
        moved = f", moved from {moved_from}" if moved_from else ""
        self._lines.add(
            logging.INFO,
            "claimed",
            claim,
            reason="Claimed",
            text=f"{{}} is delivered to {claim.eni_id} ({how}){moved}",
            placement=claim.kind.value,
            destination=claim.destination if claim.kind is PlacementKind.SUBNET_ROUTE else None,
            eni=claim.eni_id,
            tables=len(standing) if routed else None,
            moved_from=moved_from,
            took=max(holding.seen for holding in standing.values()) - claim.since,
        )
        self._monitor.claimed(claim.address)

    def _drift(self, claim: Claim, standing: Mapping[str, Holding]) -> None:
        """Count what was ours and is no more, though the address stayed here and no live ENI took it over."""
        for target, holding in standing.items():
            item = (claim.address, target)
            if holding.standing is Standing.OURS:
                self._drifted.discard(item)
            elif holding.standing is not Standing.UNKNOWN and target in claim.held and item not in self._drifted:
                self._drifted.add(item)
                self._monitor.add("vipmanager_drift_total")
                found = holding.holder or "nothing"
                self._lines.add(logging.WARNING, "drift", claim, at=target, found=found)

    def _bound(self, claim: Claim, old: Claim | None, observed: Observed) -> None:
        """Name an Elastic IP when it is first known to be bound to a claim's address."""
        before = old.held if old is not None and old.since == claim.since else {}
        for allocation_id in sorted(set(claim.held) - set(before)):
            eip = observed.eips.get(allocation_id)
            if eip is not None:
                event(
                    log,
                    logging.INFO,
                    "bound",
                    eip=eip.allocation_id,
                    public=eip.public_ip,
                    address=claim.address,
                    eni=claim.eni_id,
                    took=eip.seen - claim.since,
                )

    # outcomes

    def applied(self, action: Action) -> None:
        """A write succeeded; the story is told by its claim, the detail at DEBUG."""
        self._note_holder(action)
        event(log, logging.DEBUG, "applied", action=action)
        self._monitor.add("vipmanager_actions_total", kind=action.key[0], result="ok")
        self.recovered(action.key)

    def _note_holder(self, action: Action) -> None:
        """Who had what has become ours, as far as that is known: nobody asks who has an IPv4 address that is taken."""
        if isinstance(action, SetRoute):
            holder, to = action.replaces, action.destination
        elif isinstance(action, AssignAddress | UnassignAddress):
            seen, to = self._standings.get(action.address, {}), ip_network(action.address)
            if isinstance(action, AssignAddress):
                holder = seen[action.eni_id].holder if action.eni_id in seen else ""
            else:  # another's, if it is taken over, and else our own
                holder = action.eni_id if seen and action.eni_id not in seen else ""
        else:
            return
        if holder:
            self._moved_from.setdefault(to, set()).add(holder)

    def failed(self, key: Key, retry: Retry, action: Action | None = None, fullness: int | None = None) -> None:
        """A call failed: noted for `flush` when the reason is new for this item."""
        if action is not None:
            self._monitor.add("vipmanager_actions_total", kind=action.key[0], result=retry.failure.kind.value)
        what, failure = str(action or " ".join(key)), retry.failure
        if self._failing.failed(key, failure, what, lasting=retry.standing or retry.attempts >= LASTING):
            self._unsaid[failure.call, failure.code].append((what, failure, fullness))

    def recovered(self, key: Key) -> None:
        """What failed before succeeded: noted for `flush`."""
        if self._failing.succeeded(key):
            self._again.append(" ".join(key))

    def keep(self, wanted: Collection[Key]) -> None:
        """See RetryBook.keep."""
        self._failing.keep(wanted.__contains__)

    def compares(self) -> None:
        """A resync begins."""
        self._monitor.compare(FULL if self._compares else ())

    def answered(self, key: Key) -> None:
        """EC2 has told a fact."""
        self._monitor.compared(key[-1])

    def round(self, plan: Plan, retries: Mapping[Key, Retry], *, looked: bool) -> None:
        """The end of a round: what failed in it, and the state of each address. `looked`: the kernel was read."""
        from vipmanager import status_pod  # by now calls are under way: its import delays no claim

        self.flush()
        monitor, seen = self._monitor, status_pod.Seen(plan, self._observed, retries, looked)
        found = status_pod.entries(seen, self._standings)
        self._weigh_comparison(plan)
        if looked:
            self._say_lacking()
        since = monitor.since({str(entry.address): (entry.state, entry.conceded_to) for entry in found})
        here = {address for interface in self._observed.interfaces for address in interface.addresses}
        monitor.publish(
            status_pod.document(seen, found, monitor.unix, since),
            status_pod.not_ready(seen, found),
            here | set(plan.claims),
        )
        monitor.replace("vipmanager_addresses", status_pod.tally(found))
        monitor.replace("vipmanager_problems", status_pod.problem_tally(plan.problems))
        monitor.progress(under_way=status_pod.under_way(seen, found), began=self._observed.at)

    def _say_lacking(self) -> None:
        why = lacking(self._observed)
        if why and not self._lacking:
            event(log, logging.WARNING, "no interface", why=why)
        self._lacking = bool(why)

    def _weigh_comparison(self, plan: Plan) -> None:
        """EC2 is compared at intervals, if these are not off, while the pod has an ENI or a claim."""
        macs = {interface.mac for interface in self._observed.interfaces} - self._observed.foreign
        compares = bool(macs or plan.claims) and bool(self._config.resync_interval)
        if compares != self._compares:
            self._compares = compares
            self.compares()

    def flush(self) -> None:
        """Say what failed since the last time, one line for each reason: an outage of EC2 hits all tables at once."""
        for (call, code), items in sorted(self._unsaid.items()):
            first, failure, fullness = items[0]
            event(
                log,
                logging.WARNING,
                "failed",
                item=first,
                others=len(items) - 1 or None,
                code=code,
                kind=failure.kind.value,
                full_with=fullness if failure.kind is ErrorKind.LIMIT else None,
                why=f"{call}: {failure.message}",
                remedy=failure.remedy,
            )
        if self._again:
            event(log, logging.INFO, "recovered", item=self._again[0], others=len(self._again) - 1 or None)
        self._failing.tell_ended()
        self._unsaid.clear()
        self._again.clear()

    # the end

    def stopped(self, outcome: Released, retries: Mapping[Key, Retry]) -> None:
        """A sidecar ends: which addresses it has released, and which it could not."""
        self.flush()
        rest: defaultdict[tuple[str, str], list[tuple[Address, str]]] = defaultdict(list)
        for address, actions in outcome.left.items():
            failures = [retries[action.key].failure for action in actions if action.key in retries]
            if any(failure.kind is ErrorKind.LOST for failure in failures):
                continue  # another has it: there was nothing to release
            code, why = (failures[0].code, failures[0].brief) if failures else ("", "EC2 has not answered in time")
            rest[",".join(sorted(map(place, actions))), code].append((address, why))
        for (at, _), items in sorted(rest.items()):
            addresses = listed([address for address, _ in items])
            event(log, logging.WARNING, "not released", addresses=addresses, at=at, why=items[0][1])
        event(log, logging.INFO, "stopped", released=listed(outcome.gone) or "none")

    def verdict(self, plan: Plan, observed: Observed, failures: Mapping[Key, Retry], late: bool) -> int | None:
        """The exit code of an init run, or None while there is something left to do or to wait for."""
        fatal = [problem for problem in plan.problems if problem.fatal]
        standing = {key for key, retry in failures.items() if retry.standing}
        open_actions = [action for action in plan.actions if action.key not in standing]
        open_facts = [need for need in plan.needs if ("fact", need.name) not in standing]
        undiscovered = bool(observed.pending) and ("fact", "discovery") not in standing
        nothing_yet = not _has_addresses(observed) and not (standing and observed.pending)
        if not late and (open_actions or open_facts or undiscovered or nothing_yet):
            return None
        if not fatal and not failures and not (open_actions or open_facts or nothing_yet):
            conceded = [address for address, claim in plan.claims.items() if claim.conceded_to]
            event(log, logging.INFO, "done", addresses=len(plan.claims), conceded=",".join(map(str, conceded)) or None)
            return OK
        self._failed_init(fatal, failures, observed, nothing_yet, late)
        unfinished = [(action.key, str(action)) for action in open_actions]
        unfinished += [(("fact", need.name), f"asking EC2 for {need.value}") for need in open_facts]
        for key, item in unfinished:
            if key not in failures:
                event(log, logging.ERROR, "missing", item=item, why="still under way")
        return FAILED

    def _failed_init(
        self, fatal: list[Problem], failures: Mapping[Key, Retry], observed: Observed, nothing: bool, late: bool
    ) -> None:
        if nothing:
            event(
                log, logging.ERROR, "nothing to deliver", seen=_seen(observed), waited=f"{self._config.init_timeout:g}s"
            )
        for problem in fatal:
            event(log, logging.ERROR, "missing", item=problem.subject, why=problem.text)
        for key, retry in sorted(failures.items()):
            event(
                log,
                logging.ERROR,
                "missing",
                item=" ".join(key),
                why=str(retry.failure),
                attempts=retry.attempts or None,
            )
        event(
            log,
            logging.ERROR,
            "failed",
            missing=len(fatal) + len(failures) or None,
            why=f"InitTimeout of {self._config.init_timeout:g}s reached" if late else None,
        )


def _has_addresses(observed: Observed) -> bool:
    """Whether any interface that is an ENI's is up and has a floating address."""
    return any(each.up and each.addresses and each.mac in observed.enis for each in observed.interfaces)


def _seen(observed: Observed) -> str:
    """The pod's interfaces in one line, for whoever wonders why there is nothing to do."""
    lines = []
    for interface in observed.interfaces:
        eni = observed.enis.get(interface.mac)
        addresses = ",".join(map(str, interface.addresses)) or "no global address"
        owner = eni.id if eni else "no ENI of this worker" if interface.mac in observed.foreign else "ENI not known"
        state = "up" if interface.up else "down"
        lines.append(f"{interface.name} ({interface.mac or 'no MAC'}, {owner}, {state}): {addresses}")
    return "; ".join(lines) or "no interface besides lo and eth0"
