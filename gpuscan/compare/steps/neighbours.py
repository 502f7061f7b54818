"""What a neighbour is measured beside, by name (:mod:`gpuscan.compare.side_costs`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpuscan.base.program import PROGRAM
from gpuscan.bench.bed import Bed, Case, StoreShape
from gpuscan.compare.steps import loops
from gpuscan.designs.steps import CoRunner
from gpuscan.kernels.api import ScanPath

_STORE_PAGES = 1 << 26
_DENSITY = 1e-4
_N_ENTRIES = 1 << 18


@contextmanager
def _walk(n_pages: int) -> Iterator[Callable[[], object]]:
    pages, exts = loops.struct_pages(n_pages), loops.written(n_pages)
    found, walk = np.empty(n_pages, dtype=np.int64), loops.walk_locked.for_bits(64)
    yield lambda: walk(pages, exts, found)


@contextmanager
def _section_walk(n_pages: int) -> Iterator[Callable[[], object]]:
    pages, records = loops.struct_pages(n_pages), loops.written(n_pages, np.uint8)
    found, walk = np.empty(n_pages, dtype=np.int64), loops.walk_records.for_bits(8)
    yield lambda: walk(pages, records, found)


@contextmanager
def _list_entry(n_pages: int) -> Iterator[Callable[[], object]]:
    pages, entries = loops.struct_pages(n_pages), np.ones((_N_ENTRIES, 2), dtype=np.int64)
    entries[:, 0] = np.random.default_rng(5).permutation(n_pages)[:_N_ENTRIES]
    found, drain = np.empty(_N_ENTRIES, dtype=np.int64), loops.drain_list.for_bits(64)
    yield lambda: drain(entries, pages, found)


def _store(path: ScanPath) -> Any:
    @contextmanager
    def open_store(_: int) -> Iterator[Callable[[], object]]:
        shape, none = StoreShape(_STORE_PAGES, 16, "rfc", "cpu"), np.empty(0, dtype=np.uint8)
        with Bed(shape, 1) as bed:
            bed.fill(Case(shape, _DENSITY, "uniform", 1))

            def scan() -> None:
                plan = bed.store.kernels.scan(bed.request(0, path))
                bed.store.kernels.release(plan.flat, plan.words, none)
                plan.recycle()

            yield scan

    return open_store


CO_RUNNERS = {
    runner.name: runner
    for runner in (
        CoRunner("walk", _walk),
        CoRunner("section walk", _section_walk),
        CoRunner("list entry", _list_entry),
        CoRunner(f"{PROGRAM} dense", _store("dense")),
        CoRunner(PROGRAM, _store("auto")),
    )
}
"""By name, in the order in which they are measured."""
