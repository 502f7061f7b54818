"""The page records of one machine on one device: request, record, scan, release.

A :class:`Store` is what a tiering daemon embeds: it turns a topology into a flat
index, keeps records and index bits on a device, and hands out plans.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import flag, has_methods, instance
from gpuscan.base.errors import DeviceError, InputError
from gpuscan.base.residency import Residency
from gpuscan.kernels.api import (
    Backend,
    Budget,
    Cutoffs,
    Kernels,
    RecordParams,
    ReleaseOutcome,
    ScanPath,
    ScanRequest,
    StoreArrays,
)
from gpuscan.kernels.device_plan import DevicePlan
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.kernels.registry import Device, open_backend
from gpuscan.kernels.signatures import closed
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import PageMap
from gpuscan.store.contract import NO_OUTCOMES, PageStore
from gpuscan.store.in_flight import ScanInFlight
from gpuscan.store.layout import TOPOLOGY_REMEDY, layout_of
from gpuscan.store.plan import Plan
from gpuscan.store.residency import open_kernels
from gpuscan.store.state import arrays_between, check_fits, page_arrays, state_of
from gpuscan.store.view import StoreView
from gpuscan.topology import Topology


class Store(PageStore):
    """Page records of a machine.

    ``request``, ``record``, ``release`` and the frees (``forget``) may run in other
    threads while a scan runs. Scans through one Store take turns by its cursor: call
    ``scan`` and ``drain`` from one thread at a time.

    Args:
        topology: the machine.
        record_format_name: one of ``gpuscan.records.formats.STORE_FORMATS``.
        device: ``auto``, ``cpu``, ``reference`` or ``cuda``; or an opened backend.
        fixed_target: the target of every page for a format that stores none
            (``pghot-compact``); by default the first top-tier node with CPUs.
        large_folios: keep a folio order per page (1 byte a page on the device, 1 on the host).
        n_threads: worker threads of the CPU backend; all cores by default.
        page_map: the pages this store has, where it is a shard; all of the topology's by default.
        residency: ``device``: all of the store is on the device. ``index``: its bits are, and scans go by
            them; records and folio orders are elsewhere, and larger than the device (docs/residency.md).
        records_dir: a directory for a file of the records, with ``index``; a GPU has them in pinned memory
            of the host without.
        on_reserved: called with how many bytes of that file were reserved since the last call.

    Raises:
        DeviceError: the device is not there or too small, or something else has no room for its part.
        InputError: records cannot be elsewhere, or not there.
        TopologyError: ``fixed_target`` is not a node with memory.
    """

    _may_be_on_gpu = True

    def __init__(
        self,
        topology: Topology,
        record_format_name: str = "rfc",
        device: Device | Backend = "auto",
        *,
        fixed_target: int | None = None,
        large_folios: bool = False,
        n_threads: int | None = None,
        page_map: PageMap | None = None,
        residency: Residency = "device",
        records_dir: Path | str | None = None,
        on_reserved: Callable[[int], object] | None = None,
    ) -> None:
        instance("a store's topology", topology, Topology, TOPOLOGY_REMEDY)
        page_map = topology.page_map if page_map is None else page_map
        layout = layout_of(topology, page_map, record_format_name, fixed_target, large_folios)
        super().__init__(topology, layout)
        if isinstance(device, str):
            self.backend, self.device_reason = open_backend(device, n_threads)
        else:
            has_methods(
                "a store's device",
                device,
                ("open", "describe"),
                "give auto, cpu, reference, cuda or a backend",
            )
            self.backend, self.device_reason = device, f"{device.name}: given by the caller"
        self.kernels: Kernels = open_kernels(self.backend, layout, residency, records_dir, on_reserved)
        self._ahead: list[ScanInFlight] = []
        self._order = np.empty(0, dtype=np.uint8)
        if large_folios:
            # Plans are made on the host: where the device's array is not there, keep a second one.
            own = self.kernels.arrays.folio_order
            self._order = own if isinstance(own, np.ndarray) else np.zeros(layout.n_pages, dtype=np.uint8)

    @property
    def device_name(self) -> str:
        """Return the name of the backend."""
        return self.backend.name

    def device_failures(self) -> tuple[str, ...]:
        """Return one sentence for each device that failed and was replaced so far."""
        return tuple(self.backend.failures) if isinstance(self.backend, GuardedBackend) else ()

    def _request(
        self, pfn: NDArray[np.int64], nid: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        return self.kernels.request(pfn, nid, outcomes)

    def _record(
        self, pfn: NDArray[np.int64], nid: NDArray[np.int32], params: RecordParams
    ) -> NDArray[np.int64]:
        return self.kernels.record(pfn, nid, params, NO_OUTCOMES)

    def _rank(self, budget: Budget, node_mask: NDArray[np.uint8] | None) -> Cutoffs:
        return self.kernels.rank(budget, 0, self.n_pages, node_mask)

    def _scan_range(self, request: ScanRequest) -> Plan:
        self._put_back(self._ahead)  # of a drain that stands still
        in_flight: list[ScanInFlight] = []
        try:
            in_flight.append(ScanInFlight.of(self.kernels.scan, request))
            return self._hand_out(in_flight)
        except BaseException:  # KeyboardInterrupt too: claims must not get lost
            self._put_back(in_flight)
            raise

    def scan_on_device(
        self,
        *,
        capacity: int | None = None,
        path: ScanPath = "auto",
        nodes: Iterable[int] | None = None,
        node_mask: NDArray[np.uint8] | None = None,
        end: int | None = None,
        cuts: Cutoffs | None = None,
    ) -> DevicePlan:
        """Do :meth:`scan`, and leave the plan in the GPU's memory; arguments as there.

        Raises:
            InputError: as :meth:`scan`, or the store's plans are not made on a GPU.
        """
        scan = getattr(self.kernels, "scan_on_device", None)
        if scan is None:
            raise InputError(
                "scan_on_device: the plans of this store are made in host memory; use scan(), or a GPU "
                "that no other backend takes over from"
            )
        request = self._from_cursor(capacity, path, nodes, node_mask, end, cuts)
        self._put_back(self._ahead)  # of a drain that stands still
        plan: DevicePlan = scan(request)
        self.cursor = plan.cursor % self.n_pages
        return plan

    def _go_around(self, request: ScanRequest) -> Generator[Plan, None, None]:
        """Do as :class:`PageStore` says.

        Where plans come from another device, the next scan is begun before a plan is waited for and
        handed out, so that its transfer costs nothing: while the caller works on one plan, the claims
        of the next are made. They go back when the iterator is closed (or another round is begun), and
        what ended meanwhile is told by :meth:`take_ended_ahead`; folios that are freed (:meth:`forget`)
        are left out when their plan is handed out.
        """
        in_flight: list[ScanInFlight] = []

        def begin(lo: int, end: int) -> None:
            in_flight.append(ScanInFlight.of(self.kernels.scan, replace(request, lo=lo, hi=end)))

        ends = self._ends()
        try:
            while ends:
                if self._ahead is not in_flight:
                    self._put_back(self._ahead)
                    self._ahead = in_flight
                if not in_flight:
                    begin(self.cursor, ends[0])
                if not in_flight[0].raw.has_arrived:
                    _begin_next(begin, in_flight[0].raw.cursor, ends)
                plan = self._hand_out(in_flight)
                self.cursor = plan.cursor % self.n_pages
                if plan.cursor == ends[0]:
                    del ends[0]
                yield plan
        finally:
            self._put_back(in_flight)

    def _hand_out(self, in_flight: list[ScanInFlight]) -> Plan:
        """Wait for the plan of the first scan, and take it off ``in_flight``."""
        scan = in_flight[0]
        try:
            scan.wait()
        except BaseException:  # KeyboardInterrupt too; its claims are back
            in_flight.remove(scan)
            raise
        plan = scan.plan(self.page_map, self._order if self.layout.has_large_folios else None)
        scan.raw.recycle()
        in_flight.remove(scan)
        return plan

    def _put_back(self, in_flight: list[ScanInFlight]) -> None:
        """Release the claims of scans whose plans were not handed out, the last one first."""
        while in_flight:
            scan = in_flight[-1]
            arrived = scan.arrived()
            in_flight.remove(scan)
            released = self.release(arrived.flat, arrived.words)
            scan.raw.recycle()
            self._ended_ahead.superseded += released[ReleaseOutcome.SUPERSEDED] + scan.raw.n_superseded
            self._ended_ahead.freed += released[ReleaseOutcome.INELIGIBLE] + arrived.n_freed
            self._ended_ahead.unknown_target += scan.raw.n_unknown_target

    def _release(self, flats: NDArray[np.int64], words: NDArray[Any]) -> NDArray[np.int64]:
        return self.kernels.release(flats, words, NO_OUTCOMES)

    def _admit(self, flats: NDArray[np.int64], order: int) -> None:
        if order or self.layout.has_large_folios:
            self.kernels.set_order(flats, order)
            self._order.reshape(-1, 1 << order)[flats >> order] = order
        self.kernels.set_eligible(flats, True)

    def _forget(self, flats: NDArray[np.int64]) -> int:
        self.kernels.set_eligible(flats, False)
        n_ready = self.kernels.discard(flats)
        for scan in self._ahead[:]:
            scan.note_freed(flats)
        return n_ready

    def _load_pages(self, eligible_bits: NDArray[np.uint64], order: NDArray[np.uint8] | None) -> None:
        self.kernels.load(StoreArrays(None, None, None, eligible_bits, order, None))
        if order is not None:
            self._order[:] = order

    def dump(self) -> StoreArrays:
        """Return copies of all arrays in host memory. The store must be at rest."""
        return self.kernels.dump()

    def host_arrays(self) -> StoreArrays:
        """Return the arrays themselves where they are in host memory, or else copies. For a store at rest.

        Raises:
            RunFailedError: the memory of the records is gone.
        """
        arrays = self.kernels.arrays
        return arrays if isinstance(arrays.records, np.ndarray) else self.kernels.dump()

    def view(self) -> StoreView:
        """Return the arrays where they are, without a copy: NumPy's read-only, on a GPU CuPy's own.

        Read-only is a guard against mistakes, which whoever means to can lift. They change as the store does:
        what was asked of it before is done, what is asked later runs on a stream of its own, and whoever
        reads meanwhile sees some of it. Whoever has them has their memory, after the store's close, too.
        Where the CPU took over for a device that failed, the view has the CPU's from then on. Each is
        for :func:`numpy.from_dlpack` and its like (read-only ones: NumPy 2.1).

        Raises:
            ArgumentError: the store is closed; later, by the view, too.
            RunFailedError: the memory of the records is gone; later, by the view, too.
        """
        self._arrays_at_rest()
        return StoreView(self._arrays_at_rest)

    def _arrays_at_rest(self) -> StoreArrays:
        """Return the arrays when all that was asked of the store is done.

        Raises:
            ArgumentError: the store is closed.
            RunFailedError: the memory of the records is gone.
        """
        arrays = self.kernels.arrays
        if not len(arrays.records):
            raise closed()
        if not isinstance(arrays.records, np.ndarray):
            self.kernels.count_index()  # its answer comes after all that the kernels' stream was given
            arrays = self.kernels.arrays  # the device may have failed in it, and another have taken over
        return arrays

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore`. The store must be at rest.

        Claims that a drain standing still has made ahead go back first. Arrays in host memory are not
        copied: write or copy them before the store is used again.
        """
        self._put_back(self._ahead)
        arrays = self.host_arrays()
        parts = {"0": page_arrays(arrays)}
        edges = (0, self.page_map.n_sections)
        return state_of(self, self._ended_ahead, arrays.node_active, edges, parts)

    def restore(self, state: Mapping[str, Any], *, first_section: int | None = None) -> None:
        """Become what :meth:`state` was taken of. The store must be at rest.

        Args:
            state: of a store, or of shards; see :mod:`gpuscan.store.state`.
            first_section: where the state is of the whole machine and this store has a part of it: the
                flat section at which that begins.

        Raises:
            ValueError: that was a store of another format, target or size; nothing was changed.
        """
        n_sections = self.page_map.n_sections
        first = first_section or 0
        whole = n_sections if first_section is None else self.topology.page_map.n_sections
        check_fits(self, state, whole)
        arrays = arrays_between(state, first, first + n_sections)
        active = np.zeros(N_NODES_MAX, dtype=np.uint8)
        active[state["active_nids"]] = 1
        self._put_back(self._ahead)
        self.kernels.load(replace(arrays, node_active=active))
        if self.layout.has_large_folios:
            self._order[:] = arrays.folio_order
        self._restore_rounds(state)

    def count_ready(self) -> int:
        """Return how many folios are READY now."""
        return self.kernels.count_ready()

    def take_active(self) -> NDArray[np.uint8]:
        """Return uint8[1024] of nodes on which pages became READY since the last call, and clear it."""
        return self.kernels.take_active()

    def warm(self, *, record: bool) -> None:
        """Load, or compile once, what a run calls beside the scan, which opening the store loads."""
        none = np.empty(0, dtype=np.int64)
        if flag("warm: record", record):
            self.record(none, none, now_jiffies=0, window_jiffies=0, threshold=1)
        else:
            self.request(none, none)
        self.admit(none)
        self.forget(none)
        self.release(none, np.empty(0, dtype=self.fmt.dtype))

    def close(self) -> None:
        """Free the device's memory."""
        self._ahead.clear()
        self.kernels.close()
        self._order = np.empty(0, dtype=np.uint8)  # it may be in the memory of the records


def _begin_next(begin: Callable[[int, int], None], lo: int, ends: list[int]) -> None:
    """Begin the scan after the one up to ``lo``, if the round has one and the device room for two plans."""
    if lo == ends[0]:
        if len(ends) == 1:
            return
        lo, end = 0, ends[1]
    else:
        end = ends[0]
    with suppress(DeviceError):  # if it is more than a lack of room, it comes again without this plan
        begin(lo, end)
