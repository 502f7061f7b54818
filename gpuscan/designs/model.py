"""What all models of designs have in common: batch calls, counters, losses, and how they are driven."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.candidates import ready_positions
from gpuscan.designs.machine import BatchCall, Machine, Page, ZoneSpan
from gpuscan.designs.races import Race
from gpuscan.designs.requests import ALREADY_THERE, CONSUMED, INVALID_NID, STALE, RequestLedger
from gpuscan.engine.stages import FolioEvents
from gpuscan.sim.spec import KernelCostSpec


class Model(ABC):
    """A design at work on a machine: it finds pages, and hands them to ``migrate_misplaced_folios_batch()``.

    Args:
        machine: whose pages are walked.

    Attributes:
        sleep_ns: timeout of the thread's wait.
        batch_folios: folios after which a batch is flushed.
        hint_faults: whether what is marked are hint faults; whoever drives the design says so.
        calls: every ``migrate_misplaced_folios_batch(list, nid)`` call.
        counters: by the kernel's names where it has one.
        ledger: where every request went.
        busy_ns: modelled time of all migrations.
        span: what the walk under way, or the last one, went through last.
    """

    sleep_ns: int
    batch_folios: int

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.calls: list[BatchCall] = []
        self.counters: Counter[str] = Counter()
        self.ledger = RequestLedger()
        self.busy_ns = 0.0
        self.span: ZoneSpan | None = None
        self.hint_faults = True
        self._active: set[int] = set()
        self._asked: dict[int, int | None] = {}  # head of an isolated folio: what was asked for

    @abstractmethod
    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """Handle an access that a producer reports from a CPU, to a page that shall go to a node; 0 or
        -errno."""

    def mark_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
    ) -> None:
        """Handle accesses, one after the other: see :meth:`mark`."""
        rows = zip(pfns.tolist(), nids.tolist(), jiffies.tolist(), cpus.tolist(), strict=True)
        for pfn, nid, now_jiffies, cpu in rows:
            self.mark(pfn, nid, now_jiffies, cpu=cpu)

    def report_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> None:
        """Handle reports of several accesses each, one after the other, from a producer that counts accesses
        and only guesses the node; by default each is a mark of that node."""
        self.mark_many(pfns, nids, jiffies, cpus)

    @abstractmethod
    def walk(self, nid: int, races: Iterable[Race] = (), *, now_jiffies: int = 0) -> None:
        """Do one round of a node's thread; time stands still meanwhile.

        Args:
            nid: the node.
            races: marks that interleave with what the thread does at their page, for a design whose
                declaration says ``two_atomics``.
            now_jiffies: the time.
        """

    def has_thread(self, nid: int) -> bool:
        """Whether a node with memory has a thread."""
        return True

    def spans(self, nid: int) -> Sequence[ZoneSpan]:
        """Return what a walk of a node may go through, in its order; nothing where there is no walk."""
        return ()

    def will_walk(self, span: ZoneSpan) -> bool:
        """Whether a walk that comes to one of its :meth:`spans` now goes through it."""
        return True

    def raise_flag(self, span: ZoneSpan) -> None:
        """Set the flag of a span, where there is one, as a mark does that comes while the span is walked."""
        return

    def n_before(self, span: ZoneSpan, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n]: how many PFNs of a span a walk looks at before it comes to each of these."""
        return pfns - span.start_pfn

    def n_examined(self, span: ZoneSpan) -> int:
        """Return how many PFNs of a span a walk looks at."""
        return int(self.n_before(span, np.array([span.end_pfn]))[0])

    def finish(self) -> None:
        """Book, at the end of a run, what is pending but will not be found."""
        return

    def producer_wait_ns(self, duration_ns: int, cost: KernelCostSpec, n_cpus: int) -> float:
        """Return how long producers waited for locks since the last call, ``duration_ns`` ago, modelled."""
        return 0.0

    def producer_ns(self, cost: KernelCostSpec) -> float:
        """Return what all marks took besides waiting, modelled: cold lines and locked instructions."""
        counters = self.counters
        return counters["producer_lines"] * cost.cold_line_ns + counters["producer_atomics"] * cost.atomic_ns

    def activate(self, nid: int) -> None:
        """Set PGDAT_KMIGRATED_ACTIVATE of a node."""
        self._active.add(nid)

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

    def _charge(self, lines: int, *, atomics: int, n_marks: int = 1) -> None:
        """Count what each mark costs its producer: cache lines that other CPUs wrote, locked instructions."""
        counters = self.counters
        counters["producer_marks"] += n_marks
        counters["producer_lines"] += n_marks * lines
        counters["producer_atomics"] += n_marks * atomics

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
            counters["sent_to_wrong_node"] += nid not in machine.nids or asked not in (None, nid)
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
        found.update(ready_positions(records, lo, hi, ready_mask).tolist())
        found.update(position for position in more if lo <= position < hi)
    return sorted(found)
