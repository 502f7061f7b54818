"""The CPU backend: a store's arrays in host memory, Numba kernels, and the threads that run them."""

from __future__ import annotations

import os
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import flag, whole
from gpuscan.base.errors import DeviceError, InputError
from gpuscan.base.memory import available_bytes
from gpuscan.base.units import format_bytes
from gpuscan.kernels.api import (
    N_OUTCOMES,
    N_RELEASE_OUTCOMES,
    Budget,
    Cutoffs,
    RawPlan,
    RecordParams,
    ScanRequest,
    StoreArrays,
    StoreLayout,
)
from gpuscan.kernels.budgets import cut_budget
from gpuscan.kernels.cpu.arguments import Machine, Store, machine_of, store_of
from gpuscan.kernels.cpu.batches import PARALLEL_FROM_ITEMS, Batch, batches_of, load_ordering
from gpuscan.kernels.cpu.bitmaps import (
    count_ready,
    count_ready_by_index,
    count_set_bits,
    discard,
    set_eligible,
    take_active,
)
from gpuscan.kernels.cpu.budget import CpuKeyCounts, count_keys
from gpuscan.kernels.cpu.buffers import Buffers
from gpuscan.kernels.cpu.compile import Kernel
from gpuscan.kernels.cpu.loading import load_scan_kernels
from gpuscan.kernels.cpu.record import record
from gpuscan.kernels.cpu.release import release
from gpuscan.kernels.cpu.request import request
from gpuscan.kernels.cpu.scan import Scan
from gpuscan.kernels.cpu.workers import Workers
from gpuscan.kernels.registry import THREADS_MAX
from gpuscan.kernels.residency import MakeRecordMemory, RecordMemory, scan_by_index
from gpuscan.kernels.signatures import Door, closed
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import WORD_PAGES

_LINE_BYTES = 64


class CpuBackend:
    """Stores in host memory, worked on by Numba kernels.

    Args:
        n_threads: threads a call may use, the caller's included; by default as many
            CPUs as this process may run on.

    Raises:
        InputError: ``n_threads`` is below 1.
    """

    name = "cpu"

    def __init__(self, n_threads: int | None = None) -> None:
        if n_threads is not None:
            n_threads = whole("n_threads", n_threads, 1, THREADS_MAX)
        self.workers = Workers(n_threads or len(os.sched_getaffinity(0)))

    def describe(self) -> str:
        """Return one line: threads and the CPU that Numba compiles for."""
        from llvmlite import binding

        n_threads = self.workers.n_threads
        return f"Numba kernels for {binding.get_host_cpu_name()}, {n_threads} thread{'s' * (n_threads > 1)}"

    def open(self, layout: StoreLayout) -> CpuKernels:
        """Allocate an empty store, and load what scans need: a first scan takes no longer than others.

        Raises:
            DeviceError: not enough memory.
        """
        arrays = allocate(layout)
        self._load(layout)
        return CpuKernels(layout, arrays, self.workers)

    def open_index(self, layout: StoreLayout, make: MakeRecordMemory | None) -> CpuKernels:
        """Do :meth:`open` with records in memory that ``make`` makes, a mapped file.

        Raises:
            DeviceError: not enough memory for the index, or no room for the records; nothing was allocated.
            InputError: there is no ``make``: memory is where the records would be anyway.
        """
        if make is None:
            raise InputError(
                "on the CPU the index is in memory and the records are in a file; say in which directory "
                "that shall be (records_dir, --records-dir)"
            )
        arrays, memory = allocate_index(layout, make)
        try:
            self._load(layout)
            return CpuKernels(layout, arrays, self.workers, memory)
        except BaseException:
            memory.close()
            raise

    def _load(self, layout: StoreLayout) -> None:
        load_scan_kernels(layout.fmt, lambda small: CpuKernels(small, allocate(small), self.workers))


class CpuKernels:
    """The operations on one store in host memory; see :class:`gpuscan.kernels.api.Kernels`.

    Args:
        layout: of the store.
        arrays: of it, all in this process's memory.
        workers: threads that work on it.
        record_memory: where its records are, if that is no plain memory; closed with the store.
    """

    def __init__(
        self,
        layout: StoreLayout,
        arrays: StoreArrays,
        workers: Workers,
        record_memory: RecordMemory | None = None,
    ) -> None:
        self.layout = layout
        self._arrays = arrays
        self._record_memory = record_memory
        self._door = Door(layout)
        self._workers = workers
        self._machine: Machine = machine_of(layout)
        self._store: Store | None = store_of(layout, arrays)
        self._buffers = self._empty_buffers(
            4 * layout.n_pages if record_memory is None else layout.index_bytes
        )

    def _empty_buffers(self, memory_bytes: int) -> Buffers:
        return Buffers(memory_bytes, self.layout.n_targets, self.layout.fmt.nid.max)

    @property
    def arrays(self) -> StoreArrays:
        """The arrays, empty once the store is closed.

        Raises:
            RunFailedError: the memory of the records is gone.
        """
        if self._store is not None:
            self._refuse_if_gone()
        return self._arrays

    @property
    def store(self) -> Store:
        """The arrays as kernels take them.

        Raises:
            ArgumentError: the store was closed. Kernels check no index, so this must.
            RunFailedError: the memory of the records is gone.
        """
        self._refuse_if_gone()
        return cast(Store, self._store)

    def _refuse_if_gone(self) -> None:
        if self._store is None:
            raise closed()
        if self._record_memory is not None:
            self._record_memory.check()

    def _compiled(self, kernel: Kernel) -> Any:
        return kernel.for_bits(self.layout.fmt.bits)

    def request(
        self, pfns: NDArray[np.int64], nids: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Ask for pages to be moved."""
        return self._produce(request, pfns, nids, (), outcomes)

    def record(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        params: RecordParams,
        outcomes: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        """Count accesses."""
        fmt = self.layout.fmt
        now, window = fmt.time_of(params.now_jiffies), fmt.window_units(params.window_jiffies)
        return self._produce(
            record, pfns, nids, (now, window, params.threshold, params.drop_top_tier), outcomes
        )

    def _produce(
        self,
        kernel: Kernel,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        params: tuple[int, ...],
        outcomes: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        pfns, nids, outcomes = self._door.arrays(kernel.__name__, pfns, nids, outcomes)
        compiled, store, machine = self._compiled(kernel), self.store, self._machine
        total = np.zeros(N_OUTCOMES, dtype=np.int64)
        if not len(pfns):  # how callers have everything loaded, or compiled, before it matters
            load_ordering(store, machine, self.layout)
        for batch in batches_of(pfns, nids, store, machine, self.layout, self._workers, self._buffers):
            counts = np.zeros((len(batch.parts), N_OUTCOMES), dtype=np.int64)

            def produce(part: int, batch: Batch = batch, counts: NDArray[np.int64] = counts) -> None:
                begin, end = batch.parts[part]
                span = batch.span
                compiled(
                    store,
                    machine,
                    pfns[span],
                    nids[span],
                    *batch.order_and_scratch(),
                    batch.order is not None,
                    batch.index_bits,
                    begin,
                    end,
                    *params,
                    outcomes[span],
                    counts[part],
                )

            self._workers.run(len(batch.parts), produce)
            total += counts.sum(axis=0)
        return total

    def count_keys(
        self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None
    ) -> CpuKeyCounts:
        """Count the READY base pages of a range by target and hotness key."""
        lo, hi, node_mask = self._door.ranking(budget, lo, hi, node_mask)
        return count_keys(
            self.store, self.layout.fmt, self.layout.n_targets, budget, lo, hi, node_mask, self._workers
        )

    def rank(self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None) -> Cutoffs:
        """Find the cut-offs that spend a budget on the hottest pages of a range."""
        return cut_budget(self.count_keys(budget, lo, hi, node_mask), budget)

    def scan(self, request: ScanRequest) -> RawPlan:
        """Claim the READY pages of a range and group them by target."""
        self._door.scan(request)
        return self._scan(request) if self._record_memory is None else scan_by_index(request, self._scan)

    def _scan(self, request: ScanRequest) -> RawPlan:
        layout = self.layout
        return Scan(self.store, layout.fmt, layout.n_targets, request, self._workers, self._buffers).run()

    def release(
        self, flats: NDArray[np.int64], words: NDArray[Any], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Put claimed pages back."""
        flats, words, outcomes = self._door.arrays("release", flats, words, outcomes)
        n_parts = 1 if len(flats) < PARALLEL_FROM_ITEMS else self._workers.n_threads
        counts = np.zeros((n_parts, N_RELEASE_OUTCOMES), dtype=np.int64)
        compiled, store = self._compiled(release), self.store

        def put_back(part: int) -> None:
            lo, hi = len(flats) * part // n_parts, len(flats) * (part + 1) // n_parts
            compiled(store, flats, words, lo, hi, outcomes, counts[part])

        self._workers.run(n_parts, put_back)
        total: NDArray[np.int64] = counts.sum(axis=0)
        return total

    def discard(self, flats: NDArray[np.int64]) -> int:
        """Zero the records of pages that were freed; return how many were READY."""
        (flats,) = self._door.arrays("discard", flats)
        return int(self._compiled(discard)(self.store, flats))

    def set_eligible(self, flats: NDArray[np.int64], eligible: bool) -> None:
        """Set or clear the eligible bit of pages."""
        (flats,) = self._door.arrays("set_eligible", flats)
        self._compiled(set_eligible)(
            self.store.eligible_bits, flats, flag("set_eligible: eligible", eligible)
        )

    def set_order(self, flats: NDArray[np.int64], order: int) -> None:
        """Make pages folios of ``order``."""
        heads = self._door.order(flats, order)
        if self.layout.has_large_folios:
            self.store.folio_order.reshape(-1, 1 << order)[heads >> order] = order

    def count_ready(self) -> int:
        """Return how many records are READY; where they are not in memory, of those that the bits name."""
        compiled = self._compiled(count_ready if self._record_memory is None else count_ready_by_index)
        n_words = self.layout.n_pages // WORD_PAGES
        n_parts = self._workers.n_threads
        edges = [n_words * part // n_parts * WORD_PAGES for part in range(n_parts + 1)]
        counts = [0] * n_parts
        store = self.store

        def count(part: int) -> None:
            counts[part] = compiled(store, edges[part], edges[part + 1])

        self._workers.run(n_parts, count)
        return sum(counts)

    def count_index(self) -> tuple[int, int]:
        """Return how many ready bits and block bits are set."""
        compiled = self._compiled(count_set_bits)
        return int(compiled(self.store.ready_bits)), int(compiled(self.store.block_bits))

    def take_active(self) -> NDArray[np.uint8]:
        """Return which nodes were activated since the last call."""
        taken = np.zeros(N_NODES_MAX, dtype=np.uint8)
        self._compiled(take_active)(self.store.node_active, taken)
        return taken

    def dump(self) -> StoreArrays:
        """Return copies of all arrays."""
        self._refuse_if_gone()
        return self._arrays.map(np.copy)

    def load(self, arrays: StoreArrays) -> None:
        """Overwrite arrays."""
        self._refuse_if_gone()
        for own, given in self._door.to_load(self._arrays, arrays):
            own[:] = given

    def close(self) -> None:
        """Let go of the arrays."""
        self._store = None
        self._arrays = self._arrays.map(lambda array: array[:0].copy())
        self._buffers = self._empty_buffers(0)
        if self._record_memory is not None:
            self._record_memory.close()


def allocate(layout: StoreLayout) -> StoreArrays:
    """Return the zeroed arrays of an empty store.

    Raises:
        DeviceError: not enough memory.
    """
    available = available_bytes()
    if layout.n_bytes > available:
        raise _too_large(layout, available)
    try:
        return StoreArrays.zeroed(layout, _zeros)
    except MemoryError:
        raise _too_large(layout, available) from None


def allocate_index(layout: StoreLayout, make: MakeRecordMemory) -> tuple[StoreArrays, RecordMemory]:
    """Return the arrays of an empty store whose records are in other memory, and that.

    Raises:
        DeviceError: not enough memory for the index, or what ``make`` raises; nothing was allocated.
    """
    available = available_bytes()
    if layout.index_bytes > available:
        raise _too_large_an_index(layout, available)
    memory = make(layout.record_bytes)
    try:
        return StoreArrays.zeroed(layout, _zeros, memory.array), memory
    except BaseException as error:
        memory.close()
        if isinstance(error, MemoryError):
            raise _too_large_an_index(layout, available) from None
        raise


def _zeros(length: int, dtype: Any) -> NDArray[Any]:
    """Return zeros that begin a cache line, so that the 8 ready words of a block are one line."""
    n_bytes = length * np.dtype(dtype).itemsize
    room = np.zeros(n_bytes + _LINE_BYTES, dtype=np.uint8)
    start = -room.ctypes.data % _LINE_BYTES
    return room[start : start + n_bytes].view(dtype)


def _too_large(layout: StoreLayout, available: int) -> DeviceError:
    needed = format_bytes(layout.n_bytes)
    return DeviceError(
        f"the records of {layout.n_pages} pages in format {layout.fmt.name} need {needed}, "
        f"{format_bytes(available)} of memory are available; simulate less or use the format pghot-compact"
    )


def _too_large_an_index(layout: StoreLayout, available: int) -> DeviceError:
    needed = format_bytes(layout.index_bytes)
    return DeviceError(
        f"the index of {layout.n_pages} pages needs {needed}, {format_bytes(available)} of memory are "
        "available; simulate less"
    )
