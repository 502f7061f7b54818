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
from gpuscan.compare.parts import LISTING, RECORDING, n_accesses_of
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

OnShare = Callable[[str, float], None]
"""Called with what is being done and how much of it (of 1) is done since the last call."""

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
class LoopJob:
    """One loop of one design, for a process of its own; an open one of a model, since its time is modelled.

    Attributes:
        design, loop: which.
        settings, stream, requests: of the comparison.
        costs: what the model's steps take in the open loop.
    """

    design: str
    loop: str
    settings: Settings
    stream: Stream
    requests: RequestList
    costs: StepCosts | None = None

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
        assert self.costs is not None
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


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every design is given under one seed."""

    stream: Stream
    requests: RequestList


def make_inputs(
    settings: Settings, directory: Path, n_requests: int | None, on_share: OnShare, of: str = ""
) -> Inputs:
    """Record the accesses, and make the open loop's list of them.

    Args:
        settings: machine, policy; the seed is the spec's.
        directory: where recording and list are written.
        n_requests: length of the list at most.
        on_share: see there.
        of: in front of what it is told, see :func:`gpuscan.compare.parts.parts_of`.

    Raises:
        InputError: nothing is asked for.
        RunFailedError: a disk is full.
    """
    on_share(f"{of}{RECORDING}", 0)
    if settings.trace is not None:
        stream: Stream = settings.trace
    else:
        stream = _recorded(settings, directory, on_share, of)
    on_share(f"{of}{RECORDING}", 1)
    on_share(f"{of}{LISTING}", 0)
    requests = make_request_list(
        settings,
        stream,
        directory / "requests.npy",
        n_requests,
        lambda passed_ns: on_share(f"{of}{LISTING}", passed_ns / stream.horizon_ns),
    )
    on_share(f"{of}{LISTING}", 1)
    return Inputs(stream, requests)


def run_seed(
    designs: Sequence[str],
    settings: Settings,
    inputs: Inputs,
    costs: CostModel,
    n_processes: int,
    on_share: OnShare,
    of: str = "",
    *,
    equal_cost: bool = False,
) -> SeedRun:
    """Run both loops of every design under one seed.

    Args:
        designs: names.
        settings: machine, policy; the seed is the spec's.
        inputs: of :func:`make_inputs`.
        costs: what the open loop's walks take.
        n_processes: models that run at once.
        on_share: see there.
        of: in front of what it is told, see :func:`gpuscan.compare.parts.parts_of`.
        equal_cost: run each design at other intervals too.

    Raises:
        InputError: a design has nothing to do on this machine.
        RunFailedError: conservation broke, or a disk is full.
    """
    stream, requests = inputs.stream, inputs.requests
    opened: dict[str, OpenResult] = {}
    closed: dict[str, ClosedResult] = {}
    machine = stream.open().machine
    n_listed = len(np.unique(requests.entries()["pfn"]))
    metadata = {
        name: DESIGNS.get(name).metadata_bytes(machine, settings.policy_of(name), n_listed)
        for name in designs
    }
    del machine
    models = [name for name in designs if not DESIGNS.get(name).runs_on_a_store]
    # They take longest: first, and one of each loop at once, so that it is known early how long.
    jobs = [
        LoopJob(name, loop, settings, stream, requests, costs.step_costs(name))
        for name in models
        for loop in ("closed", "open")
    ]
    # No clock counts in a closed loop.
    jobs += [LoopJob(name, "closed", settings, stream, requests) for name in designs if name not in models]
    for job, result in run_jobs(jobs, n_processes, lambda name, share: on_share(f"{of}{name}", share)):
        assert isinstance(job, LoopJob)
        on_share(f"{of}{job.name}", 1)
        if isinstance(result, OpenResult):
            opened[job.design] = result
        else:
            closed[job.design] = result
    for name in designs:
        if name not in models:  # alone, on all threads: its scans are timed
            opened[name] = _run_store(name, settings, inputs, on_share, of)
    reached: dict[str, EqualCost] = {}
    if equal_cost:
        searches = {
            name: EqualCostJob(name, settings, stream, requests, costs, opened[name], requests.path.parent)
            for name in designs
        }
        for name in designs:
            if name not in models:
                on_share(f"{of}{searches[name].name}", 0)
                reached[name] = searches[name].run(partial(on_share, f"{of}{searches[name].name}"))
                on_share(f"{of}{searches[name].name}", 1)
        for job, result in run_jobs(
            [searches[name] for name in models],
            n_processes,
            lambda name, share: on_share(f"{of}{name}", share),
        ):
            assert isinstance(job, EqualCostJob)
            on_share(f"{of}{job.name}", 1)
            reached[job.design] = result
    return SeedRun(
        settings.spec.seed,
        stream,
        requests,
        {name: opened[name] for name in designs},
        {name: closed[name] for name in designs},
        metadata,
        reached,
    )


def _run_store(name: str, settings: Settings, inputs: Inputs, on_share: OnShare, of: str) -> OpenResult:
    """Run the open loop of a design that runs on a store."""
    stream, requests = inputs.stream, inputs.requests
    what = f"{of}{name}, open loop"
    on_share(what, 0)
    loop = StoreLoop(name, settings, stream.open().machine, requests)
    opened = loop.run(lambda n_marks: on_share(what, n_marks / requests.n))
    on_share(what, 1)
    return opened


def _recorded(settings: Settings, directory: Path, on_share: OnShare, of: str) -> RecordedStream:
    total = n_accesses_of(settings)
    recording = record_accesses(
        settings.topology,
        settings.spec,
        settings.horizon_ns,
        directory,
        lambda n: on_share(f"{of}{RECORDING}", n / total),
        settings.frames,
    )
    return RecordedStream(settings.topology, settings.spec, recording, settings.frames)


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
