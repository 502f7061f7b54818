"""``/sys/kernel/debug/page_owner``, or a copy of it: who has allocated which page.

A record begins with ``Page allocated via order N, ... pid N``, then ``PFN N type T Block N type T Flags``;
the PFN is hexadecimal behind ``0x`` since v5.19. A stack trace and a blank line follow (print_page_owner() in
mm/page_owner.c, v6.12).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_SHIFT, format_bytes, format_number
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.text import begins_with, lines_of_kernel
from gpuscan.topology import Topology

_HEAD = re.compile(rb"Page allocated via order ([0-9]{1,2}),")
_PID = re.compile(rb", pid ([0-9]{1,9})")
_FRAME = re.compile(rb"PFN (0x[0-9a-f]{1,12}|[1-9][0-9]{0,11}) type ([A-Za-z]{1,20}) ")
_ORDER_MAX = 20
_N_SHOWN = 5


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    by_type: Counter[str] = Counter()
    by_pid: Counter[int] = Counter()
    by_node: Counter[int] = Counter()
    order, pid, n_records = -1, -1, 0
    for number, line in lines_of_kernel(path, on_read):
        if head := _HEAD.match(line):
            order = int(head[1])
            found = _PID.search(line)
            pid = int(found[1]) if found else -1
        elif frame := _FRAME.match(line):
            if not 0 <= order <= _ORDER_MAX:
                raise InputError(
                    f"{path}:{number}: the line says a PFN of no allocation; copy it again whole"
                )
            n_pages, order, n_records = 1 << order, -1, n_records + 1
            by_type[frame[2].decode()] += n_pages
            by_pid[pid] += n_pages
            if machine is not None:
                by_node[_node(machine, int(frame[1], 0))] += n_pages
    n_all = by_type.total()
    rows = [("records", format_number(n_records, "allocation")), ("memory", _size(n_all))]
    rows += [(kind, f"{n / n_all:.1%}, {_size(n)}") for kind, n in by_type.most_common()]
    rows += [(f"of PID {owner}", _size(n)) for owner, n in by_pid.most_common(_N_SHOWN)]
    for nid, n in sorted(by_node.items()):
        rows.append((f"on node {nid}" if nid >= 0 else "outside", f"{n / n_all:.1%}, {_size(n)}"))
    return Findings(
        what="who has allocated which page (page_owner)",
        rows=tuple(rows),
        facts={
            "records": n_records,
            "pages": n_all,
            "pages_by_type": dict(by_type),
            "pages_on_node": {str(nid): n for nid, n in sorted(by_node.items())},
        },
        commands=(("gpuscan capture OUT.zarr", "keeps the flags of all pages beside it (root)"),),
    )


def _node(machine: Topology, pfn: int) -> int:
    """Return the node of a page, -1 for one that the machine does not have."""
    flats = machine.page_map.flat_of_pfn(np.array([pfn], dtype=np.int64))
    return int(machine.page_map.nid_of_flat(flats)[0]) if flats[0] >= 0 else -1


def _size(n_pages: int) -> str:
    return format_bytes(n_pages << PAGE_SHIFT)


FILE_KIND = FileKind(
    about="text of page_owner",
    order=75,
    is_one=lambda path: path.is_file() and begins_with(path, _HEAD),
    look=_look,
)
