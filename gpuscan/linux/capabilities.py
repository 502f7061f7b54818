"""Which capabilities this process has, and what each would be needed for (capabilities(7))."""

from __future__ import annotations

import os
from pathlib import Path

from gpuscan.errors import InputError

_BITS = {"CAP_DAC_OVERRIDE": 1, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_NICE": 23}

PFNS = "CAP_SYS_ADMIN"
"""/proc/PID/pagemap shows page frame numbers as 0 without it (fs/proc/task_mmu.c, since v4.2)."""


def effective(root: Path = Path("/")) -> frozenset[str]:
    """Return the capabilities in effect that gpuscan has a use for."""
    text = (root / "proc/self/status").read_text()
    word = next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapEff:"))
    return frozenset(name for name, bit in _BITS.items() if word >> bit & 1)


def check_live(*, moves: bool, foreign: bool, root: Path = Path("/")) -> None:
    """Refuse a live run that lacks rights.

    Args:
        moves: whether pages will be moved (not a dry run).
        foreign: whether a process of another user is among those asked for.
        root: where /proc lies.

    Raises:
        InputError: a capability is missing; says which and for what.
    """
    has = effective(root)
    wanted = {PFNS: "to see the page frame numbers in /proc/PID/pagemap"}
    if os.geteuid() != 0:
        wanted["CAP_DAC_OVERRIDE"] = "to open /proc/kpageflags, which root owns"
    if foreign:
        wanted["CAP_SYS_PTRACE"] = "to read another user's process" + (
            " and to move its pages" if moves else ""
        )
    missing = {name: why for name, why in wanted.items() if name not in has}
    if missing:
        named = ", ".join(f"{name} ({why})" for name, why in missing.items())
        raise InputError(f"gpuscan live lacks {named}; run it with sudo, or give it these capabilities")
