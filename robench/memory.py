"""Memory of the process: what is freed is kept for the next tensor instead of being handed back to the system."""

from __future__ import annotations

import ctypes
import sys

TRIM, TOP_PAD, MMAP = -1, -2, -3  # names of settings of mallopt(3)
KEPT, LARGEST, AHEAD = 2**31 - 1, 2**25, 2**26  # 2^25 is the most that glibc takes for MMAP


def keep_freed_memory() -> bool:
    """Asks glibc to keep what is freed; whether it does. For the rest of the process, whose size then stays at its peak.

    An activation of a megabyte otherwise goes back to the system when it is freed, and the system hands out the next one page by
    page: on the CPU, elementwise operations on image batches then take several times as long (docs/benchmarks.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(mallopt(name, value) for name, value in ((TRIM, KEPT), (MMAP, LARGEST), (TOP_PAD, AHEAD)))
