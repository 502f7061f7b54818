"""What a larger batch of migrations gains in throughput, and what it costs who waits for a page in it.

``migrate_pages()`` unmaps all folios of a round, flushes TLBs once, and then copies and maps one after the
other. The first folio is away from its unmapping until all others are unmapped, the flush is through, and it
is copied; the last one until the round ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.topology.model import Topology

SIZES = (*(1 << k for k in range(10)),)
"""Batches of a curve: 1 to 512 base pages, what a round takes at most."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What the steps of migrating a base page take.

    Attributes:
        unmap_ns: to isolate and unmap it.
        flush_ns: to flush TLBs, once for a batch.
        copy_ns: to copy it.
        map_ns: to map it again and let go of the old one.
    """

    unmap_ns: float
    flush_ns: float
    copy_ns: float
    map_ns: float

    def batch_ns(self, n_pages: float) -> float:
        """Return how long a batch takes."""
        return self.flush_ns + n_pages * (self.unmap_ns + self.copy_ns + self.map_ns)

    def first_ns(self, n_pages: float) -> float:
        """Return how long the first folio of a batch is away."""
        return n_pages * self.unmap_ns + self.flush_ns + self.copy_ns + self.map_ns

    def mean_away_ns(self, n_pages: float) -> float:
        """Return how long a folio of a batch is away in the mean."""
        each_ns = self.copy_ns + self.map_ns
        return self.first_ns(n_pages) + (n_pages - 1) / 2 * (each_ns - self.unmap_ns)

    def gb_per_s(self, n_pages: float) -> float:
        """Return 10^9 bytes a second."""
        return n_pages * PAGE_BYTES / self.batch_ns(n_pages)

    def page_cost_ns(self, n_pages: float, touches_per_s: float) -> float:
        """Return what a page costs: its part of the migrator's time, and the time that others wait for it.

        Touches come at random, so one that meets the page away waits half of that time in the mean; one
        thread in all can wait for a page at a time of each toucher, so a wait is never longer than ``away``.
        """
        away_ns = self.mean_away_ns(n_pages)
        waits = min(1.0, touches_per_s * away_ns / 1e9)
        return self.batch_ns(n_pages) / n_pages + waits * away_ns / 2

    def best(self, touches_per_s: float, n_max: int = SIZES[-1]) -> int:
        """Return the batch, up to ``n_max`` pages, for which a page costs least."""
        return min(range(1, n_max + 1), key=lambda n_pages: self.page_cost_ns(n_pages, touches_per_s))

    def enough(self, share: float, sizes: Iterable[int] = range(1, SIZES[-1] + 1)) -> int:
        """Return the smallest batch with ``share`` of the throughput of the largest."""
        wanted = share * self.gb_per_s(SIZES[-1])
        return next(n_pages for n_pages in sizes if self.gb_per_s(n_pages) >= wanted)


@dataclass(frozen=True, slots=True)
class Reference:
    """What was fitted, on what machine.

    Attributes:
        steps: there.
        n_cpus: that a flush interrupts there.
        latency_ns: of the memory that pages are copied from there.
    """

    steps: Steps
    n_cpus: int
    latency_ns: float

    def on(self, topology: Topology, source_nid: int, target_nid: int) -> Steps:
        """Return the steps for moves between two nodes of another machine.

        A flush takes as long as it has CPUs to interrupt; a copy as long as its reads take, by the latency
        of the source from the CPUs next to the target, and no less than the slower link's bandwidth allows.

        Raises:
            InputError: the topology does not know the links.
        """
        cpu_nid = _cpu_nid(topology, target_nid)
        reads = topology.links.get((cpu_nid, source_nid))
        writes = topology.links.get((cpu_nid, target_nid))
        if reads is None or writes is None:
            raise InputError(
                f"topology {topology.name} has no link from node {cpu_nid} to nodes {source_nid} and "
                f"{target_nid}; add [[links]], or choose a machine that has them"
            )
        slowest = min(reads.bandwidth_bytes_per_s, writes.bandwidth_bytes_per_s)
        copy_ns = self.steps.copy_ns * reads.latency_ns / self.latency_ns
        n_cpus = sum(len(node.cpus) for node in topology.nodes)
        return Steps(
            self.steps.unmap_ns,
            self.steps.flush_ns * n_cpus / self.n_cpus,
            max(copy_ns, PAGE_BYTES / slowest * 1e9),
            self.steps.map_ns,
        )


def routes(topology: Topology) -> list[tuple[int, int]]:
    """Return the moves that are worth a look: the first two nodes of each pair of tiers and distance."""
    nodes = topology.nodes
    tier = np.array([node.tier for node in nodes])
    has_memory = np.array([node.present_pages > 0 for node in nodes])
    apart = topology.distance.T.astype(np.int64)  # from the target's CPUs to the source
    kind = (tier[:, None] << 20) + (tier[None, :] << 8) + apart
    kind[~has_memory, :] = kind[:, ~has_memory] = -1
    np.fill_diagonal(kind, -1)
    found, first = np.unique(kind.ravel(), return_index=True)
    pairs = sorted(first[found >= 0].tolist())
    return [(nodes[at // len(nodes)].nid, nodes[at % len(nodes)].nid) for at in pairs]


def _cpu_nid(topology: Topology, nid: int) -> int:
    """Return the node whose CPUs move pages to a node: its own, or the next one that has any."""
    found = topology.nearest(nid, [node.nid for node in topology.nodes if node.cpus])
    if found is None:
        nearest = {node.nid: topology.distance_between(node.nid, nid) for node in topology.nodes if node.cpus}
        found = min(nearest, key=lambda cpu_nid: (nearest[cpu_nid], cpu_nid))
    return found
