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
from gpuscan.kernels.reference_budget import ReadyFolios, ReferenceKeyCounts, cut_longest_prefix
from gpuscan.kernels.signatures import Door, closed
from gpuscan.records.formats import N_NODES_MAX, Unpacked, hotness_key, pack, unpack
from gpuscan.records.page_map import BLOCK_PAGES

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


class ReferenceKernels:
    """The operations on one store; see :class:`gpuscan.kernels.api.Kernels`."""

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout
        self.arrays = StoreArrays.zeroed(layout, np.zeros)
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
        self._refuse_if_closed()
        lo, hi, node_mask = self._door.ranking(budget, lo, hi, node_mask)
        ready = self._ready(budget.now, lo, hi, node_mask)
        return ReferenceKeyCounts(self.layout, budget, lo, hi, ready)

    def rank(self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None) -> Cutoffs:
        """Find who a budget is spent on by sorting; see :func:`cut_longest_prefix`."""
        self._refuse_if_closed()
        lo, hi, node_mask = self._door.ranking(budget, lo, hi, node_mask)
        ready = self._ready(budget.now, lo, hi, node_mask)
        return cut_longest_prefix(self.layout, budget, lo, hi, ready)

    def _ready(self, now: int, lo: int, hi: int, node_mask: NDArray[np.uint8] | None) -> ReadyFolios:
        with self._lock:
            flats = self._candidates(lo, hi, "indexed", node_mask)
            words = self.arrays.records[flats]
        n_pages = np.array([self._folio_pages(flat) for flat in flats], dtype=np.int64)
        return ReadyFolios(flats, self._targets(words), hotness_key(self.layout.fmt, words, now), n_pages)

    def scan(self, request: ScanRequest) -> RawPlan:
        """Claim block by block, in flat order, until a block does not fit."""
        self._refuse_if_closed()
        self._door.scan(request)
        with self._lock:
            path: Any = "dense" if request.path == "dense" else "indexed"
            arrays, quotas = self.dump(), _copied_quotas(request.cuts)
            try:
                return self._scan(request, path)
            except BaseException:
                self.load(arrays)
                _restore_quotas(request.cuts, quotas)
                raise

    def _scan(self, request: ScanRequest, path: Any) -> RawPlan:
        layout = self.layout
        found = self._candidates(request.lo, request.hi, path, request.node_mask)
        claims: list[int] = []
        cursor = request.hi
        for block in np.unique(found // BLOCK_PAGES).tolist():
            quotas = _copied_quotas(request.cuts)
            ready = found[found // BLOCK_PAGES == block].tolist()
            taken = [flat for flat in ready if self._pay(request.cuts, flat)]
            if len(claims) + len(taken) > request.capacity:
                _restore_quotas(request.cuts, quotas)
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
        return self.arrays.map(np.copy)

    def load(self, arrays: StoreArrays) -> None:
        """Overwrite arrays."""
        self._refuse_if_closed()
        for own, given in self._door.to_load(self.arrays, arrays):
            own[:] = given

    def close(self) -> None:
        """Let go of the arrays."""
        self._is_open = False
        self.arrays = self.arrays.map(lambda array: array[:0].copy())

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


def _copied_quotas(cuts: Cutoffs | None) -> tuple[NDArray[np.int64], ...]:
    return () if cuts is None else tuple(quota.copy() for quota in cuts.quotas)


def _restore_quotas(cuts: Cutoffs | None, before: tuple[NDArray[np.int64], ...]) -> None:
    if cuts is not None:
        for quota, value in zip(cuts.quotas, before, strict=True):
            quota[:] = value


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
