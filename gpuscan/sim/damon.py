"""DAMON on a node's physical memory, with a scheme that migrates regions: samples, merges, splits, filters.

After mm/damon/core.c, mm/damon/paddr.c (Linux 6.11) and, for the filters by young pages, 6.12 and later. A
region's access is the accessed bit of one page of it, drawn anew for every sample: cleared now, looked at one
sampling interval later. After an aggregation interval neighbours with like counts become one region, the
scheme is applied to regions whose count and age fit, counts start over, and regions are split at random.

What is not here: quotas, watermarks, the operations update, and that mapping and unmapping take time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.sim.loops import remember_nid
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.observer import SeesAccesses
from gpuscan.sim.process import Process, Stretch

_NOT_ACCESSED = -1
_TENTH = 10
"""Counts that differ by a tenth of the largest are alike (kdamond_fn())."""


@dataclass(frozen=True, slots=True)
class DamonSpec:
    """How memory is watched.

    Attributes:
        sample_ns, aggregate_ns: sampling and aggregation interval; the second a multiple of the first.
        min_regions, max_regions: of a node.
    """

    sample_ns: int = 5_000_000
    aggregate_ns: int = 100_000_000
    min_regions: int = 10
    max_regions: int = 1000

    @property
    def n_samples(self) -> int:
        """Samples of an aggregation: the largest count that there is."""
        return self.aggregate_ns // self.sample_ns


@dataclass(frozen=True, slots=True)
class MigrateScheme:
    """Which regions are migrated (DAMOS_MIGRATE_HOT, DAMOS_MIGRATE_COLD).

    Attributes:
        target_nid: where to.
        low, high: counts of accesses that fit.
        min_age: aggregations for which the count has been alike, at least.
        only: pages of a region that move: those whose accessed bit is set, or is not; None: all. Whoever
            is asked loses the bit.
    """

    target_nid: int
    low: int
    high: int
    min_age: int
    only: Literal["young", "old"] | None


class AccessedPages(SeesAccesses):
    """The accessed bits of a machine's pages.

    Args:
        machine: whose.
    """

    def __init__(self, machine: SimulatedMachine) -> None:
        self._space = machine.space
        # All were written to when they were allocated.
        self._last_nid = np.zeros(machine.space.n_folios, dtype=np.int16)

    def accessed(
        self,
        process: Process,
        stretch: Stretch,
        first_access: int,
        folios: NDArray[np.int64],
        faulted: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.sim.observer.Observer`."""
        remember_nid(folios, process.first_folio, stretch.cpu_nid, self._last_nid)

    def take(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[n], which head frames hold a folio whose bit is set; and clear it."""
        folios = self._space.folios_at(frames)
        young: NDArray[np.bool_] = (folios >= 0) & (self._last_nid[np.maximum(folios, 0)] != _NOT_ACCESSED)
        self._last_nid[folios[young]] = _NOT_ACCESSED
        return young


class Kdamond:
    """One thread that watches a node and applies one scheme.

    Args:
        spec: how it watches.
        scheme: what it does.
        machine: whose memory.
        nid: the node.
        bits: accessed bits of the machine's pages.
        seed: of what is drawn.
    """

    def __init__(
        self,
        spec: DamonSpec,
        scheme: MigrateScheme,
        machine: SimulatedMachine,
        nid: int,
        bits: AccessedPages,
        seed: int,
    ) -> None:
        self._spec, self._scheme, self._bits, self._space = spec, scheme, bits, machine.space
        self._random = np.random.default_rng([seed, nid, 7])
        page_map = machine.page_map
        extents = zip(page_map.extent_nid.tolist(), page_map.extent_flat_ranges(), strict=True)
        ranges = [flats for extent_nid, flats in extents if extent_nid == nid]
        n_pages = sum(hi - lo for lo, hi in ranges)
        piece = -(-n_pages // spec.min_regions)
        starts, ends = [], []
        for lo, hi in ranges:
            edges = [*range(lo, hi, piece), hi]
            starts += edges[:-1]
            ends += edges[1:]
        self._start, self._end = np.array(starts), np.array(ends)
        self._size_max = piece
        self._count = np.zeros(len(starts), dtype=np.int64)
        self._last_count, self._age = self._count.copy(), self._count.copy()
        self._n_before = 0
        self._sampled = self._start
        self._draw()

    @property
    def n_regions(self) -> int:
        """Regions that there are now."""
        return len(self._start)

    def sample(self) -> None:
        """Look at the pages that were drawn a sampling interval ago, and draw others."""
        self._count += self._bits.take(self._sampled)
        self._draw()

    def aggregate(self) -> NDArray[np.int64]:
        """End an aggregation: merge, apply the scheme, start over, split.

        Returns:
            int64[n], head frames to migrate, ascending.
        """
        self._merge(int(self._count.max(initial=0)) // _TENTH)
        frames = self._matching()
        self._last_count = self._count.copy()
        self._count = np.zeros_like(self._count)
        self._split()
        self._draw()
        return frames

    def _draw(self) -> None:
        """Choose a page of each region, and clear its accessed bit."""
        self._sampled = self._random.integers(self._start, self._end)
        self._bits.take(self._sampled)

    def _merge(self, alike: int) -> None:
        """Age the regions, then make one of neighbours with like counts (damon_merge_regions_of())."""
        changed = np.abs(self._count - self._last_count) > alike
        ages = np.where(changed, 0, self._age + 1)
        merged: list[list[int]] = []
        columns = zip(*(each.tolist() for each in (self._start, self._end, self._count, ages)), strict=True)
        for start, end, count, age in columns:
            if merged:
                lo, hi, before, age_before = merged[-1]
                if hi == start and abs(before - count) <= alike and end - lo <= self._size_max:
                    ours, theirs = hi - lo, end - start
                    both = ours + theirs
                    merged[-1] = [
                        lo,
                        end,
                        (before * ours + count * theirs) // both,
                        (age_before * ours + age * theirs) // both,
                    ]
                    continue
            merged.append([start, end, count, age])
        self._start, self._end, self._count, self._age = np.array(merged, dtype=np.int64).T.copy()

    def _matching(self) -> NDArray[np.int64]:
        scheme = self._scheme
        fits = (self._count >= scheme.low) & (self._count <= scheme.high) & (self._age >= scheme.min_age)
        found = [np.empty(0, dtype=np.int64)]
        for start, end in zip(self._start[fits].tolist(), self._end[fits].tolist(), strict=True):
            frames = np.arange(start, end)
            frames = frames[self._space.folios_at(frames) >= 0]
            if scheme.only is not None:
                young = self._bits.take(frames)
                frames = frames[young if scheme.only == "young" else ~young]
            found.append(frames)
        self._age[fits] = 0  # damos_apply_scheme() starts the age over
        return np.concatenate(found)

    def _split(self) -> None:
        """Cut each region at random in two, or in three where that did not help (kdamond_split_regions())."""
        n_regions = self.n_regions
        if n_regions > self._spec.max_regions // 2:
            self._n_before = n_regions
            return
        n_parts = 3 if self._n_before == n_regions and n_regions < self._spec.max_regions // 3 else 2
        self._n_before = n_regions
        for _ in range(n_parts - 1):
            size = self._end - self._start
            # Between a tenth and nine tenths; what is too small for that stays whole.
            cut = self._start + size * self._random.integers(1, 10, len(size)) // 10
            whole = (cut <= self._start) | (cut >= self._end)
            order = np.argsort(np.concatenate((self._start, cut[~whole])), kind="stable")
            end = np.concatenate((np.where(whole, self._end, cut), self._end[~whole]))[order]
            self._start = np.concatenate((self._start, cut[~whole]))[order]
            self._end = end
            for name in ("_count", "_last_count", "_age"):
                each = getattr(self, name)
                setattr(self, name, np.concatenate((each, each[~whole]))[order])
