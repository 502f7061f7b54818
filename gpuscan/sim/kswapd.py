"""kswapd as a demoter: a node short of free memory sends cold folios to the next lower tier.

One thread per node with memory. It is woken by a promotion that finds its node not
balanced, by a demotion that left its target below the low watermarks, and wherever a node
is below them, since some allocation always comes along (wake_all_kswapds() in
mm/page_alloc.c). It works until some zone of the node is above the promo watermark
(NUMA_BALANCING_MEMORY_TIERING) or the high one (pgdat_balanced() in mm/vmscan.c).

The tail of the inactive list is the hand of a second-chance clock over the node's frames: a
folio that was accessed since the hand last came by is passed over once, as
folio_check_references() keeps it. So folios come in the order of frames, not in that in
which they became inactive, and the lists' balance is not modelled.

Where to is drawn for every SWAP_CLUSTER_MAX folios among the nearest nodes of the next tier
(next_demotion_node() in mm/memory-tiers.c); a folio that finds no room there goes on along
that node's zonelist, among all lower tiers (alloc_demote_folio() in mm/vmscan.c). There is
no swap: a node without a lower tier has nothing to reclaim to, which is counted.

Where one thread both promotes and demotes, it takes over from kswapd what is cold and where
it goes (:meth:`Kswapd.choose`), and moves nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.documents import pairs, random_state, table, whole, wholes
from gpuscan.engine.stages import FolioEvents
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import PageMap
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
        seed: of the draws among lower nodes that are equally near.
    """

    def __init__(
        self,
        topology: Topology,
        frames: FrameAllocator,
        space: AddressSpace,
        cost: MigrationCostSpec,
        mark: Mark,
        seed: int,
    ) -> None:
        self._topology = topology
        self._page_map: PageMap = topology.page_map
        self._frames = frames
        self._space = space
        self._mark: Mark = mark
        self._ns_per_page = cost.page_ns + cost.round_ns / SWAP_CLUSTER_MAX
        self._awake: set[int] = set()
        self._hands: dict[int, int] = {}
        self._preferred = {node.nid: topology.demotion_targets(node.nid) for node in topology.nodes}
        self._demoting = [nid for nid, lower in self._preferred.items() if lower and frames.has_memory(nid)]
        self._fallbacks: dict[tuple[int, int], list[int]] = {}
        self._random = np.random.default_rng([seed, 3])

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
        self._wake_short()
        for nid in sorted(self._awake):
            if self._balance(nid, duration_ns, events, counts):
                self._awake.discard(nid)
        return events, counts

    def choose(self, duration_ns: int) -> tuple[NDArray[np.int64], NDArray[np.int32], KswapdCounts]:
        """Return what every woken kswapd would demote in ``duration_ns``, instead of demoting it.

        Returns:
            Head frames (flat) of cold folios, where each should go, and the counts.
        """
        frames, targets = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
        counts = KswapdCounts()
        self._wake_short()
        for nid in sorted(self._awake):
            shortage = self._frames.shortage(nid, self._mark)
            if not self._preferred[nid] or not shortage:
                counts.no_lower_tier += not self._preferred[nid]
                self._awake.discard(nid)
                continue
            most = int(duration_ns / self._ns_per_page) + 1 if self._ns_per_page else _VICTIMS_MAX
            cold = self._coldest(nid, most)
            n_clusters = -(-len(cold) // SWAP_CLUSTER_MAX)
            drawn = self._random.choice(self._preferred[nid], n_clusters)
            frames.append(cold)
            targets.append(np.repeat(drawn, SWAP_CLUSTER_MAX)[: len(cold)].astype(np.int32))
        return np.concatenate(frames), np.concatenate(targets), counts

    def _coldest(self, nid: int, most_pages: int) -> NDArray[np.int64]:
        """Return cold folios, no two alike, that leave some zone of a node balanced, as far as there are.

        What a folio frees helps its own zone; one zone that has enough will do, as in :meth:`run`.
        """
        ranges = self._page_map.node_section_ranges(nid)
        frames_left = 2 * sum(end - start for start, end in ranges)
        lacks = self._frames.shortages(nid, self._mark)
        parts = [np.empty(0, dtype=np.int64)]
        while (step := min(min(lacks.values()), most_pages, _VICTIMS_MAX)) > 0 and frames_left > 0:
            victims, n_seen = self._sweep(nid, ranges, step)
            frames_left -= n_seen
            n_pages = self._pages_of(victims)
            most_pages -= int(n_pages.sum())
            zones = self._frames.zones_of(victims)
            for zone_id in lacks:
                lacks[zone_id] -= int(n_pages[zones == zone_id].sum())
            parts.append(victims)
        found = np.concatenate(parts)
        _, first = np.unique(found, return_index=True)  # on the second time round they are cold still
        return found[np.sort(first)]

    def _wake_short(self) -> None:
        self._awake.update(nid for nid in self._demoting if self._frames.below(nid, "low"))

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore`."""
        return {
            "awake": sorted(self._awake),
            "hands": list(self._hands.items()),
            "random": self._random.bit_generator.state,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of.

        Raises:
            ValueError: it was of another machine.
        """
        found = table(state, "kswapd", ("awake", "hands", "random"))
        awake = wholes(found["awake"], 0, N_NODES_MAX - 1, "awake")
        hands = pairs(found["hands"], "hands")
        if not {*awake, *(nid for nid, _ in hands)} <= self._preferred.keys():
            raise ValueError("kswapd is of nodes that are not there")
        last = self._page_map.n_pages - 1
        self._hands = {nid: whole(hand, 0, last, "the hand of kswapd") for nid, hand in hands}
        self._awake = set(awake)
        self._random.bit_generator.state = random_state(found["random"], "the random numbers of kswapd")

    def _balance(self, nid: int, duration_ns: int, events: list[FolioEvents], counts: KswapdCounts) -> bool:
        """Demote until the node is balanced, the time is up or nothing is left; return whether to sleep."""
        if not self._preferred[nid]:
            counts.no_lower_tier += 1
            return True
        shortage = self._frames.shortage(nid, self._mark)
        if not shortage:
            return True
        ranges = self._page_map.node_section_ranges(nid)
        budget_ns = float(duration_ns)
        frames_left = 2 * sum(end - start for start, end in ranges)  # second chance: twice round at most
        while shortage and budget_ns >= 0.0 and frames_left > 0:
            n_pages = min(shortage, _VICTIMS_MAX)
            if self._ns_per_page:
                n_pages = min(n_pages, int(budget_ns / self._ns_per_page) + 1)
            victims, n_seen = self._sweep(nid, ranges, n_pages)
            frames_left -= n_seen
            demoted_pages, complete = self._demote(nid, victims, events)
            counts.demoted_pages += demoted_pages
            budget_ns -= demoted_pages * self._ns_per_page
            if not complete:
                counts.demotion_failed += 1
                return False
            shortage = self._frames.shortage(nid, self._mark)
        return shortage == 0

    def _sweep(self, nid: int, ranges: list[tuple[int, int]], n_pages: int) -> tuple[NDArray[np.int64], int]:
        """Advance the node's hand past cold folios of ``n_pages`` base pages, or to the end of its range."""
        hand = self._hands.get(nid, ranges[0][0])
        start, end = next(((max(lo, hand), hi) for lo, hi in ranges if hand < hi), ranges[0])
        victims = np.empty(n_pages, dtype=np.int64)
        found, hand = second_chance(
            start,
            end,
            self._space.slot_shift,
            self._space.folio_of,
            self._space.nothing,
            self._space.flags,
            victims,
        )
        n_enough = int(np.searchsorted(np.cumsum(self._pages_of(victims[:found])), n_pages)) + 1
        if n_enough < found:
            found, hand = n_enough, int(victims[n_enough])
        self._hands[nid] = hand if hand < ranges[-1][1] else ranges[0][0]
        return victims[:found], hand - start

    def _pages_of(self, victims: NDArray[np.int64]) -> NDArray[np.int64]:
        pages: NDArray[np.int64] = 1 << self._space.orders_of(self._space.folios_at(victims))
        return pages

    def _demote(self, nid: int, victims: NDArray[np.int64], events: list[FolioEvents]) -> tuple[int, bool]:
        """Move folios down; return the base pages moved and whether all were."""
        preferred = self._preferred[nid]
        if len(preferred) == 1:
            return self._demote_to(self._order_of_nodes(nid, preferred[0]), victims, events)
        moved_pages, complete = 0, True
        for start in range(0, len(victims), SWAP_CLUSTER_MAX):
            target = int(self._random.choice(preferred))
            part = victims[start : start + SWAP_CLUSTER_MAX]
            moved, all_moved = self._demote_to(self._order_of_nodes(nid, target), part, events)
            moved_pages += moved
            complete = complete and all_moved
        return moved_pages, complete

    def _demote_to(
        self, targets: list[int], victims: NDArray[np.int64], events: list[FolioEvents]
    ) -> tuple[int, bool]:
        """Move folios to the first of ``targets`` that has room for them."""
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

    def _order_of_nodes(self, nid: int, target: int) -> list[int]:
        """Return where folios of a node go: the target, then other lower nodes, nearest to it first."""
        found = self._fallbacks.get((nid, target))
        if found is None:
            tier = self._topology.node(nid).tier
            found = self._fallbacks[nid, target] = [
                other
                for other in spill_chain(self._topology, target)
                if self._topology.node(other).tier > tier and self._frames.has_memory(other)
            ]
        return found
