"""What ``live`` and ``service`` share: whom they watch, one look at them, its moves, and the sums.

    roster -> LiveSource (a monitor) -> Engine (a store) -> a migrator -> LiveTotals

Whoever makes one opens the machine, the monitor and the store, and decides when to look.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.engine.policy import Policy
from gpuscan.engine.stages import Clocked, Witness
from gpuscan.engine.tick import Engine, PlanSink, RunReport, TickReport
from gpuscan.linux.address_map import AddressMap
from gpuscan.linux.numa import Allowance, Room, read_allowance
from gpuscan.linux.process import Process
from gpuscan.linux.resident import PageFlags
from gpuscan.linux.sharing import Sharing
from gpuscan.linux.system import System
from gpuscan.linux.targets import Targets
from gpuscan.live.members import Roster
from gpuscan.live.totals import CpuClock, LiveTotals
from gpuscan.migrate.move_pages import DryRunMigrator, MovePagesMigrator
from gpuscan.migrate.steward import MOST_CALL_PAGES, Steward
from gpuscan.monitors.contract import Monitor
from gpuscan.monitors.source import AddressWitness, LiveSource, Sleep
from gpuscan.monitors.treatment import Keeper
from gpuscan.store.single import Store

THRESHOLD = 2
"""Looks that must find a page accessed, within the window, before it moves: one look promotes what is
touched once."""
WINDOW_NS = 2_000_000_000
"""Or as long as three looks with their pauses take: two must fall into it."""
_WINDOW_LOOKS = 3
_BATCH_PAGES = 4 * MOST_CALL_PAGES
"""Of a batch, four calls: what is asked and booked for a batch takes half as long as a call in the guest."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a pipeline looks and moves.

    Attributes:
        interval_ns: pause between two looks while there is something to do.
        dry_run: plan and count, move nothing.
        demotes: pages may go to a lower tier, which is counted apart then.
        rate_limit_bytes_per_s: of each target node; 0 = none.
        keeper: what is done with whose pages.
        steward: budgets; None where there are none.
        allowance_of: reads what a process is allowed.
        pause_of: see :class:`gpuscan.monitors.source.LiveSource`.
        roster_ns: how often it is looked up who came and went; None: whoever steps the pipeline does it.
        goes_on: it does not end with the processes.
    """

    interval_ns: int
    keeper: Keeper
    dry_run: bool = False
    demotes: bool = False
    rate_limit_bytes_per_s: int = 0
    steward: Steward | None = None
    allowance_of: Callable[[Process], Allowance] = read_allowance
    pause_of: Callable[[int], int] = int
    roster_ns: int | None = None
    goes_on: bool = False


class SeeingWitness(Witness, AddressWitness, Protocol):
    """Is told of accesses, too."""


class Both:
    """Two that are told how long something took."""

    def __init__(self, *each: Clocked) -> None:
        self._each = each

    def batch(self, now_ns: int, target_nid: int, n_folios: int, n_pages: int, busy_ns: float) -> None:
        """See :class:`gpuscan.engine.stages.Clocked`."""
        for one in self._each:
            one.batch(now_ns, target_nid, n_folios, n_pages, busy_ns)

    def walk(self, nid: int, start_ns: int, look_ns: float, migrate_ns: float) -> None:
        """See :class:`gpuscan.engine.stages.Clocked`."""
        for one in self._each:
            one.walk(nid, start_ns, look_ns, migrate_ns)


class Pipeline:
    """From a monitor to move_pages(2), one look at a time.

    Args:
        roster: whom to watch.
        monitor: who tells what they access.
        store: of the machine, warm.
        targets: where pages go.
        flags: /proc/kpageflags.
        wait: waits, and tells when to end.
        manner: how to go about it.
        system: where they run.
        totals: to sum up in.
        plan_sink: sees every plan before it is carried out.
        witness: is told which pages were seen accessed, marked, claimed and moved.
        clocked: is told how long each batch took.
        on_roster: called each time before it is looked up who came and went.
        room: what the nodes can take; by default its own.
    """

    def __init__(
        self,
        roster: Roster,
        monitor: Monitor,
        store: Store,
        targets: Targets,
        flags: PageFlags,
        wait: Sleep,
        manner: Manner,
        system: System,
        *,
        totals: LiveTotals | None = None,
        plan_sink: PlanSink | None = None,
        witness: SeeingWitness | None = None,
        clocked: Clocked | None = None,
        on_roster: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> None:
        self.roster = roster
        self.monitor = monitor
        self.manner = manner
        self.totals = LiveTotals() if totals is None else totals
        self.addresses = AddressMap()
        self._system = system
        self._on_roster = on_roster
        page_map = store.topology.page_map
        self.room = Room(system) if room is None else room
        self.sharing = Sharing(system)
        """Who maps what several processes map; whoever made the pipeline closes it."""
        self.migrator: MovePagesMigrator | DryRunMigrator
        if manner.dry_run:
            self.migrator = DryRunMigrator(self.addresses, page_map)
        else:
            self.room.pages(0)  # the first reading takes the longest
            tiers = self._tiers(store)
            self.migrator = MovePagesMigrator(
                roster.processes,
                self.addresses,
                page_map,
                self.room,
                system,
                tiers=tiers,
                steward=manner.steward,
                sharing=self.sharing,
            )
        self.source = LiveSource(
            monitor,
            targets,
            page_map,
            flags,
            self.addresses,
            wait,
            keeper=manner.keeper,
            allowance_of=manner.allowance_of,
            pause_of=manner.pause_of,
            goes_on=manner.goes_on,
            witness=witness,
            sharing=self.sharing,
            system=system,
        )
        policy = Policy(
            interval_ns=manner.interval_ns,
            freq_threshold=THRESHOLD,
            window_ns=max(WINDOW_NS, _WINDOW_LOOKS * manner.interval_ns),
            drop_top_tier=False,
            batch_pages=_BATCH_PAGES,
            rate_limit_bytes_per_s=manner.rate_limit_bytes_per_s,
        )
        self.engine = Engine(
            store,
            self.source,
            self.migrator,
            policy,
            plan_sink=plan_sink,
            witness=witness,
            clocked=self.totals if clocked is None else Both(self.totals, clocked),
        )

    def start(self, for_ns: int | None = None) -> None:
        """Switch the monitor on; the time begins, and ends after ``for_ns``."""
        with refusals_said():
            if alive := self.roster.alive():
                self.source.watch(alive)
            self._clock = CpuClock(self._system, self.monitor)
            self.source.start_clock(for_ns)
        self.totals.resident_pages = self.source.resident_pages()
        self._refreshed_ns = self._system.monotonic_ns()

    def step(self) -> tuple[TickReport, dict[str, int]]:
        """Wait until a look is due, look, and move; return the tick and its refusals by reason."""
        refusals = self.engine.refusals.copy()
        with refusals_said():
            if self.manner.roster_ns is not None:
                now_ns = self._system.monotonic_ns()
                if now_ns - self._refreshed_ns >= self.manner.roster_ns:
                    self._refreshed_ns = now_ns
                    self.refresh()
            tick = self.engine.tick()
            self._widen_window(tick)
            self._sum(tick)
        return tick, dict(self.engine.refusals - refusals)

    def refresh(self) -> bool:
        """Look who came and went, and watch who is there now; return whether anybody did."""
        self._on_roster()
        changed = self.roster.refresh()
        # A service goes on after a reload that was refused, and asks until it is not any more.
        was_refused = self.source.was_refused
        if (changed or was_refused) and ((alive := self.roster.alive()) or self.manner.goes_on):
            try:
                self.source.watch(alive)
            except InputError:
                if not was_refused:
                    raise
        self.roster.let_go()
        return changed

    def use_monitor(self, monitor: Monitor) -> None:
        """Go by another monitor from now on; it watches nobody yet."""
        self.monitor = monitor
        self.source.use_monitor(monitor)
        self._clock = CpuClock(self._system, monitor)

    def use_machine(self, store: Store, targets: Targets, why: str) -> None:
        """Go by other memory from now on; between two looks, and not in a dry run.

        Args:
            store: of the machine as it is now, warm.
            targets: where pages go there.
            why: the reason for which all requests that wait end.
        """
        assert isinstance(self.migrator, MovePagesMigrator)
        self.engine.use_store(store, why)
        self.source.use_machine(targets, store.topology.page_map)
        self.migrator.use_machine(store.topology.page_map, self._tiers(store))

    def _tiers(self, store: Store) -> dict[int, int] | None:
        return {node.nid: node.tier for node in store.topology.nodes} if self.manner.demotes else None

    def end(self) -> RunReport:
        """End all waits, prove conservation, and return what happened.

        Raises:
            RunFailedError: conservation broke.
        """
        self.engine.put_back()
        self.engine.verify()
        return self.engine.report([])

    def _widen_window(self, tick: TickReport) -> None:
        """Let the next look fall into the window, too: it comes a pause after this one's moves."""
        busy_ns = int(tick.metrics.get("observe_ns", 0) + tick.migrate_busy_ns)
        pause_ns = self.manner.pause_of(self.manner.interval_ns)
        window_ns = max(WINDOW_NS, _WINDOW_LOOKS * (pause_ns + busy_ns))
        if window_ns != self.engine.policy.window_ns:
            self.engine.policy = dataclasses.replace(self.engine.policy, window_ns=window_ns)

    def _sum(self, tick: TickReport) -> None:
        totals = self.totals
        totals.n_ticks += 1
        totals.elapsed_ns = self.engine.now_ns
        totals.moved_pages += tick.migrated_pages
        totals.planned_pages += tick.candidate_pages
        totals.moved_to = self.migrator.moved_pages
        if isinstance(self.migrator, DryRunMigrator):
            totals.planned_to = self.migrator.planned_pages
        totals.n_split = self.migrator.n_split
        totals.waited_s = self.migrator.waited_s
        totals.look_s.add(tick.metrics.get("observe_ns", 0.0) / 1e9)
        if tick.scan_ns:
            totals.scan_s.add(tick.scan_ns / 1e9)
        totals.resident_pages = self.source.resident_pages()
        totals.hot_pages = int(tick.metrics.get("hot_pages", 0))
        totals.hot_near_pages = int(tick.metrics.get("hot_near_pages", 0))
        totals.skipped = self.source.skipped
        totals.demoted_pages = self.migrator.demoted_pages
        totals.moved_shared_pages = self.migrator.moved_shared_pages
        totals.moved_hugetlb_pages = self.migrator.moved_hugetlb_pages
        totals.gpuscan_cpu_s, totals.kernel_cpu_s, totals.spent_within_s = self._clock.spent()


def warm_up(store: Store) -> None:
    """Load all kernels: compiling them must not fall into the first tick."""
    store.warm(record=True)
    store.warm(record=False)
    store.count_ready()
    for _ in (*store.drain(), *store.drain(budget_pages=0)):
        pass
    store.kernels.take_active()


@contextmanager
def refusals_said() -> Iterator[None]:
    """Say in one sentence what the kernel refused; what callers print is none of this."""
    try:
        yield
    except OSError as error:
        place = error.filename or "a system call"
        raise RunFailedError(f"{place} failed ({error.strerror}); try again") from error
