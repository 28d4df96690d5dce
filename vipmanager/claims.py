"""What this pod has claimed and conceded, kept in StateDir so that it outlives a container restart.

A file belongs to one pod's life: it carries the identity of the network namespace and of the boot, and another pod's
file is ignored.
"""

from __future__ import annotations

import json
import logging
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from vipmanager.files import read_limited, write_atomically
from vipmanager.logs import event
from vipmanager.model import Address, Claim, Claims, PlacementKind

log = logging.getLogger("vipmanager.claims")

VERSION = 1
FILE = "claims.json"
BROADEST_SUBNET = {4: 16, 6: 44}
"""Prefix lengths of the largest subnets that a VPC can have (Amazon VPC User Guide, "Subnet sizing")."""
DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a file raises that is not what was written."""


def pod_life() -> str:
    """An identity that changes with the pod and with a reboot: times of CLOCK_MONOTONIC mean something within it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/net').stat().st_ino}"


class ClaimStore:
    """Loads and saves claims. A state directory that cannot be written is said once and lived without."""

    def __init__(self, directory: str, life: str, *, needed: bool = True) -> None:
        """`needed` is false where nothing is lost without it, so that there is nothing to warn of."""
        self._needed = needed
        self._path = Path(directory) / FILE
        self._life = life
        self._saved: Claims | None = None
        self._unwritable = False

    def load(self, now: float) -> dict[Address, Claim]:
        """The claims of this pod's life; none where there is no file, or it is another pod's or damaged.

        `now`: of CLOCK_MONOTONIC, in seconds. A claim of the future is no claim: it would believe nothing that it sees.
        """
        try:
            data = json.loads(read_limited(self._path))
            if data["version"] != VERSION or data["life"] != self._life:
                return {}
            claims = [_parse(item, now) for item in data["claims"]]
        except FileNotFoundError:
            return {}
        except (OSError, *DAMAGE) as error:
            event(log, logging.WARNING, "state unreadable", file=self._path, why=error, then="claims are taken anew")
            return {}
        return {claim.address: claim for claim in claims}

    def save(self, claims: Claims) -> None:
        """Write them if they changed: atomically, readable by the owner only."""
        if claims == self._saved:
            return
        text = json.dumps({"version": VERSION, "life": self._life, "claims": [_format(c) for c in claims.values()]})
        try:
            write_atomically(self._path, text)
        except OSError as error:
            if not self._unwritable:
                event(
                    log,
                    logging.WARNING if self._needed else logging.DEBUG,
                    "state not kept",
                    dir=self._path.parent,
                    why=error.strerror,
                    then="a restarted container claims again; mount an emptyDir there",
                )
            self._unwritable = True
        else:
            self._saved = dict(claims)
            self._unwritable = False


def _format(claim: Claim) -> dict[str, Any]:
    return {
        "address": str(claim.address),
        "eni": claim.eni_id,
        "placement": claim.kind.value,
        "destination": str(claim.destination),
        "since": claim.since,
        "held": dict(claim.held),
        "conceded_to": claim.conceded_to,
        "conceded_at": claim.conceded_at,
        "vanished": claim.vanished,
        "scope": None if claim.scope is None else str(claim.scope),
        "aimed": claim.aimed,
    }


def _parse(item: dict[str, Any], now: float) -> Claim:
    """Raises ValueError, TypeError, LookupError, AttributeError, ArithmeticError."""
    claim = Claim(
        address=ip_address(str(item["address"])),
        eni_id=str(item["eni"]),
        kind=PlacementKind(item["placement"]),
        destination=ip_network(str(item["destination"])),
        since=_time(item["since"], now),
        held={str(target): _time(at, now) for target, at in item["held"].items()},
        conceded_to=str(item["conceded_to"]),
        conceded_at=_time(item["conceded_at"], now),
        vanished=None if item["vanished"] is None else _time(item["vanished"], now),
        scope=ip_network(str(item["scope"])) if item.get("scope") else None,  # not in a file of version 0.1
        aimed=_time(item.get("aimed", 0.0), now),
    )
    for network in (claim.destination, claim.scope or claim.destination):
        broadest = BROADEST_SUBNET[network.version] if claim.kind is PlacementKind.SUBNET_ROUTE else 1
        if claim.address not in network or network.prefixlen < broadest:
            raise ValueError(f"{network} is no destination of {claim.address}")
    return claim


def _time(value: Any, now: float) -> float:
    """A time of the monotonic clock, in the past. Raises ValueError, TypeError, OverflowError."""
    seconds = float(value)
    if not 0.0 <= seconds <= now:  # nor what is no number
        raise ValueError(f"{seconds} is no time before {now}")
    return seconds
