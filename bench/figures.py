"""A figure: what was measured, the floor beside it, and what it should reach."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """Samples of one quantity. `case` and `name` together name it; `floor` holds the floor's samples.

    `documented` is what somebody wrote of it who measured elsewhere: it stands where there is no floor. `value`, which
    is compared with `reach`, is the median, or the 95th percentile where `p95` is set.
    """

    case: str
    name: str
    unit: str
    samples: tuple[float, ...]
    floor: tuple[float, ...] = ()
    reach: float | None = None
    p95: bool = False
    documented: str = ""

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"{self.case}: {self.name} has no samples")

    @property
    def value(self) -> float:
        """What counts."""
        return summary(self.samples, p95=self.p95)

    @property
    def met(self) -> bool | None:
        """Whether it reaches what it should; None where nothing is asked."""
        return None if self.reach is None else self.value <= self.reach

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        return {
            "case": self.case,
            "name": self.name,
            "unit": self.unit,
            "statistic": "p95" if self.p95 else "median",
            **_described(self.samples, self.p95),
            "floor": _described(self.floor, self.p95) if self.floor else None,
            "documented": self.documented or None,
            "reach": self.reach,
            "met": self.met,
        }

    def as_line(self) -> str:
        """For the table."""
        floor = _range(self.floor, self.unit, self.p95) if self.floor else self.documented or "–"
        reach = "–" if self.reach is None else f"≤ {_number(self.reach, self.unit)}"
        mark = {None: "", True: "yes", False: "NO"}[self.met]
        name = f"{self.name} ({self.unit})"
        return f"  {name:<36} {_range(self.samples, self.unit, self.p95):<24} {floor:<24} {reach:<9} {mark}".rstrip()


HEADER = f"  {'':<36} {'measured [min–max]':<24} {'floor [min–max]':<24} {'reach':<9} met"


def summary(samples: Sequence[float], *, p95: bool = False) -> float:
    """The median, or the 95th percentile by nearest rank."""
    return sorted(samples)[math.ceil(0.95 * len(samples)) - 1] if p95 else statistics.median(samples)


def _described(samples: Sequence[float], p95: bool) -> dict[str, Any]:
    value = summary(samples, p95=p95)
    return {"value": value, "min": min(samples), "max": max(samples), "samples": list(samples)}


def _range(samples: Sequence[float], unit: str, p95: bool) -> str:
    value = _number(summary(samples, p95=p95), unit)
    if len(set(samples)) == 1:
        return value
    return f"{value} [{_number(min(samples), unit)}–{_number(max(samples), unit)}]"


def _number(value: float, unit: str) -> str:
    if value == int(value) and unit not in ("s", "CPU s"):
        return str(int(value))
    return f"{value:.1f}" if unit in ("MB", "ms") else f"{value:.3f}" if unit == "% of a core" else f"{value:.2f}"
