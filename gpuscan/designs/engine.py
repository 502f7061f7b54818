"""The loop that runs a design on a simulated machine: time, producers, the report.

Reports in the same terms as :mod:`gpuscan.engine.tick`, so that a design's run can be laid
beside gpuscan's; only ``scan_ns`` is modelled there, from what a PFN or a cache line takes
(:class:`gpuscan.sim.spec.KernelCostSpec`) and how many of them a walk looks at. A walk lasts
as long as that and its migrations.

Each thread is somewhere in its first wait when the run begins. A tick's marks come when the producer made
them or, where it does not know, at times that are drawn, uniformly. What a walk meets of them is said by
:mod:`gpuscan.designs.threads`, as far as it is marked in the tick that the walk begins in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.catalogue import DESIGNS, make_model
from gpuscan.designs.contract import Design
from gpuscan.designs.model import Model
from gpuscan.designs.races import Atomics
from gpuscan.designs.simulated import SimulatedPages, migrate_counts
from gpuscan.designs.threads import Marks, Threads, first_waits
from gpuscan.engine.ledger import Ledger
from gpuscan.engine.policy import Policy
from gpuscan.engine.stages import Clocked, MigrateStatus
from gpuscan.engine.tick import RunReport, TickReport, Walks
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.catalogue import producer_of
from gpuscan.producers.contract import Observed
from gpuscan.sim.frames import PMD_ORDER
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import KernelCostSpec


class FaultSource(Protocol):
    """Where a design's marks come from."""

    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        """Let ``duration_ns`` pass, from ``now_ns`` on, and return every fault."""
        ...


class KernelPace:
    """A :class:`gpuscan.designs.threads.Pace` by what a workload's ``[kernel]`` table says.

    Args:
        model: whose walks.
        cost: of PFNs, sections (each as a PFN) and cache lines.
        locked: the walk does a locked test-and-clear on the record of each page.
    """

    def __init__(self, model: Model, cost: KernelCostSpec, *, locked: bool) -> None:
        self.look_ns = cost.walk_pfn_locked_ns if locked else cost.walk_pfn_ns
        self._model, self._cost = model, cost
        self._before_ns = 0.0

    def begin(self, start_ns: int) -> None:
        """See :class:`gpuscan.designs.threads.Pace`."""
        self._before_ns = self._looked_ns()

    def end(self) -> float:
        """See :class:`gpuscan.designs.threads.Pace`."""
        return self._looked_ns() - self._before_ns

    def _looked_ns(self) -> float:
        """Return how long all walks have looked at PFNs, sections and entries so far."""
        counters, cost = self._model.counters, self._cost
        return (
            counters["pfns_examined"] * self.look_ns
            + counters["sections_examined"] * cost.walk_pfn_ns
            + counters["walk_lines"] * cost.cold_line_ns
        )


class DesignEngine:
    """Runs a design.

    Args:
        design: what it declares.
        model: of the design, on ``machine``'s pages.
        machine: where time passes.
        source: what sees the accesses.
        policy: ``interval_ns`` is the length of a tick, ``hz`` counts jiffies; the rest is gpuscan's own.
        at_fault: moves PMD-mapped folios where they fault, for a design that leaves them to the fault.
    """

    def __init__(
        self,
        design: Design,
        model: Model,
        machine: SimulatedMachine,
        source: FaultSource,
        policy: Policy,
        at_fault: SimulatedMigrator | None = None,
    ) -> None:
        assert design.model is not None
        self.design, self.model, self._modelled = design, model, design.model
        self.policy = policy
        self.now_ns = 0
        self.n_ticks = 0
        self._machine = machine
        self._source = source
        self._at_fault = at_fault or SimulatedMigrator(machine)
        self._at_fault_ns = 0.0
        self._cost = machine.spec.kernel
        self._tiering_mode = machine.spec.hint_faults.only_lower_tier
        self._n_cpus = sum(len(node.cpus) for node in machine.topology.nodes)
        self._wait_ns = 0.0
        self._walk_times_ns: list[float] = []
        self.clocked: Clocked | None = None
        self._random = np.random.default_rng([machine.spec.seed, 4])
        how, atomics = design.model, Atomics(self._cost.atomics_apart_ns, self._random)
        first = first_waits(
            model, how, machine.topology, lambda: -int(self._random.integers(0, model.sleep_ns))
        )
        pace = KernelPace(model, self._cost, locked=how.locks_records)
        self.threads = Threads(model, how, first, pace, policy, atomics=atomics)

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
        design, model = self.design, self.model
        model.finish()
        model.verify()
        counters = model.counters + Counter(elsewhere=model.ledger.elsewhere)
        counters["stale_claims"] = model.ledger.stale_claims
        counters["pgdemote_kswapd"] = int(sum(tick.metrics["demoted_pages"] for tick in ticks))
        producer_ns = model.producer_ns(self._cost) + self._wait_ns + self._at_fault_ns
        counters["producer_ns"] = round(producer_ns)
        counters["producer_wait_ns"] = round(self._wait_ns)
        counters["producer_migrate_ns"] = round(self._at_fault_ns)
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
            walks=self._walks(),
        )

    def _walks(self) -> Walks:
        counters, pages = self.model.counters, self.design.looks_at == "pages"
        kind, unit = ("walk", "page") if pages else ("turn", "entry")
        return Walks(
            kind,
            unit,
            np.array(self._walk_times_ns, dtype=np.float64),
            self.design.n_looked_at(counters),
            counters["batch_folios"],
            self.model.batch_folios,
            counters["thp_migrated_at_fault"] << PMD_ORDER,
            self._at_fault_ns,
        )

    def tick(self) -> TickReport:
        """Let an interval pass, hand its faults to the producers, and walk the nodes whose wait is over."""
        interval_ns = self.policy.interval_ns
        report = TickReport(self.n_ticks, self.now_ns, interval_ns)
        model, before = self.model, self.model.counters.copy()
        requested, migrated = model.ledger.requested, model.ledger.migrated
        lost, n_looked_at = model.ledger.lost.total(), self.design.n_looked_at(before)
        seen = self._source.observe(self.now_ns, interval_ns)
        self.now_ns += interval_ns
        report.metrics = seen.metrics
        model.apply(seen.events)
        self.threads.expect(self._marks(seen))
        busy_ns = Counter[int]()
        while (due := self.threads.next_walk(self.now_ns)) is not None:
            walked = self.threads.walk(*due)
            report.scan_ns += int(walked.look_ns)
            busy_ns[due[1]] += int(walked.migrate_ns)
            report.n_plans += 1
            report.path = "walk" if self.design.looks_at == "pages" else "turn"
            self._walk_times_ns.append(walked.look_ns)
            if self.clocked is not None:
                self.clocked.walk(due[1], due[0], walked.look_ns, walked.migrate_ns)
        report.migrate_busy_ns = max(busy_ns.values(), default=0)
        model.calls.clear()
        self._wait_ns += model.producer_wait_ns(interval_ns, self._cost, self._n_cpus)

        def counted(name: str) -> int:
            return model.counters[name] - before[name]

        report.metrics["pfns_examined"] = counted("pfns_examined")
        report.marked = model.ledger.requested - requested
        report.candidates = counted("claimed")
        report.n_batches = counted("batch_calls") - counted("empty_batch_calls")
        report.batch_pages = counted("batch_pages")
        report.migrated = model.ledger.migrated - migrated
        report.migrated_pages = counted("pgmigrate_success")
        report.dropped = model.ledger.lost.total() - lost
        n_looked_at = self.design.n_looked_at(model.counters) - n_looked_at
        report.examined_bytes = n_looked_at * self.design.look_bytes(self.policy)
        report.pending = model.ledger.pending
        self.n_ticks += 1
        return report

    def _marks(self, seen: Observed) -> Marks:
        """Return a tick's marks; move what is moved at the fault."""
        pfns, nids, cpus, wanted = seen.pfns, self._asked_for(seen), self._cpus(seen.cpu_nids), seen.wanted
        times_ns = seen.at_ns
        if times_ns is None:
            times_ns = self.now_ns - self._random.integers(0, self.policy.interval_ns, len(pfns))
        marked = np.ones(len(pfns), dtype=np.bool_)
        self.model.hint_faults = seen.at_fault
        counts_accesses = self.design.counts_accesses == "always"
        if not seen.at_fault:
            marked = marked if counts_accesses else wanted
        else:
            if counts_accesses and not self._tiering_mode:
                # do_numa_page() records what numa_migrate_check() lets through. Of pages below the top tier
                # that is all in memory tiering mode, else what passes the filter.
                marked = wanted
            if self._modelled.bypasses_thp and self._machine.has_large_folios:
                huge = self._is_huge(pfns)
                self._migrate_at_fault(pfns[huge & wanted], seen.target_nids[huge & wanted])
                marked = marked & ~huge
        pfns, nids, cpus, times_ns = pfns[marked], nids[marked], cpus[marked], times_ns[marked]
        order = np.argsort(times_ns, kind="stable")
        page_map = self._machine.page_map
        own_nids = page_map.nid_of_flat(page_map.flat_of_pfn(pfns[order]))
        done = np.zeros(len(pfns), dtype=np.bool_)
        counts = None if seen.counts is None else seen.counts[marked][order]
        return Marks(times_ns[order], pfns[order], nids[order], cpus[order], own_nids, done, counts)

    def _cpus(self, cpu_nids: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the CPU of each fault: a node's faults fall on its CPUs in turn."""
        cpus = np.zeros(len(cpu_nids), dtype=np.int64)
        for nid in np.unique(cpu_nids).tolist():
            mine = np.flatnonzero(cpu_nids == nid)
            of_node = np.array(self._machine.topology.node(nid).cpus, dtype=np.int64)
            cpus[mine] = of_node[np.arange(len(mine)) % len(of_node)]
        return cpus

    def _asked_for(self, seen: Observed) -> NDArray[np.int32]:
        """Return the node each access names, as the design's producer does."""
        if self.design.counts_accesses == "always" or not seen.at_fault:
            return seen.target_nids
        # At out_map nid is still folio_nid() where do_numa_page() wants no move, and is marked all the same.
        return np.where(seen.wanted, seen.target_nids, seen.own_nids)

    def _is_huge(self, pfns: NDArray[np.int64]) -> NDArray[np.bool_]:
        space = self._machine.space
        folios = space.folios_at(self._machine.page_map.flat_of_pfn(pfns))
        huge: NDArray[np.bool_] = space.orders_of(folios) >= PMD_ORDER
        return huge

    def _migrate_at_fault(self, pfns: NDArray[np.int64], nids: NDArray[np.int32]) -> None:
        """Move PMD-mapped folios one by one where they fault: do_huge_pmd_numa_page().

        migrate_misplaced_folio() (Linux 6.11 to 6.16) counts a promotion in memory tiering mode only, and
        only from below the top tier to it.
        """
        counters, size, machine = self.model.counters, np.array([1 << PMD_ORDER]), self._machine
        for pfn, nid in zip(pfns.tolist(), nids.tolist(), strict=True):
            head = np.array([pfn], dtype=np.int64)
            own_nid = int(machine.page_map.nid_of_flat(machine.page_map.flat_of_pfn(head))[0])
            result = self._at_fault.migrate(nid, head, size)
            self._at_fault_ns += result.busy_ns
            counters["thp_at_fault"] += 1
            if result.n_rounds:  # it was isolated, and handed to migrate_pages()
                counters.update(migrate_counts(result, size))
            if result.status[0] == MigrateStatus.MOVED:
                counters["numa_pages_migrated"] += 1 << PMD_ORDER
                if self._tiering_mode and machine.top_tier[nid] and not machine.top_tier[own_nid]:
                    counters["pgpromote_success"] += 1 << PMD_ORDER
                counters["thp_migrated_at_fault"] += 1
            self.model.apply(result.events)

    def _ledger(self) -> Ledger:
        """Return the design's ledger in the engine's terms; what it calls lost is dropped there."""
        mine = self.model.ledger
        return Ledger(
            requested=mine.requested,
            in_flight=mine.in_flight,
            migrated=mine.migrated,
            superseded=mine.superseded,
            dropped=Counter(mine.lost),
        )


def design_engine(name: str, machine: SimulatedMachine, policy: Policy) -> DesignEngine:
    """Return an engine that runs the model of a design on a simulated machine.

    Args:
        name: of the design.
        machine: the machine.
        policy: ``interval_ns`` and ``hz``, and what else holds for the design.

    Raises:
        InputError: see :func:`gpuscan.designs.catalogue.make_model`.
    """
    pages = SimulatedPages(machine, SimulatedMigrator(machine, has_vma=False))
    model = make_model(name, pages, policy)
    return DesignEngine(DESIGNS.get(name), model, machine, producer_of(machine), policy)
