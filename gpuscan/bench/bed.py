"""What is measured: a store of any size, filled with READY pages that lie as a case says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.kernels.api import Outcome, ScanPath, ScanRequest
from gpuscan.records.formats import N_NODES_MAX, record_format
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES
from gpuscan.store.single import Store
from gpuscan.topology import MemoryKind, Node, Topology, Watermarks, Zone
from gpuscan.topology.model import DISTANCE_LOCAL

Clustering = Literal["uniform", "runs", "hot"]
CLUSTERINGS: tuple[Clustering, ...] = ("uniform", "runs", "hot")
"""Where READY pages lie: anywhere; in aligned runs of 512; in one region that begins at an eighth."""

_DISTANCE_REMOTE = 20
_CHUNK_PAGES = 1 << 24
"""Pages that are filled at a time: bounds what the requests themselves take."""
_NO_OUTCOMES = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class StoreShape:
    """What a store is opened for: ``n_pages`` over ``n_targets`` equal nodes, all of them targets."""

    n_pages: int
    n_targets: int
    format_name: str
    device: str

    def __post_init__(self) -> None:
        fmt = record_format(self.format_name)
        if not fmt.has_nid and self.n_targets != 1:
            raise InputError(
                f"records of format {fmt.name} store no target, so {self.n_targets} targets cannot be "
                "measured; give 1"
            )
        if not 1 <= self.n_targets <= N_NODES_MAX:
            raise InputError(f"{self.n_targets} targets: give 1 to {N_NODES_MAX}")
        least = max(self.n_targets, 2) * SECTION_PAGES
        if self.n_pages < least or self.n_pages % SECTION_PAGES:
            section = format_bytes(SECTION_PAGES * PAGE_BYTES)
            raise InputError(
                f"{format_bytes(self.n_pages * PAGE_BYTES)} for {self.n_targets} targets: give a multiple of "
                f"{section}, at least {format_bytes(least * PAGE_BYTES)}"
            )


@dataclass(frozen=True, slots=True)
class Case:
    """One point of a benchmark: a store, and how many of its pages are READY where."""

    shape: StoreShape
    density: float
    clustering: Clustering
    seed: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.density <= 1.0:
            raise InputError(f"a density of {self.density} is not a share; give 0 to 1")


class Bed:
    """A store under measurement, every page eligible, nothing READY.

    Attributes:
        store: as a user would open it.
        records: the store's records, NumPy.
        first_touch_ns: what it took to write every array for the first time.
    """

    def __init__(self, shape: StoreShape, n_threads: int) -> None:
        self.shape = shape
        fmt = record_format(shape.format_name)
        self.store = Store(
            bench_topology(shape),
            shape.format_name,
            shape.device,
            fixed_target=None if fmt.has_nid else 0,
            n_threads=n_threads,
        )
        arrays = self.store.kernels.arrays
        if not isinstance(arrays.records, np.ndarray):
            raise InputError(
                f"device {self.store.backend.name} keeps its records elsewhere; use --device cpu"
            )
        started = time.perf_counter_ns()
        # Pages never written are all the same page of zeros, which no scan of a used store would meet.
        for array in (arrays.records, arrays.ready_bits, arrays.block_bits):
            array.fill(0)
        arrays.eligible_bits.fill(0xFFFF_FFFF_FFFF_FFFF)
        self.first_touch_ns = time.perf_counter_ns() - started
        self.records: NDArray[Any] = arrays.records

    def fill(self, case: Case) -> int:
        """Request the pages of a case, each to a random target that is not its node; return how many."""
        rng = np.random.default_rng(case.seed)
        n_ready = 0
        for flats in _positions(case, rng):
            counts = self.store.kernels.request(flats, self.targets(flats, rng), _NO_OUTCOMES)
            if int(counts[Outcome.ACCEPTED]) != len(flats):
                raise RunFailedError(
                    f"{int(counts[Outcome.ACCEPTED])} of {len(flats)} requests of a benchmark were accepted; "
                    "report it"
                )
            n_ready += len(flats)
        return n_ready

    def targets(self, flats: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int32]:
        """Return int32[n]: a random target for each page, never the node it is on."""
        n_targets = self.shape.n_targets
        if n_targets == 1:
            return np.zeros(len(flats), dtype=np.int32)
        own = self.store.page_map.nid_of_flat(flats)
        return (own + rng.integers(1, n_targets, len(flats), dtype=np.int32)) % n_targets

    def request(
        self, cursor: int, path: ScanPath, capacity: int | None = None, end: int | None = None
    ) -> ScanRequest:
        """Return a scan from ``cursor`` to ``end``, by default of all pages and the store's own capacity."""
        end = self.store.n_pages if end is None else end
        return ScanRequest(cursor, end, capacity or self.store.default_capacity, path)

    def empty(self, path: ScanPath = "auto") -> None:
        """Claim whatever is READY, by one path, and forget it."""
        cursor = 0
        while cursor < self.store.n_pages:
            plan = self.store.kernels.scan(self.request(cursor, path))
            cursor = plan.cursor
            plan.recycle()

    def close(self) -> None:
        """Free the store."""
        self.store.close()
        self.records = self.records[:0].copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def bench_topology(shape: StoreShape) -> Topology:
    """Return equal DRAM nodes in PFN order without holes, so that flat = PFN.

    With a single target there is a second node, which has all of the pages but one section.
    """
    n_sections, n_nodes = shape.n_pages // SECTION_PAGES, max(shape.n_targets, 2)
    edges = [n_sections * nid // n_nodes * SECTION_PAGES for nid in range(n_nodes + 1)]
    if shape.n_targets == 1:
        edges[1] = SECTION_PAGES
    nodes = []
    for nid in range(n_nodes):
        n_pages = edges[nid + 1] - edges[nid]
        zone = Zone("Normal", ((edges[nid], edges[nid + 1]),), n_pages, Watermarks(0, 0, 0, 0))
        nodes.append(Node(nid, MemoryKind.DRAM, 0, (nid,), (zone,)))
    distance = np.full((n_nodes, n_nodes), _DISTANCE_REMOTE, dtype=np.uint8)
    np.fill_diagonal(distance, DISTANCE_LOCAL)
    return Topology("bench", tuple(nodes), distance)


def _positions(case: Case, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the READY pages of a case, ascending, a bounded number at a time."""
    n_pages = case.shape.n_pages
    # With one target its own section cannot be asked for.
    first = SECTION_PAGES if case.shape.n_targets == 1 else 0
    hot_lo = max(first, n_pages // 8)
    hot_hi = min(n_pages, hot_lo + round(n_pages * case.density))
    for lo in range(first, n_pages, _CHUNK_PAGES):
        hi = min(lo + _CHUNK_PAGES, n_pages)
        if case.clustering == "hot":
            flats = np.arange(max(lo, hot_lo), min(hi, hot_hi), dtype=np.int64)
        elif case.clustering == "runs":
            blocks = _sample((hi - lo) // BLOCK_PAGES, case.density, rng)
            flats = (lo + blocks[:, None] * BLOCK_PAGES + np.arange(BLOCK_PAGES)).ravel()
        else:
            flats = lo + _sample(hi - lo, case.density, rng)
        if len(flats):
            yield flats


def _sample(n_items: int, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return which of ``n_items`` are taken, each with probability ``share``, ascending."""
    if share >= 1.0:
        return np.arange(n_items, dtype=np.int64)
    if share <= 0.0:
        return np.empty(0, dtype=np.int64)
    parts, end = [], -1
    while end < n_items:
        gaps = rng.geometric(share, int((n_items - end) * share * 1.01) + 16)
        parts.append(end + np.cumsum(gaps))
        end = int(parts[-1][-1])
    sampled: NDArray[np.int64] = np.concatenate(parts)
    return sampled[: np.searchsorted(sampled, n_items)]
