"""The contract every backend fulfils: operations on the records and the index of one store.

Words used below. *flat* is an index of :class:`gpuscan.records.page_map.PageMap`; *head*
is the first page of a folio, the only page whose record counts; *section*,
*block* and *word* are 32,768, 512 and 64 pages. All page indexes and byte counts
are 64-bit.

Index invariant, at rest: READY(record) => ready bit => block bit. The index may
say too much (stale bits), never too little.

Update order, every update an atomic read-modify-write:

- producers (``request``, ``record``, ``release``): record, ready bit, block bit;
- ``scan``, the dense path included: block word, ready words, records. A claim is
  one compare-exchange from an observed READY word to 0; when it fails, reload
  and decide again. Neighbours that are all READY may be claimed by one of them all;
  when that fails none of them is. Bits that were taken and whose pages stay READY are set again,
  ready bit before block bit, before ``scan`` returns, also on error.

``request``, ``record``, ``release``, ``discard``, ``set_eligible``, ``rank`` and
``scan`` may be called from several threads at once. ``load``, ``dump`` and
``set_order`` need a store at rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import check_arrays, flag, instance, one_of, settle, whole
from gpuscan.kernels.layout import (
    NODE_HAS_MEMORY,
    NODE_TOP_TIER,
    StoreArrays,
    StoreLayout,
    empty_node_flags,
)
from gpuscan.kernels.outcomes import N_OUTCOMES, N_RELEASE_OUTCOMES, Outcome, ReleaseOutcome
from gpuscan.kernels.raw_plan import RawPlan
from gpuscan.kernels.signatures import BUDGET, NODE_MASK, check_range
from gpuscan.records.formats import N_NODES_MAX

__all__ = [
    "NODE_HAS_MEMORY",
    "NODE_TOP_TIER",
    "N_OUTCOMES",
    "N_RELEASE_OUTCOMES",
    "SCAN_PATHS",
    "Backend",
    "Budget",
    "Cutoffs",
    "Kernels",
    "KeyCounts",
    "Outcome",
    "RawPlan",
    "RecordParams",
    "ReleaseOutcome",
    "ScanPath",
    "ScanRequest",
    "StoreArrays",
    "StoreLayout",
    "empty_node_flags",
]
"""The whole contract; what it keeps, counts and returns is in ``layout``, ``outcomes`` and ``raw_plan``."""

ScanPath = Literal["dense", "indexed", "auto"]
SCAN_PATHS: tuple[str, ...] = get_args(ScanPath)
_UNLIMITED_JIFFIES = 1 << 128
"""TIME is cut to its width, so a moment may be any number that a counter could ever show."""


@dataclass(frozen=True, slots=True)
class RecordParams:
    """How ``record`` decides. Times are in jiffies.

    Attributes:
        now_jiffies: the moment of the accesses.
        window_jiffies: an access later than this after the last one starts again at FREQ 1
            (age in TIME units > ``fmt.window_units(window_jiffies)``).
        threshold: FREQ from which the page is READY.
        drop_top_tier: drop accesses to pages on top-tier nodes.
    """

    now_jiffies: int
    window_jiffies: int
    threshold: int
    drop_top_tier: bool = True

    def __post_init__(self) -> None:
        settle(
            self,
            now_jiffies=whole("record: now_jiffies", self.now_jiffies, 0, _UNLIMITED_JIFFIES),
            window_jiffies=whole("record: window_jiffies", self.window_jiffies, 0, _UNLIMITED_JIFFIES),
            threshold=whole("record: threshold", self.threshold, 1),
            drop_top_tier=flag("record: drop_top_tier", self.drop_top_tier),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Budget:
    """What each target may take in one tick.

    Attributes:
        limit_pages: int64[n_targets], base pages; -1 = no limit.
        resume_flat: int64[n_targets]; ties start at this flat page and wrap around.
        now: the moment, in the format's TIME units.
    """

    limit_pages: NDArray[np.int64]
    resume_flat: NDArray[np.int64]
    now: int

    def __post_init__(self) -> None:
        limits, resume = check_arrays("budget", BUDGET, (self.limit_pages, self.resume_flat), {})
        settle(self, limit_pages=limits, resume_flat=resume, now=whole("budget: now", self.now))


@dataclass(slots=True, eq=False)
class Cutoffs:
    """What ``rank`` found: who is claimed under a budget. ``scan`` counts the quotas down in place.

    A READY record of target t in chunk c is claimed when its hotness key (see
    :func:`gpuscan.records.formats.hotness_key`) is below ``cut_key[t]`` and fits
    ``above_pages``, or equals it and fits the tie quota of its side of
    ``resume_flat[t]``. A folio fits when its size is at most what is left; a tie
    that does not fit ends the ties of that side of the chunk.

    Attributes:
        now: TIME units, as given in the budget.
        chunk_edges: int64[n_chunks + 1], flat pages, multiples of a section.
        cut_key: int32[n_targets]; ``fmt.n_keys`` = the budget takes all that was seen
            (``above_pages`` still bounds it), -1 = no limit at all.
        above_pages: int64[n_chunks, n_targets], base pages left.
        tie_pages_from, tie_pages_below: int64[n_chunks, n_targets], base pages left for
            ties at or after ``resume_flat`` and before it.
        resume_flat: int64[n_targets], as given in the budget.
        seen_pages: int64[n_targets], READY base pages when ranked.
    """

    now: int
    chunk_edges: NDArray[np.int64]
    cut_key: NDArray[np.int32]
    above_pages: NDArray[np.int64]
    tie_pages_from: NDArray[np.int64]
    tie_pages_below: NDArray[np.int64]
    resume_flat: NDArray[np.int64]
    seen_pages: NDArray[np.int64]

    @property
    def quotas(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The three that a scan counts down: above the cut-off, ties from ``resume_flat`` on and below it."""
        return self.above_pages, self.tie_pages_from, self.tie_pages_below


class KeyCounts(Protocol):
    """READY base pages by target and hotness key, counted without claiming anything.

    Attributes:
        targets: int64[n], the targets with a limit, ascending.
        pages_of_key: int64[n, fmt.n_keys], of each of these.
        seen_pages: int64[n_targets], of all targets.
    """

    targets: NDArray[np.int64]
    pages_of_key: NDArray[np.int64]
    seen_pages: NDArray[np.int64]

    def cut(self, cut_key: NDArray[np.int32]) -> Cutoffs:
        """Return cut-offs at these keys (int32[n_targets], -1 = no limit); quotas are all there was."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ScanRequest:
    """One scan.

    Attributes:
        lo, hi: flat range, multiples of 512.
        capacity: folios the plan may hold; the scan stops before the first block whose
            candidates do not all fit, so with less than 512 it may cover nothing.
        path: ``dense`` reads every record, ``indexed`` follows the bits, ``auto`` picks.
        node_mask: uint8[1024]; sections of nodes with 0 are left alone. None = all.
        cuts: the budget's cut-offs, or None.
    """

    lo: int
    hi: int
    capacity: int
    path: ScanPath = "auto"
    node_mask: NDArray[np.uint8] | None = None
    cuts: Cutoffs | None = None

    def __post_init__(self) -> None:
        lo, hi = check_range("scan", self.lo, self.hi)
        one_of("scan: path", self.path, SCAN_PATHS)
        settle(self, lo=lo, hi=hi, capacity=whole("scan: capacity", self.capacity))
        if self.node_mask is not None:
            (mask,) = check_arrays("scan", (NODE_MASK,), (self.node_mask,), {"nodes": N_NODES_MAX})
            settle(self, node_mask=mask)
        if self.cuts is not None:
            instance("scan: cuts", self.cuts, Cutoffs, "give what rank() returned")


class Kernels(Protocol):
    """The operations on one store. Arguments are NumPy arrays whatever the device.

    Every operation checks them (:mod:`gpuscan.kernels.signatures`) and raises ArgumentError, having
    changed nothing, where one is of another dtype, length or range; so does one on a closed store.
    """

    layout: StoreLayout

    @property
    def arrays(self) -> StoreArrays:
        """The arrays where they are."""
        ...

    def request(
        self, pfns: NDArray[np.int64], nids: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Ask for pages to be moved (RFC v1 ``kmigrated_add_pfn``): set NID and READY, leave FREQ and TIME.

        Args:
            pfns: int64[n], any page of a folio, any order, repeats allowed.
            nids: int32[n], target nodes.
            outcomes: uint8[n] to fill with :class:`Outcome`, or uint8[0] where nobody asks.

        Returns:
            int64[N_OUTCOMES], how many ended each way.
        """
        ...

    def record(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        params: RecordParams,
        outcomes: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        """Count accesses (pghot ``pghot_record_access``); same arguments and result as :meth:`request`.

        Window passed: FREQ = 1, else FREQ + 1, saturating. TIME = now and NID = target
        always; READY once FREQ reaches the threshold, and READY stays when it was set.
        Elements of one call that name the same folio count as if made in call order.
        """
        ...

    def count_keys(
        self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None
    ) -> KeyCounts:
        """Count READY base pages of ``[lo, hi)`` by target and hotness key: the first half of :meth:`rank`.

        ``budget`` says which targets have a limit, from when ages count and where ties begin.
        """
        ...

    def rank(self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None) -> Cutoffs:
        """Find the cut-offs that spend a budget on the hottest pages of ``[lo, hi)``. Claims nothing."""
        ...

    def scan(self, request: ScanRequest) -> RawPlan:
        """Claim the READY pages of a range and group them by target.

        Raises:
            Whatever went wrong, after every claim made was put back.
        """
        ...

    def release(
        self, flats: NDArray[np.int64], words: NDArray[Any], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Put claimed pages back.

        Args:
            flats: int64[n], heads, as in a plan. A flat must not repeat.
            words: fmt.dtype[n], the claimed words.
            outcomes: uint8[n] to fill with :class:`ReleaseOutcome`, or uint8[0].

        Returns:
            int64[N_RELEASE_OUTCOMES].
        """
        ...

    def discard(self, flats: NDArray[np.int64]) -> int:
        """Zero the records of pages that were freed (heads); return how many were READY. Index bits stay."""
        ...

    def set_eligible(self, flats: NDArray[np.int64], eligible: bool) -> None:
        """Set or clear the eligible bit of pages (heads)."""
        ...

    def set_order(self, flats: NDArray[np.int64], order: int) -> None:
        """Make each of ``flats`` (aligned heads) a folio of ``order`` on all its pages.

        Raises:
            ArgumentError: ``order`` > 0 in a store without large folios.
        """
        ...

    def count_ready(self) -> int:
        """Return how many records are READY: of all, or where they are elsewhere of those that bits name."""
        ...

    def count_index(self) -> tuple[int, int]:
        """Return how many ready bits and block bits are set."""
        ...

    def take_active(self) -> NDArray[np.uint8]:
        """Return uint8[1024] of nodes activated since the last call, and clear it."""
        ...

    def dump(self) -> StoreArrays:
        """Return copies of all arrays in host memory (NumPy)."""
        ...

    def load(self, arrays: StoreArrays) -> None:
        """Overwrite arrays from host memory; fields that are None are left as they are.

        Raises:
            ArgumentError: a shape or dtype is not that of the store's array; nothing was written.
        """
        ...

    def close(self) -> None:
        """Free the arrays and stop what was started. Idempotent."""
        ...


class Backend(Protocol):
    """A device that stores can be opened on."""

    name: str

    def describe(self) -> str:
        """Return one line saying what runs where (threads, instruction set, device)."""
        ...

    def open(self, layout: StoreLayout) -> Kernels:
        """Allocate an empty store: zero records, no bits, nothing eligible.

        Raises:
            DeviceError: not enough memory; says how much is needed and how much is there.
        """
        ...
