"""What reaches a kernel is checked at its door: every array of each operation, in every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from backends import backend_named
from gpuscan.base.arguments import ArraySpec
from gpuscan.base.errors import ArgumentError
from gpuscan.kernels.api import Budget, Cutoffs, Kernels, RecordParams, ScanRequest, StoreArrays
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.kernels.signatures import ARRAYS, BUDGET, CUTOFFS, OPERATIONS
from gpuscan.records.page_map import SECTION_PAGES, Extent
from stores import NONE, assert_same_store, layout_of

LAYOUT = layout_of(
    [Extent(0, SECTION_PAGES, 0, 0), Extent(SECTION_PAGES, 2 * SECTION_PAGES, 1, 1)], large_folios=True
)
PFNS = np.array([5, SECTION_PAGES + 9, SECTION_PAGES + 40, 7, -3, 1 << 40])
NIDS = np.array([1, 0, 2, 1, 1, 1], dtype=np.int32)


def opened(name: str) -> Kernels:
    """Return a store with READY pages of nodes 0 and 1, some of them eligible and counted."""
    backend = GuardedBackend(backend_named("cpu-2")) if name == "guarded" else backend_named(name)
    kernels: Kernels = backend.open(LAYOUT)
    kernels.set_eligible(np.arange(0, LAYOUT.n_pages, 3), True)
    kernels.request(np.arange(0, LAYOUT.n_pages, 501), np.full(131, 2, dtype=np.int32), NONE)
    return kernels


@pytest.fixture(scope="module", params=["reference", "cpu-2", "emulated", "guarded"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    kernels = opened(request.param)
    yield kernels
    kernels.close()


def a_budget() -> dict[str, Any]:
    return {"limit_pages": np.full(8, 3), "resume_flat": np.zeros(8, dtype=np.int64)}


def a_call(kernels: Kernels, operation: str) -> tuple[dict[str, Any], Callable[..., Any]]:
    """Return good arrays of an operation by name, and what calls it and leaves the store as it was."""
    ready = np.flatnonzero(kernels.dump().records & 1)[:6].astype(np.int64)
    if operation in ("request", "record"):
        good: dict[str, Any] = {"pfns": PFNS, "nids": NIDS, "outcomes": np.zeros(6, dtype=np.uint8)}
        if operation == "request":
            return good, lambda **arrays: kernels.request(**arrays)
        params = RecordParams(0, 50, 7)
        return good, lambda pfns, nids, outcomes: kernels.record(pfns, nids, params, outcomes)
    if operation == "release":
        words = kernels.dump().records[ready]
        return {"flats": ready, "words": words, "outcomes": np.zeros(6, dtype=np.uint8)}, kernels.release
    if operation == "count_keys":
        good = {**a_budget(), "node_mask": np.ones(1024, dtype=np.uint8)}

        def rank(limit_pages: Any, resume_flat: Any, node_mask: Any) -> Any:
            return kernels.rank(Budget(limit_pages, resume_flat, 0), 0, LAYOUT.n_pages, node_mask).above_pages

        return good, rank
    if operation == "cut":
        counted = kernels.count_keys(Budget(**a_budget(), now=0), 0, LAYOUT.n_pages)
        return {"cut_key": np.full(8, 2, dtype=np.int32)}, lambda cut_key: counted.cut(cut_key).above_pages
    if operation == "scan":

        def scan(node_mask: Any) -> Any:
            plan = kernels.scan(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages, "auto", node_mask))
            kernels.release(plan.flat, plan.words, NONE)
            return plan.flat.copy()

        return {"node_mask": np.ones(1024, dtype=np.uint8)}, scan
    if operation == "load":
        arrays = kernels.dump()
        return {spec.name: getattr(arrays, spec.name) for spec in ARRAYS}, lambda **given: kernels.load(
            StoreArrays(**given)
        )
    calls: dict[str, Callable[..., Any]] = {
        "discard": lambda flats: kernels.discard(flats),
        "set_eligible": lambda flats: kernels.set_eligible(flats, True),
        "set_order": lambda flats: kernels.set_order(flats, 0),
    }
    return {"flats": np.array([3, 6, 9])}, calls[operation]


def wrong(spec: ArraySpec, good: np.ndarray[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what an array of an operation must not be."""
    yield "0-d", np.array(1, dtype=good.dtype)
    yield "a dimension more", good.reshape(1, -1)
    yield "float", good.astype(np.float64) + 0.5
    yield "NaN", np.full(good.shape, np.nan)
    yield "object", good.astype(object)
    yield "strings", good.astype(str)
    yield "complex", good.astype(complex)
    yield "dates", good.astype("datetime64[s]") if good.dtype == np.int64 else good.astype("V4")
    yield "masked", np.ma.masked_array(good, mask=np.arange(good.size).reshape(good.shape) % 2 == 0)
    yield "ragged", [[1], [1, 2]]
    yield "a string", "nonsense"
    yield "a dict", {"a": 1}
    yield "nothing", None
    yield "one element more", np.append(good, good[-1:])
    yield "one element less", good[:-1]
    yield "huge numbers", [1 << 70] * len(good)
    if not spec.is_bool and spec.name != "outcomes":
        yield "bool", np.ones(good.shape, dtype=np.bool_)
    if spec.values is not None:
        for name, value in (("far below", -(1 << 40)), ("far above", 1 << 62)):
            if value > 0 and spec.name == "limit_pages":
                continue
            out = good.astype(np.int64)
            out.flat[-1] = value
            yield name, out
    if spec.exact:
        yield "strided", np.repeat(good, 2)[::2]
        yield "backwards", np.zeros(len(good), dtype=good.dtype)[::-1]
        yield (
            "big-endian",
            good.astype(good.dtype.newbyteorder(">")) if good.itemsize > 1 else good.astype("i8"),
        )
        frozen = good.copy()
        frozen.flags.writeable = False
        yield "read-only", frozen
        yield "a list", good.tolist()


def same_otherwise(good: np.ndarray[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the same values in another guise."""
    yield "strided", np.repeat(good, 3)[::3]
    yield "backwards", good[::-1].copy()[::-1]
    if good.dtype != np.uint64:  # NumPy makes floats of a list of such numbers
        yield "a list", good.tolist()
    yield "big-endian", good.astype(good.dtype.newbyteorder(">"))
    frozen = good.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    room = np.zeros(good.nbytes + 1, dtype=np.uint8)[1:].view(good.dtype)
    room[:] = good
    yield "not aligned", room
    yield "wider", good.astype(np.int64 if good.dtype != np.uint64 else np.uint64)
    yield "Fortran", np.asfortranarray(good)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_what_is_no_such_array_is_refused_and_changes_nothing(kernels: Kernels, operation: str) -> None:
    good, call = a_call(kernels, operation)
    before = kernels.dump()
    for spec in OPERATIONS[operation]:
        for name, value in wrong(spec, good[spec.name]):
            if value is None and spec.optional:
                continue
            if name.startswith("one element") and list(good) == ["flats"]:  # as many as there are
                continue
            with pytest.raises(ArgumentError, match=r"; give \w+\[") as caught:
                call(**{**good, spec.name: value})
            assert len(str(caught.value)) < 300, name
            assert operation == "count_keys" or str(caught.value).startswith(f"{operation}: "), name
            for array in StoreArrays.__slots__:
                mine = getattr(kernels.dump(), array)
                np.testing.assert_array_equal(mine, getattr(before, array), err_msg=f"{spec.name} {name}")


@pytest.mark.parametrize("operation", sorted({*OPERATIONS} - {"discard"}))
def test_the_same_values_in_another_guise_are_the_same(operation: str, kernels: Kernels) -> None:
    good, call = a_call(kernels, operation)
    for _ in range(8):  # until FREQ is at its end
        call(**good)
    expected, before = call(**good), kernels.dump()
    for spec in OPERATIONS[operation]:
        if spec.exact:
            continue
        for name, value in same_otherwise(good[spec.name]):
            np.testing.assert_array_equal(call(**{**good, spec.name: value}), expected, err_msg=name)
            for array in StoreArrays.__slots__:
                np.testing.assert_array_equal(getattr(kernels.dump(), array), getattr(before, array))


@pytest.mark.parametrize("spec", CUTOFFS, ids=lambda spec: spec.name)
def test_cut_offs_that_are_not_those_of_a_ranking_are_refused(kernels: Kernels, spec: ArraySpec) -> None:
    before = kernels.dump()

    def scan_with(value: Any) -> None:
        cuts = kernels.rank(Budget(**a_budget(), now=0), 0, LAYOUT.n_pages)
        setattr(cuts, spec.name, value)
        kernels.scan(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages, cuts=cuts))

    good = getattr(kernels.rank(Budget(**a_budget(), now=0), 0, LAYOUT.n_pages), spec.name)
    bad = [
        good.astype(np.int16),
        good.tolist(),
        good[:-1],
        good.astype(float),
        np.append(good, good[-1:]),
        None,
    ]
    if spec.values is not None:
        bad += [np.full_like(good, -9), np.full_like(good, LAYOUT.n_pages * 2)]
    if spec.ascends:
        bad += [good[::-1].copy(), good + 512]
    for value in bad:
        with pytest.raises(ArgumentError, match=r"cuts: .*; give \w+\["):
            scan_with(value)
    for array in StoreArrays.__slots__:
        np.testing.assert_array_equal(getattr(kernels.dump(), array), getattr(before, array))


def test_what_a_kernel_writes_overlaps_nothing(kernels: Kernels) -> None:
    pfns = PFNS.copy()
    with pytest.raises(ArgumentError, match="outcomes overlaps pfns in memory; give it an array of its own"):
        kernels.request(pfns, NIDS, pfns.view(np.uint8)[:6])
    cuts = kernels.rank(Budget(**a_budget(), now=0), 0, LAYOUT.n_pages)
    cuts.tie_pages_from = cuts.above_pages
    with pytest.raises(ArgumentError, match="above_pages overlaps tie_pages_from"):
        kernels.scan(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages, cuts=cuts))


@pytest.mark.parametrize(
    ("lo", "hi"), [(0, LAYOUT.n_pages + 512), (-512, 512), (3, 512), (0, 700), (1024, 512), (0, 1 << 40)]
)
def test_a_range_outside_the_store_is_not_ranked(kernels: Kernels, lo: int, hi: int) -> None:
    with pytest.raises(ArgumentError, match=r"rank: .*; (give|end)"):
        kernels.rank(Budget(**a_budget(), now=0), lo, hi)
    with pytest.raises(ArgumentError, match=r"scan: .*; (give|end)"):
        kernels.scan(ScanRequest(lo, hi, 512))


@pytest.mark.parametrize("order", [-1, 16, 1 << 40, 1.0, True, None, "9"])
def test_an_order_that_no_folio_has(kernels: Kernels, order: Any) -> None:
    with pytest.raises(ArgumentError, match=r"set_order: order .*; (give|open)"):
        kernels.set_order(np.array([0]), order)


def test_a_closed_store_does_nothing() -> None:
    for name in ("reference", "cpu-1", "emulated", "guarded"):
        kernels = opened(name)
        calls = [a_call(kernels, operation) for operation in sorted({*OPERATIONS} - {"cut"})]
        kernels.close()
        uses = [lambda good=good, call=call: call(**good) for good, call in calls]
        for use in (*uses, kernels.dump, kernels.count_ready, kernels.count_index, kernels.take_active):
            with pytest.raises(ArgumentError, match="the store is closed"):
                use()


def test_a_budget_is_checked_when_it_is_made() -> None:
    for spec in BUDGET:
        for name, value in wrong(spec, a_budget()[spec.name]):
            if "far above" in name:  # a budget does not know the store
                continue
            with pytest.raises(ArgumentError, match="budget"):
                Budget(**{**a_budget(), spec.name: value}, now=0)


def test_every_backend_starts_from_the_same_store() -> None:
    one = opened("reference")
    for name in ("cpu-2", "emulated", "guarded"):
        assert_same_store(opened(name), one)


def test_the_table_has_every_operation_that_takes_arrays() -> None:
    operations = {
        name
        for name, method in vars(Kernels).items()
        if not name.startswith("_")
        and callable(method)
        and any("NDArray" in str(each) or "Arrays" in str(each) for each in method.__annotations__.values())
    }
    operations -= {"rank", "take_active", "dump"}  # as count_keys; these two return arrays
    assert operations | {"cut", "scan"} == set(OPERATIONS)
    assert {spec.name for spec in CUTOFFS} | {"now"} == set(Cutoffs.__slots__)
