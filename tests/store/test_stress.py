"""Producers, releases and frees in other threads while scans run: nothing is lost or claimed twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuscan.kernels.api import Budget, Kernels, Outcome, RecordParams, ReleaseOutcome, ScanRequest
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.records.page_map import SECTION_PAGES, Extent
from stores import NONE, always_parallel, assert_indexed, assert_sorted, layout_of, plain_layout

SECONDS = 0.7
LAYOUT = plain_layout(n_sections=2)


class Ledger:
    """What the threads did, in folios."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun = 0
        self.ended = 0
        self.claimed = 0
        self.n_plans = 0

    def add(self, *, begun: int = 0, ended: int = 0, claimed: int = 0) -> None:
        with self.lock:
            self.begun += begun
            self.ended += ended
            self.claimed += claimed


def produce(kernels: Kernels, ledger: Ledger, rng: np.random.Generator) -> None:
    """Request some pages and access others; the pages of different calls overlap."""
    pfns = rng.integers(0, LAYOUT.n_pages, 400)
    nids = rng.integers(2, 8, 400).astype(np.int32)
    begun = kernels.request(pfns[:200], nids[:200], NONE)[Outcome.ACCEPTED]
    params = RecordParams(int(rng.integers(0, 1 << 20)), 1 << 30, 2, drop_top_tier=False)
    begun += kernels.record(pfns[200:], nids[200:], params, NONE)[Outcome.ACCEPTED]
    ledger.add(begun=int(begun))


def produce_few(kernels: Kernels, ledger: Ledger, rng: np.random.Generator) -> None:
    """Request the same few pages again and again: every index word is fought over."""
    pfns = rng.integers(0, 128, 64) * 8
    begun = kernels.request(pfns, rng.integers(2, 8, 64).astype(np.int32), NONE)[Outcome.ACCEPTED]
    ledger.add(begun=int(begun))


def produce_neighbours(kernels: Kernels, ledger: Ledger, rng: np.random.Generator) -> None:
    """Request stretches of pages, whole words of them: they are claimed together, and refreshed meanwhile."""
    first = int(rng.integers(0, LAYOUT.n_pages - 4096))
    nids = np.full(4096, rng.integers(2, 8), dtype=np.int32)
    begun = kernels.request(np.arange(first, first + 4096), nids, NONE)[Outcome.ACCEPTED]
    ledger.add(begun=int(begun))


def free(kernels: Kernels, ledger: Ledger, rng: np.random.Generator) -> None:
    """Free pages and allocate them again."""
    flats = rng.integers(0, LAYOUT.n_pages, 20)
    kernels.set_eligible(flats, eligible=False)
    ledger.add(ended=kernels.discard(flats))
    kernels.set_eligible(flats, eligible=True)


def scan(request: Callable[[Kernels, np.random.Generator], ScanRequest]) -> Any:
    """Return a step that claims, puts a third back and migrates the rest."""

    def step(kernels: Kernels, ledger: Ledger, rng: np.random.Generator) -> None:
        asked = request(kernels, rng)
        plan = kernels.scan(asked)
        assert len(plan.flat) + plan.n_unknown_target <= asked.capacity
        assert_sorted(plan)
        back = rng.random(len(plan.flat)) < 0.3
        released = kernels.release(plan.flat[back], plan.words[back], NONE)
        kept = len(plan.flat) - int(released[ReleaseOutcome.RESTORED])
        ledger.add(claimed=kept, ended=plan.n_superseded)
        with ledger.lock:
            ledger.n_plans += 1
        plan.recycle()

    return step


def plain_scan(path: Any) -> Any:
    return scan(lambda _kernels, _rng: ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages, path))


def bounded_scan(path: Any) -> Any:
    def request(_kernels: Kernels, rng: np.random.Generator) -> ScanRequest:
        lo = int(rng.integers(0, LAYOUT.n_pages // 512)) * 512
        return ScanRequest(lo, LAYOUT.n_pages, 512, path)

    return scan(request)


def budget_scan(path: Any) -> Any:
    def request(kernels: Kernels, rng: np.random.Generator) -> ScanRequest:
        limits = rng.integers(-1, 30, 8)
        budget = Budget(limits, rng.integers(0, LAYOUT.n_pages, 8), int(rng.integers(0, 1 << 18)))
        return ScanRequest(
            0, LAYOUT.n_pages, LAYOUT.n_pages, path, cuts=kernels.rank(budget, 0, LAYOUT.n_pages)
        )

    return scan(request)


MIXES = {
    "indexed": [produce, produce_few, plain_scan("indexed")],
    "dense": [produce, produce_few, plain_scan("dense")],
    "two scans": [produce_few, produce, plain_scan("indexed"), plain_scan("dense")],
    "neighbours": [produce_neighbours, produce, plain_scan("indexed"), plain_scan("dense")],
    "bounded": [produce, free, bounded_scan("indexed"), bounded_scan("dense")],
    "budgets": [produce, produce_few, budget_scan("indexed"), budget_scan("dense")],
}


@pytest.mark.parametrize("mix", list(MIXES))
def test_every_request_ends_once(mix: str) -> None:
    with always_parallel():
        kernels = CpuBackend(2).open(LAYOUT)
        kernels.set_eligible(np.arange(LAYOUT.n_pages), eligible=True)
        ledger, errors = Ledger(), []
        stop = time.monotonic() + SECONDS

        def repeat(step: Any, seed: int) -> None:
            rng = np.random.default_rng(seed)
            try:
                while time.monotonic() < stop:
                    step(kernels, ledger, rng)
            except BaseException as error:
                errors.append(error)
                raise

        threads = [threading.Thread(target=repeat, args=(step, seed)) for seed, step in enumerate(MIXES[mix])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert ledger.n_plans > 0
        assert ledger.begun > 0
        assert_indexed(kernels)
        # At rest, what is pending can all be found through the index.
        pending = kernels.count_ready()
        assert ledger.begun == pending + ledger.claimed + ledger.ended
        assert len(kernels.scan(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages, "indexed")).flat) == pending
        assert kernels.count_ready() == 0


def test_a_budget_is_never_overspent() -> None:
    with always_parallel():
        kernels = CpuBackend(2).open(LAYOUT)
        kernels.set_eligible(np.arange(LAYOUT.n_pages), eligible=True)
        stop = threading.Event()

        def keep_producing() -> None:
            rng, ledger = np.random.default_rng(1), Ledger()
            while not stop.is_set():
                produce(kernels, ledger, rng)

        thread = threading.Thread(target=keep_producing)
        thread.start()
        try:
            rng = np.random.default_rng(2)
            for _ in range(15):
                limits = rng.integers(0, 20, 8)
                budget = Budget(limits, rng.integers(0, LAYOUT.n_pages, 8), 0)
                cuts = kernels.rank(budget, 0, LAYOUT.n_pages)
                taken = np.zeros(8, dtype=np.int64)
                for path in ("indexed", "dense"):  # the same cut-offs twice: the quotas are spent in place
                    plan = kernels.scan(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages, path, cuts=cuts))
                    taken += np.diff(plan.offsets)
                assert (taken <= limits).all()
        finally:
            stop.set()
            thread.join()


def test_many_threads_use_one_backend() -> None:
    with always_parallel():
        backend = CpuBackend(3)
        layout = layout_of([Extent(0, SECTION_PAGES, 1, 0)])
        failed: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                rng = np.random.default_rng(seed)
                for _ in range(10):
                    kernels = backend.open(layout)
                    kernels.set_eligible(np.arange(SECTION_PAGES), eligible=True)
                    pfns = rng.choice(SECTION_PAGES, 500, replace=False)
                    kernels.request(pfns, np.full(500, 3, dtype=np.int32), NONE)
                    plan = kernels.scan(ScanRequest(0, SECTION_PAGES, SECTION_PAGES))
                    np.testing.assert_array_equal(plan.flat, np.sort(pfns))
                    kernels.close()
            except BaseException as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
