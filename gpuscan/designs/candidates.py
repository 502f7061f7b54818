"""Where a model's records are READY: 64 looked at together, since a walk looks at all pages of a zone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.atomics import count_trailing_zeros, match_64
from gpuscan.kernels.cpu.compile import kernel

_LANES = 64


@kernel
def find(
    records: NDArray[Any],
    los: NDArray[np.int64],
    his: NDArray[np.int64],
    mask: int,
    marked: NDArray[np.uint8],
    found: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> int:
    """Fill ``found`` with the positions in ranges that have a bit of ``mask``, and ``ends`` with how many
    there are up to the end of each range; return how many in all, also where ``found`` is too short.

    ``marked`` says of each 64 records whether any of them may have it, and is cleared where none has; where
    it is empty all are looked at.
    """
    n_found = 0
    for r in range(len(los)):
        at = los[r]
        while at < his[r] and at % _LANES:
            if np.int64(records[at]) & mask:
                if n_found < len(found):
                    found[n_found] = at
                n_found += 1
            at += 1
        while at + _LANES <= his[r]:
            if len(marked) and not marked[at // _LANES]:
                at += _LANES
                continue
            bits = match_64(records, at, mask)
            if len(marked) and bits == 0:
                marked[at // _LANES] = 0
            while bits != 0:
                if n_found < len(found):
                    found[n_found] = at + count_trailing_zeros(bits)
                n_found += 1
                bits &= bits - 1
            at += _LANES
        while at < his[r]:
            if np.int64(records[at]) & mask:
                if n_found < len(found):
                    found[n_found] = at
                n_found += 1
            at += 1
        ends[r] = n_found
    return n_found


class MarkedLines:
    """Which 64 records may have a READY one among them, so that a walk that finds little looks at little.

    Args:
        n_records: of a machine.
    """

    def __init__(self, n_records: int) -> None:
        self.marked = np.zeros(-(-n_records // _LANES), dtype=np.uint8)

    def note(self, positions: NDArray[np.int64] | int) -> None:
        """Say that records are READY now."""
        self.marked[positions // _LANES] = 1


def ready_in_ranges(
    records: NDArray[Any],
    ranges: Sequence[tuple[int, int]],
    mask: int,
    lines: MarkedLines | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where records have a bit of a mask, range by range, each ascending.

    Args:
        records: uint8 or uint32[n], contiguous.
        ranges: first position, and the first behind, of each.
        mask: of the records' width.
        lines: where any can be; None: anywhere.

    Returns:
        int64[n] positions, and int64[n_ranges], how many there are up to the end of each range.
    """
    los, his = np.array(ranges, dtype=np.int64).reshape(-1, 2).T.copy()
    ends = np.empty(len(los), dtype=np.int64)
    found = np.empty(max(_LANES, int((his - los).sum()) >> 6), dtype=np.int64)
    step = find.for_bits(8 * records.itemsize)
    marked = np.empty(0, dtype=np.uint8) if lines is None else lines.marked
    n_found = int(step(records, los, his, mask, marked, found, ends))
    if n_found > len(found):
        found = np.empty(n_found, dtype=np.int64)
        step(records, los, his, mask, marked, found, ends)
    return found[:n_found], ends


def sorted_candidates(
    records: NDArray[Any],
    ready_mask: int,
    ranges: Sequence[tuple[int, int]],
    more: Sequence[int] = (),
    lines: MarkedLines | None = None,
) -> NDArray[np.int64]:
    """Return int64[n], the positions in ``ranges`` whose record is READY, and those of ``more``, ascending.

    A walk that looks at every page does nothing at the others, so a model may leave them out.
    """
    found, _ = ready_in_ranges(records, ranges, ready_mask, lines)
    also = [position for position in more if any(lo <= position < hi for lo, hi in ranges)]
    if len(ranges) < 2 and not also:
        return found
    return np.unique(np.concatenate([found, np.array(also, dtype=np.int64)]))
