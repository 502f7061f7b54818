"""A run as it was asked for: build, run, print, keep. Used by ``run`` and ``resume``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.cli.views import Views

if TYPE_CHECKING:
    from rich.table import Table

    from gpuscan.base.errors import GpuscanError
    from gpuscan.cli.output import Output, Progress
    from gpuscan.engine.tick import RunReport
    from gpuscan.producers.contract import Told
    from gpuscan.run.checkpoints import RunCheckpoints
    from gpuscan.run.job import Job
    from gpuscan.run.request import RunRequest
    from gpuscan.run.scenario import Hooks, Scenario
    from gpuscan.run.summary import RunSummary
    from gpuscan.run.tables import Tables
    from gpuscan.timeline.timeline import Timeline
    from gpuscan.workload.model import Workload


@dataclass(frozen=True, slots=True)
class _Done:
    """A run that has ended, and what is to be said of it."""

    scenario: Scenario
    report: RunReport
    summary: RunSummary
    document: dict[str, Any]
    tables: Tables | None


def check_here(request: RunRequest, views: Views, output: Output) -> None:
    """Check what only this machine knows, before anything is done.

    Raises:
        InputError: it has not that many CPUs, or what is to be looked at cannot be made.
    """
    from gpuscan.cli.devices import check_threads

    check_views(views, request, request.checkpoint)
    check_threads(request.n_threads, output)


def check_views(views: Views, request: RunRequest, checkpoints: Path | None) -> None:
    """Check that views can be made beside what a run keeps, and where its checkpoints are.

    Raises:
        InputError: they cannot.
    """
    views.check(request.force, request.out, checkpoints)


def begin(job: Job, output: Output, views: Views, made_by: str) -> None:
    """Conduct a job from its first tick, with checkpoints where they were asked for."""
    request = job.request
    if request.checkpoint is None:
        conduct(job, output, views, made_by)
        return
    from contextlib import closing

    from gpuscan.run.checkpoints import RunCheckpoints

    request.check_kept()
    with closing(RunCheckpoints(request.checkpoint, force=request.force)) as checkpoints:
        conduct(job, output, views, made_by, checkpoints)


def conduct(
    job: Job, output: Output, views: Views, made_by: str, checkpoints: RunCheckpoints | None = None
) -> None:
    """Build what a job is of, run it, print and keep what came of it.

    Args:
        job: what to do.
        output: where to say it.
        views: what is made of the result at once.
        made_by: the command line, for that, and for who reads the result.
        checkpoints: of this run; a :class:`gpuscan.run.resume.ResumedRun` goes on from where it was.
    """
    from gpuscan.cli.devices import device_row
    from gpuscan.cli.shards import check_division
    from gpuscan.heatmap.space import node_names
    from gpuscan.timeline.timeline import Timeline

    request = job.request
    check_division(request, job.topology.page_map)
    timeline = None if views.trace_events is None else Timeline(node_names(job.topology))
    if checkpoints is not None:
        checkpoints.views = views.places()
    done, failure = _kept(job, output, made_by, checkpoints, timeline, has_page=views.page is not None)
    # Whatever cannot be made or kept, what the run found is shown all the same.
    unmade = views.make(
        done.document,
        done.tables,
        request.out if failure is None else None,
        made_by,
        output,
        timeline=timeline,
        ticks=done.report.ticks,
    )
    failure = failure or unmade
    output.document(done.document)
    row = f"none, {request.design} is a model"
    if done.scenario.store is not None:
        row = device_row(done.scenario.store, request.device or job.workload.device)
    _print(done, row, output)
    if failure is not None:
        raise failure
    if request.out is not None:
        output.note(f"kept in {request.out}")
    views.say(output)
    if checkpoints is not None:
        from gpuscan.run.checkpoints import saved_sentence

        output.note(saved_sentence(checkpoints))


def _kept(
    job: Job,
    output: Output,
    made_by: str,
    checkpoints: RunCheckpoints | None,
    timeline: Timeline | None,
    *,
    has_page: bool,
) -> tuple[_Done, GpuscanError | None]:
    """Run a job and keep what came of it; return that, and why it could not be kept.

    What there is to see of it is counted where it is kept, or ``has_page`` says that somebody makes one.
    """
    from gpuscan.base.errors import RunFailedError
    from gpuscan.files.writing import not_of_this
    from gpuscan.heatmap.recorder import MapRecorder
    from gpuscan.run.out import open_out
    from gpuscan.run.scenario import Hooks

    request = job.request
    done: _Done | None = None
    try:
        with ExitStack() as stack:
            kept, plan_sink, recorder = None, None, None
            policy = job.workload.engine_policy()
            if request.out is not None or has_page:
                recorder = MapRecorder(
                    job.topology, policy.interval_ns, seed=job.workload.seed, is_aside=True
                )
            if request.out is not None:
                kept = stack.enter_context(open_out(request.out, policy, force=request.force))
                plan_sink = kept.plan_sink if checkpoints is None else checkpoints.keep_plans()
            listening = Hooks(plan_sink=plan_sink, recorder=recorder, timeline=timeline)
            # What is shown of it, or read for it, is no write to --out.
            with nullcontext() if kept is None else not_of_this():
                done = _ran(job, output, made_by, checkpoints, listening)
            if kept is not None and done.tables is not None:
                plans = () if checkpoints is None else checkpoints.plans()
                kept.finish(done.report, done.document, done.tables, plans)
    except RunFailedError as error:
        if done is None:
            raise
        return done, error  # what the run found is shown all the same
    return done, None


def _ran(
    job: Job,
    output: Output,
    made_by: str,
    checkpoints: RunCheckpoints | None,
    listening: Hooks,
) -> _Done:
    """Build what a job is of, and run it; ``listening`` has what is told of it."""
    import time

    from gpuscan.cli.devices import COMPILING_THERE, RESERVING, note_if_compiling
    from gpuscan.cli.shards import open_shards
    from gpuscan.run.report import producer_said, run_document
    from gpuscan.run.scenario import build
    from gpuscan.run.summary import summarize
    from gpuscan.run.tables import Tables

    with ExitStack() as stack, ExitStack() as preparing:
        preparing.enter_context(note_if_compiling(output))
        started = checked_at = time.perf_counter()
        sharding = stack.enter_context(open_shards(job.request, output))
        if sharding is not None:
            preparing.enter_context(output.note_if_slow(COMPILING_THERE))
        reading = None
        reading_bar = preparing.enter_context(ExitStack())
        if job.workload.source.kind == "trace":
            reading = reading_bar.enter_context(_reading(job.workload, output)).advance

        def checked() -> None:
            nonlocal checked_at
            checked_at = time.perf_counter()
            preparing.close()
            output.note(f"building the machine of {job.workload.name}")

        reserving: Progress | None = None

        def on_reserved(n_bytes: int) -> None:
            nonlocal reserving
            if reserving is None:
                reading_bar.close()  # the trace is read by now, and there is one bar at a time
                reserving = preparing.enter_context(output.progress(RESERVING, None, unit="bytes"))
            reserving.advance(n_bytes)

        hooks = replace(
            listening,
            finish_tick=checkpoints is not None,
            on_failure=output.note if job.request.fallback else None,
            on_checked=checked,
            on_read=reading,
            on_reserved=on_reserved,
        )
        scenario = build(job, hooks, sharding)
        built = time.perf_counter()
        if job.request.fallback and scenario.store is not None and scenario.store.device_name == "cpu":
            output.note("gpuscan: note: the device is the CPU already, so --fallback changes nothing")
        if checkpoints is not None:
            _begin_keeping(checkpoints, scenario, job)
        with _after_device_failure(checkpoints):
            report, first_tick_s = _run(scenario, output, checkpoints)
        summary = summarize(report)
        wall_s = {
            "process_to_first_tick": first_tick_s,
            "build": built - started,
            "of_which_machine": built - checked_at,
            "run": time.perf_counter() - built,
        }
        said = producer_said(_told(scenario), summary.metrics)
        facts = {**_facts(scenario), "wall_s": wall_s, "producer_said": said, "made_by": made_by}
        if checkpoints is not None:
            facts["resumed_at"] = checkpoints.resumed_at
        recorder = listening.recorder
        tables = None if recorder is None else Tables.of(report, recorder)
        return _Done(scenario, report, summary, run_document(report, summary, facts), tables)


def _begin_keeping(checkpoints: RunCheckpoints, scenario: Scenario, job: Job) -> None:
    from gpuscan import __version__
    from gpuscan.run.kept import kept_request

    checkpoints.begin(scenario, kept_request(job, __version__))


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


def _reading(workload: Workload, output: Output) -> Progress:
    from gpuscan.traces import open_trace

    trace = open_trace(Path(workload.source.trace), workload.source.given)
    return output.progress(f"reading {trace.path.name}", trace.n_bytes, unit="bytes")


def _run(scenario: Scenario, output: Output, checkpoints: RunCheckpoints | None) -> tuple[RunReport, float]:
    """Return the report, and how long after the start of the process the first tick began."""
    from gpuscan.engine.tick import TickReport
    from gpuscan.run.summary import fast_share

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


def _told(scenario: Scenario) -> Sequence[Told]:
    """Return which metrics of the producer are told; a trace has none beside it."""
    from gpuscan.producers.catalogue import PRODUCERS

    workload = scenario.workload
    return PRODUCERS.get(workload.producer.kind).told if workload.source.kind == "processes" else ()


def _print(done: _Done, device: str, output: Output) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_bytes, format_number
    from gpuscan.run.report import summary_rows

    scenario, report = done.scenario, done.report
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
    producer, told = scenario.workload.producer.kind, _told(scenario)
    for row in summary_rows(
        report, done.summary, fast_means, device=device, producer=producer, told=told, plot_width=plot_width
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
