"""What an operator is told: events when something changes, never the same line twice; and an init run's verdict."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping

from vipmanager.actions import Action, Plan, SetRoute
from vipmanager.apply import Key, Retry
from vipmanager.config import Config
from vipmanager.errors import ErrorKind, Failure
from vipmanager.logs import event
from vipmanager.model import (
    Address,
    Claim,
    Claims,
    Observed,
    PlacementKind,
    Problem,
)
from vipmanager.plan.claims import holdings

log = logging.getLogger("vipmanager")

OK, FAILED = 0, 1


class Report:
    """Remembers what was said. Used from the agent's thread only."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._problems: frozenset[Problem] = frozenset()
        self._foreign: set[tuple[str, str]] = set()
        self._known: set[str] = set()
        self._failures: dict[Key, tuple[str, str]] = {}
        self._unsaid: defaultdict[tuple[str, str], list[tuple[str, Failure, int | None]]] = defaultdict(list)
        self._again: list[str] = []
        self._complete: dict[Address, Claim] = {}
        self._moved_from: dict[Address, set[str]] = {}

    # the pod's interfaces

    def discovered(self, observed: Observed) -> None:
        """Name each pod interface and its ENI once; interfaces that are no ENI's once, too."""
        for interface in observed.interfaces:
            eni = observed.enis.get(interface.mac)
            if eni is not None and interface.name not in self._known:
                self._known.add(interface.name)
                addresses = ",".join(map(str, interface.addresses)) or "none"
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
        for address, claim in plan.claims.items():
            self._claim(address, claim, before.get(address), observed)
            self._bound(claim, before.get(address), observed)
        for address in set(before) - set(plan.claims):
            self._complete.pop(address, None)
            event(log, logging.INFO, "withdrawn", address=address, eni=before[address].eni_id)
        problems = frozenset(plan.problems)
        for problem in sorted(problems - self._problems, key=str):
            event(
                log,
                logging.ERROR if problem.fatal else logging.WARNING,
                "problem",
                of=problem.subject,
                why=problem.text,
            )
        self._problems = problems

    def _claim(self, address: Address, claim: Claim, old: Claim | None, observed: Observed) -> None:
        if claim.conceded_to:
            self._complete.pop(address, None)
            if old is None or old.conceded_to != claim.conceded_to:
                event(log, logging.WARNING, "conceded", address=address, eni=claim.eni_id, to=claim.conceded_to)
            return
        if claim.vanished is not None:
            self._complete.pop(address, None)
            if old is not None and old.vanished is None:
                event(log, logging.INFO, "address gone", address=address, eni=claim.eni_id)
            return
        known = self._complete.get(address)
        standing = holdings(claim, observed)
        if not standing or not all(holding.ours_since(claim.since) for holding in standing.values()):
            return
        self._complete[address] = claim
        if known is not None and known.since == claim.since:
            return
        routed = claim.kind is not PlacementKind.ENI_ADDRESS
        event(
            log,
            logging.INFO,
            "claimed",
            address=address,
            placement=claim.kind.value,
            destination=claim.destination if claim.kind is PlacementKind.SUBNET_ROUTE else None,
            eni=claim.eni_id,
            tables=len(standing) if routed else None,
            moved_from=",".join(sorted(self._moved_from.pop(address, set()) - {claim.eni_id})),
            took=max(holding.seen for holding in standing.values()) - claim.since,
        )

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
        if isinstance(action, SetRoute) and action.replaces:
            self._moved_from.setdefault(action.address, set()).add(action.replaces)
        event(log, logging.DEBUG, "applied", action=action)
        self.recovered(action.key)

    def failed(self, key: Key, retry: Retry, action: Action | None = None, fullness: int | None = None) -> None:
        """A call failed: noted for `flush` when the reason is new for this item."""
        reason = (retry.failure.call, retry.failure.code)
        if self._failures.get(key) == reason:
            return
        self._failures[key] = reason
        self._unsaid[reason].append((str(action or " ".join(key)), retry.failure, fullness))

    def recovered(self, key: Key) -> None:
        """What failed before succeeded: noted for `flush`."""
        if self._failures.pop(key, None) is not None:
            self._again.append(" ".join(key))

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
        self._unsaid.clear()
        self._again.clear()

    # an init run

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
            event(log, logging.ERROR, "missing", item=" ".join(key), why=str(retry.failure), attempts=retry.attempts)
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
