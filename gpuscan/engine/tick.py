"""The loop that owns a tick: sample, mark, scan, batch, migrate, book.

One round, in order::

    source.sample -> frees and allocations -> store.request / store.record
    -> folios whose back-off is over go back -> scan of the nodes that are due and active
    -> batches by target -> migrator -> outcomes into ledger, back-off and store
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.arguments import flag, function, has_methods, instance, items, shown, text, whole
from gpuscan.base.errors import ArgumentError, RunFailedError
from gpuscan.engine.back_off import Backoff
from gpuscan.engine.ledger import Ledger
from gpuscan.engine.policy import Policy
from gpuscan.engine.rate_limit import RateLimit
from gpuscan.engine.report import RunReport, TickReport, Walks
from gpuscan.engine.stages import (
    Clocked,
    FolioEvents,
    MigrateResult,
    MigrateStatus,
    Migrator,
    Sampled,
    Source,
    Witness,
)
from gpuscan.kernels.api import ReleaseOutcome
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.store.contract import PageStore
from gpuscan.store.plan import Batch, Batches, Plan

__all__ = ["N_TICKS_MAX", "Engine", "PlanSink", "RunReport", "TickReport", "Walks"]

_RETRIED = np.array([MigrateStatus.EAGAIN, MigrateStatus.EBUSY, MigrateStatus.ENOMEM], dtype=np.int16)
"""Refusals that may pass; all others are final."""

PlanSink = Callable[[int, Plan, Batches], None]
"""Called with the tick, each plan and its batches before they are migrated."""

N_TICKS_MAX = (1 << 31) - 1
"""Ticks are 32 bits in a plan file."""
_BUSY_NS_MAX = 86_400 * 10**9
"""Of the busiest migrator in one tick: a day moves 80 TiB at 1 GB/s."""
_STATE = (
    "now_ns",
    "n_ticks",
    "last_busy_ns",
    "active_nids",
    "last_scan_ns",
    "ledger",
    "refusals",
    "backoff",
    "rate_limit",
)


class Engine:
    """Runs a source and a migrator on a store.

    Args:
        store: of ``policy.record_format``.
        source: where marks come from.
        migrator: what moves pages.
        policy: the settings.
        verify_every_tick: count READY records after every tick and compare with the ledger
            (reads the whole store; it is always done at the end of :meth:`run`).
        plan_sink: sees every plan before it is migrated.
        witness: is told which pages were marked, claimed and moved.
        clocked: is told how long each batch took.
    """

    def __init__(
        self,
        store: PageStore,
        source: Source,
        migrator: Migrator,
        policy: Policy,
        *,
        verify_every_tick: bool = False,
        plan_sink: PlanSink | None = None,
        witness: Witness | None = None,
        clocked: Clocked | None = None,
    ) -> None:
        if not isinstance(store, PageStore):
            raise ArgumentError(f"an engine's store is {shown(store)}; give a gpuscan.Store")
        has_methods("an engine's source", source, ("sample", "finished"), "give a gpuscan.Source")
        has_methods("an engine's migrator", migrator, ("migrate",), "give a gpuscan.Migrator")
        instance("an engine's policy", policy, Policy, "give a gpuscan.Policy")
        flag("an engine's verify_every_tick", verify_every_tick)
        function("an engine's plan_sink", plan_sink, "give one of tick, plan and batches")
        if witness is not None:
            has_methods(
                "an engine's witness",
                witness,
                ("marked", "claimed", "moved", "no_room"),
                "give one, or leave it out",
            )
        if store.fmt.name != policy.record_format:
            raise ArgumentError(
                f"an engine's policy is for records of format {policy.record_format}, and its store has "
                f"{store.fmt.name}; open the store for the policy's, or change the policy"
            )
        store.check_threshold(policy.freq_threshold)
        self.store = store
        self.source = source
        self.migrator = migrator
        self.policy = policy
        self.ledger = Ledger()
        self.refusals: Counter[str] = Counter()
        self.now_ns = 0
        self.n_ticks = 0
        self._verify_every_tick = verify_every_tick
        self._plan_sink = plan_sink
        if clocked is not None:
            has_methods("an engine's clocked", clocked, ("batch",), "give one, or leave it out")
        self._witness, self._clocked = witness, clocked
        self._backoff = Backoff()
        self._active = np.zeros(N_NODES_MAX, dtype=np.uint8)
        self._interval_ns = np.full(N_NODES_MAX, policy.interval_ns, dtype=np.int64)
        for nid, interval_ns in policy.node_interval_ns:
            store.topology.node(nid)
            self._interval_ns[nid] = interval_ns
        self._last_scan_ns = np.zeros(N_NODES_MAX, dtype=np.int64)
        self._last_busy_ns = 0
        self._rate_limit: RateLimit | None = None
        if policy.rate_limit_bytes_per_s:
            targets = (
                node.nid
                for node in store.topology.nodes
                if node.present_pages and (not policy.one_thread or store.topology.is_top_tier(node.nid))
            )
            self._rate_limit = RateLimit(policy.rate_limit_bytes_per_s, targets, int(self._interval_ns.max()))
        self._note_tiers()

    def run(
        self,
        n_ticks: int,
        on_tick: Callable[[TickReport], None] | None = None,
        *,
        earlier: Sequence[TickReport] = (),
    ) -> RunReport:
        """Run up to ``n_ticks`` ticks (fewer when the source ends), put back what waits, prove conservation.

        Args:
            n_ticks: of the whole run.
            on_tick: sees each tick that is run now; between two ticks everything is at rest.
            earlier: ticks that were run before :meth:`restore`; they count and are reported.

        Raises:
            RunFailedError: conservation broke.
        """
        n_ticks = whole("run: n_ticks", n_ticks)
        function("run: on_tick", on_tick, "give one of a TickReport")
        ticks = [*items("run: earlier", earlier, TickReport, "give the reports of earlier ticks")]
        try:
            while len(ticks) < n_ticks and not self.source.finished():
                report = self.tick()
                ticks.append(report)
                if on_tick is not None:
                    on_tick(report)
        except BaseException:
            with suppress(Exception):  # whatever broke the run breaks this too, and is what to report
                self.put_back()
            raise
        self.put_back()
        self.verify()
        return self.report(ticks)

    def use_store(self, store: PageStore, why: str) -> None:
        """Go on with the store of a machine whose memory has changed; between two ticks.

        Args:
            store: of the machine as it is now, with nothing READY, of the same record format.
            why: the reason in the ledger of all requests that wait: they end.

        Raises:
            ArgumentError: either is something else; nothing has changed.
        """
        if not isinstance(store, PageStore):
            raise ArgumentError(f"use_store: store is {shown(store)}; give a gpuscan.Store")
        text("use_store: why", why)
        self.put_back()
        for plan in self.store.drain():
            self._book_ended(plan.n_unknown_target, plan.n_superseded, plan.n_freed)
            self.ledger.claimed(len(plan))
            self.ledger.ended(why, len(plan))
        ended = self.store.take_ended_ahead()
        self._book_ended(ended.unknown_target, ended.superseded, ended.freed)
        self.verify()
        self.store = store
        self._active[:] = 0
        self._note_tiers()

    def _note_tiers(self) -> None:
        self._tier = np.zeros(N_NODES_MAX, dtype=np.int64)
        for node in self.store.topology.nodes:
            self._tier[node.nid] = node.tier

    def put_back(self) -> None:
        """End the waits of all folios that back off: they are READY again."""
        self._release_due(1 << 62)

    def verify(self) -> None:
        """Prove conservation.

        Raises:
            RunFailedError: it broke.
        """
        self.ledger.verify(self.store.count_ready(), len(self._backoff))

    def report(self, ticks: list[TickReport]) -> RunReport:
        """Return what happened so far, with the reports of ``ticks``."""
        ticks = list(items("report: ticks", ticks, TickReport, "give the reports of the ticks"))
        return RunReport(
            self.store.device_name,
            self.store.device_reason,
            self.store.topology.name,
            self.store.n_pages,
            self.policy,
            ticks,
            self.ledger,
            self.refusals,
            recovery_s=self.store.recovery_s(),
        )

    def tick(self) -> TickReport:
        """Run one tick. Time passes: the interval, or the last migration where that took longer.

        Simulated time, unless the source says how much real time passed.
        """
        duration_ns = max(self.policy.interval_ns, self._last_busy_ns)
        report = TickReport(self.n_ticks, self.now_ns, duration_ns)
        calls_before, bytes_before = self.store.network()
        sampled = self.source.sample(self.now_ns, duration_ns)
        if not isinstance(sampled, Sampled):
            raise RunFailedError(
                f"the source {type(self.source).__name__} returned {shown(sampled)}; return a gpuscan.Sampled"
            )
        if sampled.elapsed_ns is not None:
            report.duration_ns = sampled.elapsed_ns
        self.now_ns += report.duration_ns
        if self._rate_limit is not None:
            self._rate_limit.pass_time(report.duration_ns)
        report.metrics = sampled.metrics
        self._apply(sampled.events)
        self._mark(sampled, report)
        self._release_due(self.n_ticks)
        self._active |= self.store.take_active()
        due = self.now_ns - self._last_scan_ns >= self._interval_ns
        nodes = (self._active.astype(np.bool_) & due).astype(np.uint8)
        if nodes.any():
            self._scan_and_migrate(nodes, report)
        self._last_busy_ns = int(report.migrate_busy_ns)
        report.pending = self.ledger.pending
        if self._verify_every_tick:
            self.verify()
        calls, n_bytes = self.store.network()
        report.network_calls, report.network_bytes = calls - calls_before, n_bytes - bytes_before
        self.n_ticks += 1
        return report

    def state(self) -> dict[str, Any]:
        """Return all there is to know between two ticks, for :meth:`restore`.

        Store, source and migrator have states of their own.
        """
        return {
            "now_ns": self.now_ns,
            "n_ticks": self.n_ticks,
            "last_busy_ns": self._last_busy_ns,
            "active_nids": np.flatnonzero(self._active).tolist(),
            "last_scan_ns": self._last_scan_ns.tolist(),
            "ledger": self.ledger.state(),
            "refusals": list(self.refusals.items()),
            "backoff": self._backoff.state(),
            "rate_limit": None if self._rate_limit is None else self._rate_limit.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, an engine of the same policy.

        Raises:
            ArgumentError: it was of another; for one, it had a rate limit and this one has none.
        """
        found = checked.table(state, "the engine", _STATE)
        if (found["rate_limit"] is None) != (self._rate_limit is None):
            raise ArgumentError("engine: one of the two has a rate limit; restore one of the same policy")
        if self._rate_limit is not None:
            self._rate_limit.restore(found["rate_limit"])
        self.now_ns = checked.whole(found["now_ns"], 0, checked.TIME_NS_MAX, "now_ns")
        self.n_ticks = checked.whole(found["n_ticks"], 0, N_TICKS_MAX, "n_ticks")
        self._last_busy_ns = checked.whole(found["last_busy_ns"], 0, _BUSY_NS_MAX, "last_busy_ns")
        active = checked.wholes(found["active_nids"], 0, N_NODES_MAX - 1, "active_nids")
        self._active[:] = 0
        self._active[active] = 1
        self._last_scan_ns[:] = checked.wholes(
            found["last_scan_ns"], 0, checked.TIME_NS_MAX, "last_scan_ns", N_NODES_MAX
        )
        self.ledger.restore(found["ledger"])
        self.refusals = Counter(checked.counts(found["refusals"], "refusals"))
        self._backoff.restore(found["backoff"], self.store.n_pages, self.store.fmt.dtype)

    def _mark(self, sampled: Sampled, report: TickReport) -> None:
        policy = self.policy
        before = self.ledger.requested, self.ledger.refreshed, self.ledger.rejected.total()
        for part in sampled.produced:
            if self._witness is not None:
                self._witness.marked(report.now_ns, part.pfns)
            if part.kind == "request":
                counts = self.store.request(part.pfns, part.nids)
            else:
                counts = self.store.record(
                    part.pfns,
                    part.nids,
                    now_jiffies=policy.jiffies(self.now_ns),
                    window_jiffies=policy.jiffies(policy.window_in_force_ns),
                    threshold=policy.freq_threshold if part.threshold is None else part.threshold,
                    drop_top_tier=policy.drop_top_tier,
                )
            self.ledger.produced(counts)
        report.marked = self.ledger.requested - before[0]
        report.refreshed = self.ledger.refreshed - before[1]
        report.rejected = self.ledger.rejected.total() - before[2]

    def _scan_and_migrate(self, nodes: NDArray[np.uint8], report: TickReport) -> None:
        self._last_scan_ns[nodes.astype(np.bool_)] = self.now_ns
        self._active[nodes.astype(np.bool_)] = 0
        busy_ns: Counter[int] = Counter()
        plans = self.store.drain(
            capacity=self.policy.capacity_folios or None,
            path=self.policy.scan_path,
            node_mask=nodes,
            budget_pages=self._budget_pages(),
            now_jiffies=self.policy.jiffies(self.now_ns),
        )
        try:
            for plan in plans:
                self._take(plan, report, busy_ns)
        finally:
            plans.close()
            ended = self.store.take_ended_ahead()
            self._book_ended(ended.unknown_target, ended.superseded, ended.freed)
        # What a budget left READY raised no new flag; the nodes stay active for it.
        if self.ledger.pending:
            self._active |= nodes
        # A migrator per target, or one for all.
        report.migrate_busy_ns = (
            busy_ns.total() if self.policy.one_thread else max(busy_ns.values(), default=0)
        )

    def _book_ended(self, n_unknown_target: int, n_superseded: int, n_freed: int) -> None:
        """Book folios whose requests ended between their claim and the hand-out of a plan."""
        self.ledger.claimed(n_unknown_target + n_superseded + n_freed)
        self.ledger.put_back(0, n_superseded)
        self.ledger.ended("unknown target in the record", n_unknown_target)
        self.ledger.ended("freed", n_freed)

    def _take(self, plan: Plan, report: TickReport, busy_ns: Counter[int]) -> None:
        self._book_ended(plan.n_unknown_target, plan.n_superseded, plan.n_freed)
        self.ledger.claimed(len(plan))
        report.path = plan.path
        report.candidates += len(plan) + plan.n_unknown_target
        report.candidate_pages += plan.n_pages
        report.scan_ns += plan.scan_ns
        report.examined_bytes += plan.examined_bytes
        report.n_plans += 1
        if self._rate_limit is not None:
            for nid in plan.targets.tolist():
                self._rate_limit.spend(nid, plan.pages_for(nid))
        self._migrate(plan, report, busy_ns)

    def _budget_pages(self) -> dict[int, int] | int | None:
        """Return the base pages each target may take now: the tighter of budget and rate."""
        per_tick = self.policy.budget_pages
        if self._rate_limit is None:
            return per_tick or None
        targets = (node.nid for node in self.store.topology.nodes if node.present_pages)
        budgets = dict.fromkeys(targets, per_tick) if per_tick else {}
        return budgets | {nid: min(n, per_tick or n) for nid, n in self._rate_limit.pages().items()}

    def _migrate(self, plan: Plan, report: TickReport, busy_ns: Counter[int]) -> None:
        decided = np.zeros(len(plan), dtype=np.bool_)
        try:
            batches = plan.batches(self.policy.batch_pages)
            if self._plan_sink is not None:
                self._plan_sink(report.tick, plan, batches)
            report.n_batches += len(batches)
            folio_pages = plan.folio_pages
            if self._witness is not None:
                self._witness.claimed(report.now_ns, plan.flat, folio_pages)
            for batch in self._in_order(batches):
                part = slice(batch.lo, batch.hi)
                result = self.migrator.migrate(batch.target_nid, plan.pfn[part], folio_pages[part])
                if not isinstance(result, MigrateResult):
                    raise RunFailedError(
                        f"the migrator {type(self.migrator).__name__} returned {shown(result)}; "
                        "return a gpuscan.MigrateResult"
                    )
                if len(result.status) != batch.hi - batch.lo:
                    raise RunFailedError(
                        f"the migrator {type(self.migrator).__name__} returned {len(result.status)} statuses "
                        f"for a batch of {batch.hi - batch.lo} folios; return one per folio"
                    )
                decided[part] = True
                report.batch_pages += batch.n_pages
                busy_ns[batch.target_nid] += int(result.busy_ns)
                if self._clocked is not None:
                    made_ns = report.now_ns + report.duration_ns
                    facts = (batch.target_nid, batch.hi - batch.lo, batch.n_pages)
                    self._clocked.batch(made_ns, *facts, result.busy_ns)
                if self._witness is not None and result.n_no_room:
                    self._witness.no_room(batch.target_nid, result.n_no_room)
                self._book(plan, part, folio_pages[part], result.status, report)
                if self.policy.one_thread:
                    self._count_demoted(batch.target_nid, plan.flat[part], folio_pages[part], result, report)
                self.refusals.update(result.reasons)
                self._apply(result.events)
        except BaseException:
            # A migrator or a sink that failed leaves the rest of the plan claimed: nothing may be lost.
            with suppress(Exception):  # a store that broke cannot take it back; its failure is what to report
                self._release(plan.flat[~decided], plan.words[~decided])
            raise

    def _in_order(self, batches: Batches) -> Iterable[Batch]:
        """Return batches by target; with one thread those for lower tiers first, which make room."""
        if not self.policy.one_thread:
            return batches
        return sorted(batches, key=lambda batch: -self._tier[batch.target_nid])

    def _count_demoted(
        self,
        target_nid: int,
        flats: NDArray[np.int64],
        n_pages: NDArray[np.int64],
        result: MigrateResult,
        report: TickReport,
    ) -> None:
        """Add base pages that went to a lower tier to the metric ``demoted_pages``."""
        down = self._tier[self.store.page_map.nid_of_flat(flats)] < self._tier[target_nid]
        moved = result.status == MigrateStatus.MOVED
        before = report.metrics.get("demoted_pages", 0)
        report.metrics["demoted_pages"] = before + int(n_pages[down & moved].sum())

    def _book(
        self,
        plan: Plan,
        part: slice,
        folio_pages: NDArray[np.int64],
        status: NDArray[np.int16],
        report: TickReport,
    ) -> None:
        flats, words = plan.flat[part], plan.words[part]
        moved = status == MigrateStatus.MOVED
        n_moved = int(moved.sum())
        is_all = n_moved == len(flats)  # as it is nearly always: then nothing is picked
        moved_pages = folio_pages if is_all else folio_pages[moved]
        self.ledger.moved(n_moved)
        report.migrated += n_moved
        report.migrated_pages += int(moved_pages.sum())
        if self._witness is not None:
            self._witness.moved(report.now_ns, flats if is_all else flats[moved], moved_pages)
        if is_all:
            self._backoff.settled(flats)
            return
        report.refused += len(flats) - n_moved
        retry = np.isin(status, _RETRIED) if self.policy.on_refused == "retry" else np.zeros_like(moved)
        held = status == MigrateStatus.EDQUOT
        if held.any():
            self._release(flats[held], words[held])
        self._drop(status, ~moved & ~retry & ~held, "", report)
        attempts = self._backoff.refused(flats[retry])
        exhausted = np.flatnonzero(retry)[attempts >= self.policy.max_attempts]
        give_up = np.zeros_like(moved)
        give_up[exhausted] = True
        self._drop(status, give_up, f" after {self.policy.max_attempts} attempts", report)
        self._backoff.settled(flats[(~retry & ~held) | give_up])
        waits = retry & ~give_up
        self._backoff.wait(flats[waits], words[waits], report.tick + self.policy.backoff_ticks)

    def _drop(
        self,
        status: NDArray[np.int16],
        which: NDArray[np.bool_],
        suffix: str,
        report: TickReport,
    ) -> None:
        if not which.any():  # the usual case, and np.unique() is slow; a huge page is a batch of its own
            return
        codes, counts = np.unique(status[which], return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            self.ledger.ended(f"refused: {_status_name(code)}{suffix}", count)
            report.dropped += count

    def _release_due(self, tick: int) -> None:
        for flats, words in self._backoff.due(tick):
            self._release(flats, words)

    def _release(self, flats: NDArray[np.int64], words: NDArray[Any]) -> None:
        counts = self.store.release(flats, words)
        self.ledger.put_back(counts[ReleaseOutcome.RESTORED], counts[ReleaseOutcome.SUPERSEDED])
        self.ledger.ended("freed while it waited", counts[ReleaseOutcome.INELIGIBLE])

    def _apply(self, events: Iterable[FolioEvents]) -> None:
        for event in events:
            if len(event.freed):
                self.ledger.ended(f"{event.why} while it waited", self._backoff.freed(event.freed))
                self.ledger.ended_pending(event.why, self.store.forget(event.freed))
            if len(event.allocated):
                self.store.admit(event.allocated, event.order)


def _status_name(code: int) -> str:
    try:
        return MigrateStatus(code).name
    except ValueError:
        return f"errno {-code}"
