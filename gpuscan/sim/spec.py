"""What a simulated machine is asked to be: plain values, already in base units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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


@dataclass(frozen=True, slots=True)
class HintFaultSpec:
    """NUMA hint faults: a scanner unmaps ``scan_bytes`` of each process every ``scan_period_ns``;
    the next access to an unmapped page faults and names the accessing CPU's node.

    Attributes:
        mark: ``request`` asks for the move at the fault, ``record`` counts the access.
        only_lower_tier: unmap only pages on nodes below the top tier
            (NUMA_BALANCING_MEMORY_TIERING); else all pages not on their CPU's node count.
        hot_latency_ns: a fault this long or longer after the unmapping is not hot and marks
            nothing (numa_balancing_hot_threshold_ms, 1000 ms by default); 0 = all count.
        two_stage: a page is marked only when its last two faults came from the same node
            (the two-stage filter of should_numa_migrate_memory, approximated: the kernel
            keeps the last CPU and PID, this keeps the last node).
    """

    scan_bytes: int = 256 << 20
    scan_period_ns: int = 1_000_000_000
    mark: Literal["request", "record"] = "request"
    only_lower_tier: bool = True
    hot_latency_ns: int = 1_000_000_000
    two_stage: bool = False


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
    """

    round_ns: float = 3200.0
    page_ns: float = 1090.0
    isolation_failure_share: float = 0.0
    copy_failure_share: float = 0.0


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """A simulated machine on a topology (given apart).

    Attributes:
        processes: who runs.
        hint_faults: how accesses become marks.
        cost: of migrations.
        demotion: kswapd of a node that is short of memory demotes cold pages to the next tier.
        seed: of everything random.
    """

    processes: tuple[ProcessSpec, ...]
    hint_faults: HintFaultSpec = HintFaultSpec()
    cost: MigrationCostSpec = MigrationCostSpec()
    demotion: bool = True
    seed: int = 0
