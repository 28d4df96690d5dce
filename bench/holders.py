"""Two holders at once: never. Randomized trials with real processes, and what the kernel says of their interfaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.arena import Result, arena
from bench.figures import Figure
from bench.floats import Terms
from bench.process import BenchError
from bench.sizes import Sizes

NOTE = """\
holders: pairs of nodes, on each pair groups with a Lease and floating addresses of their own. A trial is what is done
to one group: its processes are stopped, killed, told to end, their wall clocks jump by 14 minutes; the Kubernetes API
does not answer, refuses or is slow for a node, a node is cut off, EC2 fails in the middle of a move. Then one node must
hold all within LeaseDuration and some seconds. Who has an address is what the kernel announces, in its order."""
SHORT = Terms(3, 1.5, 0.3)
DEFAULT = Terms(6, 4, 1)


def measure(sizes: Sizes) -> Iterator[Figure]:
    """All trials, by kind, with short leases and with the default settings. Raises BenchError for any overlap."""
    for terms, rounds in ((SHORT, sizes.rounds), (DEFAULT, sizes.default_rounds)):
        if rounds:
            yield from _trials(sizes, terms, rounds)


def _trials(sizes: Sizes, terms: Terms, rounds: int) -> Iterator[Figure]:
    with arena(sizes.pairs, sizes.groups, terms) as made:
        results = made.run(sizes.seed, rounds)
        overlaps = made.overlaps()
    yield from _figures(f"two nodes hold at once? {terms}, seed {sizes.seed}", results, len(overlaps))
    if overlaps:
        said = [result.said for result in results if result.overlaps]
        raise BenchError("\n\n".join([f"two nodes had an address at once, seed {sizes.seed}", *overlaps, *said]))


def _figures(case: str, results: Sequence[Result], overlaps: int) -> Iterator[Figure]:
    for kind in sorted({result.kind for result in results}):
        gaps = tuple(result.gap for result in results if result.kind == kind)
        yield Figure(f"{case}: longest time that nobody had it, by kind of trial", f"{kind} × {len(gaps)}", "s", gaps)
    whole = f"{case}: all trials"
    yield Figure(whole, "trials", "", (float(len(results)),))
    yield Figure(whole, "nobody had it", "s", tuple(result.gap for result in results))
    yield Figure(whole, "one holder after the last fault", "s", tuple(result.settled for result in results))
    yield Figure(whole, "two had it at once", "", (float(overlaps),), reach=0.0)
