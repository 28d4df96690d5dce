"""Requests to EC2, counted."""

from __future__ import annotations

import re
from collections.abc import Callable

from vipmanager.errors import THROTTLES
from vipmanager.metrics import Metrics

MOST_CODES = 100
_CODE = re.compile(r"[A-Za-z0-9_.]{1,80}")


def counter(metrics: Metrics) -> Callable[[str, str, float], None]:
    """An observer for Ec2Client; it is called from several threads."""

    known = {"ok", *THROTTLES}

    def observe(operation: str, code: str, seconds: float) -> None:
        if code not in known and (len(known) >= MOST_CODES or not _CODE.fullmatch(code)):
            code = "other"  # whoever answers must not fill the memory with label values
        known.add(code)
        metrics.add("vipmanager_ec2_calls_total", operation=operation, code=code)
        metrics.observe("vipmanager_ec2_call_seconds", seconds, operation=operation)
        if code in THROTTLES:
            metrics.add("vipmanager_ec2_throttles_total", operation=operation)

    return observe
