"""Page tables, as they are given beside traces of virtual addresses."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT, format_bytes, format_number
from gpuscan.files.parquet import footer
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.topology import Topology
from gpuscan.traces.columns import TIMES
from gpuscan.traces.csv_text import cells_of
from gpuscan.traces.page_table import PHYSICAL, VIRTUAL
from gpuscan.traces.page_table_file import read_page_table
from gpuscan.traces.pieces import PackedError, start_of
from gpuscan.traces.samples import Samples
from gpuscan.traces.source import page_chunks
from gpuscan.traces.text import PID_SHIFT, first_line_of

_START_BYTES = 512


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    table = read_page_table(path)
    on_read(path.stat().st_size)
    n_pages = int(table.n_pages.sum())
    place = table.page & (1 << PID_SHIFT) - 1
    low, high = int(place.min()) << PAGE_SHIFT, int((place + table.n_pages).max()) << PAGE_SHIFT
    rows = [
        ("pages", f"{format_number(n_pages, 'page')}, {format_bytes(n_pages * PAGE_BYTES)}"),
        ("processes", ", ".join(map(str, table.pids[:8])) or "not said"),
        ("addresses", f"{low:#x} to {high:#x}"),
        ("frames", f"in {format_number(len(table.pfn), 'stretch')}"),
    ]
    by_node: Counter[int] = Counter()
    n_outside = 0
    if machine is not None:
        zeros = np.zeros(len(table.pfn), dtype=np.int64)
        frames = Samples(zeros, zeros.astype(np.int32), table.pfn, table.n_pages, zeros)
        for _, flats in page_chunks(frames, machine.page_map):
            nids, counts = np.unique(machine.page_map.nid_of_flat(flats), return_counts=True)
            by_node.update(dict(zip(nids.tolist(), counts.tolist(), strict=True)))
        n_outside = n_pages - by_node.total()
        for nid, n in sorted(by_node.items()):
            rows.append(
                (f"on node {nid}", f"{n / n_pages:.1%} of its pages, {format_bytes(n << PAGE_SHIFT)}")
            )
        if n_outside:
            rows.append(("outside", f"{n_outside / n_pages:.1%}: not in the memory of {machine.name!r}"))
    given = shlex.quote(f"pages={path}")
    return Findings(
        what="a page table: which page of a process is in which frame",
        rows=tuple(rows),
        facts={
            "pages": n_pages,
            "stretches": len(table.pfn),
            "pids": list(table.pids),
            "pages_on_node": {str(nid): n for nid, n in sorted(by_node.items())},
            "pages_outside": n_outside,
        },
        commands=(
            (
                f"gpuscan run --trace FILE --given {given} --machine SNAPSHOT",
                "replays a trace of the process's addresses",
            ),
        ),
    )


def _is_one(path: Path) -> bool:
    found = footer(path)
    if found is not None:
        names = set(found[0].names)
    else:
        try:
            line = first_line_of(start_of(path, _START_BYTES))
        except PackedError:
            return False
        names = set(cells_of(line.decode("ascii", "replace")))
    return bool(names & set(VIRTUAL) and names & set(PHYSICAL)) and not names & set(TIMES)


FILE_KIND = FileKind(about="page tables of processes", order=33, is_one=_is_one, look=_look)
