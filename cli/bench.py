"""``gpuscan bench``: scans, requests and ticks against the machine's ceilings and against peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscan.base.described import Option, described, like
from gpuscan.bench.peers.catalogue import PEERS
from gpuscan.cli.options import Voice, takes_options
from gpuscan.kernels.catalogue import device_names

if TYPE_CHECKING:
    from gpuscan.bench.sweep import Sweep
    from gpuscan.cli.output import Output

_PAGES = 1 << 32
"""Most pages of an option that counts them: 16 TiB, more than a host has the memory to measure with."""
_ALL_PEERS = ",".join(PEERS.names)


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _shares(text: str) -> tuple[float, ...]:
    from gpuscan.base.errors import InputError

    try:
        return tuple(float(item[:-1]) / 100 if item.endswith("%") else float(item) for item in _items(text))
    except ValueError:
        raise InputError(f"--density {text}: not a list of shares; write for example 1e-4,1%") from None


@dataclass(frozen=True, slots=True)
class ScanGrid:
    """Cases of a scan: a list of values each, all combinations of which are measured."""

    memory: tuple[str, ...] = described(
        "1TiB", Option("Memory to have records of: 64GiB,1TiB.", metavar="SIZES", parse=_items)
    )
    density: tuple[float, ...] = described(
        "1e-6,1e-4,1e-3,1e-2,1e-1",
        Option("Shares of READY pages: 1e-4,1%.", metavar="SHARES", parse=_shares),
    )
    targets: tuple[str, ...] = described(
        "16", Option("Target nodes, the memory split among them.", metavar="N,...", parse=_items)
    )
    clustering: tuple[str, ...] = described(
        "uniform",
        Option("Where READY pages lie: uniform, runs (of 512), hot.", metavar="NAMES", parse=_items),
    )
    format: tuple[str, ...] = described(
        "rfc", Option("rfc, pghot or pghot-compact.", metavar="NAMES", parse=_items)
    )
    device: tuple[str, ...] = described(
        "cpu", Option(f"Among {', '.join(device_names())}.", metavar="NAMES", parse=_items)
    )
    peers: tuple[str, ...] = described(
        _ALL_PEERS, Option(f"Among {_ALL_PEERS}; '' for none.", metavar="NAMES", parse=_items)
    )
    walk_pages: int = described(
        1 << 26,
        Option("Pages for kernel-walk, 80 bytes each; time is scaled.", metavar="N", low=1, high=_PAGES),
    )
    capacity: int | None = described(
        None, Option("Folios per plan; by default 1/64 of the pages.", metavar="N", low=512)
    )


@dataclass(frozen=True, slots=True)
class RequestGrid:
    """Cases of requests."""

    memory: tuple[str, ...] = like(ScanGrid, "memory")
    requests: int = described(1 << 24, Option("Pages per call.", metavar="N", low=1, high=_PAGES))
    targets: tuple[str, ...] = like(ScanGrid, "targets")
    format: tuple[str, ...] = like(ScanGrid, "format")
    device: tuple[str, ...] = like(ScanGrid, "device")


@dataclass(frozen=True, slots=True)
class TickGrid:
    """Cases of a tick; the densities are those of which it is not all migration."""

    memory: tuple[str, ...] = like(ScanGrid, "memory")
    density: tuple[float, ...] = like(ScanGrid, "density", "1e-6,1e-4,1e-3")
    targets: tuple[str, ...] = like(ScanGrid, "targets")
    format: tuple[str, ...] = like(ScanGrid, "format")
    device: tuple[str, ...] = like(ScanGrid, "device")


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often each case is timed, on what."""

    rounds: int = described(9, Option("Timed runs of each, in turn.", low=1, high=10_000))
    threads: int | None = described(None, Option("Threads; all CPUs by default.", metavar="N", low=1))
    seed: int = described(1, Option("Of the positions and targets.", low=0))


@dataclass(frozen=True, slots=True)
class RoundsOfOne:
    """How often each case is timed where the number of threads is the case's."""

    rounds: int = like(Rounds, "rounds")
    seed: int = like(Rounds, "seed")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a result goes, None = nowhere; whether it may replace an earlier one, and has plots."""

    out: Path | None = described(None, Option("Keep bench.json, runs.parquet and plots.", metavar="DIR"))
    force: bool = described(False, Option("Replace an earlier result at --out."))
    plots: bool = described(True, Option("With --out: draw PNG and SVG.", has_no=True))


@dataclass(frozen=True, slots=True)
class KeptOfTicks:
    """The same of ticks, which have no plots."""

    out: Path | None = like(Kept, "out", help="Keep bench.json and runs.parquet.")
    force: bool = like(Kept, "force")


@dataclass(frozen=True, slots=True)
class KeptOfScale:
    """The same of a projection."""

    out: Path | None = like(Kept, "out", help="Keep the document, scale.json.")
    force: bool = like(Kept, "force")


bench = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    help="""Measure this machine: ceilings first, then gpuscan and peers in turn on the same records.

    Every peer's answer is checked before anything is timed. Lists are given with commas.
    """,
)


@bench.command()
@takes_options
def scan(
    grid: ScanGrid,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds on 4 and 8 GiB: checks answers, times mean nothing.")
    ] = False,
    rounds: Rounds,
    kept: Kept,
    voice: Voice,
) -> None:
    """Find READY pages, grouped by target: dense, indexed, auto, floors and peers.

    \b
    gpuscan bench scan --quick
    gpuscan bench scan --memory 1TiB --density 1e-4,1e-2 --out results/
    gpuscan bench scan --format pghot-compact --targets 1 --peers polars
    """
    if quick:
        grid = replace(grid, memory=("4GiB", "8GiB"), density=(1e-4, 1e-2), walk_pages=1 << 18)
        rounds = replace(rounds, rounds=min(rounds.rounds, 2))
    _run("scan", grid, rounds, kept, voice)


@bench.command()
@takes_options
def request(grid: RequestGrid, rounds: Rounds, kept: Kept, voice: Voice) -> None:
    """Mark pages in bulk, random and ascending PFNs, against random writes of one word each."""
    _run("request", grid, rounds, kept, voice)


@bench.command()
@takes_options
def tick(grid: TickGrid, rounds: Rounds, kept: KeptOfTicks, voice: Voice) -> None:
    """Run the engine's whole tick: mark, scan, cut batches, a migrator that only nods, book."""
    _run("tick", grid, rounds, Kept(kept.out, kept.force, plots=False), voice)


@bench.command()
@takes_options
def costs(
    *,
    walk_pages: Annotated[
        int, typer.Option(min=1, max=_PAGES, metavar="N", help="Pages walked, 80 bytes each.")
    ] = 1 << 22,
    rounds: RoundsOfOne,
    voice: Voice,
) -> None:
    """Measure what the models of other designs charge for: the keys of a workload's [kernel] table.

    \b
    gpuscan bench costs
    gpuscan run --design rfc-v1 --set kernel.walk_pfn_locked=3.8ns
    """
    from gpuscan.base.units import format_number
    from gpuscan.bench.host import describe_host
    from gpuscan.bench.model_costs import measure_costs

    output = voice.output()
    with output.progress("bench costs", rounds.rounds + 1, unit="rounds") as progress:
        found = measure_costs(walk_pages, rounds.rounds, rounds.seed, progress.advance)
    settings = {"walk_pages": walk_pages, "rounds": rounds.rounds, "seed": rounds.seed}
    host = describe_host()
    output.document({"schema": 1, "kind": "costs", "host": host, "settings": settings, "costs": found})
    output.line(f"{host['cpu']}, one thread, {format_number(rounds.rounds, 'round')}")
    rows = [
        [f"kernel.{key}", *(f"{found[key][which]:.2f} ns" for which in ("median_ns", "min_ns", "max_ns"))]
        for key in found
    ]
    _table(output, f"per step, a walk of {walk_pages:,} pages", ("key", "median", "min", "max"), rows)


@bench.command()
@takes_options
def scale(
    *,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory to have records of, in all.")
    ] = "256GiB",
    density: Annotated[float, typer.Option(help="Share of READY pages in a tick.")] = 1e-4,
    shards: Annotated[str, typer.Option(metavar="N,...", help="Shards, one worker process each.")] = "1,2,4",
    rounds: RoundsOfOne,
    kept: KeptOfScale,
    voice: Voice,
) -> None:
    """Cut a store into shards on workers of this machine; project to larger machines.

    Strong: the same store in more shards. Weak: shards of the same size. The projection is a
    model fitted to these; docs/scale.md says what it leaves out.
    """
    from gpuscan.base.errors import InputError
    from gpuscan.base.units import PAGE_BYTES, parse_bytes
    from gpuscan.bench.host import describe_host
    from gpuscan.bench.report import SCALE_CONTENTS, write_scale
    from gpuscan.bench.scale import ScaleSettings, scale_case
    from gpuscan.files.writing import check_place

    try:
        counts = tuple(int(item) for item in _items(shards))
    except ValueError:
        raise InputError(f"--shards {shards}: not a list of counts; write for example 1,2,4") from None
    settings = ScaleSettings(parse_bytes(memory) // PAGE_BYTES, counts, density, rounds.rounds, rounds.seed)
    if kept.out is not None:
        check_place(kept.out, SCALE_CONTENTS, force=kept.force)
    output = voice.output()
    with output.progress("bench scale", settings.n_steps, unit="cases") as progress:
        document = {
            "kind": "bench-scale",
            "host": describe_host(),
            **scale_case(settings, lambda name: progress.advance(1, case=name)),
        }
    if kept.out is not None:
        write_scale(kept.out, document, force=kept.force)
    output.document(document)
    _print_scale(document, output)
    if kept.out is not None:
        output.note(f"kept in {kept.out}")


def _print_scale(document: dict[str, Any], output: Output) -> None:
    from gpuscan.base.units import format_time
    from gpuscan.bench.scale import projection_rows, scale_rows

    host, model = document["host"], document["model"]
    output.line(f"{host['cpu']}, {host['n_cpus']} CPUs, load {host['load_1min']:.1f} when it began")
    _table(output, "measured here, one thread a shard; medians of a tick", *scale_rows(document))
    output.line()
    overhead = f"{format_time(model['per_tick_ns'])} + {format_time(model['per_shard_ns'])} a shard"
    output.line(
        f"fitted: overhead = {overhead} + {model['per_folio_ns']:.3g} ns a folio, largest residual "
        f"{model['largest_residual']:.0%}; scan {model['scan_ns_per_page']:.3g} ns a page and "
        f"thread, reads {model['examined_bytes_per_page']:.3g} bytes a page; request "
        f"{model['request_ns']:.3g} ns; on the wire {model['network_bytes_per_request']:.3g} bytes a "
        f"request, {model['network_bytes_per_folio']:.3g} bytes a folio"
    )
    _table(output, "projected from that, not measured", *projection_rows(document))


@dataclass(frozen=True, slots=True)
class ModelledGpu:
    """What is modelled."""

    gpu: str = described("h200", Option("h100, h200, b200 or h100-pcie.", metavar="NAME"))
    memory: str = described("1TiB", Option("Memory to have records of.", metavar="SIZE"))
    format: tuple[str, ...] = like(ScanGrid, "format", "rfc,pghot,pghot-compact")


@bench.command("gpu-model")
@takes_options
def gpu_model(asked: ModelledGpu, voice: Voice) -> None:
    """Model the CUDA kernels on a GPU: what each takes, and what binds it. Nothing is measured.

    \b
    gpuscan bench gpu-model
    gpuscan bench gpu-model --gpu b200 --memory 64TiB --format rfc
    """
    from gpuscan.base.units import parse_bytes
    from gpuscan.bench.gpu.cases import document, whole_sections
    from gpuscan.bench.gpu.catalogue import gpu_named
    from gpuscan.records.formats import record_format

    gpu, n_pages = gpu_named(asked.gpu), whole_sections(parse_bytes(asked.memory))
    for name in asked.format:
        record_format(name)
    output = voice.output()
    found = document(gpu, n_pages, asked.format)
    output.document(found)
    _print_model(found, output)


def _print_model(found: dict[str, Any], output: Output) -> None:
    from gpuscan.base.units import PAGE_BYTES, format_bytes
    from gpuscan.bench.gpu import report

    gpu = found["gpu"]
    output.line(
        f"modelled, not measured: {gpu['device']}, {gpu['n_sms']} SMs at {gpu['clock_hz'] / 1e9:.3g} GHz, "
        f"{gpu['dram_bytes_per_s'] / 1e12:.3g} TB/s, a plain read reaches {gpu['attained_share']:.0%} of it; "
        f"records of {format_bytes(found['n_pages'] * PAGE_BYTES)}"
    )
    _table(output, "modelled: all kernels of a case", report.CASE_COLUMNS, report.case_rows(found))
    _table(output, "modelled: what is aimed at", report.BAR_COLUMNS, report.bar_rows(found))
    _table(
        output, "assumed, for want of a document", report.ASSUMPTION_COLUMNS, report.assumption_rows(found)
    )
    _table(output, "modelled: how many times as long", *report.sensitivity_table(found))
    _table(output, "the model beside what others measured", report.CHECK_COLUMNS, report.check_rows(found))


@bench.command()
@takes_options
def sweep(
    config: Annotated[Path, typer.Argument(metavar="FILE", help="TOML; benchmarks/sweep.toml is ours.")],
    kept: Kept,
    voice: Voice,
) -> None:
    """Run grids of pages, density, targets, clustering, format and device from a file."""
    from gpuscan.bench.sweep import load_sweep

    _measure(load_sweep(config), kept, voice)


def _run(kind: str, grid: Any, rounds: Rounds, kept: Kept, voice: Voice) -> None:
    from gpuscan.bench.sweep import make_sweep

    values = {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(grid).items()
    }
    _measure(make_sweep({kind: [values], **asdict(rounds)}, "the options"), kept, voice)


def _measure(sweep: Sweep, kept: Kept, voice: Voice) -> None:
    from gpuscan.bench.plots import require_matplotlib
    from gpuscan.bench.report import CONTENTS, write_report
    from gpuscan.bench.sweep import run_sweep
    from gpuscan.cli.devices import check_threads
    from gpuscan.files.writing import check_place

    output = voice.output()
    check_threads(sweep.threads, output)
    sweep.check()
    out = kept.out
    if out is not None:  # asked before an hour of measuring
        check_place(out, CONTENTS, force=kept.force)
        if kept.plots:
            require_matplotlib()
    with output.progress("bench", sweep.n_steps(), unit="rounds") as progress:
        document = run_sweep(sweep, lambda name: progress.advance(1, case=name))
    if out is not None:
        write_report(out, document, plots=kept.plots, force=kept.force)
    output.document(document)
    _print(document, output)
    if out is not None:
        output.note(f"kept in {out}")


def _print(document: dict[str, Any], output: Output) -> None:
    from gpuscan.base.units import format_bytes, format_time
    from gpuscan.bench.report import (
        RATIO_COLUMNS,
        REQUEST_COLUMNS,
        SCAN_COLUMNS,
        TICK_COLUMNS,
        case_title,
        ratio_table,
        request_table,
        scan_table,
        tick_table,
    )

    host, ceilings = document["host"], document["ceilings"]
    output.line(
        f"{host['cpu']}, {document['settings']['n_threads']} threads: reads "
        f"{ceilings['read_bytes_per_s'] / 1e9:.3g} GB/s, copies {ceilings['copy_bytes_per_s'] / 1e9:.3g} GB/s"
    )
    for case in document["scans"]:
        extra = "not known" if case["extra_bytes"] is None else format_bytes(case["extra_bytes"])
        _table(output, f"scan: {case_title(case)}", SCAN_COLUMNS, scan_table(case))
        output.line(
            f"{case['n_ready']:,} READY; byte floor {format_time(case['floors']['dense_bytes_ns'])}; "
            f"first touch of the store {format_time(case['first_touch_ns'])}, memory beyond it {extra}"
        )
    if document["scans"]:
        _table(output, "scans, round by round", RATIO_COLUMNS, ratio_table(document["scans"]))
    for case in document["requests"]:
        title = f"{case['n_requests']:,} requests: {case_title(case)}"
        _table(output, title, REQUEST_COLUMNS, request_table(case))
    for case in document["ticks"]:
        title = f"tick of {case['n_marks']:,} marks: {case_title(case)}"
        _table(output, title, TICK_COLUMNS, tick_table(case))


def _table(output: Output, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    output.line()
    output.line(title)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    output.table(table)
