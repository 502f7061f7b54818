"""One CUDA source per kind of store: the record layout, the constants of the contract, and all kernel files.

The files are concatenated, not included: CuPy keys its cache of compiled modules by
the source it is given, and would not notice an edited header.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from functools import cache
from pathlib import Path

from gpuscan.kernels.api import (
    N_OUTCOMES,
    N_RELEASE_OUTCOMES,
    NODE_HAS_MEMORY,
    NODE_TOP_TIER,
    Outcome,
    ReleaseOutcome,
)
from gpuscan.records.formats import N_NODES_MAX, RecordFormat, c_prelude

WARPS = 8
"""Warps of a thread block; each works on one stretch."""
THREADS = 32 * WARPS
ROW_CHUNKS = 32
"""Chunks, each a thread block's, whose claims are summed up together."""
EDGE_LANES = 8
"""Threads that look for an edge of stretches together."""

_SHARED = (
    *("common.cuh", "pages.cuh", "producers.cuh", "claim.cuh", "queue.cuh", "rows.cuh"),
    *("walk.cuh", "counts.cuh", "stretch.cuh"),
)
_FOLDER = Path(__file__).parent


class Total(IntEnum):
    """Places in the totals of a scan, uint64[len(Total)]."""

    CANDIDATES = 0
    SET_BLOCKS = 1
    BLOCKS = 2
    CURSOR = 3
    PAGES = 4
    BYTES = 5
    UNKNOWN = 6


def kernel_source(fmt: RecordFormat, *, exclusive: bool) -> str:
    """Return the complete source for stores of one kind.

    Args:
        fmt: the record format.
        exclusive: claims are plain stores: nobody else changes records or the index while a
            scan runs.
    """
    return definitions(fmt, exclusive=exclusive) + _kernel_files()


def definitions(fmt: RecordFormat, *, exclusive: bool) -> str:
    """Return what stands before the files: the record layout, and the constants of the contract."""
    constants = {
        "N_NODES_MAX": N_NODES_MAX,
        "NODE_HAS_MEMORY": NODE_HAS_MEMORY,
        "NODE_TOP_TIER": NODE_TOP_TIER,
        "N_OUTCOMES": N_OUTCOMES,
        "N_RELEASE_OUTCOMES": N_RELEASE_OUTCOMES,
        **{outcome.name: int(outcome) for outcome in Outcome},
        **{f"RELEASE_{outcome.name}": int(outcome) for outcome in ReleaseOutcome},
        **{f"TOTAL_{total.name}": int(total) for total in Total},
        "EXCLUSIVE": int(exclusive),
        "WARPS": WARPS,
        "ROW_CHUNKS": ROW_CHUNKS,
        "EDGE_LANES": EDGE_LANES,
    }
    defines = "".join(f"#define GS_{name} {value}\n" for name, value in constants.items())
    return c_prelude(fmt) + defines


def source_hash() -> str:
    """Return a hash of the kernel files, for benchmark records."""
    return hashlib.sha256(_kernel_files().encode()).hexdigest()[:16]


@cache
def _kernel_files() -> str:
    names = [*_SHARED, *sorted(path.name for path in _FOLDER.glob("*.cu"))]
    return "".join(f'#line 1 "{name}"\n{(_FOLDER / name).read_text()}' for name in names)
