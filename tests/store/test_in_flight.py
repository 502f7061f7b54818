"""A plan between its claims and its reader: nothing of it is lost, its arrays are its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuscan.kernels.api import ScanRequest
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.kernels.raw_plan import RawPlan
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.store.in_flight import Arrived, ScanInFlight
from gpuscan.store.single import Store
from machines import tiered

START = 5 * SECTION_PAGES
"""First PFN of node 2."""


def test_a_folio_that_is_freed_while_a_plan_is_handed_out_leaves_it_its_own_arrays() -> None:
    """Another thread may free at any moment, and the arrays go on to the next plan."""

    class FreedMeanwhile(ScanInFlight):
        def arrived(self) -> Arrived:
            found = super().arrived()
            self.note_freed(np.array([3]))
            return found

    flats, words = np.arange(5), np.arange(5, dtype=np.uint32)
    raw = RawPlan(
        offsets=np.array([0, 5]),
        flat=flats,
        words=words,
        cursor=10,
        path="indexed",
        why="as asked",
        examined_pages=0,
        examined_bytes=0,
    )
    plan = FreedMeanwhile(raw, 0, 0).plan(tiered().page_map, None)
    flats[:], words[:] = -7, 0
    assert plan.flat.tolist() == plan.words.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("path", "n_ready", "refused"),
    [("indexed", 99, 2_048), ("indexed", 2_999, 2_999), ("dense", 99, 99)],
)
def test_no_memory_for_a_plan_leaves_its_pages_ready(
    path: Any, n_ready: int, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = np.empty

    def fails(shape: Any, *args: Any, **more: Any) -> Any:
        if shape == refused:
            raise MemoryError
        return empty(shape, *args, **more)

    with Store(tiered(), "rfc", CpuBackend(1)) as store:
        store.load_pages(store.page_map.present_bits())
        store.request(START + 3 * np.arange(n_ready), 0)
        with monkeypatch.context() as short:
            short.setattr(np, "empty", fails)
            with pytest.raises(MemoryError):
                store.scan(path=path)
        assert store.count_ready() == n_ready
        assert len(store.scan(path=path).flat) == n_ready


@pytest.mark.parametrize(("path", "capacity"), [("indexed", 512), ("dense", 512), ("indexed", 1 << 20)])
@pytest.mark.parametrize("is_read", [False, True])
def test_a_plan_of_ones_own_arrays_that_was_recycled_says_so(path: Any, capacity: int, is_read: bool) -> None:
    with Store(tiered(), "rfc", CpuBackend(1)) as store:
        store.load_pages(store.page_map.present_bits())
        store.request([START + 3], 0)
        raw = store.kernels.scan(ScanRequest(0, store.n_pages, capacity, path))
        assert raw.owns_arrays
        if is_read:
            assert len(raw.flat) == 1
        raw.recycle()
        with pytest.raises(RuntimeError, match="recycled"):
            _ = raw.flat
