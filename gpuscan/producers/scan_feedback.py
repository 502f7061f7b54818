"""From hint faults and failed migrations back to the scanner's pause.

As task_numa_fault() and task_numa_placement() in kernel/sched/fair.c do (Linux 6.1 to 6.16): the first
fault after a pass over the process moves the pause, by the faults before it. Approximated: faults are
counted at the end of a tick, once for all passes in it, so with the adaptive pause a result depends
on the length of a tick; a process has one task on each of its nodes, and they form no numa_group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.process import Process
from gpuscan.sim.scan_period import FaultCounts
from gpuscan.sim.scanner import HintFaults

_NS_PER_MS = 1_000_000


class ScanFeedback:
    """Lets the pauses of a machine's scanner follow the faults.

    Args:
        machine: whose scanner.
    """

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self._tiering = machine.spec.hint_faults.only_lower_tier

    def follow(
        self,
        faults: HintFaults,
        own_nids: NDArray[np.int32],
        mem_nids: NDArray[np.int32],
        last_nids: NDArray[np.int16],
        n_pages: NDArray[np.int64],
    ) -> dict[str, float]:
        """Count the faults of a tick, and the migrations that failed since the last, and move the pauses.

        Args:
            faults: of the tick.
            own_nids: int32[n], where the folios were.
            mem_nids: int32[n], where they are counted: RFC v1 takes a move that it asks for as done.
            last_nids: int16[n], nodes of the faults before, -1 for none.
            n_pages: int64[n], base pages.

        Returns:
            ``mean_scan_period_ms`` over the processes; ``migrations_failed`` (base pages fed back).
        """
        top_tier = self._machine.top_tier
        # A page that stays below the top tier is not counted in memory tiering mode, and in normal mode not
        # at its first fault; and in tiering mode the cpupid of one that comes from there holds a time, which
        # reads as a page nobody faulted on before.
        counts = top_tier[mem_nids]
        if not self._tiering:
            counts |= last_nids >= 0
        private = (last_nids < 0) | (last_nids == faults.cpu_nids)
        if self._tiering:
            private |= ~top_tier[own_nids]
        local = own_nids == faults.cpu_nids
        failed = self._failed_folios()
        n_failed_pages = 0
        periods_ms = []
        for process in self._machine.processes:
            state = self._machine.scanner.progress(process)
            period = state.period
            mine_failed = failed[_of(process, failed)]
            n_refused = int((1 << self._machine.space.orders_of(mine_failed)).sum())
            period.counts.failed += n_refused
            n_failed_pages += n_refused
            mine = counts & _of(process, faults.folios)
            before = mine & (faults.at_ns < state.passed_ns)
            after = mine & ~before
            _add(period.counts, n_pages[before], local[before], private[before])
            if after.any() and state.n_passes != state.n_passes_counted:
                state.n_passes_counted = state.n_passes
                if period.update():
                    first_ms = int(faults.at_ms[after].min())
                    state.next_ns = (first_ms + period.period_ms) * _NS_PER_MS
            _add(period.counts, n_pages[after], local[after], private[after])
            periods_ms.append(state.period.period_ms)
        return {"mean_scan_period_ms": float(np.mean(periods_ms)), "migrations_failed": float(n_failed_pages)}

    def _failed_folios(self) -> NDArray[np.int64]:
        failed = self._machine.take_failed()
        if self._tiering:
            nids = self._machine.page_map.nid_of_flat(self._machine.space.frame_of[failed].astype(np.int64))
            failed = failed[self._machine.top_tier[nids]]
        return failed


def _add(
    counts: FaultCounts,
    n_pages: NDArray[np.int64],
    local: NDArray[np.bool_],
    private: NDArray[np.bool_],
) -> None:
    counts.local += int(n_pages[local].sum())
    counts.remote += int(n_pages[~local].sum())
    counts.private += int(n_pages[private].sum())
    counts.shared += int(n_pages[~private].sum())


def _of(process: Process, folios: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which folios are a process's."""
    mine: NDArray[np.bool_] = (folios >= process.first_folio) & (
        folios < process.first_folio + process.n_folios
    )
    return mine
