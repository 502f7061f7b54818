"""What a design costs others: its producers per mark, alone and two at once, and a busy neighbour.

Measured with the compiled steps of :mod:`gpuscan.compare.steps` and gpuscan's own kernels.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

import numpy as np

from gpuscan.bench.bed import Bed, Case, StoreShape
from gpuscan.bench.floors import or_words
from gpuscan.compare import steps
from gpuscan.compare.settings import OURS, UNTIMED
from gpuscan.records.page_map import SECTION_PAGES

N_PAGES = 1 << 22
"""Of the machine the producers mark and the walks walk: 16 GiB, its struct pages are 256 MiB."""
_N_MARKS = 1 << 19
_ROUNDS = 5
_VICTIM_BYTES = 256 << 20
_VICTIM_NS = 250_000_000
_DENSITY = 1e-4

Mark = Callable[[int], object]
"""A producer's marks of its own pages, given its number; gpuscan's in one call, which returns outcomes."""


@dataclass(frozen=True, slots=True)
class ProducerCost:
    """Nanoseconds per mark of a producer, one alone and each of two at once, to random pages that no mark was
    made of before; NaN where the machine has one CPU."""

    alone_ns: float
    beside_another_ns: float


def n_cpus() -> int:
    """Return the CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def producer_costs(names: tuple[str, ...], on_step: Callable[[str], None]) -> dict[str, ProducerCost]:
    """Measure the producers of designs, but for those in ``UNTIMED``; ``on_step`` is called after each."""
    order = np.random.default_rng(3).permutation(N_PAGES)
    pfns = [order[:_N_MARKS], order[_N_MARKS : 2 * _N_MARKS]]
    costs = {}
    for name in names:
        if name in UNTIMED:
            on_step(name)
            continue
        with _Producers(name, pfns) as producers:
            alone = [producers.round_ns(1) for _ in range(1 + _ROUNDS)][1:]  # the first one compiles
            both = [producers.round_ns(2) for _ in range(_ROUNDS)] if n_cpus() > 1 else [float("nan")]
        costs[name] = ProducerCost(min(alone), min(both))
        on_step(name)
    return costs


def _marks_ns(mark: Mark, n_threads: int) -> float:
    """Return the ns per mark of each of ``n_threads`` that mark at once."""
    barrier, ended = threading.Barrier(n_threads + 1), [0.0] * n_threads

    def work(number: int) -> None:
        barrier.wait()
        started = time.thread_time_ns()
        mark(number)
        ended[number] = (time.thread_time_ns() - started) / _N_MARKS

    threads = [threading.Thread(target=work, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for thread in threads:
        thread.join()
    return max(ended)


class _Producers:
    """The producers of one design, each with pages of its own, on arrays of their own.

    Args:
        design: its name.
        pfns: of each producer's marks, no page twice.
    """

    def __init__(self, design: str, pfns: list[Any]) -> None:
        self._pfns = pfns
        self._bed: Bed | None = None
        self._evicting = np.ones(_VICTIM_BYTES // 8, dtype=np.int64)
        self._mark, self._clear = self._make(design)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bed is not None:
            self._bed.close()

    def round_ns(self, n_threads: int) -> float:
        """Return the ns per mark of each of ``n_threads``; every mark finds what the first of its page would.

        What the round before left is cleared, and then no cache has it: both untimed.
        """
        self._clear()
        or_words.for_bits(64)(self._evicting)
        return _marks_ns(self._mark, n_threads)

    def _make(self, design: str) -> tuple[Mark, Callable[[], None]]:
        """Return what marks, and what clears all marks."""
        pfns, flags = self._pfns, steps.written(16)
        if design == OURS:
            return self._make_ours()
        pages = steps.struct_pages(N_PAGES)
        if design == "section-flag":
            records, hot = steps.written(N_PAGES, np.uint8), steps.written(2 * N_PAGES // SECTION_PAGES)
            record = steps.mark_record.for_bits(8)

            def clear_records() -> None:
                # Two accesses make a page READY: for every second mark there has been one.
                records[:], hot[:], flags[:] = 0, 0, 0
                for part in pfns:
                    records[part[::2]] = 1

            return lambda number: record(pfns[number], pages, records, hot, flags), clear_records
        if design == "percpu-list":
            append = steps.append.for_bits(64)
            entries = [np.ones((4096, 2), dtype=np.int64) for _ in pfns]
            return lambda number: append(pfns[number], pages, entries[number], flags), lambda: flags.fill(0)
        exts = steps.written(N_PAGES)

        def clear_exts() -> None:
            exts[:], flags[:] = 0, 0

        if design == "per-folio":
            head = steps.mark_head.for_bits(64)
            return lambda number: head(pfns[number], pages, exts, flags), clear_exts
        two, zone_word = steps.mark_two_atomics.for_bits(64), 8 if design == "zone-flag" else 0
        return lambda number: two(pfns[number], pages, exts, flags, zone_word), clear_exts

    def _make_ours(self) -> tuple[Mark, Callable[[], None]]:
        self._bed = bed = Bed(StoreShape(N_PAGES, 16, "rfc", "cpu"), 1)
        rng, none, pfns = np.random.default_rng(4), np.empty(0, dtype=np.uint8), self._pfns
        nids = [bed.targets(part, rng) for part in pfns]

        def clear() -> None:
            bed.empty()
            bed.records[:] = 0

        return lambda number: bed.store.kernels.request(pfns[number], nids[number], none), clear


def co_runner_slowdown(on_step: Callable[[str], None]) -> dict[str, float]:
    """Return by step how much slower a thread that reads 256 MiB over and over gets while another scans.

    Returns:
        ``walk``, ``section walk``, ``list entry``, ``gpuscan dense`` and ``gpuscan``: 1 - with / without, by
        the bytes that the thread read. Empty on a machine with one CPU.
    """
    if n_cpus() < 2:
        return {}
    words = np.ones(_VICTIM_BYTES // 8, dtype=np.int64)
    read = or_words.for_bits(64)
    read(words)
    pages, found = steps.struct_pages(N_PAGES), np.empty(N_PAGES, dtype=np.int64)
    exts, records = steps.written(N_PAGES), steps.written(N_PAGES, np.uint8)
    entries = np.ones((1 << 18, 2), dtype=np.int64)
    entries[:, 0] = np.random.default_rng(5).permutation(N_PAGES)[: len(entries)]
    walk, walk_records = steps.walk_locked.for_bits(64), steps.walk_records.for_bits(8)
    drain = steps.drain_list.for_bits(64)
    shape = StoreShape(1 << 26, 16, "rfc", "cpu")
    with Bed(shape, 1) as bed:
        bed.fill(Case(shape, _DENSITY, "uniform", 1))

        def scan(path: Any) -> None:
            plan = bed.store.kernels.scan(bed.request(0, path))
            bed.store.kernels.release(plan.flat, plan.words, np.empty(0, dtype=np.uint8))
            plan.recycle()

        scanners: dict[str, Callable[[], Any]] = {
            "walk": lambda: walk(pages, exts, found),
            "section walk": lambda: walk_records(pages, records, found),
            "list entry": lambda: drain(entries, pages, found),
            "gpuscan dense": lambda: scan("dense"),
            "gpuscan": lambda: scan("auto"),
        }
        slower = {}
        for name, scanner in scanners.items():
            scanner()
            ratios = []
            for _ in range(3):
                alone = _read_rate(lambda: read(words), None)
                ratios.append(_read_rate(lambda: read(words), scanner) / alone)
            slower[name] = 1 - median(ratios)
            on_step(name)
    return slower


N_CO_RUNNERS = 5


def _read_rate(read: Callable[[], Any], beside: Callable[[], Any] | None) -> float:
    """Return reads per second of a thread for a quarter of a second."""
    stop = threading.Event()

    def scan_on() -> None:
        while beside is not None and not stop.is_set():
            beside()

    thread = threading.Thread(target=scan_on)
    thread.start()
    started, n_reads = time.perf_counter_ns(), 0
    while time.perf_counter_ns() - started < _VICTIM_NS:
        read()
        n_reads += 1
    elapsed_ns = time.perf_counter_ns() - started
    stop.set()
    thread.join()
    return n_reads / elapsed_ns * 1e9
