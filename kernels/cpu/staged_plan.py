"""The plan of a scan while nobody has read it: segments, and where in the plan their claims are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Segment
from gpuscan.kernels.cpu.staging import N_STRIPS
from gpuscan.kernels.cpu.unpack import place_strips, unpack
from gpuscan.kernels.cpu.workers import Workers

UNPACKED_CLAIMS = 1 << 17
"""Claims that are worth a thread of their own when they are read."""


class _Placed(NamedTuple):
    """The strips of a segment, as :data:`place_strips` leaves them."""

    begins: NDArray[np.int64]
    strips_of_target: NDArray[np.int64]
    strips: NDArray[np.int64]


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
        self._placed: list[_Placed | None] = [None] * len(segments)
        self.offsets = np.zeros(n_groups + 1, dtype=np.int64)
        """int64[n_groups + 1]: where the claims of each group begin."""
        self.starts = self.offsets
        """int64[n_groups * n_segments + 1]: where the claims of each group and segment begin."""
        if len(segments) == 1:  # what is below would be a tenth of a scan that finds little
            np.add.accumulate(segments[0].n_of_target, out=self.offsets[1:])
        elif segments:
            counts = np.stack([segment.n_of_target for segment in segments], axis=1)
            self.starts = np.zeros(counts.size + 1, dtype=np.int64)
            np.add.accumulate(counts.ravel(), out=self.starts[1:])
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
        first_group, end_group = first // n_segments, (behind - 1) // n_segments + 1
        compiled = unpack.for_bits(8 * self.dtype.itemsize)

        def unpack_segment(index: int) -> None:
            segment, placed = self.segments[wanted[index]], self._placed_strips(wanted[index])
            begin, end = placed.strips_of_target[first_group], placed.strips_of_target[end_group]
            is_all = end - begin == len(placed.strips)
            strips = np.arange(len(placed.strips)) if is_all else placed.strips[begin:end]
            compiled(
                segment.claims,
                segment.owners,
                segment.places,
                placed.begins,
                strips,
                lo,
                hi,
                self.base,
                flats,
                words,
            )

        workers.run(len(wanted), unpack_segment, inline=hi - lo < 2 * UNPACKED_CLAIMS)
        return flats, words

    def _placed_strips(self, number: int) -> _Placed:
        """Return where the strips of a segment are, found when the plan is first read."""
        found = self._placed[number]
        if found is None:
            segment = self.segments[number]
            n_strips, n_groups = int(segment.state[N_STRIPS]), len(segment.n_of_target)
            found = _Placed(*(np.empty(n, dtype=np.int64) for n in (n_strips, n_groups + 1, n_strips)))
            next_of_target = self.starts[number : -1 : len(self.segments)].copy()
            compiled = place_strips.for_bits(8 * self.dtype.itemsize)
            compiled(
                segment.owners, segment.places, segment.n_of_target, segment.state, next_of_target, *found
            )
            self._placed[number] = found
        return found
