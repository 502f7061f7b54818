"""How many descriptors this process may have."""

from __future__ import annotations

import contextlib
import resource


def take_all_descriptors() -> int:
    """Raise the limit of open descriptors to the most that this process may set; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # a filter of system calls: it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
