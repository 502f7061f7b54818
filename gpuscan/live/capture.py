"""A snapshot of the machine in which the hot pages are those that a monitor saw processes use.

``gpuscan scan`` and ``gpuscan run`` then say of that snapshot what a live run would move.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import format_time
from gpuscan.linux import capabilities
from gpuscan.linux.resident import PageFlags, pages_in
from gpuscan.linux.system import HERE, System
from gpuscan.live.members import Pids, Roster
from gpuscan.live.page_tables import Table, page_tables
from gpuscan.live.request import INTERVAL_NS
from gpuscan.live.session import THRESHOLD
from gpuscan.monitors.catalogue import open_monitor
from gpuscan.monitors.contract import Circumstances
from gpuscan.monitors.touched import Touched, mapped
from gpuscan.records.page_flags import Kpf, bits
from gpuscan.snapshot.procfs import Progress, capture
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.topology.page_size import check_page_size

_HOT = bits(Kpf.REFERENCED, Kpf.ACTIVE)


def capture_processes(
    pids: Sequence[int],
    for_ns: int,
    *,
    monitor: str = "auto",
    system: System = HERE,
    progress: Progress | None = None,
    on_watch: Callable[[str], None] = lambda name: None,
    with_cgroups: bool = False,
    on_captured: Callable[[Iterator[Table]], None] | None = None,
) -> Snapshot:
    """Watch processes for a while, then read the machine's page flags.

    In the snapshot the folios that at least two looks found accessed are REFERENCED, all others
    neither that nor ACTIVE; a note says so. Only folios are marked that the processes have before
    the flags are read and after: what is not theirs any more may be another's by then.

    Args:
        pids: of the processes.
        for_ns: how long to watch.
        monitor: one of :data:`gpuscan.monitors.catalogue.MONITORS`, or ``auto`` for the first that works.
        system: where they run.
        progress, with_cgroups: as for :func:`gpuscan.snapshot.procfs.capture`.
        on_watch: called with the name of the monitor once it is on.
        on_captured: called right after the page flags were read, with the pages of these very processes as
            they are read (:func:`gpuscan.live.page_tables.page_tables`).

    Raises:
        InputError: a process cannot be watched, rights are missing, or no monitor works.
        RunFailedError: a read failed midway.
    """
    capabilities.check_live(foreign=False, system=system)
    looks: list[NDArray[np.int64]] = []
    with ExitStack() as stack:
        roster = Roster(Pids(pids), system)
        stack.callback(roster.close)
        flags = PageFlags(system.root / "proc/kpageflags", system)
        stack.callback(flags.close)
        flags.check_shown()
        host = system.read_host()
        check_page_size(host.page_bytes, "capture")
        here = Circumstances(host.topology, len(pids), system=system)
        watching, refused = open_monitor(monitor, here)
        stack.callback(watching.close)
        watching.watch([process for _, process in roster.alive()])
        on_watch(watching.name)
        begun_ns = system.monotonic_ns()
        ended_after: dict[int, str] = {}
        while system.monotonic_ns() < begun_ns + for_ns and roster.alive():
            looks += [_accessed(touched, flags) for touched in watching.observe(system.monotonic_ns())]
            _note_ends(ended_after, pids, roster, system.monotonic_ns() - begun_ns)
            system.sleep(INTERVAL_NS / 1e9)
        watched = format_time(system.monotonic_ns() - begun_ns)
        heads, counts = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *looks]), return_counts=True)
        before = _heads(roster, flags)
        snapshot = capture(system.root, progress, with_cgroups=with_cgroups)
        _note_ends(ended_after, pids, roster, system.monotonic_ns() - begun_ns)
        theirs = np.intersect1d(before, _heads(roster, flags), assume_unique=True)
        if on_captured is not None:
            on_captured(page_tables(process for _, process in roster.alive()))
    named = ", ".join(map(str, pids))
    notes = [f"not {text}" for text in refused]
    notes += [
        f"process {pid} ended after {after}; none of its pages is marked"
        for pid, after in ended_after.items()
    ]
    notes.append(
        f"hot: what {watching.name} saw process {named} access in two looks of {watched}; no other page"
    )
    hot = np.intersect1d(heads[counts >= THRESHOLD], theirs, assume_unique=True)
    return dataclasses.replace(_marked(snapshot, hot), notes=(*snapshot.notes, *notes))


def _note_ends(ended_after: dict[int, str], pids: Sequence[int], roster: Roster, passed_ns: int) -> None:
    running = {process.pid for _, process in roster.alive()}
    for pid in pids:
        if pid not in running:
            ended_after.setdefault(pid, format_time(passed_ns))


def _heads(roster: Roster, flags: PageFlags) -> NDArray[np.int64]:
    """Return the heads of the folios that the processes have mapped now, ascending."""
    of_each = [flags.folios_of(pages_in(process, mapped(process)).pfn).head for _, process in roster.alive()]
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *of_each]))


def _accessed(touched: Touched, flags: PageFlags) -> NDArray[np.int64]:
    """Return the heads of the folios of one look, twice where it stands for many."""
    folios = flags.folios_of(touched.hot.pfn)
    marked = folios.movable & ~folios.hugetlb
    once = np.unique(folios.head[marked])
    if touched.sure is None:
        return once
    return np.concatenate([once, np.unique(folios.head[marked & touched.sure])])


def _marked(snapshot: Snapshot, heads: NDArray[np.int64]) -> Snapshot:
    flats = snapshot.topology.page_map.flat_of_pfn(heads)
    words = snapshot.flags & ~_HOT
    words[flats[flats >= 0]] |= bits(Kpf.REFERENCED)
    return dataclasses.replace(snapshot, flags=words)
