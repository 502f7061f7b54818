"""What all designs have in common: batch calls, counters, losses, and how they are driven."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.machine import BatchCall, Machine, Page
from gpuscan.designs.requests import ALREADY_THERE, CONSUMED, INVALID_NID, STALE, RequestLedger
from gpuscan.flow import FolioEvents


class Design(ABC):
    """A way to find the pages that shall move, and to hand them to ``migrate_misplaced_folios_batch()``.

    Args:
        machine: whose pages are walked.

    Attributes:
        name: as ``gpuscan run --design`` takes it.
        sleep_ns: timeout of the thread's wait.
        needs_flag: whether the thread walks only where the node's flag is set.
        counts_accesses: the producer reports every fault; otherwise do_numa_page() decides first.
        bypasses_thp: PMD-mapped folios are not marked but moved where they fault.
        calls: every ``migrate_misplaced_folios_batch(list, nid)`` call.
        counters: by the kernel's names where it has one.
        ledger: where every request went.
        busy_ns: modelled time of all migrations.
    """

    name: ClassVar[str]
    sleep_ns: int
    needs_flag: ClassVar[bool]
    counts_accesses: ClassVar[bool] = False
    bypasses_thp: ClassVar[bool] = False

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.calls: list[BatchCall] = []
        self.counters: Counter[str] = Counter()
        self.ledger = RequestLedger()
        self.busy_ns = 0.0
        self._active: set[int] = set()
        self._asked: dict[int, int | None] = {}  # head of an isolated folio: what was asked for

    @property
    @abstractmethod
    def record_bytes(self) -> int:
        """Bytes of a page's record."""

    @abstractmethod
    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """Handle a hint fault on a CPU that names a page and a node; 0 or -errno."""

    @abstractmethod
    def walk(self, nid: int, *, now_jiffies: int = 0) -> None:
        """Do one round of a node's thread; time stands still meanwhile."""

    def has_thread(self, nid: int) -> bool:
        """Whether a node with memory has a thread."""
        return True

    def finish(self) -> None:
        """Book, at the end of a run, what is pending but will not be found."""
        return

    def activated(self, nid: int) -> bool:
        """Whether PGDAT_KMIGRATED_ACTIVATE of a node is set."""
        return nid in self._active

    def apply(self, events: Sequence[FolioEvents]) -> None:
        """End the requests of folios that are gone. Nothing tells the design, so its marks stay."""
        for event in events:
            for head in event.freed.tolist():
                self._freed(head, 1 << event.order)

    def _freed(self, head: int, n_pages: int) -> None:
        if self.ledger.pending:
            for position in range(head, head + n_pages):
                self.ledger.end_pending(position, STALE)

    def verify(self) -> None:
        """Prove conservation: see :meth:`RequestLedger.verify`."""
        pending = self.ledger.pending_positions()
        self.ledger.verify(self._ready_at(pending))

    @abstractmethod
    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pages the records say are READY."""

    def _at_home(self, page: Page, nid: int, asked: int | None, reason: str = ALREADY_THERE) -> bool:
        """Return whether a claimed folio is on its target already, which ends the request."""
        self.counters["invalid_nid"] += nid not in self.machine.nids
        if page.nid != nid:
            return False
        self.counters["at_home"] += 1
        self.ledger.lose(asked, reason)
        return True

    def _isolate(self, page: Page, nid: int, asked: int | None, *, still_there: bool = True) -> bool:
        """Check and isolate a claimed folio; what is refused here is forgotten."""
        if not still_there or self.machine.prepare(page.head, nid):
            self.counters["prepare_refused"] += 1
            self.ledger.lose(asked, CONSUMED if nid in self.machine.nids else INVALID_NID)
            return False
        self._asked[page.head] = asked
        self.counters["isolated"] += 1
        self.counters["batch_pages"] += page.n_pages
        return True

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
