"""``rfc-v1``: kmigrated as posted, see :mod:`gpuscan.designs.rfc`."""

from __future__ import annotations

from gpuscan.designs.contract import Charge, Design, Modelled, PlotStyle
from gpuscan.designs.rfc import PAGE_EXT_BYTES, RfcV1, page_ext_bytes
from gpuscan.designs.tunables import no_bounds

DESIGN = Design(
    name="rfc-v1",
    line='kmigrated of "[RFC PATCH v1 0/4] Kernel thread based async batch migration", B. Rao, linux-mm, '
    "2025-06-16",
    kind="as posted",
    order=10,
    looks_at="pages",
    counts_accesses="never",
    asks_time=False,
    threshold=False,
    bounds=no_bounds,
    metadata_bytes=page_ext_bytes,
    record_bytes=lambda _: PAGE_EXT_BYTES,
    look="walk",
    scan=(Charge("walk"),),
    mark="two atomics",
    beside="walk",
    plot=PlotStyle(order=10, line={"color": "#D55E00", "linewidth": 4.5, "alpha": 0.5}, shaded=True),
    model=Modelled(
        make=lambda machine, _: RfcV1(machine),
        needs_flag=False,
        bypasses_thp=True,  # do_huge_pmd_numa_page() is as it was
        locks_records=True,
        two_atomics=True,
    ),
)
