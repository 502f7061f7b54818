"""Where a page of a process goes, within what its cpuset and its memory policies allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.linux.numa import Allowance
from gpuscan.topology import MemoryKind, Topology

NO_TARGET = -1
"""The page is where it belongs: on the near side for promotion, with nothing below for demotion."""
NOT_ALLOWED = -2
"""There is a target, and the process's cpuset or memory policy rules it out."""


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
        everywhere = frozenset(self._nids)
        self._gpu_nids = frozenset(node.nid for node in topology.nodes if node.kind is MemoryKind.GPU)
        self.promotion = self._table(self._promotion, everywhere)
        self.demotion = self._table(self._demotion, everywhere)

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
        demote: bool = False,
    ) -> NDArray[np.int32]:
        """Return int32[n]: the target of each page, :data:`NO_TARGET` or :data:`NOT_ALLOWED`.

        Args:
            nids: int32[n], where the pages are.
            addresses: int64[n], of the pages in their process.
            allowance: of the process.
            demote: whether they go down instead of up.
        """
        rule: _Rule = self._demotion if demote else self._promotion
        free: Mapping[int, int] = self.demotion if demote else self.promotion
        targets = np.full(len(nids), NO_TARGET, dtype=np.int32)
        policies = allowance.policy_of(addresses)
        for number in np.unique(policies).tolist():
            limit = allowance.policies[number]
            allowed = allowance.nids if limit is None else allowance.nids & limit
            of_policy = policies == number
            for nid in np.unique(nids[of_policy]).tolist():
                if nid not in free:
                    continue
                target = rule(nid, allowed)
                targets[of_policy & (nids == nid)] = NOT_ALLOWED if target is None else target
        return targets
