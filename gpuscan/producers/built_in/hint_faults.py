"""Marks from NUMA hint faults of a simulated machine: what do_numa_page() would ask for.

Each fault names a page and the node of the accessing CPU. Where that node has
top-tier memory it is the target, else the nearest node that has. Then, as
should_numa_migrate_memory() in kernel/sched/fair.c (Linux 6.1 to 6.16): a page below the top tier, in
memory tiering mode, is wanted when it was accessed soon after it was unmapped and the rate limit has
room, or without conditions while the target has plenty of free memory; any other page when
the fault before did not come from another node. In normal mode a page below the top tier is not wanted
at the first fault that the kernel knows of: it has no valid last cpupid then, and gets one
(33024536bafd, "memory tiering: hot page selection with hint page fault latency", in 6.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.documents import array, pairs, table
from gpuscan.base.units import PAGE_BYTES
from gpuscan.producers.contract import Observed, ProducerKind, Told
from gpuscan.producers.numa_balancing import HintFaultOptions
from gpuscan.producers.promotion import PromotionControl
from gpuscan.producers.scan_feedback import ScanFeedback
from gpuscan.producers.source import NOBODY, Producer
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.scanner import HintFaults

_NS_PER_MS = 1_000_000


class HintFaultSource(Producer):
    """NUMA balancing.

    Adds to the machine's metrics: ``faults_cold`` (too late after the unmapping), ``faults_over_rate``
    (hot, and beyond the rate limit), ``faults_one_stage`` (the last fault came from elsewhere),
    ``faults_first`` (in normal mode, nobody faulted before on a page below the top tier),
    ``faults_no_target`` (no top-tier node is reachable), ``faults_at_home`` (the page is on its target
    already); in memory tiering mode ``pgpromote_candidate``, ``pgpromote_candidate_nrl`` (base pages let
    through by the free-memory bypass) and ``mean_hot_threshold_ms`` over the targets; with the adaptive
    pause those of :class:`gpuscan.producers.scan_feedback.ScanFeedback`.

    Args:
        machine: where time passes.
    """

    def __init__(self, machine: SimulatedMachine) -> None:
        super().__init__(machine)
        self._spec = machine.spec.hint_faults
        self._feedback = ScanFeedback(machine) if self._spec.adaptive else None
        # Where the fault before came from: filter and adaptive pause want to know, and whether there was one.
        keeps_last = self._spec.two_stage or self._spec.adaptive or not self._spec.only_lower_tier
        self._last_cpu_nid = np.full(machine.space.n_folios if keeps_last else 0, NOBODY, dtype=np.int16)
        self._controls: dict[int, PromotionControl] = {}
        if self._spec.only_lower_tier:
            for nid in sorted(set(self._target[self._target != NOBODY].tolist())):
                self._controls[nid] = PromotionControl(
                    self._spec.hot_latency_ns // _NS_PER_MS or None,
                    self._spec.promote_bytes_per_s // PAGE_BYTES or None,
                    self._spec.scan_period_max_ns // _NS_PER_MS,
                )

    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        """See :class:`Producer`."""
        elapsed = self._machine.run(now_ns, duration_ns)
        faults, metrics = elapsed.faults, elapsed.metrics
        own = self._machine.page_map.nid_of_flat(faults.frames)
        targets = self._target[faults.cpu_nids]
        n_pages = 1 << self._machine.space.orders_of(faults.folios)
        last_nids = self._exchange_last(faults)
        wanted, counted = self._filter(faults, own, targets, n_pages, last_nids)
        if self._feedback is not None:
            mem_nids = np.where(wanted, targets, own)
            counted |= self._feedback.follow(faults, own, mem_nids, last_nids, n_pages)
        cost_ns = len(faults.folios) * self._spec.fault_ns + metrics["ptes_walked"] * self._spec.pte_ns
        metrics = {**metrics, **counted, "marks": int(wanted.sum()), "producer_cost_ns": cost_ns}
        pfns = self._machine.page_map.pfn_of_flat(faults.frames)
        return Observed(
            pfns, faults.cpu_nids, own, targets, wanted, faults.at_ns, elapsed.events, metrics, at_fault=True
        )

    def state(self) -> dict[str, Any]:
        """See :class:`Producer`."""
        controls = [[nid, control.state()] for nid, control in self._controls.items()]
        return {"last_cpu_nid": self._last_cpu_nid, "controls": controls}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :class:`Producer`."""
        found = table(state, "the producer", ("last_cpu_nid", "controls"))
        own = self._last_cpu_nid
        last = array(
            found["last_cpu_nid"], own.dtype, "last_cpu_nid", n=len(own), lowest=NOBODY, end=N_NODES_MAX
        )
        controls = pairs(found["controls"], "controls")
        if {nid for nid, _ in controls} != self._controls.keys():
            raise ValueError("the producer has other targets")
        own[:] = last
        for nid, control in controls:
            self._controls[nid].restore(control)

    def _filter(
        self,
        faults: HintFaults,
        own: NDArray[np.int32],
        targets: NDArray[np.int32],
        n_pages: NDArray[np.int64],
        last_nids: NDArray[np.int16],
    ) -> tuple[NDArray[np.bool_], dict[str, float]]:
        """Return which faults want the move, and how many did not for each reason."""
        homeless = targets == NOBODY
        hot, within = np.ones_like(homeless), np.ones_like(homeless)
        slow = np.zeros_like(homeless)
        metrics: dict[str, float] = {}
        if self._spec.only_lower_tier:
            slow = ~self._machine.top_tier[own] & ~homeless
            n_bypassed = self._promote(faults, slow, targets, n_pages, hot, within)
            thresholds = [control.threshold_ms for control in self._controls.values()]
            metrics["mean_hot_threshold_ms"] = float(np.mean(thresholds)) if thresholds else 0.0
            metrics["pgpromote_candidate"] = int(n_pages[slow & hot].sum()) - n_bypassed
            metrics["pgpromote_candidate_nrl"] = n_bypassed
        once, first = np.zeros_like(homeless), np.zeros_like(homeless)
        if self._spec.two_stage:
            once = ~slow & (last_nids != NOBODY) & (last_nids != faults.cpu_nids)
        if not self._spec.only_lower_tier:
            first = ~self._machine.top_tier[own] & (last_nids == NOBODY)
        passes = hot & within & ~once & ~first
        away = targets != own
        metrics |= {
            "faults_cold": int((~hot).sum()),
            "faults_over_rate": int((hot & ~within).sum()),
            "faults_one_stage": int((hot & within & once).sum()),
            "faults_first": int(first.sum()),
            "faults_no_target": int((passes & homeless).sum()),
            "faults_at_home": int((passes & ~homeless & ~away).sum()),
        }
        return passes & away & ~homeless, metrics

    def _promote(
        self,
        faults: HintFaults,
        slow: NDArray[np.bool_],
        targets: NDArray[np.int32],
        n_pages: NDArray[np.int64],
        hot: NDArray[np.bool_],
        within: NDArray[np.bool_],
    ) -> int:
        """Decide on pages below the top tier, in ``hot`` and ``within``; return the base pages that passed
        because there is plenty of free memory."""
        n_bypassed, at_ms = 0, faults.at_ms
        for nid, control in self._controls.items():
            which = np.flatnonzero(slow & (targets == nid))
            if not len(which):
                continue
            if self._spec.free_memory_bypass and self._machine.free_space_enough(nid):
                control.bypass()
                n_bypassed += int(n_pages[which].sum())
                continue
            which = which[np.argsort(faults.at_ns[which], kind="stable")]
            decided = control.decide(at_ms[which], faults.latency_ms[which], n_pages[which])
            hot[which], within[which] = decided
        return n_bypassed

    def _exchange_last(self, faults: HintFaults) -> NDArray[np.int16]:
        """Return the node that each folio's fault before this one came from, -1 for none, and remember."""
        if not len(self._last_cpu_nid):
            return np.full(len(faults.folios), NOBODY, dtype=np.int16)
        # A folio faults at most once per visit of the scanner, so several times in a long
        # tick; then the faults are taken one after the other.
        nids = faults.cpu_nids.astype(np.int16)
        _, first = np.unique(faults.folios, return_index=True)
        before = np.empty(len(nids), dtype=np.int16)
        again = np.ones(len(nids), dtype=np.bool_)
        again[first] = False
        before[first] = self._last_cpu_nid[faults.folios[first]]
        self._last_cpu_nid[faults.folios[first]] = nids[first]
        for i in np.flatnonzero(again).tolist():
            before[i] = self._last_cpu_nid[faults.folios[i]]
            self._last_cpu_nid[faults.folios[i]] = nids[i]
        return before


PRODUCER = ProducerKind(
    about="NUMA hint faults",
    options=HintFaultOptions,
    make=lambda machine, _: HintFaultSource(machine),
    told=(Told("hint_faults", "faults"), Told("ptes_walked", "PTEs")),
)
