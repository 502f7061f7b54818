"""What a workload file may say: typed, checked, every string with a unit turned into base units.

Keys carry no unit, their values do (``tick = "100ms"``). Every key has a default
except ``shows``, ``processes`` (but for a trace) and, in a process, ``name``, ``memory``,
``cpus_of`` and ``accesses_per_gib_s``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from gpuscan.errors import InputError, TopologyError
from gpuscan.pagemap import BLOCK_PAGES
from gpuscan.policy import Policy
from gpuscan.records import N_NODES_MAX, STORE_FORMATS
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, MigrationCostSpec, PatternSpec, ProcessSpec
from gpuscan.topology.model import Node, Topology
from gpuscan.units import (
    PAGE_BYTES,
    format_bytes,
    format_count,
    format_time,
    parse_bytes,
    parse_rate_bytes_per_s,
    parse_share,
    parse_time_ns,
)

THP_ORDER = 9
"""A transparent huge page: 512 base pages, 2 MiB."""

_PATTERN, _FAULTS, _COST, _POLICY = PatternSpec(), HintFaultSpec(), MigrationCostSpec(), Policy()
_ADDS_UP = 1e-6
"""Slack of shares that should add up to 100%."""
_GIB = 1 << 30
MAX_ACCESSES_PER_TICK = 10**9
"""Of all processes together. A core simulates some 20 million a second, so a tick of these takes a minute."""
MAX_TURNS_PER_TICK = 10**4
"""Visits of the scanner, rotations and shifts of a process: each costs a loop of its own."""


def _parsed(parse: Callable[[str], Any], example: str) -> BeforeValidator:
    def validate(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} has no unit; write a string such as {example!r}")
        try:
            return parse(value)
        except InputError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate)


def _parse_memory(text: str) -> int | float:
    return parse_share(text) if text.rstrip().endswith("%") else parse_bytes(text)


def _by_nid(value: Any, parse: Callable[[str], Any], example: str) -> tuple[tuple[int, Any], ...]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{value!r} is not a table by node; write for example {example}")
    parsed = []
    for nid, text in value.items():
        if re.fullmatch("[0-9]{1,4}", nid) is None or not isinstance(text, str):
            raise ValueError(f"{nid} = {text!r} is not a value for a node; write for example {example}")
        try:
            parsed.append((int(nid), parse(text)))
        except InputError as error:
            raise ValueError(str(error)) from error
    return tuple(parsed)


def _parse_placement(value: Any) -> tuple[tuple[int, float], ...]:
    if value == "spill":
        return ()
    placed = _by_nid(value, parse_share, '{ 0 = "30%", 2 = "70%" }, or "spill"')
    total = sum(share for _, share in placed)
    if abs(total - 1.0) > _ADDS_UP:
        raise ValueError(f"the shares add up to {total:.1%}; make it 100%")
    return placed


def _parse_intervals(value: Any) -> tuple[tuple[int, int], ...]:
    return _by_nid(value, parse_time_ns, '{ 2 = "1s" }')


Bytes = Annotated[int, _parsed(parse_bytes, "64GiB")]
TimeNs = Annotated[int, _parsed(parse_time_ns, "100ms")]
Rate = Annotated[int, _parsed(parse_rate_bytes_per_s, "100MB/s")]
Share = Annotated[float, _parsed(parse_share, "50%")]
Memory = Annotated[int | float, _parsed(_parse_memory, "70%")]
"""Bytes (int), or a share of the machine's memory (float)."""
Placement = Annotated[tuple[tuple[int, float], ...], BeforeValidator(_parse_placement)]
"""Shares by nid; empty = "spill": fill the node of the first CPUs, then the next nearest."""
Intervals = Annotated[tuple[tuple[int, int], ...], BeforeValidator(_parse_intervals)]
"""Nanoseconds by nid."""
Nid = Annotated[int, Field(ge=0, lt=N_NODES_MAX)]


def suggestion(given: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown name: the close match, if any, and all that are known."""
    close = get_close_matches(given, known, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{meant}; choose one of {', '.join(known)}"


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class TopologyChoice(_Model):
    """Which machine: a preset, a TOML file or ``host``; ``memory`` sizes a preset."""

    machine: str = "two-socket-cxl"
    memory: Bytes | None = None


class Pattern(_Model):
    """Which pages a process touches, see :class:`gpuscan.sim.spec.PatternSpec`."""

    kind: Literal["zipf", "uniform", "scan"] = _PATTERN.kind
    hot: Share = _PATTERN.hot_share
    hot_accesses: Share = _PATTERN.hot_access_share
    skew: Annotated[float, Field(ge=0, le=8)] = _PATTERN.skew
    scattered: bool = _PATTERN.scattered
    shift_every: TimeNs = _PATTERN.shift_every_ns


class Process(_Model):
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

    @model_validator(mode="after")
    def _moves_somewhere(self) -> Self:
        if (self.move_at or self.rotate_every) and len(self.cpus_of) < 2:
            raise ValueError("move_at and rotate_every need a second node in cpus_of")
        return self


class Source(_Model):
    """How accesses become marks, see :class:`gpuscan.sim.spec.HintFaultSpec`, or with ``kind = "trace"``
    :class:`gpuscan.sources.trace.TraceSource`: of a trace, ``mark`` and ``only_lower_tier`` count."""

    kind: Literal["hint-faults", "trace"] = "hint-faults"
    scan_size: Memory = _FAULTS.scan_bytes
    scan_period: Annotated[TimeNs, Field(gt=0)] = _FAULTS.scan_period_ns
    mark: Literal["request", "record"] = _FAULTS.mark
    only_lower_tier: bool = _FAULTS.only_lower_tier
    hot_latency: TimeNs = _FAULTS.hot_latency_ns
    two_stage: bool = _FAULTS.two_stage
    trace: str = ""
    min_weight: Annotated[int, Field(ge=0, lt=2**62)] = 0

    @model_validator(mode="after")
    def _has_a_trace(self) -> Self:
        if (self.kind == "trace") != bool(self.trace):
            raise ValueError("kind = 'trace' and a file in trace go together; give both or neither")
        return self


class MigrationCost(_Model):
    """What a migration costs and how often it fails, see :class:`gpuscan.sim.spec.MigrationCostSpec`."""

    round: TimeNs = int(_COST.round_ns)
    page: TimeNs = int(_COST.page_ns)
    isolation_failures: Share = _COST.isolation_failure_share
    copy_failures: Share = _COST.copy_failure_share


class PolicyChoice(_Model):
    """How marks are treated, see :class:`gpuscan.policy.Policy`; ``tick`` of the workload is its interval."""

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


class Workload(_Model):
    """A workload.

    Attributes:
        name: what to call it.
        shows: one line saying what it shows.
        topology: on which machine.
        processes: who runs; of a trace, whoever ran when it was recorded, so none are needed.
        source: how accesses become marks.
        policy: how marks are treated.
        cost: of migrations.
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
    policy: PolicyChoice = PolicyChoice()
    cost: MigrationCost = MigrationCost()
    demotion: bool = True
    ticks: Annotated[int, Field(ge=1, le=10**9)] = 100
    tick: Annotated[TimeNs, Field(gt=0)] = 100_000_000
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Literal["auto", "cpu", "reference", "cuda"] = "auto"

    @model_validator(mode="after")
    def _runs_something(self) -> Self:
        if not self.processes and self.source.kind != "trace":
            raise ValueError("key processes is missing; add it, or a source of kind = 'trace'")
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
            backoff_ticks=choice.backoff_ticks,
            max_attempts=choice.max_attempts,
        )

    def machine_spec(self, topology: Topology) -> MachineSpec:
        """Return what to simulate on ``topology``: shares of memory become pages.

        Raises:
            InputError: a node is not there or has no CPUs or memory, the processes do not fit, or
                a tick holds more than can be simulated.
        """
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
                "lower processes.*.memory or give a larger --memory"
            )
        self._check_tick(processes)
        source, cost = self.source, self.cost
        return MachineSpec(
            processes,
            HintFaultSpec(
                scan_bytes=_bytes_of(source.scan_size, topology),
                scan_period_ns=source.scan_period,
                mark=source.mark,
                only_lower_tier=source.only_lower_tier,
                hot_latency_ns=source.hot_latency,
                two_stage=source.two_stage,
            ),
            MigrationCostSpec(
                round_ns=cost.round,
                page_ns=cost.page,
                isolation_failure_share=cost.isolation_failures,
                copy_failure_share=cost.copy_failures,
            ),
            demotion=self.demotion,
            seed=self.seed,
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
        yield "source.scan_period", self.source.scan_period
        for index, process in enumerate(self.processes):
            yield f"processes.{index}.rotate_every", process.rotate_every
            yield f"processes.{index}.pattern.shift_every", process.pattern.shift_every


MODELS: dict[str, type[BaseModel]] = {
    "topology": TopologyChoice,
    "processes": Process,
    "pattern": Pattern,
    "source": Source,
    "policy": PolicyChoice,
    "cost": MigrationCost,
}
"""Model of each key that is a table (or a list of tables)."""


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
    wanted_bytes = _bytes_of(process.memory, topology)
    n_pages = wanted_bytes // PAGE_BYTES >> order << order
    if n_pages == 0:
        raise InputError(
            f"{key}.memory: {format_bytes(wanted_bytes)} is not even one page"
            f"{' of 2 MiB, as thp = true asks for' if order else ''}; give more"
        )
    pattern = process.pattern
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
    )


def _bytes_of(memory: int | float, topology: Topology) -> int:
    return memory if isinstance(memory, int) else int(memory * topology.memory_bytes)


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
