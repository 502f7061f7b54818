"""The CUDA backend: a store's arrays on a device, the operations on them, and the lock around launches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import check_arrays, flag, is_on_gpu
from gpuscan.base.errors import ArgumentError, DeviceError
from gpuscan.base.units import format_bytes
from gpuscan.kernels.api import (
    N_RELEASE_OUTCOMES,
    Budget,
    Cutoffs,
    RawPlan,
    RecordParams,
    ScanRequest,
    StoreArrays,
    StoreLayout,
)
from gpuscan.kernels.cuda.budget import CudaKeyCounts, rank
from gpuscan.kernels.cuda.cuts import DeviceCuts
from gpuscan.kernels.cuda.device import Device, Kernel
from gpuscan.kernels.cuda.given import adopted
from gpuscan.kernels.cuda.launches import Launch, typed
from gpuscan.kernels.cuda.producing import Producing
from gpuscan.kernels.cuda.record_memory import HostRecords
from gpuscan.kernels.cuda.scan import Scan
from gpuscan.kernels.cuda.source import THREADS, kernel_source
from gpuscan.kernels.cuda.workspace import Scratch, Stages, scratch_bytes
from gpuscan.kernels.device_plan import DevicePlan
from gpuscan.kernels.residency import MakeRecordMemory, scan_by_index
from gpuscan.kernels.signatures import ARRAYS, OPERATIONS, Door, closed
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import SECTION_PAGES

_P = TypeVar("_P", RawPlan, DevicePlan)

WORKING_BYTES = 128 << 20
"""What a store may need beside its arrays before the first plan: counts, stages, items, budgets."""
_LOAD_BYTES = 16
"""What a thread reads at once where it reads records."""
_COUNTING_BLOCKS = 2048
"""Thread blocks of the kernels that count: 8 for each of an H100's SMs and some to spare."""


class CudaBackend:
    """Stores on a GPU, worked on by CUDA kernels.

    Args:
        device: what kernels run on; by default the current GPU of CuPy.
        ordered: items of one ``request`` or ``record`` call that name one folio are worked on in
            call order, as every backend does it. That takes a look at all of them before; False
            leaves the order to the hardware, and all else as it is.
        exclusive: claims are plain stores. For callers who own their stores: nothing but this
            backend's own calls, from this process, changes records or index.

    Raises:
        DeviceError: no GPU can be had; says what is missing and what to do.
    """

    name = "cuda"

    def __init__(
        self, device: Device | None = None, *, ordered: bool = True, exclusive: bool = False
    ) -> None:
        if device is None:
            from gpuscan.kernels.cuda.cupy_device import CupyDevice

            device = CupyDevice()
        self.device: Device = device
        self.ordered = ordered
        self.exclusive = exclusive

    def describe(self) -> str:
        """Return one line: the device, and how claims are made."""
        return f"CUDA kernels on {self.device.describe()}" + ", exclusive claims" * self.exclusive

    def open(self, layout: StoreLayout) -> CudaKernels:
        """Make an empty store.

        Raises:
            DeviceError: not enough memory on the device.
        """
        return CudaKernels(layout, self.device, ordered=self.ordered, exclusive=self.exclusive)

    def open_index(self, layout: StoreLayout, make: MakeRecordMemory | None) -> CudaKernels:
        """Make an empty store whose records are in memory of the host: what ``make`` makes, or pinned.

        Raises:
            DeviceError: not enough memory on the device or the host, or kernels do not reach it; nothing was
                allocated.
        """
        _check_room(layout, self.device, layout.index_bytes)
        records = HostRecords(layout, self.device, make)
        try:
            return CudaKernels(layout, self.device, records, ordered=self.ordered, exclusive=self.exclusive)
        except BaseException:
            records.close()
            raise


class CudaKernels:
    """The operations on one store on a device; see :class:`gpuscan.kernels.api.Kernels`.

    ``request``, ``record`` and ``release`` take items that are on the device already, of the kernels' types,
    without a copy (``__cuda_array_interface__``, DLPack). The device waits for the stream that they come
    with; when the call returns they are no longer used.

    Calls from several threads are safe: launches take turns. The transfer of a plan runs beside
    whatever is called next, in this thread or another; see :class:`gpuscan.kernels.api.RawPlan`.
    """

    def __init__(
        self,
        layout: StoreLayout,
        device: Device,
        host_records: HostRecords | None = None,
        *,
        ordered: bool,
        exclusive: bool,
    ) -> None:
        self.layout = layout
        self.device = device
        self.ordered = ordered
        self.host_buffers = HostBuffers(device, layout.fmt.dtype)
        self._door = Door(layout)
        self._lock = threading.RLock()
        self._is_open = True
        self._host_records = host_records
        source = kernel_source(layout.fmt, exclusive=exclusive)
        self._find: Callable[[str], Kernel] = device.compile(source)
        pages = layout.page_map
        with device.working():
            self.arrays = _allocate(layout, device, host_records)
            self.scratch = Scratch(device, layout)
            self.stages = Stages(device, layout.fmt.dtype)
            self.cuts = DeviceCuts(device, layout, self.scratch.report)
            self._all_nodes = device.upload(np.ones(N_NODES_MAX, dtype=np.uint8))
            self._producing = Producing(self)
            self._section_pfn: Any = None
            self._last_mask = b""
            self._nodes_of_mask = device.empty(N_NODES_MAX, np.uint8)
            self._launches: dict[str, Launch] = {}
            self.own: dict[str, Any] = {  # what launches are given of the store itself, by name
                **{spec.name: getattr(self.arrays, spec.name) for spec in ARRAYS},
                **typed(
                    {
                        "has_large_folios": layout.has_large_folios,
                        "fixed_target": layout.fixed_target,
                        "n_targets": layout.n_targets,
                        "n_extents": len(pages.extent_pfn_start),
                    }
                ),
                "section_nid": device.upload(np.ascontiguousarray(pages.section_nid, dtype=np.int32)),
                "pfn_start": device.upload(pages.extent_pfn_start),
                "pfn_end": device.upload(pages.extent_pfn_end),
                "flat_offset": device.upload(pages.extent_flat_offset),
                "node_flags": device.upload(layout.node_flags),
                **self.scratch.given,
            }

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the lock, with the device current.

        Who leaves by an error waits for what was begun: it works on arrays of the caller, and on memory that
        the next call writes to.

        Raises:
            ArgumentError: the store was closed.
            RunFailedError: the memory of the records is gone.
        """
        with self._lock, self.device.working():
            if not self._is_open:
                raise closed()
            if self._host_records is not None:
                self._host_records.check()
            try:
                yield
            except BaseException:  # KeyboardInterrupt too
                with suppress(Exception):  # a broken device: what is raised already says so
                    self.device.wait()
                raise

    def node_mask(self, mask: NDArray[np.uint8] | None) -> Any:
        """Return which nodes are looked at, device uint8[1024], for launches that follow at once.

        Kept from call to call: an upload waits for the device.
        """
        if mask is None:
            return self._all_nodes
        content = mask.tobytes()
        if content != self._last_mask:
            self.device.write(self._nodes_of_mask, mask)
            self._last_mask = content
        return self._nodes_of_mask

    def launch(self, kernel: str, n_threads: int, **given: Any) -> None:
        """Launch a kernel with at least ``n_threads`` threads.

        Args:
            kernel: one of :data:`gpuscan.kernels.cuda.launches.PARAMETERS`.
            n_threads: is rounded up to whole blocks.
            given: its parameters by name, but for what the store has itself.
        """
        launch = self._launches.get(kernel)
        if launch is None:
            launch = self._launches[kernel] = Launch(kernel, self.own)
        args = launch.arguments(given)
        self._find(kernel)((max(1, -(-n_threads // THREADS)),), (THREADS,), args)

    def request(
        self, pfns: NDArray[np.int64], nids: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Ask for pages to be moved."""
        return self._produce("request", pfns, nids, False, {}, outcomes)

    def record(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        params: RecordParams,
        outcomes: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        """Count accesses."""
        fmt = self.layout.fmt
        decides = {
            "now": fmt.time_of(params.now_jiffies),
            "window": fmt.window_units(params.window_jiffies),
            "threshold": params.threshold,
            "drop_top_tier": params.drop_top_tier,
        }
        return self._produce("record", pfns, nids, params.drop_top_tier, decides, outcomes)

    def _produce(
        self,
        name: str,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        drop_top_tier: bool,
        decides: dict[str, int],
        outcomes: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        are_there = is_on_gpu(pfns) or is_on_gpu(nids)
        if are_there:
            pfns, nids, outcomes = self._adopted(name, (pfns, nids), outcomes)
        else:
            pfns, nids, outcomes = self._door.arrays(name, pfns, nids, outcomes)
        with self.working():
            return self._producing.run(
                name, pfns, nids, outcomes, drop_top_tier, decides, are_there=are_there
            )

    def _adopted(self, name: str, given: tuple[Any, Any], outcomes: NDArray[np.uint8]) -> list[Any]:
        *items, its_outcomes = OPERATIONS[name]
        taken = adopted(self.device, name, items, given, self.layout.fmt.dtype)
        return [*taken, *check_arrays(name, (its_outcomes,), (outcomes,), {"n": len(taken[0])})]

    def _counted(self, counts: Any, ended: Any, outcomes: NDArray[np.uint8]) -> NDArray[np.int64]:
        if len(outcomes):
            outcomes[:] = self.device.fetch(ended)
        return self.device.fetch(counts).astype(np.int64)

    def count_keys(
        self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None
    ) -> CudaKeyCounts:
        """Count the READY base pages of a range by target and hotness key."""
        lo, hi, node_mask = self._door.ranking(budget, lo, hi, node_mask)
        with self.working():
            return CudaKeyCounts(self, budget, lo, hi, node_mask)

    def rank(self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None) -> Cutoffs:
        """Find the cut-offs that spend a budget on the hottest pages of a range."""
        lo, hi, node_mask = self._door.ranking(budget, lo, hi, node_mask)
        with self.working():
            return rank(self, budget, lo, hi, node_mask)

    def scan(self, request: ScanRequest) -> RawPlan:
        """Claim the READY pages of a range and group them by target."""
        self._check_scan(request)
        return self._by_index(request, lambda each: Scan(self, each).run())

    def scan_on_device(self, request: ScanRequest) -> DevicePlan:
        """Do :meth:`scan`, and leave the plan on the device."""
        self._check_scan(request)
        return self._by_index(request, lambda each: Scan(self, each).run_on_device())

    def _by_index(self, request: ScanRequest, scan: Callable[[ScanRequest], _P]) -> _P:
        return scan(request) if self._host_records is None else scan_by_index(request, scan)

    def _check_scan(self, request: ScanRequest) -> None:
        self._door.scan(request)
        cuts = request.cuts
        if cuts is not None and len(cuts.chunk_edges) != 2:
            raise ArgumentError(
                f"scan: the cut-offs have {len(cuts.chunk_edges) - 1} chunks, a GPU takes those of its own, "
                "which have one; rank with this store"
            )

    def section_pfn(self) -> Any:
        """Return the PFN at which each section begins, device int64[n_sections]. Called while working."""
        if self._section_pfn is None:
            self._section_pfn = self.device.upload(self.layout.page_map.section_pfn)
        return self._section_pfn

    def release(
        self, flats: NDArray[np.int64], words: NDArray[Any], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Put claimed pages back. What of arrays on the device is no claim counts as INELIGIBLE."""
        are_there = is_on_gpu(flats) or is_on_gpu(words)
        if are_there:
            flats, words, outcomes = self._adopted("release", (flats, words), outcomes)
        else:
            flats, words, outcomes = self._door.arrays("release", flats, words, outcomes)
        with self.working():
            if len(flats) == 0:
                return np.zeros(N_RELEASE_OUTCOMES, dtype=np.int64)
            ended = self.device.empty(len(outcomes), np.uint8)
            counts = self.device.zeros(N_RELEASE_OUTCOMES, np.uint64)
            self.launch(
                "release",
                len(flats),
                flats=flats if are_there else self.device.upload(flats),
                words=words if are_there else self.device.upload(words),
                n_pages=self.layout.n_pages,
                n_items=len(flats),
                outcomes=ended,
                wants_outcomes=len(outcomes) > 0,
                counts=counts,
            )
            return self._counted(counts, ended, outcomes)

    def discard(self, flats: NDArray[np.int64]) -> int:
        """Zero the records of pages that were freed; return how many were READY."""
        (flats,) = self._door.arrays("discard", flats)
        with self.working():
            n_ready = self.device.zeros(1, np.uint64)
            on_device = self.device.upload(flats)
            self.launch("discard", len(flats), flats=on_device, n_items=len(flats), n_ready=n_ready)
            return int(self.device.fetch(n_ready)[0])

    def set_eligible(self, flats: NDArray[np.int64], eligible: bool) -> None:
        """Set or clear the eligible bit of pages."""
        (flats,) = self._door.arrays("set_eligible", flats)
        eligible = flag("set_eligible: eligible", eligible)
        with self.working():
            self.launch(
                "set_eligible",
                len(flats),
                flats=self.device.upload(flats),
                n_items=len(flats),
                eligible=eligible,
            )

    def set_order(self, flats: NDArray[np.int64], order: int) -> None:
        """Make pages folios of ``order``."""
        heads = self._door.order(flats, order)
        with self.working():
            if not self.layout.has_large_folios:
                return
            self.launch(
                "set_order",
                len(heads) << order,
                flats=self.device.upload(heads),
                n_items=len(heads),
                new_order=order,
            )

    def count_ready(self) -> int:
        """Return how many records are READY; where they are on the host, of those that the bits name."""
        with self.working():
            n_ready = self.device.zeros(1, np.uint64)
            n_pages = self.layout.n_pages
            if self._host_records is None:
                n_threads = _counting_threads(n_pages * self.layout.fmt.n_bytes // _LOAD_BYTES)
                self.launch("count_ready", n_threads, n_pages=n_pages, n_ready=n_ready)
            else:
                n_threads = _counting_threads(32 * n_pages // SECTION_PAGES)
                self.launch("count_ready_by_index", n_threads, n_pages=n_pages, n_ready=n_ready)
            return int(self.device.fetch(n_ready)[0])

    def count_index(self) -> tuple[int, int]:
        """Return how many ready bits and block bits are set."""
        with self.working():
            counts = []
            for bitmap in (self.arrays.ready_bits, self.arrays.block_bits):
                n_set, n_words = self.device.zeros(1, np.uint64), len(bitmap)
                n_threads = _counting_threads(n_words)
                self.launch("count_bits", n_threads, bitmap=bitmap, n_words=n_words, n_set=n_set)
                counts.append(int(self.device.fetch(n_set)[0]))
            return counts[0], counts[1]

    def take_active(self) -> NDArray[np.uint8]:
        """Return which nodes were activated since the last call."""
        with self.working():
            taken = self.device.empty(N_NODES_MAX, np.uint8)
            self.launch("take_active", N_NODES_MAX // 4, taken=taken)
            return self.device.fetch(taken)

    def dump(self) -> StoreArrays:
        """Return copies of all arrays in host memory."""
        with self.working():
            self.device.wait()
            return self.arrays.map(self._copy)

    def _copy(self, array: Any) -> NDArray[Any]:
        here = self._here(array)
        return self.device.fetch(array) if here is None else here.copy()

    def load(self, arrays: StoreArrays) -> None:
        """Overwrite arrays."""
        with self.working():
            self.device.wait()
            for own, given in self._door.to_load(self.arrays, arrays):
                here = self._here(own)
                if here is None:
                    self.device.write(own, given)
                else:
                    here[:] = given

    def _here(self, array: Any) -> NDArray[Any] | None:
        """Return an array of the store as the host has it, if that is where it is."""
        if self._host_records is None:
            return None
        if array is self.arrays.records:
            return self._host_records.records
        return self._host_records.folio_order if array is self.arrays.folio_order else None

    def close(self) -> None:
        """Let go of the arrays."""
        with self._lock, self.device.working():
            if not self._is_open:
                return
            if self._host_records is not None:
                self._host_records.close()  # waits, so before anything that kernels may still use goes
            self._is_open = False
            self.own = {}
            self._launches.clear()
            self.arrays = self.arrays.map(lambda array: self.device.empty(0, array.dtype))
            self.host_buffers = HostBuffers(self.device, self.layout.fmt.dtype)
            self.stages = Stages(self.device, self.layout.fmt.dtype)
            del self.scratch, self.cuts, self._producing
            del self._all_nodes, self._nodes_of_mask, self._section_pfn


class HostBuffers:
    """Idle plan arrays in pinned host memory: two, so that one plan is fetched while another is in use.

    ``deque`` operations are atomic, so no lock is needed.
    """

    def __init__(self, device: Device, record_dtype: np.dtype[Any]) -> None:
        self._device = device
        self._record_dtype = record_dtype
        self._idle: deque[tuple[NDArray[np.int64], NDArray[Any]]] = deque(maxlen=2)

    def take(self, n_folios: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return flat and word arrays of at least ``n_folios``."""
        try:
            flats, words = self._idle.pop()
        except IndexError:
            pass
        else:
            if len(flats) >= n_folios:
                return flats, words
        room = n_folios + n_folios // 8
        return self._device.host_empty(room, np.int64), self._device.host_empty(room, self._record_dtype)

    def give(self, flats: NDArray[np.int64], words: NDArray[Any]) -> None:
        """Take plan arrays back."""
        self._idle.append((flats, words))


def _counting_threads(n_reads: int) -> int:
    return min(n_reads, _COUNTING_BLOCKS * THREADS)


def _allocate(layout: StoreLayout, device: Device, host_records: HostRecords | None) -> StoreArrays:
    if host_records is not None:
        return StoreArrays.zeroed(layout, device.zeros, host_records.there)
    _check_room(layout, device, layout.n_bytes)
    return StoreArrays.zeroed(layout, device.zeros)


def _check_room(layout: StoreLayout, device: Device, store_bytes: int) -> None:
    """Refuse a store of which ``store_bytes`` are on the device, where they do not fit.

    Raises:
        DeviceError: they do not.
    """
    needed = store_bytes + scratch_bytes(layout) + WORKING_BYTES
    available = device.free_bytes()
    if needed <= available:
        return
    what = f"the records of {layout.n_pages} pages in format {layout.fmt.name} need"
    less = "simulate less, use the format pghot-compact, have the index alone there (residency index)"
    if store_bytes < layout.n_bytes:
        what, less = f"the index of {layout.n_pages} pages needs", "simulate less"
    raise DeviceError(
        f"{what} {format_bytes(needed)} on the device, at most {format_bytes(available)} are free; {less}, "
        "or use --device cpu"
    )
