"""``gpuscan``: the engine of this project. Its records are a store's, whose scans are timed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gpuscan.base.program import PROGRAM
from gpuscan.designs.contract import Charge, Design, PlotStyle
from gpuscan.designs.steps import ScanSize
from gpuscan.designs.tunables import Bound, Divisor, Tuning
from gpuscan.records.formats import record_format
from gpuscan.records.page_map import BLOCK_PAGES

if TYPE_CHECKING:
    from gpuscan.engine.policy import Policy
    from gpuscan.sim.machine import SimulatedMachine


def _bounds(tuning: Tuning) -> Iterator[Bound | Divisor]:
    if tuning.mark == "record":
        fmt, threshold = record_format(tuning.policy.record_format), tuning.policy.freq_threshold
        what = f"what {fmt.name} records count to"
        yield Bound("policy.freq_threshold", threshold, 1, fmt.freq.max, "", what)


def _metadata_bytes(machine: SimulatedMachine, policy: Policy, _: int) -> int:
    n_flat, fmt = machine.page_map.n_pages, record_format(policy.record_format)
    orders = n_flat if machine.has_large_folios else 0  # a byte each, kept only where there are some
    # Records, ready and eligible bits, block bits.
    return n_flat * fmt.n_bytes + 2 * n_flat // 8 + n_flat // BLOCK_PAGES // 8 + orders


def _if_few(size: ScanSize) -> ScanSize | None:
    """Return what a scan is of where it is one call: :mod:`gpuscan.kernels.cpu.scan_sparse`."""
    from gpuscan.kernels.cpu.scan import PARALLEL_FROM_BLOCKS

    return size if size.n_marked_blocks < PARALLEL_FROM_BLOCKS else None


def _if_many(size: ScanSize) -> ScanSize | None:
    return None if _if_few(size) else size


DESIGN = Design(
    name=PROGRAM,
    line="the engine of this project",
    kind="ours",
    order=80,
    looks_at="pages",
    counts_accesses="when recorded",
    asks_time=False,
    threshold=True,
    bounds=_bounds,
    metadata_bytes=_metadata_bytes,
    record_bytes=None,
    look=None,
    scan=(Charge(f"{PROGRAM}, few blocks", _if_few), Charge(PROGRAM, _if_many)),
    mark=PROGRAM,
    beside=PROGRAM,
    plot=PlotStyle(order=80, line={"color": "black", "linewidth": 1.6, "linestyle": "-."}, shaded=True),
    model=None,
)
