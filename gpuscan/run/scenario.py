"""From a workload to a running engine: machine, store, source and migrator, wired together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from gpuscan.base.arguments import flag, function, instance, text, whole
from gpuscan.base.errors import InputError
from gpuscan.base.program import PROGRAM
from gpuscan.engine.stages import ResumableSource
from gpuscan.engine.tick import Engine, PlanSink, RunReport, TickReport
from gpuscan.kernels.api import Backend
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.kernels.registry import Device, can_fail, open_backend, takes_over
from gpuscan.kernels.residency import check_path
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.catalogue import producer_of
from gpuscan.run.job import Job, loaded_job
from gpuscan.run.request import RunRequest
from gpuscan.sim.frames import index_dtype
from gpuscan.sim.loops import warm
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import MachineSpec
from gpuscan.store.contract import PageStore
from gpuscan.store.single import Store
from gpuscan.topology import Topology
from gpuscan.workload.files import Workload

if TYPE_CHECKING:
    from gpuscan.designs.engine import DesignEngine
    from gpuscan.heatmap.recorder import MapRecorder
    from gpuscan.records.page_flags import Frames
    from gpuscan.shards.sharded_store import ShardedStore, Sharding
    from gpuscan.snapshot.snapshot import Snapshot
    from gpuscan.timeline.timeline import Timeline
    from gpuscan.traces.source import Survey


@dataclass(slots=True)
class Scenario:
    """A workload ready to run.

    Attributes:
        workload: as loaded.
        topology: the machine's.
        machine: where accesses happen and pages move.
        store: the records; None for another design than gpuscan, which keeps its own.
        engine: the loop.
        notes: what a user should know before reading the result.
        goes_on: when the device fails, the CPU goes on to the end.
        design: its name.
        recorder, timeline: what counts for a map, and for a timeline; None: nothing does.
    """

    workload: Workload
    topology: Topology
    machine: SimulatedMachine
    store: PageStore | None
    engine: Engine | DesignEngine
    notes: tuple[str, ...]
    goes_on: bool = False
    design: str = PROGRAM
    recorder: MapRecorder | None = None
    timeline: Timeline | None = None

    def run(
        self,
        on_tick: Callable[[TickReport], None] | None = None,
        *,
        earlier: Sequence[TickReport] = (),
    ) -> RunReport:
        """Run the workload's ticks; ``on_tick`` sees each one. ``earlier``: see :meth:`Engine.run`."""
        if not isinstance(self.engine, Engine):
            report = self.engine.run(self.workload.ticks, on_tick)
            self.machine.tell_filled(sum(tick.duration_ns for tick in report.ticks))
            return report
        report = self.engine.run(self.workload.ticks, on_tick, earlier=earlier)
        self.machine.tell_filled(self.engine.now_ns)
        self.notes += self.engine.store.device_failures()
        report.design = self.design
        return report


@dataclass(frozen=True, slots=True)
class Hooks:
    """What listens to a run, or takes its plans.

    Attributes:
        plan_sink, verify_every_tick: see :class:`gpuscan.engine.tick.Engine`.
        finish_tick: let the CPU take over from a GPU that fails, though nobody asked for it, for who stops
            after the tick (:meth:`gpuscan.run.checkpoints.RunCheckpoints.on_tick`).
        on_failure: called with a sentence when the CPU takes over.
        on_checked: called between the checks and the filling; the CPU kernels are compiled by then.
        on_read: called with bytes of the workload's trace while it is checked.
        on_reserved: called with bytes of the file that records are in, while it is made.
        recorder: counts where and when things happen; of a model of another design, accesses alone.
        timeline: keeps how long each batch, or each walk of a model's threads, took.
    """

    plan_sink: PlanSink | None = None
    verify_every_tick: bool = False
    finish_tick: bool = False
    on_failure: Callable[[str], None] | None = None
    on_checked: Callable[[], None] | None = None
    on_read: Callable[[int], None] | None = None
    on_reserved: Callable[[int], None] | None = None
    recorder: MapRecorder | None = None
    timeline: Timeline | None = None


def build_scenario(
    workload: Workload,
    *,
    snapshot: Snapshot | None = None,
    topology: Topology | None = None,
    device: Device | None = None,
    design: str = PROGRAM,
    n_threads: int | None = None,
    fallback: bool = False,
    plan_sink: PlanSink | None = None,
    verify_every_tick: bool = False,
    on_failure: Callable[[str], None] | None = None,
) -> Scenario:
    """Build everything a workload needs.

    What was asked for is checked first (nodes, processes, the device and whether the
    records fit it); filling the memory of a large machine takes minutes.

    Args:
        workload: what to run.
        snapshot: run on this captured machine instead of the workload's topology: its
            zones, its folios, its free memory. One process, on all nodes with CPUs, then
            accesses the captured folios the way the workload's first process would.
        topology: run on this machine, whatever the workload's name for it stands for now.
        device: overrides the workload's.
        design: one of :data:`gpuscan.designs.catalogue.DESIGNS`; models run on no device.
        n_threads: worker threads of the CPU backend.
        fallback: go on on the CPU when the device fails (:mod:`gpuscan.kernels.failover`), which
            keeps a copy of the store in host memory.
        plan_sink, verify_every_tick: see :class:`gpuscan.engine.tick.Engine`.
        on_failure: called with a sentence when the CPU takes over.

    Raises:
        InputError: the workload does not fit the machine.
        DeviceError: the device is not there.
    """
    instance("build_scenario: workload", workload, Workload, "give what load_workload() returns")
    if snapshot is not None:
        from gpuscan.snapshot.snapshot import Snapshot

        instance("build_scenario: snapshot", snapshot, Snapshot, "give a gpuscan.Snapshot")
    if topology is not None:
        instance("build_scenario: topology", topology, Topology, "give what resolve_topology() returns")
    text("build_scenario: design", design)
    if device is not None:
        text("build_scenario: device", device)
    flag("build_scenario: verify_every_tick", verify_every_tick)
    flag("build_scenario: fallback", fallback)
    for what, call in (("plan_sink", plan_sink), ("on_failure", on_failure)):
        function(f"build_scenario: {what}", call, "leave it out, or give a function")
    if n_threads is not None:
        whole("build_scenario: n_threads", n_threads, 1)
    request = RunRequest(device=device, design=design, n_threads=n_threads, fallback=fallback)
    hooks = Hooks(plan_sink=plan_sink, verify_every_tick=verify_every_tick, on_failure=on_failure)
    return build(loaded_job(request, workload, snapshot, topology), hooks)


def build(job: Job, hooks: Hooks, sharding: Sharding | None = None) -> Scenario:
    """Build what a job is of; see :func:`build_scenario`.

    Args:
        job: what to run.
        hooks: who listens.
        sharding: keep the records in shards.

    Raises:
        InputError: the workload does not fit the machine.
        DeviceError: the device is not there.
    """
    request, topology = job.request, job.topology
    if request.is_model:
        _check_design(job)
    frames = None if job.snapshot is None else job.snapshot.frames()
    job, spec, surveyed = _machine_spec(job, frames, hooks)
    workload = job.workload
    policy = workload.engine_policy()
    store = None
    if not request.is_model:
        large_folios = any(process.order for process in spec.processes)
        if frames is not None:
            large_folios = bool(frames.order[frames.eligible].any())
        store = _open_store(job, hooks, sharding, large_folios=large_folios)
        store.warm(record=spec.hint_faults.mark == "record")
    warm(index_dtype(topology.page_map.n_pages))
    if hooks.on_checked is not None:
        hooks.on_checked()
    machine, source, notes = _machine_and_source(job, spec, frames, surveyed)
    machine.witness = hooks.recorder
    if policy.one_thread:
        from gpuscan.producers.demotions import DemotingSource

        source = DemotingSource(source, machine)
    if store is None:
        from gpuscan.designs.engine import design_engine

        if hooks.plan_sink is not None:
            notes += (f"the design {request.design} makes no plans: plan.parquet stays empty",)
        model = design_engine(request.design, machine, policy)
        model.clocked = hooks.timeline
        return Scenario(workload, topology, machine, None, model, notes)
    for event in machine.folios():
        store.admit(event.allocated, event.order)
    if sharding is not None and sharding.directory is not None:
        cast("ShardedStore", store).protect(sharding.directory)
    engine = Engine(
        store,
        source,
        SimulatedMigrator(machine),
        policy,
        plan_sink=hooks.plan_sink,
        verify_every_tick=hooks.verify_every_tick,
        witness=hooks.recorder,
        clocked=hooks.timeline,
    )
    listening = hooks.recorder, hooks.timeline
    goes_on, design = request.fallback, request.design
    return Scenario(workload, topology, machine, store, engine, notes, goes_on, design, *listening)


def _machine_spec(job: Job, frames: Frames | None, hooks: Hooks) -> tuple[Job, MachineSpec, Survey | None]:
    """Return what to simulate, and what was found in a trace, to whose length the job's workload is cut."""
    workload, topology = job.workload, job.topology
    if workload.source.kind == "trace":
        from gpuscan.run.trace import survey_trace, trace_spec

        is_captured = job.snapshot is not None
        surveyed, workload = survey_trace(workload, topology, hooks.on_read, is_captured=is_captured)
        if frames is not None and surveyed.trace.format.is_virtual:
            raise InputError(
                f"{surveyed.trace.path} has virtual addresses, and which page of a captured machine is whose "
                "nobody says; give that, --given pages=FILE (gpuscan capture --pages), or --topology, whose "
                "pages it then gets"
            )
        return replace(job, workload=workload), trace_spec(workload, topology, surveyed.n_pages), surveyed
    if frames is None:
        return job, workload.machine_spec(topology), None
    from gpuscan.run.captured import captured_spec

    return job, captured_spec(workload, topology, frames), None


def _open_backend(request: RunRequest, device: Device, hooks: Hooks) -> tuple[Backend, str]:
    """Open a device, and what takes over from it."""
    backend, why = open_backend(device, request.n_threads)
    if not request.fallback and not can_fail(backend.name):  # what fails in host memory is not a device
        return backend, why

    def open_other() -> Backend:
        return open_backend(takes_over(), request.n_threads)[0]

    other = open_other if request.fallback or hooks.finish_tick else None
    return GuardedBackend(backend, other, hooks.on_failure), why


def _check_design(job: Job) -> None:
    """Refuse what a model of another design cannot do."""
    from gpuscan.designs.catalogue import DESIGNS
    from gpuscan.designs.tunables import Tuning

    request, workload, design = job.request, job.workload, job.request.design
    DESIGNS.get(design).check(Tuning(workload.engine_policy()))
    if workload.policy.one_thread:
        raise InputError(f"policy.one_thread is a switch of gpuscan; leave it out, or --design {design}")
    if request.device is not None or request.fallback:
        option = "--fallback" if request.device is None else "--device"
        raise InputError(f"the design {design} is a model that runs on no device; leave out {option}")
    if workload.source.kind == "trace":
        raise InputError(
            f"the design {design} is fed by a producer, not by a trace; leave out --design or the trace"
        )


def _machine_and_source(
    job: Job, spec: MachineSpec, frames: Frames | None, surveyed: Survey | None
) -> tuple[SimulatedMachine, ResumableSource, tuple[str, ...]]:
    """Fill the memory, and return it with what marks its pages and what a user should know."""
    workload, topology, snapshot = job.workload, job.topology, job.snapshot
    # Not imported at the top: a run of a plain workload starts sooner without these.
    if surveyed is not None:
        from gpuscan.run.trace import trace_source
        from gpuscan.sim.captured import machine_from_frames
        from gpuscan.snapshot.folios import captured_frames
        from gpuscan.traces.source import frames_of

        traced = (
            frames_of(topology, surveyed.pages)
            if snapshot is None or frames is None
            else captured_frames(snapshot, frames)
        )
        machine = machine_from_frames(topology, traced, spec)
        return machine, trace_source(workload, machine, surveyed), (surveyed.sentence(),)
    if snapshot is not None and frames is not None:
        from gpuscan.records.page_flags import hot_rule
        from gpuscan.run.captured import left_out
        from gpuscan.sim.captured import machine_from_frames
        from gpuscan.snapshot.folios import captured_frames

        machine = machine_from_frames(topology, captured_frames(snapshot, frames), spec)
        n_hot = int(np.count_nonzero(frames.hot))
        hot = f"hot folios of the snapshot: {n_hot:,} ({hot_rule(snapshot.lru_gen)})"
        return machine, producer_of(machine), (hot, *left_out(workload))
    machine = SimulatedMachine(topology, spec)
    return machine, producer_of(machine), ()


def _open_store(job: Job, hooks: Hooks, sharding: Sharding | None, *, large_folios: bool) -> PageStore:
    request, topology = job.request, job.topology
    policy = job.workload.engine_policy()
    record_format = policy.record_format
    device = request.device or job.workload.device
    if sharding is None:
        if request.residency == "index":
            check_path(policy.scan_path)
        backend, why = _open_backend(request, device, hooks)
        store = Store(
            topology,
            record_format,
            backend,
            large_folios=large_folios,
            residency=request.residency,
            records_dir=request.records_dir,
            on_reserved=hooks.on_reserved,
        )
        store.device_reason = why
        return store
    from gpuscan.shards.sharded_store import ShardedStore

    return ShardedStore(
        topology,
        record_format,
        device,
        n_shards=sharding.n_shards,
        transport=sharding.transport,
        large_folios=large_folios,
        n_threads=request.n_threads or sharding.n_threads,
        cpu_takes_over=request.fallback or hooks.finish_tick,
        on_failure=hooks.on_failure,
    )
