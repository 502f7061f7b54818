"""Which page of a process is in which frame: tables that are given beside traces of virtual addresses.

A table is Parquet or CSV, with a heading: one of ``virtual_page`` and ``virtual_address``, one of ``pfn`` and
``address``, and where there are any ``n_pages`` (so many from there on, in as many frames) and ``pid``.
``gpuscan capture --pages`` writes one. A page that is not in it had no frame when it was written: what is
accessed there is left out of a trace, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_SHIFT, format_number
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import PID_SHIFT

VIRTUAL = {"virtual_page": 0, "virtual_address": PAGE_SHIFT}
PHYSICAL = {"pfn": 0, "address": PAGE_SHIFT}
OTHERS = ("n_pages", "pid")
REMEDY = (
    f"give a table that gpuscan capture --pages wrote, or one with a heading: one of {', '.join(VIRTUAL)}, "
    f"one of {', '.join(PHYSICAL)}, and of {', '.join(OTHERS)} what there is"
)
_PAGE_MAX, _PFN_MAX, _PID_MAX = 1 << PID_SHIFT, 1 << 44, 1 << 22
_N_PIECES = 1 << 20
"""Stretches of frames that regions are cut into at once."""


@dataclass(frozen=True, slots=True, eq=False)
class PageTable:
    """Stretches of pages in frames one behind the other, ascending, none twice.

    Attributes:
        path: of the file.
        page: int64[n], first page of each, its process above (:func:`gpuscan.traces.text.page_of`).
        pfn, n_pages: int64[n], its first frame, and how many there are.
        pids: of whom it is; empty where it does not say.
    """

    path: Path
    page: NDArray[np.int64]
    pfn: NDArray[np.int64]
    n_pages: NDArray[np.int64]
    pids: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, columns: dict[str, NDArray[Any]]) -> PageTable:
        """Return the table with these columns, whatever order its rows are in.

        Raises:
            InputError: columns are missing or foreign, a value is out of range, or a page has two frames.
        """
        virtual, physical = check_columns(path, tuple(columns))
        page, pfn = columns[virtual] >> VIRTUAL[virtual], columns[physical] >> PHYSICAL[physical]
        n_pages = columns.get("n_pages", np.ones(len(page), dtype=np.int64))
        pid = columns.get("pid", np.zeros(len(page), dtype=np.int64))
        for name, numbers, low, high in (
            (virtual, page, 0, _PAGE_MAX),
            (physical, pfn, 0, _PFN_MAX),
            ("n_pages", n_pages, 1, _PFN_MAX),
            (f"{virtual} + n_pages", page + n_pages, 1, _PAGE_MAX + 1),
            (f"{physical} + n_pages", pfn + n_pages, 1, _PFN_MAX + 1),
            ("pid", pid, int("pid" in columns), _PID_MAX),
        ):
            wrong = (numbers < low) | (numbers >= high)
            if wrong.any():
                raise InputError(
                    f"{path}: row {int(np.argmax(wrong)) + 1:,}: {name} is out of range; {REMEDY}"
                )
        if not len(page):
            raise InputError(f"{path} has no pages; write it while the process runs")
        order = np.argsort(pid << PID_SHIFT | page, kind="stable")
        page, pfn, n_pages = (pid << PID_SHIFT | page)[order], pfn[order], n_pages[order]
        if bool((page[1:] < page[:-1] + n_pages[:-1]).any()):
            at = int(np.argmax(page[1:] < page[:-1] + n_pages[:-1]))
            address = (int(page[at + 1]) & (_PAGE_MAX - 1)) << PAGE_SHIFT
            raise InputError(
                f"{path}: the page at {address:#x} has two frames; "
                "write it again, or say whose each is in a column pid"
            )
        pids = tuple(np.unique(pid).tolist()) if "pid" in columns else ()
        return cls(path, page, pfn, n_pages, pids)

    def frames(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        """Yield the samples of a trace by the frames of their pages, a region as stretches of these.

        A trace that does not say of which process it is is of the table's; a table that does not, of the
        trace's.

        Raises:
            InputError: it cannot be said whose table it is.
        """
        trace_pid = 0
        for samples in blocks:
            if len(samples):
                trace_pid = self._whose(samples, trace_pid)
            page = samples.pfn
            if len(self.pids) == 1:  # the trace need not say so
                page = np.where(page >> PID_SHIFT, page, page | self.pids[0] << PID_SHIFT)
            elif not self.pids:
                page = page & (_PAGE_MAX - 1)
            yield from self._pieces(samples, page)

    def _whose(self, samples: Samples, last_pid: int) -> int:
        """Check that it can be said whose pages are accessed; return a process that the trace has named."""
        pids = np.unique(samples.pfn >> PID_SHIFT)
        if len(self.pids) > 1 and not pids[0]:
            raise InputError(
                f"{self.path} has pages of {len(self.pids)} processes, and the trace does not say of which "
                "it is; give a table of one"
            )
        named = {last_pid, *pids.tolist()} - {0}
        if not self.pids and len(named) > 1:
            raise InputError(
                f"{self.path} does not say whose pages it has, and the trace is of several processes; give a "
                "table with a column pid"
            )
        return next(iter(named), 0)

    def _pieces(self, samples: Samples, page: NDArray[np.int64]) -> Iterator[Samples]:
        first = np.searchsorted(self.page + self.n_pages, page, side="right")
        after = np.searchsorted(self.page, page + samples.n_pages, side="left")
        n_of = np.maximum(after - first, 0)
        ends = np.cumsum(n_of)
        left_out: dict[str, Any] = {**samples.left_out(), "n_unmapped": int(np.count_nonzero(n_of == 0))}
        start = 0
        while True:
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _N_PIECES, side="right")))
            part = slice(start, stop)
            yield self._cut(samples[part], page[part], first[part], n_of[part], left_out if not start else {})
            start = stop
            if start >= len(samples):
                return

    def _cut(
        self,
        samples: Samples,
        page: NDArray[np.int64],
        first: NDArray[np.intp],
        n_of: NDArray[np.intp],
        left_out: dict[str, Any],
    ) -> Samples:
        """Return samples as the stretches of the table that they touch, ``n_of`` from ``first`` on each."""
        of = np.repeat(np.arange(len(samples)), n_of)
        row: NDArray[np.int64] = (
            np.arange(len(of)) - np.repeat(np.cumsum(n_of) - n_of, n_of) + np.repeat(first, n_of)
        )
        start: NDArray[np.int64] = np.maximum(page[of], self.page[row])
        end = np.minimum(page[of] + samples.n_pages[of], self.page[row] + self.n_pages[row])
        return Samples(
            samples.time_ns[of],
            samples.cpu[of],
            self.pfn[row] + (start - self.page[row]),
            end - start,
            samples.weight[of],
            share=None if samples.share is None else samples.share[of],
            **left_out,
        )

    def sentence(self) -> str:
        """Return what is said of a trace that is read by it."""
        return (
            f"virtual addresses: by {self.path.name}, which has the frames of "
            f"{format_number(int(self.n_pages.sum()), 'page')}"
        )


def check_columns(path: Path, names: tuple[str, ...]) -> tuple[str, str]:
    """Return the columns that are there of :data:`VIRTUAL` and of :data:`PHYSICAL`.

    Raises:
        InputError: these are not the columns of a page table.
    """
    virtual, physical = ([name for name in names if name in kinds] for kinds in (VIRTUAL, PHYSICAL))
    unknown = [name for name in names if name not in (*VIRTUAL, *PHYSICAL, *OTHERS)]
    if len(virtual) != 1 or len(physical) != 1 or unknown or len(set(names)) != len(names):
        raise InputError(f"{path} has the columns {', '.join(names)[:80]!r}; {REMEDY}")
    return virtual[0], physical[0]
