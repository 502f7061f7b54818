"""Which capabilities this process has, and what each would be needed for (capabilities(7)).

Who needs one says so beside itself, as a :class:`Right`: each monitor, the migrator, who starts a command.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gpuscan.base.errors import InputError
from gpuscan.base.status_text import effective_capabilities
from gpuscan.linux.system import HERE, System

BITS = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_SETPCAP": 8,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
}
"""Number of each capability that gpuscan has a use for (include/uapi/linux/capability.h)."""


class Right(NamedTuple):
    """A capability and what it is for.

    Attributes:
        name: such as ``CAP_SYS_ADMIN``.
        why: what it is for; follows the name in brackets.
        unless_root: root does it without: it owns the files.
    """

    name: str
    why: str
    unless_root: bool = False


FRAMES = Right("CAP_SYS_ADMIN", "to see the page frame numbers in /proc/PID/pagemap")
"""pagemap_read() shows them as 0 to whoever opened the file without it (fs/proc/task_mmu.c, since v4.2)."""
FLAGS = Right("CAP_DAC_READ_SEARCH", "to open /proc/kpageflags, which root owns", unless_root=True)
"""Mode 0400 and no more (fs/proc/page.c, v6.12); CAP_DAC_OVERRIDE does, too."""
OTHERS = Right("CAP_SYS_PTRACE", "to read another user's process and to move its pages")
"""ptrace_may_access() (kernel/ptrace.c): for the maps and pagemap of a process with other user ids, or with
capabilities that the caller lacks, which gpuscan does once it has given up its own; and for move_pages(2)."""
OTHERS_FILES = Right("CAP_DAC_READ_SEARCH", "to open another user's /proc/PID/pagemap")
"""Mode 0400, its user's. gpuscan loads parts of itself late, too, and may lie in another user's folder."""

KEPT = (FRAMES, OTHERS, OTHERS_FILES)
"""What every live run goes on to need."""


def effective(system: System = HERE) -> frozenset[str]:
    """Return the capabilities in effect that gpuscan has a use for."""
    text = system.read_text(system.root / "proc/self/status")
    word = effective_capabilities(text)
    return frozenset(name for name, bit in BITS.items() if word >> bit & 1)


def missing(rights: Iterable[Right], system: System = HERE) -> str:
    """Return the rights that this process lacks, each with what it is for; empty where it has all."""
    has = effective(system)
    if "CAP_DAC_OVERRIDE" in has:
        has |= {"CAP_DAC_READ_SEARCH"}
    is_root = system.geteuid() == 0
    lacking = {one.name: one for one in rights if one.name not in has and not (one.unless_root and is_root)}
    return ", ".join(f"{one.name} ({one.why})" for one in lacking.values())


def check_live(
    *, foreign: bool, monitor: Iterable[Right] = (), system: System = HERE, command: str = "live"
) -> None:
    """Refuse a live run that lacks rights.

    Args:
        foreign: whether a process of another user is among those asked for.
        monitor: what the monitor needs for such a one.
        system: whose /proc says what this process may.
        command: what runs.

    Raises:
        InputError: a capability is missing; says which and for what.
    """
    lacking = missing([FRAMES, FLAGS, *([OTHERS, OTHERS_FILES, *monitor] if foreign else [])], system)
    if lacking:
        remedy = "run it with sudo, or give it these capabilities"
        raise InputError(f"gpuscan {command} lacks {lacking}; {remedy}")
