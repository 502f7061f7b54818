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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.errors import ArgumentError, InputError

if TYPE_CHECKING:
    import pyarrow as pa

WAITS_FILE = "waits.parquet"
SCHEMA_VERSION = 1
PAGES_ONE_IN = 64
"""Of so many pages one is followed, always the same: which, a hash decides, so that heads of folios are as
likely as any other page."""
_FOLLOWED_MAX = 1 << 18
"""Pages that wait at once; more begin to be followed when some of these are claimed."""
_RESTORED_MAX = 4 * _FOLLOWED_MAX
"""What one tick marks begins to be followed together."""
_N_MAX = 1 << 48
"""Pages of a wait: of all waits together they fit 63 bits."""
FOUND_MAX = 4096
"""Different waits that are kept as they are: in real time nearly all of them differ."""
_SHIFT = np.uint64(64 - PAGES_ONE_IN.bit_length() + 1)
_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
"""SplitMix64's increment (Steele, Lea and Flood, OOPSLA 2014)."""
_STATE = ("found", "is_rounding", "flats", "since_ns")
_ROW_BYTES = 16
_WHAT = "waits"


class Waits:
    """Follows pages from mark to claim.

    Args:
        lapse_ns: a page that was not marked for longer than this waits no more, and its next mark is a first
            one; None: it goes on waiting. Where a frame is given out again, marks do not tell.

    Attributes:
        found: nanoseconds waited, and by how many pages. Of more than :data:`FOUND_MAX` different waits all
            are rounded up by a sixty-fourth of themselves at most.
    """

    def __init__(self, lapse_ns: int | None = None) -> None:
        self.found: Counter[int] = Counter()
        self._lapse_ns = lapse_ns
        self._is_rounding = False
        self._since: dict[int, int] = {}
        self._last: dict[int, int] = {}

    def marked(self, now_ns: int, flats: NDArray[np.int64]) -> None:
        """See pages marked: int64[n], -1 is none."""
        if self._lapse_ns is not None:
            self._marked_again(now_ns, followed(flats).tolist(), self._lapse_ns)
        elif len(self._since) < _FOLLOWED_MAX:
            for flat in followed(flats).tolist():
                self._since.setdefault(flat, now_ns)

    def latest_ns(self) -> int:
        """Return since when the last page waits that does; 0 if none does."""
        return max(self._since.values(), default=0)

    def _marked_again(self, now_ns: int, flats: list[int], lapse_ns: int) -> None:
        since, last = self._since, self._last
        if len(since) + len(flats) > _FOLLOWED_MAX:
            for flat in [flat for flat, marked_ns in last.items() if now_ns - marked_ns > lapse_ns]:
                del since[flat], last[flat]
        for flat in flats:
            if flat not in last:
                if len(since) >= _FOLLOWED_MAX:
                    continue
                since[flat] = now_ns
            elif now_ns - last[flat] > lapse_ns:
                since[flat] = now_ns
            last[flat] = now_ns

    def claimed(self, now_ns: int, flats: NDArray[np.int64]) -> None:
        """See pages claimed: int64[n]."""
        since, last = self._since, self._last
        for flat in followed(flats).tolist():
            if (began := since.pop(flat, None)) is not None:
                last.pop(flat, None)
                wait_ns = now_ns - began
                self.found[_rounded(wait_ns) if self._is_rounding else wait_ns] += 1
        if len(self.found) > FOUND_MAX and not self._is_rounding:
            self._is_rounding = True
            exact, self.found = self.found, Counter()
            for wait_ns, n in exact.items():
                self.found[_rounded(wait_ns)] += n

    def state(self) -> dict[str, Any]:
        """Return what was found, and who waits."""
        since = np.array(list(self._since.items()), dtype=np.int64).reshape(-1, 2)
        return {
            "found": sorted(self.found.items()),
            "is_rounding": self._is_rounding,
            "flats": since[:, 0].copy(),
            "since_ns": since[:, 1].copy(),
        }

    def restore(self, state: dict[str, Any], n_pages: int) -> None:
        """Become what :meth:`state` was taken of, without a lapse, on a machine of as many pages.

        Raises:
            ArgumentError: that was something else.
        """
        found = checked.table(state, "the waits", _STATE)
        flats = checked.array(found["flats"], np.int64, "pages that wait", lowest=0, end=n_pages)
        if len(flats) > _RESTORED_MAX:
            raise ArgumentError(f"{len(flats)} pages wait, more than {_RESTORED_MAX}")
        since_ns = checked.array(found["since_ns"], np.int64, "since when", n=len(flats), lowest=0)
        pairs = checked.pairs(checked.items(found["found"], "the waits", FOUND_MAX), "the waits")
        self.found = Counter(
            {
                checked.whole(ns, 0, INT64_MAX, "a wait"): checked.whole(n, 1, _N_MAX, "pages of a wait")
                for ns, n in pairs
            }
        )
        self._is_rounding = checked.flag(found["is_rounding"], "is_rounding")
        self._since = dict(zip(flats.tolist(), since_ns.tolist(), strict=True))


def _rounded(wait_ns: int) -> int:
    """Return the next number with seven significant bits: of all 64-bit numbers 3,700 have no more."""
    shift = max(0, wait_ns.bit_length() - 7)
    return -(-wait_ns >> shift) << shift


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
