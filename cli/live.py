"""``gpuscan live``: move the pages of running processes between the nodes of this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscan.base.described import like
from gpuscan.cli.alone import import_without_threads
from gpuscan.cli.options import Voice, takes_options
from gpuscan.cli.views import Views
from gpuscan.live.request import LiveRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from rich.live import Live
    from rich.table import Table

    from gpuscan.base.errors import GpuscanError
    from gpuscan.cli.output import Output
    from gpuscan.engine.tick import RunReport, TickReport
    from gpuscan.live.keeping import Keeping
    from gpuscan.live.metrics import Exporter
    from gpuscan.live.session import LiveSession, LiveTotals


@dataclass(frozen=True, slots=True)
class LiveVoice(Voice):
    """How a live run speaks: line by line."""

    as_json: bool = like(Voice, "as_json", help="Print JSON Lines: one object a line.")
    quiet: bool = like(Voice, "quiet", help="No live table, no notes.")


@takes_options
def live(
    context: typer.Context,
    request: LiveRequest,
    views: Views,
    *,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="ADDR:PORT", help="Serve Prometheus metrics there, on loopback if no ADDR."),
    ] = None,
    voice: LiveVoice,
) -> None:
    """Watch processes, and move the pages they use to the memory near the CPUs.

    A monitor of the kernel tells which pages are accessed; those far from the CPUs that
    it saw twice are moved with move_pages(2). Ends with the processes, after --for, or at
    Ctrl-C, and leaves the kernel's settings as they were.
    The exit code is that of COMMAND where it ended by itself (128 + n after signal n), else 0.
    With --evacuate it is 4 where pages are left on the node.

    \b
    sudo gpuscan live --pid 4711
    sudo gpuscan live --pid 4711 --demote --rate-limit 100MB/s
    sudo gpuscan live --for 30s -- redis-server
    sudo gpuscan live --dry-run --pid 4711              moves nothing
    sudo gpuscan live --evacuate 2 --pid 4711           empties node 2 of its pages, then ends
    sudo gpuscan live --pid 4711 --report page.html     a page for a browser
    """
    from contextlib import ExitStack

    owns_process = context.obj.owns_process
    if owns_process:
        import_without_threads()
    from gpuscan.base.allocator import keep_freed_memory
    from gpuscan.cli.devices import check_threads
    from gpuscan.live.document import end_document
    from gpuscan.live.keeping import Keeping

    output = voice.output()
    check_threads(request.n_threads, output)
    request = replace(request, quiet_command=voice.as_json)
    # Under emulation page faults were three quarters of what entering 8,192 candidates took.
    keep_freed_memory()

    def check() -> None:
        views.check(request.force, request.out)

    with ExitStack() as stack:
        keeping = stack.enter_context(
            Keeping(
                request.out,
                has_page=views.page is not None,
                has_timeline=views.trace_events is not None,
                force=request.force,
                check=check,
            )
        )
        keeping.check()  # and the session once more, with the rights that are left
        run, failure = _ran(stack, request, keeping, output, metrics=metrics, owns_process=owns_process)
        # Now that the session is over, the command has its exit code.
        unkept = _keep(run, keeping, views, context.obj.line, output)
    failure, session = failure or unkept, run.session
    if not session.totals.failure and run.unheard is None:
        _line(end_document(session, run.report), output)
        _print(session, run.report, output)
    if failure is not None:
        raise failure
    if run.unheard is not None:
        raise run.unheard
    if request.out is not None:
        output.note(f"kept in {request.out}")
    views.say(output)
    raise typer.Exit(session.totals.exit_code)


def _ran(
    stack: ExitStack,
    request: LiveRequest,
    keeping: Keeping,
    output: Output,
    *,
    metrics: str | None,
    owns_process: bool,
) -> tuple[_Run, GpuscanError | None]:
    """Run a session to its end; return it, and what went wrong once there was something to keep.

    Args:
        stack: until it is left, one signal does not end the process: it must not take the result along.
        request, keeping, output, metrics, owns_process: of the session.

    Raises:
        GpuscanError: it went wrong before that.
    """
    from contextlib import ExitStack

    from gpuscan.base.errors import GpuscanError
    from gpuscan.live.session import LiveSession

    run: _Run | None = None
    failure: GpuscanError | None = None
    try:
        with ExitStack() as ending:
            exporter = None
            if metrics is not None:
                from gpuscan.base.addresses import parse_address
                from gpuscan.live.metrics import Exporter

                exporter = Exporter(*parse_address(metrics))
                ending.callback(exporter.close)
            session = ending.enter_context(LiveSession(request, owns_process=owns_process, keeping=keeping))
            stack.enter_context(session.heeding())
            run = _Run(session, output, exporter)
            failure = run.run(keeping)
    except GpuscanError as error:
        if run is None or not run.has_ended:
            raise
        # Something could not be put back; what the session found is there all the same.
        session.totals.end_reason = str(error)
        failure = failure or error
    return run, failure


def _keep(run: _Run, keeping: Keeping, views: Views, made_by: str, output: Output) -> GpuscanError | None:
    """Write what is kept of a session, and make what is to be looked at; return why not all of it could be.

    What can be made is made, whatever becomes of the rest.
    """
    from gpuscan.base.errors import GpuscanError
    from gpuscan.live.document import kept_document

    document = kept_document(run.session, run.report, run.start, made_by)
    report = replace(run.report, ticks=keeping.ticks)
    tables = keeping.tables(report)
    failure: GpuscanError | None = None
    try:
        keeping.finish(report, document, tables)
    except GpuscanError as error:
        failure = error
    result = run.session.request.out if failure is None else None
    unmade = views.make(
        document, tables, result, made_by, output, timeline=keeping.timeline, ticks=report.ticks
    )
    return failure or unmade


class _Run:
    """A session from its start to its end, told line by line.

    Attributes:
        session: it.
        start: the first line; empty until the monitor is on.
        report: what came of it.
        has_ended: there is one.
        unheard: why nobody could be told any more, which ends the session in order.
    """

    report: RunReport

    def __init__(self, session: LiveSession, output: Output, exporter: Exporter | None) -> None:
        self.session = session
        self.start: dict[str, Any] = {}
        self.has_ended = False
        self.unheard: OSError | None = None
        self._output = output
        self._exporter = exporter
        self._display = _Display(output)

    def run(self, keeping: Keeping) -> GpuscanError | None:
        """Run it; return why it failed, where what was found until then is kept.

        A session whose monitor never was on has found nothing, and replaces nothing.

        Raises:
            RunFailedError: it failed, and nothing is kept.
        """
        from gpuscan.base.errors import RunFailedError

        try:
            self.report = self.session.run(self._on_start, self._on_tick)
        except RunFailedError as error:
            if not (keeping.is_wanted and self.start):
                raise
            self.report = self.session.engine.report([])
            self.has_ended = True
            return error
        finally:
            self._tell(self._display.stop)
        self.has_ended = True
        return None

    def _tell(self, say: Callable[[], None]) -> None:
        """Say something; where nobody takes it any more, a closed pipe or terminal, end the session."""
        if self.unheard is None:
            try:
                say()
            except OSError as error:
                self.unheard = error
                self.session.end()

    def _on_start(self) -> None:
        from gpuscan.cli.job import process_age_s
        from gpuscan.live.document import start_document

        self.start = start_document(self.session, process_age_s())
        self._tell(self._say_start)

    def _say_start(self) -> None:
        session, output = self.session, self._output
        for note in session.notes:
            output.note(f"gpuscan: note: {note}")
        _line(self.start, output)
        if session.source.processes:
            output.note(
                f"watching {', '.join(f'{p.pid} ({p.comm})' for p in session.source.processes)} with "
                f"{session.monitor.name}: {session.monitor.sees}"
            )
        self._display.start()

    def _on_tick(self, tick: TickReport, totals: LiveTotals, failed: dict[str, int]) -> None:
        from gpuscan.live.document import tick_document

        def say() -> None:
            _line(tick_document(self.session, tick, totals, failed), self._output)
            self._display.show(self.session, tick)

        self._tell(say)
        if self._exporter is not None:
            self._exporter.update(self.session)


def _line(document: dict[str, Any], output: Output) -> None:
    import sys

    from gpuscan.files.writing import json_text

    if output.json_mode:
        sys.stdout.write(json_text(document, indent=None) + "\n")
        sys.stdout.flush()


class _Display:
    """The table that is redrawn while the run goes on, on a terminal's stderr."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live: Live | None = None

    def start(self) -> None:
        """Begin, where there is a terminal."""
        import sys

        if self._output.quiet or not sys.stderr.isatty():
            return
        from rich.live import Live

        from gpuscan.cli.output import terminal

        self._live = Live(
            console=terminal(stderr=True), transient=True, auto_refresh=False, redirect_stdout=False
        )
        self._live.start()

    def show(self, session: LiveSession, tick: TickReport) -> None:
        """Draw what is known after a tick."""
        if self._live is not None:
            self._live.update(_table(session, tick), refresh=True)

    def stop(self) -> None:
        """Take the table off the screen."""
        if self._live is not None:
            self._live.stop()


def _table(session: LiveSession, tick: TickReport) -> Table:
    from rich.table import Table

    from gpuscan.base.units import PAGE_BYTES, format_bytes, format_time
    from gpuscan.migrate.move_pages import DRY_RUN

    totals, is_dry = session.totals, session.request.dry_run
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for node in session.topology.nodes:
        if node.present_pages:
            resident = totals.resident_pages.get(node.nid, 0) * PAGE_BYTES
            arrives, how = (totals.planned_to, "planned") if is_dry else (totals.moved_to, "moved")
            here = arrives.get(node.nid, 0) * PAGE_BYTES
            row = f"{format_bytes(resident)} resident, {format_bytes(here)} {how} here"
            table.add_row(f"node {node.nid} (tier {node.tier})", row)
    near = f"{totals.hot_near_pages / totals.hot_pages:.0%} near" if totals.hot_pages else "-"
    table.add_row("accessed", f"{format_bytes(totals.hot_pages * PAGE_BYTES)}, {near}")
    table.add_row("candidates", f"{tick.candidates:,} folios, {tick.pending:,} wait")
    if not is_dry:
        table.add_row("moved", f"{format_bytes(totals.moved_pages * PAGE_BYTES)}")
    for reason, count in session.engine.refusals.most_common(5):
        what, why = ("planned", "folios (dry run)") if reason == DRY_RUN else ("not moved", reason)
        table.add_row(what, f"{count:,} {why}")
    scan = f"{format_time(tick.scan_ns)} ({tick.path})" if tick.scan_ns else "nothing to scan"
    table.add_row("scan", scan)
    table.add_row(
        "overhead", f"{totals.overhead:.1%} of one CPU, {format_time(totals.elapsed_ns)}, tick {tick.tick:,}"
    )
    return table


def _how_ended(totals: LiveTotals) -> str:
    """Say how the command ended."""
    import signal

    code = totals.command_exit or 0
    how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    return f"{how}, ended with the run" if totals.command_was_ended else how


def _print(session: LiveSession, report: RunReport, output: Output) -> None:
    from rich.table import Table

    from gpuscan.base.units import PAGE_BYTES, format_bytes, format_time
    from gpuscan.cli.devices import device_row
    from gpuscan.cli.job import print_requests
    from gpuscan.migrate.move_pages import DRY_RUN

    totals, request = session.totals, session.request
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    facts.add_row("monitor", f"{session.monitor.name}: {session.monitor.sees}")
    facts.add_row("device", device_row(session.store, request.device))
    facts.add_row(
        "ended", f"{totals.end_reason}, after {format_time(totals.elapsed_ns)}, {totals.n_ticks:,} ticks"
    )
    for nid, pages in totals.resident_pages.items():
        facts.add_row(f"resident on node {nid}", format_bytes(pages * PAGE_BYTES))
    if request.dry_run:
        facts.add_row(
            "planned", f"{format_bytes(totals.planned_pages * PAGE_BYTES)} (dry run, nothing was moved)"
        )
    else:
        facts.add_row("moved", format_bytes(totals.moved_pages * PAGE_BYTES))
    for nid, pages in sorted((totals.planned_to if request.dry_run else totals.moved_to).items()):
        facts.add_row(f"  to node {nid}", format_bytes(pages * PAGE_BYTES))
    if session.evacuation is not None:
        facts.add_row(f"left on node {session.evacuation.nid}", format_bytes(totals.left_pages * PAGE_BYTES))
        for reason, pages in session.evacuation.left.most_common():
            facts.add_row("", f"{pages:,} pages: {reason}")
    if totals.command_exit is not None:
        facts.add_row("command", _how_ended(totals))
    if totals.n_split:
        facts.add_row("split on the way", f"{totals.n_split:,} large folios")
    facts.add_row(
        "overhead",
        f"{totals.overhead:.1%} of one CPU ({totals.gpuscan_cpu_s:.2f} s gpuscan, "
        f"{totals.kernel_cpu_s:.2f} s kernel threads)",
    )
    output.table(facts)
    output.line()
    print_requests(
        report,
        output,
        refused_title="not moved (a folio may be refused several times)",
        planned=("refused: ECANCELED", DRY_RUN) if request.dry_run else None,
    )
    if totals.skipped.total():
        output.line()
        skipped = Table("no candidates", "pages", box=None, header_style="bold", pad_edge=False)
        skipped.columns[1].justify = "right"
        for reason, count in totals.skipped.most_common():
            if count:
                skipped.add_row(reason, f"{count:,}")
        output.table(skipped)
