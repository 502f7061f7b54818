"""What of a workload applies to a captured machine, and the parts of a scenario that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.sim.spec import MachineSpec
from gpuscan.topology import Topology
from gpuscan.topology.tiers import has_lower_tier, lower_tier_remedy
from gpuscan.workload.files import Workload

if TYPE_CHECKING:
    from gpuscan.records.page_flags import Frames


def captured_spec(workload: Workload, topology: Topology, frames: Frames) -> MachineSpec:
    """Return what to simulate on a captured machine: the workload's first process on all nodes with CPUs.

    Its folios are the snapshot's; its size, theirs, sets how often it accesses memory.
    """
    cpu_nids = tuple(node.nid for node in topology.nodes if node.cpus)
    if not cpu_nids:
        raise InputError(
            f"no node of {topology.name!r} has CPUs, so nobody accesses its memory; capture it again"
        )
    if workload.producer.only_lower_tier and not has_lower_tier(topology):
        raise InputError(
            f"all memory of {topology.name!r} is one tier, so workload {workload.name} has nothing to "
            f"promote; {lower_tier_remedy(topology, is_captured=True)}"
        )
    _check_applies(workload, topology, cpu_nids)
    n_pages = int((1 << frames.order[frames.eligible].astype(np.int64)).sum())
    first = workload.processes[0].model_copy(
        update={"cpus_of": cpu_nids, "memory": max(1, n_pages) * PAGE_BYTES, "placement": (), "thp": False}
    )
    return workload.model_copy(update={"processes": (first,)}).machine_spec(topology)


def _check_applies(workload: Workload, topology: Topology, cpu_nids: Sequence[int]) -> None:
    """Refuse a workload that would show nothing on a captured machine."""
    process = workload.processes[0]
    nids = [node.nid for node in topology.nodes if node.present_pages]
    split = " with --split-cxl 50%" if len(topology.nodes) == 1 else ""
    remedy = f"; run cxl-promote{split}, or capture a machine that has several"
    if (process.move_at or process.rotate_every) and len(cpu_nids) < 2:
        raise InputError(
            f"workload {workload.name} moves its tasks between nodes, and {topology.name!r} has one node "
            f"with CPUs{remedy}"
        )
    if len(nids) < 2:
        raise InputError(
            f"all memory of {topology.name!r} is on node {nids[0]}, so workload {workload.name} has nowhere "
            f"to move pages{remedy}"
        )
    if process.pattern.kind == "scan":
        raise InputError(
            f"workload {workload.name}: pattern.kind = 'scan' needs the address space of a process, which a "
            "snapshot does not have; use zipf (its hot folios) or uniform"
        )


def left_out(workload: Workload) -> tuple[str, ...]:
    """Return what of a workload a captured machine leaves out."""
    left_out = []
    if len(workload.processes) > 1:
        left_out.append(f"only the first of {len(workload.processes)} processes runs, over all its folios")
    if workload.processes[0].pattern.shift_every:
        left_out.append("pattern.shift_every does not apply: the hot folios are those of the snapshot")
    return tuple(left_out)
