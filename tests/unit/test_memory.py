"""Large blocks are given back to the kernel, also after one of their size has been freed before."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
if not hasattr(libc, "mallinfo2"):
    sys.exit(3)
libc.mallinfo2.restype = Info
bytearray(256 * 1024)  # made and freed: from now on glibc has such blocks on the heap
if sys.argv[1] == "mended":
    from vipmanager.memory import give_back_large_blocks
    give_back_large_blocks()
before = libc.mallinfo2().hblks
block = bytearray(256 * 1024)
print(libc.mallinfo2().hblks - before)
"""


def mapped_blocks(how: str) -> int:
    """How many blocks glibc has mapped for a buffer like asyncio's."""
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False)
    if run.returncode == 3:
        pytest.skip("not glibc, or one older than 2.33")
    return int(run.stdout)


def test_a_large_block_is_not_put_on_the_heap() -> None:
    assert mapped_blocks("as it is") == 0, "what is to be mended is not there any more"
    assert mapped_blocks("mended") == 1
