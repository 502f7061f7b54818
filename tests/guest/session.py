"""A live run in the process of the test: what ``gpuscan live`` does, without waiting for another Python."""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.engine.stages import MigrateResult, MigrateStatus, Migrator
from gpuscan.engine.tick import RunReport, TickReport
from gpuscan.live.session import LiveRequest, LiveSession, LiveTotals

from .kernel import other_moves, vmstat

AFTERWARDS_S = 2.0
"""How long a run goes on when it has reached what was waited for: what it does too much would show."""


@dataclass
class Ran:
    """A live run that has ended.

    Attributes:
        totals, report: as ``gpuscan live`` would print them.
        ticks: time since the monitor was on, base pages moved by then.
        refusals: per tick, by reason.
        disagreements: batches of which the kernel moved another number of pages than gpuscan says.
        migrated_pages: what the kernel counted meanwhile (``pgmigrate_success``), in base pages.
        huge_migrated: huge pages that moved as such.
        other_moves: what others moved meanwhile; then the kernel's count is not ours alone.
    """

    totals: LiveTotals
    report: RunReport
    ticks: list[tuple[float, int]] = field(default_factory=list)
    refusals: list[dict[str, int]] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    migrated_pages: int = 0
    huge_migrated: int = 0
    other_moves: Counter[str] = field(default_factory=Counter)

    def refused(self, word: str) -> int:
        """Return how often folios were refused for a reason with ``word`` in it."""
        return sum(count for reason, count in self.report.refusals.items() if word in reason)


def run_live(
    *pids: int,
    for_s: float,
    until: Callable[[LiveTotals, Counter[str]], bool] | None = None,
    **options: Any,
) -> Ran:
    """Run on processes for some seconds.

    Args:
        pids: the processes.
        for_s: how long from when the monitor is on, at most.
        until: asked after each tick, with the totals and all refusals so far; two seconds after its first
            yes the run is interrupted, as by Ctrl-C.
        options: of :class:`gpuscan.live.session.LiveRequest`.
    """
    request = LiveRequest(pids=pids, for_ns=int(for_s * 1e9), device="cpu", **options)
    ticks: list[tuple[float, int]] = []
    refusals: list[dict[str, int]] = []
    refused_so_far: Counter[str] = Counter()
    reached_s = math.inf

    def on_tick(tick: TickReport, totals: LiveTotals, refused: dict[str, int]) -> None:
        ticks.append((totals.elapsed_ns / 1e9, totals.moved_pages))
        refusals.append(refused)
        refused_so_far.update(refused)
        nonlocal reached_s
        if until is not None and reached_s == math.inf and until(totals, refused_so_far):
            reached_s = time.monotonic()
        if time.monotonic() > reached_s + AFTERWARDS_S:
            signal.raise_signal(signal.SIGINT)
            reached_s = math.inf

    with LiveSession(request) as session:
        disagreements = _compare_batches(session.migrator)
        before, others = vmstat(), other_moves()
        report = session.run(lambda: None, on_tick)
        totals = session.totals
        time.sleep(0.2)  # the kernel's counters are per CPU and are summed up when read, a moment apart
        after = vmstat()
    return Ran(
        totals,
        report,
        ticks,
        refusals,
        disagreements,
        migrated_pages=after["pgmigrate_success"] - before["pgmigrate_success"],
        huge_migrated=after["thp_migration_success"] - before["thp_migration_success"],
        other_moves=Counter(other_moves()) - Counter(others),
    )


def _compare_batches(migrator: Migrator) -> list[str]:
    """Compare every batch from now on with the kernel's count; return what disagreements are put in."""
    found: list[str] = []
    migrate = migrator.migrate

    def compared(target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        before = vmstat()["pgmigrate_success"]
        result = migrate(target_nid, pfns, n_pages)
        by_kernel = vmstat()["pgmigrate_success"] - before
        moved = int(n_pages[result.status == MigrateStatus.MOVED].sum())
        if by_kernel != moved:
            sizes = dict(zip(*np.unique(n_pages, return_counts=True), strict=True))
            found.append(f"kernel {by_kernel}, gpuscan {moved}, folios by pages {sizes}, {result.reasons}")
        return result

    migrator.migrate = compared  # type: ignore[method-assign]
    return found
