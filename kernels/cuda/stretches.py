"""How a range is cut: sections into cells that are counted, and stretches of what takes the same to walk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gpuscan.records.formats import RecordFormat
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES

STRETCHES = 8192
"""Stretches a range is cut into at most: 62 warps for each of an H100's 132 SMs. Its registers hold 48 of
the dense scan at a time and 32 of the indexed one, so this is to be tuned where there is a GPU. A scan's
last blocks sum up WARPS * ROW_CHUNKS**2 (``source.py``), and no more."""
STRETCH_PAGES = 4096
"""Pages of a stretch at least, on average."""
_WALKERS = 8192
"""Warps that count, at most."""
_WALKER_SECTIONS = 2
"""Sections each of them has at least, on average."""
_CELLS = 4096
"""Cells that a range is cut into, at most where they are not the largest: four rounds to sum up."""
_MIN_CELL_SHIFT = 3
"""A cell has 2^3 sections at least: one look for those who search it."""
_MAX_CELL_SHIFT = 11
"""A cell has up to 2^11 sections: what the tallies of counts.cuh hold."""
_TILE_BYTES = 2048
"""What a warp of the dense scan reads at a time."""
_CLAIM = 125 + 63
"""Instructions of 32 claims on sm_90, and of scattering them."""
_LONGEST_BLOCKS = 1 << 22
"""Blocks of a stretch, roughly at most: offsets in one are 32-bit, which is 2^23 blocks."""


@dataclass(frozen=True, slots=True)
class Cells:
    """How a range of pages is counted.

    Attributes:
        shift: sections of a cell, as a power of two.
        n_walkers: warps that count, a section in ``n_walkers`` each.
        n_sections: those that the range touches.
    """

    shift: int
    n_walkers: int
    n_sections: int


@lru_cache(maxsize=256)
def cells_of(lo: int, hi: int) -> Cells:
    """Return how ``[lo, hi)``, not empty, is counted; most scans are of the range of the one before."""
    n_sections = -(-hi // SECTION_PAGES) - lo // SECTION_PAGES
    shift = (-(-n_sections // _CELLS) - 1).bit_length()
    shift = min(_MAX_CELL_SHIFT, max(_MIN_CELL_SHIFT, shift))
    return Cells(shift, min(_WALKERS, -(-n_sections // _WALKER_SECTIONS)), n_sections)


def most_cells(n_sections: int) -> int:
    """Return how many cells a store of so many sections has at most, whatever range is counted."""
    return min(-(-n_sections >> _MIN_CELL_SHIFT), max(_CELLS, -(-n_sections >> _MAX_CELL_SHIFT)))


def n_stretches_of(lo: int, hi: int) -> int:
    """Return how many stretches ``[lo, hi)``, not empty, is cut into."""
    return min(STRETCHES, -(-(hi - lo) // STRETCH_PAGES))


def weights_of(
    path: str, fmt: RecordFormat, n_candidates: int, n_set: int, n_blocks: int, n_stretches: int
) -> dict[str, int]:
    """Return what walking each thing takes a warp, in instructions x 32 (docs/notes/cuda-machine-code.md).

    Args:
        path: ``dense`` or ``indexed``.
        fmt: the record format.
        n_candidates, n_set: those of the range, and its blocks that are set.
        n_blocks: all of its blocks.
        n_stretches: what it is cut into.
    """
    if path == "dense":
        weights = {
            "of_candidate": _CLAIM,
            "of_set": 32 * 119,
            "of_wanted": 32 * 88 * BLOCK_PAGES * fmt.n_bytes // _TILE_BYTES,
            "of_block": 0,
        }
    else:
        weights = {"of_candidate": _CLAIM + 10, "of_set": 208, "of_wanted": 0, "of_block": 2}
    # What is empty or not asked for must not become one stretch of more pages than its offsets tell apart.
    whole = (
        weights["of_candidate"] * n_candidates + weights["of_set"] * n_set + weights["of_wanted"] * n_blocks
    )
    weights["of_block"] = max(weights["of_block"], -(-whole // (n_stretches * _LONGEST_BLOCKS)))
    return weights
