"""`python -m bench`: measure, print a table, write it as JSON."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bench import commands, failover, health, holders, imports, init, machine, nodeport, sidecar
from bench.figures import HEADER, Figure
from bench.process import BenchError
from bench.sizes import QUICK, Sizes
from lab.privileges import LabUnavailable

SECTIONS: Mapping[str, Callable[[Sizes], Iterator[Figure]]] = {
    "init-tables": init.by_tables,
    "init-addresses": init.by_addresses,
    "init-tls": init.over_tls,
    "sidecar": sidecar.measure,
    "health": health.measure,
    "commands": commands.measure,
    "failover": failover.failovers,
    "move": failover.moves,
    "nodeport": nodeport.measure,
    "holders": holders.measure,
}
NOTES: Mapping[str, str] = {"nodeport": nodeport.NOTE, "holders": holders.NOTE}
"""What is said before a section's figures."""
DEFAULT_FILE = Path(__file__).with_name("results.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections asked for. The exit status is 0 unless something did not work: a missed reach is no failure."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if not os.access(parsed.json if parsed.json.exists() else parsed.json.absolute().parent, os.W_OK):
        parser.error(f"cannot write {parsed.json}")  # now, not after four minutes
    sizes = replace(QUICK if parsed.quick else Sizes(), seed=parsed.seed)
    try:
        return _bench(sizes, parsed)
    except LabUnavailable as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _bench(sizes: Sizes, parsed: argparse.Namespace) -> int:
    began = time.monotonic()
    where = machine.describe()
    print(machine.heading(where, sizes.latency), flush=True)
    trivial = init.trivial_child(sizes.latency)
    print(f"Memory is that of the process alone: /bin/true, measured in the same way, has {trivial:.1f} MB.")
    print(f"\n{HEADER}", flush=True)
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    for name in parsed.only or SECTIONS:
        print(NOTES.get(name, ""), end="\n" if name in NOTES else "", flush=True)
        try:
            for figure in SECTIONS[name](sizes):
                _print(figure, figures)
                figures.append(figure)
        except (BenchError, TimeoutError) as error:
            failed[name] = str(error)
            print(f"{name} FAILED: {error}", flush=True)
    if parsed.imports:
        print("\n" + "\n".join(imports.report(sizes)))
    took = time.monotonic() - began
    missed = [figure for figure in figures if figure.met is False]
    asked = [figure for figure in figures if figure.met is not None]
    print(f"\n{len(asked) - len(missed)} of {len(asked)} reached; {took:.0f} s; figures in {parsed.json}")
    result = {
        "machine": where,
        "sizes": asdict(sizes),
        "trivial_child_mb": trivial,
        "seconds": took,
        "figures": [figure.as_json() for figure in figures],
        "failed": failed,
    }
    parsed.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 1 if failed else 0


def _print(figure: Figure, before: Sequence[Figure]) -> None:
    if not before or before[-1].case != figure.case:
        print(figure.case)
    print(figure.as_line(), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few cases, once each: to see that it works")
    parser.add_argument("--json", type=Path, default=DEFAULT_FILE, metavar="FILE", help="default bench/results.json")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME", help=f"of {', '.join(SECTIONS)}")
    seed = random.randrange(2**32)
    parser.add_argument("--seed", type=int, default=seed, metavar="N", help="of the trials in holders; default: any")
    parser.add_argument("--imports", action="store_true", help="also where an init run's import time goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
