"""A lab for each test: building one takes a third of a second, so none has to clean up after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lab.lab import Lab


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Builds a lab with options. What each vipmanager in it has logged is shown when the test fails."""
    with ExitStack() as stack:

        def build(**options: object) -> Lab:
            built = stack.enter_context(Lab(**options))  # type: ignore[arg-type]
            stack.callback(_show_logs, built)
            return built

        yield build


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """The lab as it is by default: two workers in two AZs, two peers, four route tables."""
    return make_lab()


def _show_logs(lab: Lab) -> None:
    for pod in lab.pods.values():
        for log in sorted(pod.directory.glob("*.log")):
            print(f"--- {pod.name} {log.name}\n{log.read_text(errors='replace')}")
