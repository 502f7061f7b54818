"""The cut-offs that the device has, and those that a scan is given: the same ones, or looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emulated import emulated_backend
from gpuscan.kernels.api import Budget, Cutoffs, Kernels, ScanRequest
from gpuscan.kernels.cuda.source import ROW_CHUNKS, WARPS
from gpuscan.kernels.cuda.stretches import STRETCHES
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.page_map import SECTION_PAGES, Extent
from stores import NONE, assert_same_plan, assert_same_store, layout_of

LAYOUT = layout_of(
    [Extent(at * SECTION_PAGES, (at + 1) * SECTION_PAGES, at + 1, at + 1) for at in range(2)], n_targets=4
)
N_PAGES = LAYOUT.n_pages
READY = np.concatenate([at * SECTION_PAGES + np.arange(0, 30_000, 30) for at in range(2)])
"""1,000 pages of each of nodes 1 and 2, all of one key."""


def ready_store(backend: Any, flats: NDArray[np.int64] = READY) -> Kernels:
    kernels: Kernels = backend.open(LAYOUT)
    kernels.set_eligible(np.arange(N_PAGES), True)
    kernels.request(LAYOUT.page_map.pfn_of_flat(flats), np.zeros(len(flats), dtype=np.int32), NONE)
    return kernels


def of_nodes(*nids: int) -> NDArray[np.uint8]:
    mask = np.zeros(1024, dtype=np.uint8)
    mask[list(nids)] = 1
    return mask


def ranked(kernels: Kernels, lo: int, hi: int, mask: NDArray[np.uint8] | None = None) -> Cutoffs:
    limits = np.full(LAYOUT.n_targets, 100)
    return kernels.rank(Budget(limits, np.zeros_like(limits), 0), lo, hi, mask)


def claimed(
    kernels: Kernels, cuts: Cutoffs, lo: int = 0, hi: int = N_PAGES, mask: NDArray[np.uint8] | None = None
) -> list[int]:
    found: list[int] = kernels.scan(ScanRequest(lo, hi, N_PAGES, "auto", mask, cuts)).flat.tolist()
    return found


def two_node_masks(kernels: Kernels) -> list[list[int]]:
    first, other = (ranked(kernels, 0, N_PAGES, of_nodes(nid)) for nid in (2, 1))
    return [claimed(kernels, cuts, mask=of_nodes(nid)) for cuts, nid in ((first, 2), (other, 1))]


def two_ranges(kernels: Kernels) -> list[list[int]]:
    halves = ((SECTION_PAGES, N_PAGES), (0, SECTION_PAGES))
    first, other = (ranked(kernels, lo, hi) for lo, hi in halves)
    return [claimed(kernels, cuts, lo, hi) for cuts, (lo, hi) in zip((first, other), halves, strict=True)]


def a_scan_that_finds_nothing_between(kernels: Kernels) -> list[list[int]]:
    """It looks up how far ties go on nodes without any: that is not what the cut-offs leave."""
    first = ranked(kernels, 0, N_PAGES)
    ranked(kernels, 0, N_PAGES, of_nodes(3))  # other numbers
    return [claimed(kernels, first, mask=of_nodes(3)), claimed(kernels, first)]


@pytest.mark.parametrize("work", [two_node_masks, two_ranges, a_scan_that_finds_nothing_between])
def test_cut_offs_are_those_that_a_scan_is_given(work: Callable[[Kernels], list[list[int]]]) -> None:
    mine, reference = (ready_store(backend) for backend in (emulated_backend(), ReferenceBackend()))
    found = work(mine)
    assert found == work(reference)
    assert len(found[1]) == 100
    assert_same_store(mine, reference)


@pytest.mark.parametrize("path", ["dense", "indexed"])
def test_a_folio_that_nobody_counted_leaves_their_quota_to_those_that_were(path: Any) -> None:
    """It is below the pages that were ranked, so it comes first, in one round with them."""
    layout = layout_of([Extent(0, SECTION_PAGES, 1, 1)], n_targets=4, large_folios=True)
    hot = np.arange(512, 532)
    limits = np.full(layout.n_targets, len(hot))
    plans, stores = [], []
    for backend in (emulated_backend(), ReferenceBackend()):
        kernels = backend.open(layout)
        kernels.set_order(np.array([0]), 9)
        kernels.set_eligible(np.arange(layout.n_pages), True)
        kernels.request(hot, np.zeros(len(hot), dtype=np.int32), NONE)
        cuts = kernels.rank(Budget(limits, np.zeros_like(limits), 0), 0, layout.n_pages)
        kernels.request(np.array([0]), np.zeros(1, dtype=np.int32), NONE)
        plans.append(kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, path, cuts=cuts)))
        stores.append(kernels)
        assert cuts.above_pages[0, 0] == 0
    assert plans[0].flat.tolist() == hot.tolist()
    assert_same_plan(*plans)
    assert_same_store(*stores)


def test_the_last_blocks_sum_up_all_stretches() -> None:
    assert STRETCHES <= WARPS * ROW_CHUNKS**2
