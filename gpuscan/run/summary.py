"""A run in numbers: the share of accesses that fast memory served, the scans, the batches, what moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuscan.base.units import PAGE_BYTES
from gpuscan.engine.tick import RunReport, TickReport

_AFTER_SHARE = 1 / 10
"""Part of the ticks that "after" is averaged over, at least one tick. "Before" is the first tick
alone: nothing has moved yet while it is sampled."""


@dataclass(frozen=True, slots=True)
class FastShare:
    """Share of accesses served by fast memory, 0 to 1.

    Attributes:
        before, after: in the first tick that had accesses, before anything moved, and over the last tenth of
            the ticks, or where that had none in the last tick that had some.
        lowest: of any tick.
        series: per tick; NaN where nothing was accessed.
    """

    before: float
    after: float
    lowest: float
    series: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in numbers.

    Attributes:
        fast: None where the source counts no accesses.
        n_ticks, simulated_ns: rounds, and the time that passed in them.
        n_scans: ticks in which something was scanned; of another design, walks (or turns).
        scan_ns_p50, scan_ns_p99, scan_ns_total: wall time of those scans; of walks, modelled.
        paths: scans by path, ``{"dense": 3, "indexed": 97}``; of another design ``{"walk": 8107}``.
        examined_bytes: what the scans read.
        n_plans, n_batches: plans (of another design: walks) and batches.
        batch_fill: what the batches held over what they could hold; NaN without batches.
        batch_limit, batch_unit: what one could hold: base pages; of another design, folios.
        migrated_pages: base pages moved.
        migrate_busy_ns: time of the busiest migrator of each tick, summed.
        network_calls, network_bytes: what went to shards elsewhere and back, summed.
        network_bytes_p50: of a tick.
        metrics: what the source counted, summed over the ticks.
    """

    fast: FastShare | None
    n_ticks: int
    simulated_ns: int
    n_scans: int
    scan_ns_p50: float
    scan_ns_p99: float
    scan_ns_total: int
    paths: dict[str, int]
    examined_bytes: int
    n_plans: int
    n_batches: int
    batch_fill: float
    batch_limit: int
    batch_unit: str
    migrated_pages: int
    migrate_busy_ns: float
    network_calls: int
    network_bytes: int
    network_bytes_p50: float
    metrics: dict[str, float]

    @property
    def migrated_bytes(self) -> int:
        """Bytes moved."""
        return self.migrated_pages * PAGE_BYTES


def summarize(report: RunReport) -> RunSummary:
    """Return the summary of a run (one without a tick has zeros and NaN)."""
    ticks = report.ticks
    n_batches, walks = sum(tick.n_batches for tick in ticks), report.walks
    if walks is None:
        scans = [tick for tick in ticks if tick.n_plans]
        scan_ns = np.array([tick.scan_ns for tick in scans], dtype=np.float64)
        paths = dict(Counter(tick.path for tick in scans))
        in_batches, limit, unit = sum(tick.batch_pages for tick in ticks), report.policy.batch_pages, "pages"
    else:
        scan_ns = walks.times_ns
        paths = {walks.kind: len(scan_ns)} if len(scan_ns) else {}
        in_batches, limit, unit = walks.n_batch_folios, walks.batch_limit, "folios"
    return RunSummary(
        fast=_fast_share(ticks),
        n_ticks=len(ticks),
        simulated_ns=sum(tick.duration_ns for tick in ticks),
        n_scans=len(scan_ns),
        scan_ns_p50=float(np.percentile(scan_ns, 50)) if len(scan_ns) else float("nan"),
        scan_ns_p99=float(np.percentile(scan_ns, 99)) if len(scan_ns) else float("nan"),
        scan_ns_total=int(scan_ns.sum()),
        paths=paths,
        examined_bytes=sum(tick.examined_bytes for tick in ticks),
        n_plans=sum(tick.n_plans for tick in ticks),
        n_batches=n_batches,
        batch_fill=in_batches / (n_batches * limit) if n_batches else float("nan"),
        batch_limit=limit,
        batch_unit=unit,
        migrated_pages=sum(tick.migrated_pages for tick in ticks),
        migrate_busy_ns=sum(tick.migrate_busy_ns for tick in ticks),
        network_calls=sum(tick.network_calls for tick in ticks),
        network_bytes=sum(tick.network_bytes for tick in ticks),
        network_bytes_p50=float(np.median([tick.network_bytes for tick in ticks])) if ticks else 0.0,
        metrics=_summed_metrics(ticks),
    )


def fast_share(tick: TickReport) -> float | None:
    """Return the share of a tick's accesses that fast memory served; None where the source tells of none."""
    accesses = tick.metrics.get("accesses", 0.0)
    return tick.metrics["accesses_fast"] / accesses if accesses and "accesses_fast" in tick.metrics else None


def _fast_share(ticks: Sequence[TickReport]) -> FastShare | None:
    told = [tick.metrics if fast_share(tick) is not None else {} for tick in ticks]
    accesses = np.array([metrics.get("accesses", 0.0) for metrics in told])
    fast = np.array([metrics.get("accesses_fast", 0.0) for metrics in told])
    if not accesses.sum():
        return None
    series = np.divide(fast, accesses, out=np.full(len(ticks), np.nan), where=accesses > 0)

    known = series[accesses > 0]
    n_after = max(1, round(len(ticks) * _AFTER_SHARE))
    n_at_end = accesses[-n_after:].sum()
    return FastShare(
        before=float(known[0]),
        after=float(fast[-n_after:].sum() / n_at_end if n_at_end else known[-1]),
        lowest=float(np.nanmin(series)),
        series=tuple(series.tolist()),
    )


def _summed_metrics(ticks: Sequence[TickReport]) -> dict[str, float]:
    """Sum counts over the ticks; a mean (``mean_...``) is averaged over the ticks that have it."""
    values: dict[str, list[float]] = {}
    for tick in ticks:
        for name, value in tick.metrics.items():
            values.setdefault(name, []).append(value)
    return {
        name: sum(of_name) / len(of_name) if name.startswith("mean_") else sum(of_name)
        for name, of_name in values.items()
    }
