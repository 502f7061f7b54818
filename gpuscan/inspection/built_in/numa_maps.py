"""``/proc/PID/numa_maps`` or a copy of it: on which nodes a process has its pages.

A line is a mapping: its address, its memory policy, and counts of pages by ``N<node>=`` in units of
``kernelpagesize_kB=`` (show_numa_map() in fs/proc/task_mmu.c, v6.12).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.base.units import format_bytes, format_number
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.text import begins_with, lines_of_kernel
from gpuscan.topology import Topology

_LINE = re.compile(rb"[0-9a-f]{4,16} (?:default|local|bind|interleave|prefer|weighted)[^ ]*(?: |$)")
_COUNT = re.compile(
    rb" (N[0-9]{1,4}|anon|dirty|swapcache|active|mapped|kernelpagesize_kB)=([0-9]{1,12})(?= |$)"
)
_KINDS = ("anon", "dirty", "mapped", "active", "swapcache")


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    by_node: Counter[int] = Counter()
    by_kind: Counter[str] = Counter()
    n_mappings = 0
    for number, line in lines_of_kernel(path, on_read):
        if not _LINE.match(line):
            raise InputError(f"{path}:{number}: the line is none of numa_maps; copy it again whole")
        counts = {name.decode(): int(n) for name, n in _COUNT.findall(line)}
        page_bytes = counts.pop("kernelpagesize_kB", 4) << 10
        n_mappings += 1
        for name, n in counts.items():
            if name[0] == "N":
                by_node[int(name[1:])] += n * page_bytes
            else:
                by_kind[name] += n * page_bytes
    n_all = max(1, by_node.total())
    rows = [("mappings", format_number(n_mappings, "mapping")), ("memory", format_bytes(by_node.total()))]
    for nid, n in sorted(by_node.items()):
        of_tier = ""
        if machine is not None:
            known = [node for node in machine.nodes if node.nid == nid]
            of_tier = f", tier {known[0].tier}" if known else f", no node of {machine.name!r}"
        rows.append((f"on node {nid}", f"{n / n_all:.1%}, {format_bytes(n)}{of_tier}"))
    rows += [(kind, format_bytes(by_kind[kind])) for kind in _KINDS if by_kind[kind]]
    in_proc = re.fullmatch(r"/proc/([0-9]+)/numa_maps", str(path))
    pid = in_proc[1] if in_proc else "PID"
    return Findings(
        what="where a process has its pages (numa_maps)",
        rows=tuple(rows),
        facts={
            "mappings": n_mappings,
            "bytes_on_node": {str(nid): n for nid, n in sorted(by_node.items())},
            "bytes": dict(by_kind),
        },
        commands=(
            (f"gpuscan capture OUT.zarr --pid {pid}", "sees which of these pages are hot (root)"),
            (f"gpuscan live --pid {pid} --dry-run", "shows which of them it would move (root)"),
        ),
    )


FILE_KIND = FileKind(
    about="numa_maps of a process",
    order=70,
    is_one=lambda path: path.is_file() and begins_with(path, _LINE),
    look=_look,
)
