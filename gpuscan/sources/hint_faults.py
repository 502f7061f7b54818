"""Marks from NUMA hint faults of a simulated machine: what do_numa_page() would ask for.

Each fault names a page and the node of the accessing CPU. Where that node has
top-tier memory it is the target, else the nearest node that has. Then, as
should_numa_migrate_memory() in kernel/sched/fair.c: a page that was accessed late
after it was unmapped is not hot, and with the two-stage filter a page must be
accessed twice in a row from one node. Left out: while the target has plenty of free
memory (pgdat_free_space_enough()) the kernel takes late faults too, and it moves its
threshold to meet the rate limit (numa_promotion_adjust_threshold()).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.flow import FolioEvents, Produced, Sampled
from gpuscan.records import N_NODES_MAX
from gpuscan.sim.machine import HintFaults, SimulatedMachine

_NS_PER_MS = 1_000_000
_NOBODY = -1


@dataclass(frozen=True, slots=True, eq=False)
class ObservedFaults:
    """All hint faults of one tick, in their order per process.

    Attributes:
        pfns: int64[n], first pages of the folios.
        own_nids: int32[n], the nodes they are on.
        target_nids: int32[n], where the accessing CPUs would have them; -1 where nothing is in reach.
        wanted: bool[n], whether do_numa_page() would ask for the move.
        events, metrics: see :class:`gpuscan.flow.Sampled`.
    """

    pfns: NDArray[np.int64]
    own_nids: NDArray[np.int32]
    target_nids: NDArray[np.int32]
    wanted: NDArray[np.bool_]
    events: tuple[FolioEvents, ...]
    metrics: dict[str, float]


class HintFaultSource:
    """A :class:`gpuscan.flow.Source` that runs a simulated machine.

    Adds to the machine's metrics: ``faults_cold`` (too late after the unmapping),
    ``faults_one_stage`` (the last fault came from elsewhere), ``faults_no_target`` (no
    top-tier node is reachable), ``faults_at_home`` (the page is on its target already),
    ``marks``.

    Args:
        machine: where time passes.
    """

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self._spec = machine.spec.hint_faults
        self._target = np.full(N_NODES_MAX, _NOBODY, dtype=np.int32)
        for process in machine.processes:
            for nid in process.spec.cpu_nids:
                home = machine.home_nid(nid)
                self._target[nid] = _NOBODY if home is None else home
        n_tracked = machine.space.n_folios if self._spec.two_stage else 0
        self._last_cpu_nid = np.full(n_tracked, _NOBODY, dtype=np.int16)

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """Let ``duration_ns`` pass, from ``now_ns`` on, and return marks for the pages that faulted."""
        seen = self.observe(now_ns, duration_ns)
        produced = Produced(self._spec.mark, seen.pfns[seen.wanted], seen.target_nids[seen.wanted])
        return Sampled((produced,) if len(produced.pfns) else (), seen.events, seen.metrics)

    def observe(self, now_ns: int, duration_ns: int) -> ObservedFaults:
        """Let ``duration_ns`` pass, from ``now_ns`` on, and return every fault."""
        elapsed = self._machine.run(now_ns, duration_ns)
        wanted, reasons = self._filter(elapsed.faults)
        metrics = {**elapsed.metrics, **reasons, "marks": int(wanted.sum())}
        page_map = self._machine.page_map
        frames = elapsed.faults.frames
        return ObservedFaults(
            page_map.pfn_of_flat(frames),
            page_map.nid_of_flat(frames),
            self._target[elapsed.faults.cpu_nids],
            wanted,
            elapsed.events,
            metrics,
        )

    def finished(self) -> bool:
        """Return False: processes run for ever."""
        return False

    def _filter(self, faults: HintFaults) -> tuple[NDArray[np.bool_], dict[str, float]]:
        targets = self._target[faults.cpu_nids]
        hot = np.ones(len(targets), dtype=np.bool_)
        if self._spec.hot_latency_ns:
            hot = faults.latency_ms * _NS_PER_MS < self._spec.hot_latency_ns
        twice = self._second_in_a_row(faults)
        homeless = targets == _NOBODY
        away = targets != self._machine.page_map.nid_of_flat(faults.frames)
        reasons = {
            "faults_cold": float((~hot).sum()),
            "faults_one_stage": float((hot & ~twice).sum()),
            "faults_no_target": float((hot & twice & homeless).sum()),
            "faults_at_home": float((hot & twice & ~homeless & ~away).sum()),
        }
        return hot & twice & away & ~homeless, reasons

    def _second_in_a_row(self, faults: HintFaults) -> NDArray[np.bool_]:
        """Return whether the folio's fault before this one came from the same node, and remember."""
        if not self._spec.two_stage:
            return np.ones(len(faults.folios), dtype=np.bool_)
        # A folio faults at most once per visit of the scanner, so several times in a long
        # tick; then the faults are taken one after the other.
        nids = faults.cpu_nids.astype(np.int16)
        _, first = np.unique(faults.folios, return_index=True)
        same = np.zeros(len(nids), dtype=np.bool_)
        again = np.ones(len(nids), dtype=np.bool_)
        again[first] = False
        same[first] = self._last_cpu_nid[faults.folios[first]] == nids[first]
        self._last_cpu_nid[faults.folios[first]] = nids[first]
        for i in np.flatnonzero(again).tolist():
            same[i] = self._last_cpu_nid[faults.folios[i]] == nids[i]
            self._last_cpu_nid[faults.folios[i]] = nids[i]
        return same
