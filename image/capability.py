"""Gives a program file capabilities without setcap(8): `python3 capability.py FILE`, when the image is built.

Kubernetes' `capabilities.add` reaches a user other than root only through them (kubernetes/kubernetes#56374). They are
permitted and not effective: an effective one would keep the program from starting wherever it is not granted
(capabilities(7), "Safety checking for capability-dumb binaries"), as on a laptop. `vipmanager.clients.privileges` puts
them into effect.
"""

from __future__ import annotations

import os
import struct
import sys

NET_ADMIN, NET_RAW = 12, 13  # linux/capability.h
VFS_CAP_REVISION_2 = 0x02000000


def value(*capabilities: int) -> bytes:
    """What is kept in security.capability: struct vfs_cap_data of linux/capability.h, permitted alone."""
    permitted = sum(1 << each for each in capabilities)
    return struct.pack("<5I", VFS_CAP_REVISION_2, permitted & 0xFFFFFFFF, 0, permitted >> 32, 0)


if __name__ == "__main__":
    os.setxattr(sys.argv[1], "security.capability", value(NET_ADMIN, NET_RAW))
