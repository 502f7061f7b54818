"""A comparison as it was asked for: what does not apply is known before anything is measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from gpuscan import __version__
from gpuscan.base.errors import InputError
from gpuscan.base.program import PROGRAM
from gpuscan.base.units import format_time
from gpuscan.compare.request import CompareRequest
from gpuscan.compare.settings import Settings, ticks_within, wanted_designs
from gpuscan.designs.catalogue import DESIGNS, why_not_on
from gpuscan.run.job import Job, read_job
from gpuscan.topology import Topology
from gpuscan.workload.files import Workload

if TYPE_CHECKING:
    from gpuscan.sim.captured import CapturedFrames


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What is to be compared, on what.

    Attributes:
        names: of the designs.
        left_out: why others of ``all`` are not among them, by name.
        settings: machine and policy; without frames, which lie in files of the comparison.
        captured: the frames of a captured machine.
        workload: what runs.
        notes: what a user should know of how the request was taken.
        facts: what JSON says about all that.
    """

    names: tuple[str, ...]
    left_out: dict[str, str]
    settings: Settings
    captured: CapturedFrames | None
    workload: Workload
    notes: tuple[str, ...]
    facts: dict[str, Any]


def prepare(request: CompareRequest) -> Prepared:
    """Read what a comparison names, and leave out what does not apply.

    Raises:
        InputError: options contradict each other, something is not there or not what it should be, nothing
            could move on the machine, or a design that was named does not apply.
    """
    names = wanted_designs(request.designs)
    job = read_job(request.run_request())
    _check(request, job)
    if job.snapshot is None:  # what can be done with a captured machine is said where its frames are read
        _check_moves(job.topology, job.workload)
    left_out = _not_applying(request, names, job)
    names = tuple(name for name in names if name not in left_out)
    settings, captured, job = _settings(request, job)
    for name in [*names] if not request.grid else ():
        try:
            settings.check(name)
        except InputError as error:
            if not request.all_designs:
                raise
            left_out[name] = str(error).removeprefix(f"{name} ")
    names = tuple(name for name in names if name not in left_out)
    return Prepared(
        names, left_out, settings, captured, job.workload, job.notes, _facts(job, settings, left_out)
    )


def _check(request: CompareRequest, job: Job) -> None:
    if job.workload.policy.one_thread:  # machines without kswapd's demotion, and nobody here demotes instead
        raise InputError("policy.one_thread is a switch of gpuscan run; leave it out of compare")
    if job.workload.source.kind == "trace" and request.n_accesses is not None:
        raise InputError("--accesses cuts what processes do, and a trace has an end; leave out one of them")


def _check_moves(topology: Topology, workload: Workload) -> None:
    """Refuse a machine on which no producer could ask for a move."""
    nodes = [node for node in topology.nodes if node.present_pages]
    if len(nodes) < 2:
        raise InputError(
            f"all memory of {topology.name!r} is on node {nodes[0].nid}, so no page could move; choose a "
            "machine of several nodes"
        )
    if workload.source.kind == "trace" or not workload.producer.only_lower_tier:
        return  # a trace has checks of its own
    if all(topology.is_top_tier(node.nid) for node in nodes):
        raise InputError(
            f"all memory of {topology.name!r} is one tier, so workload {workload.name} has nothing to "
            "promote; choose another workload or machine, or --set producer.only_lower_tier=false"
        )


def _not_applying(request: CompareRequest, names: Sequence[str], job: Job) -> dict[str, str]:
    """Return why designs have nothing to do on a machine, by name.

    Raises:
        InputError: one of them was named.
    """
    topology = job.topology
    tiers = [topology.is_top_tier(node.nid) for node in topology.nodes if node.present_pages]
    found = {name: why for name in names if (why := why_not_on(DESIGNS.get(name), tiers))}
    if found and not request.all_designs:
        name, why = next(iter(found.items()))
        raise InputError(
            f"the design {name} {why}; leave it out of --designs, or choose another workload, such as "
            "cxl-promote"
        )
    return found


def _settings(request: CompareRequest, job: Job) -> tuple[Settings, CapturedFrames | None, Job]:
    """Return the machine and policy, its frames where it is captured, and the job with what was noted."""
    loaded, topology = job.workload, job.topology
    n_threads = len(os.sched_getaffinity(0))
    frames, captured, notes = None, None, [*job.notes]
    if job.snapshot is not None:
        from gpuscan.snapshot.folios import captured_frames

        frames = job.snapshot.frames()
        captured = captured_frames(job.snapshot, frames)
    if loaded.source.kind == "trace":
        from gpuscan.compare.stream import TraceStream, file_digest
        from gpuscan.run.trace import survey_trace, trace_spec

        surveyed, loaded = survey_trace(loaded, topology, is_captured=job.snapshot is not None)
        spec = trace_spec(loaded, topology, surveyed.n_pages)
        stream = TraceStream(topology, spec, loaded, surveyed, file_digest(surveyed))
        notes.append(surveyed.sentence())
        settings = Settings(topology, spec, loaded.engine_policy(), stream.horizon_ns, n_threads)
        return replace(settings, trace=stream), captured, replace(job, workload=loaded, notes=tuple(notes))
    if frames is None:
        spec = loaded.machine_spec(topology)
    else:
        from gpuscan.run.captured import captured_spec, left_out

        spec = captured_spec(loaded, topology, frames)
        notes += left_out(loaded)
    ticks = loaded.ticks
    if request.n_accesses is not None:
        ticks = ticks_within(spec, loaded.tick, ticks, request.n_accesses)
    if ticks < loaded.ticks:
        notes.append(
            f"--accesses cuts it to {format_time(ticks * loaded.tick)} of "
            f"{format_time(loaded.ticks * loaded.tick)}"
        )
    loaded = loaded.model_copy(update={"ticks": ticks})
    settings = Settings(topology, spec, loaded.engine_policy(), ticks * loaded.tick, n_threads)
    return settings, captured, replace(job, workload=loaded, notes=tuple(notes))


def _facts(job: Job, settings: Settings, left_out: dict[str, str]) -> dict[str, Any]:
    topology, workload = job.topology, job.workload
    return {
        PROGRAM: __version__,
        "workload": {"name": workload.name, "shows": workload.shows, "ticks": workload.ticks},
        "machine": {
            "topology": topology.name,
            "memory_bytes": topology.memory_bytes,
            "n_nodes": len(topology.nodes),
            **asdict(settings.spec),
        },
        "policy": asdict(settings.policy),
        "notes": list(job.notes),
        "left_out": left_out,
    }
