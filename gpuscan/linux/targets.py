"""Where a page of a process goes, within what its cpuset and its memory policies allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.linux.address_map import Trait
from gpuscan.linux.numa import Allowance
from gpuscan.linux.rooms import Rooms
from gpuscan.topology import MemoryKind, Topology, evacuation

NO_TARGET = -1
"""The page is where it belongs: on the near side for promotion, with nothing below for demotion."""
NOT_ALLOWED = -2
"""There is a target, and the process's cpuset or memory policy rules it out."""


NO_ROOM = -3
"""The page is to leave its node, and no node that it may go to has room."""

_Rule = Callable[[int, frozenset[int]], int | None]
"""From the node a page is on and the nodes it may be on to its target."""


class Targets:
    """Promotion and demotion targets of a machine.

    Args:
        topology: the machine.
        to_nid: promote to this node only, from every other node of its tier or a lower one; by default
            to the nearest node with CPUs of a top tier, from lower tiers.

    Raises:
        InputError: ``to_nid`` has no memory, or is not there.
    """

    def __init__(self, topology: Topology, to_nid: int | None = None) -> None:
        self.topology = topology
        self._nids = [node.nid for node in topology.nodes if node.present_pages]
        if to_nid is not None and to_nid not in self._nids:
            known = ", ".join(map(str, self._nids))
            is_node = any(node.nid == to_nid for node in topology.nodes)
            what = "has no memory" if is_node else "is not there or not online"
            raise InputError(f"node {to_nid} {what}; give one of the nodes with memory: {known}")
        self._to_nid = to_nid
        self._gpu_nids = frozenset(node.nid for node in topology.nodes if node.kind is MemoryKind.GPU)
        self.drain(())

    def drain(self, nids: Iterable[int], rooms: Rooms | None = None) -> None:
        """Let nodes be emptied: nothing goes there, and what is there goes elsewhere.

        Args:
            nids: all that are to be emptied from now on; those before are not any more.
            rooms: of the nodes. What leaves is shared out among them, folio by folio: to the nearest node
                until that is full, then to the next. Without it all goes to one node, of the same tier if
                there is one.

        Raises:
            InputError: one has no memory, or there would be no other node.
        """
        drained = frozenset(nids)
        for nid in sorted(drained - set(self._nids)):
            known = ", ".join(map(str, self._nids))
            raise InputError(f"node {nid} has no memory here; give one of the nodes with memory: {known}")
        if drained and not set(self._nids) - drained:
            raise InputError("all nodes with memory would be emptied; leave one of them")
        self.drained = drained
        self.rooms = rooms
        open_to_all = frozenset(self._nids) - drained
        self.promotion = self._table(self._promotion, open_to_all)
        self.demotion = self._table(self._demotion, open_to_all)
        self.draining = self._table(self._draining, open_to_all)

    def _draining(self, nid: int, allowed: frozenset[int]) -> int | None:
        """Return the nearest node of the same tier, else of the next lower, else of the next higher one."""
        topology = self.topology
        if nid not in self.drained:
            return None
        own_tier = topology.node(nid).tier
        others = [node for node in topology.nodes if node.nid in allowed - self._gpu_nids - {nid}]
        tiers = sorted(
            {node.tier for node in others}, key=lambda tier: (tier < own_tier, abs(tier - own_tier))
        )
        for tier in tiers:
            found = topology.nearest(nid, [node.nid for node in others if node.tier == tier])
            if found is not None:
                return found
        return None

    def begin_look(self) -> None:
        """Let the room of the nodes be asked for anew."""
        if self.rooms is not None:
            self.rooms.begin_look()

    def share_out(
        self,
        heads: NDArray[np.int64],
        n_pages: NDArray[np.int64],
        traits: NDArray[np.int64],
        nids: NDArray[np.int32],
        addresses: NDArray[np.int64],
        allowance: Allowance,
    ) -> NDArray[np.int32]:
        """Return int32[n]: the node with room for each folio of nodes that are emptied.

        Args:
            heads: int64[n], distinct: PFN of each folio's first page.
            n_pages: int64[n], base pages of each.
            traits: int64[n], bits of :class:`gpuscan.linux.address_map.Trait`.
            nids: int32[n], where the folios are.
            addresses: int64[n], of a page of each in their process.
            allowance: of the process.

        Returns:
            :data:`NOT_ALLOWED` where they may not be elsewhere, :data:`NO_ROOM` where no node has room.
        """
        assert self.rooms is not None
        is_hugetlb, is_shared = ((traits & int(trait)) != 0 for trait in (Trait.HUGETLB, Trait.SHARED))
        targets = np.full(len(heads), NOT_ALLOWED, dtype=np.int32)
        for allowed, of_policy in self._by_policy(addresses, allowance):
            for nid in np.unique(nids[of_policy]).tolist():
                order = [
                    other
                    for other in evacuation.nearest_first(self.topology, nid)
                    if other in allowed - self._gpu_nids
                ]
                if not order:
                    continue
                those = np.flatnonzero(of_policy & (nids == nid))
                found = self.rooms.share_out(
                    heads[those], n_pages[those], is_hugetlb[those], is_shared[those], order
                )
                targets[those] = np.where(found == evacuation.NO_ROOM, np.int32(NO_ROOM), found)
        return targets

    def _by_policy(
        self, addresses: NDArray[np.int64], allowance: Allowance
    ) -> Iterator[tuple[frozenset[int], NDArray[np.bool_]]]:
        """Yield the nodes that pages of a process may be on, and bool[n], which pages."""
        policies = allowance.policy_of(addresses)
        for number in np.unique(policies).tolist():
            limit = allowance.policies[number]
            allowed = (allowance.nids if limit is None else allowance.nids & limit) - self.drained
            yield allowed, policies == number

    def _table(self, target_of: _Rule, allowed: frozenset[int]) -> dict[int, int]:
        found = {nid: target_of(nid, allowed) for nid in self._nids}
        return {nid: target for nid, target in found.items() if target is not None}

    def _promotion(self, nid: int, allowed: frozenset[int]) -> int | None:
        topology = self.topology
        if self._to_nid is not None:
            lower = topology.node(nid).tier >= topology.node(self._to_nid).tier
            return self._to_nid if lower and nid != self._to_nid and self._to_nid in allowed else None
        if topology.is_top_tier(nid):
            return None
        above = [
            node
            for node in topology.nodes
            if node.nid in allowed - self._gpu_nids and node.present_pages and topology.is_top_tier(node.nid)
        ]
        with_cpus = [node.nid for node in above if node.cpus]
        found = topology.nearest(nid, with_cpus)
        return topology.nearest(nid, [node.nid for node in above]) if found is None else found

    def _demotion(self, nid: int, allowed: frozenset[int]) -> int | None:
        topology = self.topology
        own_tier = topology.node(nid).tier
        lower = sorted(
            (node.tier, node.nid)
            for node in topology.nodes
            if node.tier > own_tier and node.nid in allowed - self._gpu_nids
        )
        for tier in dict.fromkeys(tier for tier, _ in lower):
            found = topology.nearest(nid, [other for of_tier, other in lower if of_tier == tier])
            if found is not None:
                return found
        return None

    def of_pages(
        self,
        nids: NDArray[np.int32],
        addresses: NDArray[np.int64],
        allowance: Allowance,
        *,
        way: Literal["up", "down", "out"] = "up",
    ) -> NDArray[np.int32]:
        """Return int32[n]: each page's target, or :data:`NO_TARGET`, :data:`NOT_ALLOWED`; whoever has room.

        Args:
            nids: int32[n], where the pages are.
            addresses: int64[n], of the pages in their process.
            allowance: of the process.
            way: they are hot and go up, are cold and go down, or leave a node that is emptied.
        """
        ways: dict[str, tuple[_Rule, Mapping[int, int]]] = {
            "up": (self._promotion, self.promotion),
            "down": (self._demotion, self.demotion),
            "out": (self._draining, self.draining),
        }
        rule, free = ways[way]
        targets = np.full(len(nids), NO_TARGET, dtype=np.int32)
        for allowed, of_policy in self._by_policy(addresses, allowance):
            for nid in np.unique(nids[of_policy]).tolist():
                if nid not in free:
                    continue
                target = rule(nid, allowed)
                targets[of_policy & (nids == nid)] = NOT_ALLOWED if target is None else target
        return targets
