"""``gpuscan compare``: one stream through every scan design, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscan.cli.run import DEFAULT_WORKLOAD, note_trace_machine, quoted, trace_overrides

if TYPE_CHECKING:
    from gpuscan.cli.output import Output, Progress
    from gpuscan.compare.settings import Settings


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a comparison was asked to be.

    Attributes:
        names: of the designs.
        settings: machine and policy.
        facts: what JSON says about them.
        n_seeds, n_requests, n_processes, side_costs: see the options.
        out, plots, force: what to keep where.
    """

    names: tuple[str, ...]
    settings: Settings
    facts: dict[str, Any]
    n_seeds: int
    n_requests: int
    n_processes: int
    side_costs: bool
    out: Path | None
    plots: bool
    force: bool


def compare(
    workload: Annotated[
        str, typer.Argument(help="A built-in workload (gpuscan workloads) or a TOML file.")
    ] = DEFAULT_WORKLOAD,
    designs: Annotated[
        str, typer.Option(metavar="NAMES", help="Designs, with commas between, or all.")
    ] = "all",
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Replay recorded accesses: text of perf script, a damo record."),
    ] = None,
    machine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Topology: a preset, a TOML file or host.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size of the simulated machine: 64GiB, 1TiB.")
    ] = None,
    ticks: Annotated[
        int | None, typer.Option(min=1, help="Ticks of simulated time, instead of the workload's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="First seed.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Run so many seeds and show the spread.")] = 1,
    requests: Annotated[
        int | None,
        typer.Option(min=1, help="Requests of the open loop's list at most.  [default: 500,000]"),
    ] = None,
    accesses: Annotated[
        int | None,
        typer.Option(min=1, help="Accesses at most.  [default: 32,000,000, without --ticks]"),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUES", help="Try interval, batch or threshold values; can be repeated."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="What the best cell of a grid is best in.  [default: fast_share]"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the workload; can be repeated."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Models that run at once; by default one per CPU.")
    ] = None,
    side_costs: Annotated[
        bool, typer.Option(help="Measure producers and a neighbour of the scan too (15 s).")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the table, every point (Parquet) and plots there."),
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw plots into --out (needs matplotlib).")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier comparison at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Put one stream of accesses through every scan design and show what each makes of it.

    The accesses are recorded once. Closed loop: each design has a machine of its own, and what it
    moves decides which accesses are fast. Open loop: each is given the same list of requests, and
    nothing moves. Every figure names its loop, and says whether it was counted, measured on this
    machine, or modelled from what was.

    \b
    gpuscan compare cxl-promote --designs all --memory 256GiB
    gpuscan compare phase-shift --designs rfc-v1,section-flag,gpuscan --seeds 5
    gpuscan compare --designs section-flag,gpuscan --grid interval=50ms,100ms,1s --grid threshold=1,2,3
    gpuscan compare --trace mem.txt --machine mine.toml      recorded accesses
    """
    import os

    from gpuscan.base.errors import InputError
    from gpuscan.cli.output import Output
    from gpuscan.compare.grid import check_objective, parse_grid
    from gpuscan.compare.settings import wanted_designs
    from gpuscan.compare.suite import DEFAULT_ACCESSES, DEFAULT_REQUESTS

    output = Output(as_json, quiet=quiet)
    names = wanted_designs(designs)
    combinations = parse_grid(grid or [])
    if objective is not None:
        check_objective(objective)
        if not grid:
            raise InputError("--objective says what the best cell of a grid is; leave it out, or add --grid")
    if seeds > 1 and (grid or trace is not None):
        raise InputError("--seeds goes with neither --grid nor --trace; leave one of them out")
    _check_place(out, grid=bool(grid), plots=plots, force=force)
    given = [] if trace is None else trace_overrides(trace)
    if machine is not None:
        given.append(f"topology={{ machine = {quoted(machine)} }}")
    options = {"topology.memory": memory, "ticks": ticks, "seed": seed}
    given += [f"{key}={value}" for key, value in options.items() if value is not None]
    default_accesses = DEFAULT_ACCESSES if ticks is None else None
    settings, facts = _settings(workload, [*given, *(overrides or [])], accesses, default_accesses, output)
    if trace is not None:
        note_trace_machine([*given, *(overrides or [])], facts["machine"]["topology"], output)
    n_processes = min(jobs or len(os.sched_getaffinity(0)), max(1, 2 * len(names)))
    n_requests = requests or DEFAULT_REQUESTS
    if not grid:
        for name in names:
            settings.check(name)
    asked = _Asked(names, settings, facts, seeds, n_requests, n_processes, side_costs, out, plots, force)
    if grid:
        _run_grid(asked, combinations, objective or "fast_share", output)
    else:
        _run(asked, output)


def _settings(
    workload: str, overrides: list[str], accesses: int | None, default_accesses: int | None, output: Output
) -> tuple[Settings, dict[str, Any]]:
    """Return the machine and policy of a workload, and what JSON says about them.

    Raises:
        InputError: it asks for what a comparison does not do.
    """
    import os
    from dataclasses import asdict, replace

    from gpuscan import __version__
    from gpuscan.base.errors import InputError
    from gpuscan.base.program import PROGRAM
    from gpuscan.compare.settings import Settings, ticks_within
    from gpuscan.topology.resolve import resolve_topology
    from gpuscan.workload.files import load_workload

    loaded = load_workload(workload, overrides)
    if loaded.policy.one_thread:  # machines without kswapd's demotion, and nobody here demotes instead
        raise InputError("policy.one_thread is a switch of gpuscan run; leave it out of compare")
    if loaded.source.kind == "trace" and accesses is not None:
        raise InputError("--accesses cuts what processes do, and a trace has an end; leave out one of them")
    topology = resolve_topology(loaded.topology.machine, loaded.topology.memory)
    n_threads = len(os.sched_getaffinity(0))
    if loaded.source.kind == "trace":
        from gpuscan.compare.stream import TraceStream, file_digest
        from gpuscan.run.trace import survey_trace, trace_spec

        with output.note_if_slow("reading the trace"):
            surveyed, loaded = survey_trace(loaded, topology)
        spec = trace_spec(loaded, topology, surveyed.n_pages)
        stream = TraceStream(topology, spec, loaded, surveyed, file_digest(surveyed))
        output.note(surveyed.sentence())
        settings = Settings(topology, spec, loaded.engine_policy(), stream.horizon_ns, n_threads)
        settings = replace(settings, trace=stream)
    else:
        spec = loaded.machine_spec(topology)
        ticks, n_accesses = loaded.ticks, accesses or default_accesses
        if n_accesses is not None:
            ticks = ticks_within(spec, loaded.tick, ticks, n_accesses)
        if ticks < loaded.ticks:
            output.note(f"the first {ticks} of {loaded.ticks} ticks; --ticks {loaded.ticks} runs all of them")
        loaded = loaded.model_copy(update={"ticks": ticks})
        settings = Settings(topology, spec, loaded.engine_policy(), ticks * loaded.tick, n_threads)
    facts = {
        PROGRAM: __version__,
        "workload": {"name": loaded.name, "shows": loaded.shows, "ticks": loaded.ticks},
        "machine": {
            "topology": topology.name,
            "memory_bytes": topology.memory_bytes,
            "n_nodes": len(topology.nodes),
            **asdict(spec),
        },
        "policy": asdict(settings.policy),
    }
    return settings, facts


def _check_place(out: Path | None, *, grid: bool, plots: bool, force: bool) -> None:
    from gpuscan.bench.plots import require_matplotlib
    from gpuscan.compare import grid as grids
    from gpuscan.compare import report
    from gpuscan.files.writing import check_place

    if out is None:
        return
    check_place(out, grids.CONTENTS if grid else report.CONTENTS, force=force)
    if plots and not grid:
        require_matplotlib()


def _shares(progress: Progress) -> Callable[[str, float], None]:
    def on_share(what: str, share: float) -> None:
        progress.advance(share, now=what)

    return on_share


def _run(asked: _Asked, output: Output) -> None:
    from gpuscan.bench.host import describe_host
    from gpuscan.cli.devices import note_if_compiling
    from gpuscan.compare import cost_model, side_costs
    from gpuscan.compare.report import document_of, write_out
    from gpuscan.compare.suite import Costs, run_seed, seed_steps, table, with_seed
    from gpuscan.files.scratch import scratch_directory

    names, settings = asked.names, asked.settings
    n_steps = len(cost_model.measured_steps(names)) + asked.n_seeds * seed_steps(names)
    if asked.side_costs:
        n_steps += len(names) + len(side_costs.co_runners(names))
    with scratch_directory("compare") as scratch, note_if_compiling(output):
        with output.progress("compare", n_steps, unit="steps") as progress:
            on_share = _shares(progress)
            costs = Costs(cost_model.measure_model(lambda what: on_share(f"measuring: {what}", 1), names))
            if asked.side_costs:
                costs = Costs(
                    costs.model,
                    side_costs.producer_costs(names, lambda what: on_share(f"producer of {what}", 1)),
                    side_costs.co_runner_slowdown(lambda what: on_share(f"beside: {what}", 1), names),
                )
            runs = []
            for number in range(asked.n_seeds):
                seeded = with_seed(settings, settings.spec.seed + number)
                directory = scratch / str(number)
                directory.mkdir()
                runs.append(
                    run_seed(
                        names,
                        seeded,
                        costs.model,
                        directory,
                        asked.n_requests,
                        asked.n_processes,
                        on_share,
                    )
                )
        cells = table(names, runs, settings, costs)
        facts = {**asked.facts, "host": describe_host()}
        document = document_of(names, runs, cells, settings, costs, facts)
        if asked.out is not None:
            write_out(asked.out, document, runs[0], plots=asked.plots, force=asked.force)
    output.document(document)
    _print(document, output)
    if asked.out is not None:
        output.note(f"kept in {asked.out}")


def _print(document: dict[str, Any], output: Output) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_bytes, format_count, format_time

    machine, workload = document["machine"], document["workload"]
    opened, closed = document["open_loop"][0], document["closed_loop"][0]
    output.line(f"{workload['name']}: {workload['shows']}")
    output.line(f"on {machine['topology']}, {format_bytes(machine['memory_bytes'])}")
    listed = f"the first {opened['requests']:,} of " if opened["requests"] < opened["of"] else ""
    output.line(
        f"open loop: {listed}{opened['of']:,} requests in {format_time(opened['end_ns'])}, the same for all, "
        f"nothing moves"
    )
    output.line(
        f"closed loop: {format_count(closed['accesses'])} accesses in {format_time(closed['horizon_ns'])}, "
        "the same for all, a machine for each"
    )
    names = document["designs"]
    titles = {"open": "open loop", "closed": "closed loop", "none": "costs"}
    columns = {column["key"]: column for column in document["columns"]}
    for loop, title in titles.items():
        output.line()
        shown = Table(title, "", *names, box=None, header_style="bold", pad_edge=False)
        for column in shown.columns[2:]:
            column.justify = "right"
        for key, column in columns.items():
            if column["loop"] != loop:
                continue
            cells = [document["cells"][name][key] for name in names]
            how = cells[0]["how"]
            texts = [cell["text"] + ("" if cell["how"] == how else f" ({cell['how']})") for cell in cells]
            shown.add_row(column["title"], how, *texts)
        output.table(shown)
    output.line()
    output.line("steps, measured here: " + ", ".join(map(_step_text, document["model"]["steps"].values())))


def _step_text(line: dict[str, Any]) -> str:
    unit = "entry" if line["unit"] == "entries" else line["unit"][:-1]
    return (
        f"{line['what']} {line['each_ns']:.3g} ns per {unit} "
        f"(model {line['error']:+.0%} at a size in between)"
    )


def _run_grid(asked: _Asked, combinations: list[Any], objective: str, output: Output) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_time
    from gpuscan.cli.devices import note_if_compiling
    from gpuscan.compare.grid import grid_document, run_grid, write_grid

    n_cells = len(asked.names) * len(combinations)
    with (
        note_if_compiling(output),
        output.progress("compare", n_cells, unit="cells") as progress,
    ):
        result = run_grid(
            asked.names,
            asked.settings,
            combinations,
            asked.n_requests,
            asked.n_processes,
            _shares(progress),
        )
    document = grid_document(result, objective, asked.facts)
    if asked.out is not None:
        write_grid(asked.out, document, force=asked.force)
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
    if asked.out is not None:
        output.note(f"kept in {asked.out}")
