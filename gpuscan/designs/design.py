"""What all designs have in common: batch calls, counters, losses, and how they are driven."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.machine import BatchCall, Machine
from gpuscan.designs.requests import CONSUMED, INVALID_NID, STALE, RequestLedger
from gpuscan.flow import FolioEvents


class Design(Protocol):
    """A way to find the pages that shall move, on one machine.

    Attributes:
        name: as ``gpuscan run --design`` takes it.
        calls: every ``migrate_misplaced_folios_batch(list, nid)`` call since :meth:`forget_calls`.
        counters: by the kernel's names where it has one.
        ledger: where every request went.
    """

    name: ClassVar[str]
    calls: list[BatchCall]
    counters: Counter[str]
    ledger: RequestLedger

    def mark(self, pfn: int, nid: int, now_jiffies: int) -> int:
        """Handle a hint fault that names a page and a node; 0 or -errno."""
        ...

    def walk(self, nid: int) -> None:
        """Do one round of a node's thread."""
        ...

    def apply(self, events: Sequence[FolioEvents]) -> None:
        """Learn which folios came and went without the design's doing."""
        ...

    def verify(self) -> None:
        """Prove conservation; RunFailedError where it broke."""
        ...


class BatchingDesign(ABC):
    """Records per page, and batches handed to ``migrate_misplaced_folios_batch()``.

    Args:
        machine: whose pages are walked.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.calls: list[BatchCall] = []
        self.counters: Counter[str] = Counter()
        self.ledger = RequestLedger()
        self.busy_ns = 0.0
        self._active: set[int] = set()
        self._asked: dict[int, int | None] = {}  # head of an isolated folio: what was asked for

    def activated(self, nid: int) -> bool:
        """Whether PGDAT_KMIGRATED_ACTIVATE of a node is set."""
        return nid in self._active

    def apply(self, events: Sequence[FolioEvents]) -> None:
        """End the requests of folios that are gone. Nothing tells the design, so its marks stay."""
        for event in events:
            for head in event.freed.tolist():
                for position in range(head, head + (1 << event.order)):
                    self.ledger.end_pending(position, STALE)

    def verify(self) -> None:
        """Prove conservation: see :meth:`RequestLedger.verify`."""
        pending = self.ledger.pending_positions()
        self.ledger.verify(self._ready_at(pending))

    @abstractmethod
    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pages the records say are READY."""

    def _isolated(self, head: int, asked: int | None) -> None:
        self._asked[head] = asked
        self.counters["isolated"] += 1

    def _flush(self, migrate_list: list[int], nid: int) -> None:
        """Hand a list over and empty it; ``list_add()`` puts each folio at the front."""
        machine, counters = self.machine, self.counters
        heads = migrate_list[::-1]
        migrate_list.clear()
        self.calls.append(BatchCall(tuple(machine.pfn(head) for head in heads), nid))
        counters["batch_calls"] += 1
        counters["batch_folios"] += len(heads)
        if not heads:
            counters["empty_batch_calls"] += 1
            return
        result = machine.migrate(heads, nid)
        self.busy_ns += result.busy_ns
        counters.update(dict(result.counts))
        self._count_success(heads, nid, dict(result.counts).get("pgmigrate_success", 0))
        for head, moved in zip(heads, result.moved, strict=True):
            asked = self._asked.pop(head)
            if moved:
                self.ledger.moved(asked, nid)
            else:
                self.ledger.lose(asked, CONSUMED if nid in machine.nids else INVALID_NID)
        self.apply(result.events)

    def _count_success(self, heads: Sequence[int], nid: int, n_pages: int) -> None:
        """Count base pages moved as the patch does."""
        if n_pages:
            self.counters["numa_pages_migrated"] += n_pages
            self.counters["pgpromote_success"] += n_pages


def sorted_candidates(
    records: NDArray[Any], ready_mask: int, ranges: Sequence[tuple[int, int]], more: Sequence[int] = ()
) -> list[int]:
    """Return the positions in ``ranges`` whose record is READY, and those of ``more``, ascending.

    A walk that looks at every page does nothing at the others, so a model may leave them out.
    """
    found: set[int] = set()
    for lo, hi in ranges:
        found.update((np.flatnonzero(records[lo:hi] & records.dtype.type(ready_mask)) + lo).tolist())
        found.update(position for position in more if lo <= position < hi)
    return sorted(found)
