"""The reference backend: slow, obvious, and what the other backends are compared with.

Items are worked on one after the other under one lock, budgets are spent by sorting.
Where the contract leaves something open (where a bounded plan ends, how a budget is
spread over chunks), this is one answer, not the only one.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import flag
from gpuscan.kernels.api import (
    N_OUTCOMES,
    N_RELEASE_OUTCOMES,
    NODE_HAS_MEMORY,
    NODE_TOP_TIER,
    Budget,
    Cutoffs,
    Outcome,
    RawPlan,
    RecordParams,
    ReleaseOutcome,
    ScanRequest,
    StoreArrays,
    StoreLayout,
)
from gpuscan.kernels.signatures import Door, check_cut_key, closed
from gpuscan.records.formats import N_NODES_MAX, Unpacked, hotness_key, pack, unpack
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES

_ALL_NODES = np.ones(N_NODES_MAX, dtype=np.uint8)


class ReferenceBackend:
    """Stores that are worked on by plain Python."""

    name = "reference"

    def describe(self) -> str:
        """Return one line saying what runs where."""
        return "plain Python, one page at a time, one thread"

    def open(self, layout: StoreLayout) -> ReferenceKernels:
        """Make an empty store."""
        return ReferenceKernels(layout)


class ReferenceKeyCounts:
    """READY pages with their keys; see :class:`gpuscan.kernels.api.KeyCounts`."""

    def __init__(
        self,
        layout: StoreLayout,
        budget: Budget,
        edges: NDArray[np.int64],
        flats: NDArray[np.int64],
        targets: NDArray[np.int64],
        keys: NDArray[np.int64],
        n_pages: NDArray[np.int64],
    ) -> None:
        """Keep the pages: ``flats``, ``targets``, ``keys`` and ``n_pages`` are int64[n]."""
        self._layout, self._budget, self._edges = layout, budget, edges
        self._pages = list(
            zip(flats.tolist(), targets.tolist(), keys.tolist(), n_pages.tolist(), strict=True)
        )
        self.targets = np.flatnonzero(budget.limit_pages >= 0)
        by_target = np.zeros((layout.n_targets, layout.fmt.n_keys), dtype=np.int64)
        for _, target, key, pages in self._pages:
            if target < layout.n_targets:
                by_target[target, key] += pages
        self.pages_of_key = by_target[self.targets]
        self.seen_pages: NDArray[np.int64] = by_target.sum(axis=1)

    def cut(self, cut_key: NDArray[np.int32]) -> Cutoffs:
        """Return cut-offs at these keys whose quotas are all that was counted; one chunk."""
        n_targets, resume_flat = self._layout.n_targets, self._budget.resume_flat
        cut_key = check_cut_key(cut_key, n_targets, self._layout.fmt.n_keys)
        cuts = Cutoffs(
            now=self._budget.now,
            chunk_edges=self._edges,
            cut_key=cut_key,
            above_pages=np.zeros((1, n_targets), dtype=np.int64),
            tie_pages_from=np.zeros((1, n_targets), dtype=np.int64),
            tie_pages_below=np.zeros((1, n_targets), dtype=np.int64),
            resume_flat=resume_flat.copy(),
            seen_pages=self.seen_pages,
        )
        for flat, target, key, pages in self._pages:
            if target >= n_targets or key > cut_key[target]:
                continue
            if key < cut_key[target]:
                cuts.above_pages[0, target] += pages
            elif flat >= resume_flat[target]:
                cuts.tie_pages_from[0, target] += pages
            else:
                cuts.tie_pages_below[0, target] += pages
        return cuts


class ReferenceKernels:
    """The operations on one store; see :class:`gpuscan.kernels.api.Kernels`."""

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout
        n_pages = layout.n_pages
        self.arrays = StoreArrays(
            records=np.zeros(n_pages, dtype=layout.fmt.dtype),
            ready_bits=np.zeros(n_pages // 64, dtype=np.uint64),
            block_bits=np.zeros(n_pages // SECTION_PAGES, dtype=np.uint64),
            eligible_bits=np.zeros(n_pages // 64, dtype=np.uint64),
            folio_order=np.zeros(n_pages if layout.has_large_folios else 0, dtype=np.uint8),
            node_active=np.zeros(N_NODES_MAX, dtype=np.uint8),
        )
        self._door = Door(layout)
        self._is_open = True
        self._lock = threading.RLock()

    def _check(self, operation: str, *given: Any) -> list[Any]:
        self._refuse_if_closed()
        return self._door.arrays(operation, *given)

    def _refuse_if_closed(self) -> None:
        if not self._is_open:
            raise closed()

    # Producers

    def request(
        self, pfns: NDArray[np.int64], nids: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Ask for pages to be moved."""
        pfns, nids, outcomes = self._check("request", pfns, nids, outcomes)
        ended = [self._request(int(pfn), int(nid)) for pfn, nid in zip(pfns, nids, strict=True)]
        return _counted(ended, N_OUTCOMES, outcomes)

    def _request(self, pfn: int, nid: int) -> Outcome:
        fmt = self.layout.fmt
        with self._lock:
            head, target, dropped = self._look_up(pfn, nid, drop_top_tier=False)
            if dropped is not None:
                return dropped
            word = int(self.arrays.records[head])
            fields = self._fields(head)
            nid_field = (target << fmt.nid.shift) if fmt.has_nid else 0
            self.arrays.records[head] = (word & ~fmt.nid.mask) | nid_field | fmt.ready.mask
            if fields.ready:
                return Outcome.REFRESHED
            self._mark_ready(head)
            return Outcome.ACCEPTED

    def record(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        params: RecordParams,
        outcomes: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        """Count accesses."""
        pfns, nids, outcomes = self._check("record", pfns, nids, outcomes)
        ended = [self._record(int(pfn), int(nid), params) for pfn, nid in zip(pfns, nids, strict=True)]
        return _counted(ended, N_OUTCOMES, outcomes)

    def _record(self, pfn: int, nid: int, params: RecordParams) -> Outcome:
        fmt = self.layout.fmt
        with self._lock:
            head, target, dropped = self._look_up(pfn, nid, drop_top_tier=params.drop_top_tier)
            if dropped is not None:
                return dropped
            old = self._fields(head)
            now = fmt.time_of(params.now_jiffies)
            age = (now - int(old.time)) % (fmt.time.max + 1)
            freq = min(int(old.freq) + 1, fmt.freq.max)
            if age > fmt.window_units(params.window_jiffies):
                freq = 1
            ready = bool(old.ready) or freq >= params.threshold
            self.arrays.records[head] = pack(
                fmt, ready=int(ready), nid=target if fmt.has_nid else 0, freq=freq, time=now
            )
            if old.ready:
                return Outcome.REFRESHED
            if not ready:
                return Outcome.COUNTED
            self._mark_ready(head)
            return Outcome.ACCEPTED

    def _look_up(self, pfn: int, nid: int, *, drop_top_tier: bool) -> tuple[int, int, Outcome | None]:
        """Return (head, target, why it is dropped or None)."""
        layout = self.layout
        target = nid if layout.fmt.has_nid else layout.fixed_target
        if not 0 <= target < N_NODES_MAX or not layout.node_flags[target] & NODE_HAS_MEMORY:
            return -1, target, Outcome.UNKNOWN_TARGET
        flat = int(layout.page_map.flat_of_pfn(pfn))
        if flat < 0:
            return -1, target, Outcome.UNKNOWN_PFN
        own_nid = int(layout.page_map.nid_of_flat(flat))
        if drop_top_tier and layout.node_flags[own_nid] & NODE_TOP_TIER:
            return -1, target, Outcome.TOP_TIER
        head = flat - flat % self._folio_pages(flat)
        if not _get_bit(self.arrays.eligible_bits, head):
            return -1, target, Outcome.INELIGIBLE
        if own_nid == target:
            return -1, target, Outcome.OWN_NODE
        return head, target, None

    def _mark_ready(self, head: int) -> None:
        _set_bit(self.arrays.ready_bits, head, True)
        _set_bit(self.arrays.block_bits, head // BLOCK_PAGES, True)
        self.arrays.node_active[self.layout.page_map.nid_of_flat(head)] = 1

    def release(
        self, flats: NDArray[np.int64], words: NDArray[Any], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Put claimed pages back."""
        flats, words, outcomes = self._check("release", flats, words, outcomes)
        ended = [self._release(int(flat), word) for flat, word in zip(flats, words, strict=True)]
        return _counted(ended, N_RELEASE_OUTCOMES, outcomes)

    def _release(self, flat: int, word: Any) -> ReleaseOutcome:
        with self._lock:
            if not _get_bit(self.arrays.eligible_bits, flat):
                return ReleaseOutcome.INELIGIBLE
            if self._fields(flat).ready:
                return ReleaseOutcome.SUPERSEDED
            self.arrays.records[flat] = word
            self._mark_ready(flat)
            return ReleaseOutcome.RESTORED

    # The scan

    def count_keys(
        self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None
    ) -> ReferenceKeyCounts:
        """Look at every READY page of a range."""
        lo, hi, node_mask = self._check_rank(budget, lo, hi, node_mask)
        with self._lock:
            found = self._candidates(lo, hi, "indexed", node_mask)
            words = self.arrays.records[found]
        n_pages = np.array([self._folio_pages(flat) for flat in found], dtype=np.int64)
        edges = np.array([lo - lo % SECTION_PAGES, hi + -hi % SECTION_PAGES], dtype=np.int64)
        keys = hotness_key(self.layout.fmt, words, budget.now)
        return ReferenceKeyCounts(self.layout, budget, edges, found, self._targets(words), keys, n_pages)

    def _check_rank(
        self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None
    ) -> tuple[int, int, NDArray[np.uint8] | None]:
        lo, hi = self._door.range("rank", lo, hi)
        _, _, node_mask = self._check("count_keys", budget.limit_pages, budget.resume_flat, node_mask)
        return lo, hi, node_mask

    def rank(self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None) -> Cutoffs:
        """Sort every limited target's pages by (key, cyclic order) and take the longest prefix that fits.

        One chunk. The quotas are what the prefix takes, so that a scan takes just that.
        """
        lo, hi, node_mask = self._check_rank(budget, lo, hi, node_mask)
        fmt, n_targets = self.layout.fmt, self.layout.n_targets
        cuts = Cutoffs(
            now=budget.now,
            chunk_edges=np.array([lo - lo % SECTION_PAGES, hi + -hi % SECTION_PAGES], dtype=np.int64),
            cut_key=np.full(n_targets, -1, dtype=np.int32),
            above_pages=np.zeros((1, n_targets), dtype=np.int64),
            tie_pages_from=np.zeros((1, n_targets), dtype=np.int64),
            tie_pages_below=np.zeros((1, n_targets), dtype=np.int64),
            resume_flat=budget.resume_flat.copy(),
            seen_pages=np.zeros(n_targets, dtype=np.int64),
        )
        with self._lock:
            found = self._candidates(lo, hi, "indexed", node_mask)
            words = self.arrays.records[found]
            targets, keys = self._targets(words), hotness_key(fmt, words, budget.now)
            n_pages = np.array([self._folio_pages(flat) for flat in found], dtype=np.int64)
        for target in range(n_targets):
            mine = targets == target
            cuts.seen_pages[target] = n_pages[mine].sum()
            if budget.limit_pages[target] < 0:
                continue
            resume = int(budget.resume_flat[target])
            left = int(budget.limit_pages[target])
            ordered = sorted(
                (int(key), (int(flat) - resume) % self.layout.n_pages, int(flat), int(pages))
                for key, flat, pages in zip(keys[mine], found[mine], n_pages[mine], strict=True)
            )
            taken = []
            cuts.cut_key[target] = fmt.n_keys
            for key, _, flat, pages in ordered:
                if pages > left:
                    cuts.cut_key[target] = key
                    break
                left -= pages
                taken.append((key, flat, pages))
            for key, flat, pages in taken:
                if key < cuts.cut_key[target]:
                    cuts.above_pages[0, target] += pages
                elif flat >= resume:
                    cuts.tie_pages_from[0, target] += pages
                else:
                    cuts.tie_pages_below[0, target] += pages
        return cuts

    def scan(self, request: ScanRequest) -> RawPlan:
        """Claim block by block, in flat order, until a block does not fit."""
        self._refuse_if_closed()
        self._door.scan(request)
        with self._lock:
            path: Any = "dense" if request.path == "dense" else "indexed"
            saved = self.dump(), _quotas(request.cuts)
            try:
                return self._scan(request, path)
            except BaseException:
                self.load(saved[0])
                for quota, before in zip(_quotas(request.cuts, copy=False), saved[1], strict=True):
                    quota[:] = before
                raise

    def _scan(self, request: ScanRequest, path: Any) -> RawPlan:
        layout = self.layout
        found = self._candidates(request.lo, request.hi, path, request.node_mask)
        claims: list[int] = []
        cursor = request.hi
        for block in np.unique(found // BLOCK_PAGES).tolist():
            quotas = _quotas(request.cuts)
            ready = found[found // BLOCK_PAGES == block].tolist()
            taken = [flat for flat in ready if self._pay(request.cuts, flat)]
            if len(claims) + len(taken) > request.capacity:
                for quota, before in zip(_quotas(request.cuts, copy=False), quotas, strict=True):
                    quota[:] = before
                cursor = block * BLOCK_PAGES
                break
            claims += taken
        flats = np.array(claims, dtype=np.int64)
        words = self.arrays.records[flats]
        self._claim(flats, request, cursor)
        targets = self._targets(words)
        order = np.argsort(targets, kind="stable")
        order = order[targets[order] < layout.n_targets]
        offsets = np.searchsorted(targets[order], np.arange(layout.n_targets + 1)).astype(np.int64)
        n_examined = cursor - request.lo if path == "dense" else len(found)
        return RawPlan(
            offsets=offsets,
            flat=flats[order],
            words=words[order],
            cursor=cursor,
            path=path,
            why="as asked" if request.path == path else "the reference always follows the bits",
            examined_pages=n_examined,
            examined_bytes=n_examined * layout.fmt.n_bytes,
            n_unknown_target=len(flats) - len(order),
        )

    def _candidates(
        self, lo: int, hi: int, path: str, node_mask: NDArray[np.uint8] | None
    ) -> NDArray[np.int64]:
        """Return READY flats of a range, ascending: by reading records, or by following the bits to them."""
        flats = np.arange(lo, hi, dtype=np.int64)
        mask = _ALL_NODES if node_mask is None else node_mask
        wanted = mask[self.layout.page_map.nid_of_flat(flats)] != 0
        if path == "indexed":
            wanted &= _get_bits(self.arrays.block_bits, flats // BLOCK_PAGES)
            wanted &= _get_bits(self.arrays.ready_bits, flats)
        flats = flats[wanted]
        found: NDArray[np.int64] = flats[unpack(self.layout.fmt, self.arrays.records[flats]).ready]
        return found

    def _pay(self, cuts: Cutoffs | None, flat: int) -> bool:
        """Return whether the budget allows a claim, and take it from the quota."""
        if cuts is None:
            return True
        word = self.arrays.records[flat]
        target = int(self._targets(word))
        if target >= self.layout.n_targets or cuts.cut_key[target] < 0:
            return True
        chunk = int(np.searchsorted(cuts.chunk_edges, flat, side="right")) - 1
        key, cut = int(hotness_key(self.layout.fmt, word, cuts.now)), int(cuts.cut_key[target])
        if key > cut:
            return False
        is_tie = key == cut
        at_or_after = flat >= cuts.resume_flat[target]
        ties = cuts.tie_pages_from if at_or_after else cuts.tie_pages_below
        quota = ties if is_tie else cuts.above_pages
        if self._folio_pages(flat) <= quota[chunk, target]:
            quota[chunk, target] -= self._folio_pages(flat)
            return True
        if is_tie:
            quota[chunk, target] = 0
        return False

    def _claim(self, flats: NDArray[np.int64], request: ScanRequest, cursor: int) -> None:
        """Zero the records of ``flats``; leave index bits only for what stays READY."""
        self.arrays.records[flats] = 0
        covered = np.arange(request.lo, cursor, dtype=np.int64)
        mask = _ALL_NODES if request.node_mask is None else request.node_mask
        covered = covered[mask[self.layout.page_map.nid_of_flat(covered)] != 0]
        staying = covered[unpack(self.layout.fmt, self.arrays.records[covered]).ready]
        self.arrays.ready_bits[np.unique(covered // 64)] = 0
        for block in np.unique(covered // BLOCK_PAGES).tolist():
            _set_bit(self.arrays.block_bits, block, False)
        for flat in staying.tolist():
            _set_bit(self.arrays.ready_bits, flat, True)
            _set_bit(self.arrays.block_bits, flat // BLOCK_PAGES, True)

    # Upkeep

    def discard(self, flats: NDArray[np.int64]) -> int:
        """Zero the records of pages that were freed; return how many were READY."""
        n_ready = 0
        (flats,) = self._check("discard", flats)
        with self._lock:
            for flat in flats.tolist():
                n_ready += bool(self._fields(flat).ready)
                self.arrays.records[flat] = 0
        return n_ready

    def set_eligible(self, flats: NDArray[np.int64], eligible: bool) -> None:
        """Set or clear the eligible bit of pages."""
        (flats,) = self._check("set_eligible", flats)
        eligible = flag("set_eligible: eligible", eligible)
        with self._lock:
            for flat in flats.tolist():
                _set_bit(self.arrays.eligible_bits, flat, eligible)

    def set_order(self, flats: NDArray[np.int64], order: int) -> None:
        """Make pages folios of ``order``."""
        self._refuse_if_closed()
        heads = self._door.order(flats, order)
        if not self.layout.has_large_folios:
            return
        for flat in heads.tolist():
            self.arrays.folio_order[flat : flat + (1 << order)] = order

    def count_ready(self) -> int:
        """Return how many records are READY."""
        self._refuse_if_closed()
        return int(unpack(self.layout.fmt, self.arrays.records).ready.sum())

    def count_index(self) -> tuple[int, int]:
        """Return how many ready bits and block bits are set."""
        self._refuse_if_closed()
        return _count_bits(self.arrays.ready_bits), _count_bits(self.arrays.block_bits)

    def take_active(self) -> NDArray[np.uint8]:
        """Return which nodes were activated since the last call."""
        self._refuse_if_closed()
        with self._lock:
            taken: NDArray[np.uint8] = self.arrays.node_active.copy()
            self.arrays.node_active[:] = 0
        return taken

    def dump(self) -> StoreArrays:
        """Return copies of all arrays."""
        self._refuse_if_closed()
        return StoreArrays(*(getattr(self.arrays, name).copy() for name in StoreArrays.__slots__))

    def load(self, arrays: StoreArrays) -> None:
        """Overwrite arrays."""
        self._refuse_if_closed()
        for own, given in self._door.to_load(self.arrays, arrays):
            own[:] = given

    def close(self) -> None:
        """Let go of the arrays."""
        self._is_open = False
        self.arrays = StoreArrays(*(getattr(self.arrays, name)[:0].copy() for name in StoreArrays.__slots__))

    # Single pages

    def _fields(self, flat: int) -> Unpacked:
        return unpack(self.layout.fmt, self.arrays.records[flat])

    def _folio_pages(self, flat: int) -> int:
        return 1 << int(self.arrays.folio_order[flat]) if self.layout.has_large_folios else 1

    def _targets(self, words: NDArray[Any]) -> NDArray[np.int64]:
        nids = unpack(self.layout.fmt, words).nid
        return nids if self.layout.fmt.has_nid else np.full_like(nids, self.layout.fixed_target)


def _counted(ended: list[Any], n_kinds: int, outcomes: NDArray[np.uint8]) -> NDArray[np.int64]:
    if len(outcomes):
        outcomes[:] = ended
    return np.bincount(np.array(ended, dtype=np.int64), minlength=n_kinds).astype(np.int64)


def _quotas(cuts: Cutoffs | None, *, copy: bool = True) -> list[NDArray[np.int64]]:
    if cuts is None:
        return []
    quotas = [cuts.above_pages, cuts.tie_pages_from, cuts.tie_pages_below]
    return [quota.copy() for quota in quotas] if copy else quotas


def _get_bit(words: NDArray[np.uint64], index: int) -> bool:
    return bool(int(words[index // 64]) >> index % 64 & 1)


def _get_bits(words: NDArray[np.uint64], indexes: NDArray[np.int64]) -> NDArray[np.bool_]:
    bits: NDArray[np.bool_] = words[indexes // 64] >> (indexes % 64).astype(np.uint64) & np.uint64(1) != 0
    return bits


def _set_bit(words: NDArray[np.uint64], index: int, value: bool) -> None:
    bit = np.uint64(1 << index % 64)
    words[index // 64] = words[index // 64] | bit if value else words[index // 64] & ~bit


def _count_bits(words: NDArray[np.uint64]) -> int:
    return int(np.bitwise_count(words).sum())
