"""Stops this process (SIGSTOP) when it is about to put an address on an interface, once, where the file $STOP_ONCE is.

In front of PYTHONPATH, Python imports it before anything else. No signal from outside can be sent at such a moment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vipmanager.clients.host import HostNetlinkClient

_call = HostNetlinkClient._call


def _stopping(self: HostNetlinkClient, what: str, run: Callable[[], Any], fine: tuple[int, ...] = ()) -> Any:
    def stop_and_run() -> Any:
        if what.startswith("put address"):
            try:
                Path(os.environ["STOP_ONCE"]).unlink()
            except FileNotFoundError:
                return run()
            os.kill(os.getpid(), signal.SIGSTOP)
        return run()

    return _call(self, what, stop_and_run, fine)


HostNetlinkClient._call = _stopping  # type: ignore[method-assign]
