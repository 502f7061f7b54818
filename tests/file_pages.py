"""Which pages of a mapped file are in memory, and how to have the kernel forget them."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.files.disk_memory import DiskMemory


def resident_pages(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pages of a mapped file are in memory (mincore(2))."""
    found = np.zeros(-(-array.nbytes // mmap.PAGESIZE), dtype=np.uint8)
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    assert mincore(array.ctypes.data, array.nbytes, found.ctypes.data) == 0, os.strerror(ctypes.get_errno())
    return (found & 1).astype(np.bool_)


def forget(memory: DiskMemory) -> None:
    """Let the kernel write the file out and forget it."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    os.fdatasync(memory._file.handle)
    assert madvise(memory.array.ctypes.data, memory.array.nbytes, mmap.MADV_DONTNEED) == 0
    os.posix_fadvise(memory._file.handle, 0, 0, os.POSIX_FADV_DONTNEED)
