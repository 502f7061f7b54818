"""Arrays larger than memory, for tests of 64-bit indexes: address space of which only touched pages exist."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_MAP_NORESERVE = 0x4000  # asm-generic/mman-common.h; the mmap module has it from Python 3.13 on


def untouched(n_items: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return zeros[n_items] that take memory only where they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, n_items * np.dtype(dtype).itemsize, flags=flags), dtype=dtype)
