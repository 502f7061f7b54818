"""The scan of few blocks in one call: the same plans and stores as the reference, also where it gives up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_kernels_equal import a_mask, a_range, pair

from backends import backend_named
from gpuscan.kernels.api import ScanRequest, StoreLayout
from gpuscan.kernels.cpu import scan
from gpuscan.kernels.cpu.scan_sparse import scan_sparse
from gpuscan.kernels.cpu.staged_plan import StagedPlan
from gpuscan.kernels.cpu.staging import STRIP_CLAIMS, strips_for
from gpuscan.records.formats import STORE_FORMATS
from gpuscan.records.page_map import SECTION_PAGES
from stores import NONE, Filling, assert_same_plan, assert_same_store, layouts, plain_layout


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    layout=layouts(),
    ready=st.sampled_from([0.0, 1e-5, 1e-3]),
    stale=st.sampled_from([0.0, 1e-3]),
    full_blocks=st.integers(0, 3),
    path=st.sampled_from(["indexed", "auto"]),
    seed=st.integers(0, 1 << 30),
)
def test_the_reference_agrees(
    layout: StoreLayout, ready: float, stale: float, full_blocks: int, path: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    reference, kernels = pair(
        "cpu-2", layout, Filling(ready=ready, stale=stale, full_blocks=full_blocks), rng
    )
    lo, hi = a_range(rng, layout.n_pages)
    request = ScanRequest(lo, hi, max(layout.n_pages, SECTION_PAGES), path, a_mask(rng))
    assert_same_plan(kernels.scan(request), reference.scan(request))
    assert_same_store(kernels, reference)


@pytest.mark.parametrize("format_name", STORE_FORMATS)
def test_claims_that_fill_a_segment_go_on_in_the_next(format_name: str) -> None:
    layout = plain_layout(format_name, n_sections=3)
    reference, kernels = pair("cpu-2", layout, Filling(ready=2.0), np.random.default_rng(5))
    request = ScanRequest(0, layout.n_pages, layout.n_pages, "indexed")
    plan = kernels.scan(request)
    assert len(plan.flat) > strips_for(layout.n_targets) * STRIP_CLAIMS
    assert_same_plan(plan, reference.scan(request))
    assert_same_store(kernels, reference)


@pytest.mark.parametrize("format_name", STORE_FORMATS)
@pytest.mark.parametrize("n_claims", [0, 1, 63, 64, 65, 2_047, 2_048, 2_049])
def test_a_plan_is_the_same_made_at_once_or_when_it_is_read(
    format_name: str, n_claims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = plain_layout(format_name, n_sections=2, n_targets=5)
    reference, kernels = pair("cpu-2", layout, Filling(ready=0.0), np.random.default_rng(1))
    rng = np.random.default_rng(n_claims)
    flats = np.sort(rng.choice(layout.n_pages // 2, n_claims, replace=False))
    fmt = layout.fmt
    words = np.full(n_claims, fmt.ready.mask, dtype=np.int64)
    if fmt.has_nid:  # of which some are no node's
        words |= np.minimum(rng.integers(0, layout.n_targets + 3, n_claims), fmt.nid.max) << fmt.nid.shift
    arrays = reference.dump()
    arrays.records[flats] = words.astype(fmt.dtype)
    np.bitwise_or.at(arrays.ready_bits, flats >> 6, np.uint64(1) << (flats & 63).astype(np.uint64))
    np.bitwise_or.at(arrays.block_bits, flats >> 15, np.uint64(1) << (flats >> 9 & 63).astype(np.uint64))
    for each in (reference, kernels):
        each.load(arrays)
    made_later = []

    def staged(*given: Any) -> StagedPlan:
        made_later.append(given)
        return StagedPlan(*given)

    monkeypatch.setattr(scan, "StagedPlan", staged)
    request = ScanRequest(0, layout.n_pages, layout.n_pages, "indexed")
    plan, expected = kernels.scan(request), reference.scan(request)
    assert len(plan.flat) + plan.n_unknown_target == n_claims
    assert_same_plan(plan, expected)
    assert_same_store(kernels, reference)
    assert plan.owns_arrays
    assert bool(made_later) == (n_claims > 2_048)
    found = plan.flat
    assert found.base is None or found.base.nbytes == found.nbytes, (
        "a plan that is kept holds no more than itself"
    )
    plan.recycle()
    kernels.load(arrays)
    kernels.scan(request)
    assert found.tolist() == expected.flat.tolist()


def test_it_is_tried_only_where_it_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Counted:
        def for_bits(self, bits: int) -> Any:
            compiled = scan_sparse.for_bits(bits)

            def call(*args: Any) -> tuple[int, int]:
                calls.append(compiled(*args))
                return calls[-1]

            return call

    kernels = backend_named("cpu-2").open(plain_layout(n_sections=2))
    monkeypatch.setattr(scan, "scan_sparse", Counted())
    n_pages = 2 * SECTION_PAGES
    kernels.set_eligible(np.arange(n_pages), eligible=True)

    def claimed(path: Any, capacity: int = n_pages, mask: Any = None) -> int:
        plan = kernels.scan(ScanRequest(0, n_pages, capacity, path, mask))
        kernels.release(plan.flat, plan.words, NONE)
        return len(plan.flat)

    kernels.request(np.array([5, 40_000]), np.full(2, 1, dtype=np.int32), NONE)
    assert claimed("dense") == claimed("indexed", capacity=512) == 2
    assert calls == []
    assert claimed("auto") == claimed("indexed") == 2
    assert calls == [(2, 128), (2, 128)]
    every_block = np.arange(0, n_pages, 512)
    kernels.request(every_block, np.full(len(every_block), 1, dtype=np.int32), NONE)
    plan = kernels.scan(ScanRequest(0, n_pages, n_pages))
    assert len(plan.flat) == len(every_block) + 2
    assert calls[2:] == [(128, 128)]
    assert "by a sample" in plan.why  # too many for one call: the usual way chose and claimed
