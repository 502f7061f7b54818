"""A store and where its candidates lie, as the kernels meet them: stretches, sections, tiles, sectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gpuscan.kernels.cuda.stretches import n_stretches_of, weights_of
from gpuscan.records.formats import RecordFormat, record_format
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES

Clustering = Literal["uniform", "hot"]
Path = Literal["dense", "indexed"]
SECTOR_BYTES = 32


@dataclass(frozen=True, slots=True)
class Filled:
    """A store with candidates.

    Attributes:
        n_pages: whole sections.
        format_name: of its records.
        density: share of candidates, 0 to 1.
        clustering: ``uniform``, each page by itself; or ``hot``, all in one region.
        n_targets: that they go to, evenly.
    """

    n_pages: int
    format_name: str
    density: float
    clustering: Clustering = "uniform"
    n_targets: int = 16

    @property
    def fmt(self) -> RecordFormat:
        """The record format."""
        return record_format(self.format_name)

    @property
    def n_candidates(self) -> float:
        """All of them."""
        return self.n_pages * self.density

    @property
    def n_sections(self) -> int:
        """All of them."""
        return self.n_pages // SECTION_PAGES

    def n_hit(self, unit_pages: float) -> float:
        """Return how many units of so many pages have a candidate."""
        n_units = self.n_pages / unit_pages
        if self.clustering == "hot":
            return min(n_units, max(self.n_candidates / unit_pages, min(1.0, self.n_candidates)))
        return n_units * share_hit(self.density, unit_pages)

    @property
    def n_set(self) -> float:
        """Blocks with candidates."""
        return self.n_hit(BLOCK_PAGES)


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many stretches, a warp each, of so many pages, blocks with candidates, and candidates."""

    n_warps: float
    n_pages: float
    n_set: float
    n_candidates: float


def share_hit(density: float, unit_pages: float) -> float:
    """Return the share of units that have a candidate, where these lie independently."""
    return -math.expm1(unit_pages * math.log1p(-density)) if density < 1 else 1.0


def stretches_of(filled: Filled, path: Path) -> tuple[Stretch, ...]:
    """Return what the range is cut into: stretches of the same weight, as ``cut_stretches`` has them."""
    n = n_stretches_of(0, filled.n_pages)
    n_set, n_candidates = filled.n_set, filled.n_candidates
    n_blocks = filled.n_pages // BLOCK_PAGES
    if filled.clustering == "uniform" or n_set in (0, n_blocks):
        return (Stretch(n, filled.n_pages / n, n_set / n, n_candidates / n),)
    weights = weights_of(path, filled.fmt, round(n_candidates), round(n_set), n_blocks, n)

    def weight(candidates: float, blocks_set: float, blocks: float) -> float:
        each = weights["of_wanted"] + weights["of_block"]
        return weights["of_candidate"] * candidates + weights["of_set"] * blocks_set + each * blocks

    hot, whole = weight(n_candidates, n_set, n_set), weight(n_candidates, n_set, n_blocks)
    # A block is not cut, so no more warps than blocks have candidates.
    n_hot = min(max(1.0, n * hot / whole), n_set, n - 1)
    hot_pages = n_set * BLOCK_PAGES
    return (
        Stretch(n_hot, hot_pages / n_hot, n_set / n_hot, n_candidates / n_hot),
        Stretch(n - n_hot, (filled.n_pages - hot_pages) / (n - n_hot), 0, 0),
    )
