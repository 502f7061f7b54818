"""The one form every trace is read into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN_CPU = -1
"""The trace does not say which CPU accessed the pages."""
LEFT_OUT = {
    "n_unresolved": "at physical address 0",
    "n_repeated": "lines that say an access once more",
    "n_idle": "not accessed",
    "n_unmapped": "at addresses without a page in the page table",
}
"""Why samples are left out of a trace as it is read, by the attribute that counts them."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A block of samples, ascending by time.

    Attributes:
        time_ns: int64[n], on the trace's own clock.
        cpu: int32[n], the CPU that accessed the pages, or ``UNKNOWN_CPU``.
        pfn: int64[n], first page.
        n_pages: int64[n], pages from there on; 1 for a sampled access, more for a region.
        weight: int64[n], how much each says: the latency of a sampled access in the unit of whoever
            sampled it, 1 where there is none; of a region, in how many looks it was accessed.
        n_unresolved: samples left out because their physical address is 0: the kernel could not
            resolve it.
        n_repeated: samples left out because they say an access once more.
        n_idle: regions left out because nothing accessed them.
        n_unmapped: samples left out because the page table that was given has none of their pages.
        share: float64[n], in which part of its looks a region was accessed, NaN where nobody says; None for
            sampled accesses.
        highest_pfn: where the highest region begins, those left out too; -1 without regions.
    """

    time_ns: NDArray[np.int64]
    cpu: NDArray[np.int32]
    pfn: NDArray[np.int64]
    n_pages: NDArray[np.int64]
    weight: NDArray[np.int64]
    n_unresolved: int = 0
    n_repeated: int = 0
    n_idle: int = 0
    n_unmapped: int = 0
    highest_pfn: int = -1
    share: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.time_ns)

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> Samples:
        """Return some of the samples; what was left out stays counted with the whole."""
        return Samples(
            self.time_ns[part],
            self.cpu[part],
            self.pfn[part],
            self.n_pages[part],
            self.weight[part],
            share=None if self.share is None else self.share[part],
        )

    def with_counts_of(self, other: Samples) -> Samples:
        """Return these samples with what was left out of others."""
        return replace(self, **other.left_out(), highest_pfn=other.highest_pfn)

    def left_out(self) -> dict[str, Any]:
        """Return how many were left out, by the keys of :data:`LEFT_OUT`."""
        return {name: getattr(self, name) for name in LEFT_OUT}

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Return several blocks as one, in the order of time; all have shares, or none has.

        Args:
            parts: one at least.
        """
        order = np.argsort(np.concatenate([part.time_ns for part in parts]), kind="stable")
        shares = [part.share for part in parts if part.share is not None]
        return cls(
            np.concatenate([part.time_ns for part in parts])[order],
            np.concatenate([part.cpu for part in parts])[order],
            np.concatenate([part.pfn for part in parts])[order],
            np.concatenate([part.n_pages for part in parts])[order],
            np.concatenate([part.weight for part in parts])[order],
            **{name: sum(getattr(part, name) for part in parts) for name in LEFT_OUT},
            highest_pfn=max(part.highest_pfn for part in parts),
            share=np.concatenate(shares)[order] if shares else None,
        )
