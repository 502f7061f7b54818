"""One live run: refuse what makes no sense, open a monitor, tick until it ends, leave things as they were."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import cast

from gpuscan.base.arguments import one_of
from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.base.unused_code import give_back_code
from gpuscan.engine.tick import PlanSink, RunReport, TickReport
from gpuscan.linux import capabilities, privileges
from gpuscan.linux.capabilities import Right
from gpuscan.linux.damon import Intervals
from gpuscan.linux.hugetlb import free_huge_pages
from gpuscan.linux.numa import Allowance, Room, read_allowance
from gpuscan.linux.process import Process
from gpuscan.linux.resident import PageFlags, resident_by_nid
from gpuscan.linux.rooms import Rooms
from gpuscan.linux.system import HERE, System
from gpuscan.linux.targets import Targets
from gpuscan.live.ended_by import until_signal
from gpuscan.live.evacuation import Evacuation, NobodyWatches, Refusals, check_request
from gpuscan.live.keeping import Keeping
from gpuscan.live.members import END_WITHIN_S, Cgroup, Command, Pids, Roster, Selection
from gpuscan.live.pipeline import THRESHOLD, WINDOW_NS, Manner, Pipeline, refusals_said, warm_up
from gpuscan.live.request import LiveRequest
from gpuscan.live.starter import Starter, plainly
from gpuscan.live.stop import Stop
from gpuscan.live.totals import LiveTotals
from gpuscan.migrate.move_pages import DryRunMigrator, MovePagesMigrator
from gpuscan.monitors.catalogue import MONITORS, open_monitor
from gpuscan.monitors.contract import Circumstances, Monitor, StartsProgram
from gpuscan.monitors.source import IDLE_FACTOR, STALE_TICKS
from gpuscan.monitors.treatment import SHARED, Same, Shared, Treatment
from gpuscan.store.single import Store
from gpuscan.topology.evacuation import nearest_first
from gpuscan.topology.model import Topology
from gpuscan.topology.page_size import check_page_size
from gpuscan.topology.split import split_cxl
from gpuscan.topology.tiers import tier_options, with_tiers

__all__ = ["THRESHOLD", "WINDOW_NS", "LiveRequest", "LiveSession", "LiveTotals", "OnTick"]

_ROSTER_NS = 1_000_000_000
_DRY_SPLIT = 0.5
_HEARD_WITHIN_S = 1.0

OnTick = Callable[[TickReport, LiveTotals, dict[str, int]], None]
"""Called with each tick, the totals after it, and refusals of the tick by reason."""


class LiveSession:
    """A live run that is ready to go. Use it as a context manager: leaving it puts everything back.

    Args:
        request: what to do.
        system: where they run.
        plan_sink: sees every plan before it is carried out.
        owns_process: the process is there for this run alone: rights that it does not need are given up for
            good, before there are threads beside the calling one.
        keeping: is begun when they are, and told what happens; whoever made it has it finish.

    Raises:
        InputError: the request makes no sense on this machine, or rights are missing; one sentence.
        TopologyError: the machine cannot be read.
    """

    def __init__(
        self,
        request: LiveRequest,
        system: System = HERE,
        *,
        plan_sink: PlanSink | None = None,
        owns_process: bool = False,
        keeping: Keeping | None = None,
    ) -> None:
        self.request = request
        self._keeping = Keeping() if keeping is None else keeping
        self._owns_process = owns_process
        self.notes: list[str] = []
        self.totals = LiveTotals()
        self.command: Command | None = None
        self.evacuation: Evacuation | None = None
        self._system = system
        self._stack = ExitStack()
        self._heeding = ExitStack()
        self._heeds = False
        with refusals_said():
            self._stop = Stop(system)
        with refusals_said(), self._heeding, self._stack:
            self._stack.callback(self._stop.close)
            self._open(plan_sink)
            self._stack = self._stack.pop_all()
            self._heeding = self._heeding.pop_all()

    def _open(self, plan_sink: PlanSink | None) -> None:
        request, system = self.request, self._system
        if request.evacuate_nid is not None:
            check_request(request)
        selection = self._named()
        capabilities.check_live(foreign=False, system=system)
        self.topology, self._pretends = self._machine()
        self.targets = Targets(self.topology, request.to_nid)
        self.room = Room(system)
        self._check_targets()
        roster = None
        if selection is not None:
            roster = self._roster(selection)
        self.flags = PageFlags(system.root / "proc/kpageflags", system)
        self._stack.callback(self.flags.close)
        self.flags.check_shown()
        self.monitor = self._open_monitor(1 if roster is None else len(roster.alive()))
        if roster is not None and roster.is_foreign():
            capabilities.check_live(foreign=True, monitor=self._monitor_keeps(), system=system)
        starter = None
        if roster is None:
            starter = Starter(self._give_up_rights)
            self._stack.callback(starter.close)
        self._give_up_rights()  # before the store has threads, which begin with what this one has
        self._begin_keeping()
        self.store = self._stack.enter_context(
            Store(self.topology, device=request.device, large_folios=True, n_threads=request.n_threads)
        )
        warm_up(self.store)
        if self._owns_process:
            give_back_code()  # all is compiled now
        if starter is not None:
            # From here on a signal ends the run rather than this process: the command must not stay behind.
            self._heed()
            self._stack.callback(self._end_command)
            self.command = Command(
                request.command,
                stdout_to_stderr=request.quiet_command,
                start=partial(
                    starter.start,
                    self.monitor.start if isinstance(self.monitor, StartsProgram) else plainly(system),
                ),
                system=system,
            )
            roster = self._roster_of_command(self.command)
            self._stack.callback(self._end_all, self.command, roster)
        assert roster is not None
        self.roster = roster
        self.pipeline = Pipeline(
            roster,
            self.monitor,
            self.store,
            self.targets,
            self.flags,
            self._stop.wait,
            self._manner(),
            system,
            totals=self.totals,
            plan_sink=plan_sink,
            witness=self._keeping.witness,
            clocked=self._keeping.timeline,
            on_roster=self._tell_free,
            room=self.room,
        )
        self._stack.callback(self.pipeline.sharing.close)
        self.addresses, self.source = self.pipeline.addresses, self.pipeline.source
        if self._keeping.witness is not None:
            self._keeping.witness.follow(self.addresses)
        self.migrator, self.engine = self.pipeline.migrator, self.pipeline.engine
        if request.evacuate_nid is not None:
            refusals = Refusals(self.migrator)
            self.engine.migrator = refusals
            page_map = self.topology.page_map
            self.evacuation = Evacuation(
                request.evacuate_nid,
                self.source,
                self.targets,
                self.flags,
                page_map,
                refusals,
                self._refresh,
                waits_for_room=not request.dry_run,
            )
        if self._owns_process and (n_threads := privileges.n_threads_with_more()):
            self.notes.append(f"{n_threads} threads of libraries keep rights that gpuscan does not need")

    def _named(self) -> Selection | None:
        """Return the processes that run already; None for a command that is yet to be started."""
        request = self.request
        given = [bool(request.pids), request.cgroup is not None, bool(request.command)]
        if sum(given) > 1:
            raise InputError(
                "processes are named in one way only; give only one of --pid, --cgroup and -- COMMAND"
            )
        if not any(given):
            raise InputError(
                "say which processes: --pid PID (more than once if need be), --cgroup PATH, or -- COMMAND"
            )
        if request.cgroup is not None:
            return Cgroup(request.cgroup, self._system)
        return Pids(request.pids) if request.pids else None

    def _give_up_rights(self) -> None:
        """Leave the calling thread what the run needs from now on, where the process is gpuscan's own."""
        if not self._owns_process:
            return
        rights = [*capabilities.KEPT, *self._monitor_keeps()]
        rights += DryRunMigrator.keeps if self.request.dry_run else MovePagesMigrator.keeps
        rights += Command.keeps if self.request.command else ()
        privileges.give_up(rights)

    def _begin_keeping(self) -> None:
        """Make the files of what is kept, with the rights of the end.

        Raises:
            InputError: they cannot be made.
        """
        interval_ns = self.request.interval_ns
        try:
            self._keeping.begin(self.topology, interval_ns, STALE_TICKS * IDLE_FACTOR * interval_ns)
        except InputError as error:
            if not self._owns_process:
                raise
            raise InputError(f"with the rights that live keeps, {error}") from error

    def _roster(self, selection: Selection) -> Roster:
        roster = Roster(selection, self._system)
        self._stack.callback(roster.close)
        if not roster.alive():
            raise InputError("none of the processes asked for runs (any more); name one that does")
        if roster.is_foreign():
            capabilities.check_live(foreign=True, system=self._system)
        return roster

    def _roster_of_command(self, command: Command) -> Roster:
        roster = Roster(command, self._system)
        self._stack.callback(roster.close)
        if not roster.alive():
            # It has ended; the thread that waits for it may not have heard of it yet.
            command.exit_code(within_s=_HEARD_WITHIN_S)
            self.notes.append("the command ended before it could be watched")
        return roster

    def _machine(self) -> tuple[Topology, bool]:
        """Return the machine, and whether it is one that a dry run pretends."""
        request = self.request
        host = self._system.read_host()
        check_page_size(host.page_bytes, "live")
        self.notes += host.notes
        topology = with_tiers(host.topology, request.node_tiers)
        n_nodes = sum(1 for node in topology.nodes if node.present_pages)
        if n_nodes > 1 and request.split_share is None:
            return topology, False
        if not request.dry_run:
            if request.split_share is not None:
                raise InputError("--split-cxl only pretends a second node; add --dry-run")
            raise InputError(
                "this machine has one node with memory, so there is nowhere to move pages to; "
                "--dry-run plans as if the upper half of its memory were CXL memory"
            )
        share = _DRY_SPLIT if request.split_share is None else request.split_share
        self.notes.append(
            f"one node with memory: planning as if the upper {share:.0%} of it were CXL memory (--split-cxl)"
        )
        return split_cxl(topology, share), True

    def _check_targets(self) -> None:
        nid = self.request.evacuate_nid
        if nid is not None:
            # What a dry run pretends is a node of the kernel's memory only in part.
            rooms = Rooms(self.room.pages, partial(free_huge_pages, system=self._system))
            self.targets.drain([nid], None if self._pretends else rooms)
            if not nearest_first(self.topology, nid):
                raise InputError(f"from node {nid} no other memory is in reach; name another node")
            return
        if self.targets.promotion or (self.request.demote and self.targets.demotion):
            return
        tiers = tier_options(self.topology)
        tiers = f", or {tiers} to declare the memory without CPUs a lower tier" if tiers else ""
        text = (
            "all nodes with memory are in one tier, so nothing is to be promoted; give --to NID to move "
            f"hot pages to one node{tiers}"
        )
        if not self.request.dry_run:
            raise InputError(text)
        self.notes.append(text)

    def _open_monitor(self, n_processes: int) -> Monitor:
        request = self.request
        if request.evacuate_nid is not None:
            return NobodyWatches()
        here = Circumstances(
            self.topology,
            n_processes,
            starts=bool(request.command),
            intervals=Intervals(),
            cold_after_ns=request.cold_after_ns if request.demote else None,
            system=self._system,
        )
        monitor, refused = open_monitor(request.monitor, here)
        self._stack.callback(monitor.close)
        self.notes += [f"not {text}" for text in refused]
        return monitor

    def _monitor_keeps(self) -> Sequence[Right]:
        if self.request.evacuate_nid is not None:
            return ()
        return MONITORS.get(self.monitor.name).keeps

    def _manner(self) -> Manner:
        request = self.request
        one_of("shared", request.shared, SHARED)
        return Manner(
            interval_ns=request.interval_ns,
            keeper=Same(
                Treatment(
                    promotes=request.evacuate_nid is None,
                    demotes=request.demote,
                    shared=cast(Shared, request.shared),
                )
            ),
            dry_run=request.dry_run,
            demotes=request.demote,
            rate_limit_bytes_per_s=request.rate_limit_bytes_per_s or 0,
            allowance_of=self._allowance_of,
            roster_ns=_ROSTER_NS,
        )

    def _allowance_of(self, process: Process) -> Allowance:
        allowance = read_allowance(process)
        if self._pretends:
            nids = frozenset(node.nid for node in self.topology.nodes)
            resident = resident_by_nid(process, self.topology.page_map, self.flags)
            allowance = dataclasses.replace(allowance, nids=nids, resident=resident)
        return allowance

    def _heed(self) -> None:
        """Let a signal end the run in order from now on, until everything is put back."""
        if not self._heeds:
            self._heeds = True
            self._heeding.enter_context(until_signal(self._system, self._stop, self.totals))

    def run(self, on_start: Callable[[], None], on_tick: OnTick) -> RunReport:
        """Tick until the run ends.

        Args:
            on_start: called once the monitor is on.
            on_tick: called after every tick. What either raises ends the run at once; to end it in order,
                call :meth:`end`.

        Raises:
            RunFailedError: the monitor could not begin, conservation broke, or the kernel refused to go on.
            KeyboardInterrupt: a second signal broke it off.
        """
        self._heed()
        try:
            self.pipeline.start(self.request.for_ns)
            self._tell_free()
            on_start()
            while not self.source.finished():
                tick, refusals = self.pipeline.step()
                self._keeping.on_tick(tick)
                on_tick(tick, self.totals, refusals)
                if self.evacuation is not None:
                    self.evacuation.after(tick)
            self._tell_free()
            report = self.pipeline.end()
            if self.evacuation is not None:
                with refusals_said():
                    self.evacuation.count_left()
                self.totals.left_pages = 0 if self.request.dry_run else self.evacuation.left.total()
        except RunFailedError as error:
            self.totals.failure = str(error)
            raise
        # Of Ctrl-C on a terminal a command may have ended before this run's next look.
        is_interrupted = self.totals.ended_by is not None
        self.totals.end_reason = "interrupted" if is_interrupted else self.source.end_reason
        return report

    def _refresh(self) -> bool:
        with refusals_said():
            return self.pipeline.refresh()

    def end(self) -> None:
        """Let the run end in order after its tick, as the first signal does."""
        self._stop.set()

    def heeding(self) -> ExitStack:
        """Return what to leave when signals may do again what they did before: then, and not at the close."""
        self._heed()
        return self._heeding.pop_all()

    def _tell_free(self) -> None:
        """Tell who keeps a map how full the nodes are; those that a dry run pretends are nobody's."""
        recorder = self._keeping.recorder
        if recorder is None or self._pretends:
            return
        free = {nid: self.room.free_pages(nid) for nid in recorder.nodes}
        if None not in free.values():
            known = {nid: n or 0 for nid, n in free.items()}
            room = {nid: n - self.topology.node(nid).kept_pages for nid, n in known.items()}
            recorder.filled(self.engine.now_ns, known, room)

    def _end_command(self) -> None:
        if self.command is not None:
            self._end(self.command, [])

    def _end_all(self, command: Command, roster: Roster) -> None:
        """End the command with its descendants, while there is a hold on each of them."""
        roster.refresh()
        self._end(command, [process for _, process in roster.alive()])

    def _end(self, command: Command, descendants: list[Process]) -> None:
        try:
            if self.totals.ended_by == signal.SIGINT and self._system.is_in_foreground():
                command.exit_code(within_s=END_WITHIN_S)  # Ctrl-C: the terminal has told the command, too
        finally:
            self.totals.command_exit = command.end(descendants)
            self.totals.command_was_ended = command.was_ended

    def close(self) -> None:
        """Put everything back: DAMON, files, and the end of a command that was started.

        Raises:
            KeyboardInterrupt: a second signal broke it off; the watchdog puts DAMON back.
        """
        self._heed()
        with refusals_said(), self._heeding:
            self._stack.close()

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
