"""What a live run comes to: sums over its looks, CPU time included, and how it ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gpuscan.base.histogram import Histogram
from gpuscan.linux.system import System
from gpuscan.migrate.move_pages import WAIT_BOUNDS_S
from gpuscan.monitors.contract import Monitor

_PAGES_ARE_LEFT = 4
"""Exit code: a node was to be emptied, and is not empty."""
_BOUNDS_S = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0)


@dataclass(slots=True)
class LiveTotals:
    """Sums over a run, and the state after its last tick.

    Attributes:
        n_ticks: looks.
        elapsed_ns: from when the monitor was on to the end of the last look; its moves come after that.
        moved_pages, planned_pages: base pages.
        moved_to: base pages moved, by target nid; planned_to: those that a dry run would have moved.
        demoted_pages: base pages moved to a lower tier.
        moved_shared_pages, moved_hugetlb_pages: of those moved, such that several map, and of hugetlbfs.
        resident_pages: of all processes, by nid.
        hot_pages, hot_near_pages: seen accessed in the last tick, and of these near already.
        skipped: pages that were no candidates and races, by reason.
        gpuscan_cpu_s, kernel_cpu_s: CPU time of gpuscan, and of kernel threads for it, since the monitor
            was on.
        spent_within_s: how long that is, with the moves of the last tick.
        n_split: large folios that the kernel split on the way.
        look_s, scan_s: how long looks at the processes took, and scans for what to move.
        batch_s: how long batches took to move; waited_s: from when a folio was seen to when it had moved.
        end_reason: why it ended; ended_by: the signal, where it was one; failure: what broke it off.
        left_pages: base pages that are on a node still that was to be emptied.
        command_exit: of the command that gpuscan started; command_was_ended: by gpuscan, with the run.
    """

    n_ticks: int = 0
    elapsed_ns: int = 0
    moved_pages: int = 0
    planned_pages: int = 0
    moved_to: Counter[int] = field(default_factory=Counter)
    planned_to: Counter[int] = field(default_factory=Counter)
    demoted_pages: int = 0
    moved_shared_pages: int = 0
    moved_hugetlb_pages: int = 0
    resident_pages: dict[int, int] = field(default_factory=dict)
    hot_pages: int = 0
    hot_near_pages: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    gpuscan_cpu_s: float = 0.0
    kernel_cpu_s: float = 0.0
    spent_within_s: float = 0.0
    n_split: int = 0
    look_s: Histogram = field(default_factory=lambda: Histogram(_BOUNDS_S))
    scan_s: Histogram = field(default_factory=lambda: Histogram(_BOUNDS_S))
    batch_s: Histogram = field(default_factory=lambda: Histogram(_BOUNDS_S))
    waited_s: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS_S))
    end_reason: str = ""
    ended_by: int | None = None
    failure: str = ""
    left_pages: int = 0
    command_exit: int | None = None
    command_was_ended: bool = False

    def batch(self, now_ns: int, target_nid: int, n_folios: int, n_pages: int, busy_ns: float) -> None:
        """See :class:`gpuscan.engine.stages.Clocked`."""
        self.batch_s.add(busy_ns / 1e9)

    def walk(self, nid: int, start_ns: int, look_ns: float, migrate_ns: float) -> None:
        """See :class:`gpuscan.engine.stages.Clocked`; live has none."""

    @property
    def overhead(self) -> float:
        """Part of one CPU that gpuscan and its kernel threads took; 0 before the first tick."""
        return (self.gpuscan_cpu_s + self.kernel_cpu_s) / self.spent_within_s if self.spent_within_s else 0.0

    @property
    def own_share(self) -> float:
        """Part of one CPU that gpuscan itself took; 0 before the first tick."""
        return self.gpuscan_cpu_s / self.spent_within_s if self.spent_within_s else 0.0

    @property
    def kernel_share(self) -> float:
        """Part of one CPU that kernel threads took for it; 0 before the first tick."""
        return self.kernel_cpu_s / self.spent_within_s if self.spent_within_s else 0.0

    @property
    def exit_code(self) -> int:
        """The code to end with: that of a command that ended by itself (128 + n after signal n), else 0.

        4 where pages are left on a node that was to be emptied.
        """
        if self.left_pages:
            return _PAGES_ARE_LEFT
        if self.command_exit is None or self.command_was_ended:
            return 0
        return self.command_exit if self.command_exit >= 0 else 128 - self.command_exit


class CpuClock:
    """CPU time from now on: gpuscan's own, and that of kernel threads that work for it."""

    def __init__(self, system: System, monitor: Monitor) -> None:
        self._system = system
        self._monitor = monitor
        self._own_s = system.process_time()
        self._kernel_s = monitor.cpu_s()
        self._began_ns = system.monotonic_ns()

    def spent(self) -> tuple[float, float, float]:
        """Return both, and within how much time, in seconds."""
        return (
            self._system.process_time() - self._own_s,
            self._monitor.cpu_s() - self._kernel_s,
            (self._system.monotonic_ns() - self._began_ns) / 1e9,
        )
