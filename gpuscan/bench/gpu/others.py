"""What the launches of requests do, and those of a ranking with the scan that spends its budget."""

from __future__ import annotations

import math

from gpuscan.bench.gpu.assumptions import Assumptions
from gpuscan.bench.gpu.bounds import Crowd, Steps, Work
from gpuscan.bench.gpu.layouts import SECTOR_BYTES, Filled
from gpuscan.bench.gpu.scans import Counts, cut_stretches, popcounts, scan_works, walk_only
from gpuscan.records.formats import RecordFormat

ITEMS_PER_LAUNCH = 1 << 20
_LANES = 32
_EXTENT_LOOKS = 2
"""Of three extents: the look of a binary search, and the last one's end and offset."""
_SLOT_BYTES = 16
_SLOTS_PER_ITEM = 2


def request_works(
    counts: Counts,
    fmt: RecordFormat,
    n_items: int,
    l2_bytes: int,
    assumed: Assumptions,
    *,
    ordered: bool = True,
) -> list[Work]:
    """Return the launches of a call that marks random pages of a large store; its items are on the GPU."""
    n_launches = math.ceil(n_items / ITEMS_PER_LAUNCH)
    n = min(n_items, ITEMS_PER_LAUNCH)
    table_bytes = n * _SLOTS_PER_ITEM * _SLOT_BYTES
    in_l2 = table_bytes <= l2_bytes * 0.8
    works = [request(counts, fmt, n, n_launches, assumed, ordered=ordered, table_in_l2=in_l2)]
    if ordered:
        works.insert(0, resolve(counts, n, n_launches, assumed, table_in_l2=in_l2))
    return works


def resolve(counts: Counts, n: int, n_launches: int, assumed: Assumptions, *, table_in_l2: bool) -> Work:
    """Items by folio: the page is found, is it eligible, then a slot of the table is claimed."""
    table = {"l2_waits" if table_in_l2 else "dram_waits": 1}
    # PFN and nid together, the target's flags, extents, the section's node; the eligible word from memory.
    found = Steps(counts["resolve"].ways["item"], l2_waits=2 + _EXTENT_LOOKS, dram_waits=2)
    steps = found + Steps(exchanges=1, **table)
    random = assumed.random_bytes
    n_bytes = n * (12 + 4 + random)  # an item, its slot, the eligible word
    return Work(
        "resolve",
        counts["resolve"],
        (Crowd(n / _LANES, steps),),
        dram_bytes=n_bytes if table_in_l2 else n_bytes + n * 3 * (random + SECTOR_BYTES),
        l2_bytes=n * (16 + 6 * SECTOR_BYTES),
        atomics=3 * n,
        n_launches=n_launches,
    )


def request(
    counts: Counts,
    fmt: RecordFormat,
    n: int,
    n_launches: int,
    assumed: Assumptions,
    *,
    ordered: bool,
    table_in_l2: bool,
) -> Work:
    """Marks: record, ready bit, block bit, node flag, a fence before each of the last three."""
    random = assumed.random_bytes
    if ordered:  # the slot, the last item, the head; the first item and the nid later
        before = Steps(l2_waits=4 if table_in_l2 else 2, dram_waits=1 + (not table_in_l2) * 2)
    else:
        before = Steps(l2_waits=2 + _EXTENT_LOOKS, dram_waits=2)
    marked = Steps(dram_waits=2, l2_waits=3, exchanges=3, fences=3)  # record and ready word are in memory
    steps = before + marked + Steps(counts["request"].ways["item"])
    return Work(
        "request",
        counts["request"],
        (Crowd(n / _LANES, steps),),
        # Record and ready word: a look each, and a sector each written back.
        dram_bytes=n * (16 + 2 * random + 2 * SECTOR_BYTES + (0 if ordered else random)),
        l2_bytes=n * (16 + 8 * SECTOR_BYTES),
        atomics=3 * n,
        same_address=n / 256,
        n_launches=n_launches,
    )


def budget_works(counts: Counts, filled: Filled, assumed: Assumptions) -> list[Work]:
    """Return the launches of a ranking whose budget cuts no ties, and of the indexed scan after it.

    Of ``cut_keys``, ``rank_ties`` (which ends at once) and ``cut_ties`` there are only the launches: a warp
    has a target, and little to do.
    """
    ranked = walk_only(counts, "rank", filled, assumed, same_address=0)
    nothing = Crowd(filled.n_targets, Steps())
    small = [Work(name, counts["rank"], (nothing,)) for name in ("cut_keys", "rank_ties", "cut_ties")]
    return [
        popcounts(counts, filled),
        cut_stretches(counts, filled, "indexed"),
        ranked,
        *small,
        *scan_works(counts, filled, "indexed", assumed, budget=True),
    ]
