"""How long pages waited from their first mark to their claim: a sample of pages, and a ``waits.parquet``.

The first mark is any: one that begins a request, is counted towards a threshold, or is refused.

    wait_ns  int64   from the tick of the mark to the tick of the claim
    n        int64   pages of the sample

ascending. File metadata: ``gpuscan.schema`` (1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

WAITS_FILE = "waits.parquet"
SCHEMA_VERSION = 1
PAGES_ONE_IN = 64
"""Of so many pages one is followed, always the same: which, a hash decides, so that heads of folios are as
likely as any other page."""
_FOLLOWED_MAX = 1 << 18
"""Pages that wait at once; more begin to be followed when some of these are claimed."""
_SHIFT = np.uint64(64 - PAGES_ONE_IN.bit_length() + 1)
_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
"""SplitMix64's increment (Steele, Lea and Flood, OOPSLA 2014)."""
_ROW_BYTES = 16
_WHAT = "waits"


class Waits:
    """Follows pages from mark to claim.

    Attributes:
        found: nanoseconds waited, and by how many pages.
    """

    def __init__(self) -> None:
        self.found: Counter[int] = Counter()
        self._since: dict[int, int] = {}

    def marked(self, now_ns: int, flats: NDArray[np.int64]) -> None:
        """See pages marked: int64[n], -1 is none."""
        if len(self._since) < _FOLLOWED_MAX:
            for flat in followed(flats).tolist():
                self._since.setdefault(flat, now_ns)

    def claimed(self, now_ns: int, flats: NDArray[np.int64]) -> None:
        """See pages claimed: int64[n]."""
        since = self._since
        for flat in followed(flats).tolist():
            if (began := since.pop(flat, None)) is not None:
                self.found[now_ns - began] += 1


def followed(flats: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of the pages that belong to the sample."""
    mine: NDArray[np.int64] = flats[((flats.astype(np.uint64) * _GOLDEN) >> _SHIFT == 0) & (flats >= 0)]
    return mine


def _columns() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("wait_ns", pa.int64()), ("n", pa.int64())])


def create_waits(path: Path, waits: Mapping[int, int]) -> None:
    """Write to a new file in a directory that is being filled.

    Raises:
        OSError: the system refused it.
    """
    import pyarrow as pa

    from gpuscan.files.parquet import create_table

    wait_ns = sorted(waits)
    arrays = [pa.array(wait_ns, pa.int64()), pa.array([waits[ns] for ns in wait_ns], pa.int64())]
    schema = _columns().with_metadata({"gpuscan.schema": str(SCHEMA_VERSION)})
    create_table(path, pa.Table.from_arrays(arrays, schema=schema))


def read_waits(path: Path) -> dict[int, int]:
    """Return what was kept: nanoseconds, and by how many pages.

    Raises:
        InputError: it is no such file, is damaged, of a newer schema, or larger than memory allows.
    """
    from gpuscan.files.parquet import check_schema, read_table

    table = read_table(path, _columns(), _ROW_BYTES, _WHAT)
    check_schema(path, table.schema.metadata or {}, SCHEMA_VERSION, _WHAT)
    wait_ns, n = (table[name].to_numpy() for name in ("wait_ns", "n"))
    if any(column.null_count for column in table.columns) or (wait_ns < 0).any() or (n < 1).any():
        raise InputError(f"{path} is damaged (a value is missing or none); give a {WAITS_FILE} of gpuscan")
    return dict(zip(wait_ns.tolist(), n.tolist(), strict=True))
