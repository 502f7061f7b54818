"""From a workload to a running engine: machine, store, source and migrator, wired together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from gpuscan.base.arguments import flag, function, instance, text, whole
from gpuscan.base.errors import InputError
from gpuscan.base.program import PROGRAM
from gpuscan.base.units import PAGE_BYTES
from gpuscan.engine.stages import ResumableSource
from gpuscan.engine.tick import Engine, PlanSink, RunReport, TickReport
from gpuscan.kernels.api import Backend
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.kernels.registry import Device, open_backend
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.catalogue import producer_of
from gpuscan.sim.frames import index_dtype
from gpuscan.sim.loops import warm
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import MachineSpec
from gpuscan.store.contract import PageStore
from gpuscan.store.single import Store
from gpuscan.topology import Topology
from gpuscan.topology.resolve import resolve_topology
from gpuscan.workload.files import Workload

if TYPE_CHECKING:
    from gpuscan.designs.engine import DesignEngine
    from gpuscan.records.page_flags import Frames
    from gpuscan.shards.sharded_store import ShardedStore, Sharding
    from gpuscan.snapshot.snapshot import Snapshot
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
    """

    workload: Workload
    topology: Topology
    machine: SimulatedMachine
    store: PageStore | None
    engine: Engine | DesignEngine
    notes: tuple[str, ...]

    def run(
        self,
        on_tick: Callable[[TickReport], None] | None = None,
        *,
        earlier: Sequence[TickReport] = (),
    ) -> RunReport:
        """Run the workload's ticks; ``on_tick`` sees each one. ``earlier``: see :meth:`Engine.run`."""
        if not isinstance(self.engine, Engine):
            return self.engine.run(self.workload.ticks, on_tick)
        report = self.engine.run(self.workload.ticks, on_tick, earlier=earlier)
        self.notes += self.engine.store.device_failures()
        return report


def build_scenario(
    workload: Workload,
    *,
    snapshot: Snapshot | None = None,
    topology: Topology | None = None,
    device: Device | None = None,
    design: str = PROGRAM,
    n_threads: int | None = None,
    sharding: Sharding | None = None,
    plan_sink: PlanSink | None = None,
    verify_every_tick: bool = False,
    fallback: bool = False,
    finish_tick: bool = False,
    on_failure: Callable[[str], None] | None = None,
    on_checked: Callable[[], None] | None = None,
    on_read: Callable[[int], None] | None = None,
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
        n_threads: worker threads of the CPU backend, of each shard where there are shards.
        sharding: keep the records in shards.
        plan_sink, verify_every_tick: see :class:`gpuscan.engine.tick.Engine`.
        fallback: go on on the CPU when the device fails (:mod:`gpuscan.kernels.failover`), which
            keeps a copy of the store in host memory.
        finish_tick: let the CPU take over from a GPU without ``fallback`` too, for a caller that stops
            after the tick (:meth:`gpuscan.run.resume.RunCheckpoints.on_tick`).
        on_failure: called with a sentence when the CPU takes over.
        on_checked: called between the checks and the filling; the CPU kernels are compiled by then.
        on_read: called with bytes of the workload's trace while it is checked.

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
    if sharding is not None:
        from gpuscan.shards.sharded_store import Sharding

        instance("build_scenario: sharding", sharding, Sharding, "give a Sharding")
    text("build_scenario: design", design)
    if device is not None:
        text("build_scenario: device", device)
    for what, value in (
        ("verify_every_tick", verify_every_tick),
        ("fallback", fallback),
        ("finish_tick", finish_tick),
    ):
        flag(f"build_scenario: {what}", value)
    for what, call in (
        ("plan_sink", plan_sink),
        ("on_failure", on_failure),
        ("on_checked", on_checked),
        ("on_read", on_read),
    ):
        function(f"build_scenario: {what}", call, "leave it out, or give a function")
    if n_threads is not None:
        whole("build_scenario: n_threads", n_threads, 1)
    on_a_store = _runs_on_a_store(design)
    if not on_a_store:
        _check_design(design, workload, device, fallback)
    frames = None if snapshot is None else snapshot.frames()
    surveyed = None
    if snapshot is not None:
        topology = snapshot.topology
    elif topology is None:
        topology = resolve_topology(workload.topology.machine, workload.topology.memory)
    if workload.source.kind == "trace":
        from gpuscan.run.trace import survey_trace, trace_spec

        surveyed, workload = survey_trace(workload, topology, on_read)
        spec = trace_spec(workload, topology, surveyed.n_pages)
    elif frames is None:
        spec = workload.machine_spec(topology)
    else:
        spec = _captured_spec(workload, topology, frames)
    large_folios = any(process.order for process in spec.processes)
    if frames is not None:
        large_folios = bool(frames.order[frames.eligible].any())
    policy = workload.engine_policy()
    store = None
    if on_a_store:
        store = _open_store(
            topology,
            policy.record_format,
            device or workload.device,
            large_folios,
            n_threads,
            sharding,
            fallback,
            finish_tick,
            on_failure,
        )
        store.warm(record=spec.hint_faults.mark == "record")
    warm(index_dtype(topology.page_map.n_pages))
    if on_checked is not None:
        on_checked()
    machine, source, notes = _machine_and_source(workload, topology, spec, snapshot, frames, surveyed)
    if policy.one_thread:
        from gpuscan.producers.demotions import DemotingSource

        source = DemotingSource(source, machine)
    if store is None:
        from gpuscan.designs.engine import design_engine

        if plan_sink is not None:
            notes += (f"the design {design} makes no plans: plan.parquet stays empty",)
        return Scenario(workload, topology, machine, None, design_engine(design, machine, policy), notes)
    for event in machine.folios():
        store.admit(event.allocated, event.order)
    if sharding is not None and sharding.directory is not None:
        cast("ShardedStore", store).protect(sharding.directory)
    engine = Engine(
        store,
        source,
        SimulatedMigrator(machine),
        policy,
        plan_sink=plan_sink,
        verify_every_tick=verify_every_tick,
    )
    return Scenario(workload, topology, machine, store, engine, notes)


def _open_backend(
    device: Device,
    n_threads: int | None,
    fallback: bool,
    finish_tick: bool,
    on_failure: Callable[[str], None] | None,
) -> tuple[Backend, str]:
    """Open a device, and what takes over from it."""
    backend, why = open_backend(device, n_threads)
    if not fallback and backend.name != "cuda":  # what fails in host memory is not a device
        return backend, why

    def open_cpu() -> Backend:
        return open_backend("cpu", n_threads)[0]

    return GuardedBackend(backend, open_cpu if fallback or finish_tick else None, on_failure), why


def _runs_on_a_store(design: str) -> bool:
    """Whether a design is no model; of our own that is known without the catalogue: 18 ms of start-up."""
    if design == PROGRAM:
        return True
    from gpuscan.designs.catalogue import DESIGNS

    return DESIGNS.get(design).runs_on_a_store


def _check_design(design: str, workload: Workload, device: Device | None, fallback: bool) -> None:
    """Refuse what a model of another design cannot do."""
    from gpuscan.designs.catalogue import DESIGNS
    from gpuscan.designs.tunables import Tuning

    DESIGNS.get(design).check(Tuning(workload.engine_policy()))
    if workload.policy.one_thread:
        raise InputError(f"policy.one_thread is a switch of gpuscan; leave it out, or --design {design}")
    if device is not None or fallback:
        option = "--fallback" if device is None else "--device"
        raise InputError(f"the design {design} is a model that runs on no device; leave out {option}")
    if workload.source.kind == "trace":
        raise InputError(
            f"the design {design} is fed by a producer, not by a trace; leave out --design or the trace"
        )


def _machine_and_source(
    workload: Workload,
    topology: Topology,
    spec: MachineSpec,
    snapshot: Snapshot | None,
    frames: Frames | None,
    surveyed: Survey | None,
) -> tuple[SimulatedMachine, ResumableSource, tuple[str, ...]]:
    """Fill the memory, and return it with what marks its pages and what a user should know."""
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
        from gpuscan.sim.captured import machine_from_frames
        from gpuscan.snapshot.folios import captured_frames

        machine = machine_from_frames(topology, captured_frames(snapshot, frames), spec)
        n_hot = int(np.count_nonzero(frames.hot))
        hot = f"hot folios of the snapshot: {n_hot:,} ({hot_rule(snapshot.lru_gen)})"
        return machine, producer_of(machine), (hot, *_left_out(workload))
    machine = SimulatedMachine(topology, spec)
    return machine, producer_of(machine), ()


def _open_store(
    topology: Topology,
    record_format: str,
    device: Device,
    large_folios: bool,
    n_threads: int | None,
    sharding: Sharding | None,
    fallback: bool,
    finish_tick: bool,
    on_failure: Callable[[str], None] | None,
) -> PageStore:
    if sharding is None:
        backend, why = _open_backend(device, n_threads, fallback, finish_tick, on_failure)
        store = Store(topology, record_format, backend, large_folios=large_folios)
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
        n_threads=n_threads,
        fallback=fallback or finish_tick,
        on_failure=on_failure,
    )


def _captured_spec(workload: Workload, topology: Topology, frames: Frames) -> MachineSpec:
    """Return what to simulate on a captured machine: the workload's first process on all nodes with CPUs.

    Its folios are the snapshot's; its size, theirs, sets how often it accesses memory.
    """
    cpu_nids = tuple(node.nid for node in topology.nodes if node.cpus)
    if not cpu_nids:
        raise InputError(
            f"no node of {topology.name!r} has CPUs, so nobody accesses its memory; capture it again"
        )
    if workload.producer.only_lower_tier and all(
        topology.is_top_tier(node.nid) for node in topology.nodes if node.present_pages
    ):
        raise InputError(
            f"all memory of {topology.name!r} is one tier, so workload {workload.name} has nothing to "
            "promote; give --split-cxl 50% to declare the upper half of its PFNs CXL memory"
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
    remedy = "; run cxl-promote with --split-cxl 50%, or capture a machine that has several"
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


def _left_out(workload: Workload) -> tuple[str, ...]:
    """Return what of a workload a captured machine leaves out."""
    left_out = []
    if len(workload.processes) > 1:
        left_out.append(f"only the first of {len(workload.processes)} processes runs, over all its folios")
    if workload.processes[0].pattern.shift_every:
        left_out.append("pattern.shift_every does not apply: the hot folios are those of the snapshot")
    return tuple(left_out)
