"""What scans do, by name: each is measured at several sizes (:mod:`gpuscan.compare.cost_model`).

Sizes are parts of one piece of memory, so that all are measured in the same round. Caches are cold at all of
them. A step is measured at more than one density, since at one alone nothing tells its terms apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import RunFailedError
from gpuscan.base.program import PROGRAM
from gpuscan.base.units import PAGE_BYTES
from gpuscan.bench.bed import Bed, StoreShape
from gpuscan.compare.steps import loops
from gpuscan.compare.steps.caches import cold_ns, emptied
from gpuscan.compare.steps.ready_pages import anywhere, in_blocks
from gpuscan.designs.steps import Layout, ScanStep
from gpuscan.kernels.cpu.scan import FEW_BLOCKS, PARALLEL_FROM_BLOCKS
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.store.contract import capacity_for

GIB_PAGES = (1 << 30) // PAGE_BYTES
SECTIONS_OF_TIB = 1024 * GIB_PAGES // SECTION_PAGES
MODEL_DENSITY = 1e-5
"""READY pages, share of all, of the curves over memory size."""
WALK_PAGES = 32 * GIB_PAGES
"""Of the largest walk: 72 bytes each."""
LIST_PAGES = 64 * GIB_PAGES
"""Struct pages that the entries of the longest list are spread over."""
STORE_PAGES, FEW_PAGES = 4096 * GIB_PAGES, 512 * GIB_PAGES
"""Of the largest store: 4.25 bytes each; with few marked blocks."""
_SECTIONS = tuple(SECTIONS_OF_TIB * n for n in (1, 4, 16, 32, 48, 64))
_PARTS = (0.125, 0.25, 0.5, 0.75, 1.0)
_LIST_PARTS = (1 / 64, 1 / 16, 1 / 4, 1 / 2, 3 / 4, 1.0)
_STORE_PARTS = (0.25, 0.375, 0.5, 0.75, 1.0)
_FEW_PARTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
_FULL_DENSITY = 1 / 8
"""Where what a walk finds shows beside what it looks at."""
_LIST_DENSITY = 1 / 2048
"""So few that no two entries share a line of a page table."""
_LEAST_MARKED = 1.05 * PARALLEL_FROM_BLOCKS
"""Candidates that are no few blocks any more, wherever they lie."""
_STORE_BYTES = 4.25


def _within(n_bytes: int, per_page: float, most: int) -> int:
    """Return the pages that so many bytes are enough for, a power of two times a GiB, ``most`` at most; 0 for
    none."""
    n_pages = most
    while n_pages * per_page > n_bytes and n_pages >= GIB_PAGES:
        n_pages //= 2
    return n_pages if n_pages >= GIB_PAGES else 0


def _sized(top: int, parts: Sequence[float]) -> list[int]:
    """Return parts of ``top`` in whole sections, each once."""
    return sorted({int(top * part) // SECTION_PAGES * SECTION_PAGES for part in parts} - {0})


def _walk_points(*densities: float) -> Callable[[int], tuple[Layout, ...]]:
    def points(n_bytes: int) -> tuple[Layout, ...]:
        top = _within(n_bytes, loops.PAGE_WORDS * 8 + 9, WALK_PAGES)
        return tuple(anywhere(n_pages, density) for n_pages in _sized(top, _PARTS) for density in densities)

    return points


_full_walk_points = _walk_points(MODEL_DENSITY, _FULL_DENSITY)


@contextmanager
def _walk(layouts: Sequence[Layout]) -> Iterator[Callable[[int], float]]:
    yield _walking(layouts, loops.written(_most(layouts)), loops.READY, loops.walk_locked.for_bits(64))


@contextmanager
def _section_walk(layouts: Sequence[Layout]) -> Iterator[Callable[[int], float]]:
    records = loops.written(_most(layouts), np.uint8)
    yield _walking(layouts, records, loops.RECORD_READY, loops.walk_records.for_bits(8))


def _walking(layouts: Sequence[Layout], words: NDArray[Any], mark: int, walk: Any) -> Callable[[int], float]:
    """Return what measures a walk through struct pages and these words of theirs."""
    pages, empty = loops.struct_pages(len(words)), emptied()
    found = np.empty(max(len(layout.ready) for layout in layouts), dtype=np.int64)

    def once(index: int) -> float:
        n_pages = layouts[index].n_pages
        words[layouts[index].ready] = mark
        part, none = (pages[:n_pages], words[:n_pages], found), (pages[:0], words[:0], found)
        return cold_ns(empty, lambda: walk(*part), lambda: walk(*none))

    return once


def _check_points(_: int) -> tuple[Layout, ...]:
    return tuple(anywhere(n_sections * SECTION_PAGES, 0.0) for n_sections in _SECTIONS)


@contextmanager
def _section_check(layouts: Sequence[Layout]) -> Iterator[Callable[[int], float]]:
    hot, check, empty = loops.written(2 * max(_SECTIONS)), loops.check_sections.for_bits(64), emptied()

    def once(index: int) -> float:
        n_words = 2 * (layouts[index].n_pages // SECTION_PAGES)
        return cold_ns(empty, lambda: check(hot[:n_words]), lambda: check(hot[:0]))

    yield once


def _list_points(n_bytes: int) -> tuple[Layout, ...]:
    top = _within(n_bytes, loops.PAGE_WORDS * 8, LIST_PAGES)
    return tuple(anywhere(n_pages, _LIST_DENSITY) for n_pages in _sized(top, _LIST_PARTS))


@contextmanager
def _list_entry(layouts: Sequence[Layout]) -> Iterator[Callable[[int], float]]:
    pages, rng, empty = loops.struct_pages(_most(layouts)), np.random.default_rng(2), emptied()
    lists = []
    for layout in layouts:
        entries = np.ones((len(layout.ready), 2), dtype=np.int64)
        entries[:, 0] = rng.permutation(layout.ready)
        lists.append(entries)
    found, drain = np.empty(max(map(len, lists)), dtype=np.int64), loops.drain_list.for_bits(64)

    def once(index: int) -> float:
        entries = lists[index]
        return cold_ns(empty, lambda: drain(entries, pages, found), lambda: drain(entries[:0], pages, found))

    yield once


def _store_points(n_bytes: int) -> tuple[Layout, ...]:
    """Return those of which the scan follows the bits of more than a few blocks."""
    top = _within(n_bytes, _STORE_BYTES, STORE_PAGES)
    return tuple(
        layout
        for n_pages in _sized(top, _STORE_PARTS)
        for layout in _marked(n_pages, _LEAST_MARKED / n_pages)
        if PARALLEL_FROM_BLOCKS < (size := layout.size).n_marked_blocks < FEW_BLOCKS * size.n_blocks
    )


def _few_points(n_bytes: int) -> tuple[Layout, ...]:
    """Return those of which the scan is one call."""
    top = _within(n_bytes, _STORE_BYTES, FEW_PAGES)
    layouts = (
        layout for n_pages in _sized(top, _FEW_PARTS) for layout in _marked(n_pages, 2 * MODEL_DENSITY)
    )
    return tuple(layout for layout in layouts if layout.size.n_marked_blocks < PARALLEL_FROM_BLOCKS)


def _marked(n_pages: int, other: float) -> tuple[Layout, ...]:
    """Return the model's density, another one, and as many blocks with 8 candidates in each."""
    return (
        anywhere(n_pages, MODEL_DENSITY),
        anywhere(n_pages, other),
        in_blocks(n_pages, MODEL_DENSITY, 8),
    )


@contextmanager
def _store(layouts: Sequence[Layout]) -> Iterator[Callable[[int], float]]:
    """Scan as the engine does (auto), one thread, 16 targets, claims and grouping included."""
    empty, rng, none = emptied(), np.random.default_rng(1), np.empty(0, dtype=np.uint8)
    with Bed(StoreShape(_most(layouts), 16, "rfc", "cpu"), 1) as bed:
        targets = [bed.targets(layout.ready, rng) for layout in layouts]

        def once(index: int) -> float:
            n_pages, ready = layouts[index].n_pages, layouts[index].ready
            bed.store.kernels.request(ready, targets[index], none)
            empty()
            n_claimed, elapsed_ns = scan_once(bed, n_pages)
            if n_claimed != len(ready):
                raise RunFailedError(f"a scan claimed {n_claimed} pages of {len(ready)}; report it")
            return elapsed_ns

        yield once


def scan_once(bed: Bed, n_pages: int, *, release: bool = False) -> tuple[int, float]:
    """Claim all READY pages of the first ``n_pages`` of a bed, with plans as a store of that size makes them;
    return how many, and the CPU time of this thread in ns. ``release`` puts them back after."""
    n_claimed = cursor = elapsed_ns = 0
    none = np.empty(0, dtype=np.uint8)
    while cursor < n_pages:
        request = bed.request(cursor, "auto", capacity_for(n_pages), n_pages)
        started = time.thread_time_ns()
        plan = bed.store.kernels.scan(request)
        elapsed_ns += time.thread_time_ns() - started
        if release:
            bed.store.kernels.release(plan.flat, plan.words, none)
        n_claimed, cursor = n_claimed + len(plan.flat), plan.cursor
        plan.recycle()
    return n_claimed, float(elapsed_ns)


def _most(layouts: Sequence[Layout]) -> int:
    return max(layout.n_pages for layout in layouts)


FEW = f"{PROGRAM}, few blocks"
SCAN_STEPS = {
    step.name: step
    for step in (
        ScanStep("walk", ("page",), _walk_points(MODEL_DENSITY), _walk),
        ScanStep(
            "section walk", ("page", "candidate"), _walk_points(MODEL_DENSITY, _FULL_DENSITY), _section_walk
        ),
        ScanStep("section check", ("section",), _check_points, _section_check),
        ScanStep("list entry", ("candidate",), _list_points, _list_entry),
        ScanStep(FEW, ("marked section", "candidate"), _few_points, _store),
        ScanStep(PROGRAM, ("section", "marked section", "candidate"), _store_points, _store),
    )
}
"""By name: RFC v1's walk, pghot's, the look at a section's bit, an entry of a list, and our own scan, which
does it all in one call where few blocks are marked. What RFC v1's walk finds takes nothing that shows beside
the locked instruction on every page: less than 1 ns, where one in eight is READY."""
