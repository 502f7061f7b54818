"""Ready words of any fill: claimed one by one and together, grouped with runs of a target and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuscan.kernels.api import Kernels, ScanRequest, StoreArrays, StoreLayout
from gpuscan.kernels.cpu import CpuBackend, scan
from gpuscan.kernels.cpu.claims import flats_of, unpack
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import STORE_FORMATS, pack
from gpuscan.records.page_map import SECTION_PAGES
from stores import assert_same_plan, assert_same_store, plain_layout

N_WORD = 64


def dense_store(layout: StoreLayout, n_alike: int, rng: np.random.Generator) -> StoreArrays:
    """Return records that are READY in a share of each 64 pages that is drawn for these 64.

    Half of the ready words have stale bits besides, all 64: what looks as if it could be claimed together
    has neighbours that are not READY. ``n_alike`` pages in a row have one target, which may be none of the
    machine's.
    """
    n_pages, fmt = layout.n_pages, layout.fmt
    shares = rng.choice([0.0, 0.3, 0.6, 0.95, 1.0], n_pages // N_WORD)
    ready = rng.random(n_pages) < np.repeat(shares, N_WORD)
    nids = np.repeat(rng.integers(0, layout.n_targets + 1, -(-n_pages // n_alike)), n_alike)[:n_pages]
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
def test_words_of_any_fill(format_name: str, path: Any, n_alike: int) -> None:
    layout = plain_layout(format_name, n_sections=1)
    arrays = dense_store(layout, n_alike, np.random.default_rng(n_alike))
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
    base = 5 << 32
    flats, words = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=f"u{bits // 8}")
    unpack.for_bits(bits)(claims, 1, 4, base, flats, words)
    assert flats.tolist() == [base + offset for offset in offsets[1:]]
    assert words.tolist() == [word] * 3
    np.testing.assert_array_equal(flats_of(claims, base, bits)[1:], flats)


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
