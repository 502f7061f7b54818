"""The simulated machine: time passes, processes touch pages, hint faults happen, kswapd demotes.

It moves nothing upwards by itself. A source turns its hint faults into marks
(:mod:`gpuscan.producers`) and a migrator moves folios on it
(:mod:`gpuscan.migrate.simulated`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.arguments import INT64_MAX, ArraySpec, check_arrays, has_methods, instance, whole
from gpuscan.engine.stages import AccessWitness, FolioEvents
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import PageMap
from gpuscan.sim.kswapd import Kswapd, KswapdCounts
from gpuscan.sim.loops import touch
from gpuscan.sim.observer import Observer
from gpuscan.sim.placement import Contents, place
from gpuscan.sim.process import Process, Stretch
from gpuscan.sim.scanner import HintFaults, HintScanner
from gpuscan.sim.spec import MachineSpec
from gpuscan.sim.traffic import Ends, Traffic, traffic_of
from gpuscan.topology.model import Topology

_CHUNK_ACCESSES = 1 << 16
_CHUNK_FOLIOS = 1 << 22
_FREE_ENOUGH_PAGES = 1 << 18
"""1 GiB with 4 KiB pages."""
_RUN_NS_MAX = 86_400_000_000_000
"""A day at once."""
_FOLIOS = (ArraySpec("folios", "int64", values=(0, "folios")),)
_ACCESSES = (*_FOLIOS, ArraySpec("cpu_nids", "int32", values=(-1, N_NODES_MAX)))


@dataclass(frozen=True, slots=True, eq=False)
class Elapsed:
    """What happened in one stretch of simulated time.

    Attributes:
        faults: hint faults, none where another observer watched.
        events: folios that kswapd moved, in order.
        metrics: see :meth:`SimulatedMachine.run`.
        traffic: what the processes asked of the links; None where none has a demand.
    """

    faults: HintFaults
    events: tuple[FolioEvents, ...]
    metrics: dict[str, float]
    traffic: Traffic | None = None

    def then(self, after: Elapsed) -> Elapsed:
        """Return both as one stretch of time, with the faults and the traffic of ``after``."""
        mine, theirs = self.metrics, after.metrics
        metrics = {name: mine[name] + theirs[name] for name in theirs if name in mine}
        metrics |= {name: value for name, value in theirs.items() if name not in mine}
        n_accesses = metrics["accesses"]
        if "mean_latency_ns" in theirs and "mean_latency_ns" in mine:
            total_ns = sum(one["mean_latency_ns"] * one["accesses"] for one in (mine, theirs))
            metrics["mean_latency_ns"] = total_ns / n_accesses
        elif n_accesses:
            known = [one for one in (mine, theirs) if one["accesses"]]
            metrics.pop("mean_latency_ns", None)
            if all("mean_latency_ns" in one for one in known):
                metrics["mean_latency_ns"] = known[0]["mean_latency_ns"]
        return Elapsed(after.faults, self.events + after.events, metrics, after.traffic)


class SimulatedMachine:
    """A machine made of a topology and the processes that run on it.

    Args:
        topology: nodes, zones, distances.
        spec: processes, hint faults, costs, seed.
        contents: what is in its memory; by default ``spec``'s processes are placed.

    Attributes:
        topology, spec: as given.
        scanner: the NUMA balancing scanner.
        page_map: PFN <-> flat index.
        frames: the frame allocator.
        space: page table, reverse map, frame flags.
        processes: who runs.
        top_tier: bool[1024] by nid, whether the node has top-tier memory.
        tiered: whether there is memory below the top tier.
        fast_means: what ``accesses_fast`` counts, for captions: ``top tier``, or ``local`` where
            all memory is top tier.
        witness: is told of accesses, or None.

    Raises:
        InputError: the processes do not fit, or make no sense on this topology.
    """

    def __init__(self, topology: Topology, spec: MachineSpec, contents: Contents | None = None) -> None:
        instance("a simulated machine's topology", topology, Topology, "give what resolve_topology() returns")
        instance("a simulated machine's spec", spec, MachineSpec, "give Workload.machine_spec(topology)")
        if contents is not None:
            instance("a simulated machine's contents", contents, Contents, "leave them out")
        contents = contents or place(topology, spec)
        self.topology = topology
        self.spec = spec
        self.page_map: PageMap = topology.page_map
        self.frames = contents.frames
        self.space = contents.space
        self.processes = contents.processes
        self.tiered = any(
            node.present_pages and not topology.is_top_tier(node.nid) for node in topology.nodes
        )
        self.fast_means = "top tier" if self.tiered else "local"
        tiering_mode = spec.hint_faults.only_lower_tier
        self._kswapd = Kswapd(
            topology, self.frames, self.space, spec.cost, "promo" if tiering_mode else "high", spec.seed
        )
        self.top_tier = np.zeros(N_NODES_MAX, dtype=np.bool_)
        for node in topology.nodes:
            self.top_tier[node.nid] = node.present_pages > 0 and topology.is_top_tier(node.nid)
        self._free_enough_pages = {
            node.nid: max(_FREE_ENOUGH_PAGES, node.present_pages >> 4) for node in topology.nodes
        }
        scanned = ~self.top_tier if tiering_mode else np.ones_like(self.top_tier)
        self.scanner = HintScanner(
            spec.hint_faults, self.space, self.page_map.section_nid, scanned.astype(np.uint8)
        )
        self.witness: AccessWitness | None = None
        self._failed: list[NDArray[np.int64]] = []
        self._home = {nid: self._home_of(nid) for process in self.processes for nid in process.spec.cpu_nids}

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays per page (page table, reverse map, flags, fault times), without free lists."""
        return self.space.n_bytes + self.scanner.n_bytes

    @property
    def has_large_folios(self) -> bool:
        """Whether any folio is larger than a page, so that a store must keep orders."""
        return any(mapping.order for mapping in self.space.mappings)

    def home_nid(self, cpu_nid: int) -> int | None:
        """Return where pages accessed from ``cpu_nid`` belong: its own node if that has top-tier memory, else
        the nearest that has; None too for a node on whose CPUs nothing runs."""
        return self._home.get(whole("home_nid: cpu_nid", cpu_nid, -1))

    def folios(self) -> Iterator[FolioEvents]:
        """Yield every mapped folio as an allocation: what a store needs to know at the start."""
        for mapping in self.space.mappings:
            end = mapping.first_folio + mapping.n_folios
            for start in range(mapping.first_folio, end, _CHUNK_FOLIOS):
                heads = self.space.frame_of[start : min(end, start + _CHUNK_FOLIOS)].astype(np.int64)
                yield FolioEvents(np.empty(0, dtype=np.int64), heads, mapping.order)

    def migration_failed(self, folios: NDArray[np.int64]) -> None:
        """Note folios that a migrator could not move; kept only where NUMA balancing's pause follows them."""
        (folios,) = check_arrays("migration_failed", _FOLIOS, (folios,), {"folios": self.space.n_folios})
        if self.spec.hint_faults.adaptive and self.spec.hint_faults.failure_feedback:
            self._failed.append(folios)

    def take_failed(self) -> NDArray[np.int64]:
        """Return int64[n], the folios noted by :meth:`migration_failed` since the last time."""
        failed = np.concatenate([np.empty(0, dtype=np.int64), *self._failed])
        self._failed.clear()
        return failed

    def wake_kswapd(self, nid: int) -> None:
        """Wake the kswapd of a node for the next :meth:`run`; without demotion it has nothing to do."""
        self.topology.node(nid)
        if self.spec.demotion:
            self._kswapd.wake(nid)

    def cold_folios(self, duration_ns: int) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
        """Return what kswapd would demote in ``duration_ns``, for whoever demotes in its place.

        Returns:
            Head frames (flat), the node that each should go to, and how many nodes that are short of
            memory have no lower tier.
        """
        duration_ns = whole("cold_folios: duration_ns", duration_ns, 0, _RUN_NS_MAX)
        frames, targets, counts = self._kswapd.choose(duration_ns)
        return frames, targets, counts.no_lower_tier

    def free_space_enough(self, nid: int) -> bool:
        """Whether a node has plenty of free memory: ``pgdat_free_space_enough()``, which wants 1 GiB or a
        sixteenth of the node above the promo watermark of some zone."""
        self.topology.node(nid)
        return self.frames.some_zone_above(nid, "promo", self._free_enough_pages[nid])

    def steady_pages(self, nid: int) -> int:
        """Return how many pages may be allocated on a node before :meth:`free_space_enough`, or whether it is
        balanced for one page, is another; all there are where neither holds."""
        self.topology.node(nid)
        spare = (
            self.frames.most_above(nid, "promo") - self._free_enough_pages[nid],
            self.frames.most_above(nid, "high") - 1,
        )
        return min((above - 1 for above in spare if above > 0), default=self.page_map.n_pages)

    def run(self, now_ns: int, duration_ns: int, observer: Observer | None = None) -> Elapsed:
        """Let ``duration_ns`` pass, from ``now_ns`` on: first kswapd, then the processes one after the other.

        Args:
            now_ns, duration_ns: when.
            observer: what watches the accesses instead of NUMA balancing's scanner.

        Metrics, counted in this stretch of time:
            ``accesses``; ``accesses_fast`` (served by the top tier, or where all memory is
            that, by the local node); ``accesses_local`` (by :meth:`home_nid` of the CPU);
            ``mean_latency_ns`` (only where the topology knows all links used; loaded, where they say how
            and somebody has a demand);
            ``demoted_pages``; ``kswapd_no_lower_tier``; ``kswapd_demotion_failed``; without an
            observer ``hint_faults``, ``unmapped_folios``, ``ptes_walked``.
        """
        now_ns = whole("run: now_ns", now_ns, 0, INT64_MAX - _RUN_NS_MAX)
        duration_ns = whole("run: duration_ns", duration_ns, 0, _RUN_NS_MAX)
        if observer is not None:
            has_methods(
                "run: observer", observer, ("visits_ns", "visit", "accessed"), "give a gpuscan.sim Observer"
            )
        self.tell_filled(now_ns)
        kswapd_demotes = self.spec.demotion and not self.spec.demotion_marked
        events, kswapd = self._kswapd.run(duration_ns) if kswapd_demotes else ([], KswapdCounts())
        tally = _Tally(self)
        watching = observer or self.scanner
        end_ns = now_ns + duration_ns
        for process in self.processes:
            visits_ns = watching.visits_ns(process, now_ns, end_ns)
            for stretch in process.stretches(now_ns, end_ns, visits_ns):
                if stretch.visit_due:
                    watching.visit(process, stretch.start_ns)
                self._access(process, stretch, tally, watching)
        metrics = tally.metrics()
        if observer is None:
            metrics["unmapped_folios"] = self.scanner.n_unmapped
            metrics["ptes_walked"] = self.scanner.n_walked
        faults = self.scanner.take()
        if observer is None:
            metrics["hint_faults"] = len(faults.folios)
        metrics["demoted_pages"] = kswapd.demoted_pages
        metrics["kswapd_no_lower_tier"] = kswapd.no_lower_tier
        metrics["kswapd_demotion_failed"] = kswapd.demotion_failed
        return Elapsed(faults, tuple(events), metrics, tally.traffic)

    def tell_filled(self, now_ns: int) -> None:
        """Tell the witness how full nodes are. :meth:`run` does it as it begins, when what the time before
        marked has moved, and kswapd was not here yet; who ends does it once more."""
        if self.witness is None:
            return
        nids = [node.nid for node in self.topology.nodes if node.present_pages]
        self.witness.filled(
            now_ns,
            {nid: self.frames.free_pages(nid) for nid in nids},
            {nid: self.frames.most_above(nid, "high") for nid in nids},
        )

    def access(
        self, folios: NDArray[np.int64], cpu_nids: NDArray[np.int32], now_ns: int = 0
    ) -> dict[str, float]:
        """Access folios from CPUs of nodes, beside what :meth:`run` does.

        Args:
            folios: int64[n], virtual.
            cpu_nids: int32[n], -1 = not known.
            now_ns: about when.

        Returns:
            ``accesses`` and the metrics that go with it, as :meth:`run`.
        """
        dims = {"folios": self.space.n_folios, "nodes": N_NODES_MAX}
        folios, cpu_nids = check_arrays("access", _ACCESSES, (folios, cpu_nids), dims)
        tally = _Tally(self)
        for cpu_nid in np.unique(cpu_nids).tolist():
            counts = np.zeros(N_NODES_MAX, dtype=np.int64)
            mine = folios[cpu_nids == cpu_nid]
            faulted = np.empty(len(mine), dtype=np.int64)  # a fault is served, but nobody is told
            space = self.space
            section_nid = self.page_map.section_nid
            touch(mine, 0, space.frame_of, space.slot_shift, space.flags, section_nid, counts, faulted)
            tally.count(None, cpu_nid, counts)
            self._tell(now_ns, mine, 0)
        return tally.metrics()

    def state(self) -> dict[str, Any]:
        """Return what time has changed, for :meth:`restore`: the arrays themselves, not copies."""
        return {
            "frames": self.frames.state(),
            "space": self.space.state(),
            "scanner": self.scanner.state(),
            "kswapd": self._kswapd.state(),
            "failed": np.concatenate([np.empty(0, dtype=np.int64), *self._failed]),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, a machine of the same topology, spec and contents.

        Raises:
            ValueError: it was of another.
        """
        found = checked.table(state, "the machine", ("frames", "space", "scanner", "kswapd", "failed"))
        had_folios = np.unique(self._zones_of_folios())
        self.frames.restore(found["frames"])
        self.space.restore(found["space"])
        if not np.isin(self._zones_of_folios(), had_folios).all():
            zone_ids = np.setdiff1d(self._zones_of_folios(), had_folios)
            self.frames.check_zones(zone_ids.tolist())
        self.scanner.restore(found["scanner"], self.sizes())
        self._kswapd.restore(found["kswapd"])
        n_folios = self.space.n_folios
        self._failed = [checked.array(found["failed"], np.int64, "failed", lowest=0, end=n_folios)]

    def sizes(self) -> dict[int, int]:
        """Return how many folios each process has, by its first one."""
        return {process.first_folio: process.n_folios for process in self.processes}

    def _zones_of_folios(self) -> NDArray[np.int32]:
        return self.frames.zones_of(self.space.frame_of)

    def _access(self, process: Process, stretch: Stretch, tally: _Tally, watching: Observer) -> None:
        space = self.space
        counts = np.zeros(N_NODES_MAX, dtype=np.int64)
        faulted = np.empty(min(_CHUNK_ACCESSES, stretch.n_accesses), dtype=np.int64)
        for done in range(0, stretch.n_accesses, _CHUNK_ACCESSES):
            first = stretch.first_access + done
            folios = np.empty(min(_CHUNK_ACCESSES, stretch.n_accesses - done), dtype=np.int64)
            process.pattern.draw(folios, first, stretch.start_ns)
            n_faults = touch(
                folios,
                process.first_folio,
                space.frame_of,
                space.slot_shift,
                space.flags,
                self.page_map.section_nid,
                counts,
                faulted,
            )
            watching.accessed(process, stretch, first, folios, faulted[:n_faults])
            self._tell(stretch.start_ns, folios, process.first_folio)
        tally.count(process, stretch.cpu_nid, counts)

    def _tell(self, now_ns: int, folios: NDArray[np.int64], first_folio: int) -> None:
        """Tell the witness, if there is one, where accesses happened."""
        if self.witness is not None:
            seen = first_folio + folios[self.witness.sampled(len(folios))]
            self.witness.accessed(now_ns, self.space.frame_of[seen].astype(np.int64))

    def _home_of(self, cpu_nid: int) -> int | None:
        return cpu_nid if self.top_tier[cpu_nid] else self.topology.promotion_target(cpu_nid)


class _Tally:
    """Accesses of one :meth:`SimulatedMachine.run`."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self._counts: dict[int, NDArray[np.int64]] = {}  # by the CPU's node
        self._asked: dict[str, Counter[Ends]] = {}  # by name, of processes that have a demand
        self.traffic: Traffic | None = None

    def count(self, process: Process | None, cpu_nid: int, counts: NDArray[np.int64]) -> None:
        self._counts[cpu_nid] = self._counts.get(cpu_nid, 0) + counts
        if process is not None and process.spec.demand is not None:
            asked = self._asked.setdefault(process.spec.name, Counter())
            for nid in np.flatnonzero(counts).tolist():
                asked[cpu_nid, nid] += int(counts[nid])

    def metrics(self) -> dict[str, float]:
        machine = self._machine
        if self._asked:
            demands = {process.spec.name: process.spec.demand for process in machine.processes}
            asked = [(name, demands[name], counts) for name, counts in self._asked.items()]
            self.traffic = traffic_of(machine.topology.links, asked)
        total = fast = local = 0
        latency_ns: float | None = 0.0
        for cpu_nid, counts in self._counts.items():
            home = machine.home_nid(cpu_nid)
            at_home = int(counts[home]) if home is not None else 0
            total += int(counts.sum())
            local += at_home
            fast += int(counts[machine.top_tier].sum()) if machine.tiered else at_home
            for nid in np.flatnonzero(counts).tolist():
                link = machine.topology.links.get((cpu_nid, nid))
                if link is None or latency_ns is None:
                    latency_ns = None
                    break
                each_ns = link.latency_ns
                if self.traffic is not None:
                    each_ns = self.traffic.latency_ns.get((cpu_nid, nid), each_ns)
                latency_ns += each_ns * int(counts[nid])
        found: dict[str, float] = {"accesses": total, "accesses_fast": fast, "accesses_local": local}
        if total and latency_ns is not None:
            found["mean_latency_ns"] = latency_ns / total
        return found
