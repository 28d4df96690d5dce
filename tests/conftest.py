"""Network namespaces for the tests that are marked as needing them."""

from __future__ import annotations

import os
import signal

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
