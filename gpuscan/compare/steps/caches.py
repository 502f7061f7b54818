"""Caches without anything of what is measured, as an application leaves them."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from gpuscan.bench.floors import or_words
from gpuscan.bench.host import llc_bytes

_LLCS = 2
"""Last-level caches' worth of other memory that is read."""


def emptied() -> Callable[[], None]:
    """Return what reads so much of its own memory that nothing else is left in a cache."""
    words, read = np.ones(_LLCS * llc_bytes() // 8 // 32 * 32, dtype=np.int64), or_words.for_bits(64)
    return lambda: (read(words), None)[1]


def cold_ns(empty: Callable[[], None], run: Callable[[], object], warm: Callable[[], object]) -> float:
    """Return the CPU time of ``run`` in ns, with caches emptied before.

    Args:
        empty: from :func:`emptied`.
        run: what is timed.
        warm: called in between, untimed: the same code on nothing, so that what Python does for a call of
            compiled code is not in the time of code that the kernel would not call from Python.
    """
    empty()
    warm()
    started = time.thread_time_ns()
    run()
    return float(time.thread_time_ns() - started)
