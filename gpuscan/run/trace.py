"""What of a workload applies to a recorded trace, and the parts of a scenario that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import MachineSpec
from gpuscan.topology import Topology
from gpuscan.topology.tiers import has_lower_tier, lower_tier_remedy
from gpuscan.traces import open_trace
from gpuscan.traces.source import Survey, TraceSource, survey
from gpuscan.workload.files import Workload
from gpuscan.workload.model import Process


def survey_trace(
    workload: Workload,
    topology: Topology,
    on_read: Callable[[int], None] | None = None,
    *,
    is_captured: bool = False,
) -> tuple[Survey, Workload]:
    """Read the workload's trace, and return it with the workload cut to the trace's length.

    Raises:
        InputError: the trace is broken, or nothing in it could be promoted on this machine.
    """
    trace = open_trace(Path(workload.source.trace), workload.source.given)
    if not has_lower_tier(topology) and (workload.producer.only_lower_tier or not trace.format.knows_cpus):
        remedy = lower_tier_remedy(topology, is_captured=is_captured)
        if trace.format.knows_cpus:
            remedy += "; or --set producer.only_lower_tier=false moves pages to the node of their CPU"
        raise InputError(
            f"all memory of {topology.name!r} is one tier, so the trace {trace.path} has nothing to promote; "
            + remedy
        )
    wanted = workload.source
    surveyed = survey(trace, topology, wanted.min_weight, on_read, wanted.min_share)
    n_ticks = (surveyed.end_ns - surveyed.start_ns) // workload.tick + 1
    return surveyed, workload.model_copy(update={"ticks": min(workload.ticks, n_ticks)})


def trace_spec(workload: Workload, topology: Topology, n_pages: int) -> MachineSpec:
    """Return the machine to replay a trace on: a process that owns the pages and does nothing itself.

    Raises:
        InputError: no node of the machine has CPUs.
    """
    cpu_nids = tuple(node.nid for node in topology.nodes if node.cpus)
    if not cpu_nids:
        raise InputError(
            f"no node of {topology.name!r} has CPUs, so nobody accesses its memory; capture it again"
        )
    owner = Process.model_construct(
        name="trace", memory=max(1, n_pages) * PAGE_BYTES, cpus_of=cpu_nids, accesses_per_gib_s=0.0
    )
    spec = workload.model_copy(update={"processes": (owner,)}).machine_spec(topology)
    # The accesses are in the trace: no scanner has to provoke faults.
    return replace(spec, hint_faults=replace(spec.hint_faults, scan_period_ns=0))


def trace_source(workload: Workload, machine: SimulatedMachine, surveyed: Survey) -> TraceSource:
    """Return the source that replays a trace as the workload says."""
    return TraceSource(
        machine,
        surveyed,
        mark=workload.producer.mark,
        only_lower_tier=workload.producer.only_lower_tier,
        min_weight=workload.source.min_weight,
        min_share=workload.source.min_share,
    )
