"""What an engine, or another design in its place, reports: ticks in numbers, and a whole run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arrow import ReadAsTable
from gpuscan.base.program import PROGRAM
from gpuscan.engine.ledger import Ledger
from gpuscan.engine.policy import Policy

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(slots=True)
class TickReport:
    """One tick in numbers. Folios unless the name says pages.

    Attributes:
        tick, now_ns, duration_ns: which one, when it began and how long the source ran.
        marked: accepted requests; refreshed: marks on READY pages; rejected: marks refused at the door.
        candidates, candidate_pages: claimed by the scan.
        n_plans: plans; walks (or turns) of another design's threads.
        n_batches, batch_pages: batches, none of them empty, and base pages in them.
        migrated, migrated_pages, refused, dropped: outcomes of this tick.
        pending: READY afterwards.
        scan_ns: wall time of the scans (another design's: modelled, of all threads together);
            examined_bytes: what they read.
        migrate_busy_ns: time of the busiest migrator (one per target).
        path: dense, indexed, mixed (shards differ) or idle (no node due and active); walk or turn of another
            design's threads.
        network_calls, network_bytes: what went over a network, both ways (0 without shards elsewhere).
        metrics: what the source counted.
    """

    tick: int
    now_ns: int
    duration_ns: int
    marked: int = 0
    refreshed: int = 0
    rejected: int = 0
    candidates: int = 0
    candidate_pages: int = 0
    n_plans: int = 0
    n_batches: int = 0
    batch_pages: int = 0
    migrated: int = 0
    migrated_pages: int = 0
    refused: int = 0
    dropped: int = 0
    pending: int = 0
    scan_ns: int = 0
    examined_bytes: int = 0
    migrate_busy_ns: float = 0.0
    path: str = "idle"
    network_calls: int = 0
    network_bytes: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Walks:
    """What the threads of another design did; the figures are defined in docs/figures.md.

    Attributes:
        kind: ``walk`` through pages, or ``turn`` of a thread that empties lists.
        unit: what is looked at, ``page`` or ``entry``.
        times_ns: float64[n], how long each took to look, modelled, without its migrations.
        n_examined: pages or entries looked at.
        n_batch_folios, batch_limit: folios of all batches, and what one may hold.
        moved_at_fault_pages, at_fault_ns: base pages that moved where they faulted, in no walk, and how long
            the tasks that faulted took for it, modelled.
    """

    kind: str
    unit: str
    times_ns: NDArray[np.float64]
    n_examined: int
    n_batch_folios: int
    batch_limit: int
    moved_at_fault_pages: int
    at_fault_ns: float


@dataclass(slots=True)
class RunReport(ReadAsTable):
    """A whole run.

    Attributes:
        device, device_reason: which backend ran and why.
        topology: the machine's name.
        n_pages: flat pages of the store.
        policy: the settings.
        ticks: one report per tick.
        ledger: where every request went.
        refusals: refused folios by reason, every refusal counted (a folio may be refused more than once).
        design: the scan design; ``gpuscan`` is this engine.
        counters: what another design counted, by the kernel's name where it has one.
        recovery_s: how long each shard that was lost took to be where it was.
        walks: of another design; None for gpuscan, which has scans.
    """

    device: str
    device_reason: str
    topology: str
    n_pages: int
    policy: Policy
    ticks: list[TickReport]
    ledger: Ledger
    refusals: Counter[str]
    design: str = PROGRAM
    counters: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)
    walks: Walks | None = None

    def to_arrow(self) -> pa.Table:
        """Return a row for each tick, see :meth:`columns`; null where a tick has none."""
        import pyarrow as pa

        return pa.table(self.columns())

    def columns(self) -> dict[str, list[Any]]:
        """Return a value for each tick, by name: the fields of :class:`TickReport`, then the metrics of the
        source as ``metric.<name>``, in order of appearance; None where a tick has none.
        """
        columns = {
            column.name: [getattr(tick, column.name) for tick in self.ticks]
            for column in fields(TickReport)
            if column.name != "metrics"
        }
        names = dict.fromkeys(name for tick in self.ticks for name in tick.metrics)
        metrics = {f"metric.{name}": [tick.metrics.get(name) for tick in self.ticks] for name in names}
        return columns | metrics
