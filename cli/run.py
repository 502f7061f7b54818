"""``gpuscan run``: a workload from the first access to the last batch, and what came of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from gpuscan.cli.output import Output, Progress
    from gpuscan.engine import RunReport
    from gpuscan.report import RunSummary
    from gpuscan.scenario import Scenario
    from gpuscan.snapshot import Snapshot

DEFAULT_WORKLOAD = "cxl-promote"


class DeviceChoice(StrEnum):
    """Where the scan runs."""

    AUTO = "auto"
    CPU = "cpu"
    REFERENCE = "reference"
    CUDA = "cuda"


def run(
    workload: Annotated[
        str, typer.Argument(help="A built-in workload (gpuscan workloads), a TOML file, or a snapshot.")
    ] = DEFAULT_WORKLOAD,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Replay recorded accesses: text of perf script, a damo record."),
    ] = None,
    machine: Annotated[
        Path | None,
        typer.Option(
            metavar="SNAPSHOT",
            help="Run on a captured machine; of a --trace, a preset, TOML file or host too.",
        ),
    ] = None,
    split_cxl: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Declare the upper share of a one-node SNAPSHOT CXL memory: 50%."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size of the simulated machine: 64GiB, 1TiB.")
    ] = None,
    ticks: Annotated[
        int | None, typer.Option(min=1, help="Rounds to run, instead of the workload's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed; the same one gives the same result.")] = None,
    device: Annotated[
        DeviceChoice | None,
        typer.Option(help="Where the scan runs; auto takes the best there is (gpuscan doctor)."),
    ] = None,
    design: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Scan design: gpuscan, or a model: rfc-v1, rfc-fixed, section-flag, zone-flag, percpu-list, "
            "per-folio.",
        ),
    ] = "gpuscan",
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Worker threads of the CPU device.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the workload; can be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep plan, series (Parquet), ledger and report (JSON) there."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier result at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Run a workload and show what its migrations were worth.

    Every tick the machine's accesses become marks, the scan claims the marked
    pages, groups them by target node and cuts them into batches, and the
    migrator moves those. The ledger at the end says where every request went.

    \b
    gpuscan run                                          the default, 64 GiB
    gpuscan run cxl-promote --memory 1TiB --json
    gpuscan run cxl-promote --set policy.rate_limit=100MB/s --set tick=50ms
    gpuscan run ping-pong --set source.two_stage=false   without its filter
    gpuscan run cxl-promote --design rfc-v1              kmigrated as posted
    gpuscan run cxl-promote --machine host.zarr --split-cxl 50%
    gpuscan run --trace mem.txt --machine host.zarr      recorded accesses
    """
    import time
    from contextlib import ExitStack

    from gpuscan.cli.devices import COMPILING, device_row, note_threads
    from gpuscan.cli.output import Output
    from gpuscan.errors import RunFailedError
    from gpuscan.report import open_out, run_document, summarize
    from gpuscan.scenario import build_scenario
    from gpuscan.workload import load_workload

    output = Output(as_json, quiet=quiet)
    if workload.endswith(".zarr") and machine is None:
        workload, machine = DEFAULT_WORKLOAD, Path(workload)
    options = [] if trace is None else _trace_overrides(trace)
    if trace is not None and machine is not None and machine.suffix != ".zarr" and not machine.is_dir():
        options, machine = [*options, f"topology={{ machine = {_quoted(machine)} }}"], None
    loaded = load_workload(workload, options + _overrides(memory, ticks, seed, overrides))
    snapshot = _snapshot(machine, split_cxl, memory)
    note_threads(threads, output)
    result: tuple[Scenario, RunReport, RunSummary, dict[str, Any]] | None = None
    failure: RunFailedError | None = None
    try:
        with ExitStack() as stack, ExitStack() as preparing:
            kept = stack.enter_context(open_out(out, loaded.engine_policy(), force=force)) if out else None
            preparing.enter_context(output.note_if_slow(COMPILING))

            started = checked_at = time.perf_counter()
            reading = None
            if loaded.source.kind == "trace":
                reading = preparing.enter_context(_reading(Path(loaded.source.trace), output)).advance

            def checked() -> None:
                nonlocal checked_at
                checked_at = time.perf_counter()
                preparing.close()
                output.note(f"building the machine of {loaded.name}")

            scenario = build_scenario(
                loaded,
                snapshot=snapshot,
                device=device.value if device else None,
                design=design,
                n_threads=threads,
                plan_sink=kept.plan_sink if kept else None,
                on_checked=checked,
                on_read=reading,
            )
            built = time.perf_counter()
            report, first_tick_s = _run(scenario, output)
            summary = summarize(report)
            wall_s = {
                "process_to_first_tick": first_tick_s,
                "build": built - started,
                "of_which_machine": built - checked_at,
                "run": time.perf_counter() - built,
            }
            document = run_document(report, summary, {**_facts(scenario), "wall_s": wall_s})
            result = scenario, report, summary, document
            if kept is not None:
                kept.finish(report, document)
    except RunFailedError as error:
        if result is None:
            raise
        failure = error  # --out could not be kept: what the run found is shown all the same
    scenario, report, summary, document = result
    output.document(document)
    row = f"none, {design} is a model"
    if scenario.store is not None:
        row = device_row(scenario.store, device or loaded.device)
    _print(scenario, report, summary, row, output)
    if failure is not None:
        raise failure
    if out is not None:
        output.note(f"kept in {out}")


def _overrides(
    memory: str | None, ticks: int | None, seed: int | None, overrides: list[str] | None
) -> list[str]:
    """Return the options as overrides; ``--set`` comes last and wins."""
    options = {"topology.memory": memory, "ticks": ticks, "seed": seed}
    return [*(f"{key}={value}" for key, value in options.items() if value is not None), *(overrides or [])]


def _trace_overrides(trace: Path) -> list[str]:
    """Return what makes any workload one that replays a trace, all of it unless ``--ticks`` says less."""
    return [
        "source.kind=trace",
        f"source.trace={_quoted(trace)}",
        f"name={_quoted(trace.name or trace)}",
        "shows=recorded accesses, replayed: what would have been promoted, and what it was worth",
        "ticks=1_000_000_000",
    ]


def _quoted(path: Path | str) -> str:
    """Return a TOML string: a file may be called ``1`` or ``true``."""
    import json

    return json.dumps(str(path), ensure_ascii=False)


def _reading(trace: Path, output: Output) -> Progress:
    from gpuscan.traces import open_trace

    return output.progress(f"reading {trace.name}", open_trace(trace).n_bytes, unit="bytes")


def _snapshot(machine: Path | None, split_cxl: str | None, memory: str | None) -> Snapshot | None:
    from gpuscan.errors import InputError
    from gpuscan.units import parse_share

    if machine is None:
        if split_cxl is not None:
            raise InputError("--split-cxl divides a captured machine; give one with --machine SNAPSHOT")
        return None
    if memory is not None:
        raise InputError(f"{machine} has the memory it has; leave out --memory or --machine")
    from gpuscan.snapshot import Snapshot

    snapshot = Snapshot.read(machine)
    return snapshot if split_cxl is None else snapshot.split_cxl(parse_share(split_cxl))


def _run(scenario: Scenario, output: Output) -> tuple[RunReport, float]:
    """Return the report, and how long after the start of the process the first tick began."""
    from gpuscan.engine import TickReport

    totals = {"candidates": 0, "batches": 0}
    with output.progress(scenario.workload.name, scenario.workload.ticks, unit="ticks") as progress:

        def on_tick(tick: TickReport) -> None:
            totals["candidates"] += tick.candidates
            totals["batches"] += tick.n_batches
            accesses = tick.metrics.get("accesses", 0.0)
            fast = f"{tick.metrics['accesses_fast'] / accesses:.0%}" if accesses else "-"
            progress.advance(1, **totals, fast=fast)

        first_tick_s = _process_age_s()
        return scenario.run(on_tick), first_tick_s


def _process_age_s() -> float:
    """Return the seconds since this process started, to a clock tick (10 ms): proc_pid_stat(5), field 22."""
    import os
    import time

    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


def _facts(scenario: Scenario) -> dict[str, Any]:
    from dataclasses import asdict

    from gpuscan import __version__

    workload, topology = scenario.workload, scenario.topology
    return {
        "gpuscan": __version__,
        "workload": {"name": workload.name, "shows": workload.shows, "ticks": workload.ticks},
        "machine": {
            "topology": topology.name,
            "memory_bytes": topology.memory_bytes,
            "n_nodes": len(topology.nodes),
            "fast_means": scenario.machine.fast_means,
            **asdict(scenario.machine.spec),
        },
        "notes": list(scenario.notes),
    }


def _print(scenario: Scenario, report: RunReport, summary: RunSummary, device: str, output: Output) -> None:
    from rich.table import Table

    from gpuscan.report import ledger_rows, summary_rows
    from gpuscan.units import format_bytes, format_number

    topology = scenario.topology
    output.line(f"{scenario.workload.name}: {scenario.workload.shows}")
    output.line(
        f"on {topology.name}, {format_bytes(topology.memory_bytes)} "
        f"in {format_number(len(topology.nodes), 'node')}"
    )
    for note in scenario.notes:
        output.line(note)
    output.line()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    fast_means = scenario.machine.fast_means
    # Beside the plot stands the longest caption; on a narrow terminal it is folded.
    plot_width = min(60, max(20, output.width - 44))
    for row in summary_rows(report, summary, fast_means, device=device, plot_width=plot_width):
        facts.add_row(*row)
    output.table(facts)
    output.line()
    requested = max(1, report.ledger.requested)
    output.table(_counts("requests", ledger_rows(report.ledger), requested))
    if report.refusals:
        output.line()
        title = "refusals (a folio may meet several)"
        output.table(_counts(title, report.refusals.most_common(), requested))
    if report.counters:
        output.line()
        counters = Table("counters", "", box=None, header_style="bold", pad_edge=False)
        counters.columns[1].justify = "right"
        for what, count in sorted(report.counters.items()):
            counters.add_row(what, f"{count:,}")
        output.table(counters)


def _counts(title: str, counts: list[tuple[str, int]], requested: int) -> Table:
    from rich.table import Table

    table = Table(title, "folios", "of requests", box=None, header_style="bold", pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for what, count in counts:
        table.add_row(what, f"{count:,}", f"{count / requested:.1%}")
    return table
