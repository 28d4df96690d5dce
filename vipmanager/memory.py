"""What keeps a process that runs for months as small as it was on its first day."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
"""malloc.h"""

LARGE = 64 * 1024


def give_back_large_blocks() -> None:
    """Have the C library map each block of LARGE bytes or more on its own, and unmap it when it is freed: mallopt(3).

    asyncio, on which pyroute2 works, receives each netlink message into 256 KiB. glibc would raise its threshold above
    that at the first of them, put the next ones on the heap, and find no room for them between what lives there: the
    heap grew by 13 kB at each change of an address. Other C libraries have no mallopt, and no threshold that moves.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(M_MMAP_THRESHOLD, LARGE)
