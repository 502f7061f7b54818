"""What scans do, by name: a line is measured of each (:mod:`gpuscan.compare.cost_model`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuscan.base.errors import RunFailedError
from gpuscan.base.program import PROGRAM
from gpuscan.base.units import PAGE_BYTES
from gpuscan.bench.bed import Bed, Case, StoreShape
from gpuscan.compare.steps import loops
from gpuscan.designs import steps
from gpuscan.designs.steps import ScanStep, timed

GIB_PAGES = (1 << 30) // PAGE_BYTES
MODEL_DENSITY = 1e-5
"""READY pages, share of all, of what is measured, and of the curves over memory size."""
SPREAD_PAGES = 1 << 22
"""Struct pages that the entries of a list are spread over: 256 MiB."""
_WALK_PAGES = (4 * GIB_PAGES, 16 * GIB_PAGES, 8 * GIB_PAGES)
"""80 bytes each."""
_STORE_PAGES = (16 * GIB_PAGES, 128 * GIB_PAGES, 64 * GIB_PAGES)


def _ready(n_pages: int) -> Any:
    return np.random.default_rng(1).choice(n_pages, int(n_pages * MODEL_DENSITY), replace=False)


def _walk(n_pages: int) -> Callable[[], object]:
    pages, exts, ready = loops.struct_pages(n_pages), loops.written(n_pages), _ready(n_pages)
    found, walk = np.empty(len(ready), dtype=np.int64), loops.walk_locked.for_bits(64)

    def run() -> None:
        exts[ready] = loops.READY
        walk(pages, exts, found)

    return run


def _section_walk(n_pages: int) -> Callable[[], object]:
    pages, records = loops.struct_pages(n_pages), loops.written(n_pages, np.uint8)
    ready, walk = _ready(n_pages), loops.walk_records.for_bits(8)
    found = np.empty(len(ready), dtype=np.int64)

    def run() -> None:
        records[ready] = loops.RECORD_READY
        walk(pages, records, found)

    return run


def _section_check(n_sections: int) -> Callable[[], object]:
    hot, check = loops.written(2 * n_sections), loops.check_sections.for_bits(64)
    return lambda: check(hot)


def _list_entry(n_entries: int) -> Callable[[], object]:
    pages, entries = loops.struct_pages(SPREAD_PAGES), np.ones((n_entries, 2), dtype=np.int64)
    entries[:, 0] = np.random.default_rng(2).permutation(SPREAD_PAGES)[:n_entries]
    found, drain = np.empty(n_entries, dtype=np.int64), loops.drain_list.for_bits(64)
    return lambda: drain(entries, pages, found)


def _store(n_pages: int) -> float:
    """Time the scan as the engine calls it (auto), one thread, 16 targets, claims and grouping included."""
    shape = StoreShape(n_pages, 16, "rfc", "cpu")
    with Bed(shape, 1) as bed:
        n_ready = bed.fill(Case(shape, MODEL_DENSITY, "uniform", 1))
        least_ns = scan_ns(bed, n_ready)
        bed.empty()
    return least_ns


def scan_ns(bed: Bed, n_ready: int) -> float:
    """Return the least CPU time of one scan (auto) of a filled bed by this thread, which is put back after.

    Raises:
        RunFailedError: not every READY page was claimed.
    """
    times, none = [], np.empty(0, dtype=np.uint8)
    for _ in range(steps.ROUNDS + 1):
        n_claimed = cursor = elapsed_ns = 0
        while cursor < bed.store.n_pages:
            request = bed.request(cursor, "auto")
            started = time.thread_time_ns()
            plan = bed.store.kernels.scan(request)
            elapsed_ns += time.thread_time_ns() - started
            bed.store.kernels.release(plan.flat, plan.words, none)
            n_claimed, cursor = n_claimed + len(plan.flat), plan.cursor
            plan.recycle()
        times.append(elapsed_ns)
        if n_claimed != n_ready:
            raise RunFailedError(f"a scan claimed {n_claimed} pages of {n_ready}; report it")
    return float(min(times[1:]))


SCAN_STEPS = {
    step.name: step
    for step in (
        ScanStep("walk", "pages", _WALK_PAGES, timed(_walk)),
        ScanStep("section walk", "pages", _WALK_PAGES, timed(_section_walk)),
        ScanStep("section check", "sections", (1 << 17, 1 << 19, 1 << 18), timed(_section_check)),
        ScanStep("list entry", "entries", (1 << 18, 1 << 20, 1 << 19), timed(_list_entry)),
        ScanStep(PROGRAM, "pages", _STORE_PAGES, _store),
    )
}
"""By name: RFC v1's walk, pghot's, the look at a section's bit, an entry of a list, and our own scan."""
