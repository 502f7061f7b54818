"""What producers do for each page they mark, by name (:mod:`gpuscan.compare.side_costs`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.program import PROGRAM
from gpuscan.bench.bed import Bed, StoreShape
from gpuscan.compare.steps import loops
from gpuscan.designs.steps import Marking, MarkStep
from gpuscan.kernels.cpu.arguments import machine_of
from gpuscan.kernels.cpu.backend import CpuKernels
from gpuscan.kernels.outcomes import N_OUTCOMES
from gpuscan.records.page_map import SECTION_PAGES

_ZONE_WORD = 8
_LIST_ENTRIES = 4096


def _flags() -> NDArray[Any]:
    return loops.written(16)


def _two_atomics(zone_word: int) -> Any:
    @contextmanager
    def open_pages(n_pages: int, pfns: Sequence[NDArray[Any]]) -> Iterator[Marking]:
        pages, exts, flags = loops.struct_pages(n_pages), loops.written(n_pages), _flags()
        mark = loops.mark_two_atomics.for_bits(64)

        def clear() -> None:
            exts[:], flags[:] = 0, 0

        yield Marking(lambda number: mark(pfns[number], pages, exts, flags, zone_word), clear)

    return open_pages


@contextmanager
def _of_a_folio(n_pages: int, pfns: Sequence[NDArray[Any]]) -> Iterator[Marking]:
    pages, exts, flags = loops.struct_pages(n_pages), loops.written(n_pages), _flags()
    mark = loops.mark_head.for_bits(64)

    def clear() -> None:
        exts[:], flags[:] = 0, 0

    yield Marking(lambda number: mark(pfns[number], pages, exts, flags), clear)


@contextmanager
def _record(n_pages: int, pfns: Sequence[NDArray[Any]]) -> Iterator[Marking]:
    pages, flags = loops.struct_pages(n_pages), _flags()
    records, hot = loops.written(n_pages, np.uint8), loops.written(2 * n_pages // SECTION_PAGES)
    mark = loops.mark_record.for_bits(8)

    def clear() -> None:
        # Two accesses make a page READY: for every second mark there has been one.
        records[:], hot[:], flags[:] = 0, 0, 0
        for part in pfns:
            records[part[::2]] = 1

    yield Marking(lambda number: mark(pfns[number], pages, records, hot, flags), clear)


@contextmanager
def _append(n_pages: int, pfns: Sequence[NDArray[Any]]) -> Iterator[Marking]:
    pages, flags, append = loops.struct_pages(n_pages), _flags(), loops.append.for_bits(64)
    entries = [np.ones((_LIST_ENTRIES, 2), dtype=np.int64) for _ in pfns]
    yield Marking(lambda number: append(pfns[number], pages, entries[number], flags), lambda: flags.fill(0))


def _requests(one_by_one: bool) -> Any:
    @contextmanager
    def open_store(n_pages: int, pfns: Sequence[NDArray[Any]]) -> Iterator[Marking]:
        with Bed(StoreShape(n_pages, 16, "rfc", "cpu"), 1) as bed:
            rng, none, kernels = np.random.default_rng(4), np.empty(0, dtype=np.uint8), bed.store.kernels
            nids = [bed.targets(part, rng) for part in pfns]

            def clear() -> None:
                bed.empty()
                bed.records[:] = 0

            def mark(number: int) -> object:
                if not one_by_one:
                    return kernels.request(pfns[number], nids[number], none)
                assert isinstance(kernels, CpuKernels)
                counts = np.zeros(N_OUTCOMES, dtype=np.int64)
                single = loops.mark_single.for_bits(kernels.layout.fmt.bits)
                single(pfns[number], nids[number], kernels.store, machine_of(kernels.layout), counts)
                return counts

            yield Marking(mark, clear)

    return open_store


MARK_STEPS = {
    step.name: step
    for step in (
        MarkStep("two atomics", _two_atomics(0)),
        MarkStep("two atomics and a zone's flag", _two_atomics(_ZONE_WORD)),
        MarkStep("two atomics of a folio", _of_a_folio),
        MarkStep("record", _record),
        MarkStep("append", _append),
        MarkStep(PROGRAM, _requests(False), "a sorted batch", _requests(True)),
    )
}
"""By name: kmigrated_add_pfn(), with more flags or on the head's record; pghot_record_access(); a list per
CPU; and our own request, in one call, and page by page."""
