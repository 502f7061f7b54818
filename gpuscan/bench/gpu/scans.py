"""What the launches of a scan do: instructions from the machine code; waits and bytes from the sources.

What a launch before has just brought comes from the second-level cache, records and ready words from memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gpuscan.bench.gpu.assumptions import Assumptions
from gpuscan.bench.gpu.bounds import Crowd, Steps, Work
from gpuscan.bench.gpu.counts import WARPS_PER_BLOCK, KernelCounts
from gpuscan.bench.gpu.layouts import SECTOR_BYTES, Filled, Path, Stretch, share_hit, stretches_of
from gpuscan.kernels.cuda.source import EDGE_LANES
from gpuscan.kernels.cuda.stretches import cells_of
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES

TILE_BYTES = 2048
READY_BYTES = 64
"""Ready words of a block."""
PAGES_OF_ROWS = {512: 128, 2048: 512}
"""Pages that are claimed row by row at once (GS_ROWS_PAGES), by those of a tile."""
_ROWS_FROM = {512: 8, 2048: 9}
"""READY records of a lane from which on a tile is claimed so (GS_ROWS_FROM), likewise."""
_STAGED_OFFSET_BYTES, _PLAN_FLAT_BYTES = 4, 8
_CROWDED = 128
"""Candidates of a block from which on all lanes queue it (walk.cuh)."""
_LANES = 32
_CELLS_OF_THREAD, _ADDERS, _CLAIMS_AHEAD = 4, 8, 4
"""GS_CELLS_OF_THREAD, GS_ADDERS, GS_CLAIMS_AHEAD of the sources."""
Counts = dict[str, KernelCounts]


def scan_works(
    counts: Counts, filled: Filled, path: Path, assumed: Assumptions, *, budget: bool = False
) -> list[Work]:
    """Return the launches of a scan; where no block is set, the first is all (but on the dense path)."""
    works = [popcounts(counts, filled)]
    if filled.n_candidates == 0 and path == "indexed":
        return works
    claim = dense if path == "dense" else indexed
    return [
        *works,
        cut_stretches(counts, filled, path),
        claim(counts, filled, assumed, budget=budget),
        scatter(counts, filled, path),
    ]


def are_in_rows(density: float, tile_pages: int) -> bool:
    """Return whether half of the lanes have enough in a tile for its claims to be made row by row."""
    return round(tile_pages / _LANES * density) >= _ROWS_FROM[tile_pages]


def dense(counts: Counts, filled: Filled, assumed: Assumptions, *, budget: bool = False) -> Work:
    """The dense scan: every record is read; a tile's four loads are one wait for memory."""
    name = "scan_dense" + "_budget" * budget
    ways = counts[name].ways
    record_bytes = filled.fmt.n_bytes
    tile_pages = TILE_BYTES // record_bytes
    # A tile of records of one byte is queued in two halves, each where it has candidates.
    queued_pages = tile_pages // (2 if record_bytes == 1 else 1)

    def in_rows(density: float) -> bool:
        return "rows" in ways and are_in_rows(density, tile_pages)

    def steps(stretch: Stretch) -> Steps:
        parts = stretch.n_pages / SECTION_PAGES + 1  # an edge is seldom a section's
        density = min(1.0, stretch.n_candidates / stretch.n_pages)
        tiles = stretch.n_pages / tile_pages
        queued = stretch.n_pages / queued_pages * share_hit(density, queued_pages)
        # Edges, ends; then what is reported, and the block's counts before it says that it is done.
        walked = Steps(ways["once"], l2_waits=4, exchanges=2, fences=1)
        # The section's node, its mask, the block word, taken where blocks are set; a fence after each level.
        walked += Steps(ways["section"], l2_waits=3, exchanges=min(1.0, stretch.n_set), fences=2) * parts
        # Ready words under set blocks, 16 bytes a lane from the section's first on: the fence waits for them.
        clears = parts * READY_BYTES * SECTION_PAGES / BLOCK_PAGES / (16 * _LANES) if stretch.n_set else 0
        walked += Steps(ways["clears"]) * clears
        walked += Steps(ways["plain"], dram_waits=1) * tiles
        if in_rows(density):
            # Four words a lane are looked at, then exchanged.
            groups = stretch.n_pages / PAGES_OF_ROWS[tile_pages]
            return walked + Steps(ways["rows"], l2_waits=1, exchanges=1) * groups
        walked += Steps(ways["queued"]) * queued
        return walked + _claims(ways["claim"], stretch.n_candidates, filled, in_l2=True, budget=budget)

    crowds = tuple(Crowd(each.n_warps, steps(each)) for each in stretches_of(filled, "dense"))
    record_array = filled.n_pages * record_bytes
    claimed = filled.n_hit(SECTOR_BYTES / record_bytes) * SECTOR_BYTES  # looked at, and written
    index = filled.n_set * READY_BYTES
    # Of words of several records the lanes' places lie apart: a sector is written once for each of them.
    apart = 4 // record_bytes if in_rows(1.0 if filled.clustering == "hot" else filled.density) else 1
    return Work(
        name,
        counts[name],
        crowds,
        # Ready words are written whole, and not read.
        dram_bytes=record_array + claimed + index + filled.n_candidates * _staged_bytes(filled),
        l2_bytes=record_array + index + claimed + filled.n_candidates * _staged_bytes(filled) * apart,
        atomics=_n_exchanged(filled, assumed) + filled.n_sections,
        same_address=_same_address(filled, crowds, budget=budget),
        tail=_summed_up(counts[name], filled),
    )


def indexed(counts: Counts, filled: Filled, assumed: Assumptions, *, budget: bool = False) -> Work:
    """The indexed scan: eight exchanges a block are one wait for memory, a candidate's look is another.

    The records of a crowded block are brought at once, while it is queued.
    """
    name = "scan_indexed" + "_budget" * budget
    crowds = _walked(counts[name], filled, takes=True, visit=_claim_of(counts[name], filled, budget=budget))
    record_bytes = filled.fmt.n_bytes
    looked = filled.n_hit(assumed.random_bytes / record_bytes) * assumed.random_bytes
    claimed = filled.n_hit(SECTOR_BYTES / record_bytes) * SECTOR_BYTES
    index = filled.n_set * READY_BYTES
    return Work(
        name,
        counts[name],
        crowds,
        dram_bytes=looked + claimed + 2 * index + filled.n_candidates * _staged_bytes(filled),
        l2_bytes=claimed + filled.n_candidates * _staged_bytes(filled),
        atomics=_n_exchanged(filled, assumed) + 8 * filled.n_set + filled.n_hit(SECTION_PAGES),
        same_address=_same_address(filled, crowds, budget=budget),
        tail=_summed_up(counts[name], filled),
    )


def walk_only(counts: Counts, name: str, filled: Filled, assumed: Assumptions, same_address: float) -> Work:
    """A kernel that follows the index and looks at candidates, and takes nothing: ``rank``."""

    def visit(n_candidates: float, brought: bool) -> Steps:
        look = Steps(l2_waits=1) if brought else Steps(dram_waits=1)
        return (Steps(counts[name].ways["claim"]) + look) * _rounds(n_candidates)

    looked = filled.n_hit(assumed.random_bytes / filled.fmt.n_bytes) * assumed.random_bytes
    return Work(
        name,
        counts[name],
        _walked(counts[name], filled, takes=False, visit=visit),
        dram_bytes=looked + filled.n_set * READY_BYTES,
        l2_bytes=filled.n_candidates * SECTOR_BYTES + filled.n_set * READY_BYTES,
        same_address=same_address,
    )


def popcounts(counts: Counts, filled: Filled) -> Work:
    """The count: block words, ready words under set blocks; the last block sums up cells, 4 a thread."""
    ways = counts["popcounts"].ways
    cells = cells_of(0, filled.n_pages)
    n_cells = math.ceil(cells.n_sections / (1 << cells.shift))
    sections = math.ceil(cells.n_sections / cells.n_walkers / _LANES)
    blocks = _rounds(filled.n_set / cells.n_walkers)
    steps = Steps(ways["once"], exchanges=1, fences=1)
    # The section's node, its mask, its word; the cell's tally is waited for by nobody.
    steps += Steps(ways["sections"], l2_waits=2, dram_waits=1) * sections
    steps += Steps(ways["blocks"], dram_waits=1) * blocks
    tail = Steps(ways["cells"], l2_waits=1) * math.ceil(
        n_cells / (_CELLS_OF_THREAD * WARPS_PER_BLOCK * _LANES)
    )
    section_bytes = 8 + 4 + 4
    n_bytes = filled.n_sections * section_bytes + filled.n_set * READY_BYTES
    n_bytes += filled.n_hit(SECTION_PAGES) * 2 * SECTION_PAGES // BLOCK_PAGES
    return Work(
        "popcounts",
        counts["popcounts"],
        (Crowd(cells.n_walkers, steps),),
        dram_bytes=n_bytes,
        l2_bytes=n_bytes,
        atomics=filled.n_sections,
        same_address=cells.n_walkers / WARPS_PER_BLOCK,
        tail=tail + Steps(exchanges=1, fences=1),
    )


def cut_stretches(counts: Counts, filled: Filled, path: Path) -> Work:
    """The edges, four a warp: each by looks at 8 cells at a time, then its sections', then its blocks'."""
    ways = counts["cut_stretches"].ways
    cells = cells_of(0, filled.n_pages)
    rounds, n_left = 0, math.ceil(cells.n_sections / (1 << cells.shift))
    while n_left > 0:
        rounds += 1
        n_left = min(n_left, math.ceil(n_left / EDGE_LANES) - 1)
    looks = math.ceil((1 << cells.shift) / EDGE_LANES)  # at sections, at most
    n_warps = (_n_warps(filled, path) + 1) * EDGE_LANES / _LANES
    # The sums of all, of the cell before; the sections' counts, the blocks'.
    steps = Steps(ways["once"] - ways["cells"] - ways["sections"], l2_waits=3)
    steps += Steps(ways["cells"], l2_waits=1) * rounds + Steps(ways["sections"], l2_waits=1) * looks
    n_bytes = n_warps * _LANES / EDGE_LANES * (EDGE_LANES * 3 * rounds * SECTOR_BYTES + 32 * looks + 128 + 24)
    return Work("cut_stretches", counts["cut_stretches"], (Crowd(n_warps, steps),), l2_bytes=n_bytes)


def scatter(counts: Counts, filled: Filled, path: Path) -> Work:
    """The plan: a warp counts its claims by target, keeps 128, then writes each to its place."""
    ways = counts["scatter"].ways

    def steps(stretch: Stretch) -> Steps:
        rounds = _rounds(stretch.n_candidates, _CLAIMS_AHEAD * _LANES)
        more = max(0.0, _rounds(stretch.n_candidates) - rounds)  # of 32 claims, beside the first of a round
        again = max(0.0, rounds - 1)
        # How many; where they and their groups begin; the first words and offsets; the edge.
        walked = Steps(ways["once"], l2_waits=4) + Steps(2 + 3) * (filled.n_targets / _LANES)
        for name in ("count", "place"):
            walked += Steps(ways[name]) * rounds + Steps(ways[f"{name}_more"]) * more
            loads = ways[f"{name}_load"]
            walked += Steps(loads, l2_waits=float(loads > 0)) * again
        return walked

    crowds = tuple(Crowd(each.n_warps, steps(each)) for each in stretches_of(filled, path))
    n_bytes = filled.n_candidates * (_staged_bytes(filled) + _PLAN_FLAT_BYTES + filled.fmt.n_bytes)
    return Work("scatter", counts["scatter"], crowds, dram_bytes=n_bytes, l2_bytes=2 * n_bytes)


def _summed_up(counts: KernelCounts, filled: Filled) -> Steps:
    """Return what the last block does: its row's claims, then those of all rows, 32 targets at a time."""
    more = math.ceil(filled.n_targets * _ADDERS / (WARPS_PER_BLOCK * _LANES)) - 1
    steps = Steps(counts.ways["places"], l2_waits=2, exchanges=1, fences=3)
    return steps + Steps(counts.ways["addends"], l2_waits=2) * more


def _walked(
    counts: KernelCounts, filled: Filled, *, takes: bool, visit: Callable[[float, bool], Steps]
) -> tuple[Crowd, ...]:
    ways = counts.ways

    def steps(stretch: Stretch) -> Steps:
        sections = math.ceil((stretch.n_pages / SECTION_PAGES + 1) / _LANES)
        blocks = _rounds(stretch.n_set)
        of_block = stretch.n_candidates / stretch.n_set if stretch.n_set else 0.0
        walked = Steps(ways["once"], l2_waits=4, exchanges=1 + float(takes), fences=float(takes))
        # The section's node, its mask, its word, which is taken; a fence after each level.
        walked += Steps(ways["sections"], l2_waits=3, exchanges=float(takes), fences=1) * sections
        walked += Steps(ways["blocks"], dram_waits=1, fences=1) * blocks
        is_crowded = of_block > _CROWDED and "crowded" in ways
        if is_crowded:
            # Its records are on their way meanwhile, which takes half as long.
            walked += Steps(ways["crowded"]) * stretch.n_set
        else:  # the lane that has most holds up the others
            longest = min(of_block + 2 * math.sqrt(of_block), BLOCK_PAGES) if stretch.n_set >= 1 else of_block
            walked += Steps(ways["queue"]) * (longest * blocks)
        return walked + visit(stretch.n_candidates, is_crowded)

    return tuple(Crowd(each.n_warps, steps(each)) for each in stretches_of(filled, "indexed"))


def _claim_of(counts: KernelCounts, filled: Filled, *, budget: bool) -> Callable[[float, bool], Steps]:
    def visit(n_candidates: float, brought: bool) -> Steps:
        return _claims(counts.ways["claim"], n_candidates, filled, in_l2=brought, budget=budget)

    return visit


def _claims(instructions: int, n_candidates: float, filled: Filled, *, in_l2: bool, budget: bool) -> Steps:
    """Return the rounds of claims of a warp: for 32 candidates a look, then an exchange."""
    extra = Steps(l2_waits=2, exchanges=1) if budget else Steps()  # cut-off and stop of the target, its quota
    look = Steps(instructions, l2_waits=float(in_l2), dram_waits=float(not in_l2), exchanges=1)
    return (look + extra) * _rounds(n_candidates)


def _n_exchanged(filled: Filled, assumed: Assumptions) -> float:
    """Return what the exchanges of claims count: one for the candidates of an aligned word of 32 bits."""
    n_sectors = filled.n_hit(SECTOR_BYTES / filled.fmt.n_bytes)
    return n_sectors + assumed.sector_mates * (filled.n_hit(4 / filled.fmt.n_bytes) - n_sectors)


def _rounds(n_items: float, of_round: int = _LANES) -> float:
    """Return the rounds that items take on average; one that is not full is a round, too."""
    if n_items <= 0:
        return 0.0
    rest = (of_round - 1) / of_round
    return n_items / of_round + (rest / 2 if n_items >= 1 else n_items * rest)


def _n_warps(filled: Filled, path: Path) -> float:
    return sum(each.n_warps for each in stretches_of(filled, path))


def _staged_bytes(filled: Filled) -> int:
    return _STAGED_OFFSET_BYTES + filled.fmt.n_bytes


def _same_address(filled: Filled, crowds: tuple[Crowd, ...], *, budget: bool) -> float:
    """Return how many atomics one address has at most: a total's of blocks, or a quota's of rounds."""
    of_totals = sum(crowd.n_warps for crowd in crowds) / WARPS_PER_BLOCK
    rounds = sum(each.n_warps * _rounds(each.n_candidates) for each in stretches_of(filled, "indexed"))
    share = 1 - (1 - 1 / filled.n_targets) ** _LANES  # of rounds that have a claim of one target
    return max(of_totals, rounds * share if budget else 0.0)
