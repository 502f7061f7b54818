"""What a workload file may say: typed, checked, every string with a unit turned into base units.

Keys carry no unit, their values do (``tick = "100ms"``). Every key has a default
except ``shows``, ``processes`` (but for a trace) and, in a process, ``name``, ``memory``,
``cpus_of`` and ``accesses_per_gib_s``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from gpuscan.base.arguments import instance
from gpuscan.base.complaints import suggestion
from gpuscan.base.errors import InputError, TopologyError
from gpuscan.base.units import PAGE_BYTES, format_bytes, format_count, format_time
from gpuscan.base.values import Bytes, FineTimeNs, Memory, Model, Rate, Share, TimeNs, bytes_of, one_of_names
from gpuscan.engine.policy import Policy
from gpuscan.kernels.catalogue import AUTO, device_names
from gpuscan.producers.numa_balancing import HintFaultOptions
from gpuscan.records.formats import FORMATS, STORE_FORMATS
from gpuscan.records.page_map import BLOCK_PAGES
from gpuscan.sim.spec import (
    DemandSpec,
    KernelCostSpec,
    MachineSpec,
    MigrationCostSpec,
    PatternSpec,
    ProcessSpec,
)
from gpuscan.topology.model import Node, Topology
from gpuscan.topology.presets import PRESETS
from gpuscan.workload.producer_model import DEFAULT_PRODUCER, Producer
from gpuscan.workload.values import Intervals, Nid, Placement

THP_ORDER = 9
"""A transparent huge page: 512 base pages, 2 MiB."""

_KERNEL = KernelCostSpec()
_PATTERN, _COST, _POLICY = PatternSpec(), MigrationCostSpec(), Policy()
_GIB = 1 << 30
MAX_ACCESSES_PER_TICK = 10**9
"""Of all processes together. A core simulates some 20 million a second, so a tick of these takes a minute."""
MAX_TURNS_PER_TICK = 10**4
"""Visits of the scanner, rotations and shifts of a process: each costs a loop of its own."""


class TopologyChoice(Model):
    """Which machine: a preset, a file that describes one or ``host``; ``memory`` sizes a preset."""

    machine: str = "two-socket-cxl"
    memory: Bytes | None = None


class Pattern(Model):
    """Which pages a process touches, see :class:`gpuscan.sim.spec.PatternSpec`."""

    kind: Literal["zipf", "uniform", "scan"] = _PATTERN.kind
    hot: Share = _PATTERN.hot_share
    hot_accesses: Share = _PATTERN.hot_access_share
    skew: Annotated[float, Field(ge=0, le=8)] = _PATTERN.skew
    scattered: bool = _PATTERN.scattered
    shift_every: TimeNs = _PATTERN.shift_every_ns


class Demand(Model):
    """How much bandwidth a process asks for, see :class:`gpuscan.sim.spec.DemandSpec`."""

    in_flight: Annotated[float, Field(gt=0, le=1e9)]
    access_bytes: Annotated[int, Field(ge=1, le=1 << 20)] = 64
    think: FineTimeNs = 0.0

    def spec(self) -> DemandSpec:
        """Return it as the simulated machine takes it."""
        return DemandSpec(self.in_flight, self.access_bytes, self.think)


class Process(Model):
    """Who runs, on the CPUs of the nodes ``cpus_of``, see :class:`gpuscan.sim.spec.ProcessSpec`.

    ``accesses_per_gib_s``: sampled accesses a second for each GiB of the process, so that how often
    a page is touched does not depend on the size of the machine.
    """

    name: Annotated[str, Field(min_length=1)]
    memory: Memory
    cpus_of: Annotated[tuple[Nid, ...], Field(min_length=1, strict=False)]
    accesses_per_gib_s: Annotated[float, Field(gt=0, le=1e12)]
    placement: Placement = ()
    thp: bool = False
    move_at: TimeNs = 0
    rotate_every: TimeNs = 0
    file: Share = 0.0
    dirty: Share = 0.0
    exec: Share = 0.0
    pattern: Pattern = Pattern()
    demand: Demand | None = None

    @model_validator(mode="after")
    def _moves_somewhere(self) -> Self:
        if (self.move_at or self.rotate_every) and len(self.cpus_of) < 2:
            raise ValueError("move_at and rotate_every need a second node in cpus_of")
        return self


def _as_text(value: Any) -> Any:
    """Return a number as it is written on a command line."""
    return str(value) if type(value) is int else value


class Source(Model):
    """Where accesses come from: the workload's processes, or with ``kind = "trace"`` a recorded trace, see
    :class:`gpuscan.traces.source.TraceSource`; ``given`` is what its file does not say,
    :mod:`gpuscan.traces.given`."""

    kind: Literal["processes", "trace"] = "processes"
    trace: str = ""
    given: dict[str, Annotated[str, BeforeValidator(_as_text)]] = Field({})
    min_weight: Annotated[int, Field(ge=0, lt=2**62)] = 0
    min_share: Share = 0.5

    @model_validator(mode="after")
    def _has_a_trace(self) -> Self:
        if (self.kind == "trace") != bool(self.trace):
            raise ValueError("kind = 'trace' and a file in trace go together; give both or neither")
        if self.given and not self.trace:
            raise ValueError("given says something of a trace, and there is none; leave it out")
        return self


class MigrationCost(Model):
    """What a migration costs and how often it fails, see :class:`gpuscan.sim.spec.MigrationCostSpec`."""

    round: TimeNs = int(_COST.round_ns)
    page: TimeNs = int(_COST.page_ns)
    isolation_failures: Share = _COST.isolation_failure_share
    copy_failures: Share = _COST.copy_failure_share
    copy_failures_last: Share = _COST.copy_failure_lasts_share


class KernelCost(Model):
    """What designs other than gpuscan are charged with, see :class:`gpuscan.sim.spec.KernelCostSpec`."""

    walk_pfn: FineTimeNs = _KERNEL.walk_pfn_ns
    walk_pfn_locked: FineTimeNs = _KERNEL.walk_pfn_locked_ns
    cold_line: FineTimeNs = _KERNEL.cold_line_ns
    atomic: FineTimeNs = _KERNEL.atomic_ns
    atomics_apart: FineTimeNs = _KERNEL.atomics_apart_ns


class PolicyChoice(Model):
    """How marks are treated, see :class:`Policy`; ``tick`` of the workload is its interval."""

    record_format: str = _POLICY.record_format
    hz: Annotated[int, Field(ge=1, le=10_000)] = _POLICY.hz
    batch_pages: Annotated[int, Field(ge=1, le=1 << 20)] = _POLICY.batch_pages
    node_intervals: Intervals = _POLICY.node_interval_ns
    freq_threshold: Annotated[int, Field(ge=1)] = _POLICY.freq_threshold
    window: TimeNs = _POLICY.window_ns
    drop_top_tier: bool = _POLICY.drop_top_tier
    scan_path: Literal["auto", "dense", "indexed"] = _POLICY.scan_path
    capacity_folios: Annotated[int, Field(ge=0, lt=2**40)] = _POLICY.capacity_folios
    rate_limit: Rate = _POLICY.rate_limit_bytes_per_s
    budget_pages: Annotated[int, Field(ge=0, lt=2**40)] = _POLICY.budget_pages
    on_refused: Literal["retry", "drop"] = _POLICY.on_refused
    one_thread: bool = _POLICY.one_thread
    backoff_ticks: Annotated[int, Field(ge=1, le=10**9)] = _POLICY.backoff_ticks
    max_attempts: Annotated[int, Field(ge=1, le=10**9)] = _POLICY.max_attempts

    @field_validator("capacity_folios")
    @classmethod
    def _holds_a_block(cls, n_folios: int) -> int:
        if 0 < n_folios < BLOCK_PAGES:
            raise ValueError(
                f"{n_folios} may not hold one block; give at least {BLOCK_PAGES}, or 0 for the default"
            )
        return n_folios

    @field_validator("record_format")
    @classmethod
    def _is_scannable(cls, name: str) -> str:
        if name not in STORE_FORMATS:
            raise ValueError(f"{name!r} is not a record format{suggestion(name, STORE_FORMATS)}")
        return name


class Workload(Model):
    """A workload.

    Attributes:
        name: what to call it.
        shows: one line saying what it shows.
        topology: on which machine.
        processes: who runs; of a trace, whoever ran when it was recorded, so none are needed.
        source: where accesses come from.
        producer: how they become marks.
        policy: how marks are treated.
        cost: of migrations.
        kernel: of the kernel's own steps, for other designs.
        demotion: whether kswapd demotes cold pages of a node short of memory.
        ticks: how many rounds.
        tick: nanoseconds from one round to the next.
        seed: of everything random; the same seed gives the same result.
        device: where the scan runs.
    """

    name: Annotated[str, Field(min_length=1)]
    shows: str
    topology: TopologyChoice = TopologyChoice()
    processes: Annotated[tuple[Process, ...], Field(min_length=1, strict=False)] = ()
    source: Source = Source()
    producer: Producer = Producer()
    policy: PolicyChoice = PolicyChoice()
    cost: MigrationCost = MigrationCost()
    kernel: KernelCost = KernelCost()
    demotion: bool = True
    ticks: Annotated[int, Field(ge=1, le=10**9)] = 100
    tick: Annotated[TimeNs, Field(gt=0)] = 100_000_000
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = AUTO

    @model_validator(mode="after")
    def _runs_something(self) -> Self:
        if not self.processes and self.source.kind != "trace":
            raise ValueError("key processes is missing; add it, or a source of kind = 'trace'")
        if self.source.kind == "trace" and self.producer.kind != DEFAULT_PRODUCER:
            raise ValueError(
                f"producer.kind = {self.producer.kind!r} watches processes, and the samples of a trace are "
                "what marks pages; leave it out"
            )
        names = [process.name for process in self.processes]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two processes are named {twice[0]!r}; give each a name of its own")
        return self

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, name: str) -> str:
        return one_of_names(name, device_names())

    @model_validator(mode="after")
    def _can_demote(self) -> Self:
        if self.policy.one_thread and not self.demotion:
            raise ValueError("policy.one_thread demotes, and demotion = false; leave out one of them")
        if self.policy.one_thread and not FORMATS[self.policy.record_format].has_nid:
            raise ValueError(
                f"policy.one_thread needs records with a target each, and {self.policy.record_format} has "
                "one for all; choose rfc or pghot"
            )
        return self

    def engine_policy(self) -> Policy:
        """Return the engine's settings."""
        choice = self.policy
        return Policy(
            record_format=choice.record_format,
            hz=choice.hz,
            batch_pages=choice.batch_pages,
            interval_ns=self.tick,
            node_interval_ns=choice.node_intervals,
            freq_threshold=choice.freq_threshold,
            window_ns=choice.window,
            drop_top_tier=choice.drop_top_tier,
            scan_path=choice.scan_path,
            capacity_folios=choice.capacity_folios,
            rate_limit_bytes_per_s=choice.rate_limit,
            budget_pages=choice.budget_pages,
            on_refused=choice.on_refused,
            one_thread=choice.one_thread,
            backoff_ticks=choice.backoff_ticks,
            max_attempts=choice.max_attempts,
        )

    def _more_memory(self, topology: Topology) -> str:
        """Say how there would be more memory: only of a preset the size can be chosen."""
        is_preset = topology.name == self.topology.machine and topology.name in PRESETS
        return "give a larger --memory" if is_preset else "take a machine that has more"

    def machine_spec(self, topology: Topology) -> MachineSpec:
        """Return what to simulate on ``topology``: shares of memory become pages.

        Raises:
            InputError: a node is not there or has no CPUs or memory, the processes do not fit, or
                a tick holds more than can be simulated.
        """
        instance("machine_spec: topology", topology, Topology, "give what resolve_topology() returns")
        processes = tuple(
            _process_spec(f"processes.{index}", process, topology)
            for index, process in enumerate(self.processes)
        )
        for nid, _ in self.policy.node_intervals:
            _node("policy.node_intervals", nid, topology)
        n_wanted = sum(process.n_pages for process in processes)
        if n_wanted * PAGE_BYTES > topology.memory_bytes:
            raise InputError(
                f"workload {self.name}: the processes want {format_bytes(n_wanted * PAGE_BYTES)} of memory, "
                f"topology {topology.name} has {format_bytes(topology.memory_bytes)}; "
                f"lower processes.*.memory or {self._more_memory(topology)}"
            )
        self._check_tick(processes)
        producer, cost = self.producer, self.cost
        return MachineSpec(
            processes,
            producer.numa_balancing(topology),
            MigrationCostSpec(
                round_ns=cost.round,
                page_ns=cost.page,
                isolation_failure_share=cost.isolation_failures,
                copy_failure_share=cost.copy_failures,
                copy_failure_lasts_share=cost.copy_failures_last,
            ),
            KernelCostSpec(
                walk_pfn_ns=self.kernel.walk_pfn,
                walk_pfn_locked_ns=self.kernel.walk_pfn_locked,
                cold_line_ns=self.kernel.cold_line,
                atomic_ns=self.kernel.atomic,
                atomics_apart_ns=self.kernel.atomics_apart,
            ),
            demotion=self.demotion,
            demotion_marked=self.policy.one_thread,
            seed=self.seed,
            producer=producer.spec(topology),
        )

    def _check_tick(self, processes: Sequence[ProcessSpec]) -> None:
        n_accesses = sum(process.accesses_per_s for process in processes) * self.tick / 1e9
        if n_accesses > MAX_ACCESSES_PER_TICK:
            raise InputError(
                f"workload {self.name}: {format_count(n_accesses)} accesses in a tick of "
                f"{format_time(self.tick)}, and {format_count(MAX_ACCESSES_PER_TICK)} can be simulated; "
                "lower tick or processes.*.accesses_per_gib_s"
            )
        for key, every_ns in self._turns():
            if every_ns and self.tick // every_ns > MAX_TURNS_PER_TICK:
                raise InputError(
                    f"workload {self.name}: {key} is {format_time(every_ns)}, over {MAX_TURNS_PER_TICK:,} "
                    f"times in a tick of {format_time(self.tick)}; raise {key} or lower tick"
                )

    def _turns(self) -> Iterable[tuple[str, int]]:
        for key, every_ns in self.producer.turns_ns().items():
            yield f"producer.{key}", every_ns
        for index, process in enumerate(self.processes):
            yield f"processes.{index}.rotate_every", process.rotate_every
            yield f"processes.{index}.pattern.shift_every", process.pattern.shift_every


MODELS: dict[str, type[BaseModel]] = {
    "topology": TopologyChoice,
    "processes": Process,
    "pattern": Pattern,
    "demand": Demand,
    "source": Source,
    "producer": Producer,
    "hint_faults": HintFaultOptions,
    "policy": PolicyChoice,
    "cost": MigrationCost,
    "kernel": KernelCost,
}
"""Model of each key that is a table (or a list of tables); of other producers see the catalogue."""


def _process_spec(key: str, process: Process, topology: Topology) -> ProcessSpec:
    for position, nid in enumerate(process.cpus_of):
        if not _node(f"{key}.cpus_of.{position}", nid, topology).cpus:
            raise InputError(
                f"{key}.cpus_of.{position}: node {nid} of topology {topology.name} has no CPUs; "
                f"use one of {_nids(node.nid for node in topology.nodes if node.cpus)}"
            )
    for nid, _ in process.placement:
        if not _node(f"{key}.placement", nid, topology).present_pages:
            raise InputError(
                f"{key}.placement.{nid}: node {nid} of topology {topology.name} has no memory; "
                f"use one of {_nids(node.nid for node in topology.nodes if node.present_pages)}"
            )
    order = THP_ORDER if process.thp else 0
    wanted_bytes = bytes_of(process.memory, topology.memory_bytes)
    n_pages = wanted_bytes // PAGE_BYTES >> order << order
    if n_pages == 0:
        raise InputError(
            f"{key}.memory: {format_bytes(wanted_bytes)} is not even one page"
            f"{' of 2 MiB, as thp = true asks for' if order else ''}; give more"
        )
    pattern, demand = process.pattern, process.demand
    return ProcessSpec(
        name=process.name,
        n_pages=n_pages,
        cpu_nids=process.cpus_of,
        accesses_per_s=process.accesses_per_gib_s * (n_pages * PAGE_BYTES / _GIB),
        placement=process.placement or ((_home(process.cpus_of[0], topology), 1.0),),
        order=order,
        move_at_ns=process.move_at,
        rotate_every_ns=process.rotate_every,
        file_share=process.file,
        dirty_share=process.dirty,
        exec_share=process.exec,
        pattern=PatternSpec(
            kind=pattern.kind,
            hot_share=pattern.hot,
            hot_access_share=pattern.hot_accesses,
            skew=pattern.skew,
            scattered=pattern.scattered,
            shift_every_ns=pattern.shift_every,
        ),
        demand=None if demand is None else demand.spec(),
    )


def _node(key: str, nid: int, topology: Topology) -> Node:
    try:
        return topology.node(nid)
    except TopologyError as error:
        raise TopologyError(f"{key}: {error}; name one of these") from None


def _home(cpu_nid: int, topology: Topology) -> int:
    """Return where the memory of a task on ``cpu_nid`` goes first: the nearest node that has any."""
    home = topology.nearest(cpu_nid, [node.nid for node in topology.nodes if node.present_pages])
    if home is None:
        raise InputError(
            f"topology {topology.name}: node {cpu_nid} reaches no memory; give it a distance below 255"
        )
    return home


def _nids(nids: Iterable[int]) -> str:
    listed = list(nids)
    return ", ".join(map(str, listed[:8])) + (", ..." if len(listed) > 8 else "")
