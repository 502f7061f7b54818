"""The loop that runs a design on a simulated machine: time, producers, the threads' waits, the report.

Reports in the same terms as :mod:`gpuscan.engine`, so that a design's run can be laid
beside gpuscan's; only ``scan_ns`` is modelled there, not measured: WALK_NS_PER_PFN for
every PFN a walk looks at. A walk lasts as long as that and its migrations; what is
marked meanwhile is seen by the next one. A walk that begins within a tick sees all of the
tick's marks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.design import Design
from gpuscan.engine import RunReport, TickReport
from gpuscan.flow import MigrateStatus
from gpuscan.ledger import Ledger
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.policy import Policy
from gpuscan.sim.frames import PMD_ORDER
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sources.hint_faults import HintFaultSource, ObservedFaults

WALK_NS_PER_PFN = 7.2
"""Derived, not measured: 64 bytes of struct page and 8 of page_ext, one after the other at 10 GB/s."""


@dataclass(slots=True)
class ThreadWait:
    """When a node's thread, which nobody wakes, begins its next walk.

    ``wait_event_timeout()`` looks at the condition when the wait begins and when it is
    over, and in between only if somebody wakes the queue, which neither RFC v1 nor pghot
    does. So the flag of a node starts a walk at once if it was set during the last one;
    one that is set during the wait changes nothing before the timeout.

    Attributes:
        sleep_ns: the timeout.
        needs_flag: whether a timeout without the flag starts a walk too (RFC v1: yes; pghot: no).
        since_ns: when the wait began.
        flag_ns: when the flag was set, None while it is clear.
    """

    sleep_ns: int
    needs_flag: bool
    since_ns: int = 0
    flag_ns: int | None = None

    def walk_start_ns(self, now_ns: int) -> int | None:
        """Return when a walk has begun by ``now_ns``, None if none has; a timeout without one begins the next
        wait."""
        if now_ns < self.since_ns:
            return None
        if self.flag_ns is not None and self.flag_ns <= self.since_ns:
            return self.since_ns
        n_timeouts = (now_ns - self.since_ns) // self.sleep_ns
        if not n_timeouts:
            return None
        if self.needs_flag and self.flag_ns is None:
            self.since_ns += n_timeouts * self.sleep_ns
            return None
        return self.since_ns + self.sleep_ns

    def walked(self, start_ns: int, walk_ns: float) -> None:
        """Begin to wait after a walk, which cleared the flag."""
        self.since_ns = start_ns + int(walk_ns)
        self.flag_ns = None


class DesignEngine:
    """Runs a design.

    Args:
        design: on ``machine``'s pages.
        machine: where time passes.
        source: of its hint faults.
        policy: ``interval_ns`` is the length of a tick, ``hz`` counts jiffies; the rest is gpuscan's own.
    """

    def __init__(
        self, design: Design, machine: SimulatedMachine, source: HintFaultSource, policy: Policy
    ) -> None:
        self.design = design
        self.policy = policy
        self.now_ns = 0
        self.n_ticks = 0
        self._machine = machine
        self._source = source
        self._at_fault = SimulatedMigrator(machine)
        self._threads = {
            node.nid: ThreadWait(design.sleep_ns, design.needs_flag)
            for node in machine.topology.nodes
            if node.present_pages and design.has_thread(node.nid)
        }

    def run(self, n_ticks: int, on_tick: Callable[[TickReport], None] | None = None) -> RunReport:
        """Run ``n_ticks`` ticks, and prove conservation.

        Raises:
            RunFailedError: conservation broke.
        """
        ticks = []
        for _ in range(n_ticks):
            ticks.append(self.tick())
            if on_tick is not None:
                on_tick(ticks[-1])
        design = self.design
        design.finish()
        design.verify()
        counters = design.counters + Counter(elsewhere=design.ledger.elsewhere)
        counters["stale_claims"] = design.ledger.stale_claims
        return RunReport(
            "model",
            f"the design {design.name} is a model in Python and runs on no device",
            self._machine.topology.name,
            self._machine.page_map.n_pages,
            self.policy,
            ticks,
            self._ledger(),
            Counter(),
            design.name,
            counters,
        )

    def tick(self) -> TickReport:
        """Let an interval pass, hand its faults to the producers, and walk the nodes whose wait is over."""
        interval_ns = self.policy.interval_ns
        report = TickReport(self.n_ticks, self.now_ns, interval_ns)
        design, before = self.design, self.design.counters.copy()
        requested, migrated = design.ledger.requested, design.ledger.migrated
        lost = design.ledger.lost.total()
        seen = self._source.observe(self.now_ns, interval_ns)
        self.now_ns += interval_ns
        report.metrics = seen.metrics
        design.apply(seen.events)
        self._mark(seen)
        for nid, thread in self._threads.items():
            if thread.flag_ns is None and design.activated(nid):
                thread.flag_ns = self.now_ns
            start_ns = thread.walk_start_ns(self.now_ns)
            if start_ns is not None:
                walk_ns, busy_ns = self._walk(nid)
                thread.walked(start_ns, walk_ns + busy_ns)
                report.scan_ns += int(walk_ns)
                report.migrate_busy_ns = max(report.migrate_busy_ns, busy_ns)
                report.n_plans += 1
                report.path = "walk"
        design.calls.clear()

        def counted(name: str) -> int:
            return design.counters[name] - before[name]

        report.metrics["pfns_examined"] = counted("pfns_examined")
        report.marked = design.ledger.requested - requested
        report.candidates = counted("claimed")
        report.n_batches = counted("batch_calls")
        report.batch_pages = counted("batch_pages")
        report.migrated = design.ledger.migrated - migrated
        report.migrated_pages = counted("pgmigrate_success")
        report.dropped = design.ledger.lost.total() - lost
        report.examined_bytes = counted("pfns_examined") * design.record_bytes
        report.pending = design.ledger.pending
        self.n_ticks += 1
        return report

    def _walk(self, nid: int) -> tuple[float, float]:
        """Walk a node and return how long looking at its pages takes, and moving them."""
        design = self.design
        n_before, busy_before = design.counters["pfns_examined"], design.busy_ns
        design.walk(nid, now_jiffies=self.policy.jiffies(self.now_ns))
        busy_ns = design.busy_ns - busy_before
        walk_ns = (design.counters["pfns_examined"] - n_before) * WALK_NS_PER_PFN
        return walk_ns, busy_ns

    def _mark(self, seen: ObservedFaults) -> None:
        pfns, nids, wanted = seen.pfns, self._asked_for(seen), seen.wanted
        if self.design.bypasses_thp and self._machine.has_large_folios:
            huge = self._is_huge(pfns)
            self._migrate_at_fault(pfns[huge & wanted], seen.target_nids[huge & wanted])
            pfns, nids = pfns[~huge], nids[~huge]
        now_jiffies = self.policy.jiffies(self.now_ns)
        for pfn, nid in zip(pfns.tolist(), nids.tolist(), strict=True):
            self.design.mark(pfn, nid, now_jiffies)

    def _asked_for(self, seen: ObservedFaults) -> NDArray[np.int32]:
        """Return the node each fault names, as the design's producer does."""
        if self.design.counts_accesses:
            return seen.target_nids
        # At out_map nid is still folio_nid() where do_numa_page() wants no move, and is marked all the same.
        return np.where(seen.wanted, seen.target_nids, seen.own_nids)

    def _is_huge(self, pfns: NDArray[np.int64]) -> NDArray[np.bool_]:
        space = self._machine.space
        folios = space.folios_at(self._machine.page_map.flat_of_pfn(pfns))
        huge: NDArray[np.bool_] = space.orders_of(folios) >= PMD_ORDER
        return huge

    def _migrate_at_fault(self, pfns: NDArray[np.int64], nids: NDArray[np.int32]) -> None:
        """Move PMD-mapped folios one by one where they fault: do_huge_pmd_numa_page()."""
        counters, size = self.design.counters, np.array([1 << PMD_ORDER])
        for pfn, nid in zip(pfns.tolist(), nids.tolist(), strict=True):
            result = self._at_fault.migrate(nid, np.array([pfn], dtype=np.int64), size)
            counters["thp_at_fault"] += 1
            if result.status[0] == MigrateStatus.MOVED:
                for name in ("pgmigrate_success", "numa_pages_migrated", "pgpromote_success"):
                    counters[name] += 1 << PMD_ORDER
                counters["thp_migrated_at_fault"] += 1
            self.design.apply(result.events)

    def _ledger(self) -> Ledger:
        """Return the design's ledger in the engine's terms; what it calls lost is dropped there."""
        mine = self.design.ledger
        return Ledger(
            requested=mine.requested,
            in_flight=mine.in_flight,
            migrated=mine.migrated,
            superseded=mine.superseded,
            dropped=Counter(mine.lost),
        )
