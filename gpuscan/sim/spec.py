"""What a simulated machine is asked to be: plain values, already in base units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class PatternSpec:
    """Which pages a process touches.

    Attributes:
        kind: ``zipf``: a hot set of ``hot_share`` of the pages takes ``hot_access_share``
            of the accesses, Zipf-distributed with exponent ``skew`` inside, the rest is
            uniform over all pages; ``uniform``: every page alike, at random; ``scan``:
            every page in turn.
        hot_share, hot_access_share: shares from 0 to 1.
        skew: Zipf exponent, 0 = flat.
        scattered: hot pages lie all over the address space rather than in one range.
        shift_every_ns: the hot set moves to other pages this often; 0 = never.
    """

    kind: Literal["zipf", "uniform", "scan"] = "zipf"
    hot_share: float = 0.1
    hot_access_share: float = 0.9
    skew: float = 0.8
    scattered: bool = True
    shift_every_ns: int = 0


@dataclass(frozen=True, slots=True)
class DemandSpec:
    """How much of the memory's bandwidth a process asks for: as much as it can, with so many requests.

    Attributes:
        in_flight: requests of all its tasks that are under way at any moment; one begins when one ends.
        access_bytes: moved for each, reads and writes together: 64, or 128 where the line is written back.
        think_ns: from an answer to the next request.
    """

    in_flight: float
    access_bytes: int = 64
    think_ns: float = 0.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process.

    Attributes:
        name: what to call it.
        n_pages: base pages of its address space, all mapped.
        cpu_nids: nodes whose CPUs its tasks run on, all at once and alike. With
            ``move_at_ns`` above 0, all on the first until then and on the second from then
            on (tasks that are rebalanced); with ``rotate_every_ns`` above 0, all on each
            node in turn.
        accesses_per_s: sampled memory accesses per second of simulated time.
        placement: share of its pages on each node at the start, by nid, in address order;
            adds up to 1. A full node spills over to the next nearest.
        order: folio order of its mappings, 0 or 9 (THP).
        file_share: share of pages that are file-backed, the rest is anonymous.
        dirty_share: share of the file-backed pages that are dirty.
        exec_share: share of the file-backed pages that are shared executable.
        pattern: which pages it touches.
        demand: the bandwidth that it asks for; None: none that anybody would feel. ``accesses_per_s``
            samples where it goes, and says nothing of how much it is.
    """

    name: str
    n_pages: int
    cpu_nids: tuple[int, ...]
    accesses_per_s: float
    placement: tuple[tuple[int, float], ...]
    order: int = 0
    move_at_ns: int = 0
    rotate_every_ns: int = 0
    file_share: float = 0.0
    dirty_share: float = 0.0
    exec_share: float = 0.0
    pattern: PatternSpec = PatternSpec()
    demand: DemandSpec | None = None


class ProducerSpec:
    """Base of what watches the accesses of a machine, see :mod:`gpuscan.producers`; a dataclass, frozen."""

    __slots__ = ()
    kind: ClassVar[str]
    """The name of the producer that it is for."""


@dataclass(frozen=True, slots=True)
class HintFaultSpec(ProducerSpec):
    """NUMA balancing: a scanner unmaps ``scan_bytes`` of each process every ``scan_period_ns``;
    the next access to an unmapped page faults and names the accessing CPU's node.

    What the kernel calls it is in parentheses; defaults are the kernel's (Linux 6.16) but for
    ``scan_period_ns``, which is fixed where the kernel adapts it, and ``two_stage``.

    Attributes:
        scan_bytes: unmapped at a visit (scan_size_mb).
        scan_period_ns: pause between visits, if it is fixed; 0 = the scanner never comes.
        mark: ``request`` asks for the move at the fault, ``record`` counts the access.
        only_lower_tier: unmap only pages on nodes below the top tier
            (NUMA_BALANCING_MEMORY_TIERING); else all pages not on their CPU's node count
            (NUMA_BALANCING_NORMAL).
        hot_latency_ns: a fault this long or longer after the unmapping is not hot and marks
            nothing (hot_threshold_ms); the threshold follows the rate limit from there. 0 = all count.
        two_stage: a page is not marked where the fault before came from another node
            (the two-stage filter of should_numa_migrate_memory, approximated: the kernel
            keeps the last CPU and PID, this keeps the last node).
        adaptive: the pause follows the faults (numa_scan_period) instead of ``scan_period_ns``.
        scan_delay_ns: adaptive: first visit (scan_delay_ms).
        scan_period_min_ns, scan_period_max_ns: adaptive: shortest and longest time of a pass over
            a process (scan_period_min_ms, scan_period_max_ms). The latter is also how often the hot
            threshold moves.
        failure_feedback: adaptive: migrations that failed lengthen the pause, as where do_numa_page()
            migrates itself. RFC v1 of kmigrated does not know of them when it counts the fault.
        promote_bytes_per_s: candidates a second for each target
            (promote_rate_limit_MBps); 0 = no limit.
        free_memory_bypass: neither threshold nor limit hold while the target has plenty of free memory.
        fault_ns, pte_ns: CPU time of a fault and of unmapping a page.
    """

    kind = "hint-faults"

    scan_bytes: int = 256 << 20
    scan_period_ns: int = 1_000_000_000
    mark: Literal["request", "record"] = "request"
    only_lower_tier: bool = True
    hot_latency_ns: int = 1_000_000_000
    two_stage: bool = False
    adaptive: bool = False
    scan_delay_ns: int = 1_000_000_000
    scan_period_min_ns: int = 1_000_000_000
    scan_period_max_ns: int = 60_000_000_000
    failure_feedback: bool = False
    promote_bytes_per_s: int = 64 << 30
    free_memory_bypass: bool = True
    fault_ns: float = 750.0
    pte_ns: float = 90.0


@dataclass(frozen=True, slots=True)
class MigrationCostSpec:
    """What a migration costs and how often it fails.

    The default cost is derived from a published throughput of ``move_pages()`` on 4 KiB
    folios, vanilla kernel, one thread: 3.73 +- 0.33 GB/s (Linux 6.16-rc6, two-socket AMD
    Zen 3; S. Garg, "[RFC V3 0/9] Accelerate page migration with batch copying and hardware
    offload", linux-mm, 2025-09-23, table 1a). That is 0.56 ms for 512 pages, split into
    3.2 us a round and 1.09 us a page. The same table has 10.67 GB/s for 2 MiB folios, so
    for huge pages a ``page_ns`` of 380 is closer.

    Attributes:
        round_ns, page_ns: fixed part per ``migrate_pages()`` round and part per base page.
        isolation_failure_share, copy_failure_share: of folios, refused at isolation
            (off the LRU for a moment) and failed in the copy (extra reference).
        copy_failure_lasts_share: of the folios with an extra reference, those that have it still in
            the next of the ten passes.
        folio_ns: part per folio, whatever its size, for who has figures by folio size.
        huge_page_ns: part per base page of a PMD-mapped folio, which has one entry to unmap and map;
            None: ``page_ns``.
        round_pages: base pages that close a round (NR_MAX_BATCHED_MIGRATION); 1 = a TLB flush for every
            folio, as before the batching of v6.3.
    """

    round_ns: float = 3200.0
    page_ns: float = 1090.0
    isolation_failure_share: float = 0.0
    copy_failure_share: float = 0.0
    copy_failure_lasts_share: float = 1.0
    folio_ns: float = 0.0
    huge_page_ns: float | None = None
    round_pages: int = 512


@dataclass(frozen=True, slots=True)
class KernelCostSpec:
    """What the kernel's own steps take on the machine's CPUs, for the models of other designs.

    The defaults were measured with ``gpuscan bench costs`` on one thread of an AMD EPYC (Zen 4):
    medians of 9 runs of 4 Mi pages, 2.8-3.0, 3.8-3.9, 160-165 and 2.5-2.5 ns. ``atomics_apart_ns``
    is not measured: two CPUs that want one line hand it over for every atomic, and that takes as
    long as a cold line.

    Attributes:
        walk_pfn_ns: a walk, per PFN whose struct page and record it reads.
        walk_pfn_locked_ns: the same with a locked test-and-clear on each record.
        cold_line_ns: a dependent load of a line that is in no cache of the CPU.
        atomic_ns: a locked instruction on a line that is.
        atomics_apart_ns: between the two atomics of a mark, and between those of a walk on the same
            page; the mean of what is drawn.
    """

    walk_pfn_ns: float = 2.9
    walk_pfn_locked_ns: float = 3.8
    cold_line_ns: float = 160.0
    atomic_ns: float = 2.5
    atomics_apart_ns: float = 160.0


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """A simulated machine on a topology (given apart).

    Attributes:
        processes: who runs.
        hint_faults: NUMA balancing: the machine's tiering mode, and how accesses become marks.
        cost: of migrations.
        kernel: what other designs than gpuscan are charged with.
        demotion: kswapd of a node that is short of memory demotes cold pages to the next tier.
        demotion_marked: what it would demote is told instead, for a thread that promotes and demotes
            (:meth:`gpuscan.sim.machine.SimulatedMachine.cold_folios`).
        seed: of everything random.
        producer: what marks pages instead of hint faults; ``hint_faults.mark`` and ``only_lower_tier``
            hold for it too.
    """

    processes: tuple[ProcessSpec, ...]
    hint_faults: HintFaultSpec = HintFaultSpec()
    cost: MigrationCostSpec = MigrationCostSpec()
    kernel: KernelCostSpec = KernelCostSpec()
    demotion: bool = True
    demotion_marked: bool = False
    seed: int = 0
    producer: ProducerSpec | None = None
