"""The measure of leaked pages sees a leak, to the page."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from gpuscan.base.units import PAGE_BYTES
from guest.leaks import strays
from guest.shown import note

pytestmark = pytest.mark.guest

N_PAGES = 1024
NOISE_PAGES = 64
"""What else changes in the second that a test takes."""
_SYS_VMSPLICE = 278  # x86-64
_F_SETPIPE_SZ = 1031

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def pipe_of(n_pages: int) -> Iterator[tuple[int, int]]:
    """Yield the ends of a pipe that takes so many pages."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, _F_SETPIPE_SZ, n_pages * PAGE_BYTES)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def give_to(writer: int, memory: mmap.mmap) -> None:
    """Have a pipe refer to the pages of a mapping, instead of copying them (vmsplice(2))."""
    address = np.frombuffer(memory, dtype=np.uint8).ctypes.data
    part = (ctypes.c_size_t * 2)(address, len(memory))
    given = _libc.syscall(_SYS_VMSPLICE, writer, ctypes.byref(part), ctypes.c_size_t(1), 0)
    assert given == len(memory), os.strerror(ctypes.get_errno())


def test_pages_that_something_holds_when_their_process_has_unmapped_them() -> None:
    before = strays()
    with pipe_of(N_PAGES) as (_, writer):
        memory = mmap.mmap(-1, N_PAGES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        np.frombuffer(memory, dtype=np.uint8)[::PAGE_BYTES] = 1
        give_to(writer, memory)
        assert strays().orphans == before.orphans, "mapped they are somebody's"
        memory.close()
        held = strays()
    after = strays()
    note(f"pages that are nobody's: before {before}, held {held}, after {after}")
    assert held.orphans - before.orphans == N_PAGES
    assert held.unaccounted - before.unaccounted == pytest.approx(N_PAGES, abs=NOISE_PAGES)
    assert after.orphans == before.orphans
    assert after.unaccounted == pytest.approx(before.unaccounted, abs=NOISE_PAGES)


def test_pages_that_the_kernel_allocated_and_counts_nowhere() -> None:
    before = strays()
    with pipe_of(N_PAGES) as (_, writer):
        # A pipe's own buffers: allocated frames that no counter has, as a target of a move would be.
        assert os.write(writer, bytes(N_PAGES * PAGE_BYTES)) == N_PAGES * PAGE_BYTES
        held = strays()
    after = strays()
    note(f"pages that are nobody's: before {before}, held {held}, after {after}")
    assert held.orphans == before.orphans
    assert held.unaccounted - before.unaccounted == pytest.approx(N_PAGES, abs=NOISE_PAGES)
    assert after.unaccounted == pytest.approx(before.unaccounted, abs=NOISE_PAGES)
