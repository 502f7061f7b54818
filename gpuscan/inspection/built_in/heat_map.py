"""Maps of where and when, in Parquet: what ``run --out`` keeps."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_number
from gpuscan.heatmap.map import LAYERS, MAP_FILE, is_map_file, read_map
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.text import rows_command
from gpuscan.topology import Topology


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    heat = read_map(path)
    on_read(path.stat().st_size)
    totals = {name: int(layer.counts.sum()) * layer.one_in for name, layer in heat.layers.items()}
    memory_bytes = heat.space.n_pages * PAGE_BYTES
    rows = [
        ("machine", heat.space.machine),
        ("memory", format_bytes(memory_bytes)),
        *(
            (name, f"{n:,} {LAYERS[name]}, in {format_number(len(heat.layers[name].rows), 'cell')}")
            for name, n in totals.items()
        ),
    ]
    commands = []
    if path.name == MAP_FILE:
        commands.append((f"gpuscan heatmap {shlex.quote(str(path.parent))}", "shows it"))
    return Findings(
        what="a map: where and when",
        rows=tuple(rows),
        facts={"machine": heat.space.machine, "memory_bytes": memory_bytes, "totals": totals},
        commands=(*commands, rows_command(path)),
    )


FILE_KIND = FileKind(about=f"maps ({MAP_FILE})", order=32, is_one=is_map_file, look=_look)
