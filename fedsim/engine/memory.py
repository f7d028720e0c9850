"""How a process keeps the memory that its tensors are done with, for the next ones.

Training frees what it allocated a moment before, hundreds of times a second. By default glibc's
allocator gives large pieces back to the operating system at once and asks for them again, and every
page of them is zeroed by the kernel each time it comes back: 6 % of the rounds of the reference
workload on two cores (the command is in the README).
"""

import ctypes
import os
import platform
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt` (mallopt(3))."""

CHOSEN = frozenset({"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"})
"""Variables by which a user sets the allocator up."""

KEPT = 1 << 30
"""Bytes that may lie unused at the end of a heap."""

LARGEST = 32 << 20
"""Bytes up to which an allocation comes out of a heap: the largest value that glibc accepts."""


@cache
def keep_freed_memory() -> bool:
    """Ask the allocator of this process to hold on to freed memory, from now on.

    Nothing is asked of another C library than glibc, nor where the user's environment has set the
    allocator up.

    Returns:
      Whether it was asked for.
    """
    if platform.libc_ver()[0] != "glibc" or not CHOSEN.isdisjoint(os.environ):
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(TRIM_THRESHOLD, KEPT) and libc.mallopt(MMAP_THRESHOLD, LARGEST))
