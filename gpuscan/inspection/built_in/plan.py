"""Plans in Parquet: what ``run --out`` and ``scan --out`` keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_number
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.text import rows_command
from gpuscan.store.plan_file import is_plan_file, read_plans
from gpuscan.topology import Topology


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    table = read_plans(path)
    on_read(path.stat().st_size)
    ticks, batches, targets, pages = (
        table.column(name).to_numpy() for name in ("tick", "batch", "target_nid", "n_pages")
    )
    by_target = {int(nid): int(pages[targets == nid].sum()) for nid in np.unique(targets)}
    n_ticks, n_batches = len(np.unique(ticks)), len(np.unique(batches))
    rows = [
        ("folios", format_number(len(table), "folio")),
        ("memory", format_bytes(int(pages.sum()) * PAGE_BYTES)),
        ("batches", f"{format_number(n_batches, 'batch')} in {format_number(n_ticks, 'tick')}"),
        *(("to node", f"{nid}: {format_bytes(n * PAGE_BYTES)}") for nid, n in by_target.items()),
    ]
    return Findings(
        what="a plan: claimed folios and their batches",
        rows=tuple(rows),
        facts={
            "folios": len(table),
            "pages": int(pages.sum()),
            "batches": n_batches,
            "ticks": n_ticks,
            "pages_to_node": {str(nid): n for nid, n in by_target.items()},
        },
        commands=(rows_command(path),),
    )


FILE_KIND = FileKind(about="plans (plan.parquet)", order=30, is_one=is_plan_file, look=_look)
