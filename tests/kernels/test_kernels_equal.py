"""Every backend does the same as the reference, exactly, on stores at rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import EVERY_DEVICE, backend_named
from gpuscan.base.errors import DeviceError
from gpuscan.kernels.api import Budget, Kernels, RecordParams, ScanRequest, StoreLayout
from gpuscan.kernels.cpu import backend as cpu_backend
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import STORE_FORMATS
from gpuscan.records.page_map import SECTION_PAGES, Extent
from stores import (
    EXAMPLES,
    NONE,
    Filling,
    always_parallel,
    assert_same_plan,
    assert_same_store,
    drained,
    fillings,
    layout_of,
    layouts,
    plain_layout,
    random_store,
    seeds,
)

pytestmark = pytest.mark.parametrize("backend", EVERY_DEVICE)


@pytest.fixture(scope="module", autouse=True)
def _parallel() -> Iterator[None]:
    with always_parallel():
        yield


def pair(backend: str, layout: StoreLayout, filling: Filling, rng: np.random.Generator) -> list[Kernels]:
    """Return the reference and the backend with the same store."""
    arrays = random_store(layout, filling, rng)
    opened: list[Kernels] = [ReferenceBackend().open(layout), backend_named(backend).open(layout)]
    for kernels in opened:
        kernels.load(arrays)
    return opened


def a_range(rng: np.random.Generator, n_pages: int) -> tuple[int, int]:
    """Return the whole store or a part of it that starts and ends inside sections."""
    if rng.random() < 0.5:
        return 0, n_pages
    lo, hi = sorted((rng.integers(0, n_pages // 512 + 1, 2) * 512).tolist())
    return lo, hi


def a_mask(rng: np.random.Generator) -> Any:
    """Return no mask, or one that leaves some nodes out."""
    return None if rng.random() < 0.5 else rng.integers(0, 2, 1024).astype(np.uint8)


def a_budget(rng: np.random.Generator, layout: StoreLayout) -> Budget:
    """Return limits from none over 0 and a few pages to more than there is."""
    limits = rng.choice(np.array([-1, 0, 1, 7, 64, 700, 10**9]), layout.n_targets)
    resume = rng.integers(0, layout.n_pages, layout.n_targets)
    return Budget(limits.astype(np.int64), resume, int(rng.integers(0, layout.fmt.time.max + 1)))


@given(layout=layouts(), filling=fillings, seed=seeds)
@EXAMPLES
def test_producers(backend: str, layout: StoreLayout, filling: Filling, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, kernels = pair(backend, layout, filling, rng)
    pages = layout.page_map
    last_pfn = int(pages.extent_pfn_end[-1])
    for step in range(3):
        pfns = rng.integers(0, last_pfn + 100, 300)
        pfns[:150] = rng.choice(pfns[150:], 150)  # repeats, in one call
        nids = rng.integers(-2, layout.n_targets + 2, 300).astype(np.int32)
        flats = rng.choice(layout.n_pages, 200, replace=False)
        ready = np.asarray(layout.fmt.ready.mask, dtype=layout.fmt.dtype)
        words = rng.integers(0, 1 << layout.fmt.bits, 200).astype(layout.fmt.dtype) | ready
        params = RecordParams(
            int(rng.integers(0, 1 << 40)),
            int(rng.choice([0, 100, 10**6])),
            int(rng.integers(1, 4)),
            step % 2 == 0,
        )
        results: list[list[Any]] = []
        for each in (reference, kernels):
            outcomes = np.full((3, 300), 99, dtype=np.uint8)
            result: list[Any] = [each.record(pfns, nids, params, outcomes[0])]
            result.append(each.request(pfns, nids, outcomes[1]))
            result.append(each.request(pfns, nids, NONE))
            result.append(each.release(flats, words, outcomes[2, :200]))
            each.set_eligible(flats[:20], eligible=False)
            result.append(each.discard(flats[20:60]))
            each.set_eligible(flats[60:100], eligible=True)
            if layout.has_large_folios:
                each.set_order(flats[100:103] >> step << step, step)
            result += [outcomes, each.take_active(), each.count_ready(), each.count_index()]
            results.append(result)
        for theirs, mine in zip(*results, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert_same_store(kernels, reference)


@given(layout=layouts(), filling=fillings, seed=seeds, path=st.sampled_from(["dense", "indexed", "auto"]))
@EXAMPLES
def test_scan(backend: str, layout: StoreLayout, filling: Filling, seed: int, path: Any) -> None:
    rng = np.random.default_rng(seed)
    reference, kernels = pair(backend, layout, filling, rng)
    lo, hi = a_range(rng, layout.n_pages)
    request = ScanRequest(lo, hi, layout.n_pages, path, a_mask(rng))
    plan = kernels.scan(request)
    assert_same_plan(plan, reference.scan(request))
    assert_same_store(kernels, reference)
    if path != "auto":
        assert plan.path == path


@given(layout=layouts(), filling=fillings, seed=seeds, path=st.sampled_from(["dense", "indexed"]))
@EXAMPLES
def test_scan_with_a_budget(
    backend: str, layout: StoreLayout, filling: Filling, seed: int, path: Any
) -> None:
    rng = np.random.default_rng(seed)
    reference, kernels = pair(backend, layout, filling, rng)
    lo, hi = a_range(rng, layout.n_pages)
    mask, budget = a_mask(rng), a_budget(rng, layout)
    theirs = reference.rank(budget, lo, hi, mask)
    mine = kernels.rank(budget, lo, hi, mask)
    np.testing.assert_array_equal(mine.cut_key, theirs.cut_key)
    np.testing.assert_array_equal(mine.seen_pages, theirs.seen_pages)
    assert_same_store(kernels, reference)
    plan = kernels.scan(ScanRequest(lo, hi, layout.n_pages, path, mask, mine))
    assert_same_plan(plan, reference.scan(ScanRequest(lo, hi, layout.n_pages, path, mask, theirs)))
    assert_same_store(kernels, reference)


@given(layout=layouts(), filling=fillings, seed=seeds, path=st.sampled_from(["dense", "indexed"]))
@EXAMPLES
def test_draining_gives_what_one_plan_gives(
    backend: str, layout: StoreLayout, filling: Filling, seed: int, path: Any
) -> None:
    rng = np.random.default_rng(seed)
    reference, kernels = pair(backend, layout, filling, rng)
    lo, hi = a_range(rng, layout.n_pages)
    mask = a_mask(rng)
    budget = a_budget(rng, layout) if rng.random() < 0.5 else None
    single, bounded = (
        None if budget is None else each.rank(budget, lo, hi, mask) for each in (reference, kernels)
    )
    capacity = int(rng.choice([512, 513, 1500]))

    def one(cursor: int | None) -> ScanRequest:
        return ScanRequest(lo if cursor is None else cursor, hi, layout.n_pages, path, mask, single)

    def several(cursor: int | None) -> ScanRequest:
        return ScanRequest(lo if cursor is None else cursor, hi, capacity, path, mask, bounded)

    assert drained(kernels, several) == drained(reference, one)
    assert_same_store(kernels, reference)


@pytest.mark.parametrize("format_name", STORE_FORMATS)
def test_every_page_ready(backend: str, format_name: str) -> None:
    layout = plain_layout(format_name, n_sections=1)
    reference, kernels = pair(backend, layout, Filling(ready=2.0), np.random.default_rng(5))
    kernels.set_eligible(np.arange(layout.n_pages), eligible=True)
    assert kernels.count_ready() == layout.n_pages
    dense = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, "auto"))
    assert (dense.path, dense.examined_pages) == ("dense", layout.n_pages)
    assert_same_plan(dense, reference.scan(ScanRequest(0, layout.n_pages, layout.n_pages)))
    kernels.release(dense.flat, dense.words, NONE)
    assert_same_plan(kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, "indexed")), dense)


def test_one_page(backend: str) -> None:
    layout = layout_of([Extent(77, 78, 1, 0)])
    kernels = backend_named(backend).open(layout)
    kernels.set_eligible(np.array([77]), eligible=True)
    pfns, nids = np.array([76, 77, 78]), np.zeros(3, dtype=np.int32)
    outcomes = np.zeros(3, dtype=np.uint8)
    kernels.request(pfns, nids, outcomes)
    assert outcomes.tolist() == [4, 0, 4]
    plan = kernels.scan(ScanRequest(0, layout.n_pages, 512))
    assert (plan.flat.tolist(), plan.path, plan.examined_pages) == ([77], "indexed", 1)
    assert plan.why == "1 of 64 blocks have candidates"


def test_reused_arrays_do_not_change_a_plan_that_was_not_recycled(backend: str) -> None:
    layout = plain_layout(n_sections=1)
    _, kernels = pair(backend, layout, Filling(ready=0.01), np.random.default_rng(1))
    kernels.set_eligible(np.arange(layout.n_pages), eligible=True)
    plan = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages))
    flats, words = (array.copy() for array in plan.part(0, plan.n_folios))
    kernels.release(flats, words, NONE)
    again = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages))
    np.testing.assert_array_equal(plan.part(0, plan.n_folios)[0], flats)
    kernels.release(flats, words, NONE)
    again.recycle()
    third = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages))
    np.testing.assert_array_equal(plan.flat, flats)
    assert third.owns_arrays or np.shares_memory(third.flat, again.flat)


def test_pages_beyond_two_to_the_32(backend: str) -> None:
    # 1-byte records: 4 GiB of address space, of which only what is touched is ever there.
    n_pages = (1 << 32) + 2 * SECTION_PAGES
    layout = layout_of([Extent(0, n_pages - 1, 1, 0)], "pghot-compact")
    kernels = backend_named(backend).open(layout)
    ends = np.array([0, (1 << 32) - 1, 1 << 32, n_pages - 2])
    kernels.set_eligible(ends, eligible=True)
    assert kernels.request(ends, np.zeros(4, dtype=np.int32), NONE)[0] == 4
    cuts = kernels.rank(Budget(np.array([3] + [-1] * 7), np.full(8, 1 << 32), 0), 0, n_pages)
    plan = kernels.scan(ScanRequest(0, n_pages, 512, "indexed", cuts=cuts))
    assert plan.flat.tolist() == [0, 1 << 32, n_pages - 2]  # ties from 2**32 on come first, then those below
    assert kernels.release(plan.flat, plan.words, NONE).tolist() == [3, 0, 0]
    plan = kernels.scan(ScanRequest((1 << 32) - SECTION_PAGES, n_pages, 512, "dense"))
    assert plan.flat.tolist() == ends[1:].tolist()
    kernels.close()


def test_what_callers_get_wrong(backend: str) -> None:
    layout = plain_layout(n_sections=1)
    kernels = backend_named(backend).open(layout)
    some = np.zeros(2, dtype=np.int64)
    with pytest.raises(ValueError, match="not all in"):
        kernels.discard(np.array([layout.n_pages]))
    with pytest.raises(ValueError, match="not all in"):
        kernels.set_eligible(np.array([-1]), eligible=True)
    with pytest.raises(ValueError, match="nids has 1 elements"):
        kernels.request(some, np.zeros(1, dtype=np.int32), NONE)
    with pytest.raises(ValueError, match="outcomes has 1 elements"):
        kernels.request(some, np.zeros(2, dtype=np.int32), np.zeros(1, dtype=np.uint8))
    with pytest.raises(ValueError, match="without large folios"):
        kernels.set_order(some, 1)
    with pytest.raises(ValueError, match="the store at"):
        kernels.scan(ScanRequest(0, layout.n_pages + 512, 512))
    cuts = kernels.rank(Budget(np.zeros(8, dtype=np.int64), np.zeros(8, dtype=np.int64), 0), 0, SECTION_PAGES)
    with pytest.raises(ValueError, match="outside the ranked"):
        kernels.scan(ScanRequest(0, layout.n_pages, 512, cuts=cuts))
    kernels.close()
    with pytest.raises(ValueError, match="closed"):
        kernels.count_ready()


def test_too_little_memory(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_backend, "available_bytes", lambda: 100_000)
    if not backend.startswith("cpu"):
        monkeypatch.setattr(type(backend_named(backend).device), "free_bytes", lambda _self: 100_000)
    with pytest.raises(
        DeviceError, match=r"need .* (at most 97\.7 KiB are free|97\.7 KiB of memory are available)"
    ):
        backend_named(backend).open(plain_layout(n_sections=1))
