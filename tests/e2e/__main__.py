"""`python -m tests.e2e`: builds the image and runs the manifests on the lab. Says what it ran, and what it did not."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e import checks, cni, image, measure, nodeport
from tests.e2e.cases import cases
from tests.e2e.podman import podman, remove_containers
from tests.e2e.stage import play

BOUND = 1800
"""Seconds for all of it, whatever hangs."""


def main() -> int:
    """Everything; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e", description=__doc__)
    parser.add_argument("only", nargs="*", help="run the cases whose title has one of these words; all: no words")
    parser.add_argument("--no-measure", action="store_true", help="leave out start-up and memory")
    parser.add_argument("--build", action="store_true", help="build the image and say its name and size, no more")
    parser.add_argument("--sbom", metavar="FILE", help="build the image and write its bill of materials, no more")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("make e2e needs root: podman runs the containers in the lab's namespaces", file=sys.stderr)
        return 1
    os.environ.pop("CONTAINERS_CONF", None)
    with bounded():
        if arguments.build or arguments.sbom:
            return build(arguments.sbom)
        return run(arguments.only, measured=not arguments.no_measure)


@contextmanager
def bounded() -> Iterator[None]:
    """End with an error after BOUND; leave no container behind."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done within {BOUND} s")

    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(BOUND)
    try:
        yield
    finally:
        signal.alarm(0)
        remove_containers()


def build(materials: str | None) -> int:
    """The image alone, and its bill of materials."""
    images = image.prepare(say)
    checks.check_layers(images, say)
    if materials:
        Path(materials).write_text(checks.materials(images) + "\n")
        say(f"{materials} written")
    return 0


def run(only: list[str], *, measured: bool) -> int:
    """Build, check, measure, play."""
    cni.plugins()
    images = image.prepare(say)
    say(f"{podman('--version')}; base {images.base}; CNI plugins {cni.plugins()}")
    failed = attempt("the image itself", lambda: checks.check(images, say))
    if measured and not only:
        failed += attempt("start-up and memory", lambda: measure.compare(images, say))
    skipped: list[str] = []
    notes: set[str] = set()
    played = 0
    for case in cases(skipped):
        if only and not any(word in case.title for word in only):
            continue
        played += 1
        failed += attempt(case.title, lambda case=case: notes.update(play(case, images, say)))
    for mode in nodeport.MODES:
        if only and not any(word in mode.title for word in only):
            continue
        played += 1
        failed += attempt(mode.title, lambda mode=mode: notes.update(nodeport.play(mode, images, say)))
    for note in sorted(notes):
        say(f"note: {note}")
    for each in skipped:
        say(f"skipped: {each}")
    say(f"{played} manifests run, {failed} failed")
    return 1 if failed or not played else 0


def attempt(title: str, action: object) -> int:
    """Do it and say how that went; 1 for a failure, so that failures can be counted."""
    say(f"{title} …")
    started = time.monotonic()
    try:
        action()  # type: ignore[operator]
    except TimeoutError as error:
        if str(error).startswith("not done"):
            raise
        return _failed(title)
    except Exception:
        return _failed(title)
    say(f"  passed in {time.monotonic() - started:.1f} s")
    return 0


def _failed(title: str) -> int:
    traceback.print_exc()
    say(f"FAILED: {title}")
    return 1


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
