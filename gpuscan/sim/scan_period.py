"""How often NUMA balancing visits a process: the arithmetic of kernel/sched/fair.c (Linux 6.1 to 6.16).

task_nr_scan_windows(), task_scan_min(), task_scan_max() and update_task_scan_period(), which
task_numa_placement() calls after each pass over the address space. Without numa_group, which only
lengthens task_scan_start() and task_scan_max() of tasks that share pages.

Two consequences of the code that tests pin down:

- A failed migration (``numa_faults_locality[2]``) doubles the period, and the branch that doubles it
  returns before the counts are zeroed. One failure thus keeps doubling it, pass after pass, up to the
  longest one.
- In memory tiering mode task_numa_fault() returns early for a page that stays below the top tier, so a
  promotion that failed is not counted. The faults that count are those of promoted pages, remote and
  private, and for these ``local + shared == 0``: the period doubles too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import table, whole
from gpuscan.base.units import PAGE_BYTES
from gpuscan.sim.spec import HintFaultSpec

MAX_SCAN_WINDOW_MB = 2560
NUMA_PERIOD_SLOTS = 10
NUMA_PERIOD_THRESHOLD = 7
_MS_PER_S = 1000
_NS_PER_MS = 1_000_000


def n_scan_windows(rss_pages: int, scan_bytes: int) -> int:
    """Return how many visits task_nr_scan_windows() expects of a pass over ``rss_pages``, at least one.

    Its round_up() sets the low bits of the size, which rounds to a multiple where ``scan_bytes`` is a power
    of two; else what comes out may be one visit less than a pass takes.
    """
    n_scan_pages = scan_bytes // PAGE_BYTES
    rounded = (max(rss_pages, 1) - 1 | n_scan_pages - 1) + 1
    return rounded // n_scan_pages


def scan_min_ms(period_min_ms: int, rss_pages: int, scan_bytes: int) -> int:
    """Return the shortest period: a pass takes ``period_min_ms``, but no more than 2,560 MB a second.

    At least 1 ms, where the kernel's division may come to 0.
    """
    scan_mb = max(1, scan_bytes >> 20)
    windows = MAX_SCAN_WINDOW_MB // scan_mb if scan_mb < MAX_SCAN_WINDOW_MB else 1
    return max(1, _MS_PER_S // windows, period_min_ms // n_scan_windows(rss_pages, scan_bytes))


def scan_max_ms(period_min_ms: int, period_max_ms: int, rss_pages: int, scan_bytes: int) -> int:
    """Return the longest period: a pass takes ``period_max_ms``; never below the shortest one."""
    longest = period_max_ms // n_scan_windows(rss_pages, scan_bytes)
    return max(scan_min_ms(period_min_ms, rss_pages, scan_bytes), longest)


@dataclass(slots=True)
class FaultCounts:
    """Base pages of hint faults since the last update.

    Attributes:
        remote, local, failed: ``numa_faults_locality``: by whether the page was on the CPU's node, and
            those that could not be migrated.
        shared, private: by whether another task faulted on the page before.
    """

    remote: int = 0
    local: int = 0
    failed: int = 0
    shared: int = 0
    private: int = 0


class ScanPeriod:
    """``numa_scan_period`` of a process, with the faults it follows from.

    Args:
        spec: scan size, shortest and longest period.
        rss_pages: base pages of the process.

    Attributes:
        rss_pages: as given.
        period_ms: pause until the next visit.
        counts: faults since the last update.
    """

    def __init__(self, spec: HintFaultSpec, rss_pages: int) -> None:
        self.rss_pages = rss_pages
        shortest_ms = spec.scan_period_min_ns // _NS_PER_MS
        longest_ms = spec.scan_period_max_ns // _NS_PER_MS
        scan_bytes = max(PAGE_BYTES, spec.scan_bytes)  # the scanner unmaps a page at least
        self.min_ms = scan_min_ms(shortest_ms, rss_pages, scan_bytes)
        self.max_ms = scan_max_ms(shortest_ms, longest_ms, rss_pages, scan_bytes)
        self.period_ms = self.min_ms  # task_scan_start()
        self.counts = FaultCounts()

    def update(self) -> bool:
        """Move the period after a pass: ``update_task_scan_period()``.

        Returns:
            Whether it was doubled, after which the kernel puts off the next visit by a whole period.
        """
        counts = self.counts
        shared, private, counts.shared, counts.private = counts.shared, counts.private, 0, 0
        if counts.local + shared == 0 or counts.failed:
            self.period_ms = min(self.max_ms, 2 * self.period_ms)
            return True
        slot_ms = -(-self.period_ms // NUMA_PERIOD_SLOTS)
        local = counts.local * NUMA_PERIOD_SLOTS // (counts.local + counts.remote)
        alone = private * NUMA_PERIOD_SLOTS // (private + shared)
        if alone >= NUMA_PERIOD_THRESHOLD:
            slots = max(1, alone - NUMA_PERIOD_THRESHOLD)
        elif local >= NUMA_PERIOD_THRESHOLD:
            slots = max(1, local - NUMA_PERIOD_THRESHOLD)
        else:
            slots = max(local, alone) - NUMA_PERIOD_THRESHOLD
        self.period_ms = min(max(self.period_ms + slots * slot_ms, self.min_ms), self.max_ms)
        counts.remote = counts.local = counts.failed = 0
        return False

    def state(self) -> dict[str, Any]:
        """Return all that faults have changed, for :meth:`restore`."""
        return {"period_ms": self.period_ms, "counts": asdict(self.counts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, a period of the same spec and size.

        Raises:
            ValueError: it was of another.
        """
        found = table(state, "a scan period", ("period_ms", "counts"))
        names = tuple(place.name for place in fields(FaultCounts))
        counts = table(found["counts"], "the counts of a scan period", names)
        self.period_ms = whole(found["period_ms"], 1, max(self.min_ms, self.max_ms), "period_ms")
        self.counts = FaultCounts(**{name: whole(counts[name], 0, INT64_MAX, name) for name in names})
