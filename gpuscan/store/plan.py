"""The plan of a scan: claimed folios by target, and the batches they are moved in.

A plan is CSR: ``offsets`` cuts the folio arrays into one group per target nid;
inside a group folios ascend by PFN. Batches are a second CSR level over the same
arrays, so nothing is copied to make them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import ArraySpec, check_arrays, integers, settle, shown, text, whole
from gpuscan.base.arrow import ReadAsTable
from gpuscan.base.errors import ArgumentError
from gpuscan.records.formats import N_NODES_MAX

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_PAGES = 512
"""Base pages per batch: KMIGRATE_BATCH of RFC v1, and NR_MAX_BATCHED_MIGRATION (HPAGE_PMD_NR)
of ``migrate_pages()``, which starts another round for the rest."""
BATCH_PAGES_MAX = 1 << 48
"""No batch is larger than the memory that a PFN can name."""

_BATCHES = (
    ArraySpec("target_nid", "int32", ("batches",), values=(0, "nodes")),
    ArraySpec("offsets", "int64", ("batches+1",), ascends=True),
    ArraySpec("n_pages", "int64", ("batches",)),
)
_FOLIOS = (ArraySpec("flat", "int64"), ArraySpec("pfn", "int64"))
_PLAN = (
    ArraySpec("offsets", "int64", ("targets+1",), ascends=True),
    ArraySpec("order", "uint8", ("n",), values=(0, 16), optional=True),
)
_COUNTS = (
    "cursor",
    "scan_ns",
    "examined_pages",
    "examined_bytes",
    "n_unknown_target",
    "n_superseded",
    "n_freed",
)


class Batch(NamedTuple):
    """One batch: folios ``lo`` to ``hi`` of its plan, all for one target."""

    target_nid: int
    lo: int
    hi: int
    n_pages: int


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """All batches of a plan.

    Attributes:
        target_nid: int32[n_batches].
        offsets: int64[n_batches + 1] into the plan's folio arrays.
        n_pages: int64[n_batches], base pages.
        batch_pages: the limit they were cut with.
    """

    target_nid: NDArray[np.int32]
    offsets: NDArray[np.int64]
    n_pages: NDArray[np.int64]
    batch_pages: int

    def __post_init__(self) -> None:
        target_nid, offsets, n_pages = check_arrays(
            "batches", _BATCHES, (self.target_nid, self.offsets, self.n_pages), {"nodes": N_NODES_MAX}
        )
        settle(
            self,
            target_nid=target_nid,
            offsets=offsets,
            n_pages=n_pages,
            batch_pages=whole("batches: batch_pages", self.batch_pages, 1, BATCH_PAGES_MAX),
        )

    def __len__(self) -> int:
        return len(self.target_nid)

    def __iter__(self) -> Iterator[Batch]:
        columns = (self.target_nid, self.offsets[:-1], self.offsets[1:], self.n_pages)
        for row in zip(*(column.tolist() for column in columns), strict=True):
            yield Batch(*row)

    def of_folio(self) -> NDArray[np.int64]:
        """Return int64[n_folios]: the batch of every folio."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))


@dataclass(frozen=True, slots=True, eq=False)
class Plan(ReadAsTable):
    """Folios claimed by one scan.

    Attributes:
        offsets: int64[n_targets + 1]; target t has folios ``offsets[t]:offsets[t + 1]``.
        pfn: int64[n], first page of each folio, ascending inside a target.
        flat: int64[n], the same as flat indexes.
        words: records' dtype[n], the words that were claimed.
        order: uint8[n], folio orders, or None where every folio is one page.
        cursor: first flat page not covered.
        path, why: how the scan went and why that way.
        scan_ns: wall time of the scan, grouping included.
        examined_pages, examined_bytes: what the scan read.
        n_unknown_target: claimed folios whose target is not a node of this machine; in no group.
        n_superseded: folios that were claimed, did not fit and could not be put back, since a
            producer had made them READY again meanwhile: those requests ended; in no group.
        n_freed: folios that were freed between their claim and the hand-out of the plan: those
            requests ended; in no group.
    """

    offsets: NDArray[np.int64]
    pfn: NDArray[np.int64]
    flat: NDArray[np.int64]
    words: NDArray[Any]
    order: NDArray[np.uint8] | None
    cursor: int
    path: str
    why: str
    scan_ns: int
    examined_pages: int
    examined_bytes: int
    n_unknown_target: int = 0
    n_superseded: int = 0
    n_freed: int = 0

    def __post_init__(self) -> None:
        dims: dict[str, int] = {}
        flat, pfn = check_arrays("plan", _FOLIOS, (self.flat, self.pfn), dims)
        offsets, order = check_arrays("plan", _PLAN, (self.offsets, self.order), dims)
        if int(offsets[0]) != 0 or int(offsets[-1]) != len(flat):
            raise ArgumentError(
                f"plan: its offsets go from {offsets[0]} to {offsets[-1]}; give 0 to {len(flat)}, its folios"
            )
        words = self.words if type(self.words) is np.ndarray else integers("plan: words", self.words)
        if words.shape != flat.shape or words.dtype.kind != "u":
            raise ArgumentError(
                f"plan: words are {shown(words)}; give one record for each of {len(flat)} folios"
            )
        settle(self, offsets=offsets, pfn=pfn, flat=flat, words=words, order=order)
        for name in _COUNTS:
            count = getattr(self, name)
            if type(count) is not int or count < 0:  # a plan is made for each scan, also of nothing
                settle(self, **{name: whole(f"plan: {name}", count)})
        text("plan: path", self.path)
        text("plan: why", self.why)

    def __len__(self) -> int:
        """Folios in the plan."""
        return len(self.flat)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Nids that have folios, ascending."""
        return np.flatnonzero(np.diff(self.offsets))

    @property
    def folio_pages(self) -> NDArray[np.int64]:
        """int64[n], base pages of every folio."""
        if self.order is None:
            return np.ones(len(self), dtype=np.int64)
        return np.int64(1) << self.order.astype(np.int64)

    @property
    def n_pages(self) -> int:
        """Base pages in the plan."""
        return len(self) if self.order is None else int(self.folio_pages.sum())

    def pages_for(self, target_nid: int) -> int:
        """Return the base pages for one target.

        Raises:
            ArgumentError: the machine has no such target.
        """
        target_nid = whole("pages_for: target_nid", target_nid, 0, len(self.offsets) - 2)
        lo, hi = self.offsets[target_nid : target_nid + 2].tolist()
        return hi - lo if self.order is None else int(self.folio_pages[lo:hi].sum())

    def target_of_folio(self) -> NDArray[np.int32]:
        """Return int32[n]: the target of every folio."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))

    def to_arrow(self) -> pa.Table:
        """Return a row for each folio, in the order of the plan: ``target_nid`` int32, ``pfn`` int64,
        ``n_pages`` int64 (base pages) and ``record``, the word that was claimed, of the records' dtype.

        PFNs and words are not copied: the table holds on to the plan's arrays.
        """
        import pyarrow as pa

        columns = {
            "target_nid": self.target_of_folio(),
            "pfn": self.pfn,
            "n_pages": self.folio_pages,
            "record": self.words,
        }
        return pa.table({name: pa.array(column) for name, column in columns.items()})

    def batches(self, batch_pages: int = BATCH_PAGES) -> Batches:
        """Cut the plan into batches of at most ``batch_pages`` base pages, each for one target.

        A batch closes before the folio that would exceed the limit; a folio larger than
        the limit is a batch of its own.

        Raises:
            ArgumentError: ``batch_pages`` is below 1.
        """
        batch_pages = whole("batch_pages", batch_pages, 1, BATCH_PAGES_MAX)
        if self.order is None:
            edges, targets = self._cut_single_pages(batch_pages)
            return Batches(targets, edges, np.diff(edges), batch_pages)
        running = np.concatenate(([0], np.cumsum(self.folio_pages)))
        edges, targets = self._cut_folios(batch_pages, running)
        return Batches(targets, edges, np.diff(running[edges]), batch_pages)

    def _cut_single_pages(self, batch_pages: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        groups = np.diff(self.offsets)
        per_target = -(-groups // batch_pages)
        targets = np.repeat(np.arange(len(groups), dtype=np.int32), per_target)
        first_batch = np.concatenate(([0], np.cumsum(per_target)))[:-1]
        within = np.arange(len(targets), dtype=np.int64) - first_batch[targets]
        starts = self.offsets[:-1][targets] + within * batch_pages
        return np.append(starts, np.int64(len(self))), targets

    def _cut_folios(
        self, batch_pages: int, running: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Cut by ``running``, int64[n + 1]: the base pages before each folio."""
        starts: list[int] = []
        targets: list[int] = []
        for target in self.targets.tolist():
            position, end = int(self.offsets[target]), int(self.offsets[target + 1])
            while position < end:
                starts.append(position)
                targets.append(target)
                fits = int(np.searchsorted(running, running[position] + batch_pages, side="right")) - 1
                position = min(max(fits, position + 1), end)
        return np.array([*starts, len(self)], dtype=np.int64), np.array(targets, dtype=np.int32)
