"""Which pages designs promote that know of tiers only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.machine import Machine
from gpuscan.records.formats import N_NODES_MAX


class LowerTier:
    """The memory below the top tier, but for that of devices (ZONE_DEVICE), which stays where it is.

    Args:
        machine: whose; its nodes keep their tiers and zones.
    """

    def __init__(self, machine: Machine) -> None:
        self._is_below = np.array(
            [nid in machine.nids and not machine.is_top_tier(nid) for nid in range(N_NODES_MAX)]
        )
        self._device_zones = [zone for nid in machine.nids for zone in machine.zones(nid) if zone.device]

    def holds(self, nid: int, pfn: int) -> bool:
        """Whether a page of a node is there."""
        return bool(self._is_below[nid]) and not any(
            zone.nid == nid and zone.start_pfn <= pfn < zone.end_pfn for zone in self._device_zones
        )

    def holds_each(self, nids: NDArray[np.int64], pfns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[n], whether each page is there; ``nids``: of the nodes that they are on."""
        there: NDArray[np.bool_] = self._is_below[nids]
        for zone in self._device_zones:
            there &= (nids != zone.nid) | (pfns < zone.start_pfn) | (pfns >= zone.end_pfn)
        return there
