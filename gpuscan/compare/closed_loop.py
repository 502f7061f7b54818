"""The closed loop: one design on a machine of its own, its moves decide which accesses are fast.

Every design's machine starts the same and replays the same recorded accesses up to the same moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gpuscan.base.errors import RunFailedError
from gpuscan.compare.endings import OWN_NODE
from gpuscan.compare.migrations import WatchedMigrator
from gpuscan.compare.overwritten_targets import WatchedStore
from gpuscan.compare.settings import Settings
from gpuscan.compare.stream import Opened, Stream
from gpuscan.designs.catalogue import DESIGNS, make_model
from gpuscan.designs.engine import DesignEngine
from gpuscan.designs.requests import OVERWRITTEN_NID
from gpuscan.designs.simulated import SimulatedPages
from gpuscan.engine.stages import Sampled, Source
from gpuscan.engine.tick import Engine, RunReport, TickReport
from gpuscan.records.formats import record_format
from gpuscan.run.summary import summarize
from gpuscan.store.plan import Batches, Plan

OnTick = Callable[[int], None]
"""Called with the simulated nanoseconds that passed."""


@dataclass(slots=True)
class ClosedResult:
    """What one design did with the accesses.

    Attributes:
        design: its name.
        accesses_digest: SHA-256 of the accesses its machine made, comparable with the recording's.
        n_accesses: how many.
        fast_before, fast_after: share served by fast memory in the first tick, and over the last tenth.
        fast_series, tick_end_ns: that share and the time at the end of each tick.
        requested, migrated: marks that made a page READY or found it so, and requests whose folio moved.
        moved_at_fault: PMD-mapped folios that moved where they faulted, without a request.
        wrong_node: folios handed over for another node than asked for, or for one that is not there.
        wrong_node_known: False where neither records nor a ledger keep the node that was asked for.
        lost: marks that ended without a move, by reason; :class:`gpuscan.compare.endings.Endings` tells those
            apart that needed none.
        n_rounds: ``migrate_pages()`` rounds, those at the fault included.
        moved_used, moved_unused: moved folios that were accessed afterwards, and never, those at the fault
            included; 0 of a trace.
        examined: pages (for a design with lists: entries) that were looked at.
        unit: ``pages`` or ``entries``.
    """

    design: str
    accesses_digest: str = ""
    n_accesses: int = 0
    fast_before: float = float("nan")
    fast_after: float = float("nan")
    fast_series: tuple[float, ...] = ()
    tick_end_ns: tuple[int, ...] = ()
    requested: int = 0
    migrated: int = 0
    moved_at_fault: int = 0
    wrong_node: int = 0
    wrong_node_known: bool = True
    lost: dict[str, int] = field(default_factory=dict)
    n_rounds: int = 0
    moved_used: int = 0
    moved_unused: int = 0
    examined: int = 0
    unit: str = "pages"


class UntilHorizon:
    """A :class:`gpuscan.engine.stages.Source` that ends at a moment, in the middle of a tick if need be.

    The engine lets a tick last as long as its migrations, so it would overshoot.
    """

    def __init__(self, source: Source, horizon_ns: int) -> None:
        self._source = source
        self._horizon_ns = horizon_ns
        self._end_ns = 0

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """See :class:`gpuscan.engine.stages.Source`."""
        self._end_ns = min(self._horizon_ns, now_ns + duration_ns)
        return self._source.sample(now_ns, self._end_ns - now_ns)

    def finished(self) -> bool:
        """Return whether the moment has come."""
        return self._end_ns >= self._horizon_ns or self._source.finished()


def run_closed(
    design: str, settings: Settings, stream: Stream, on_time: OnTick | None = None
) -> ClosedResult:
    """Run a design on a machine of its own.

    Raises:
        InputError: the design has nothing to do on this machine.
        RunFailedError: conservation broke, or its machine made other accesses than the stream's.
    """
    opened = stream.open()
    ticked = None if on_time is None else _passed(on_time)
    run = _run_store if DESIGNS.get(design).runs_on_a_store else _run_model
    result = run(design, opened, settings, stream, ticked)
    result.accesses_digest = opened.digest()
    if result.accesses_digest != stream.digest:
        raise RunFailedError(
            f"{design} was given other accesses than were recorded (SHA-256 {result.accesses_digest[:16]}, "
            f"recorded {stream.digest[:16]}); this is a bug in gpuscan, report it with the workload and the "
            "seed"
        )
    return result


def _passed(on_time: OnTick) -> Callable[[TickReport], None]:
    return lambda tick: on_time(tick.duration_ns)


def _run_store(
    name: str,
    opened: Opened,
    settings: Settings,
    stream: Stream,
    on_tick: Callable[[TickReport], None] | None,
) -> ClosedResult:
    policy, machine = settings.policy_of(name), opened.machine
    with WatchedStore(
        settings.topology,
        policy.record_format,
        "cpu",
        large_folios=machine.has_large_folios,
        n_threads=settings.n_threads,
    ) as store:
        for event in machine.folios():
            store.admit(event.allocated, event.order)
        source = UntilHorizon(opened.source, stream.horizon_ns)
        migrator = WatchedMigrator(machine, lambda: engine.now_ns)
        n_examined = 0

        def count(tick: int, plan: Plan, batches: Batches) -> None:
            nonlocal n_examined
            n_examined += plan.examined_pages

        engine = Engine(store, source, migrator, policy, plan_sink=count)
        report = engine.run(1 << 40, on_tick)
        result = _of_report(name, report, (migrator,), stream)
        result.examined = n_examined
        # A record with a node goes where it says: the last that was asked for.
        result.wrong_node_known = record_format(policy.record_format).has_nid
        if n_at_home := report.ledger.rejected["own_node"]:
            result.lost[OWN_NODE] = n_at_home  # models take such a mark, and it ends later
        # The engine's ledger has no request for a mark on a READY page; those of models do.
        result.requested += report.ledger.refreshed
        if store.n_overwritten:
            result.lost[OVERWRITTEN_NID] = store.n_overwritten
        return result


def _run_model(
    name: str,
    opened: Opened,
    settings: Settings,
    stream: Stream,
    on_tick: Callable[[TickReport], None] | None,
) -> ClosedResult:
    policy, machine = settings.policy_of(name), opened.machine
    migrator = WatchedMigrator(machine, lambda: engine.now_ns, has_vma=False)
    at_fault = WatchedMigrator(machine, lambda: engine.now_ns)
    design, model = DESIGNS.get(name), make_model(name, SimulatedPages(machine, migrator), policy)
    settings.tune(model)
    engine = DesignEngine(design, model, machine, opened.source, policy, at_fault)
    report = engine.run(stream.horizon_ns // policy.interval_ns, on_tick)
    result = _of_report(name, report, (migrator, at_fault), stream)
    counters = report.counters
    result.moved_at_fault = counters["thp_migrated_at_fault"]
    result.wrong_node = counters["sent_to_wrong_node"]
    result.unit = design.looks_at
    result.examined = design.n_looked_at(counters)
    return result


def _of_report(
    name: str, report: RunReport, migrators: tuple[WatchedMigrator, ...], stream: Stream
) -> ClosedResult:
    summary = summarize(report)
    result = ClosedResult(name, n_accesses=int(summary.metrics.get("accesses", 0)))
    if summary.fast is not None:
        result.fast_before, result.fast_after = summary.fast.before, summary.fast.after
        result.fast_series = summary.fast.series
    result.tick_end_ns = tuple(
        min(stream.horizon_ns, tick.now_ns + tick.duration_ns) for tick in report.ticks
    )
    result.requested, result.migrated = report.ledger.requested, report.ledger.migrated
    result.lost = {reason: count for reason, count in report.ledger.dropped.most_common() if count}
    result.n_rounds = sum(migrator.n_rounds for migrator in migrators)
    if stream.recording is not None:
        for migrator in migrators:
            n_used, n_unused = migrator.used_and_not(stream.recording)
            result.moved_used += n_used
            result.moved_unused += n_unused
    return result
