"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Cases and repetitions. `latency` is EC2's, in seconds; `idle` is how long an idle sidecar is watched.

    Of the mode nodeport: `lease` is LeaseDuration, RenewDeadline and RetryPeriod; `detach` and `attach` are what EC2
    takes for an ENI; `node_failures` (a dead node, a killed process), `node_moves` (those of ENIs and subnets),
    `hand_overs` and `yields` are repetitions; `node_idle` is how long a holder and a standby are watched. The trials of
    holders are made on `pairs` of nodes with `groups` on each, `rounds` of them with short leases,
    `default_rounds` with the default ones; `seed` determines them.
    """

    latency: float = 0.06
    tables: tuple[int, ...] = (1, 4, 16, 48)
    addresses: tuple[int, ...] = (1, 8, 32)
    runs: int = 5
    floor_runs: int = 3
    changes: int = 30
    floor_changes: int = 15
    counted: tuple[int, ...] = (1, 16)  # the changes whose API calls are counted, by how many other addresses there are
    idle: float = 30.0
    health_starts: int = 10  # with HealthPort, and as many without
    failovers: int = 5
    floor_failovers: int = 3
    moves: int = 6
    lease: tuple[int, float, float] = (6, 4.0, 1.0)
    detach: float = 5.0
    attach: float = 2.0
    node_failures: int = 5
    node_moves: int = 2
    hand_overs: int = 10
    yields: int = 3
    node_idle: float = 60.0
    pairs: int = 5
    groups: int = 2
    rounds: int = 24
    default_rounds: int = 3
    seed: int = 0


QUICK = Sizes(
    tables=(4,),
    addresses=(1,),
    runs=1,
    floor_runs=1,
    changes=1,
    floor_changes=1,
    counted=(1,),
    idle=1.0,
    health_starts=1,
    failovers=1,
    floor_failovers=1,
    moves=2,
    lease=(3, 1.5, 0.3),
    detach=0.4,
    attach=0.2,
    node_failures=1,
    node_moves=1,
    hand_overs=1,
    yields=1,
    node_idle=1.0,
    pairs=2,
    rounds=1,
    default_rounds=0,
)
