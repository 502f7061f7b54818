"""A machine for single questions: k DRAM nodes are targets, a CXL node is full of pages, nothing moves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.compare.open_loop import OpenResult, StepCosts, run_model
from gpuscan.compare.request_list import ENTRY, write_request_list
from gpuscan.compare.settings import Settings
from gpuscan.compare.static_machine import StillPages
from gpuscan.compare.store_loop import StoreLoop
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.engine.policy import Policy
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import MachineSpec, ProcessSpec
from gpuscan.topology import MemoryKind, Node, Topology, Watermarks, Zone

MS = 1_000_000
S = 1_000_000_000
PUBLISHED = StepCosts(3.8, 22.0)
"""ns per page of a walk with a locked test-and-clear, and per entry of a list: measured on the machine of
docs/answers.md; fixed here, so that figures of the open loop are the same anywhere."""
_MARKS = Watermarks(64, 80, 96, 112)


def machine_with(
    n_targets: int, n_sections: int, *, first_nid: int = 0, huge_share: float = 0.0
) -> SimulatedMachine:
    """Return a machine of ``n_targets`` DRAM nodes (one section, one CPU each) and a CXL node full of pages.

    Args:
        n_targets: nodes that pages can go to.
        n_sections: of the CXL node, 128 MiB each.
        first_nid: of the targets; the CXL node comes after them.
        huge_share: of the pages, in folios of 2 MiB.
    """
    nids = range(first_nid, first_nid + n_targets)
    nodes = [_node(nid, index * SECTION_PAGES, 1, cpu=index) for index, nid in enumerate(nids)]
    cxl = first_nid + n_targets
    nodes.append(_node(cxl, n_targets * SECTION_PAGES, n_sections))
    distance = np.full((len(nodes), len(nodes)), 20, dtype=np.uint8)
    np.fill_diagonal(distance, 10)
    topology = Topology("targets", tuple(nodes), distance)
    # A little less than the node has: the watermarks stay free.
    n_pages = (n_sections * SECTION_PAGES - 1024) // 512 * 512
    n_huge = int(n_pages * huge_share) // 512 * 512
    processes = [
        ProcessSpec(name, n, (first_nid,), 1.0, ((cxl, 1.0),), order=order)
        for name, n, order in (("huge", n_huge, 9), ("base", n_pages - n_huge, 0))
        if n
    ]
    return SimulatedMachine(topology, MachineSpec(tuple(processes)))


def pages_of(machine: SimulatedMachine) -> NDArray[np.int64]:
    """Return the first PFNs of all folios, ascending."""
    pfns: NDArray[np.int64] = np.sort(machine.page_map.pfn_of_flat(machine.space.frame_of.astype(np.int64)))
    return pfns


def entries_of(
    pfns: NDArray[np.int64], nids: NDArray[np.int64], times_ns: NDArray[np.int64], first_nid: int = 0
) -> NDArray[Any]:
    """Return a list of requests, in order of time; each from the CPU of its target."""
    entries = np.empty(len(pfns), dtype=ENTRY)
    entries["pfn"], entries["nid"], entries["time_ns"] = pfns, nids, times_ns
    entries["cpu"] = entries["nid"] - first_nid
    return entries[np.argsort(times_ns, kind="stable")]


def through(
    designs: Sequence[str],
    machine: SimulatedMachine,
    entries: NDArray[Any],
    policy: Policy | None = None,
    costs: StepCosts = PUBLISHED,
    *,
    on_step: Callable[[str], None],
) -> dict[str, OpenResult]:
    """Put a list through designs in the open loop; ``on_step`` hears the name of each that is through."""
    settings = Settings(machine.topology, machine.spec, policy or Policy(), 1, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as directory:
        requests = write_request_list(entries, Path(directory) / "requests.npy")
        results = {}
        for name in designs:
            results[name] = (
                StoreLoop(name, settings, machine, requests).run()
                if DESIGNS.get(name).runs_on_a_store
                else run_model(name, settings, StillPages(machine), requests, costs)
            )
            on_step(name)
        return results


def _node(nid: int, first_pfn: int, n_sections: int, cpu: int | None = None) -> Node:
    present = ((first_pfn, first_pfn + n_sections * SECTION_PAGES),)
    zone = Zone("Normal", present, n_sections * SECTION_PAGES, _MARKS)
    if cpu is None:
        return Node(nid, MemoryKind.CXL, 1, (), (zone,))
    return Node(nid, MemoryKind.DRAM, 0, (cpu,), (zone,))
