"""``gpuscan compare``: one stream through every scan design, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuscan.cli.options import Voice, takes_options
from gpuscan.compare.request import CompareRequest

if TYPE_CHECKING:
    from gpuscan.cli.output import Output, Progress
    from gpuscan.compare.settings import Settings


@dataclass(frozen=True, slots=True)
class _Asked:
    """A comparison with what it names.

    Attributes:
        request: what was asked for.
        names: of the designs.
        settings: machine and policy.
        facts: what JSON says about them.
    """

    request: CompareRequest
    names: tuple[str, ...]
    settings: Settings
    facts: dict[str, Any]

    @property
    def n_requests(self) -> int:
        """Of the open loop's list, at most."""
        from gpuscan.compare.suite import DEFAULT_REQUESTS

        return self.request.n_requests or DEFAULT_REQUESTS

    @property
    def n_processes(self) -> int:
        """Models that run at once."""
        import os

        return min(self.request.jobs or len(os.sched_getaffinity(0)), max(1, 2 * len(self.names)))


@takes_options
def compare(request: CompareRequest, voice: Voice) -> None:
    """Put one stream of accesses through every scan design and show what each makes of it.

    The accesses are recorded once. Closed loop: each design has a machine of its own, and what it
    moves decides which accesses are fast. Open loop: each is given the same list of requests, and
    nothing moves. Every figure names its loop, and says whether it was counted, measured on this
    machine, or modelled from what was.

    \b
    gpuscan compare cxl-promote --designs all --memory 256GiB
    gpuscan compare phase-shift --designs rfc-v1,section-flag,gpuscan --seeds 5
    gpuscan compare --designs section-flag,gpuscan --grid interval=50ms,100ms,1s --grid threshold=1,2,3
    gpuscan compare --trace mem.txt --topology mine.toml     recorded accesses
    gpuscan compare --explain lost                           what a row of the table means
    """
    from gpuscan.compare.columns.catalogue import all_columns
    from gpuscan.compare.grid import check_objective, parse_grid
    from gpuscan.compare.settings import wanted_designs

    output = voice.output()
    if request.explain is not None:
        _explain(request.explain, output)
        return
    names = wanted_designs(request.designs)
    all_columns()  # what is wrong with one is said now, not once all is measured
    combinations = parse_grid(list(request.grid))
    if request.objective is not None:
        check_objective(request.objective)
    request.check()
    _check_place(request)
    settings, facts = _settings(request, output)
    asked = _Asked(request, names, settings, facts)
    if request.grid:
        _run_grid(asked, combinations, output)
        return
    for name in names:
        settings.check(name)
    _run(asked, output)


def _explain(name: str, output: Output) -> None:
    """Say what rows of the table mean."""
    from gpuscan.compare.columns.catalogue import column_document, columns_called

    columns = columns_called(name)
    output.document({"kind": "compare-rows", "columns": [column_document(column) for column in columns]})
    for column in columns:
        where = "costs" if column.loop == "none" else f"{column.loop} loop"
        output.line(f"{column.title.strip()} ({where}, {column.key}): {column.explain}")


def _settings(request: CompareRequest, output: Output) -> tuple[Settings, dict[str, Any]]:
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
    from gpuscan.compare.suite import DEFAULT_ACCESSES
    from gpuscan.run.job import read_workload, topology_of, trace_notes

    run_request = request.run_request()
    _, _, loaded = read_workload(run_request)
    if loaded.policy.one_thread:  # machines without kswapd's demotion, and nobody here demotes instead
        raise InputError("policy.one_thread is a switch of gpuscan run; leave it out of compare")
    if loaded.source.kind == "trace" and request.n_accesses is not None:
        raise InputError("--accesses cuts what processes do, and a trace has an end; leave out one of them")
    topology = topology_of(loaded)
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
        ticks = loaded.ticks
        n_accesses = DEFAULT_ACCESSES if request.is_cut else request.n_accesses
        if n_accesses is not None:
            ticks = ticks_within(spec, loaded.tick, ticks, n_accesses)
        if ticks < loaded.ticks:
            output.note(f"the first {ticks} of {loaded.ticks} ticks; --ticks {loaded.ticks} runs all of them")
        loaded = loaded.model_copy(update={"ticks": ticks})
        settings = Settings(topology, spec, loaded.engine_policy(), ticks * loaded.tick, n_threads)
    for note in trace_notes(run_request, loaded):
        output.note(f"gpuscan: note: {note}")
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
    equal_cost = asked.request.side_costs
    n_steps = asked.request.n_seeds * seed_steps(names, equal_cost=equal_cost)
    n_steps += len(cost_model.measured_steps(names))
    if asked.request.side_costs:
        n_steps += len(names) + len(side_costs.co_runners(names))
    with scratch_directory("compare") as scratch, note_if_compiling(output):
        with output.progress("compare", n_steps, unit="steps") as progress:
            on_share = _shares(progress)
            costs = Costs(cost_model.measure_model(lambda what: on_share(f"measuring: {what}", 1), names))
            if asked.request.side_costs:
                costs = Costs(
                    costs.model,
                    side_costs.producer_costs(names, lambda what: on_share(f"producer of {what}", 1)),
                    side_costs.co_runner_slowdown(lambda what: on_share(f"beside: {what}", 1), names),
                )
            runs = []
            for number in range(asked.request.n_seeds):
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
                        equal_cost=equal_cost,
                    )
                )
        cells = table(names, runs, settings, costs)
        facts = {**asked.facts, "host": describe_host()}
        document = document_of(names, runs, cells, settings, costs, facts)
        if asked.request.out is not None:
            write_out(
                asked.request.out, document, runs[0], plots=asked.request.plots, force=asked.request.force
            )
    output.document(document)
    _print(document, output)
    if asked.request.out is not None:
        output.note(f"kept in {asked.request.out}")


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
    output.line("steps, measured here: " + "; ".join(map(_step_text, document["model"]["steps"].values())))


def _step_text(step: dict[str, Any]) -> str:
    from gpuscan.base.units import format_time

    if step["fixed_ns"] is None:
        return f"{step['what']}: {step['why_not']}"
    terms = ", ".join(f"{ns:.3g} ns per {term}" for term, ns in step["terms_ns"].items())
    return (
        f"{step['what']} {format_time(step['fixed_ns'])} and {terms} "
        f"(off by up to {step['error']:.0%} at sizes left out)"
    )


def _run_grid(asked: _Asked, combinations: list[Any], output: Output) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_time
    from gpuscan.cli.devices import note_if_compiling
    from gpuscan.compare.grid import grid_document, run_grid, write_grid

    objective = asked.request.objective or "fast_share"
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
    if asked.request.out is not None:
        write_grid(asked.request.out, document, force=asked.request.force)
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
    if asked.request.out is not None:
        output.note(f"kept in {asked.request.out}")
