"""A small workload file and a machine for it, written and laid out for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpuscan.base.units import PAGE_BYTES
from gpuscan.topology import Link, MemoryKind, Node, Topology, Watermarks, Zone
from gpuscan.workload.files import builtin_workloads

BUILTIN = [name for name, _ in builtin_workloads()]
GIB_PAGES = (1 << 30) // PAGE_BYTES

MINIMAL = """
shows = "one process"
[[processes]]
name = "p"
memory = "50%"
cpus_of = [0]
accesses_per_gib_s = 1000
"""


def small(ticks: int) -> str:
    """Return a workload on a machine of 1 GiB, which is promoted from node 2 within a second of its time."""
    return f"""
shows = "a test"
ticks = {ticks}
seed = 7
[topology]
machine = "two-socket-cxl"
memory = "1GiB"
[[processes]]
name = "p"
memory = "30%"
cpus_of = [0]
placement = {{ 0 = "20%", 2 = "80%" }}
accesses_per_gib_s = 666_667
[producer.hint_faults]
scan_size = "1GiB"
"""


def machine(n_gib: int = 2) -> Topology:
    """Nodes 0 (CPUs, n_gib) and 2 (CXL, n_gib), and 5: CPUs without memory, next to 2."""

    def zone(start_gib: int) -> Zone:
        start = start_gib * GIB_PAGES
        n_pages = n_gib * GIB_PAGES
        return Zone("Normal", ((start, start + n_pages),), n_pages, Watermarks(100, 200, 300, 400))

    nodes = (
        Node(0, MemoryKind.DRAM, 0, cpus=(0, 1), zones=(zone(0),)),
        Node(2, MemoryKind.CXL, 1, zones=(zone(64),)),
        Node(5, MemoryKind.DRAM, 0, cpus=(2,)),
    )
    distance = np.array([[10, 20, 20], [20, 10, 12], [20, 12, 10]], dtype=np.uint8)
    return Topology("test", nodes, distance, {(0, 0): Link(100.0, 1e11)})


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)
