"""``gpuscan compare``: one stream through every scan design, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from gpuscan.cli.options import Voice, takes_options
from gpuscan.compare.request import CompareRequest

if TYPE_CHECKING:
    from pathlib import Path

    from gpuscan.cli.output import Output, Progress
    from gpuscan.compare.cost_model import CostModel
    from gpuscan.compare.pace import Pace
    from gpuscan.compare.prepare import Prepared
    from gpuscan.compare.settings import Settings
    from gpuscan.compare.sheets import Sheet


@dataclass(frozen=True, slots=True)
class _Asked:
    """A comparison with what it names, and how it is said."""

    request: CompareRequest
    prepared: Prepared
    output: Output
    made_by: str

    @property
    def n_processes(self) -> int:
        """Loops that run at once."""
        import os

        return min(self.request.jobs or len(os.sched_getaffinity(0)), self.n_loops)

    @property
    def n_loops(self) -> int:
        """Loops that may run at once: all of models, and of others those whose scans are not timed."""
        from gpuscan.designs.catalogue import DESIGNS

        return sum(1 if DESIGNS.get(name).runs_on_a_store else 2 for name in self.prepared.names)

    def settings(self, scratch: Path) -> Settings:
        """Return machine and policy, with the frames of a captured machine in files."""
        from gpuscan.compare.start import FrameFiles

        settings, captured = self.prepared.settings, self.prepared.captured
        if captured is None:
            return settings
        frames = FrameFiles.write(captured, scratch)
        trace = None if settings.trace is None else replace(settings.trace, frames=frames)
        return replace(settings, frames=frames, trace=trace)


@takes_options
def compare(context: typer.Context, request: CompareRequest, voice: Voice) -> None:
    """Put one stream of accesses through every scan design and show what each makes of it.

    The accesses are recorded once. Closed loop: each design has a machine of its own, and what it
    moves decides which accesses are fast. Open loop: each is given the same list of requests, and
    nothing moves. Every figure names its loop, and says whether it was counted, measured on this
    machine, or modelled from what was.

    \b
    gpuscan compare cxl-promote --designs all --memory 256GiB
    gpuscan compare host.zarr --split-cxl 50%                a machine that was captured
    gpuscan compare phase-shift --designs rfc-v1,section-flag,gpuscan --seeds 5
    gpuscan compare --designs section-flag,gpuscan --grid interval=50ms,100ms,1s --grid threshold=1,2,3
    gpuscan compare --trace mem.txt --topology mine.toml     recorded accesses
    gpuscan compare --explain lost                           what a row of the table means
    """
    from gpuscan.base.errors import InputError
    from gpuscan.compare.columns.catalogue import all_columns
    from gpuscan.compare.grid import check_bounds, check_intervals, check_objective, parse_grid
    from gpuscan.compare.prepare import prepare

    output = voice.output()
    if request.explain is not None:
        _explain(request.explain, output)
        return
    if request.markdown and (voice.as_json or request.grid):
        raise InputError("--markdown prints the table of a comparison; leave out --json and --grid, or it")
    all_columns()  # what is wrong with one is said now, not once all is measured
    combinations = parse_grid(list(request.grid))
    if request.objective is not None:
        check_objective(request.objective)
    request.check()
    _check_place(request)
    with output.note_if_slow("reading what is to be compared"):
        prepared = prepare(request)
    for note in prepared.notes:
        output.note(f"gpuscan: note: {note}")
    asked = _Asked(request, prepared, output, context.obj.line)
    if request.jobs is not None and request.jobs > asked.n_loops:
        output.note(
            f"gpuscan: note: --jobs {request.jobs}: there are {asked.n_loops} loops that may run at "
            "once, and no more do"
        )
    if request.grid:
        check_intervals(combinations, prepared.settings)
        check_bounds(prepared.names, combinations, prepared.settings)
        _run_grid(asked, combinations)
        return
    _run(asked)


def _explain(name: str, output: Output) -> None:
    """Say what rows of the table mean."""
    from gpuscan.compare.columns.catalogue import column_document, columns_called

    columns = columns_called(name)
    output.document({"kind": "compare-rows", "columns": [column_document(column) for column in columns]})
    for column in columns:
        where = "costs" if column.loop == "none" else f"{column.loop} loop"
        output.line(f"{column.title.strip()} ({where}, {column.key}): {column.explain}")


def _check_place(request: CompareRequest) -> None:
    from gpuscan.bench.plots import require_matplotlib
    from gpuscan.compare import grid as grids
    from gpuscan.compare import report
    from gpuscan.files.writing import check_place

    if request.out is None:
        return
    check_place(request.out, grids.CONTENTS if request.grid else report.CONTENTS, force=request.force)
    if request.plots and not request.grid:
        require_matplotlib()


def _shares(pace: Pace, progress: Progress) -> Callable[[str, float], None]:
    def on_share(what: str, share: float) -> None:
        pace.advance(what, share)
        progress.tell(pace.share, pace.left_s, now=what)

    return on_share


def _measured(names: Sequence[str], on_share: Callable[[str, float], None]) -> CostModel:
    from gpuscan.compare.cost_model import measure_model

    return measure_model(lambda what: on_share(f"measuring: {what}", 1), names)


def _run(asked: _Asked) -> None:
    from gpuscan.bench.host import describe_host
    from gpuscan.cli.devices import note_if_compiling
    from gpuscan.cli.progress import PERCENT
    from gpuscan.compare import side_costs
    from gpuscan.compare.pace import Pace
    from gpuscan.compare.parts import (
        equal_cost_parts,
        list_is_made,
        measuring_parts,
        parts_of,
        side_cost_parts,
    )
    from gpuscan.compare.report import document_of, write_out
    from gpuscan.compare.suite import Costs, make_inputs, run_seed, table, with_seed
    from gpuscan.files.scratch import scratch_directory

    request, names, output = asked.request, asked.prepared.names, asked.output
    with scratch_directory("compare") as scratch, note_if_compiling(output):
        settings = asked.settings(scratch)
        seeds = [settings.spec.seed + number for number in range(request.n_seeds)]
        of = {seed: f"seed {seed}, " if len(seeds) > 1 else "" for seed in seeds}
        parts = measuring_parts(names)
        if request.side_costs:
            parts += side_cost_parts(names)
        for seed in seeds:
            parts += parts_of(names, settings, request.n_requests, of[seed])
            if request.side_costs:
                parts += equal_cost_parts(names, of[seed])
        pace = Pace(parts, asked.n_processes)
        costs, runs = None, []
        with output.progress("compare", 100, unit=PERCENT) as progress:
            on_share = _shares(pace, progress)
            for seed in seeds:
                seeded = with_seed(settings, seed)
                directory = scratch / str(seed)
                directory.mkdir()
                # The list first: where nothing is asked for, nothing needs to be measured.
                inputs = make_inputs(seeded, directory, request.n_requests, on_share, of[seed])
                list_is_made(pace, settings, inputs.requests.n)
                if costs is None:
                    costs = Costs(_measured(names, on_share))
                    if request.side_costs:
                        costs = Costs(
                            costs.model,
                            side_costs.producer_costs(names, lambda what: on_share(f"producer of {what}", 1)),
                            side_costs.co_runner_slowdown(lambda what: on_share(f"beside: {what}", 1), names),
                        )
                runs.append(
                    run_seed(
                        names,
                        seeded,
                        inputs,
                        costs.model,
                        asked.n_processes,
                        on_share,
                        of[seed],
                        equal_cost=request.side_costs,
                    )
                )
        assert costs is not None
        cells = table(names, runs, settings, costs)
        facts = {**asked.prepared.facts, "host": describe_host(), "made_by": asked.made_by}
        document = document_of(names, runs, cells, settings, costs, facts)
        if request.out is not None:
            write_out(request.out, document, runs[0], plots=request.plots, force=request.force)
    output.document(document)
    if request.markdown:
        _print_markdown(document, output)
    else:
        _print(document, output)
    if request.out is not None:
        output.note(f"kept in {request.out}")


def _print(document: dict[str, Any], output: Output) -> None:
    from gpuscan.compare.sheets import LEGEND, sheets_of
    from gpuscan.compare.words import about, below

    for line in about(document):
        output.line(line)
    output.line()
    output.line(" ".join(document["verdict"]))
    for sheet in sheets_of(document):
        output.line()
        _print_sheet(sheet, output)
        for note in sheet.notes:
            output.line(f"  {note}")
    output.line()
    output.line(LEGEND)
    for line in below(document):
        output.line(line)


def _print_sheet(sheet: Sheet, output: Output) -> None:
    from rich.table import Table

    shown = Table(sheet.title, *sheet.names, box=None, header_style="bold", pad_edge=False)
    for column in shown.columns[1:]:
        column.justify = "right"
    for title, cells in sheet.rows:
        shown.add_row(title, *cells)
    output.table(shown, n_first=1 + sheet.n_first)


def _print_markdown(document: dict[str, Any], output: Output) -> None:
    from gpuscan.base.markdown import escaped
    from gpuscan.compare.sheets import LEGEND, markdown_of, sheets_of
    from gpuscan.compare.words import about, below

    title, *rest = about(document)
    output.text(f"## {escaped(title)}\n\n")
    output.text("".join(f"- {escaped(line)}\n" for line in rest))
    output.text(f"\n{escaped(' '.join(document['verdict']))}\n")
    for sheet in sheets_of(document):
        output.text(f"\n{markdown_of(sheet)}")
    output.text(f"\n{escaped(LEGEND)}.\n\n")
    output.text("".join(f"- {escaped(line)}\n" for line in below(document)))


def _run_grid(asked: _Asked, combinations: list[Any]) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_time
    from gpuscan.cli.devices import note_if_compiling
    from gpuscan.cli.progress import PERCENT
    from gpuscan.compare.grid import grid_document, grid_parts, grid_runs, run_grid, write_grid
    from gpuscan.compare.pace import Pace
    from gpuscan.compare.parts import list_is_made, measuring_parts
    from gpuscan.compare.suite import make_inputs
    from gpuscan.files.scratch import scratch_directory

    request, names, output = asked.request, asked.prepared.names, asked.output
    objective = request.objective or "fast_share"
    with (
        scratch_directory("compare") as scratch,
        note_if_compiling(output),
        output.progress("compare", 100, unit=PERCENT) as progress,
    ):
        settings = asked.settings(scratch)
        runs = grid_runs(names, settings, combinations)
        parts = measuring_parts(names) + grid_parts(runs, settings, request.n_requests)
        pace = Pace(parts, asked.n_processes)
        on_share = _shares(pace, progress)
        inputs = make_inputs(settings, scratch, request.n_requests, on_share)
        list_is_made(pace, settings, inputs.requests.n)
        model = _measured(names, on_share)
        result = run_grid(runs, settings, inputs, model, asked.n_processes, on_share)
    document = grid_document(result, objective, asked.prepared.facts)
    if request.out is not None:
        write_grid(request.out, document, force=request.force)
    output.document(document)
    shown = Table(
        *("design", "interval", "batch", "threshold", objective, ""),
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for row in document["cells"]:
        shown.add_row(
            row["design"],
            "as published" if row["interval_ns"] is None else format_time(row["interval_ns"]),
            "as published" if row["batch"] is None else str(row["batch"]),
            "-" if row["threshold"] is None else str(row["threshold"]),
            row["text"][objective],
            "best" if row is document["best"] else "",
        )
    output.table(shown)
    for name, why in document["left_out"].items():
        output.line(f"left out: {name} {why}")
    if request.out is not None:
        output.note(f"kept in {request.out}")
