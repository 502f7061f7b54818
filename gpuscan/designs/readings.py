"""``zone-flag`` and ``per-folio``: our reading of ideas from the review for which no code was published.

Both are ``rfc-fixed`` with one thing changed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.machine import Machine, ZoneSpan
from gpuscan.designs.requests import STRANDED_ZONE
from gpuscan.designs.rfc import Race, RfcFixed

FOLIO_RECORD_BYTES = 4


class ZoneFlag(RfcFixed):
    """A flag per zone tells the thread which zones to look at.

    "I incorporated a per-zone indicator to inform kmigrated if it needs to skip the whole
    zone" (B. Rao, linux-mm, 2025-07-08, in reply to B. Park). Our reading: a producer sets
    the flag after READY, the thread clears it before it walks the zone, as the node's own.
    """

    name: ClassVar[str] = "zone-flag"

    def __init__(self, machine: Machine, onlined_later: Collection[int] = ()) -> None:
        super().__init__(machine, onlined_later)
        self._flagged: set[ZoneSpan] = set()

    def finish(self) -> None:
        """See :class:`gpuscan.designs.design.Design`."""
        super().finish()
        for position in self.ledger.pending_positions().tolist():
            if self._flagged.isdisjoint(self._zones_of(position)):
                self.ledger.end_pending(position, STRANDED_ZONE)

    def will_walk(self, span: ZoneSpan) -> bool:
        """See :class:`gpuscan.designs.design.Design`."""
        return span in self._flagged

    def raise_flag(self, span: ZoneSpan) -> None:
        """See :class:`gpuscan.designs.design.Design`."""
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
        for nid in np.unique(nids).tolist():
            mine = pfns[nids == nid]
            for zone in self.machine.zones(nid):
                if ((mine >= zone.start_pfn) & (mine < zone.end_pfn)).any():
                    self._flagged.add(zone)

    def _zones_of(self, position: int) -> list[ZoneSpan]:
        pfn = self.machine.pfn(position)
        zones = self.machine.zones(self.machine.page(position).nid)
        return [zone for zone in zones if zone.start_pfn <= pfn < zone.end_pfn]


class PerFolio(RfcFixed):
    """One record per allocation, which goes when the allocation goes.

    M. Wilcox: "It seems like it's really per-allocation, not per-page", and whether it can be
    reset at free time; B. Rao: it need not outlive the allocation; D. Hildenbrand: memory without a
    memdesc is not tracked (linux-mm, 2025-06-16 to 2025-06-24). Our reading: whatever page a
    producer names, the folio is marked; memory that is no folio on an LRU list cannot be.
    """

    name: ClassVar[str] = "per-folio"

    @property
    def record_bytes(self) -> int:
        """See :class:`gpuscan.designs.design.Design`: a record of its own, in no page_ext."""
        return FOLIO_RECORD_BYTES

    def _marked_position(self, pfn: int) -> int:
        position = self.machine.position(pfn)
        if position >= 0:
            page = self.machine.page(position)
            if page.online and page.lru:
                return super()._marked_position(self.machine.pfn(page.head))
        self.counters["kmigrated_add_pfn_einval"] += 1
        return -1

    def _marked_positions(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.machine.lru_heads(pfns)

    def _freed(self, head: int, n_pages: int) -> None:
        super()._freed(head, n_pages)
        self.records[head : head + n_pages] = 0
