"""What a store of page records is to those who use it, whether its pages are in one place or in shards.

:class:`PageStore` checks arguments, owns the cursor and goes around in bounded plans;
where the records are is for :class:`gpuscan.store.single.Store` and
:class:`gpuscan.shards.sharded_store.ShardedStore` to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuscan.base.arguments import INT64_MAX, instance, is_on_gpu, whole
from gpuscan.base.errors import ArgumentError, InputError
from gpuscan.kernels.api import (
    Budget,
    Cutoffs,
    Outcome,
    RecordParams,
    ReleaseOutcome,
    ScanPath,
    ScanRequest,
    StoreLayout,
)
from gpuscan.kernels.signatures import MAX_ORDER, Door
from gpuscan.records.formats import hotness_key
from gpuscan.store.call_arguments import (
    capacity_of_plan,
    limits_of_targets,
    mask_of_nodes,
    moment,
    pages_and_nodes,
)
from gpuscan.store.in_flight import EndedAhead
from gpuscan.store.layout import check_target
from gpuscan.store.plan import Plan
from gpuscan.topology import Topology

NO_OUTCOMES = np.empty(0, dtype=np.uint8)
_CAPACITY_SHARE = 64
"""A plan holds at most 1/64 of the pages unless told otherwise: 20 bytes a folio, and 24 in the
backend's buffers, are then a sixth of a store of 4-byte records; fuller machines take several plans."""
_CAPACITY_MIN = 1 << 16

Counts = dict[Outcome, int]


def capacity_for(n_pages: int) -> int:
    """Return the folios that a plan of a store of ``n_pages`` holds unless told otherwise."""
    return max(_CAPACITY_MIN, n_pages // _CAPACITY_SHARE)


class PageStore(ABC):
    """Page records of a machine, wherever they are.

    Attributes:
        topology: the machine.
        page_map: the flat index of the pages that this store has.
        fmt: the record format.
        layout: what the store is made for.
        device_reason: which backend works on it and why.
        cursor: flat page at which the next scan begins.
    """

    device_reason: str
    _may_be_on_gpu = False
    """Whether kernels are given arrays of a GPU as they are."""

    def __init__(self, topology: Topology, layout: StoreLayout) -> None:
        self.topology = topology
        self.page_map = layout.page_map
        self.fmt = layout.fmt
        self.layout = layout
        self.cursor = 0
        self._door = Door(layout)
        self._resume_flat = np.zeros(layout.n_targets, dtype=np.int64)
        self._ended_ahead = EndedAhead()

    @property
    def n_pages(self) -> int:
        """Flat pages, a multiple of 32,768; more than are present where sections have holes."""
        return self.layout.n_pages

    @property
    def resume_flat(self) -> NDArray[np.int64]:
        """Return int64[n_targets], flat pages at which the ties of each target go on in the next round."""
        return self._resume_flat

    @property
    def default_capacity(self) -> int:
        """Folios a plan holds unless told otherwise."""
        return capacity_for(self.n_pages)

    @property
    @abstractmethod
    def device_name(self) -> str:
        """Return the name of the backend."""

    def check_target(self, nid: int) -> None:
        """Refuse a target that is not a node with memory.

        Raises:
            ArgumentError: it is no whole number.
            TopologyError: it is not.
        """
        check_target(self.topology, self.layout.node_flags, nid)

    def request(self, pfns: ArrayLike, nids: ArrayLike) -> Counts:
        """Ask for pages to be moved to nodes (RFC v1 ``kmigrated_add_pfn``).

        Args:
            pfns: any page of a folio, n of them. A store on a GPU takes int64 and int32 that are there
                already (``__cuda_array_interface__``, DLPack), n of each, without a copy.
            nids: target nodes, n of them or one for all.

        Returns:
            How many ended which way; what cannot be accepted is dropped with its reason.

        Raises:
            InputError: not whole numbers, or not one nid for each PFN.
        """
        return self.request_outcomes(pfns, nids, NO_OUTCOMES)

    def request_outcomes(self, pfns: ArrayLike, nids: ArrayLike, outcomes: NDArray[np.uint8]) -> Counts:
        """Do :meth:`request` and fill ``outcomes`` (uint8[n]) with the :class:`Outcome` of each element."""
        pfn, nid = pages_and_nodes(pfns, nids, may_be_on_gpu=self._may_be_on_gpu)
        if not is_on_gpu(pfn):
            pfn, nid, outcomes = self._door.arrays("request", pfn, nid, outcomes)
        return _counts(self._request(pfn, nid, outcomes))

    def record(
        self,
        pfns: ArrayLike,
        nids: ArrayLike,
        *,
        now_jiffies: int,
        window_jiffies: int,
        threshold: int,
        drop_top_tier: bool = True,
    ) -> Counts:
        """Count accesses (pghot ``pghot_record_access``); READY once a page is hot enough.

        Args:
            pfns: any page of a folio, n of them.
            nids: target nodes, n of them or one for all.
            now_jiffies: when the accesses were made.
            window_jiffies: an access later than this after the last one starts at FREQ 1 again.
            threshold: FREQ from which a page is READY, 1 to what the format can hold.
            drop_top_tier: ignore accesses to pages on top-tier nodes.

        Raises:
            InputError: the threshold can never be reached, or an argument is no whole number.
        """
        params = RecordParams(now_jiffies, window_jiffies, threshold, drop_top_tier)
        self.check_threshold(params.threshold)
        pfn, nid = pages_and_nodes(pfns, nids, may_be_on_gpu=self._may_be_on_gpu)
        return _counts(self._record(pfn, nid, params))

    def check_threshold(self, threshold: int) -> None:
        """Refuse a FREQ threshold that no record reaches.

        Raises:
            InputError: it is below 1, does not fit FREQ, or is no whole number.
        """
        threshold = whole("the threshold", threshold, -INT64_MAX)
        if not 1 <= threshold <= self.fmt.freq.max:
            raise InputError(
                f"a threshold of {threshold} accesses can never be reached: format {self.fmt.name} "
                f"counts to {self.fmt.freq.max}; give 1 to {self.fmt.freq.max}"
            )

    def scan(
        self,
        *,
        capacity: int | None = None,
        path: ScanPath = "auto",
        nodes: Iterable[int] | None = None,
        node_mask: NDArray[np.uint8] | None = None,
        end: int | None = None,
        cuts: Cutoffs | None = None,
    ) -> Plan:
        """Claim READY folios from the cursor on and move the cursor past what was covered.

        Args:
            capacity: folios the plan may hold, at least 512.
            path: ``auto``, ``dense`` or ``indexed``.
            nodes: nids of the nodes to scan; all by default.
            node_mask: the same as uint8[1024], 1 for nodes to scan; for who has it so.
            end: first flat page not to scan; the end of the store by default.
            cuts: cut-offs of a budget, from :meth:`rank`.

        Raises:
            InputError: the capacity is too small, or an argument is of another type, length or range.
            TopologyError: the machine has no such node.
        """
        plan = self._scan_on(self._from_cursor(capacity, path, nodes, node_mask, end, cuts))
        self.cursor = plan.cursor % self.n_pages
        return plan

    def _from_cursor(
        self,
        capacity: int | None,
        path: ScanPath,
        nodes: Iterable[int] | None,
        node_mask: NDArray[np.uint8] | None,
        end: int | None,
        cuts: Cutoffs | None,
    ) -> ScanRequest:
        """Return the request of a scan from the cursor on; arguments as :meth:`scan`."""
        mask = self._node_mask("scan", nodes, node_mask)
        stop = self.n_pages if end is None else end
        return ScanRequest(self.cursor, stop, self._capacity(capacity), path, mask, cuts)

    def _scan_on(self, request: ScanRequest) -> Plan:
        """Scan from the cursor on."""
        return self.scan_range(request)

    def scan_range(self, request: ScanRequest) -> Plan:
        """Claim the READY folios of a range; the cursor is left alone.

        Raises:
            ArgumentError: the range is not one of the store.
        """
        instance("scan_range: request", request, ScanRequest, "give a gpuscan.kernels.api.ScanRequest")
        self._door.range("scan", request.lo, request.hi)
        return self._scan_range(request)

    def _node_mask(
        self, place: str, nodes: Iterable[int] | None, node_mask: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8] | None:
        return mask_of_nodes(place, nodes, node_mask, self._door, self.topology)

    def _capacity(self, capacity: int | None) -> int:
        return self.default_capacity if capacity is None else capacity_of_plan(capacity)

    def _limits(self, budget_pages: Mapping[int, int] | int) -> NDArray[np.int64]:
        return limits_of_targets(budget_pages, self.layout.n_targets, self.check_target)

    def rank(
        self,
        budget_pages: Mapping[int, int] | int,
        now_jiffies: int,
        nodes: Iterable[int] | None = None,
        *,
        node_mask: NDArray[np.uint8] | None = None,
    ) -> Cutoffs:
        """Find who is claimed when targets may take only so many base pages: the hottest first.

        Args:
            budget_pages: base pages by target nid (targets left out have no limit), or one
                number for every target.
            now_jiffies: the moment that ages are counted from.
            nodes: nids of the nodes that will be scanned; all by default.
            node_mask: the same as uint8[1024]; see :meth:`scan`.

        Raises:
            InputError: a budget is negative, or an argument is of another type, length or range.
            TopologyError: a target is not a node with memory, or the machine has no such node.
        """
        mask = self._node_mask("rank", nodes, node_mask)
        return self._rank(self._budget(self._limits(budget_pages), moment(now_jiffies)), mask)

    def _budget(self, limits: NDArray[np.int64], now_jiffies: int) -> Budget:
        return Budget(limits, self._resume_flat.copy(), self.fmt.time_of(now_jiffies))

    def drain(
        self,
        *,
        capacity: int | None = None,
        path: ScanPath = "auto",
        nodes: Iterable[int] | None = None,
        node_mask: NDArray[np.uint8] | None = None,
        budget_pages: Mapping[int, int] | int | None = None,
        now_jiffies: int = 0,
    ) -> Generator[Plan, None, None]:
        """Go once around the store from the cursor on, in as many plans as the capacity needs.

        Stopping early is fine: the cursor stays where the last plan ended, so that the next
        round goes on from there and high PFNs do not starve.

        A store may begin the next scan before it hands a plan out, and then has claims that nobody
        knows of. They go back when the iterator is closed (see :meth:`take_ended_ahead`). So who
        stops early where an exception may keep the iterator alive closes it:
        ``contextlib.closing(store.drain())``.

        Args:
            capacity, path, nodes, node_mask: see :meth:`scan`.
            budget_pages: base pages each target may take in this round (see :meth:`rank`).
            now_jiffies: the moment that ages are counted from; needed with a budget.

        Raises:
            As :meth:`scan` and :meth:`rank`, at the call; plans are made as they are asked for.
        """
        mask = self._node_mask("drain", nodes, node_mask)
        request = ScanRequest(self.cursor, self.n_pages, self._capacity(capacity), path, mask)
        limits = None if budget_pages is None else self._limits(budget_pages)
        return self._drain(request, limits, moment(now_jiffies))

    def _drain(
        self, request: ScanRequest, limits: NDArray[np.int64] | None, now_jiffies: int
    ) -> Generator[Plan, None, None]:
        """Go around with a budget of ``limits``, int64[n_targets], which is ranked at the first plan."""
        cuts = None if limits is None else self._rank(self._budget(limits, now_jiffies), request.node_mask)
        served = np.full(self.layout.n_targets, -1, dtype=np.int64)
        try:
            with closing(self._go_around(replace(request, cuts=cuts))) as plans:
                for plan in plans:
                    if cuts is not None:
                        self._note_ties(plan, cuts, served)
                    yield plan
        finally:
            self._resume_flat = np.where(
                served >= 0, (self._resume_flat + served + 1) % self.n_pages, self._resume_flat
            )

    def _go_around(self, request: ScanRequest) -> Generator[Plan, None, None]:
        """Scan as ``request`` says, but from the cursor on and once around; the cursor follows the plans."""
        for end in self._ends():
            while True:
                plan = self._scan_range(replace(request, lo=self.cursor, hi=end))
                self.cursor = plan.cursor % self.n_pages
                yield plan
                if plan.cursor == end:
                    break

    def _ends(self) -> list[int]:
        """Return where the ranges of a round end: the store, and where it began."""
        return [self.n_pages, self.cursor] if self.cursor else [self.n_pages]

    def take_ended_ahead(self) -> EndedAhead:
        """Return which requests ended in scans of :meth:`drain` that were put back since the last call."""
        ended, self._ended_ahead = self._ended_ahead, EndedAhead()
        return ended

    def _note_ties(self, plan: Plan, cuts: Cutoffs, served: NDArray[np.int64]) -> None:
        """Remember per target how far past ``resume_flat`` its last tie was (flat pages)."""
        target = plan.target_of_folio()
        tie = hotness_key(self.fmt, plan.words, cuts.now) == cuts.cut_key[target]
        distance = (plan.flat[tie] - cuts.resume_flat[target[tie]]) % self.n_pages
        np.maximum.at(served, target[tie], distance)

    def release(self, flats: NDArray[np.int64], words: NDArray[Any]) -> dict[ReleaseOutcome, int]:
        """Put claimed folios back.

        Args:
            flats: int64[n], ``Plan.flat`` of the folios; none twice.
            words: ``Plan.words`` of them. Both may be on the store's GPU (``Store.scan_on_device``), where
                what is no claim counts as freed.

        Returns:
            How many are READY again, were superseded by a newer request, or were freed meanwhile.

        Raises:
            ArgumentError: a folio is not one of the store, or a word not of a claim.
        """
        if not (self._may_be_on_gpu and is_on_gpu(flats)):
            flats, words, _ = self._door.arrays("release", flats, words, NO_OUTCOMES)
        counted = self._release(flats, words)
        return {outcome: int(counted[outcome]) for outcome in ReleaseOutcome}

    def admit(self, flats: NDArray[np.int64], order: int = 0) -> None:
        """Make folios eligible (allocated, on an LRU list); ``flats`` int64[n] are their heads.

        Raises:
            ArgumentError: these are no heads of such folios, or the store keeps no folio orders.
        """
        self._admit(self._door.order(flats, order), whole("admit: order", order, 0, MAX_ORDER))

    def forget(self, flats: NDArray[np.int64]) -> int:
        """Make freed folios ineligible and end their requests; return how many were READY.

        A producer that passed its eligibility check before the free may still mark the page
        afterwards, as in the kernel; the migrator then finds it gone.

        Raises:
            ArgumentError: a folio is not one of the store.
        """
        (flats,) = self._door.arrays("discard", flats)
        return self._forget(flats)

    def load_pages(self, eligible_bits: NDArray[np.uint64], order: NDArray[np.uint8] | None = None) -> None:
        """Set eligibility, and folio orders, of all pages at once; records are kept.

        The store must be at rest.

        Args:
            eligible_bits: uint64[n_pages / 64], as :meth:`PageMap.present_bits`.
            order: uint8[n_pages], or None without large folios.

        Raises:
            ArgumentError: they are something else, or the store keeps no folio orders.
        """
        if order is not None and not self.layout.has_large_folios:
            raise ArgumentError("this store keeps no folio orders; open it with large_folios=True")
        if eligible_bits is None:
            raise ArgumentError("load_pages: eligible_bits is None; give uint64[n_pages / 64]")
        _, _, _, bits, orders, _ = self._door.arrays("load", None, None, None, eligible_bits, order, None)
        self._load_pages(bits, orders)

    @abstractmethod
    def count_ready(self) -> int:
        """Return how many folios are READY now."""

    @abstractmethod
    def take_active(self) -> NDArray[np.uint8]:
        """Return uint8[1024] of nodes on which pages became READY since the last call, and clear it."""

    @abstractmethod
    def warm(self, *, record: bool) -> None:
        """Load, or compile once, what a run calls beside the scan: ``record``, or else ``request``."""

    def network(self) -> tuple[int, int]:
        """Return how many calls and bytes went over a network so far, both ways."""
        return 0, 0

    def device_failures(self) -> tuple[str, ...]:
        """Return one sentence for each device that failed and was replaced so far."""
        return ()

    def recovery_s(self) -> list[float]:
        """Return how long each shard that was lost took to be where it was, in seconds."""
        return []

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore`; see :mod:`gpuscan.store.state`.

        The store must be at rest.
        """

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, of this store or one that is divided otherwise.

        Raises:
            ArgumentError: that was a store of another format, target or size.
        """

    def _restore_rounds(self, state: Mapping[str, Any]) -> None:
        """Take over what goes from one round to the next."""
        self.cursor = state["cursor"]
        self._resume_flat = np.array(state["resume_flat"], dtype=np.int64)
        self._ended_ahead = EndedAhead(**state["ended_ahead"])

    @abstractmethod
    def close(self) -> None:
        """Free the memory."""

    @abstractmethod
    def _request(
        self, pfn: NDArray[np.int64], nid: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Do :meth:`gpuscan.kernels.api.Kernels.request`."""

    @abstractmethod
    def _record(
        self, pfn: NDArray[np.int64], nid: NDArray[np.int32], params: RecordParams
    ) -> NDArray[np.int64]:
        """Do :meth:`gpuscan.kernels.api.Kernels.record`."""

    @abstractmethod
    def _scan_range(self, request: ScanRequest) -> Plan:
        """Do :meth:`scan_range` for a range of this store."""

    @abstractmethod
    def _release(self, flats: NDArray[np.int64], words: NDArray[Any]) -> NDArray[np.int64]:
        """Do :meth:`gpuscan.kernels.api.Kernels.release`."""

    @abstractmethod
    def _admit(self, flats: NDArray[np.int64], order: int) -> None:
        """Do :meth:`admit` with arguments that were checked."""

    @abstractmethod
    def _forget(self, flats: NDArray[np.int64]) -> int:
        """Do :meth:`forget` with arguments that were checked."""

    @abstractmethod
    def _load_pages(self, eligible_bits: NDArray[np.uint64], order: NDArray[np.uint8] | None) -> None:
        """Do :meth:`load_pages` with arguments that were checked."""

    @abstractmethod
    def _rank(self, budget: Budget, node_mask: NDArray[np.uint8] | None) -> Cutoffs:
        """Do :meth:`gpuscan.kernels.api.Kernels.rank` for all pages."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _counts(counted: NDArray[np.int64]) -> Counts:
    return {outcome: int(counted[outcome]) for outcome in Outcome}
