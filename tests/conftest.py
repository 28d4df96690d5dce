"""Network namespaces for the tests that are marked as needing them."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from lab import privileges

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a shell starts in the background; tests interrupt things
    signal.signal(signal.SIGINT, signal.default_int_handler)

UNAVAILABLE = privileges.available()
if UNAVAILABLE is None:
    privileges.ensure()  # now, while the process has but one thread


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where namespaces cannot be had, say why the test is skipped; in CI that is a failure."""
    if UNAVAILABLE is None or item.get_closest_marker("namespaces") is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must be able to run the lab: {UNAVAILABLE}", pytrace=False)
    pytest.skip(UNAVAILABLE)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that is run in this process sets logging up, which would outlive its test."""
    root, ours = logging.getLogger(), logging.getLogger("vipmanager")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
