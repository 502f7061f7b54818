"""All of one comparison: record, list, both loops for every design, costs, and the table of cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from gpuscan.base.units import PAGE_BYTES
from gpuscan.compare.closed_loop import ClosedResult, run_closed
from gpuscan.compare.columns.catalogue import all_columns
from gpuscan.compare.columns.cells import Cell, cell_of
from gpuscan.compare.columns.contract import Figures
from gpuscan.compare.cost_model import CostModel
from gpuscan.compare.equal_cost import EqualCost
from gpuscan.compare.equal_cost_runs import EqualCostJob
from gpuscan.compare.jobs import run_jobs
from gpuscan.compare.open_loop import OpenResult, StepCosts, run_model
from gpuscan.compare.recording import record_accesses
from gpuscan.compare.request_list import RequestList, make_request_list
from gpuscan.compare.settings import Settings
from gpuscan.compare.side_costs import ProducerCost
from gpuscan.compare.static_machine import StillPages
from gpuscan.compare.steps.look_up import name_of
from gpuscan.compare.store_loop import StoreLoop
from gpuscan.compare.stream import RecordedStream, Stream
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.contract import NotMeasured
from gpuscan.sim.machine import SimulatedMachine

OnShare = Callable[[str, float], None]
"""Called with what is being done and how much of it (of 1) is done since the last call."""

DEFAULT_REQUESTS = 500_000
"""Requests of the open loop's list at most: models run in Python."""
DEFAULT_ACCESSES = 32_000_000
"""Accesses of the closed loop at most, unless told how many ticks to run: 4 s of cxl-promote on 256 GiB."""
_TIB_PAGES = (1 << 40) // PAGE_BYTES
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured beside the loops.

    Attributes:
        model: of scans.
        producers: by design; empty where they were not measured.
        slowdown: of a neighbour, by step; empty where it was not measured.
    """

    model: CostModel
    producers: dict[str, ProducerCost] = field(default_factory=dict)
    slowdown: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeedRun:
    """Both loops under one seed.

    Attributes:
        seed: which.
        stream, requests: what every design was given.
        opened, closed: by design.
        metadata: bytes by design.
        equal_cost: by design, runs at other intervals; empty where there were none.
    """

    seed: int
    stream: Stream
    requests: RequestList
    opened: dict[str, OpenResult]
    closed: dict[str, ClosedResult]
    metadata: dict[str, int]
    equal_cost: dict[str, EqualCost]


@dataclass(frozen=True, slots=True)
class ModelJob:
    """One loop of one model, for a process of its own."""

    design: str
    loop: str
    settings: Settings
    stream: Stream
    requests: RequestList
    costs: StepCosts

    @property
    def name(self) -> str:
        """See :class:`gpuscan.compare.jobs.Job`."""
        return f"{self.design}, {self.loop} loop"

    def run(self, on_share: Callable[[float], None]) -> OpenResult | ClosedResult:
        """See :class:`gpuscan.compare.jobs.Job`."""
        if self.loop == "closed":
            horizon_ns = self.stream.horizon_ns
            return run_closed(
                self.design, self.settings, self.stream, lambda passed_ns: on_share(passed_ns / horizon_ns)
            )
        machine = self.stream.open().machine
        n = self.requests.n
        return run_model(
            self.design,
            self.settings,
            StillPages(machine),
            self.requests,
            self.costs,
            lambda n_marks: on_share(n_marks / n),
        )


def seed_steps(designs: Sequence[str], *, equal_cost: bool = False) -> int:
    """Return how many shares of 1 :func:`run_seed` tells of."""
    return 2 + (3 if equal_cost else 2) * len(designs)


def run_seed(
    designs: Sequence[str],
    settings: Settings,
    costs: CostModel,
    directory: Path,
    n_requests: int,
    n_processes: int,
    on_share: OnShare,
    *,
    equal_cost: bool = False,
) -> SeedRun:
    """Run both loops of every design under one seed.

    Args:
        designs: names.
        settings: machine, policy; the seed is the spec's.
        costs: what the open loop's walks take.
        directory: where recording and list are written.
        n_requests: length of the list at most.
        n_processes: models that run at once.
        on_share: see there; :func:`seed_steps` in all.
        equal_cost: run each design at other intervals too.

    Raises:
        InputError: a design has nothing to do on this machine, or nothing is asked for.
        RunFailedError: conservation broke, or a disk is full.
    """
    if settings.trace is not None:
        stream: Stream = settings.trace
        on_share("recording accesses", 1)
    else:
        stream = _recorded(settings, directory, on_share)
    told = 0.0

    def listed(passed_ns: int) -> None:
        nonlocal told
        told += passed_ns / stream.horizon_ns
        on_share("listing requests", passed_ns / stream.horizon_ns)

    requests = make_request_list(settings, stream, directory / "requests.npy", n_requests, listed)
    on_share("listing requests", 1 - told)
    opened: dict[str, OpenResult] = {}
    closed: dict[str, ClosedResult] = {}
    machine = stream.open().machine
    n_listed = len(np.unique(requests.entries()["pfn"]))
    metadata = {
        name: DESIGNS.get(name).metadata_bytes(machine, settings.policy_of(name), n_listed)
        for name in designs
    }
    models = [name for name in designs if not DESIGNS.get(name).runs_on_a_store]
    for name in designs:
        if name not in models:  # alone, on all threads: its scans are timed
            opened[name], closed[name] = _run_store(name, settings, machine, stream, requests, on_share)
    del machine
    jobs = [
        ModelJob(name, loop, settings, stream, requests, costs.step_costs(name))
        for loop in ("closed", "open")
        for name in models
    ]
    for job, result in run_jobs(jobs, n_processes, on_share):
        assert isinstance(job, ModelJob)
        if isinstance(result, OpenResult):
            opened[job.design] = result
        else:
            closed[job.design] = result
    reached: dict[str, EqualCost] = {}
    if equal_cost:
        searches = {
            name: EqualCostJob(name, settings, stream, requests, costs, opened[name], directory)
            for name in designs
        }
        for name in designs:
            if name not in models:  # alone, since its scans are timed
                reached[name] = searches[name].run(partial(on_share, searches[name].name))
        for job, result in run_jobs([searches[name] for name in models], n_processes, on_share):
            assert isinstance(job, EqualCostJob)
            reached[job.design] = result
    return SeedRun(settings.spec.seed, stream, requests, opened, closed, metadata, reached)


def _run_store(
    name: str,
    settings: Settings,
    machine: SimulatedMachine,
    stream: Stream,
    requests: RequestList,
    on_share: OnShare,
) -> tuple[OpenResult, ClosedResult]:
    """Run both loops of a design that runs on a store."""
    opened = StoreLoop(name, settings, machine, requests).run(
        lambda n: on_share(f"{name}, open loop", n / requests.n)
    )
    closed = run_closed(
        name,
        settings,
        stream,
        lambda passed_ns: on_share(f"{name}, closed loop", passed_ns / stream.horizon_ns),
    )
    return opened, closed


def _recorded(settings: Settings, directory: Path, on_share: OnShare) -> RecordedStream:
    n_accesses = sum(process.accesses_per_s for process in settings.spec.processes)
    total = max(1.0, n_accesses * settings.horizon_ns / 1e9)
    recording = record_accesses(
        settings.topology,
        settings.spec,
        settings.horizon_ns,
        directory,
        lambda n: on_share("recording accesses", n / total),
    )
    return RecordedStream(settings.topology, settings.spec, recording)


def figures_of(design: str, run: SeedRun, settings: Settings, costs: Costs) -> Figures:
    """Put together what is known about a design under one seed."""
    producer = costs.producers.get(design, ProducerCost(_NAN, _NAN, _NAN))
    return Figures(
        design,
        run.opened[design],
        run.closed[design],
        run.requests.end_ns,
        settings.n_threads if DESIGNS.get(design).runs_on_a_store else 1,
        run.metadata[design],
        producer.alone_ns,
        producer.beside_another_ns,
        _slowdown(design, costs),
        costs.model.scan_of(design, _TIB_PAGES),
        costs.model.scan_of(design, 64 * _TIB_PAGES),
        producer.single_ns,
        run.equal_cost.get(design),
    )


def table(
    designs: Sequence[str], runs: Sequence[SeedRun], settings: Settings, costs: Costs
) -> dict[str, dict[str, Cell]]:
    """Return the cell of every design (outer key) and column (inner key)."""
    cells: dict[str, dict[str, Cell]] = {}
    for design in designs:
        seeds = [figures_of(design, run, settings, costs) for run in runs]
        cells[design] = {column.key: cell_of(column, seeds) for column in all_columns()}
    return cells


def with_seed(settings: Settings, seed: int) -> Settings:
    """Return settings under another seed."""
    return replace(settings, spec=replace(settings.spec, seed=seed))


def _slowdown(design: str, costs: Costs) -> float:
    beside = DESIGNS.get(design).beside
    return _NAN if isinstance(beside, NotMeasured) else costs.slowdown.get(name_of(beside), _NAN)
