"""Giving up rights that are not needed any more: capabilities, and the way back to them by execve(2).

All of it belongs to a thread (capabilities(7), PR_SET_NO_NEW_PRIVS(2const)): threads inherit what the one
that starts them has then. So rights are given up before there are others, or by each of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from gpuscan.linux.capabilities import BITS, Right
from gpuscan.linux.syscalls import CapabilitySets, capget, capset, prctl

_CAPBSET_READ, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 23, 24, 38, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
"""include/uapi/linux/prctl.h"""

_ENDED_WITHIN_S, _LOOK_AGAIN_S = 0.2, 0.005


def give_up(rights: Iterable[Right]) -> None:
    """Leave the calling thread these rights, as far as it has them, and nothing else.

    The others go from all five sets. From the bounding set only CAP_SETPCAP lets one take them; without it
    no_new_privs, set in any case, keeps execve(2) from giving any of them back.

    Raises:
        OSError: the kernel refuses.
    """
    has = capget()
    kept = _mask(rights, has.permitted)
    prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    if has.effective >> BITS["CAP_SETPCAP"] & 1:
        for number in range(_n_capabilities()):
            if not kept >> number & 1 and prctl(_CAPBSET_READ, number):
                prctl(_CAPBSET_DROP, number)
    capset(CapabilitySets(has.effective & kept, has.permitted & kept, 0))
    prctl(_SET_NO_NEW_PRIVS, 1)


def give_up_before_exec(rights: Iterable[Right]) -> None:
    """Do as :func:`give_up`, between fork and execve: the program that follows has these rights, too.

    Raises:
        OSError: the kernel refuses.
    """
    give_up(rights)
    left = capget()
    if os.geteuid() != 0 and left.permitted:  # root has by execve what is in its bounding set
        capset(left._replace(inheritable=left.permitted))
        for number in range(_n_capabilities()):
            if left.permitted >> number & 1:
                prctl(_CAP_AMBIENT, _AMBIENT_RAISE, number)


def n_threads_with_more(root: Path = Path("/")) -> int:
    """Return how many threads of this process may do more than the calling one.

    A thread that was joined is there for a moment more, so what is found is looked at again.
    """
    deadline = time.monotonic() + _ENDED_WITHIN_S
    while (n_threads := _n_with_more(root)) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)
    return n_threads


def _n_with_more(root: Path) -> int:
    own = _permitted(root / "proc/thread-self")
    others = 0
    for task in (root / "proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            others += bool(_permitted(task) & ~own)
    return others


def _permitted(task: Path) -> int:
    text = (task / "status").read_text()
    return next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapPrm:"))


def _mask(rights: Iterable[Right], permitted: int) -> int:
    is_root = os.geteuid() == 0
    mask = 0
    for right in rights:
        if not (right.unless_root and is_root):
            mask |= 1 << BITS[right.name]
    read_search, override = 1 << BITS["CAP_DAC_READ_SEARCH"], 1 << BITS["CAP_DAC_OVERRIDE"]
    if mask & read_search and not permitted & read_search:  # then the other one stands for it
        mask |= override
    return mask


def _n_capabilities() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1
