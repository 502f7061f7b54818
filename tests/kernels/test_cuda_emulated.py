"""The CUDA kernels beyond equality: sanitizers, planted bugs, errors, late producers, a whole workload."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from emulated import EmulatedDevice, SlowBus, emulated_backend, of_files
from emulator.loader import Build, EmulatedModule, EmulatorError
from emulator.presence import need
from gpuscan.base.errors import ArgumentError
from gpuscan.kernels import registry
from gpuscan.kernels.api import Budget, Kernels, Outcome, RecordParams, ReleaseOutcome, ScanRequest
from gpuscan.kernels.budgets import Limits, keep_within
from gpuscan.kernels.cuda import CudaBackend, producing
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.kernels.cuda.scan import Scan
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import unpack
from gpuscan.records.page_map import SECTION_PAGES, Extent
from gpuscan.run import scenario as scenario_module
from gpuscan.run.scenario import build_scenario
from gpuscan.workload.files import load_workload
from stores import (
    NONE,
    Filling,
    assert_indexed,
    assert_same_plan,
    assert_same_store,
    drained,
    layout_of,
    plain_layout,
    random_store,
)

LAYOUT = plain_layout(n_sections=1)
N_PAGES = LAYOUT.n_pages
PATHS: list[Any] = ["dense", "indexed"]


def filled(backend: Any, ready: float, layout: Any = LAYOUT) -> tuple[Kernels, Any]:
    """Return a store at rest, everything eligible, and what was loaded."""
    kernels = backend.open(layout)
    arrays = random_store(layout, Filling(ready, stale=1e-3), np.random.default_rng(1))
    arrays.eligible_bits[:] = ~np.uint64(0)
    kernels.load(arrays)
    return kernels, arrays


# Sanitizers


def exercise(kernels: Kernels) -> list[Any]:
    """Call every operation, with items that fight over pages, words and targets; return what came out."""
    layout = kernels.layout
    rng = np.random.default_rng(5)
    arrays = random_store(layout, Filling(0.02, stale=1e-3, full_blocks=1), rng)
    kernels.load(arrays)
    pfns = rng.integers(0, layout.n_pages, 300)
    pfns[:150] = rng.integers(0, 64, 150)
    nids = rng.integers(2, 8, 300).astype(np.int32)
    came: list[Any] = [kernels.request(pfns, nids, NONE)]
    came.append(kernels.record(pfns, nids, RecordParams(1 << 20, 1 << 10, 2, drop_top_tier=False), NONE))
    if layout.has_large_folios:
        kernels.set_order(np.arange(4) * 512, 9)
    kernels.set_eligible(np.arange(100), eligible=False)
    budget = Budget(np.full(layout.n_targets, 30), np.full(layout.n_targets, 10_000), 5)
    for path in PATHS:
        cuts = kernels.rank(budget, 0, layout.n_pages)
        plan = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, path, cuts=cuts))
        came += [plan.offsets, plan.flat, plan.words]
    for path in PATHS:
        plan = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, path))
        came += [plan.offsets, plan.flat, plan.words]
        came.append(kernels.release(plan.flat, plan.words, NONE))
    came.append(kernels.discard(np.arange(0, layout.n_pages, 97)))
    came += [kernels.count_ready(), kernels.count_index(), kernels.take_active()]
    return came


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("build", "format_name", "exclusive"),
    [
        ("asan", "rfc", False),
        pytest.param("tsan", "pghot-compact", False, marks=SLOW),
        pytest.param("asan", "pghot-compact", True, marks=SLOW),
        pytest.param("asan", "pghot", False, marks=SLOW),
        pytest.param("tsan", "rfc", False, marks=SLOW),
        pytest.param("tsan", "rfc", True, marks=SLOW),
    ],
)
def test_sanitizers_find_nothing(build: Build, format_name: str, exclusive: bool) -> None:
    layout = layout_of([Extent(0, SECTION_PAGES, 1, 0)], format_name, large_folios=True)
    reference = ReferenceBackend().open(layout)
    kernels = emulated_backend(build=build, seed=4, exclusive=exclusive).open(layout)
    for mine, theirs in zip(exercise(kernels), exercise(reference), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert_same_store(kernels, reference)


# Planted bugs


class SabotagedDevice(EmulatedDevice):
    """Kernels with one line changed; only the files that a check launches are compiled."""

    def __init__(self, line: str, instead: str, files: set[str], build: Build = "fast") -> None:
        super().__init__(build, seed=2)
        self.line, self.instead, self.files = line, instead, files

    def compile(self, source: str) -> Callable[[str], Kernel]:
        need(self.build)
        kept = of_files(source, self.files)
        if kept.count(self.line) != 1:  # no assertion: a check that fails is what the tests below wait for
            raise ValueError(f"{self.line!r} stands {kept.count(self.line)} times in the sources, not once")
        changed = kept.replace(self.line, self.instead)
        find: Callable[[str], Kernel] = EmulatedModule(changed, (), self.build, self.seed).get_function
        return find


def requests_are_indexed(backend: Any) -> None:
    kernels = backend.open(LAYOUT)
    kernels.set_eligible(np.arange(N_PAGES), eligible=True)
    kernels.request(np.arange(0, N_PAGES, 99), np.full(len(range(0, N_PAGES, 99)), 3, dtype=np.int32), NONE)
    assert_indexed(kernels)


def every_folio_of_a_call_is_marked(backend: Any) -> None:
    kernels = backend.open(LAYOUT)
    kernels.set_eligible(np.arange(N_PAGES), eligible=True)
    kernels.request(np.arange(0, N_PAGES, 99), np.full(len(range(0, N_PAGES, 99)), 3, dtype=np.int32), NONE)
    assert kernels.count_ready() == len(range(0, N_PAGES, 99))


def the_last_request_stands(backend: Any) -> None:
    kernels = backend.open(LAYOUT)
    kernels.set_eligible(np.arange(N_PAGES), eligible=True)
    nids = np.arange(1001, dtype=np.int32) % 6 + 2
    counts = kernels.request(np.full(1001, 77), nids, NONE)
    assert counts[Outcome.ACCEPTED] == 1
    assert unpack(LAYOUT.fmt, kernels.dump().records[77]).nid == nids[-1]


def runs_of_any_length_end_alike(backend: Any) -> None:
    """Folios with 1, 2, ... items of one call, in any order: outcomes and records as the reference's."""
    rng = np.random.default_rng(7)
    pfns = rng.permutation(np.repeat(np.arange(40) * 70, np.arange(1, 41)))
    nids = rng.integers(2, 8, len(pfns)).astype(np.int32)
    stores = [backend.open(LAYOUT), ReferenceBackend().open(LAYOUT)]
    outcomes = []
    for kernels in stores:
        kernels.set_eligible(np.arange(N_PAGES), eligible=True)
        for threshold in (1, 3, 7, 9):
            came = np.zeros(len(pfns), dtype=np.uint8)
            params = RecordParams(1000, 100, threshold, drop_top_tier=False)
            counts = kernels.record(pfns, nids, params, came)
            assert counts.tolist() == np.bincount(came, minlength=len(counts)).tolist()
            outcomes.append(came)
            kernels.discard(np.arange(0, 2800, 140))
    for mine, theirs in zip(outcomes[:4], outcomes[4:], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert_same_store(*stores)


def plans_are_in_order(backend: Any) -> None:
    kernels, arrays = filled(backend, 0.3)
    reference = ReferenceBackend().open(LAYOUT)
    reference.load(arrays)
    request = ScanRequest(0, N_PAGES, N_PAGES, "indexed")
    assert_same_plan(kernels.scan(request), reference.scan(request))


def budgets_are_spent_in_order(backend: Any) -> None:
    """All pages are ties, and more are claimed than a plan holds."""
    kernels, arrays = filled(backend, 0.05)
    arrays.records &= LAYOUT.fmt.ready.mask | LAYOUT.fmt.nid.mask
    reference = ReferenceBackend().open(LAYOUT)
    found = []
    for each, capacity in ((kernels, 512), (kernels, N_PAGES), (reference, N_PAGES)):
        each.load(arrays)
        budget = Budget(np.arange(8) * 30, np.arange(8) * 4000, 0)
        cuts = each.rank(budget, 0, N_PAGES)
        found.append(
            drained(
                each,
                lambda at, capacity=capacity, cuts=cuts: ScanRequest(
                    at or 0, N_PAGES, capacity, "indexed", cuts=cuts
                ),
            )
        )
    assert found[0] == found[1] == found[2]


def a_quota_of_all_warps_is_not_overdrawn(backend: Any) -> None:
    """Hotter pages than those ranked come meanwhile, to warps that all draw on one quota."""
    kernels, _ = filled(backend, 1e-2)
    limits = np.array([-1, 0, 20, 20, 20, 300, 300, 300])
    cuts = kernels.rank(Budget(limits, np.full(8, 9000), 0), 0, N_PAGES)
    claim = Scan._claim

    def late(self: Scan, *args: Any) -> None:
        pfns = np.arange(0, N_PAGES, 11)
        nids = (pfns % 8).astype(np.int32)
        kernels.record(pfns, nids, RecordParams(0, 1 << 20, 1, drop_top_tier=False), NONE)
        claim(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scan, "_claim", late)
        plan = kernels.scan(ScanRequest(0, N_PAGES, N_PAGES, "dense", cuts=cuts))
    claimed = np.diff(plan.offsets)
    assert (claimed[1:] <= limits[1:]).all()
    assert claimed[5:].sum() > 0
    assert all((quota >= 0).all() for quota in cuts.quotas)
    assert_indexed(kernels)


def dense_scans_empty_the_index(backend: Any) -> None:
    """Stretches begin and end inside sections, and a range outside is left alone."""
    kernels, arrays = filled(backend, 0.02)
    reference = ReferenceBackend().open(LAYOUT)
    reference.load(arrays)
    for lo, hi in ((SECTION_PAGES - 5 * 512, N_PAGES - 7 * 512), (0, N_PAGES)):
        request = ScanRequest(lo, hi, N_PAGES, "dense")
        assert_same_plan(kernels.scan(request), reference.scan(request))
        assert kernels.count_index() == reference.count_index()
    assert kernels.count_index() == (0, 0)


def full_blocks_are_in_order(backend: Any) -> None:
    layout = LAYOUT
    stores = [backend.open(layout), ReferenceBackend().open(layout)]
    arrays = random_store(layout, Filling(1e-3, full_blocks=20), np.random.default_rng(1))
    for kernels in stores:
        kernels.load(arrays)
    assert_same_plan(*(kernels.scan(ScanRequest(0, N_PAGES, N_PAGES, "indexed")) for kernels in stores))


def stores_of_many_cells_are_counted(backend: Any) -> None:
    """Cut at a capacity inside the range, counted by several blocks."""
    layout = plain_layout(n_sections=20)
    stores = [backend.open(layout), ReferenceBackend().open(layout)]
    arrays = random_store(layout, Filling(1e-3), np.random.default_rng(1))
    for kernels in stores:
        kernels.load(arrays)
    request = ScanRequest(512, layout.n_pages, 700, "indexed")
    assert_same_plan(*(kernels.scan(request) for kernels in stores))


def far_pages_are_found(backend: Any) -> None:
    n_pages = (1 << 32) + SECTION_PAGES
    kernels = backend.open(layout_of([Extent(0, n_pages, 1, 0)], "pghot-compact"))
    kernels.set_eligible(np.array([n_pages - 1]), eligible=True)
    kernels.request(np.array([n_pages - 1]), np.zeros(1, dtype=np.int32), NONE)
    plan = kernels.scan(ScanRequest(n_pages - SECTION_PAGES, n_pages, 512, "indexed"))
    assert plan.flat.tolist() == [n_pages - 1]


def neighbours_of_a_byte_stay(backend: Any) -> None:
    layout = plain_layout("pghot-compact", n_sections=1)
    kernels = backend.open(layout)
    kernels.load(random_store(layout, Filling(2.0), np.random.default_rng(4)))
    kernels.discard(np.arange(0, layout.n_pages, 4))
    assert kernels.count_ready() == layout.n_pages * 3 // 4


INDEXED = {"popcounts", "cut_stretches", "scan_indexed", "scatter"}
DENSE = {"popcounts", "cut_stretches", "scan_dense", "scatter", "count_bits"}
BUDGETED = {"popcounts", "cut_stretches", "scan_indexed", "scatter", "rank", "cut_keys", "cut_ties"}
BUDGETED |= {"fit_claims"}
PRODUCED = {"resolve", "request", "set_eligible"}
FAULTS: dict[str, tuple[Callable[[Any], None], str, str, set[str], Build]] = {
    "request does not index": (
        requests_are_indexed,
        "  if (is_ready(word)) return false;\n  set_index(store, head);\n",
        "  if (is_ready(word)) return false;\n",
        PRODUCED,
        "fast",
    ),
    "the first request of a call stands": (
        the_last_request_stands,
        "  if (items.folios.lasts[slot] != (u32)item + 1) return",
        "  if (items.folios.notes[slot] != ~(u32)item) return",
        PRODUCED,
        "fast",
    ),
    "a folio's items are counted by the lane": (
        runs_of_any_length_end_alike,
        "atomicAdd(folio_notes + slot, (u32)__popc(peers));",
        "atomicAdd(folio_notes + slot, 1u);",
        {"resolve", "record", "set_eligible", "discard"},
        "fast",
    ),
    "a folio that finds its slot taken takes it too": (
        every_folio_of_a_call_is_marked,
        "    if (seen == 0 || seen == key) return slot;\n",
        "    return slot;\n",
        PRODUCED | {"count_ready"},
        "fast",
    ),
    "a folio's last item is that of its first lane": (
        the_last_request_stands,
        "(u32)item + n_after + 1",
        "(u32)item + 1",
        PRODUCED,
        "fast",
    ),
    "the access that makes a folio READY is counted as one below": (
        runs_of_any_length_end_alike,
        "max((i64)0, threshold - first_freq)",
        "max((i64)0, threshold - first_freq + 1)",
        {"resolve", "record", "set_eligible", "discard"},
        "fast",
    ),
    "a warp of the scatter starts where its block does": (
        plans_are_in_order,
        "      next[other][target] = n_before;\n",
        "      next[other][target] = 0;\n",
        INDEXED,
        "fast",
    ),
    "claims that are not kept are named like those that are": (
        plans_are_in_order,
        "claim < n_mine ? offsets[claim] : 0;",
        "claim < n_mine ? offsets[claim % GS_CLAIMS_AT_ONCE] : 0;",
        INDEXED,
        "fast",
    ),
    "a dense scan clears the first pairs of a section's ready words": (
        dense_scans_empty_the_index,
        "    pair += GS_LANES;\n",
        "",
        DENSE,
        "fast",
    ),
    "a dense scan clears a pair of ready words for each block": (
        dense_scans_empty_the_index,
        "taken >> lane_id() / GS_PAIRS_OF_BLOCK;",
        "taken >> lane_id();",
        DENSE,
        "fast",
    ),
    "the queue is read before it is written": (
        plans_are_in_order,
        "    n_set = queues ? 0 : n_set;\n    __syncwarp();\n",
        "    n_set = queues ? 0 : n_set;\n",
        INDEXED,
        "tsan",
    ),
    "the queue is too short": (
        plans_are_in_order,
        "queues = n_set > 0 && n_queued + n_up_to <= GS_WALK_QUEUE",
        "queues = n_set > 0",
        INDEXED,
        "asan",
    ),
    "a stretch has less room than candidates": (
        plans_are_in_order,
        "ends[number - 1] = edge.before.n_candidates;",
        "ends[number - 1] = edge.before.n_candidates - 64 * number;",
        INDEXED,
        "fast",
    ),
    "a chunk of claims begins where its row does": (
        plans_are_in_order,
        "    before += seen[i];\n",
        "",
        INDEXED,
        "fast",
    ),
    "the cells are summed up by every block": (
        stores_of_many_cells_are_counted,
        "  if (n_before != n_blocks - 1) return false;\n",
        "",
        INDEXED | {"count_ready"},
        "asan",  # places out of sums that were begun too early may lie anywhere
    ),
    "a crowded block is queued from its end": (
        full_blocks_are_in_order,
        "(u32)__popc(bits & lanes_below())",
        "(u32)__popc(bits & ~lanes_below()) - 1",
        INDEXED,
        "fast",
    ),
    "ties are claimed wherever they are": (
        budgets_are_spent_in_order,
        "    if (flat < (is_from ? cuts.stop_from : cuts.stop_below)[target])\n",
        "",
        BUDGETED,
        "fast",
    ),
    "ties below the resume point are served with those of their stretch": (
        budgets_are_spent_in_order,
        "flat < resume && resume < end ? wrapped_ties + target : ",
        "",
        BUDGETED,
        "fast",
    ),
    "a block's counts of keys stay in the block": (
        budgets_are_spent_in_order,
        "  close_block_counts(block);\n",
        "",
        BUDGETED,
        "fast",
    ),
    "a plan has room for the claims of the stretch before": (
        budgets_are_spent_in_order,
        "    ends[stretch] = room_before + room;\n",
        "    ends[stretch] = room_before;\n",
        BUDGETED,
        "fast",
    ),
    "a quota is looked at before it is drawn on": (
        a_quota_of_all_warps_is_not_overdrawn,
        "(i64)atomicAdd(quota, 0ull - all);",
        "(i64)__ldcg(quota);",
        BUDGETED | {"scan_dense", "record", "resolve", "set_eligible"},
        "fast",
    ),
    "a 32-bit page index": (
        far_pages_are_found,
        "visit(lo + (is_candidate",
        "visit((u32)lo + (is_candidate",
        INDEXED | PRODUCED,
        "fast",
    ),
    "a byte is cleared with its neighbours": (
        neighbours_of_a_byte_stay,
        "atomicAnd(word_around(store, flat), ~(0xffu << shift))",
        "atomicExch(word_around(store, flat), 0u)",
        {"discard", "count_ready"},
        "fast",
    ),
}


_COMPILED_LATE = {"a stretch has less room than candidates", "the cells are summed up by every block"} | {
    name
    for name, (check, *_) in FAULTS.items()
    if check in (budgets_are_spent_in_order, a_quota_of_all_warps_is_not_overdrawn)
}
_COMPILED_LATE |= {
    "a folio that finds its slot taken takes it too",
    "a folio's last item is that of its first lane",
    "claims that are not kept are named like those that are",
    "a dense scan clears the first pairs of a section's ready words",
}
"""Each fault is a compilation of one to two seconds; these wait for the slow suite."""


@pytest.mark.parametrize(
    "fault", [pytest.param(each, marks=SLOW if each in _COMPILED_LATE else ()) for each in FAULTS]
)
def test_a_planted_bug_is_found(fault: str) -> None:
    check, line, instead, files, build = FAULTS[fault]
    check(emulated_backend(build="fast", seed=2))
    with pytest.raises((AssertionError, EmulatorError)):
        check(CudaBackend(SabotagedDevice(line, instead, files, build)))


# What the driver guards


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_claims_go_back_when_the_plan_is_lost(error: type[BaseException], path: Any) -> None:
    device = EmulatedDevice()
    kernels, arrays = filled(CudaBackend(device), 1e-2)
    budget = Budget(np.array([-1, 0, 20, 20, 20, 700, 700, -1]), np.full(8, 40_000), 0)
    cuts = kernels.rank(budget, 0, N_PAGES)
    quotas = [cuts.above_pages.copy(), cuts.tie_pages_from.copy(), cuts.tie_pages_below.copy()]

    def fail(*_copies: Any) -> Callable[[], None]:
        assert kernels.count_ready() < int((arrays.records & 1).sum()), "nothing was claimed"
        raise error("on purpose")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "fetch_beside", fail)
        with pytest.raises(error, match="on purpose"):
            kernels.scan(ScanRequest(0, N_PAGES, N_PAGES, path, cuts=cuts))
    np.testing.assert_array_equal(kernels.dump().records, arrays.records)
    assert_indexed(kernels)
    for mine, before in zip(
        (cuts.above_pages, cuts.tie_pages_from, cuts.tie_pages_below), quotas, strict=True
    ):
        np.testing.assert_array_equal(mine, before)


def test_a_budget_is_never_overfilled_by_pages_marked_after_it_was_ranked() -> None:
    a_quota_of_all_warps_is_not_overdrawn(emulated_backend(seed=3))


def test_quotas_that_a_coordinator_cut_are_kept_to() -> None:
    """As the reference, which serves them in flat order; ranked anew, the quotas are the ranking's."""
    arrays = random_store(LAYOUT, Filling(5e-2), np.random.default_rng(8))
    budget = Budget(np.full(8, 1000), np.full(8, 9000), 0)
    limits = Limits(np.full(8, 1000), np.arange(8) * 2, 9 - np.arange(8))
    found = []
    for backend in (emulated_backend(), ReferenceBackend()):
        kernels = backend.open(LAYOUT)
        kernels.load(arrays)
        counted = kernels.count_keys(budget, 0, N_PAGES)
        cuts = counted.cut(counted.pages_of_key.argmax(axis=1).astype(np.int32))
        keep_within(cuts, limits)
        plan = kernels.scan(ScanRequest(0, N_PAGES, N_PAGES, "indexed", cuts=cuts))
        found.append((plan.offsets.tolist(), plan.flat.tolist(), [quota.sum() for quota in cuts.quotas]))
    assert found[0] == found[1]
    assert found[0][0][-1] > 0


@pytest.mark.parametrize("path", PATHS)
def test_a_small_budget_is_one_plan_however_many_candidates_there_are(path: Any) -> None:
    kernels, arrays = filled(emulated_backend(), 0.05)
    reference = ReferenceBackend().open(LAYOUT)
    reference.load(arrays)
    budget = Budget(np.full(8, 40), np.full(8, 9000), 0)
    plans = [
        each.scan(ScanRequest(0, N_PAGES, 512, path, cuts=each.rank(budget, 0, N_PAGES)))
        for each in (kernels, reference)
    ]
    assert plans[0].cursor == N_PAGES, "the plan was bounded by what it does not claim"
    assert len(plans[0].flat) == 320
    assert_same_plan(plans[0], plans[1])
    assert_same_store(kernels, reference)


def test_cut_offs_of_another_backend_are_refused() -> None:
    kernels, _ = filled(emulated_backend(), 1e-3)
    cuts = kernels.rank(Budget(np.full(8, 5), np.zeros(8, dtype=np.int64), 0), 0, N_PAGES)
    cuts.chunk_edges = np.array([0, SECTION_PAGES, N_PAGES])
    for name in ("above_pages", "tie_pages_from", "tie_pages_below"):
        setattr(cuts, name, np.zeros((2, 8), dtype=np.int64))
    with pytest.raises(ArgumentError, match=r"have 2 chunks, .* which have one; rank with this store"):
        kernels.scan(ScanRequest(0, N_PAGES, N_PAGES, cuts=cuts))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("exclusive", [False, True])
def test_pages_marked_after_the_count_find_no_room(
    exclusive: bool, path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, _ = filled(emulated_backend(exclusive=exclusive), 1e-2)
    ready = kernels.count_ready()
    claim = Scan._claim

    def late(self: Scan, *args: Any) -> None:
        pfns = np.arange(0, N_PAGES, 7)
        nids = np.full(len(pfns), 3, dtype=np.int32)
        begun.append(int(kernels.request(pfns, nids, NONE)[Outcome.ACCEPTED]))
        claim(self, *args)

    begun: list[int] = []
    monkeypatch.setattr(Scan, "_claim", late)
    plan = kernels.scan(ScanRequest(0, N_PAGES, N_PAGES, path))
    assert begun[0] > 1000
    assert 0 < len(plan.flat) <= ready + 100  # a stale bit's place may go to a late page
    assert kernels.count_ready() + len(plan.flat) == ready + begun[0]
    assert_indexed(kernels)


HALF = N_PAGES // 2
HALVES = [ScanRequest(0, HALF, HALF), ScanRequest(HALF, N_PAGES, HALF)]


def test_the_next_scan_runs_beside_the_transfer_of_a_plan() -> None:
    device = SlowBus()
    kernels, arrays = filled(CudaBackend(device), 1e-2)
    plans = [kernels.scan(half) for half in HALVES]
    assert kernels.count_ready() == 0
    n_folios = [int(plan.offsets[-1]) for plan in plans]
    assert [plan.cursor for plan in plans] == [HALF, N_PAGES]
    assert device.happened == ["begin 0", "begin 1"], "a scan waited for a transfer"
    found = [plan.flat for plan in plans]
    assert device.happened[2:] == ["end 0", "end 1"]
    assert [len(flats) for flats in found] == n_folios
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.flatnonzero(arrays.records & 1))
    for plan in plans:
        np.testing.assert_array_equal(plan.words, arrays.records[plan.flat])
    assert len(device.happened) == 4, "a transfer was waited for twice"


def test_buffers_of_a_plan_that_nobody_read_wait_for_its_transfer() -> None:
    device = SlowBus()
    kernels, arrays = filled(CudaBackend(device), 1e-2)
    unread = kernels.scan(HALVES[0])
    unread.recycle()
    plan = kernels.scan(HALVES[1])
    assert device.happened == ["begin 0", "end 0", "begin 1"], "a buffer was used by two transfers at once"
    np.testing.assert_array_equal(np.sort(plan.flat), HALF + np.flatnonzero(arrays.records[HALF:] & 1))
    kernels.load(arrays)
    device.happened.clear()
    plan = kernels.scan(HALVES[0])
    del plan
    assert device.happened == ["begin 2", "end 2"], "memory was given away under a transfer"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("scan_between", [False, True])
def test_claims_go_back_when_the_transfer_fails(error: type[BaseException], scan_between: bool) -> None:
    device = SlowBus()
    kernels, arrays = filled(CudaBackend(device), 1e-2)
    plan = kernels.scan(HALVES[0])
    other = kernels.scan(HALVES[1]) if scan_between else None
    device.error = error("on purpose")
    with pytest.raises(error, match="on purpose"):
        plan.flat  # noqa: B018
    with pytest.raises(RuntimeError, match="claims went back"):
        plan.words  # noqa: B018
    if other is not None:
        kernels.release(other.flat, other.words, NONE)
    np.testing.assert_array_equal(kernels.dump().records, arrays.records)
    assert_indexed(kernels)
    del plan
    gc.collect()  # the error's traceback holds it too
    assert "end 0" in device.happened, "memory was given away under a transfer"


@pytest.mark.parametrize("name", ["request", "record"])
def test_calls_longer_than_a_launch_are_in_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producing, "PIECE_ITEMS", 700)
    rng = np.random.default_rng(3)
    pfns = rng.integers(0, 150, 2000)
    nids = rng.integers(-1, 9, 2000).astype(np.int32)
    found = []
    for backend in (emulated_backend(), ReferenceBackend()):
        kernels = backend.open(LAYOUT)
        kernels.set_eligible(np.arange(100), eligible=True)
        outcomes = np.full(2000, 99, dtype=np.uint8)
        params = () if name == "request" else (RecordParams(1 << 20, 1 << 10, 3, drop_top_tier=False),)
        counts = getattr(kernels, name)(pfns, nids, *params, outcomes)
        assert counts.tolist() == np.bincount(outcomes, minlength=len(counts)).tolist()
        found.append((outcomes.tolist(), kernels.dump().records.tolist()))
    assert found[0] == found[1]


def test_without_order_the_same_pages_are_marked() -> None:
    kernels = emulated_backend(ordered=False, seed=5).open(LAYOUT)
    kernels.set_eligible(np.arange(N_PAGES), eligible=True)
    rng = np.random.default_rng(6)
    pfns = rng.integers(0, 500, 2000)
    nids = rng.integers(2, 8, 2000).astype(np.int32)
    counts = kernels.request(pfns, nids, NONE)
    assert counts[Outcome.ACCEPTED] == len(np.unique(pfns)) == kernels.count_ready()
    assert counts[Outcome.REFRESHED] == 2000 - counts[Outcome.ACCEPTED]
    plan = kernels.scan(ScanRequest(0, N_PAGES, 512))
    assert kernels.release(plan.flat, plan.words, NONE)[ReleaseOutcome.RESTORED] == len(plan.flat)


def test_a_workload_runs_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = emulated_backend(seed=9)
    opened = registry.open_backend

    def open_backend(device: Any, n_threads: int | None) -> Any:
        return (backend, "emulated") if device == "cuda" else opened(device, n_threads)

    monkeypatch.setattr(scenario_module, "open_backend", open_backend)
    workload = load_workload("cxl-promote", ["topology.memory=2GiB", "ticks=12"])
    reports: list[Any] = [build_scenario(workload, device=device).run() for device in ("cuda", "cpu")]
    assert reports[0].device_reason == "emulated"
    assert sum(tick.migrated for tick in reports[0].ticks) > 100
    timed = {"scan_ns", "examined_bytes", "path"}
    for mine, theirs in zip(reports[0].ticks, reports[1].ticks, strict=True):
        ours, other = asdict(mine), asdict(theirs)
        assert {k: v for k, v in ours.items() if k not in timed} == {
            k: v for k, v in other.items() if k not in timed
        }
