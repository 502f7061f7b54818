"""The engine against a scripted source and migrator: nothing lost, whatever is refused, freed or raised."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.engine.policy import Policy
from gpuscan.engine.stages import FolioEvents, MigrateResult, MigrateStatus, Produced, Sampled
from gpuscan.engine.tick import Engine
from gpuscan.kernels.api import Outcome, RawPlan, ScanRequest
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.store.plan import Batches, Plan
from gpuscan.store.single import Store
from machines import tiered

NONE = np.empty(0, dtype=np.int64)


@dataclass
class Script:
    """A source that hands out prepared ticks."""

    ticks: list[Sampled]

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        return self.ticks.pop(0) if self.ticks else Sampled(())

    def finished(self) -> bool:
        return False


@dataclass
class Verdicts:
    """A migrator whose answer for each PFN is fixed: moved unless told otherwise."""

    refuse: dict[int, MigrateStatus] = field(default_factory=dict)
    raise_at_batch: int = -1
    busy_ns: float = 0.0
    moved: list[tuple[int, int]] = field(default_factory=list)
    n_batches: int = 0
    attempts: Counter[int] = field(default_factory=Counter)

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        if self.n_batches == self.raise_at_batch:
            raise OSError("the migrator broke")
        self.n_batches += 1
        self.attempts.update(pfns.tolist())
        verdicts = [self.refuse.get(pfn, MigrateStatus.MOVED) for pfn in pfns.tolist()]
        status = np.array(verdicts, dtype=np.int16)
        moved = pfns[status == MigrateStatus.MOVED]
        self.moved += [(pfn, target_nid) for pfn in moved.tolist()]
        reasons = Counter(MigrateStatus(code).name for code in status.tolist() if code < 0)
        return MigrateResult(status, dict(reasons), self.busy_ns)


def open_store(**options: object) -> Store:
    store = Store(tiered(), device="reference", **options)  # type: ignore[arg-type]
    store.load_pages(store.page_map.present_bits())
    return store


def pfns_of(store: Store, nid: int, *pages: int) -> NDArray[np.int64]:
    ((start, _),) = store.topology.node(nid).zones[0].present
    return np.array([start + page for page in pages], dtype=np.int64)


def request(pfns: NDArray[np.int64], nid: int) -> Sampled:
    return Sampled((Produced("request", pfns, np.full(len(pfns), nid, dtype=np.int32)),))


def test_requests_are_moved_once_and_booked() -> None:
    store = open_store()
    pages = pfns_of(store, 2, 5, 700, 3)
    migrator = Verdicts()
    report = Engine(store, Script([request(pages, 0)]), migrator, Policy(), verify_every_tick=True).run(3)
    assert migrator.moved == [(pfn, 0) for pfn in sorted(pages.tolist())]
    assert report.ledger.migrated == report.ledger.requested == 3
    assert [tick.path == "idle" for tick in report.ticks] == [False, True, True]


def test_a_refused_folio_comes_back_after_its_back_off_and_ends_after_its_attempts() -> None:
    store = open_store()
    (page,) = pfns_of(store, 2, 5).tolist()
    migrator = Verdicts({page: MigrateStatus.EAGAIN})
    policy = Policy(backoff_ticks=2, max_attempts=3)
    report = Engine(
        store, Script([request(np.array([page]), 0)]), migrator, policy, verify_every_tick=True
    ).run(9)
    assert [tick.candidates for tick in report.ticks] == [1, 0, 1, 0, 1, 0, 0, 0, 0]
    assert migrator.attempts[page] == 3
    assert report.ledger.dropped == {"refused: EAGAIN after 3 attempts": 1}
    assert report.refusals == {"EAGAIN": 3}


def test_a_new_request_has_all_its_attempts() -> None:
    store = open_store()
    (page, other) = pfns_of(store, 2, 5, 6).tolist()
    migrator = Verdicts({page: MigrateStatus.EAGAIN})
    policy = Policy(backoff_ticks=1, max_attempts=2)
    script = Script([request(np.array([page, other]), 0), *[Sampled(())] * 3, request(np.array([page]), 0)])
    report = Engine(store, script, migrator, policy, verify_every_tick=True).run(8)
    assert migrator.attempts[page] == 4
    assert report.ledger.dropped == {"refused: EAGAIN after 2 attempts": 2}


def test_a_final_refusal_or_the_drop_policy_ends_the_request_at_once() -> None:
    store = open_store()
    a, b = pfns_of(store, 2, 5, 6).tolist()
    migrator = Verdicts({a: MigrateStatus.EACCES, b: MigrateStatus.EAGAIN})
    policy = Policy(on_refused="drop")
    report = Engine(store, Script([request(np.array([a, b]), 0)]), migrator, policy).run(4)
    assert report.ledger.dropped == {"refused: EACCES": 1, "refused: EAGAIN": 1}
    assert migrator.n_batches == 1


def test_a_waiting_request_is_superseded_by_a_newer_one() -> None:
    store = open_store()
    page = pfns_of(store, 2, 5)
    migrator = Verdicts({int(page[0]): MigrateStatus.EAGAIN})
    script = Script([request(page, 0), Sampled(()), request(page, 1)])
    report = Engine(store, script, migrator, Policy(backoff_ticks=2), verify_every_tick=True).run(3)
    assert report.ledger.requested == 2
    assert report.ledger.superseded == 1


def test_a_node_is_scanned_at_its_own_interval() -> None:
    store = open_store()
    slow, fast = pfns_of(store, 2, 5), pfns_of(store, 3, 5)
    policy = Policy(interval_ns=100, node_interval_ns=((2, 300),))
    script = Script([Sampled(request(slow, 0).produced + request(fast, 1).produced), request(slow, 1)])
    report = Engine(store, script, Verdicts(), policy, verify_every_tick=True).run(4)
    assert [tick.migrated for tick in report.ticks] == [1, 0, 1, 0]
    assert report.ledger.refreshed == 1


def test_what_a_freed_page_was_waiting_for_ends() -> None:
    store = open_store()
    waiting, pending = pfns_of(store, 2, 5), pfns_of(store, 3, 5)
    freed = store.page_map.flat_of_pfn(np.concatenate([waiting, pending]))
    script = Script(
        [
            request(waiting, 0),
            Sampled(request(pending, 1).produced),
            Sampled((), events=(FolioEvents(freed, NONE),)),
        ]
    )
    policy = Policy(backoff_ticks=5, interval_ns=100, node_interval_ns=((3, 1000),))
    migrator = Verdicts({int(waiting[0]): MigrateStatus.EAGAIN})
    report = Engine(store, script, migrator, policy, verify_every_tick=True).run(8)
    assert report.ledger.dropped == {"freed while it waited": 1, "freed": 1}
    assert report.ledger.pending == 0


@pytest.mark.parametrize(("free_at", "attempts"), [(2, 2), (6, 3)])
def test_a_folio_that_waits_for_two_requests_ends_both_when_it_is_freed(free_at: int, attempts: int) -> None:
    store = open_store()
    page = pfns_of(store, 2, 5)
    flat = store.page_map.flat_of_pfn(page)
    freed = Sampled((), events=(FolioEvents(flat, NONE), FolioEvents(NONE, flat)))
    script = Script([request(page, 0), request(page, 1), *[Sampled(())] * 6])
    script.ticks[free_at] = freed
    migrator = Verdicts({int(page[0]): MigrateStatus.EAGAIN})
    engine = Engine(store, script, migrator, Policy(backoff_ticks=5), verify_every_tick=True)
    report = engine.run(12)
    assert report.ledger.pending == report.ledger.in_flight == 0
    assert migrator.attempts[int(page[0])] == attempts


def test_the_newest_request_stands_when_a_run_ends() -> None:
    store = open_store()
    page = pfns_of(store, 2, 5)
    migrator = Verdicts({int(page[0]): MigrateStatus.EAGAIN})
    script = Script([request(page, 0), request(page, 1)])
    report = Engine(store, script, migrator, Policy(backoff_ticks=9)).run(2)
    assert report.ledger.superseded == 1
    assert store.scan().target_of_folio().tolist() == [1]


def test_allocated_folios_become_eligible() -> None:
    store = Store(tiered(), device="reference", large_folios=True)
    head = pfns_of(store, 2, 512)
    allocated = FolioEvents(NONE, store.page_map.flat_of_pfn(head), order=9)
    marks = request(head + 100, 0).produced
    plans: list[tuple[int, Plan, Batches]] = []
    engine = Engine(
        store,
        Script([Sampled(marks, events=(allocated,))]),
        Verdicts(),
        Policy(),
        plan_sink=lambda *args: plans.append(args),
    )
    report = engine.run(1)
    ((_, plan, batches),) = plans
    assert plan.pfn.tolist() == head.tolist()
    assert batches.n_pages.tolist() == [512]
    assert report.ticks[0].migrated_pages == 512


def test_a_broken_migrator_loses_nothing() -> None:
    store = open_store()
    pages = pfns_of(store, 2, *range(100))
    migrator = Verdicts(raise_at_batch=1)
    engine = Engine(store, Script([request(pages, 0)]), migrator, Policy(batch_pages=10))
    with pytest.raises(OSError, match="the migrator broke"):
        engine.run(1)
    assert len(migrator.moved) == 10
    engine.ledger.verify(store.count_ready(), 0)
    assert engine.ledger.pending == 90
    assert engine.ledger.in_flight == 0


def test_a_moved_folio_is_eligible_where_it_is_now_and_no_longer_where_it_was() -> None:
    class Moves(Verdicts):
        def migrate(
            self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]
        ) -> MigrateResult:
            result = super().migrate(target_nid, pfns, n_pages)
            events = (FolioEvents(store.page_map.flat_of_pfn(pfns), store.page_map.flat_of_pfn(new)),)
            return replace(result, events=events)

    store = Store(tiered(), device="reference")
    old, new = pfns_of(store, 2, 5), pfns_of(store, 0, 9)
    store.admit(store.page_map.flat_of_pfn(old))
    Engine(store, Script([request(old, 0)]), Moves(), Policy(), verify_every_tick=True).run(1)
    assert store.request(old, 1)[Outcome.INELIGIBLE] == 1
    assert store.request(new, 1)[Outcome.ACCEPTED] == 1


def test_a_broken_sink_loses_nothing() -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    store = open_store()
    script = Script([request(pfns_of(store, 2, 1, 2), 0)])
    engine = Engine(store, script, Verdicts(), Policy(), plan_sink=full_disk)
    with pytest.raises(OSError, match="no space left"):
        engine.run(1)
    engine.ledger.verify(store.count_ready(), 0)
    assert engine.ledger.pending == 2


def test_time_passes_with_the_busiest_migrator() -> None:
    store = open_store()
    pages = pfns_of(store, 2, 1, 2)
    targets = np.array([0, 1], dtype=np.int32)
    script = Script([Sampled((Produced("request", pages, targets),))])
    report = Engine(store, script, Verdicts(busy_ns=7e8), Policy(interval_ns=100_000_000)).run(3)
    assert [tick.duration_ns for tick in report.ticks] == [100_000_000, 700_000_000, 100_000_000]


def test_a_rate_limit_holds_per_target_and_hottest_go_first() -> None:
    store = open_store()
    cold, hot = pfns_of(store, 2, *range(50)), pfns_of(store, 2, *range(1000, 1050))
    accesses = np.concatenate([cold, hot, hot])
    marks = Produced("record", accesses, np.zeros(len(accesses), dtype=np.int32))
    policy = Policy(freq_threshold=1, rate_limit_bytes_per_s=10 * 50 * 4096)
    migrator = Verdicts()
    report = Engine(store, Script([Sampled((marks,))]), migrator, policy, verify_every_tick=True).run(3)
    assert [tick.migrated for tick in report.ticks] == [50, 50, 0]
    assert [pfn for pfn, _ in migrator.moved] == hot.tolist() + cold.tolist()


def test_nodes_with_different_intervals_share_the_rate_of_their_target() -> None:
    store = open_store()
    pages = np.concatenate([pfns_of(store, nid, *range(300)) for nid in (2, 3)])
    policy = Policy(rate_limit_bytes_per_s=500 * 4096, node_interval_ns=((3, 300_000_000),))
    report = Engine(store, Script([request(pages, 0)]), Verdicts(), policy, verify_every_tick=True).run(6)
    assert sum(tick.migrated for tick in report.ticks) == 300  # in 0.6 s


def test_a_rate_lets_a_huge_page_through_once_it_can_be_paid_for() -> None:
    store = Store(tiered(), device="reference", large_folios=True)
    head = pfns_of(store, 2, 512)
    allocated = FolioEvents(NONE, store.page_map.flat_of_pfn(head), order=9)
    script = Script([Sampled(request(head, 0).produced, events=(allocated,))])
    policy = Policy(rate_limit_bytes_per_s=4 << 20)  # 1024 pages a second, 102.4 a tick
    report = Engine(store, script, Verdicts(), policy, verify_every_tick=True).run(6)
    assert [tick.migrated_pages for tick in report.ticks] == [0, 0, 0, 0, 512, 0]


def test_unspent_allowance_is_kept_for_a_second() -> None:
    store = open_store()
    script = Script([*[Sampled(())] * 30, request(pfns_of(store, 2, *range(2000)), 0)])
    policy = Policy(rate_limit_bytes_per_s=500 * 4096)
    report = Engine(store, script, Verdicts(), policy).run(33)
    assert [tick.migrated for tick in report.ticks[30:]] == [500, 50, 50]


def test_claims_superseded_inside_a_scan_are_booked(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    scan = store.kernels.scan
    pages = pfns_of(store, 2, 1, 2)

    def scan_and_lose_one(asked: ScanRequest) -> RawPlan:
        """Claim; then one page, marked again in between, is found not to fit and not to go back."""
        raw = scan(asked)
        if len(raw.flat) == 2:
            accepted = store.request(pages[:1], 1)[Outcome.ACCEPTED]
            engine.ledger.requested += accepted
            return RawPlan(
                offsets=np.array([0, 1, 1, 1, 1]),
                flat=raw.flat[1:],
                words=raw.words[1:],
                cursor=raw.cursor,
                path=raw.path,
                why=raw.why,
                examined_pages=raw.examined_pages,
                examined_bytes=raw.examined_bytes,
                n_superseded=1,
            )
        return raw

    monkeypatch.setattr(store.kernels, "scan", scan_and_lose_one)
    engine = Engine(store, Script([request(pages, 0)]), Verdicts(), Policy(), verify_every_tick=True)
    ledger = engine.run(2).ledger
    assert (ledger.requested, ledger.migrated, ledger.superseded) == (3, 2, 1)


def test_an_unreachable_threshold_is_refused() -> None:
    with pytest.raises(InputError, match="can never be reached"):
        Engine(open_store(), Script([]), Verdicts(), Policy(freq_threshold=8))


MARKS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 3)), max_size=25)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(MARKS, min_size=1, max_size=6),
    st.sets(st.integers(0, 40), max_size=20),
    st.sampled_from([0, 3]),
    st.sampled_from(["retry", "drop"]),
)
def test_conservation_holds_every_tick(
    ticks: list[list[tuple[int, int, int]]], refused: set[int], budget_pages: int, on_refused: str
) -> None:
    store = open_store()
    refuse = {
        int(pfn): MigrateStatus.EAGAIN if page % 2 else MigrateStatus.EINVAL
        for page in refused
        for nid in range(4)
        for pfn in pfns_of(store, nid, page)
    }
    script = Script(
        [
            Sampled(
                tuple(
                    Produced("request", pfns_of(store, source, page), np.array([target], dtype=np.int32))
                    for source, page, target in marks
                )
            )
            for marks in ticks
        ]
    )
    policy = Policy(budget_pages=budget_pages, on_refused=on_refused, backoff_ticks=2)  # type: ignore[arg-type]
    migrator = Verdicts(refuse)
    engine = Engine(store, script, migrator, policy, verify_every_tick=True)
    report = engine.run(len(ticks) + 3)
    ledger = report.ledger
    assert ledger.in_flight == 0
    assert len(migrator.moved) == ledger.migrated
    assert ledger.requested == ledger.pending + ledger.migrated + ledger.superseded + ledger.dropped.total()
    n_marks = sum(map(len, ticks))
    assert ledger.requested + ledger.refreshed + ledger.rejected.total() == n_marks
    for tick in report.ticks:
        assert not budget_pages or tick.migrated <= budget_pages * 4


def test_sections_are_as_assumed() -> None:
    assert tiered().page_map.n_pages == 4 * SECTION_PAGES


def test_a_migrator_that_miscounts_loses_nothing() -> None:
    class Miscounts(Verdicts):
        def migrate(self, *args: object) -> MigrateResult:
            return MigrateResult(np.zeros(1, dtype=np.int16), {}, 0.0)

    store = open_store()
    engine = Engine(store, Script([request(pfns_of(store, 2, *range(5)), 0)]), Miscounts(), Policy())
    with pytest.raises(RunFailedError, match="returned 1 statuses for a batch of 5 folios"):
        engine.run(1)
    assert engine.ledger.pending == store.count_ready() == 5


def test_a_store_that_breaks_is_reported_and_not_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    (page,) = pfns_of(store, 2, 5).tolist()
    script = Script([request(np.array([page]), 0)])
    engine = Engine(store, script, Verdicts({page: MigrateStatus.EAGAIN}), Policy(backoff_ticks=5))

    def fail(reason: str) -> None:
        raise RunFailedError(reason)

    def break_down(report: object) -> None:
        monkeypatch.setattr(store, "release", lambda *_: fail("failed in release"))
        fail("the disk is full")

    with pytest.raises(RunFailedError, match="the disk is full"):
        engine.run(3, break_down)


def test_what_a_budget_holds_back_is_ready_again_and_no_attempt_is_counted() -> None:
    store = open_store()
    pfns = pfns_of(store, 2, 0, 1, 2, 3)
    verdicts = Verdicts({int(pfn): MigrateStatus.EDQUOT for pfn in pfns[2:]})
    engine = Engine(
        store, Script([request(pfns, 0)]), verdicts, Policy(max_attempts=2), verify_every_tick=True
    )
    for _ in range(6):
        engine.tick()
    assert (engine.ledger.pending, engine.ledger.migrated) == (2, 2)
    assert engine.ledger.dropped.total() == 0
    assert engine.refusals == {"EDQUOT": 12}
    verdicts.refuse.clear()
    engine.tick()
    assert (engine.ledger.pending, engine.ledger.migrated) == (0, 4)


def test_a_source_may_ask_for_more_looks_than_the_policy() -> None:
    store = open_store()
    pfns = pfns_of(store, 2, 0, 1)
    nids = np.zeros(1, dtype=np.int32)
    seen = Sampled((Produced("record", pfns[:1], nids), Produced("record", pfns[1:], nids, threshold=4)))
    engine = Engine(
        store, Script([seen] * 4), Verdicts(), Policy(drop_top_tier=False), verify_every_tick=True
    )
    assert [engine.tick().migrated for _ in range(4)] == [0, 1, 0, 1 + 1]
    with pytest.raises(InputError, match="produced: threshold"):
        Produced("record", pfns, np.zeros(2, dtype=np.int32), threshold=0)
