"""The service: open what it needs once, then look, move, listen and tell, until it is ended.

It is the pipeline of :mod:`gpuscan.live.pipeline` under rules. Orders from outside and signals are heard
while the next look is waited for; what changes something is done between two looks, where all is at rest.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any

from gpuscan.base.errors import DeviceError, GpuscanError, InputError, RunFailedError
from gpuscan.base.unused_code import give_back_code
from gpuscan.engine.tick import RunReport, TickReport
from gpuscan.history.recording import Kind, Nowhere, Recorder
from gpuscan.linux import capabilities, privileges
from gpuscan.linux.capabilities import Right
from gpuscan.linux.damon import Intervals
from gpuscan.linux.damon_taken import give_back_what_was_left
from gpuscan.linux.kernel_settings import put_back_what_was_left
from gpuscan.linux.resident import PageFlags
from gpuscan.linux.system import HERE, System
from gpuscan.linux.targets import Targets
from gpuscan.live.ended_by import until_signal
from gpuscan.live.members import Roster
from gpuscan.live.pipeline import Manner, Pipeline, refusals_said, warm_up
from gpuscan.live.stop import Stop
from gpuscan.live.totals import LiveTotals
from gpuscan.migrate.move_pages import MovePagesMigrator
from gpuscan.monitors.catalogue import MONITORS, open_monitor
from gpuscan.monitors.contract import Circumstances, Monitor
from gpuscan.service.config import Config, Rule
from gpuscan.service.governor import Governor
from gpuscan.service.helpers.contract import Place
from gpuscan.service.helping import Helping
from gpuscan.service.hours import are_quiet
from gpuscan.service.memory import OnlineMemory
from gpuscan.service.nodes import check_nodes, still_tiered, tiered
from gpuscan.service.notify import Notifier
from gpuscan.service.orders import Orders
from gpuscan.service.pace import Pace
from gpuscan.service.selection import RuleSelection
from gpuscan.service.since import Since
from gpuscan.service.status import status_document, status_line
from gpuscan.service.waiting import Inbox
from gpuscan.store.single import Store
from gpuscan.topology import Node, Topology
from gpuscan.topology.page_size import check_page_size

ROSTER_NS = 2_000_000_000
"""Rules are held against all processes this often."""
_REST_S = 1.0
"""While it rests it looks at the clock this often."""
_TELL_NS = 10_000_000_000
"""What it did is noted down, and told systemd, this often."""
_STATE_NS = 60_000_000_000
"""How it stands, and what it costs, is noted down this often: a week has 10,080 such notes, 2 MiB."""
_ENDED_BY = (signal.SIGINT, signal.SIGTERM)
_AT_NEXT_START = ("monitor", "interval", "group", "history", "tiers", "metrics")
"""Keys of ``[service]`` that a reload leaves as they were."""

OpenInbox = Callable[[Stop], Inbox]


class ServiceSession:
    """The service, ready to go. Use it as a context manager: leaving it puts everything back.

    Args:
        config: what to do.
        reload: returns what to do from now on; raises a GpuscanError where that makes no sense.
        open_inbox: opens where orders come from.
        system: where it runs.
        open_recorder: opens what keeps what was done.
        notifier: tells a service manager.
        owns_process: the process is there for this alone: rights that it does not need are given up.

    Raises:
        InputError: the configuration makes no sense on this machine, or rights are missing.
        TopologyError: the machine cannot be read.
    """

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        open_inbox: OpenInbox,
        system: System = HERE,
        *,
        open_recorder: Callable[[], Recorder] = Nowhere,
        notifier: Notifier | None = None,
        owns_process: bool = False,
    ) -> None:
        self.config = config
        self.started = config.service
        """As it was at the start: some of it holds until the end."""
        self.system = system
        self.recorder: Recorder = Nowhere()
        self.notifier = notifier or Notifier({})
        self.totals = LiveTotals()
        self.monitor: Monitor | None = None
        self.notes: list[str] = []
        self.is_paused = False
        self.is_quiet = False
        self.problem = ""
        """Why the newest configuration is not the one in force."""
        self.memory_problem = ""
        """Why it does not go by the memory that is there now."""
        self._reload = reload
        self._noted_trouble: dict[str, str] = {}
        self._was_resting = self._heeds = False
        self._owns_process = owns_process
        self._stack = ExitStack()
        self._heeding = ExitStack()
        with refusals_said():
            self.stop = Stop(system)
        with refusals_said(), self._heeding, self._stack:
            self._stack.callback(self.stop.close)
            self._open(open_inbox, open_recorder)
            self._stack = self._stack.pop_all()
            self._heeding = self._heeding.pop_all()

    def _open(self, open_inbox: OpenInbox, open_recorder: Callable[[], Recorder]) -> None:
        config, system = self.config, self.system
        capabilities.check_live(foreign=True, system=system, command="service")
        self.memory = OnlineMemory(system)
        host = self.memory.read()
        check_page_size(host.page_bytes, "service")
        self.notes += host.notes
        self._as_found = self._as_is = host.topology
        self.topology = tiered(config, host.topology)
        check_nodes(config, self.topology)
        self.targets = Targets(self.topology)
        self._drained: frozenset[int] = frozenset()
        """Nodes that were ordered to be emptied; those that have no memory now among them."""
        self.flags = PageFlags(system.root / "proc/kpageflags", system)
        self._stack.callback(self.flags.close)
        self.flags.check_shown()
        self.selection = RuleSelection(config.rule, system)
        self.roster = Roster(self.selection, system, releases=True)
        self._stack.callback(self.roster.close)
        give_back_what_was_left(system)
        if left := put_back_what_was_left(system):
            self.notes.append(f"an earlier gpuscan was killed; put back: {', '.join(left)}")
        self.helping = Helping(config, Place(self.topology, system))
        self._stack.callback(self.helping.close)
        self._stack.callback(self._close_monitor)
        self._cold_ns = config.monitor_cold_ns
        self.monitor = self._open_monitor(config.service.monitor)
        keeps = [*MONITORS.get(self.monitor.name).keeps, *self.helping.keeps]
        capabilities.check_live(foreign=True, monitor=keeps, system=system, command="service")
        inbox = open_inbox(self.stop)
        self._stack.callback(inbox.close)
        self.recorder = open_recorder()
        self._stack.callback(self.recorder.close)
        self._give_up_rights(keeps)  # before the store has threads, which begin with what this one has
        self.store = self._store_of(self.topology)
        self._stack.callback(lambda: self.store.close())
        if self._owns_process:
            give_back_code()  # all is compiled now
        self.pace = Pace(config.service.cpu)
        self.governor = Governor(config, self._cold_ns)
        self.governor.on_call = self.alive
        self.governor.is_held = self._is_held
        self.pipeline = Pipeline(
            self.roster,
            self.monitor,
            self.store,
            self.targets,
            self.flags,
            self._sleep,
            Manner(
                interval_ns=config.service.interval,
                keeper=self.governor,
                steward=self.governor,
                demotes=True,
                pause_of=self.pace.pause_ns,
                goes_on=True,
            ),
            system,
            totals=self.totals,
        )
        self._stack.callback(self.pipeline.sharing.close)
        self.orders = Orders(inbox, self, min(5.0, (self.notifier.watchdog_s or _REST_S * 10) / 3))

    def _store_of(self, topology: Topology) -> Store:
        store = Store(topology, device="cpu", large_folios=True, n_threads=1)
        warm_up(store)
        return store

    def _open_monitor(self, name: str) -> Monitor:
        here = Circumstances(
            self.topology,
            len(self.roster.alive()),
            intervals=Intervals(),
            cold_after_ns=self._cold_ns,
            system=self.system,
        )
        monitor, refused = open_monitor(name, here)
        self.notes += [f"not {text}" for text in refused]
        return monitor

    def _close_monitor(self) -> None:
        monitor, self.monitor = self.monitor, None
        if monitor is not None:
            monitor.close()

    def _give_up_rights(self, keeps: Sequence[Right]) -> None:
        if self._owns_process:
            privileges.give_up([*capabilities.KEPT, *keeps, *MovePagesMigrator.keeps])

    def run(
        self,
        on_start: Callable[[], None],
        on_tick: Callable[[TickReport], None],
        on_turn: Callable[[], None] = lambda: None,
    ) -> RunReport:
        """Look and move until a signal ends it.

        Args:
            on_start: called once the monitor is on.
            on_tick: called after every look.
            on_turn: called after every look, too, and each second of a rest.

        Raises:
            RunFailedError: conservation broke, or the kernel refused to go on.
            KeyboardInterrupt: a second signal broke it off.
        """
        self._heed()
        with refusals_said():
            self.pipeline.start()
        self._since = Since(self.system)
        self._assign()
        self._have_helped()
        self._refreshed_ns = self.system.monotonic_ns()
        self._told_ns = self._stood_ns = self._refreshed_ns
        helpers = [one["name"] for one in self.helping.document()]
        self._note_at_once(
            "start", {"monitor": self.pipeline.monitor.name, "helpers": helpers, "notes": self.notes}
        )
        on_start()
        self.notifier.ready(status_line(self))
        try:
            self._go_on(on_tick, on_turn)
        except InputError as error:  # it was right at the start, so to start it anew may help
            raise RunFailedError(str(error)) from error
        finally:
            self._note_state()
            self._note_trouble()
            with contextlib.suppress(GpuscanError), refusals_said():  # closing says what is left
                self.helping.use({}, rests=True)
            self._note_moved()
            self.recorder.note("stop", None, {"moved_pages": self.totals.moved_pages})
            self.recorder.flush()
        self.notifier.stopping()
        report = self.pipeline.end()
        self.totals.end_reason = "ended by a signal"
        return report

    def _go_on(self, on_tick: Callable[[TickReport], None], on_turn: Callable[[], None]) -> None:
        """Look, rest and listen until it is to end."""
        while not self.stop.is_set:
            self._settle_rest()
            if self.is_resting:
                self.orders.hear(_REST_S)
                self.pace.rested(*self._since.look())
                self._since.budget_ns()  # what a rest would have let through is not owed after it
            else:
                self._refresh_if_due()
                tick, _ = self.pipeline.step()
                self.pace.took(*self._since.look())
                on_tick(tick)
            self.orders.carry_out()
            self._tell_if_due()
            on_turn()

    @property
    def is_resting(self) -> bool:
        """Whether nothing is looked at: it was told to pause, or the hours are quiet."""
        return self.is_paused or self.is_quiet

    def _is_held(self) -> bool:
        return self.stop.is_set or self.is_resting

    def is_over(self) -> bool:
        """Whether it is being ended."""
        return self.stop.is_set

    def alive(self) -> None:
        """Say to whom it may concern that it is alive."""
        self.notifier.alive()

    def now_ns(self) -> int:
        """Return the time of CLOCK_MONOTONIC."""
        return self.system.monotonic_ns()

    def document(self, *, whole: bool) -> dict[str, Any]:
        """Return how things stand."""
        return status_document(self, whole=whole)

    def told(self, order: str, nid: int | None, refused: str) -> None:
        """Note an order that was carried out, or why it was not."""
        self._note_at_once("control", {"order": order, "node": nid, "refused": refused})

    def pause(self) -> None:
        """Look at nothing and move nothing until :meth:`resume`."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on."""
        self.is_paused = False

    def drain(self, nid: int | None) -> None:
        """Empty one more node of what is watched; None: no node any more.

        Raises:
            InputError: it has no memory, or no other node would be left; or the kernel carries out rules, and
                that empties no node.
        """
        helped = [rule.name for rule in self.config.rule if not rule.is_own]
        if helped and nid is not None:
            raise InputError(
                f"the kernel carries out {', '.join(helped)}, and it empties no node; leave backend out "
                "there, and reload"
            )
        self.targets.drain(() if nid is None else self.targets.drained | {nid})
        self._drained = frozenset() if nid is None else self._drained | {nid}
        # Whatever is on its way there is not to arrive.
        self.pipeline.source.let_go(self.roster.processes, "another order came")

    def reload(self) -> None:
        """Go by the configuration as it is now, or by the one before where that makes no sense.

        Raises:
            GpuscanError: why it makes no sense.
            RunFailedError: and the service cannot go on.
        """
        self.notifier.reloading(self.system.monotonic_ns())
        try:
            config = self._reload()
            self._check_nodes(config)
            self._use(config)
        except RunFailedError:
            raise
        except GpuscanError as error:
            self.problem = str(error)
            self._note_at_once("config", {"refused": str(error)})
            raise
        finally:
            self.notifier.ready(status_line(self))

    def _check_nodes(self, config: Config) -> None:
        """Refuse what the next start would, with the memory that is there now or with that of this start."""
        try:
            check_nodes(config, tiered(config, self._as_is))
        except InputError:
            check_nodes(config, tiered(config, self._as_found))

    def _use(self, config: Config) -> None:
        cold_ns = config.monitor_cold_ns
        is_colder = cold_ns is not None and (self._cold_ns is None or cold_ns < self._cold_ns)
        with refusals_said():  # what may fail comes first
            self.helping.configure(config)
        try:
            if is_colder:
                self._reopen_monitor(cold_ns)
        except GpuscanError:
            with refusals_said():
                self.helping.configure(self.config)
            raise
        self._note_moved()  # a rule that goes takes its figures with it
        before, self.config, self.problem = self._rules(), config, ""
        later = [key for key in _AT_NEXT_START if getattr(config.service, key) != getattr(self.started, key)]
        if later:
            self.problem = f"{', '.join(later)} of [service] will be used at the next start"
        self.selection.use(config.rule)
        self.pace.share = config.service.cpu
        self.governor.configure(config, self._cold_ns)
        self._settle_rest()
        self.refresh()
        if is_colder and not self.is_resting:
            with refusals_said():
                self.pipeline.source.watch(self.roster.alive())
        after = self._rules()
        changed = [number for number, rule in before.items() if rule != after.get(number)]
        self.pipeline.source.let_go(changed, "another rule holds")
        self._note_at_once("config", {"rules": [rule.name for rule in config.rule], "later": later})

    def _rules(self) -> dict[int, Rule]:
        """Return the rule of each process, by its number."""
        names = {number: self.governor.rule_of(number) for number in self.roster.processes}
        return {n: self.governor.policies[name].rule for n, name in names.items() if name is not None}

    def _reopen_monitor(self, cold_ns: int | None) -> None:
        """Let the monitor call a page cold earlier than it was opened for; it watches nobody yet.

        Raises:
            GpuscanError: it cannot be opened again; as it was it could.
            RunFailedError: neither way, so that the service ends.
        """
        name = self.pipeline.monitor.name
        before_ns, self._cold_ns = self._cold_ns, cold_ns
        with refusals_said():
            self._close_monitor()
            try:
                self.monitor = self._open_monitor(name)
            except (GpuscanError, OSError):
                self._cold_ns = before_ns
                self._open_again(name)
                raise
            self.pipeline.use_monitor(self.monitor)

    def _open_again(self, name: str) -> None:
        try:
            self.monitor = self._open_monitor(name)
        except (GpuscanError, OSError) as error:
            raise RunFailedError(
                f"the monitor {name} cannot be opened again ({error}); start it anew"
            ) from error
        self.pipeline.use_monitor(self.monitor)
        if not self.is_resting:
            self.pipeline.source.watch(self.roster.alive())

    def _settle_rest(self) -> None:
        """Let go of all processes where a rest begins, and take them up again where it ends."""
        self.is_quiet = are_quiet(self.config.service.quiet, self.system.minute_of_day())
        if self.is_resting == self._was_resting:
            return
        self._was_resting = self.is_resting
        self._note_at_once("rest", {"paused": self.is_paused, "quiet": self.is_quiet})
        if self.is_resting:
            with refusals_said():
                self.pipeline.source.watch([])
            self._have_helped_if_it_can()
        else:
            self.refresh()
            with refusals_said():
                self.pipeline.source.watch(self.roster.alive())

    def _refresh_if_due(self) -> None:
        if self.system.monotonic_ns() - self._refreshed_ns >= ROSTER_NS:
            self._settle_memory()
            self.refresh()

    def _settle_memory(self) -> None:
        """Go by the machine's memory as it is now, where some of it went offline or came online."""
        found = self.memory.changed()
        if found is None:
            self.memory_problem = "" if self.memory.is_settled else self.memory_problem
            return
        topology = still_tiered(self.started, found)
        try:
            with refusals_said():
                store = self._store_of(topology)
        except (DeviceError, RunFailedError) as error:
            if not self.memory_problem:
                self._note_at_once("memory", {"refused": str(error)})
            self.memory_problem = f"it goes by the memory of before, and tries again ({error})"
            return
        self.memory.use(found)
        self._as_is, self.topology, self.memory_problem = found, topology, ""
        with refusals_said(), contextlib.closing(self.store):
            self.store = store
            self.targets = Targets(self.topology)
            with contextlib.suppress(InputError):  # no other node is left
                self.targets.drain(self._drained & {node.nid for node in self._with_memory()})
            self.pipeline.use_machine(self.store, self.targets, "the machine's memory has changed")
        with refusals_said():
            if MONITORS.get(self.pipeline.monitor.name).watches_frames:
                with contextlib.suppress(InputError):  # at the second try it was opened
                    self._reopen_monitor(self._cold_ns)
                self.pipeline.source.watch(self.roster.alive())
        nodes = {str(node.nid): node.present_pages for node in self._with_memory()}
        self._note_at_once("memory", {"present_pages": nodes})

    def _with_memory(self) -> list[Node]:
        return [node for node in self.topology.nodes if node.present_pages]

    def refresh(self) -> None:
        """Hold the rules against all processes: who came is watched, who went or changed is let go."""
        self._refreshed_ns = self.system.monotonic_ns()
        known = dict(self.roster.processes)
        rules_before = {number: self.governor.rule_of(number) for number in known}
        with refusals_said():
            if self.is_resting:
                self.roster.refresh()
                self.roster.let_go()
            else:
                self.pipeline.refresh()
        self._assign()
        self._have_helped_if_it_can()
        for number in known.keys() ^ self.roster.processes.keys():
            process = known.get(number) or self.roster.processes[number]
            what = "went" if number in known else "came"
            self.recorder.note(
                "process",
                rules_before[number] if number in known else self.governor.rule_of(number),
                {"what": what, "pid": process.pid, "command": process.comm},
            )

    def _assign(self) -> None:
        """Let each process go by the rule that fits it now."""
        rules: dict[int, str] = {}
        for number, process in self.roster.processes.items():
            found = self.selection.verdicts.get(process.pid)
            if found is not None and found.rule is not None:
                rules[number] = found.rule.name
        self.governor.assign(rules)

    def _have_helped(self) -> None:
        """Let the kernel carry out the rules that are its own to, unless this is a rest.

        Raises:
            InputError: it does not take what it is told.
            RunFailedError: it refuses.
        """
        cgroups = {rule: frozenset(of.values()) for rule, of in self.selection.helped.items()}
        with refusals_said():
            self.helping.use(cgroups, rests=self.is_resting)

    def _have_helped_if_it_can(self) -> None:
        with contextlib.suppress(GpuscanError):  # it is said in the status, and tried again
            self._have_helped()

    def _sleep(self, limit_s: float) -> bool:
        """Wait for the next look, and hear what comes meanwhile; return whether to end instead."""
        self.pace.lengthens(self.started.interval)
        until_ns = self.system.monotonic_ns() + int(limit_s * 1e9)
        self.orders.hear(limit_s)
        # Nothing of this look has begun: what waits is carried out, and the rest of the pause is made.
        while self.orders.is_any and not self.stop.is_set:
            self.orders.carry_out()
            self._settle_rest()
            if self.is_resting:
                break
            self.orders.hear(max(0, until_ns - self.system.monotonic_ns()) / 1e9)
        pause_ns = self.pace.pause_ns(self.started.interval)
        self.governor.begin(self._since.budget_ns(), self.pipeline.source.pending_pages(), pause_ns)
        return self.stop.is_set

    def _tell_if_due(self) -> None:
        self.notifier.alive()
        now_ns = self.system.monotonic_ns()
        if now_ns - self._told_ns >= _TELL_NS:
            self._told_ns = now_ns
            if now_ns - self._stood_ns >= _STATE_NS:
                self._stood_ns = now_ns
                self._note_state()
            self._note_trouble()
            self._note_moved()
            self.notifier.status(status_line(self))

    def _note_at_once(self, kind: Kind, body: dict[str, Any]) -> None:
        """Note what is rare, so that a kill right after it does not take it along."""
        self.recorder.note(kind, None, body)
        self.recorder.flush()

    def _note_state(self) -> None:
        """Note how it stands, and what it has cost since this was last noted."""
        resident = {str(nid): n for nid, n in sorted(self.totals.resident_pages.items())}
        self.recorder.note(
            "state",
            None,
            {
                **self._since.cost(),
                "cpu_ceiling": self.pace.share,
                "n_processes": len(self.pipeline.source.processes),
                "resident_pages": resident,
            },
        )

    def _note_moved(self) -> None:
        """Note what each policy did since this was last noted."""
        for name, body in self._since.changes(self.governor.policies).items():
            self.recorder.note("moved", name, body)
        for name, moved in self.helping.changes().items():
            self.recorder.note("kernel", name, moved._asdict())
        self.recorder.flush()

    def _note_trouble(self) -> None:
        """Note what keeps helpers of the kernel from doing what they were told, where that is new."""
        trouble = self.helping.trouble()
        if trouble != self._noted_trouble:
            self._noted_trouble = trouble
            self.recorder.note("kernel", None, {"trouble": trouble})

    def _heed(self) -> None:
        """Let signals end the run in order, and SIGHUP reload it, until everything is put back."""
        if not self._heeds:
            self._heeds = True
            others = {int(signal.SIGHUP): self._hang_up}
            self._heeding.enter_context(until_signal(self.system, self.stop, self.totals, _ENDED_BY, others))

    def _hang_up(self, signum: int, frame: FrameType | None) -> None:
        self.orders.hung_up = True
        self.stop.wake()

    def close(self) -> None:
        """Put everything back.

        Raises:
            KeyboardInterrupt: a second signal broke it off; the watchdog puts DAMON back.
        """
        self._heed()
        with refusals_said(), self._heeding:
            self._stack.close()
        self.notifier.close()

    def __enter__(self) -> ServiceSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
