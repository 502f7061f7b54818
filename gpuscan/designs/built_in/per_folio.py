"""``per-folio``: our reading of an idea from the review for which no code was published.

``rfc-fixed`` with one thing changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.contract import Charge, Design, Modelled, PlotStyle
from gpuscan.designs.rfc import RfcFixed
from gpuscan.designs.tunables import no_bounds

FOLIO_RECORD_BYTES = 4
"""A record of its own, in no page_ext."""


class PerFolio(RfcFixed):
    """One record per allocation, which goes when the allocation goes.

    M. Wilcox: "It seems like it's really per-allocation, not per-page", and whether it can be
    reset at free time; B. Rao: it need not outlive the allocation; D. Hildenbrand: memory without a
    memdesc is not tracked (linux-mm, 2025-06-16 to 2025-06-24). Our reading: whatever page a
    producer names, the folio is marked; memory that is no folio on an LRU list cannot be.
    """

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

    def _freed(self, heads: NDArray[np.int64], n_pages: int) -> None:
        super()._freed(heads, n_pages)
        self.records[(heads[:, None] + np.arange(n_pages)).ravel()] = 0


DESIGN = Design(
    name="per-folio",
    line="one record per allocation, gone at its free: M. Wilcox and D. Hildenbrand, 2025-06-16 to 06-24",
    kind="our reading",
    order=70,
    looks_at="pages",
    counts_accesses="never",
    asks_time=False,
    threshold=False,
    bounds=no_bounds,
    metadata_bytes=lambda machine, *_: machine.space.n_folios * FOLIO_RECORD_BYTES,
    record_bytes=lambda _: FOLIO_RECORD_BYTES,
    look="walk",
    scan=(Charge("walk"),),
    mark="two atomics of a folio",
    beside="walk",
    plot=PlotStyle(order=40, line={"color": "#8B4513", "linewidth": 1.4, "linestyle": ":"}),
    model=Modelled(
        make=lambda machine, _: PerFolio(machine),
        needs_flag=False,
        bypasses_thp=True,
        locks_records=True,
        two_atomics=True,
    ),
)
