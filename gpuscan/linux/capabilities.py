"""Which capabilities this process has, and what each would be needed for (capabilities(7))."""

from __future__ import annotations

from gpuscan.errors import InputError
from gpuscan.linux.system import HERE, System

_BITS = {"CAP_DAC_OVERRIDE": 1, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_NICE": 23}

PFNS = "CAP_SYS_ADMIN"
"""/proc/PID/pagemap shows page frame numbers as 0 without it (fs/proc/task_mmu.c, since v4.2)."""


def effective(system: System = HERE) -> frozenset[str]:
    """Return the capabilities in effect that gpuscan has a use for."""
    text = system.read_text(system.root / "proc/self/status")
    word = next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapEff:"))
    return frozenset(name for name, bit in _BITS.items() if word >> bit & 1)


def check_live(*, moves: bool, foreign: bool, system: System = HERE) -> None:
    """Refuse a live run that lacks rights.

    Args:
        moves: whether pages will be moved (not a dry run).
        foreign: whether a process of another user is among those asked for.
        system: whose /proc says what this process may.

    Raises:
        InputError: a capability is missing; says which and for what.
    """
    has = effective(system)
    wanted = {PFNS: "to see the page frame numbers in /proc/PID/pagemap"}
    if system.geteuid() != 0:
        wanted["CAP_DAC_OVERRIDE"] = "to open /proc/kpageflags, which root owns"
    if foreign:
        wanted["CAP_SYS_PTRACE"] = "to read another user's process" + (
            " and to move its pages" if moves else ""
        )
    missing = {name: why for name, why in wanted.items() if name not in has}
    if missing:
        named = ", ".join(f"{name} ({why})" for name, why in missing.items())
        raise InputError(f"gpuscan live lacks {named}; run it with sudo, or give it these capabilities")
