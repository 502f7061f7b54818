"""A run as the command line asked for it: build, run, print, keep. Used by ``run`` and ``resume``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from gpuscan.cli.output import Output, Progress
    from gpuscan.engine.tick import RunReport
    from gpuscan.kernels.registry import Device
    from gpuscan.run.report import RunSummary
    from gpuscan.run.resume import Request, RunCheckpoints
    from gpuscan.run.scenario import Scenario
    from gpuscan.snapshot.snapshot import Snapshot
    from gpuscan.topology import Topology
    from gpuscan.workload.files import Workload


@dataclass(frozen=True, slots=True)
class Job:
    """One run as the command line asked for it.

    Attributes:
        workload: checked; where, document: what it was made of (``workload_document``).
        topology: the machine, None for the workload's.
        snapshot: the captured machine; machine, split_cxl: what it was read of.
        device, design, fallback, n_threads, out, force, every: the options.
        workers, cluster, shard_dir, insecure: those of shards.
    """

    workload: Workload
    where: str
    document: dict[str, Any]
    snapshot: Snapshot | None
    machine: Path | None
    split_cxl: str | None
    device: Device | None
    design: str
    fallback: bool
    n_threads: int | None
    out: Path | None
    force: bool
    every: str
    topology: Topology | None = None
    workers: int | None = None
    cluster: str | None = None
    shard_dir: Path | None = None
    insecure: bool = False


def conduct(job: Job, output: Output, checkpoints: RunCheckpoints | None = None) -> None:
    """Build what a job asks for, run it, print and keep what came of it.

    Args:
        job: what to do.
        output: where to say it.
        checkpoints: of this run; a :class:`gpuscan.run.resume.ResumedRun` goes on from where it was.
    """
    import time
    from contextlib import ExitStack

    from gpuscan.base.errors import RunFailedError
    from gpuscan.cli.devices import COMPILING_THERE, device_row, note_if_compiling
    from gpuscan.cli.shards import open_shards
    from gpuscan.run.report import open_out, run_document, summarize
    from gpuscan.run.scenario import build_scenario

    loaded, out, design = job.workload, job.out, job.design
    topology = _topology(job)
    if job.workers is not None:  # before so many processes are started
        from gpuscan.shards.partition import Partition

        Partition.even(topology.page_map, job.workers)
    result: tuple[Scenario, RunReport, RunSummary, dict[str, Any]] | None = None
    failure: RunFailedError | None = None
    try:
        with ExitStack() as stack, ExitStack() as preparing:
            kept = (
                stack.enter_context(open_out(out, loaded.engine_policy(), force=job.force)) if out else None
            )
            plan_sink = kept.plan_sink if kept else None
            if kept is not None and checkpoints is not None:
                plan_sink = checkpoints.keep_plans()
            preparing.enter_context(note_if_compiling(output))

            started = checked_at = time.perf_counter()
            sharding = stack.enter_context(
                open_shards(
                    job.workers,
                    job.cluster,
                    job.shard_dir,
                    output,
                    fallback=job.fallback,
                    insecure=job.insecure,
                )
            )
            n_threads = job.n_threads
            if sharding is not None:
                preparing.enter_context(output.note_if_slow(COMPILING_THERE))
                if n_threads is None:
                    n_threads = sharding.n_threads
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
                snapshot=job.snapshot,
                topology=topology,
                device=job.device,
                design=design,
                n_threads=n_threads,
                sharding=sharding,
                plan_sink=plan_sink,
                fallback=job.fallback,
                finish_tick=checkpoints is not None,
                on_failure=output.note if job.fallback else None,
                on_checked=checked,
                on_read=reading,
            )
            built = time.perf_counter()
            if job.fallback and scenario.store is not None and scenario.store.device_name == "cpu":
                output.note("gpuscan: note: the device is the CPU already, so --fallback changes nothing")
            if checkpoints is not None:
                checkpoints.begin(scenario, _request(job, scenario))
            with _after_device_failure(checkpoints):
                report, first_tick_s = _run(scenario, output, checkpoints)
            summary = summarize(report)
            wall_s = {
                "process_to_first_tick": first_tick_s,
                "build": built - started,
                "of_which_machine": built - checked_at,
                "run": time.perf_counter() - built,
            }
            facts = {**_facts(scenario), "wall_s": wall_s}
            if checkpoints is not None:
                facts["resumed_at"] = checkpoints.resumed_at
            document = run_document(report, summary, facts)
            result = scenario, report, summary, document
            if kept is not None:
                kept.finish(report, document, () if checkpoints is None else checkpoints.plans())
    except RunFailedError as error:
        if result is None:
            raise
        failure = error  # --out could not be kept: what the run found is shown all the same
    scenario, report, summary, document = result
    output.document(document)
    row = f"none, {design} is a model"
    if scenario.store is not None:
        row = device_row(scenario.store, job.device or loaded.device)
    _print(scenario, report, summary, row, output)
    if failure is not None:
        raise failure
    if out is not None:
        output.note(f"kept in {out}")
    if checkpoints is not None:
        from gpuscan.run.resume import saved_sentence

        output.note(saved_sentence(checkpoints))


def _topology(job: Job) -> Topology:
    """Return the machine that a job is about."""
    from gpuscan.topology.resolve import resolve_topology

    if job.snapshot is not None:
        return job.snapshot.topology
    if job.topology is not None:
        return job.topology
    return resolve_topology(job.workload.topology.machine, job.workload.topology.memory)


def _request(job: Job, scenario: Scenario) -> Request:
    """Return what a checkpoint keeps of a job; files by their absolute names."""
    from gpuscan import __version__
    from gpuscan.run.resume import Request, inputs_of
    from gpuscan.topology.serialize import topology_to_dict
    from gpuscan.workload.files import with_paths

    return Request(
        where=job.where,
        workload=with_paths(job.document, lambda named: Path(_place(Path(named)))),
        topology=topology_to_dict(scenario.topology),
        device=job.device,
        n_threads=job.n_threads,
        fallback=job.fallback,
        machine=None if job.machine is None else _place(job.machine),
        split_cxl=job.split_cxl,
        inputs=inputs_of(job.workload, job.snapshot),
        out=None if job.out is None else _place(job.out),
        force=job.force,
        every=job.every,
        workers=job.workers,
        cluster=job.cluster,
        shard_dir=None if job.shard_dir is None else _place(job.shard_dir),
        gpuscan=__version__,
    )


def _place(path: Path) -> str:
    """Return an absolute name that does not go through the working directory, which may be gone by then."""
    return str(path.parent.resolve() / path.name)


@contextmanager
def _after_device_failure(checkpoints: RunCheckpoints | None) -> Iterator[None]:
    """Say what to do when a device fails inside the block, or with checkpoints when somebody interrupts."""
    from gpuscan.base.errors import DeviceFailedError

    if checkpoints is not None:
        with checkpoints.after_device_failure():
            yield
        return
    try:
        yield
    except DeviceFailedError as error:
        raise DeviceFailedError(
            f"{error}; run again with --device cpu, with --fallback to have the CPU take over, or with "
            "--checkpoint to go on from there"
        ) from error


def _reading(trace: Path, output: Output) -> Progress:
    from gpuscan.traces import open_trace

    return output.progress(f"reading {trace.name}", open_trace(trace).n_bytes, unit="bytes")


def _run(scenario: Scenario, output: Output, checkpoints: RunCheckpoints | None) -> tuple[RunReport, float]:
    """Return the report, and how long after the start of the process the first tick began."""
    from gpuscan.engine.tick import TickReport
    from gpuscan.run.report import fast_share

    totals = {"candidates": 0, "batches": 0}
    earlier = [] if checkpoints is None else checkpoints.earlier
    n_ticks = scenario.workload.ticks
    with output.progress(scenario.workload.name, n_ticks, unit="ticks", done=len(earlier)) as progress:

        def on_tick(tick: TickReport) -> None:
            totals["candidates"] += tick.candidates
            totals["batches"] += tick.n_batches
            share = fast_share(tick)
            progress.advance(1, **totals, fast="-" if share is None else f"{share:.0%}")
            if checkpoints is not None:
                checkpoints.on_tick(tick)

        first_tick_s = process_age_s()
        return scenario.run(on_tick, earlier=earlier), first_tick_s


def process_age_s() -> float:
    """Return the seconds since this process started, to a clock tick (10 ms): proc_pid_stat(5), field 22."""
    import os
    import time

    after_name = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
    started_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


def _facts(scenario: Scenario) -> dict[str, Any]:
    from dataclasses import asdict

    from gpuscan import __version__
    from gpuscan.base.program import PROGRAM

    workload, topology = scenario.workload, scenario.topology
    return {
        PROGRAM: __version__,
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

    from gpuscan.base.units import format_bytes, format_number
    from gpuscan.producers.catalogue import PRODUCERS
    from gpuscan.run.report import summary_rows

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
    plot_width = min(60, max(10, output.width - 44))
    producer = scenario.workload.producer.kind
    is_watched = scenario.workload.source.kind == "processes"  # a trace has no producer beside it
    told = PRODUCERS.get(producer).told if is_watched else ()
    for row in summary_rows(
        report, summary, fast_means, device=device, producer=producer, told=told, plot_width=plot_width
    ):
        facts.add_row(*row)
    output.table(facts)
    output.line()
    print_requests(report, output, refused_title="refusals (a folio may meet several)")
    if report.counters:
        output.line()
        counters = Table("counters", "", box=None, header_style="bold", pad_edge=False)
        counters.columns[1].justify = "right"
        for what, count in sorted(report.counters.items()):
            counters.add_row(what, f"{count:,}")
        output.table(counters)


def print_requests(
    report: RunReport, output: Output, *, refused_title: str, planned: tuple[str, str] | None = None
) -> None:
    """Print what became of the requests of a run, and why some were refused.

    Args:
        report, output: of the run, and where to.
        refused_title: of the reasons.
        planned: as what a dry run drops, and refuses, the folios that it would have moved.
    """
    from gpuscan.run.report import ledger_rows

    requested = max(1, report.ledger.requested)
    dropped, refused = planned or ("", "")
    rows = [
        ("+ planned (dry run)" if what == f"+ dropped, {dropped}" else what, count)
        for what, count in ledger_rows(report.ledger)
    ]
    output.table(_counts_table("requests", rows, requested))
    refusals = [(why, count) for why, count in report.refusals.most_common() if why != refused]
    if refusals:
        output.line()
        output.table(_counts_table(refused_title, refusals, requested))


def _counts_table(title: str, counts: list[tuple[str, int]], requested: int) -> Table:
    """Return folios by what became of them, each with its share of ``requested``."""
    from rich.table import Table

    table = Table(title, "folios", "of requests", box=None, header_style="bold", pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for what, count in counts:
        table.add_row(what, f"{count:,}", f"{count / requested:.1%}")
    return table
