"""How the C library's allocator treats memory that was freed.

Evidence: mallopt(3). By default glibc gives arrays above 128 KiB back to the kernel when they are freed, and
the heap's end when as much of it is free, so that every look at a process pays the page faults of its arrays
again.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 64 << 20
_GROWN_BY_BYTES = 4 << 20
_MAPPED_FROM_BYTES = 32 << 20
"""The most that glibc takes on 64 bits (DEFAULT_MMAP_THRESHOLD_MAX)."""


def keep_freed_memory() -> bool:
    """Let this process keep up to 64 MiB that it has freed; return whether its C library takes that.

    It holds for the whole process, so it is for a command to decide.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    wanted = (
        (_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES),
        (_M_TRIM_THRESHOLD, _KEPT_BYTES),
        (_M_TOP_PAD, _GROWN_BY_BYTES),
    )
    return all(mallopt(ctypes.c_int(what), ctypes.c_int(value)) == 1 for what, value in wanted)
