"""What it takes a thread to sleep until a timer wakes it."""

from __future__ import annotations

import time
from statistics import median

_SLEEP_S = 50e-6
_SLEEPS, _ROUNDS = 50, 5


def wake_up_ns() -> float:
    """Return the CPU time of one sleep in ns: timer, two switches, and the system call around them."""
    return median(_round_ns() for _ in range(_ROUNDS))


def _round_ns() -> float:
    started = time.thread_time_ns()
    for _ in range(_SLEEPS):
        time.sleep(_SLEEP_S)
    return (time.thread_time_ns() - started) / _SLEEPS
