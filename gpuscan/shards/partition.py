"""Where the flat index is cut, and which shard has which page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.records.page_map import SECTION_PAGES, PageMap

_FEW_SHARDS = 8
"""Shards up to which items are picked once per shard instead of sorted by shard."""


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """The cuts.

    Attributes:
        section_edges: int64[n_shards + 1], flat sections.
        flat_edges: int64[n_shards + 1], flat pages.
        pfn_edges: int64[n_shards - 1], first PFN of every shard but the first.
    """

    section_edges: NDArray[np.int64]
    flat_edges: NDArray[np.int64]
    pfn_edges: NDArray[np.int64]

    @classmethod
    def even(cls, page_map: PageMap, n_shards: int) -> Partition:
        """Cut into ``n_shards`` parts as even as whole sections allow.

        Raises:
            InputError: fewer sections than shards.
        """
        n_sections = page_map.n_sections
        if not 1 <= n_shards <= n_sections:
            raise InputError(
                f"{n_sections} sections of 128 MiB cannot be cut into {n_shards} shards; "
                f"give 1 to {n_sections}"
            )
        return cls.at(page_map, n_sections * np.arange(n_shards + 1, dtype=np.int64) // n_shards)

    @classmethod
    def at(cls, page_map: PageMap, section_edges: NDArray[np.int64]) -> Partition:
        """Cut at the given flat sections, from 0 to the last."""
        flat_edges = section_edges * SECTION_PAGES
        extent_end = page_map.extent_pfn_end + page_map.extent_flat_offset
        # A section that two zones share is there once for each: such a cut is where the second one begins.
        extent = np.searchsorted(extent_end, flat_edges[1:-1], side="right")
        pfn_edges = np.maximum(
            page_map.extent_pfn_start[extent], flat_edges[1:-1] - page_map.extent_flat_offset[extent]
        )
        return cls(section_edges, flat_edges, pfn_edges)

    @property
    def n_shards(self) -> int:
        """How many."""
        return len(self.flat_edges) - 1

    def bounds(self, shard: int) -> tuple[int, int]:
        """Return the flat range of a shard."""
        lo, hi = self.flat_edges[shard : shard + 2].tolist()
        return lo, hi

    def by_pfn(self, pfns: NDArray[np.int64]) -> Sequence[NDArray[np.int64] | slice]:
        """Return for every shard which of ``pfns`` (int64[n]) are its, in the order they were in.

        A PFN in a hole, or outside the machine, is that of a shard nearby: it refuses it.
        """
        return _pick(pfns, self.pfn_edges)

    def by_flat(self, flats: NDArray[np.int64]) -> Sequence[NDArray[np.int64] | slice]:
        """Return for every shard which of ``flats`` (int64[n]) are its, in the order they were in."""
        return _pick(flats, self.flat_edges[1:-1])


def _pick(values: NDArray[np.int64], edges: NDArray[np.int64]) -> Sequence[NDArray[np.int64] | slice]:
    if not len(edges) or not len(values):
        return [slice(0, len(values)), *[slice(0, 0)] * len(edges)]
    lowest, highest = np.searchsorted(edges, (values.min(), values.max()), side="right").tolist()
    if lowest == highest:  # all to one shard: nothing is copied
        return [slice(0, len(values) if shard == lowest else 0) for shard in range(len(edges) + 1)]
    if bool((values[1:] >= values[:-1]).all()):
        cuts = [0, *np.searchsorted(values, edges).tolist(), len(values)]
        return [slice(lo, hi) for lo, hi in pairwise(cuts)]
    if len(edges) < _FEW_SHARDS:
        above = [values >= edge for edge in edges]
        between = (low & ~high for low, high in pairwise(above))
        inside = [~above[0], *between, above[-1]]
        return [np.flatnonzero(mine) for mine in inside]
    shard = np.searchsorted(edges, values, side="right").astype(np.uint16)
    order = np.argsort(shard, kind="stable")  # a radix sort for 16 bits
    ends = np.cumsum(np.bincount(shard, minlength=len(edges) + 1))
    return np.split(order, ends[:-1])
