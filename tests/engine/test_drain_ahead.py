"""Rounds over a store whose plans take their time: the next scan is begun before one is handed out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_engine import Script, Verdicts, request

from emulated import SlowBus
from gpuscan.base.errors import DeviceError
from gpuscan.engine.policy import Policy
from gpuscan.engine.stages import FolioEvents, MigrateResult
from gpuscan.engine.tick import Engine
from gpuscan.kernels.api import Outcome, RawPlan, ScanRequest
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.records.page_map import SECTION_PAGES, PageMap
from gpuscan.store.in_flight import EndedAhead
from gpuscan.store.plan import Plan
from gpuscan.store.single import Store
from machines import tiered
from stores import assert_indexed

NONE = np.empty(0, dtype=np.int64)
N_MARKED = 3000


def open_store(bus: SlowBus | None, *, large_folios: bool = False) -> Store:
    """Return a store on a device, or on the reference, with everything eligible and pages of CXL READY."""
    device: Any = "reference" if bus is None else CudaBackend(bus)
    store = Store(tiered(), device=device, large_folios=large_folios)
    store.load_pages(store.page_map.present_bits())
    flats = np.random.default_rng(3).permutation(2 * SECTION_PAGES)[:N_MARKED] + 2 * SECTION_PAGES
    store.request(store.page_map.pfn_of_flat(flats), flats % 2)
    return store


@pytest.fixture
def bus() -> SlowBus:
    return SlowBus()


def both(bus: SlowBus, **options: Any) -> list[Store]:
    return [open_store(bus, **options), open_store(None, **options)]


def assert_same(one: Plan, other: Plan) -> None:
    np.testing.assert_array_equal(one.offsets, other.offsets)
    for name in ("pfn", "flat", "words"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.cursor == other.cursor


def records_of(store: Store) -> NDArray[Any]:
    records: NDArray[Any] = store.dump().records
    return records


@pytest.mark.parametrize("start", [0, 3 * SECTION_PAGES + 512])
def test_the_next_scan_is_launched_before_a_plan_is_waited_for(bus: SlowBus, start: int) -> None:
    store = open_store(bus)
    store.cursor = start
    bus.log.clear()
    n_plans = sum(1 for _ in store.drain(capacity=512, path="indexed"))
    assert n_plans > 5
    scans = [at for at, event in enumerate(bus.log) if event == "scan_indexed"]
    assert len(scans) == n_plans
    for number in range(n_plans - 1):
        assert scans[number + 1] < bus.log.index(f"end {number}"), "a scan waited for a transfer"
    under_way = [0]
    for event in bus.happened:
        under_way.append(under_way[-1] + (1 if event.startswith("begin") else -1))
    assert (max(under_way), under_way[-1]) == (2, 0)
    assert store.count_ready() == 0


def test_plans_are_those_of_a_device_that_does_not_look_ahead(bus: SlowBus) -> None:
    stores = both(bus)
    for store in stores:
        store.cursor = 3 * SECTION_PAGES + 512
    for mine, theirs in zip(*(store.drain(capacity=512) for store in stores), strict=True):
        assert_same(mine, theirs)
        assert stores[0].cursor == stores[1].cursor
    assert stores[0].cursor == 3 * SECTION_PAGES + 512
    assert [store.count_ready() for store in stores] == [0, 0]


def test_a_budget_is_spent_alike_and_its_ties_go_on(bus: SlowBus) -> None:
    stores = both(bus)
    for n_left in (3000, 1600, 200, 0):
        rounds = [list(store.drain(capacity=512, budget_pages=700)) for store in stores]
        assert stores[0].count_ready() == stores[1].count_ready()
        assert len(rounds[0]) > 2 or n_left <= 200
        mine, theirs = (np.sort(np.concatenate([plan.flat for plan in plans])) for plans in rounds)
        np.testing.assert_array_equal(mine, theirs)
    assert stores[0].count_ready() == stores[1].count_ready() == 0


@pytest.mark.parametrize("n_taken", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("budget_pages", [None, 900])
def test_who_stops_early_loses_nothing(bus: SlowBus, n_taken: int, budget_pages: int | None) -> None:
    store, twin = both(bus)
    taken = []
    for each in (store, twin):
        with closing(each.drain(capacity=512, budget_pages=budget_pages)) as plans:
            taken.append([plan for _, plan in zip(range(n_taken), plans, strict=False)])
        assert len(taken[-1]) <= n_taken
    n_claimed = sum(map(len, taken[0]))
    assert n_claimed == sum(map(len, taken[1]))
    assert store.cursor == twin.cursor
    assert store.count_ready() == N_MARKED - n_claimed
    assert store.take_ended_ahead() == EndedAhead()
    np.testing.assert_array_equal(records_of(store), records_of(twin))
    assert_indexed(store.kernels)
    rest = [np.sort(np.concatenate([plan.flat for plan in each.drain()])) for each in (store, twin)]
    np.testing.assert_array_equal(rest[0], rest[1])


def test_a_loop_that_is_left_puts_back_at_once(bus: SlowBus) -> None:
    store = open_store(bus)
    n_claimed = 0
    for plan in store.drain(capacity=512):
        n_claimed = len(plan)
        break
    assert store.count_ready() == N_MARKED - n_claimed
    assert bus.happened == ["begin 0", "begin 1", "end 0", "end 1"]


@pytest.mark.parametrize("use", [Store.scan, lambda store: next(store.drain())])
def test_another_scan_finds_what_a_round_that_stands_still_had_begun(
    bus: SlowBus, use: Callable[[Store], Plan]
) -> None:
    store = open_store(bus)
    plans = store.drain(capacity=512)
    first = next(plans)
    assert store.count_ready() < N_MARKED - len(first)
    second = use(store)
    assert len(first) + len(second) == N_MARKED
    assert [len(plan) for plan in plans] == [0], "the round goes on from the cursor"


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("at_scan", [0, 1, 3])
def test_claims_go_back_when_a_scan_fails(
    bus: SlowBus, error: type[BaseException], at_scan: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bus)
    taken: list[Any] = []
    before, scan = records_of(store), store.kernels.scan
    calls = iter(range(100))

    def fail(asked: ScanRequest) -> RawPlan:
        if next(calls) == at_scan:
            raise error("on purpose")
        return scan(asked)

    monkeypatch.setattr(store.kernels, "scan", fail)
    plans = store.drain(capacity=512)
    with pytest.raises(error, match="on purpose"):
        taken.extend(iter(partial(next, plans), None))
    assert len(taken) == max(0, at_scan - 1)
    assert store.cursor == (taken[-1].cursor if taken else 0)
    for plan in taken:
        store.release(plan.flat, plan.words)
    np.testing.assert_array_equal(records_of(store), before)
    assert_indexed(store.kernels)


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("at_copy", [0, 2])
def test_claims_go_back_when_a_transfer_fails(bus: SlowBus, error: type[BaseException], at_copy: int) -> None:
    store = open_store(bus)
    before = records_of(store)
    plans = store.drain(capacity=512)
    taken = [next(plans) for _ in range(at_copy)]
    bus.error = error("on purpose")
    with pytest.raises(error, match="on purpose"):
        next(plans)
    for plan in taken:
        store.release(plan.flat, plan.words)
    np.testing.assert_array_equal(records_of(store), before)
    assert_indexed(store.kernels)


def test_claims_go_back_when_a_plan_cannot_be_made(bus: SlowBus, monkeypatch: pytest.MonkeyPatch) -> None:
    for store, scan in ((open_store(bus), Store.scan), (open_store(bus), lambda store: next(store.drain()))):
        before = records_of(store)

        def fail(*_: Any) -> Any:
            raise MemoryError("on purpose")

        with monkeypatch.context() as patch:
            patch.setattr(PageMap, "pfn_of_flat", fail)
            with pytest.raises(MemoryError, match="on purpose"):
                scan(store)
        np.testing.assert_array_equal(records_of(store), before)


def test_without_room_for_two_plans_one_follows_the_other(
    bus: SlowBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = both(bus)
    scan = stores[0].kernels.scan

    def scan_if_room(asked: ScanRequest) -> RawPlan:
        begun = [event.split()[0] for event in bus.happened]
        if begun.count("begin") > begun.count("end"):
            raise DeviceError("the GPU has 1 KiB free, 2 KiB more are needed")
        return scan(asked)

    monkeypatch.setattr(stores[0].kernels, "scan", scan_if_room)
    for mine, theirs in zip(*(store.drain(capacity=512) for store in stores), strict=True):
        assert_same(mine, theirs)


FAR = 13_000
"""Pages between a folio and one that is freed with it: more than a plan covers, so never in its plan."""


@pytest.mark.parametrize("is_used_again", [False, True])
def test_what_is_freed_while_its_plan_is_on_its_way_is_not_handed_out(
    bus: SlowBus, is_used_again: bool
) -> None:
    stores, found = both(bus), []
    n_freed, n_left_out = [0, 0], [0, 0]
    for each, store in enumerate(stores):
        flats = []
        for plan in store.drain(capacity=512):
            assert (np.diff(plan.offsets) >= 0).all()
            assert plan.offsets[-1] == len(plan.flat) == len(plan.pfn) == len(plan.words)
            np.testing.assert_array_equal(plan.words >> 1 & 1023, plan.target_of_folio())
            flats.append(plan.flat)
            n_left_out[each] += plan.n_freed
            freed = plan.flat[::5] + FAR
            n_freed[each] += store.forget(freed[freed < store.n_pages])
            if is_used_again:  # a new folio in the frame has nothing to do with the claim
                store.admit(freed[freed < store.n_pages])
        found.append(np.sort(np.concatenate(flats)))
    np.testing.assert_array_equal(found[0], found[1])
    assert n_left_out[1] == 0
    assert 0 < n_left_out[0] < n_left_out[0] + n_freed[0] == n_freed[1]
    np.testing.assert_array_equal(records_of(stores[0]), records_of(stores[1]))


def test_what_ended_in_a_scan_that_is_put_back_is_told(bus: SlowBus) -> None:
    store = open_store(bus)
    plans = store.drain(capacity=512)
    first = next(plans)
    ahead = np.flatnonzero(records_of(open_store(None)) & 1)
    ahead = ahead[ahead >= first.cursor][:30]  # of the next plan: claimed already
    assert store.request(store.page_map.pfn_of_flat(ahead[:7]), ahead[:7] % 2)[Outcome.ACCEPTED] == 7
    assert store.forget(ahead[20:]) == 0
    store.admit(ahead[25:])  # frames that are used again
    plans.close()
    assert store.take_ended_ahead() == EndedAhead(superseded=7, freed=10)
    assert store.take_ended_ahead() == EndedAhead()
    assert len(first) + store.count_ready() + 7 + 10 == N_MARKED + 7


def test_a_store_that_is_closed_has_nothing_to_put_back(bus: SlowBus) -> None:
    with open_store(bus) as store:
        plans = store.drain(capacity=512)
        next(plans)
    plans.close()


class Emptying(Verdicts):
    """A migrator whose moves free their source, and some pages further on: reclaim makes room."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        result = super().migrate(target_nid, pfns, n_pages)
        flats = self.store.page_map.flat_of_pfn(pfns)
        freed = np.union1d(flats, flats[flats % 5 == 0] + FAR)
        events = (FolioEvents(freed[freed < self.store.n_pages], NONE),)
        return MigrateResult(result.status, result.reasons, result.busy_ns, events)


def run_engine(store: Store, migrator: Verdicts, policy: Policy) -> Engine:
    rng = np.random.default_rng(8)
    flats = [rng.integers(2 * SECTION_PAGES, 4 * SECTION_PAGES, 1500) for _ in range(3)]
    ticks = [request(store.page_map.pfn_of_flat(marked), nid) for nid, marked in enumerate(flats[:2])]
    engine = Engine(store, Script(ticks), migrator, policy, verify_every_tick=True)
    engine.ledger.requested += N_MARKED  # by open_store
    return engine


@pytest.mark.parametrize("budget_pages", [0, 400])
def test_the_engine_counts_the_same_as_without_looking_ahead(bus: SlowBus, budget_pages: int) -> None:
    """Only where plans are cut may differ: chunks differ, and a scan ahead counts what is freed meanwhile."""
    policy = Policy(capacity_folios=512, budget_pages=budget_pages)
    reports = []
    for store in both(bus):
        migrator = Verdicts() if budget_pages else Emptying(store)
        engine = run_engine(store, migrator, policy)
        reports.append(engine.run(3))
    mine, theirs = reports
    assert mine.ledger == theirs.ledger
    assert (mine.ledger.dropped["freed"] > 30) == (not budget_pages)
    may_differ = {"scan_ns", "examined_bytes", "path", "n_plans", "n_batches"}
    for one, other in zip(mine.ticks, theirs.ticks, strict=True):
        assert {k: v for k, v in asdict(one).items() if k not in may_differ} == {
            k: v for k, v in asdict(other).items() if k not in may_differ
        }
    assert mine.ticks[0].n_plans > 1
    assert bus.happened[:3] == ["begin 0", "begin 1", "end 0"]


def test_a_migrator_that_breaks_leaves_the_begun_scan_counted(bus: SlowBus) -> None:
    store = open_store(bus)
    migrator = Emptying(store)
    migrator.raise_at_batch = 3  # in the second plan
    engine = run_engine(store, migrator, Policy(capacity_folios=512))
    with pytest.raises(OSError, match="the migrator broke") as caught:
        engine.run(3)
    assert caught.traceback, "which keeps the frames, and with them the round"
    assert engine.ledger.dropped["freed"] > 0
    engine.ledger.verify(store.count_ready(), 0)
    assert_indexed(store.kernels)


def test_a_state_has_what_was_claimed_ahead(bus: SlowBus) -> None:
    store, twin = both(bus)
    plans = store.drain(capacity=512)
    first = next(plans)
    assert store.count_ready() < N_MARKED - len(first)
    twin.restore(store.state())
    assert twin.count_ready() == N_MARKED - len(first)
    assert twin.cursor == store.cursor == first.cursor
    rest = [plan.flat for plan in plans]
    assert len(first) + sum(map(len, rest)) == N_MARKED
    np.testing.assert_array_equal(
        np.concatenate(rest), np.concatenate([p.flat for p in twin.drain(capacity=512)])
    )


def test_a_store_that_becomes_another_forgets_what_it_claimed_ahead(bus: SlowBus) -> None:
    store, twin = both(bus)
    plans = store.drain(capacity=512)
    next(plans)
    store.restore(twin.state())
    assert store.count_ready() == N_MARKED
    assert sum(len(plan) for plan in plans) == N_MARKED
    assert store.count_ready() == 0
