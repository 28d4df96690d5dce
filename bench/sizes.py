"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Cases and repetitions. `latency` is EC2's, in seconds; `idle` is how long an idle sidecar is watched."""

    latency: float = 0.06
    tables: tuple[int, ...] = (1, 4, 16, 48)
    addresses: tuple[int, ...] = (1, 8, 32)
    runs: int = 5
    floor_runs: int = 3
    changes: int = 30
    floor_changes: int = 15
    counted: tuple[int, ...] = (1, 16)  # the changes whose API calls are counted, by how many other addresses there are
    idle: float = 30.0
    failovers: int = 5
    floor_failovers: int = 3
    moves: int = 6


QUICK = Sizes(
    tables=(4,),
    addresses=(1,),
    runs=1,
    floor_runs=1,
    changes=1,
    floor_changes=1,
    counted=(1,),
    idle=1.0,
    failovers=1,
    floor_failovers=1,
    moves=2,
)
