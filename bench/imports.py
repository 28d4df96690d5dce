"""Where an init run's start-up goes: time by package, from `python -X importtime`. A diagnostic, not a figure."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from bench import process
from bench.sizes import Sizes
from lab.lab import Lab

TOP = 10
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| +(\S+)$")


def by_package(lines: Iterable[str]) -> Counter[str]:
    """Milliseconds by top-level package, each module's own time without that of what it imports."""
    found: Counter[str] = Counter()
    for line in lines:
        match = _LINE.match(line.rstrip())
        if match:
            found[match[3].partition(".")[0]] += int(match[1]) / 1000  # type: ignore[assignment]  # typed for counts
    return found


def report(sizes: Sizes) -> Iterator[str]:
    """The table's lines."""
    with Lab(latency=sizes.latency) as lab:
        pod = lab.pod("pod", "a", process.spread(["192.168.0.1", "192.168.0.2"]))
        process.init(lab, pod)
        process.run(lab, pod, [sys.executable, "-X", "importtime", "-m", "vipmanager", "init"])
        found = by_package((pod.directory / "measured.log").read_text().splitlines())
    total = sum(found.values())
    yield f"imports of init by package, own time: {total:.0f} ms in all"
    yield "(several threads import at a time and wait for each other, so the parts may come to more than the whole)"
    for name, milliseconds in found.most_common(TOP):
        yield f"  {name:<20} {milliseconds:6.1f} ms"
