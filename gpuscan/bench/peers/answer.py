"""The question peers are asked, and the form their answers are compared in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import RunFailedError
from gpuscan.records.formats import RecordFormat, unpack


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Which pages are READY, by target, in PFN order?

    Attributes:
        records: fmt.dtype[n_pages]; the index of a record is its PFN.
        fmt: their layout.
        n_targets: targets are 0 to ``n_targets - 1``.
        fixed_target: target of all where ``fmt`` stores none.
        own_pages: pages that a peer with structures of its own should be content with.
    """

    records: NDArray[Any]
    fmt: RecordFormat
    n_targets: int
    fixed_target: int
    own_pages: int

    @property
    def n_pages(self) -> int:
        """Records in question."""
        return len(self.records)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """READY pages by target.

    Attributes:
        offsets: int64[n_targets + 1].
        pfn: integers[n]; target t has ``pfn[offsets[t]:offsets[t + 1]]``, ascending.
    """

    offsets: NDArray[np.int64]
    pfn: NDArray[Any]

    def require_equal(self, other: Answer, who: str) -> None:
        """Compare exactly.

        Raises:
            RunFailedError: the answers differ; ``who`` gave ``other``.
        """
        if not np.array_equal(self.offsets, other.offsets) or not np.array_equal(self.pfn, other.pfn):
            raise RunFailedError(
                f"{who} gives {len(other.pfn)} pages in other groups than the {len(self.pfn)} that the "
                "records hold, so its time means nothing; report it"
            )

    def below(self, pfn_end: int) -> Answer:
        """Return the part below ``pfn_end``."""
        kept = self.pfn < pfn_end
        before = np.concatenate(([0], np.cumsum(kept)))
        return Answer(before[self.offsets], self.pfn[kept])


def answer_of_lists(lists: dict[int, NDArray[Any]], n_targets: int) -> Answer:
    """Return the answer given as one array of PFNs per target that has any."""
    empty = np.empty(0, dtype=np.int64)
    groups = [lists.get(target, empty) for target in range(n_targets)]
    offsets = np.concatenate(([0], np.cumsum([len(group) for group in groups])))
    return Answer(offsets, np.concatenate(groups))


def plain_answer(question: Question, lo: int, hi: int) -> Answer:
    """Return the answer for records ``[lo, hi)``, found by unpacking every READY one: slow and obvious."""
    step, pfns, targets = 1 << 20, [], []
    for start in range(lo, hi, step):
        part = question.records[start : min(start + step, hi)]
        ready = np.flatnonzero(part & question.fmt.ready.mask)
        nid = unpack(question.fmt, part[ready]).nid
        pfns.append(start + ready)
        targets.append(nid if question.fmt.has_nid else np.full(len(ready), question.fixed_target))
    pfn, target = np.concatenate(pfns), np.concatenate(targets).astype(np.int16)
    counts = np.bincount(target, minlength=question.n_targets)
    return Answer(np.concatenate(([0], np.cumsum(counts))), pfn[np.argsort(target, kind="stable")])
