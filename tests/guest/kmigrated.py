"""The threads of RFC v1, where the guest's kernel has them: who they are, what they take, what they say."""

from __future__ import annotations

import re
import time
from pathlib import Path

from . import kernel

TRACING = Path("/sys/kernel/tracing")
SAID = ("A %lx %d", "W %d", "G %lx %d", "F %d %zu")
"""What a traced kernel prints, see :mod:`tests.kmigrated.events`, as it has it in ``printk_formats``."""
TRACE_KIB_PER_CPU = 24 << 10
"""Of the ring buffer: half a million events of each CPU."""
WALK_PAUSE_S = 1.0
"""KMIGRATE_DELAY: a thread walks its node at least so often."""

_NAME = re.compile(r"kmigrated(\d+)\n")


def threads() -> dict[int, int]:
    """Return the process id of each node's thread; nothing where the kernel has none."""
    found: dict[int, int] = {}
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = _NAME.fullmatch(comm.read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if name is not None:
            found[int(name[1])] = int(comm.parent.name)
    return dict(sorted(found.items()))


def cpu_s() -> dict[int, float]:
    """Return the seconds that each node's thread has run."""
    return {nid: sum(kernel.cpu_s(pid)) for nid, pid in threads().items()}


def is_traced() -> bool:
    """Whether the kernel says what its threads do."""
    formats = (TRACING / "printk_formats").read_text()
    return bool(threads()) and all(f'"{words}' in formats for words in SAID)


def begin_trace() -> None:
    """Make room for a trace that is whole, and begin it: while a buffer grows nothing is written to it."""
    (TRACING / "buffer_size_kb").write_text(str(TRACE_KIB_PER_CPU))
    (TRACING / "trace").write_text("")


def trace() -> str:
    """Return what was traced since, once each thread has walked over what is marked now."""
    time.sleep(2.5 * WALK_PAUSE_S)
    (TRACING / "tracing_on").write_text("0")
    try:
        return (TRACING / "trace").read_text()
    finally:
        (TRACING / "tracing_on").write_text("1")
