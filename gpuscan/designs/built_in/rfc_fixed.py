"""``rfc-fixed``: kmigrated without its slips, see :mod:`gpuscan.designs.rfc`."""

from __future__ import annotations

from gpuscan.designs.contract import Charge, Design, Modelled, PlotStyle
from gpuscan.designs.rfc import PAGE_EXT_BYTES, RfcFixed, page_ext_bytes
from gpuscan.designs.tunables import no_bounds

DESIGN = Design(
    name="rfc-fixed",
    line="the same with `==` for `!=`, masks of the fields' widths, and the TODO (a step of a folio's size) "
    "done",
    kind="corrected",
    order=20,
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
    plot=PlotStyle(order=20, line={"color": "#E69F00", "linewidth": 2.5}),
    model=Modelled(
        make=lambda machine, _: RfcFixed(machine),
        needs_flag=False,
        bypasses_thp=True,  # do_huge_pmd_numa_page() is as it was
        locks_records=True,
        two_atomics=True,
    ),
)
