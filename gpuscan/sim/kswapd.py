"""kswapd as a demoter: a node short of free memory sends cold folios to the next lower tier.

One thread per node with memory. It is woken by a promotion that finds its node not
balanced, or by an allocation that could not keep to the low watermarks, and works
until some zone of the node is above the promo watermark (NUMA_BALANCING_MEMORY_TIERING)
or the high one (pgdat_balanced() in mm/vmscan.c). Cold is what a second-chance clock
over the node's frames says; the kernel's LRU lists are not modelled. There is no swap:
a node without a lower tier has nothing to reclaim to, which is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.flow import FolioEvents
from gpuscan.pagemap import PageMap
from gpuscan.sim.address_space import AddressSpace
from gpuscan.sim.frames import FrameAllocator, Mark
from gpuscan.sim.loops import second_chance
from gpuscan.sim.placement import spill_chain
from gpuscan.sim.spec import MigrationCostSpec
from gpuscan.topology.model import Topology

SWAP_CLUSTER_MAX = 32
"""Folios kswapd takes off the LRU and hands to ``migrate_pages()`` at a time (include/linux/swap.h)."""
_VICTIMS_MAX = 4096


@dataclass(slots=True)
class KswapdCounts:
    """What kswapd did in one tick.

    Attributes:
        demoted_pages: base pages moved down.
        no_lower_tier: times it was woken on a node with nowhere to demote to.
        demotion_failed: times no lower node had room.
    """

    demoted_pages: int = 0
    no_lower_tier: int = 0
    demotion_failed: int = 0


class Kswapd:
    """All kswapd threads of a machine.

    Args:
        topology, frames, space: the machine.
        cost: kswapd moves folios with the same single-threaded ``migrate_pages()`` as
            everyone, SWAP_CLUSTER_MAX folios a round, which bounds its pages per second.
        mark: watermark at which it sleeps again.
    """

    def __init__(
        self,
        topology: Topology,
        frames: FrameAllocator,
        space: AddressSpace,
        cost: MigrationCostSpec,
        mark: Mark,
    ) -> None:
        self._topology = topology
        self._page_map: PageMap = topology.page_map
        self._frames = frames
        self._space = space
        self._mark: Mark = mark
        self._ns_per_page = cost.page_ns + cost.round_ns / SWAP_CLUSTER_MAX
        self._awake: set[int] = set()
        self._hands: dict[int, int] = {}
        self._lower: dict[int, list[int]] = {}

    def wake(self, nid: int) -> None:
        """Wake the kswapd of a node (wakeup_kswapd()); it runs in the next tick."""
        self._awake.add(nid)

    def run(self, duration_ns: int) -> tuple[list[FolioEvents], KswapdCounts]:
        """Let every woken kswapd work for ``duration_ns``.

        Returns:
            What it moved, in order: frames that one event frees may be allocated by a later one.
        """
        events: list[FolioEvents] = []
        counts = KswapdCounts()
        for nid in sorted(self._awake):
            if self._balance(nid, duration_ns, events, counts):
                self._awake.discard(nid)
        return events, counts

    def _balance(self, nid: int, duration_ns: int, events: list[FolioEvents], counts: KswapdCounts) -> bool:
        """Demote until the node is balanced, the time is up or nothing is left; return whether to sleep."""
        targets = self._targets(nid)
        if not targets:
            counts.no_lower_tier += 1
            return True
        shortage = self._frames.shortage(nid, self._mark)
        if not shortage:
            return True
        ranges = self._page_map.node_section_ranges(nid)
        budget_ns = float(duration_ns)
        frames_left = 2 * sum(end - start for start, end in ranges)  # second chance: twice round at most
        while shortage and budget_ns >= 0.0 and frames_left > 0:
            n_victims = min(shortage, _VICTIMS_MAX)
            if self._ns_per_page:
                n_victims = min(n_victims, int(budget_ns / self._ns_per_page) + 1)
            victims, n_seen = self._sweep(nid, ranges, n_victims)
            frames_left -= n_seen
            demoted_pages, complete = self._demote(victims, targets, events)
            counts.demoted_pages += demoted_pages
            budget_ns -= demoted_pages * self._ns_per_page
            if not complete:
                counts.demotion_failed += 1
                return False
            shortage = self._frames.shortage(nid, self._mark)
        return shortage == 0

    def _sweep(
        self, nid: int, ranges: list[tuple[int, int]], n_victims: int
    ) -> tuple[NDArray[np.int64], int]:
        """Advance the node's hand to the next ``n_victims`` cold folios, or to the end of its range."""
        hand = self._hands.get(nid, ranges[0][0])
        start, end = next(((max(lo, hand), hi) for lo, hi in ranges if hand < hi), ranges[0])
        victims = np.empty(n_victims, dtype=np.int64)
        found, hand = second_chance(
            start, end, self._space.folio_of, self._space.nothing, self._space.flags, victims
        )
        self._hands[nid] = hand if hand < ranges[-1][1] else ranges[0][0]
        return victims[:found], hand - start

    def _demote(
        self, victims: NDArray[np.int64], targets: list[int], events: list[FolioEvents]
    ) -> tuple[int, bool]:
        """Move folios down; return the base pages moved and whether all were."""
        folios = self._space.folios_at(victims)
        orders = self._space.orders_of(folios)
        moved_pages, complete = 0, True
        for order in np.unique(orders).tolist():
            left = folios[orders == order]
            for target in targets:
                frames = self._frames.alloc(len(left), target, order)
                # GFP_NOWAIT carries __GFP_KSWAPD_RECLAIM (alloc_demote_folio() in mm/vmscan.c).
                if self._frames.shortage(target, "low"):
                    self.wake(target)
                if len(frames):
                    old = self._space.move(left[: len(frames)], frames)
                    self._frames.free(old, order)
                    events.append(FolioEvents(freed=old, allocated=frames, order=order))
                    moved_pages += len(frames) << order
                    left = left[len(frames) :]
                if not len(left):
                    break
            complete = complete and not len(left)
        return moved_pages, complete

    def _targets(self, nid: int) -> list[int]:
        """Return where a node demotes to: the preferred node, then all of lower tiers, nearest first."""
        if nid not in self._lower:
            preferred = self._topology.demotion_target(nid)
            tier = self._topology.node(nid).tier
            others = [
                other
                for other in spill_chain(self._topology, nid)
                if self._topology.node(other).tier > tier and self._frames.has_memory(other)
            ]
            others.sort(key=lambda other: other != preferred)
            self._lower[nid] = [] if preferred is None else others
        return self._lower[nid]
