"""The plan of a scan while nobody has read it: segments, and where in the plan their claims are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Segment
from gpuscan.kernels.cpu.unpack import unpack
from gpuscan.kernels.cpu.workers import Workers

UNPACKED_CLAIMS = 1 << 17
"""Claims that are worth a thread of their own when they are read."""


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
        if segments:
            counts = np.stack([segment.n_of_target for segment in segments], axis=1)
            np.cumsum(counts.ravel(), out=self.starts[1:])
            self.offsets[:] = self.starts[:: len(segments)]

    def unpack(
        self, lo: int, hi: int, flats: NDArray[np.int64], words: NDArray[Any], workers: Workers
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Fill in, and return, the flat pages and the words of claims ``[lo, hi)``."""
        n_segments = len(self.segments)
        wanted: Sequence[int] = range(n_segments)
        if hi - lo < self.starts[-1]:
            first, behind = np.searchsorted(self.starts, (lo, hi - 1), side="right").tolist()
            cells = range(first - 1, min(behind, first - 1 + n_segments))
            wanted = sorted(cell % n_segments for cell in cells)
        compiled = unpack.for_bits(8 * self.dtype.itemsize)

        def unpack_segment(index: int) -> None:
            segment = wanted[index]
            next_of_target = self.starts[segment:-1:n_segments].copy()
            compiled(*self.segments[segment], next_of_target, lo, hi, self.base, flats, words)

        workers.run(len(wanted), unpack_segment, inline=hi - lo < 2 * UNPACKED_CLAIMS)
        return flats, words
