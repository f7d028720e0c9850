"""Who keeps memory that was freed: this process, or the operating system?

Training frees and takes the same few megabytes hundreds of times a second. Where the C library
hands them back each time, a twentieth of the processor's time goes into pages that are mapped and
filled with zeros anew.
"""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of parameters of glibc's `mallopt`."""

KEPT = 64 * 2**20
"""Bytes that may lie free at the end of a heap before they are handed back."""

LARGEST = 32 * 2**20
"""Bytes from which on a block is the operating system's own: as many as glibc allows."""


@cache
def keep_freed() -> bool:
    """Let freed memory stay with this process, from now on; whether the C library can do that."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, KEPT))
