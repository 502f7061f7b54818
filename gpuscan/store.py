"""The page records of one machine on one device: request, record, scan, release.

A :class:`Store` is what a tiering daemon embeds: it turns a topology into a flat
index, keeps records and index bits on a device, and hands out plans.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuscan.errors import InputError, TopologyError
from gpuscan.kernels.api import (
    NODE_HAS_MEMORY,
    NODE_TOP_TIER,
    Backend,
    Budget,
    Cutoffs,
    Kernels,
    Outcome,
    RecordParams,
    ReleaseOutcome,
    ScanPath,
    ScanRequest,
    StoreArrays,
    StoreLayout,
    empty_node_flags,
)
from gpuscan.kernels.registry import Device, open_backend
from gpuscan.pagemap import BLOCK_PAGES
from gpuscan.plan import Plan
from gpuscan.records import N_NODES_MAX, STORE_FORMATS, hotness_key, record_format
from gpuscan.topology import Topology

_NO_OUTCOMES = np.empty(0, dtype=np.uint8)
_CAPACITY_SHARE = 64
"""A plan holds at most 1/64 of the pages unless told otherwise: 20 bytes a folio, and 24 in the
backend's buffers, are then a sixth of a store of 4-byte records; fuller machines take several plans."""
_CAPACITY_MIN = 1 << 16

Counts = dict[Outcome, int]


class Store:
    """Page records of a machine.

    ``request``, ``record``, ``release`` and the frees (``forget``) may run in other
    threads while a scan runs. Scans through one Store take turns by its cursor: call
    ``scan`` and ``drain`` from one thread at a time.

    Args:
        topology: the machine.
        record_format_name: one of ``gpuscan.records.STORE_FORMATS``.
        device: ``auto``, ``cpu``, ``reference`` or ``cuda``; or an opened backend.
        fixed_target: the target of every page for a format that stores none
            (``pghot-compact``); by default the first top-tier node with CPUs.
        large_folios: keep a folio order per page (1 byte a page on the device, 1 on the host).
        n_threads: worker threads of the CPU backend; all cores by default.

    Raises:
        DeviceError: the device is not there or too small.
        TopologyError: ``fixed_target`` is not a node with memory.
    """

    def __init__(
        self,
        topology: Topology,
        record_format_name: str = "rfc",
        device: Device | Backend = "auto",
        *,
        fixed_target: int | None = None,
        large_folios: bool = False,
        n_threads: int | None = None,
    ) -> None:
        fmt = record_format(record_format_name)
        if fmt.importable_only:
            raise InputError(
                f"records of format {fmt.name} are imported and exported only; "
                f"make the store of one of {', '.join(STORE_FORMATS)}"
            )
        self.topology = topology
        self.page_map = topology.page_map
        self.fmt = fmt
        self._node_flags = _node_flags(topology)
        target = -1
        if not fmt.has_nid:
            target = _default_target(topology) if fixed_target is None else fixed_target
            self.check_target(target)
        layout = StoreLayout(self.page_map, fmt, self._node_flags, target, large_folios)
        if isinstance(device, str):
            self.backend, self.device_reason = open_backend(device, n_threads)
        else:
            self.backend, self.device_reason = device, f"{device.name}: given by the caller"
        self.layout = layout
        self.kernels: Kernels = self.backend.open(layout)
        self.cursor = 0
        self._resume_flat = np.zeros(layout.n_targets, dtype=np.int64)
        self._order = np.empty(0, dtype=np.uint8)
        if large_folios:
            # Plans are made on the host: where the device's array is not there, keep a second one.
            own = self.kernels.arrays.folio_order
            self._order = own if isinstance(own, np.ndarray) else np.zeros(layout.n_pages, dtype=np.uint8)

    @property
    def n_pages(self) -> int:
        """Flat pages, a multiple of 32,768; more than are present where sections have holes."""
        return self.layout.n_pages

    @property
    def default_capacity(self) -> int:
        """Folios a plan holds unless told otherwise."""
        return max(_CAPACITY_MIN, self.n_pages // _CAPACITY_SHARE)

    def check_target(self, nid: int) -> None:
        """Refuse a target that is not a node with memory.

        Raises:
            TopologyError: it is not.
        """
        self.topology.node(nid)
        if not self._node_flags[nid] & NODE_HAS_MEMORY:
            raise TopologyError(
                f"node {nid} of {self.topology.name!r} has no memory; choose a target that has"
            )

    def request(self, pfns: ArrayLike, nids: ArrayLike) -> Counts:
        """Ask for pages to be moved to nodes (RFC v1 ``kmigrated_add_pfn``).

        Args:
            pfns: any page of a folio, n of them.
            nids: target nodes, n of them or one for all.

        Returns:
            How many ended which way; what cannot be accepted is dropped with its reason.

        Raises:
            InputError: not whole numbers, or not one nid for each PFN.
        """
        return self.request_outcomes(pfns, nids, _NO_OUTCOMES)

    def request_outcomes(self, pfns: ArrayLike, nids: ArrayLike, outcomes: NDArray[np.uint8]) -> Counts:
        """Do :meth:`request` and fill ``outcomes`` (uint8[n]) with the :class:`Outcome` of each element."""
        pfn, nid = _pages_and_nodes(pfns, nids)
        return _counts(self.kernels.request(pfn, nid, outcomes))

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
            InputError: the threshold can never be reached.
        """
        self.check_threshold(threshold)
        pfn, nid = _pages_and_nodes(pfns, nids)
        params = RecordParams(now_jiffies, window_jiffies, threshold, drop_top_tier)
        return _counts(self.kernels.record(pfn, nid, params, _NO_OUTCOMES))

    def check_threshold(self, threshold: int) -> None:
        """Refuse a FREQ threshold that no record reaches.

        Raises:
            InputError: it is below 1 or does not fit FREQ.
        """
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
        nodes: NDArray[np.uint8] | None = None,
        end: int | None = None,
        cuts: Cutoffs | None = None,
    ) -> Plan:
        """Claim READY folios from the cursor on and move the cursor past what was covered.

        Args:
            capacity: folios the plan may hold, at least 512.
            path: ``auto``, ``dense`` or ``indexed``.
            nodes: uint8[1024], 1 for nodes to scan; all by default.
            end: first flat page not to scan; the end of the store by default.
            cuts: cut-offs of a budget, from :meth:`rank`.

        Raises:
            InputError: the capacity is too small.
        """
        if capacity is None:
            capacity = self.default_capacity
        if capacity < BLOCK_PAGES:
            raise InputError(
                f"a plan of {capacity} folios may not hold one block of {BLOCK_PAGES} pages; "
                f"give a capacity of at least {BLOCK_PAGES}"
            )
        stop = self.n_pages if end is None else end
        request = ScanRequest(self.cursor, stop, capacity, path=path, node_mask=nodes, cuts=cuts)
        started = time.perf_counter_ns()
        raw = self.kernels.scan(request)
        raw.wait()
        scan_ns = time.perf_counter_ns() - started
        self.cursor = raw.cursor % self.n_pages
        plan = Plan(
            offsets=raw.offsets,
            pfn=self.page_map.pfn_of_flat(raw.flat),
            flat=raw.flat.copy(),
            words=raw.words.copy(),
            order=self._order[raw.flat] if self.layout.has_large_folios else None,
            cursor=raw.cursor,
            path=raw.path,
            why=raw.why,
            scan_ns=scan_ns,
            examined_pages=raw.examined_pages,
            examined_bytes=raw.examined_bytes,
            n_unknown_target=raw.n_unknown_target,
            n_superseded=raw.n_superseded,
        )
        raw.recycle()
        return plan

    def rank(
        self, budget_pages: Mapping[int, int] | int, now_jiffies: int, nodes: NDArray[np.uint8] | None = None
    ) -> Cutoffs:
        """Find who is claimed when targets may take only so many base pages: the hottest first.

        Args:
            budget_pages: base pages by target nid (targets left out have no limit), or one
                number for every target.
            now_jiffies: the moment that ages are counted from.
            nodes: uint8[1024], 1 for nodes that will be scanned; all by default.

        Raises:
            InputError: a budget is negative.
            TopologyError: a target is not a node with memory.
        """
        budgets = budget_pages.values() if isinstance(budget_pages, Mapping) else (budget_pages,)
        if min(budgets, default=0) < 0:
            raise InputError(
                f"a budget of {min(budgets)} pages is negative; leave the target out to lift its limit"
            )
        limits = np.full(self.layout.n_targets, -1, dtype=np.int64)
        if isinstance(budget_pages, Mapping):
            for nid, pages in budget_pages.items():
                self.check_target(nid)
                limits[nid] = pages
        else:
            limits[:] = budget_pages
        budget = Budget(limits, self._resume_flat.copy(), self.fmt.time_of(now_jiffies))
        return self.kernels.rank(budget, 0, self.n_pages, nodes)

    def drain(
        self,
        *,
        capacity: int | None = None,
        path: ScanPath = "auto",
        nodes: NDArray[np.uint8] | None = None,
        budget_pages: Mapping[int, int] | int | None = None,
        now_jiffies: int = 0,
    ) -> Iterator[Plan]:
        """Go once around the store from the cursor on, in as many plans as the capacity needs.

        Stopping early is fine: the cursor stays where the last plan ended, so that the next
        round goes on from there and high PFNs do not starve.

        Args:
            budget_pages: base pages each target may take in this round (see :meth:`rank`).
            now_jiffies: the moment that ages are counted from; needed with a budget.
        """
        cuts = None if budget_pages is None else self.rank(budget_pages, now_jiffies, nodes)
        start = self.cursor
        ends = (self.n_pages, start) if start else (self.n_pages,)
        served = np.full(self.layout.n_targets, -1, dtype=np.int64)
        try:
            for end in ends:
                while True:
                    plan = self.scan(capacity=capacity, path=path, nodes=nodes, end=end, cuts=cuts)
                    if cuts is not None:
                        self._note_ties(plan, cuts, served)
                    yield plan
                    if plan.cursor == end:
                        break
        finally:
            self._resume_flat = np.where(
                served >= 0, (self._resume_flat + served + 1) % self.n_pages, self._resume_flat
            )

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
            words: ``Plan.words`` of them.

        Returns:
            How many are READY again, were superseded by a newer request, or were freed meanwhile.
        """
        counted = self.kernels.release(flats, words, _NO_OUTCOMES)
        return {outcome: int(counted[outcome]) for outcome in ReleaseOutcome}

    def admit(self, flats: NDArray[np.int64], order: int = 0) -> None:
        """Make folios eligible (allocated, on an LRU list); ``flats`` int64[n] are their heads."""
        if order or self.layout.has_large_folios:
            self.kernels.set_order(flats, order)
            self._order.reshape(-1, 1 << order)[flats >> order] = order
        self.kernels.set_eligible(flats, True)

    def forget(self, flats: NDArray[np.int64]) -> int:
        """Make freed folios ineligible and end their requests; return how many were READY.

        A producer that passed its eligibility check before the free may still mark the page
        afterwards, as in the kernel; the migrator then finds it gone.
        """
        self.kernels.set_eligible(flats, False)
        return self.kernels.discard(flats)

    def load_pages(self, eligible_bits: NDArray[np.uint64], order: NDArray[np.uint8] | None = None) -> None:
        """Set eligibility, and folio orders, of all pages at once; records are kept.

        The store must be at rest.

        Args:
            eligible_bits: uint64[n_pages / 64].
            order: uint8[n_pages], or None without large folios.
        """
        if order is not None and not self.layout.has_large_folios:
            raise InputError("this store keeps no folio orders; open it with large_folios=True")
        self.kernels.load(StoreArrays(None, None, None, eligible_bits, order, None))
        if order is not None:
            self._order[:] = order

    def dump(self) -> StoreArrays:
        """Return copies of all arrays in host memory. The store must be at rest."""
        return self.kernels.dump()

    def count_ready(self) -> int:
        """Return how many folios are READY now."""
        return self.kernels.count_ready()

    def close(self) -> None:
        """Free the device's memory."""
        self.kernels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _node_flags(topology: Topology) -> NDArray[np.uint8]:
    flags = empty_node_flags()
    for node in topology.nodes:
        if node.present_pages:
            flags[node.nid] |= NODE_HAS_MEMORY
            if topology.is_top_tier(node.nid):
                flags[node.nid] |= NODE_TOP_TIER
    return flags


def _default_target(topology: Topology) -> int:
    top = [node for node in topology.nodes if node.present_pages and topology.is_top_tier(node.nid)]
    return next((node.nid for node in top if node.cpus), top[0].nid)


def _pages_and_nodes(pfns: ArrayLike, nids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    pfn, nid = np.atleast_1d(pfns), np.asarray(nids)
    for what, array in (("PFNs", pfn), ("target nids", nid)):
        if array.size and array.dtype.kind not in "iu":
            raise InputError(f"{what} are whole numbers below 2**63, not {array.dtype}; convert the array")
    if pfn.ndim != 1:
        raise InputError(f"PFNs come as one dimension, not {pfn.ndim}; flatten the array")
    if nid.shape not in ((), pfn.shape):
        raise InputError(
            f"{len(pfn)} PFNs come with {nid.size} target nids; give one for each, or one for all"
        )
    if nid.dtype != np.int32:  # a plain cast would turn node 2**32 into node 0
        nid = np.where((nid < 0) | (nid >= N_NODES_MAX), -1, nid).astype(np.int32)
    return np.ascontiguousarray(pfn, dtype=np.int64), np.ascontiguousarray(np.broadcast_to(nid, pfn.shape))


def _counts(counted: NDArray[np.int64]) -> Counts:
    return {outcome: int(counted[outcome]) for outcome in Outcome}
