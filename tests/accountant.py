"""Count what became of requests from what the calls returned, page by page, beside the store's own ledger.

Producers, two scans, releases and frees run in threads of their own, each with books of its own, so counting
locks nothing. Only the sums at the end are compared: what began on a page has ended there as often.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Budget, Kernels, Outcome, RecordParams, ReleaseOutcome, ScanRequest
from gpuscan.records.formats import unpack
from stores import assert_indexed, assert_sorted

FREED_EVERY = 16
"""Pages whose number is a multiple of this may be freed; discard() says how many were READY, not which."""
_N_BATCHES = 4
_FREED_PAGES = 64
_PAUSE_S = 0.002
"""Between two scans of a thread, and two frees, so that producers have most of the processors."""


@dataclass
class Books:
    """What one thread saw.

    Attributes:
        begun: int64[n_pages], ACCEPTED.
        claimed: int64[n_pages], in plans, less what was put back.
        n_discarded: READY pages that discard() counted, only of those that may be freed.
        n_asked: elements of request() and record().
        n_steps: calls of the thread's step.
    """

    begun: NDArray[np.int64]
    claimed: NDArray[np.int64]
    n_discarded: int = 0
    n_asked: int = 0
    n_steps: int = 0


Step = Callable[[Books, np.random.Generator], None]


@dataclass
class Accountant:
    """Runs everything at once on a store and settles the account.

    Attributes:
        kernels: an empty store, all of whose flat pages are PFNs.
        batch_length: elements of a call.
    """

    kernels: Kernels
    batch_length: int
    books: list[Books] = field(default_factory=list)

    def run(self, n_requests: int) -> None:
        """Keep all threads busy until so many requests were made, then check that each ended once.

        Raises:
            AssertionError: one was lost or doubled, or a plan or a count is wrong.
        """
        every = np.arange(self.kernels.layout.n_pages)
        self.kernels.set_eligible(every, eligible=True)
        producers: list[Step] = [self._producer(seed, is_record=seed % 2 == 1) for seed in range(2)]
        others: list[Step] = [self._plain_scan, self._budget_scan, self._free]
        stop, errors = threading.Event(), list[BaseException]()

        def repeat(step: Step, books: Books, seed: int, n_asked_max: int) -> None:
            rng = np.random.default_rng(seed)
            try:
                while not stop.is_set() and books.n_asked < n_asked_max:
                    step(books, rng)
                    books.n_steps += 1
            except BaseException as error:
                errors.append(error)
                stop.set()

        threads = []
        for number, step in enumerate((*producers, *others)):
            self.books.append(Books(np.zeros_like(every), np.zeros_like(every)))
            for _ in range(2):  # nothing is compiled while others are at work
                step(self.books[-1], np.random.default_rng(number))
                self.books[-1].n_steps += 1
            share = -(-n_requests // len(producers)) if number < len(producers) else 1
            arguments = (step, self.books[-1], number, share)
            threads.append(threading.Thread(target=repeat, args=arguments))
        for thread in threads:
            thread.start()
        for thread in threads[: len(producers)]:
            thread.join()
        stop.set()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        assert all(books.n_steps > 2 for books in self.books), "a thread never had its turn"
        self._settle()

    def total(self, name: str) -> Any:
        """Return the sum of a field of all books."""
        return sum(getattr(books, name) for books in self.books)

    def _settle(self) -> None:
        assert_indexed(self.kernels)
        n_pending = self.kernels.count_ready()
        n_ended = int(self.total("claimed").sum()) + self.total("n_discarded")
        n_begun = int(self.total("begun").sum())
        assert n_begun == n_pending + n_ended, f"{n_begun} begun, {n_pending} pending, {n_ended} ended"
        assert n_ended > 0
        assert self._scanned("indexed", self.books[0]) == n_pending
        assert self.kernels.count_ready() == 0
        left = self.total("begun") - self.total("claimed")
        assert (left >= 0).all(), f"claimed more often than asked for: pages {np.flatnonzero(left < 0)[:8]}"
        assert left[::FREED_EVERY].sum() == self.total("n_discarded")
        left[::FREED_EVERY] = 0
        assert not left.any(), f"lost: pages {np.flatnonzero(left)[:8]}"

    def _producer(self, seed: int, *, is_record: bool) -> Step:
        """Return a step that asks for the pages of one of a few batches, made beforehand.

        Those of the first are all that there are, in order: neighbours that are claimed together, and runs
        of a ready word that are indexed together.
        """
        rng = np.random.default_rng(seed)
        n_pages, n_targets = self.kernels.layout.n_pages, self.kernels.layout.n_targets
        batches = [
            (
                rng.integers(0, n_pages, self.batch_length),
                rng.integers(2, n_targets, self.batch_length, dtype=np.int32),
            )
            for _ in range(_N_BATCHES)
        ]
        batches[0][0][:] = np.sort((rng.integers(0, n_pages) + np.arange(self.batch_length)) % n_pages)
        outcomes = np.zeros(self.batch_length, dtype=np.uint8)

        def step(books: Books, rng: np.random.Generator) -> None:
            pfns, nids = batches[books.n_steps % _N_BATCHES]
            if is_record:
                params = RecordParams(int(rng.integers(0, 1 << 20)), 1 << 30, 2, drop_top_tier=False)
                counts = self.kernels.record(pfns, nids, params, outcomes)
            else:
                counts = self.kernels.request(pfns, nids, outcomes)
            accepted = pfns[outcomes == Outcome.ACCEPTED]
            assert counts.sum() == len(pfns)
            assert counts[Outcome.ACCEPTED] == len(accepted)
            books.begun += np.bincount(accepted, minlength=n_pages)
            books.n_asked += len(pfns)

        return step

    def _plain_scan(self, books: Books, rng: np.random.Generator) -> None:
        self._scanned("dense" if books.n_steps % 2 else "indexed", books, rng)
        time.sleep(_PAUSE_S)

    def _budget_scan(self, books: Books, rng: np.random.Generator) -> None:
        n_pages, n_targets = self.kernels.layout.n_pages, self.kernels.layout.n_targets
        limits = rng.integers(-1, n_pages // n_targets, n_targets)
        now = int(rng.integers(0, self.kernels.layout.fmt.time.max + 1))
        budget = Budget(limits, rng.integers(0, n_pages, n_targets), now)
        self._scanned("indexed" if books.n_steps % 2 else "dense", books, rng, budget)
        time.sleep(_PAUSE_S)

    def _scanned(
        self, path: Any, books: Books, rng: np.random.Generator | None = None, budget: Budget | None = None
    ) -> int:
        """Claim within a budget, put a third back (with an ``rng``), and return how many were claimed."""
        kernels, n_pages = self.kernels, self.kernels.layout.n_pages
        cuts = None if budget is None else kernels.rank(budget, 0, n_pages)
        plan = kernels.scan(ScanRequest(0, n_pages, n_pages, path, cuts=cuts))
        n_of_target = np.diff(plan.offsets)
        assert (plan.cursor, plan.n_unknown_target, plan.n_superseded) == (n_pages, 0, 0)
        assert_sorted(plan)
        if budget is not None:
            assert ((n_of_target <= budget.limit_pages) | (budget.limit_pages < 0)).all(), "overspent"
        fields = unpack(kernels.layout.fmt, plan.words)
        assert fields.ready.all()
        if kernels.layout.fmt.has_nid:
            assert (fields.nid == np.repeat(np.arange(len(n_of_target)), n_of_target)).all()
        books.claimed[plan.flat] += 1
        n_claimed = len(plan.flat)
        if rng is not None:
            back = rng.random(n_claimed) < 0.3
            flats = plan.flat[back]
            outcomes = np.zeros(len(flats), dtype=np.uint8)
            released = kernels.release(flats, plan.words[back], outcomes)
            assert released.sum() == len(flats)
            books.claimed[flats[outcomes == ReleaseOutcome.RESTORED]] -= 1
        plan.recycle()
        return n_claimed

    def _free(self, books: Books, rng: np.random.Generator) -> None:
        n_freed_max = self.kernels.layout.n_pages // FREED_EVERY
        flats = rng.choice(n_freed_max, _FREED_PAGES, replace=False) * FREED_EVERY
        self.kernels.set_eligible(flats, eligible=False)
        books.n_discarded += self.kernels.discard(flats)
        self.kernels.set_eligible(flats, eligible=True)
        time.sleep(_PAUSE_S)
