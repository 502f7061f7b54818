"""The plan of a scan while nobody has read it: segments, and where in the plan their claims are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Segment
from gpuscan.kernels.cpu.staging import N_STRIPS
from gpuscan.kernels.cpu.unpack import sort_strips, unpack
from gpuscan.kernels.cpu.workers import Workers

UNPACKED_CLAIMS = 1 << 17
"""Claims that are worth a thread of their own when they are read."""


class _Sorted(NamedTuple):
    """The strips of a segment by target, as :data:`sort_strips` leaves them."""

    strips: NDArray[np.int64]
    strips_until: NDArray[np.int64]


class StagedPlan:
    """Claims by target, those of a target by segment.

    Args:
        segments: in flat order.
        base: first flat page of the scan's range.
        dtype: of a record.
        n_groups: targets, and one for unknown ones.
    """

    def __init__(self, segments: Sequence[Segment], base: int, dtype: np.dtype[Any], n_groups: int) -> None:
        self.segments = segments
        self.base = base
        self.dtype = dtype
        self.starts = np.zeros(n_groups * len(segments) + 1, dtype=np.int64)
        """int64[n_groups * n_segments + 1]: where the claims of each group and segment begin."""
        self.offsets = np.zeros(n_groups + 1, dtype=np.int64)
        """int64[n_groups + 1]: where the claims of each group begin."""
        self._by_segment = self.starts[:-1].reshape(n_groups, len(segments))
        self._sorted: list[_Sorted | None] = [None] * len(segments)
        if segments:
            counts = np.stack([segment.n_of_target for segment in segments], axis=1)
            np.cumsum(counts.ravel(), out=self.starts[1:])
            self.offsets[:] = self.starts[:: len(segments)]

    def unpack(
        self, lo: int, hi: int, flats: NDArray[np.int64], words: NDArray[Any], workers: Workers
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Fill in, and return, the flat pages and the words of claims ``[lo, hi)``."""
        if lo >= hi:
            return flats, words
        n_segments = len(self.segments)
        first, behind = np.searchsorted(self.starts, (lo, hi - 1), side="right").tolist()
        first -= 1
        wanted: Sequence[int] = range(n_segments)
        if behind - first < n_segments:
            wanted = sorted(cell % n_segments for cell in range(first, behind))
        groups = first // n_segments, (behind - 1) // n_segments + 1
        compiled = unpack.for_bits(8 * self.dtype.itemsize)

        def unpack_segment(index: int) -> None:
            number = wanted[index]
            segment = self.segments[number]
            starts = np.ascontiguousarray(self._by_segment[:, number])
            compiled(
                segment.claims,
                segment.n_of_target,
                *self._sorted_strips(number),
                starts,
                *groups,
                lo,
                hi,
                self.base,
                flats,
                words,
            )

        workers.run(len(wanted), unpack_segment, inline=hi - lo < 2 * UNPACKED_CLAIMS)
        return flats, words

    def _sorted_strips(self, number: int) -> _Sorted:
        """Return the strips of a segment by target, sorted when the plan is first read."""
        found = self._sorted[number]
        if found is None:
            segment = self.segments[number]
            found = _Sorted(
                np.empty(int(segment.state[N_STRIPS]), dtype=np.int64),
                np.empty(len(segment.n_of_target), dtype=np.int64),
            )
            compiled = sort_strips.for_bits(8 * self.dtype.itemsize)
            compiled(segment.owners, segment.n_of_target, segment.state, *found)
            self._sorted[number] = found
        return found
