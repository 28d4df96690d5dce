"""Puts the capabilities into effect that the image's interpreter has as file capabilities.

What Kubernetes adds is lost to any other user than root when the program starts, unless the program has it as a file
capability, too (kubernetes/kubernetes#56374). The image's are permitted but not effective, so that the program starts
where they are not added (image/capability.py).
"""

from __future__ import annotations

import os

_VERSION_3 = 0x20080522  # linux/capability.h


def take_effect() -> bool:
    """Make each permitted capability effective, for this thread and those it starts later; whether any is now.

    Costs nothing for root, whose capabilities are effective. See capset(2).
    """
    if os.geteuid() == 0:
        return True
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the low words, then the high ones
    if libc.capget(header, sets) != 0 or not (sets[1] or sets[4]):
        return False
    sets[0], sets[3] = sets[1], sets[4]
    return bool(libc.capset(header, sets) == 0)
