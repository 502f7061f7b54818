"""A store's arrays without a copy: the same memory, not to be written, there as long as somebody has it."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from failing import FailingBackend
from gpuscan.base.errors import ArgumentError
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.store.single import Store
from machines import tiered
from stores import ARRAYS

needs_read_only = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0",
    reason="DLPack of an earlier NumPy takes no read-only array",
)
START = 5 * SECTION_PAGES
"""First PFN of node 2, flat page 2 * SECTION_PAGES."""


@needs_read_only
@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_a_view_is_the_stores_own_memory_and_is_not_to_be_written(device: str) -> None:
    with Store(tiered(), "rfc", CpuBackend(1) if device == "cpu" else "reference") as store:
        view = store.view()
        for name in ARRAYS:
            array, own = getattr(view, name), getattr(store.kernels.arrays, name)
            assert np.shares_memory(array, own) or not own.size
            with pytest.raises(ValueError, match="read-only"):
                array[:] = 0
            with pytest.raises(ValueError, match="WRITEABLE"):
                np.from_dlpack(array).flags.writeable = True
            assert own.flags.writeable
        store.load_pages(store.page_map.present_bits())
        store.request([START + 3], 0)
        assert view.records[2 * SECTION_PAGES + 3]
        assert np.count_nonzero(view.records) == 1
        assert np.shares_memory(np.from_dlpack(view.records), store.kernels.arrays.records)


@needs_read_only
def test_torch_takes_a_view_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    with Store(tiered(), "rfc", CpuBackend(1)) as store:
        records = torch.from_dlpack(store.view().records)
        store.load_pages(store.page_map.present_bits())
        store.request([START + 3], 0)
        assert int(records[2 * SECTION_PAGES + 3]) == int(store.view().records[2 * SECTION_PAGES + 3]) != 0


@needs_read_only
def test_a_view_outlives_its_store_and_a_closed_one_has_none() -> None:
    store = Store(tiered(), "rfc", CpuBackend(1))
    store.load_pages(store.page_map.present_bits())
    store.request([START], 0)
    records = np.from_dlpack(store.view().records)
    kept = records.copy()
    store.close()
    with pytest.raises(ArgumentError, match="the store is closed; open another one"):
        store.view()
    del store
    gc.collect()
    others = [np.full(len(records), 7, dtype=records.dtype) for _ in range(4)]  # in room that was free
    assert np.array_equal(records, kept)
    assert np.count_nonzero(kept) == 1
    assert len(others) == 4


def test_arrays_that_know_no_read_only_are_handed_out_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CuPy's are."""

    class OnDevice:
        def __len__(self) -> int:
            return 1

    theirs = OnDevice()
    with Store(tiered(), "rfc", "reference") as store, monkeypatch.context() as patch:
        patch.setattr(store.kernels.arrays, "records", theirs)
        asked: list[str] = []
        patch.setattr(store.kernels, "count_index", lambda: asked.append("an answer"))
        assert store.view().records is theirs
        assert asked  # after all that was asked before


def test_a_view_goes_with_the_store_to_the_device_that_takes_over() -> None:
    failing = FailingBackend(CpuBackend(1), at_first="scan")
    backend = GuardedBackend(failing, lambda: CpuBackend(1))
    with Store(tiered(), "rfc", backend) as store:
        store.load_pages(store.page_map.present_bits())
        store.request([START + 3], 0)
        view = store.view()
        before = view.records
        assert np.shares_memory(before, store.kernels.arrays.records)
        store.scan()
        assert backend.failures
        assert not np.shares_memory(before, view.records)
        assert np.shares_memory(view.records, store.kernels.arrays.records)
        store.request([START + 4], 0)
        assert view.records[2 * SECTION_PAGES + 4]
    with pytest.raises(ArgumentError, match="the store is closed"):
        _ = view.records
