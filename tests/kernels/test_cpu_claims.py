"""Ready words of any fill: claimed one by one and together, grouped with runs of a target and without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpuscan.kernels.api import Budget, Kernels, ScanRequest, StoreArrays, StoreLayout
from gpuscan.kernels.cpu import CpuBackend, buffers, scan
from gpuscan.kernels.cpu.staged_plan import StagedPlan
from gpuscan.kernels.cpu.staging import N_STRIPS, STRIP_CLAIMS, empty_segment
from gpuscan.kernels.cpu.workers import Workers
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import STORE_FORMATS, pack
from gpuscan.records.page_map import SECTION_PAGES
from stores import assert_same_plan, assert_same_store, plain_layout

N_WORD = 64


def dense_store(
    layout: StoreLayout, n_alike: int, rng: np.random.Generator, *, are_known: bool = False
) -> StoreArrays:
    """Return records that are READY in a share of each 64 pages that is drawn for these 64.

    Half of the ready words have stale bits besides, all 64: what looks as if it could be claimed together
    has neighbours that are not READY. ``n_alike`` pages in a row have one target, which may be none of the
    machine's unless all ``are_known``.
    """
    n_pages, fmt = layout.n_pages, layout.fmt
    shares = rng.choice([0.0, 0.3, 0.6, 0.95, 1.0], n_pages // N_WORD)
    ready = rng.random(n_pages) < np.repeat(shares, N_WORD)
    n_drawn = layout.n_targets if are_known else layout.n_targets + 1
    nids = np.repeat(rng.integers(0, n_drawn, -(-n_pages // n_alike)), n_alike)[:n_pages]
    records = pack(
        fmt,
        ready=ready,
        nid=nids if fmt.has_nid else 0,
        freq=rng.integers(0, fmt.freq.max + 1, n_pages),
        time=rng.integers(0, fmt.time.max + 1, n_pages),
    )
    ready_bits = np.packbits(ready, bitorder="little").view(np.uint64)
    ready_bits[rng.random(len(ready_bits)) < 0.5] = ~np.uint64(0)
    block_bits = np.packbits(np.ones(n_pages // 512, dtype=np.bool_), bitorder="little").view(np.uint64)
    return StoreArrays(records, ready_bits, block_bits, None, None, None)


@pytest.mark.parametrize("path", ["dense", "indexed"])
@pytest.mark.parametrize("format_name", STORE_FORMATS)
@pytest.mark.parametrize("n_alike", [1, 3, 200])
@pytest.mark.parametrize("are_known", [True, False])
def test_words_of_any_fill(format_name: str, path: Any, n_alike: int, are_known: bool) -> None:
    layout = plain_layout(format_name, n_sections=1)
    arrays = dense_store(layout, n_alike, np.random.default_rng(n_alike), are_known=are_known)
    opened: list[Kernels]
    plans, opened = [], [ReferenceBackend().open(layout), CpuBackend(2).open(layout)]
    for kernels in opened:
        kernels.load(arrays)
        plans.append(kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, path)))
    assert_same_plan(plans[1], plans[0])
    assert_same_store(opened[1], opened[0])


def test_a_plan_is_taken_apart_as_a_whole_and_in_parts() -> None:
    layout = plain_layout("rfc", n_sections=1)
    kernels = CpuBackend(2).open(layout)
    kernels.load(dense_store(layout, 3, np.random.default_rng(1)))
    plan = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages))
    n_folios = plan.n_folios
    parts = [plan.part(lo, min(lo + 1000, n_folios)) for lo in range(0, n_folios, 1000)]
    assert plan.owns_arrays
    flat, words = plan.flat, plan.words
    plan.recycle()  # what was read stays
    kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, "dense")).recycle()
    assert len(flat) == n_folios > 1000
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), flat)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), words)
    assert words.dtype == layout.fmt.dtype


@pytest.mark.parametrize(("bits", "last"), [(32, (1 << 32) - 1), (8, (1 << 40) + 3)])
def test_pages_far_behind_the_first_one_of_a_range(bits: int, last: int) -> None:
    word = (1 << bits) - 2
    offsets = [0, (1 << 31) - 1, 1 << 31, last]
    claims = np.array([offset << bits | word for offset in offsets], dtype=np.uint64).view(np.int64)
    segment = empty_segment(2, n_targets=3, nid_max=2)
    segment.claims[STRIP_CLAIMS : STRIP_CLAIMS + 4] = claims
    segment.owners[:] = [0, 2]
    segment.places[:4] = [STRIP_CLAIMS, 0, STRIP_CLAIMS + 4, 0]
    segment.n_of_target[:] = [STRIP_CLAIMS, 0, 4, 0]
    segment.state[N_STRIPS] = 2
    base = 5 << 32
    dtype = np.dtype(f"u{bits // 8}")
    flats, words = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=dtype)
    StagedPlan([segment], base, dtype, 4).unpack(65, 68, flats, words, Workers(1))
    assert flats.tolist() == [base + offset for offset in offsets[1:]]
    assert words.tolist() == [word] * 3


@pytest.mark.parametrize("path", ["dense", "indexed", "auto"])
def test_a_range_of_more_pages_than_a_claim_can_tell_is_cut(
    path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "pages_at_most", lambda bits: SECTION_PAGES)
    layout = plain_layout("rfc", n_sections=4)
    arrays = dense_store(layout, 3, np.random.default_rng(2))
    reference, kernels = ReferenceBackend().open(layout), CpuBackend(2).open(layout)
    for opened in (reference, kernels):
        opened.load(arrays)
    for lo in range(0, layout.n_pages, SECTION_PAGES):
        plan = kernels.scan(ScanRequest(lo, layout.n_pages, layout.n_pages, path))
        expected = reference.scan(ScanRequest(lo, lo + SECTION_PAGES, layout.n_pages, path))
        assert plan.cursor == lo + SECTION_PAGES
        assert_same_plan(plan, expected)
    assert_same_store(kernels, reference)


@pytest.mark.parametrize("n_targets", [3, 200])
@pytest.mark.parametrize("path", ["dense", "indexed"])
def test_parts_of_a_plan_of_many_segments(path: Any, n_targets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of few strips: calls of a kernel end for want of room, and targets go over many segments."""
    monkeypatch.setattr(buffers, "strips_for", lambda n_targets: n_targets + 20)
    layout = plain_layout("rfc", n_sections=4, n_targets=n_targets)
    reference, kernels = ReferenceBackend().open(layout), CpuBackend(2).open(layout)
    arrays = dense_store(layout, 5, np.random.default_rng(n_targets))
    for opened in (reference, kernels):
        opened.load(arrays)
    plan, expected = (
        opened.scan(ScanRequest(0, layout.n_pages, layout.n_pages, path)) for opened in (kernels, reference)
    )
    rng = np.random.default_rng(1)
    for lo in [0, *rng.integers(0, plan.n_folios, 40).tolist(), plan.n_folios]:
        hi = min(plan.n_folios, lo + int(rng.integers(0, 3000)))
        flat, words = plan.part(lo, hi)
        np.testing.assert_array_equal(flat, expected.flat[lo:hi])
        np.testing.assert_array_equal(words, expected.words[lo:hi])
    assert_same_plan(plan, expected)


@pytest.mark.parametrize("budget_pages", [None, 40])
@pytest.mark.parametrize("path", ["dense", "indexed"])
@pytest.mark.parametrize("are_known", [True, False])
def test_what_is_put_back_of_many_segments(
    path: Any, budget_pages: int | None, are_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claims from any page on are put back, and those before it stay as they were staged."""
    monkeypatch.setattr(buffers, "strips_for", lambda n_targets: n_targets + 20)
    layout = plain_layout("rfc", n_sections=2)
    arrays = dense_store(layout, 1, np.random.default_rng(7), are_known=are_known)
    for from_flat in (0, 1, 63, 5000, 12_345, SECTION_PAGES + 1, 2 * SECTION_PAGES):
        kernels = CpuBackend(1).open(layout)
        kernels.load(arrays)
        cuts = None
        if budget_pages is not None:
            limits = np.full(layout.n_targets, budget_pages * 100)
            cuts = kernels.rank(Budget(limits, np.zeros_like(limits), 0), 0, layout.n_pages)
        quotas = None if cuts is None else int(cuts.above_pages.sum() + cuts.tie_pages_from.sum())
        under_way = scan.Scan(
            kernels.store,
            layout.fmt,
            layout.n_targets,
            ScanRequest(0, layout.n_pages, layout.n_pages, path, cuts=cuts),
            kernels._workers,
            kernels._buffers,
        )
        under_way._prepare()
        for index in range(len(under_way.pieces)):
            under_way._claim_piece(index)
        plan = under_way._plan(layout.n_pages)
        flat, words, offsets = plan.flat.copy(), plan.words.copy(), plan.offsets
        assert len(flat) > 1000
        for piece in under_way.pieces:
            under_way._undo(piece, from_flat)
        kept = flat < from_flat
        rest = under_way._plan(layout.n_pages)
        np.testing.assert_array_equal(rest.flat, flat[kept])
        np.testing.assert_array_equal(rest.words, words[kept])
        targets = np.repeat(np.arange(layout.n_targets), np.diff(offsets))
        np.testing.assert_array_equal(
            np.diff(rest.offsets), np.bincount(targets[kept], minlength=layout.n_targets)
        )
        np.testing.assert_array_equal(kernels.arrays.records[flat[~kept]], words[~kept])
        assert not kernels.arrays.records[flat[kept]].any()
        if cuts is not None and from_flat == 0:
            assert int(cuts.above_pages.sum() + cuts.tie_pages_from.sum()) == quotas


@pytest.mark.parametrize("fixed_target", [0, 1, 2, 3, 200, 1023])
@pytest.mark.parametrize("path", ["dense", "indexed"])
def test_records_without_a_target_for_a_node_without_memory(path: Any, fixed_target: int) -> None:
    """The layout takes any: what is claimed for a target that is not known is in no group."""
    layout = replace(plain_layout("pghot-compact", n_sections=1, n_targets=2), fixed_target=fixed_target)
    arrays = dense_store(layout, 1, np.random.default_rng(3))
    opened: list[Kernels] = [ReferenceBackend().open(layout), CpuBackend(2).open(layout)]
    plans = []
    for kernels in opened:
        kernels.load(arrays)
        plans.append(kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, path)))
    assert_same_plan(plans[1], plans[0])
    assert plans[1].n_unknown_target == plans[0].n_unknown_target
    assert (plans[0].n_unknown_target > 1000) == (fixed_target >= layout.n_targets)
    assert_same_store(opened[1], opened[0])


def test_another_scan_has_no_segment_of_one_that_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between handing segments back: none is in the pool and to be undone at once."""
    layout = plain_layout("rfc", n_sections=1)
    kernels = CpuBackend(1).open(layout)
    given: list[Any] = []

    def give(segment: Any) -> None:
        given.append(segment)
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels._buffers, "give_segment", give)
    kernels.load(dense_store(layout, 1, np.random.default_rng(3)))
    request = ScanRequest(0, layout.n_pages, layout.n_pages, "dense")
    under_way = scan.Scan(
        kernels.store, layout.fmt, layout.n_targets, request, kernels._workers, kernels._buffers
    )
    under_way._prepare()
    under_way._claim_piece(0)
    with pytest.raises(KeyboardInterrupt):
        under_way._give_segments()
    assert given
    left = [segment for piece in under_way.pieces for segment in piece.segments]
    assert not any(one is other for one in left for other in given)


def test_ctrl_c_while_claims_are_put_back_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = plain_layout("rfc", n_sections=1)
    kernels = CpuBackend(1).open(layout)
    kernels.load(dense_store(layout, 1, np.random.default_rng(3)))
    n_ready = kernels.count_ready()
    request = ScanRequest(0, layout.n_pages, layout.n_pages, "dense")
    under_way = scan.Scan(
        kernels.store, layout.fmt, layout.n_targets, request, kernels._workers, kernels._buffers
    )
    under_way._prepare()
    under_way._claim_piece(0)
    undone, calls = under_way._undo, []

    def undo(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        undone(*args)

    monkeypatch.setattr(under_way, "_undo", undo)
    assert kernels.count_ready() < n_ready
    with pytest.raises(KeyboardInterrupt):
        under_way._undo_all()
    assert kernels.count_ready() == n_ready
