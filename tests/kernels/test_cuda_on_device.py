"""What is on the device already: items of other libraries, and kernels of others that mark pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuscan
from cuda_compiler import MARK, cubin_of, memory_steps, missing
from emulated import EmulatedDevice, ForeignArray, emulated_backend
from emulator.loader import EmulatedModule
from emulator.presence import need
from gpuscan.base.errors import ArgumentError, DeviceFailedError, InputError
from gpuscan.kernels.api import Budget, Outcome, RecordParams, ReleaseOutcome, ScanRequest
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.own_kernels import VIEW, header, view_of
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import STORE_FORMATS, record_format
from gpuscan.records.page_map import SECTION_PAGES, Extent
from stores import NONE, Filling, assert_indexed, assert_same_store, layout_of, plain_layout, random_store

LAYOUT = plain_layout(n_sections=1)
PARAMS = RecordParams(1 << 20, 1 << 10, 2, drop_top_tier=False)


def items(n: int = 300) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return PFNs, some in holes and some twice, and nids, some unknown."""
    rng = np.random.default_rng(4)
    return rng.integers(0, 3 * SECTION_PAGES, n), rng.integers(-1, 9, n).astype(np.int32)


@pytest.mark.parametrize("name", ["request", "record"])
def test_items_that_are_on_the_device_are_worked_on_where_they_are(name: str) -> None:
    device = EmulatedDevice()
    uploaded: list[int] = []
    device.write_from = lambda array, content: uploaded.append(len(array))  # type: ignore[method-assign]
    params = [PARAMS] if name == "record" else []
    pfns, nids = items()
    counts, outcomes, stores = [], [], []
    for backend in (CudaBackend(device), ReferenceBackend()):
        kernels = backend.open(LAYOUT)
        kernels.load(random_store(LAYOUT, Filling(1e-2), np.random.default_rng(1)))
        given: Any = (pfns, nids)
        if backend.name == "cuda":
            given = (ForeignArray(pfns, stream=5), ForeignArray(nids, stream=6))
        came = np.full(len(pfns), 99, dtype=np.uint8)
        counts.append(getattr(kernels, name)(*given, *params, came).tolist())
        outcomes.append(came.tolist())
        stores.append(kernels)
    assert counts[0] == counts[1]
    assert outcomes[0] == outcomes[1]
    assert_same_store(*stores)
    assert uploaded == [], "items were copied"
    assert device.waited_for == [5, 6]


BAD: dict[str, Any] = {
    "PFNs of 4 bytes": ((np.int32, np.int32), {}, "pfns has dtype int32; give int64"),
    "nids of 8 bytes": ((np.int64, np.int64), {}, r"nids has dtype int64; give int32\[300\]"),
    "another GPU": ((np.int64, np.int32), {"device_number": 1}, "pfns is on GPU 1, the store on GPU 0; give"),
}


@pytest.mark.parametrize("name", BAD)
def test_items_that_kernels_cannot_take_are_refused(name: str) -> None:
    dtypes, where, says = BAD[name]
    kernels = emulated_backend().open(LAYOUT)
    plain_pfns, plain_nids = items()
    pfns = ForeignArray(plain_pfns.astype(dtypes[0]), **where)
    nids = ForeignArray(plain_nids.astype(dtypes[1]), **where)
    with pytest.raises(ArgumentError, match=f"request: {says}"):
        kernels.request(pfns, nids, NONE)  # type: ignore[arg-type]


def test_items_that_are_not_one_row_or_not_all_there_are_refused() -> None:
    kernels: Any = emulated_backend().open(LAYOUT)
    pfns, nids = items()
    for given, says in (
        ((ForeignArray(pfns[::2]), ForeignArray(nids[::2].copy())), "pfns is not one row of memory"),
        ((ForeignArray(pfns.reshape(2, -1)), ForeignArray(nids)), "pfns is not one row of memory"),
        ((ForeignArray(pfns), ForeignArray(nids[:9])), "nids has 9 elements; give int32.300."),
        ((ForeignArray(pfns), nids), "nids is in host memory, and not all are; give"),
        ((pfns, ForeignArray(nids)), "pfns is in host memory, and not all are; give"),
    ):
        with pytest.raises(ArgumentError, match=says):
            kernels.request(*given, NONE)
    with pytest.raises(ArgumentError, match="outcomes has 9 elements, expected 300 or none"):
        kernels.request(ForeignArray(pfns), ForeignArray(nids), np.zeros(9, dtype=np.uint8))
    assert kernels.count_ready() == 0


class MaskedArray(ForeignArray):
    """One whose library leaves out some elements."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            **super().__cuda_array_interface__,
            "mask": ForeignArray(np.ones(len(self.array), dtype=bool)),
        }


@pytest.mark.parametrize("masked", ["pfns", "nids"])
def test_masked_items_are_refused(masked: str) -> None:
    """Kernels would take the elements that the mask leaves out."""
    kernels: Any = emulated_backend().open(LAYOUT)
    pfns, nids = items()
    given = [
        (MaskedArray if masked == name else ForeignArray)(each)
        for name, each in (("pfns", pfns), ("nids", nids))
    ]
    with pytest.raises(
        ArgumentError, match=f"request: {masked} has a mask, and kernels take every element; give"
    ):
        kernels.request(*given, NONE)


def test_a_store_takes_them_where_its_backend_does() -> None:
    machine = gpuscan.resolve_topology("two-socket-cxl", 2 << 30)
    pfns = machine.page_map.extent_pfn_start[-1:]  # of a slow node
    given: Any = (ForeignArray(pfns.copy()), ForeignArray(np.zeros(1, dtype=np.int32)))
    with gpuscan.Store(machine, device=emulated_backend()) as store:
        store.load_pages(store.page_map.present_bits())
        assert store.request(*given)[Outcome.ACCEPTED] == 1
        assert len(store.scan().flat) == 1
        counts = store.record(*given, now_jiffies=1, window_jiffies=1, threshold=1)
        assert counts[Outcome.ACCEPTED] == 1
    with (
        gpuscan.Store(machine, device="reference") as store,
        pytest.raises(ArgumentError, match="pfns is in a GPU's memory; give int64"),
    ):
        store.request(*given)


# Plans that stay


@pytest.mark.parametrize("density", [0.0, 1e-3, 3e-2])
@pytest.mark.parametrize("path", ["dense", "indexed"])
def test_a_plan_that_stays_on_the_device_is_the_one_that_comes(path: Any, density: float) -> None:
    extents = [Extent(5 * SECTION_PAGES, 6 * SECTION_PAGES, 0, 0), Extent(7 << 20, (7 << 20) + 700, 1, 1)]
    layout = layout_of(extents)
    device = EmulatedDevice()
    fetched: list[int] = []
    device.fetch_beside = lambda copies: fetched.append(len(copies))  # type: ignore
    kernels, reference = CudaBackend(device).open(layout), ReferenceBackend().open(layout)
    arrays = random_store(layout, Filling(density, unknown_targets=True), np.random.default_rng(1))
    budget = Budget(np.full(8, 20), np.full(8, 9000), 0)
    for limited in (False, True):
        requests = []
        for each in (kernels, reference):
            each.load(arrays)
            cuts = each.rank(budget, 0, layout.n_pages) if limited else None
            requests.append(ScanRequest(0, layout.n_pages, layout.n_pages, path, cuts=cuts))
        mine, theirs = kernels.scan_on_device(requests[0]), reference.scan(requests[1])
        np.testing.assert_array_equal(mine.offsets, theirs.offsets)
        np.testing.assert_array_equal(mine.device_offsets, theirs.offsets)
        np.testing.assert_array_equal(mine.flat, theirs.flat)
        np.testing.assert_array_equal(mine.words, theirs.words)
        np.testing.assert_array_equal(mine.pfn, layout.page_map.pfn_of_flat(theirs.flat))
        assert (mine.cursor, len(mine)) == (theirs.cursor, len(theirs.flat))
        assert mine.n_unknown_target == theirs.n_unknown_target
        assert_same_store(kernels, reference)
    assert fetched == [], "a plan came to the host"


def test_a_plan_that_stays_holds_what_was_claimed_however_much_was_counted() -> None:
    device = EmulatedDevice()
    kernels = CudaBackend(device).open(LAYOUT)
    arrays = random_store(LAYOUT, Filling(0.1), np.random.default_rng(1))
    ready = np.flatnonzero(arrays.records & LAYOUT.fmt.ready.mask)
    arrays.records[ready[300:]] = 0  # their bits stay
    kernels.load(arrays)
    asked: list[int] = []
    empty = device.empty

    def counted(length: int, dtype: Any) -> Any:
        asked.append(length)
        return empty(length, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "empty", counted)
        plan = kernels.scan_on_device(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages, "indexed"))
    assert len(plan.flat) == 300
    assert asked[-4:] == [300, 300, 300, LAYOUT.n_targets + 1]


def test_plans_that_stay_are_not_written_to_by_the_next_scan() -> None:
    kernels = emulated_backend().open(LAYOUT)
    found = []
    for seed in range(3):
        kernels.load(random_store(LAYOUT, Filling(1e-2), np.random.default_rng(seed)))
        plan = kernels.scan_on_device(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages))
        found.append((plan, plan.flat.copy(), plan.words.copy(), plan.pfn.copy()))
    for plan, flats, words, pfns in found:
        np.testing.assert_array_equal(plan.flat, flats)
        np.testing.assert_array_equal(plan.words, words)
        np.testing.assert_array_equal(plan.pfn, pfns)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_claims_go_back_when_a_plan_that_stays_is_lost(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = emulated_backend().open(LAYOUT)
    arrays = random_store(LAYOUT, Filling(1e-2), np.random.default_rng(1))
    kernels.load(arrays)

    def fail(**_: Any) -> Any:
        raise error("on purpose")

    monkeypatch.setattr(kernels.scratch.report, "fetch", fail)
    with pytest.raises(error, match="on purpose"):
        kernels.scan_on_device(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages))
    np.testing.assert_array_equal(kernels.dump().records, arrays.records)
    assert_indexed(kernels)


def test_claims_are_released_from_the_device() -> None:
    """What is no page or no claim is dropped by the kernel, which nobody has looked for."""
    kernels: Any = emulated_backend().open(LAYOUT)
    arrays = random_store(LAYOUT, Filling(1e-2), np.random.default_rng(1))
    arrays.eligible_bits[:] = ~np.uint64(0)
    kernels.load(arrays)
    plan = kernels.scan_on_device(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages))
    flats, words = plan.flat.copy(), plan.words.copy()
    flats[:3] = [-1, LAYOUT.n_pages, 1 << 50]
    words[3] = 0
    outcomes = np.full(len(flats), 99, dtype=np.uint8)
    counts = kernels.release(ForeignArray(flats), ForeignArray(words), outcomes)
    assert counts.tolist() == [len(flats) - 4, 0, 4]
    assert (outcomes[:4] == ReleaseOutcome.INELIGIBLE).all()
    before = arrays.records.copy()
    before[plan.flat[:4]] = 0
    np.testing.assert_array_equal(kernels.dump().records, before)
    assert_indexed(kernels)
    with pytest.raises(ArgumentError, match="release: words has dtype int64; give uint32"):
        kernels.release(ForeignArray(flats), ForeignArray(flats), NONE)


def test_a_store_leaves_its_plans_on_the_device() -> None:
    machine = gpuscan.resolve_topology("two-socket-cxl", 2 << 30)
    pfns = machine.page_map.pfn_of_flat(np.arange(0, machine.page_map.n_pages, 99))
    with gpuscan.Store(machine, device=emulated_backend()) as store:
        store.load_pages(store.page_map.present_bits())
        n_accepted = store.request(pfns, 0)[Outcome.ACCEPTED]
        plan = store.scan_on_device(end=store.n_pages // 2)
        assert store.cursor == plan.cursor == store.n_pages // 2
        rest = store.scan_on_device()
        assert (len(plan) + len(rest), store.cursor) == (n_accepted, 0)
        given: Any = (ForeignArray(plan.flat), ForeignArray(plan.words))
        assert store.release(*given)[ReleaseOutcome.RESTORED] == len(plan)
    with (
        gpuscan.Store(machine, device="reference") as store,
        pytest.raises(InputError, match="the plans of this store are made in host memory"),
    ):
        store.scan_on_device()


@pytest.mark.parametrize("falls_back", [False, True])
def test_a_guard_that_nobody_takes_over_from_leaves_arrays_on_the_device(falls_back: bool) -> None:
    backend = GuardedBackend(emulated_backend(), ReferenceBackend if falls_back else None)
    kernels: Any = backend.open(LAYOUT)
    pfns = np.arange(0, 3000, 30)
    kernels.set_eligible(pfns, True)
    given = ForeignArray(pfns), ForeignArray(np.ones(len(pfns), dtype=np.int32))
    if falls_back:
        with pytest.raises(ArgumentError, match="pfns is in a GPU's memory; give int64"):
            kernels.request(*given, NONE)
        assert kernels.scan_on_device is None
        return
    assert kernels.request(*given, NONE)[Outcome.ACCEPTED] == len(pfns)
    assert kernels.record(*given, PARAMS, NONE)[Outcome.REFRESHED] == len(pfns)
    plan = kernels.scan_on_device(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages))
    assert plan.flat.tolist() == pfns.tolist()
    counts = kernels.release(ForeignArray(plan.flat), ForeignArray(plan.words), NONE)
    assert counts[ReleaseOutcome.RESTORED] == len(pfns)
    kernels._kernels.launch = _lost
    with pytest.raises(DeviceFailedError, match=r"the device cuda failed in scan \(RuntimeError: lost\)"):
        kernels.scan_on_device(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages))


def _lost(*_: Any, **__: Any) -> None:
    raise RuntimeError("lost")


# Kernels of others

SAMPLER = """
extern "C" __global__ void sampler(const gpuscan::View* view, const long long* pfns, const int* nids,
                                   long long n_items, unsigned char* outcomes) {
  const long long item = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (item < n_items) outcomes[item] = (unsigned char)gpuscan::request(view, pfns[item], nids[item]);
}
"""


@pytest.mark.parametrize(
    "format_name",  # a compilation each
    [pytest.param(name, marks=() if name == "rfc" else pytest.mark.slow) for name in STORE_FORMATS],
)
def test_a_kernel_of_somebody_else_marks_pages_as_a_request_does(format_name: str) -> None:
    need("fast")
    device = EmulatedDevice()
    extents = [Extent(0, SECTION_PAGES, 0, 0), Extent(2 * SECTION_PAGES, 3 * SECTION_PAGES, 1, 1)]
    layout = layout_of(extents, format_name, large_folios=format_name != "pghot-compact")
    mine, reference = CudaBackend(device).open(layout), ReferenceBackend().open(layout)
    arrays = random_store(layout, Filling(1e-2), np.random.default_rng(1))
    pfns, nids = items(3000)
    _, firsts = np.unique(pfns >> 9, return_index=True)  # each folio once: the hardware picks the last
    pfns, nids = pfns[firsts], nids[firsts]
    outcomes, expected = (np.full(len(pfns), 99, dtype=np.uint8) for _ in range(2))
    for kernels in (mine, reference):
        kernels.load(arrays)
    kernel = EmulatedModule(header(layout.fmt) + SAMPLER).get_function("sampler")
    view = view_of(mine)
    assert len(view) == len(VIEW)
    kernel((len(pfns) // 64 + 1,), (64,), (view, pfns, nids, np.int64(len(pfns)), outcomes))
    reference.request(pfns, nids, expected)
    np.testing.assert_array_equal(outcomes, expected)
    assert {Outcome.ACCEPTED, Outcome.UNKNOWN_PFN} <= set(outcomes.tolist())
    assert_same_store(mine, reference)
    assert_indexed(mine)


@pytest.mark.skipif(missing() is not None, reason=f"{missing()}")
def test_its_machine_code_keeps_the_order_of_the_protocol() -> None:
    cubin = cubin_of(header(record_format("rfc")) + SAMPLER, "sampler", 90)
    steps = memory_steps(cubin, "sampler")
    order = [*MARK, "fence", "look", "set flag"]
    start = steps.index("exchange record")
    assert steps[start : start + len(order)] == order


def test_a_closed_store_has_no_view() -> None:
    kernels = emulated_backend().open(LAYOUT)
    kernels.close()
    with pytest.raises(ArgumentError, match="the store is closed"):
        view_of(kernels)


@pytest.mark.parametrize("guarded", [False, True])
def test_a_store_that_others_cannot_mark_pages_of_has_no_view(guarded: bool) -> None:
    """Who takes over from a device would not know of those marks."""
    backend = GuardedBackend(emulated_backend(), ReferenceBackend) if guarded else ReferenceBackend()
    with pytest.raises(ArgumentError, match=r"view_of: \w+ is no store that .*; give one of CudaBackend, or"):
        view_of(backend.open(LAYOUT))


def test_the_store_of_a_program_has_one() -> None:
    machine = gpuscan.resolve_topology("two-socket-cxl", 2 << 30)
    with gpuscan.Store(machine, device=emulated_backend()) as store:
        assert len(view_of(store.kernels)) == len(VIEW)
