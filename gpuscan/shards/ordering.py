"""The order of a plan over shards: by target, then PFN, from one count per target and shard.

Shards lie in PFN order, so the folios of a target are those of the first shard, then those of
the second: an exclusive prefix sum over (target, shard) says where each shard's group begins,
and the folios may stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the folios of each shard are in the plan.

    Attributes:
        offsets: int64[n_targets + 1], as :attr:`gpuscan.store.plan.Plan.offsets`.
        starts: int64[n_shards, n_targets], position of a shard's first folio for a target.
        counts: int64[n_shards, n_targets], folios.
    """

    offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def gather(self, parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
        """Return what the shards have per folio (each by target, then PFN) in the order of the plan."""
        gathered = np.empty(int(self.offsets[-1]), dtype=dtype)
        for part, starts, counts in zip(parts, self.starts, self.counts, strict=True):
            position = 0
            for target in np.flatnonzero(counts).tolist():
                start, count = int(starts[target]), int(counts[target])
                gathered[start : start + count] = part[position : position + count]
                position += count
        return gathered


def places(counts: NDArray[np.int64]) -> Places:
    """Return the places for counts per shard and target, int64[n_shards, n_targets]."""
    offsets = np.concatenate(([0], np.cumsum(counts.sum(axis=0))))
    starts = offsets[:-1] + np.cumsum(counts, axis=0) - counts
    return Places(offsets, starts, counts)
