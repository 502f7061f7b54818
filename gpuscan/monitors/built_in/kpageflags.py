"""Pages that the kernel itself holds for active: REFERENCED and ACTIVE in /proc/kpageflags.

The flags change with reclaim and with a second access through a file, not with every access to mapped
memory, so on a machine without memory pressure they stay as they are. It is the source that every kernel
has, and the weakest.
"""

from __future__ import annotations

from gpuscan.linux.process import Process
from gpuscan.linux.resident import PageFlags, pages_in
from gpuscan.linux.system import HERE, System
from gpuscan.monitors.contract import MonitorKind
from gpuscan.monitors.touched import NOTHING, PageMonitor, Touched, mapped
from gpuscan.records.page_flags import hot_bits
from gpuscan.snapshot.procfs import lru_gen_is_on


class ReferencedFlags(PageMonitor):
    """Pages whose flags say that they were accessed.

    Args:
        system: whose memory it is.
        cold_after_ns: report pages without the flags for this long as cold; None reports none.

    Raises:
        OSError: /proc/kpageflags may not be opened.
    """

    name = "kpageflags"
    sees = "what reclaim noticed (REFERENCED, ACTIVE), page by page"

    def __init__(self, system: System = HERE, cold_after_ns: int | None = None) -> None:
        super().__init__(cold_after_ns)
        self._flags = PageFlags(system.root / "proc/kpageflags", system)
        self._hot_bits = hot_bits(lru_gen_is_on(system))

    def _observed(self, process: Process, now_ns: int) -> Touched:
        if not process.is_alive():
            return NOTHING
        pages = pages_in(process, mapped(process))
        hot = (self._flags.at(pages.pfn) & self._hot_bits) != 0
        return self._touched(process, pages, hot, now_ns)

    def close(self) -> None:
        """Close the file."""
        self._flags.close()


MONITOR = MonitorKind(
    place_in_auto=60,
    opens=(),
    keeps=(),
    watches_frames=False,
    open=lambda here: ReferencedFlags(here.system, here.cold_after_ns),
)
