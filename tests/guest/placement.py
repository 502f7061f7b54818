"""Memory on a node of choice that the kernel may move afterwards: no policy stays behind."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = mmap.PAGESIZE
THP_BYTES = 2 << 20

# Linux, include/uapi/linux/mempolicy.h and the x86-64 system call table
_MPOL_DEFAULT, _MPOL_BIND = 0, 2
_SYS_MBIND, _SYS_SET_MEMPOLICY = 237, 238
_MADV_DONTNEED = 4  # include/uapi/asm-generic/mman-common.h

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def allocations_on(nid: int) -> Iterator[None]:
    """Take this thread's new pages from one node; a policy of the thread leaves no trace in its mappings."""
    _set_mempolicy(_MPOL_BIND, 1 << nid)
    try:
        yield
    finally:
        _set_mempolicy(_MPOL_DEFAULT, 0)


def private_memory(n_bytes: int, *, thp: bool) -> NDArray[np.uint8]:
    """Return private memory, aligned to 2 MiB, nothing of it there yet; with or without huge pages."""
    mapping = mmap.mmap(-1, n_bytes + THP_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE if thp else mmap.MADV_NOHUGEPAGE)
    memory = np.frombuffer(mapping, dtype=np.uint8)
    skipped = -memory.ctypes.data % THP_BYTES
    return memory[skipped : skipped + n_bytes]


def give_back(memory: NDArray[np.uint8]) -> None:
    """Unmap pages of private memory; touched again they are new ones."""
    address, n_bytes = ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)
    if _libc.madvise(address, n_bytes, _MADV_DONTNEED):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def bind(memory: NDArray[np.uint8], nid: int) -> None:
    """Let memory be on one node only from now on (``bind:`` in numa_maps)."""
    address, n_bytes = ctypes.c_void_p(memory.ctypes.data), ctypes.c_ulong(memory.nbytes)
    mask = ctypes.c_ulong(1 << nid)
    n_bits, flags = ctypes.c_ulong(64), ctypes.c_uint(0)
    if _libc.syscall(_SYS_MBIND, address, n_bytes, _MPOL_BIND, ctypes.byref(mask), n_bits, flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _set_mempolicy(mode: int, node_mask: int) -> None:
    mask = ctypes.c_ulong(node_mask)
    n_bits = ctypes.c_ulong(64 if node_mask else 0)
    if _libc.syscall(_SYS_SET_MEMPOLICY, mode, ctypes.byref(mask) if node_mask else None, n_bits):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
