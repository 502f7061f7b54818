"""Accessed pages by idle page tracking, where the kernel has it (CONFIG_IDLE_PAGE_TRACKING).

/sys/kernel/mm/page_idle/bitmap has one bit per PFN in words of 64 (Documentation/admin-guide/mm/
idle_page_tracking.rst). A bit that is set marks the page idle, also where other pages of the word
are left out; an access through a page table clears it. Pages that are not on an LRU list have none.
One call reads or writes a page of it at most, the marks of 128 MiB of memory (kernfs_file_read_iter() and
kernfs_fop_write_iter(), fs/kernfs/file.c, v6.12): what it did not take is asked for again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.linux.capabilities import Right
from gpuscan.linux.process import Process
from gpuscan.linux.resident import PageFlags, pages_in
from gpuscan.linux.system import HERE, System
from gpuscan.monitors.contract import MonitorKind
from gpuscan.monitors.touched import NOTHING, PageMonitor, Touched, mapped

BITMAP = "sys/kernel/mm/page_idle/bitmap"
_OPENS = Right("CAP_DAC_OVERRIDE", "to open the bitmap of idle pages, root's own", unless_root=True)
_WORD_PAGES = 64
_WORD_BYTES = 8
_GAP_WORDS = 64
_ALL_IDLE = np.uint64((1 << 64) - 1)
_NO_FRAMES = np.empty(0, dtype=np.int64)


class IdleTracking(PageMonitor):
    """Pages that lost their idle mark since the last tick.

    Args:
        system: whose memory it is.
        cold_after_ns: report pages that stayed idle for this long as cold; None reports none.

    Raises:
        InputError: the kernel has no idle page tracking, or it may not be used.
    """

    name = "idle"
    sees = "reads and writes, page by page"

    def __init__(self, system: System = HERE, cold_after_ns: int | None = None) -> None:
        super().__init__(cold_after_ns)
        self._system = system
        path = system.root / BITMAP
        try:
            self._fd = system.open(path, os.O_RDWR)
        except FileNotFoundError:
            raise InputError(
                f"{path} is not there: the kernel has no CONFIG_IDLE_PAGE_TRACKING; take another --monitor"
            ) from None
        except OSError as error:
            raise InputError(
                f"{path} cannot be opened ({error.strerror}): root owns it; run gpuscan with sudo, "
                f"or give it {_OPENS.name}"
            ) from error
        try:
            self._flags = PageFlags(system.root / "proc/kpageflags", system)
        except BaseException:
            system.close(self._fd)
            raise
        self._marked: dict[int, NDArray[np.int64]] = {}

    def watch(self, processes: Sequence[Process]) -> None:
        """Mark the pages of processes that are new idle."""
        self._marked = {process.pid: self._marked.get(process.pid, _NO_FRAMES) for process in processes}
        new = self._new(processes)
        super().watch(processes)
        for process in new:
            self._mark(process.pid, self._heads(pages_in(process, mapped(process)).pfn))

    def _observed(self, process: Process, now_ns: int) -> Touched:
        if not process.is_alive():
            return NOTHING
        pages = pages_in(process, mapped(process))
        heads = self._heads(pages.pfn)
        was_marked = np.isin(heads, self._marked.get(process.pid, _NO_FRAMES))
        hot = was_marked & ~self._idle(heads)
        self._mark(process.pid, heads)
        return self._touched(process, pages, hot, now_ns)

    def _heads(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first pages of the folios: the others have no mark of their own and read as accessed."""
        return self._flags.folios_of(pfns).head

    def _mark(self, pid: int, pfns: NDArray[np.int64]) -> None:
        """Set the idle bits of PFNs, and of no others; note those that the kernel took."""
        marked = np.unique(pfns)
        numbers = marked // _WORD_PAGES
        bits = np.uint64(1) << (marked % _WORD_PAGES).astype(np.uint64)
        words, first = np.unique(numbers, return_index=True)
        is_written = np.zeros(len(words), dtype=np.bool_)
        values = np.bitwise_or.reduceat(bits, first) if len(words) else np.empty(0, dtype=np.uint64)
        for start, end in _runs(words, 1):
            n_written = self._write(values[start:end].tobytes(), int(words[start]))
            is_written[start : start + n_written] = True
        self._marked[pid] = marked[is_written[np.searchsorted(words, numbers)]]

    def _write(self, data: bytes, first_word: int) -> int:
        """Write words; return how many of them the kernel took."""
        done = 0
        while done < len(data):
            try:
                n_bytes = self._system.pwrite(self._fd, data[done:], first_word * _WORD_BYTES + done)
            except OSError:  # past the last PFN of the machine: an odd page, not on an LRU list either
                break
            if not n_bytes:
                break
            done += n_bytes
        return done // _WORD_BYTES

    def _idle(self, pfns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[n]: which pages are still idle."""
        numbers = pfns // _WORD_PAGES
        words = np.unique(numbers)
        found = np.zeros(len(words), dtype=np.uint64)
        for start, end in _runs(words, _GAP_WORDS):
            low, high = int(words[start]), int(words[end - 1]) + 1
            found[start:end] = self._read(low, high)[words[start:end] - low]
        mine = found[np.searchsorted(words, numbers)]
        idle: NDArray[np.bool_] = (mine >> (pfns % _WORD_PAGES).astype(np.uint64)) & np.uint64(1) != 0
        return idle

    def _read(self, low: int, high: int) -> NDArray[np.uint64]:
        """Return the words ``[low, high)``; past the bitmap's end nothing was accessed."""
        words = np.full(high - low, _ALL_IDLE)
        view, done = words.data.cast("B"), 0
        while done < len(view):
            n_bytes = self._system.preadv(self._fd, view[done:], low * _WORD_BYTES + done)
            if not n_bytes:
                break
            done += n_bytes
        return words

    def close(self) -> None:
        """Close the files; marks that are left do no harm, the next access takes them off."""
        self._flags.close()
        self._system.close(self._fd)


def _runs(numbers: NDArray[np.int64], most_gap: int) -> list[tuple[int, int]]:
    """Cut ascending numbers into index ranges without a step above ``most_gap``."""
    if not len(numbers):
        return []
    cuts = (np.flatnonzero(np.diff(numbers) > most_gap) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(numbers)], strict=True))


MONITOR = MonitorKind(
    place_in_auto=30,
    opens=(_OPENS,),
    keeps=(),
    watches_frames=False,
    open=lambda here: IdleTracking(here.system, here.cold_after_ns),
)
