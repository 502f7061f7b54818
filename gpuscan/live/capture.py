"""A snapshot of the machine in which the hot pages are those that a monitor saw processes use.

``gpuscan scan`` and ``gpuscan run`` then say of that snapshot what a live run would move.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from gpuscan.linux import capabilities
from gpuscan.linux.resident import PageFlags
from gpuscan.linux.system import HERE, System
from gpuscan.live.members import Pids, Roster
from gpuscan.live.request import INTERVAL_NS
from gpuscan.live.session import THRESHOLD
from gpuscan.monitors.catalogue import open_monitor
from gpuscan.monitors.contract import Circumstances
from gpuscan.monitors.touched import Touched
from gpuscan.records.page_flags import Kpf, bits
from gpuscan.snapshot.procfs import Progress, capture
from gpuscan.snapshot.snapshot import Snapshot

_HOT = bits(Kpf.REFERENCED, Kpf.ACTIVE)


def capture_processes(
    pids: Sequence[int],
    for_ns: int,
    *,
    monitor: str = "auto",
    system: System = HERE,
    progress: Progress | None = None,
    on_watch: Callable[[str], None] = lambda name: None,
) -> Snapshot:
    """Watch processes for a while, then read the machine's page flags.

    In the snapshot the folios that at least two looks found accessed are REFERENCED, all others
    neither that nor ACTIVE; a note says so.

    Args:
        pids: of the processes.
        for_ns: how long to watch.
        monitor: one of :data:`gpuscan.monitors.catalogue.MONITORS`, or ``auto`` for the first that works.
        system: where they run.
        progress: as for :func:`gpuscan.snapshot.procfs.capture`.
        on_watch: called with the name of the monitor once it is on.

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
        here = Circumstances(system.read_host().topology, len(pids), system=system)
        watching, refused = open_monitor(monitor, here)
        stack.callback(watching.close)
        watching.watch([process for _, process in roster.alive()])
        on_watch(watching.name)
        until_ns = system.monotonic_ns() + for_ns
        while system.monotonic_ns() < until_ns and roster.alive():
            looks += [_accessed(touched, flags) for touched in watching.observe(system.monotonic_ns())]
            system.sleep(INTERVAL_NS / 1e9)
        heads, counts = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *looks]), return_counts=True)
    snapshot = capture(system.root, progress)
    named = ", ".join(map(str, pids))
    seconds = for_ns / 1e9
    note = (
        f"hot: what {watching.name} saw process {named} access in two looks of {seconds:g} s; no other page"
    )
    return dataclasses.replace(
        _marked(snapshot, heads[counts >= THRESHOLD]),
        notes=(*snapshot.notes, *(f"not {text}" for text in refused), note),
    )


def _accessed(touched: Touched, flags: PageFlags) -> NDArray[np.int64]:
    """Return the heads of the folios of one look, twice where it stands for many."""
    folios = flags.folios_of(touched.hot.pfn)
    once = np.unique(folios.head[folios.movable])
    if touched.sure is None:
        return once
    return np.concatenate([once, np.unique(folios.head[folios.movable & touched.sure])])


def _marked(snapshot: Snapshot, heads: NDArray[np.int64]) -> Snapshot:
    flats = snapshot.topology.page_map.flat_of_pfn(heads)
    words = snapshot.flags & ~_HOT
    words[flats[flats >= 0]] |= bits(Kpf.REFERENCED)
    return dataclasses.replace(snapshot, flags=words)
