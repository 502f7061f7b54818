"""``zone-flag``: our reading of an idea from the review for which no code was published.

``rfc-fixed`` with one thing changed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.distinct import distinct
from gpuscan.designs.contract import Charge, Design, Modelled, PlotStyle
from gpuscan.designs.machine import Machine, ZoneSpan
from gpuscan.designs.races import Race
from gpuscan.designs.requests import STRANDED_ZONE
from gpuscan.designs.rfc import PAGE_EXT_BYTES, RfcFixed, page_ext_bytes
from gpuscan.designs.tunables import no_bounds

if TYPE_CHECKING:
    from gpuscan.engine.policy import Policy
    from gpuscan.sim.machine import SimulatedMachine


class ZoneFlag(RfcFixed):
    """A flag per zone tells the thread which zones to look at.

    "I incorporated a per-zone indicator to inform kmigrated if it needs to skip the whole
    zone" (B. Rao, linux-mm, 2025-07-08, in reply to B. Park). Our reading: a producer sets
    the flag after READY, the thread clears it before it walks the zone, as the node's own.
    """

    def __init__(self, machine: Machine, onlined_later: Collection[int] = ()) -> None:
        super().__init__(machine, onlined_later)
        self._flagged: set[ZoneSpan] = set()

    def finish(self) -> None:
        """See :class:`gpuscan.designs.model.Model`."""
        super().finish()
        pending = self.ledger.pending_positions()
        pfns, nids = self.machine.pfns(pending), self.machine.nids_at(pending)
        flagged = np.zeros(len(pending), dtype=np.bool_)
        for zone in self._flagged:
            flagged |= (nids == zone.nid) & (pfns >= zone.start_pfn) & (pfns < zone.end_pfn)
        self.ledger.end_pending_many(pending[~flagged], STRANDED_ZONE)

    def will_walk(self, span: ZoneSpan) -> bool:
        """See :class:`gpuscan.designs.model.Model`."""
        return span in self._flagged

    def raise_flag(self, span: ZoneSpan) -> None:
        """See :class:`gpuscan.designs.model.Model`."""
        self._flagged.add(span)

    def _walk_zone(self, zone: ZoneSpan, races: dict[int, Race]) -> None:
        if zone not in self._flagged:
            self.counters["zones_skipped"] += 1
            return
        self._flagged.discard(zone)
        super()._walk_zone(zone, races)

    def _activate(self, position: int) -> None:
        super()._activate(position)
        self._flagged.update(self._zones_of(position))

    def _activate_many(self, pfns: NDArray[np.int64], nids: NDArray[np.int64]) -> None:
        super()._activate_many(pfns, nids)
        for nid in distinct(nids):
            mine = pfns[nids == nid]
            for zone in self.machine.zones(nid):
                if ((mine >= zone.start_pfn) & (mine < zone.end_pfn)).any():
                    self._flagged.add(zone)

    def _zones_of(self, position: int) -> list[ZoneSpan]:
        pfn = self.machine.pfn(position)
        zones = self.machine.zones(self.machine.page(position).nid)
        return [zone for zone in zones if zone.start_pfn <= pfn < zone.end_pfn]


def _metadata_bytes(machine: SimulatedMachine, policy: Policy, n_asked: int) -> int:
    return page_ext_bytes(machine, policy, n_asked) + len(machine.topology.zones)


DESIGN = Design(
    name="zone-flag",
    line="`rfc-fixed` that skips zones without marks: B. Rao to B. Park, 2025-07-08",
    kind="our reading",
    order=50,
    looks_at="pages",
    counts_accesses="never",
    asks_time=False,
    threshold=False,
    bounds=no_bounds,
    metadata_bytes=_metadata_bytes,
    record_bytes=lambda _: PAGE_EXT_BYTES,
    look="walk",
    scan=(Charge("walk"),),
    mark="two atomics and a zone's flag",
    beside="walk",
    plot=PlotStyle(order=30, line={"color": "#F0E442", "linewidth": 1.6, "linestyle": "--"}),
    model=Modelled(
        make=lambda machine, _: ZoneFlag(machine),
        needs_flag=False,
        bypasses_thp=True,
        locks_records=True,
        two_atomics=True,
    ),
)
