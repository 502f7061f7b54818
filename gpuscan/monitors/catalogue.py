"""Choosing a monitor: the one that was asked for, or the first of a list that works here."""

from __future__ import annotations

from collections.abc import Callable

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux.capabilities import FLAGS, FRAMES, KEPT, Right
from gpuscan.linux.damon import Intervals
from gpuscan.linux.system import HERE, System
from gpuscan.monitors.contract import Monitor, PageMonitor
from gpuscan.monitors.damon import MOST_PROCESSES, DamonPhysical, DamonVirtual
from gpuscan.monitors.idle import IdleTracking
from gpuscan.monitors.kpageflags import ReferencedFlags
from gpuscan.monitors.largest import Largest
from gpuscan.monitors.pagemap_scan import SoftDirty, WrittenPages
from gpuscan.topology import Topology

SOURCES = ("auto", "damon", "damon-paddr", "idle", "soft-dirty", "written", "kpageflags")
"""What ``--monitor`` takes. ``auto`` tries the others in this order."""


_CLASSES: dict[str, type[PageMonitor] | type[DamonVirtual] | type[DamonPhysical]] = {
    "damon": DamonVirtual,
    "damon-paddr": DamonPhysical,
    "idle": IdleTracking,
    "soft-dirty": SoftDirty,
    "written": WrittenPages,
    "kpageflags": ReferencedFlags,
}


def rights_of(source: str) -> list[Right]:
    """Return the rights that a live run with a monitor needs, for processes of whomever.

    Args:
        source: one of :data:`SOURCES` but ``auto``.

    Raises:
        InputError: there is no such monitor.
    """
    if source not in _CLASSES:
        raise InputError(f"there is no monitor {source!r}; give one of {', '.join(_CLASSES)}")
    monitor = _CLASSES[source]
    return list(dict.fromkeys([FRAMES, FLAGS, *KEPT, *monitor.opens, *monitor.keeps]))


def open_monitor(
    asked: str,
    topology: Topology,
    n_processes: int,
    *,
    starts: bool = False,
    intervals: Intervals | None = None,
    cold_after_ns: int | None = None,
    system: System = HERE,
) -> tuple[Monitor, list[str]]:
    """Open a monitor.

    Args:
        asked: one of :data:`SOURCES`.
        topology: of the machine; physical memory to watch is that of its nodes.
        n_processes: how many processes there are to watch.
        starts: whether gpuscan will start the process: ``written`` sees no others.
        intervals: of DAMON.
        cold_after_ns: when a page counts as cold; None where cold pages are of no interest.
        system: where they run.

    Returns:
        The monitor, and why each one before it does not work here.

    Raises:
        InputError: the one that was asked for does not work, or none does.
    """

    def virtual() -> Monitor:
        if asked == "auto" and n_processes > MOST_PROCESSES:
            raise InputError(f"{n_processes} processes would take as many kdamonds")
        return Largest(DamonVirtual(system, intervals, cold_after_ns), MOST_PROCESSES)

    def physical() -> Monitor:
        ranges = [
            (start * PAGE_BYTES, end * PAGE_BYTES)
            for node in topology.nodes
            for zone in node.zones
            for start, end in zone.present
        ]
        return DamonPhysical(ranges, system, intervals, cold_after_ns)

    def written() -> Monitor:
        if not starts:
            raise InputError("only a program that gpuscan starts can be tracked; give -- COMMAND")
        return WrittenPages(cold_after_ns)

    makers: dict[str, Callable[[], Monitor]] = {
        "damon": virtual,
        "damon-paddr": physical,
        "idle": lambda: IdleTracking(system, cold_after_ns),
        "soft-dirty": lambda: SoftDirty(cold_after_ns, system),
        "written": written,
        "kpageflags": lambda: ReferencedFlags(system, cold_after_ns),
    }
    if asked not in SOURCES:
        raise InputError(f"there is no monitor {asked!r}; --monitor takes {', '.join(SOURCES)}")
    if asked != "auto":
        return makers[asked](), []
    refused: list[str] = []
    for name, make in makers.items():
        try:
            return make(), refused
        except (InputError, OSError) as error:
            refused.append(f"{name}: {error}")
    raise InputError(f"no monitor works here ({'; '.join(refused)}); run gpuscan as root")
